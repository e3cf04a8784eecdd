//! How a rotated log file is called: `<name>.<UTC time of the rotation>`, to the second, as the kubelet
//! calls it. Writer and reader agree here, and on the order: the names sort by age.

use jiff::civil::DateTime;
use jiff::tz::TimeZone;
use jiff::{Span, Timestamp};

const FORMAT: &str = "%Y%m%d-%H%M%S";

/// When `file` was rotated away from `name`; `None` if it is some other file.
pub(crate) fn rotated_at(name: &str, file: &str) -> Option<DateTime> {
    let suffix = file.strip_prefix(name)?.strip_prefix('.')?;
    DateTime::strptime(FORMAT, suffix).ok()
}

/// The name for `name` rotated at `now`, later than `newest` even within the same second or after the clock
/// was set back.
pub(crate) fn rotated_name(name: &str, now: Timestamp, newest: Option<DateTime>) -> String {
    let now = now.to_zoned(TimeZone::UTC).datetime();
    let after_newest = newest.and_then(|newest| newest.checked_add(Span::new().seconds(1)).ok());
    let at = after_newest.map_or(now, |after| after.max(now));
    format!("{name}.{}", at.strftime(FORMAT))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn rotated_files_are_recognised_and_ordered() {
        let now: Timestamp = "2016-10-06T00:17:09.6Z".parse().unwrap();
        let first = rotated_name("0.log", now, None);
        assert_eq!(first, "0.log.20161006-001709");
        assert_eq!(
            rotated_name("0.log", now, rotated_at("0.log", &first)),
            "0.log.20161006-001710"
        );
        let future = rotated_at("0.log", "0.log.20261006-001709");
        assert_eq!(rotated_name("0.log", now, future), "0.log.20261006-001710");
        for other in [
            "0.log",
            "0.log.bak",
            "0.log.",
            "1.log.20161006-001709",
            "0.log.20161006-001709.gz",
        ] {
            assert_eq!(rotated_at("0.log", other), None, "{other}");
        }
    }
}
