//! The Deployment controller: rolls a template out by ReplicaSets, one for each template there was.
//!
//! A look finds the set of the newest template, or makes it (`sets`), gives the sets their next sizes (`plan`), and
//! tells how far it is (`status`); all three are pure. See "Deployments" in the Kubernetes documentation.

mod plan;
mod sets;
mod status;

use std::sync::Arc;

use jiff::Timestamp;
use k8s_openapi::api::apps::v1::{Deployment, DeploymentStatus, ReplicaSet};
use k8s_openapi::api::core::v1::Pod;
use kube::api::{DeleteParams, PostParams};
use kube::{Api, Client};
use stead_informer::semantics::Selector;
use stead_informer::semantics::pods::has_ended;
use stead_informer::{
    Change, EventType, Informers, Key, Objects, Queue, Reconciled, Recorder, Task, reference,
};
use tokio_util::sync::CancellationToken;

use self::plan::{Bounds, Size, Sizes};
use self::status::News;
use crate::owned::{Dependents, controller_of, follow, owner_of};
use crate::refused::{Refused, is_already_exists, is_namespace_terminating, is_not_found};
use crate::written::{STALE, Written};

/// Deployments that are looked at at a time.
const WORKERS: usize = 16;

/// The controller.
pub struct DeploymentsController {
    client: Client,
    informers: Informers,
    recorder: Recorder,
    queue: Queue<Key>,
    wrote: Written<Deployment>,
    wrote_sets: Written<ReplicaSet>,
}

/// What there is of a Deployment.
struct Found {
    newest: Option<Arc<ReplicaSet>>,
    old: Vec<Arc<ReplicaSet>>,
    bounds: Bounds,
    news: News,
}

impl DeploymentsController {
    /// A controller that hears of changes from now on.
    pub fn new(client: Client, informers: &Informers, recorder: Recorder) -> Arc<DeploymentsController> {
        let queue = Queue::new();
        listen(informers, &queue);
        Arc::new(DeploymentsController {
            client,
            informers: informers.clone(),
            recorder,
            queue,
            wrote: Written::new(&informers.deployments),
            wrote_sets: Written::new(&informers.replica_sets),
        })
    }

    /// Works until cancelled.
    pub fn run(self: Arc<Self>, shutdown: CancellationToken) -> Task {
        Box::pin(async move {
            self.informers.synced().await;
            let deployments = Objects {
                name: "deployment",
                queue: self.queue.clone(),
                concurrency: WORKERS,
                informer: self.informers.deployments.clone(),
                recorder: self.recorder.clone(),
            };
            let look = |controller: Arc<Self>, key| async move { controller.reconcile(&key).await };
            deployments.run(self, shutdown, look).await;
        })
    }

    async fn reconcile(&self, key: &Key) -> Result<Reconciled, Refused> {
        if !self.wrote.caught_up().await || !self.wrote_sets.caught_up().await {
            return Ok(Reconciled::Again(STALE));
        }
        let Some(deployment) = self.informers.deployments.get(key) else {
            return Ok(Reconciled::Done);
        };
        let mut deployment = Deployment::clone(&deployment);
        let (newest, old) = sets::divide(&deployment, self.own_sets(&deployment).await?);
        let mut found = Found {
            newest,
            old,
            bounds: Bounds::of(&deployment),
            news: News::None,
        };
        let outcome = self.act(&mut deployment, &mut found).await;
        let now = Timestamp::now();
        let old: Vec<&ReplicaSet> = found.old.iter().map(|set| &**set).collect();
        let newest = found.newest.as_deref();
        let rests = deployment.metadata.deletion_timestamp.is_some() || deployment.spec.paused == Some(true);
        let status = if rests || is_scaled(&found) {
            status::resting(&deployment, newest, &old, now)
        } else {
            status::rolling(&deployment, newest, &old, &found.news, now)
        };
        let next = status::next_look(&deployment, &status, now);
        self.write_status(key, deployment, status, newest).await?;
        outcome?;
        Ok(next.map_or(Reconciled::Done, Reconciled::Again))
    }

    /// Does what is next.
    async fn act(&self, deployment: &mut Deployment, found: &mut Found) -> Result<(), Refused> {
        if deployment.metadata.deletion_timestamp.is_some() {
            return Ok(());
        }
        let is_paused = deployment.spec.paused == Some(true);
        if is_paused || is_scaled(found) {
            let replicas = deployment
                .status
                .as_ref()
                .and_then(|status| status.replicas)
                .unwrap_or(0);
            let (newest, old) = sizes(found);
            let to = plan::scale(&found.bounds, newest.as_ref(), &old, replicas);
            self.resize(deployment, found, &to, true).await?;
            if is_paused {
                self.prune(deployment, found).await?;
            }
            return Ok(());
        }
        if !found.bounds.is_rolling {
            let (_, old) = sizes(found);
            let to = plan::none_of(&old);
            if !to.is_empty() {
                return self.resize(deployment, found, &to, false).await;
            }
            if self.old_pods_run(deployment, found) {
                return Ok(());
            }
        }
        self.ensure_newest(deployment, found).await?;
        let (Some(newest), old) = sizes(found) else {
            return Ok(());
        };
        let to = plan::roll(&found.bounds, &newest, &old);
        if !to.is_empty() {
            return self.resize(deployment, found, &to, false).await;
        }
        if deployment
            .status
            .as_ref()
            .is_some_and(|status| status::is_complete(deployment, status))
        {
            self.prune(deployment, found).await?;
        }
        Ok(())
    }

    /// The Deployment's sets, after adopting and releasing what is to be.
    async fn own_sets(&self, deployment: &Deployment) -> Result<Vec<Arc<ReplicaSet>>, Refused> {
        let namespace = deployment.metadata.namespace.as_deref().unwrap_or_default();
        let dependents = Dependents {
            kind: ("apps/v1", "Deployment"),
            owner: &deployment.metadata,
            owners: Api::<Deployment>::namespaced(self.client.clone(), namespace),
            selector: &deployment.spec.selector,
            api: Api::namespaced(self.client.clone(), namespace),
            written: &self.wrote_sets,
            finalizer: None,
            is_wanted: |_| true,
        };
        dependents
            .claim(self.informers.replica_sets.in_namespace(namespace))
            .await
    }

    /// Makes the set of the newest template, or brings it up to date.
    async fn ensure_newest(&self, deployment: &mut Deployment, found: &mut Found) -> Result<(), Refused> {
        let number = found.old.iter().map(|set| sets::revision(set)).max().unwrap_or(0) + 1;
        if let Some(set) = &found.newest {
            found.news = News::Found;
            let mut updated = ReplicaSet::clone(set);
            if sets::update(&mut updated, deployment, number) {
                found.newest = Some(self.write(&updated).await?);
            }
            return Ok(());
        }
        let all = found.old.iter().map(|set| sets::size(set)).sum();
        let replicas = found.bounds.of_newest(0, all);
        let new = sets::new_set(deployment, &found.bounds, replicas, number);
        let name = new.metadata.name.clone().unwrap_or_default();
        let namespace = new.metadata.namespace.as_deref().unwrap_or_default();
        let api: Api<ReplicaSet> = Api::namespaced(self.client.clone(), namespace);
        let made = match api.create(&PostParams::default(), &new).await {
            Ok(made) => {
                if replicas > 0 {
                    let message = format!("Scaled up replica set {name} to {replicas}");
                    self.record(deployment, EventType::Normal, "ScalingReplicaSet", message);
                }
                found.news = News::Created;
                made
            }
            Err(error) if is_already_exists(&error) => {
                let there = api.get_opt(&name).await;
                let there = there.map_err(Refused::to(format!("get replica set {name}")))?;
                let own = there.filter(|set| {
                    let is_own = controller_of(&set.metadata) == deployment.metadata.uid.as_deref();
                    is_own && sets::is_of_template(set, deployment)
                });
                match own {
                    Some(set) => set,
                    None => {
                        // The next look makes another name.
                        let status = deployment.status.get_or_insert_default();
                        status.collision_count = Some(status.collision_count.unwrap_or(0).saturating_add(1));
                        return Err(Refused::to(format!("create replica set {name}"))(error));
                    }
                }
            }
            // All goes with the namespace.
            Err(error) if is_namespace_terminating(&error) => return Ok(()),
            Err(error) => {
                let error = Refused::to(format!("create replica set {name}"))(error);
                let why = error.cause();
                let message = format!("Failed to create new replica set \"{name}\": {why}");
                self.record(deployment, EventType::Warning, "ReplicaSetCreateError", message);
                found.news = News::Refused { set: name, why };
                return Err(error);
            }
        };
        self.wrote_sets.note(&made);
        found.newest = Some(Arc::new(made));
        Ok(())
    }

    /// Gives sets their sizes. `all` notes the Deployment's size on all that have replicas, too.
    async fn resize(
        &self,
        deployment: &Deployment,
        found: &mut Found,
        sizes: &Sizes,
        all: bool,
    ) -> Result<(), Refused> {
        let bounds = found.bounds;
        if let Some(set) = &mut found.newest {
            self.resize_set(deployment, &bounds, set, sizes.newest, all)
                .await?;
        }
        for (at, set) in found.old.iter_mut().enumerate() {
            let to = sizes.old.iter().find(|(of, _)| *of == at).map(|(_, to)| *to);
            self.resize_set(deployment, &bounds, set, to, all).await?;
        }
        Ok(())
    }

    async fn resize_set(
        &self,
        deployment: &Deployment,
        bounds: &Bounds,
        set: &mut Arc<ReplicaSet>,
        to: Option<i32>,
        notes: bool,
    ) -> Result<(), Refused> {
        let before = sets::size(set);
        if to.is_none() && !(notes && before > 0) {
            return Ok(());
        }
        let mut updated = ReplicaSet::clone(set);
        let is_noted = sets::note_sizes(&mut updated, bounds);
        if to.is_none() && !is_noted {
            return Ok(());
        }
        let to = to.unwrap_or(before);
        updated.spec.replicas = Some(to);
        *set = self.write(&updated).await?;
        if to != before {
            let name = set.metadata.name.as_deref().unwrap_or_default();
            let way = if to > before { "up" } else { "down" };
            let message = format!("Scaled {way} replica set {name} to {to} from {before}");
            self.record(deployment, EventType::Normal, "ScalingReplicaSet", message);
        }
        Ok(())
    }

    async fn write(&self, set: &ReplicaSet) -> Result<Arc<ReplicaSet>, Refused> {
        let name = set.metadata.name.as_deref().unwrap_or_default();
        let namespace = set.metadata.namespace.as_deref().unwrap_or_default();
        let api: Api<ReplicaSet> = Api::namespaced(self.client.clone(), namespace);
        let written = api.replace(name, &PostParams::default(), set).await;
        let written = written.map_err(Refused::to(format!("update replica set {name}")))?;
        self.wrote_sets.note(&written);
        Ok(Arc::new(written))
    }

    /// Whether pods of old templates have not ended, also those on their way out.
    fn old_pods_run(&self, deployment: &Deployment, found: &Found) -> bool {
        if found.old.iter().any(|set| status::actual(set) > 0) {
            return true;
        }
        let namespace = deployment.metadata.namespace.as_deref().unwrap_or_default();
        let owner = |pod: &Pod| controller_of(&pod.metadata).map(str::to_owned);
        let is_old = |uid: &str| {
            found
                .old
                .iter()
                .any(|set| set.metadata.uid.as_deref() == Some(uid))
        };
        self.informers
            .pods
            .in_namespace(namespace)
            .iter()
            .any(|pod| !has_ended(pod) && owner(pod).is_some_and(|uid| is_old(&uid)))
    }

    /// Deletes sets of old templates beyond the limit.
    async fn prune(&self, deployment: &Deployment, found: &Found) -> Result<(), Refused> {
        let namespace = deployment.metadata.namespace.as_deref().unwrap_or_default();
        let api: Api<ReplicaSet> = Api::namespaced(self.client.clone(), namespace);
        for set in sets::superfluous(&found.old, deployment.spec.revision_history_limit) {
            let name = set.metadata.name.as_deref().unwrap_or_default();
            match api.delete(name, &DeleteParams::background()).await {
                Ok(_) => {}
                Err(error) if is_not_found(&error) => {}
                Err(error) => return Err(Refused::to(format!("delete replica set {name}"))(error)),
            }
        }
        Ok(())
    }

    /// Writes the status, and the number of the newest set's rollout, if they have changed.
    async fn write_status(
        &self,
        key: &Key,
        mut deployment: Deployment,
        mut status: DeploymentStatus,
        newest: Option<&ReplicaSet>,
    ) -> Result<(), Refused> {
        let before = self.informers.deployments.get(key);
        let before = before
            .and_then(|before| before.status.clone())
            .unwrap_or_default();
        status.collision_count = deployment
            .status
            .as_ref()
            .and_then(|status| status.collision_count);
        let number = newest.map(sets::revision).filter(|number| *number > 0);
        let annotations = deployment.metadata.annotations.get_or_insert_default();
        let is_numbered = number.is_none_or(|number| {
            let number = number.to_string();
            annotations.insert(sets::REVISION.to_owned(), number.clone()) == Some(number)
        });
        if is_numbered && !status::differs(&before, &status) {
            return Ok(());
        }
        deployment.status = Some(status);
        let api: Api<Deployment> = Api::namespaced(self.client.clone(), &key.namespace);
        let written = api
            .replace_status(&key.name, &PostParams::default(), &deployment)
            .await;
        let what = format!("update the status of {key}");
        self.wrote.settle(written, what).map(drop)
    }

    fn record(&self, deployment: &Deployment, kind: EventType, reason: &str, message: String) {
        self.recorder.record(reference(deployment), kind, reason, message);
    }
}

fn sizes(found: &Found) -> (Option<Size>, Vec<Size>) {
    let size = |set: &Arc<ReplicaSet>| Size {
        wanted: sets::size(set),
        // A status may be from before its set was scaled down.
        available: status::available(set).min(sets::size(set)),
        desired: sets::desired(set),
        most: sets::most(set),
    };
    (
        found.newest.as_ref().map(size),
        found.old.iter().map(size).collect(),
    )
}

/// Whether the Deployment's replicas have changed, and its sets not yet.
fn is_scaled(found: &Found) -> bool {
    let (newest, old) = sizes(found);
    plan::is_scaled(&found.bounds, newest.as_ref(), &old)
}

/// Notes which Deployments to look at when something changes.
fn listen(informers: &Informers, queue: &Queue<Key>) {
    let selector = |deployment: &Deployment| Selector::new(&deployment.spec.selector);
    let deployments = ("Deployment", &informers.deployments);
    follow(deployments, &informers.replica_sets, selector, queue);
    // A Deployment that is recreated waits until the last of its old pods is gone.
    let (pods, replica_sets) = (queue.clone(), informers.replica_sets.clone());
    informers.pods.on_change(move |change: &Change<Pod>| {
        let is_gone = matches!(change, Change::Deleted(_)) || has_ended(change.object());
        if let Some(set) = owner_of(&change.object().metadata, "ReplicaSet").filter(|_| is_gone)
            && let Some(set) = replica_sets.get(&set)
            && let Some(deployment) = owner_of(&set.metadata, "Deployment")
        {
            pods.add(deployment);
        }
    });
}
