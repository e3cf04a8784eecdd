//! Starting a pod's shim, and finding one that is there.

use std::fs::{self, File};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use nix::sys::inotify::AddWatchFlags;
use rustix::fs::{FlockOperation, Mode, OFlags};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};

use super::dirs::PodDirs;
use crate::blocking::blocking;
use crate::inotify::Watcher;
use crate::shim::protocol::{Setup, SetupReply};
use crate::shim::{self, socket};

/// Why there is no shim.
#[derive(Debug, thiserror::Error)]
pub enum ShimError {
    /// At most one shim per pod.
    #[error("a shim of this pod is alive")]
    Alive,
    /// A file or socket of the pod could not be used.
    #[error("{action} {path:?}: {source}")]
    File {
        /// What was attempted.
        action: &'static str,
        /// On what.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The process could not be started, or died before it said anything.
    #[error("start the pod's shim: {0}")]
    Spawn(#[source] io::Error),
    /// It says what it could not do.
    #[error("{0}")]
    Setup(String),
}

fn file(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> ShimError {
    let path = path.to_owned();
    move |source| ShimError::File { action, path, source }
}

/// A shim that runs.
pub(super) struct Shim {
    pub(super) pid: i32,
    pub(super) pidfd: OwnedFd,
    pub(super) socket: OwnedFd,
    /// The pod's network namespace; `None` on the host's network.
    pub(super) netns: Option<OwnedFd>,
}

/// Starts the shim of a pod that has none. Blocks until the pod's namespaces exist.
pub(super) fn start(
    dirs: &PodDirs,
    uid: &str,
    setup: &Setup,
    born_into: Option<OwnedFd>,
) -> Result<Shim, ShimError> {
    super::dirs::make_private(&dirs.run).map_err(file("make", &dirs.run))?;
    let lock = lock(&dirs.lock())?.ok_or(ShimError::Alive)?;
    let listener = bind(&dirs.socket()).map_err(file("bind", &dirs.socket()))?;
    let log = File::options()
        .create(true)
        .append(true)
        .mode(0o600)
        .open(dirs.log());
    let log = log.map_err(file("open", &dirs.log()))?;
    let (ours, theirs) = socket::pair().map_err(ShimError::Spawn)?;
    // Sent before there is anyone to read it: from here on the lock is held by the message.
    let mut fds = vec![listener.as_fd(), lock.as_fd()];
    fds.extend(born_into.as_ref().map(AsFd::as_fd));
    socket::send(&ours, setup, &fds).map_err(ShimError::Spawn)?;
    let mut starter = Command::new("/proc/self/exe")
        .arg(shim::ARGUMENT)
        .arg(uid)
        .env_clear()
        .stdin(theirs)
        .stdout(Stdio::null())
        .stderr(log)
        .spawn()
        .map_err(ShimError::Spawn)?;
    let outcome = receive(&ours);
    // The starter ends as soon as it has forked the shim or failed.
    starter.wait().map_err(ShimError::Spawn)?;
    let (reply, mut fds) = outcome.map_err(ShimError::Spawn)?;
    match reply {
        SetupReply::Failed { message } => Err(ShimError::Setup(message)),
        SetupReply::Started { pid } => {
            let netns = if setup.own.net { fds.pop() } else { None };
            let pidfd = fds
                .pop()
                .ok_or_else(|| ShimError::Spawn(io::ErrorKind::InvalidData.into()))?;
            Ok(Shim {
                pid,
                pidfd,
                socket: ours,
                netns,
            })
        }
    }
}

fn receive(socket: &OwnedFd) -> io::Result<(SetupReply, Vec<OwnedFd>)> {
    let mut buffer = [0; 4096];
    let (length, fds) = socket::receive(socket, &mut buffer)?;
    if length == 0 {
        return Err(io::Error::other("it ended without a word"));
    }
    Ok((serde_json::from_slice(&buffer[..length])?, fds))
}

/// Takes a pod's lock; `None` if a shim holds it.
fn lock(path: &Path) -> Result<Option<File>, ShimError> {
    let open = fs::OpenOptions::new()
        .create(true)
        .truncate(false)
        .write(true)
        .mode(0o600)
        .open(path);
    let lock = open.map_err(file("open", path))?;
    match rustix::fs::flock(&lock, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(Some(lock)),
        Err(Errno::WOULDBLOCK) => Ok(None),
        Err(error) => Err(file("lock", path)(error.into())),
    }
}

/// An address is short, a path may not be; through a descriptor of the directory it always fits.
fn with_address<T>(path: &Path, use_it: impl FnOnce(&SocketAddrUnix) -> io::Result<T>) -> io::Result<T> {
    use std::os::fd::AsRawFd;
    let (directory, name) = path.parent().zip(path.file_name()).ok_or(Errno::INVAL)?;
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let directory = rustix::fs::open(directory, flags, Mode::empty())?;
    let short = Path::new("/proc/self/fd")
        .join(directory.as_raw_fd().to_string())
        .join(name);
    use_it(&SocketAddrUnix::new(short)?)
}

fn bind(path: &Path) -> io::Result<OwnedFd> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    with_address(path, |address| {
        let socket = rustix::net::socket_with(
            AddressFamily::UNIX,
            SocketType::SEQPACKET,
            SocketFlags::CLOEXEC,
            None,
        )?;
        rustix::net::bind(&socket, address)?;
        Ok(socket)
    })
}

/// Connects to a shim that listens; `None` if none does.
pub(super) fn connect(path: &Path) -> io::Result<Option<OwnedFd>> {
    let connected = with_address(path, |address| {
        let socket = rustix::net::socket_with(
            AddressFamily::UNIX,
            SocketType::SEQPACKET,
            SocketFlags::CLOEXEC,
            None,
        )?;
        rustix::net::connect(&socket, address)?;
        Ok(socket)
    });
    match connected {
        Ok(socket) => Ok(Some(socket)),
        Err(error) if matches!(error.raw_os_error(), Some(libc::ENOENT | libc::ECONNREFUSED)) => Ok(None),
        Err(error) => Err(error),
    }
}

/// Finds the shim of a pod; `None` if it has none, and then none comes into being any more.
///
/// A shim whose lock is held but which does not listen is about to: a server started it and died. It writes
/// its pid into the lock file when it listens, and when it ends the file is closed; both are events.
pub(super) async fn find(dirs: &PodDirs) -> Result<Option<OwnedFd>, ShimError> {
    if let Look::Found(found) = look(dirs).await? {
        return Ok(found);
    }
    let lock_path = dirs.lock();
    let watcher = Watcher::new().map_err(file("watch", &lock_path))?;
    let what = AddWatchFlags::IN_MODIFY | AddWatchFlags::IN_CLOSE_WRITE | AddWatchFlags::IN_DELETE_SELF;
    watcher.add(&lock_path, what).map_err(file("watch", &lock_path))?;
    loop {
        if let Look::Found(found) = look(dirs).await? {
            return Ok(found);
        }
        watcher.changes().await.map_err(file("watch", &lock_path))?;
    }
}

enum Look {
    Found(Option<OwnedFd>),
    /// There is a shim, or there will be, or it is ending.
    Wait,
}

async fn look(dirs: &PodDirs) -> Result<Look, ShimError> {
    let (path, lock) = (dirs.socket(), dirs.lock());
    blocking(move || {
        if let Some(socket) = connect(&path).map_err(file("connect to", &path))? {
            return Ok(Look::Found(Some(socket)));
        }
        if try_lock_read_only(&lock)? {
            Ok(Look::Found(None))
        } else {
            Ok(Look::Wait)
        }
    })
    .await
}

/// Is the lock free? Opened for reading only, so that looking is not seen as a change.
fn try_lock_read_only(path: &Path) -> Result<bool, ShimError> {
    let lock = match File::open(path) {
        Ok(lock) => lock,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(true),
        Err(error) => return Err(file("open", path)(error)),
    };
    match rustix::fs::flock(&lock, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(true),
        Err(Errno::WOULDBLOCK) => Ok(false),
        Err(error) => Err(file("lock", path)(error.into())),
    }
}
