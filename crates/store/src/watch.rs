//! Watchers: cursors into the shared history.

use std::sync::Arc;

use tokio::sync::watch;

use crate::entry::Value;
use crate::history::Compacted;
use crate::scope::Scope;
use crate::state::Shared;
use crate::{Event, Revision};

/// Events one call of [`Watcher::next`] returns, about; it bounds how long one watcher that is
/// far behind holds the lock.
const BATCH: usize = 512;

/// Yields the events of the keys with one prefix, in the order of their revisions, each once:
/// first from the history, then as they happen.
///
/// A watcher is only a cursor: it holds no queue, so one that is slow or forgotten costs nothing
/// and slows nobody down. If the history moves on past its cursor, it gets
/// [`WatchError::Compacted`]. It does not keep the store open.
pub struct Watcher<V> {
    shared: Arc<Shared<V>>,
    scope: Scope,
    prefix: Box<str>,
    /// All events of the prefix up to this revision have been yielded.
    cursor: Revision,
    wake: watch::Receiver<Revision>,
}

/// Why a watch is over.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum WatchError {
    /// The watcher was too slow: events it has not seen are gone. List again, and watch from
    /// there.
    #[error("watch")]
    Compacted(#[from] Compacted),
    /// The store is closed, and all events have been yielded.
    #[error("the store is closed")]
    Closed,
}

impl<V: Value> Watcher<V> {
    pub(crate) fn new(shared: Arc<Shared<V>>, prefix: &str, after: Revision) -> Result<Self, Compacted> {
        let scope = Scope::of_prefix(prefix);
        let mut state = shared.write();
        state.history.check(&scope, after)?;
        let wake = match &scope {
            Scope::Group(group) => state.history.subscribe(group),
            Scope::All => shared.subscribe(),
        };
        drop(state);
        Ok(Self {
            shared,
            scope,
            prefix: prefix.into(),
            cursor: after,
            wake,
        })
    }

    /// Waits for events and returns them: at least one, and all of a transaction's events that
    /// have the prefix together. Of a watch of several groups, events of one revision come in the
    /// order of the transaction's operations.
    ///
    /// Cancel-safe: if the future is dropped, no event is lost.
    pub async fn next(&mut self) -> Result<Vec<Arc<Event<V>>>, WatchError> {
        loop {
            // Before looking: what comes before need not wake us, what comes after must.
            self.wake.mark_unchanged();
            let seen = self.look()?;
            if !seen.events.is_empty() {
                return Ok(seen.events);
            }
            if seen.closed || self.wake.changed().await.is_err() {
                return Err(WatchError::Closed);
            }
        }
    }

    /// The revision up to which all events of the prefix have been yielded. It moves with
    /// [`next`](Self::next) and [`progress`](Self::progress) only.
    #[must_use]
    pub fn revision(&self) -> Revision {
        self.cursor
    }

    /// Moves the cursor as far as there are no events of the prefix, and returns it: the
    /// revision a bookmark may carry. It is the store's current revision if no event is waiting
    /// to be fetched with [`next`](Self::next).
    pub fn progress(&mut self) -> Result<Revision, Compacted> {
        let state = self.shared.read();
        let unseen = state.history.after(&self.scope, &self.prefix, self.cursor, 1)?;
        if unseen.events.is_empty() {
            self.cursor = self.cursor.max(state.revision);
        }
        Ok(self.cursor)
    }

    /// Takes what is there, and tells whether the store is closed.
    fn look(&mut self) -> Result<Seen<V>, Compacted> {
        let state = self.shared.read();
        let unseen = state
            .history
            .after(&self.scope, &self.prefix, self.cursor, BATCH)?;
        // A watch may begin after a revision that is still to come.
        self.cursor = self.cursor.max(unseen.through.unwrap_or(state.revision));
        Ok(Seen {
            events: unseen.events,
            closed: state.closed,
        })
    }
}

/// What one look at the history showed.
struct Seen<V> {
    events: Vec<Arc<Event<V>>>,
    closed: bool,
}
