//! Random histories, against a model: a map, and the list of all events.

use std::pin::pin;
use std::task::{Context, Poll, Waker};

use proptest::prelude::*;

use super::*;
use crate::{CommitError, Conflict, PastError, WatchError, Watcher};

const KEYS: [&str; 6] = ["/a/x/1", "/a/x/2", "/a/y/1", "/b/1", "/b/2", "/c"];
const PREFIXES: [&str; 6] = ["/a/", "/a/x/", "/b/", "/", "/nobody/", "/a/x/1"];

/// What a generated condition is relative to the key's state when it is used.
#[derive(Clone, Copy, Debug)]
enum Want {
    Any,
    Absent,
    Current,
    Stale,
}

#[derive(Clone, Debug)]
enum Step {
    /// Transactions committed at once: key, condition, and a value, `None` to delete, or a check.
    Commit(Vec<Vec<(usize, Want, Do)>>),
    /// Compare the state as it was so many revisions ago.
    LookBack(u64),
    /// Start a watch of a prefix, from so many revisions ago.
    Watch(usize, u64),
    /// Take what one of the watches yields.
    Take(usize),
    Reopen,
}

#[derive(Clone, Debug)]
enum Do {
    Put(Vec<u8>),
    Delete,
    Check,
}

fn step() -> impl Strategy<Value = Step> {
    let want = prop_oneof![5 => Just(Want::Any), 1 => Just(Want::Absent), 2 => Just(Want::Current), 1 => Just(Want::Stale)];
    let action = prop_oneof![
        4 => prop::collection::vec(any::<u8>(), 0..80).prop_map(Do::Put),
        2 => Just(Do::Delete),
        1 => Just(Do::Check),
    ];
    let txn = prop::collection::vec((0..KEYS.len(), want, action), 0..4);
    prop_oneof![
        12 => prop::collection::vec(txn, 1..4).prop_map(Step::Commit),
        3 => (0u64..40).prop_map(Step::LookBack),
        2 => ((0..PREFIXES.len()), 0u64..20).prop_map(|(prefix, back)| Step::Watch(prefix, back)),
        2 => (0usize..8).prop_map(Step::Take),
        1 => Just(Step::Reopen),
    ]
}

/// An event, in terms that can be compared: revision, key, values after and before.
type Seen = (Revision, String, Option<Stored>, Option<Stored>);

fn seen(event: &Event<Bytes>) -> Seen {
    let stored =
        |entry: &crate::Entry<Bytes>| (entry.value.clone(), entry.create_revision, entry.mod_revision);
    (
        event.revision,
        event.key.to_string(),
        event.current().map(stored),
        event.previous().map(stored),
    )
}

struct Watching {
    watcher: Watcher<Bytes>,
    prefix: &'static str,
    after: Revision,
    yielded: Vec<Seen>,
}

/// The store, and what it should be.
struct World {
    disk: SimDisk,
    store: Store<Bytes>,
    expected: Expected,
    events: Vec<Seen>,
    watching: Vec<Watching>,
}

impl World {
    fn new() -> Self {
        let disk = SimDisk::new(Image::new());
        let store = open(&disk).unwrap();
        Self {
            disk,
            store,
            expected: Expected::new(),
            events: Vec::new(),
            watching: Vec::new(),
        }
    }

    async fn step(&mut self, step: Step) {
        match step {
            Step::Commit(txns) => self.commit(txns).await,
            Step::LookBack(back) => self.look_back(self.ago(back)),
            Step::Watch(prefix, back) => self.watch(PREFIXES[prefix], self.ago(back)),
            Step::Take(number) => self.take(number),
            Step::Reopen => self.reopen().await,
        }
        assert_eq!(self.store.revision(), self.expected.revision());
    }

    fn ago(&self, back: u64) -> Revision {
        Revision::new(self.expected.revision().get().saturating_sub(back))
    }

    /// Commits transactions at once; they reach the store in their order.
    async fn commit(&mut self, txns: Vec<Vec<(usize, Want, Do)>>) {
        let txns: Vec<Txn> = txns.into_iter().map(|ops| self.txn(ops)).collect();
        let mut commits = tokio::task::JoinSet::new();
        let local = tokio::task::LocalSet::new();
        let outcomes = local
            .run_until(async {
                for (number, txn) in txns.iter().cloned().enumerate() {
                    let store = self.store.clone();
                    commits.spawn_local(async move { (number, store.commit(txn).await) });
                }
                commits.join_all().await
            })
            .await;
        let mut outcomes: Vec<_> = outcomes.into_iter().collect();
        outcomes.sort_by_key(|(number, _)| *number);
        for (txn, (_, outcome)) in txns.iter().zip(outcomes) {
            self.check(txn, outcome);
        }
    }

    fn txn(&self, ops: Vec<(usize, Want, Do)>) -> Txn {
        let state = self.expected.at(self.expected.revision());
        let mut txn = Txn::new();
        let mut used = Vec::new();
        for (key, want, action) in ops {
            let key = KEYS[key];
            if used.contains(&key) {
                continue;
            }
            used.push(key);
            let current = state.get(key).map(|stored| stored.2);
            let condition = match want {
                Want::Any => Condition::Any,
                Want::Absent => Condition::Absent,
                Want::Current => current.map_or(Condition::Absent, Condition::Unchanged),
                Want::Stale => Condition::Unchanged(self.ago(3)),
            };
            txn = match action {
                Do::Put(value) => txn.put(key, value, condition),
                Do::Delete => txn.delete(key, condition),
                Do::Check => txn.check(key, condition),
            };
        }
        txn
    }

    /// Compares an outcome with what the model says of the transaction, and follows.
    fn check(&mut self, txn: &Txn, outcome: Result<crate::Committed<Bytes>, CommitError<Bytes>>) {
        let state = self.expected.at(self.expected.revision()).clone();
        let conflicting = txn.ops.iter().find(|op| {
            let current = state.get(&op.key).map(|stored| stored.2);
            match op.condition {
                Condition::Any => false,
                Condition::Absent => current.is_some(),
                Condition::Unchanged(revision) => current != Some(revision),
            }
        });
        match (conflicting, outcome) {
            (Some(op), Err(CommitError::Conflict(Conflict { key, current, .. }))) => {
                assert_eq!(key, op.key);
                let current = current.map(|e| (e.value, e.create_revision, e.mod_revision));
                assert_eq!(current.as_ref(), state.get(&key));
            }
            (None, Ok(committed)) => self.follow(txn, &state, &committed),
            (conflicting, outcome) => panic!("{outcome:?}, but the model says {conflicting:?}"),
        }
    }

    fn follow(&mut self, txn: &Txn, state: &Contents, committed: &crate::Committed<Bytes>) {
        use crate::txn::Action;
        let revision = self.expected.revision().next();
        let mut events = Vec::new();
        for op in &txn.ops {
            let previous = state.get(&op.key).cloned();
            let current = match &op.action {
                Action::Put(value) => {
                    let created = previous.as_ref().map_or(revision, |stored| stored.1);
                    Some((value.clone(), created, revision))
                }
                Action::Delete if previous.is_some() => None,
                Action::Delete | Action::Check => continue,
            };
            events.push((revision, op.key.clone(), current, previous));
        }
        assert_eq!(
            committed
                .events
                .iter()
                .map(|event| seen(event))
                .collect::<Vec<_>>(),
            events
        );
        if !events.is_empty() {
            self.expected.commit(&committed.events);
            self.events.extend(events);
        }
        assert_eq!(committed.revision, self.expected.revision());
        for key in KEYS {
            let found = self
                .store
                .get(key)
                .map(|e| (e.value, e.create_revision, e.mod_revision));
            // Later transactions of the batch may have been committed already.
            if self.store.revision() == committed.revision {
                assert_eq!(found.as_ref(), self.expected.at(committed.revision).get(key));
            }
        }
    }

    fn look_back(&self, revision: Revision) {
        match self.store.snapshot_at(revision) {
            Ok(snapshot) => {
                assert_eq!(snapshot.revision(), revision);
                assert_eq!(&stored(&snapshot), self.expected.at(revision));
            }
            Err(PastError::Compacted(compacted)) => {
                assert!(compacted.oldest > revision);
                let oldest = self.store.snapshot_at(compacted.oldest).unwrap();
                assert_eq!(&stored(&oldest), self.expected.at(compacted.oldest));
            }
            Err(error) => panic!("{error}"),
        }
        assert_eq!(&contents(&self.store), self.expected.at(self.expected.revision()));
    }

    fn watch(&mut self, prefix: &'static str, after: Revision) {
        match self.store.watch(prefix, after) {
            Ok(watcher) => self.watching.push(Watching {
                watcher,
                prefix,
                after,
                yielded: Vec::new(),
            }),
            Err(compacted) => assert!(compacted.oldest > after),
        }
    }

    /// Takes all that is there for one of the watches and compares it.
    fn take(&mut self, number: usize) {
        if self.watching.is_empty() {
            return;
        }
        let number = number % self.watching.len();
        let watching = &mut self.watching[number];
        loop {
            // A future that is dropped half way loses nothing.
            let next = pin!(watching.watcher.next()).poll(&mut Context::from_waker(Waker::noop()));
            match next {
                Poll::Ready(Ok(events)) => watching.yielded.extend(events.iter().map(|event| seen(event))),
                Poll::Ready(Err(WatchError::Compacted(compacted))) => {
                    assert!(compacted.oldest > watching.watcher.revision());
                    self.watching.remove(number);
                    return;
                }
                Poll::Ready(Err(WatchError::Closed)) => panic!("the store is open"),
                Poll::Pending => break,
            }
        }
        assert_eq!(
            watching.watcher.progress(),
            Ok(self.expected.revision().max(watching.after))
        );
        let expected = self.events.iter();
        let expected =
            expected.filter(|event| event.0 > watching.after && event.1.starts_with(watching.prefix));
        assert!(
            watching.yielded.iter().eq(expected),
            "{:?} after {}",
            watching.prefix,
            watching.after
        );
    }

    /// Closes and opens the store again; watchers resume from where they were.
    async fn reopen(&mut self) {
        self.store.close().await;
        self.store = open(&self.disk).unwrap();
        for mut watching in std::mem::take(&mut self.watching) {
            let cursor = watching.watcher.revision();
            match self.store.watch(watching.prefix, cursor) {
                Ok(watcher) => {
                    watching.watcher = watcher;
                    self.watching.push(watching);
                }
                Err(compacted) => assert!(compacted.oldest > cursor),
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 250, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn the_store_does_what_the_model_does(steps in prop::collection::vec(step(), 1..60)) {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(async {
            let mut world = World::new();
            for step in steps {
                world.step(step).await;
            }
            world.reopen().await;
            for number in 0..world.watching.len() {
                world.take(number);
            }
        });
    }
}
