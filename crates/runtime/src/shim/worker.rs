//! Making a container, or running a process in one: a child of the shim that does this one thing and ends.
//!
//! It starts as a copy of the shim, goes into the server's mount namespace (which travelled with the
//! request, so volumes mounted a moment ago are seen, whether or not the host's mounts propagate), takes a
//! private copy of that, and prepares there what the container needs: its root as an overlay, the pod's
//! `/dev/shm`, a `/proc` of the pod's PID namespace. libcontainer does the rest. All of these mounts belong
//! to the worker and to the container, so they vanish with the container's last process.
//!
//! libcontainer is called with `as_sibling`: the container's first process is a child of the *shim*, which
//! alone can wait for it. Two of its habits are worked around here:
//! * it would join cgroups itself, and on failure kill every process listed there; as it finds its cgroups
//!   in the mount table, the worker joins them first and then hides the hierarchy;
//! * a lower `oom_score_adj`, or a higher resource limit, than the process has is a fatal error where
//!   `CAP_SYS_RESOURCE` is missing; so both are tried here, on the worker, and inherited.

use std::ffi::CString;
use std::io::{self, Read};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::fchown;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};

use libcontainer::container::builder::ContainerBuilder;
use libcontainer::error::LibcontainerError;
use libcontainer::syscall::syscall::SyscallType;
use nix::sched::CloneFlags;
use nix::sys::signal::{SigSet, Signal};
use rustix::fs::{CWD, Mode, OFlags, ResolveFlags};
use rustix::io::Errno;
use rustix::mount::{
    MountFlags, MountPropagationFlags, MoveMountFlags, OpenTreeFlags, UnmountFlags, mount, mount_change,
    move_mount, open_tree, unmount,
};
use rustix::process::{Pid, PidfdFlags};
use serde::{Deserialize, Serialize};

use super::diagnosis::Diagnosis;
use super::executor::{Command, marked};
use super::namespaces::{Forked, fork, join};
use super::protocol::{Exec, Failure, FailureKind, Stage, Staged, Start};
use super::socket;
use crate::config::Rlimit;

/// libcontainer's own state of a container is in a directory of this name in its bundle.
const STATE: &str = "state";

/// What a worker tells the shim. With a terminal, its master comes along.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Report {
    Running {
        /// As the shim sees it, for waiting.
        pid: i32,
        /// As the server sees it.
        host_pid: i32,
        warnings: Vec<String>,
    },
    Failed(Failure),
}

/// The container's ends of its standard streams; a terminal has none.
#[derive(Debug, Default)]
pub(crate) struct Streams {
    pub(crate) stdin: Option<OwnedFd>,
    pub(crate) stdout: Option<OwnedFd>,
    pub(crate) stderr: Option<OwnedFd>,
}

/// One thing to do.
pub(crate) enum Task<'a> {
    Start {
        start: &'a Start,
        streams: Streams,
    },
    Exec {
        exec: &'a Exec,
        bundle: &'a Path,
        /// The container has no PID namespace around it.
        dies_with_parent: bool,
        /// An OCI process document.
        process: OwnedFd,
        streams: Streams,
    },
}

/// Why a worker failed before or beside libcontainer.
#[derive(Debug, thiserror::Error)]
enum WorkError {
    #[error("{what}: {source}")]
    Prepare { what: &'static str, source: io::Error },
    #[error("join the cgroup through {path:?}: {source}")]
    Cgroup { path: PathBuf, source: io::Error },
    #[error("show {path:?} to the container: {source}")]
    Stage { path: PathBuf, source: io::Error },
    #[error("make the working directory {path:?}: {source}")]
    Cwd { path: PathBuf, source: io::Error },
    #[error("{}", chain(.0))]
    Libcontainer(#[from] LibcontainerError),
    #[error("the container's first process has no pid")]
    NoPid,
}

/// Forks a worker. Its [`Report`] arrives on the socket; an end without one means that it died.
///
/// `cgroup` is the directory of the container's v2 cgroup, if it has one.
pub(crate) fn spawn(
    task: Task<'_>,
    mntns: BorrowedFd<'_>,
    cgroup: Option<BorrowedFd<'_>>,
    own_pid_ns: bool,
) -> io::Result<OwnedFd> {
    let (ours, theirs) = socket::pair()?;
    match fork(cgroup)? {
        Forked::Parent { .. } => Ok(ours),
        Forked::Child { in_cgroup } => {
            drop(ours);
            let diagnosis = Diagnosis::begin().ok();
            let joined = cgroup
                .filter(|_| !in_cgroup)
                .map_or(Ok(()), join)
                .prepare("join the cgroup");
            let (report, terminal) = match joined.and_then(|()| work(task, mntns, own_pid_ns)) {
                Ok((report, terminal)) => (report, terminal),
                Err(error) => (Report::Failed(failure(&error, diagnosis)), None),
            };
            let fds: Vec<_> = terminal.iter().map(AsFd::as_fd).collect();
            let sent = socket::send(&theirs, &report, &fds);
            std::process::exit(i32::from(sent.is_err()));
        }
    }
}

fn work(
    task: Task<'_>,
    mntns: BorrowedFd<'_>,
    own_pid_ns: bool,
) -> Result<(Report, Option<OwnedFd>), WorkError> {
    default_signals().prepare("reset the signals")?;
    let shm = match &task {
        // The root of the shim's own mount namespace, which is left now.
        Task::Start { .. } => Some(clone_tree("/", false).prepare("take the pod's shared memory along")?),
        Task::Exec { .. } => None,
    };
    nix::sched::setns(mntns, CloneFlags::CLONE_NEWNS)
        .map_err(io::Error::from)
        .prepare("enter the server's mount namespace")?;
    let host_proc = rustix::fs::open(
        "/proc",
        OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC,
        Mode::empty(),
    )
    .map_err(io::Error::from)
    .prepare("open the host's /proc")?;
    match task {
        Task::Start { start, streams } => {
            let staged = clone_staged(start)?;
            join_cgroups(&start.cgroup_tasks)?;
            let mut warnings = Vec::new();
            warnings.extend(adjust_oom_score(start.oom_score_adj));
            warnings.extend(start.rlimits.iter().filter_map(limit));
            own_mounts(own_pid_ns).prepare("prepare the mounts")?;
            if let Some(shm) = shm {
                attach(&shm, &start.bundle.join("shm")).prepare("attach the pod's shared memory")?;
            }
            attach_staged(start, &staged)?;
            mount_root(start).prepare("mount the root file system")?;
            make_cwd(start).map_err(|source| WorkError::Cwd {
                path: start.cwd.clone(),
                source,
            })?;
            create(start, streams, &host_proc, warnings)
        }
        Task::Exec {
            exec,
            bundle,
            dies_with_parent,
            process,
            streams,
        } => {
            join_cgroups(&exec.cgroup_tasks)?;
            let warnings = adjust_oom_score(exec.oom_score_adj).into_iter().collect();
            own_mounts(own_pid_ns).prepare("prepare the mounts")?;
            run_in(exec, bundle, dies_with_parent, &process, streams, warnings)
        }
    }
}

fn create(
    start: &Start,
    streams: Streams,
    host_proc: &OwnedFd,
    warnings: Vec<String>,
) -> Result<(Report, Option<OwnedFd>), WorkError> {
    for stream in [&streams.stdin, &streams.stdout, &streams.stderr]
        .into_iter()
        .flatten()
    {
        fchown(stream, Some(start.uid), None).prepare("give the standard streams to the user")?;
    }
    let console = Console::new(&start.bundle, start.io.tty).prepare("listen for the terminal")?;
    let builder =
        builder(&start.bundle, streams, start.dies_with_parent)?.with_console_socket(console.path());
    let mut container = builder
        .as_init(&start.bundle)
        .with_systemd(false)
        .with_detach(true)
        .as_sibling(true)
        .build()?;
    let terminal = console.accept().prepare("receive the terminal")?;
    let pid = container.pid().ok_or(WorkError::NoPid)?.as_raw();
    // Before the start, while the process waits: afterwards it may be gone.
    let host_pid = host_pid(pid, host_proc).prepare("look up the pid on the host")?;
    container.start()?;
    Ok((
        Report::Running {
            pid,
            host_pid,
            warnings,
        },
        terminal,
    ))
}

fn run_in(
    exec: &Exec,
    bundle: &Path,
    dies_with_parent: bool,
    process: &OwnedFd,
    streams: Streams,
    warnings: Vec<String>,
) -> Result<(Report, Option<OwnedFd>), WorkError> {
    let console = Console::new(bundle, exec.tty).prepare("listen for the terminal")?;
    let document = PathBuf::from(format!("/proc/self/fd/{}", process.as_raw_fd()));
    let pid = builder(bundle, streams, dies_with_parent)?
        .with_console_socket(console.path())
        .as_tenant()
        .with_process(Some(document))
        .with_detach(true)
        .as_sibling(true)
        .build()?;
    let terminal = console.accept().prepare("receive the terminal")?;
    Ok((
        Report::Running {
            pid: pid.as_raw(),
            host_pid: 0,
            warnings,
        },
        terminal,
    ))
}

fn builder(bundle: &Path, streams: Streams, dies_with_parent: bool) -> Result<ContainerBuilder, WorkError> {
    let mut builder = ContainerBuilder::new(STATE.to_owned(), SyscallType::default())
        .with_executor(Command { dies_with_parent })
        .with_root_path(bundle)?;
    (builder.stdin, builder.stdout, builder.stderr) = (streams.stdin, streams.stdout, streams.stderr);
    Ok(builder)
}

/// The shim waits for signals with a signalfd and Rust ignores `SIGPIPE`; both would be inherited through
/// `exec` by every program in the container.
fn default_signals() -> io::Result<()> {
    SigSet::empty().thread_set_mask()?;
    super::namespaces::default_signal(Signal::SIGPIPE)?;
    Ok(())
}

fn clone_tree(path: impl rustix::path::Arg, recursive: bool) -> io::Result<OwnedFd> {
    let mut flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
    flags.set(OpenTreeFlags::AT_RECURSIVE, recursive);
    Ok(open_tree(CWD, path, flags)?)
}

fn attach(tree: &OwnedFd, target: &Path) -> io::Result<()> {
    Ok(move_mount(
        tree,
        "",
        CWD,
        target,
        MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH,
    )?)
}

/// While still among the host's mounts, so that the copies are their peers.
fn clone_staged(start: &Start) -> Result<Vec<OwnedFd>, WorkError> {
    let clone = |staged: &Staged| {
        clone_tree(staged.source.as_path(), true).map_err(|source| WorkError::Stage {
            path: staged.source.clone(),
            source,
        })
    };
    start.staged.iter().map(clone).collect()
}

fn attach_staged(start: &Start, trees: &[OwnedFd]) -> Result<(), WorkError> {
    for (staged, tree) in start.staged.iter().zip(trees) {
        let attached = attach(tree, &staged.target).and_then(|()| match staged.stage {
            Stage::Private => propagate(&staged.target, MountPropagationFlags::PRIVATE),
            Stage::FromHost => propagate(&staged.target, MountPropagationFlags::DOWNSTREAM),
            Stage::Both => Ok(()),
        });
        attached.map_err(|source| WorkError::Stage {
            path: staged.source.clone(),
            source,
        })?;
    }
    Ok(())
}

fn propagate(target: impl rustix::path::Arg, how: MountPropagationFlags) -> io::Result<()> {
    Ok(mount_change(target, how | MountPropagationFlags::REC)?)
}

fn join_cgroups(tasks: &[PathBuf]) -> Result<(), WorkError> {
    for path in tasks {
        std::fs::write(path, "0").map_err(|source| WorkError::Cgroup {
            path: path.clone(),
            source,
        })?;
    }
    Ok(())
}

/// Lowering the score may not be permitted; the container then keeps the one it has.
fn adjust_oom_score(adjustment: Option<i32>) -> Option<String> {
    let adjustment = adjustment?;
    let error = std::fs::write("/proc/self/oom_score_adj", adjustment.to_string()).err()?;
    Some(format!("oom_score_adj {adjustment} is left out: {error}"))
}

/// Raising the hard limit may not be permitted; the limit is then as high as it can be.
fn limit(limit: &Rlimit) -> Option<String> {
    use rustix::process::{getrlimit, setrlimit};
    let resource = limit.kind.resource();
    let wanted = rustix::process::Rlimit {
        current: Some(limit.soft),
        maximum: Some(limit.hard),
    };
    let error = setrlimit(resource, wanted).err()?;
    let hard = getrlimit(resource).maximum.unwrap_or(u64::MAX).min(limit.hard);
    let possible = rustix::process::Rlimit {
        current: Some(limit.soft.min(hard)),
        maximum: Some(hard),
    };
    let outcome = match setrlimit(resource, possible) {
        Ok(()) => format!("lowered to {hard}"),
        Err(_) => "left out".to_owned(),
    };
    Some(format!(
        "the {:?} limit {} is {outcome}: {error}",
        limit.kind, limit.hard
    ))
}

/// A private copy of the host's mounts, in which `/proc` is that of the pod and no cgroup is to be found.
fn own_mounts(own_pid_ns: bool) -> io::Result<()> {
    nix::sched::unshare(CloneFlags::CLONE_NEWNS)?;
    propagate("/", MountPropagationFlags::PRIVATE)?;
    match unmount("/sys/fs/cgroup", UnmountFlags::DETACH) {
        // Nothing mounted there: nothing to hide.
        Ok(()) | Err(Errno::INVAL | Errno::NOENT) => {}
        Err(error) => return Err(error.into()),
    }
    let flags = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
    match mount("cgroup", "/sys/fs/cgroup", "tmpfs", flags, c"size=4k") {
        Ok(()) | Err(Errno::NOENT) => {}
        Err(error) => return Err(error.into()),
    }
    if own_pid_ns {
        mount("proc", "/proc", "proc", flags, None)?;
    }
    Ok(())
}

/// The layers are named relative to their directory, so that the options of many fit into the one page
/// `mount(2)` takes; and the bundle by descriptor, so that no character of its path needs escaping.
///
/// `volatile`: a container's own layer is thrown away with the container, so nobody needs its writes to be
/// synced, least of all when it ends. Linux before 5.10 does not know the word.
fn mount_root(start: &Start) -> io::Result<()> {
    let bundle = rustix::fs::open(
        &start.bundle,
        OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC,
        Mode::empty(),
    )?;
    let bundle_fd = bundle.as_raw_fd();
    rustix::process::chdir(&start.layers_dir)?;
    let layers = start.layers.join(":");
    let options = format!(
        "lowerdir={layers},upperdir=/proc/self/fd/{bundle_fd}/upper,workdir=/proc/self/fd/{bundle_fd}/work"
    );
    let target = start.bundle.join("rootfs");
    let attempt = |options: String| -> io::Result<()> {
        Ok(mount(
            "overlay",
            &target,
            "overlay",
            MountFlags::empty(),
            CString::new(options)?.as_c_str(),
        )?)
    };
    match attempt(format!("{options},volatile")) {
        Err(error) if error.raw_os_error() == Some(libc::EINVAL) => attempt(options)?,
        other => other?,
    }
    Ok(rustix::process::chdir("/")?)
}

fn make_cwd(start: &Start) -> io::Result<()> {
    let root = rustix::fs::open(
        start.bundle.join("rootfs"),
        OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC,
        Mode::empty(),
    )?;
    make_dir_in(&root, &start.cwd)
}

/// `mkdir -p` below `root`; a symbolic link on the way is followed as if `root` were `/`.
fn make_dir_in(root: &OwnedFd, path: &Path) -> io::Result<()> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let open = |path: &Path| rustix::fs::openat2(root, path, flags, Mode::empty(), ResolveFlags::IN_ROOT);
    let relative = path.strip_prefix("/").unwrap_or(path);
    let mut at = PathBuf::from(".");
    for part in relative.components() {
        let parent = open(&at)?;
        at.push(part);
        if let Err(Errno::NOENT) = open(&at) {
            rustix::fs::mkdirat(&parent, part.as_os_str(), Mode::from_raw_mode(0o755))?;
        }
    }
    open(&at)?;
    Ok(())
}

/// Reads the pid of `pid` in the namespace that `proc` shows, from what it says about a pidfd of ours.
fn host_pid(pid: i32, proc: &OwnedFd) -> io::Result<i32> {
    let pid = Pid::from_raw(pid).ok_or(Errno::SRCH)?;
    let pidfd = rustix::process::pidfd_open(pid, PidfdFlags::empty())?;
    let name = format!("self/fdinfo/{}", pidfd.as_raw_fd());
    let file = rustix::fs::openat(proc, name, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?;
    let mut text = String::new();
    std::fs::File::from(file).read_to_string(&mut text)?;
    let line = text.lines().find_map(|line| line.strip_prefix("Pid:"));
    line.and_then(|value| value.trim().parse().ok())
        .ok_or_else(|| io::ErrorKind::InvalidData.into())
}

/// Where libcontainer hands over the master of a terminal it has made. It connects and sends before
/// `build` returns, so one thread is enough: the connection waits in the backlog.
struct Console(Option<(PathBuf, UnixListener)>);

impl Console {
    fn new(bundle: &Path, tty: bool) -> io::Result<Self> {
        if !tty {
            return Ok(Self(None));
        }
        // A socket's address is short, so bind in the directory; the name is ours alone.
        let name = format!("console-{}", std::process::id());
        rustix::process::chdir(bundle)?;
        let listener = UnixListener::bind(&name)?;
        rustix::process::chdir("/")?;
        Ok(Self(Some((bundle.join(name), listener))))
    }

    fn path(&self) -> Option<PathBuf> {
        self.0.as_ref().map(|(path, _)| path.clone())
    }

    fn accept(&self) -> io::Result<Option<OwnedFd>> {
        let Some((_, listener)) = &self.0 else {
            return Ok(None);
        };
        let (stream, _) = listener.accept()?;
        let (_, mut fds) = socket::receive(&stream, &mut [0; 64])?;
        Ok(fds.pop())
    }
}

impl Drop for Console {
    fn drop(&mut self) {
        if let Some((path, _)) = &self.0 {
            // The directory is removed with the container in any case.
            let _ = std::fs::remove_file(path);
        }
    }
}

trait Prepare<T> {
    fn prepare(self, what: &'static str) -> Result<T, WorkError>;
}

impl<T> Prepare<T> for io::Result<T> {
    fn prepare(self, what: &'static str) -> Result<T, WorkError> {
        self.map_err(|source| WorkError::Prepare { what, source })
    }
}

/// libcontainer's errors say what they know in their sources.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(error) = next {
        let message = error.to_string();
        if !text.contains(&message) {
            text.push_str(": ");
            text.push_str(&message);
        }
        next = error.source();
    }
    text
}

fn failure(error: &WorkError, diagnosis: Option<Diagnosis>) -> Failure {
    let text = error.to_string();
    if let Some(message) = marked(&text) {
        return Failure {
            kind: FailureKind::Command,
            message: message.to_owned(),
        };
    }
    match diagnosis.and_then(Diagnosis::first) {
        Some(reason) if !text.contains(&reason) => Failure::other(format!("{text}: {reason}")),
        _ => Failure::other(text),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_working_directory_is_made_inside_the_root_even_through_symlinks() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().join("root");
        std::fs::create_dir_all(root.join("real")).unwrap();
        std::os::unix::fs::symlink("/real", root.join("link")).unwrap();
        std::os::unix::fs::symlink("../../../..", root.join("up")).unwrap();
        let fd: OwnedFd = std::fs::File::open(&root).unwrap().into();
        for (path, made) in [("/a/b", "a/b"), ("/link/x", "real/x"), ("/up/y", "y"), ("/", ".")] {
            make_dir_in(&fd, Path::new(path)).unwrap();
            assert!(root.join(made).is_dir(), "{path}");
        }
        std::fs::write(root.join("file"), "").unwrap();
        assert!(make_dir_in(&fd, Path::new("/file/x")).is_err());
    }
}
