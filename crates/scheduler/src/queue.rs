//! The pods that wait for a node: those to be decided on, by priority and age, and those that fit
//! nowhere until something changes.
//!
//! A change that comes while a pod is decided on must not be missed: each kind of change has a
//! count, and a pod goes to wait only if the counts are still those its decision began with. A pod
//! that was decided on very often waits a little, too, so that a busy cluster is not spent on
//! hopeless pods; one that the API refuses something for waits longer each time.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::ops::BitOr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use k8s_openapi::api::core::v1::Pod;
use stead_informer::Key;
use tokio::sync::Notify;
use tokio::time::Instant;

use crate::pod::PodInfo;

/// Decisions that a pod has before it is made to wait: they are cheap, and what a pod needs comes in
/// several steps.
const FREE_DECISIONS: u32 = 20;
/// The waits between further decisions: so short that nobody notices.
const DECISION_WAITS: Waits = Waits {
    first: Duration::from_millis(1),
    longest: Duration::from_millis(100),
};
/// The waits after failed writes; the longest is upstream's.
const ERROR_WAITS: Waits = Waits {
    first: Duration::from_millis(10),
    longest: Duration::from_secs(10),
};
/// How long something that was said of a pod is not said again.
const SILENCE: Duration = Duration::from_secs(300);

/// Kinds of changes that may help a pod.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Causes(u8);

impl Causes {
    /// None; only a change of the pod itself.
    pub(crate) const NONE: Causes = Causes(0);
    /// Nodes come or change.
    pub(crate) const NODES: Causes = Causes(1);
    /// Pods leave their nodes.
    pub(crate) const PODS_WENT: Causes = Causes(1 << 1);
    /// Pods come to nodes.
    pub(crate) const PODS_CAME: Causes = Causes(1 << 2);
    /// Claims, volumes and classes change.
    pub(crate) const STORAGE: Causes = Causes(1 << 3);

    const KINDS: usize = 4;

    fn intersects(self, other: Causes) -> bool {
        self.0 & other.0 != 0
    }
}

impl BitOr for Causes {
    type Output = Causes;

    fn bitor(self, other: Causes) -> Causes {
        Causes(self.0 | other.0)
    }
}

/// How many changes of each kind there have been.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Seen([u64; Causes::KINDS]);

impl Seen {
    fn count(&mut self, causes: Causes) {
        for (kind, count) in self.0.iter_mut().enumerate() {
            *count += u64::from(causes.0 >> kind & 1);
        }
    }

    /// Whether one of these changes has come since.
    fn moved_since(&self, then: &Seen, causes: Causes) -> bool {
        (0..Causes::KINDS).any(|kind| causes.0 >> kind & 1 == 1 && self.0[kind] != then.0[kind])
    }
}

/// A pod to decide on.
#[derive(Debug)]
pub(crate) struct Work {
    pub(crate) pod: Arc<PodInfo>,
    /// The changes that the decision is sure to know of.
    pub(crate) seen: Seen,
}

/// The queue.
#[derive(Default)]
pub(crate) struct PodQueue {
    state: Mutex<State>,
    changed: Notify,
}

#[derive(Default)]
struct State {
    entries: HashMap<Key, Entry>,
    ready: BTreeSet<Rank>,
    delayed: BTreeMap<(Instant, u64), Key>,
    next_ticket: u64,
    seen: Seen,
}

/// The first is the next.
type Rank = (Reverse<i32>, u64, Key);

struct Entry {
    pod: Arc<PodInfo>,
    /// When it came, compared to others.
    age: u64,
    /// How often it was decided on, in vain.
    decisions: u32,
    /// How often a write has failed.
    errors: u32,
    /// What was said of it last, and when.
    said: Option<(String, Instant)>,
    /// When it may be tried again.
    not_before: Option<Instant>,
    state: Waiting,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Waiting {
    /// For its turn.
    Ready,
    /// For a while.
    Delayed(Instant, u64),
    /// For a change.
    For(Causes),
    /// It is decided on, or bound. `changed`: it is another than the one that is decided on.
    InWork { changed: bool },
}

impl Entry {
    fn rank(&self) -> Rank {
        (Reverse(self.pod.priority), self.age, self.pod.key.clone())
    }
}

impl PodQueue {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes a pod that waits for a node, or its new state.
    pub(crate) fn set(&self, pod: &Arc<Pod>) {
        let mut state = self.state();
        let key = Key::of(&**pod);
        let known = state.entries.get(&key);
        if known.is_some_and(|known| known.pod.still_holds(pod)) {
            return;
        }
        let pod = Arc::new(PodInfo::new(Arc::clone(pod)));
        let same = known.filter(|known| known.pod.uid == pod.uid);
        let in_work = same.is_some_and(|known| matches!(known.state, Waiting::InWork { .. }));
        let age = same.map(|known| known.age);
        state.take_out(&key);
        let age = age.unwrap_or_else(|| state.ticket());
        let entry = Entry {
            pod,
            age,
            decisions: 0,
            errors: 0,
            said: None,
            not_before: None,
            state: Waiting::InWork { changed: true },
        };
        state.entries.insert(key.clone(), entry);
        if !in_work {
            state.make_ready(&key);
            drop(state);
            self.changed.notify_one();
        }
    }

    /// Forgets a pod; whether it was decided on or bound just then.
    pub(crate) fn remove(&self, key: &Key) -> bool {
        let mut state = self.state();
        state.take_out(key);
        let entry = state.entries.remove(key);
        entry.is_some_and(|entry| matches!(entry.state, Waiting::InWork { .. }))
    }

    /// Looks again at the pods that such changes may help.
    pub(crate) fn wake(&self, causes: Causes) {
        let mut state = self.state();
        state.seen.count(causes);
        let waits =
            |entry: &Entry| matches!(entry.state, Waiting::For(awaited) if awaited.intersects(causes));
        let keys: Vec<Key> = state
            .entries
            .iter()
            .filter(|(_, entry)| waits(entry))
            .map(|(key, _)| key.clone())
            .collect();
        if keys.is_empty() {
            return;
        }
        for key in keys {
            state.make_ready(&key);
        }
        drop(state);
        self.changed.notify_one();
    }

    /// Waits for a pod to decide on. Cancel-safe; there is one caller.
    pub(crate) async fn next(&self) -> Work {
        loop {
            let due = {
                let mut state = self.state();
                state.release_due(Instant::now());
                if let Some(work) = state.take_first() {
                    return work;
                }
                state.delayed.keys().next().map(|(due, _)| *due)
            };
            match due {
                None => self.changed.notified().await,
                Some(due) => {
                    tokio::select! {
                        () = self.changed.notified() => {}
                        () = tokio::time::sleep_until(due) => {}
                    }
                }
            }
        }
    }

    /// Has a pod that fits nowhere wait for a change, unless one has come since `seen`.
    pub(crate) fn wait(&self, pod: &PodInfo, causes: Causes, seen: &Seen) {
        self.settle(pod, |state, entry| {
            let is_stale = state.seen.moved_since(seen, causes);
            entry.decisions = entry.decisions.saturating_add(1);
            entry.hold(DECISION_WAITS.after(entry.decisions.saturating_sub(FREE_DECISIONS)));
            (!is_stale).then_some(Waiting::For(causes))
        });
    }

    /// Has a pod tried again after a while.
    pub(crate) fn retry(&self, pod: &PodInfo) {
        self.settle(pod, |_, entry| {
            entry.errors = entry.errors.saturating_add(1);
            entry.hold(ERROR_WAITS.after(entry.errors));
            None
        });
    }

    /// Whether something is to be said of a pod: it is not what was said a while ago.
    pub(crate) fn is_news(&self, pod: &PodInfo, message: &str) -> bool {
        let state = self.state();
        let said = state.entries.get(&pod.key).and_then(|entry| entry.said.as_ref());
        said.is_none_or(|(said, at)| said != message || at.elapsed() >= SILENCE)
    }

    /// Takes note of what was said of a pod.
    pub(crate) fn note_said(&self, pod: &PodInfo, message: &str) {
        let mut state = self.state();
        let entry = state.entries.get_mut(&pod.key);
        if let Some(entry) = entry.filter(|entry| entry.pod.uid == pod.uid) {
            entry.said = Some((message.to_owned(), Instant::now()));
        }
    }

    /// Puts a pod back that was in work, if it is still there; none means as soon as it may.
    fn settle(&self, pod: &PodInfo, settle: impl FnOnce(&State, &mut Entry) -> Option<Waiting>) {
        let mut state = self.state();
        let Some(mut entry) = state.entries.remove(&pod.key) else {
            return;
        };
        let Waiting::InWork { changed } = entry.state else {
            state.entries.insert(pod.key.clone(), entry);
            return;
        };
        if entry.pod.uid != pod.uid {
            state.entries.insert(pod.key.clone(), entry);
            return;
        }
        let settled = settle(&state, &mut entry).filter(|_| !changed);
        let is_again = settled.is_none();
        entry.state = settled.unwrap_or(entry.state);
        state.entries.insert(pod.key.clone(), entry);
        if is_again {
            state.make_ready(&pod.key);
            drop(state);
            self.changed.notify_one();
        }
    }
}

/// Waits that double.
struct Waits {
    first: Duration,
    longest: Duration,
}

impl Waits {
    /// The wait after the so-manieth time; none before the first.
    fn after(&self, times: u32) -> Option<Duration> {
        let doublings = times.checked_sub(1)?;
        let wait = self.first.saturating_mul(1 << doublings.min(20));
        Some(wait.min(self.longest))
    }
}

impl Entry {
    fn hold(&mut self, wait: Option<Duration>) {
        self.not_before = wait.map(|wait| Instant::now() + wait);
    }
}

impl State {
    fn ticket(&mut self) -> u64 {
        self.next_ticket += 1;
        self.next_ticket
    }

    /// Takes a pod out of where it waits.
    fn take_out(&mut self, key: &Key) {
        let Some(entry) = self.entries.get(key) else {
            return;
        };
        match entry.state {
            Waiting::Ready => {
                let rank = entry.rank();
                self.ready.remove(&rank);
            }
            Waiting::Delayed(due, ticket) => {
                self.delayed.remove(&(due, ticket));
            }
            Waiting::For(_) | Waiting::InWork { .. } => {}
        }
    }

    /// Makes a pod wait for its turn, or until it may be tried again.
    fn make_ready(&mut self, key: &Key) {
        self.take_out(key);
        let ticket = self.ticket();
        let Some(entry) = self.entries.get_mut(key) else {
            return;
        };
        match entry.not_before.filter(|due| *due > Instant::now()) {
            Some(due) => {
                entry.state = Waiting::Delayed(due, ticket);
                self.delayed.insert((due, ticket), key.clone());
            }
            None => {
                entry.state = Waiting::Ready;
                let rank = entry.rank();
                self.ready.insert(rank);
            }
        }
    }

    fn release_due(&mut self, now: Instant) {
        while let Some(first) = self.delayed.first_entry().filter(|first| first.key().0 <= now) {
            let key = first.remove();
            if let Some(entry) = self.entries.get_mut(&key) {
                entry.state = Waiting::Ready;
                let rank = entry.rank();
                self.ready.insert(rank);
            }
        }
    }

    fn take_first(&mut self) -> Option<Work> {
        let (_, _, key) = self.ready.pop_first()?;
        let entry = self.entries.get_mut(&key)?;
        entry.state = Waiting::InWork { changed: false };
        Some(Work {
            pod: Arc::clone(&entry.pod),
            seen: self.seen,
        })
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::pod::tests::pod;

    fn add(queue: &PodQueue, name: &str, extra: Value) {
        queue.set(&pod(name, extra).pod);
    }

    fn priority(priority: i32) -> Value {
        json!({"spec": {"priority": priority}})
    }

    /// The next pod, if there is one now.
    async fn next(queue: &PodQueue) -> Option<Work> {
        tokio::time::timeout(Duration::from_nanos(1), queue.next())
            .await
            .ok()
    }

    async fn name(queue: &PodQueue) -> Option<String> {
        Some(next(queue).await?.pod.key.name.clone())
    }

    #[tokio::test(start_paused = true)]
    async fn pods_come_by_priority_and_age() {
        let queue = PodQueue::default();
        for (name, value) in [("a", 0), ("b", 10), ("c", 0), ("d", 10)] {
            add(&queue, name, priority(value));
        }
        let mut order = Vec::new();
        while let Some(name) = name(&queue).await {
            order.push(name);
        }
        assert_eq!(order, ["b", "d", "a", "c"]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_pod_waits_for_a_change_that_may_help() {
        let queue = PodQueue::default();
        add(&queue, "p", json!({}));
        let work = next(&queue).await.expect("the pod");
        queue.wait(&work.pod, Causes::NODES, &work.seen);
        queue.wake(Causes::STORAGE);
        assert_eq!(name(&queue).await, None);
        queue.wake(Causes::NODES | Causes::STORAGE);
        assert_eq!(name(&queue).await.as_deref(), Some("p"));
    }

    #[tokio::test(start_paused = true)]
    async fn a_change_during_the_decision_is_not_missed() {
        let queue = PodQueue::default();
        add(&queue, "p", json!({}));
        let work = next(&queue).await.expect("the pod");
        queue.wake(Causes::NODES);
        queue.wait(&work.pod, Causes::NODES, &work.seen);
        let work = next(&queue).await.expect("the pod again");
        queue.wake(Causes::STORAGE);
        queue.wait(&work.pod, Causes::NODES, &work.seen);
        assert_eq!(name(&queue).await, None);
    }

    #[tokio::test(start_paused = true)]
    async fn a_pod_that_changes_is_decided_on_anew() {
        let queue = PodQueue::default();
        add(&queue, "p", json!({}));
        let work = next(&queue).await.expect("the pod");
        // Only its status: nothing to decide anew.
        add(&queue, "p", json!({"status": {"phase": "Pending"}}));
        queue.wait(&work.pod, Causes::NONE, &work.seen);
        assert_eq!(name(&queue).await, None);
        add(&queue, "p", json!({"metadata": {"labels": {"a": "b"}}}));
        let work = next(&queue).await.expect("the pod");
        add(&queue, "p", json!({"metadata": {"labels": {"a": "c"}}}));
        assert_eq!(name(&queue).await, None);
        queue.wait(&work.pod, Causes::NONE, &work.seen);
        assert_eq!(name(&queue).await.as_deref(), Some("p"));
    }

    #[tokio::test(start_paused = true)]
    async fn a_pod_that_is_gone_or_another_does_not_come_back() {
        let queue = PodQueue::default();
        add(&queue, "p", json!({}));
        let work = next(&queue).await.expect("the pod");
        assert!(queue.remove(&work.pod.key));
        queue.wait(&work.pod, Causes::NODES, &work.seen);
        queue.wake(Causes::NODES);
        assert_eq!(name(&queue).await, None);
        add(&queue, "p", json!({"metadata": {"uid": "another"}}));
        queue.retry(&work.pod);
        let another = next(&queue).await.expect("the other pod");
        assert_eq!(another.pod.uid, "another");
        assert_eq!(name(&queue).await, None);
    }

    #[tokio::test(start_paused = true)]
    async fn pods_that_are_decided_on_very_often_wait_a_little() {
        let queue = PodQueue::default();
        add(&queue, "p", json!({}));
        let mut waits = Vec::new();
        for _ in 0..32 {
            let start = Instant::now();
            let work = queue.next().await;
            waits.push(u64::try_from(start.elapsed().as_millis()).expect("small"));
            queue.wait(&work.pod, Causes::NODES, &work.seen);
            queue.wake(Causes::NODES);
        }
        assert_eq!(waits[..21], [0; 21]);
        assert_eq!(waits[21..], [1, 2, 4, 8, 16, 32, 64, 100, 100, 100, 100]);
        // What the pod's owner changes is looked at at once.
        add(&queue, "p", json!({"metadata": {"labels": {"a": "b"}}}));
        assert_eq!(name(&queue).await.as_deref(), Some("p"));
    }

    #[tokio::test(start_paused = true)]
    async fn what_was_said_is_not_said_again_for_a_while() {
        let queue = PodQueue::default();
        add(&queue, "p", json!({}));
        let work = next(&queue).await.expect("the pod");
        assert!(queue.is_news(&work.pod, "a"));
        queue.note_said(&work.pod, "a");
        assert!(!queue.is_news(&work.pod, "a"));
        assert!(queue.is_news(&work.pod, "b"));
        tokio::time::advance(SILENCE).await;
        assert!(queue.is_news(&work.pod, "a"));
    }

    #[tokio::test(start_paused = true)]
    async fn a_failed_write_is_tried_again_after_a_while() {
        let queue = PodQueue::default();
        add(&queue, "p", json!({}));
        let work = next(&queue).await.expect("the pod");
        queue.retry(&work.pod);
        let start = Instant::now();
        queue.next().await;
        assert!(start.elapsed() >= ERROR_WAITS.first);
    }
}
