//! Where a cluster lives: its data directory, which is all there is to keep, and its run directory,
//! which is empty after a reboot.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};
use stead_network::ClusterId;

/// The data directory of the cluster that is meant where none is named.
pub(crate) const DEFAULT_DATA_DIR: &str = "/var/lib/stead";
/// Sockets must be somewhere with a short path.
const RUN_DIR: &str = "/run/stead";

/// Where one cluster is.
#[derive(Debug, Clone)]
pub(crate) struct Place {
    data: PathBuf,
    id: ClusterId,
}

/// The path without symbolic links, also of what is not there yet.
fn canonical(path: &Path) -> PathBuf {
    fs::canonicalize(path).unwrap_or_else(|_| match (path.parent(), path.file_name()) {
        (Some(parent), Some(name)) => canonical(parent).join(name),
        _ => path.to_owned(),
    })
}

impl Place {
    /// The place of a data directory, which need not exist.
    pub(crate) fn new(data_dir: &Path) -> anyhow::Result<Place> {
        let data = std::path::absolute(data_dir).with_context(|| format!("find {}", data_dir.display()))?;
        // One directory is one cluster, by whichever path it is reached.
        let data = canonical(&data);
        if data.parent().is_none() {
            bail!(
                "{} cannot be a data directory; name one with --data-dir",
                data.display()
            );
        }
        let id = ClusterId::derived_from(&data.to_string_lossy());
        Ok(Place { data, id })
    }

    /// The number that all names in the kernel carry.
    pub(crate) fn id(&self) -> ClusterId {
        self.id
    }

    /// What the cluster is called in a kubeconfig.
    pub(crate) fn name(&self) -> String {
        if self.data == Path::new(DEFAULT_DATA_DIR) {
            "stead".to_owned()
        } else {
            format!("stead-{}", self.id)
        }
    }

    /// The data directory.
    pub(crate) fn data(&self) -> &Path {
        &self.data
    }

    /// The run directory.
    pub(crate) fn run(&self) -> PathBuf {
        Path::new(RUN_DIR).join(self.id.to_string())
    }

    /// Removes the run directory of a cluster that is stopped. Only who holds the lock of changes may do so.
    pub(crate) fn remove_run(&self) {
        // The next start makes it anew, and what should be left in it.
        let _ = fs::remove_dir_all(self.run());
        // Unless there is another cluster's.
        let _ = fs::remove_dir(RUN_DIR);
    }

    /// The socket that commands speak to the server by.
    pub(crate) fn socket(&self) -> PathBuf {
        self.run().join("control.sock")
    }

    /// Held by the server.
    pub(crate) fn server_lock(&self) -> PathBuf {
        self.data.join("lock")
    }

    /// Held by whoever starts or ends the cluster.
    pub(crate) fn change_lock(&self) -> PathBuf {
        self.run().join("change.lock")
    }

    /// What was settled at the first start. Its presence makes a directory a data directory.
    pub(crate) fn cluster(&self) -> PathBuf {
        self.data.join("cluster.json")
    }

    /// The server's own log.
    pub(crate) fn log(&self) -> PathBuf {
        self.data.join("server.log")
    }

    /// Who asked for what, unless it is to be written elsewhere.
    pub(crate) fn audit_log(&self) -> PathBuf {
        self.data.join("audit.log")
    }

    /// Certificates and keys.
    pub(crate) fn pki(&self) -> PathBuf {
        self.data.join("pki")
    }

    /// The API server's store.
    pub(crate) fn store(&self) -> PathBuf {
        self.data.join("store")
    }

    /// The image store.
    pub(crate) fn images(&self) -> PathBuf {
        self.data.join("images")
    }

    /// The volumes of claims.
    pub(crate) fn volumes(&self) -> PathBuf {
        self.data.join("volumes")
    }

    /// What the container engine keeps.
    pub(crate) fn runtime(&self) -> PathBuf {
        self.data.join("runtime")
    }

    /// What the kubelet keeps.
    pub(crate) fn kubelet(&self) -> PathBuf {
        self.data.join("kubelet")
    }

    /// The cgroup of pods and shims.
    pub(crate) fn cgroup(&self) -> String {
        format!("stead-{}", self.id)
    }

    /// How to name this cluster to a command; nothing where it is the default one.
    pub(crate) fn flag(&self) -> String {
        if self.data == Path::new(DEFAULT_DATA_DIR) {
            String::new()
        } else {
            format!(" --data-dir {}", self.data.display())
        }
    }

    /// Everything in the data directory that is ours.
    pub(crate) fn parts(&self) -> [PathBuf; 12] {
        [
            self.runtime(),
            self.kubelet(),
            self.volumes(),
            self.images(),
            self.store(),
            self.pki(),
            self.log(),
            self.log().with_extension("log.1"),
            self.audit_log(),
            self.audit_log().with_extension("log.1"),
            self.server_lock(),
            // Last: as long as it is there, what is left can be deleted.
            self.cluster(),
        ]
    }
}

/// Refuses whoever may not do what a cluster needs.
pub(crate) fn require_root() -> anyhow::Result<()> {
    if rustix::process::geteuid().is_root() {
        return Ok(());
    }
    bail!(
        "must be run as root, because it makes namespaces, mounts and network links\n\
         try it with sudo in front"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_default_cluster_has_the_plain_name() {
        let default = Place::new(Path::new(DEFAULT_DATA_DIR)).expect("a place");
        assert_eq!((default.name().as_str(), default.flag().as_str()), ("stead", ""));
        let other = Place::new(Path::new("/tmp/elsewhere")).expect("a place");
        assert_eq!(other.name(), format!("stead-{}", other.id()));
        assert_eq!(other.flag(), " --data-dir /tmp/elsewhere");
        assert_ne!(default.run(), other.run());
    }

    #[test]
    fn a_directory_is_one_cluster_by_whichever_path() {
        let dir = tempfile::tempdir().expect("a directory");
        let link = dir.path().join("link");
        fs::create_dir(dir.path().join("data")).expect("a directory");
        std::os::unix::fs::symlink(dir.path().join("data"), &link).expect("a link");
        let place = |path: &Path| Place::new(path).expect("a place").id();
        assert_eq!(place(&link), place(&dir.path().join("data")));
        // Also before it is made, as the one who makes it and the one who finds it must agree.
        assert_eq!(place(&link.join("new")), place(&dir.path().join("data/new")));
    }

    #[test]
    fn the_root_directory_is_refused() {
        assert!(Place::new(Path::new("/")).is_err());
    }
}
