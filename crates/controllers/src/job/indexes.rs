//! Sets of completion indexes, as a status writes them: `1,3-5,7`.

use std::fmt;

/// Indexes, as ranges in their order that do not touch.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Indexes(Vec<(i32, i32)>);

impl Indexes {
    /// Those of a list that are below a limit. What is not an index is passed over: the API lets none through.
    pub(super) fn parse(list: &str, limit: i32) -> Indexes {
        let mut indexes = Indexes::default();
        for part in list.split(',') {
            let (first, last) = part.split_once('-').unwrap_or((part, part));
            let (Ok(first), Ok(last)) = (first.parse(), last.parse::<i32>()) else {
                continue;
            };
            indexes.insert_range(first, last.min(limit - 1));
        }
        indexes
    }

    pub(super) fn insert(&mut self, index: i32) {
        self.insert_range(index, index);
    }

    pub(super) fn insert_all(&mut self, other: &Indexes) {
        for (first, last) in &other.0 {
            self.insert_range(*first, *last);
        }
    }

    fn insert_range(&mut self, first: i32, last: i32) {
        if first > last {
            return;
        }
        let start = self.0.partition_point(|range| range.1 + 1 < first);
        let end = self.0.partition_point(|range| range.0 <= last + 1);
        let touched = &self.0[start..end];
        let first = touched.first().map_or(first, |range| range.0.min(first));
        let last = touched.last().map_or(last, |range| range.1.max(last));
        self.0.splice(start..end, [(first, last)]);
    }

    pub(super) fn contains(&self, index: i32) -> bool {
        let at = self.0.partition_point(|range| range.1 < index);
        self.0.get(at).is_some_and(|range| range.0 <= index)
    }

    pub(super) fn total(&self) -> i32 {
        self.0.iter().map(|(first, last)| last - first + 1).sum()
    }

    /// How many of these are in another set.
    pub(super) fn common(&self, other: &Indexes) -> i32 {
        let within = |range: &(i32, i32)| {
            let overlap = |other: &(i32, i32)| (range.1.min(other.1) - range.0.max(other.0) + 1).max(0);
            other.0.iter().map(overlap).sum::<i32>()
        };
        self.0.iter().map(within).sum()
    }

    /// The lowest indexes below a limit that are not in the set.
    pub(super) fn missing(&self, limit: i32, count: usize) -> Vec<i32> {
        let starts = std::iter::once(0).chain(self.0.iter().map(|range| range.1 + 1));
        let ends = self.0.iter().map(|range| range.0).chain([limit]);
        starts
            .zip(ends)
            .flat_map(|(start, end)| start..end.min(limit))
            .take(count)
            .collect()
    }
}

impl fmt::Display for Indexes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, (first, last)) in self.0.iter().enumerate() {
            let comma = if at == 0 { "" } else { "," };
            if first == last {
                write!(f, "{comma}{first}")?;
            } else {
                write!(f, "{comma}{first}-{last}")?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_set_is_as_its_members() {
        // All sets of six indexes, built in any of a few orders.
        for members in 0_u32..64 {
            let all = (0..6).filter(|index| members & (1 << index) != 0);
            let (mut up, mut down) = (Indexes::default(), Indexes::default());
            all.clone().for_each(|index| up.insert(index));
            all.clone().rev().for_each(|index| down.insert(index));
            assert_eq!(up, down);
            assert_eq!(Indexes::parse(&up.to_string(), 6), up, "{up}");
            assert_eq!(up.total(), i32::try_from(members.count_ones()).expect("few"));
            let missing: Vec<i32> = (0..6).filter(|index| !up.contains(*index)).collect();
            assert_eq!(up.missing(6, 9), missing, "{up}");
            let half = Indexes::parse("0-2", 6);
            let common = i32::try_from(all.filter(|index| *index < 3).count()).expect("few");
            assert_eq!(up.common(&half), common, "{up}");
        }
        assert_eq!(Indexes::parse("1,3-5,7", 5).to_string(), "1,3-4");
        assert_eq!(Indexes::parse("", 5).to_string(), "");
    }
}
