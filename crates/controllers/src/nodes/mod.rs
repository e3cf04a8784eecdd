//! The node controllers: what becomes of nodes that are not heard of any more, and of their pods.
//!
//! Upstream's `node-lifecycle`, `taint-eviction` and `pod-garbage-collector`, in three parts that do
//! not know of each other: the first writes conditions and taints, which the second acts on.

mod eviction;
mod health;
mod lifecycle;
mod podgc;

use std::sync::Arc;

use futures::future::join4;
use jiff::Timestamp;
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::Pod;
use kube::api::{Patch, PatchParams};
use kube::runtime::watcher;
use kube::{Api, Client};
use serde_json::json;
use stead_informer::{Informer, Informers, Recorder, Task};
use tokio_util::sync::CancellationToken;

use self::eviction::TaintEviction;
use self::lifecycle::Lifecycle;
use self::podgc::PodGc;
use crate::refused::{Refused, is_conflict, is_not_found};

/// Where nodes renew their leases.
const NODE_LEASES: &str = "kube-node-lease";

/// The controller.
pub struct NodesController {
    client: Client,
    informers: Informers,
    leases: Informer<Lease>,
    lifecycle: Arc<Lifecycle>,
    eviction: Arc<TaintEviction>,
    podgc: Arc<PodGc>,
}

impl NodesController {
    /// A controller that hears of changes from now on.
    pub fn new(client: Client, informers: &Informers, recorder: Recorder) -> Arc<NodesController> {
        let leases = Informer::new();
        Arc::new(NodesController {
            lifecycle: Arc::new(Lifecycle::new(
                client.clone(),
                informers,
                &leases,
                recorder.clone(),
            )),
            eviction: Arc::new(TaintEviction::new(client.clone(), informers, recorder.clone())),
            podgc: Arc::new(PodGc::new(client.clone(), informers, recorder)),
            informers: informers.clone(),
            leases,
            client,
        })
    }

    /// Works until cancelled.
    pub fn run(self: Arc<Self>, shutdown: CancellationToken) -> Task {
        Box::pin(async move {
            let leases: Api<Lease> = Api::namespaced(self.client.clone(), NODE_LEASES);
            let watching = self
                .leases
                .clone()
                .run(leases, watcher::Config::default(), shutdown.clone());
            let working = async {
                self.informers.synced().await;
                join4(
                    Arc::clone(&self.lifecycle).run(shutdown.clone()),
                    Arc::clone(&self.eviction).run(shutdown.clone()),
                    Arc::clone(&self.podgc).run(shutdown.clone()),
                    shutdown.cancelled(),
                )
                .await;
            };
            futures::future::join(watching, working).await;
        })
    }
}

/// The node that a pod is bound to.
fn node_of(pod: &Pod) -> Option<&str> {
    pod.spec
        .as_ref()?
        .node_name
        .as_deref()
        .filter(|name| !name.is_empty())
}

fn pods_on(informers: &Informers, node: &str) -> Vec<Arc<Pod>> {
    let mut pods = informers.pods.all();
    pods.retain(|pod| node_of(pod) == Some(node));
    pods
}

/// Says in a pod's status why it is about to go, and fails it if `fails` says so. An empty reason
/// leaves no condition. A pod that is gone or another one by now is left alone.
async fn mark_disrupted(
    api: &Api<Pod>,
    pod: &Pod,
    reason: &str,
    message: &str,
    fails: bool,
) -> Result<(), Refused> {
    let mut status = json!({});
    if !reason.is_empty() {
        let now = Timestamp::now().round(jiff::Unit::Second).unwrap_or_default();
        status["conditions"] = json!([{
            "type": "DisruptionTarget",
            "status": "True",
            "reason": reason,
            "message": message,
            "lastTransitionTime": now,
            "observedGeneration": pod.metadata.generation,
        }]);
    }
    if fails {
        status["phase"] = "Failed".into();
    }
    let name = pod.metadata.name.as_deref().unwrap_or_default();
    let patch = json!({"metadata": {"uid": pod.metadata.uid}, "status": status});
    match api
        .patch_status(name, &PatchParams::default(), &Patch::Strategic(patch))
        .await
    {
        Ok(_) => Ok(()),
        Err(error) if is_not_found(&error) || is_conflict(&error) => Ok(()),
        Err(error) => Err(Refused::to(format!("update the status of pod {name}"))(error)),
    }
}
