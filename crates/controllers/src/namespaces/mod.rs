//! The namespace controller: a namespace that is deleted takes its content with it ("Namespaces",
//! KEP-5080 for the order).
//!
//! A look at a namespace on its way out deletes its pods, and, when those are gone, everything else;
//! then it waits for what has finalizers. Nothing is polled: the inventory hears of every object
//! that goes, and each that does so in such a namespace brings the next look, which asks only for
//! the kinds of which something was left. When nothing is left, and discovery at that moment knows
//! of no further kinds, the namespace is finalized.

mod conditions;
mod content;

use std::collections::{BTreeSet, HashMap};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::Namespace;
use kube::api::PostParams;
use kube::{Api, Client};
use stead_informer::{Change, Informers, Key, Objects, Queue, Reconciled, Recorder, Task};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use self::conditions::Found;
use self::content::Pass;
use crate::inventory::{Inventory, Kind};
use crate::refused::{Refused, is_conflict, is_not_found};
use crate::written::Written;

/// Namespaces that are looked at at a time.
const WORKERS: usize = 10;
/// The finalizer, in a namespace's spec, that this controller takes off.
const FINALIZER: &str = "kubernetes";
/// How often the conditions of one namespace are written at most, while its objects go one by one.
const CONDITIONS_PERIOD: Duration = Duration::from_secs(1);
/// How often kinds that cannot be watched are looked at while something of them is left.
const UNWATCHED_PERIOD: Duration = Duration::from_secs(5);

/// Why a namespace is not gone yet.
#[derive(Debug, thiserror::Error)]
enum NamespaceError {
    /// The API did not do what was asked.
    #[error(transparent)]
    Api(#[from] Refused),
    /// Some of its content could not be deleted, or may not be known.
    #[error("content could not be deleted: {0}")]
    Content(String),
}

/// The controller.
pub struct NamespacesController {
    client: Client,
    informers: Informers,
    inventory: Arc<Inventory>,
    recorder: Recorder,
    queue: Queue<Key>,
    progress: Mutex<HashMap<Key, Progress>>,
    written: Written<Namespace>,
}

/// How far the deletion of a namespace has come.
#[derive(Clone, Default)]
struct Progress {
    /// Kinds of which something was left.
    pending: Vec<Arc<Kind>>,
    conditions_written: Option<Instant>,
}

impl NamespacesController {
    /// A controller that hears of changes from now on.
    pub fn new(
        client: Client,
        informers: &Informers,
        inventory: &Arc<Inventory>,
        recorder: Recorder,
    ) -> Arc<NamespacesController> {
        let queue = Queue::new();
        listen(informers, inventory, &queue);
        Arc::new(NamespacesController {
            client,
            informers: informers.clone(),
            inventory: Arc::clone(inventory),
            recorder,
            queue,
            progress: Mutex::default(),
            written: Written::new(&informers.namespaces),
        })
    }

    /// Works until cancelled.
    pub fn run(self: Arc<Self>, shutdown: CancellationToken) -> Task {
        Box::pin(async move {
            self.informers.synced().await;
            let namespaces = Objects {
                name: "namespaces",
                queue: self.queue.clone(),
                concurrency: WORKERS,
                informer: self.informers.namespaces.clone(),
                recorder: self.recorder.clone(),
            };
            let look = |controller: Arc<Self>, key| async move { controller.reconcile(&key).await };
            namespaces.run(self, shutdown, look).await;
        })
    }

    async fn reconcile(&self, key: &Key) -> Result<Reconciled, NamespaceError> {
        self.written.caught_up().await;
        let namespace = self
            .informers
            .namespaces
            .get(key)
            .filter(|namespace| is_to_finalize(namespace));
        let Some(namespace) = namespace else {
            self.progress
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .remove(key);
            return Ok(Reconciled::Done);
        };
        let mut progress = self.progress_of(key);
        let pass = self.pass(&key.name, &progress.pending).await?;
        progress.pending.clone_from(&pass.pending);
        let remains = !pass.found.is_empty() || has_other_finalizers(&namespace);
        let (namespace, again) = if remains {
            self.write_conditions(&namespace, &pass.found, &mut progress)
                .await?
        } else {
            (Some(namespace), None)
        };
        self.progress
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .insert(key.clone(), progress);
        let Some(namespace) = namespace else {
            return Ok(Reconciled::Done);
        };
        if pass.found.is_empty() {
            self.finalize(&namespace).await?;
            return Ok(Reconciled::Done);
        }
        if !pass.found.failures.is_empty() || !pass.found.unknown.is_empty() {
            let mut why = pass.found.failures.clone();
            why.extend(pass.found.unknown.clone());
            return Err(NamespaceError::Content(why.join(", ")));
        }
        let is_unwatched = |kind: &Arc<Kind>| !kind.can("watch") || kind.is_event();
        let unwatched = pass.pending.iter().any(is_unwatched).then_some(UNWATCHED_PERIOD);
        Ok(match [again, unwatched].into_iter().flatten().min() {
            Some(after) => Reconciled::Again(after),
            None => Reconciled::Done,
        })
    }

    fn progress_of(&self, key: &Key) -> Progress {
        let progress = self.progress.lock().unwrap_or_else(PoisonError::into_inner);
        progress.get(key).cloned().unwrap_or_default()
    }

    /// Looks at the kinds of which something was left, and if nothing is any more, at all of them.
    async fn pass(&self, namespace: &str, pending: &[Arc<Kind>]) -> Result<Pass, NamespaceError> {
        if !pending.is_empty() {
            let pass = content::look(&self.client, namespace, pending).await;
            if !pass.found.is_empty() && pass.found.failures.is_empty() {
                return Ok(pass);
            }
        }
        let kinds = self
            .inventory
            .discover()
            .await
            .map_err(Refused::to("discover what is served"))?;
        let is_content = |kind: &&Arc<Kind>| kind.namespaced && kind.can("delete");
        let is_pods = |kind: &Kind| kind.resource.group.is_empty() && kind.resource.plural == "pods";
        let (pods, others): (Vec<_>, Vec<_>) = kinds
            .all
            .iter()
            .filter(is_content)
            .cloned()
            .partition(|kind| is_pods(kind));
        let mut pass = content::delete(&self.client, namespace, &pods).await;
        // What the pods use stays until they are gone.
        if pass.found.is_empty() {
            pass = content::delete(&self.client, namespace, &others).await;
        }
        pass.found.unknown.clone_from(&kinds.unknown);
        Ok(pass)
    }

    /// Writes what was found, though not too often. Gives the namespace as it is then, none if it is
    /// gone or has changed, and when to write again.
    async fn write_conditions(
        &self,
        namespace: &Arc<Namespace>,
        found: &Found,
        progress: &mut Progress,
    ) -> Result<(Option<Arc<Namespace>>, Option<Duration>), Refused> {
        let mut wanted = Namespace::clone(namespace);
        let status = wanted.status.get_or_insert_default();
        let current = status.conditions.clone().unwrap_or_default();
        let Some(conditions) = conditions::conditions(&current, found, Timestamp::now()) else {
            return Ok((Some(Arc::clone(namespace)), None));
        };
        if let Some(written) = progress.conditions_written
            && !found.is_empty()
        {
            let rest = CONDITIONS_PERIOD.saturating_sub(written.elapsed());
            if !rest.is_zero() {
                return Ok((Some(Arc::clone(namespace)), Some(rest)));
            }
        }
        status.conditions = Some(conditions);
        status.phase = Some("Terminating".to_owned());
        let name = wanted.metadata.name.clone().unwrap_or_default();
        let api: Api<Namespace> = Api::all(self.client.clone());
        match api.replace_status(&name, &PostParams::default(), &wanted).await {
            Ok(written) => {
                self.written.note(&written);
                progress.conditions_written = Some(Instant::now());
                Ok((Some(Arc::new(written)), None))
            }
            // Changed or gone meanwhile, which brings the next look.
            Err(error) if is_conflict(&error) || is_not_found(&error) => Ok((None, None)),
            Err(error) => Err(Refused::to(format!("update the status of namespace {name}"))(
                error,
            )),
        }
    }

    async fn finalize(&self, namespace: &Namespace) -> Result<(), Refused> {
        let mut finalized = namespace.clone();
        let name = finalized.metadata.name.clone().unwrap_or_default();
        if let Some(finalizers) = finalized.spec.as_mut().and_then(|spec| spec.finalizers.as_mut()) {
            finalizers.retain(|finalizer| finalizer != FINALIZER);
        }
        let api: Api<Namespace> = Api::all(self.client.clone());
        let what = format!("finalize namespace {name}");
        match api
            .replace_subresource("finalize", &name, &PostParams::default(), &finalized)
            .await
        {
            Ok(written) => {
                self.written.note(&written);
                Ok(())
            }
            Err(error) if is_not_found(&error) => Ok(()),
            Err(error) => Err(Refused::to(what)(error)),
        }
    }
}

fn is_to_finalize(namespace: &Namespace) -> bool {
    let finalizers = namespace.spec.as_ref().and_then(|spec| spec.finalizers.as_ref());
    namespace.metadata.deletion_timestamp.is_some()
        && finalizers.is_some_and(|finalizers| finalizers.iter().any(|finalizer| finalizer == FINALIZER))
}

/// Whether a namespace stays when this controller is done with it.
fn has_other_finalizers(namespace: &Namespace) -> bool {
    let in_spec = namespace
        .spec
        .as_ref()
        .and_then(|spec| spec.finalizers.as_deref())
        .unwrap_or_default();
    let in_metadata = namespace.metadata.finalizers.as_deref().unwrap_or_default();
    in_spec.iter().any(|finalizer| finalizer != FINALIZER) || !in_metadata.is_empty()
}

/// Notes which namespaces to look at when something changes.
fn listen(informers: &Informers, inventory: &Arc<Inventory>, queue: &Queue<Key>) {
    // Namespaces on their way out: mostly none, which makes the many changes elsewhere cost nothing.
    let terminating: Arc<RwLock<BTreeSet<String>>> = Arc::default();
    let (namespaces, known) = (queue.clone(), Arc::clone(&terminating));
    informers.namespaces.on_change(move |change| {
        let namespace = change.object();
        let name = namespace.metadata.name.clone().unwrap_or_default();
        let mut known = known.write().unwrap_or_else(PoisonError::into_inner);
        match change {
            Change::Added(namespace) | Change::Updated { new: namespace, .. }
                if is_to_finalize(namespace) =>
            {
                known.insert(name);
                namespaces.add(Key::of(&**namespace));
            }
            _ => {
                if known.remove(&name) {
                    namespaces.add(Key::of(&**namespace));
                }
            }
        }
    });
    let content = queue.clone();
    inventory.on_change(move |_, change| {
        let item = match change {
            Change::Deleted(item) => item,
            Change::Updated { old, new } if old.finalizers() != new.finalizers() => new,
            Change::Added(_) | Change::Updated { .. } => return,
        };
        if terminating
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .contains(item.namespace())
        {
            content.add(Key::new("", item.namespace()));
        }
    });
}
