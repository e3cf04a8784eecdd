//! How the commands speak with a running server: HTTP over a socket that only root can reach.
//!
//! The paths and documents here are between two processes of one build or of neighbouring ones; for
//! everyone else there is the Kubernetes API.

pub(crate) mod client;
pub(crate) mod server;
mod sets;

use serde::{Deserialize, Serialize};
use stead_runtime::images::Credentials;

/// How a cluster is (`GET /status`); `stead status --output json` prints it.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Status {
    pub(crate) server: ServerStatus,
    pub(crate) node: NodeStatus,
    #[serde(default)]
    pub(crate) stateful_sets: Vec<SetStatus>,
    pub(crate) pods: Vec<PodStatus>,
    /// What keeps packets of pods from passing, in words a person can act on.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) warnings: Vec<String>,
}

#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct ServerStatus {
    pub(crate) pid: u32,
    /// `https://…`
    pub(crate) address: String,
    pub(crate) version: String,
}

#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct NodeStatus {
    pub(crate) name: String,
    pub(crate) ready: bool,
}

/// A StatefulSet at a glance.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct SetStatus {
    pub(crate) namespace: String,
    pub(crate) name: String,
    pub(crate) replicas: i32,
    pub(crate) ready: i32,
    /// Of all its replicas, also those that are gone.
    pub(crate) claims: usize,
    pub(crate) bound: usize,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct PodStatus {
    pub(crate) namespace: String,
    pub(crate) name: String,
    pub(crate) uid: String,
    pub(crate) shim_pid: i32,
    pub(crate) containers: Vec<ContainerStatus>,
}

#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct ContainerStatus {
    pub(crate) name: String,
    pub(crate) pid: i32,
}

/// An image, as `stead image ls` shows it (`GET /images`).
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct ImageRow {
    pub(crate) id: String,
    pub(crate) repo_tags: Vec<String>,
    pub(crate) repo_digests: Vec<String>,
    /// Of the unpacked files.
    pub(crate) bytes: u64,
}

impl From<stead_runtime::images::ImageInfo> for ImageRow {
    fn from(info: stead_runtime::images::ImageInfo) -> ImageRow {
        ImageRow {
            id: info.id.to_string(),
            repo_tags: info.repo_tags,
            repo_digests: info.repo_digests,
            bytes: info.bytes,
        }
    }
}

/// An image to be removed.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Named {
    pub(crate) name: String,
}

/// An image to be pulled, and who asks for it.
#[derive(Serialize, Deserialize)]
pub(crate) struct Pull {
    pub(crate) name: String,
    #[serde(default)]
    pub(crate) credentials: Credentials,
}

/// A line of the answer to a pull.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum PullLine {
    Progress { bytes: u64, total: Option<u64> },
    Done { id: String },
    Failed(String),
}

/// A Service, as `stead service` shows it (`GET /services`).
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct ServiceRow {
    pub(crate) namespace: String,
    pub(crate) name: String,
    /// `ClusterIP`, …
    pub(crate) kind: String,
    /// The load balancer's.
    pub(crate) address: Option<String>,
    /// It is to have a load balancer's address, and has none.
    pub(crate) is_pending: bool,
    pub(crate) ports: Vec<PortRow>,
    /// Pods that take requests.
    pub(crate) ready: usize,
}

impl ServiceRow {
    /// Whether requests to it are answered.
    pub(crate) fn is_ready(&self) -> bool {
        self.ready > 0 && !self.is_pending
    }
}

/// A port of a Service.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct PortRow {
    /// `http/80`
    pub(crate) target: String,
    /// Where it is reached from this machine, if it is.
    pub(crate) url: Option<String>,
    pub(crate) port: u16,
    pub(crate) is_tcp: bool,
}

/// How long to wait for what is asked for.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Patience {
    pub(crate) seconds: u64,
}

/// A port that the tunnel forwards (`GET /tunnel`).
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct ForwardRow {
    /// `namespace/name`
    pub(crate) service: String,
    pub(crate) address: String,
    pub(crate) target: String,
    /// Why it is not forwarded.
    pub(crate) problem: Option<String>,
}

/// An answer that is no success.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Failure {
    pub(crate) error: String,
}
