//! The parts of a cluster that reach it through the API: controllers, scheduler, kubelet.

use std::sync::Arc;

use anyhow::Context as _;
use axum::Router;
use kube::Client;
use stead_apiserver::Identity;
use stead_apiserver::pki::Pki;
use stead_controllers::autoscaler::AutoscalersController;
use stead_controllers::cronjob::CronJobsController;
use stead_controllers::deployment::DeploymentsController;
use stead_controllers::disruption::DisruptionController;
use stead_controllers::endpoints::EndpointsController;
use stead_controllers::garbage::GarbageCollector;
use stead_controllers::inventory::Inventory;
use stead_controllers::job::JobsController;
use stead_controllers::loadbalancers::{IsFree, LoadBalancersController};
use stead_controllers::namespaces::NamespacesController;
use stead_controllers::nodes::NodesController;
use stead_controllers::quota::QuotaController;
use stead_controllers::replicaset::ReplicaSetsController;
use stead_controllers::serviceaccounts::ServiceAccountsController;
use stead_controllers::statefulset::StatefulSets;
use stead_controllers::volumes::{LocalVolumes, VolumesController};
use stead_informer::{Informers, Recorder, Task};
use stead_kubelet::{Kubelet, Parking};
use stead_network::Network;
use stead_network::pod_files::ResolvConf;
use stead_runtime::images::ImageStore;
use stead_runtime::{Events, Found, Runtime};
use stead_scheduler::Scheduler;
use tokio_util::sync::CancellationToken;

use super::clients::client;
use super::host_ports;
use super::listeners::NODE_PORT;
use super::services::Services;
use crate::cli::LoadBalancer;
use crate::cluster::Cluster;
use crate::place::Place;

/// All that the parts stand on.
pub(super) struct Ground<'a> {
    pub(super) place: &'a Place,
    pub(super) cluster: &'a Cluster,
    pub(super) router: &'a Router,
    pub(super) pki: &'a Pki,
    pub(super) network: Network,
    pub(super) runtime: (Runtime, Events, Found),
    pub(super) images: Arc<ImageStore>,
    pub(super) node_port: u16,
    pub(super) load_balancer: LoadBalancer,
    pub(super) expose: bool,
    pub(super) shutdown: &'a CancellationToken,
}

/// The parts, not yet at work.
pub(super) struct Parts {
    /// What they do, until they are told to stop.
    pub(super) tasks: Vec<Task>,
    /// Writes events; to be stopped after the others, which may have something to tell.
    pub(super) recorders: Vec<Task>,
    pub(super) parking: Parking,
    /// The node's own API.
    pub(super) node_api: Router,
    /// Cancelled once the node is registered.
    pub(super) registered: CancellationToken,
    pub(super) informers: Informers,
    pub(super) services: Services,
}

/// Makes the parts. All of them hear of changes before the informers begin to tell of any.
pub(super) async fn make(ground: Ground<'_>) -> anyhow::Result<Parts> {
    let Ground {
        place,
        cluster,
        router,
        pki,
        network,
        runtime,
        images,
        node_port,
        load_balancer,
        expose,
        shutdown,
    } = ground;
    let informers = Informers::new();
    let mut recorders: Vec<Task> = Vec::new();
    let mut recorder = |client: &Client, component: &'static str, host: Option<String>| {
        let (recorder, task) = Recorder::new(client.clone(), component, host, shutdown.clone());
        recorders.push(task);
        recorder
    };

    let manager = client(router, Identity::part("system:kube-controller-manager", [""; 0]));
    let inventory = Inventory::new(manager.clone());
    let mut tasks: Vec<Task> = vec![
        StatefulSets::new(
            manager.clone(),
            &informers,
            recorder(&manager, "statefulset-controller", None),
        )
        .run(shutdown.clone()),
        DeploymentsController::new(
            manager.clone(),
            &informers,
            recorder(&manager, "deployment-controller", None),
        )
        .run(shutdown.clone()),
        ReplicaSetsController::new(
            manager.clone(),
            &informers,
            recorder(&manager, "replicaset-controller", None),
        )
        .run(shutdown.clone()),
        CronJobsController::new(
            manager.clone(),
            &informers,
            recorder(&manager, "cronjob-controller", None),
        )
        .run(shutdown.clone()),
        JobsController::new(
            manager.clone(),
            &informers,
            recorder(&manager, "job-controller", None),
        )
        .run(shutdown.clone()),
        EndpointsController::new(
            manager.clone(),
            &informers,
            recorder(&manager, "endpoint-controller", None),
        )
        .run(shutdown.clone()),
        AutoscalersController::new(
            manager.clone(),
            &informers,
            &inventory,
            recorder(&manager, "horizontal-pod-autoscaler", None),
        )
        .run(shutdown.clone()),
        DisruptionController::new(
            manager.clone(),
            &informers,
            recorder(&manager, "controllermanager", None),
        )
        .run(shutdown.clone()),
        QuotaController::new(
            manager.clone(),
            &informers,
            &inventory,
            recorder(&manager, "resourcequota-controller", None),
        )
        .run(shutdown.clone()),
        GarbageCollector::new(
            manager.clone(),
            &inventory,
            recorder(&manager, "garbage-collector-controller", None),
        )
        .run(shutdown.clone()),
        NamespacesController::new(
            manager.clone(),
            &informers,
            &inventory,
            recorder(&manager, "namespace-controller", None),
        )
        .run(shutdown.clone()),
        NodesController::new(
            manager.clone(),
            &informers,
            recorder(&manager, "node-controller", None),
        )
        .run(shutdown.clone()),
        ServiceAccountsController::new(
            manager.clone(),
            &informers,
            pki.ca_pem().to_owned(),
            recorder(&manager, "serviceaccount-controller", None),
        )
        .run(shutdown.clone()),
        VolumesController::new(
            manager.clone(),
            &informers,
            recorder(&manager, "persistentvolume-controller", None),
            Some(LocalVolumes {
                node: cluster.node.clone(),
                directory: place.volumes(),
            }),
        )
        .run(shutdown.clone()),
    ];
    tasks.push(Arc::clone(&inventory).run(shutdown.clone()));
    if load_balancer == LoadBalancer::Builtin {
        let controller = LoadBalancersController::new(
            manager.clone(),
            &informers,
            cluster.ranges.load_balancer_addresses(),
            expose.then(|| Arc::new(host_ports::is_free) as IsFree),
            recorder(&manager, "service-controller", None),
        );
        tasks.push(controller.run(shutdown.clone()));
    }

    let scheduling = client(router, Identity::part("system:kube-scheduler", [""; 0]));
    let scheduler = Scheduler::new(
        scheduling.clone(),
        &informers,
        recorder(&scheduling, "default-scheduler", None),
    );
    tasks.push(scheduler.run(shutdown.clone()));

    let node = client(
        router,
        Identity::part(format!("system:node:{}", cluster.node), ["system:nodes"]),
    );
    let parts = stead_kubelet::Parts {
        client: node.clone(),
        informers: informers.clone(),
        recorder: recorder(&node, "kubelet", Some(cluster.node.clone())),
        runtime,
        images,
        network,
    };
    let kubelet = Kubelet::new(kubelet_config(place, cluster, node_port), parts)
        .await
        .context("start the node")?;
    let (parking, node_api) = (kubelet.parking(), kubelet.router());
    let registered = CancellationToken::new();
    tasks.extend(kubelet.run(shutdown, registered.clone()));
    let services = Services::new(&informers, cluster.ranges.node);
    // Last: whoever listens does so by now.
    tasks.extend(informers.run(&manager, shutdown));
    Ok(Parts {
        tasks,
        recorders,
        parking,
        node_api,
        registered,
        informers,
        services,
    })
}

fn kubelet_config(place: &Place, cluster: &Cluster, port: u16) -> stead_kubelet::Config {
    let resolv_conf = std::fs::read_to_string("/etc/resolv.conf").unwrap_or_else(|error| {
        tracing::warn!(%error, "/etc/resolv.conf cannot be read; pods resolve only names of the cluster");
        String::new()
    });
    debug_assert_ne!(port, 0, "the node's API has a port");
    stead_kubelet::Config {
        node_name: cluster.node.clone(),
        node_ip: cluster.ranges.node,
        port: if port == 0 { NODE_PORT } else { port },
        data_dir: place.kubelet(),
        run_dir: place.run().join("kubelet"),
        cluster_dns: cluster.ranges.dns(),
        cluster_domain: "cluster.local".to_owned(),
        resolv_conf: ResolvConf::parse(&resolv_conf),
        labels: [
            // What kubeadm and minikube give a cluster's first node.
            "node-role.kubernetes.io/control-plane",
        ]
        .map(|label| (label.to_owned(), String::new()))
        .into(),
        max_pods: 110,
        version: super::version(),
        insecure_registries: Vec::new(),
    }
}
