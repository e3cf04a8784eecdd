//! The shim: one small process per pod, parent of the pod's containers.
//!
//! It is this same binary, started anew, so its code is shared with the server's in memory; it is
//! single-threaded, has no async runtime, and opens nothing by path after its start. It exists so that the
//! server can be stopped, killed or replaced while the containers run on: it keeps their standard streams,
//! writes their logs, and remembers how they ended.
//!
//! The shim is process 1 of a PID namespace of the pod. When it dies, by whatever cause, the kernel kills
//! every process in there before anyone is told; with the last of them the pod's network, IPC and mount
//! namespaces vanish, so there is nothing to clean up and no second copy of a container can run. Each
//! container has a PID namespace nested in the pod's, or shares the pod's. Only a pod in the host's PID
//! namespace lacks this; its containers get a parent-death signal instead, and the server kills their
//! cgroup before anything replaces them.
//!
//! Containers are made by workers, forked from the shim and gone when the container runs: libcontainer
//! changes the process it works in (directory, dumpability, memory), and none of that stays in the shim.
//!
//! * [`protocol`] and [`socket`]: what is said, and how;
//! * [`namespaces`]: from the server's world into the pod's;
//! * [`serve`]: the loop over everything that can happen;
//! * [`container`], [`log`]: a container's streams and log;
//! * [`worker`], [`executor`], [`diagnosis`]: making containers and running processes in them.

pub(crate) mod container;
mod diagnosis;
pub(crate) mod executor;
pub(crate) mod log;
pub(crate) mod namespaces;
pub(crate) mod protocol;
pub(crate) mod serve;
pub(crate) mod socket;
pub(crate) mod worker;

use std::ffi::OsString;
use std::os::fd::{AsFd, OwnedFd};
use std::process::exit;

use protocol::{MAX_MESSAGE_BYTES, Setup, SetupReply};

/// The word that makes this binary a shim: its first argument.
pub const ARGUMENT: &str = "shim";

/// Runs a pod's shim; never returns.
///
/// To be called first thing in `main` when the first argument is [`ARGUMENT`], before any thread exists.
/// What to do arrives on standard input, which is a socket; the arguments only serve to recognise the
/// process in a list.
pub fn main(_arguments: impl Iterator<Item = OsString>) -> ! {
    let code = match start() {
        Ok(()) => 0,
        Err(error) => {
            complain(&error);
            1
        }
    };
    exit(code)
}

/// Why a shim could not begin.
#[derive(Debug, thiserror::Error)]
enum StartError {
    #[error("take the socket from standard input: {0}")]
    Socket(#[source] std::io::Error),
    #[error("read how the pod is to be set up: {0}")]
    Setup(#[source] std::io::Error),
    #[error(transparent)]
    Namespaces(#[from] namespaces::EnterError),
    #[error("fork the shim: {0}")]
    Fork(#[source] std::io::Error),
    #[error("join the shims' cgroup: {0}")]
    Cgroup(#[source] std::io::Error),
    #[error(transparent)]
    Serve(#[from] serve::ServeError),
}

fn start() -> Result<(), StartError> {
    let server = namespaces::take_stdin().map_err(StartError::Socket)?;
    let mut buffer = vec![0; MAX_MESSAGE_BYTES];
    let (setup, [listener, lock], cgroup) = receive_setup(&server, &mut buffer).map_err(StartError::Setup)?;
    let entered = match namespaces::enter(&setup) {
        Ok(entered) => entered,
        Err(error) => {
            // That the server has gone meanwhile changes nothing for a process that ends here.
            let _ = socket::send(
                &server,
                &SetupReply::Failed {
                    message: error.to_string(),
                },
                &[],
            );
            return Err(error.into());
        }
    };
    match namespaces::fork(cgroup.as_ref().map(AsFd::as_fd)).map_err(StartError::Fork)? {
        namespaces::Forked::Parent { child, pidfd } => {
            let mut fds = vec![pidfd.as_fd()];
            fds.extend(entered.netns.as_ref().map(AsFd::as_fd));
            // If nobody hears it, the shim still listens on its socket for the next server.
            let _ = socket::send(&server, &SetupReply::Started { pid: child }, &fds);
            Ok(())
        }
        namespaces::Forked::Child { in_cgroup } => {
            drop(entered);
            if let (Some(cgroup), false) = (cgroup, in_cgroup) {
                namespaces::join(cgroup.as_fd()).map_err(StartError::Cgroup)?;
            }
            serve::run(server, listener, lock, setup.own.pid, buffer)?;
            Ok(())
        }
    }
}

/// The setup, the socket and the lock, and the cgroup to be born into.
type Received = (Setup, [OwnedFd; 2], Option<OwnedFd>);

fn receive_setup(server: &OwnedFd, buffer: &mut [u8]) -> std::io::Result<Received> {
    let (length, fds) = socket::receive(server, buffer)?;
    let setup = serde_json::from_slice(&buffer[..length])?;
    let mut fds = fds.into_iter();
    match (fds.next(), fds.next()) {
        (Some(listener), Some(lock)) => Ok((setup, [listener, lock], fds.next())),
        _ => Err(std::io::Error::other("descriptors are missing from the setup")),
    }
}

/// Standard error is a log file beside the pod; it is the last resort when the socket cannot be used.
#[expect(
    clippy::print_stderr,
    reason = "the shim has no other log, and no tracing subscriber"
)]
pub(crate) fn complain(error: &dyn std::error::Error) {
    eprintln!("{} stead shim: {error}", jiff::Timestamp::now());
}
