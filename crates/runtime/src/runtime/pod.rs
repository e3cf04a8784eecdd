//! A pod that is alive, and what can be done with it.
//!
//! Each pod has one task, which owns the connection to its shim and hears of everything that happens; when
//! the shim ends it makes sure that all of the pod's processes have ended, and says so. The handle, [`Pod`],
//! is shared; what it does are requests to the shim.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::net::TcpStream;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use jiff::Timestamp;
use tokio::sync::watch;

use super::connection::{Connection, RequestError};
use super::dirs::{self, POD_FILE, PodDirs};
use super::launch::{self, Launch, Meant, Plan};
use super::shim::{self, Shim, ShimError};
use super::{DEFAULT_SHM_BYTES, DeadPod, Event, SHIM_OOM_SCORE, Shared, StartError};
use crate::blocking::blocking;
use crate::cgroup::CgroupError;
use crate::cgroup::stats::Stats;
use crate::config::{ContainerConfig, IpcMode, NetworkMode, PidMode, PodConfig, Resources};
use crate::images::{Digest, InUse};
use crate::record::{self, EXIT_FILE, ExitRecord};
use crate::shim::protocol::{
    Answer, ContainerState as ShimContainer, Event as ShimEvent, FailureKind, Op, OwnNamespaces, Setup,
};

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
    /// Names of containers that are being started.
    starting: Vec<String>,
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
    let pod = Pod::new(
        shared,
        config,
        connection,
        (shim.pid, shim.netns),
        BTreeMap::new(),
    );
    pod.spawn_task(shim.pidfd);
    pod.connection().hello().await?;
    Ok(pod)
}

/// What became of a pod that an earlier server had.
pub(super) enum Adopted {
    Alive(Pod),
    /// `None` if not even its description is left.
    Dead(Option<Box<DeadPod>>),
}

/// Finds out about a pod that an earlier server had.
pub(super) async fn adopt(shared: &Arc<Shared>, uid: &str) -> Result<Adopted, ShimError> {
    let dirs = shared.dirs(uid);
    let config = read_config(&dirs);
    let failed = |source| ShimError::File {
        action: "talk to",
        path: dirs.socket(),
        source,
    };
    let (Some(socket), Some(config)) = (shim::find(&dirs).await?, config.clone()) else {
        let kill = async { shared.cgroups.kill(&shared.cgroups.pod(uid)?).await };
        kill.await.map_err(|error| failed(io::Error::other(error)))?;
        let containers = blocking(move || dead_containers(&dirs)).await;
        return Ok(Adopted::Dead(
            config.map(|config| Box::new(DeadPod { config, containers })),
        ));
    };
    let connection = Connection::new(socket).map_err(failed)?;
    let (pid, pidfd) = connection.peer().map_err(failed)?;
    let netns = match config.network {
        NetworkMode::Pod => Some(
            fs::File::open(format!("/proc/{pid}/ns/net"))
                .map_err(failed)?
                .into(),
        ),
        NetworkMode::Host => None,
    };
    let pod = Pod::new(shared, config, connection, (pid, netns), BTreeMap::new());
    pod.spawn_task(pidfd);
    let known = pod
        .greet()
        .await
        .map_err(|error| failed(io::Error::other(error)))?;
    pod.take_over(known).await;
    Ok(Adopted::Alive(pod))
}

fn read_config(dirs: &PodDirs) -> Option<PodConfig> {
    let state = fs::File::open(&dirs.state).ok()?;
    record::read_json(&state, POD_FILE).ok().flatten()
}

/// The containers of a pod whose shim has died. One that left no record was killed with its shim; that is
/// recorded now, so that it will be the same story next time.
fn dead_containers(dirs: &PodDirs) -> Vec<ContainerInfo> {
    let mut containers = Vec::new();
    for id in dirs::names(&dirs.containers()) {
        let bundle = dirs.bundle(&id);
        // Without a description it had not been started.
        let Some(meant) = launch::read_meant(&bundle) else {
            continue;
        };
        let exit = exit_or_killed(&bundle);
        containers.push(ContainerInfo::new(id, &meant, ContainerState::Exited(exit)));
    }
    containers
}

fn exit_or_killed(bundle: &std::path::Path) -> ExitRecord {
    let dir = fs::File::open(bundle);
    let recorded = dir
        .as_ref()
        .ok()
        .and_then(|dir| record::read_json(dir, EXIT_FILE).ok().flatten());
    recorded.unwrap_or_else(|| {
        let now = Timestamp::now();
        let exit = ExitRecord {
            exit_code: 128 + libc::SIGKILL,
            signal: Some(libc::SIGKILL),
            oom_killed: false,
            started_at: now,
            finished_at: now,
        };
        if let Err(error) = dir.and_then(|dir| record::write_json(&dir, EXIT_FILE, &exit)) {
            tracing::warn!(?bundle, %error, "the end of a container cannot be recorded");
        }
        exit
    })
}

impl Pod {
    fn new(
        shared: &Arc<Shared>,
        config: PodConfig,
        connection: Connection,
        (pid, netns): (i32, Option<OwnedFd>),
        containers: BTreeMap<String, Container>,
    ) -> Self {
        let state = State {
            connection: Arc::new(connection),
            containers,
            starting: Vec::new(),
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

    /// Creates a container and starts it.
    ///
    /// Cancelled, the container may start all the same; it is then found by [`Self::containers`].
    pub async fn start_container(&self, config: ContainerConfig) -> Result<ContainerInfo, StartError> {
        let pod = self.clone();
        let started = self.inner.shared.tasks.spawn(async move {
            let name = config.name.clone();
            pod.reserve(&name)?;
            let outcome = pod.start(config).await;
            pod.state().starting.retain(|starting| *starting != name);
            outcome
        });
        started.await.unwrap_or_else(|error| {
            Err(StartError::Failed {
                id: String::new(),
                message: error.to_string(),
            })
        })
    }

    fn reserve(&self, name: &str) -> Result<(), StartError> {
        let mut state = self.state();
        let runs = state
            .containers
            .values()
            .any(|c| c.info.name == name && c.info.is_running());
        if runs || state.starting.iter().any(|starting| starting == name) {
            return Err(StartError::NameInUse(name.to_owned()));
        }
        state.starting.push(name.to_owned());
        Ok(())
    }

    async fn start(&self, config: ContainerConfig) -> Result<ContainerInfo, StartError> {
        let shared = &self.inner.shared;
        let image = shared.images.get(&config.image)?;
        let image = image.ok_or_else(|| StartError::NoImage(config.image.clone()))?;
        let hold = image.hold();
        let id = new_id();
        let (pod, plan_id) = (self.clone(), id.clone());
        let (launch, config) = blocking(move || {
            let inner = &pod.inner;
            let launch = launch::prepare(&Plan {
                id: &plan_id,
                pod: &inner.config,
                container: &config,
                image: &image,
                images: &inner.shared.images,
                cgroups: &inner.shared.cgroups,
                dirs: &inner.dirs,
                available: inner.shared.available,
            });
            (launch, (config, image.id().clone()))
        })
        .await;
        let (config, image_id) = config;
        let outcome = match launch {
            Ok(launch) => self.launch(&id, launch).await,
            Err(error) => Err(error),
        };
        match outcome {
            Ok((pid, started_at)) => {
                let oom_score_adj = config.oom_score_adj;
                let meant = Meant { config, image_id };
                let state = ContainerState::Running { pid, started_at };
                let info = ContainerInfo::new(id, &meant, state);
                Ok(self.add(Container {
                    info,
                    oom_score_adj,
                    _image: Some(hold),
                }))
            }
            Err(error) => {
                self.discard(&id).await;
                Err(error)
            }
        }
    }

    async fn launch(&self, id: &str, launch: Launch) -> Result<(i32, Timestamp), StartError> {
        let failed = |message| StartError::Failed {
            id: id.to_owned(),
            message,
        };
        let fds = launch.fds(&self.inner.shared.mount_namespace);
        let op = Op::Start(Box::new(launch.start.clone()));
        match self.connection().request(op, &fds).await {
            Ok((
                Answer::Started {
                    pid,
                    started_at,
                    warnings,
                },
                _,
            )) => {
                warnings
                    .iter()
                    .for_each(|warning| tracing::warn!(pod = self.uid(), "{warning}"));
                Ok((pid, started_at))
            }
            Ok(_) => Err(failed(RequestError::Nonsense.to_string())),
            Err(RequestError::Refused(failure)) if failure.kind == FailureKind::Command => {
                Err(StartError::Command {
                    id: id.to_owned(),
                    message: failure.message,
                })
            }
            Err(RequestError::Lost) => Err(StartError::PodEnded),
            Err(error) => Err(failed(error.to_string())),
        }
    }

    /// Adds a container that has started; its end may have been reported already.
    fn add(&self, mut container: Container) -> ContainerInfo {
        let mut state = self.state();
        let id = container.info.id.clone();
        if let Some(early) = state.containers.remove(&id) {
            container.info.state = early.info.state;
        }
        let info = container.info.clone();
        state.containers.insert(id, container);
        info
    }

    /// Removes what is left of a container that did not start.
    async fn discard(&self, id: &str) {
        let pod = self.clone();
        let id = id.to_owned();
        let shared = &self.inner.shared;
        let result = async {
            let cgroup = shared.cgroups.container(&shared.cgroups.pod(self.uid())?, &id)?;
            shared.cgroups.kill(&cgroup).await?;
            let bundle = self.inner.dirs.bundle(&id);
            blocking(move || launch::discard(&pod.inner.shared.cgroups, &cgroup, &bundle)).await
        };
        if let Err(error) = result.await {
            tracing::warn!(pod = self.uid(), %error, "something is left of a container that did not start");
        }
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
    pub async fn remove_container(&self, id: &str) -> Result<(), PodError> {
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
        self.state().containers.remove(id);
        self.discard(id).await;
        Ok(())
    }

    /// Kills what runs, and ends the pod. Its description and its containers' stay until [`Self::remove`].
    pub async fn stop(&self) -> Result<(), PodError> {
        match self.order(Op::Shutdown).await {
            Ok(()) | Err(PodError::Ended) => {}
            Err(error) => return Err(error),
        }
        self.ended().await;
        Ok(())
    }

    /// Ends the pod and removes everything of it but the logs.
    pub async fn remove(&self) -> Result<(), PodError> {
        self.stop().await?;
        let cleared = self.inner.shared.clear(self.uid()).await;
        cleared.map_err(|error| PodError::Request(error.to_string()))
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

/// The pod's task.
impl Pod {
    fn spawn_task(&self, pidfd: OwnedFd) {
        let pod = self.clone();
        self.inner
            .shared
            .tasks
            .spawn(async move { pod.attend(pidfd).await });
    }

    /// Hears of everything until the shim has ended, and then sees to what it leaves.
    async fn attend(&self, pidfd: OwnedFd) {
        let child = pidfd.try_clone();
        let end = crate::ready::process_end(pidfd);
        tokio::pin!(end);
        let closing = self.inner.shared.closing.cancelled();
        tokio::pin!(closing);
        loop {
            let connection = self.connection();
            tokio::select! {
                () = &mut closing => return,
                ended = &mut end => {
                    if let Err(error) = ended {
                        tracing::error!(pod = self.uid(), %error, "the shim of a pod cannot be watched");
                    }
                    break;
                }
                () = connection.run(|event| self.heard(event)) => {}
            }
            // Cut off while it lives, because it was not listened to for too long: ask again.
            tokio::select! {
                () = &mut closing => return,
                _ = &mut end => break,
                reconnected = self.reconnect() => {
                    if let Err(error) = reconnected {
                        tracing::error!(pod = self.uid(), %error, "the shim of a pod cannot be reached");
                        let _ = (&mut end).await;
                        break;
                    }
                }
            }
        }
        self.connection().finish(|event| self.heard(event));
        if let Ok(child) = child {
            // An orphan, so a child of whoever is process 1 here. Where that is this server, nobody else
            // waits for it; elsewhere it is not ours, and nothing happens.
            let how = rustix::process::WaitIdOptions::EXITED | rustix::process::WaitIdOptions::NOHANG;
            let _ = rustix::process::waitid(rustix::process::WaitId::PidFd(child.as_fd()), how);
        }
        self.see_off().await;
    }

    /// Makes a new connection. What it leads to is asked in a task of its own, since this one must listen.
    async fn reconnect(&self) -> Result<(), ShimError> {
        let path = self.inner.dirs.socket();
        let failed = |source| ShimError::File {
            action: "connect to",
            path: path.clone(),
            source,
        };
        let socket = shim::find(&self.inner.dirs).await?;
        let Some(socket) = socket else {
            return std::future::pending().await;
        };
        self.state().connection = Arc::new(Connection::new(socket).map_err(failed)?);
        let pod = self.clone();
        self.inner.shared.tasks.spawn(async move {
            match pod.greet().await {
                Ok(known) => pod.take_over(known).await,
                Err(error) => tracing::warn!(pod = pod.uid(), %error, "a shim does not tell its state"),
            }
        });
        Ok(())
    }

    async fn greet(&self) -> Result<Vec<ShimContainer>, RequestError> {
        let connection = self.connection();
        connection.hello().await?;
        match connection.request(Op::List, &[]).await? {
            (Answer::Containers(known), _) => Ok(known),
            _ => Err(RequestError::Nonsense),
        }
    }

    /// Learns what the shim knows; removes what was being started when the server before this one ended.
    async fn take_over(&self, known: Vec<ShimContainer>) {
        let mut unfinished = dirs::names(&self.inner.dirs.containers());
        unfinished.retain(|id| !self.state().containers.contains_key(id));
        for container in known {
            let id = container.container.clone();
            unfinished.retain(|other| *other != id);
            if !self.learn(container) {
                self.end_unknown(id).await;
            }
        }
        let starting = self.state().starting.is_empty();
        for id in unfinished.into_iter().filter(|_| starting) {
            if self
                .order(Op::Remove {
                    container: id.clone(),
                })
                .await
                .is_ok()
            {
                self.discard(&id).await;
            }
        }
    }

    /// Ends a container that nobody can say anything about: its start was given up, but came about.
    async fn end_unknown(&self, id: String) {
        tracing::warn!(
            pod = self.uid(),
            container = id,
            "a container without a description is ended"
        );
        let kill = Op::Signal {
            container: id.clone(),
            signal: libc::SIGKILL,
            all: true,
        };
        // One that has ended is removed at once; of the other's end the shim will tell.
        if self.order(kill).await.is_err() {
            let _ = self.order(Op::Remove { container: id }).await;
        }
    }

    /// `false` if there is no description of it.
    fn learn(&self, known: ShimContainer) -> bool {
        let id = known.container;
        if self.state().containers.contains_key(&id) {
            if let Some(exit) = known.exit {
                self.heard(ShimEvent::ContainerExited { container: id, exit });
            }
            return true;
        }
        let Some(meant) = launch::read_meant(&self.inner.dirs.bundle(&id)) else {
            return false;
        };
        let state = match known.exit {
            Some(exit) => ContainerState::Exited(exit),
            None => ContainerState::Running {
                pid: known.pid,
                started_at: known.started_at,
            },
        };
        let image = launch::hold(&self.inner.shared.images, &meant.image_id);
        let info = ContainerInfo::new(id, &meant, state);
        self.add(Container {
            info,
            oom_score_adj: meant.config.oom_score_adj,
            _image: image,
        });
        true
    }

    fn heard(&self, event: ShimEvent) {
        let ShimEvent::ContainerExited { container: id, exit } = event else {
            return;
        };
        let mut state = self.state();
        if let Some(container) = state.containers.get_mut(&id) {
            if !container.info.is_running() {
                return;
            }
            container.info.state = ContainerState::Exited(exit.clone());
            let name = container.info.name.clone();
            self.tell(Event::ContainerExited {
                pod: self.uid().to_owned(),
                container: id,
                name,
                exit,
            });
            return;
        }
        drop(state);
        // It ended before its start was acknowledged here, or its start was given up.
        let Some(meant) = launch::read_meant(&self.inner.dirs.bundle(&id)) else {
            let pod = self.clone();
            self.inner
                .shared
                .tasks
                .spawn(async move { pod.order(Op::Remove { container: id }).await });
            return;
        };
        let name = meant.config.name.clone();
        let info = ContainerInfo::new(id.clone(), &meant, ContainerState::Exited(exit.clone()));
        self.add(Container {
            info,
            oom_score_adj: None,
            _image: None,
        });
        self.tell(Event::ContainerExited {
            pod: self.uid().to_owned(),
            container: id,
            name,
            exit,
        });
    }

    fn tell(&self, event: Event) {
        // Nobody may want to know.
        let _ = self.inner.shared.events.send(event);
    }

    /// The shim has ended: makes sure that everything of the pod has, and says so.
    async fn see_off(&self) {
        let cgroups = &self.inner.shared.cgroups;
        let emptied = async {
            let cgroup = cgroups.pod(self.uid())?;
            cgroups.kill(&cgroup).await?;
            cgroups.remove(&cgroup)
        };
        if let Err(error) = emptied.await {
            tracing::error!(pod = self.uid(), %error, "the cgroup of a pod that has ended cannot be emptied");
        }
        let dirs = self.inner.dirs.clone();
        let containers = blocking(move || dead_containers(&dirs)).await;
        for container in containers {
            if let ContainerState::Exited(exit) = container.state {
                self.heard(ShimEvent::ContainerExited {
                    container: container.id,
                    exit,
                });
            }
        }
        let run = self.inner.dirs.run.clone();
        if let Err(error) = blocking(move || dirs::remove(&run)).await {
            tracing::warn!(pod = self.uid(), %error, "something is left of a pod that has ended");
        }
        self.inner.shared.pods().remove(self.uid());
        self.inner.ended.send_replace(true);
        self.tell(Event::PodEnded {
            pod: self.uid().to_owned(),
        });
    }
}

fn new_id() -> String {
    let mut random = [0u8; 32];
    // Cannot fail on a kernel that can do anything else this crate needs; and the name is only a name.
    let _ = rustix::rand::getrandom(&mut random, rustix::rand::GetRandomFlags::empty());
    random.iter().map(|byte| format!("{byte:02x}")).collect()
}
