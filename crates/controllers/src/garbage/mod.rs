//! The garbage collector: objects go when their last owner has gone ("Garbage Collection").
//!
//! A graph of all objects ([`graph`]) says which of them to look at when something changes: the
//! dependents of what has gone, objects with an owner that is not known, owners that wait for their
//! dependents. A look asks the API for the object and its owners as they are at that moment, decides
//! ([`plan`], pure), and deletes only what is as it was seen, by uid and version.

mod apply;
mod graph;
mod plan;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use k8s_openapi::api::core::v1::ObjectReference;
use kube::Client;
use stead_informer::{EventType, Queue, Reconciled, Recorder, Task, run};
use tokio_util::sync::CancellationToken;

use self::apply::{CollectError, Hands};
use self::graph::{Graph, Misplaced, Node, Uid};
use self::plan::{Dependents, Owner, Verdict};
use crate::inventory::{FOREGROUND, Inventory, Item, ORPHAN};

/// Objects that are looked at at a time.
const WORKERS: usize = 20;
/// How long a kind that cannot be listed may hold back everything else; upstream's initial sync
/// timeout.
const PATIENCE: Duration = Duration::from_secs(30);

/// The controller.
pub struct GarbageCollector {
    graph: Arc<Mutex<Graph>>,
    queue: Queue<Uid>,
    hands: Hands,
    recorder: Recorder,
}

impl GarbageCollector {
    /// A controller that hears of changes from now on.
    pub fn new(client: Client, inventory: &Arc<Inventory>, recorder: Recorder) -> Arc<GarbageCollector> {
        let (graph, queue) = (Arc::new(Mutex::new(Graph::default())), Queue::new());
        let (observing, looks, complaints) = (Arc::clone(&graph), queue.clone(), recorder.clone());
        inventory.on_change(move |kind, change| {
            let mut graph = lock(&observing);
            let consequences = graph.observe(kind, change);
            for misplaced in &consequences.misplaced {
                complain(&complaints, &graph, misplaced);
            }
            for uid in consequences.look {
                looks.add(uid);
            }
        });
        Arc::new(GarbageCollector {
            graph,
            queue,
            hands: Hands {
                client,
                inventory: Arc::clone(inventory),
            },
            recorder,
        })
    }

    /// Works until cancelled.
    pub fn run(self: Arc<Self>, shutdown: CancellationToken) -> Task {
        Box::pin(async move {
            // What is missing after that is only looked at more closely.
            let _ = tokio::time::timeout(PATIENCE, self.hands.inventory.synced()).await;
            let controller = Arc::clone(&self);
            let look = move |uid: Uid| {
                let controller = Arc::clone(&controller);
                async move { controller.look(&uid).await }
            };
            run(
                "garbage-collector",
                self.queue.clone(),
                WORKERS,
                shutdown,
                look,
                |uid| {
                    if let Some(node) = lock(&self.graph).get(uid) {
                        self.recorder.panicked_on(reference(&node));
                    }
                },
            )
            .await;
        })
    }

    async fn look(&self, uid: &str) -> Result<Reconciled, CollectError> {
        let Some(node) = lock(&self.graph).get(uid) else {
            return Ok(Reconciled::Done);
        };
        if node.item.is_deleting() {
            self.look_at_deletion(&node).await?;
            return Ok(Reconciled::Done);
        }
        if lock(&self.graph).is_settled(&node.item) {
            return Ok(Reconciled::Done);
        }
        self.look_at_owners(&node).await
    }

    /// An object on its way out may wait for its dependents, or be about to orphan them.
    async fn look_at_deletion(&self, node: &Node) -> Result<(), CollectError> {
        let uid = node.item.uid();
        if node.item.has_finalizer(FOREGROUND) {
            self.wait_for_kinds().await;
            let blocking = lock(&self.graph).blocking(uid);
            if blocking.is_empty() {
                self.hands.remove_finalizer(node, FOREGROUND).await?;
            }
            for dependent in blocking.iter().filter(|dependent| !dependent.is_foreground()) {
                self.queue.add(dependent.item.uid().into());
            }
        } else if node.item.has_finalizer(ORPHAN) {
            self.wait_for_kinds().await;
            let dependents = lock(&self.graph).dependents(uid);
            self.hands.orphan(uid, dependents).await?;
            self.hands.remove_finalizer(node, ORPHAN).await?;
        }
        Ok(())
    }

    /// A kind that has just come may hold dependents that are not known yet.
    async fn wait_for_kinds(&self) {
        let _ = tokio::time::timeout(PATIENCE, self.hands.inventory.synced()).await;
    }

    async fn look_at_owners(&self, node: &Node) -> Result<Reconciled, CollectError> {
        let Some(live) = self.hands.live(node).await?.filter(|live| !live.is_deleting()) else {
            return Ok(Reconciled::Done);
        };
        let mut owners = Vec::new();
        for reference in live.owners() {
            match self.hands.owner(&live, reference).await? {
                Some(owner) => owners.push(owner),
                None => return Ok(Reconciled::Done),
            }
        }
        let dependents = self.dependents(live.uid());
        match plan::verdict(&live, &owners, dependents) {
            Verdict::Keep => {}
            Verdict::KeepOwners(kept) => {
                self.hands.set_owners(&node.kind, &live, &kept).await?;
            }
            Verdict::Delete {
                propagation,
                unblocked,
            } => {
                let item = match unblocked {
                    None => Some(live),
                    Some(owners) => self.hands.set_owners(&node.kind, &live, &owners).await?,
                };
                if let Some(item) = item {
                    self.hands.delete(&node.kind, &item, propagation).await?;
                }
                return Ok(Reconciled::Done);
            }
        }
        Ok(self.again_unless_known(&live, &owners))
    }

    fn dependents(&self, uid: &str) -> Dependents {
        let graph = lock(&self.graph);
        if !graph.has_dependents(uid) {
            Dependents::None
        } else if graph.dependents(uid).iter().any(Node::is_foreground) {
            Dependents::Waiting
        } else {
            Dependents::Some
        }
    }

    /// An owner that is there but was never seen might go before its kind is listed, and nobody
    /// would hear of it.
    fn again_unless_known(&self, item: &Item, owners: &[Owner]) -> Reconciled {
        let graph = lock(&self.graph);
        let mut solid = item
            .owners()
            .iter()
            .zip(owners)
            .filter(|(_, owner)| **owner == Owner::Solid);
        if solid.all(|(reference, _)| graph.get(&reference.uid).is_some()) {
            Reconciled::Done
        } else {
            Reconciled::Again(PATIENCE)
        }
    }
}

fn lock(graph: &Mutex<Graph>) -> MutexGuard<'_, Graph> {
    graph.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A reference to an object, for events about it.
fn reference(node: &Node) -> ObjectReference {
    let item = &node.item;
    ObjectReference {
        api_version: Some(node.kind.resource.api_version.clone()),
        kind: Some(node.kind.resource.kind.clone()),
        namespace: Some(item.namespace().to_owned()),
        name: Some(item.name().to_owned()),
        uid: Some(item.uid().to_owned()),
        ..ObjectReference::default()
    }
}

/// Tells whoever made a reference to an owner in another namespace.
fn complain(recorder: &Recorder, graph: &Graph, misplaced: &Misplaced) {
    let Some(dependent) = graph.get(&misplaced.dependent) else {
        return;
    };
    let item = &dependent.item;
    let Some(owner) = item.owners().iter().find(|owner| *owner.uid == *misplaced.owner) else {
        return;
    };
    let about = reference(&dependent);
    let namespace = item.namespace();
    let message = format!(
        "ownerRef [{}/{}, namespace: {namespace}, name: {}, uid: {}] does not exist in namespace {namespace:?}",
        owner.api_version, owner.kind, owner.name, owner.uid,
    );
    recorder.record(about, EventType::Warning, "OwnerRefInvalidNamespace", message);
}
