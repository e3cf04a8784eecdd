//! The ReplicaSet controller: so many pods of a template, whichever.

mod plan;

use std::sync::Arc;

use jiff::Timestamp;
use k8s_openapi::api::apps::v1::ReplicaSet;
use k8s_openapi::api::core::v1::Pod;
use kube::api::PostParams;
use kube::{Api, Client};
use stead_informer::semantics::Selector;
use stead_informer::{Informers, Key, Objects, Queue, Reconciled, Recorder, Task, reference};
use tokio_util::sync::CancellationToken;

use self::plan::{Plan, plan};
pub(crate) use self::plan::{first_to_go, is_active};
use crate::owned::{Dependents, follow};
use crate::pods::PodControl;
use crate::refused::Refused;
use crate::written::{STALE, Written};

/// Sets that are looked at at a time.
const WORKERS: usize = 16;

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
            let sets = Objects {
                name: "replicaset",
                queue: self.queue.clone(),
                concurrency: WORKERS,
                informer: self.informers.replica_sets.clone(),
                recorder: self.recorder.clone(),
            };
            let look = |controller: Arc<Self>, key| async move { controller.reconcile(&key).await };
            sets.run(self, shutdown, look).await;
        })
    }

    async fn reconcile(&self, key: &Key) -> Result<Reconciled, Refused> {
        if !self.wrote_sets.caught_up().await || !self.wrote_pods.caught_up().await {
            return Ok(Reconciled::Again(STALE));
        }
        let Some(set) = self.informers.replica_sets.get(key) else {
            return Ok(Reconciled::Done);
        };
        let pods = self.own_pods(&set).await?;
        let pods: Vec<&Pod> = pods.iter().map(|pod| &**pod).collect();
        let now = Timestamp::now();
        let plan = plan(&set, &pods, now);
        let control = PodControl::new(&self.client, reference(&*set), &self.wrote_pods, &self.recorder);
        let outcome = match &plan {
            Plan::Create(count) => {
                let pod = plan::new_pod(&set);
                let (_, outcome) = control.create(&vec![&pod; *count]).await;
                outcome.map_err(|error| ("FailedCreate", error))
            }
            Plan::Wait(_) => Ok(()),
            Plan::Delete(pods) => control
                .delete(pods)
                .await
                .map_err(|error| ("FailedDelete", error)),
        };
        let failure = outcome
            .as_ref()
            .err()
            .map(|(reason, error)| (*reason, error.cause()));
        let (status, next) = plan::status(&set, &pods, failure, now);
        if plan::differs(&set.status.clone().unwrap_or_default(), &status) {
            let api: Api<ReplicaSet> = Api::namespaced(self.client.clone(), &key.namespace);
            let mut updated = ReplicaSet::clone(&set);
            updated.status = Some(status);
            let written = api
                .replace_status(&key.name, &PostParams::default(), &updated)
                .await;
            self.wrote_sets
                .settle(written, format!("update the status of {key}"))?;
        }
        outcome.map_err(|(_, error)| error)?;
        let retry = match plan {
            Plan::Wait(until) => Some(until),
            _ => None,
        };
        Ok(Reconciled::until(next.into_iter().chain(retry).min(), now))
    }

    /// The set's pods, after adopting and releasing what is to be.
    async fn own_pods(&self, set: &ReplicaSet) -> Result<Vec<Arc<Pod>>, Refused> {
        let namespace = set.metadata.namespace.as_deref().unwrap_or_default();
        let dependents = Dependents {
            kind: ("apps/v1", "ReplicaSet"),
            owner: &set.metadata,
            owners: Api::<ReplicaSet>::namespaced(self.client.clone(), namespace),
            selector: &set.spec.selector,
            api: Api::namespaced(self.client.clone(), namespace),
            written: &self.wrote_pods,
            finalizer: None,
            // What has ended is nobody's loss.
            is_wanted: is_active,
        };
        dependents
            .claim(self.informers.pods.in_namespace(namespace))
            .await
    }
}

/// Notes which sets to look at when something changes.
fn listen(informers: &Informers, queue: &Queue<Key>) {
    let selector = |set: &ReplicaSet| Selector::new(&set.spec.selector);
    let sets = ("ReplicaSet", &informers.replica_sets);
    follow(sets, &informers.pods, selector, queue);
}
