//! The file of visits: a line for each.
//!
//! Lines are appended whole (`O_APPEND`, one write each), so that the file stays well-formed whoever else
//! writes to it. The count is read once, at start; from then on this process alone is assumed to count.

use std::fs::{File, OpenOptions};
use std::io::{self, BufReader, Read, Write};
use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Where visits are counted. Shared by all clients.
pub(crate) struct Ledger(Mutex<Inner>);

struct Inner {
    file: File,
    count: u64,
}

impl Ledger {
    /// Opens `visits` in `dir`, which must be there, and counts its lines.
    pub(crate) fn open(dir: &Path) -> io::Result<Self> {
        let path = dir.join("visits");
        let file = OpenOptions::new().append(true).create(true).open(&path)?;
        let count = lines(File::open(&path)?)?;
        Ok(Self(Mutex::new(Inner { file, count })))
    }

    /// How many visits there were.
    pub(crate) fn count(&self) -> u64 {
        self.lock().count
    }

    /// Adds a visit that happened at `time`, and returns how many there are with it.
    pub(crate) fn add(&self, time: jiff::Timestamp) -> io::Result<u64> {
        let mut inner = self.lock();
        let count = inner.count + 1;
        inner
            .file
            .write_all(format!("visit {count} at {time:.0}\n").as_bytes())?;
        inner.count = count;
        Ok(count)
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn lines(file: File) -> io::Result<u64> {
    let mut count = 0;
    for byte in BufReader::new(file).bytes() {
        count += u64::from(byte? == b'\n');
    }
    Ok(count)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;

    #[test]
    fn counting_goes_on_where_the_file_ends() {
        let dir = tempfile::tempdir().unwrap();
        let time = jiff::Timestamp::from_second(1_700_000_000).unwrap();
        {
            let ledger = Ledger::open(dir.path()).unwrap();
            assert_eq!(ledger.count(), 0);
            assert_eq!(ledger.add(time).unwrap(), 1);
            assert_eq!(ledger.add(time).unwrap(), 2);
        }
        let ledger = Ledger::open(dir.path()).unwrap();
        assert_eq!(ledger.count(), 2);
        assert_eq!(ledger.add(time).unwrap(), 3);
        let text = std::fs::read_to_string(dir.path().join("visits")).unwrap();
        let lines: Vec<_> = text.lines().collect();
        assert_eq!(
            lines,
            [
                "visit 1 at 2023-11-14T22:13:20Z",
                "visit 2 at 2023-11-14T22:13:20Z",
                "visit 3 at 2023-11-14T22:13:20Z"
            ]
        );
    }

    #[test]
    fn a_missing_directory_is_an_error() {
        let dir = tempfile::tempdir().unwrap();
        let missing = dir.path().join("missing");
        assert_eq!(
            Ledger::open(&missing).err().map(|error| error.kind()),
            Some(io::ErrorKind::NotFound)
        );
    }

    #[test]
    fn concurrent_visits_are_all_counted() {
        let dir = tempfile::tempdir().unwrap();
        let ledger = Ledger::open(dir.path()).unwrap();
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for _ in 0..25 {
                        ledger.add(jiff::Timestamp::now()).unwrap();
                    }
                });
            }
        });
        assert_eq!(ledger.count(), 100);
        assert_eq!(Ledger::open(dir.path()).unwrap().count(), 100);
    }
}
