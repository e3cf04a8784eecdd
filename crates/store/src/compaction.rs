//! Keeping the log short: when to write a checkpoint, which files to keep, and the thread that
//! does it while commits go on.
//!
//! The log goes on in a new segment from the revision the checkpoint is of. The checkpoint before
//! is kept, with the log from it on, if that is little: opening starts from there, so that
//! watchers can resume across a checkpoint and a restart; and it takes the place of the newest
//! checkpoint should that be damaged.

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};

use crate::Revision;
use crate::checkpoint::{self, Outcome};
use crate::disk::Disk;
use crate::draft::Head;
use crate::entry::Value;
use crate::format::names::{self, FileName};
use crate::log::Log;
use crate::metrics::Counters;

/// Bytes of an obsolete file that are freed at a time.
const REMOVE_STEP: u64 = 1 << 20;

/// A log shorter than this is left alone by default.
pub(crate) const MIN_LOG_BYTES: u64 = 4 << 20;

/// The segments and checkpoints of a directory, with their lengths.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Files {
    pub(crate) segments: BTreeMap<Revision, u64>,
    pub(crate) checkpoints: BTreeMap<Revision, u64>,
    pub(crate) unfinished: Vec<String>,
}

impl Files {
    pub(crate) fn list(disk: &dyn Disk) -> io::Result<Self> {
        let mut files = Self::default();
        for (name, len) in disk.list()? {
            match names::parse(&name) {
                Some(FileName::Segment(first)) => drop(files.segments.insert(first, len)),
                Some(FileName::Checkpoint(revision)) => drop(files.checkpoints.insert(revision, len)),
                Some(FileName::Unfinished) => files.unfinished.push(name),
                None => {}
            }
        }
        Ok(files)
    }

    /// Revisions from which the state can be read: those of checkpoints (and 0, the empty store)
    /// after which the log goes on.
    pub(crate) fn bases(&self) -> impl DoubleEndedIterator<Item = Revision> {
        let checkpoints = self.checkpoints.keys().copied();
        let bases = [Revision::ZERO].into_iter().chain(checkpoints);
        bases.filter(|base| self.segments.contains_key(&base.next()))
    }

    /// The revision of the newest checkpoint; 0 if there is none.
    pub(crate) fn newest_checkpoint(&self) -> Revision {
        self.checkpoints.keys().next_back().copied().unwrap_or_default()
    }

    /// Names and lengths of the files that are not needed once there is a checkpoint of `newest`,
    /// if the log from the base before is kept only when it is at most `keep_bytes` long.
    fn obsolete(&self, newest: Revision, keep_bytes: u64) -> Vec<(String, u64)> {
        let previous = self.bases().rfind(|base| *base < newest);
        let kept = previous.filter(|base| {
            let between = self.segments.range(base.next()..newest.next());
            between.map(|(_, len)| len).sum::<u64>() <= keep_bytes
        });
        let oldest = kept.unwrap_or(newest);
        let checkpoints = self.checkpoints.range(..oldest);
        let checkpoints = checkpoints.map(|(revision, len)| (names::checkpoint(*revision), *len));
        let segments = self.segments.range(..oldest.next());
        let segments = segments.map(|(first, len)| (names::segment(*first), *len));
        checkpoints.chain(segments).collect()
    }
}

/// When to write checkpoints, and what to keep of the log.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Policy {
    /// A log shorter than this is left alone.
    pub(crate) min_log_bytes: u64,
    /// A log up to this length is kept for the history.
    pub(crate) keep_bytes: u64,
}

impl Policy {
    /// Whether a log of `log_bytes` is long enough for a checkpoint of `live_bytes` to pay.
    fn is_due(self, log_bytes: u64, live_bytes: u64) -> bool {
        log_bytes > self.min_log_bytes.max(2 * live_bytes)
    }
}

/// Watches the log grow, and runs at most one checkpoint at a time.
pub(crate) struct Compactor {
    disk: Arc<dyn Disk>,
    policy: Policy,
    /// Bytes of the log since the newest checkpoint.
    log_bytes: u64,
    /// After a failure, the length of the log at which to try again.
    retry_at: u64,
    running: Option<Running>,
}

struct Running {
    thread: JoinHandle<io::Result<Outcome>>,
    cancel: Arc<AtomicBool>,
    /// Bytes of the log which the checkpoint makes obsolete.
    covered: u64,
}

impl Compactor {
    pub(crate) fn new(disk: Arc<dyn Disk>, policy: Policy, log_bytes: u64) -> Self {
        Self {
            disk,
            policy,
            log_bytes,
            retry_at: 0,
            running: None,
        }
    }

    /// To be called after each batch, which was `written` bytes long and led to `head`: takes
    /// note of a checkpoint that is done, and starts one that is due.
    pub(crate) fn after_batch<V: Value>(
        &mut self,
        written: u64,
        head: &Head<V>,
        log: &mut Log,
        counters: &Counters,
    ) {
        self.log_bytes += written;
        if let Some(running) = self.running.take_if(|running| running.thread.is_finished()) {
            self.reap(running, counters);
        }
        if self.running.is_none()
            && self.log_bytes >= self.retry_at
            && self.policy.is_due(self.log_bytes, head.live_bytes)
            && let Err(error) = self.start(head, log)
        {
            self.failed(&error, counters);
        }
    }

    /// Calls off a checkpoint that is being written and waits for its thread to end.
    pub(crate) fn stop(&mut self, counters: &Counters) {
        if let Some(running) = self.running.take() {
            running.cancel.store(true, Ordering::Relaxed);
            self.reap(running, counters);
        }
    }

    fn start<V: Value>(&mut self, head: &Head<V>, log: &mut Log) -> io::Result<()> {
        let chain = log.rotate(head.revision.next())?;
        let cancel = Arc::new(AtomicBool::new(false));
        let thread = thread::Builder::new()
            .name("store-checkpoint".to_owned())
            .spawn({
                let (disk, map, revision) = (Arc::clone(&self.disk), head.map.clone(), head.revision);
                let (cancel, keep_bytes) = (Arc::clone(&cancel), self.policy.keep_bytes);
                move || {
                    let outcome = checkpoint::write(&*disk, &map, revision, chain, &cancel)?;
                    if outcome == Outcome::Written {
                        remove_obsolete(&*disk, revision, keep_bytes)?;
                    }
                    Ok(outcome)
                }
            })?;
        self.running = Some(Running {
            thread,
            cancel,
            covered: self.log_bytes,
        });
        Ok(())
    }

    fn reap(&mut self, running: Running, counters: &Counters) {
        let outcome = running
            .thread
            .join()
            .unwrap_or_else(|_| Err(io::Error::other("the thread panicked")));
        match outcome {
            Ok(Outcome::Written) => {
                self.log_bytes -= running.covered;
                self.retry_at = 0;
                counters.checkpoints.add(1);
            }
            Ok(Outcome::Cancelled) => {}
            Err(error) => self.failed(&error, counters),
        }
    }

    fn failed(&mut self, error: &io::Error, counters: &Counters) {
        tracing::warn!(%error, "write a checkpoint; the log grows on");
        counters.checkpoint_failures.add(1);
        self.retry_at = self.log_bytes + self.policy.min_log_bytes;
    }
}

fn remove_obsolete(disk: &dyn Disk, newest: Revision, keep_bytes: u64) -> io::Result<()> {
    for (name, len) in Files::list(disk)?.obsolete(newest, keep_bytes) {
        remove_in_steps(disk, &name, len)?;
    }
    Ok(())
}

/// Removes a file that may be long, a piece at a time: a file system that frees many blocks at
/// once (and tells the disk so) keeps the log's next sync waiting for tens of milliseconds.
fn remove_in_steps(disk: &dyn Disk, name: &str, mut len: u64) -> io::Result<()> {
    // Under this name it is removed at the next start if this is not the end of it.
    let doomed = format!("{name}{}", names::UNFINISHED);
    disk.rename(name, &doomed)?;
    let file = disk.open(&doomed)?;
    while len > REMOVE_STEP {
        len -= REMOVE_STEP;
        file.set_len(len)?;
    }
    disk.remove(&doomed)
}

#[cfg(test)]
mod tests {
    use super::*;

    const POLICY: Policy = Policy {
        min_log_bytes: 100,
        keep_bytes: 1000,
    };

    fn files(segments: &[(u64, u64)], checkpoints: &[u64]) -> Files {
        Files {
            segments: segments
                .iter()
                .map(|&(first, len)| (Revision::new(first), len))
                .collect(),
            checkpoints: checkpoints
                .iter()
                .map(|&revision| (Revision::new(revision), 1))
                .collect(),
            unfinished: Vec::new(),
        }
    }

    #[test]
    fn a_checkpoint_is_due_when_the_log_is_long_and_mostly_obsolete() {
        for (log, live, due) in [
            (100, 0, false),
            (101, 50, true),
            (101, 51, false),
            (1000, 499, true),
        ] {
            assert_eq!(POLICY.is_due(log, live), due, "log {log}, live {live}");
        }
    }

    #[test]
    fn the_state_can_be_read_from_where_the_log_goes_on() {
        let all: Vec<_> = files(&[(1, 9), (11, 9), (21, 9)], &[5, 10, 20, 30])
            .bases()
            .collect();
        assert_eq!(all, [0, 10, 20].map(Revision::new));
        assert_eq!(files(&[], &[5]).bases().count(), 0);
    }

    #[test]
    fn the_base_before_the_newest_is_kept_while_its_log_is_short() {
        let all = files(&[(1, 400), (11, 600), (21, 400), (31, 1)], &[10, 20, 30]);
        let segment = |first, len| (names::segment(Revision::new(first)), len);
        let checkpoint = |revision| (names::checkpoint(Revision::new(revision)), 1);
        let newest = Revision::new(30);
        assert_eq!(
            all.obsolete(newest, 1000),
            [checkpoint(10), segment(1, 400), segment(11, 600)]
        );
        let all_but_newest = [
            checkpoint(10),
            checkpoint(20),
            segment(1, 400),
            segment(11, 600),
            segment(21, 400),
        ];
        assert_eq!(all.obsolete(newest, 399), all_but_newest);
        assert_eq!(
            files(&[(1, 400), (11, 1)], &[10]).obsolete(Revision::new(10), 1000),
            []
        );
    }
}
