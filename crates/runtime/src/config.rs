//! What a pod and a container are to be: the vocabulary of the CRI as plain data.
//!
//! Nothing here knows Kubernetes' types or does anything; the kubelet translates into it, and an engine
//! (the embedded one in [`crate::runtime`], or one that speaks to containerd) carries it out. Defaults are
//! those of the CRI: an empty field means that the image, or the engine, decides.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// A pod sandbox: what its containers share.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PodConfig {
    /// The pod's uid. At most one sandbox of a uid exists at any time.
    pub uid: String,
    /// Name and namespace, for people who look at processes and logs.
    pub name: String,
    /// See `name`.
    pub namespace: String,
    /// Host name inside the pod; ignored on the host's network, where the pod has the host's.
    pub hostname: String,
    /// Whose network the pod uses.
    pub network: NetworkMode,
    /// What processes its containers see.
    pub pid: PidMode,
    /// Whose System V IPC, message queues and `/dev/shm` it uses.
    pub ipc: IpcMode,
    /// Kernel parameters of the pod's own namespaces, by dotted name.
    pub sysctls: BTreeMap<String, String>,
    /// Size of the `/dev/shm` that the containers share; 64 MiB if `None`, as with containerd.
    pub shm_bytes: Option<u64>,
    /// Limits of the pod as a whole.
    pub resources: Resources,
    /// Kept with the pod and given back after a restart of the server; the runtime does not read them.
    pub annotations: BTreeMap<String, String>,
}

impl PodConfig {
    /// A pod with everything of its own and no limits.
    pub fn new(uid: impl Into<String>, namespace: impl Into<String>, name: impl Into<String>) -> Self {
        let name = name.into();
        Self {
            uid: uid.into(),
            hostname: name.clone(),
            name,
            namespace: namespace.into(),
            network: NetworkMode::default(),
            pid: PidMode::default(),
            ipc: IpcMode::default(),
            sysctls: BTreeMap::new(),
            shm_bytes: None,
            resources: Resources::default(),
            annotations: BTreeMap::new(),
        }
    }
}

/// Whose network a pod uses.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum NetworkMode {
    /// Its own, with nothing but a loopback interface at first.
    #[default]
    Pod,
    /// The host's (`hostNetwork`).
    Host,
}

/// What processes a pod's containers see.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum PidMode {
    /// Each container its own.
    #[default]
    Container,
    /// Those of the pod (`shareProcessNamespace`).
    Pod,
    /// Those of the host (`hostPID`).
    Host,
}

/// Whose inter-process communication a pod uses.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum IpcMode {
    /// Its own.
    #[default]
    Pod,
    /// The host's (`hostIPC`).
    Host,
}

/// A container.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ContainerConfig {
    /// Name inside the pod. While a container of this name runs, no second one starts.
    pub name: String,
    /// How often a container of this name was started before.
    pub attempt: u32,
    /// The image, as a reference or by id.
    pub image: String,
    /// Replaces the image's entrypoint (Kubernetes' `command`).
    pub command: Vec<String>,
    /// Replaces the image's arguments (Kubernetes' `args`).
    pub args: Vec<String>,
    /// Added to the image's environment; a later setting of a name wins.
    pub env: Vec<(String, String)>,
    /// Replaces the image's working directory.
    pub working_dir: Option<PathBuf>,
    /// Who runs it.
    pub user: User,
    /// What it may do.
    pub security: Security,
    /// What it sees of the host.
    pub mounts: Vec<Mount>,
    /// Device nodes of the host, beside the harmless ones every container has.
    pub devices: Vec<Device>,
    /// Its limits.
    pub resources: Resources,
    /// `oom_score_adj` of its first process; left out, with a warning, where it is not permitted.
    pub oom_score_adj: Option<i32>,
    /// Resource limits; what is not named is inherited from the server.
    pub rlimits: Vec<Rlimit>,
    /// Has a terminal; its output is then one stream.
    pub tty: bool,
    /// Has a standard input, which stays open until [`Self::stdin_once`] says otherwise.
    pub stdin: bool,
    /// Its standard input ends with the first client that attached to it.
    pub stdin_once: bool,
    /// Where its output goes; nowhere but to attached clients if `None`.
    pub log: Option<LogConfig>,
    /// Kept with the container and given back after a restart of the server.
    pub annotations: BTreeMap<String, String>,
}

/// Who runs a container's process. Names are looked up in the image.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct User {
    /// The image's user if `None`.
    pub uid: Option<UserName>,
    /// The user's primary group in the image's `/etc/passwd` if `None`, or else 0.
    pub gid: Option<u32>,
    /// Beside those which `/etc/group` of the image gives the user.
    pub supplementary_groups: Vec<u32>,
    /// Take the supplementary groups only from here (`supplementalGroupsPolicy: Strict`).
    pub strict_groups: bool,
}

/// A user by number or by name.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum UserName {
    /// A uid, whether or not the image knows it.
    Id(u32),
    /// A name in the image's `/etc/passwd`.
    Name(String),
}

/// What a container may do.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Security {
    /// Everything: all capabilities and devices, nothing masked or read-only.
    pub privileged: bool,
    /// Added to the default capabilities, as `NET_ADMIN` or `CAP_NET_ADMIN`; `ALL` is all of them.
    pub add_capabilities: Vec<String>,
    /// Taken from them; `ALL` leaves only those added.
    pub drop_capabilities: Vec<String>,
    /// The root file system cannot be written.
    pub read_only_root: bool,
    /// Neither set-uid programs nor file capabilities give privileges.
    pub no_new_privileges: bool,
    /// Paths hidden from the container; the usual ones of `/proc` and `/sys` if `None`.
    pub masked_paths: Option<Vec<PathBuf>>,
    /// Paths that cannot be written; the usual ones of `/proc` if `None`.
    pub read_only_paths: Option<Vec<PathBuf>>,
}

/// Something mounted into a container.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mount {
    /// Where, inside the container. Made if it is missing.
    pub target: PathBuf,
    /// What.
    pub source: MountSource,
    /// Cannot be written through this mount.
    pub read_only: bool,
}

/// What is mounted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum MountSource {
    /// A file or directory of the host, which must exist.
    Host {
        /// The path on the host.
        path: PathBuf,
        /// Whether mounts made later appear on the other side.
        propagation: Propagation,
        /// `read_only` goes for the mounts below the directory as well.
        recursive_read_only: bool,
    },
    /// An empty file system in memory, gone with the container.
    Tmpfs {
        /// At most this large; half of the machine's memory if `None`.
        size_bytes: Option<u64>,
        /// Mode of its root directory.
        mode: u32,
    },
}

/// Whether mounts made later appear on the other side of a mount.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Propagation {
    /// Neither way.
    #[default]
    Private,
    /// From the host into the container (`HostToContainer`).
    FromHost,
    /// Both ways (`Bidirectional`).
    Both,
}

/// A device node of the host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Device {
    /// The node on the host.
    pub host_path: PathBuf,
    /// Where the container sees it.
    pub container_path: PathBuf,
    /// Some of `r`, `w` and `m`.
    pub permissions: String,
}

/// Limits of a cgroup. What is `None` is not limited, or left as it is by an update.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Resources {
    /// Relative share of the processor, in the units of cgroup v1: 1024 for one core.
    pub cpu_shares: Option<u64>,
    /// Processor time per period, in microseconds; -1 for no limit.
    pub cpu_quota_us: Option<i64>,
    /// The period, in microseconds; 100 000 if there is a quota and this is `None`.
    pub cpu_period_us: Option<u64>,
    /// Memory, in bytes; swap is not granted on top.
    pub memory_limit_bytes: Option<u64>,
    /// Number of processes and threads.
    pub pids_limit: Option<u64>,
}

/// A limit of `setrlimit(2)`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rlimit {
    /// Of what.
    pub kind: RlimitKind,
    /// The limit in force.
    pub soft: u64,
    /// How far the process itself may raise it.
    pub hard: u64,
}

/// What a [`Rlimit`] limits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum RlimitKind {
    /// Size of a core dump, in bytes.
    Core,
    /// Locked memory, in bytes.
    Memlock,
    /// Number of open files.
    Nofile,
    /// Number of processes of the user.
    Nproc,
    /// Size of the stack, in bytes.
    Stack,
}

impl RlimitKind {
    pub(crate) fn resource(self) -> rustix::process::Resource {
        use rustix::process::Resource;
        match self {
            RlimitKind::Core => Resource::Core,
            RlimitKind::Memlock => Resource::Memlock,
            RlimitKind::Nofile => Resource::Nofile,
            RlimitKind::Nproc => Resource::Nproc,
            RlimitKind::Stack => Resource::Stack,
        }
    }
}

/// Where a container logs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogConfig {
    /// The current file; rotated ones are beside it, as `<name>.<timestamp>`. Its directory must exist.
    pub path: PathBuf,
    /// A file this large is rotated; the kubelet's default is 10 MiB.
    pub max_bytes: u64,
    /// Number of files kept, the current one included; the kubelet's default is 5.
    pub max_files: u32,
}

impl LogConfig {
    /// A log with the kubelet's default limits.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self {
            path: path.into(),
            max_bytes: 10 << 20,
            max_files: 5,
        }
    }
}
