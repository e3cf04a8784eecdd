//! Storage in use is not removed: a claim that a pod uses, and a volume that is bound, stay until
//! they are free ("Storage Object in Use Protection").

use std::fmt;
use std::sync::Arc;

use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim, Pod};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::api::{ListParams, PostParams};
use kube::{Api, Client};
use stead_informer::semantics::volumes::phase;
use stead_informer::{Change, Informers, Key, Queue, Reconciled, Recorder, run};
use tokio_util::sync::CancellationToken;

use crate::refused::{Refused, is_not_found};

const WORKERS: usize = 8;
const CLAIM_FINALIZER: &str = "kubernetes.io/pvc-protection";
const VOLUME_FINALIZER: &str = "kubernetes.io/pv-protection";

/// What to look at.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum Work {
    Claim(Key),
    Volume(String),
}

impl fmt::Display for Work {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Work::Claim(key) => write!(f, "claim {key}"),
            Work::Volume(name) => write!(f, "volume {name}"),
        }
    }
}

/// The part of the controller that holds and lets go.
pub(super) struct Protection {
    client: Client,
    informers: Informers,
    recorder: Recorder,
    queue: Queue<Work>,
}

impl Protection {
    pub(super) fn new(client: Client, informers: &Informers, recorder: Recorder) -> Protection {
        let queue = Queue::new();
        listen(informers, &queue);
        Protection {
            client,
            informers: informers.clone(),
            recorder,
            queue,
        }
    }

    pub(super) async fn run(self: Arc<Self>, shutdown: CancellationToken) {
        let protection = Arc::clone(&self);
        let reconcile = move |work: Work| {
            let protection = Arc::clone(&protection);
            async move {
                match work {
                    Work::Claim(key) => protection.claim(&key).await?,
                    Work::Volume(name) => protection.volume(&name).await?,
                }
                Ok::<_, Refused>(Reconciled::Done)
            }
        };
        run(
            "storage-protection",
            self.queue.clone(),
            WORKERS,
            shutdown,
            reconcile,
            |work| match work {
                Work::Claim(key) => self.recorder.panicked(self.informers.claims.get(key).as_deref()),
                Work::Volume(name) => {
                    let volume = self.informers.volumes.get(&Key::new("", name));
                    self.recorder.panicked(volume.as_deref());
                }
            },
        )
        .await;
    }

    async fn claim(&self, key: &Key) -> Result<(), Refused> {
        let Some(claim) = self.informers.claims.get(key) else {
            return Ok(());
        };
        let Some(wanted) = change(&claim.metadata, CLAIM_FINALIZER, || {
            let pods = self.informers.pods.in_namespace(&key.namespace);
            pods.iter().any(|pod| uses(pod, &key.name))
        }) else {
            return Ok(());
        };
        let is_leaving = claim.metadata.deletion_timestamp.is_some();
        if is_leaving && self.is_used_for_certain(key).await? {
            return Ok(());
        }
        let api: Api<PersistentVolumeClaim> = Api::namespaced(self.client.clone(), &key.namespace);
        let mut changed = PersistentVolumeClaim::clone(&claim);
        changed.metadata.finalizers = wanted;
        ignore_gone(api.replace(&key.name, &PostParams::default(), &changed).await)
            .map_err(Refused::to(format!("change the finalizers of claim {key}")))
    }

    /// Whether a claim is free is nothing that a cache may decide.
    async fn is_used_for_certain(&self, key: &Key) -> Result<bool, Refused> {
        let api: Api<Pod> = Api::namespaced(self.client.clone(), &key.namespace);
        let pods = api
            .list(&ListParams::default())
            .await
            .map_err(Refused::to(format!("list the pods of {}", key.namespace)))?;
        Ok(pods.items.iter().any(|pod| uses(pod, &key.name)))
    }

    async fn volume(&self, name: &str) -> Result<(), Refused> {
        let Some(volume) = self.informers.volumes.get(&Key::new("", name)) else {
            return Ok(());
        };
        let Some(wanted) = change(&volume.metadata, VOLUME_FINALIZER, || phase(&volume) == "Bound") else {
            return Ok(());
        };
        let api: Api<PersistentVolume> = Api::all(self.client.clone());
        let mut changed = PersistentVolume::clone(&volume);
        changed.metadata.finalizers = wanted;
        ignore_gone(api.replace(name, &PostParams::default(), &changed).await)
            .map_err(Refused::to(format!("change the finalizers of volume {name}")))
    }
}

fn ignore_gone<K>(written: Result<K, kube::Error>) -> Result<(), kube::Error> {
    match written {
        Ok(_) => Ok(()),
        Err(error) if is_not_found(&error) => Ok(()),
        Err(error) => Err(error),
    }
}

/// The finalizers that an object should have; none where they are right. One that stays is held,
/// one on its way out is let go when it is not used.
fn change(meta: &ObjectMeta, finalizer: &str, is_used: impl FnOnce() -> bool) -> Option<Option<Vec<String>>> {
    let mut finalizers = meta.finalizers.clone().unwrap_or_default();
    let is_held = finalizers.iter().any(|name| name == finalizer);
    match (meta.deletion_timestamp.is_some(), is_held) {
        (false, false) => finalizers.push(finalizer.to_owned()),
        (true, true) if !is_used() => finalizers.retain(|name| name != finalizer),
        _ => return None,
    }
    Some((!finalizers.is_empty()).then_some(finalizers))
}

/// Whether a pod uses a claim. One that is not placed does not: it will not be, once the claim is
/// on its way out.
fn uses(pod: &Pod, claim: &str) -> bool {
    let is_placed = pod
        .spec
        .as_ref()
        .and_then(|spec| spec.node_name.as_deref())
        .is_some_and(|node| !node.is_empty());
    is_placed && claims_of(pod).any(|name| name == claim)
}

/// The claims that a pod names.
fn claims_of(pod: &Pod) -> impl Iterator<Item = String> {
    let volumes = pod.spec.iter().flat_map(|spec| spec.volumes.iter().flatten());
    volumes.filter_map(|volume| {
        if volume.ephemeral.is_some() {
            let pod = pod.metadata.name.as_deref().unwrap_or_default();
            return Some(format!("{pod}-{}", volume.name));
        }
        Some(volume.persistent_volume_claim.as_ref()?.claim_name.clone())
    })
}

/// Notes what to look at when something changes.
fn listen(informers: &Informers, queue: &Queue<Work>) {
    let claims = queue.clone();
    informers.claims.on_change(move |change| match change {
        Change::Added(claim) | Change::Updated { new: claim, .. } => {
            if is_of_interest(&claim.metadata, CLAIM_FINALIZER) {
                claims.add(Work::Claim(Key::of(&**claim)));
            }
        }
        Change::Deleted(_) => {}
    });
    let volumes = queue.clone();
    informers.volumes.on_change(move |change| match change {
        Change::Added(volume) | Change::Updated { new: volume, .. } => {
            if is_of_interest(&volume.metadata, VOLUME_FINALIZER) {
                volumes.add(Work::Volume(volume.metadata.name.clone().unwrap_or_default()));
            }
        }
        Change::Deleted(_) => {}
    });
    let (pods, known) = (queue.clone(), informers.claims.clone());
    informers.pods.on_change(move |change| {
        let gone = match change {
            Change::Deleted(pod) => pod,
            // Another pod has taken the name while the watch was broken.
            Change::Updated { old, new } if old.metadata.uid != new.metadata.uid => old,
            _ => return,
        };
        let namespace = gone.metadata.namespace.as_deref().unwrap_or_default();
        for name in claims_of(gone) {
            let key = Key::new(namespace, name);
            if known
                .get(&key)
                .is_some_and(|claim| claim.metadata.deletion_timestamp.is_some())
            {
                pods.add(Work::Claim(key));
            }
        }
    });
}

fn is_of_interest(meta: &ObjectMeta, finalizer: &str) -> bool {
    change(meta, finalizer, || false).is_some()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_stays_is_held_and_what_goes_is_let_go_when_free() {
        let held = Some(vec![CLAIM_FINALIZER.to_owned()]);
        let with = |others: &[&str]| Some(others.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>());
        for (leaves, finalizers, used, expected) in [
            (false, None, false, Some(held.clone())),
            (false, with(&["x"]), true, Some(with(&["x", CLAIM_FINALIZER]))),
            (false, held.clone(), false, None),
            (true, held.clone(), true, None),
            (true, held.clone(), false, Some(None)),
            (true, with(&["x", CLAIM_FINALIZER]), false, Some(with(&["x"]))),
            (true, with(&["x"]), false, None),
        ] {
            let deletion = leaves.then(|| json!("2026-01-01T00:00:00Z"));
            let meta: ObjectMeta =
                serde_json::from_value(json!({"deletionTimestamp": deletion, "finalizers": finalizers}))
                    .expect("metadata");
            assert_eq!(
                change(&meta, CLAIM_FINALIZER, || used),
                expected,
                "{meta:?} {used}"
            );
        }
    }

    #[test]
    fn placed_pods_use_their_claims() {
        let pod = |node: &str, volume: serde_json::Value| -> Pod {
            let pod = json!({"metadata": {"name": "p"}, "spec": {"nodeName": node, "containers": [], "volumes": [volume]}});
            serde_json::from_value(pod).expect("a pod")
        };
        let claim = json!({"name": "v", "persistentVolumeClaim": {"claimName": "c"}});
        let ephemeral = json!({"name": "v", "ephemeral": {}});
        for (pod, name, expected) in [
            (pod("n", claim.clone()), "c", true),
            (pod("n", claim.clone()), "d", false),
            (pod("", claim), "c", false),
            (pod("n", ephemeral), "p-v", true),
            (pod("n", json!({"name": "c", "emptyDir": {}})), "c", false),
        ] {
            assert_eq!(uses(&pod, name), expected, "{name} {pod:?}");
        }
    }
}
