//! A process that writes is killed at any moment, again and again; whatever it had acknowledged
//! is found by the next. `STEAD_KILL_ROUNDS` sets how often.

#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::time::Duration;

use bytes::Bytes;
use stead_store::{Condition, OpenError, Options, Revision, Store, Txn};

/// Tells the test binary to be the writer, and where.
const DIR: &str = "STEAD_STORE_TEST_WRITER_DIR";
const WRITERS: u64 = 4;
/// Keys of each writer, written one after another.
const SLOTS: u64 = 20;
/// How many times it is killed if nothing else is asked for.
const ROUNDS: u64 = 200;

fn options(dir: &Path) -> Options {
    // Small, so that there are checkpoints to be killed in.
    Options {
        checkpoint_bytes: 64 << 10,
        ..Options::new(dir)
    }
}

fn key(writer: u64, number: u64) -> String {
    format!("/w{writer}/{}", number % SLOTS)
}

fn value(number: u64) -> Vec<u8> {
    let mut value = vec![b'x'; 8 + (number * 37 % 1500) as usize];
    value[..8].copy_from_slice(&number.to_le_bytes());
    value
}

/// The number in each slot of a writer, which must be there as it was written.
fn slots(store: &Store<Bytes>, writer: u64) -> BTreeMap<String, (u64, Revision)> {
    let snapshot = store.snapshot();
    let entries = snapshot
        .prefix("/w")
        .filter(|(key, _)| key.starts_with(&format!("/w{writer}/")));
    let slots = entries.map(|(key, entry)| {
        let number = u64::from_le_bytes(entry.value[..8].try_into().unwrap());
        assert_eq!(entry.value, value(number), "{key}");
        (key.to_string(), (number, entry.mod_revision))
    });
    slots.collect()
}

/// The process that is killed: it writes, and says so when a write is acknowledged.
#[test]
fn writer_process() {
    let Some(dir) = std::env::var_os(DIR) else { return };
    let store = Store::<Bytes>::open(options(Path::new(&dir))).unwrap();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .build()
        .unwrap();
    runtime.block_on(async {
        let mut writers = tokio::task::JoinSet::new();
        for writer in 0..WRITERS {
            let start = slots(&store, writer)
                .values()
                .map(|(number, _)| number + 1)
                .max()
                .unwrap_or(0);
            let store = store.clone();
            writers.spawn(async move {
                for number in start.. {
                    let txn = Txn::new().put(key(writer, number), value(number), Condition::Any);
                    let committed = store.commit(txn).await.unwrap();
                    let line = format!("ack {writer} {number} {}\n", committed.revision);
                    std::io::stdout().write_all(line.as_bytes()).unwrap();
                }
            });
        }
        writers.join_all().await;
    });
}

/// Kills and reaps its process however the test ends.
struct Writer(Child);

impl Writer {
    fn spawn(dir: &Path) -> Self {
        let mut command = Command::new(std::env::current_exe().unwrap());
        command
            .args(["--exact", "writer_process", "--nocapture"])
            .env(DIR, dir);
        Self(command.stdout(Stdio::piped()).spawn().unwrap())
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }
}

/// Lets a writer run for a while and kills it. Returns what it acknowledged: for each writer the
/// numbers and revisions, in order.
fn run_and_kill(dir: &Path, run: Duration) -> BTreeMap<u64, Vec<(u64, Revision)>> {
    let mut writer = Writer::spawn(dir);
    let output = BufReader::new(writer.0.stdout.take().unwrap());
    let (send, lines) = mpsc::channel();
    let reader = std::thread::spawn(move || {
        for line in output.split(b'\n').map_while(Result::ok) {
            if send.send(String::from_utf8_lossy(&line).into_owned()).is_err() {
                break;
            }
        }
    });
    let first = loop {
        // The test harness prints something first.
        let line = lines
            .recv_timeout(Duration::from_secs(20))
            .expect("the writer acknowledges something");
        if let Some(ack) = Ack::parse(&line) {
            break ack;
        }
    };
    assert!(matches!(
        Store::<Bytes>::open(options(dir)),
        Err(OpenError::Locked { .. })
    ));
    std::thread::sleep(run);
    drop(writer);
    reader.join().unwrap();
    // A line is written at once, so there are no halves of lines.
    let mut acknowledged: BTreeMap<u64, Vec<(u64, Revision)>> = BTreeMap::new();
    for ack in [first]
        .into_iter()
        .chain(lines.iter().filter_map(|line| Ack::parse(&line)))
    {
        acknowledged
            .entry(ack.writer)
            .or_default()
            .push((ack.number, ack.revision));
    }
    acknowledged
}

/// What a writer says of a write.
struct Ack {
    writer: u64,
    number: u64,
    revision: Revision,
}

impl Ack {
    fn parse(line: &str) -> Option<Self> {
        let mut numbers = line
            .split_once("ack ")?
            .1
            .split(' ')
            .map(|number| number.parse().unwrap());
        let (writer, number, revision) = (numbers.next()?, numbers.next()?, numbers.next()?);
        Some(Self {
            writer,
            number,
            revision: revision.into(),
        })
    }
}

#[test]
fn a_killed_process_loses_nothing_it_acknowledged() {
    let dir = tempfile::tempdir().unwrap();
    let mut highest = Revision::ZERO;
    let mut checkpoints = 0;
    let asked = std::env::var("STEAD_KILL_ROUNDS").ok();
    let rounds = asked.map_or(ROUNDS, |rounds| rounds.parse().unwrap());
    for round in 0..rounds {
        let run = Duration::from_millis(round * 7919 % 41);
        let acknowledged = run_and_kill(dir.path(), run);
        let store = Store::<Bytes>::open(options(dir.path())).unwrap();
        assert!(store.revision() >= highest, "round {round}");
        highest = store.revision();
        for (writer, numbers) in acknowledged {
            check_writer(&store, writer, &numbers);
        }
        drop(store);
        let files = std::fs::read_dir(dir.path()).unwrap();
        checkpoints += files
            .filter(|f| {
                f.as_ref()
                    .unwrap()
                    .file_name()
                    .to_string_lossy()
                    .contains("checkpoint")
            })
            .count();
    }
    assert!(checkpoints > 0, "no checkpoint was ever written");
}

/// Each slot holds the number acknowledged last, or the one that was being written.
fn check_writer(store: &Store<Bytes>, writer: u64, acknowledged: &[(u64, Revision)]) {
    let found = slots(store, writer);
    let &(last, _) = acknowledged.last().unwrap();
    let newest: BTreeMap<_, _> = acknowledged
        .iter()
        .map(|&(number, at)| (key(writer, number), (number, at)))
        .collect();
    for (key, expected) in newest {
        let slot = found[&key];
        assert!(
            slot == expected || slot.0 == last + 1,
            "{key} is {slot:?}, not {expected:?}"
        );
    }
}
