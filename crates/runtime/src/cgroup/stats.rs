//! What a cgroup has used.

use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;

use super::CgroupError;
use super::layout::Hierarchy;

/// What the processes of a container or of a pod have used.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Stats {
    /// Processor time since the cgroup was made.
    pub cpu_nanoseconds: u64,
    /// Memory charged to it now, page cache included.
    pub memory_bytes: u64,
    /// The same without page cache that can be dropped at once; what the kubelet calls the working set.
    pub working_set_bytes: u64,
    /// Anonymous memory.
    pub rss_bytes: u64,
    /// Page faults since the cgroup was made.
    pub page_faults: u64,
    /// Those of them that had to read from a disk.
    pub major_page_faults: u64,
    /// Processes and threads now.
    pub pids: u64,
}

pub(super) fn add(stats: &mut Stats, hierarchy: &Hierarchy, dir: &Path) -> Result<(), CgroupError> {
    let read = |name: &str| {
        let path = dir.join(name);
        fs::read_to_string(&path).map_err(CgroupError::file("read", &path))
    };
    match hierarchy {
        Hierarchy::V2 {
            with_controllers: true,
            ..
        } => {
            stats.cpu_nanoseconds = value(&read("cpu.stat")?, "usage_usec") * 1000;
            let names = ["anon", "inactive_file"];
            memory(
                stats,
                number(&read("memory.current")?),
                &read("memory.stat")?,
                names,
            );
            stats.pids = number(&read("pids.current")?);
        }
        Hierarchy::V2 { .. } => {}
        Hierarchy::V1 { .. } => {
            if hierarchy.has("cpuacct") {
                stats.cpu_nanoseconds = number(&read("cpuacct.usage")?);
            }
            if hierarchy.has("memory") {
                let names = ["total_rss", "total_inactive_file"];
                memory(
                    stats,
                    number(&read("memory.usage_in_bytes")?),
                    &read("memory.stat")?,
                    names,
                );
            }
            if hierarchy.has("pids") {
                stats.pids = number(&read("pids.current")?);
            }
        }
    }
    Ok(())
}

fn memory(stats: &mut Stats, usage: u64, detail: &str, [anonymous, inactive]: [&str; 2]) {
    let prefix = if anonymous.starts_with("total_") {
        "total_"
    } else {
        ""
    };
    stats.memory_bytes = usage;
    stats.working_set_bytes = usage.saturating_sub(value(detail, inactive));
    stats.rss_bytes = value(detail, anonymous);
    stats.page_faults = value(detail, &format!("{prefix}pgfault"));
    stats.major_page_faults = value(detail, &format!("{prefix}pgmajfault"));
}

fn number(text: &str) -> u64 {
    text.trim().parse().unwrap_or(0)
}

/// The value of `key` in a file of `key value` lines.
fn value(text: &str, key: &str) -> u64 {
    let of_key = |line: &str| {
        line.split_once(' ')
            .filter(|(k, _)| *k == key)
            .map(|(_, v)| number(v))
    };
    text.lines().find_map(of_key).unwrap_or(0)
}

/// How often the OOM killer struck, from `memory.events` (v2) or `memory.oom_control` (v1). A cgroup that
/// has gone counts as none.
pub(crate) fn oom_kills(file: &OwnedFd) -> u64 {
    let mut buffer = [0; 512];
    let length = rustix::io::pread(file, &mut buffer, 0).unwrap_or(0);
    io::read_to_string(&buffer[..length]).map_or(0, |text| value(&text, "oom_kill"))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn both_versions_give_the_same_figures() {
        let dir = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| fs::write(dir.path().join(name), text).unwrap();
        write("cpu.stat", "usage_usec 1500\nuser_usec 1\n");
        write("memory.current", "9000\n");
        write("pids.current", "3\n");
        write(
            "memory.stat",
            "anon 4000\nfile 9\ninactive_file 1000\npgfault 7\npgmajfault 2\n",
        );
        let expected = Stats {
            cpu_nanoseconds: 1_500_000,
            memory_bytes: 9000,
            working_set_bytes: 8000,
            rss_bytes: 4000,
            page_faults: 7,
            major_page_faults: 2,
            pids: 3,
        };
        let v2 = Hierarchy::V2 {
            mount: dir.path().into(),
            with_controllers: true,
        };
        let mut stats = Stats::default();
        add(&mut stats, &v2, dir.path()).unwrap();
        assert_eq!(stats, expected);

        write("cpuacct.usage", "1500000\n");
        write("memory.usage_in_bytes", "9000\n");
        let detail = "rss 1\ntotal_rss 4000\ntotal_inactive_file 1000\ntotal_pgfault 7\ntotal_pgmajfault 2\n";
        write("memory.stat", detail);
        let controllers = ["cpuacct", "memory", "pids"].map(str::to_owned).to_vec();
        let v1 = Hierarchy::V1 {
            mount: dir.path().into(),
            name: "all".into(),
            controllers,
        };
        let mut stats = Stats::default();
        add(&mut stats, &v1, dir.path()).unwrap();
        assert_eq!(stats, expected);
    }

    #[test]
    fn the_count_of_oom_kills_is_not_mistaken_for_its_neighbours() {
        let check = |text: &str, expected| {
            let dir = tempfile::tempdir().unwrap();
            let path = dir.path().join("events");
            fs::write(&path, text).unwrap();
            assert_eq!(oom_kills(&fs::File::open(path).unwrap().into()), expected);
        };
        check("oom_kill_disable 0\nunder_oom 0\noom_kill 2\n", 2);
        check("low 0\noom 5\noom_kill 1\noom_group_kill 1\n", 1);
        check("", 0);
    }
}
