//! The node: what its parts share, and what it tells the API of itself.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fs;
use std::net::Ipv4Addr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::api::core::v1::{
    ContainerImage, DaemonEndpoint, Node as NodeObject, NodeAddress, NodeCondition, NodeDaemonEndpoints,
    NodeSpec, NodeStatus, NodeSystemInfo,
};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity as ApiQuantity;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta, OwnerReference, Time};
use kube::api::{Patch, PatchParams, PostParams};
use kube::{Api, Client};
use serde_json::json;
use stead_api::quantity::Quantity;
use stead_informer::{EventType, Informers, Recorder, reference};
use stead_network::{Ipam, IpamError, Network};
use stead_runtime::Runtime;
use stead_runtime::images::ImageStore;
use tokio_util::sync::CancellationToken;

use crate::config::Config;
use crate::pod::fields::NodeFacts;
use crate::server::Sessions;

/// How often the lease is renewed, and how long it is good.
const LEASE_PERIOD: Duration = Duration::from_secs(10);
const LEASE_SECONDS: i32 = 40;
/// How often the status is written though nothing has changed.
const STATUS_PERIOD: Duration = Duration::from_secs(300);
/// Images that the status lists.
const MAX_IMAGES: usize = 50;
const LEASE_NAMESPACE: &str = "kube-node-lease";

/// What the parts of a node share.
pub(crate) struct Node {
    pub(crate) config: Config,
    pub(crate) client: Client,
    pub(crate) informers: Informers,
    pub(crate) recorder: Recorder,
    pub(crate) runtime: Runtime,
    pub(crate) images: Arc<ImageStore>,
    pub(crate) network: Network,
    pub(crate) facts: NodeFacts,
    pub(crate) ipam: Mutex<Ipam>,
    pub(crate) exits: Exits,
    pub(crate) sessions: Sessions,
}

/// Tells those who follow a container that it has ended.
#[derive(Default)]
pub(crate) struct Exits(Mutex<HashMap<String, CancellationToken>>);

impl Exits {
    /// Cancelled when the container has ended, if it has not yet.
    pub(crate) fn token(&self, id: &str) -> CancellationToken {
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .entry(id.to_owned())
            .or_default()
            .clone()
    }

    /// A container has ended.
    pub(crate) fn tell(&self, id: &str) {
        if let Some(token) = self.0.lock().unwrap_or_else(PoisonError::into_inner).remove(id) {
            token.cancel();
        }
    }
}

impl Node {
    fn ipam(&self) -> std::sync::MutexGuard<'_, Ipam> {
        self.ipam.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// An address for a pod.
    pub(crate) fn allocate(&self) -> Result<Ipv4Addr, IpamError> {
        self.ipam().allocate()
    }

    /// Gives a pod's address back.
    pub(crate) fn release(&self, address: Ipv4Addr) {
        self.ipam().release(address);
    }

    /// Takes note of an address that a pod has.
    pub(crate) fn mark_used(&self, address: Ipv4Addr) {
        if let Err(error) = self.ipam().mark_used(address) {
            tracing::warn!(%address, %error, "a pod has an address that is not this node's");
        }
    }

    /// Cancelled when a container has ended.
    pub(crate) fn end_of_container(&self, pod: &stead_runtime::Pod, id: &str) -> CancellationToken {
        let token = self.exits.token(id);
        // It may have ended before the token was there to be cancelled.
        if !pod.container(id).is_some_and(|info| info.is_running()) {
            self.exits.tell(id);
        }
        token
    }

    /// Removes what lies here of pods that are not known: directories and links.
    pub(crate) fn sweep(&self, known: &BTreeSet<String>) {
        for root in [self.config.pods_dir(), self.config.run_pods_dir()] {
            for entry in fs::read_dir(root).into_iter().flatten().flatten() {
                if !known.contains(&*entry.file_name().to_string_lossy()) {
                    remove(&entry.path());
                }
            }
        }
        // Logs are named `NAMESPACE_NAME_UID`.
        for entry in fs::read_dir(self.config.data_dir.join("logs"))
            .into_iter()
            .flatten()
            .flatten()
        {
            let name = entry.file_name().to_string_lossy().into_owned();
            if !name.rsplit('_').next().is_some_and(|uid| known.contains(uid)) {
                remove(&entry.path());
            }
        }
        for link in self.network.attached().unwrap_or_default() {
            if !known.contains(&link.pod_key)
                && let Err(error) = self.network.detach(&link.pod_key)
            {
                tracing::warn!(pod = link.pod_key, %error, "a former pod's link was not removed");
            }
        }
    }

    fn capacity(&self) -> BTreeMap<String, ApiQuantity> {
        let quantity = |quantity: Quantity| ApiQuantity(quantity.to_string());
        let cpus =
            std::thread::available_parallelism().map_or(1, |cpus| i64::try_from(cpus.get()).unwrap_or(1));
        BTreeMap::from([
            ("cpu".to_owned(), quantity(Quantity::units(cpus))),
            (
                "memory".to_owned(),
                quantity(Quantity::bytes(self.facts.allocatable_memory_bytes)),
            ),
            (
                "ephemeral-storage".to_owned(),
                quantity(Quantity::bytes(disk_bytes(&self.config.data_dir))),
            ),
            (
                "pods".to_owned(),
                quantity(Quantity::units(self.config.max_pods.into())),
            ),
        ])
    }

    /// The node as the API is to know it.
    fn object(&self, now: Timestamp) -> NodeObject {
        let name = &self.config.node_name;
        let arch = if cfg!(target_arch = "aarch64") {
            "arm64"
        } else {
            "amd64"
        };
        let mut labels = BTreeMap::from([
            ("kubernetes.io/hostname".to_owned(), name.clone()),
            ("kubernetes.io/os".to_owned(), "linux".to_owned()),
            ("kubernetes.io/arch".to_owned(), arch.to_owned()),
            ("beta.kubernetes.io/os".to_owned(), "linux".to_owned()),
            ("beta.kubernetes.io/arch".to_owned(), arch.to_owned()),
        ]);
        labels.extend(self.config.labels.clone());
        let pods = self.network.ranges().node_pods.to_string();
        NodeObject {
            metadata: ObjectMeta {
                name: Some(name.clone()),
                labels: Some(labels),
                ..ObjectMeta::default()
            },
            spec: Some(NodeSpec {
                pod_cidr: Some(pods.clone()),
                pod_cidrs: Some(vec![pods]),
                provider_id: Some(format!("stead://{name}")),
                ..NodeSpec::default()
            }),
            status: Some(self.status(now)),
        }
    }

    fn status(&self, now: Timestamp) -> NodeStatus {
        let condition = |type_: &str, status: &str, reason: &str, message: &str| NodeCondition {
            type_: type_.to_owned(),
            status: status.to_owned(),
            reason: Some(reason.to_owned()),
            message: Some(message.to_owned()),
            last_heartbeat_time: Some(Time(now)),
            last_transition_time: Some(Time(now)),
        };
        let address = |type_: &str, address: String| NodeAddress {
            type_: type_.to_owned(),
            address,
        };
        let mut images: Vec<ContainerImage> = self
            .images
            .list()
            .into_iter()
            .map(|info| ContainerImage {
                names: Some(info.repo_tags.into_iter().chain(info.repo_digests).collect()),
                size_bytes: i64::try_from(info.bytes).ok(),
            })
            .collect();
        images.truncate(MAX_IMAGES);
        NodeStatus {
            capacity: Some(self.capacity()),
            allocatable: Some(self.capacity()),
            conditions: Some(vec![
                condition(
                    "MemoryPressure",
                    "False",
                    "KubeletHasSufficientMemory",
                    "kubelet has sufficient memory available",
                ),
                condition(
                    "DiskPressure",
                    "False",
                    "KubeletHasNoDiskPressure",
                    "kubelet has no disk pressure",
                ),
                condition(
                    "PIDPressure",
                    "False",
                    "KubeletHasSufficientPID",
                    "kubelet has sufficient PID available",
                ),
                condition("Ready", "True", "KubeletReady", "kubelet is posting ready status"),
            ]),
            addresses: Some(vec![
                address("InternalIP", self.config.node_ip.to_string()),
                address("Hostname", self.config.node_name.clone()),
            ]),
            daemon_endpoints: Some(NodeDaemonEndpoints {
                kubelet_endpoint: Some(DaemonEndpoint {
                    port: self.config.port.into(),
                }),
            }),
            images: (!images.is_empty()).then_some(images),
            node_info: Some(self.system_info()),
            ..NodeStatus::default()
        }
    }

    fn system_info(&self) -> NodeSystemInfo {
        let file = |path: &str| fs::read_to_string(path).unwrap_or_default().trim().to_owned();
        let release = file("/etc/os-release");
        let os = release
            .lines()
            .find_map(|line| line.strip_prefix("PRETTY_NAME="))
            .unwrap_or("Linux");
        NodeSystemInfo {
            architecture: if cfg!(target_arch = "aarch64") {
                "arm64"
            } else {
                "amd64"
            }
            .to_owned(),
            boot_id: file("/proc/sys/kernel/random/boot_id"),
            container_runtime_version: format!("stead://{}", env!("CARGO_PKG_VERSION")),
            kernel_version: file("/proc/sys/kernel/osrelease"),
            kube_proxy_version: String::new(),
            kubelet_version: self.config.version.clone(),
            machine_id: file("/etc/machine-id"),
            operating_system: "linux".to_owned(),
            os_image: os.trim_matches('"').to_owned(),
            system_uuid: file("/etc/machine-id"),
            ..NodeSystemInfo::default()
        }
    }

    /// Makes the node known to the API, and Ready. Tries until it succeeds.
    pub(crate) async fn register(&self, shutdown: &CancellationToken) {
        let api: Api<NodeObject> = Api::all(self.client.clone());
        let mut wait = Duration::from_millis(50);
        while let Err(error) = self.try_register(&api).await {
            tracing::warn!(%error, "the node could not be registered");
            tokio::select! {
                () = shutdown.cancelled() => return,
                () = tokio::time::sleep(wait) => wait = (wait * 2).min(Duration::from_secs(7)),
            }
        }
        if let Ok(node) = api.get(&self.config.node_name).await {
            let message = format!("Node {} status is now: NodeReady", self.config.node_name);
            self.recorder
                .record(reference(&node), EventType::Normal, "NodeReady", message);
        }
    }

    async fn try_register(&self, api: &Api<NodeObject>) -> Result<(), kube::Error> {
        let object = self.object(Timestamp::now());
        match api.create(&PostParams::default(), &object).await {
            Ok(_) => Ok(()),
            Err(kube::Error::Api(status)) if status.reason == "AlreadyExists" => {
                let patch = json!({"metadata": {"labels": object.metadata.labels}});
                api.patch(
                    &self.config.node_name,
                    &PatchParams::default(),
                    &Patch::Merge(&patch),
                )
                .await?;
                self.write_status(api).await
            }
            Err(error) => Err(error),
        }
    }

    /// Writes the status; conditions that have not changed keep the time of their last change.
    async fn write_status(&self, api: &Api<NodeObject>) -> Result<(), kube::Error> {
        let mut status = self.status(Timestamp::now());
        let old = api.get(&self.config.node_name).await?.status.unwrap_or_default();
        let before = old.conditions.unwrap_or_default();
        for condition in status.conditions.iter_mut().flatten() {
            let same = before
                .iter()
                .find(|old| old.type_ == condition.type_ && old.status == condition.status);
            if let Some(same) = same {
                condition
                    .last_transition_time
                    .clone_from(&same.last_transition_time);
            }
        }
        let patch = json!({"status": status});
        api.patch_status(
            &self.config.node_name,
            &PatchParams::default(),
            &Patch::Strategic(&patch),
        )
        .await?;
        Ok(())
    }

    /// Keeps the node's lease and status fresh until cancelled.
    pub(crate) async fn keep_alive(&self, shutdown: CancellationToken) {
        let leases: Api<Lease> = Api::namespaced(self.client.clone(), LEASE_NAMESPACE);
        let nodes: Api<NodeObject> = Api::all(self.client.clone());
        let mut lease = tokio::time::interval(LEASE_PERIOD);
        let start = tokio::time::Instant::now() + STATUS_PERIOD;
        let mut status = tokio::time::interval_at(start, STATUS_PERIOD);
        loop {
            let result = tokio::select! {
                () = shutdown.cancelled() => return,
                _ = lease.tick() => self.renew_lease(&leases, &nodes).await,
                _ = status.tick() => self.write_status(&nodes).await,
            };
            if let Err(error) = result {
                tracing::warn!(%error, "the node could not tell the API that it is well");
            }
        }
    }

    async fn renew_lease(&self, leases: &Api<Lease>, nodes: &Api<NodeObject>) -> Result<(), kube::Error> {
        let name = &self.config.node_name;
        let now = MicroTime(Timestamp::now());
        let patch = json!({"spec": {"renewTime": now}});
        match leases
            .patch(name, &PatchParams::default(), &Patch::Merge(&patch))
            .await
        {
            Err(kube::Error::Api(status)) if status.code == 404 => {}
            result => return result.map(|_| ()),
        }
        let node = nodes.get(name).await?;
        let owner = OwnerReference {
            api_version: "v1".to_owned(),
            kind: "Node".to_owned(),
            name: name.clone(),
            uid: node.metadata.uid.unwrap_or_default(),
            ..OwnerReference::default()
        };
        let lease = Lease {
            metadata: ObjectMeta {
                name: Some(name.clone()),
                namespace: Some(LEASE_NAMESPACE.to_owned()),
                owner_references: Some(vec![owner]),
                ..ObjectMeta::default()
            },
            spec: Some(LeaseSpec {
                holder_identity: Some(name.clone()),
                lease_duration_seconds: Some(LEASE_SECONDS),
                renew_time: Some(now),
                ..LeaseSpec::default()
            }),
        };
        leases.create(&PostParams::default(), &lease).await.map(|_| ())
    }
}

/// Facts about this machine, for fields and limits.
pub(crate) fn facts(config: &Config) -> NodeFacts {
    let cpus = std::thread::available_parallelism().map_or(1, |cpus| i64::try_from(cpus.get()).unwrap_or(1));
    NodeFacts {
        name: config.node_name.clone(),
        ip: config.node_ip,
        allocatable_millicpu: cpus * 1000,
        allocatable_memory_bytes: memory_bytes(),
    }
}

/// The machine's memory.
fn memory_bytes() -> i64 {
    let info = fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let line = info.lines().find_map(|line| line.strip_prefix("MemTotal:"));
    let kib: i64 = line
        .and_then(|line| line.split_whitespace().next())
        .and_then(|kib| kib.parse().ok())
        .unwrap_or(0);
    kib * 1024
}

/// The size of the file system that pods write to.
fn disk_bytes(dir: &std::path::Path) -> i64 {
    rustix::fs::statvfs(dir)
        .ok()
        .and_then(|stats| i64::try_from(stats.f_blocks.saturating_mul(stats.f_frsize)).ok())
        .unwrap_or(0)
}

fn remove(path: &std::path::Path) {
    for volume in fs::read_dir(path.join("volumes")).into_iter().flatten().flatten() {
        // A volume without a file system of its own is removed with its directory.
        let _ = rustix::mount::unmount(volume.path(), rustix::mount::UnmountFlags::DETACH);
    }
    if let Err(error) = fs::remove_dir_all(path)
        && error.kind() != std::io::ErrorKind::NotFound
    {
        tracing::warn!(?path, %error, "a former pod's directory was not removed");
    }
}
