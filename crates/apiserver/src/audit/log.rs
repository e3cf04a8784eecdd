//! The file that audit events are written to. A full one is put aside, and the one before it goes.

use std::fs::{File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use serde_json::Value;

/// How large the file may get, in bytes.
const MAX_BYTES: u64 = 100 << 20;

#[derive(Debug)]
pub(super) struct Log {
    path: PathBuf,
    limit: u64,
    file: Mutex<Open>,
}

#[derive(Debug)]
struct Open {
    file: File,
    bytes: u64,
    /// Whether the last line could be written; the first that cannot is told of.
    well: bool,
}

impl Open {
    fn at(path: &Path) -> io::Result<Open> {
        // What is in it is for the cluster's owner alone.
        let file = OpenOptions::new()
            .create(true)
            .append(true)
            .mode(0o600)
            .open(path)?;
        let bytes = file.metadata()?.len();
        Ok(Open {
            file,
            bytes,
            well: true,
        })
    }
}

impl Log {
    pub(super) fn open(path: &Path) -> io::Result<Log> {
        Ok(Log {
            path: path.to_owned(),
            limit: MAX_BYTES,
            file: Mutex::new(Open::at(path)?),
        })
    }

    /// Appends an event. One that cannot be written is told of in the server's log, and the request
    /// goes on.
    pub(super) fn write(&self, event: &Value) {
        let mut line = event.to_string();
        line.push('\n');
        let mut open = self.file.lock().unwrap_or_else(PoisonError::into_inner);
        let written = self.append(&mut open, line.as_bytes());
        if let Err(error) = &written
            && open.well
        {
            tracing::error!(path = %self.path.display(), %error, "the audit log cannot be written");
        }
        open.well = written.is_ok();
    }

    fn append(&self, open: &mut Open, line: &[u8]) -> io::Result<()> {
        if open.bytes > 0 && open.bytes + line.len() as u64 > self.limit {
            let mut aside = self.path.clone().into_os_string();
            aside.push(".1");
            std::fs::rename(&self.path, aside)?;
            *open = Open::at(&self.path)?;
        }
        open.file.write_all(line)?;
        open.bytes += line.len() as u64;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_full_file_is_put_aside() {
        let dir = tempfile::tempdir().expect("a folder");
        let path = dir.path().join("audit.log");
        let log = Log {
            limit: 20,
            ..Log::open(&path).expect("a log")
        };
        for number in 0..5 {
            log.write(&json!({"number": number}));
        }
        let read = |path: &Path| std::fs::read_to_string(path).expect("it is there");
        assert_eq!(read(&path), "{\"number\":4}\n");
        assert_eq!(read(&dir.path().join("audit.log.1")), "{\"number\":3}\n");
    }
}
