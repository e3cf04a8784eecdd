//! Quotas: says in the status of each ResourceQuota what is in force, and counts anew what is used when
//! something has become less. See "Resource Quotas".
//!
//! What is created the API server counts itself, in the same transaction, so this need not hear of it. As
//! that and this write the same status, a count must not be of a state older than the status it replaces:
//! the quota is read first, then what it counts, each as it is at that moment, and the status is only written
//! if the quota has not changed meanwhile.

mod apply;
mod plan;

use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::{PersistentVolumeClaim, Pod, ResourceQuota, Service};
use kube::Client;
use stead_informer::semantics::pods::has_ended;
use stead_informer::{Change, Informer, Informers, Key, Objects, Queue, Reconciled, Recorder, Task};
use tokio_util::sync::CancellationToken;

use crate::inventory::{Inventory, Kind};
use crate::refused::Refused;

/// Quotas that are counted at a time.
const WORKERS: usize = 5;
/// Upstream's `--resource-quota-sync-period`.
const RECOUNT: Duration = Duration::from_secs(300);

/// The controller.
pub struct QuotaController {
    client: Client,
    informers: Informers,
    inventory: Arc<Inventory>,
    recorder: Recorder,
    queue: Queue<Key>,
}

impl QuotaController {
    /// A controller that hears of changes from now on.
    pub fn new(
        client: Client,
        informers: &Informers,
        inventory: &Arc<Inventory>,
        recorder: Recorder,
    ) -> Arc<QuotaController> {
        let queue = Queue::new();
        watch(informers, inventory, &queue);
        Arc::new(QuotaController {
            client,
            informers: informers.clone(),
            inventory: Arc::clone(inventory),
            recorder,
            queue,
        })
    }

    /// Works until cancelled.
    pub fn run(self: Arc<Self>, shutdown: CancellationToken) -> Task {
        Box::pin(async move {
            self.informers.synced().await;
            self.inventory.synced().await;
            let quotas = Objects {
                name: "resourcequota",
                queue: self.queue.clone(),
                concurrency: WORKERS,
                informer: self.informers.quotas.clone(),
                recorder: self.recorder.clone(),
            };
            let look = |controller: Arc<Self>, key| async move { controller.reconcile(&key).await };
            quotas.run(self, shutdown, look).await;
        })
    }

    async fn reconcile(&self, key: &Key) -> Result<Reconciled, Refused> {
        let Some(quota) = apply::read(&self.client, key).await? else {
            return Ok(Reconciled::Done);
        };
        let sources = plan::sources(&quota);
        let kinds = self.inventory.kinds();
        let is_source = |kind: &&Arc<Kind>| {
            let resource = &kind.resource;
            kind.namespaced && sources.contains(&(resource.group.clone(), resource.plural.clone()))
        };
        let mut counted = Vec::new();
        for kind in kinds.all.iter().filter(is_source) {
            let objects = apply::list(&self.client, kind, &key.namespace).await?;
            let resource = (kind.resource.group.clone(), kind.resource.plural.clone());
            counted.push((resource, objects));
        }
        let status = plan::status(&quota, &counted);
        if quota.status.as_ref() != Some(&status) && !apply::write(&self.client, key, quota, status).await? {
            // It has changed meanwhile, perhaps by an object that the API server counted.
            self.queue.add(key.clone());
        }
        Ok(Reconciled::Again(RECOUNT))
    }
}

/// Has quotas counted when they change, and when something in their namespace may count for less.
fn watch(informers: &Informers, inventory: &Inventory, queue: &Queue<Key>) {
    let changed = queue.clone();
    informers.quotas.on_change(move |change: &Change<ResourceQuota>| {
        if !matches!(change, Change::Deleted(_)) && plan::is_to_be_counted(change.object()) {
            changed.add(Key::of(&**change.object()));
        }
    });
    let add_all = |quotas: &Informer<ResourceQuota>, queue: &Queue<Key>, namespace: Option<&str>| {
        for quota in quotas.in_namespace(namespace.unwrap_or_default()) {
            queue.add(Key::of(&*quota));
        }
    };
    let (gone, quotas) = (queue.clone(), informers.quotas.clone());
    inventory.on_change(move |kind, change| {
        if kind.namespaced
            && let Change::Deleted(item) = change
        {
            add_all(&quotas, &gone, Some(item.namespace()));
        }
    });
    let (pods, quotas) = (queue.clone(), informers.quotas.clone());
    informers.pods.on_change(move |change: &Change<Pod>| {
        if let Change::Updated { old, new } = change
            && has_ended(new)
            && !has_ended(old)
        {
            add_all(&quotas, &pods, new.metadata.namespace.as_deref());
        }
    });
    let (claims, quotas) = (queue.clone(), informers.quotas.clone());
    informers
        .claims
        .on_change(move |change: &Change<PersistentVolumeClaim>| {
            if let Change::Updated { old, new } = change
                && (old.spec != new.spec || old.status != new.status)
            {
                add_all(&quotas, &claims, new.metadata.namespace.as_deref());
            }
        });
    let (services, quotas) = (queue.clone(), informers.quotas.clone());
    informers.services.on_change(move |change: &Change<Service>| {
        if let Change::Updated { old, new } = change
            && old.spec != new.spec
        {
            add_all(&quotas, &services, new.metadata.namespace.as_deref());
        }
    });
}
