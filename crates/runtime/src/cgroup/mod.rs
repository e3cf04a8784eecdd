//! Control groups: `/<cluster>/pod<uid>/<container>` for containers, `/<cluster>/shims` for shims.
//!
//! All three arrangements are served: v2, v1, and the hybrid in which v1 has the controllers and an empty
//! v2 hierarchy is beside it (that one is used as well, since it can kill a whole tree at once). Nothing
//! here goes through a service manager. Where a controller cannot be used its limits are left out, with
//! one warning when the server starts; where nothing can be used, pods run without cgroups.
//!
//! * [`layout`]: what is mounted where;
//! * [`limits`]: which value goes into which file (pure);
//! * [`devices`]: which device nodes may be used;
//! * [`kill`]: ending everything in a cgroup, and knowing that it has ended;
//! * [`stats`]: what a cgroup has used.

mod bpf;
pub(crate) mod devices;
mod kill;
mod layout;
mod limits;
pub(crate) mod stats;
mod tree;

use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags};

use crate::config::Resources;
use devices::DeviceRules;
use layout::{Hierarchy, Layout};
use tree::{make, remove_tree, set};

pub(crate) use kill::signal_all;
pub(crate) use stats::oom_kills;

/// Why a cgroup could not be made, limited or removed.
#[derive(Debug, thiserror::Error)]
pub enum CgroupError {
    /// Names become directories.
    #[error("{0:?} cannot be the name of a cgroup")]
    Name(String),
    /// A file could not be read or written.
    #[error("{action} {path:?}: {source}")]
    File {
        /// What was attempted.
        action: &'static str,
        /// On what.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// The rules for device nodes could not be put in force.
    #[error("restrict the devices of {path:?}: {source}")]
    Devices {
        /// The cgroup.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// A process did not end.
    #[error("wait for the processes in {path:?}: {source}")]
    Wait {
        /// The cgroup.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
}

impl CgroupError {
    fn file(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_owned();
        move |source| Self::File { action, path, source }
    }
}

/// A cgroup of ours, relative to every hierarchy's mount. Never empty and never the root: code that kills
/// what is in a cgroup takes one of these.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct CgroupPath(PathBuf);

impl CgroupPath {
    /// The cgroup of the whole cluster.
    fn cluster(name: &str) -> Result<Self, CgroupError> {
        Ok(Self(PathBuf::from(component(name)?)))
    }

    fn child(&self, name: &str) -> Result<Self, CgroupError> {
        Ok(Self(self.0.join(component(name)?)))
    }

    /// With a leading slash, as OCI wants it.
    pub(crate) fn absolute(&self) -> PathBuf {
        Path::new("/").join(&self.0)
    }
}

fn component(name: &str) -> Result<&str, CgroupError> {
    let harmless = !name.is_empty()
        && name.len() <= 255
        && !name.starts_with('.')
        && name
            .chars()
            .all(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.'));
    harmless
        .then_some(name)
        .ok_or_else(|| CgroupError::Name(name.to_owned()))
}

/// The cluster's part of the hierarchies.
#[derive(Debug)]
pub(crate) struct Cgroups {
    layout: Layout,
    cluster: CgroupPath,
}

/// A cgroup's directory, opened.
#[derive(Debug)]
pub(crate) struct Directory {
    pub(crate) fd: OwnedFd,
    /// A process can be born into it (`CLONE_INTO_CGROUP`), which is how a v2 cgroup is best joined.
    pub(crate) is_v2: bool,
}

/// A hierarchy's view of one cgroup, for the container to see.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Visible {
    /// The directory on the host.
    pub(crate) source: PathBuf,
    /// The name below `/sys/fs/cgroup`; v1 only.
    pub(crate) name: String,
}

impl Cgroups {
    /// Finds what can be used below `root` (`/sys/fs/cgroup`), given this process' mounts.
    pub(crate) fn open(name: &str, root: &Path, mountinfo: &str) -> Result<Self, CgroupError> {
        let cluster = CgroupPath::cluster(name)?;
        let mut layout = Layout::detect(root, mountinfo);
        let failures = layout.retain_usable(|hierarchy| {
            make(hierarchy, &cluster)?;
            make(hierarchy, &cluster.child("shims")?)
        });
        for error in failures {
            tracing::warn!(%error, "a cgroup hierarchy cannot be used; its limits are not enforced");
        }
        Ok(Self { layout, cluster })
    }

    /// Removes what a cluster of this name has left below `root`; processes in it are killed.
    pub(crate) async fn remove_all(name: &str, root: &Path, mountinfo: &str) -> Result<(), CgroupError> {
        let cluster = CgroupPath::cluster(name)?;
        for hierarchy in Layout::detect(root, mountinfo).all() {
            let dir = hierarchy.dir(&cluster);
            kill::kill_tree(hierarchy, &dir).await?;
            remove_tree(&dir).map_err(CgroupError::file("remove", &dir))?;
        }
        Ok(())
    }

    pub(crate) fn shims(&self) -> Result<CgroupPath, CgroupError> {
        self.cluster.child("shims")
    }

    pub(crate) fn pod(&self, uid: &str) -> Result<CgroupPath, CgroupError> {
        self.cluster.child(&format!("pod{}", component(uid)?))
    }

    pub(crate) fn container(&self, pod: &CgroupPath, id: &str) -> Result<CgroupPath, CgroupError> {
        pod.child(id)
    }

    /// Makes a cgroup and sets its limits.
    pub(crate) fn create(&self, path: &CgroupPath, resources: &Resources) -> Result<(), CgroupError> {
        for hierarchy in self.layout.for_containers() {
            make(hierarchy, path)?;
        }
        self.limit(path, resources)
    }

    /// Changes the limits that `resources` names.
    pub(crate) fn limit(&self, path: &CgroupPath, resources: &Resources) -> Result<(), CgroupError> {
        for hierarchy in self.layout.for_containers() {
            let dir = hierarchy.dir(path);
            for (file, value) in limits::files(hierarchy, resources) {
                set(&dir, file, &value)?;
            }
        }
        Ok(())
    }

    /// Allows the devices of `rules` and no others.
    pub(crate) fn restrict_devices(&self, path: &CgroupPath, rules: &DeviceRules) -> Result<(), CgroupError> {
        for hierarchy in self.layout.for_containers() {
            let dir = hierarchy.dir(path);
            let restricted = match hierarchy {
                Hierarchy::V1 { .. } if hierarchy.has("devices") => rules.apply_v1(&dir),
                Hierarchy::V2 {
                    with_controllers: true,
                    ..
                } => rules.apply_v2(&dir),
                _ => Ok(()),
            };
            restricted.map_err(|source| CgroupError::Devices { path: dir, source })?;
        }
        Ok(())
    }

    /// The v1 files through which a single-threaded process, and what it forks, joins a container's cgroup.
    ///
    /// `tasks` and not `cgroup.procs`: a thread that moves only itself needs no lock on all forks of the
    /// machine, for which the kernel waits some 10 ms. For v2 see [`Directory`].
    pub(crate) fn container_tasks(&self, path: &CgroupPath) -> Vec<PathBuf> {
        tasks(self.layout.for_containers(), path)
    }

    /// The same for a shim, which leaves the server's cgroup in every hierarchy.
    pub(crate) fn shim_tasks(&self) -> Result<Vec<PathBuf>, CgroupError> {
        Ok(tasks(self.layout.all(), &self.shims()?))
    }

    /// What the container is shown of its own cgroup. Empty on v2, where a cgroup namespace does that.
    pub(crate) fn visible(&self, path: &CgroupPath) -> Vec<Visible> {
        let visible = |hierarchy: &Hierarchy| match hierarchy {
            Hierarchy::V1 { name, .. } => Some(Visible {
                source: hierarchy.dir(path),
                name: name.clone(),
            }),
            Hierarchy::V2 { .. } => None,
        };
        self.layout.for_containers().filter_map(visible).collect()
    }

    /// Cgroup v2 has the controllers.
    pub(crate) fn is_v2(&self) -> bool {
        self.layout.all().any(|h| {
            matches!(
                h,
                Hierarchy::V2 {
                    with_controllers: true,
                    ..
                }
            )
        })
    }

    /// The directory to find and kill the cgroup's processes in.
    pub(crate) fn directory(&self, path: &CgroupPath) -> Option<Directory> {
        let hierarchy = self.layout.for_killing()?;
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let fd = rustix::fs::open(hierarchy.dir(path), flags, Mode::empty()).ok()?;
        Some(Directory {
            fd,
            is_v2: hierarchy.is_v2(),
        })
    }

    /// The file that counts how often the OOM killer struck in the cgroup.
    pub(crate) fn oom_counter(&self, path: &CgroupPath) -> Option<OwnedFd> {
        let hierarchy = self.layout.for_memory()?;
        let name = if hierarchy.is_v2() {
            "memory.events"
        } else {
            "memory.oom_control"
        };
        rustix::fs::open(
            hierarchy.dir(path).join(name),
            OFlags::RDONLY | OFlags::CLOEXEC,
            Mode::empty(),
        )
        .ok()
    }

    /// What the cgroup has used.
    pub(crate) fn stats(&self, path: &CgroupPath) -> Result<stats::Stats, CgroupError> {
        let mut stats = stats::Stats::default();
        for hierarchy in self.layout.for_containers() {
            stats::add(&mut stats, hierarchy, &hierarchy.dir(path))?;
        }
        Ok(stats)
    }

    /// Kills every process in the cgroup and below it; returns when all of them have ended.
    pub(crate) async fn kill(&self, path: &CgroupPath) -> Result<(), CgroupError> {
        // First where it is done best; then there is nobody left elsewhere, unless something went wrong.
        for hierarchy in self
            .layout
            .for_killing()
            .into_iter()
            .chain(self.layout.for_containers())
        {
            kill::kill_tree(hierarchy, &hierarchy.dir(path)).await?;
        }
        Ok(())
    }

    /// Removes an empty cgroup and those below it. That it is not there is no error.
    pub(crate) fn remove(&self, path: &CgroupPath) -> Result<(), CgroupError> {
        let mut outcome = Ok(());
        for hierarchy in self.layout.for_containers() {
            let dir = hierarchy.dir(path);
            let removed = remove_tree(&dir).map_err(CgroupError::file("remove", &dir));
            outcome = outcome.and(removed);
        }
        outcome
    }

    /// The pods that have a cgroup, by uid.
    pub(crate) fn pods(&self) -> Vec<String> {
        let Some(hierarchy) = self.layout.for_killing() else {
            return Vec::new();
        };
        let entries = fs::read_dir(hierarchy.dir(&self.cluster))
            .into_iter()
            .flatten()
            .flatten();
        let names = entries.filter_map(|entry| entry.file_name().into_string().ok());
        names
            .filter_map(|name| name.strip_prefix("pod").map(str::to_owned))
            .collect()
    }
}

fn tasks<'a>(hierarchies: impl Iterator<Item = &'a Hierarchy>, path: &CgroupPath) -> Vec<PathBuf> {
    hierarchies
        .filter(|h| !h.is_v2())
        .map(|h| h.dir(path).join("tasks"))
        .collect()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn no_name_leads_to_the_root_or_out_of_the_cluster() {
        for name in [
            "",
            ".",
            "..",
            "/",
            "a/b",
            "../x",
            "a b",
            ".hidden",
            &"x".repeat(256),
        ] {
            assert!(CgroupPath::cluster(name).is_err(), "{name:?}");
        }
        let pod = CgroupPath::cluster("stead").unwrap().child("pod1").unwrap();
        assert_eq!(pod.absolute(), Path::new("/stead/pod1"));
        assert!(pod.child("..").is_err());
    }

    /// Processes of our own in a cgroup of our own, found through the hierarchies that `mountinfo` shows.
    async fn check_kill(root: &str, name: &str, mountinfo: &str) {
        let cgroups = Cgroups::open(name, Path::new(root), mountinfo).unwrap();
        let pod = cgroups.pod("uid").unwrap();
        // As if whoever made it had been killed before it was set up.
        for hierarchy in cgroups.layout.for_containers() {
            fs::create_dir_all(hierarchy.dir(&pod)).unwrap();
        }
        cgroups.create(&pod, &Resources::default()).unwrap();
        let mut children = Vec::new();
        for id in ["one", "two"] {
            let container = cgroups.container(&pod, id).unwrap();
            cgroups.create(&container, &Resources::default()).unwrap();
            let joins: Vec<_> = cgroups
                .layout
                .for_containers()
                .map(|hierarchy| hierarchy.dir(&container).join("cgroup.procs"))
                .map(|p| format!("echo $$ > {};", p.display()))
                .collect();
            let script = format!(
                "{} (sleep 4567 & sleep 4567 &); echo; exec sleep 4567",
                joins.concat()
            );
            let mut child = std::process::Command::new("sh")
                .args(["-c", &script])
                .stdout(std::process::Stdio::piped())
                .spawn()
                .unwrap();
            io::Read::read_exact(child.stdout.as_mut().unwrap(), &mut [0]).unwrap();
            children.push(child);
        }
        assert_eq!(cgroups.pods(), ["uid"]);
        assert!(cgroups.remove(&pod).is_err(), "it is not empty");
        cgroups.kill(&pod).await.unwrap();
        for mut child in children {
            child.wait().unwrap();
        }
        cgroups.remove(&pod).unwrap();
        assert_eq!(cgroups.pods(), [""; 0]);
        for hierarchy in cgroups.layout.all() {
            remove_tree(&hierarchy.dir(&cgroups.cluster)).unwrap();
        }
    }

    #[tokio::test]
    async fn everything_in_a_cgroup_is_killed_in_every_arrangement() {
        let mounted = fs::read_to_string("/proc/self/mountinfo").unwrap();
        let name = |kind: &str| format!("stead-test-{kind}-{}", std::process::id());
        check_kill("/sys/fs/cgroup", &name("as-it-is"), &mounted).await;
        let v1: Vec<_> = mounted
            .lines()
            .filter(|line| !line.contains(" - cgroup2 "))
            .collect();
        if v1.iter().any(|line| line.contains(" - cgroup ")) {
            check_kill("/sys/fs/cgroup", &name("v1"), &v1.join("\n")).await;
        }
        if mounted
            .lines()
            .any(|line| line.contains(" /sys/fs/cgroup/unified "))
        {
            check_kill("/sys/fs/cgroup/unified", &name("v2"), &mounted).await;
        }
    }

    #[test]
    fn what_cannot_be_used_is_left_out() {
        let nowhere = "41 31 0:38 / /nosuch/memory rw - cgroup cgroup rw,memory";
        let cgroups = Cgroups::open("x", Path::new("/nosuch"), nowhere).unwrap();
        let pod = cgroups.pod("uid").unwrap();
        cgroups
            .create(
                &pod,
                &Resources {
                    memory_limit_bytes: Some(1),
                    ..Resources::default()
                },
            )
            .unwrap();
        assert!(cgroups.container_tasks(&pod).is_empty());
        assert!(cgroups.directory(&pod).is_none() && cgroups.oom_counter(&pod).is_none());
        cgroups.remove(&pod).unwrap();
    }
}
