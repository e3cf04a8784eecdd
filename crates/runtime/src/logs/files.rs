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
    /// Where to stop; nowhere when what is written later is wanted too.
    end: Option<End>,
    buffer: Vec<u8>,
    /// How much of the buffer has been given out.
    taken: usize,
}

/// Where a log ended when it was opened. One that is written faster than it is read would have no end.
#[derive(Debug)]
struct End {
    inode: u64,
    length: u64,
    /// Kept open, so that no other file can have this inode.
    _file: File,
}

impl Files {
    /// Opens the log, at its beginning or `tail_lines` entries before its end. What is written later is read
    /// too if this is to `follow`.
    pub(super) fn open(path: PathBuf, tail_lines: Option<u64>, follow: bool) -> io::Result<Self> {
        // First, so that there is an error if there is no log at all.
        let current = File::open(&path)?;
        let metadata = current.metadata()?;
        let end = End {
            inode: metadata.ino(),
            length: metadata.len(),
            _file: current.try_clone()?,
        };
        let (mut open, mut position) = (current, 0);
        match tail_lines {
            None => {
                for older in list(&path)?.into_iter().take(1) {
                    open = File::open(older).or_else(|_| File::open(&path))?;
                }
            }
            Some(lines) => (open, position) = tail(&path, open, &end, lines)?,
        }
        open.seek(SeekFrom::Start(position))?;
        let inode = open.metadata()?.ino();
        Ok(Self {
            path,
            open,
            inode,
            end: Some(end).filter(|_| !follow),
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
        let wanted = match self.end_here() {
            Some(end) => end.saturating_sub(self.open.stream_position()?),
            None => u64::MAX,
        };
        let wanted = usize::try_from(wanted).unwrap_or(usize::MAX).min(CHUNK_BYTES);
        self.buffer.resize(before + wanted, 0);
        let read = self.open.read(&mut self.buffer[before..])?;
        self.buffer.truncate(before + read);
        Ok(read > 0)
    }

    /// Where to stop in the file that is open.
    fn end_here(&self) -> Option<u64> {
        let end = self.end.as_ref().filter(|end| end.inode == self.inode)?;
        Some(end.length)
    }

    /// Goes on with the file after the one that is open; `false` if it is the last one.
    fn next_file(&mut self) -> io::Result<bool> {
        let files = with_inodes(list(&self.path)?);
        // What had been written until the end may have been removed meanwhile.
        let is_gone = |end: &End| files.iter().all(|(inode, _)| *inode != end.inode);
        if self.end_here().is_some() || self.end.as_ref().is_some_and(is_gone) {
            return Ok(false);
        }
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

/// Files with their inodes; those that have just been removed are left out.
fn with_inodes(files: Vec<PathBuf>) -> Vec<(u64, PathBuf)> {
    let files = files.into_iter();
    files
        .filter_map(|path| Some((fs::metadata(&path).ok()?.ino(), path)))
        .collect()
}

/// The file and the position in it from which on there are `lines` entries before the end, which is in the
/// file given.
fn tail(path: &Path, mut last: File, end: &End, lines: u64) -> io::Result<(File, u64)> {
    let (position, mut lines) = tail_of(&mut last, end.length, lines)?;
    let mut found = (last, position);
    let files = with_inodes(list(path)?);
    let at = files.iter().position(|(inode, _)| *inode == end.inode);
    for (_, older) in files[..at.unwrap_or(0)].iter().rev() {
        if lines == 0 {
            break;
        }
        // One that is removed in this moment is gone.
        let Ok(mut file) = File::open(older) else { continue };
        let length = file.metadata()?.len();
        let (position, left) = tail_of(&mut file, length, lines)?;
        found = (file, position);
        lines = left;
    }
    Ok(found)
}

/// The position from which on there are at most `lines` line ends before `end`, and how many of them there
/// are too few.
fn tail_of(file: &mut File, end: u64, lines: u64) -> io::Result<(u64, u64)> {
    let mut position = end;
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
                tail_of(&mut File::open(&path).unwrap(), text.len() as u64, lines).unwrap(),
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
