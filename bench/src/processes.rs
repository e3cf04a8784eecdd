//! What a cluster's processes use, as the kernel tells it.

use std::fs;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use serde_json::Value;
use stead_tests::Cluster;

/// A process's share of memory, in KiB: what it has alone, and its part of what it has with others.
pub(crate) fn pss(cluster: &Cluster, pid: u64) -> Result<u64> {
    let path = cluster.machine.root().join(format!("proc/{pid}/smaps_rollup"));
    let text = fs::read_to_string(&path).with_context(|| format!("read {path:?}"))?;
    let line = text.lines().find_map(|line| line.strip_prefix("Pss:"));
    let number = line.and_then(|line| line.split_whitespace().next());
    number.context("no Pss")?.parse().context("read Pss")
}

/// The server and the shims.
pub(crate) fn own(cluster: &Cluster) -> Result<(u64, Vec<u64>)> {
    let status = cluster.status()?;
    let server = status
        .pointer("/server/pid")
        .and_then(Value::as_u64)
        .context("no server")?;
    let pods = status
        .pointer("/pods")
        .and_then(Value::as_array)
        .context("no pods")?;
    let shims = pods
        .iter()
        .filter_map(|pod| pod.pointer("/shimPid").and_then(Value::as_u64));
    Ok((server, shims.collect()))
}

/// How much of a processor the server and the shims use, in percent, over a while in which nothing is asked of them.
pub(crate) fn cpu(cluster: &Cluster, time: Duration) -> Result<f64> {
    let (server, mut pids) = own(cluster)?;
    pids.push(server);
    let used = || {
        pids.iter()
            .map(|pid| cpu_time(cluster, *pid))
            .sum::<Result<Duration>>()
    };
    let (begin, before) = (Instant::now(), used()?);
    // The time itself is what is measured over.
    std::thread::sleep(time);
    Ok((used()? - before).as_secs_f64() / begin.elapsed().as_secs_f64() * 100.0)
}

/// A process's time on processors, in all its threads, also those that have ended.
fn cpu_time(cluster: &Cluster, pid: u64) -> Result<Duration> {
    let path = cluster.machine.root().join(format!("proc/{pid}/stat"));
    let text = fs::read_to_string(&path).with_context(|| format!("read {path:?}"))?;
    // The name, in brackets, may hold anything.
    let (_, fields) = text.rsplit_once(") ").context("no name")?;
    let fields: Vec<_> = fields.split(' ').collect();
    let ticks = |field: usize| fields.get(field).and_then(|field| field.parse::<u64>().ok());
    let (user, system) = (
        ticks(11).context("no user time")?,
        ticks(12).context("no system time")?,
    );
    // Linux counts in hundredths of a second here, whatever the kernel's own tick is.
    Ok(Duration::from_millis((user + system) * 10))
}
