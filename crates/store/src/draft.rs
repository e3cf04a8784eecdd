//! Deciding a batch: transactions applied one after another to a copy of the state.
//!
//! Pure: no disk, no clock. The copy costs nothing (a persistent map), each transaction sees those
//! before it in the batch, and if the batch cannot be written the copy is simply dropped.

use std::sync::Arc;

use crate::entry::{Map, Value, stored_bytes};
use crate::format::ops::OpWriter;
use crate::txn::{Action, Committed, Conflict, Txn};
use crate::{Event, Revision};

/// The newest durable state.
#[derive(Clone)]
pub(crate) struct Head<V> {
    pub(crate) map: Map<V>,
    pub(crate) revision: Revision,
    /// What all entries together take in a checkpoint, near enough.
    pub(crate) live_bytes: u64,
}

impl<V: Value> Head<V> {
    pub(crate) fn empty() -> Self {
        Self {
            map: Map::new(),
            revision: Revision::ZERO,
            live_bytes: 0,
        }
    }

    /// The first condition of `txn` that does not hold.
    pub(crate) fn conflict(&self, txn: &Txn) -> Option<Conflict<V>> {
        txn.ops.iter().find_map(|op| {
            let current = self.map.get(op.key.as_str());
            (!op.condition.holds(current)).then(|| Conflict {
                key: op.key.clone(),
                condition: op.condition,
                current: current.cloned(),
            })
        })
    }

    /// Applies one write or deletion at `revision`; `None` if it changed nothing.
    pub(crate) fn apply(
        &mut self,
        revision: Revision,
        key: &str,
        bytes: Option<&bytes::Bytes>,
    ) -> Option<Arc<Event<V>>> {
        let event = Event::apply(&mut self.map, revision, key, bytes)?;
        self.live_bytes += event.current().map_or(0, |entry| stored_bytes(key, entry));
        self.live_bytes -= event.previous().map_or(0, |entry| stored_bytes(key, entry));
        Some(Arc::new(event))
    }
}

/// A batch in the making: the state it leads to, and its events.
pub(crate) struct Draft<V> {
    pub(crate) head: Head<V>,
    pub(crate) events: Vec<Arc<Event<V>>>,
}

impl<V: Value> Draft<V> {
    pub(crate) fn new(head: &Head<V>) -> Self {
        Self {
            head: head.clone(),
            events: Vec::new(),
        }
    }

    /// Whether the batch has changed nothing so far.
    pub(crate) fn is_empty(&self) -> bool {
        self.events.is_empty()
    }

    /// Applies `txn` and appends what it wrote to `frame`; or changes nothing at all.
    pub(crate) fn apply(&mut self, txn: &Txn, frame: &mut Vec<u8>) -> Result<Committed<V>, Conflict<V>> {
        if let Some(conflict) = self.head.conflict(txn) {
            return Err(conflict);
        }
        let revision = self.head.revision.next();
        let first = self.events.len();
        let mut ops = OpWriter::new(frame);
        for op in &txn.ops {
            let bytes = match &op.action {
                Action::Put(bytes) => Some(bytes),
                Action::Delete => None,
                Action::Check => continue,
            };
            if let Some(event) = self.head.apply(revision, &op.key, bytes) {
                ops.push(&op.key, bytes.map(|bytes| &**bytes));
                self.events.push(event);
            }
        }
        ops.finish();
        let events = self.events[first..].to_vec();
        if !events.is_empty() {
            self.head.revision = revision;
        }
        Ok(Committed {
            revision: self.head.revision,
            events,
        })
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use bytes::Bytes;

    use super::*;
    use crate::Condition;

    fn draft() -> Draft<Bytes> {
        Draft::new(&Head::empty())
    }

    fn at(revision: u64) -> Condition {
        Condition::Unchanged(Revision::new(revision))
    }

    #[test]
    fn a_transaction_sees_those_before_it_in_the_batch() {
        let (mut draft, mut frame) = (draft(), Vec::new());
        draft
            .apply(&Txn::new().put("/a", "1", Condition::Absent), &mut frame)
            .unwrap();
        draft
            .apply(&Txn::new().put("/a", "2", at(1)), &mut frame)
            .unwrap();
        let conflict = draft
            .apply(&Txn::new().put("/a", "3", at(1)), &mut frame)
            .unwrap_err();
        assert_eq!(conflict.current.unwrap().value, "2");
        assert_eq!(draft.head.revision, Revision::new(2));
    }

    #[test]
    fn a_failed_condition_leaves_no_half() {
        let (mut draft, mut frame) = (draft(), Vec::new());
        let txn = Txn::new().put("/a", "1", Condition::Any).check("/b", at(9));
        let conflict = draft.apply(&txn, &mut frame).unwrap_err();
        assert_eq!((conflict.key.as_str(), conflict.current.is_none()), ("/b", true));
        assert!(draft.is_empty() && draft.head.map.is_empty() && frame.is_empty());
    }

    #[test]
    fn a_transaction_that_changes_nothing_gets_no_revision() {
        let (mut draft, mut frame) = (draft(), Vec::new());
        draft
            .apply(&Txn::new().put("/a", "1", Condition::Any), &mut frame)
            .unwrap();
        let written = frame.len();
        for txn in [
            Txn::new(),
            Txn::new().check("/a", at(1)),
            Txn::new()
                .delete("/b", Condition::Any)
                .delete("/c", Condition::Absent),
        ] {
            let committed = draft.apply(&txn, &mut frame).unwrap();
            assert_eq!(committed.revision, Revision::new(1));
            assert!(committed.events.is_empty());
        }
        assert_eq!(frame.len(), written);
    }

    #[test]
    fn live_bytes_follow_puts_updates_and_deletions() {
        let (mut draft, mut frame) = (draft(), Vec::new());
        for (txn, live) in [
            (Txn::new().put("/a", "123", Condition::Any), 5),
            (
                Txn::new()
                    .put("/a", "1", Condition::Any)
                    .put("/bb", "22", Condition::Any),
                8,
            ),
            (Txn::new().delete("/a", Condition::Any), 5),
            (Txn::new().delete("/bb", Condition::Any), 0),
        ] {
            draft.apply(&txn, &mut frame).unwrap();
            assert_eq!(draft.head.live_bytes, live);
        }
    }
}
