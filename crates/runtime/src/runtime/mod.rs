//! The embedded engine: pods and containers without any other daemon.
//!
//! The server's side. A pod is a shim ([`crate::shim`]); this is what starts shims, finds those that are
//! there when the server starts, asks them for containers, and hears from them. It holds no state that is
//! not also on disk or in a shim, so a server that is killed at any moment loses nothing: the next one
//! adopts every pod that is alive, and is told how everything else ended.
//!
//! At most one shim exists per pod uid: it holds the pod's lock as long as it lives, and nothing replaces a
//! shim that has died before every process of its containers has.
//!
//! * [`pod`]: a pod, and what can be done with it;
//! * [`exec`]: processes in containers, and attaching to them;
//! * [`launch`]: what a container needs before it can start;
//! * [`shim`], [`connection`]: starting and finding shims, and talking to one;
//! * [`dirs`]: where things are.

mod connection;
mod dirs;
mod exec;
mod launch;
mod pod;
mod shim;
mod stream;

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures::future::BoxFuture;
use rustix::fs::{Mode, OFlags};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::blocking::blocking;
use crate::cgroup::{CgroupError, Cgroups};
use crate::config::PodConfig;
use crate::images::{ImageStore, ReferenceError};
use crate::oci::SpecError;
use crate::oci::capabilities::Available;
use crate::record::{self, ExitRecord};
use dirs::{POD_FILE, PodDirs};

pub use exec::{Attach, AttachConfig, Exec, ExecConfig, ExecError, ExecOutput, ExecSyncError};
pub use pod::{ContainerInfo, ContainerState, Pod, PodError};
pub use shim::ShimError;
pub use stream::{Input, Output};

/// The size of `/dev/shm` that containerd gives a pod.
const DEFAULT_SHM_BYTES: u64 = 64 << 20;
/// How long the closing of the engine waits for what is under way.
const UNDER_WAY: Duration = Duration::from_secs(5);
/// As containerd's shims have: above the container's processes, below the server.
const SHIM_OOM_SCORE: i32 = -998;

/// How to run the engine.
#[derive(Debug, Clone)]
pub struct Config {
    /// Where pods are described and containers have their own layers; survives a reboot.
    pub state_dir: PathBuf,
    /// Where shims have their sockets and locks; empty after a reboot, as below `/run`.
    pub run_dir: PathBuf,
    /// The name of the cgroup that all pods and shims are in.
    pub cgroup: String,
}

const CGROUPS: &str = "/sys/fs/cgroup";
const MOUNTINFO: &str = "/proc/self/mountinfo";

/// Removes the control groups that an engine has made, after its pods have ended and it was closed. What
/// should still run in them is killed.
///
/// # Errors
/// When one cannot be removed.
pub fn remove_cgroups<'a>(name: &'a str) -> BoxFuture<'a, Result<(), OpenError>> {
    Box::pin(async move {
        let mountinfo = fs::read_to_string(MOUNTINFO).map_err(|source| OpenError::File {
            action: "read",
            path: MOUNTINFO.into(),
            source,
        })?;
        Ok(Cgroups::remove_all(name, Path::new(CGROUPS), &mountinfo).await?)
    })
}

/// The engine. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Runtime {
    shared: Arc<Shared>,
}

/// What pods have in common.
#[derive(Debug)]
struct Shared {
    config: Config,
    images: Arc<ImageStore>,
    cgroups: Cgroups,
    available: Available,
    /// The mount namespace in which the paths of mounts are meant.
    mount_namespace: OwnedFd,
    events: mpsc::UnboundedSender<Event>,
    pods: Mutex<BTreeMap<String, Pod>>,
    /// Operations that must not end half-way when their caller goes away.
    tasks: TaskTracker,
    /// The pods' tasks, which those rely on.
    attending: TaskTracker,
    closing: CancellationToken,
}

/// Something that happened without being asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// A container's first process has ended, and its log is complete.
    ContainerExited {
        /// The pod's uid.
        pod: String,
        /// The container's id.
        container: String,
        /// Its name in the pod.
        name: String,
        /// How.
        exit: ExitRecord,
    },
    /// A pod's shim has ended, and every process of its containers with it. What has become of the
    /// containers was reported before.
    PodEnded {
        /// The pod's uid.
        pod: String,
    },
}

/// What happens, in order. There is one receiver. Not bounded, since a container or a pod ends only once:
/// there are never more events than there were containers and pods.
#[derive(Debug)]
pub struct Events(mpsc::UnboundedReceiver<Event>);

impl Events {
    /// Waits for the next event; `None` after the runtime has been dropped. Cancelled, it loses none.
    pub async fn next(&mut self) -> Option<Event> {
        self.0.recv().await
    }
}

/// What a server finds when it starts.
#[derive(Debug, Default)]
pub struct Found {
    /// Pods whose shims are alive; adopted.
    pub alive: Vec<Pod>,
    /// Pods whose shims are not.
    pub dead: Vec<DeadPod>,
}

/// A pod that has ended, perhaps with the machine. None of its processes is left.
#[derive(Debug, Clone)]
pub struct DeadPod {
    /// How it was meant to be.
    pub config: PodConfig,
    /// Its containers. Those that ended with their shim are said to have been killed.
    pub containers: Vec<ContainerInfo>,
}

/// The engine cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// A file could not be used.
    #[error("{action} {path:?}: {source}")]
    File {
        /// What was attempted.
        action: &'static str,
        /// On what.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// See [`CgroupError`].
    #[error(transparent)]
    Cgroup(#[from] CgroupError),
    /// A shim that is there cannot be reached.
    #[error("adopt pod {uid}: {source}")]
    Adopt {
        /// The pod.
        uid: String,
        /// Why not.
        source: ShimError,
    },
}

/// A pod cannot be created.
#[derive(Debug, thiserror::Error)]
pub enum CreatePodError {
    /// There is one of this uid.
    #[error("pod {0} exists")]
    Exists(String),
    /// See [`ShimError`].
    #[error(transparent)]
    Shim(#[from] ShimError),
    /// See [`CgroupError`].
    #[error(transparent)]
    Cgroup(#[from] CgroupError),
    /// A file could not be used.
    #[error("{action} {path:?}: {source}")]
    File {
        /// What was attempted.
        action: &'static str,
        /// On what.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The shim started, and was not there a moment later.
    #[error("talk to the pod's shim: {0}")]
    Talk(String),
}

/// A container cannot be started. None of it is left.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The image's name is none.
    #[error(transparent)]
    Reference(#[from] ReferenceError),
    /// The image is not in the store.
    #[error("image {0:?} is not present")]
    NoImage(String),
    /// A container of this name has not ended yet.
    #[error("a container named {0:?} runs in this pod")]
    NameInUse(String),
    /// What is asked for makes no sense, or not with this image.
    #[error(transparent)]
    Spec(#[from] SpecError),
    /// The program cannot be run; in runc's words.
    #[error("OCI runtime create failed: unable to start container process: {message}: unknown")]
    Command {
        /// The id that the container had.
        id: String,
        /// What was wrong with the program.
        message: String,
    },
    /// See [`CgroupError`].
    #[error(transparent)]
    Cgroup(#[from] CgroupError),
    /// A file could not be used.
    #[error("{action} {path:?}: {source}")]
    File {
        /// What was attempted.
        action: &'static str,
        /// On what.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// Anything else the kernel or libcontainer refused.
    #[error("OCI runtime create failed: {message}: unknown")]
    Failed {
        /// The id that the container had.
        id: String,
        /// What they said.
        message: String,
    },
    /// The pod's shim has died, or does not answer.
    #[error("the pod has ended")]
    PodEnded,
}

impl Runtime {
    /// Starts the engine: adopts the pods that are alive, and makes sure of those that are not.
    ///
    /// Returns when nothing is left of a pod that is reported as dead. One engine at a time may use these
    /// directories; the image store's lock sees to that.
    pub fn open(
        config: Config,
        images: Arc<ImageStore>,
    ) -> BoxFuture<'static, Result<(Self, Events, Found), OpenError>> {
        Box::pin(async move {
            let (events, receiver) = mpsc::unbounded_channel();
            let shared = blocking(move || Shared::open(config, images, events)).await?;
            let runtime = Self {
                shared: Arc::new(shared),
            };
            let found = runtime.adopt().await?;
            Ok((runtime, Events(receiver), found))
        })
    }

    /// The pods that are alive.
    pub fn pods(&self) -> Vec<Pod> {
        self.shared.pods().values().cloned().collect()
    }

    /// A pod that is alive, by its uid.
    pub fn pod(&self, uid: &str) -> Option<Pod> {
        self.shared.pods().get(uid).cloned()
    }

    /// Makes a pod without containers. What a dead pod of this uid has left is removed first.
    ///
    /// Cancelled, the pod may come into being all the same; it is then found by [`Self::pod`].
    pub fn create_pod<'a>(&'a self, config: PodConfig) -> BoxFuture<'a, Result<Pod, CreatePodError>> {
        Box::pin(async move {
            let shared = Arc::clone(&self.shared);
            let created = self
                .shared
                .tasks
                .spawn(async move { shared.create_pod(config).await });
            created
                .await
                .unwrap_or_else(|error| Err(CreatePodError::Talk(error.to_string())))
        })
    }

    /// Removes what is left of a pod that is not alive. That nothing is left is no error.
    pub fn remove_dead<'a>(&'a self, uid: &'a str) -> BoxFuture<'a, Result<(), CreatePodError>> {
        Box::pin(async move {
            if self.pod(uid).is_some() {
                return Err(CreatePodError::Exists(uid.to_owned()));
            }
            self.shared.clear(uid).await
        })
    }

    /// Lets go of all pods, which live on, after waiting for what is under way. Another engine can then adopt
    /// them.
    pub fn close(self) -> BoxFuture<'static, ()> {
        Box::pin(async move {
            let shared = &self.shared;
            shared.tasks.close();
            // A shim that hangs does not keep the server: what it was asked for is given up, and the next engine
            // finds out what came of it.
            if tokio::time::timeout(UNDER_WAY, shared.tasks.wait())
                .await
                .is_err()
            {
                tracing::warn!("a pod's shim does not answer; it is left to the next server");
            }
            shared.closing.cancel();
            shared.attending.close();
            shared.attending.wait().await;
            shared.tasks.wait().await;
            // The pods know of the runtime, and it of them.
            shared.pods().clear();
        })
    }

    async fn adopt(&self) -> Result<Found, OpenError> {
        let mut found = Found::default();
        for uid in self.shared.known_pods() {
            match pod::adopt(&self.shared, &uid).await {
                Ok(pod::Adopted::Alive(pod)) => found.alive.push(pod),
                Ok(pod::Adopted::Dead(dead)) => found.dead.extend(dead.map(|dead| *dead)),
                Err(source) => return Err(OpenError::Adopt { uid, source }),
            }
        }
        Ok(found)
    }
}

impl Shared {
    fn open(
        config: Config,
        images: Arc<ImageStore>,
        events: mpsc::UnboundedSender<Event>,
    ) -> Result<Self, OpenError> {
        let file = |action, path: &Path| {
            let path = path.to_owned();
            move |source| OpenError::File { action, path, source }
        };
        for dir in [config.state_dir.join("pods"), config.run_dir.join("pods")] {
            dirs::make_private(&dir).map_err(file("make", &dir))?;
        }
        let read = |path: &str| fs::read_to_string(path).map_err(file("read", Path::new(path)));
        let mountinfo = read(MOUNTINFO)?;
        let available = Available::parse(&read("/proc/self/status")?);
        let cgroups = Cgroups::open(&config.cgroup, Path::new(CGROUPS), &mountinfo)?;
        let path = "/proc/self/ns/mnt";
        let mount_namespace = rustix::fs::open(path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())
            .map_err(|error| file("open", Path::new(path))(error.into()))?;
        let (pods, closing) = (Mutex::default(), CancellationToken::new());
        Ok(Self {
            config,
            images,
            cgroups,
            available,
            mount_namespace,
            events,
            pods,
            tasks: TaskTracker::new(),
            attending: TaskTracker::new(),
            closing,
        })
    }

    fn pods(&self) -> MutexGuard<'_, BTreeMap<String, Pod>> {
        // Held for a lookup at a time; no panic can leave it half changed.
        self.pods.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn dirs(&self, uid: &str) -> PodDirs {
        PodDirs::new(&self.config.state_dir, &self.config.run_dir, uid)
    }

    /// Everyone who has a directory or a cgroup.
    fn known_pods(&self) -> Vec<String> {
        let mut uids = dirs::names(&self.config.state_dir.join("pods"));
        uids.extend(dirs::names(&self.config.run_dir.join("pods")));
        uids.extend(self.cgroups.pods());
        uids.sort_unstable();
        uids.dedup();
        uids
    }

    async fn create_pod(self: Arc<Self>, config: PodConfig) -> Result<Pod, CreatePodError> {
        let uid = config.uid.clone();
        // Also refuses a uid that could not be the name of a directory.
        let cgroup = self.cgroups.pod(&uid)?;
        if self.pods().contains_key(&uid) {
            return Err(CreatePodError::Exists(uid));
        }
        self.clear(&uid).await?;
        let shared = Arc::clone(&self);
        let (started, config) = blocking(move || {
            let started = shared.start_shim(&config, &cgroup);
            (started, config)
        })
        .await;
        pod::begin(&self, config, started?)
            .await
            .map_err(|error| CreatePodError::Talk(error.to_string()))
    }

    fn start_shim(
        &self,
        config: &PodConfig,
        cgroup: &crate::cgroup::CgroupPath,
    ) -> Result<shim::Shim, CreatePodError> {
        let dirs = self.dirs(&config.uid);
        let file = |action, path: &Path| {
            let path = path.to_owned();
            move |source| CreatePodError::File { action, path, source }
        };
        dirs::make_private(&dirs.containers()).map_err(file("make", &dirs.state))?;
        let state = fs::File::open(&dirs.state).map_err(file("open", &dirs.state))?;
        record::write_json(&state, POD_FILE, config).map_err(file("write", &dirs.state.join(POD_FILE)))?;
        self.cgroups.create(cgroup, &config.resources)?;
        let setup = pod::setup(config, self.cgroups.shim_tasks()?);
        let born_into = self
            .cgroups
            .directory(&self.cgroups.shims()?)
            .filter(|directory| directory.is_v2);
        Ok(shim::start(
            &dirs,
            &config.uid,
            &setup,
            born_into.map(|directory| directory.fd),
        )?)
    }

    /// Makes sure that nothing is left of a pod whose shim is not alive, in memory or on disk.
    async fn clear(&self, uid: &str) -> Result<(), CreatePodError> {
        let cgroup = self.cgroups.pod(uid)?;
        let dirs = self.dirs(uid);
        if shim::find(&dirs).await?.is_some() {
            return Err(ShimError::Alive.into());
        }
        self.cgroups.kill(&cgroup).await?;
        self.cgroups.remove(&cgroup)?;
        blocking(move || {
            for dir in [&dirs.run, &dirs.state] {
                let failed = |source| CreatePodError::File {
                    action: "remove",
                    path: dir.clone(),
                    source,
                };
                dirs::remove(dir).map_err(failed)?;
            }
            Ok(())
        })
        .await
    }
}
