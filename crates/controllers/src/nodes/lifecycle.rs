//! Watches over nodes: one that is not heard of for a while is unknown, and tainted; its pods are
//! not ready.
//!
//! A node is heard of through its lease and its status. What counts is when this process heard of it
//! last, by a clock that only runs forward: a clock that is set, a suspended machine or a restarted
//! server makes no node unknown.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{Node, Pod, Taint};
use kube::api::{Patch, PatchParams, PostParams};
use kube::{Api, Client};
use serde_json::json;
use stead_informer::{
    Change, EventType, Informer, Informers, Key, Objects, Queue, Reconciled, Recorder, reference,
};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::health::{self, Eviction, Pace, Ready};
use super::{NODE_LEASES, pods_on};
use crate::refused::{Refused, is_conflict, is_not_found};
use crate::written::Written;

const WORKERS: usize = 8;
/// How long a node may be silent; the length of its lease.
const GRACE: Duration = Duration::from_secs(40);
/// The same for a node that has said nothing yet.
const STARTUP_GRACE: Duration = Duration::from_secs(60);

/// The part of the controller that concerns nodes.
pub(super) struct Lifecycle {
    client: Client,
    informers: Informers,
    leases: Informer<Lease>,
    recorder: Recorder,
    queue: Queue<Key>,
    heard: Mutex<HashMap<Key, Heard>>,
    /// Nodes that ceased to be ready, whose pods have not been told.
    fallen: Arc<Mutex<HashSet<Key>>>,
    /// When the next node of a zone may be tainted so that pods are driven off it.
    next_eviction: Mutex<HashMap<String, Instant>>,
    written: Written<Node>,
}

/// When a node was heard of.
#[derive(Debug)]
struct Heard {
    /// What it said: other signs are a new sign of life.
    signs: [Option<Timestamp>; 2],
    at: Instant,
    /// When it is looked at again, if that is planned.
    due: Option<Instant>,
}

impl Lifecycle {
    pub(super) fn new(
        client: Client,
        informers: &Informers,
        leases: &Informer<Lease>,
        recorder: Recorder,
    ) -> Lifecycle {
        let (queue, fallen) = (Queue::new(), Arc::default());
        listen(informers, leases, &queue, &fallen, &recorder);
        Lifecycle {
            client,
            informers: informers.clone(),
            leases: leases.clone(),
            recorder,
            queue,
            heard: Mutex::default(),
            fallen,
            next_eviction: Mutex::default(),
            written: Written::new(&informers.nodes),
        }
    }

    pub(super) async fn run(self: Arc<Self>, shutdown: CancellationToken) {
        self.leases.synced().await;
        let nodes = Objects {
            name: "node-lifecycle",
            queue: self.queue.clone(),
            concurrency: WORKERS,
            informer: self.informers.nodes.clone(),
            recorder: self.recorder.clone(),
        };
        let look = |part: Arc<Self>, key| async move { part.reconcile(&key).await };
        nodes.run(self, shutdown, look).await;
    }

    async fn reconcile(&self, key: &Key) -> Result<Reconciled, Refused> {
        self.written.caught_up().await;
        let Some(mut node) = self.informers.nodes.get(key) else {
            lock(&self.heard).remove(key);
            return Ok(Reconciled::Done);
        };
        if self.is_silent(key, &node)
            && let Some(conditions) = health::silent(&node, Timestamp::now())
        {
            let mut silent = Node::clone(&node);
            silent.status.get_or_insert_default().conditions = Some(conditions);
            node = Arc::new(self.write_status(&silent).await?);
        }
        self.put_taints_right(&node).await?;
        let has_fallen = lock(&self.fallen).remove(key);
        if (has_fallen || health::ready(&node) == Ready::Unknown)
            && let Err(error) = self.mark_pods_not_ready(key).await
        {
            lock(&self.fallen).insert(key.clone());
            return Err(error);
        }
        Ok(Reconciled::Done)
    }

    /// Whether a node has been silent for too long; if not, it is looked at again when it will have
    /// been.
    fn is_silent(&self, key: &Key, node: &Node) -> bool {
        let lease = self.leases.get(&Key::new(NODE_LEASES, &key.name));
        let renewed = lease.and_then(|lease| lease.spec.as_ref()?.renew_time.as_ref().map(|time| time.0));
        let ready = health::condition(node, "Ready");
        let heartbeat = ready.and_then(|condition| condition.last_heartbeat_time.as_ref().map(|time| time.0));
        let signs = [renewed, heartbeat];
        let grace = if health::ready(node) == Ready::Unsaid {
            STARTUP_GRACE
        } else {
            GRACE
        };
        let now = Instant::now();
        let mut heard = lock(&self.heard);
        let heard = heard.entry(key.clone()).or_insert(Heard {
            signs,
            at: now,
            due: None,
        });
        if heard.signs != signs {
            heard.signs = signs;
            heard.at = now;
        }
        let end = heard.at + grace;
        if end <= now {
            return true;
        }
        if heard.due.is_none_or(|due| due <= now) {
            heard.due = Some(end);
            self.queue.add_after(key.clone(), end - now);
        }
        false
    }

    async fn write_status(&self, node: &Node) -> Result<Node, Refused> {
        let name = node.metadata.name.clone().unwrap_or_default();
        let api: Api<Node> = Api::all(self.client.clone());
        let written = api.replace_status(&name, &PostParams::default(), node).await;
        let written = written.map_err(Refused::to(format!("update the status of node {name}")))?;
        self.written.note(&written);
        Ok(written)
    }

    async fn put_taints_right(&self, node: &Node) -> Result<(), Refused> {
        let zone = health::zone(node);
        let nodes = self.informers.nodes.all();
        let pace = health::pace(&zone, nodes.iter().map(Arc::as_ref));
        let now = Instant::now();
        let mut eviction = match pace {
            Pace::Nowhere => Eviction::Nowhere,
            Pace::Paused | Pace::Every(_) => Eviction::NotNow,
        };
        let mut taints = health::taints(node, eviction, Timestamp::now());
        if taints.waits
            && let Pace::Every(period) = pace
        {
            let mut next = lock(&self.next_eviction);
            let next = next.entry(zone).or_insert(now);
            if *next <= now {
                *next = now + period;
                eviction = Eviction::Allowed;
                taints = health::taints(node, eviction, Timestamp::now());
            } else {
                self.queue.add_after(Key::of(node), *next - now);
            }
        }
        match taints.change {
            None => Ok(()),
            Some(taints) => self.write_taints(node, &taints).await,
        }
    }

    async fn write_taints(&self, node: &Node, taints: &[Taint]) -> Result<(), Refused> {
        let name = node.metadata.name.clone().unwrap_or_default();
        let api: Api<Node> = Api::all(self.client.clone());
        let meta = json!({"resourceVersion": node.metadata.resource_version, "uid": node.metadata.uid});
        let patch = Patch::Merge(json!({"metadata": meta, "spec": {"taints": taints}}));
        match api.patch(&name, &PatchParams::default(), &patch).await {
            Ok(written) => {
                self.written.note(&written);
                Ok(())
            }
            Err(error) if is_not_found(&error) => Ok(()),
            Err(error) => Err(Refused::to(format!("taint node {name}"))(error)),
        }
    }

    /// Nobody on the node tells of its pods any more: traffic must not go to them.
    async fn mark_pods_not_ready(&self, key: &Key) -> Result<(), Refused> {
        for pod in pods_on(&self.informers, &key.name) {
            let conditions = pod
                .status
                .as_ref()
                .and_then(|status| status.conditions.as_deref())
                .unwrap_or_default();
            if !conditions
                .iter()
                .any(|condition| condition.type_ == "Ready" && condition.status == "True")
            {
                continue;
            }
            let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
            let name = pod.metadata.name.as_deref().unwrap_or_default();
            let condition = json!({"type": "Ready", "status": "False", "lastTransitionTime": Timestamp::now().round(jiff::Unit::Second).unwrap_or_default()});
            let patch = json!({"metadata": {"uid": pod.metadata.uid}, "status": {"conditions": [condition]}});
            let api: Api<Pod> = Api::namespaced(self.client.clone(), namespace);
            match api
                .patch_status(name, &PatchParams::default(), &Patch::Strategic(patch))
                .await
            {
                Ok(_) => {
                    self.recorder.record(
                        reference(&*pod),
                        EventType::Warning,
                        "NodeNotReady",
                        "Node is not ready",
                    );
                }
                Err(error) if is_not_found(&error) || is_conflict(&error) => {}
                Err(error) => {
                    return Err(Refused::to(format!("mark pod {namespace}/{name} not ready"))(
                        error,
                    ));
                }
            }
        }
        Ok(())
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Notes which nodes to look at when something changes.
fn listen(
    informers: &Informers,
    leases: &Informer<Lease>,
    queue: &Queue<Key>,
    fallen: &Arc<Mutex<HashSet<Key>>>,
    recorder: &Recorder,
) {
    let (nodes, fallen, recorder, known) = (
        queue.clone(),
        Arc::clone(fallen),
        recorder.clone(),
        informers.nodes.clone(),
    );
    informers.nodes.on_change(move |change| {
        let node = change.object();
        let name = node.metadata.name.clone().unwrap_or_default();
        let tell = |reason: &str, message: String| {
            recorder.record(reference(&**node), EventType::Normal, reason, message)
        };
        match change {
            Change::Added(_) => {
                tell(
                    "RegisteredNode",
                    format!("Node {name} event: Registered Node {name} in Controller"),
                );
            }
            Change::Deleted(_) => {
                tell(
                    "RemovingNode",
                    format!("Node {name} event: Removing Node {name} from Controller"),
                );
            }
            Change::Updated { old, new } => {
                if health::ready(old) == Ready::True && health::ready(new) != Ready::True {
                    lock(&fallen).insert(Key::of(&**new));
                    tell("NodeNotReady", format!("Node {name} status is now: NodeNotReady"));
                }
                // Whether pods may be driven off a node depends on the others.
                if health::ready(old) != health::ready(new) {
                    known.all().iter().for_each(|other| nodes.add(Key::of(&**other)));
                }
            }
        }
        nodes.add(Key::of(&**node));
    });
    let leases_of = queue.clone();
    leases.on_change(move |change| {
        leases_of.add(Key::new(
            "",
            change.object().metadata.name.clone().unwrap_or_default(),
        ));
    });
}
