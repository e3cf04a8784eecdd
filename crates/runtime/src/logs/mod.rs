//! Reading what a container has written, from the files its shim writes ([`crate::shim`]).
//!
//! A log is a file and those that were rotated away from it, read as one. The log of a container that ran
//! before (`kubectl logs --previous`) is another file, so another path. Following waits for the file to
//! grow; nothing is polled. What is read is what `kubectl logs` shows: the container's own bytes, without
//! the times and streams of the entries.
//!
//! * [`entry`]: from an entry to what is shown (pure);
//! * [`files`]: the files of a log, in order, whatever is rotated meanwhile;
//! * [`names`]: what rotated files are called.

mod entry;
mod files;
pub(crate) mod names;

use std::io;
use std::path::PathBuf;

use bytes::Bytes;
use futures::stream::Stream;
use jiff::Timestamp;
use nix::sys::inotify::AddWatchFlags;
use tokio_util::sync::CancellationToken;

use crate::blocking::blocking;
use crate::inotify::Watcher;
use entry::Filter;
use files::Files;

/// What of a log to read.
#[derive(Debug, Clone, Default)]
pub struct LogOptions {
    /// Only so many entries from the end.
    pub tail_lines: Option<u64>,
    /// Only what was written then or later.
    pub since: Option<Timestamp>,
    /// Begin each line with its time.
    pub timestamps: bool,
    /// Only one of the streams.
    pub stream: Option<LogStream>,
    /// At most so many bytes.
    pub limit_bytes: Option<u64>,
    /// Go on with what is written later, until this is cancelled (because the container has ended); then
    /// read what is there, and end.
    pub follow: Option<CancellationToken>,
}

/// One of a container's output streams.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogStream {
    /// Standard output.
    Stdout,
    /// Standard error.
    Stderr,
}

/// Reads the log whose current file is `path`.
///
/// # Errors
/// `NotFound` if there is no such file; afterwards, as items, what reading it gives.
pub async fn read(
    path: PathBuf,
    options: LogOptions,
) -> io::Result<impl Stream<Item = io::Result<Bytes>> + Send> {
    // Watching begins before reading, so that no change falls between them.
    let watcher = options.follow.as_ref().map(|_| watch(&path)).transpose()?;
    let (tail_lines, follow) = (options.tail_lines, options.follow.is_some());
    let files = blocking(move || Files::open(path, tail_lines, follow)).await?;
    let filter = Filter::new(
        options.since,
        options.timestamps,
        options.stream,
        options.limit_bytes,
    );
    let reader = Reader {
        files,
        filter,
        finished: false,
    };
    let state = State {
        reader,
        watcher,
        follow: options.follow,
    };
    Ok(futures::stream::try_unfold(state, State::next))
}

/// The directory, because the file itself is renamed and made anew.
fn watch(path: &std::path::Path) -> io::Result<Watcher> {
    let watcher = Watcher::new()?;
    let directory = path.parent().unwrap_or(std::path::Path::new("."));
    let what = AddWatchFlags::IN_MODIFY | AddWatchFlags::IN_CREATE | AddWatchFlags::IN_MOVED_FROM;
    watcher.add(directory, what)?;
    Ok(watcher)
}

struct State {
    reader: Reader,
    watcher: Option<Watcher>,
    follow: Option<CancellationToken>,
}

impl State {
    async fn next(mut self) -> io::Result<Option<(Bytes, Self)>> {
        loop {
            // Looked at before reading: what was written before the end is then read.
            let ended = self.follow.as_ref().is_none_or(CancellationToken::is_cancelled);
            let mut reader = self.reader;
            let (chunk, reader) = blocking(move || (reader.chunk(), reader)).await;
            self.reader = reader;
            let chunk = chunk?;
            if !chunk.is_empty() {
                return Ok(Some((chunk.into(), self)));
            }
            if ended || self.reader.finished {
                return Ok(None);
            }
            if let (Some(watcher), Some(follow)) = (&self.watcher, &self.follow) {
                tokio::select! {
                    changes = watcher.changes() => drop(changes?),
                    () = follow.cancelled() => {}
                }
            }
        }
    }
}

struct Reader {
    files: Files,
    filter: Filter,
    /// The limit has been reached.
    finished: bool,
}

impl Reader {
    /// What there is to show next; empty when there is nothing more for now.
    fn chunk(&mut self) -> io::Result<Vec<u8>> {
        let mut shown = Vec::new();
        while !self.finished && shown.is_empty() {
            let Some(entries) = self.files.next_entries()? else {
                break;
            };
            self.finished = !self.filter.show(entries, &mut shown);
        }
        Ok(shown)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::fs;
    use std::io::Write;
    use std::path::Path;
    use std::pin::pin;
    use std::time::Duration;

    use futures::StreamExt;

    use super::*;

    fn entry(second: u32, text: &str) -> String {
        format!("2026-01-02T03:04:{second:02}.000000000Z stdout F {text}\n")
    }

    fn append(path: &Path, text: &str) {
        let mut file = fs::File::options().create(true).append(true).open(path).unwrap();
        file.write_all(text.as_bytes()).unwrap();
    }

    async fn all(path: &Path, options: LogOptions) -> String {
        let mut stream = pin!(read(path.to_owned(), options).await.unwrap());
        let mut text = Vec::new();
        while let Some(chunk) = stream.next().await {
            text.extend_from_slice(&chunk.unwrap());
        }
        String::from_utf8(text).unwrap()
    }

    #[tokio::test]
    async fn rotated_files_and_the_current_one_are_one_log() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("0.log");
        append(
            &dir.path().join("0.log.20260102-030403"),
            &(entry(1, "a") + &entry(2, "b")),
        );
        append(
            &dir.path().join("0.log.20260102-030405"),
            &(entry(3, "c") + &entry(4, "d")),
        );
        append(&path, &entry(5, "e"));
        append(&dir.path().join("1.log"), &entry(6, "other"));
        let check = async |options: LogOptions, expected: &str| {
            assert_eq!(all(&path, options.clone()).await, expected, "{options:?}");
        };
        let options = LogOptions::default;
        check(options(), "a\nb\nc\nd\ne\n").await;
        for (lines, expected) in [
            (0, ""),
            (1, "e\n"),
            (2, "d\ne\n"),
            (4, "b\nc\nd\ne\n"),
            (9, "a\nb\nc\nd\ne\n"),
        ] {
            check(
                LogOptions {
                    tail_lines: Some(lines),
                    ..options()
                },
                expected,
            )
            .await;
        }
        let since = Some("2026-01-02T03:04:04Z".parse().unwrap());
        check(LogOptions { since, ..options() }, "d\ne\n").await;
        check(
            LogOptions {
                since,
                tail_lines: Some(1),
                ..options()
            },
            "e\n",
        )
        .await;
        check(
            LogOptions {
                limit_bytes: Some(3),
                ..options()
            },
            "a\nb",
        )
        .await;
        check(
            LogOptions {
                stream: Some(LogStream::Stderr),
                ..options()
            },
            "",
        )
        .await;
        let timed = LogOptions {
            timestamps: true,
            tail_lines: Some(1),
            ..options()
        };
        check(timed, "2026-01-02T03:04:05.000000000Z e\n").await;
    }

    #[tokio::test]
    async fn a_log_that_grows_while_it_is_read_ends_where_it_ended() {
        for tail_lines in [None, Some(2)] {
            let dir = tempfile::tempdir().unwrap();
            let path = dir.path().join("0.log");
            append(&dir.path().join("0.log.20260102-030403"), &entry(1, "a"));
            append(&path, &(entry(2, "b") + &entry(3, "c")));
            let options = LogOptions {
                tail_lines,
                ..LogOptions::default()
            };
            let mut stream = pin!(read(path.clone(), options).await.unwrap());
            // It is rotated as well.
            append(&path, &entry(4, "d"));
            fs::rename(&path, dir.path().join("0.log.20260102-030405")).unwrap();
            append(&path, &entry(5, "e"));
            let mut text = String::new();
            while let Some(chunk) = stream.next().await {
                text += std::str::from_utf8(&chunk.unwrap()).unwrap();
            }
            let expected = if tail_lines.is_some() {
                "b\nc\n"
            } else {
                "a\nb\nc\n"
            };
            assert_eq!(text, expected, "{tail_lines:?}");
        }
    }

    #[tokio::test]
    async fn a_log_whose_end_is_rotated_away_while_it_is_read_ends_there() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("0.log");
        append(&dir.path().join("0.log.20260102-030403"), &entry(1, "a"));
        append(&path, &entry(2, "b"));
        let mut stream = pin!(read(path.clone(), LogOptions::default()).await.unwrap());
        fs::remove_file(&path).unwrap();
        append(&path, &entry(5, "e"));
        assert_eq!(stream.next().await.unwrap().unwrap(), "a\n");
        assert!(stream.next().await.is_none());
    }

    #[tokio::test]
    async fn a_log_that_does_not_exist_is_an_error() {
        let dir = tempfile::tempdir().unwrap();
        let error = read(dir.path().join("0.log"), LogOptions::default())
            .await
            .map(drop)
            .unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::NotFound);
    }

    #[tokio::test]
    async fn following_goes_on_through_rotations_until_the_end() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("0.log");
        append(&path, &entry(1, "a"));
        let end = CancellationToken::new();
        let options = LogOptions {
            follow: Some(end.clone()),
            ..LogOptions::default()
        };
        let mut stream = pin!(read(path.clone(), options).await.unwrap());
        let mut next = async || {
            let item = tokio::time::timeout(Duration::from_secs(10), stream.next())
                .await
                .unwrap();
            item.map(|chunk| String::from_utf8(chunk.unwrap().to_vec()).unwrap())
        };
        assert_eq!(next().await.unwrap(), "a\n");
        append(&path, &entry(2, "b"));
        assert_eq!(next().await.unwrap(), "b\n");
        // Twice between two looks: nothing is skipped, and nothing is shown twice.
        append(&path, &entry(3, "c"));
        fs::rename(&path, dir.path().join("0.log.20260102-030404")).unwrap();
        append(&path, &entry(4, "d"));
        fs::rename(&path, dir.path().join("0.log.20260102-030405")).unwrap();
        append(&path, &entry(5, "e"));
        let mut text = String::new();
        while text.len() < 6 {
            text += &next().await.unwrap();
        }
        assert_eq!(text, "c\nd\ne\n");
        append(&path, &entry(6, "f"));
        end.cancel();
        assert_eq!(next().await.unwrap(), "f\n");
        assert_eq!(next().await, None);
    }
}
