//! Tests of the whole store over the simulated disk: against a model, under power cuts, and with
//! a disk that fails.

#![allow(clippy::unwrap_used)]

mod crash;
mod damage;
mod faults;
mod model;

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;

use crate::disk::sim::{Image, SimDisk};
use crate::{Condition, Event, HistoryLimits, OpenError, Options, Revision, Store, Txn};

/// Small enough for every kind of file to come up in a short test.
fn options() -> Options {
    let limits = HistoryLimits {
        events: 100_000,
        bytes: 3000,
        ..HistoryLimits::default()
    };
    Options {
        checkpoint_bytes: 600,
        log_chunk_bytes: 128,
        history: limits,
        ..Options::new("")
    }
}

fn open(disk: &SimDisk) -> Result<Store<Bytes>, OpenError> {
    open_with(disk, &options())
}

fn open_with(disk: &SimDisk, options: &Options) -> Result<Store<Bytes>, OpenError> {
    Store::open_on(Arc::new(disk.clone()), options)
}

fn open_image(image: &Image) -> Result<Store<Bytes>, OpenError> {
    open(&SimDisk::new(image.clone()))
}

fn block_on<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread()
        .build()
        .unwrap()
        .block_on(future)
}

/// A value and its create and mod revisions.
type Stored = (Bytes, Revision, Revision);
type Contents = BTreeMap<String, Stored>;

fn contents(store: &Store<Bytes>) -> Contents {
    stored(&store.snapshot())
}

fn stored(snapshot: &crate::Snapshot<Bytes>) -> Contents {
    let entries = snapshot.prefix("");
    let stored = entries.map(|(key, e)| {
        (
            key.to_string(),
            (e.value.clone(), e.create_revision, e.mod_revision),
        )
    });
    stored.collect()
}

/// What the store should hold after each revision, by the events of its transactions.
#[derive(Clone, Debug)]
struct Expected {
    states: Vec<Contents>,
}

impl Expected {
    fn new() -> Self {
        Self {
            states: vec![Contents::new()],
        }
    }

    fn revision(&self) -> Revision {
        Revision::new(self.states.len() as u64 - 1)
    }

    fn at(&self, revision: Revision) -> &Contents {
        &self.states[revision.get() as usize]
    }

    /// Takes note of the transaction after the last one.
    fn commit(&mut self, events: &[Arc<Event<Bytes>>]) {
        let mut state = self.states[self.states.len() - 1].clone();
        for event in events {
            assert_eq!(event.revision, self.revision().next());
            match event.current() {
                Some(entry) => {
                    let stored = (entry.value.clone(), entry.create_revision, entry.mod_revision);
                    state.insert(event.key.to_string(), stored);
                }
                None => drop(state.remove(&*event.key)),
            }
        }
        self.states.push(state);
    }
}

fn put(key: &str, value: impl Into<Bytes>) -> Txn {
    Txn::new().put(key, value, Condition::Any)
}
