//! The files of a store, byte by byte. Pure: nothing here does I/O.
//!
//! A store's directory holds
//! - `lock`: empty; whoever holds the exclusive `flock` on it owns the directory;
//! - `log-<first revision>`: a *segment* of the log, the frames from that revision on, until the
//!   next segment's first;
//! - `checkpoint-<revision>`: all entries as of that revision. The segment that starts right
//!   after it always exists, and with it the checkpoint gives the whole state;
//! - `*.tmp`: files that were being written when the process ended; of no worth.
//!
//! Segments and checkpoints start with a [`header`]; a segment goes on with [`frame`]s, a
//! checkpoint with blocks (see [`crate::checkpoint`]). All integers are little endian. Each frame
//! repeats the checksum of the one before, each header that of the log up to it, so that the
//! pieces of a log fit together in one way only.

pub(crate) mod frame;
pub(crate) mod header;
pub(crate) mod names;
pub(crate) mod ops;
pub(crate) mod varint;

/// What is wrong with some bytes.
pub(crate) type Flaw = &'static str;

/// Reads a little-endian `u32`; the caller has checked that it is there.
fn u32_at(bytes: &[u8], at: usize) -> u32 {
    let mut raw = [0; 4];
    raw.copy_from_slice(&bytes[at..at + 4]);
    u32::from_le_bytes(raw)
}

/// Reads a little-endian `u64`; the caller has checked that it is there.
fn u64_at(bytes: &[u8], at: usize) -> u64 {
    let mut raw = [0; 8];
    raw.copy_from_slice(&bytes[at..at + 8]);
    u64::from_le_bytes(raw)
}
