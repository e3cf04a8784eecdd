//! A work queue of keys: each key waits at most once and is worked on by one worker at a time; a
//! key added while it is worked on comes again afterwards. As client-go's `workqueue`.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap, HashSet, VecDeque};
use std::hash::Hash;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::Instant;

/// The first wait after a failure; it doubles with each further one.
const BACKOFF_BASE: Duration = Duration::from_millis(5);
/// The longest wait after failures.
const BACKOFF_MAX: Duration = Duration::from_secs(60);

/// The queue. Cheap to clone.
pub struct Queue<K> {
    shared: Arc<Shared<K>>,
}

impl<K> Clone for Queue<K> {
    fn clone(&self) -> Self {
        Queue {
            shared: Arc::clone(&self.shared),
        }
    }
}

struct Shared<K> {
    state: Mutex<State<K>>,
    changed: Notify,
}

struct State<K> {
    ready: VecDeque<K>,
    /// Keys in `ready`, and keys under work that were added again.
    dirty: HashSet<K>,
    working: HashSet<K>,
    delayed: BinaryHeap<Reverse<(Instant, u64)>>,
    delayed_keys: HashMap<u64, K>,
    next_ticket: u64,
    failures: HashMap<K, u32>,
}

/// A key to work on. Dropping it says that the work is done.
pub struct Work<K: Hash + Eq + Clone> {
    /// The key.
    pub key: K,
    queue: Queue<K>,
}

impl<K: Hash + Eq + Clone> Default for Queue<K> {
    fn default() -> Self {
        Queue::new()
    }
}

impl<K: Hash + Eq + Clone> Queue<K> {
    /// An empty queue.
    pub fn new() -> Queue<K> {
        let state = State {
            ready: VecDeque::new(),
            dirty: HashSet::new(),
            working: HashSet::new(),
            delayed: BinaryHeap::new(),
            delayed_keys: HashMap::new(),
            next_ticket: 0,
            failures: HashMap::new(),
        };
        Queue {
            shared: Arc::new(Shared {
                state: Mutex::new(state),
                changed: Notify::new(),
            }),
        }
    }

    fn state(&self) -> MutexGuard<'_, State<K>> {
        self.shared.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds a key, unless it waits already.
    pub fn add(&self, key: K) {
        let mut state = self.state();
        if state.dirty.insert(key.clone()) && !state.working.contains(&key) {
            state.ready.push_back(key);
            drop(state);
            self.shared.changed.notify_one();
        }
    }

    /// Adds a key after a while. A key that is added meanwhile comes twice.
    pub fn add_after(&self, key: K, after: Duration) {
        if after.is_zero() {
            return self.add(key);
        }
        let mut state = self.state();
        let ticket = state.next_ticket;
        state.next_ticket += 1;
        state.delayed_keys.insert(ticket, key);
        state.delayed.push(Reverse((Instant::now() + after, ticket)));
        drop(state);
        self.shared.changed.notify_one();
    }

    /// Adds a key after a wait that grows with its failures in a row.
    pub fn add_failed(&self, key: K) {
        let after = {
            let mut state = self.state();
            let failures = state.failures.entry(key.clone()).or_insert(0);
            let after = BACKOFF_BASE
                .saturating_mul(1 << (*failures).min(20))
                .min(BACKOFF_MAX);
            *failures += 1;
            after
        };
        self.add_after(key, after);
    }

    /// Forgets the failures of a key.
    pub fn forget(&self, key: &K) {
        self.state().failures.remove(key);
    }

    /// Waits for a key. Cancel-safe.
    pub async fn next(&self) -> Work<K> {
        loop {
            let changed = self.shared.changed.notified();
            let due = {
                let mut state = self.state();
                state.release_due(Instant::now());
                if let Some(key) = state.ready.pop_front() {
                    state.dirty.remove(&key);
                    state.working.insert(key.clone());
                    if !state.ready.is_empty() {
                        // Another worker may take the next one.
                        self.shared.changed.notify_one();
                    }
                    drop(state);
                    return Work {
                        key,
                        queue: self.clone(),
                    };
                }
                state.delayed.peek().map(|Reverse((due, _))| *due)
            };
            match due {
                Some(due) => {
                    tokio::select! {
                        () = changed => {}
                        () = tokio::time::sleep_until(due) => {}
                    }
                }
                None => changed.await,
            }
        }
    }

    fn done(&self, key: &K) {
        let mut state = self.state();
        state.working.remove(key);
        if state.dirty.contains(key) {
            state.ready.push_back(key.clone());
            drop(state);
            self.shared.changed.notify_one();
        }
    }
}

impl<K: Hash + Eq + Clone> State<K> {
    fn release_due(&mut self, now: Instant) {
        while let Some(Reverse((due, ticket))) = self.delayed.peek().copied() {
            if due > now {
                return;
            }
            self.delayed.pop();
            let Some(key) = self.delayed_keys.remove(&ticket) else {
                continue;
            };
            if self.dirty.insert(key.clone()) && !self.working.contains(&key) {
                self.ready.push_back(key);
            }
        }
    }
}

impl<K: Hash + Eq + Clone> Drop for Work<K> {
    fn drop(&mut self) {
        self.queue.done(&self.key);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_key_waits_once_and_is_worked_on_by_one_at_a_time() {
        let queue = Queue::new();
        queue.add("a");
        queue.add("a");
        queue.add("b");
        let first = queue.next().await;
        assert_eq!(first.key, "a");
        // Again while it is worked on: it comes after the work is done.
        queue.add("a");
        let second = queue.next().await;
        assert_eq!(second.key, "b");
        assert!(
            tokio::time::timeout(Duration::from_secs(1), queue.next())
                .await
                .is_err()
        );
        drop(first);
        assert_eq!(queue.next().await.key, "a");
    }

    #[tokio::test(start_paused = true)]
    async fn failures_make_a_key_wait_longer_until_they_are_forgotten() {
        let queue = Queue::new();
        let mut waits = Vec::new();
        for _ in 0..4 {
            let start = Instant::now();
            queue.add_failed("a");
            drop(queue.next().await);
            waits.push(start.elapsed().as_millis());
        }
        assert_eq!(waits, [5, 10, 20, 40]);
        queue.forget(&"a");
        let start = Instant::now();
        queue.add_failed("a");
        drop(queue.next().await);
        assert_eq!(start.elapsed().as_millis(), 5);
    }

    #[tokio::test(start_paused = true)]
    async fn a_sooner_delay_overtakes_a_later_one() {
        let queue = Queue::new();
        queue.add_after("late", Duration::from_secs(10));
        queue.add_after("soon", Duration::from_secs(1));
        assert_eq!(queue.next().await.key, "soon");
        assert_eq!(queue.next().await.key, "late");
    }

    #[tokio::test]
    async fn a_waiting_worker_is_woken() {
        let queue: Queue<u32> = Queue::new();
        let workers: Vec<_> = (0..3)
            .map(|_| {
                let queue = queue.clone();
                tokio::spawn(async move { queue.next().await.key })
            })
            .collect();
        for key in 0..3 {
            queue.add(key);
        }
        let mut keys = Vec::new();
        for worker in workers {
            keys.push(worker.await.expect("no panic"));
        }
        keys.sort_unstable();
        assert_eq!(keys, [0, 1, 2]);
    }
}
