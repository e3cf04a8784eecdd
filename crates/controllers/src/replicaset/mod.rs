//! The ReplicaSet controller: so many pods of a template, whichever.

mod plan;

use std::sync::Arc;
use std::time::Duration;

use futures::future::join_all;
use jiff::Timestamp;
use k8s_openapi::api::apps::v1::ReplicaSet;
use k8s_openapi::api::core::v1::Pod;
use kube::api::{DeleteParams, Patch, PatchParams, PostParams, Preconditions};
use kube::{Api, Client};
use serde_json::json;
use stead_informer::semantics::Selector;
use stead_informer::{Change, EventType, Informers, Key, Queue, Reconciled, Recorder, Task, reference, run};
use tokio_util::sync::CancellationToken;

use self::plan::{Plan, is_active, plan};
use crate::owned::{Relation, apps_reference, controller_of, owner_of, relation};
use crate::refused::{Refused, is_conflict, is_namespace_terminating, is_not_found};
use crate::written::Written;

/// Sets that are looked at at a time.
const WORKERS: usize = 16;
/// Pods that are made at a time at first: twice as many each time that all could be.
const SLOW_START: usize = 1;

/// The controller.
pub struct ReplicaSetsController {
    client: Client,
    informers: Informers,
    recorder: Recorder,
    queue: Queue<Key>,
    wrote_sets: Written<ReplicaSet>,
    wrote_pods: Written<Pod>,
}

impl ReplicaSetsController {
    /// A controller that hears of changes from now on.
    pub fn new(client: Client, informers: &Informers, recorder: Recorder) -> Arc<ReplicaSetsController> {
        let queue = Queue::new();
        listen(informers, &queue);
        Arc::new(ReplicaSetsController {
            client,
            informers: informers.clone(),
            recorder,
            queue,
            wrote_sets: Written::new(&informers.replica_sets),
            wrote_pods: Written::new(&informers.pods),
        })
    }

    /// Works until cancelled.
    pub fn run(self: Arc<Self>, shutdown: CancellationToken) -> Task {
        Box::pin(async move {
            self.informers.synced().await;
            let controller = Arc::clone(&self);
            let reconcile = move |key: Key| {
                let controller = Arc::clone(&controller);
                async move { controller.reconcile(&key).await }
            };
            run(
                "replicaset",
                self.queue.clone(),
                WORKERS,
                shutdown,
                reconcile,
                |key| {
                    let set = self.informers.replica_sets.get(key);
                    self.recorder.panicked(set.as_deref());
                },
            )
            .await;
        })
    }

    async fn reconcile(&self, key: &Key) -> Result<Reconciled, Refused> {
        self.wrote_sets.caught_up().await;
        self.wrote_pods.caught_up().await;
        let Some(set) = self.informers.replica_sets.get(key) else {
            return Ok(Reconciled::Done);
        };
        let pods = self.own_pods(&set).await?;
        let active: Vec<&Pod> = pods
            .iter()
            .map(|pod| &**pod)
            .filter(|pod| is_active(pod))
            .collect();
        let outcome = match plan(&set, &active) {
            Plan::Create(count) => self
                .create(&set, count)
                .await
                .map_err(|error| ("FailedCreate", error)),
            Plan::Delete(pods) => self
                .delete(&set, pods)
                .await
                .map_err(|error| ("FailedDelete", error)),
        };
        let failure = outcome
            .as_ref()
            .err()
            .map(|(reason, error)| (*reason, error.cause()));
        let now = Timestamp::now();
        let (status, next) = plan::status(&set, &active, failure, now);
        if plan::differs(&set.status.clone().unwrap_or_default(), &status) {
            let api: Api<ReplicaSet> = Api::namespaced(self.client.clone(), &key.namespace);
            let mut updated = ReplicaSet::clone(&set);
            updated.status = Some(status);
            match api
                .replace_status(&key.name, &PostParams::default(), &updated)
                .await
            {
                Ok(written) => self.wrote_sets.note(&written),
                // It has changed or gone meanwhile, which brings the next look.
                Err(error) if is_conflict(&error) || is_not_found(&error) => {}
                Err(error) => return Err(Refused::to(format!("update the status of {key}"))(error)),
            }
        }
        outcome.map_err(|(_, error)| error)?;
        Ok(next.map_or(Reconciled::Done, |at| {
            let wait = at.duration_since(now);
            Reconciled::Again(Duration::try_from(wait).unwrap_or_default())
        }))
    }

    /// The set's pods, after adopting and releasing what is to be.
    async fn own_pods(&self, set: &ReplicaSet) -> Result<Vec<Arc<Pod>>, Refused> {
        let namespace = set.metadata.namespace.as_deref().unwrap_or_default();
        let selector = selector(set);
        let api: Api<Pod> = Api::namespaced(self.client.clone(), namespace);
        let mut own = Vec::new();
        for pod in self.informers.pods.in_namespace(namespace) {
            let fits = selector.matches(pod.metadata.labels.as_ref());
            let owners = match relation(&set.metadata, &pod.metadata, fits) {
                Relation::None => continue,
                Relation::Own => {
                    own.push(pod);
                    continue;
                }
                // What has ended is nobody's loss.
                Relation::Adopt if !is_active(&pod) => continue,
                Relation::Adopt => json!([apps_reference("ReplicaSet", &set.metadata)]),
                Relation::Release => json!([{"$patch": "delete", "uid": set.metadata.uid}]),
            };
            let name = pod.metadata.name.as_deref().unwrap_or_default();
            let patch = json!({"metadata": {"uid": pod.metadata.uid, "ownerReferences": owners}});
            match api
                .patch(name, &PatchParams::default(), &Patch::Strategic(&patch))
                .await
            {
                Ok(patched) => {
                    self.wrote_pods.note(&patched);
                    if controller_of(&patched.metadata) == set.metadata.uid.as_deref() {
                        own.push(Arc::new(patched));
                    }
                }
                // It has gone meanwhile, or is another one.
                Err(error) if is_not_found(&error) || is_conflict(&error) => {}
                Err(error) => return Err(Refused::to(format!("take or let go of pod {name}"))(error)),
            }
        }
        Ok(own)
    }

    /// Makes pods, more at a time as long as none is refused.
    async fn create(&self, set: &ReplicaSet, count: usize) -> Result<(), Refused> {
        let namespace = set.metadata.namespace.as_deref().unwrap_or_default();
        let api: Api<Pod> = Api::namespaced(self.client.clone(), namespace);
        let pod = plan::new_pod(set);
        let (mut left, mut batch) = (count, SLOW_START);
        while left > 0 {
            let size = batch.min(left);
            let params = PostParams::default();
            let made = join_all((0..size).map(|_| api.create(&params, &pod))).await;
            let mut failure = None;
            for pod in made {
                match pod {
                    Ok(pod) => {
                        self.wrote_pods.note(&pod);
                        let name = pod.metadata.name.as_deref().unwrap_or_default();
                        self.record(
                            set,
                            EventType::Normal,
                            "SuccessfulCreate",
                            format!("Created pod: {name}"),
                        );
                    }
                    // All goes with the namespace.
                    Err(error) if is_namespace_terminating(&error) => return Ok(()),
                    Err(error) => failure = Some(Refused::to("create a pod")(error)),
                }
            }
            if let Some(error) = failure {
                let message = format!("Error creating: {}", error.cause());
                self.record(set, EventType::Warning, "FailedCreate", message);
                return Err(error);
            }
            left -= size;
            batch *= 2;
        }
        Ok(())
    }

    async fn delete(&self, set: &ReplicaSet, pods: Vec<&Pod>) -> Result<(), Refused> {
        let namespace = set.metadata.namespace.as_deref().unwrap_or_default();
        let api: Api<Pod> = Api::namespaced(self.client.clone(), namespace);
        let deleted = join_all(pods.iter().map(async |pod| {
            let name = pod.metadata.name.as_deref().unwrap_or_default();
            let params = DeleteParams::default().preconditions(Preconditions {
                uid: pod.metadata.uid.clone(),
                resource_version: None,
            });
            (name, api.delete(name, &params).await)
        }))
        .await;
        let mut outcome = Ok(());
        for (name, deleted) in deleted {
            match deleted {
                Ok(deleted) => {
                    if let Some(pod) = deleted.left() {
                        self.wrote_pods.note(&pod);
                    }
                    self.record(
                        set,
                        EventType::Normal,
                        "SuccessfulDelete",
                        format!("Deleted pod: {name}"),
                    );
                }
                // It has gone meanwhile.
                Err(error) if is_not_found(&error) || is_conflict(&error) => {}
                Err(error) => {
                    let error = Refused::to(format!("delete pod {name}"))(error);
                    let message = format!("Error deleting: {}", error.cause());
                    self.record(set, EventType::Warning, "FailedDelete", message);
                    outcome = Err(error);
                }
            }
        }
        outcome
    }

    fn record(&self, set: &ReplicaSet, kind: EventType, reason: &str, message: String) {
        self.recorder.record(reference(set), kind, reason, message);
    }
}

fn selector(set: &ReplicaSet) -> Selector {
    Selector::new(&set.spec.selector)
}

/// Notes which sets to look at when something changes.
fn listen(informers: &Informers, queue: &Queue<Key>) {
    let sets = queue.clone();
    informers
        .replica_sets
        .on_change(move |change: &Change<ReplicaSet>| sets.add(Key::of(&**change.object())));
    let (pods, known) = (queue.clone(), informers.replica_sets.clone());
    informers.pods.on_change(move |change: &Change<Pod>| {
        let owner = |pod: &Pod| owner_of(&pod.metadata, "ReplicaSet");
        if let Change::Updated { old, .. } = change
            && let Some(set) = owner(old)
        {
            pods.add(set);
        }
        let pod = change.object();
        if let Some(set) = owner(pod) {
            pods.add(set);
        } else if controller_of(&pod.metadata).is_none() {
            // Someone may adopt it.
            let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
            for set in known.in_namespace(namespace) {
                if selector(&set).matches(pod.metadata.labels.as_ref()) {
                    pods.add(Key::of(&*set));
                }
            }
        }
    });
}
