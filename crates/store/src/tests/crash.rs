//! Power cuts: at every byte of a short run, and with unsynced writes lost or out of order.

use super::*;
use crate::disk::sim::{Act, Random};

/// A run of transactions that brings up segments, three checkpoints, updates and deletions; and what
/// the store held after each of them.
struct Run {
    disk: SimDisk,
    options: Options,
    expected: Expected,
}

impl Run {
    fn new(steps: usize, options: Options) -> Self {
        let disk = SimDisk::new(Image::new());
        let mut run = Self {
            disk,
            options,
            expected: Expected::new(),
        };
        run.go(steps);
        run
    }

    fn go(&mut self, steps: usize) {
        let store = open_with(&self.disk, &self.options).unwrap();
        let mut random = Random::new(steps as u64);
        block_on(async {
            let mut step = 0;
            while step < steps || self.checkpoints() < 3 {
                if step >= steps {
                    std::thread::yield_now();
                }
                self.step(&store, step, &mut random).await;
                step += 1;
            }
            store.close().await;
        });
    }

    /// Checkpoints written so far; their thread may be slow.
    fn checkpoints(&self) -> usize {
        let is_checkpoint = |act: &&Act| matches!(act, Act::Rename(_, _, to) if to.starts_with("checkpoint"));
        self.disk.acts().iter().filter(is_checkpoint).count()
    }

    /// Reads while others write. What is shown must not be lost, as what is acknowledged must not.
    async fn look(&self, store: &Store<Bytes>) {
        let mut shown = store.revision();
        for _ in 0..50 {
            let now = store.revision();
            if now != std::mem::replace(&mut shown, now) {
                self.disk.mark(now.get());
            }
            tokio::task::yield_now().await;
        }
    }

    /// Three writers at once, one of which conflicts now and then.
    async fn step(&mut self, store: &Store<Bytes>, step: usize, random: &mut Random) {
        let mut txn = || {
            let key = format!("/a/{}", random.below(6));
            let value = vec![b'a' + (step % 26) as u8; random.below(60)];
            match random.below(6) {
                0 => Txn::new().delete(key, Condition::Any),
                1 => Txn::new().put(key, value, Condition::Absent),
                2 => put(&key, value.clone()).put("/b/both", value, Condition::Any),
                _ => put(&key, value),
            }
        };
        let (a, b, c, ()) = tokio::join!(
            store.commit(txn()),
            store.commit(txn()),
            store.commit(txn()),
            self.look(store)
        );
        let mut committed: Vec<_> = [a, b, c].into_iter().flatten().collect();
        committed.sort_by_key(|committed| committed.revision);
        for one in committed.iter().filter(|one| !one.events.is_empty()) {
            self.expected.commit(&one.events);
            self.disk.mark(one.revision.get());
        }
    }

    /// The newest revision acknowledged or shown before the act with this number.
    fn acknowledged(&self, acts: &[Act]) -> u64 {
        let marks = acts.iter().filter_map(|act| {
            if let Act::Mark(number) = act {
                Some(*number)
            } else {
                None
            }
        });
        marks.max().unwrap_or(0)
    }

    /// Opens what a power cut left, and compares: everything acknowledged is there, and nothing
    /// but whole transactions.
    fn check(&self, image: &Image, acknowledged: u64, point: &str) -> SimDisk {
        let disk = SimDisk::new(image.clone());
        let store = open(&disk).unwrap_or_else(|error| panic!("{point}: {error}"));
        let revision = store.revision();
        assert!(
            revision >= Revision::new(acknowledged),
            "{point}: {revision} of {acknowledged}"
        );
        assert_eq!(&contents(&store), self.expected.at(revision), "{point}");
        disk
    }
}

#[test]
fn a_power_cut_at_any_byte_loses_nothing_acknowledged() {
    let run = Run::new(24, options());
    let acts = run.disk.acts();
    for (at, act) in acts.iter().enumerate() {
        let bytes = if let Act::Write(_, _, bytes) = act {
            bytes.len()
        } else {
            1
        };
        for cut in 0..bytes {
            let acknowledged = run.acknowledged(&acts[..at]);
            run.check(
                &run.disk.cut(at, cut),
                acknowledged,
                &format!("act {at}, byte {cut}"),
            );
        }
    }
    run.check(&run.disk.image(), run.expected.revision().get(), "no cut");
}

/// With the log before the newest checkpoint kept, and with it removed at once.
fn runs(count: usize) -> impl Iterator<Item = (Run, Random)> {
    (0..count).map(|seed| {
        let mut options = options();
        options.history.bytes *= seed % 2;
        (Run::new(20 + seed, options), Random::new(seed as u64))
    })
}

#[test]
fn lost_and_reordered_unsynced_writes_lose_nothing_acknowledged() {
    for (seed, (run, mut random)) in runs(6).enumerate() {
        let acts = run.disk.acts();
        for at in 0..acts.len() {
            for _ in 0..3 {
                let image = run.disk.torn(at, &mut random);
                let point = format!("seed {seed}, act {at}");
                let opened = run.check(&image, run.acknowledged(&acts[..at]), &point);
                writes_survive_a_second_cut(&opened, &mut random, &point);
            }
        }
    }
}

/// The store can go on after a power cut, and what is written then survives the next.
fn writes_survive_a_second_cut(disk: &SimDisk, random: &mut Random, point: &str) {
    let store = open(disk).unwrap();
    let revision = store.revision().next();
    let committed = block_on(store.commit(put("/c/new", "new"))).unwrap();
    assert_eq!(committed.revision, revision, "{point}");
    let after = contents(&store);
    drop(store);
    let reopened = open_image(&disk.torn(disk.acts().len(), random)).unwrap();
    assert_eq!(
        (reopened.revision(), contents(&reopened)),
        (revision, after),
        "{point}"
    );
}

#[test]
fn what_is_shown_or_written_after_a_kill_survives_a_power_cut() {
    for (seed, (run, mut random)) in runs(4).enumerate() {
        let acts = run.disk.acts();
        for at in 0..acts.len() {
            // All that was written is there, synced or not: the machine went on.
            let disk = run.disk.killed(at);
            // A checkpoint would sync what the commit must have synced.
            let shown = open_with(
                &disk,
                &Options {
                    checkpoint_bytes: u64::MAX,
                    ..options()
                },
            )
            .unwrap();
            assert!(shown.revision() >= Revision::new(run.acknowledged(&acts[..at])));
            if random.coin() {
                block_on(shown.commit(put("/c/new", "new"))).unwrap();
            }
            let (revision, before) = (shown.revision(), contents(&shown));
            drop(shown);
            let image = disk.torn(disk.acts().len(), &mut random);
            let reopened = open_image(&image).unwrap();
            assert_eq!(
                (reopened.revision(), contents(&reopened)),
                (revision, before),
                "seed {seed}, act {at}"
            );
        }
    }
}
