//! Transactions: what a caller asks the store to do, and what it is told.

use std::collections::HashSet;
use std::sync::Arc;
use std::{fmt, io};

use bytes::Bytes;

use crate::{Entry, Event, Revision};

/// Most bytes of keys and values one transaction may carry. It bounds what one sync writes, and
/// so how long the other writers wait.
pub const MAX_TXN_BYTES: usize = 16 << 20;

/// A list of operations with conditions, committed all or nothing as one revision.
///
/// All conditions are checked first, against the state before the transaction. A key may appear
/// once only. A transaction that changes nothing (no operations, checks only, deletions of absent
/// keys only) gets no revision of its own, as in etcd.
#[derive(Clone, Debug, Default)]
pub struct Txn {
    pub(crate) ops: Vec<Op>,
}

/// One operation of a transaction.
#[derive(Clone, Debug)]
pub(crate) struct Op {
    pub(crate) key: String,
    pub(crate) condition: Condition,
    pub(crate) action: Action,
}

/// What an operation does to its key.
#[derive(Clone, Debug)]
pub(crate) enum Action {
    Put(Bytes),
    Delete,
    Check,
}

/// What must hold of a key for the transaction to be committed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Condition {
    /// Nothing.
    Any,
    /// The key is not there.
    Absent,
    /// The key is there and its `mod_revision` is this.
    Unchanged(Revision),
}

impl Condition {
    pub(crate) fn holds<V>(self, current: Option<&Entry<V>>) -> bool {
        match self {
            Condition::Any => true,
            Condition::Absent => current.is_none(),
            Condition::Unchanged(revision) => current.is_some_and(|entry| entry.mod_revision == revision),
        }
    }
}

impl Txn {
    /// A transaction without operations.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Writes `value` to `key` if `condition` holds.
    #[must_use]
    pub fn put(self, key: impl Into<String>, value: impl Into<Bytes>, condition: Condition) -> Self {
        self.with(key, condition, Action::Put(value.into()))
    }

    /// Removes `key` if `condition` holds. Removing an absent key with [`Condition::Any`] is not
    /// an error and not an event.
    #[must_use]
    pub fn delete(self, key: impl Into<String>, condition: Condition) -> Self {
        self.with(key, condition, Action::Delete)
    }

    /// Leaves `key` alone, but commits the rest only if `condition` holds of it.
    #[must_use]
    pub fn check(self, key: impl Into<String>, condition: Condition) -> Self {
        self.with(key, condition, Action::Check)
    }

    fn with(mut self, key: impl Into<String>, condition: Condition, action: Action) -> Self {
        self.ops.push(Op {
            key: key.into(),
            condition,
            action,
        });
        self
    }

    /// Refuses what could never be committed, whatever the store's state.
    pub(crate) fn validate<V>(&self) -> Result<(), CommitError<V>> {
        let mut keys = HashSet::with_capacity(self.ops.len());
        let mut bytes = 0;
        for op in &self.ops {
            if op.key.is_empty() {
                return Err(CommitError::EmptyKey);
            }
            if !keys.insert(op.key.as_str()) {
                return Err(CommitError::DuplicateKey(op.key.clone()));
            }
            bytes += op.key.len();
            if let Action::Put(value) = &op.action {
                bytes += value.len();
            }
        }
        if bytes > MAX_TXN_BYTES {
            return Err(CommitError::TooLarge { bytes });
        }
        Ok(())
    }
}

/// A transaction that is durable and visible.
pub struct Committed<V> {
    /// The transaction's revision; for one that changed nothing, the revision it was checked at.
    pub revision: Revision,
    /// What it did, one event per operation that changed something, in their order; the same
    /// events watchers get.
    pub events: Vec<Arc<Event<V>>>,
}

/// Leaves the values out, as [`Entry`] does.
impl<V> fmt::Debug for Committed<V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Committed")
            .field("revision", &self.revision)
            .field("events", &self.events)
            .finish()
    }
}

/// Why a transaction was not committed.
#[derive(thiserror::Error)]
pub enum CommitError<V> {
    /// A condition did not hold.
    #[error("the condition on {:?} does not hold", .0.key)]
    Conflict(Conflict<V>),
    /// An operation has an empty key.
    #[error("a transaction with an empty key")]
    EmptyKey,
    /// A key appears twice in the transaction.
    #[error("a transaction with {0:?} in it twice")]
    DuplicateKey(String),
    /// Keys and values together are larger than [`MAX_TXN_BYTES`].
    #[error("a transaction of {bytes} bytes; {MAX_TXN_BYTES} at most")]
    TooLarge {
        /// Bytes of keys and values together.
        bytes: usize,
    },
    /// The disk has no room. Nothing has changed; reads go on, and writes work again as soon as
    /// there is room.
    #[error("write to the log: the disk is full")]
    DiskFull(#[source] Arc<io::Error>),
    /// The disk refused the write. Nothing has changed in memory and reads go on; the next
    /// commit tries the disk again. As ever when a write fails, what a power cut before the next
    /// successful commit leaves on the disk is unknown: the transaction may then be found.
    #[error("write to the log")]
    Io(#[source] Arc<io::Error>),
    /// The store is closed. The transaction may have been committed if the store was being
    /// closed meanwhile.
    #[error("the store is closed")]
    Closed,
}

impl<V> CommitError<V> {
    pub(crate) fn from_io(error: &Arc<io::Error>) -> Self {
        match error.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => Self::DiskFull(Arc::clone(error)),
            _ => Self::Io(Arc::clone(error)),
        }
    }
}

/// As displayed, with the sources: it must not ask for `V: Debug`.
impl<V> fmt::Debug for CommitError<V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Conflict(conflict) => conflict.fmt(f),
            Self::DiskFull(source) | Self::Io(source) => write!(f, "{self}: {source:?}"),
            _ => write!(f, "{self}"),
        }
    }
}

/// A condition that did not hold, and what is there instead.
#[derive(Clone)]
pub struct Conflict<V> {
    /// The first key of the transaction whose condition failed.
    pub key: String,
    /// The condition.
    pub condition: Condition,
    /// The key's entry as it is; `None` if absent.
    pub current: Option<Entry<V>>,
}

/// Leaves the value out, as [`Entry`] does.
impl<V> fmt::Debug for Conflict<V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Conflict")
            .field("key", &self.key)
            .field("condition", &self.condition)
            .field("current", &self.current)
            .finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(mod_revision: u64) -> Entry<()> {
        let revision = Revision::new(mod_revision);
        Entry {
            value: (),
            create_revision: revision,
            mod_revision: revision,
            size: 0,
        }
    }

    #[test]
    fn a_condition_compares_the_mod_revision() {
        let at_7 = Condition::Unchanged(Revision::new(7));
        for (condition, current, holds) in [
            (Condition::Any, None, true),
            (Condition::Any, Some(entry(7)), true),
            (Condition::Absent, None, true),
            (Condition::Absent, Some(entry(7)), false),
            (at_7, Some(entry(7)), true),
            (at_7, Some(entry(8)), false),
            (at_7, None, false),
            (Condition::Unchanged(Revision::ZERO), None, false),
        ] {
            assert_eq!(
                condition.holds(current.as_ref()),
                holds,
                "{condition:?} of {current:?}"
            );
        }
    }

    #[test]
    fn a_transaction_that_could_never_be_committed_is_refused() {
        let any = Condition::Any;
        let big = vec![0; MAX_TXN_BYTES / 2 + 1];
        for (txn, message) in [
            (Txn::new().delete("", any), "a transaction with an empty key"),
            (
                Txn::new().put("/a", "1", any).check("/a", any),
                "a transaction with \"/a\" in it twice",
            ),
            (
                Txn::new().put("/a", big.clone(), any).put("/b", big, any),
                "a transaction of 16777222 bytes; 16777216 at most",
            ),
        ] {
            let refused = txn.validate::<()>().map_err(|error| error.to_string());
            assert_eq!(refused, Err(message.to_owned()));
        }
        assert!(
            Txn::new()
                .put("/a", "1", any)
                .delete("/b", any)
                .validate::<()>()
                .is_ok()
        );
    }
}
