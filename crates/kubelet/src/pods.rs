//! All pods of the node: a worker for each, found by uid; who hears of what.
//!
//! A name has one worker at a time: a pod that takes the name of one that is still being stopped
//! waits until nothing of the former is left.

use std::collections::{BTreeSet, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use k8s_openapi::api::core::v1::Pod;
use stead_informer::semantics::pods::has_ended;
use stead_informer::semantics::{HostPort, host_ports};
use stead_informer::{Change, EventType, Key, reference};
use stead_runtime::{Event, Events, Found};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::node::Node;
use crate::pod::adopt;
use crate::pod::env::references;
use crate::pod::observed::Verdict;
use crate::pod::worker::{Msg, Worker};

/// The pods of a node. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Pods {
    shared: Arc<Shared>,
}

struct Shared {
    node: Arc<Node>,
    state: Mutex<State>,
    tasks: TaskTracker,
}

#[derive(Default)]
struct State {
    by_uid: HashMap<String, Handle>,
    /// Pods that wait for the end of another of their name.
    waiting: HashMap<Key, Arc<Pod>>,
    /// What the runtime found, until a worker takes it.
    found: HashMap<String, adopt::Found>,
    /// No worker begins any more.
    parked: bool,
}

struct Handle {
    key: Key,
    refers_to: References,
    /// The node's ports that the pod takes.
    ports: Vec<HostPort>,
    sender: mpsc::UnboundedSender<Msg>,
}

/// The objects that a pod's volumes are made from.
#[derive(Default)]
struct References {
    config_maps: BTreeSet<String>,
    secrets: BTreeSet<String>,
    claims: BTreeSet<String>,
}

impl Pods {
    /// The pods that the runtime found; workers begin as the API tells of pods.
    pub(crate) fn new(node: Arc<Node>, found: Found) -> Pods {
        let mut state = State::default();
        for pod in found.alive {
            if let Some(address) = adopt::address(pod.config()) {
                node.mark_used(address);
            }
            state.found.insert(pod.uid().to_owned(), adopt::Found::Alive(pod));
        }
        for dead in found.dead {
            state
                .found
                .insert(dead.config.uid.clone(), adopt::Found::Dead(Box::new(dead)));
        }
        Pods {
            shared: Arc::new(Shared {
                node,
                state: Mutex::new(state),
                tasks: TaskTracker::new(),
            }),
        }
    }

    /// The informers that the node's parts share.
    pub(crate) fn informers(&self) -> stead_informer::Informers {
        self.shared.node.informers.clone()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.shared.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Hears of changes from now on. To be called before the informers run.
    pub(crate) fn listen(&self) {
        let informers = &self.shared.node.informers;
        let pods = self.clone();
        informers.pods.on_change(move |change| pods.pod_changed(change));
        let pods = self.clone();
        informers.config_maps.on_change(move |change| {
            pods.tell_those_that(&Key::of(&**change.object()), |refers_to| &refers_to.config_maps);
        });
        let pods = self.clone();
        informers.secrets.on_change(move |change| {
            pods.tell_those_that(&Key::of(&**change.object()), |refers_to| &refers_to.secrets);
        });
        let pods = self.clone();
        informers.claims.on_change(move |change| {
            pods.tell_those_that(&Key::of(&**change.object()), |refers_to| &refers_to.claims);
        });
    }

    fn pod_changed(&self, change: &Change<Pod>) {
        let is_here = |pod: &Pod| {
            let node = pod.spec.as_ref().and_then(|spec| spec.node_name.as_deref());
            node == Some(self.shared.node.config.node_name.as_str())
        };
        match change {
            // A watch that broke may have missed that one pod has taken the place of another.
            Change::Updated { old, new } if old.metadata.uid != new.metadata.uid => {
                self.gone(old);
                if is_here(new) {
                    self.heed(new);
                }
            }
            Change::Added(pod) | Change::Updated { new: pod, .. } if is_here(pod) => self.heed(pod),
            Change::Deleted(pod) if is_here(pod) => self.gone(pod),
            _ => {}
        }
    }

    fn heed(&self, pod: &Arc<Pod>) {
        let uid = pod.metadata.uid.clone().unwrap_or_default();
        let mut state = self.state();
        if let Some(handle) = state.by_uid.get(&uid) {
            // A worker that has just ended needs to hear nothing more.
            let _ = handle.sender.send(Msg::Pod(Arc::clone(pod)));
            return;
        }
        let key = Key::of(&**pod);
        if state.by_uid.values().any(|handle| handle.key == key) {
            state.waiting.insert(key, Arc::clone(pod));
            return;
        }
        self.begin(&mut state, pod);
    }

    fn begin(&self, state: &mut State, pod: &Arc<Pod>) {
        if state.parked {
            return;
        }
        let uid = pod.metadata.uid.clone().unwrap_or_default();
        let mut found = state.found.remove(&uid).unwrap_or(adopt::Found::Nothing);
        let mut ports = pod.spec.as_ref().map(host_ports).unwrap_or_default();
        if matches!(found, adopt::Found::Nothing) && is_new(pod) && self.are_taken(state, &ports) {
            found = adopt::Found::Refused(self.refuse(pod));
            ports.clear();
        }
        let (sender, inbox) = mpsc::unbounded_channel();
        let handle = Handle {
            key: Key::of(&**pod),
            refers_to: refers_to(pod),
            ports,
            sender: sender.clone(),
        };
        state.by_uid.insert(uid.clone(), handle);
        let worker = Worker::new(
            Arc::clone(&self.shared.node),
            Arc::clone(pod),
            found,
            sender,
            inbox,
        );
        let pods = self.clone();
        self.shared.tasks.spawn(async move {
            worker.run().await;
            pods.ended(&uid);
        });
    }

    /// Whether another pod here that has not ended has one of these ports.
    fn are_taken(&self, state: &State, ports: &[HostPort]) -> bool {
        // What is gone from the API may still have a worker for a moment.
        let is_there = |uid: &String, handle: &Handle| {
            let pod = self.shared.node.informers.pods.get(&handle.key);
            pod.is_some_and(|pod| pod.metadata.uid.as_ref() == Some(uid) && !has_ended(&pod))
        };
        state.by_uid.iter().any(|(uid, handle)| {
            let conflicts = |port: &HostPort| handle.ports.iter().any(|other| port.conflicts(other));
            ports.iter().any(conflicts) && is_there(uid, handle)
        })
    }

    /// A pod that was bound without a scheduler is refused as upstream's kubelet does.
    fn refuse(&self, pod: &Arc<Pod>) -> Verdict {
        let why = "Predicate NodePorts failed: node(s) didn't have free ports for the requested pod ports";
        let recorder = &self.shared.node.recorder;
        recorder.record(reference(&**pod), EventType::Warning, "NodePorts", why);
        Verdict {
            reason: "NodePorts".to_owned(),
            message: format!("Pod was rejected: {why}"),
        }
    }

    /// A worker has ended: whoever waited for its name begins.
    fn ended(&self, uid: &str) {
        let mut state = self.state();
        let Some(handle) = state.by_uid.remove(uid) else {
            return;
        };
        if let Some(pod) = state.waiting.remove(&handle.key) {
            self.begin(&mut state, &pod);
        }
    }

    fn gone(&self, pod: &Pod) {
        let uid = pod.metadata.uid.as_deref().unwrap_or_default();
        let mut state = self.state();
        let key = Key::of(pod);
        if state
            .waiting
            .get(&key)
            .is_some_and(|waiting| waiting.metadata.uid.as_deref() == Some(uid))
        {
            state.waiting.remove(&key);
        }
        if let Some(handle) = state.by_uid.get(uid) {
            let _ = handle.sender.send(Msg::Gone);
        }
    }

    fn tell_those_that(&self, key: &Key, names: impl Fn(&References) -> &BTreeSet<String>) {
        for handle in self.state().by_uid.values() {
            if handle.key.namespace == key.namespace && names(&handle.refers_to).contains(&key.name) {
                let _ = handle.sender.send(Msg::VolumesChanged);
            }
        }
    }

    /// Passes on what the runtime tells, until cancelled.
    pub(crate) async fn follow_runtime(&self, mut events: Events, shutdown: CancellationToken) {
        loop {
            let event = tokio::select! {
                () = shutdown.cancelled() => return,
                event = events.next() => event,
            };
            let (uid, msg) = match event {
                None => return,
                Some(Event::ContainerExited {
                    pod,
                    container,
                    name,
                    exit,
                }) => {
                    self.shared.node.exits.tell(&container);
                    (
                        pod,
                        Msg::Exited {
                            name,
                            id: container,
                            exit,
                        },
                    )
                }
                Some(Event::PodEnded { pod }) => (pod, Msg::SandboxEnded),
            };
            if let Some(handle) = self.state().by_uid.get(&uid) {
                let _ = handle.sender.send(msg);
            }
        }
    }

    /// Removes what runs or lies here of pods that the API does not have: they were deleted while
    /// the server was away. To be called when the informers hold all there is.
    pub(crate) async fn remove_orphans(&self) {
        let node = &self.shared.node;
        let orphans: Vec<(String, adopt::Found)> = self.state().found.drain().collect();
        for (uid, found) in orphans {
            tracing::info!(pod = uid, "a pod that is gone from the API is removed");
            let removed = match found {
                adopt::Found::Alive(pod) => pod.remove().await.map_err(|error| error.to_string()),
                adopt::Found::Dead(_) => node
                    .runtime
                    .remove_dead(&uid)
                    .await
                    .map_err(|error| error.to_string()),
                adopt::Found::Nothing | adopt::Found::Refused(_) => Ok(()),
            };
            if let Err(error) = removed {
                tracing::warn!(
                    pod = uid,
                    error,
                    "a pod that is gone from the API was not removed"
                );
            }
        }
        let known: BTreeSet<String> = {
            let state = self.state();
            let waiting = state.waiting.values().filter_map(|pod| pod.metadata.uid.clone());
            state.by_uid.keys().cloned().chain(waiting).collect()
        };
        let node = Arc::clone(node);
        let swept = tokio::task::spawn_blocking(move || node.sweep(&known)).await;
        if let Err(error) = swept {
            tracing::warn!(%error, "leftovers of former pods were not removed");
        }
    }

    /// Stops all pods, each in its grace period, and forgets nothing of them.
    pub(crate) async fn park(&self) {
        {
            let mut state = self.state();
            state.parked = true;
            state.waiting.clear();
            for handle in state.by_uid.values() {
                let _ = handle.sender.send(Msg::Park);
            }
        }
        self.shared.tasks.close();
        self.shared.tasks.wait().await;
    }
}

/// Whether a pod has not been admitted to its node yet.
fn is_new(pod: &Pod) -> bool {
    let status = pod.status.as_ref();
    status.is_none_or(|status| status.start_time.is_none())
}

fn refers_to(pod: &Pod) -> References {
    let mut refers = References::default();
    let Some(spec) = &pod.spec else { return refers };
    for volume in spec.volumes.iter().flatten() {
        refers
            .config_maps
            .extend(volume.config_map.iter().map(|source| source.name.clone()));
        refers.secrets.extend(
            volume
                .secret
                .iter()
                .filter_map(|source| source.secret_name.clone()),
        );
        refers.claims.extend(
            volume
                .persistent_volume_claim
                .iter()
                .map(|source| source.claim_name.clone()),
        );
        for source in volume
            .projected
            .iter()
            .flat_map(|source| source.sources.iter().flatten())
        {
            refers
                .config_maps
                .extend(source.config_map.iter().map(|source| source.name.clone()));
            refers
                .secrets
                .extend(source.secret.iter().map(|source| source.name.clone()));
        }
    }
    // A container that waits for an object of its environment is tried again when that changes.
    for container in spec
        .containers
        .iter()
        .chain(spec.init_containers.iter().flatten())
    {
        let (config_maps, secrets) = references(container);
        refers
            .config_maps
            .extend(config_maps.into_iter().map(str::to_owned));
        refers.secrets.extend(secrets.into_iter().map(str::to_owned));
    }
    refers
}
