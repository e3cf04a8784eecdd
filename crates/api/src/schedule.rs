//! Schedules of CronJobs: `minute hour day-of-month month day-of-week`, `@daily` and its like, `@every 1h`.
//!
//! Syntax and errors are those of `robfig/cron`, which Kubernetes reads schedules with ("CronJob", "Schedule syntax").
//! A time that a zone skips when its clocks go forward is skipped; one that comes twice when they go back counts twice.

use jiff::civil::Date;
use jiff::tz::{AmbiguousOffset, TimeZone};
use jiff::{SignedDuration, Timestamp, ToSpan as _};

/// When to run something.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Schedule {
    /// At these times of a zone's clocks.
    Times(Times),
    /// So long after the last time.
    Every(SignedDuration),
}

/// Fields as sets of numbers: bit n for n.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Times {
    minutes: u64,
    hours: u64,
    days: u64,
    months: u64,
    weekdays: u64,
    /// Whether a day has to fit both fields about days: one of them is a star, and says nothing.
    both_days: bool,
}

/// What a field may hold.
struct Bounds {
    low: u32,
    high: u32,
    names: &'static [&'static str],
}

const MINUTES: Bounds = Bounds::new(0, 59, &[]);
const HOURS: Bounds = Bounds::new(0, 23, &[]);
const DAYS: Bounds = Bounds::new(1, 31, &[]);
const MONTHS: Bounds = Bounds::new(
    1,
    12,
    &[
        "jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec",
    ],
);
const WEEKDAYS: Bounds = Bounds::new(0, 6, &["sun", "mon", "tue", "wed", "thu", "fri", "sat"]);

/// How many years ahead a time is looked for: the 29th of February may be eight years away.
const YEARS: i16 = 9;

impl Bounds {
    const fn new(low: u32, high: u32, names: &'static [&'static str]) -> Bounds {
        Bounds { low, high, names }
    }

    fn number(&self, text: &str) -> Result<u32, String> {
        let lower = text.to_lowercase();
        match self.names.iter().position(|name| *name == lower) {
            Some(at) => Ok(self.low + u32::try_from(at).unwrap_or(0)),
            None => number(text),
        }
    }
}

fn number(text: &str) -> Result<u32, String> {
    let number: i64 = text.parse().map_err(|_| {
        format!("failed to parse int from {text}: strconv.Atoi: parsing {text:?}: invalid syntax")
    })?;
    u32::try_from(number).map_err(|_| format!("negative number ({number}) not allowed: {text}"))
}

impl Schedule {
    /// Reads a schedule. A zone in front of it (`TZ=…`) is passed over: who allows one knows it by itself.
    ///
    /// # Errors
    /// What is wrong, in `robfig/cron`'s words.
    pub fn parse(text: &str) -> Result<Schedule, String> {
        if text.is_empty() {
            return Err("empty spec string".to_owned());
        }
        let has_zone = ["TZ=", "CRON_TZ="].iter().any(|prefix| text.starts_with(prefix));
        let text = match text.split_once(' ') {
            Some((_, rest)) if has_zone => rest.trim(),
            _ => text,
        };
        if text.starts_with('@') {
            return descriptor(text);
        }
        let fields: Vec<&str> = text.split_whitespace().collect();
        let [minutes, hours, days, months, weekdays] = fields[..] else {
            let found = fields.len();
            return Err(format!(
                "expected exactly 5 fields, found {found}: [{}]",
                fields.join(" ")
            ));
        };
        let (minutes, _) = field(minutes, &MINUTES)?;
        let (hours, _) = field(hours, &HOURS)?;
        let (days, any_day) = field(days, &DAYS)?;
        let (months, _) = field(months, &MONTHS)?;
        let (weekdays, any_weekday) = field(weekdays, &WEEKDAYS)?;
        Ok(Schedule::Times(Times {
            minutes,
            hours,
            days,
            months,
            weekdays,
            both_days: any_day || any_weekday,
        }))
    }

    /// The first time after another; none if there is none within years.
    pub fn next(&self, after: Timestamp, zone: &TimeZone) -> Option<Timestamp> {
        match self {
            Schedule::Every(time) => Timestamp::from_second(after.as_second())
                .ok()?
                .checked_add(*time)
                .ok(),
            Schedule::Times(times) => times.next(after, zone),
        }
    }
}

impl Times {
    fn next(&self, after: Timestamp, zone: &TimeZone) -> Option<Timestamp> {
        // A day earlier, as the day's clock may be set back.
        let start = after.to_zoned(zone.clone()).date().yesterday().ok()?;
        let end = start.checked_add(YEARS.years()).ok()?;
        let mut date = start;
        while date < end {
            if !has(self.months, i32::from(date.month())) {
                date = date.first_of_month().checked_add(1.month()).ok()?;
                continue;
            }
            if self.is_day(date)
                && let Some(found) = self.first_of(date, after, zone)
            {
                return Some(found);
            }
            date = date.tomorrow().ok()?;
        }
        None
    }

    fn is_day(&self, date: Date) -> bool {
        let day = has(self.days, i32::from(date.day()));
        let weekday = has(self.weekdays, i32::from(date.weekday().to_sunday_zero_offset()));
        if self.both_days {
            day && weekday
        } else {
            day || weekday
        }
    }

    /// The first time of a day after another.
    fn first_of(&self, date: Date, after: Timestamp, zone: &TimeZone) -> Option<Timestamp> {
        let hours = (0..24_i8).filter(|hour| has(self.hours, (*hour).into()));
        let times = hours.flat_map(|hour| {
            let minutes = (0..60_i8).filter(|minute| has(self.minutes, (*minute).into()));
            minutes.map(move |minute| date.at(hour, minute, 0, 0))
        });
        times
            .flat_map(|time| {
                let offsets = match zone.to_ambiguous_timestamp(time).offset() {
                    AmbiguousOffset::Unambiguous { offset } => [Some(offset), None],
                    AmbiguousOffset::Gap { .. } => [None, None],
                    AmbiguousOffset::Fold { before, after } => [Some(before), Some(after)],
                };
                let at = move |offset: jiff::tz::Offset| offset.to_timestamp(time).ok();
                offsets.into_iter().flatten().filter_map(at)
            })
            .filter(|time| *time > after)
            .min()
    }
}

fn has(set: u64, number: i32) -> bool {
    u32::try_from(number).is_ok_and(|number| set & (1 << number) != 0)
}

fn descriptor(text: &str) -> Result<Schedule, String> {
    let fields = match text {
        "@yearly" | "@annually" => "0 0 1 1 *",
        "@monthly" => "0 0 1 * *",
        "@weekly" => "0 0 * * 0",
        "@daily" | "@midnight" => "0 0 * * *",
        "@hourly" => "0 * * * *",
        _ => {
            let Some(every) = text.strip_prefix("@every ") else {
                return Err(format!("unrecognized descriptor: {text}"));
            };
            let time = duration(every).ok_or_else(|| {
                format!("failed to parse duration {text}: time: invalid duration {every:?}")
            })?;
            let seconds = time.as_secs().max(1);
            return Ok(Schedule::Every(SignedDuration::from_secs(seconds)));
        }
    };
    Schedule::parse(fields)
}

/// A duration as Go writes it, in whole seconds: `1h30m`, `90s`.
fn duration(text: &str) -> Option<SignedDuration> {
    let mut rest = text;
    let mut total = 0.0;
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let amount: f64 = rest[..digits].parse().ok()?;
        rest = &rest[digits..];
        let unit = rest.find(|c: char| c.is_ascii_digit()).unwrap_or(rest.len());
        total += amount
            * match &rest[..unit] {
                "h" => 3600.0,
                "m" => 60.0,
                "s" => 1.0,
                "ms" => 1e-3,
                "us" | "µs" => 1e-6,
                "ns" => 1e-9,
                _ => return None,
            };
        rest = &rest[unit..];
    }
    (!text.is_empty())
        .then(|| SignedDuration::try_from_secs_f64(total).ok())
        .flatten()
}

/// A field's set, and whether it is a star, which says nothing.
fn field(text: &str, bounds: &Bounds) -> Result<(u64, bool), String> {
    let (mut set, mut is_star) = (0, false);
    for part in text.split(',').filter(|part| !part.is_empty()) {
        let (numbers, star) = range(part, bounds)?;
        set |= numbers;
        is_star |= star;
    }
    Ok((set, is_star))
}

fn range(text: &str, bounds: &Bounds) -> Result<(u64, bool), String> {
    let parts: Vec<&str> = text.split('/').collect();
    let ends: Vec<&str> = parts[0].split('-').collect();
    let is_star = matches!(ends[0], "*" | "?");
    let (first, mut last) = match ends[..] {
        _ if is_star => (bounds.low, bounds.high),
        [only] => (bounds.number(only)?, bounds.number(only)?),
        [first, last] => (bounds.number(first)?, bounds.number(last)?),
        _ => return Err(format!("too many hyphens: {text}")),
    };
    let step = match parts[..] {
        [_] => 1,
        [_, step] => number(step)?,
        _ => return Err(format!("too many slashes: {text}")),
    };
    // From one number on, where there is a step.
    if parts.len() == 2 && ends.len() == 1 {
        last = bounds.high;
    }
    let (low, high) = (bounds.low, bounds.high);
    if first < low {
        return Err(format!(
            "beginning of range ({first}) below minimum ({low}): {text}"
        ));
    }
    if last > high {
        return Err(format!("end of range ({last}) above maximum ({high}): {text}"));
    }
    if first > last {
        return Err(format!(
            "beginning of range ({first}) beyond end of range ({last}): {text}"
        ));
    }
    if step == 0 {
        return Err(format!("step of range should be a positive number: {text}"));
    }
    let step = usize::try_from(step).unwrap_or(usize::MAX);
    let set = (first..=last)
        .step_by(step)
        .fold(0, |set, number| set | 1 << number);
    Ok((set, is_star && step == 1))
}

/// The zone of a name of the IANA's database, as it is written there.
///
/// # Errors
/// When there is none.
pub fn zone(name: &str) -> Result<TimeZone, String> {
    let unknown = || format!("unknown time zone {name}");
    let zone = TimeZone::get(name).map_err(|_| unknown())?;
    if zone.iana_name() == Some(name) {
        Ok(zone)
    } else {
        Err(unknown())
    }
}

#[cfg(test)]
mod tests;
