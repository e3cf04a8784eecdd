//! Names of the files in a store's directory.

use crate::Revision;

/// Suffix of files being written, which get their name when complete.
pub(crate) const UNFINISHED: &str = ".tmp";

const SEGMENT: &str = "log-";
const CHECKPOINT: &str = "checkpoint-";

/// What a file's name says it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum FileName {
    /// A piece of the log, which starts with this revision.
    Segment(Revision),
    /// All entries as of this revision.
    Checkpoint(Revision),
    /// Left behind by a process that ended while writing it.
    Unfinished,
}

/// What `name` is; `None` for what is not the store's.
pub(crate) fn parse(name: &str) -> Option<FileName> {
    let (stem, unfinished) = match name.strip_suffix(UNFINISHED) {
        Some(stem) => (stem, true),
        None => (name, false),
    };
    let found = if let Some(digits) = stem.strip_prefix(SEGMENT) {
        FileName::Segment(revision(digits)?)
    } else {
        FileName::Checkpoint(revision(stem.strip_prefix(CHECKPOINT)?)?)
    };
    Some(if unfinished { FileName::Unfinished } else { found })
}

/// The name of the segment that starts with `first`.
pub(crate) fn segment(first: Revision) -> String {
    format!("{SEGMENT}{:020}", first.get())
}

/// The name of the checkpoint of `revision`.
pub(crate) fn checkpoint(revision: Revision) -> String {
    format!("{CHECKPOINT}{:020}", revision.get())
}

fn revision(digits: &str) -> Option<Revision> {
    let all_digits = digits.len() == 20 && digits.bytes().all(|byte| byte.is_ascii_digit());
    all_digits.then(|| digits.parse().ok())?.map(Revision::new)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read_as_they_are_written() {
        let revision = Revision::new(4711);
        assert_eq!(parse(&segment(revision)), Some(FileName::Segment(revision)));
        assert_eq!(parse(&checkpoint(revision)), Some(FileName::Checkpoint(revision)));
        for (name, meaning) in [
            ("log-00000000000000000001.tmp", Some(FileName::Unfinished)),
            ("log-1", None),
            ("log-99999999999999999999", None),
            ("log-0000000000000000000x", None),
            ("lock", None),
            ("lost+found", None),
        ] {
            assert_eq!(parse(name), meaning, "{name}");
        }
    }
}
