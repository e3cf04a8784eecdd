//! From the server's world into the pod's: session, cgroup, namespaces, and then a fork.
//!
//! `unshare(CLONE_NEWPID)` takes effect on the next child only, so the process that unshares (the starter)
//! forks the real shim, which becomes process 1 of the pod, reports its pid as the host sees it, and ends.
//! The order matters where noted. Everything here happens before any container exists, so a failure ends
//! the starter and leaves nothing behind.

#![expect(
    unsafe_code,
    reason = "fork and the ioctl that raises the loopback interface have no safe wrapper"
)]

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::path::{Path, PathBuf};

use nix::sched::CloneFlags;
use nix::sys::signal::{SigHandler, Signal};
use nix::unistd::ForkResult;
use rustix::fs::{Mode, OFlags};
use rustix::mount::{MountFlags, MountPropagationFlags, UnmountFlags};
use rustix::process::{Pid, PidfdFlags};

use super::protocol::{OwnNamespaces, Setup};

/// From `linux/sched.h`; the constant of `libc` has a type that it does not fit into.
const CLONE_INTO_CGROUP: u64 = 0x2_0000_0000;

/// Why the pod's namespaces could not be set up.
#[derive(Debug, thiserror::Error)]
pub(crate) enum EnterError {
    #[error("join the cgroup through {path:?}: {source}")]
    Cgroup { path: PathBuf, source: io::Error },
    #[error("make the pod's namespaces: {0}")]
    Unshare(#[source] nix::Error),
    #[error("raise the loopback interface: {0}")]
    Loopback(#[source] io::Error),
    #[error("set the host name {name:?}: {source}")]
    Hostname { name: String, source: io::Error },
    #[error("set the sysctl {name:?}: {source}")]
    Sysctl { name: String, source: io::Error },
    #[error("open the network namespace: {0}")]
    NetNamespace(#[source] io::Error),
    #[error("give the pod a root of its own: {0}")]
    Root(#[source] io::Error),
}

/// What the server wants to hold of the pod.
pub(crate) struct Entered {
    /// The pod's network namespace, if it is its own.
    pub(crate) netns: Option<OwnedFd>,
}

/// Moves this process into new namespaces; the PID namespace begins with its next child.
pub(crate) fn enter(setup: &Setup) -> Result<Entered, EnterError> {
    // Already a session leader only when started by hand; then nothing is lost.
    let _ = rustix::process::setsid();
    for path in &setup.cgroup_tasks {
        let joined = std::fs::write(path, "0");
        joined.map_err(|source| EnterError::Cgroup {
            path: path.clone(),
            source,
        })?;
    }
    // Lowering it needs CAP_SYS_RESOURCE; without that the shim keeps the server's score.
    let _ = std::fs::write("/proc/self/oom_score_adj", setup.oom_score_adj.to_string());
    // Its name says who it is in a list of processes; and what it holds is nobody else's to trace.
    let _ = rustix::thread::set_name(c"stead-shim");
    let _ = rustix::process::set_dumpable_behavior(rustix::process::DumpableBehavior::NotDumpable);

    nix::sched::unshare(clone_flags(setup.own)).map_err(EnterError::Unshare)?;
    if let Some(name) = &setup.hostname {
        set_hostname(name).map_err(|source| EnterError::Hostname {
            name: name.clone(),
            source,
        })?;
    }
    let netns = match setup.own.net {
        true => {
            raise_loopback().map_err(EnterError::Loopback)?;
            Some(open_netns().map_err(EnterError::NetNamespace)?)
        }
        false => None,
    };
    for (name, value) in &setup.sysctls {
        set_sysctl(name, value).map_err(|source| EnterError::Sysctl {
            name: name.clone(),
            source,
        })?;
    }
    // Last, because it takes /proc away.
    own_root(setup.shm_bytes).map_err(EnterError::Root)?;
    Ok(Entered { netns })
}

fn clone_flags(own: OwnNamespaces) -> CloneFlags {
    let mut flags = CloneFlags::CLONE_NEWNS;
    // A pod on the host's network has the host's name as well.
    flags.set(CloneFlags::CLONE_NEWNET | CloneFlags::CLONE_NEWUTS, own.net);
    flags.set(CloneFlags::CLONE_NEWPID, own.pid);
    flags.set(CloneFlags::CLONE_NEWIPC, own.ipc);
    flags
}

fn set_hostname(name: &str) -> io::Result<()> {
    Ok(rustix::system::sethostname(name.as_bytes())?)
}

fn open_netns() -> io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::CLOEXEC;
    Ok(rustix::fs::open("/proc/self/ns/net", flags, Mode::empty())?)
}

fn set_sysctl(name: &str, value: &str) -> io::Result<()> {
    let path = sysctl_path(name).ok_or(io::ErrorKind::InvalidInput)?;
    std::fs::write(Path::new("/proc/sys").join(path), value)
}

/// The file of a kernel parameter, relative to `/proc/sys`. As `sysctl(8)`: dots and slashes change places
/// when a dot comes first, so that an interface name with a dot can be written `net.ipv4.conf.eth0/1.mtu`.
pub(crate) fn sysctl_path(name: &str) -> Option<PathBuf> {
    let path: String = match name.find(['.', '/']) {
        Some(at) if name.as_bytes()[at] == b'.' => name
            .chars()
            .map(|c| match c {
                '.' => '/',
                '/' => '.',
                other => other,
            })
            .collect(),
        _ => name.to_owned(),
    };
    let harmless = path.split('/').all(|part| !matches!(part, "" | "." | ".."));
    harmless.then(|| PathBuf::from(path))
}

fn raise_loopback() -> io::Result<()> {
    let socket = rustix::net::socket(
        rustix::net::AddressFamily::INET,
        rustix::net::SocketType::DGRAM,
        None,
    )?;
    // SAFETY: an all-zero `ifreq` is valid; the name fits and stays NUL-terminated; both ioctls read and
    // write within the structure only.
    unsafe {
        let mut request: libc::ifreq = std::mem::zeroed();
        request.ifr_name[0] = b'l' as libc::c_char;
        request.ifr_name[1] = b'o' as libc::c_char;
        request.ifr_ifru.ifru_flags = (libc::IFF_UP | libc::IFF_RUNNING) as libc::c_short;
        use std::os::fd::AsRawFd;
        if libc::ioctl(socket.as_raw_fd(), libc::SIOCSIFFLAGS, &request) != 0 {
            return Err(io::Error::last_os_error());
        }
    }
    Ok(())
}

/// Leaves every mount of the host behind: a mount namespace that kept them would pin them long after the
/// host has unmounted them. The new root is the tmpfs that the pod's containers share as `/dev/shm`.
fn own_root(shm_bytes: u64) -> io::Result<()> {
    rustix::mount::mount_change("/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC)?;
    let options = std::ffi::CString::new(format!("mode=1777,size={shm_bytes}"))?;
    let flags = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
    // Any directory that is sure to exist will do.
    rustix::mount::mount("shm", "/proc", "tmpfs", flags, options.as_c_str())?;
    rustix::process::chdir("/proc")?;
    rustix::process::pivot_root(".", ".")?;
    rustix::mount::unmount(".", UnmountFlags::DETACH)?;
    rustix::process::chdir("/")?;
    Ok(())
}

/// Takes the server's socket from standard input, which becomes `/dev/null`.
pub(crate) fn take_stdin() -> io::Result<OwnedFd> {
    let socket = rustix::io::fcntl_dupfd_cloexec(io::stdin(), 3)?;
    let null = rustix::fs::open("/dev/null", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty())?;
    rustix::stdio::dup2_stdin(null)?;
    Ok(socket)
}

/// Sets what a signal does; for the shim's children, before they become another program.
pub(crate) fn default_signal(signal: Signal) -> nix::Result<()> {
    // SAFETY: the default action is no handler of ours.
    unsafe { nix::sys::signal::signal(signal, SigHandler::SigDfl) }.map(drop)
}

/// One process that became two.
pub(crate) enum Forked {
    Parent {
        child: i32,
        pidfd: OwnedFd,
    },
    Child {
        /// It was born into the cgroup, and need not join it.
        in_cgroup: bool,
    },
}

/// Forks; the child is born into `cgroup`, the directory of a v2 cgroup, where the kernel can do that
/// (5.7). The caller is single-threaded, so the child may do anything.
///
/// Moving a process afterwards would do as well, but takes a lock against all forks of the machine, and
/// with it some 10 ms.
pub(crate) fn fork(cgroup: Option<BorrowedFd<'_>>) -> io::Result<Forked> {
    match clone3(cgroup) {
        Err(error) if is_unknown(&error) => fork_plainly(),
        other => other,
    }
}

/// Of a kernel that does not have the call, or not all it can do by now.
fn is_unknown(error: &io::Error) -> bool {
    matches!(
        error.raw_os_error(),
        Some(libc::ENOSYS | libc::EINVAL | libc::E2BIG)
    )
}

fn clone3(cgroup: Option<BorrowedFd<'_>>) -> io::Result<Forked> {
    let mut pidfd: i32 = -1;
    let into = if cgroup.is_some() { CLONE_INTO_CGROUP } else { 0 };
    // SAFETY: all fields are numbers, for which zero is a value.
    let mut arguments: libc::clone_args = unsafe { std::mem::zeroed() };
    arguments.flags = into | libc::CLONE_PIDFD as u64;
    arguments.pidfd = &raw mut pidfd as u64;
    arguments.exit_signal = libc::SIGCHLD as u64;
    arguments.cgroup = cgroup.map_or(0, |fd| u64::from(fd.as_raw_fd().cast_unsigned()));
    // SAFETY: without CLONE_VM this is a fork, and there is one thread, so no lock can be held by another.
    // The kernel writes the descriptor to where the arguments say, which outlives the call.
    let pid = unsafe { libc::syscall(libc::SYS_clone3, &raw mut arguments, size_of_val(&arguments)) };
    match i32::try_from(pid) {
        Ok(0) => Ok(Forked::Child {
            in_cgroup: cgroup.is_some(),
        }),
        Ok(child) if child > 0 => Ok(Forked::Parent {
            child,
            // SAFETY: the kernel has just given us this descriptor. It is closed on exec.
            pidfd: unsafe { OwnedFd::from_raw_fd(pidfd) },
        }),
        _ => Err(io::Error::last_os_error()),
    }
}

fn fork_plainly() -> io::Result<Forked> {
    // SAFETY: there is one thread, so no lock can be held by another at the time of the fork.
    match unsafe { nix::unistd::fork() }? {
        ForkResult::Child => Ok(Forked::Child { in_cgroup: false }),
        ForkResult::Parent { child } => {
            let pid = Pid::from_raw(child.as_raw()).ok_or(rustix::io::Errno::SRCH)?;
            // The child is not yet waited for, so the number cannot mean anyone else.
            let pidfd = rustix::process::pidfd_open(pid, PidfdFlags::empty())?;
            Ok(Forked::Parent {
                child: child.as_raw(),
                pidfd,
            })
        }
    }
}

/// Moves this process into a v2 cgroup that it was not born into.
pub(crate) fn join(cgroup: BorrowedFd<'_>) -> io::Result<()> {
    let file = rustix::fs::openat(
        cgroup,
        "cgroup.procs",
        OFlags::WRONLY | OFlags::CLOEXEC,
        Mode::empty(),
    )?;
    rustix::io::write(&file, b"0")?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sysctl_name_becomes_a_path_that_cannot_leave_proc_sys() {
        let cases = [
            (
                "net.ipv4.ip_unprivileged_port_start",
                Some("net/ipv4/ip_unprivileged_port_start"),
            ),
            ("net/ipv4/tcp_syncookies", Some("net/ipv4/tcp_syncookies")),
            (
                "net.ipv4.conf.eth0/1.rp_filter",
                Some("net/ipv4/conf/eth0.1/rp_filter"),
            ),
            (
                "net/ipv4/conf/eth0.1/rp_filter",
                Some("net/ipv4/conf/eth0.1/rp_filter"),
            ),
            ("kernel/../../etc/passwd", None),
            ("./kernel", None),
            ("", None),
        ];
        for (name, expected) in cases {
            assert_eq!(sysctl_path(name), expected.map(PathBuf::from), "{name:?}");
        }
    }
}
