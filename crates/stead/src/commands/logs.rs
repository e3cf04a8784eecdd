//! `stead logs`: the server's own log.

use std::fs::File;
use std::io::{self, BufRead as _, BufReader, Read as _, Seek as _, SeekFrom, Write as _};

use anyhow::Context as _;
use rustix::fs::inotify;

use crate::cli;
use crate::place::Place;

/// Prints the log of a place's server.
pub(super) fn logs(place: &Place, options: &cli::Logs) -> anyhow::Result<()> {
    let path = place.log();
    let mut file = File::open(&path).with_context(|| {
        format!(
            "open the log {}; `stead{} up` begins it",
            path.display(),
            place.flag()
        )
    })?;
    // Watched before it is read: what comes between the two is seen.
    let watch = if options.follow {
        let watch = inotify::init(inotify::CreateFlags::CLOEXEC).context("watch the log")?;
        inotify::add_watch(&watch, &path, inotify::WatchFlags::MODIFY).context("watch the log")?;
        Some(watch)
    } else {
        None
    };
    if let Some(lines) = options.tail {
        let start = start_of_last(&mut file, lines)?;
        file.seek(SeekFrom::Start(start))?;
    }
    let mut out = io::stdout().lock();
    io::copy(&mut file, &mut out)?;
    if let Some(watch) = watch {
        let mut watch = File::from(watch);
        // What the events say is not of interest, only that there are some.
        let mut events = [0; 4096];
        loop {
            out.flush()?;
            let _ = watch.read(&mut events).context("watch the log")?;
            io::copy(&mut file, &mut out)?;
        }
    }
    Ok(())
}

/// Where the last lines begin.
fn start_of_last(file: &mut File, lines: usize) -> io::Result<u64> {
    let mut starts = std::collections::VecDeque::from([0]);
    let (mut at, mut line) = (0, Vec::new());
    let mut reader = BufReader::new(file);
    loop {
        line.clear();
        let read = reader.read_until(b'\n', &mut line)?;
        if read == 0 {
            break;
        }
        at += read as u64;
        starts.push_back(at);
        if starts.len() > lines.saturating_add(1) {
            starts.pop_front();
        }
    }
    Ok(if lines == 0 {
        at
    } else {
        starts.front().copied().unwrap_or(0)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_lines_begin_where_they_do() {
        let mut file = tempfile::tempfile().expect("a file");
        file.write_all(b"one\ntwo\nthree\n").expect("a write");
        for (lines, expected) in [(0, 14), (1, 8), (2, 4), (3, 0), (9, 0)] {
            file.rewind().expect("a seek");
            assert_eq!(
                start_of_last(&mut file, lines).expect("a read"),
                expected,
                "{lines}"
            );
        }
    }
}
