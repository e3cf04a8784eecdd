//! The window of recent events that all watchers share.
//!
//! Events are listed once in all and once by *group* (see [`crate::scope`]), so that a watcher
//! scans and is woken for its own group only. Dropping the oldest is tracked by group too: a watcher of a quiet group can resume
//! however long ago its last event was.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::watch;

use crate::scope::{Scope, group_of};
use crate::{Event, Revision};

/// What an event costs beside the values it keeps: itself, its places in the two queues, its key.
const EVENT_BYTES: usize = 192;

/// How much is kept for watchers that resume and for reads of past revisions.
///
/// The newest batch is always kept, whatever its size, so that watchers which keep up see it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HistoryLimits {
    /// Events at most. Default: 100,000.
    pub events: usize,
    /// Bytes at most: of the values that are kept for the history only (what was overwritten or
    /// deleted), and of the events themselves. Default: 16 MiB.
    pub bytes: usize,
    /// Events older than this go with the next commit, so that a server at rest gives the memory
    /// back. Default: 5 minutes, after which Kubernetes has etcd forget the past. Events read
    /// back when the store is opened count from then.
    pub age: Duration,
}

impl Default for HistoryLimits {
    fn default() -> Self {
        Self {
            events: 100_000,
            bytes: 16 << 20,
            age: Duration::from_secs(300),
        }
    }
}

/// The revision asked for is no longer in the history.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the revision has been compacted; the oldest there is is {oldest}")]
pub struct Compacted {
    /// The oldest revision that could have been asked for.
    pub oldest: Revision,
}

/// The events of a group, and who waits for them.
struct Group<V> {
    events: VecDeque<Arc<Event<V>>>,
    /// Revision of the newest event of the group that was dropped.
    floor: Revision,
    wake: watch::Sender<Revision>,
}

/// Events a watcher has not seen.
pub(crate) struct Unseen<V> {
    pub(crate) events: Vec<Arc<Event<V>>>,
    /// All events of the watcher up to this revision are among them (or were seen before);
    /// `None`: all there are.
    pub(crate) through: Option<Revision>,
}

/// The window.
pub(crate) struct History<V> {
    limits: HistoryLimits,
    events: VecDeque<Arc<Event<V>>>,
    groups: HashMap<Box<str>, Group<V>>,
    /// When batches arrived, by their last revision.
    arrivals: VecDeque<(Revision, Instant)>,
    bytes: usize,
    /// Where the history began when the store was opened.
    base: Revision,
    /// Revision of the newest event that was dropped, or the base.
    floor: Revision,
}

impl<V> History<V> {
    pub(crate) fn new(limits: HistoryLimits, base: Revision) -> Self {
        Self {
            limits,
            events: VecDeque::new(),
            groups: HashMap::new(),
            arrivals: VecDeque::new(),
            bytes: 0,
            base,
            floor: base,
        }
    }

    /// Number of events and what they cost.
    pub(crate) fn size(&self) -> (usize, usize) {
        (self.events.len(), self.bytes)
    }

    /// Appends a batch and drops what no longer fits. Returns what was dropped, to be freed where
    /// nobody waits for it.
    pub(crate) fn extend(&mut self, batch: &[Arc<Event<V>>], now: Instant) -> Vec<Arc<Event<V>>> {
        let (Some(first), Some(last)) = (batch.first(), batch.last()) else {
            return Vec::new();
        };
        for event in batch {
            self.bytes += cost(event);
            self.group(group_of(&event.key))
                .events
                .push_back(Arc::clone(event));
            self.events.push_back(Arc::clone(event));
        }
        self.arrivals.push_back((last.revision, now));
        self.trim(first.revision, now)
    }

    /// Wakes the watchers of the groups a batch touched.
    pub(crate) fn wake(&self, batch: &[Arc<Event<V>>]) {
        let mut woken: Vec<&str> = Vec::new();
        for event in batch {
            let name = group_of(&event.key);
            if !woken.contains(&name) {
                woken.push(name);
                if let Some(group) = self.groups.get(name) {
                    group.wake.send_replace(event.revision);
                }
            }
        }
    }

    /// Wakes every watcher of a group, to tell it that the store is closed.
    pub(crate) fn wake_all(&self) {
        for group in self.groups.values() {
            group.wake.send_modify(|_| {});
        }
    }

    /// A receiver that changes whenever a group gets events.
    pub(crate) fn subscribe(&mut self, group: &str) -> watch::Receiver<Revision> {
        self.group(group).wake.subscribe()
    }

    /// Whether a watcher of `scope` can go on after revision `after`.
    pub(crate) fn check(&self, scope: &Scope, after: Revision) -> Result<(), Compacted> {
        let oldest = match scope {
            Scope::All => self.floor,
            Scope::Group(name) => self.groups.get(name).map_or(self.base, |group| group.floor),
        };
        if after < oldest {
            Err(Compacted { oldest })
        } else {
            Ok(())
        }
    }

    /// The events after revision `after` of keys that start with `prefix`; somewhat more than
    /// `limit` of them at most, as a transaction's events stay together.
    pub(crate) fn after(
        &self,
        scope: &Scope,
        prefix: &str,
        after: Revision,
        limit: usize,
    ) -> Result<Unseen<V>, Compacted> {
        self.check(scope, after)?;
        let mut unseen = Unseen {
            events: Vec::new(),
            through: None,
        };
        let all = match scope {
            Scope::All => &self.events,
            Scope::Group(name) => match self.groups.get(name) {
                Some(group) => &group.events,
                None => return Ok(unseen),
            },
        };
        for event in all.range(all.partition_point(|event| event.revision <= after)..) {
            if !event.key.starts_with(prefix) {
                continue;
            }
            if let Some(last) = unseen.events.last()
                && unseen.events.len() >= limit
                && last.revision < event.revision
            {
                unseen.through = Some(last.revision);
                break;
            }
            unseen.events.push(Arc::clone(event));
        }
        Ok(unseen)
    }

    /// All events after `revision`, newest first: what is to be undone to get back to it.
    pub(crate) fn since(&self, revision: Revision) -> Result<Vec<Arc<Event<V>>>, Compacted> {
        self.check(&Scope::All, revision)?;
        Ok(self
            .events
            .iter()
            .rev()
            .take_while(|event| event.revision > revision)
            .cloned()
            .collect())
    }

    fn group(&mut self, name: &str) -> &mut Group<V> {
        // Looked up twice rather than making a key each time.
        if !self.groups.contains_key(name) {
            let group = Group {
                events: VecDeque::new(),
                floor: self.base,
                wake: watch::Sender::new(Revision::ZERO),
            };
            self.groups.insert(name.into(), group);
        }
        self.groups
            .get_mut(name)
            .expect("it is there or was just inserted")
    }

    /// Drops the oldest revisions until the rest fits; but none from `keep` on.
    fn trim(&mut self, keep: Revision, now: Instant) -> Vec<Arc<Event<V>>> {
        let mut dropped = Vec::new();
        while let Some(revision) = self.events.front().map(|event| event.revision)
            && revision < keep
            && (self.events.len() > self.limits.events
                || self.bytes > self.limits.bytes
                || self.is_old(revision, now))
        {
            self.drop_revision(revision, &mut dropped);
        }
        shrink(&mut self.events);
        shrink(&mut self.arrivals);
        dropped
    }

    /// Whether `revision`, the oldest there is, has been here for too long.
    fn is_old(&self, revision: Revision, now: Instant) -> bool {
        let arrival = self.arrivals.front();
        arrival.is_some_and(|&(last, at)| revision <= last && now.duration_since(at) >= self.limits.age)
    }

    fn drop_revision(&mut self, revision: Revision, dropped: &mut Vec<Arc<Event<V>>>) {
        while let Some(event) = self.events.pop_front_if(|event| event.revision == revision) {
            self.bytes -= cost(&event);
            let group = self.group(group_of(&event.key));
            group.events.pop_front();
            group.floor = revision;
            shrink(&mut group.events);
            dropped.push(event);
        }
        self.floor = revision;
        while self
            .arrivals
            .pop_front_if(|(last, _)| *last <= revision)
            .is_some()
        {}
    }
}

/// What an event is reckoned to keep in memory. A value is kept for the history only once it is
/// overwritten or deleted, so it is counted with the event that did so.
fn cost<V>(event: &Event<V>) -> usize {
    EVENT_BYTES + event.key.len() + event.previous().map_or(0, |entry| entry.size as usize)
}

/// Gives memory back when a queue has become much shorter than it was.
fn shrink<T>(queue: &mut VecDeque<T>) {
    if queue.capacity() > 256 && queue.len() < queue.capacity() / 4 {
        queue.shrink_to(queue.capacity() / 2);
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use bytes::Bytes;

    use super::*;
    use crate::entry::Map;

    const WIDE: HistoryLimits = HistoryLimits {
        events: 1000,
        bytes: 1 << 20,
        age: Duration::from_secs(60),
    };

    /// A history and the state its events lead to.
    struct Fixture {
        history: History<Bytes>,
        map: Map<Bytes>,
        revision: Revision,
        start: Instant,
    }

    impl Fixture {
        fn new(limits: HistoryLimits) -> Self {
            let history = History::new(limits, Revision::ZERO);
            Self {
                history,
                map: Map::new(),
                revision: Revision::ZERO,
                start: Instant::now(),
            }
        }

        /// One transaction that writes these keys, so many seconds after the start.
        fn put(&mut self, seconds: u64, keys: &[&str]) {
            self.revision = self.revision.next();
            let value = Bytes::from(vec![0; 100]);
            let events: Vec<_> = keys
                .iter()
                .map(|key| Event::apply(&mut self.map, self.revision, key, Some(&value)).unwrap())
                .map(Arc::new)
                .collect();
            self.history
                .extend(&events, self.start + Duration::from_secs(seconds));
        }

        fn after(&self, prefix: &str, after: u64) -> Result<Vec<(u64, String)>, u64> {
            self.history
                .after(
                    &Scope::of_prefix(prefix),
                    prefix,
                    Revision::new(after),
                    usize::MAX,
                )
                .map(|unseen| {
                    unseen
                        .events
                        .iter()
                        .map(|e| (e.revision.get(), e.key.to_string()))
                        .collect()
                })
                .map_err(|compacted| compacted.oldest.get())
        }
    }

    #[test]
    fn a_prefix_sees_its_own_events_in_order() {
        let mut f = Fixture::new(WIDE);
        f.put(0, &["/a/x", "/b/x"]);
        f.put(0, &["/a/y"]);
        f.put(0, &["/a/x"]);
        let at = |revision, key: &str| (revision, key.to_owned());
        assert_eq!(
            f.after("/a/", 0).unwrap(),
            [at(1, "/a/x"), at(2, "/a/y"), at(3, "/a/x")]
        );
        assert_eq!(f.after("/a/x", 1).unwrap(), [at(3, "/a/x")]);
        assert_eq!(f.after("/b/", 0).unwrap(), [at(1, "/b/x")]);
        assert_eq!(f.after("/", 2).unwrap(), [at(3, "/a/x")]);
        assert_eq!(f.after("/c/", 0).unwrap(), []);
        assert_eq!(f.after("/a/", 99).unwrap(), []);
    }

    #[test]
    fn a_limited_read_does_not_split_a_transaction() {
        let mut f = Fixture::new(WIDE);
        f.put(0, &["/a/1", "/a/2", "/a/3"]);
        f.put(0, &["/a/4"]);
        let scope = Scope::of_prefix("/a/");
        let first = f.history.after(&scope, "/a/", Revision::ZERO, 2).unwrap();
        assert_eq!((first.events.len(), first.through), (3, Some(Revision::new(1))));
        let second = f.history.after(&scope, "/a/", Revision::new(1), 2).unwrap();
        assert_eq!((second.events.len(), second.through), (1, None));
    }

    #[test]
    fn too_many_events_push_out_whole_old_revisions() {
        let mut f = Fixture::new(HistoryLimits { events: 3, ..WIDE });
        f.put(0, &["/a/1", "/a/2"]);
        f.put(0, &["/a/3"]);
        f.put(0, &["/a/4"]);
        assert_eq!(f.after("/a/", 0), Err(1));
        assert_eq!(f.after("/a/", 1).unwrap().len(), 2);
        assert_eq!(f.history.size().0, 2);
    }

    #[test]
    fn bytes_count_only_what_was_overwritten() {
        let mut f = Fixture::new(WIDE);
        f.put(0, &["/a/1"]);
        let created = f.history.size().1;
        f.put(0, &["/a/1"]);
        assert_eq!(f.history.size().1 - created, created + 100);
    }

    #[test]
    fn old_events_go_with_the_next_batch_but_quiet_groups_can_resume() {
        let mut f = Fixture::new(WIDE);
        f.put(0, &["/a/1"]);
        f.put(10, &["/b/1"]);
        f.put(65, &["/c/1"]);
        assert_eq!(f.after("/", 0), Err(1));
        assert_eq!(f.after("/a/", 0), Err(1));
        assert_eq!(f.after("/a/", 1).unwrap(), []);
        assert_eq!(f.after("/b/", 0).unwrap().len(), 1);
        f.put(1000, &["/c/1"]);
        assert_eq!(f.history.size().0, 1);
        assert_eq!(f.after("/nobody/", 0).unwrap(), []);
    }

    #[test]
    fn the_newest_batch_is_kept_whatever_its_size() {
        let mut f = Fixture::new(HistoryLimits { events: 1, ..WIDE });
        f.put(0, &["/a/1"]);
        f.put(0, &["/a/1", "/a/2", "/a/3"]);
        assert_eq!(f.after("/a/", 1).unwrap().len(), 3);
        assert_eq!(f.after("/a/", 0), Err(1));
    }

    #[test]
    fn the_past_is_restored_as_far_as_the_history_goes() {
        let mut f = Fixture::new(HistoryLimits { events: 2, ..WIDE });
        f.put(0, &["/a/1"]);
        f.put(0, &["/a/2"]);
        let then = f.map.clone();
        f.put(0, &["/a/1"]);
        f.put(0, &["/a/3"]);
        let mut map = f.map.clone();
        for event in f.history.since(Revision::new(2)).unwrap() {
            event.undo(&mut map);
        }
        assert_eq!(map.len(), then.len());
        assert_eq!(map["/a/1"].mod_revision, Revision::new(1));
        let oldest = Revision::new(2);
        assert_eq!(
            f.history.since(Revision::new(1)).err(),
            Some(Compacted { oldest })
        );
    }
}
