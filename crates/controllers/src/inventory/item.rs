//! An object of any kind, as far as it concerns ownership and deletion.

use std::borrow::Cow;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference, Time};
use kube::Resource;
use kube::core::{ApiResource, DynamicResourceScope};
use serde::{Deserialize, Deserializer};

/// The finalizer of an owner that waits for its dependents to go.
pub(crate) const FOREGROUND: &str = "foregroundDeletion";
/// The finalizer of an owner whose dependents are to stay.
pub(crate) const ORPHAN: &str = "orphan";

/// An object's identity, owners and deletion. Labels, annotations and field managers, which are the
/// most of an object's metadata, are not kept.
#[derive(Debug, Clone, Default)]
pub(crate) struct Item {
    metadata: ObjectMeta,
}

impl Item {
    pub(crate) fn uid(&self) -> &str {
        self.metadata.uid.as_deref().unwrap_or_default()
    }

    pub(crate) fn name(&self) -> &str {
        self.metadata.name.as_deref().unwrap_or_default()
    }

    /// Empty for kinds outside namespaces.
    pub(crate) fn namespace(&self) -> &str {
        self.metadata.namespace.as_deref().unwrap_or_default()
    }

    pub(crate) fn version(&self) -> Option<String> {
        self.metadata.resource_version.clone()
    }

    pub(crate) fn owners(&self) -> &[OwnerReference] {
        self.metadata.owner_references.as_deref().unwrap_or_default()
    }

    pub(crate) fn finalizers(&self) -> &[String] {
        self.metadata.finalizers.as_deref().unwrap_or_default()
    }

    pub(crate) fn has_finalizer(&self, name: &str) -> bool {
        self.finalizers().iter().any(|finalizer| finalizer == name)
    }

    pub(crate) fn is_deleting(&self) -> bool {
        self.metadata.deletion_timestamp.is_some()
    }
}

#[derive(Deserialize)]
struct Whole {
    metadata: Kept,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Kept {
    name: Option<String>,
    namespace: Option<String>,
    uid: Option<String>,
    resource_version: Option<String>,
    deletion_timestamp: Option<Time>,
    finalizers: Option<Vec<String>>,
    owner_references: Option<Vec<OwnerReference>>,
}

impl<'de> Deserialize<'de> for Item {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Item, D::Error> {
        let Kept {
            name,
            namespace,
            uid,
            resource_version,
            deletion_timestamp,
            finalizers,
            owner_references,
        } = Whole::deserialize(deserializer)?.metadata;
        let metadata = ObjectMeta {
            name,
            namespace,
            uid,
            resource_version,
            deletion_timestamp,
            finalizers,
            owner_references,
            ..ObjectMeta::default()
        };
        Ok(Item { metadata })
    }
}

impl Resource for Item {
    type DynamicType = ApiResource;
    type Scope = DynamicResourceScope;

    fn kind(resource: &ApiResource) -> Cow<'_, str> {
        Cow::Borrowed(&resource.kind)
    }

    fn group(resource: &ApiResource) -> Cow<'_, str> {
        Cow::Borrowed(&resource.group)
    }

    fn version(resource: &ApiResource) -> Cow<'_, str> {
        Cow::Borrowed(&resource.version)
    }

    fn plural(resource: &ApiResource) -> Cow<'_, str> {
        Cow::Borrowed(&resource.plural)
    }

    fn metadata_api() -> bool {
        true
    }

    fn meta(&self) -> &ObjectMeta {
        &self.metadata
    }

    fn meta_mut(&mut self) -> &mut ObjectMeta {
        &mut self.metadata
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn only_what_matters_is_kept() {
        let object = json!({
            "kind": "PartialObjectMetadata",
            "metadata": {
                "name": "a", "namespace": "ns", "uid": "u", "resourceVersion": "7",
                "labels": {"x": "y"}, "managedFields": [{"manager": "m"}],
                "deletionTimestamp": "2026-01-01T00:00:00Z", "finalizers": [ORPHAN],
                "ownerReferences": [{"apiVersion": "v1", "kind": "Pod", "name": "p", "uid": "o"}],
            },
        });
        let item: Item = serde_json::from_value(object).expect("an item");
        assert_eq!((item.namespace(), item.name(), item.uid()), ("ns", "a", "u"));
        assert!(item.is_deleting() && item.has_finalizer(ORPHAN) && !item.has_finalizer(FOREGROUND));
        assert_eq!(item.owners()[0].uid, "o");
        assert_eq!(
            (&item.metadata.labels, &item.metadata.managed_fields),
            (&None, &None)
        );
    }
}
