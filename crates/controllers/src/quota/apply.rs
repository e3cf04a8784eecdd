//! What the controller of quotas reads and writes.

use k8s_openapi::api::core::v1::{ResourceQuota, ResourceQuotaStatus};
use kube::api::{DynamicObject, ListParams, PostParams};
use kube::{Api, Client};
use serde_json::Value;
use stead_informer::Key;

use crate::inventory::Kind;
use crate::refused::{Refused, is_conflict, is_not_found};

/// A quota as it is now; none if it is gone.
pub(super) async fn read(client: &Client, key: &Key) -> Result<Option<ResourceQuota>, Refused> {
    let api: Api<ResourceQuota> = Api::namespaced(client.clone(), &key.namespace);
    let quota = api.get_opt(&key.name).await;
    quota.map_err(Refused::to(format!("read quota {}", key.name)))
}

/// All objects of a kind in a namespace as they are now; none if the kind is served no more.
pub(super) async fn list(client: &Client, kind: &Kind, namespace: &str) -> Result<Vec<Value>, Refused> {
    let api: Api<DynamicObject> = Api::namespaced_with(client.clone(), namespace, &kind.resource);
    match api.list(&ListParams::default()).await {
        Ok(list) => {
            let objects = list.items.iter().map(serde_json::to_value);
            Ok(objects.filter_map(Result::ok).collect())
        }
        Err(error) if is_not_found(&error) => Ok(Vec::new()),
        Err(error) => Err(Refused::to(format!("list {}", kind.resource.plural))(error)),
    }
}

/// Writes a quota's status. Says whether the quota was still the one that was read.
pub(super) async fn write(
    client: &Client,
    key: &Key,
    mut quota: ResourceQuota,
    status: ResourceQuotaStatus,
) -> Result<bool, Refused> {
    let api: Api<ResourceQuota> = Api::namespaced(client.clone(), &key.namespace);
    quota.status = Some(status);
    match api
        .replace_status(&key.name, &PostParams::default(), &quota)
        .await
    {
        Ok(_) => Ok(true),
        Err(error) if is_conflict(&error) => Ok(false),
        Err(error) if is_not_found(&error) => Ok(true),
        Err(error) => Err(Refused::to(format!("update the status of quota {}", key.name))(
            error,
        )),
    }
}
