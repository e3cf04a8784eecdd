//! Snapshots: the whole store at one revision, for readers.

use std::ops::Bound;
use std::sync::Arc;

use crate::entry::Map;
use crate::{Entry, Revision};

/// The store as it was at one revision; it never changes and blocks no writer.
///
/// Taking and cloning one costs a reference count. Holding one keeps the values it shows in
/// memory, so do not hold one for long; use [`Store::snapshot_at`](crate::Store::snapshot_at) to
/// come back to a revision.
#[derive(Clone)]
pub struct Snapshot<V> {
    map: Map<V>,
    revision: Revision,
}

impl<V> Snapshot<V> {
    pub(crate) fn new(map: Map<V>, revision: Revision) -> Self {
        Self { map, revision }
    }

    /// The revision it shows.
    #[must_use]
    pub fn revision(&self) -> Revision {
        self.revision
    }

    /// Number of entries in all.
    #[must_use]
    pub fn len(&self) -> usize {
        self.map.len()
    }

    /// Whether there is no entry at all.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.map.is_empty()
    }

    /// The entry at `key`.
    #[must_use]
    pub fn get(&self, key: &str) -> Option<&Entry<V>> {
        self.map.get(key)
    }

    /// The entries whose keys start with `prefix`, in the order of their keys (byte by byte).
    pub fn prefix<'a>(&'a self, prefix: &'a str) -> impl Iterator<Item = (&'a Arc<str>, &'a Entry<V>)> {
        self.from(Bound::Included(prefix), prefix)
    }

    /// Like [`prefix`](Self::prefix), but only keys after `start_after`, which need not exist:
    /// the next page of a list.
    pub fn prefix_after<'a>(
        &'a self,
        prefix: &'a str,
        start_after: &'a str,
    ) -> impl Iterator<Item = (&'a Arc<str>, &'a Entry<V>)> {
        // A key before the prefix must not end the iteration before it has begun.
        let start = if start_after < prefix {
            Bound::Included(prefix)
        } else {
            Bound::Excluded(start_after)
        };
        self.from(start, prefix)
    }

    /// Number of entries whose keys start with `prefix`. Takes time in proportion to it.
    #[must_use]
    pub fn count(&self, prefix: &str) -> usize {
        self.prefix(prefix).count()
    }

    fn from<'a>(
        &'a self,
        start: Bound<&'a str>,
        prefix: &'a str,
    ) -> impl Iterator<Item = (&'a Arc<str>, &'a Entry<V>)> {
        self.map
            .range::<_, str>((start, Bound::Unbounded))
            .take_while(move |(key, _)| key.starts_with(prefix))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn snapshot(keys: &[&str]) -> Snapshot<()> {
        let revision = Revision::new(1);
        let entry = Entry {
            value: (),
            create_revision: revision,
            mod_revision: revision,
            size: 0,
        };
        Snapshot::new(
            keys.iter().map(|&key| (Arc::from(key), entry.clone())).collect(),
            revision,
        )
    }

    fn keys<'a>(found: impl Iterator<Item = (&'a Arc<str>, &'a Entry<()>)>) -> Vec<&'a str> {
        found.map(|(key, _)| &**key).collect()
    }

    #[test]
    fn a_prefix_yields_its_keys_in_order_and_no_others() {
        let all = snapshot(&["/b/y", "/a/2", "/a/1", "/a", "/ab/3", "/c"]);
        assert_eq!(keys(all.prefix("/a/")), ["/a/1", "/a/2"]);
        assert_eq!(keys(all.prefix("/b/z")), [""; 0]);
        assert_eq!(all.count(""), 6);
        assert_eq!(all.count("/a"), 4);
    }

    #[test]
    fn a_page_starts_after_a_key_whether_or_not_it_exists() {
        let all = snapshot(&["/a/1", "/a/2", "/a/4", "/b/1"]);
        for (after, expected) in [
            ("/a/1", &["/a/2", "/a/4"][..]),
            ("/a/3", &["/a/4"]),
            ("/a/4", &[]),
            ("/A", &["/a/1", "/a/2", "/a/4"]),
            ("", &["/a/1", "/a/2", "/a/4"]),
            ("/z", &[]),
        ] {
            assert_eq!(keys(all.prefix_after("/a/", after)), expected, "after {after:?}");
        }
    }
}
