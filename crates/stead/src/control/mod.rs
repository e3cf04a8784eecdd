//! How the commands speak with a running server: HTTP over a socket that only root can reach.
//!
//! The paths and documents here are between two processes of one build or of neighbouring ones; for
//! everyone else there is the Kubernetes API.

pub(crate) mod client;
pub(crate) mod server;

use serde::{Deserialize, Serialize};

/// How a cluster is (`GET /status`); `stead status --output json` prints it.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Status {
    pub(crate) server: ServerStatus,
    pub(crate) node: NodeStatus,
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

/// An image to be pulled or removed.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Named {
    pub(crate) name: String,
}

/// A line of the answer to a pull.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum PullLine {
    Progress { bytes: u64, total: Option<u64> },
    Done { id: String },
    Failed(String),
}

/// An answer that is no success.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Failure {
    pub(crate) error: String,
}
