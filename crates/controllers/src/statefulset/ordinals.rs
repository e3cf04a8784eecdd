//! The numbers of a set's replicas: counted up from the first, but for those that are left out.

use std::ops::Range;

use super::state::Ordinal;

/// One beyond the highest ordinal there can be.
const END: Ordinal = i32::MAX as Ordinal + 1;

/// Ordinals that a set is to have no replica of, as the annotation says: `1,4-6`.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct LeftOut(
    /// In order, apart from each other.
    Vec<Range<Ordinal>>,
);

impl LeftOut {
    /// Reads the annotation's value.
    ///
    /// # Errors
    /// What part of it is no ordinal and no range of them.
    pub(super) fn parse(text: &str) -> Result<LeftOut, String> {
        let number = |text: &str| {
            text.trim()
                .parse::<i32>()
                .ok()
                .and_then(|number| u32::try_from(number).ok())
        };
        let mut ranges: Vec<Range<Ordinal>> = Vec::new();
        for part in text.split(',').map(str::trim).filter(|part| !part.is_empty()) {
            let (first, last) = part.split_once('-').unwrap_or((part, part));
            match (number(first), number(last)) {
                (Some(first), Some(last)) if first <= last => ranges.push(first..last + 1),
                _ => return Err(part.to_owned()),
            }
        }
        ranges.sort_by_key(|range| range.start);
        let mut merged: Vec<Range<Ordinal>> = Vec::new();
        for range in ranges {
            match merged.last_mut().filter(|last| range.start <= last.end) {
                Some(last) => last.end = last.end.max(range.end),
                None => merged.push(range),
            }
        }
        Ok(LeftOut(merged))
    }
}

/// The ordinals of the replicas that are to be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Ordinals(
    /// In order, apart from each other, none empty.
    Vec<Range<Ordinal>>,
);

impl Ordinals {
    /// So many from the first one on, without those left out.
    pub(super) fn new(first: Ordinal, replicas: u32, left_out: &LeftOut) -> Ordinals {
        let mut runs = Vec::with_capacity(1 + left_out.0.len());
        let (mut at, mut missing) = (first.min(END), replicas);
        let end = END..END;
        for hole in left_out.0.iter().chain([&end]) {
            let free = hole.start.saturating_sub(at).min(missing);
            if free > 0 {
                runs.push(at..at + free);
            }
            missing -= free;
            if missing == 0 {
                break;
            }
            at = at.max(hole.end);
        }
        Ordinals(runs)
    }

    pub(super) fn contains(&self, ordinal: Ordinal) -> bool {
        self.0.iter().any(|run| run.contains(&ordinal))
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = Ordinal> {
        self.0.iter().cloned().flatten()
    }

    /// The ordinal of the replica that so many come before; one beyond all if there are no more than that.
    pub(super) fn after(&self, replicas: u32) -> Ordinal {
        let mut left = replicas;
        for run in &self.0 {
            if left < run.end - run.start {
                return run.start + left;
            }
            left -= run.end - run.start;
        }
        END
    }

    /// The ordinals between the replicas that are left out, or before the first.
    pub(super) fn holes(&self, first: Ordinal) -> String {
        let mut at = first;
        let mut holes = Vec::new();
        for run in &self.0 {
            match run.start.saturating_sub(at) {
                0 => {}
                1 => holes.push(at.to_string()),
                _ => holes.push(format!("{at}-{}", run.start - 1)),
            }
            at = run.end;
        }
        holes.join(",")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(first: u32, replicas: u32, left_out: &str) -> Ordinals {
        Ordinals::new(first, replicas, &LeftOut::parse(left_out).expect("ordinals"))
    }

    #[test]
    fn replicas_are_counted_around_what_is_left_out() {
        for (first, replicas, left_out, expected, holes) in [
            (0, 3, "", vec![0, 1, 2], ""),
            (0, 3, "1", vec![0, 2, 3], "1"),
            (0, 3, "0", vec![1, 2, 3], "0"),
            (0, 3, "1,3-4, 2", vec![0, 5, 6], "1-4"),
            (0, 3, "4-6", vec![0, 1, 2], ""),
            (2, 3, "0-2,4", vec![3, 5, 6], "2,4"),
            (0, 0, "1", vec![], ""),
            (0, 2, "2,2,1-1", vec![0, 3], "1-2"),
        ] {
            let ordinals = of(first, replicas, left_out);
            assert_eq!(ordinals.iter().collect::<Vec<_>>(), expected, "{left_out}");
            assert_eq!(ordinals.holes(first), holes);
            for at in 0..9 {
                assert_eq!(ordinals.contains(at), expected.contains(&at), "{left_out} {at}");
            }
            for (before, ordinal) in (0..).zip(&expected) {
                assert_eq!(ordinals.after(before), *ordinal);
            }
            assert_eq!(ordinals.after(replicas), END);
        }
    }

    #[test]
    fn the_highest_ordinal_is_the_end() {
        assert_eq!(
            of(i32::MAX as u32, 5, "").iter().collect::<Vec<_>>(),
            [i32::MAX as u32]
        );
        assert_eq!(of(0, 2, "0-2147483647").iter().count(), 0);
        assert_eq!(of(7, u32::MAX, "").after(1), 8);
    }

    #[test]
    fn what_is_no_ordinal_is_named() {
        for (text, part) in [
            ("x", "x"),
            ("1,-2", "-2"),
            ("3-1", "3-1"),
            ("1;2", "1;2"),
            ("2147483648", "2147483648"),
        ] {
            assert_eq!(LeftOut::parse(text), Err(part.to_owned()));
        }
        assert_eq!(LeftOut::parse(" "), Ok(LeftOut::default()));
    }
}
