//! What a pod's worker has done for it, each in a task of its own: volumes, sandbox, images,
//! containers, and the end of them. A job reads the pod and tells the worker what came of it
//! ([`Done`]); it changes nothing the planner reads.

mod end;
mod hook;
mod sandbox;
mod start;
mod stop;

use std::fs;
use std::net::Ipv4Addr;
use std::path::Path;
use std::sync::Arc;

use k8s_openapi::api::core::v1::{ObjectReference, Pod, PodStatus};
use kube::Api;
use kube::api::{Patch, PatchParams};
use stead_informer::{EventType, reference};
use stead_runtime::ContainerInfo;
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::observed::Image;
use super::wanted::find;
use crate::config::PodDirs;
use crate::images::{self, ImageError};
use crate::node::Node;
use crate::volume::{self, Volumes};

/// Keeps the pod's address with its sandbox, for a server that takes it over.
pub(crate) const ADDRESS: &str = "stead.dev/address";

/// What came of a job.
pub(crate) enum Done {
    Volumes(Result<Volumes, String>),
    Sandbox(Result<(stead_runtime::Pod, Option<Ipv4Addr>), String>),
    Image(String, Result<Image, ImageError>),
    Started(String, Result<ContainerInfo, StartFailure>),
    /// The job that stops a container has nothing more to do; the exit itself is told by the runtime.
    Stopped,
    TakenDown(Result<(), String>),
    Finalized(Result<(), String>),
    StatusWritten(Box<PodStatus>, Result<(), kube::Error>),
}

/// How far a container came that was not started, or not well.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum NotStarted {
    /// There never was one.
    Refused,
    /// It was made, but its program cannot be run; its start counts as an attempt (`StartError`).
    Command {
        /// The container's id.
        id: String,
    },
    /// It ran, but its hook failed, and it is told to end.
    Hook,
}

/// Why a container was not started.
pub(crate) struct StartFailure {
    /// As its waiting state shows it.
    pub(crate) reason: &'static str,
    pub(crate) message: String,
    pub(crate) kind: NotStarted,
}

/// The start of a container.
pub(crate) struct Start {
    pub(crate) sandbox: stead_runtime::Pod,
    pub(crate) name: String,
    pub(crate) attempt: u32,
    pub(crate) volumes: Volumes,
    pub(crate) address: Option<Ipv4Addr>,
    /// Cancelled when the pod begins to end: no hook is waited for then.
    pub(crate) ending: CancellationToken,
}

/// The stop of a container.
pub(crate) struct Stop {
    pub(crate) sandbox: stead_runtime::Pod,
    pub(crate) name: String,
    pub(crate) id: String,
    /// When it is killed.
    pub(crate) deadline: watch::Receiver<Instant>,
    /// Cancelled when it has ended.
    pub(crate) exited: CancellationToken,
}

/// A pod, and what its jobs need. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Jobs {
    pub(crate) node: Arc<Node>,
    pub(crate) pod: Arc<Pod>,
    pub(crate) dirs: PodDirs,
}

impl Jobs {
    fn namespace(&self) -> &str {
        self.pod.metadata.namespace.as_deref().unwrap_or_default()
    }

    fn name(&self) -> &str {
        self.pod.metadata.name.as_deref().unwrap_or_default()
    }

    fn uid(&self) -> &str {
        self.pod.metadata.uid.as_deref().unwrap_or_default()
    }

    /// Records an event about the pod, or about one of its containers.
    pub(crate) fn record(
        &self,
        container: Option<&str>,
        event_type: EventType,
        reason: &str,
        message: impl Into<String>,
    ) {
        let place =
            container.and_then(|name| find(&self.pod, name).map(|(_, list)| format!("{list}{{{name}}}")));
        let about = ObjectReference {
            field_path: place,
            ..reference(&*self.pod)
        };
        self.node.recorder.record(about, event_type, reason, message);
    }

    pub(crate) async fn set_up_volumes(self, again: bool) -> Done {
        let result = volume::set_up(&self.node, &self.pod, &self.dirs, again).await;
        Done::Volumes(result.map_err(|error| error.to_string()))
    }

    pub(crate) async fn pull_image(self, name: String) -> Done {
        let Some((container, _)) = find(&self.pod, &name) else {
            return Done::Stopped;
        };
        let image = container.image.clone().unwrap_or_default();
        let policy = container.image_pull_policy.clone().unwrap_or_default();
        let record =
            |event_type, reason: &str, message| self.record(Some(&name), event_type, reason, message);
        let result = images::ensure(&self.node, &self.pod, &image, &policy, record).await;
        Done::Image(name, result)
    }

    /// Writes a status, as a patch of what differs from the one the API is known to have.
    pub(crate) async fn write_status(self, old: PodStatus, new: PodStatus) -> Done {
        let Some(patch) = super::patch::status_patch(&self.pod, &old, &new) else {
            return Done::StatusWritten(Box::new(new), Ok(()));
        };
        let api: Api<Pod> = Api::namespaced(self.node.client.clone(), self.namespace());
        let result = api
            .patch_status(self.name(), &PatchParams::default(), &Patch::Strategic(&patch))
            .await;
        Done::StatusWritten(Box::new(new), result.map(|_| ()))
    }
}

fn remove_if_there(path: &Path) -> std::io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// An error with all that lies behind it.
fn with_causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        if !text.contains(&cause_text) {
            text.push_str(": ");
            text.push_str(&cause_text);
        }
        source = cause.source();
    }
    text
}
