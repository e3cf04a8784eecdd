//! Carries out a placement: the pod's claims get their volumes, and then the pod its node. Everything
//! that writes to claims, volumes and bindings is here.

use std::sync::Arc;
use std::time::Duration;

use futures::future::{try_join, try_join_all};
use k8s_openapi::api::core::v1::{Binding, ObjectReference, PersistentVolume, PersistentVolumeClaim, Pod};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::api::{Patch, PatchParams, PostParams};
use kube::{Api, Client};
use serde_json::json;
use stead_informer::semantics::volumes::{
    SELECTED_NODE, annotation, bound_volume, fits_node, is_fully_bound, volume_name,
};
use stead_informer::{Informers, Key, revision_of};
use tokio::sync::watch;

use crate::decide::Placement;
use crate::pod::{PodInfo, node_of};

/// How long volumes may take; upstream's `bindTimeoutSeconds`.
const VOLUMES_TIMEOUT: Duration = Duration::from_secs(600);

/// Why a pod was not bound.
#[derive(Debug, thiserror::Error)]
pub(crate) enum BindError {
    /// It is gone, on its way out, or has a node from somebody else.
    #[error("the pod is gone or not to be placed any more")]
    PodGone,
    /// What was decided does not hold any more.
    #[error("{0}")]
    Stale(String),
    /// The volumes were not ready in time.
    #[error("binding volumes: timed out waiting for the condition")]
    Timeout,
    /// The API refused.
    #[error("{what}: {source}")]
    Api {
        /// What was attempted.
        what: &'static str,
        /// Why not.
        source: Box<kube::Error>,
    },
}

fn refused(what: &'static str) -> impl FnOnce(kube::Error) -> BindError {
    move |source| BindError::Api {
        what,
        source: Box::new(source),
    }
}

fn is_code(error: &kube::Error, code: u16) -> bool {
    matches!(error, kube::Error::Api(status) if status.code == code)
}

/// What binding works with.
pub(crate) struct Binder<'b> {
    pub(crate) client: &'b Client,
    pub(crate) informers: &'b Informers,
    /// Moves when claims, volumes or the pods in work change.
    pub(crate) changes: watch::Receiver<u64>,
}

/// A claim whose volume is to be made, and the version that says so.
struct Requested {
    claim: Key,
    version: u64,
}

impl Binder<'_> {
    /// Binds a pod to its place. Broken off, it leaves claims that may be bound or under way, which
    /// the next decision takes as they are.
    pub(crate) async fn bind(&mut self, pod: &PodInfo, placement: &Placement) -> Result<(), BindError> {
        if !placement.bindings.claims.is_empty() {
            let requested = self.start_volumes(placement).await?;
            let ready = self.volumes_ready(pod, placement, &requested);
            match tokio::time::timeout(VOLUMES_TIMEOUT, ready).await {
                Ok(ready) => ready?,
                Err(_) => return Err(BindError::Timeout),
            }
        }
        self.bind_pod(pod, &placement.node).await
    }

    /// Says which volume each claim is to have, or that one is to be made on the node.
    async fn start_volumes(&self, placement: &Placement) -> Result<Vec<Requested>, BindError> {
        let bindings = &placement.bindings;
        let found = bindings
            .found
            .iter()
            .map(|(claim, volume)| self.keep_volume(claim, volume));
        let to_make = bindings
            .to_make
            .iter()
            .map(|claim| self.select_node(claim, &placement.node));
        let (_, requested) = try_join(try_join_all(found), try_join_all(to_make)).await?;
        Ok(requested)
    }

    async fn keep_volume(
        &self,
        claim: &PersistentVolumeClaim,
        volume: &PersistentVolume,
    ) -> Result<(), BindError> {
        let Some(kept) = bound_volume(volume, claim) else {
            return Ok(());
        };
        let api: Api<PersistentVolume> = Api::all(self.client.clone());
        let name = kept.metadata.name.as_deref().unwrap_or_default();
        match api.replace(name, &PostParams::default(), &kept).await {
            Ok(_) => Ok(()),
            Err(error) if is_code(&error, 404) || is_code(&error, 409) => Err(BindError::Stale(format!(
                "volume \"{name}\" has changed meanwhile"
            ))),
            Err(error) => Err(refused("update a volume")(error)),
        }
    }

    async fn select_node(&self, claim: &PersistentVolumeClaim, node: &str) -> Result<Requested, BindError> {
        let key = Key::of(claim);
        if annotation(&claim.metadata, SELECTED_NODE) == Some(node) {
            return Ok(Requested {
                claim: key,
                version: revision_of(claim),
            });
        }
        let api: Api<PersistentVolumeClaim> = Api::namespaced(self.client.clone(), &key.namespace);
        // The uid: another claim of the name is not the one that was decided on.
        let patch = json!({"metadata": {"uid": claim.metadata.uid, "annotations": {SELECTED_NODE: node}}});
        match api
            .patch(&key.name, &PatchParams::default(), &Patch::Merge(&patch))
            .await
        {
            Ok(patched) => Ok(Requested {
                claim: key,
                version: revision_of(&patched),
            }),
            Err(error) if is_code(&error, 404) || is_code(&error, 409) => Err(BindError::Stale(format!(
                "persistentvolumeclaim \"{}\" has changed meanwhile",
                key.name
            ))),
            Err(error) => Err(refused("select the node of a claim")(error)),
        }
    }

    /// Waits until all claims of a pod are bound to volumes that are usable on its node.
    async fn volumes_ready(
        &mut self,
        pod: &PodInfo,
        placement: &Placement,
        requested: &[Requested],
    ) -> Result<(), BindError> {
        loop {
            self.changes.borrow_and_update();
            let current = self.informers.pods.get(&pod.key);
            if !current.is_some_and(|current| still_waits(&current, pod)) {
                return Err(BindError::PodGone);
            }
            let mut is_ready = true;
            for key in &placement.bindings.claims {
                let claim = self.informers.claims.get(key);
                let version = requested
                    .iter()
                    .find(|requested| requested.claim == *key)
                    .map(|requested| requested.version);
                is_ready &= self.claim_ready(key, claim.as_ref(), version, &placement.node)?;
            }
            if is_ready {
                return Ok(());
            }
            if self.changes.changed().await.is_err() {
                return Err(BindError::PodGone);
            }
        }
    }

    fn claim_ready(
        &self,
        key: &Key,
        claim: Option<&Arc<PersistentVolumeClaim>>,
        requested: Option<u64>,
        node: &str,
    ) -> Result<bool, BindError> {
        let stale = |what: &str| {
            Err(BindError::Stale(format!(
                "persistentvolumeclaim \"{}\" {what}",
                key.name
            )))
        };
        let Some(claim) = claim else {
            return stale("not found");
        };
        if claim.metadata.deletion_timestamp.is_some() {
            return stale("is being deleted");
        }
        // The kubelet looks at the phase, which is the last that is written.
        let phase = claim.status.as_ref().and_then(|status| status.phase.as_deref());
        if is_fully_bound(claim) && phase == Some("Bound") {
            let volume = volume_name(claim).and_then(|name| self.informers.volumes.get(&Key::new("", name)));
            let Some(volume) = volume else { return Ok(false) };
            let node = self.informers.nodes.get(&Key::new("", node));
            if !node.is_some_and(|node| fits_node(&volume, &node)) {
                return stale("is bound to a volume that the node cannot use");
            }
            return Ok(true);
        }
        let was_refused = requested.is_some_and(|version| {
            revision_of(&**claim) >= version && annotation(&claim.metadata, SELECTED_NODE).is_none()
        });
        if was_refused {
            return stale("cannot have a volume made on the node");
        }
        Ok(false)
    }

    async fn bind_pod(&self, pod: &PodInfo, node: &str) -> Result<(), BindError> {
        let binding = Binding {
            metadata: ObjectMeta {
                name: Some(pod.key.name.clone()),
                namespace: Some(pod.key.namespace.clone()),
                uid: Some(pod.uid.clone()),
                ..ObjectMeta::default()
            },
            target: ObjectReference {
                kind: Some("Node".to_owned()),
                name: Some(node.to_owned()),
                ..ObjectReference::default()
            },
        };
        let api: Api<Pod> = Api::namespaced(self.client.clone(), &pod.key.namespace);
        let bound: Result<kube::core::Status, _> = api
            .create_subresource("binding", &pod.key.name, &PostParams::default(), &binding)
            .await;
        match bound {
            Ok(_) => Ok(()),
            Err(error) if is_code(&error, 404) || is_code(&error, 409) => Err(BindError::PodGone),
            Err(error @ kube::Error::Api(_)) => Err(refused("bind the pod")(error)),
            // Without an answer it may have been bound all the same.
            Err(error) => match api.get_opt(&pod.key.name).await {
                Ok(Some(current)) if node_of(&current) == Some(node) && is_same(&current, pod) => Ok(()),
                _ => Err(refused("bind the pod")(error)),
            },
        }
    }
}

fn is_same(current: &Pod, pod: &PodInfo) -> bool {
    current.metadata.uid.as_deref() == Some(pod.uid.as_str())
}

/// Whether a pod is still to be bound.
fn still_waits(current: &Pod, pod: &PodInfo) -> bool {
    is_same(current, pod) && current.metadata.deletion_timestamp.is_none() && node_of(current).is_none()
}
