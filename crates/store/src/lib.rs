//! A revisioned, watchable, durable key-value store for one process.
//!
//! Keys are strings with slashes (`/pods/default/web-0`), values are bytes that become a
//! [`Value`] once, when they are committed. A [`Txn`] is a list of writes and deletions with
//! conditions, all or nothing, and gets a [`Revision`] of its own. Every read comes from memory:
//! the current entry ([`Store::get`]), the whole store now ([`Store::snapshot`]) or at a recent
//! revision ([`Store::snapshot_at`]). A [`Watcher`] yields what happens to the keys of a prefix.
//! The terms and their meaning are etcd's, so that etcd can take the store's place.
//!
//! A transaction is acknowledged, and visible to anyone, only when it is durable. One thread
//! writes; all transactions that wait share one sync. Behind it is an append-only log with
//! checkpoints, whose files the module `format` describes.
//!
//! The store knows no kinds of objects and no HTTP. It assumes a local disk that keeps what was
//! synced, and that everything fits into memory.
//!
//! ```no_run
//! use bytes::Bytes;
//! use stead_store::{Condition, Options, Store, Txn};
//!
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! let store = Store::<Bytes>::open(Options::new("/var/lib/stead/store"))?;
//! let listed = store.snapshot();
//! let mut watcher = store.watch("/pods/", listed.revision())?;
//!
//! let created = store.commit(Txn::new().put("/pods/default/web-0", "{}", Condition::Absent)).await?;
//! assert_eq!(store.get("/pods/default/web-0").map(|pod| pod.mod_revision), Some(created.revision));
//! assert_eq!(watcher.next().await?[0].key, created.events[0].key);
//! assert!(listed.is_empty(), "a snapshot never changes");
//!
//! let unchanged = Condition::Unchanged(created.revision);
//! store.commit(Txn::new().delete("/pods/default/web-0", unchanged)).await?;
//! store.close().await;
//! # Ok(())
//! # }
//! ```

mod checkpoint;
mod committer;
mod compaction;
mod disk;
mod draft;
mod entry;
mod format;
#[doc(hidden)]
pub mod fuzz;
mod history;
mod log;
mod metrics;
mod recovery;
mod revision;
mod scope;
mod segment;
mod snapshot;
mod state;
mod store;
#[cfg(test)]
mod tests;
mod txn;
mod watch;

pub use entry::{Change, Entry, Event, Value};
pub use history::{Compacted, HistoryLimits};
pub use metrics::Metrics;
pub use recovery::OpenError;
pub use revision::Revision;
pub use snapshot::Snapshot;
pub use store::{Closed, Options, PastError, Store};
pub use txn::{CommitError, Committed, Condition, Conflict, MAX_TXN_BYTES, Txn};
pub use watch::{WatchError, Watcher};
