//! A pod that is alive, and what can be done with it.
//!
//! Each pod has one task, which owns the connection to its shim and hears of everything that happens; when
//! the shim ends it makes sure that all of the pod's processes have ended, and says so. The handle, [`Pod`],
//! is shared; what it does are requests to the shim.

mod adopt;
mod starts;
mod task;

use std::collections::{BTreeMap, BTreeSet};
use std::net::TcpStream;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use futures::future::BoxFuture;
use jiff::Timestamp;
use tokio::sync::watch;

use super::connection::{Connection, RequestError};
use super::dirs::PodDirs;
use super::launch::Meant;
use super::shim::Shim;
use super::{DEFAULT_SHM_BYTES, SHIM_OOM_SCORE, Shared};
use crate::cgroup::CgroupError;
use crate::cgroup::stats::Stats;
use crate::config::{IpcMode, NetworkMode, PidMode, PodConfig, Resources};
use crate::images::{Digest, InUse};
use crate::record::ExitRecord;
use crate::shim::protocol::{
    ContainerState as ShimContainer, Event as ShimEvent, FailureKind, Op, OwnNamespaces, Setup,
};

pub(super) use adopt::{Adopted, adopt};

/// A pod whose shim was alive when last heard of. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Pod {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    config: PodConfig,
    dirs: PodDirs,
    pid: i32,
    netns: Option<OwnedFd>,
    shared: Arc<Shared>,
    state: Mutex<State>,
    ended: watch::Sender<bool>,
}

#[derive(Debug)]
struct State {
    /// Replaced when the shim has cut it, and it was made anew.
    connection: Arc<Connection>,
    containers: BTreeMap<String, Container>,
    /// Containers that are being started, by id.
    starting: BTreeMap<String, Starting>,
    /// Ids of containers whose start was given up, though it may have come about: see [`starts`].
    given_up: BTreeSet<String>,
    /// How many times the shim is being asked what it has.
    asking: usize,
    /// Ids of containers that were removed meanwhile, which may be in the answer.
    removed: BTreeSet<String>,
}

impl State {
    fn remove(&mut self, id: &str) {
        self.containers.remove(id);
        if self.asking > 0 {
            self.removed.insert(id.to_owned());
        }
    }

    /// Is this a container that should not be there?
    fn is_unwanted(&self, id: &str) -> bool {
        self.given_up.contains(id) || self.removed.contains(id)
    }
}

/// A container that is being started.
#[derive(Debug)]
struct Starting {
    name: String,
    /// It has ended already, as the shim said.
    exit: Option<ExitRecord>,
    /// It did not start, and something is left of it.
    blocked: bool,
}

/// A container that has started.
#[derive(Debug)]
struct Container {
    info: ContainerInfo,
    oom_score_adj: Option<i32>,
    /// The image stays as long as the container does.
    _image: Option<InUse>,
}

/// A container, as a list shows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ContainerInfo {
    /// Unique among all containers ever.
    pub id: String,
    /// Its name in the pod.
    pub name: String,
    /// How often a container of this name was started before.
    pub attempt: u32,
    /// The image, as it was asked for.
    pub image: String,
    /// The id of that image.
    pub image_id: Digest,
    /// What it is doing.
    pub state: ContainerState,
    /// Where it logs.
    pub log: Option<PathBuf>,
    /// It has a terminal.
    pub tty: bool,
    /// It has a standard input.
    pub stdin: bool,
    /// As given when it was started.
    pub annotations: BTreeMap<String, String>,
}

/// What a container is doing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ContainerState {
    /// Its first process runs.
    Running {
        /// Of the first process, as the server sees it.
        pid: i32,
        /// When it began.
        started_at: Timestamp,
    },
    /// Its first process has ended.
    Exited(ExitRecord),
}

impl ContainerInfo {
    fn new(id: String, meant: &Meant, state: ContainerState) -> Self {
        let config = &meant.config;
        Self {
            id,
            name: config.name.clone(),
            attempt: config.attempt,
            image: config.image.clone(),
            image_id: meant.image_id.clone(),
            state,
            log: config.log.as_ref().map(|log| log.path.clone()),
            tty: config.tty,
            stdin: config.stdin,
            annotations: config.annotations.clone(),
        }
    }

    /// Its first process runs.
    pub fn is_running(&self) -> bool {
        matches!(self.state, ContainerState::Running { .. })
    }
}

/// What the shim of a pod needs to know at its start.
pub(super) fn setup(config: &PodConfig, cgroup_tasks: Vec<PathBuf>) -> Setup {
    let own = OwnNamespaces {
        net: config.network == NetworkMode::Pod,
        pid: config.pid != PidMode::Host,
        ipc: config.ipc == IpcMode::Pod,
    };
    let hostname = own
        .net
        .then(|| config.hostname.clone())
        .filter(|name| !name.is_empty());
    Setup {
        own,
        hostname,
        sysctls: config
            .sysctls
            .iter()
            .map(|(name, value)| (name.clone(), value.clone()))
            .collect(),
        shm_bytes: config.shm_bytes.unwrap_or(DEFAULT_SHM_BYTES),
        cgroup_tasks,
        oom_score_adj: SHIM_OOM_SCORE,
    }
}

/// Takes over a shim that has just been started.
pub(super) async fn begin(shared: &Arc<Shared>, config: PodConfig, shim: Shim) -> Result<Pod, RequestError> {
    let connection = Connection::new(shim.socket).map_err(RequestError::Send)?;
    let pod = Pod::new(shared, config, connection, (shim.pid, shim.netns));
    pod.spawn_task(shim.pidfd);
    pod.connection().hello().await?;
    Ok(pod)
}

impl Pod {
    fn new(
        shared: &Arc<Shared>,
        config: PodConfig,
        connection: Connection,
        (pid, netns): (i32, Option<OwnedFd>),
    ) -> Self {
        let state = State {
            connection: Arc::new(connection),
            containers: BTreeMap::new(),
            starting: BTreeMap::new(),
            given_up: BTreeSet::new(),
            asking: 0,
            removed: BTreeSet::new(),
        };
        let dirs = shared.dirs(&config.uid);
        let shared_clone = Arc::clone(shared);
        let uid = config.uid.clone();
        let (state, ended) = (Mutex::new(state), watch::channel(false).0);
        let inner = Inner {
            config,
            dirs,
            pid,
            netns,
            shared: shared_clone,
            state,
            ended,
        };
        let pod = Self {
            inner: Arc::new(inner),
        };
        shared.pods().insert(uid, pod.clone());
        pod
    }

    /// The pod's uid.
    pub fn uid(&self) -> &str {
        &self.inner.config.uid
    }

    /// How it was meant to be.
    pub fn config(&self) -> &PodConfig {
        &self.inner.config
    }

    /// Its shim, as the server sees it.
    pub fn pid(&self) -> i32 {
        self.inner.pid
    }

    /// Its network namespace; `None` on the host's network.
    pub fn netns(&self) -> Option<BorrowedFd<'_>> {
        self.inner.netns.as_ref().map(AsFd::as_fd)
    }

    /// Its containers, ended ones included, by id.
    pub fn containers(&self) -> Vec<ContainerInfo> {
        self.state()
            .containers
            .values()
            .map(|container| container.info.clone())
            .collect()
    }

    /// One of its containers.
    pub fn container(&self, id: &str) -> Option<ContainerInfo> {
        self.state()
            .containers
            .get(id)
            .map(|container| container.info.clone())
    }

    /// Waits until the pod has ended, with every process in it.
    pub async fn ended(&self) {
        let mut ended = self.inner.ended.subscribe();
        // The sender is in `self`, so it is there.
        let _ = ended.wait_for(|ended| *ended).await;
    }

    /// Sends a signal to a container's first process, or to all of its processes.
    pub async fn signal(&self, container: &str, signal: i32, all: bool) -> Result<(), PodError> {
        self.order(Op::Signal {
            container: container.to_owned(),
            signal,
            all,
        })
        .await
    }

    /// Sets the size of a container's terminal.
    pub async fn resize(&self, container: &str, rows: u16, columns: u16) -> Result<(), PodError> {
        self.order(Op::Resize {
            container: container.to_owned(),
            rows,
            columns,
        })
        .await
    }

    /// Has a container's log opened anew, after it was moved or removed by someone else.
    pub async fn reopen_log(&self, container: &str) -> Result<(), PodError> {
        self.order(Op::ReopenLog {
            container: container.to_owned(),
        })
        .await
    }

    /// Connects to a TCP port on the pod's loopback: over IPv4, or where nobody listens there, over IPv6.
    pub async fn connect(&self, port: u16) -> Result<tokio::net::TcpStream, PodError> {
        let fd = self.connection().order(Op::Connect { port }, &[]).await?;
        let fd = fd.ok_or(PodError::Request(RequestError::Nonsense.to_string()))?;
        tokio::net::TcpStream::from_std(TcpStream::from(fd)).map_err(|e| PodError::Request(e.to_string()))
    }

    /// What a container has used.
    pub fn stats(&self, container: &str) -> Result<Stats, CgroupError> {
        let cgroups = &self.inner.shared.cgroups;
        cgroups.stats(&cgroups.container(&cgroups.pod(self.uid())?, container)?)
    }

    /// What the pod's containers have used together, including those that have been removed.
    pub fn pod_stats(&self) -> Result<Stats, CgroupError> {
        let cgroups = &self.inner.shared.cgroups;
        cgroups.stats(&cgroups.pod(self.uid())?)
    }

    /// Changes a container's limits.
    pub fn update(&self, container: &str, resources: &Resources) -> Result<(), CgroupError> {
        let cgroups = &self.inner.shared.cgroups;
        cgroups.limit(
            &cgroups.container(&cgroups.pod(self.uid())?, container)?,
            resources,
        )
    }

    /// Changes the limits of the pod as a whole.
    pub fn update_pod(&self, resources: &Resources) -> Result<(), CgroupError> {
        let cgroups = &self.inner.shared.cgroups;
        cgroups.limit(&cgroups.pod(self.uid())?, resources)
    }

    /// Removes a container that has ended: its own layer, its cgroup, what is known of it; not its log.
    pub fn remove_container<'a>(&'a self, id: &'a str) -> BoxFuture<'a, Result<(), PodError>> {
        Box::pin(async move {
            if self.container(id).is_some_and(|info| info.is_running()) {
                return Err(PodError::Running(id.to_owned()));
            }
            match self
                .order(Op::Remove {
                    container: id.to_owned(),
                })
                .await
            {
                // With its shim, the container has gone from there as well.
                Ok(()) | Err(PodError::Ended) => {}
                Err(error) => return Err(error),
            }
            self.state().remove(id);
            if let Err(error) = self.discard(id).await {
                tracing::warn!(pod = self.uid(), %error, "something is left of a container that was removed");
            }
            Ok(())
        })
    }

    /// Kills what runs, and ends the pod. Its description and its containers' stay until [`Self::remove`].
    pub fn stop<'a>(&'a self) -> BoxFuture<'a, Result<(), PodError>> {
        Box::pin(async move {
            match self.order(Op::Shutdown).await {
                Ok(()) | Err(PodError::Ended) => {}
                Err(error) => return Err(error),
            }
            self.ended().await;
            Ok(())
        })
    }

    /// Ends the pod and removes everything of it but the logs.
    pub fn remove<'a>(&'a self) -> BoxFuture<'a, Result<(), PodError>> {
        Box::pin(async move {
            self.stop().await?;
            let cleared = self.inner.shared.clear(self.uid()).await;
            cleared.map_err(|error| PodError::Request(error.to_string()))
        })
    }

    async fn order(&self, op: Op) -> Result<(), PodError> {
        self.connection().order(op, &[]).await?;
        Ok(())
    }

    pub(super) fn connection(&self) -> Arc<Connection> {
        Arc::clone(&self.state().connection)
    }

    pub(super) fn mount_namespace(&self) -> BorrowedFd<'_> {
        self.inner.shared.mount_namespace.as_fd()
    }

    pub(super) fn bundle(&self, container: &str) -> PathBuf {
        self.inner.dirs.bundle(container)
    }

    pub(super) fn cgroup_tasks(&self, container: &str) -> Result<Vec<PathBuf>, CgroupError> {
        let cgroups = &self.inner.shared.cgroups;
        Ok(cgroups.container_tasks(&cgroups.container(&cgroups.pod(self.uid())?, container)?))
    }

    pub(super) fn oom_score_adj(&self, container: &str) -> Option<i32> {
        self.state()
            .containers
            .get(container)
            .and_then(|container| container.oom_score_adj)
    }

    /// Who is who in the container's image.
    pub(super) fn users(&self, container: &str) -> Option<crate::oci::user::Users> {
        let images = &self.inner.shared.images;
        let id = self.container(container)?.image_id.to_string();
        let image = images.get(&id).ok().flatten()?;
        Some(images.users(&image).clone())
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Held for a lookup at a time; no panic can leave it half changed.
        self.inner.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A request was not carried out.
#[derive(Debug, thiserror::Error)]
pub enum PodError {
    /// No such container, or process.
    #[error("{0}")]
    NotFound(String),
    /// It exists, but is not in the state that this needs.
    #[error("{0}")]
    State(String),
    /// A container that runs is not removed.
    #[error("container {0} runs")]
    Running(String),
    /// The pod has ended.
    #[error("the pod has ended")]
    Ended,
    /// Anything else.
    #[error("{0}")]
    Request(String),
}

impl From<RequestError> for PodError {
    fn from(error: RequestError) -> Self {
        match error {
            RequestError::Refused(failure) => match failure.kind {
                FailureKind::NotFound => Self::NotFound(failure.message),
                FailureKind::State => Self::State(failure.message),
                FailureKind::Command | FailureKind::Other => Self::Request(failure.message),
            },
            RequestError::Lost => Self::Ended,
            other => Self::Request(other.to_string()),
        }
    }
}
