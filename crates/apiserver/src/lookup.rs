//! Objects that the server itself goes by: one by its name, or all of a resource.

use crate::server::Inner;
use crate::stored::{Stored, key};

/// Group and plural of a resource of version `v1`.
pub(crate) type Resource<'a> = (&'a str, &'a str);

impl Inner {
    /// A stored object and its key. The namespace is empty for what is in none.
    pub(crate) fn find(
        &self,
        (group, plural): Resource<'_>,
        namespace: &str,
        name: &str,
    ) -> Option<(String, Stored)> {
        let kind = self.registry.resource(group, "v1", plural)?;
        let object_key = key::object(kind, namespace, name);
        let entry = self.store.get(&object_key)?;
        Some((object_key, entry.value))
    }

    /// All objects of a namespace, or with an empty one of all, by name.
    pub(crate) fn all(&self, (group, plural): Resource<'_>, namespace: &str) -> Vec<Stored> {
        let Some(kind) = self.registry.resource(group, "v1", plural) else {
            return Vec::new();
        };
        let snapshot = self.store.snapshot();
        let prefix = key::prefix(kind, namespace);
        let objects = snapshot.prefix(&prefix);
        objects.map(|(_, entry)| entry.value.clone()).collect()
    }
}
