//! What could be left behind: everything on a machine, to be compared with what was there before.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::Result;

/// Everything there is on a machine that a cluster could have made, a line for each.
#[derive(Debug, Default)]
pub(crate) struct Traces(BTreeSet<String>);

/// Files that may stay: what `kubectl` and `helm` keep for themselves, and kubeconfigs, which belong to the user.
const KEPT: [&str; 4] = ["home/.kube", "home/.cache", "home/.config", "kubeconfig"];

impl Traces {
    /// Prints the network's state. IPv6 is left out: its link-local addresses and routes come and go by
    /// themselves. So is whether a link has a carrier, which the kernel notices a moment later.
    pub(crate) const NETWORK_SCRIPT: &str = r"
        ip -oneline link show | sed 's/^[0-9]*: /link /; s/NO-CARRIER,//; s/ state [A-Z]* / /'
        ip -4 -oneline address show | sed 's/^[0-9]*: /address /'
        ip -4 route show table all | sed 's/^/route /; s/ linkdown//'
        ip -4 rule show | sed 's/^/rule /'
        nft list ruleset | sed 's/^/nft /'
        ip netns list | sed 's/^/netns /'
        cd /proc/sys/net
        grep -H . ipv4/ip_forward ipv4/ip_nonlocal_bind ipv4/ip_unprivileged_port_start \
            ipv4/conf/*/forwarding ipv4/conf/*/route_localnet ipv4/conf/*/rp_filter \
            ipv4/conf/*/accept_local ipv4/conf/*/proxy_arp ipv4/conf/*/arp_ignore | sed 's/^/setting /'
    ";

    pub(crate) fn new(
        processes: Vec<String>,
        mountinfo: &str,
        network: &str,
        dirs: &[PathBuf],
    ) -> Result<Self> {
        let mut lines: BTreeSet<_> = processes.iter().map(|p| format!("process {p}")).collect();
        lines.extend(mountinfo.lines().filter_map(mount));
        lines.extend(network.lines().map(|line| line.trim_end().to_owned()));
        for dir in dirs {
            list(dir, dir, &mut lines)?;
        }
        Ok(Self(lines))
    }

    /// What is there later and was not, and what was and is no more.
    pub(crate) fn changes(&self, later: &Self) -> Vec<String> {
        let more = later.0.difference(&self.0).map(|line| format!("+ {line}"));
        let less = self.0.difference(&later.0).map(|line| format!("- {line}"));
        more.chain(less).collect()
    }
}

/// A line of `/proc/PID/mountinfo`, as `mount POINT TYPE`.
fn mount(line: &str) -> Option<String> {
    let (mount, filesystem) = line.split_once(" - ")?;
    let point = mount.split(' ').nth(4)?;
    Some(format!("mount {point} {}", filesystem.split(' ').next()?))
}

fn list(dir: &Path, base: &Path, lines: &mut BTreeSet<String>) -> Result<()> {
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        let path = entry.path();
        let name = path.strip_prefix(base).unwrap_or(&path);
        if KEPT.iter().any(|kept| name.starts_with(kept)) {
            continue;
        }
        lines.insert(format!("file {}", path.display()));
        if entry.file_type()?.is_dir() {
            list(&path, base, lines)?;
        }
    }
    Ok(())
}

/// The control groups that a machine's processes were seen in, and their parents.
#[derive(Debug, Default)]
pub(crate) struct Cgroups {
    /// Where this process is: everything on the way there was there before.
    own: BTreeSet<PathBuf>,
    seen: BTreeSet<PathBuf>,
}

impl Cgroups {
    /// Notes the groups in the text of a `/proc/PID/cgroup`.
    pub(crate) fn note(&mut self, text: &str) {
        if self.own.is_empty() {
            let own = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
            self.own = own.lines().filter_map(group).flat_map(with_parents).collect();
        }
        self.seen
            .extend(text.lines().filter_map(group).flat_map(with_parents));
    }

    /// The directories of those that are still there.
    pub(crate) fn left(&self) -> impl Iterator<Item = PathBuf> + '_ {
        let mounts = mounts();
        self.seen.difference(&self.own).flat_map(move |group| {
            let group = group.strip_prefix("/").unwrap_or(group);
            let dirs: Vec<_> = mounts.iter().map(|mount| mount.join(group)).collect();
            dirs.into_iter().filter(|dir| dir.exists())
        })
    }

    /// Removes what is left, once all processes are gone.
    pub(crate) fn remove(&self) {
        for dir in self.left().collect::<BTreeSet<_>>().iter().rev() {
            remove_tree(dir);
        }
    }
}

/// A group has only files that the kernel made, which go with it, and groups.
fn remove_tree(dir: &Path) {
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            remove_tree(&entry.path());
        }
    }
    let _ = fs::remove_dir(dir);
}

/// The group of a line such as `5:memory:/stead/pod`.
fn group(line: &str) -> Option<&Path> {
    line.splitn(3, ':').nth(2).map(Path::new)
}

fn with_parents(group: &Path) -> impl Iterator<Item = PathBuf> {
    group.ancestors().map(Path::to_owned)
}

/// Where control groups are mounted.
fn mounts() -> Vec<PathBuf> {
    let mountinfo = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    mountinfo
        .lines()
        .filter_map(mount)
        .filter_map(|line| {
            let mut words = line.split(' ').skip(1);
            let point = PathBuf::from(words.next()?);
            words.next()?.starts_with("cgroup").then_some(point)
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn changes_are_what_came_and_what_went() {
        let before = Traces(["a", "b"].map(str::to_owned).into());
        let after = Traces(["b", "c"].map(str::to_owned).into());
        assert_eq!(before.changes(&after), ["+ c", "- a"]);
        assert_eq!(before.changes(&before), Vec::<String>::new());
    }

    #[test]
    fn lines_of_the_kernel_are_understood() {
        let line = "41 31 0:38 / /sys/fs/cgroup rw,relatime shared:4 - cgroup2 cgroup2 rw";
        assert_eq!(mount(line).as_deref(), Some("mount /sys/fs/cgroup cgroup2"));
        assert_eq!(group("0::/a/b"), Some(Path::new("/a/b")));
        assert_eq!(group("3:cpu,cpuacct:/a:b"), Some(Path::new("/a:b")));
        let all: Vec<_> = with_parents(Path::new("/a/b")).collect();
        assert_eq!(all, ["/a/b", "/a", "/"].map(PathBuf::from));
    }
}
