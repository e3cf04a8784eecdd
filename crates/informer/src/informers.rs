//! The informers that one process shares.

use std::future::Future;
use std::pin::Pin;

use futures::future::BoxFuture;
use k8s_openapi::api::apps::v1::{ControllerRevision, Deployment, ReplicaSet, StatefulSet};
use k8s_openapi::api::autoscaling::v2::HorizontalPodAutoscaler;
use k8s_openapi::api::batch::v1::{CronJob, Job};
use k8s_openapi::api::core::v1::{
    ConfigMap, Endpoints, Namespace, Node, PersistentVolume, PersistentVolumeClaim, Pod, ResourceQuota,
    Secret, Service, ServiceAccount,
};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use k8s_openapi::api::storage::v1::StorageClass;
use kube::core::PartialObjectMeta;
use kube::runtime::watcher;
use kube::{Api, Client};
use tokio_util::sync::CancellationToken;

use crate::informer::Informer;

macro_rules! informers {
    ($($(#[$doc:meta])* $field:ident: $kind:ty,)*) => {
        /// One informer per kind, for all controllers of a process. Cheap to clone.
        #[derive(Clone)]
        pub struct Informers {
            $($(#[$doc])* pub $field: Informer<$kind>,)*
        }

        impl Informers {
            /// Informers that have seen nothing yet.
            pub fn new() -> Informers {
                Informers { $($field: Informer::new(),)* }
            }

            /// The tasks that watch, one per kind, until cancelled.
            pub fn run(&self, client: &Client, shutdown: &CancellationToken) -> Vec<Task> {
                vec![$({
                    let api: Api<$kind> = Api::all(client.clone());
                    let informer = self.$field.clone();
                    Box::pin(informer.run(api, watcher::Config::default(), shutdown.clone())) as Task
                },)*]
            }

            /// Waits until all of them hold all there is.
            pub fn synced(&self) -> BoxFuture<'_, ()> {
                Box::pin(async move { $(self.$field.synced().await;)* })
            }
        }
    };
}

/// Something to be run by whoever owns it. Boxed where it is made: the code of an `async fn` is compiled by the
/// crate that runs it, and so all of a controller's would be by the last one.
pub type Task = Pin<Box<dyn Future<Output = ()> + Send>>;

informers! {
    /// Pods.
    pods: Pod,
    /// Claims.
    claims: PersistentVolumeClaim,
    /// Volumes.
    volumes: PersistentVolume,
    /// StatefulSets.
    stateful_sets: StatefulSet,
    /// Deployments.
    deployments: Deployment,
    /// ReplicaSets.
    replica_sets: ReplicaSet,
    /// CronJobs.
    cron_jobs: CronJob,
    /// Jobs.
    jobs: Job,
    /// ControllerRevisions.
    revisions: ControllerRevision,
    /// HorizontalPodAutoscalers.
    autoscalers: HorizontalPodAutoscaler,
    /// PodDisruptionBudgets.
    budgets: PodDisruptionBudget,
    /// ResourceQuotas.
    quotas: ResourceQuota,
    /// Services.
    services: Service,
    /// Endpoints.
    endpoints: Endpoints,
    /// EndpointSlices.
    slices: EndpointSlice,
    /// Nodes.
    nodes: Node,
    /// Namespaces.
    namespaces: Namespace,
    /// ServiceAccounts.
    service_accounts: ServiceAccount,
    /// StorageClasses.
    storage_classes: StorageClass,
    /// ConfigMaps, their metadata only.
    config_maps: PartialObjectMeta<ConfigMap>,
    /// Secrets, their metadata only.
    secrets: PartialObjectMeta<Secret>,
}

impl Default for Informers {
    fn default() -> Self {
        Informers::new()
    }
}
