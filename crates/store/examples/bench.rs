//! What the store costs here: `cargo run --release -p stead-store --example bench [directory]`.
//!
//! The directory (default: the system's temporary one) decides which disk is measured.

#![allow(clippy::unwrap_used)]
#![expect(clippy::print_stdout, reason = "a benchmark prints what it measured")]

use std::fs;
use std::hint::black_box;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use bytes::Bytes;
use stead_store::{Condition, Options, Revision, Store, Txn, Value};
use tokio::task::JoinSet;

const VALUE_BYTES: usize = 1500;
const PREFIX: &[u8] = b"{\"resourceVersion\":\"00000000000000000000\",";

/// As an API server's object: the committed JSON with the revision in it, made once.
#[derive(Clone)]
struct Object(Bytes);

impl Value for Object {
    fn decode(_key: &str, bytes: &Bytes, revision: Revision) -> Self {
        let mut json = Vec::with_capacity(PREFIX.len() + bytes.len());
        json.extend_from_slice(PREFIX);
        json.extend_from_slice(bytes);
        json[20..40].copy_from_slice(format!("{:020}", revision.get()).as_bytes());
        Self(json.into())
    }

    fn encode(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.0[PREFIX.len()..]);
    }
}

fn value(seed: usize) -> Bytes {
    let mut state = seed as u64 | 1;
    let bytes = (0..VALUE_BYTES).map(|_| {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        b'a' + (state >> 33) as u8 % 26
    });
    bytes.collect()
}

fn put(key: String, seed: usize) -> Txn {
    Txn::new().put(key, value(seed), Condition::Any)
}

fn quantiles(mut times: Vec<Duration>) -> String {
    times.sort();
    let at = |part: usize| times[(times.len() - 1) * part / 1000].as_secs_f64() * 1e3;
    format!(
        "p50 {:.3} ms, p90 {:.3}, p99 {:.3}, p99.9 {:.3}, max {:.3}",
        at(500),
        at(900),
        at(990),
        at(999),
        at(1000)
    )
}

/// Private and anonymous memory of this process, in bytes.
fn memory() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("RssAnon:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() * 1024
}

fn mib(bytes: u64) -> f64 {
    bytes as f64 / f64::from(1 << 20)
}

async fn one_writer(dir: &Path) {
    let store = Store::<Object>::open(Options::new(dir)).unwrap();
    let mut times = Vec::new();
    for number in 0..5000 {
        let txn = put(format!("/pods/default/web-{}", number % 100), number);
        let start = Instant::now();
        store.commit(txn).await.unwrap();
        times.push(start.elapsed());
    }
    println!("1 writer:      {}", quantiles(times));
    let metrics = store.metrics();
    println!(
        "  of that writing and syncing {:.3} ms on average",
        metrics.log_time.as_secs_f64() * 1e3 / 5000.0
    );
    store.close().await;
}

async fn many_writers(dir: &Path, writers: usize, each: usize) {
    let store = Store::<Object>::open(Options::new(dir)).unwrap();
    let values: Vec<_> = (0..writers).map(value).collect();
    let mut tasks = JoinSet::new();
    let start = Instant::now();
    for (writer, value) in values.into_iter().enumerate() {
        let store = store.clone();
        tasks.spawn(async move {
            let mut times = Vec::with_capacity(each);
            for number in 0..each {
                let key = format!("/pods/default/web-{writer}-{}", number % 10);
                let start = Instant::now();
                store
                    .commit(Txn::new().put(key, value.clone(), Condition::Any))
                    .await
                    .unwrap();
                times.push(start.elapsed());
            }
            times
        });
    }
    let times = tasks.join_all().await.concat();
    let rate = times.len() as f64 / start.elapsed().as_secs_f64();
    let metrics = store.metrics();
    let per_sync = metrics.commits as f64 / metrics.batches as f64;
    println!(
        "{writers} writers:    {rate:.0}/s, {per_sync:.1} a sync; {}",
        quantiles(times)
    );
    println!(
        "  {} checkpoints, {} failures",
        metrics.checkpoints, metrics.checkpoint_failures
    );
    store.close().await;
}

async fn watchers(dir: &Path) {
    let store = Store::<Object>::open(Options::new(dir)).unwrap();
    let mut times = Vec::new();
    let mut watcher = store.watch("/pods/", store.revision()).unwrap();
    for number in 0..1000 {
        let start = Instant::now();
        let (_, seen) = tokio::join!(
            store.commit(put("/pods/default/x".to_owned(), number)),
            watcher.next()
        );
        times.push(start.elapsed());
        seen.unwrap();
    }
    println!("write → watch: {}", quantiles(times));
    let before = memory();
    let watchers: Vec<_> = (0..1000)
        .map(|_| store.watch("/pods/", store.revision()).unwrap())
        .collect();
    println!(
        "1000 watchers: {:.0} bytes each",
        (memory() - before) as f64 / watchers.len() as f64
    );
    drop(watchers);
    fan_out(&store).await;
    store.close().await;
}

/// A write that a thousand watchers wait for, until the last has it.
async fn fan_out(store: &Store<Object>) {
    let (send, mut seen) = tokio::sync::mpsc::channel(1000);
    let mut watchers = JoinSet::new();
    for _ in 0..1000 {
        let (mut watcher, send) = (store.watch("/pods/", store.revision()).unwrap(), send.clone());
        watchers.spawn(async move {
            while let Ok(events) = watcher.next().await {
                let _ = send.send(events.len()).await;
            }
        });
    }
    let mut times = Vec::new();
    for number in 0..200 {
        let start = Instant::now();
        store
            .commit(put("/pods/default/x".to_owned(), number))
            .await
            .unwrap();
        for _ in 0..1000 {
            seen.recv().await.unwrap();
        }
        times.push(start.elapsed());
    }
    println!("  to 1000: {}", quantiles(times));
    watchers.shutdown().await;
}

async fn entries(dir: &Path) {
    let before = memory();
    let store = Store::<Object>::open(Options::new(dir)).unwrap();
    let mut tasks = JoinSet::new();
    for number in 0..10_000 {
        let store = store.clone();
        tasks.spawn(async move {
            store
                .commit(put(format!("/pods/default/web-{number:05}"), number))
                .await
                .unwrap()
        });
        if tasks.len() == 64 {
            tasks.join_next().await;
        }
    }
    while tasks.join_next().await.is_some() {}
    println!(
        "10,000 entries of {VALUE_BYTES} bytes: {:.1} MiB after writing",
        mib(memory() - before)
    );
    let start = Instant::now();
    let snapshot = store.snapshot();
    black_box(
        snapshot
            .prefix("/pods/")
            .map(|(_, entry)| entry.value.0.len())
            .sum::<usize>(),
    );
    println!("  a list of all: {:.3} ms", start.elapsed().as_secs_f64() * 1e3);
    let mut times = Vec::new();
    for number in 0..15_000 {
        let txn = put(format!("/pods/default/web-{:05}", number % 10_000), number);
        let start = Instant::now();
        store.commit(txn).await.unwrap();
        times.push(start.elapsed());
    }
    println!(
        "  updating them: {}; {} checkpoints",
        quantiles(times),
        store.metrics().checkpoints
    );
    let start = Instant::now();
    black_box(
        store
            .snapshot_at(Revision::new(store.revision().get() - 1000))
            .unwrap()
            .len(),
    );
    println!(
        "  1000 revisions back: {:.3} ms",
        start.elapsed().as_secs_f64() * 1e3
    );
    let metrics = store.metrics();
    println!(
        "  history: {} events, {:.1} MiB",
        metrics.history_events,
        mib(metrics.history_bytes)
    );
    drop(snapshot);
    store.close().await;
}

fn reopen(dir: &Path) {
    let files: u64 = fs::read_dir(dir)
        .unwrap()
        .map(|file| file.unwrap().metadata().unwrap().len())
        .sum();
    let (before, start) = (memory(), Instant::now());
    let store = Store::<Object>::open(Options::new(dir)).unwrap();
    let took = start.elapsed().as_secs_f64() * 1e3;
    let metrics = store.metrics();
    println!(
        "open {} entries, {} events from {:.1} MiB of files: {took:.1} ms, {:.1} MiB of memory",
        metrics.entries,
        metrics.history_events,
        mib(files),
        mib(memory().saturating_sub(before)),
    );
}

/// Runs one part in a process of its own, so that none counts another's memory.
fn part(name: &str, dir: &Path) {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .build()
        .unwrap();
    match name {
        "first" => {
            let start = Instant::now();
            drop(Store::<Object>::open(Options::new(dir)).unwrap());
            println!(
                "first start and end: {:.1} ms",
                start.elapsed().as_secs_f64() * 1e3
            );
        }
        "one" => runtime.block_on(async {
            tokio::spawn({
                let dir = dir.to_owned();
                async move { one_writer(&dir).await }
            })
            .await
            .unwrap()
        }),
        "many" => runtime.block_on(many_writers(dir, 64, 2000)),
        "watchers" => runtime.block_on(watchers(dir)),
        "entries" => runtime.block_on(entries(dir)),
        _ => reopen(dir),
    }
}

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if let [name, dir] = &arguments[..] {
        return part(name, Path::new(dir));
    }
    let parent = arguments.first().map_or_else(std::env::temp_dir, PathBuf::from);
    let dir = tempfile::tempdir_in(parent).unwrap();
    for name in ["first", "one", "many", "watchers", "entries", "reopen"] {
        let place = if name == "reopen" { "entries" } else { name };
        let mut command = std::process::Command::new(std::env::current_exe().unwrap());
        assert!(
            command
                .arg(name)
                .arg(dir.path().join(place))
                .status()
                .unwrap()
                .success()
        );
    }
}
