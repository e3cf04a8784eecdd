//! How fast and how light stead is: `make bench`. Prints a table, and writes the same as JSON.
//!
//! Each measurement is clocked from the API request until a watch shows the result, on a cluster of its own in
//! namespaces of its own, as the end-to-end tests have them. What is beside it was measured in the same way on
//! a Kubernetes 1.28 with containerd, on two cores.

#![allow(clippy::print_stdout, reason = "a program whose purpose is to print")]

mod large;
mod processes;
mod sets;
mod stored;
mod writes;

use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use clap::Parser;
use serde_json::{Value, json};
use stead_tests::artifacts::{self, Image};
use stead_tests::client::Access;
use stead_tests::{Cluster, Machine};

use sets::{Hops, Shape};

/// Measures stead.
#[derive(Parser)]
struct Options {
    /// How often each start and each set is measured; the median counts.
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..))]
    runs: u32,
    /// Print for each replica when a watch showed what of it.
    #[arg(long)]
    trace: bool,
    /// Only what there is to measure with many objects.
    #[arg(long)]
    many: bool,
    /// Where to write the figures.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
}

/// A figure, its goal, and what Kubernetes 1.28 needs.
struct Row {
    what: &'static str,
    found: f64,
    unit: &'static str,
    goal: f64,
    kubernetes: Option<f64>,
}

fn main() -> Result<()> {
    let options = Options::parse();
    artifacts::check()?;
    let rows = match options.many {
        true => with_many_objects(),
        false => measure(&options),
    };
    artifacts::clean()?;
    let rows = rows?;
    print(&rows);
    if let Some(path) = &options.json {
        let json = serde_json::to_string_pretty(&rows.iter().map(Row::json).collect::<Vec<_>>())?;
        std::fs::write(path, json + "\n").with_context(|| format!("write {path:?}"))?;
    }
    Ok(())
}

fn measure(options: &Options) -> Result<Vec<Row>> {
    let row = |what, found, unit, goal, kubernetes| Row {
        what,
        found,
        unit,
        goal,
        kubernetes,
    };
    let mut rows = Vec::new();
    let starts = (0..options.runs).map(|_| first_start()).collect::<Result<_>>()?;
    rows.push(row(
        "first start, until the node is Ready",
        median(starts),
        "s",
        0.3,
        Some(4.7),
    ));

    let machine = Machine::new()?;
    let cluster = Cluster::new(&machine, "data")?;
    cluster.up()?;
    cluster.load(&Image::new("tool:1"))?;
    let access = Access::read(cluster.kubeconfig())?;
    // Idle is what nothing has been asked of for a while.
    std::thread::sleep(Duration::from_secs(10));
    let idle = processes::pss(&cluster, cluster.server_pid()?)?;
    rows.push(row(
        "server idle, memory (PSS)",
        mib(idle),
        "MiB",
        25.0,
        Some(594.0),
    ));

    let shape = |name, replicas, parallel, claims| Shape {
        name,
        replicas,
        parallel,
        claims,
    };
    for (what, shape, goal, kubernetes) in [
        (
            "3 replicas OrderedReady, a probe each",
            shape("ordered", 3, false, false),
            0.25,
            Some(3.1),
        ),
        (
            "the same, each with a claim",
            shape("claims", 3, false, true),
            0.4,
            None,
        ),
    ] {
        let mut times = Vec::new();
        for _ in 0..options.runs {
            let (took, hops) = inside(&machine, || sets::create(&access, shape))?;
            trace(options, shape.name, &hops);
            times.push(took.as_secs_f64());
            inside(&machine, || sets::delete(&access, shape))?;
        }
        rows.push(row(what, median(times), "s", goal, kubernetes));
    }

    let probed = shape("probed", 3, true, false);
    inside(&machine, || sets::create(&access, probed))?;
    let percent = processes::cpu(&cluster, Duration::from_secs(30))?;
    rows.push(row(
        "idle with 3 probed pods, of a core",
        percent,
        "%",
        0.5,
        Some(7.5),
    ));
    inside(&machine, || sets::delete(&access, probed))?;

    let many = shape("many", 50, true, false);
    let (took, hops) = inside(&machine, || sets::create(&access, many))?;
    trace(options, many.name, &hops);
    rows.push(row(
        "50 replicas Parallel",
        took.as_secs_f64(),
        "s",
        1.0,
        Some(10.6),
    ));
    let (_, shims) = processes::own(&cluster)?;
    let shares = shims
        .iter()
        .map(|pid| processes::pss(&cluster, *pid))
        .collect::<Result<Vec<_>>>()?;
    let share = shares.iter().sum::<u64>() / shares.len().max(1) as u64;
    rows.push(row(
        "a pod's shim, memory (PSS), at 50 pods",
        mib(share),
        "MiB",
        0.7,
        Some(2.9),
    ));
    let took = inside(&machine, || sets::delete(&access, many))?;
    rows.push(row(
        "delete the 50 (SIGTERM ignored, grace 1 s)",
        took.as_secs_f64(),
        "s",
        1.5,
        Some(9.9),
    ));

    let alone = inside(&machine, || writes::alone(&access, 1000))?;
    rows.push(row(
        "durable create, one client, p50",
        alone.as_secs_f64() * 1000.0,
        "ms",
        1.0,
        None,
    ));
    let disk = writes::sync(cluster.data_dir(), 1000)?;
    rows.push(row(
        "the same, above the disk's own sync of 4 KiB",
        alone.saturating_sub(disk).as_secs_f64() * 1000.0,
        "ms",
        2.0,
        None,
    ));
    let rate = inside(&machine, || writes::together(&access, 64, Duration::from_secs(5)))?;
    rows.push(row(
        "durable creates a second, 64 clients",
        rate,
        "/s",
        5000.0,
        None,
    ));
    for (replicas, look, goal, made) in [
        (10, "a look at a set of 10 replicas", 2.0, None),
        (100, "a look at a set of 100 replicas", 2.0, None),
        (
            1000,
            "a look at a set of 1,000 replicas",
            2.0,
            Some("1,000 replicas Parallel, until all pods are made"),
        ),
        (5000, "a look at a set of 5,000 replicas", 2.0, None),
    ] {
        let found = inside(&machine, || large::set(&access, replicas))?;
        if let Some(made) = made {
            rows.push(row(made, found.created.as_secs_f64(), "s", 2.0, None));
            let percent = processes::cpu(&cluster, Duration::from_secs(20))?;
            rows.push(row("idle with them, of a core", percent, "%", 0.5, None));
        }
        rows.push(row(look, found.look.as_secs_f64() * 1000.0, "ms", goal, None));
    }
    cluster.delete()?;
    machine.check_nothing_is_left()?;
    rows.extend(with_many_objects()?);
    Ok(rows)
}

/// Of a cluster with 10,000 pods, and one with 1,000 watchers.
fn with_many_objects() -> Result<Vec<Row>> {
    const PODS: usize = 10_000;
    const WATCHERS: usize = 1000;
    let machine = Machine::new()?;
    let cluster = Cluster::new(&machine, "data")?;
    cluster.up()?;
    let access = Access::read(cluster.kubeconfig())?;
    let memory = || processes::pss(&cluster, cluster.server_pid()?);
    let empty = memory()?;
    inside(&machine, || stored::fill(&access, PODS))?;
    // What was only needed to make them is given back within a minute.
    std::thread::sleep(Duration::from_secs(65));
    let full = memory()?;
    let get = inside(&machine, || stored::get(&access, 2000))?;
    let list = inside(&machine, || stored::list(&access, 9, PODS))?;
    let told = inside(&machine, || stored::tell(&access, WATCHERS, 9))?;
    cluster.delete()?;
    machine.check_nothing_is_left()?;
    let row = |what, found, unit, goal| Row {
        what,
        found,
        unit,
        goal,
        kubernetes: None,
    };
    let ms = |time: Duration| time.as_secs_f64() * 1000.0;
    let share = full.saturating_sub(empty) as f64 / PODS as f64;
    Ok(vec![
        row("get of one of 10,000 pods, p50", ms(get), "ms", 0.3),
        row("list of 10,000 pods", ms(list), "ms", 150.0),
        row(
            "1,000 watchers, until the last has a change",
            ms(told),
            "ms",
            50.0,
        ),
        row("memory (PSS) of a stored pod, of 10,000", share, "KiB", 12.0),
        row("server with 10,000 pods, memory (PSS)", mib(full), "MiB", 200.0),
    ])
}

/// From the command's start until it returns, which it does when the node is Ready.
fn first_start() -> Result<f64> {
    let machine = Machine::new()?;
    let cluster = Cluster::new(&machine, "data")?;
    let begin = Instant::now();
    cluster.up()?;
    let took = begin.elapsed().as_secs_f64();
    cluster.delete()?;
    Ok(took)
}

/// Runs a client in a machine's network.
fn inside<T: Send, F: Future<Output = Result<T>>>(
    machine: &Machine,
    client: impl FnOnce() -> F + Send,
) -> Result<T> {
    machine.inside(|| {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        runtime.block_on(client())
    })
}

fn trace(options: &Options, set: &str, hops: &std::collections::BTreeMap<String, Hops>) {
    if !options.trace {
        return;
    }
    println!("{set}: when a watch showed what, in ms after the request");
    println!(
        "  {:<12}{}",
        "pod",
        Hops::NAMES.map(|name| format!("{name:>11}")).concat()
    );
    for (pod, hops) in hops {
        let time = |time: Option<Duration>| {
            time.map_or("-".to_owned(), |time| format!("{:.1}", time.as_secs_f64() * 1e3))
        };
        println!(
            "  {pod:<12}{}",
            hops.values().map(|at| format!("{:>11}", time(at))).concat()
        );
    }
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

fn mib(kib: u64) -> f64 {
    kib as f64 / 1024.0
}

fn print(rows: &[Row]) {
    println!("| work | stead | goal | Kubernetes 1.28 | times |");
    println!("|---|---|---|---|---|");
    for row in rows {
        let Row {
            what,
            found,
            unit,
            goal,
            kubernetes,
        } = row;
        let (theirs, times) = match kubernetes {
            Some(theirs) => (format!("{theirs} {unit}"), format!("{:.0}", theirs / found)),
            None => Default::default(),
        };
        println!("| {what} | {found:.2} {unit} | {goal} {unit} | {theirs} | {times} |");
    }
}

impl Row {
    fn json(&self) -> Value {
        json!({"work": self.what, "unit": self.unit, "stead": self.found, "goal": self.goal, "kubernetes": self.kubernetes})
    }
}
