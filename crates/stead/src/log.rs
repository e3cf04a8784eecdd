//! The server's log: a file in the data directory, one generation kept.

use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

use anyhow::Context as _;
use tracing_subscriber::EnvFilter;

/// A log larger than this is put aside at the next start.
const MAX_BYTES: u64 = 16 << 20;
/// The variable that says what is logged, in `tracing`'s words.
const FILTER: &str = "STEAD_LOG";

/// Opens the log for appending.
pub(crate) fn open(path: &Path) -> anyhow::Result<File> {
    if fs::metadata(path).is_ok_and(|data| data.len() > MAX_BYTES) {
        let aside = path.with_extension("log.1");
        fs::rename(path, &aside).with_context(|| format!("put the log aside to {}", aside.display()))?;
    }
    OpenOptions::new()
        .append(true)
        .create(true)
        .mode(0o600)
        .open(path)
        .with_context(|| format!("open the log {}", path.display()))
}

/// Sends what this process has to tell to a log.
pub(crate) fn begin(file: File) -> anyhow::Result<()> {
    let filter = EnvFilter::try_from_env(FILTER).unwrap_or_else(|_| EnvFilter::new("info"));
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_ansi(false)
        .with_writer(std::sync::Mutex::new(file))
        .try_init()
        .map_err(|error| anyhow::anyhow!("begin to log: {error}"))
}
