//! The committer: the one thread that writes.
//!
//! It takes all transactions that are waiting, decides them one after another ([`Draft`]),
//! writes what they change as one frame with one sync, and only then shows it to readers, answers
//! the writers and wakes the watchers. If the frame cannot be written, the draft is dropped, and
//! nothing has happened.

use std::io;
use std::sync::Arc;
use std::time::Instant;

use tokio::sync::{mpsc, oneshot};

use crate::compaction::Compactor;
use crate::draft::{Draft, Head};
use crate::entry::Value;
use crate::format::frame;
use crate::log::Log;
use crate::state::Shared;
use crate::txn::{CommitError, Committed, Conflict, Txn};

/// Transactions taken off the queue at a time.
const BATCH: usize = 1024;
/// A frame that has reached this size takes no further transaction.
const FRAME_BYTES: usize = 4 << 20;
/// Memory kept for the next frame: enough for one with a chunk of zeros behind it.
const KEPT_BYTES: usize = 512 << 10;

/// What a handle asks of the committer.
pub(crate) enum Request<V> {
    Commit(Waiting<V>),
    /// End, after what was asked before.
    Close,
}

/// A transaction, and where its outcome goes.
pub(crate) struct Waiting<V> {
    pub(crate) txn: Txn,
    pub(crate) reply: oneshot::Sender<Result<Committed<V>, CommitError<V>>>,
}

/// A transaction that was decided, but not yet written.
struct Decided<V> {
    waiting: Waiting<V>,
    outcome: Result<Committed<V>, Conflict<V>>,
}

/// The committer's state.
pub(crate) struct Committer<V: Value> {
    pub(crate) shared: Arc<Shared<V>>,
    pub(crate) requests: mpsc::Receiver<Request<V>>,
    pub(crate) head: Head<V>,
    pub(crate) log: Log,
    pub(crate) compactor: Compactor,
    /// Kept between batches for its memory.
    pub(crate) frame: Vec<u8>,
}

impl<V: Value> Committer<V> {
    /// Serves requests until asked to close or until no handle is left.
    pub(crate) fn run(mut self) {
        let mut requests = Vec::new();
        while self.requests.blocking_recv_many(&mut requests, BATCH) > 0 {
            if self.serve(requests.drain(..)) == Next::Close {
                break;
            }
        }
    }

    fn serve(&mut self, requests: impl Iterator<Item = Request<V>>) -> Next {
        let mut waiting = Vec::new();
        let mut next = Next::GoOn;
        for request in requests {
            match request {
                Request::Commit(one) => waiting.push(one),
                Request::Close => {
                    next = Next::Close;
                    break;
                }
            }
        }
        // A writer that has gone away already need not be served.
        let mut waiting = waiting
            .into_iter()
            .filter(|one| !one.reply.is_closed())
            .peekable();
        while waiting.peek().is_some() {
            self.commit_some(&mut waiting);
        }
        next
    }

    /// Commits as many transactions as fit into a frame.
    fn commit_some(&mut self, waiting: &mut impl Iterator<Item = Waiting<V>>) {
        let mut draft = Draft::new(&self.head);
        let mut decided = Vec::new();
        frame::begin(&mut self.frame);
        while self.frame.len() < FRAME_BYTES
            && let Some(waiting) = waiting.next()
        {
            let outcome = draft.apply(&waiting.txn, &mut self.frame);
            decided.push(Decided { waiting, outcome });
        }
        if draft.is_empty() {
            return self.reply(decided);
        }
        match self.write(&draft) {
            Ok(written) => {
                self.shared.publish(&draft, Instant::now());
                self.reply(decided);
                self.shared.announce(&draft.events);
                self.head = draft.head;
                let counters = &self.shared.counters;
                self.compactor
                    .after_batch(written, &self.head, &mut self.log, counters);
            }
            Err(error) => self.refuse(decided, error),
        }
        if self.frame.capacity() > KEPT_BYTES {
            self.frame = Vec::new();
        }
    }

    /// Makes the draft's frame durable. Returns its length.
    fn write(&mut self, draft: &Draft<V>) -> io::Result<u64> {
        let start = Instant::now();
        let len = self.log.append(&mut self.frame, self.head.revision.next())?;
        let counters = &self.shared.counters;
        counters.batches.add(1);
        counters.log_bytes.add(len);
        counters
            .log_nanos
            .add(u64::try_from(start.elapsed().as_nanos()).unwrap_or(u64::MAX));
        debug_assert!(draft.head.revision > self.head.revision);
        Ok(len)
    }

    fn reply(&self, decided: Vec<Decided<V>>) {
        for Decided { waiting, outcome } in decided {
            let counters = &self.shared.counters;
            let outcome = match outcome {
                Ok(committed) => {
                    counters.commits.add(1);
                    Ok(committed)
                }
                Err(conflict) => {
                    counters.conflicts.add(1);
                    Err(CommitError::Conflict(conflict))
                }
            };
            // The writer may have gone away.
            let _ = waiting.reply.send(outcome);
        }
    }

    /// Answers a batch that could not be written. A conflict with what was written before stays a
    /// conflict; one with a transaction of the same batch has lost its cause.
    fn refuse(&self, decided: Vec<Decided<V>>, error: io::Error) {
        let error = Arc::new(error);
        let counters = &self.shared.counters;
        for Decided { waiting, .. } in decided {
            let refusal = match self.head.conflict(&waiting.txn) {
                Some(conflict) => {
                    counters.conflicts.add(1);
                    CommitError::Conflict(conflict)
                }
                None => {
                    counters.failures.add(1);
                    CommitError::from_io(&error)
                }
            };
            let _ = waiting.reply.send(Err(refusal));
        }
    }
}

/// However the thread ends (a value's `decode` may panic), a checkpoint is called off and everyone
/// who waits is told.
impl<V: Value> Drop for Committer<V> {
    fn drop(&mut self) {
        // Transactions still in the queue are answered by being dropped with it.
        self.requests.close();
        self.compactor.stop(&self.shared.counters);
        if let Err(error) = self.log.restore() {
            tracing::warn!(%error, "cut off what was refused; it may be there when the store is opened again");
        }
        self.shared.close();
    }
}

/// Whether the committer goes on.
#[derive(PartialEq, Eq)]
enum Next {
    GoOn,
    Close,
}
