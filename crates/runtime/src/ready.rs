//! Waiting for a descriptor of our own to become ready.

#![expect(
    unsafe_code,
    reason = "tokio asks its caller to promise that the descriptor stays open"
)]

use std::io;
use std::os::fd::OwnedFd;

use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// Registers a descriptor with the runtime's event loop. It should be non-blocking if it is read or written.
pub(crate) fn watch(fd: OwnedFd, interest: Interest) -> io::Result<AsyncFd<OwnedFd>> {
    // SAFETY: an `OwnedFd` always names the same descriptor, and keeps it open until it is dropped, which
    // `AsyncFd` does after it has deregistered it.
    Ok(unsafe { AsyncFd::register_with_interest(fd, interest) }?)
}

/// Waits for the end of the process that a pidfd stands for.
pub(crate) async fn process_end(pidfd: OwnedFd) -> io::Result<()> {
    watch(pidfd, Interest::READABLE)?.readable().await.map(drop)
}
