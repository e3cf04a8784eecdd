//! The store's view of a disk: one directory of files.
//!
//! Everything the store does to files goes through these two traits, so that the crash tests can
//! put a recorded, cut and shuffled disk in the place of the operating system's.
//!
//! What the store assumes of a disk: what was written before [`File::sync`] returned is found
//! after a power cut; a rename is all or nothing, and it, a creation or a removal is durable once
//! [`Disk::sync`] returned. What was not synced may be found in any part and any order.

use std::io;
use std::path::PathBuf;

mod os;
mod reader;
#[cfg(test)]
pub(crate) mod sim;

pub(crate) use os::{OpenDiskError, OsDisk};
pub(crate) use reader::{Reader, WINDOW};

/// A directory that is this process's alone until the value is dropped.
pub(crate) trait Disk: Send + Sync + 'static {
    /// Names and lengths of the files.
    fn list(&self) -> io::Result<Vec<(String, u64)>>;
    /// Makes an empty file, in the place of one of that name.
    fn create(&self, name: &str) -> io::Result<Box<dyn File>>;
    /// Opens a file for reading and writing.
    fn open(&self, name: &str) -> io::Result<Box<dyn File>>;
    /// Gives a file another name, in the place of one of that name.
    fn rename(&self, from: &str, to: &str) -> io::Result<()>;
    /// Removes a file.
    fn remove(&self, name: &str) -> io::Result<()>;
    /// Makes creations, renames and removals durable.
    fn sync(&self) -> io::Result<()>;
    /// The path of a file, to name it to people.
    fn path(&self, name: &str) -> PathBuf;
}

/// An open file.
pub(crate) trait File: Send {
    /// Reads at `offset`; fewer bytes than asked for (as few as none) at the end of the file.
    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<usize>;
    /// Writes all of `bytes` at `offset`; if it fails, any part may have been written.
    fn write_at(&self, offset: u64, bytes: &[u8]) -> io::Result<()>;
    /// Cuts the file off, or lengthens it with zeros.
    fn set_len(&self, len: u64) -> io::Result<()>;
    /// Makes contents and length durable.
    fn sync(&self) -> io::Result<()>;
}

/// Reads at `offset` until `buf` is full or the file ends. Returns how much was read.
pub(crate) fn read_full(file: &dyn File, offset: u64, buf: &mut [u8]) -> io::Result<usize> {
    let mut done = 0;
    while done < buf.len() {
        match file.read_at(offset + done as u64, &mut buf[done..])? {
            0 => break,
            read => done += read,
        }
    }
    Ok(done)
}
