//! What the store holds and what it tells about changes: values, entries and events.

use std::fmt;
use std::sync::Arc;

use bytes::Bytes;

use crate::Revision;

/// The index: a persistent ordered map, so that a snapshot is one reference count.
pub(crate) type Map<V> = imbl::OrdMap<Arc<str>, Entry<V>>;

/// What readers and watchers get for the bytes that were committed.
///
/// `decode` runs once per committed entry, on the committer thread (and once per entry on
/// recovery), never per reader or watcher; so whatever is dear to make, such as parsing or an
/// encoding all watchers share, belongs there. It should be quick, since commits wait for it, and
/// must not panic: a panic closes the store.
///
/// Cloning must be cheap, as an [`Arc`] is: readers, watchers and the history clone values.
pub trait Value: Clone + Send + Sync + 'static {
    /// Makes the value of the entry at `key` that was written with `bytes` at `revision`.
    fn decode(key: &str, bytes: &Bytes, revision: Revision) -> Self;

    /// Appends bytes to `out` from which `decode`, given the same key and revision, makes an
    /// equal value. They go into checkpoints, so that the store need not keep the committed
    /// bytes beside the value. They need not be the very bytes that were committed.
    fn encode(&self, out: &mut Vec<u8>);
}

/// Plain bytes: the values as they were committed.
impl Value for Bytes {
    fn decode(_key: &str, bytes: &Bytes, _revision: Revision) -> Self {
        bytes.clone()
    }

    fn encode(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(self);
    }
}

/// A value and the revisions at which its key was created and last written.
#[derive(Clone)]
pub struct Entry<V> {
    /// The value, as [`Value::decode`] made it.
    pub value: V,
    /// The revision at which the key came to be (since it was last absent).
    pub create_revision: Revision,
    /// The revision that wrote this value.
    pub mod_revision: Revision,
    /// Length of the committed bytes; what the value is reckoned to cost in memory and on disk.
    pub(crate) size: u32,
}

/// Leaves the value out, so that errors which carry an entry can be printed whatever `V` is.
impl<V> fmt::Debug for Entry<V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Entry")
            .field("create_revision", &self.create_revision)
            .field("mod_revision", &self.mod_revision)
            .field("size", &self.size)
            .finish_non_exhaustive()
    }
}

/// What one transaction did to one key.
pub struct Event<V> {
    /// The transaction's revision; all events of one transaction share it.
    pub revision: Revision,
    /// The key that changed.
    pub key: Arc<str>,
    /// How it changed.
    pub change: Change<V>,
}

/// How a key changed.
pub enum Change<V> {
    /// The key was absent before.
    Created(Entry<V>),
    /// The key was there before.
    Updated {
        /// The entry as it is now.
        current: Entry<V>,
        /// The entry it replaced.
        previous: Entry<V>,
    },
    /// The key is gone; this was its last entry. Its `mod_revision` is that of its last write,
    /// the revision of the deletion is the event's.
    Deleted(Entry<V>),
}

impl<V> Event<V> {
    /// The entry after the event; `None` after a deletion.
    pub fn current(&self) -> Option<&Entry<V>> {
        match &self.change {
            Change::Created(current) | Change::Updated { current, .. } => Some(current),
            Change::Deleted(_) => None,
        }
    }

    /// The entry before the event; `None` before a creation.
    pub fn previous(&self) -> Option<&Entry<V>> {
        match &self.change {
            Change::Created(_) => None,
            Change::Updated { previous, .. } | Change::Deleted(previous) => Some(previous),
        }
    }
}

/// Leaves the values out, as [`Entry`] does.
impl<V> fmt::Debug for Event<V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Event")
            .field("revision", &self.revision)
            .field("key", &self.key)
            .field("current", &self.current())
            .field("previous", &self.previous())
            .finish()
    }
}

impl<V: Value> Event<V> {
    /// Applies one write (`Some` value) or deletion (`None`) to `map` and tells what it did;
    /// `None` if it changed nothing, which is a deletion of an absent key.
    pub(crate) fn apply(
        map: &mut Map<V>,
        revision: Revision,
        key: &str,
        bytes: Option<&Bytes>,
    ) -> Option<Event<V>> {
        let Some(bytes) = bytes else {
            let (key, last) = map.remove_with_key(key)?;
            return Some(Event {
                revision,
                key,
                change: Change::Deleted(last),
            });
        };
        // The key of an existing entry is shared, not copied, with the history's events.
        let found = map
            .get_key_value(key)
            .map(|(key, entry)| (Arc::clone(key), entry.create_revision));
        let (key, create_revision) = found.unwrap_or_else(|| (Arc::from(key), revision));
        let current = Entry {
            value: V::decode(&key, bytes, revision),
            create_revision,
            mod_revision: revision,
            size: u32::try_from(bytes.len()).unwrap_or(u32::MAX),
        };
        let change = match map.insert(Arc::clone(&key), current.clone()) {
            Some(previous) => Change::Updated { current, previous },
            None => Change::Created(current),
        };
        Some(Event {
            revision,
            key,
            change,
        })
    }

    /// Takes the event back: `map` is as it was before it.
    pub(crate) fn undo(&self, map: &mut Map<V>) {
        match self.previous() {
            Some(previous) => map.insert(Arc::clone(&self.key), previous.clone()),
            None => map.remove(&*self.key),
        };
    }
}

/// Bytes an entry takes in a checkpoint, near enough: what the log's size is compared with.
pub(crate) fn stored_bytes<V>(key: &str, entry: &Entry<V>) -> u64 {
    key.len() as u64 + u64::from(entry.size)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    fn put(map: &mut Map<Bytes>, revision: u64, value: &'static str) -> Event<Bytes> {
        let bytes = Bytes::from_static(value.as_bytes());
        Event::apply(map, Revision::new(revision), "/a/x", Some(&bytes)).unwrap()
    }

    #[test]
    fn a_key_keeps_its_create_revision_until_it_is_deleted() {
        let mut map = Map::new();
        put(&mut map, 1, "one");
        let update = put(&mut map, 2, "two");
        assert_eq!(update.current().unwrap().create_revision, Revision::new(1));
        assert_eq!(update.previous().unwrap().value, "one");
        let delete = Event::apply(&mut map, Revision::new(3), "/a/x", None).unwrap();
        assert!(delete.current().is_none());
        assert_eq!(delete.previous().unwrap().mod_revision, Revision::new(2));
        assert_eq!(
            put(&mut map, 4, "new").current().unwrap().create_revision,
            Revision::new(4)
        );
    }

    #[test]
    fn deleting_an_absent_key_is_no_event() {
        let mut map = Map::<Bytes>::new();
        assert!(Event::apply(&mut map, Revision::new(1), "/a/x", None).is_none());
    }

    #[test]
    fn undoing_events_backwards_restores_the_map() {
        let mut map = Map::new();
        let created = put(&mut map, 1, "one");
        let updated = put(&mut map, 2, "two");
        let deleted = Event::apply(&mut map, Revision::new(3), "/a/x", None).unwrap();
        deleted.undo(&mut map);
        assert_eq!(map["/a/x"].value, "two");
        updated.undo(&mut map);
        assert_eq!(map["/a/x"].value, "one");
        assert_eq!(map["/a/x"].mod_revision, Revision::new(1));
        created.undo(&mut map);
        assert!(map.is_empty());
    }
}
