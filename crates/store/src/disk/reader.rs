//! Reading a file front to back through a window, so that small pieces cost no system call each.

use std::io;

use super::{File, read_full};

/// Bytes read at a time, unless a single piece is longer.
pub(crate) const WINDOW: usize = 256 << 10;

/// A file and the part of it that is in memory.
pub(crate) struct Reader {
    file: Box<dyn File>,
    window: Vec<u8>,
    /// Where in the file the window begins.
    start: u64,
}

impl Reader {
    pub(crate) fn new(file: Box<dyn File>) -> Self {
        Self {
            file,
            window: Vec::new(),
            start: 0,
        }
    }

    /// The `len` bytes at `offset`; fewer only where the file ends. The caller makes sure that
    /// `len` is not more than the file is long, since a length may come from damaged bytes.
    pub(crate) fn bytes(&mut self, offset: u64, len: usize) -> io::Result<&[u8]> {
        if !self.holds(offset, len) {
            self.window.resize(len.max(WINDOW), 0);
            let read = read_full(&*self.file, offset, &mut self.window)?;
            self.window.truncate(read);
            self.start = offset;
        }
        let from = (offset - self.start) as usize;
        Ok(&self.window[from..self.window.len().min(from + len)])
    }

    /// Gives the file back.
    pub(crate) fn into_file(self) -> Box<dyn File> {
        self.file
    }

    fn holds(&self, offset: u64, len: usize) -> bool {
        offset >= self.start && offset + len as u64 <= self.start + self.window.len() as u64
    }
}
