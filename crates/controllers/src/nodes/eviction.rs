//! Drives pods off nodes with NoExecute taints that they do not tolerate, or not for longer
//! ("Taint based evictions").

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use k8s_openapi::api::core::v1::{Node, Pod, Taint, Toleration};
use kube::api::{DeleteParams, Preconditions};
use kube::{Api, Client};
use stead_informer::semantics::taints::{NO_EXECUTE, tolerates};
use stead_informer::{Change, EventType, Informers, Key, Objects, Queue, Reconciled, Recorder, reference};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::{mark_disrupted, node_of, pods_on};
use crate::refused::{Refused, is_conflict, is_not_found};

const WORKERS: usize = 16;

/// The part of the controller that concerns pods on tainted nodes.
pub(super) struct TaintEviction {
    client: Client,
    informers: Informers,
    recorder: Recorder,
    queue: Queue<Key>,
    planned: Mutex<HashMap<Key, Planned>>,
}

/// A pod's eviction that is to come.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Planned {
    uid: Option<String>,
    /// Since when its node has been tainted, as far as is known.
    since: Instant,
    at: Instant,
}

impl TaintEviction {
    pub(super) fn new(client: Client, informers: &Informers, recorder: Recorder) -> TaintEviction {
        let queue = Queue::new();
        listen(informers, &queue);
        TaintEviction {
            client,
            informers: informers.clone(),
            recorder,
            queue,
            planned: Mutex::default(),
        }
    }

    pub(super) async fn run(self: Arc<Self>, shutdown: CancellationToken) {
        let pods = Objects {
            name: "taint-eviction",
            queue: self.queue.clone(),
            concurrency: WORKERS,
            informer: self.informers.pods.clone(),
            recorder: self.recorder.clone(),
        };
        let look = |part: Arc<Self>, key| async move { part.reconcile(&key).await };
        pods.run(self, shutdown, look).await;
    }

    fn planned(&self) -> MutexGuard<'_, HashMap<Key, Planned>> {
        self.planned.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn reconcile(&self, key: &Key) -> Result<Reconciled, Refused> {
        let pod = self
            .informers
            .pods
            .get(key)
            .filter(|pod| pod.metadata.deletion_timestamp.is_none());
        let Some(pod) = pod else {
            self.planned().remove(key);
            return Ok(Reconciled::Done);
        };
        let node = node_of(&pod).and_then(|name| self.informers.nodes.get(&Key::new("", name)));
        let taints = node.as_deref().map(no_execute).unwrap_or_default();
        let tolerations = pod
            .spec
            .as_ref()
            .and_then(|spec| spec.tolerations.as_deref())
            .unwrap_or_default();
        let Some(after) = tolerated_for(&taints, tolerations) else {
            if self.planned().remove(key).is_some() {
                let message = format!("Cancelling deletion of Pod {key}");
                self.recorder.record(
                    reference(&*pod),
                    EventType::Normal,
                    "TaintManagerEviction",
                    message,
                );
            }
            return Ok(Reconciled::Done);
        };
        if !self.is_due(key, &pod, after) {
            return Ok(Reconciled::Done);
        }
        let message = format!("Marking for deletion Pod {key}");
        self.recorder.record(
            reference(&*pod),
            EventType::Normal,
            "TaintManagerEviction",
            message,
        );
        self.evict(key, &pod).await?;
        self.planned().remove(key);
        Ok(Reconciled::Done)
    }

    /// Whether a pod's time is up; if not, it is looked at again when it is.
    fn is_due(&self, key: &Key, pod: &Pod, after: Duration) -> bool {
        let now = Instant::now();
        let mut planned = self.planned();
        let former = planned
            .get(key)
            .filter(|planned| planned.uid == pod.metadata.uid)
            .cloned();
        let since = former.as_ref().map_or(now, |former| former.since);
        let plan = Planned {
            uid: pod.metadata.uid.clone(),
            since,
            at: since + after,
        };
        if plan.at <= now {
            return true;
        }
        if former.as_ref() != Some(&plan) {
            self.queue.add_after(key.clone(), plan.at - now);
            planned.insert(key.clone(), plan);
        }
        false
    }

    async fn evict(&self, key: &Key, pod: &Pod) -> Result<(), Refused> {
        let api: Api<Pod> = Api::namespaced(self.client.clone(), &key.namespace);
        let message = "Taint manager: deleting due to NoExecute taint";
        mark_disrupted(&api, pod, "DeletionByTaintManager", message, false).await?;
        let preconditions = Preconditions {
            uid: pod.metadata.uid.clone(),
            resource_version: None,
        };
        let params = DeleteParams {
            preconditions: Some(preconditions),
            ..DeleteParams::default()
        };
        match api.delete(&key.name, &params).await {
            Ok(_) => Ok(()),
            Err(error) if is_not_found(&error) || is_conflict(&error) => Ok(()),
            Err(error) => Err(Refused::to(format!("delete pod {key}"))(error)),
        }
    }
}

fn no_execute(node: &Node) -> Vec<Taint> {
    let taints = node
        .spec
        .as_ref()
        .and_then(|spec| spec.taints.as_deref())
        .unwrap_or_default();
    taints
        .iter()
        .filter(|taint| taint.effect == NO_EXECUTE)
        .cloned()
        .collect()
}

/// How long a pod tolerates these taints; none if for ever.
fn tolerated_for(taints: &[Taint], tolerations: &[Toleration]) -> Option<Duration> {
    let mut shortest: Option<Duration> = None;
    for taint in taints {
        let mut matching = tolerations
            .iter()
            .filter(|toleration| tolerates(toleration, taint))
            .peekable();
        if matching.peek().is_none() {
            return Some(Duration::ZERO);
        }
        for seconds in matching.filter_map(|toleration| toleration.toleration_seconds) {
            let time = Duration::from_secs(u64::try_from(seconds).unwrap_or(0));
            shortest = Some(shortest.map_or(time, |shortest| shortest.min(time)));
        }
    }
    shortest
}

/// Notes which pods to look at when something changes.
fn listen(informers: &Informers, queue: &Queue<Key>) {
    let (pods, nodes) = (queue.clone(), informers.nodes.clone());
    informers.pods.on_change(move |change| {
        let tolerations = |pod: &Pod| pod.spec.as_ref().and_then(|spec| spec.tolerations.clone());
        match change {
            Change::Updated { old, new }
                if node_of(old) == node_of(new)
                    && tolerations(old) == tolerations(new)
                    && old.metadata.deletion_timestamp == new.metadata.deletion_timestamp => {}
            Change::Deleted(pod) => pods.add(Key::of(&**pod)),
            Change::Added(pod) | Change::Updated { new: pod, .. } => {
                let node = node_of(pod).and_then(|name| nodes.get(&Key::new("", name)));
                if node.is_some_and(|node| !no_execute(&node).is_empty()) {
                    pods.add(Key::of(&**pod));
                }
            }
        }
    });
    let (pods, informers_of) = (queue.clone(), informers.clone());
    informers.nodes.on_change(move |change| {
        let (old, new) = match change {
            Change::Added(node) => (Vec::new(), no_execute(node)),
            Change::Updated { old, new } => (no_execute(old), no_execute(new)),
            Change::Deleted(_) => return,
        };
        if old != new {
            let name = change.object().metadata.name.as_deref().unwrap_or_default();
            pods_on(&informers_of, name)
                .iter()
                .for_each(|pod| pods.add(Key::of(&**pod)));
        }
    });
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn check(taints: &[&str], tolerations: Value, expected: Option<u64>) {
        let taint = |key: &&str| Taint {
            key: (*key).to_owned(),
            effect: NO_EXECUTE.to_owned(),
            ..Taint::default()
        };
        let taints: Vec<Taint> = taints.iter().map(taint).collect();
        let shown = format!("{taints:?} {tolerations}");
        let tolerations: Vec<Toleration> = serde_json::from_value(tolerations).expect("tolerations");
        assert_eq!(
            tolerated_for(&taints, &tolerations),
            expected.map(Duration::from_secs),
            "{shown}"
        );
    }

    #[test]
    fn the_shortest_toleration_counts_and_every_taint_needs_one() {
        let forever = json!({"key": "a", "operator": "Exists"});
        let short = json!({"key": "a", "operator": "Exists", "tolerationSeconds": 4});
        let other = json!({"key": "b", "operator": "Exists", "tolerationSeconds": 300});
        check(&[], json!([]), None);
        check(&["a"], json!([]), Some(0));
        check(&["a"], json!([forever]), None);
        check(&["a"], json!([forever, short]), Some(4));
        check(&["a", "b"], json!([short, other]), Some(4));
        check(&["a", "b"], json!([forever]), Some(0));
        check(
            &["a"],
            json!([{"key": "a", "operator": "Exists", "tolerationSeconds": -1}]),
            Some(0),
        );
    }
}
