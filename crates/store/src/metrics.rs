//! Plain counters of what the store has done since it was opened.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// Counters and sizes, as of the moment they were read; each is right by itself.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Metrics {
    /// Transactions committed.
    pub commits: u64,
    /// Transactions refused because a condition did not hold.
    pub conflicts: u64,
    /// Transactions refused because the disk failed or was full.
    pub failures: u64,
    /// Batches written, each with one sync of the log.
    pub batches: u64,
    /// Bytes of these batches.
    pub log_bytes: u64,
    /// Time it took to write and sync them.
    pub log_time: Duration,
    /// Checkpoints written.
    pub checkpoints: u64,
    /// Checkpoints that could not be written.
    pub checkpoint_failures: u64,
    /// Entries there are.
    pub entries: u64,
    /// Events in the history.
    pub history_events: u64,
    /// What the history keeps in memory, in bytes, as its limit counts them.
    pub history_bytes: u64,
}

/// The counters behind [`Metrics`].
#[derive(Debug, Default)]
pub(crate) struct Counters {
    pub(crate) commits: Counter,
    pub(crate) conflicts: Counter,
    pub(crate) failures: Counter,
    pub(crate) batches: Counter,
    pub(crate) log_bytes: Counter,
    pub(crate) log_nanos: Counter,
    pub(crate) checkpoints: Counter,
    pub(crate) checkpoint_failures: Counter,
}

/// A number that only grows.
#[derive(Debug, Default)]
pub(crate) struct Counter(AtomicU64);

impl Counter {
    pub(crate) fn add(&self, count: u64) {
        self.0.fetch_add(count, Ordering::Relaxed);
    }

    fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

impl Counters {
    /// The counters, with the sizes left at 0.
    pub(crate) fn read(&self) -> Metrics {
        Metrics {
            commits: self.commits.get(),
            conflicts: self.conflicts.get(),
            failures: self.failures.get(),
            batches: self.batches.get(),
            log_bytes: self.log_bytes.get(),
            log_time: Duration::from_nanos(self.log_nanos.get()),
            checkpoints: self.checkpoints.get(),
            checkpoint_failures: self.checkpoint_failures.get(),
            ..Metrics::default()
        }
    }
}
