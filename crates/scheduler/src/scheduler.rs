//! The scheduler's wiring: what it watches, one loop that decides, and the tasks that carry out.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use futures::FutureExt as _;
use k8s_openapi::api::core::v1::{Node, PersistentVolumeClaim};
use kube::{Api, Client};
use stead_informer::{Change, EventType, Informers, Key, Recorder, Task, reference};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::bind::{BindError, Binder};
use crate::cluster::{Cluster, Effect};
use crate::decide::{Failure, Placement, View, decide};
use crate::filter::volumes::{Assumed, Storage};
use crate::pod::{PodInfo, is_to_be_placed};
use crate::queue::{Causes, PodQueue, Seen, Work};
use crate::report::{self, Why};

/// The name that pods ask for this scheduler by, and the component that its events come from.
pub const NAME: &str = "default-scheduler";

/// The scheduler.
pub struct Scheduler {
    client: Client,
    informers: Informers,
    recorder: Recorder,
    shared: Arc<Shared>,
    assumed: Mutex<Assumed>,
}

/// What the informers' handlers keep up to date.
struct Shared {
    queue: PodQueue,
    cluster: Mutex<Cluster>,
    /// Moves when something changes that a pod in work may wait for.
    changes: watch::Sender<u64>,
}

impl Shared {
    fn cluster(&self) -> MutexGuard<'_, Cluster> {
        self.cluster.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn announce(&self) {
        self.changes.send_modify(|count| *count += 1);
    }
}

impl Scheduler {
    /// A scheduler that hears of changes from now on. The recorder's component should be [`NAME`].
    pub fn new(client: Client, informers: &Informers, recorder: Recorder) -> Arc<Scheduler> {
        let shared = Arc::new(Shared {
            queue: PodQueue::default(),
            cluster: Mutex::default(),
            changes: watch::Sender::new(0),
        });
        listen(informers, &shared);
        Arc::new(Scheduler {
            client,
            informers: informers.clone(),
            recorder,
            shared,
            assumed: Mutex::default(),
        })
    }

    /// Works until cancelled. What is being bound then is broken off: the next scheduler finds it as
    /// it is.
    pub fn run(self: Arc<Self>, shutdown: CancellationToken) -> Task {
        Box::pin(async move {
            tokio::select! {
                () = shutdown.cancelled() => return,
                () = self.informers.synced() => {}
            }
            let mut working: JoinSet<()> = JoinSet::new();
            loop {
                tokio::select! {
                    () = shutdown.cancelled() => break,
                    Some(_) = working.join_next() => {}
                    work = self.shared.queue.next() => self.schedule(work, &mut working),
                }
            }
            working.shutdown().await;
        })
    }

    /// Decides about a pod and has that carried out. The decision counts at once.
    fn schedule(self: &Arc<Self>, work: Work, working: &mut JoinSet<()>) {
        let pod = Arc::clone(&work.pod);
        let scheduler = Arc::clone(self);
        match catch_unwind(AssertUnwindSafe(|| self.decide(&pod))) {
            Ok(Ok(placement)) => {
                self.assumed().add(&placement.bindings, &placement.node);
                self.shared.cluster().assume(Arc::clone(&pod), &placement.node);
                working.spawn(async move {
                    let bound = AssertUnwindSafe(scheduler.bind(&pod, &placement))
                        .catch_unwind()
                        .await;
                    scheduler.assumed().remove(&placement.bindings);
                    match bound {
                        Ok(Ok(())) => {}
                        Ok(Err(error)) => scheduler.not_bound(&pod, &error).await,
                        Err(_) => {
                            tracing::error!(pod = %pod.key, "binding the pod panicked");
                            scheduler.recorder.panicked(Some(&*pod.pod));
                            scheduler.take_back(&pod);
                        }
                    }
                });
            }
            Ok(Err(failure)) => {
                working.spawn(async move { scheduler.not_placed(&pod, &failure, &work.seen).await });
            }
            Err(_) => {
                tracing::error!(pod = %pod.key, "the decision about the pod panicked");
                self.recorder.panicked(Some(&*pod.pod));
                self.shared.queue.retry(&pod);
            }
        }
    }

    fn assumed(&self) -> MutexGuard<'_, Assumed> {
        self.assumed.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn decide(&self, pod: &PodInfo) -> Result<Placement, Failure> {
        let informers = &self.informers;
        let assumed = self.assumed();
        let storage = Storage {
            claim: &|key| informers.claims.get(key),
            volume: &|name| informers.volumes.get(&Key::new("", name)),
            volumes: &|| informers.volumes.all(),
            class: &|name| informers.storage_classes.get(&Key::new("", name)),
            assumed: &assumed,
        };
        let namespace_labels = |name: &str| {
            let namespace = informers.namespaces.get(&Key::new("", name))?;
            namespace.metadata.labels.clone()
        };
        let cluster = self.shared.cluster();
        let view = View {
            cluster: &cluster,
            storage: &storage,
            namespace_labels: &namespace_labels,
        };
        decide(pod, &view)
    }

    async fn bind(&self, pod: &PodInfo, placement: &Placement) -> Result<(), BindError> {
        let mut binder = Binder {
            client: &self.client,
            informers: &self.informers,
            changes: self.shared.changes.subscribe(),
        };
        binder.bind(pod, placement).await?;
        let message = format!("Successfully assigned {} to {}", pod.key, placement.node);
        self.recorder
            .record(reference(&*pod.pod), EventType::Normal, "Scheduled", message);
        Ok(())
    }

    /// A pod was placed, and could not be bound.
    async fn not_bound(&self, pod: &PodInfo, error: &BindError) {
        tracing::debug!(pod = %pod.key, %error, "the pod was not bound");
        match error {
            BindError::PodGone | BindError::Stale(_) => {}
            BindError::Timeout | BindError::Api { .. } => {
                let message = error.to_string();
                self.report(pod, Why::SchedulerError, &message).await;
            }
        }
        self.take_back(pod);
    }

    /// Takes a decision back, and decides again after a while if the pod is still there.
    fn take_back(&self, pod: &PodInfo) {
        if self.shared.cluster().forget(pod) {
            self.shared.queue.wake(Causes::PODS_WENT);
        }
        self.shared.queue.retry(pod);
    }

    /// A pod fits nowhere. It stays in work until that is said, so that no later word is overtaken.
    async fn not_placed(&self, pod: &PodInfo, failure: &Failure, seen: &Seen) {
        let queue = &self.shared.queue;
        if queue.is_news(pod, &failure.message) {
            let lags = match &failure.missing_claim {
                Some(claim) => self.is_there(pod, claim).await,
                None => false,
            };
            if !lags {
                self.report(pod, Why::Unschedulable, &failure.message).await;
                queue.note_said(pod, &failure.message);
            }
        }
        queue.wait(pod, failure.causes, seen);
    }

    /// Whether there is a claim that the cache does not have yet, as when pod and claim have just
    /// been made: then it comes at once, and nothing need be said.
    async fn is_there(&self, pod: &PodInfo, claim: &str) -> bool {
        let api: Api<PersistentVolumeClaim> = Api::namespaced(self.client.clone(), &pod.key.namespace);
        matches!(api.get_metadata_opt(claim).await, Ok(Some(_)))
    }

    async fn report(&self, pod: &PodInfo, why: Why, message: &str) {
        report::failure(&self.client, &self.informers, &self.recorder, pod, why, message).await;
    }
}

/// Keeps queue and cluster up to date.
fn listen(informers: &Informers, shared: &Arc<Shared>) {
    let pods = Arc::clone(shared);
    informers.pods.on_change(move |change| {
        let effect = match change {
            Change::Added(pod) | Change::Updated { new: pod, .. } => {
                let effect = pods.cluster().set_pod(pod);
                if is_to_be_placed(pod, NAME) {
                    pods.queue.set(pod);
                } else if pods.queue.remove(&Key::of(&**pod)) {
                    pods.announce();
                }
                effect
            }
            Change::Deleted(pod) => {
                if pods.queue.remove(&Key::of(&**pod)) {
                    pods.announce();
                }
                if pods.cluster().remove_pod(pod) {
                    Effect::Went
                } else {
                    Effect::None
                }
            }
        };
        match effect {
            Effect::None => {}
            Effect::Came => pods.queue.wake(Causes::PODS_CAME),
            Effect::Went => pods.queue.wake(Causes::PODS_WENT),
        }
    });
    let nodes = Arc::clone(shared);
    informers.nodes.on_change(move |change| {
        match change {
            Change::Added(node) | Change::Updated { new: node, .. } => {
                nodes.cluster().set_node(Arc::clone(node))
            }
            Change::Deleted(node) => {
                let name = node.metadata.name.as_deref().unwrap_or_default();
                nodes.cluster().remove_node(name);
            }
        }
        match change {
            Change::Updated { old, new } if are_alike(old, new) => {}
            Change::Added(_) | Change::Updated { .. } => nodes.queue.wake(Causes::NODES),
            // A claim whose volume was to be made there may have it elsewhere now.
            Change::Deleted(_) => nodes.queue.wake(Causes::NODES | Causes::STORAGE),
        }
    });
    let claims = Arc::clone(shared);
    informers.claims.on_change(move |_| {
        claims.queue.wake(Causes::STORAGE);
        claims.announce();
    });
    let volumes = Arc::clone(shared);
    informers.volumes.on_change(move |_| {
        volumes.queue.wake(Causes::STORAGE);
        volumes.announce();
    });
    let classes = Arc::clone(shared);
    informers
        .storage_classes
        .on_change(move |_| classes.queue.wake(Causes::STORAGE));
    let namespaces = Arc::clone(shared);
    informers.namespaces.on_change(move |change| {
        if let Change::Updated { old, new } = change
            && old.metadata.labels != new.metadata.labels
        {
            // Terms that select namespaces may mean other pods now.
            namespaces.queue.wake(Causes::PODS_CAME | Causes::PODS_WENT);
        }
    });
}

/// Whether two states of a node are the same to all decisions; a heartbeat changes nothing.
fn are_alike(old: &Node, new: &Node) -> bool {
    let allocatable = |node: &Node| node.status.as_ref().and_then(|status| status.allocatable.clone());
    old.metadata.labels == new.metadata.labels && old.spec == new.spec && allocatable(old) == allocatable(new)
}
