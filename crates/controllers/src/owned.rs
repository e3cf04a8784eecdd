//! Who owns what: an object belongs to the controller that a reference of it names. One without is adopted by who
//! selects it; one that is no longer selected is released. See `PodControllerRefManager` and "Owners and Dependents".

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};
use stead_informer::Key;

/// What an owner has to do with an object.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Relation {
    /// It is the owner's.
    Own,
    /// It has no owner, and is to be this one's.
    Adopt,
    /// It is the owner's, and is to be so no longer.
    Release,
    /// Nothing.
    None,
}

/// The reference to the controller that an object belongs to.
pub(crate) fn controller_reference_of(meta: &ObjectMeta) -> Option<&OwnerReference> {
    let mut owners = meta.owner_references.iter().flatten();
    owners.find(|owner| owner.controller == Some(true))
}

/// The uid of the controller that an object belongs to.
pub(crate) fn controller_of(meta: &ObjectMeta) -> Option<&str> {
    controller_reference_of(meta).map(|owner| owner.uid.as_str())
}

/// The controller of a kind that an object belongs to.
pub(crate) fn owner_of(meta: &ObjectMeta, kind: &str) -> Option<Key> {
    let owner = controller_reference_of(meta).filter(|owner| owner.kind == kind)?;
    let namespace = meta.namespace.as_deref().unwrap_or_default();
    Some(Key::new(namespace, owner.name.as_str()))
}

/// What an owner has to do with an object that fits it, or does not.
pub(crate) fn relation(owner: &ObjectMeta, object: &ObjectMeta, fits: bool) -> Relation {
    let is_deleting = owner.deletion_timestamp.is_some();
    match controller_of(object) {
        Some(uid) if Some(uid) != owner.uid.as_deref() => Relation::None,
        Some(_) if fits => Relation::Own,
        Some(_) if is_deleting => Relation::None,
        Some(_) => Relation::Release,
        None if fits && !is_deleting && object.deletion_timestamp.is_none() => Relation::Adopt,
        None => Relation::None,
    }
}

/// The reference of an object to a controller of the group apps/v1.
pub(crate) fn apps_reference(kind: &str, owner: &ObjectMeta) -> OwnerReference {
    OwnerReference {
        api_version: "apps/v1".to_owned(),
        kind: kind.to_owned(),
        name: owner.name.clone().unwrap_or_default(),
        uid: owner.uid.clone().unwrap_or_default(),
        controller: Some(true),
        block_owner_deletion: Some(true),
    }
}
