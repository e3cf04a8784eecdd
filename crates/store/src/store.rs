//! The store's handle: what the rest of the world calls.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};

use tokio::sync::{mpsc, oneshot, watch};

use crate::committer::{Committer, Request, Waiting};
use crate::compaction::{self, Compactor, Policy};
use crate::disk::{Disk, OpenDiskError, OsDisk};
use crate::entry::Value;
use crate::history::{Compacted, HistoryLimits};
use crate::log;
use crate::metrics::Metrics;
use crate::recovery::{self, Config, OpenError};
use crate::snapshot::Snapshot;
use crate::state::Shared;
use crate::txn::{CommitError, Committed, Txn};
use crate::watch::Watcher;
use crate::{Entry, Revision};

/// Transactions that may wait; further writers wait for a place. Each waits with its value in
/// memory anyway, so this only bounds what is left behind by writers that gave up.
const QUEUE: usize = 1024;

/// Where a store is and how it is run.
#[derive(Clone, Debug)]
pub struct Options {
    /// The store's directory; made if it is not there. Only one process can have it open.
    pub dir: PathBuf,
    /// What is kept of the past.
    pub history: HistoryLimits,
    /// The log is compacted when it is longer than this, and than twice what all entries take.
    /// Default: 4 MiB.
    pub checkpoint_bytes: u64,
    /// Bytes of the disk the log takes ahead at a time, by writing zeros there. Default: 256 KiB.
    pub log_chunk_bytes: u64,
}

impl Options {
    /// The defaults, in this directory.
    pub fn new(dir: impl Into<PathBuf>) -> Self {
        Self {
            dir: dir.into(),
            history: HistoryLimits::default(),
            checkpoint_bytes: compaction::MIN_LOG_BYTES,
            log_chunk_bytes: log::CHUNK,
        }
    }
}

/// A handle to an open store. Cloning is cheap; all clones are the same store.
///
/// When the last handle is dropped the store is closed, as by [`close`](Self::close), except that
/// dropping waits for it on the spot: for the write that is under way, at most.
pub struct Store<V: Value> {
    shared: Arc<Shared<V>>,
    writer: Arc<Writer<V>>,
}

impl<V: Value> Clone for Store<V> {
    fn clone(&self) -> Self {
        Self {
            shared: Arc::clone(&self.shared),
            writer: Arc::clone(&self.writer),
        }
    }
}

/// The store has been closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the store is closed")]
pub struct Closed;

/// The past that was asked for cannot be shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PastError {
    /// It is over for too long.
    #[error(transparent)]
    Compacted(#[from] Compacted),
    /// It has not come yet.
    #[error("revision {asked} is still to come; the newest is {newest}")]
    Future {
        /// The revision that was asked for.
        asked: Revision,
        /// The store's revision.
        newest: Revision,
    },
}

impl<V: Value> Store<V> {
    /// Opens the store in a directory, or begins one there.
    ///
    /// Blocks while it reads the files, which takes two to three milliseconds for each MiB. The files
    /// are left as they are if it fails. A frame that was being written when the power went is
    /// cut off silently, since its transactions were never acknowledged.
    pub fn open(options: Options) -> Result<Self, OpenError> {
        let disk = OsDisk::open(&options.dir).map_err(|error| match error {
            OpenDiskError::Locked => OpenError::Locked {
                dir: options.dir.clone(),
            },
            OpenDiskError::Io(source) => OpenError::Dir {
                dir: options.dir.clone(),
                source,
            },
        })?;
        Self::open_on(Arc::new(disk), &options)
    }

    pub(crate) fn open_on(disk: Arc<dyn Disk>, options: &Options) -> Result<Self, OpenError> {
        let config = Config {
            history: options.history,
            chunk: options.log_chunk_bytes.max(1),
        };
        let recovered = recovery::recover(Arc::clone(&disk), config)?;
        let policy = Policy {
            min_log_bytes: options.checkpoint_bytes,
            keep_bytes: options.history.bytes as u64,
        };
        let shared = Arc::new(Shared::new(&recovered.head, recovered.history));
        let (queue, requests) = mpsc::channel(QUEUE);
        let committer = Committer {
            shared: Arc::clone(&shared),
            requests,
            head: recovered.head,
            log: recovered.log,
            compactor: Compactor::new(disk, policy, recovered.log_bytes),
            frame: Vec::new(),
        };
        let writer = Arc::new(Writer::start(queue, committer)?);
        Ok(Self { shared, writer })
    }

    /// Commits a transaction: when this returns, it is durable and visible, and has a revision of
    /// its own.
    ///
    /// If the future is dropped the transaction may be committed all the same.
    pub async fn commit(&self, txn: Txn) -> Result<Committed<V>, CommitError<V>> {
        txn.validate()?;
        let (reply, outcome) = oneshot::channel();
        let request = Request::Commit(Waiting { txn, reply });
        self.writer
            .queue()
            .send(request)
            .await
            .map_err(|_| CommitError::Closed)?;
        outcome.await.unwrap_or(Err(CommitError::Closed))
    }

    /// The current entry at `key`.
    #[must_use]
    pub fn get(&self, key: &str) -> Option<Entry<V>> {
        self.shared.read().map.get(key).cloned()
    }

    /// The revision of the newest transaction.
    #[must_use]
    pub fn revision(&self) -> Revision {
        self.shared.read().revision
    }

    /// The store as it is now.
    #[must_use]
    pub fn snapshot(&self) -> Snapshot<V> {
        let state = self.shared.read();
        Snapshot::new(state.map.clone(), state.revision)
    }

    /// The store as it was at `revision`, restored by taking back the events since; time in
    /// proportion to their number.
    pub fn snapshot_at(&self, revision: Revision) -> Result<Snapshot<V>, PastError> {
        let state = self.shared.read();
        if revision > state.revision {
            return Err(PastError::Future {
                asked: revision,
                newest: state.revision,
            });
        }
        let events = state.history.since(revision)?;
        let mut map = state.map.clone();
        drop(state);
        for event in &events {
            event.undo(&mut map);
        }
        Ok(Snapshot::new(map, revision))
    }

    /// Waits until the store has reached `revision`, so that a read shows at least that.
    pub async fn wait_for(&self, revision: Revision) -> Result<(), Closed> {
        let mut changes = self.shared.subscribe();
        loop {
            changes.mark_unchanged();
            let (reached, closed) = {
                let state = self.shared.read();
                (state.revision >= revision, state.closed)
            };
            if reached {
                return Ok(());
            }
            if closed || changes.changed().await.is_err() {
                return Err(Closed);
            }
        }
    }

    /// Watches the keys with a prefix, from the first event after revision `after`; 0 means from
    /// the very first. To list and watch, take a snapshot and watch after its revision.
    ///
    /// A prefix should end with a slash and hold at least one component, as `/pods/` does: the
    /// watcher is then woken only for keys of the same first component.
    pub fn watch(&self, prefix: &str, after: Revision) -> Result<Watcher<V>, Compacted> {
        Watcher::new(Arc::clone(&self.shared), prefix, after)
    }

    /// What the store has done so far, and how large it is.
    #[must_use]
    pub fn metrics(&self) -> Metrics {
        let state = self.shared.read();
        let (events, bytes) = state.history.size();
        Metrics {
            entries: state.map.len() as u64,
            history_events: events as u64,
            history_bytes: bytes as u64,
            ..self.shared.counters.read()
        }
    }

    /// Closes the store for all handles: transactions that wait are committed, the thread ends,
    /// and the directory is free for others when this returns. Reads still work.
    pub async fn close(&self) {
        // If nobody takes it, the store is closed or about to be.
        let _ = self.writer.queue().send(Request::Close).await;
        // The sender is never used, only dropped when the thread ends.
        let _ = self.writer.ended.clone().changed().await;
        self.writer.join();
    }
}

/// The way to the committer's thread, and its owner.
struct Writer<V: Value> {
    /// There until the writer is dropped.
    queue: Option<mpsc::Sender<Request<V>>>,
    ended: watch::Receiver<()>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

impl<V: Value> Writer<V> {
    fn start(queue: mpsc::Sender<Request<V>>, committer: Committer<V>) -> Result<Self, OpenError> {
        let (end, ended) = watch::channel(());
        let thread = thread::Builder::new()
            .name("store-commit".to_owned())
            .spawn(move || {
                let _dropped_last = end;
                committer.run();
            });
        let thread = Mutex::new(Some(thread.map_err(OpenError::Thread)?));
        Ok(Self {
            queue: Some(queue),
            ended,
            thread,
        })
    }

    fn queue(&self) -> &mpsc::Sender<Request<V>> {
        self.queue
            .as_ref()
            .expect("the queue is taken only when the writer is dropped")
    }

    fn join(&self) {
        let thread = self.thread.lock().unwrap_or_else(PoisonError::into_inner).take();
        // A panic in the thread has been reported there, and has closed the store.
        let _ = thread.map(JoinHandle::join);
    }
}

impl<V: Value> Drop for Writer<V> {
    fn drop(&mut self) {
        self.queue = None;
        self.join();
    }
}
