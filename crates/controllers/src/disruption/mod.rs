//! Disruption budgets: counts the pods of each PodDisruptionBudget, and so says how many of them may be
//! evicted. See "Specifying a Disruption Budget for your Application".
//!
//! How many pods there are to be is what their owners say: ReplicaSets, Deployments and StatefulSets. The
//! API server counts evictions down itself and notes which pods go; this gives them back once they are gone.

mod plan;

use std::sync::Arc;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use kube::api::PostParams;
use kube::{Api, Client};
use stead_informer::{
    Change, Informer, Informers, Key, Objects, Queue, Reconciled, Recorder, Task, reference,
};
use tokio_util::sync::CancellationToken;

use self::plan::{Owner, plan};
use crate::owned::{controller_reference_of, owner_of};
use crate::refused::Refused;
use crate::written::Written;

/// Budgets that are looked at at a time.
const WORKERS: usize = 5;

/// The controller.
pub struct DisruptionController {
    client: Client,
    informers: Informers,
    recorder: Recorder,
    queue: Queue<Key>,
    written: Written<PodDisruptionBudget>,
}

impl DisruptionController {
    /// A controller that hears of changes from now on.
    pub fn new(client: Client, informers: &Informers, recorder: Recorder) -> Arc<DisruptionController> {
        let queue = Queue::new();
        watch(informers, &queue);
        Arc::new(DisruptionController {
            client,
            informers: informers.clone(),
            recorder,
            queue,
            written: Written::new(&informers.budgets),
        })
    }

    /// Works until cancelled.
    pub fn run(self: Arc<Self>, shutdown: CancellationToken) -> Task {
        Box::pin(async move {
            self.informers.synced().await;
            let budgets = Objects {
                name: "poddisruptionbudget",
                queue: self.queue.clone(),
                concurrency: WORKERS,
                informer: self.informers.budgets.clone(),
                recorder: self.recorder.clone(),
            };
            let look = |controller: Arc<Self>, key| async move { controller.reconcile(&key).await };
            budgets.run(self, shutdown, look).await;
        })
    }

    async fn reconcile(&self, key: &Key) -> Result<Reconciled, Refused> {
        self.written.caught_up().await;
        let budget = self.informers.budgets.get(key);
        let Some(budget) = budget.filter(|found| found.metadata.deletion_timestamp.is_none()) else {
            return Ok(Reconciled::Done);
        };
        let pods: Vec<Arc<Pod>> = self
            .informers
            .pods
            .in_namespace(&key.namespace)
            .into_iter()
            .filter(|pod| plan::selects(&budget, pod))
            .collect();
        let planned = plan(&budget, &pods, |pod| self.owner(pod), Timestamp::now());
        for event in planned.events {
            let about = reference(&*budget);
            self.recorder
                .record(about, event.kind, event.reason, event.message);
        }
        if budget.status.as_ref() != Some(&planned.status) {
            let api: Api<PodDisruptionBudget> = Api::namespaced(self.client.clone(), &key.namespace);
            let mut updated = (*budget).clone();
            updated.status = Some(planned.status);
            let written = api
                .replace_status(&key.name, &PostParams::default(), &updated)
                .await;
            let what = format!("update the status of budget {}", key.name);
            self.written.settle(written, what)?;
        }
        Ok(planned.again.map_or(Reconciled::Done, Reconciled::Again))
    }

    /// What says how many pods there are to be beside this one.
    fn owner(&self, pod: &Pod) -> Owner {
        let Some(reference) = controller_reference_of(&pod.metadata) else {
            return Owner::Nobody;
        };
        let counted = |replicas: Option<i32>| Owner::Counts {
            uid: reference.uid.clone(),
            replicas: replicas.unwrap_or(1),
        };
        let unknown = || Owner::Unknown {
            kind: reference.kind.clone(),
        };
        let Some(key) = owner_of(&pod.metadata, &reference.kind) else {
            return unknown();
        };
        match reference.kind.as_str() {
            "ReplicaSet" => {
                let Some(set) = self.informers.replica_sets.get(&key) else {
                    return unknown();
                };
                let deployment = owner_of(&set.metadata, "Deployment");
                match deployment.and_then(|key| self.informers.deployments.get(&key)) {
                    // All ReplicaSets of a Deployment are counted once.
                    Some(deployment) => Owner::Counts {
                        uid: deployment.metadata.uid.clone().unwrap_or_default(),
                        replicas: deployment.spec.replicas.unwrap_or(1),
                    },
                    None => counted(set.spec.replicas),
                }
            }
            "StatefulSet" => match self.informers.stateful_sets.get(&key) {
                Some(set) => counted(set.spec.replicas),
                None => unknown(),
            },
            _ => unknown(),
        }
    }
}

/// Has budgets looked at when they, their pods, or the owners of those change.
fn watch(informers: &Informers, queue: &Queue<Key>) {
    let changed = queue.clone();
    informers
        .budgets
        .on_change(move |change: &Change<PodDisruptionBudget>| changed.add(Key::of(&**change.object())));
    let (pods, budgets) = (queue.clone(), informers.budgets.clone());
    informers.pods.on_change(move |change: &Change<Pod>| {
        let old = match change {
            Change::Updated { old, .. } => Some(old),
            _ => None,
        };
        for pod in old.into_iter().chain([change.object()]) {
            let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
            for budget in budgets.in_namespace(namespace) {
                if plan::selects(&budget, pod) {
                    pods.add(Key::of(&*budget));
                }
            }
        }
    });
    let add_all = |budgets: &Informer<PodDisruptionBudget>, queue: &Queue<Key>, namespace: Option<&str>| {
        for budget in budgets.in_namespace(namespace.unwrap_or_default()) {
            queue.add(Key::of(&*budget));
        }
    };
    macro_rules! owners {
        ($($field:ident),*) => {
            $({
                let (queue, budgets) = (queue.clone(), informers.budgets.clone());
                informers.$field.on_change(move |change| {
                    if let Change::Updated { old, new } = change
                        && old.metadata.generation == new.metadata.generation
                    {
                        return;
                    }
                    let namespace = change.object().metadata.namespace.clone();
                    add_all(&budgets, &queue, namespace.as_deref());
                });
            })*
        };
    }
    owners!(replica_sets, deployments, stateful_sets);
}
