//! Where things are.
//!
//! ```text
//! <state>/pods/<uid>/pod.json                     how the pod was meant to be
//! <state>/pods/<uid>/containers/<id>/             a container's bundle:
//!     container.json  config.json  exit.json        how it was meant to be; for the OCI runtime; its end
//!     rootfs  upper  work  shm  cgroup-*  volume-*  mount points, and the container's own layer
//! <run>/pods/<uid>/{lock,shim.sock,shim.log}      exists while a shim does; gone after a reboot
//! ```

use std::fs::{self, DirBuilder};
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

/// The directories of one pod.
#[derive(Debug, Clone)]
pub(super) struct PodDirs {
    pub(super) state: PathBuf,
    pub(super) run: PathBuf,
}

/// The file that says how a pod was meant to be.
pub(super) const POD_FILE: &str = "pod.json";
/// The file that says how a container was meant to be.
pub(super) const CONTAINER_FILE: &str = "container.json";
/// The OCI document of a container.
pub(super) const SPEC_FILE: &str = "config.json";

impl PodDirs {
    pub(super) fn new(state_dir: &Path, run_dir: &Path, uid: &str) -> Self {
        Self {
            state: state_dir.join("pods").join(uid),
            run: run_dir.join("pods").join(uid),
        }
    }

    pub(super) fn containers(&self) -> PathBuf {
        self.state.join("containers")
    }

    pub(super) fn bundle(&self, container: &str) -> PathBuf {
        self.containers().join(container)
    }

    pub(super) fn socket(&self) -> PathBuf {
        self.run.join("shim.sock")
    }

    pub(super) fn lock(&self) -> PathBuf {
        self.run.join("lock")
    }

    pub(super) fn log(&self) -> PathBuf {
        self.run.join("shim.log")
    }
}

/// Makes a directory, and those above it, that only root can enter. That it exists is no error.
pub(super) fn make_private(path: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(path)
}

/// Removes a directory with everything in it. That it is not there is no error.
pub(super) fn remove(path: &Path) -> io::Result<()> {
    match fs::remove_dir_all(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// The names in a directory; none if it is not there.
pub(super) fn names(path: &Path) -> Vec<String> {
    let entries = fs::read_dir(path).into_iter().flatten().flatten();
    entries
        .filter_map(|entry| entry.file_name().into_string().ok())
        .collect()
}
