//! From log entries to what is shown of them. Pure.

use jiff::Timestamp;

use super::LogStream;

/// One entry: `<time> <stream> <tag> <text>`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Entry<'a> {
    time: &'a str,
    stream: LogStream,
    /// The line goes on in the next entry of this stream.
    partial: bool,
    text: &'a [u8],
}

/// `None` for what is not an entry, which is then not shown.
fn parse(line: &[u8]) -> Option<Entry<'_>> {
    let mut fields = line.splitn(4, |byte| *byte == b' ');
    let time = std::str::from_utf8(fields.next()?).ok()?;
    let stream = match fields.next()? {
        b"stdout" => LogStream::Stdout,
        b"stderr" => LogStream::Stderr,
        _ => return None,
    };
    // The CRI allows further tags after the first, separated by colons.
    let partial = match fields.next()?.split(|byte| *byte == b':').next()? {
        b"F" => false,
        b"P" => true,
        _ => return None,
    };
    Some(Entry {
        time,
        stream,
        partial,
        text: fields.next().unwrap_or_default(),
    })
}

/// What of the entries is shown, and how.
#[derive(Debug)]
pub(super) struct Filter {
    since: Option<Timestamp>,
    timestamps: bool,
    stream: Option<LogStream>,
    bytes_left: Option<u64>,
    /// The last entry shown was a piece of a line.
    in_line: bool,
}

impl Filter {
    pub(super) fn new(
        since: Option<Timestamp>,
        timestamps: bool,
        stream: Option<LogStream>,
        limit_bytes: Option<u64>,
    ) -> Self {
        Self {
            since,
            timestamps,
            stream,
            bytes_left: limit_bytes,
            in_line: false,
        }
    }

    /// Appends what is shown of whole entries to `out`; `false` when the limit has been reached.
    pub(super) fn show(&mut self, entries: &[u8], out: &mut Vec<u8>) -> bool {
        for line in entries.split_inclusive(|byte| *byte == b'\n') {
            let line = line.strip_suffix(b"\n").unwrap_or(line);
            if let Some(entry) = parse(line).filter(|entry| self.is_wanted(entry)) {
                let before = out.len();
                self.append(&entry, out);
                if !self.count(before, out) {
                    return false;
                }
            }
        }
        true
    }

    fn is_wanted(&mut self, entry: &Entry<'_>) -> bool {
        if self.stream.is_some_and(|wanted| wanted != entry.stream) {
            return false;
        }
        let Some(since) = self.since else { return true };
        let recent = entry.time.parse::<Timestamp>().is_ok_and(|time| time >= since);
        if recent {
            // Time goes on, so the question is settled.
            self.since = None;
        }
        recent
    }

    fn append(&mut self, entry: &Entry<'_>, out: &mut Vec<u8>) {
        if self.timestamps && !self.in_line {
            out.extend_from_slice(entry.time.as_bytes());
            out.push(b' ');
        }
        out.extend_from_slice(entry.text);
        if !entry.partial {
            out.push(b'\n');
        }
        self.in_line = entry.partial;
    }

    fn count(&mut self, before: usize, out: &mut Vec<u8>) -> bool {
        let Some(left) = &mut self.bytes_left else {
            return true;
        };
        let added = (out.len() - before) as u64;
        if added >= *left {
            out.truncate(before + usize::try_from(*left).unwrap_or(usize::MAX));
            return false;
        }
        *left -= added;
        true
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    const T1: &str = "2016-10-06T00:17:09.669794202Z";
    const T2: &str = "2016-10-06T00:17:10.000000000Z";

    fn check(mut filter: Filter, entries: &str, expected: &str, goes_on: bool) {
        let mut out = Vec::new();
        assert_eq!(filter.show(entries.as_bytes(), &mut out), goes_on);
        assert_eq!(String::from_utf8(out).unwrap(), expected);
    }

    #[test]
    fn entries_are_shown_as_the_container_wrote_them() {
        let plain = || Filter::new(None, false, None, None);
        let log =
            format!("{T1} stdout F a b\n{T1} stderr P c\n{T1} stderr F d\n{T2} stdout F \n{T2} stdout P e\n");
        check(plain(), &log, "a b\ncd\n\ne", true);
        let timed = Filter::new(None, true, None, None);
        check(timed, &log, &format!("{T1} a b\n{T1} cd\n{T2} \n{T2} e"), true);
        check(
            Filter::new(None, false, Some(LogStream::Stderr), None),
            &log,
            "cd\n",
            true,
        );
        check(
            Filter::new(Some(T2.parse().unwrap()), false, None, None),
            &log,
            "\ne",
            true,
        );
        check(Filter::new(None, false, None, Some(5)), &log, "a b\nc", false);
        check(Filter::new(None, false, None, Some(4)), &log, "a b\n", false);
    }

    #[test]
    fn what_is_no_entry_is_not_shown() {
        for line in [
            "",
            "x",
            &format!("{T1} stdin F a"),
            &format!("{T1} stdout X a"),
            &format!("{T1} stdout"),
        ] {
            assert_eq!(parse(line.as_bytes()), None, "{line:?}");
        }
        assert!(parse(format!("{T1} stdout F:x a").as_bytes()).is_some());
    }
}
