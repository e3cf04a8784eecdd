//! What is left on disk of a container: how it was meant to be, and how it ended.
//!
//! The exit record is written by the shim before it tells anyone, so an exit that happens while no server
//! runs is found later. Written aside and renamed, so a reader sees all of it or nothing; not synced,
//! because nothing that a power cut could lose outlives that power cut.

use std::io::{self, Read, Write};
use std::os::fd::{AsFd, OwnedFd};

use jiff::Timestamp;
use rustix::fs::{Mode, OFlags};
use serde::{Deserialize, Serialize, de::DeserializeOwned};

/// The exit record, in a container's directory.
pub(crate) const EXIT_FILE: &str = "exit.json";

/// How a container ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExitRecord {
    /// As a shell gives it: 128 plus the number of the signal for a process that was killed.
    pub exit_code: i32,
    /// The signal that ended the first process.
    pub signal: Option<i32>,
    /// The kernel's OOM killer struck inside the container.
    pub oom_killed: bool,
    /// When the container's first process began.
    pub started_at: Timestamp,
    /// When its end was noticed.
    pub finished_at: Timestamp,
}

/// Writes `value` as JSON to `name` in `dir`, replacing it in one step.
pub(crate) fn write_json<T: Serialize>(dir: impl AsFd, name: &str, value: &T) -> io::Result<()> {
    let bytes = serde_json::to_vec(value)?;
    write_bytes(dir, name, &bytes)
}

/// Writes `bytes` to `name` in `dir`, replacing it in one step.
pub(crate) fn write_bytes(dir: impl AsFd, name: &str, bytes: &[u8]) -> io::Result<()> {
    let aside = format!(".{name}.new");
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::TRUNC | OFlags::CLOEXEC | OFlags::NOFOLLOW;
    let fd = rustix::fs::openat(&dir, aside.as_str(), flags, Mode::from_raw_mode(0o600))?;
    std::fs::File::from(fd).write_all(bytes)?;
    rustix::fs::renameat(&dir, aside.as_str(), &dir, name)?;
    Ok(())
}

/// Reads `name` in `dir`; `None` if it is not there.
pub(crate) fn read_json<T: DeserializeOwned>(dir: impl AsFd, name: &str) -> io::Result<Option<T>> {
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NOFOLLOW;
    let fd: OwnedFd = match rustix::fs::openat(&dir, name, flags, Mode::empty()) {
        Ok(fd) => fd,
        Err(rustix::io::Errno::NOENT) => return Ok(None),
        Err(error) => return Err(error.into()),
    };
    let mut bytes = Vec::new();
    std::fs::File::from(fd).read_to_end(&mut bytes)?;
    Ok(Some(serde_json::from_slice(&bytes)?))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_record_is_replaced_in_one_step_and_absence_is_not_an_error() {
        let dir = tempfile::tempdir().unwrap();
        let fd = std::fs::File::open(dir.path()).unwrap();
        assert_eq!(read_json::<Vec<u8>>(&fd, "r.json").unwrap(), None);
        write_json(&fd, "r.json", &[1u8, 2]).unwrap();
        write_json(&fd, "r.json", &[3u8]).unwrap();
        assert_eq!(read_json::<Vec<u8>>(&fd, "r.json").unwrap(), Some(vec![3]));
        let names: Vec<_> = std::fs::read_dir(dir.path())
            .unwrap()
            .map(|e| e.unwrap().file_name())
            .collect();
        assert_eq!(names, ["r.json"]);
    }
}
