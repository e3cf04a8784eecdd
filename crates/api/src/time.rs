//! Times as the API writes them.

use jiff::Timestamp;
use jiff::tz::TimeZone;

/// Parses RFC 3339, and none of the other forms that times have; the error is Go's. Years have four digits, also
/// in UTC, so that what is written can be read again.
pub fn parse(text: &str) -> Result<Timestamp, String> {
    let at = is_rfc3339(text).then(|| text.parse::<Timestamp>().ok()).flatten();
    at.filter(|at| (0..=9999).contains(&at.to_zoned(TimeZone::UTC).year()))
        .ok_or_else(|| {
            format!(
                "parsing time {text:?} as \"2006-01-02T15:04:05Z07:00\": cannot parse {text:?} as \"2006\""
            )
        })
}

/// Whether a text has the shape of a time; its numbers may still be too large.
fn is_rfc3339(text: &str) -> bool {
    let Some((time, rest)) = text.split_at_checked("2006-01-02T15:04:05".len()) else {
        return false;
    };
    let fraction = rest
        .strip_prefix('.')
        .map(|rest| rest.trim_start_matches(|c: char| c.is_ascii_digit()));
    let zone = match fraction {
        Some(zone) if zone.len() + 1 < rest.len() => zone,
        _ => rest,
    };
    // There are no leap seconds.
    let is_leap = time.ends_with("60");
    has_shape(time, "0000-00-00T00:00:00") && !is_leap && (zone == "Z" || has_shape(zone, "+00:00"))
}

/// Whether a text has digits where the shape has zeros, a sign for a plus, and all else as it is there.
fn has_shape(text: &str, shape: &str) -> bool {
    let fits = |(found, wanted): (u8, u8)| match wanted {
        b'0' => found.is_ascii_digit(),
        b'+' => matches!(found, b'+' | b'-'),
        _ => found == wanted,
    };
    text.len() == shape.len() && text.bytes().zip(shape.bytes()).all(fits)
}

/// To the second, in UTC, as `metav1.Time`.
pub fn rfc3339(at: Timestamp) -> String {
    at.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}

/// To the microsecond, in UTC, as `metav1.MicroTime`.
pub fn rfc3339_micro(at: Timestamp) -> String {
    at.strftime("%Y-%m-%dT%H:%M:%S.%6fZ").to_string()
}

/// The age column: the time since then in at most two units, as `kubectl get` shows it
/// (`duration.HumanDuration`).
pub fn human_duration(seconds: i64) -> String {
    let (minute, hour, day, year) = (60, 3600, 86400, 86400 * 365);
    match seconds {
        ..-1 => "<invalid>".to_owned(),
        -1..0 => "0s".to_owned(),
        0..120 => format!("{seconds}s"),
        120..600 => two(seconds / minute, 'm', seconds % minute, 's'),
        600..10_800 => format!("{}m", seconds / minute),
        10_800..28_800 => two(seconds / hour, 'h', seconds % hour / minute, 'm'),
        28_800..172_800 => format!("{}h", seconds / hour),
        172_800..691_200 => two(seconds / day, 'd', seconds % day / hour, 'h'),
        691_200..63_072_000 => format!("{}d", seconds / day),
        63_072_000..252_288_000 => two(seconds / year, 'y', seconds % year / day, 'd'),
        _ => format!("{}y", seconds / year),
    }
}

fn two(high: i64, high_unit: char, low: i64, low_unit: char) -> String {
    if low == 0 {
        format!("{high}{high_unit}")
    } else {
        format!("{high}{high_unit}{low}{low_unit}")
    }
}

/// A Go `time.Duration` as text, e.g. `1m30s`.
pub fn go_duration(nanos: i64) -> String {
    if nanos == 0 {
        return "0s".to_owned();
    }
    let sign = if nanos < 0 { "-" } else { "" };
    let nanos = nanos.unsigned_abs();
    let fraction = |value: u64, unit: u64| {
        let whole = value / unit;
        let rest = format!("{:0width$}", value % unit, width = unit.ilog10() as usize);
        let rest = rest.trim_end_matches('0');
        if rest.is_empty() {
            whole.to_string()
        } else {
            format!("{whole}.{rest}")
        }
    };
    let text = match nanos {
        ..1_000 => format!("{nanos}ns"),
        1_000..1_000_000 => format!("{}µs", fraction(nanos, 1_000)),
        1_000_000..1_000_000_000 => format!("{}ms", fraction(nanos, 1_000_000)),
        _ => {
            let minutes = nanos / 60_000_000_000;
            let seconds = format!("{}s", fraction(nanos % 60_000_000_000, 1_000_000_000));
            match (minutes / 60, minutes % 60) {
                (0, 0) => seconds,
                (0, minutes) => format!("{minutes}m{seconds}"),
                (hours, minutes) => format!("{hours}h{minutes}m{seconds}"),
            }
        }
    };
    format!("{sign}{text}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ages_read_as_kubectl_shows_them() {
        for (seconds, text) in [
            (0, "0s"),
            (119, "119s"),
            (120, "2m"),
            (125, "2m5s"),
            (600, "10m"),
            (10_799, "179m"),
            (10_800, "3h"),
            (11_100, "3h5m"),
            (28_800, "8h"),
            (172_799, "47h"),
            (172_800, "2d"),
            (180_000, "2d2h"),
            (691_200, "8d"),
            (63_072_000, "2y"),
            (-5, "<invalid>"),
        ] {
            assert_eq!(human_duration(seconds), text, "{seconds}");
        }
    }

    #[test]
    fn durations_read_as_go_writes_them() {
        for (nanos, text) in [
            (0, "0s"),
            (1, "1ns"),
            (1_500, "1.5µs"),
            (2_000_000, "2ms"),
            (90_000_000_000, "1m30s"),
            (3_600_000_000_000, "1h0m0s"),
            (-1_500_000_000, "-1.5s"),
        ] {
            assert_eq!(go_duration(nanos), text);
        }
    }

    #[test]
    fn times_are_written_in_utc() {
        let at = parse("2026-01-02T03:04:05.123456+01:00").expect("a time");
        assert_eq!(rfc3339(at), "2026-01-02T02:04:05Z");
        assert_eq!(rfc3339_micro(at), "2026-01-02T02:04:05.123456Z");
        for other in [
            "2026-01-02 03:04:05Z",
            "2026-01-02T03:04Z",
            "2026-01-02T03:04:05",
            "2026-01-02T03:04:05.Z",
            "2026-01-02T03:04:05+0100",
            "2026-01-02T03:04:05Z[UTC]",
            "2016-12-31T23:59:60Z",
            "-000009-01-01T00:00:00Z",
            "0000-01-01T00:00:00+14:00",
        ] {
            assert!(parse(other).is_err(), "{other}");
        }
        assert!(parse("yesterday").is_err_and(|error| error.starts_with("parsing time \"yesterday\"")));
    }
}
