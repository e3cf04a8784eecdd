//! Everything a cluster has on its machine for its pods, a line for each thing: to be compared, so that what
//! is left of pods that are gone is found while the cluster still runs, as well as after its end.

use std::collections::BTreeSet;

use anyhow::{Result, ensure};
use stead_tests::{Cluster, eventually};

/// What there is of the kernel's and in `/run`, and what a server keeps of pods.
#[derive(Debug)]
pub(crate) struct Footprint {
    lines: BTreeSet<String>,
    parts: &'static [&'static str],
}

/// `$1` is the name of the cluster's control group, the others are directories.
const SCRIPT: &str = r#"
cut -d' ' -f5 /proc/self/mountinfo | sed 's/^/mount /'
ip -oneline link show | sed 's/^[0-9]*: \([^:]*\):.*/link \1/'
ip -4 -oneline address show | sed 's/^[0-9]*: /address /'
ip -4 route show table all | sed 's/^/route /'
nft list ruleset | sed 's/^/nft /'
find /sys/fs/cgroup -type d -path "*/$1/*" | sed 's/^/cgroup /'
shift
for dir; do [ ! -e "$dir" ] || find "$dir" -mindepth 1 | sed 's/^/file /'; done
:
"#;

impl Footprint {
    /// Processes, mounts, links, addresses, routes, rules, control groups, and the files for pods.
    pub(crate) fn of(cluster: &Cluster) -> Result<Self> {
        Self::of_parts(cluster, &["volumes", "runtime", "kubelet/pods", "kubelet/logs"])
    }

    /// The same without what is kept in the data directory.
    pub(crate) fn in_the_kernel(cluster: &Cluster) -> Result<Self> {
        Self::of_parts(cluster, &[])
    }

    /// The same with these parts of the data directory.
    pub(crate) fn of_parts(cluster: &Cluster, parts: &'static [&'static str]) -> Result<Self> {
        // Those of this very look come later.
        let processes = cluster.machine.processes()?;
        let command = |process: &String| {
            let command = process.split_once(' ')?.1;
            (!command.ends_with(']')).then(|| format!("process {command}"))
        };
        let mut lines: BTreeSet<_> = processes.iter().filter_map(command).collect();
        let data = cluster.data_dir().display();
        let dirs: Vec<_> = parts.iter().map(|part| format!("{data}/{part}")).collect();
        let line = format!("sh -s {} {} /run", name(cluster)?, dirs.join(" "));
        let said = cluster.machine.run(&line).stdin(SCRIPT).ok()?;
        lines.extend(said.lines().map(|line| line.trim_end().to_owned()));
        Ok(Self { lines, parts })
    }

    /// Are there files that were not there?
    pub(crate) fn has_more_files_than(&self, before: &Self) -> bool {
        let mut more = self.lines.difference(&before.lines);
        more.any(|line| line.starts_with("file "))
    }

    /// Waits until there is nothing but what there was.
    pub(crate) fn returns(&self, cluster: &Cluster) -> Result<()> {
        eventually("nothing is left of what was removed", || {
            let now = Self::of_parts(cluster, self.parts)?;
            let more = now.lines.difference(&self.lines).map(|line| format!("+ {line}"));
            let less = self.lines.difference(&now.lines).map(|line| format!("- {line}"));
            let changes: Vec<_> = more.chain(less).collect();
            ensure!(changes.is_empty(), "{}", changes.join("\n"));
            Ok(())
        })
    }
}

/// What the cluster is called, in its kubeconfig and in the kernel.
fn name(cluster: &Cluster) -> Result<String> {
    let name = cluster.kubectl("config current-context").ok()?;
    Ok(name.trim().to_owned())
}
