//! The files of a log, oldest first, read as one.
//!
//! A file is recognised by its inode, since it changes its name when it is rotated. The writer renames a
//! file only after the last write to it, so a file that is not the current one is complete. Blocking.

use std::fs::{self, File};
use std::io::{self, Read, Seek, SeekFrom};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use super::names;

/// How much is read at a time.
const CHUNK_BYTES: usize = 64 * 1024;

/// Reads a log from a position on.
#[derive(Debug)]
pub(super) struct Files {
    /// The current file's path.
    path: PathBuf,
    open: File,
    inode: u64,
    buffer: Vec<u8>,
    /// How much of the buffer has been given out.
    taken: usize,
}

impl Files {
    /// Opens the log, at its beginning or `tail_lines` entries before its end.
    pub(super) fn open(path: PathBuf, tail_lines: Option<u64>) -> io::Result<Self> {
        // First, so that there is an error if there is no log at all.
        let current = File::open(&path)?;
        let (mut open, mut position) = (current, 0);
        match tail_lines {
            None => {
                for older in list(&path)?.into_iter().take(1) {
                    open = File::open(older).or_else(|_| File::open(&path))?;
                }
            }
            Some(lines) => (open, position) = tail(&path, open, lines)?,
        }
        open.seek(SeekFrom::Start(position))?;
        let inode = open.metadata()?.ino();
        Ok(Self {
            path,
            open,
            inode,
            buffer: Vec::new(),
            taken: 0,
        })
    }

    /// The next whole entries; `None` at the end, where more may be written later.
    pub(super) fn next_entries(&mut self) -> io::Result<Option<&[u8]>> {
        self.buffer.drain(..self.taken);
        self.taken = 0;
        loop {
            if let Some(end) = self.buffer.iter().rposition(|byte| *byte == b'\n') {
                self.taken = end + 1;
                return Ok(Some(&self.buffer[..self.taken]));
            }
            if !self.fill()? && !self.next_file()? {
                return Ok(None);
            }
        }
    }

    /// Reads more of the open file; `false` at its end.
    fn fill(&mut self) -> io::Result<bool> {
        let before = self.buffer.len();
        self.buffer.resize(before + CHUNK_BYTES, 0);
        let read = self.open.read(&mut self.buffer[before..])?;
        self.buffer.truncate(before + read);
        Ok(read > 0)
    }

    /// Goes on with the file after the one that is open; `false` if it is the current one.
    fn next_file(&mut self) -> io::Result<bool> {
        let files: Vec<_> = list(&self.path)?
            .into_iter()
            .filter_map(|path| Some((fs::metadata(&path).ok()?.ino(), path)))
            .collect();
        let at = files.iter().position(|(inode, _)| *inode == self.inode);
        // One that has been removed was older than all that are left.
        let next = at.map_or(0, |at| at + 1);
        let Some((inode, path)) = files.get(next) else {
            return Ok(false);
        };
        // Between the end that was seen and the renaming, more may have been written.
        if self.fill()? {
            return Ok(true);
        }
        let Ok(open) = File::open(path) else {
            return Ok(true);
        };
        if open.metadata()?.ino() == *inode {
            // An entry is never split between files.
            self.buffer.clear();
            (self.open, self.inode) = (open, *inode);
        }
        Ok(true)
    }
}

/// The files of a log: those rotated, oldest first, and the current one.
fn list(path: &Path) -> io::Result<Vec<PathBuf>> {
    let name = path
        .file_name()
        .and_then(|name| name.to_str())
        .unwrap_or_default();
    let directory = path.parent().unwrap_or(Path::new("."));
    let mut files = Vec::new();
    for entry in fs::read_dir(directory)? {
        let file = entry?.file_name();
        if let Some(file) = file
            .to_str()
            .filter(|file| names::rotated_at(name, file).is_some())
        {
            files.push(directory.join(file));
        }
    }
    files.sort_unstable();
    files.push(path.to_owned());
    Ok(files)
}

/// The file and the position in it from which on there are `lines` entries.
fn tail(path: &Path, current: File, mut lines: u64) -> io::Result<(File, u64)> {
    let mut found = (current, 0);
    for older in list(path)?.iter().rev() {
        // One that is rotated away or removed in this moment is read when its turn comes, or is gone.
        let Ok(mut file) = File::open(older) else { continue };
        let (position, left) = tail_of(&mut file, lines)?;
        found = (file, position);
        lines = left;
        if lines == 0 {
            break;
        }
    }
    Ok(found)
}

/// The position from which on there are at most `lines` line ends, and how many of them there are too few.
fn tail_of(file: &mut File, lines: u64) -> io::Result<(u64, u64)> {
    let mut position = file.metadata()?.len();
    if lines == 0 {
        return Ok((position, 0));
    }
    // The end of the last line is not the beginning of one that is wanted.
    let mut left = lines + 1;
    let mut block = Vec::new();
    while position > 0 {
        let length = position.min(CHUNK_BYTES as u64);
        position -= length;
        file.seek(SeekFrom::Start(position))?;
        block.clear();
        file.by_ref().take(length).read_to_end(&mut block)?;
        for (at, _) in block.iter().enumerate().rev().filter(|(_, byte)| **byte == b'\n') {
            left -= 1;
            if left == 0 {
                return Ok((position + at as u64 + 1, 0));
            }
        }
    }
    // The first line has no line end before it.
    Ok((0, left - 1))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn the_beginning_of_the_last_lines_is_found_backwards() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x");
        let check = |text: &str, lines, expected| {
            fs::write(&path, text).unwrap();
            assert_eq!(
                tail_of(&mut File::open(&path).unwrap(), lines).unwrap(),
                expected,
                "{lines} of {text:?}"
            );
        };
        check("", 3, (0, 3));
        check("a\n", 0, (2, 0));
        check("a\n", 1, (0, 0));
        check("a\nb\nc\n", 1, (4, 0));
        check("a\nb\nc\n", 2, (2, 0));
        check("a\nb\nc\n", 3, (0, 0));
        check("a\nb\nc\n", 5, (0, 2));
        let long = "x".repeat(CHUNK_BYTES) + "\n";
        check(&long.repeat(3), 2, (long.len() as u64, 0));
    }
}
