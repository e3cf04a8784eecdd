//! Which hierarchies are mounted, and what each is good for. Decided from the mount table alone.

use std::path::{Path, PathBuf};

use super::{CgroupError, CgroupPath};

/// The v1 controllers that containers are put under. `cpuset` limits nothing here, but programs that ask
/// how large they may be (Java's for one) give up when it is not there.
const V1_CONTROLLERS: [&str; 7] = ["cpu", "cpuacct", "cpuset", "memory", "pids", "devices", "freezer"];
/// The v2 controllers that limits are set with.
const V2_CONTROLLERS: [&str; 3] = ["cpu", "memory", "pids"];

/// A mounted hierarchy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Hierarchy {
    V1 {
        mount: PathBuf,
        /// The last part of its mount point, as `cpu,cpuacct`.
        name: String,
        /// Empty for a hierarchy that only has a name (`name=systemd`).
        controllers: Vec<String>,
    },
    V2 {
        mount: PathBuf,
        /// False beside v1 hierarchies, which then have the controllers.
        with_controllers: bool,
    },
}

impl Hierarchy {
    pub(super) fn mount(&self) -> &Path {
        match self {
            Self::V1 { mount, .. } | Self::V2 { mount, .. } => mount,
        }
    }

    pub(super) fn dir(&self, path: &CgroupPath) -> PathBuf {
        self.mount().join(&path.0)
    }

    pub(super) fn is_v2(&self) -> bool {
        matches!(self, Self::V2 { .. })
    }

    /// Is this the hierarchy of that v1 controller?
    pub(super) fn has(&self, controller: &str) -> bool {
        match self {
            Self::V1 { controllers, .. } => controllers.iter().any(|c| c == controller),
            Self::V2 { .. } => false,
        }
    }

    /// The v2 controllers to pass on to cgroups below.
    pub(super) fn controllers(&self) -> &'static [&'static str] {
        match self {
            Self::V2 {
                with_controllers: true,
                ..
            } => &V2_CONTROLLERS,
            _ => &[],
        }
    }

    fn for_containers(&self) -> bool {
        match self {
            Self::V1 { controllers, .. } => !controllers.is_empty(),
            Self::V2 { .. } => true,
        }
    }
}

/// The hierarchies in use.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Layout(Vec<Hierarchy>);

impl Layout {
    /// Reads the mount table (`/proc/self/mountinfo`) for cgroup mounts at or below `root`.
    pub(super) fn detect(root: &Path, mountinfo: &str) -> Self {
        let mut hierarchies: Vec<_> = mountinfo
            .lines()
            .filter_map(parse)
            .filter(|h| h.mount().starts_with(root))
            .collect();
        let unified = |h: &Hierarchy| h.is_v2() && h.mount() == root;
        if hierarchies.iter().any(unified) {
            // Whatever is mounted elsewhere has no controllers left.
            hierarchies.retain(unified);
        } else {
            hierarchies.retain(|h| h.is_v2() || is_of_use(h));
            for hierarchy in &mut hierarchies {
                if let Hierarchy::V2 { with_controllers, .. } = hierarchy {
                    *with_controllers = false;
                }
            }
        }
        Self(hierarchies)
    }

    /// Keeps the hierarchies for which `attempt` succeeds; returns why the others do not. A v2 hierarchy
    /// whose controllers cannot be passed on (as inside a container) still serves to list and to kill.
    pub(super) fn retain_usable(
        &mut self,
        attempt: impl Fn(&Hierarchy) -> Result<(), CgroupError>,
    ) -> Vec<CgroupError> {
        let mut failures = Vec::new();
        self.0.retain_mut(|hierarchy| {
            let Err(error) = attempt(hierarchy) else {
                return true;
            };
            failures.push(error);
            match hierarchy {
                Hierarchy::V2 { with_controllers, .. } if *with_controllers => {
                    *with_controllers = false;
                    attempt(hierarchy).is_ok()
                }
                _ => false,
            }
        });
        failures
    }

    pub(super) fn all(&self) -> impl Iterator<Item = &Hierarchy> {
        self.0.iter()
    }

    pub(super) fn for_containers(&self) -> impl Iterator<Item = &Hierarchy> {
        self.0.iter().filter(|h| h.for_containers())
    }

    /// Where to list and kill processes: v2 can kill a tree at once, the freezer can hold it still.
    pub(super) fn for_killing(&self) -> Option<&Hierarchy> {
        let v2 = self.0.iter().find(|h| h.is_v2());
        let freezer = || self.0.iter().find(|h| h.has("freezer"));
        v2.or_else(freezer).or_else(|| self.for_containers().next())
    }

    pub(super) fn for_memory(&self) -> Option<&Hierarchy> {
        let with_memory = |h: &&Hierarchy| {
            h.has("memory")
                || matches!(
                    h,
                    Hierarchy::V2 {
                        with_controllers: true,
                        ..
                    }
                )
        };
        self.0.iter().find(with_memory)
    }
}

fn is_of_use(hierarchy: &Hierarchy) -> bool {
    match hierarchy {
        Hierarchy::V1 { controllers, .. } => {
            // By name only: a service manager keeps track of its services there.
            controllers.is_empty() || controllers.iter().any(|c| V1_CONTROLLERS.contains(&c.as_str()))
        }
        Hierarchy::V2 { .. } => true,
    }
}

/// One line of the mount table; see proc(5) for its fields.
fn parse(line: &str) -> Option<Hierarchy> {
    let (before, after) = line.split_once(" - ")?;
    let mount = PathBuf::from(unescape(before.split(' ').nth(4)?));
    let mut after = after.split(' ');
    let kind = after.next()?;
    let options = after.nth(1)?;
    match kind {
        "cgroup2" => Some(Hierarchy::V2 {
            mount,
            with_controllers: true,
        }),
        "cgroup" => {
            let ignored = ["rw", "ro", "xattr", "clone_children", "noprefix"];
            let is_controller = |option: &&str| !ignored.contains(option) && !option.contains('=');
            let controllers = options
                .split(',')
                .filter(is_controller)
                .map(str::to_owned)
                .collect();
            let name = mount.file_name()?.to_str()?.to_owned();
            Some(Hierarchy::V1 {
                mount,
                name,
                controllers,
            })
        }
        _ => None,
    }
}

/// Spaces and the like are written as `\040` in the mount table.
fn unescape(field: &str) -> String {
    let mut text = String::with_capacity(field.len());
    let mut rest = field;
    while let Some(at) = rest.find('\\') {
        text.push_str(&rest[..at]);
        let code = rest
            .get(at + 1..at + 4)
            .and_then(|code| u8::from_str_radix(code, 8).ok());
        match code {
            Some(byte) => {
                text.push(char::from(byte));
                rest = &rest[at + 4..];
            }
            None => {
                text.push('\\');
                rest = &rest[at + 1..];
            }
        }
    }
    text + rest
}

#[cfg(test)]
mod tests {
    use super::*;

    const ROOT: &str = "/sys/fs/cgroup";

    fn detect(lines: &[&str]) -> Vec<(String, String)> {
        let describe = |h: &Hierarchy| match h {
            Hierarchy::V1 {
                name, controllers, ..
            } => (name.clone(), controllers.join("+")),
            Hierarchy::V2 {
                mount,
                with_controllers,
            } => (mount.display().to_string(), format!("v2 {with_controllers}")),
        };
        Layout::detect(Path::new(ROOT), &lines.join("\n"))
            .all()
            .map(describe)
            .collect()
    }

    #[test]
    fn the_three_arrangements_are_told_apart() {
        let other = "27 1 254:0 / / rw,relatime - ext4 /dev/vda rw,discard";
        let tmpfs = "31 23 0:28 / /sys/fs/cgroup rw - tmpfs tmpfs rw,mode=755";
        let cpu =
            "32 31 0:29 / /sys/fs/cgroup/cpu,cpuacct rw,relatime shared:4 - cgroup cgroup rw,cpu,cpuacct";
        let memory = "35 31 0:32 / /sys/fs/cgroup/memory rw,relatime - cgroup cgroup rw,memory";
        let hugetlb = "36 31 0:33 / /sys/fs/cgroup/hugetlb rw,relatime - cgroup cgroup rw,hugetlb";
        let systemd = "40 31 0:37 / /sys/fs/cgroup/systemd rw - cgroup cgroup rw,xattr,name=systemd";
        let unified = "41 31 0:38 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw,nsdelegate";
        let v2 = "41 31 0:38 / /sys/fs/cgroup rw,relatime - cgroup2 cgroup2 rw";
        let elsewhere = "50 27 0:38 / /mnt/cgroup rw - cgroup2 cgroup2 rw";

        let row = |name: &str, controllers: &str| (name.to_owned(), controllers.to_owned());
        let v1 = [
            row("cpu,cpuacct", "cpu+cpuacct"),
            row("memory", "memory"),
            row("systemd", ""),
        ];
        assert_eq!(detect(&[other, tmpfs, cpu, memory, hugetlb, systemd]), v1);
        let mut hybrid = v1.to_vec();
        hybrid.push(row("/sys/fs/cgroup/unified", "v2 false"));
        assert_eq!(detect(&[other, tmpfs, cpu, memory, systemd, unified]), hybrid);
        assert_eq!(detect(&[other, v2, elsewhere]), [row(ROOT, "v2 true")]);
        assert_eq!(detect(&[other]), []);
    }

    #[test]
    fn a_mount_point_with_a_space_is_read() {
        assert_eq!(unescape(r"/a\040b\134c"), r"/a b\c");
        assert_eq!(unescape(r"/a\"), r"/a\");
    }
}
