//! What readers and watchers see: the published state, behind a lock held for moments only.

use std::mem;
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::time::Instant;

use tokio::sync::watch;

use crate::draft::{Draft, Head};
use crate::entry::{Map, Value};
use crate::history::History;
use crate::metrics::Counters;
use crate::{Event, Revision};

/// The newest durable state, and the events that led to it.
pub(crate) struct State<V> {
    pub(crate) map: Map<V>,
    pub(crate) revision: Revision,
    pub(crate) history: History<V>,
    /// No more commits, and so no more events.
    pub(crate) closed: bool,
}

/// What all handles, watchers and the committer share.
pub(crate) struct Shared<V> {
    state: RwLock<State<V>>,
    /// Changes with every commit, and when the store is closed.
    revision: watch::Sender<Revision>,
    pub(crate) counters: Counters,
}

impl<V: Value> Shared<V> {
    pub(crate) fn new(head: &Head<V>, history: History<V>) -> Self {
        Self {
            state: RwLock::new(State {
                map: head.map.clone(),
                revision: head.revision,
                history,
                closed: false,
            }),
            revision: watch::Sender::new(head.revision),
            counters: Counters::default(),
        }
    }

    pub(crate) fn read(&self) -> RwLockReadGuard<'_, State<V>> {
        // Writers leave the state whole at every point where they could panic.
        self.state.read().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn write(&self) -> RwLockWriteGuard<'_, State<V>> {
        self.state.write().unwrap_or_else(PoisonError::into_inner)
    }

    /// Changes with every commit, and when the store is closed.
    pub(crate) fn subscribe(&self) -> watch::Receiver<Revision> {
        self.revision.subscribe()
    }

    /// Makes a durable batch visible to readers. Watchers are told by [`Self::announce`].
    pub(crate) fn publish(&self, draft: &Draft<V>, now: Instant) {
        let mut state = self.write();
        let replaced = mem::replace(&mut state.map, draft.head.map.clone());
        state.revision = draft.head.revision;
        let dropped = state.history.extend(&draft.events, now);
        drop(state);
        // Freeing takes longer than replacing; nobody should wait for it.
        drop((replaced, dropped));
    }

    /// Wakes those who wait for the events of a published batch.
    pub(crate) fn announce(&self, events: &[Arc<Event<V>>]) {
        let state = self.read();
        state.history.wake(events);
        self.revision.send_replace(state.revision);
    }

    /// Tells everyone that there will be no more commits.
    pub(crate) fn close(&self) {
        self.write().closed = true;
        self.read().history.wake_all();
        self.revision.send_modify(|_| {});
    }
}
