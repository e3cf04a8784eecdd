//! Waiting for a file to change.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify, InotifyEvent};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use crate::ready;

/// Reports changes of the files and directories watched.
#[derive(Debug)]
pub(crate) struct Watcher(Option<Inner>);

#[derive(Debug)]
struct Inner {
    inotify: Inotify,
    ready: AsyncFd<OwnedFd>,
}

impl Watcher {
    pub(crate) fn new() -> io::Result<Self> {
        let inotify = Inotify::init(InitFlags::IN_NONBLOCK | InitFlags::IN_CLOEXEC)?;
        let fd = inotify.as_fd().try_clone_to_owned()?;
        Ok(Self(Some(Inner {
            inotify,
            ready: ready::watch(fd, Interest::READABLE)?,
        })))
    }

    /// From now on, changes of `path` are reported.
    pub(crate) fn add(&self, path: &Path, what: AddWatchFlags) -> io::Result<()> {
        self.inner().inotify.add_watch(path, what)?;
        Ok(())
    }

    /// Waits for changes. Cancelled, it loses none.
    pub(crate) async fn changes(&self) -> io::Result<Vec<InotifyEvent>> {
        let Inner { inotify, ready } = self.inner();
        let read = |_: &OwnedFd| inotify.read_events().map_err(io::Error::from);
        ready.async_io(Interest::READABLE, read).await
    }

    fn inner(&self) -> &Inner {
        self.0
            .as_ref()
            .expect("it is taken only when the watcher is dropped")
    }
}

impl Drop for Watcher {
    /// Closing the last descriptor waits for a grace period in the kernel, some 10 ms: not on the event loop.
    fn drop(&mut self) {
        if let (Some(inner), Ok(runtime)) = (self.0.take(), tokio::runtime::Handle::try_current()) {
            runtime.spawn_blocking(move || drop(inner));
        }
    }
}
