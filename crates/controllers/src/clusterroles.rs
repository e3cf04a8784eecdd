//! Aggregated ClusterRoles: their rules are those of the roles that their selectors choose ("Aggregated
//! ClusterRoles").

use std::sync::Arc;

use k8s_openapi::api::rbac::v1::ClusterRole;
use kube::api::{Patch, PatchParams};
use kube::{Api, Client};
use serde_json::json;
use stead_api::kinds::rbac::collected;
use stead_informer::{Change, Informers, Key, Queue, Reconciled, Task, run};
use tokio_util::sync::CancellationToken;

use crate::refused::Refused;
use crate::written::Written;

/// The controller.
pub struct ClusterRolesController {
    client: Client,
    informers: Informers,
    /// Aggregated roles.
    queue: Queue<Key>,
    written: Written<ClusterRole>,
}

impl ClusterRolesController {
    /// A controller that hears of changes from now on.
    pub fn new(client: Client, informers: &Informers) -> Arc<ClusterRolesController> {
        let queue = Queue::new();
        let (changed, all) = (queue.clone(), informers.cluster_roles.clone());
        informers
            .cluster_roles
            .on_change(move |change: &Change<ClusterRole>| {
                changed.add(Key::of(&**change.object()));
                let roles = all.all();
                let aggregated = roles.iter().filter(|role| role.aggregation_rule.is_some());
                aggregated.for_each(|role| changed.add(Key::of(&**role)));
            });
        Arc::new(ClusterRolesController {
            client,
            informers: informers.clone(),
            queue,
            written: Written::new(&informers.cluster_roles),
        })
    }

    /// Works until cancelled.
    pub fn run(self: Arc<Self>, shutdown: CancellationToken) -> Task {
        Box::pin(async move {
            self.informers.synced().await;
            let controller = Arc::clone(&self);
            let reconcile = move |key: Key| {
                let controller = Arc::clone(&controller);
                async move { controller.reconcile(&key).await }
            };
            run("clusterroles", self.queue.clone(), 1, shutdown, reconcile, |_| {}).await;
        })
    }

    async fn reconcile(&self, key: &Key) -> Result<Reconciled, Refused> {
        self.written.caught_up().await;
        let mut roles = self.informers.cluster_roles.all();
        roles.sort_by(|a, b| a.metadata.name.cmp(&b.metadata.name));
        let role = self.informers.cluster_roles.get(key);
        let Some((role, rules)) = role.and_then(|role| {
            Some((
                Arc::clone(&role),
                collected(&role, roles.iter().map(|role| &**role))?,
            ))
        }) else {
            return Ok(Reconciled::Done);
        };
        if role.rules.as_deref().unwrap_or_default() == rules {
            return Ok(Reconciled::Done);
        }
        let api: Api<ClusterRole> = Api::all(self.client.clone());
        let patch = json!({"metadata": {"resourceVersion": role.metadata.resource_version}, "rules": rules});
        let written = api
            .patch(&key.name, &PatchParams::default(), &Patch::Merge(&patch))
            .await;
        self.written
            .settle(written, format!("update the rules of ClusterRole {}", key.name))?;
        Ok(Reconciled::Done)
    }
}
