//! What garbage collection asks of the API, and does to it.

use std::sync::Arc;

use futures::{StreamExt as _, TryStreamExt as _, stream};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use kube::Client;
use kube::api::{DeleteParams, Patch, PatchParams, Preconditions, PropagationPolicy};
use serde_json::{Value, json};

use super::graph::Node;
use super::plan::Owner;
use crate::inventory::{FOREGROUND, Inventory, Item, Kind};
use crate::refused::{Refused, is_not_found};

/// Dependents that are orphaned at a time.
const CONCURRENCY: usize = 20;

/// Why an object was not dealt with.
#[derive(Debug, thiserror::Error)]
pub(super) enum CollectError {
    /// The API did not do what was asked.
    #[error(transparent)]
    Api(#[from] Refused),
    /// A reference names a kind that is not served, or not yet. Nobody can say whether there is such
    /// an owner, so its dependents stay.
    #[error("no kind {kind:?} of {api_version:?} is served")]
    UnknownKind {
        /// As the reference says.
        api_version: String,
        /// As the reference says.
        kind: String,
    },
}

/// Asks and writes.
pub(super) struct Hands {
    pub(super) client: Client,
    pub(super) inventory: Arc<Inventory>,
}

impl Hands {
    /// The object as it is now; none if it is gone, or another one.
    pub(super) async fn live(&self, node: &Node) -> Result<Option<Item>, Refused> {
        let item = &node.item;
        let found = self.get(&node.kind, item.namespace(), item.name()).await?;
        Ok(found.filter(|found| found.uid() == item.uid()))
    }

    async fn get(&self, kind: &Kind, namespace: &str, name: &str) -> Result<Option<Item>, Refused> {
        let found = kind.api(&self.client, namespace).get_opt(name).await;
        found.map_err(Refused::to(format!(
            "get {} {namespace}/{name}",
            kind.resource.plural
        )))
    }

    /// What has become of the owner that an object names. None where the reference can never mean
    /// anything: an object outside namespaces cannot have an owner within one.
    pub(super) async fn owner(
        &self,
        item: &Item,
        reference: &OwnerReference,
    ) -> Result<Option<Owner>, CollectError> {
        let kinds = self.inventory.kinds();
        let kind = kinds
            .find(&reference.api_version, &reference.kind)
            .ok_or_else(|| CollectError::UnknownKind {
                api_version: reference.api_version.clone(),
                kind: reference.kind.clone(),
            })?;
        if kind.namespaced && item.namespace().is_empty() {
            return Ok(None);
        }
        let found = self.get(kind, item.namespace(), &reference.name).await?;
        Ok(Some(match found.filter(|found| found.uid() == reference.uid) {
            None => Owner::Dangling,
            Some(owner) if owner.is_deleting() && owner.has_finalizer(FOREGROUND) => Owner::Waiting,
            Some(_) => Owner::Solid,
        }))
    }

    /// Deletes an object as it was seen: of this uid and version.
    pub(super) async fn delete(
        &self,
        kind: &Kind,
        item: &Item,
        propagation: PropagationPolicy,
    ) -> Result<(), Refused> {
        let params = DeleteParams {
            propagation_policy: Some(propagation),
            preconditions: Some(Preconditions {
                uid: Some(item.uid().to_owned()),
                resource_version: item.version(),
            }),
            ..DeleteParams::default()
        };
        match kind
            .api(&self.client, item.namespace())
            .delete(item.name(), &params)
            .await
        {
            Ok(_) => Ok(()),
            Err(error) if is_not_found(&error) => Ok(()),
            Err(error) => Err(Refused::to(format!(
                "delete {} {}",
                kind.resource.plural,
                item.name()
            ))(error)),
        }
    }

    /// Replaces an object's owners. Gives what came of it; none if it is gone.
    pub(super) async fn set_owners(
        &self,
        kind: &Kind,
        item: &Item,
        owners: &[OwnerReference],
    ) -> Result<Option<Item>, Refused> {
        self.patch(kind, item, json!({"ownerReferences": owners})).await
    }

    async fn patch(&self, kind: &Kind, item: &Item, mut metadata: Value) -> Result<Option<Item>, Refused> {
        metadata["uid"] = item.uid().into();
        metadata["resourceVersion"] = item.version().into();
        let patch = Patch::Merge(json!({"metadata": metadata}));
        match kind
            .api(&self.client, item.namespace())
            .patch(item.name(), &PatchParams::default(), &patch)
            .await
        {
            Ok(patched) => Ok(Some(patched)),
            Err(error) if is_not_found(&error) => Ok(None),
            Err(error) => Err(Refused::to(format!(
                "patch {} {}",
                kind.resource.plural,
                item.name()
            ))(error)),
        }
    }

    /// Takes a finalizer of garbage collection's off an object.
    pub(super) async fn remove_finalizer(&self, node: &Node, finalizer: &str) -> Result<(), Refused> {
        let Some(live) = self
            .live(node)
            .await?
            .filter(|live| live.has_finalizer(finalizer))
        else {
            return Ok(());
        };
        let others: Vec<_> = live
            .finalizers()
            .iter()
            .filter(|name| *name != finalizer)
            .collect();
        self.patch(&node.kind, &live, json!({"finalizers": others}))
            .await
            .map(|_| ())
    }

    /// Makes dependents forget an owner.
    pub(super) async fn orphan(&self, owner: &str, dependents: Vec<Node>) -> Result<(), Refused> {
        stream::iter(dependents)
            .map(|node| async move {
                let Some(live) = self.live(&node).await? else {
                    return Ok(());
                };
                let others: Vec<_> = live
                    .owners()
                    .iter()
                    .filter(|reference| reference.uid != owner)
                    .cloned()
                    .collect();
                if others.len() != live.owners().len() {
                    self.set_owners(&node.kind, &live, &others).await?;
                }
                Ok(())
            })
            .buffer_unordered(CONCURRENCY)
            .try_collect::<Vec<()>>()
            .await
            .map(|_| ())
    }
}
