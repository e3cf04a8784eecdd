//! How soon a pod that ended is replaced: at once, but if its successors end early too, each waits twice as long as
//! the one before, as containers do that crash ("Container restart policy"). A node that refuses a pod would be asked
//! without a pause otherwise.

use std::collections::HashMap;

use jiff::{SignedDuration, Timestamp};

use super::state::Ordinal;

pub(crate) const FIRST: SignedDuration = SignedDuration::from_secs(1);
pub(crate) const LONGEST: SignedDuration = SignedDuration::from_mins(5);
/// A pod that lived for so long did not end early: the next one starts afresh.
pub(crate) const LONG_LIFE: SignedDuration = SignedDuration::from_mins(10);

/// When the replicas of a set ended last. A restart of the server forgets it, and costs an attempt at the most.
#[derive(Debug, Default)]
pub(super) struct Backoff {
    ends: HashMap<Ordinal, End>,
}

#[derive(Debug)]
struct End {
    uid: String,
    delay: SignedDuration,
    until: Timestamp,
}

impl Backoff {
    /// Until when a pod stays that ended and was made at `created`.
    pub(super) fn until(
        &mut self,
        ordinal: Ordinal,
        uid: &str,
        created: Timestamp,
        now: Timestamp,
    ) -> Timestamp {
        let before = self.ends.get(&ordinal);
        if let Some(end) = before.filter(|end| end.uid == uid) {
            return end.until;
        }
        let lived = now.duration_since(created);
        let delay = match before.filter(|_| lived < LONG_LIFE) {
            None => SignedDuration::ZERO,
            Some(end) => end.delay.saturating_mul(2).clamp(FIRST, LONGEST),
        };
        let until = now.saturating_add(delay).unwrap_or(now);
        let uid = uid.to_owned();
        self.ends.insert(ordinal, End { uid, delay, until });
        until
    }

    /// When the next of those that wait goes.
    pub(super) fn next(&self, now: Timestamp) -> Option<Timestamp> {
        self.ends
            .values()
            .map(|end| end.until)
            .filter(|until| *until > now)
            .min()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn those_that_end_early_wait_longer_each_time() {
        let at = |seconds| Timestamp::from_second(seconds).expect("a time");
        let mut backoff = Backoff::default();
        let mut now = 1_000_000;
        let mut waits = Vec::new();
        for attempt in 0..12 {
            let uid = attempt.to_string();
            let until = backoff.until(3, &uid, at(now), at(now + 1));
            // However often one asks.
            assert_eq!(backoff.until(3, &uid, at(now), at(now + 2)), until);
            waits.push(until.duration_since(at(now + 1)).as_secs());
            now = until.as_second();
        }
        assert_eq!(waits, [0, 1, 2, 4, 8, 16, 32, 64, 128, 256, 300, 300]);
        assert_eq!(backoff.next(at(now - 1)), Some(at(now)));
        assert_eq!(backoff.next(at(now)), None);
        // Others have nothing to do with it, and after a long life it is forgotten.
        assert_eq!(backoff.until(4, "a", at(now), at(now + 1)), at(now + 1));
        assert_eq!(backoff.until(3, "b", at(now), at(now + 700)), at(now + 700));
    }
}
