//! Ending everything in a cgroup, and knowing that it has ended.
//!
//! v2 kills a tree in one step that no fork escapes (`cgroup.kill`, Linux 5.14); in a v1 freezer the tree
//! is held still meanwhile. The end of each process is awaited through a pidfd, then the list is read
//! again until it is empty, so what forked in between is found.

use std::fs;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, Signal};

use super::CgroupError;
use super::layout::Hierarchy;
use crate::ready;

/// Kills all processes in the cgroup and below, and waits until they have ended.
pub(super) async fn kill_tree(hierarchy: &Hierarchy, dir: &Path) -> Result<(), CgroupError> {
    let freezer = hierarchy.has("freezer");
    loop {
        let pids = list(dir).map_err(CgroupError::file("list the processes of", dir))?;
        if pids.is_empty() {
            return Ok(());
        }
        let pidfds: Vec<_> = pids.iter().filter_map(|pid| pidfd(*pid)).collect();
        if !kill_at_once(dir) {
            if freezer {
                freeze(dir, true);
            }
            for fd in &pidfds {
                // It may have ended in this moment.
                let _ = rustix::process::pidfd_send_signal(fd, Signal::KILL);
            }
            if freezer {
                freeze(dir, false);
            }
        }
        for fd in pidfds {
            ready::process_end(fd).await.map_err(|source| CgroupError::Wait {
                path: dir.to_owned(),
                source,
            })?;
        }
    }
}

fn pidfd(pid: i32) -> Option<OwnedFd> {
    rustix::process::pidfd_open(Pid::from_raw(pid)?, PidfdFlags::empty()).ok()
}

/// Where the file does not exist (v1, or an old kernel), it is not created either.
fn kill_at_once(dir: &Path) -> bool {
    let file = fs::OpenOptions::new().write(true).open(dir.join("cgroup.kill"));
    file.and_then(|mut file| io::Write::write_all(&mut file, b"1"))
        .is_ok()
}

fn freeze(dir: &Path, frozen: bool) {
    // Without it processes can fork while they are being killed; then the next round finds the rest.
    let _ = fs::write(
        dir.join("freezer.state"),
        if frozen { "FROZEN" } else { "THAWED" },
    );
}

fn list(dir: &Path) -> io::Result<Vec<i32>> {
    let mut pids = match fs::read_to_string(dir.join("cgroup.procs")) {
        Ok(text) => parse(&text),
        Err(error) if is_gone(&error) => return Ok(Vec::new()),
        Err(error) => return Err(error),
    };
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        if entry.file_type()?.is_dir() {
            pids.extend(list(&entry.path())?);
        }
    }
    Ok(pids)
}

/// A cgroup that is removed while it is read.
fn is_gone(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::NotFound || error.raw_os_error() == Some(libc::ENODEV)
}

/// Processes outside the reader's PID namespace are listed as 0, which to `kill` means something else.
fn parse(text: &str) -> Vec<i32> {
    text.lines()
        .filter_map(|line| line.parse().ok())
        .filter(|pid| *pid > 0)
        .collect()
}

/// Sends a signal to every process of the cgroup whose directory this is. Does not wait.
pub(crate) fn signal_all(dir: impl AsFd, signal: i32) -> io::Result<()> {
    if signal == libc::SIGKILL && kill_at_once_in(&dir) {
        return Ok(());
    }
    let signal = nix::sys::signal::Signal::try_from(signal)?;
    for pid in parse(&read_procs(&dir)?) {
        // One that has ended in this moment has no need of it.
        let _ = nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), signal);
    }
    Ok(())
}

fn kill_at_once_in(dir: impl AsFd) -> bool {
    let flags = OFlags::WRONLY | OFlags::CLOEXEC;
    let file = rustix::fs::openat(&dir, "cgroup.kill", flags, Mode::empty());
    file.is_ok_and(|file| rustix::io::write(&file, b"1").is_ok())
}

fn read_procs(dir: impl AsFd) -> io::Result<String> {
    let flags = OFlags::RDONLY | OFlags::CLOEXEC;
    match rustix::fs::openat(&dir, "cgroup.procs", flags, Mode::empty()) {
        Ok(file) => io::read_to_string(fs::File::from(file)),
        Err(Errno::NOENT | Errno::NODEV) => Ok(String::new()),
        Err(error) => Err(error.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn processes_that_cannot_be_named_are_never_signalled() {
        assert_eq!(parse("12\n0\n-3\nx\n7\n"), [12, 7]);
    }
}
