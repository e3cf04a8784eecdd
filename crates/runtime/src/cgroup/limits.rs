//! Which value goes into which file, for v1 and for v2. Pure.

use super::layout::Hierarchy;
use crate::config::Resources;

/// The kernel's period for processor quotas, in microseconds.
const DEFAULT_PERIOD_US: u64 = 100_000;

/// A file in a cgroup's directory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct LimitFile {
    pub(super) name: &'static str,
    /// May not be there, and nothing is lost then.
    pub(super) optional: bool,
}

const fn file(name: &'static str) -> LimitFile {
    LimitFile {
        name,
        optional: false,
    }
}

const fn optional(name: &'static str) -> LimitFile {
    LimitFile { name, optional: true }
}

/// What to write for `resources` in a hierarchy, in this order.
pub(super) fn files(hierarchy: &Hierarchy, resources: &Resources) -> Vec<(LimitFile, String)> {
    let mut files = Vec::new();
    match hierarchy {
        Hierarchy::V2 {
            with_controllers: true,
            ..
        } => {
            cpu_v2(resources, &mut files);
            memory_v2(resources, &mut files);
            pids(resources, &mut files);
        }
        Hierarchy::V2 { .. } => {}
        Hierarchy::V1 { .. } => {
            if hierarchy.has("cpu") {
                cpu_v1(resources, &mut files);
            }
            if hierarchy.has("memory") {
                memory_v1(resources, &mut files);
            }
            if hierarchy.has("pids") {
                pids(resources, &mut files);
            }
        }
    }
    files
}

fn cpu_v1(resources: &Resources, files: &mut Vec<(LimitFile, String)>) {
    if let Some(shares) = resources.cpu_shares {
        files.push((file("cpu.shares"), shares.max(2).to_string()));
    }
    if let Some(quota) = resources.cpu_quota_us {
        let period = resources.cpu_period_us.unwrap_or(DEFAULT_PERIOD_US);
        // Without this a quota set before could be out of proportion to the new period.
        files.push((file("cpu.cfs_quota_us"), "-1".to_owned()));
        files.push((file("cpu.cfs_period_us"), period.to_string()));
        files.push((file("cpu.cfs_quota_us"), quota_v1(quota)));
    }
}

fn quota_v1(quota: i64) -> String {
    // The kernel refuses less than a millisecond; zero and below mean no limit.
    if quota <= 0 {
        "-1".to_owned()
    } else {
        quota.max(1000).to_string()
    }
}

fn cpu_v2(resources: &Resources, files: &mut Vec<(LimitFile, String)>) {
    if let Some(shares) = resources.cpu_shares {
        files.push((file("cpu.weight"), weight(shares).to_string()));
    }
    if let Some(quota) = resources.cpu_quota_us {
        let period = resources.cpu_period_us.unwrap_or(DEFAULT_PERIOD_US);
        let quota = if quota <= 0 {
            "max".to_owned()
        } else {
            quota.max(1000).to_string()
        };
        files.push((file("cpu.max"), format!("{quota} {period}")));
    }
}

/// From 2..=262144 shares to a weight of 1..=10000, so that 1024 shares are the default weight of 100, as
/// runc and crun do since 2025 (<https://github.com/opencontainers/cgroups/pull/20>).
fn weight(shares: u64) -> u64 {
    if shares <= 2 {
        return 1;
    }
    if shares >= 262_144 {
        return 10_000;
    }
    #[expect(clippy::cast_precision_loss, reason = "the number is far below 2^52")]
    let log = (shares as f64).log2();
    let weight = 10f64.powf((log * log + 125.0 * log) / 612.0 - 7.0 / 34.0).ceil();
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "between 1 and 10000"
    )]
    let weight = weight as u64;
    weight.clamp(1, 10_000)
}

/// The limit with swap must never be below the one without, so it is lifted, and set again at the end.
fn memory_v1(resources: &Resources, files: &mut Vec<(LimitFile, String)>) {
    if let Some(limit) = resources.memory_limit_bytes {
        let limit = limit.to_string();
        files.push((optional("memory.memsw.limit_in_bytes"), "-1".to_owned()));
        files.push((file("memory.limit_in_bytes"), limit.clone()));
        files.push((optional("memory.memsw.limit_in_bytes"), limit));
    }
}

fn memory_v2(resources: &Resources, files: &mut Vec<(LimitFile, String)>) {
    if let Some(limit) = resources.memory_limit_bytes {
        files.push((file("memory.max"), limit.to_string()));
        files.push((optional("memory.swap.max"), "0".to_owned()));
        // All of a container or nothing of it, as the kubelet asks of containerd.
        files.push((optional("memory.oom.group"), "1".to_owned()));
    }
}

fn pids(resources: &Resources, files: &mut Vec<(LimitFile, String)>) {
    if let Some(limit) = resources.pids_limit {
        files.push((file("pids.max"), limit.to_string()));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(hierarchy: &Hierarchy, resources: &Resources) -> Vec<String> {
        files(hierarchy, resources)
            .into_iter()
            .map(|(file, value)| format!("{}={value}", file.name))
            .collect()
    }

    fn v1(controllers: &[&str]) -> Hierarchy {
        let controllers = controllers.iter().map(|&c| c.to_owned()).collect();
        Hierarchy::V1 {
            mount: "/x".into(),
            name: "x".into(),
            controllers,
        }
    }

    const V2: Hierarchy = Hierarchy::V2 {
        mount: std::path::PathBuf::new(),
        with_controllers: true,
    };

    #[test]
    fn limits_are_written_where_their_controller_is() {
        let all = Resources {
            cpu_shares: Some(102),
            cpu_quota_us: Some(50_000),
            cpu_period_us: None,
            memory_limit_bytes: Some(64 << 20),
            pids_limit: Some(100),
        };
        assert_eq!(
            written(&v1(&["cpu", "cpuacct"]), &all),
            [
                "cpu.shares=102",
                "cpu.cfs_quota_us=-1",
                "cpu.cfs_period_us=100000",
                "cpu.cfs_quota_us=50000"
            ]
        );
        assert_eq!(
            written(&v1(&["memory"]), &all),
            [
                "memory.memsw.limit_in_bytes=-1",
                "memory.limit_in_bytes=67108864",
                "memory.memsw.limit_in_bytes=67108864"
            ]
        );
        assert_eq!(
            written(&V2, &all),
            [
                "cpu.weight=17",
                "cpu.max=50000 100000",
                "memory.max=67108864",
                "memory.swap.max=0",
                "memory.oom.group=1",
                "pids.max=100"
            ]
        );
        assert!(written(&V2, &Resources::default()).is_empty());
        let lifted = Resources {
            cpu_quota_us: Some(-1),
            ..Resources::default()
        };
        assert_eq!(written(&V2, &lifted), ["cpu.max=max 100000"]);
    }

    #[test]
    fn shares_become_weights_as_with_runc() {
        for (shares, expected) in [
            (2, 1),
            (102, 17),
            (1024, 100),
            (2048, 174),
            (262_144, 10_000),
            (0, 1),
        ] {
            assert_eq!(weight(shares), expected, "{shares} shares");
        }
    }
}
