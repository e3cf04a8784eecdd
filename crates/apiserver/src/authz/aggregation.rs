//! Aggregated ClusterRoles: their rules are those of the roles that their selectors choose ("Aggregated
//! ClusterRoles"). The server sees to it itself, as it does to its default roles.

use http::Method;
use k8s_openapi::api::rbac::v1::ClusterRole;
use serde::Deserialize as _;
use stead_api::kinds::rbac::{GROUP, collected};

use crate::server::ApiServer;
use crate::stored::key;

impl ApiServer {
    /// Gives aggregated roles their rules whenever roles change, until the server goes down.
    pub(crate) async fn aggregate_roles(&self) {
        let inner = &*self.inner;
        let Some(kind) = inner.registry.resource(GROUP, "v1", "clusterroles") else {
            return;
        };
        let prefix = key::prefix(kind, "");
        loop {
            let revision = inner.store.revision();
            self.settle_roles(&prefix).await;
            let Ok(mut watcher) = inner.store.watch(&prefix, revision) else {
                continue;
            };
            tokio::select! {
                () = inner.shutdown.cancelled() => return,
                // What has changed is seen in the next look at all of them.
                _ = watcher.next() => {}
            }
        }
    }

    async fn settle_roles(&self, prefix: &str) {
        let snapshot = self.inner.store.snapshot();
        let mut roles: Vec<ClusterRole> = snapshot
            .prefix(prefix)
            .filter_map(|(_, entry)| ClusterRole::deserialize(entry.value.value()).ok())
            .collect();
        for at in 0..roles.len() {
            let role = &roles[at];
            let Some(rules) = collected(role, &roles) else {
                continue;
            };
            if role.rules.as_deref().unwrap_or_default() == rules {
                continue;
            }
            let mut role = role.clone();
            let name = role.metadata.name.clone().unwrap_or_default();
            role.rules = Some(rules);
            let Ok(object) = serde_json::to_value(&role) else {
                continue;
            };
            let path = format!("/apis/{GROUP}/v1/clusterroles/{name}");
            // One that has changed meanwhile brings the next look.
            match self.call(Method::PUT, &path, &object).await {
                // Those that collect from this one get what it has now: two that collect from each other come to
                // the same.
                Ok((status, _)) if status.is_success() => roles[at] = role,
                Ok((status, _)) if status.as_u16() == 409 => {}
                Ok((status, body)) => {
                    tracing::warn!(name, %status, body, "a role could not be given its rules")
                }
                Err(error) => tracing::warn!(name, error, "a role could not be given its rules"),
            }
        }
    }
}
