//! What the server and a pod's shim say to each other.
//!
//! The socket is `SOCK_SEQPACKET`: one message is one packet of JSON, with file descriptors beside it
//! (see [`super::socket`]). JSON because a shim outlives the server that started it: a field added later
//! is ignored by an older shim and defaulted by a newer one. A change that this does not cover raises
//! [`VERSION`]; the first request on a connection is [`Op::Hello`], which settles the version both know.
//!
//! The order of the descriptors of a message is part of the protocol and is written beside each.
//! Paths are always those of the server's mount namespace, which travels with every request that needs it.

use std::path::PathBuf;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::config::Rlimit;
use crate::record::ExitRecord;

/// The protocol this build speaks.
pub(crate) const VERSION: u32 = 1;
/// The oldest protocol this build still understands.
pub(crate) const OLDEST_VERSION: u32 = 1;
/// No message is longer than this; a longer one is refused by its receiver.
pub(crate) const MAX_MESSAGE_BYTES: usize = 64 * 1024;

/// How a pod begins: sent before the shim is started, on what becomes its standard input.
/// Descriptors: the bound (not yet listening) socket, the pod's lock file, locked, and where there is one,
/// the directory of the v2 cgroup to be born into.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Setup {
    /// Which namespaces the pod has for itself; the others are the host's.
    pub(crate) own: OwnNamespaces,
    /// Host name inside an own UTS namespace.
    pub(crate) hostname: Option<String>,
    /// Kernel parameters of the pod's namespaces, by dotted name.
    pub(crate) sysctls: Vec<(String, String)>,
    /// Size of the `/dev/shm` shared by the pod's containers.
    pub(crate) shm_bytes: u64,
    /// The `tasks` files of the v1 cgroups that the shim joins.
    pub(crate) cgroup_tasks: Vec<PathBuf>,
    /// OOM score of the shim itself; left as it is where that is not permitted.
    pub(crate) oom_score_adj: i32,
}

/// The namespaces a pod does not share with the host.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub(crate) struct OwnNamespaces {
    pub(crate) net: bool,
    pub(crate) pid: bool,
    pub(crate) ipc: bool,
}

/// The answer to [`Setup`]. With `Started` come a pidfd of the shim and, for an own network, its namespace.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum SetupReply {
    Started { pid: i32 },
    Failed { message: String },
}

/// A request; answers carry the same `id`.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Request {
    pub(crate) id: u64,
    pub(crate) op: Op,
}

/// What a shim can be asked.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Op {
    /// First on a connection: the versions the server knows. Answered by [`Answer::Hello`].
    Hello { oldest: u32, newest: u32 },
    /// Create and start a container. Descriptors: the server's mount namespace, the container's directory,
    /// then those `start.fds` announces, in the order of its fields. Answered by [`Answer::Started`].
    Start(Box<Start>),
    /// Run a process in a running container. Descriptors: the server's mount namespace, an OCI process
    /// document, and without a terminal the three standard streams.
    /// Answered by [`Answer::ExecStarted`], with a terminal's master beside it; an
    /// [`Event::ExecExited`] with the same `id` follows on this connection.
    Exec(Exec),
    /// Send a signal to a container's first process, or to all of its processes.
    Signal {
        container: String,
        signal: i32,
        all: bool,
    },
    /// Send a signal to a process started by the `Exec` with this `id` on this connection.
    SignalExec { exec: u64, signal: i32 },
    /// Copy the container's output to the descriptors given (standard output, then standard error) from
    /// now on. Answered with the writable end of its standard input, if asked for and there is one.
    Attach {
        container: String,
        stdin: bool,
        stdout: bool,
        stderr: bool,
    },
    /// Set the size of the container's terminal.
    Resize {
        container: String,
        rows: u16,
        columns: u16,
    },
    /// Open the log file anew, after something else has moved it away.
    ReopenLog { container: String },
    /// Connect to a TCP port on the pod's loopback. Answered with the connected socket.
    Connect { port: u16 },
    /// List the containers. Answered by [`Answer::Containers`].
    List,
    /// Forget a container that has exited.
    Remove { container: String },
    /// Kill all containers, and exit when they are gone.
    Shutdown,
}

/// What the shim needs to know to start a container; everything else is in the bundle's `config.json`.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Start {
    pub(crate) container: String,
    /// The container's directory: holds `config.json`, `rootfs`, `upper`, `work`, `shm` and `cgroup`.
    pub(crate) bundle: PathBuf,
    /// The directory of the unpacked layers, and the image's layers in it, topmost first.
    pub(crate) layers_dir: PathBuf,
    pub(crate) layers: Vec<String>,
    /// Working directory inside the container, made if it is missing.
    pub(crate) cwd: PathBuf,
    /// Owner of the standard streams, so that `/dev/stdout` can be opened by a user other than root.
    pub(crate) uid: u32,
    /// The `tasks` files of the v1 cgroups that the container joins.
    pub(crate) cgroup_tasks: Vec<PathBuf>,
    /// The cgroup directory among the descriptors is one of v2, to be born into.
    pub(crate) cgroup_is_v2: bool,
    /// What is to be found below the bundle and bound into the container from there: cgroup directories,
    /// and volumes whose mounts propagate.
    pub(crate) staged: Vec<Staged>,
    pub(crate) io: Io,
    pub(crate) oom_score_adj: Option<i32>,
    pub(crate) rlimits: Vec<Rlimit>,
    /// The container's first process is the init of a PID namespace of its own, so the kernel ends the
    /// others with it.
    pub(crate) own_pid_namespace: bool,
    /// There is no PID namespace at all around the container: ask for a parent-death signal.
    pub(crate) dies_with_parent: bool,
    pub(crate) fds: StartFds,
}

/// Which optional descriptors follow the two that are always there.
#[derive(Debug, Clone, Copy, Default, Serialize, Deserialize)]
pub(crate) struct StartFds {
    /// The directory of the log file.
    pub(crate) log_dir: bool,
    /// The file of the memory cgroup that counts OOM kills.
    pub(crate) oom_counter: bool,
    /// A cgroup directory listing the container's processes.
    pub(crate) cgroup: bool,
}

/// A file or directory of the host, with all that is mounted below it, attached at another place.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Staged {
    pub(crate) source: PathBuf,
    /// Exists, and is of the same kind.
    pub(crate) target: PathBuf,
    pub(crate) stage: Stage,
}

/// How mounts made later appear on the other side.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Stage {
    Private,
    FromHost,
    Both,
}

/// A container's standard streams.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Io {
    pub(crate) tty: bool,
    pub(crate) stdin: bool,
    /// Standard input ends when the first attached client has gone.
    pub(crate) stdin_once: bool,
    pub(crate) log: Option<Log>,
}

/// Where and how much a container logs.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Log {
    /// File name in the log directory.
    pub(crate) name: String,
    /// A file this large is rotated.
    pub(crate) max_bytes: u64,
    /// Number of files kept, the current one included.
    pub(crate) max_files: u32,
}

/// See [`Op::Exec`].
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Exec {
    pub(crate) container: String,
    pub(crate) tty: bool,
    /// As for the container.
    pub(crate) cgroup_tasks: Vec<PathBuf>,
    pub(crate) oom_score_adj: Option<i32>,
}

/// Everything a shim says after the setup.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Message {
    Reply {
        id: u64,
        result: Result<Answer, Failure>,
    },
    Event(Event),
}

/// A successful answer.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Answer {
    Done,
    Hello {
        version: u32,
    },
    Started {
        /// As the server sees it.
        pid: i32,
        started_at: Timestamp,
        /// What was left out because it is not permitted here.
        warnings: Vec<String>,
    },
    ExecStarted {
        warnings: Vec<String>,
    },
    Containers(Vec<ContainerState>),
}

/// A container as the shim knows it.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct ContainerState {
    pub(crate) container: String,
    pub(crate) pid: i32,
    pub(crate) started_at: Timestamp,
    pub(crate) exit: Option<ExitRecord>,
}

/// Why a request was not carried out.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Failure {
    pub(crate) kind: FailureKind,
    pub(crate) message: String,
}

/// What a caller can tell apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum FailureKind {
    /// The program named by the container's command cannot be run.
    Command,
    /// No such container, or no such exec.
    NotFound,
    /// It exists, but not in the state the request needs.
    State,
    /// Anything the kernel or libcontainer refused.
    Other,
}

impl Failure {
    pub(crate) fn other(message: impl Into<String>) -> Self {
        Self {
            kind: FailureKind::Other,
            message: message.into(),
        }
    }

    pub(crate) fn not_found(message: impl Into<String>) -> Self {
        Self {
            kind: FailureKind::NotFound,
            message: message.into(),
        }
    }

    pub(crate) fn state(message: impl Into<String>) -> Self {
        Self {
            kind: FailureKind::State,
            message: message.into(),
        }
    }
}

/// What a shim reports unasked.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Event {
    /// Sent on every connection, after the record has been written beside the container.
    ContainerExited { container: String, exit: ExitRecord },
    /// Sent on the connection of the `Exec` with this `id`.
    ExecExited { exec: u64, exit_code: i32 },
}

/// Settles the version of a connection: the newest that both know.
pub(crate) fn agree(oldest: u32, newest: u32) -> Option<u32> {
    let version = newest.min(VERSION);
    (version >= oldest && version >= OLDEST_VERSION).then_some(version)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_and_a_shim_of_neighbouring_builds_agree_on_what_both_know() {
        let cases = [
            ((1, 1), Some(1)),
            ((1, 7), Some(VERSION)),
            ((VERSION + 1, VERSION + 3), None),
            ((0, 0), None),
        ];
        for ((oldest, newest), expected) in cases {
            assert_eq!(agree(oldest, newest), expected, "server {oldest}..={newest}");
        }
    }

    #[test]
    fn fields_of_a_later_build_are_ignored() {
        let json = r#"{"id":3,"op":{"connect":{"port":80,"family":"ipv6"}},"deadline":1}"#;
        let request: Request = serde_json::from_str(json).expect("unknown fields are not an error");
        assert!(matches!(request.op, Op::Connect { port: 80 }));
    }
}
