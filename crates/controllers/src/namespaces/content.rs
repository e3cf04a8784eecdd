//! The content of a namespace: deleting it, and seeing what is left.

use std::collections::BTreeMap;
use std::sync::Arc;

use futures::{StreamExt as _, stream};
use kube::Client;
use kube::api::{DeleteParams, ListParams, PropagationPolicy};

use super::conditions::{Found, Remaining};
use crate::inventory::{Item, Kind};
use crate::refused::{Refused, is_not_found};

/// Kinds that are dealt with at a time.
const CONCURRENCY: usize = 8;

/// What a pass over some kinds of a namespace came to.
#[derive(Default)]
pub(super) struct Pass {
    pub(super) found: Found,
    /// The kinds of which something is left.
    pub(super) pending: Vec<Arc<Kind>>,
}

/// Deletes a namespace's objects of these kinds, and sees what is left.
pub(super) async fn delete(client: &Client, namespace: &str, kinds: &[Arc<Kind>]) -> Pass {
    let of_kind = |kind: Arc<Kind>| async move {
        let left = delete_kind(client, namespace, &kind).await;
        (kind, left)
    };
    collect(
        stream::iter(kinds.to_vec())
            .map(of_kind)
            .buffer_unordered(CONCURRENCY)
            .collect()
            .await,
    )
}

/// Sees what is left of a namespace's objects of these kinds.
pub(super) async fn look(client: &Client, namespace: &str, kinds: &[Arc<Kind>]) -> Pass {
    let of_kind = |kind: Arc<Kind>| async move {
        let left = list(client, namespace, &kind).await;
        (kind, left)
    };
    collect(
        stream::iter(kinds.to_vec())
            .map(of_kind)
            .buffer_unordered(CONCURRENCY)
            .collect()
            .await,
    )
}

/// What is left of a kind's objects.
type Left = (Arc<Kind>, Result<Vec<Item>, Refused>);

fn collect(results: Vec<Left>) -> Pass {
    let mut pass = Pass::default();
    for (kind, result) in results {
        match result {
            Ok(items) if items.is_empty() => {}
            Ok(items) => {
                pass.found.remaining.push(remaining(&kind, &items));
                pass.pending.push(kind);
            }
            Err(error) => {
                pass.found.failures.push(error.to_string());
                pass.pending.push(kind);
            }
        }
    }
    pass
}

fn remaining(kind: &Kind, items: &[Item]) -> Remaining {
    let mut finalizers: BTreeMap<String, usize> = BTreeMap::new();
    for finalizer in items.iter().flat_map(Item::finalizers) {
        *finalizers.entry(finalizer.clone()).or_default() += 1;
    }
    let resource = &kind.resource;
    Remaining {
        group: resource.group.clone(),
        plural: resource.plural.clone(),
        count: items.len(),
        finalizers,
    }
}

async fn list(client: &Client, namespace: &str, kind: &Kind) -> Result<Vec<Item>, Refused> {
    if !kind.can("list") {
        return Ok(Vec::new());
    }
    match kind.api(client, namespace).list(&ListParams::default()).await {
        Ok(list) => Ok(list.items),
        // The kind is not served any more.
        Err(error) if is_not_found(&error) => Ok(Vec::new()),
        Err(error) => Err(Refused::to(format!("list {}", kind.resource.plural))(error)),
    }
}

/// In the background: the namespace's deletion takes the dependents too, and nothing may be
/// orphaned.
async fn delete_kind(client: &Client, namespace: &str, kind: &Kind) -> Result<Vec<Item>, Refused> {
    let items = list(client, namespace, kind).await?;
    if items.is_empty() && kind.can("list") {
        return Ok(items);
    }
    let params = DeleteParams {
        propagation_policy: Some(PropagationPolicy::Background),
        ..DeleteParams::default()
    };
    let api = kind.api(client, namespace);
    if kind.can("deletecollection") {
        match api.delete_collection(&params, &ListParams::default()).await {
            Ok(_) => {}
            Err(error) if is_not_found(&error) => {}
            Err(error) => return Err(Refused::to(format!("delete {}", kind.resource.plural))(error)),
        }
    } else {
        for item in &items {
            match api.delete(item.name(), &params).await {
                Ok(_) => {}
                Err(error) if is_not_found(&error) => {}
                Err(error) => {
                    return Err(Refused::to(format!(
                        "delete {} {}",
                        kind.resource.plural,
                        item.name()
                    ))(error));
                }
            }
        }
    }
    list(client, namespace, kind).await
}
