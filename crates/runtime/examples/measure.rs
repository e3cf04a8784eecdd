//! Measures what the runtime's budgets are about: times from a request to its effect, and a shim's memory.
//!
//! `cargo run --release -p stead-runtime --example measure` (as root, with busybox-static installed).

#![expect(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a program for the person who runs it"
)]

#[path = "../tests/support/mod.rs"]
#[expect(dead_code, reason = "shared with the tests")]
mod support;

use std::time::{Duration, Instant};

use stead_runtime::ExecConfig;
use stead_runtime::config::LogConfig;
use support::*;
use tokio::io::AsyncReadExt;

/// Unless the first argument says otherwise.
const ROUNDS: usize = 30;

fn main() {
    stead_runtime::become_helper();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .unwrap();
    let rounds = std::env::args()
        .nth(1)
        .map_or(ROUNDS, |rounds| rounds.parse().unwrap());
    runtime.block_on(measure(rounds));
    support::remove_images();
}

async fn measure(rounds: usize) {
    let engine = Engine::new().await;
    let mut pods = Vec::new();
    let (mut create, mut first_output, mut start, mut exec, mut remove) =
        (vec![], vec![], vec![], vec![], vec![]);
    for round in 0..rounds {
        let began = Instant::now();
        let pod = engine.pod().await;
        create.push(began.elapsed());
        let fifo = engine.dir.path().join(format!("fifo-{round}"));
        let mut main = script("c", "echo up > /out; sleep 1000");
        nix::unistd::mkfifo(&fifo, nix::sys::stat::Mode::S_IRWXU).unwrap();
        main.mounts.push(stead_runtime::config::Mount {
            target: "/out".into(),
            source: stead_runtime::config::MountSource::Host {
                path: fifo.clone(),
                propagation: stead_runtime::config::Propagation::Private,
                recursive_read_only: false,
            },
            read_only: false,
        });
        main.log = Some(LogConfig::new(engine.dir.path().join("c.log")));
        let mut output = tokio::net::unix::pipe::OpenOptions::new()
            .read_write(true)
            .open_receiver(&fifo)
            .unwrap();
        let starting = Instant::now();
        let info = pod.start_container(main).await.unwrap();
        start.push(starting.elapsed());
        output.read_exact(&mut [0]).await.unwrap();
        first_output.push(began.elapsed());
        let asked = Instant::now();
        pod.exec_sync(&info.id, ExecConfig::new(["true"]), None, 100)
            .await
            .unwrap();
        exec.push(asked.elapsed());
        pods.push(pod);
    }
    report("create_pod", create);
    report("create_pod to the first output", first_output);
    report("start_container", start);
    report("exec_sync of true", exec);
    let pss: Vec<_> = pods.iter().map(|pod| memory(pod.pid())).collect();
    println!(
        "shim memory, mean of {rounds}: {} kB PSS, {} kB private",
        mean(&pss, 0),
        mean(&pss, 1)
    );
    for pod in pods {
        let began = Instant::now();
        pod.remove().await.unwrap();
        remove.push(began.elapsed());
    }
    report("remove a pod with a running container", remove);
}

fn report(what: &str, mut times: Vec<Duration>) {
    times.sort();
    let at = |share: usize| times[times.len() * share / 100].as_secs_f64() * 1000.0;
    println!(
        "{what}: p50 {:.2} ms, p90 {:.2} ms, min {:.2} ms",
        at(50),
        at(90),
        at(0)
    );
}

fn memory(pid: i32) -> [u64; 2] {
    let rollup = std::fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).unwrap();
    let field = |name: &str| -> u64 {
        let value = |line: &str| {
            line.strip_prefix(name)?
                .split_whitespace()
                .next()?
                .parse::<u64>()
                .ok()
        };
        rollup.lines().filter_map(value).sum()
    };
    [field("Pss:"), field("Private_Clean:") + field("Private_Dirty:")]
}

fn mean(values: &[[u64; 2]], which: usize) -> u64 {
    values.iter().map(|value| value[which]).sum::<u64>() / values.len() as u64
}
