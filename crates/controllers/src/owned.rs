//! Who owns what: an object belongs to the controller that a reference of it names. One without is adopted by who
//! selects it; one that is no longer selected is released. See `PodControllerRefManager` and "Owners and Dependents".

use std::sync::Arc;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, ObjectMeta, OwnerReference};
use kube::Api;
use kube::api::{Patch, PatchParams};
use serde_json::json;
use stead_informer::semantics::Selector;
use stead_informer::{Change, Informer, Key, Object, Queue};

use crate::refused::Refused;
use crate::written::Written;

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

/// The reference of an object to its controller, of this version and kind.
pub(crate) fn owner_reference((version, kind): (&str, &str), owner: &ObjectMeta) -> OwnerReference {
    OwnerReference {
        api_version: version.to_owned(),
        kind: kind.to_owned(),
        name: owner.name.clone().unwrap_or_default(),
        uid: owner.uid.clone().unwrap_or_default(),
        controller: Some(true),
        block_owner_deletion: Some(true),
    }
}

/// Whether an owner is there, is the same, and stays: adopting needs more than a cache.
pub(crate) async fn is_still_there<O: Object>(api: &Api<O>, owner: &ObjectMeta) -> Result<bool, kube::Error> {
    let fresh = api.get(owner.name.as_deref().unwrap_or_default()).await?;
    let meta = fresh.meta();
    Ok(meta.uid == owner.uid && meta.deletion_timestamp.is_none())
}

/// An owner, and what it owns of a kind.
pub(crate) struct Dependents<'a, O, D> {
    /// The owner's version and kind.
    pub(crate) kind: (&'static str, &'static str),
    pub(crate) owner: &'a ObjectMeta,
    pub(crate) owners: Api<O>,
    pub(crate) selector: &'a LabelSelector,
    pub(crate) api: Api<D>,
    pub(crate) written: &'a Written<D>,
    /// What keeps an object that is adopted until its owner has counted it.
    pub(crate) finalizer: Option<&'static str>,
    /// Whether an object without an owner is worth having.
    pub(crate) is_wanted: fn(&D) -> bool,
}

impl<O: Object, D: Object> Dependents<'_, O, D> {
    /// The owner's objects, of all of its namespace, after adopting and releasing what is to be.
    pub(crate) async fn claim(&self, all: Vec<Arc<D>>) -> Result<Vec<Arc<D>>, Refused> {
        let selector = Selector::new(self.selector);
        let related = |object: &D| {
            let fits = selector.matches(object.meta().labels.as_ref());
            relation(self.owner, object.meta(), fits)
        };
        let mut own = Vec::new();
        for object in all {
            let mut metadata = json!({"uid": object.meta().uid});
            metadata["ownerReferences"] = match related(&object) {
                Relation::None => continue,
                Relation::Own => {
                    own.push(object);
                    continue;
                }
                Relation::Adopt if !(self.is_wanted)(&object) => continue,
                Relation::Adopt => {
                    self.check_still_there().await?;
                    if let Some(finalizer) = self.finalizer {
                        metadata["finalizers"] = json!([finalizer]);
                    }
                    json!([owner_reference(self.kind, self.owner)])
                }
                Relation::Release => json!([{"$patch": "delete", "uid": self.owner.uid}]),
            };
            let name = object.meta().name.as_deref().unwrap_or_default();
            let patch = json!({"metadata": metadata});
            let patched = self
                .api
                .patch(name, &PatchParams::default(), &Patch::Strategic(&patch))
                .await;
            let what = format!("change the owner of {name}");
            if let Some(patched) = self.written.settle(patched, what)?
                && related(&patched) == Relation::Own
            {
                own.push(Arc::new(patched));
            }
        }
        Ok(own)
    }

    async fn check_still_there(&self) -> Result<(), Refused> {
        let name = self.owner.name.as_deref().unwrap_or_default();
        let gone =
            || kube::Error::Service(format!("{} {name} is gone or on its way out", self.kind.1).into());
        match is_still_there(&self.owners, self.owner).await {
            Ok(true) => Ok(()),
            Ok(false) => Err(Refused::to("adopt")(gone())),
            Err(error) => Err(Refused::to(format!("get {} {name}", self.kind.1))(error)),
        }
    }
}

/// Has owners of a kind looked at when they change, and when an object does that is or was theirs, or that they may
/// adopt.
pub(crate) fn follow<O: Object, D: Object>(
    (kind, owners): (&'static str, &Informer<O>),
    dependents: &Informer<D>,
    selector: impl Fn(&O) -> Selector + Send + Sync + 'static,
    queue: &Queue<Key>,
) {
    let changed = queue.clone();
    owners.on_change(move |change| changed.add(Key::of(&**change.object())));
    let (changed, owners) = (queue.clone(), owners.clone());
    dependents.on_change(move |change| {
        if let Change::Updated { old, .. } = change
            && let Some(owner) = owner_of(old.meta(), kind)
        {
            changed.add(owner);
        }
        let meta = change.object().meta();
        if let Some(owner) = owner_of(meta, kind) {
            changed.add(owner);
        } else if controller_of(meta).is_none() {
            let namespace = meta.namespace.as_deref().unwrap_or_default();
            for owner in owners.in_namespace(namespace) {
                if selector(&owner).matches(meta.labels.as_ref()) {
                    changed.add(Key::of(&*owner));
                }
            }
        }
    });
}
