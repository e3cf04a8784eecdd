//! What is where in a container's file system.
//!
//! libcontainer (0.7) ignores the propagation of bind mounts, so it is arranged before: in the worker's
//! mount namespace everything is private, and a volume that is to propagate is *staged*: attached below the
//! bundle with the propagation it shall have, and bound into the container from there.

use std::path::{Path, PathBuf};

use oci_spec::runtime::Mount as OciMount;

use super::{Input, SpecError, host_ipc};
use crate::config::{ContainerConfig, Mount, MountSource, Propagation};
use crate::shim::protocol::{Stage, Staged};

/// One mount of the document.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Entry {
    kind: &'static str,
    source: PathBuf,
    target: PathBuf,
    options: Vec<String>,
}

impl Entry {
    fn new(kind: &'static str, source: impl Into<PathBuf>, target: &str, options: &[&str]) -> Self {
        let options = options.iter().map(|&option| option.to_owned()).collect();
        Self {
            kind,
            source: source.into(),
            target: PathBuf::from(target),
            options,
        }
    }

    pub(super) fn to_oci(&self) -> OciMount {
        let mut mount = OciMount::default();
        mount
            .set_destination(self.target.clone())
            .set_typ(Some(self.kind.to_owned()))
            .set_source(Some(self.source.clone()))
            .set_options(Some(self.options.clone()));
        mount
    }
}

/// All mounts, in the order they are made.
pub(super) fn all(input: &Input<'_>) -> Result<Vec<Entry>, SpecError> {
    let own = own(input.container, input.bundle)?;
    let mut entries = usual(input);
    // What the pod mounts takes the place of what would be there.
    entries.retain(|entry| !own.iter().any(|mount| mount.target == entry.target));
    entries.extend(own);
    Ok(entries)
}

/// What every container has.
fn usual(input: &Input<'_>) -> Vec<Entry> {
    let privileged = input.container.security.privileged;
    let access = if privileged { "rw" } else { "ro" };
    let shm = if host_ipc(input.pod) {
        PathBuf::from("/dev/shm")
    } else {
        input.bundle.join("shm")
    };
    let pts = [
        "nosuid",
        "noexec",
        "newinstance",
        "ptmxmode=0666",
        "mode=0620",
        "gid=5",
    ];
    let mut entries = vec![
        Entry::new("proc", "proc", "/proc", &["nosuid", "noexec", "nodev"]),
        Entry::new(
            "tmpfs",
            "tmpfs",
            "/dev",
            &["nosuid", "strictatime", "mode=755", "size=65536k"],
        ),
        Entry::new("devpts", "devpts", "/dev/pts", &pts),
        Entry::new("bind", shm, "/dev/shm", &["rbind", "nosuid", "nodev", "noexec"]),
        Entry::new("mqueue", "mqueue", "/dev/mqueue", &["nosuid", "noexec", "nodev"]),
        Entry::new("sysfs", "sysfs", "/sys", &["nosuid", "noexec", "nodev", access]),
    ];
    entries.extend(cgroup(input, access));
    entries
}

/// What a container sees of its cgroup. v2 shows a namespace's own part; on v1 that part is bound.
fn cgroup(input: &Input<'_>, access: &'static str) -> Vec<Entry> {
    let flags = ["nosuid", "noexec", "nodev"];
    if input.cgroup_v2 {
        return vec![Entry::new(
            "cgroup2",
            "cgroup",
            "/sys/fs/cgroup",
            &[&flags[..], &[access]].concat(),
        )];
    }
    if input.visible.is_empty() {
        return Vec::new();
    }
    let top = Entry::new(
        "tmpfs",
        "tmpfs",
        "/sys/fs/cgroup",
        &[&flags[..], &["mode=755", "size=64k"]].concat(),
    );
    let bound = input.visible.iter().map(|visible| {
        let source = input.bundle.join(stage_name(&visible.name));
        let target = format!("/sys/fs/cgroup/{}", visible.name);
        Entry::new(
            "bind",
            source,
            &target,
            &[&["bind"], &flags[..], &[access]].concat(),
        )
    });
    std::iter::once(top).chain(bound).collect()
}

/// Where a v1 hierarchy is staged. libcontainer recognises a hierarchy by the last part of its path, and
/// would put the container's processes somewhere below; so that part is not the controller's name alone.
fn stage_name(hierarchy: &str) -> String {
    format!("cgroup-{hierarchy}")
}

/// What the pod mounts. A directory before what is mounted inside it.
fn own(container: &ContainerConfig, bundle: &Path) -> Result<Vec<Entry>, SpecError> {
    let mut entries = Vec::new();
    for (index, mount) in container.mounts.iter().enumerate() {
        if !mount.target.is_absolute() {
            return Err(SpecError::Relative {
                what: "the mount point",
                path: mount.target.clone(),
            });
        }
        entries.push(entry(mount, staged_target(index, bundle)));
    }
    entries.sort_by_key(|entry| entry.target.components().count());
    Ok(entries)
}

fn entry(mount: &Mount, staged: PathBuf) -> Entry {
    let target = mount.target.clone();
    let (kind, source, mut options) = match &mount.source {
        MountSource::Tmpfs { size_bytes, mode } => {
            let mut options = vec!["nosuid".to_owned(), "nodev".to_owned(), format!("mode={mode:o}")];
            options.extend(size_bytes.map(|bytes| format!("size={bytes}")));
            ("tmpfs", PathBuf::from("tmpfs"), options)
        }
        MountSource::Host {
            path,
            propagation: Propagation::Private,
            ..
        } => ("bind", path.clone(), vec!["rbind".to_owned()]),
        MountSource::Host { .. } => ("bind", staged, vec!["rbind".to_owned()]),
    };
    let recursive = matches!(
        mount.source,
        MountSource::Host {
            recursive_read_only: true,
            ..
        }
    );
    options.extend(
        mount
            .read_only
            .then(|| if recursive { "rro" } else { "ro" }.to_owned()),
    );
    Entry {
        kind,
        source,
        target,
        options,
    }
}

fn staged_target(index: usize, bundle: &Path) -> PathBuf {
    bundle.join(format!("volume-{index}"))
}

/// What the shim has to stage for a container: its cgroups on v1, and the volumes that propagate.
pub(crate) fn staged(
    container: &ContainerConfig,
    visible: &[crate::cgroup::Visible],
    bundle: &Path,
) -> Vec<Staged> {
    let cgroups = visible.iter().map(|visible| Staged {
        source: visible.source.clone(),
        target: bundle.join(stage_name(&visible.name)),
        stage: Stage::Private,
    });
    let volumes = container.mounts.iter().enumerate().filter_map(|(index, mount)| {
        let MountSource::Host {
            path, propagation, ..
        } = &mount.source
        else {
            return None;
        };
        let stage = match propagation {
            Propagation::Private => return None,
            Propagation::FromHost => Stage::FromHost,
            Propagation::Both => Stage::Both,
        };
        Some(Staged {
            source: path.clone(),
            target: staged_target(index, bundle),
            stage,
        })
    });
    cgroups.chain(volumes).collect()
}

/// Does a volume propagate into the host?
pub(super) fn any_shared(container: &ContainerConfig) -> bool {
    let both = |mount: &Mount| {
        matches!(
            mount.source,
            MountSource::Host {
                propagation: Propagation::Both,
                ..
            }
        )
    };
    container.mounts.iter().any(both)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::cgroup::Visible;

    fn host(target: &str, propagation: Propagation, read_only: bool) -> Mount {
        let path = PathBuf::from("/host").join(target.trim_start_matches('/'));
        let source = MountSource::Host {
            path,
            propagation,
            recursive_read_only: false,
        };
        Mount {
            target: target.into(),
            source,
            read_only,
        }
    }

    #[test]
    fn a_directory_is_mounted_before_what_is_inside_it() {
        let mounts = vec![
            host("/data/sub/deep", Propagation::Private, false),
            host("/data", Propagation::Private, true),
            host("/data/sub", Propagation::FromHost, false),
        ];
        let container = ContainerConfig {
            mounts,
            ..ContainerConfig::default()
        };
        let entries = own(&container, Path::new("/b")).unwrap();
        let seen: Vec<_> = entries
            .iter()
            .map(|e| {
                format!(
                    "{} {} {}",
                    e.source.display(),
                    e.target.display(),
                    e.options.join(",")
                )
            })
            .collect();
        let expected = [
            "/host/data /data rbind,ro",
            "/b/volume-2 /data/sub rbind",
            "/host/data/sub/deep /data/sub/deep rbind",
        ];
        assert_eq!(seen, expected);
    }

    #[test]
    fn only_what_propagates_or_is_a_cgroup_is_staged() {
        let mounts = vec![
            host("/a", Propagation::Private, false),
            host("/b", Propagation::FromHost, false),
            host("/c", Propagation::Both, false),
        ];
        let container = ContainerConfig {
            mounts,
            ..ContainerConfig::default()
        };
        let visible = [Visible {
            source: "/sys/fs/cgroup/cpu/x".into(),
            name: "cpu".into(),
        }];
        let staged = staged(&container, &visible, Path::new("/bundle"));
        let seen: Vec<_> = staged
            .iter()
            .map(|s| (s.source.to_str().unwrap(), s.target.to_str().unwrap(), s.stage))
            .collect();
        let expected = [
            ("/sys/fs/cgroup/cpu/x", "/bundle/cgroup-cpu", Stage::Private),
            ("/host/b", "/bundle/volume-1", Stage::FromHost),
            ("/host/c", "/bundle/volume-2", Stage::Both),
        ];
        assert_eq!(seen, expected);
        assert!(any_shared(&container));
    }

    #[test]
    fn memory_backed_volumes_have_their_size_and_mode() {
        let source = MountSource::Tmpfs {
            size_bytes: Some(1 << 20),
            mode: 0o1777,
        };
        let entry = entry(
            &Mount {
                target: "/t".into(),
                source,
                read_only: false,
            },
            PathBuf::new(),
        );
        assert_eq!(entry.options, ["nosuid", "nodev", "mode=1777", "size=1048576"]);
    }
}
