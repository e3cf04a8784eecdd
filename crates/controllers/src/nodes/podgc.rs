//! Pods that nobody takes away: of nodes that are gone, on their way out before they were placed,
//! or ended and too many ("Garbage collection of Pods").

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use k8s_openapi::api::core::v1::{Node, Pod};
use kube::api::{DeleteParams, Preconditions};
use kube::{Api, Client};
use stead_informer::semantics::pods::has_ended;
use stead_informer::{Change, Informers, Key, Queue, Reconciled, Recorder, run};
use tokio_util::sync::CancellationToken;

use super::health::{self, Ready};
use super::{mark_disrupted, node_of, pods_on};
use crate::refused::{Refused, is_conflict, is_not_found};

const WORKERS: usize = 4;
/// Ended pods beyond these are taken away; upstream's `--terminated-pod-gc-threshold`.
const ENDED_LIMIT: usize = 12_500;
/// How long a node is missed before its pods go.
const QUARANTINE: Duration = Duration::from_secs(40);
const OUT_OF_SERVICE: &str = "node.kubernetes.io/out-of-service";

/// The part of the controller that concerns pods which nobody takes away.
pub(super) struct PodGc {
    client: Client,
    informers: Informers,
    recorder: Recorder,
    queue: Queue<Work>,
    ended: Arc<AtomicUsize>,
}

/// What to look at.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum Work {
    /// The pods of a node that may be gone.
    Orphans(String),
    /// A pod on its way out that no node may be at.
    Stranded(Key),
    /// All pods that have ended.
    Ended,
}

impl fmt::Display for Work {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Work::Orphans(node) => write!(f, "pods of node {node}"),
            Work::Stranded(key) => write!(f, "pod {key}"),
            Work::Ended => f.write_str("ended pods"),
        }
    }
}

impl PodGc {
    pub(super) fn new(client: Client, informers: &Informers, recorder: Recorder) -> PodGc {
        let (queue, ended) = (Queue::new(), Arc::default());
        listen(informers, &queue, &ended);
        PodGc {
            client,
            informers: informers.clone(),
            recorder,
            queue,
            ended,
        }
    }

    pub(super) async fn run(self: Arc<Self>, shutdown: CancellationToken) {
        let gc = Arc::clone(&self);
        let reconcile = move |work: Work| {
            let gc = Arc::clone(&gc);
            async move { gc.reconcile(&work).await.map(|()| Reconciled::Done) }
        };
        run(
            "pod-gc",
            self.queue.clone(),
            WORKERS,
            shutdown,
            reconcile,
            |work| {
                if let Work::Stranded(key) = work {
                    self.recorder.panicked(self.informers.pods.get(key).as_deref());
                }
            },
        )
        .await;
    }

    async fn reconcile(&self, work: &Work) -> Result<(), Refused> {
        match work {
            Work::Orphans(node) => self.collect_orphans(node).await,
            Work::Stranded(key) => match self.informers.pods.get(key) {
                Some(pod) if is_stranded(&pod, |name| self.informers.nodes.get(&Key::new("", name))) => {
                    self.remove(&pod, None).await
                }
                _ => Ok(()),
            },
            Work::Ended => {
                if self.ended.load(Ordering::Relaxed) > ENDED_LIMIT {
                    for pod in superfluous(self.informers.pods.all(), ENDED_LIMIT) {
                        self.remove(&pod, None).await?;
                    }
                }
                Ok(())
            }
        }
    }

    async fn collect_orphans(&self, node: &str) -> Result<(), Refused> {
        if self.informers.nodes.get(&Key::new("", node)).is_some() {
            return Ok(());
        }
        // Whether a node is gone is nothing that a cache may decide.
        let api: Api<Node> = Api::all(self.client.clone());
        if api
            .get_metadata_opt(node)
            .await
            .map_err(Refused::to(format!("get node {node}")))?
            .is_some()
        {
            return Ok(());
        }
        for pod in pods_on(&self.informers, node) {
            self.remove(&pod, Some(("DeletionByPodGC", "PodGC: node no longer exists")))
                .await?;
        }
        Ok(())
    }

    /// Fails a pod, saying why, and deletes it at once: nobody would confirm its end.
    async fn remove(&self, pod: &Pod, why: Option<(&str, &str)>) -> Result<(), Refused> {
        let key = Key::of(pod);
        let api: Api<Pod> = Api::namespaced(self.client.clone(), &key.namespace);
        if !has_ended(pod) {
            let (reason, message) = why.unwrap_or_default();
            mark_disrupted(&api, pod, reason, message, true).await?;
        }
        let params = DeleteParams {
            grace_period_seconds: Some(0),
            preconditions: Some(Preconditions {
                uid: pod.metadata.uid.clone(),
                resource_version: None,
            }),
            ..DeleteParams::default()
        };
        match api.delete(&key.name, &params).await {
            Ok(_) => Ok(()),
            Err(error) if is_not_found(&error) || is_conflict(&error) => Ok(()),
            Err(error) => Err(Refused::to(format!("delete pod {key}"))(error)),
        }
    }
}

/// Whether a pod is on its way out and nobody will say that it is gone: it is at no node, or at one
/// that a person has declared out of service.
fn is_stranded(pod: &Pod, node: impl Fn(&str) -> Option<Arc<Node>>) -> bool {
    if pod.metadata.deletion_timestamp.is_none() {
        return false;
    }
    let Some(name) = node_of(pod) else { return true };
    node(name).is_some_and(|node| {
        let taints = node
            .spec
            .as_ref()
            .and_then(|spec| spec.taints.as_deref())
            .unwrap_or_default();
        health::ready(&node) != Ready::True && taints.iter().any(|taint| taint.key == OUT_OF_SERVICE)
    })
}

/// The ended pods beyond a limit: evicted ones first, then the oldest.
fn superfluous(mut pods: Vec<Arc<Pod>>, limit: usize) -> Vec<Arc<Pod>> {
    pods.retain(|pod| has_ended(pod));
    let excess = pods.len().saturating_sub(limit);
    pods.sort_by_cached_key(|pod| {
        let reason = pod.status.as_ref().and_then(|status| status.reason.as_deref());
        let created = pod.metadata.creation_timestamp.as_ref().map(|time| time.0);
        (reason != Some("Evicted"), created, pod.metadata.name.clone())
    });
    pods.truncate(excess);
    pods
}

/// Notes what to look at when something changes.
fn listen(informers: &Informers, queue: &Queue<Work>, ended: &Arc<AtomicUsize>) {
    let (pods, ended, nodes) = (queue.clone(), Arc::clone(ended), informers.nodes.clone());
    informers.pods.on_change(move |change| {
        let (before, pod) = match change {
            Change::Added(pod) => (None, pod),
            Change::Updated { old, new } => (Some(old), new),
            Change::Deleted(pod) => {
                if has_ended(pod) {
                    ended.fetch_sub(1, Ordering::Relaxed);
                }
                return;
            }
        };
        if has_ended(pod) && !before.is_some_and(|before| has_ended(before)) {
            let count = ended.fetch_add(1, Ordering::Relaxed) + 1;
            if count > ENDED_LIMIT {
                pods.add(Work::Ended);
            }
        }
        let find = |name: &str| nodes.get(&Key::new("", name));
        if is_stranded(pod, find) {
            pods.add(Work::Stranded(Key::of(&**pod)));
        }
        if let Some(name) = node_of(pod)
            && before.is_none_or(|before| node_of(before) != Some(name))
            && find(name).is_none()
        {
            pods.add_after(Work::Orphans(name.to_owned()), QUARANTINE);
        }
    });
    let (nodes, informers_of) = (queue.clone(), informers.clone());
    informers.nodes.on_change(move |change| {
        let node = change.object();
        let name = node.metadata.name.clone().unwrap_or_default();
        let signs = |node: &Node| {
            (
                health::ready(node),
                node.spec.as_ref().and_then(|spec| spec.taints.clone()),
            )
        };
        match change {
            Change::Deleted(_) => nodes.add_after(Work::Orphans(name), QUARANTINE),
            Change::Updated { old, new } if signs(old) == signs(new) => {}
            Change::Added(_) | Change::Updated { .. } => {
                for pod in pods_on(&informers_of, &name) {
                    if is_stranded(&pod, |_| Some(Arc::clone(node))) {
                        nodes.add(Work::Stranded(Key::of(&*pod)));
                    }
                }
            }
        }
    });
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn pod(name: &str, extra: Value) -> Arc<Pod> {
        let mut pod = json!({"metadata": {"name": name}, "spec": {"containers": []}, "status": {}});
        if let (Value::Object(pod), Value::Object(extra)) = (&mut pod, extra) {
            pod.extend(extra);
        }
        Arc::new(serde_json::from_value(pod).expect("a pod"))
    }

    #[test]
    fn the_oldest_ended_pods_go_first_after_the_evicted() {
        let ended = |name: &str, created: &str, reason: &str| {
            pod(
                name,
                json!({"metadata": {"name": name, "creationTimestamp": created}, "status": {"phase": "Failed", "reason": reason}}),
            )
        };
        let pods = vec![
            ended("old", "2026-01-01T00:00:00Z", ""),
            ended("new", "2026-01-03T00:00:00Z", ""),
            ended("evicted", "2026-01-02T00:00:00Z", "Evicted"),
            pod("running", json!({"status": {"phase": "Running"}})),
        ];
        let names = |limit| -> Vec<String> {
            superfluous(pods.clone(), limit)
                .iter()
                .filter_map(|pod| pod.metadata.name.clone())
                .collect()
        };
        assert_eq!(names(1), ["evicted", "old"]);
        assert_eq!(names(3), Vec::<String>::new());
    }

    #[test]
    fn pods_are_stranded_without_a_node_or_on_one_out_of_service() {
        let node = |ready: &str, key: &str| -> Arc<Node> {
            let node = json!({"metadata": {"name": "n"}, "spec": {"taints": [{"key": key, "effect": "NoExecute"}]},
                "status": {"conditions": [{"type": "Ready", "status": ready}]}});
            Arc::new(serde_json::from_value(node).expect("a node"))
        };
        let going = json!({"name": "p", "deletionTimestamp": "2026-01-01T00:00:00Z"});
        let placed = pod(
            "p",
            json!({"metadata": going, "spec": {"containers": [], "nodeName": "n"}}),
        );
        assert!(is_stranded(&pod("p", json!({"metadata": going})), |_| None));
        assert!(!is_stranded(&pod("p", json!({})), |_| None));
        assert!(!is_stranded(&placed, |_| None));
        assert!(is_stranded(&placed, |_| Some(node("Unknown", OUT_OF_SERVICE))));
        assert!(!is_stranded(&placed, |_| Some(node("True", OUT_OF_SERVICE))));
        assert!(!is_stranded(&placed, |_| Some(node("Unknown", "other"))));
    }
}
