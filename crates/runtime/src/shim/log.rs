//! A container's log file, in the format the CRI defines and `kubectl logs` reads:
//! `2016-10-06T00:17:09.669794202Z stdout F text`, with `P` instead of `F` for a piece of a line that goes
//! on in the next entry.
//!
//! What one read brought becomes a few writes at most. The file is rotated here, when a write has made it too large,
//! because here nothing can be written meanwhile: it is renamed to `<name>.<timestamp>` as the kubelet does,
//! and the oldest beyond the number kept are removed. Reading is [`crate::logs`]'s subject.

use std::io;
use std::os::fd::OwnedFd;

use jiff::Timestamp;
use rustix::fs::{AtFlags, Dir, Mode, OFlags};
use rustix::io::Errno;

use super::protocol;
use crate::logs::names;

/// A line longer than this is split into several entries; the number is containerd's.
pub(crate) const MAX_LINE_BYTES: usize = 16 * 1024;

/// Entries are written when there are so many bytes of them.
const WRITE_BYTES: usize = 32 * 1024;

/// Which of a container's streams.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Stream {
    Stdout,
    Stderr,
}

impl Stream {
    fn name(self) -> &'static [u8] {
        match self {
            Stream::Stdout => b"stdout",
            Stream::Stderr => b"stderr",
        }
    }
}

/// Cuts one stream into log entries. Keeps what has no line end yet.
#[derive(Debug)]
pub(crate) struct Lines {
    stream: Stream,
    pending: Vec<u8>,
}

impl Lines {
    pub(crate) fn new(stream: Stream) -> Self {
        Self {
            stream,
            pending: Vec::new(),
        }
    }

    /// Appends the entries that `data` completes to `out`, until that is worth a write; gives back what of
    /// `data` is left. Short lines make entries many times their size, so there is a bound.
    pub(crate) fn push<'a>(&mut self, mut data: &'a [u8], now: Timestamp, out: &mut Vec<u8>) -> &'a [u8] {
        let stamp = stamp(now);
        while out.len() < WRITE_BYTES {
            let room = MAX_LINE_BYTES - self.pending.len();
            // One byte further than fits: a line end there completes a line of exactly the full length.
            let window = &data[..data.len().min(room + 1)];
            match window.iter().position(|byte| *byte == b'\n') {
                Some(end) => {
                    self.entry(b'F', &data[..end], &stamp, out);
                    data = &data[end + 1..];
                }
                None if data.len() > room => {
                    self.entry(b'P', &data[..room], &stamp, out);
                    data = &data[room..];
                }
                None => {
                    self.pending.extend_from_slice(data);
                    return &[];
                }
            }
        }
        data
    }

    /// The stream has ended: what is left is a line that never got its end.
    pub(crate) fn finish(&mut self, now: Timestamp, out: &mut Vec<u8>) {
        if !self.pending.is_empty() {
            self.entry(b'P', b"", &stamp(now), out);
        }
        self.pending = Vec::new();
    }

    fn entry(&mut self, tag: u8, rest: &[u8], stamp: &str, out: &mut Vec<u8>) {
        out.extend_from_slice(stamp.as_bytes());
        out.push(b' ');
        out.extend_from_slice(self.stream.name());
        out.extend_from_slice(&[b' ', tag, b' ']);
        out.extend_from_slice(&self.pending);
        out.extend_from_slice(rest);
        out.push(b'\n');
        // A long line is rare; its buffer need not stay.
        match self.pending.capacity() > 4096 {
            true => self.pending = Vec::new(),
            false => self.pending.clear(),
        }
    }
}

fn stamp(now: Timestamp) -> String {
    format!("{now:.9}")
}

/// The open log file of a container.
pub(crate) struct LogFile {
    dir: OwnedFd,
    spec: protocol::Log,
    file: OwnedFd,
    bytes: u64,
}

impl LogFile {
    /// Opens the file for appending; what an earlier container wrote to it stays.
    pub(crate) fn open(dir: OwnedFd, spec: protocol::Log) -> io::Result<Self> {
        let (file, bytes) = open_for_append(&dir, &spec.name)?;
        Ok(Self {
            dir,
            spec,
            file,
            bytes,
        })
    }

    /// Writes whole entries, and rotates afterwards if the file has become too large.
    ///
    /// # Errors
    /// What could not be written (a full disk) is lost; the next write is tried all the same.
    pub(crate) fn write(&mut self, entries: &[u8], now: Timestamp) -> io::Result<()> {
        let mut rest = entries;
        while !rest.is_empty() {
            let written = rustix::io::retry_on_intr(|| rustix::io::write(&self.file, rest))?;
            self.bytes += written as u64;
            rest = &rest[written..];
        }
        if self.bytes >= self.spec.max_bytes {
            self.rotate(now)?;
        }
        Ok(())
    }

    /// Opens the file anew, after it has been moved or removed by someone else.
    pub(crate) fn reopen(&mut self) -> io::Result<()> {
        (self.file, self.bytes) = open_for_append(&self.dir, &self.spec.name)?;
        Ok(())
    }

    fn rotate(&mut self, now: Timestamp) -> io::Result<()> {
        let rotated = self.rotated()?;
        let newest = rotated
            .last()
            .and_then(|file| names::rotated_at(&self.spec.name, file));
        let name = names::rotated_name(&self.spec.name, now, newest);
        rustix::fs::renameat(&self.dir, self.spec.name.as_str(), &self.dir, name.as_str())?;
        self.reopen()?;
        let keep = usize::try_from(self.spec.max_files.max(1) - 1).unwrap_or(usize::MAX);
        let all = rotated.into_iter().chain([name]).collect::<Vec<_>>();
        for old in &all[..all.len().saturating_sub(keep)] {
            match rustix::fs::unlinkat(&self.dir, old.as_str(), AtFlags::empty()) {
                Ok(()) | Err(Errno::NOENT) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }

    /// The names of the rotated files, oldest first.
    fn rotated(&self) -> io::Result<Vec<String>> {
        let mut files = Vec::new();
        for entry in Dir::read_from(&self.dir)? {
            let entry = entry?;
            if let Ok(file) = entry.file_name().to_str() {
                files.extend(names::rotated_at(&self.spec.name, file).map(|_| file.to_owned()));
            }
        }
        files.sort_unstable();
        Ok(files)
    }
}

fn open_for_append(dir: &OwnedFd, name: &str) -> io::Result<(OwnedFd, u64)> {
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::APPEND | OFlags::CLOEXEC | OFlags::NOFOLLOW;
    let file = rustix::fs::openat(dir, name, flags, Mode::from_raw_mode(0o640))?;
    let bytes = rustix::fs::fstat(&file)?.st_size;
    Ok((file, u64::try_from(bytes).unwrap_or(0)))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    const NOW: &str = "2016-10-06T00:17:09.669794202Z";

    fn now() -> Timestamp {
        NOW.parse().unwrap()
    }

    fn check(pieces: &[&[u8]], finish: bool, expected: &[(&str, usize, u8)]) {
        let mut lines = Lines::new(Stream::Stdout);
        let mut out = Vec::new();
        for mut piece in pieces.iter().copied() {
            while !piece.is_empty() {
                let mut some = Vec::new();
                piece = lines.push(piece, now(), &mut some);
                out.extend(some);
            }
        }
        if finish {
            lines.finish(now(), &mut out);
        }
        let mut wanted = Vec::new();
        for (tag, length, byte) in expected {
            wanted.extend_from_slice(format!("{NOW} stdout {tag} ").as_bytes());
            wanted.extend(std::iter::repeat_n(*byte, *length));
            wanted.push(b'\n');
        }
        assert_eq!(String::from_utf8_lossy(&out), String::from_utf8_lossy(&wanted));
    }

    #[test]
    fn lines_become_entries_and_long_ones_several() {
        let full = vec![b'x'; MAX_LINE_BYTES];
        check(&[b"a\n"], false, &[("F", 1, b'a')]);
        check(
            &[b"a\n\nb\n"],
            false,
            &[("F", 1, b'a'), ("F", 0, 0), ("F", 1, b'b')],
        );
        check(&[b"a", b"a\n"], false, &[("F", 2, b'a')]);
        check(&[b"a"], false, &[]);
        check(&[b"a"], true, &[("P", 1, b'a')]);
        check(&[&full, b"\n"], true, &[("F", MAX_LINE_BYTES, b'x')]);
        check(
            &[&full, b"xx\n"],
            true,
            &[("P", MAX_LINE_BYTES, b'x'), ("F", 2, b'x')],
        );
        let short = b"y\n".repeat(WRITE_BYTES);
        check(&[&short], false, &vec![("F", 1, b'y'); WRITE_BYTES]);
        check(
            &[&full, &full],
            true,
            &[("P", MAX_LINE_BYTES, b'x'), ("P", MAX_LINE_BYTES, b'x')],
        );
    }

    #[test]
    fn a_log_is_rotated_when_it_is_large_and_only_the_newest_are_kept() {
        let dir = tempfile::tempdir().unwrap();
        let spec = protocol::Log {
            name: "0.log".into(),
            max_bytes: 10,
            max_files: 3,
        };
        let fd: OwnedFd = std::fs::File::open(dir.path()).unwrap().into();
        let mut log = LogFile::open(fd, spec).unwrap();
        for n in 0..5 {
            log.write(format!("entry {n} is long\n").as_bytes(), now())
                .unwrap();
        }
        let mut names: Vec<_> = std::fs::read_dir(dir.path())
            .unwrap()
            .map(|e| e.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        assert_eq!(names, ["0.log", "0.log.20161006-001712", "0.log.20161006-001713"]);
        let last = std::fs::read_to_string(dir.path().join(&names[2])).unwrap();
        assert_eq!(last, "entry 4 is long\n");
    }

    #[test]
    fn a_log_moved_away_is_written_anew_after_a_reopen() {
        let dir = tempfile::tempdir().unwrap();
        let spec = protocol::Log {
            name: "0.log".into(),
            max_bytes: 1 << 20,
            max_files: 3,
        };
        let mut log = LogFile::open(std::fs::File::open(dir.path()).unwrap().into(), spec).unwrap();
        log.write(b"one\n", now()).unwrap();
        std::fs::rename(dir.path().join("0.log"), dir.path().join("moved")).unwrap();
        log.reopen().unwrap();
        log.write(b"two\n", now()).unwrap();
        assert_eq!(std::fs::read(dir.path().join("0.log")).unwrap(), b"two\n");
    }
}
