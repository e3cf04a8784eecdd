//! The operating system's disk.

use std::fs::{self, DirBuilder, OpenOptions, TryLockError};
use std::io;
use std::os::unix::fs::{DirBuilderExt, FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use super::{Disk, File};

/// Name of the file that is locked.
const LOCK: &str = "lock";

/// A directory under an exclusive lock.
///
/// The lock is an `flock`: it ends with the process, however that ends, and is not inherited by
/// programs the process starts, since the file is closed on exec.
pub(crate) struct OsDisk {
    dir: PathBuf,
    /// The directory itself, to sync it.
    handle: fs::File,
    _lock: fs::File,
}

/// Why a directory could not be taken.
#[derive(Debug, thiserror::Error)]
pub(crate) enum OpenDiskError {
    #[error("the directory is locked by another process")]
    Locked,
    #[error(transparent)]
    Io(#[from] io::Error),
}

impl OsDisk {
    /// Takes `dir`, which is made if need be (for the owner only: values may be secret).
    pub(crate) fn open(dir: &Path) -> Result<Self, OpenDiskError> {
        create_dir_durably(dir)?;
        let lock = file_options().create(true).open(dir.join(LOCK))?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Err(OpenDiskError::Locked),
            Err(TryLockError::Error(source)) => return Err(source.into()),
        }
        Ok(Self {
            dir: dir.to_owned(),
            handle: fs::File::open(dir)?,
            _lock: lock,
        })
    }
}

impl Disk for OsDisk {
    fn list(&self) -> io::Result<Vec<(String, u64)>> {
        let mut files = Vec::new();
        for entry in fs::read_dir(&self.dir)? {
            let entry = entry?;
            // Names that are not UTF-8 are not ours.
            if let Ok(name) = entry.file_name().into_string() {
                files.push((name, entry.metadata()?.len()));
            }
        }
        Ok(files)
    }

    fn create(&self, name: &str) -> io::Result<Box<dyn File>> {
        let file = file_options()
            .create(true)
            .truncate(true)
            .open(self.dir.join(name))?;
        Ok(Box::new(OsFile(file)))
    }

    fn open(&self, name: &str) -> io::Result<Box<dyn File>> {
        Ok(Box::new(OsFile(file_options().open(self.dir.join(name))?)))
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        fs::rename(self.dir.join(from), self.dir.join(to))
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        fs::remove_file(self.dir.join(name))
    }

    fn sync(&self) -> io::Result<()> {
        self.handle.sync_all()
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }
}

struct OsFile(fs::File);

impl File for OsFile {
    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<usize> {
        loop {
            match self.0.read_at(buf, offset) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                done => return done,
            }
        }
    }

    fn write_at(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        self.0.write_all_at(bytes, offset)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.0.set_len(len)
    }

    /// `fdatasync`, which includes the length but spares the times.
    fn sync(&self) -> io::Result<()> {
        self.0.sync_data()
    }
}

fn file_options() -> OpenOptions {
    let mut options = OpenOptions::new();
    options.read(true).write(true).mode(0o600);
    options
}

/// Makes `dir` and its missing parents, each of them durable in its own parent.
fn create_dir_durably(dir: &Path) -> io::Result<()> {
    match DirBuilder::new().mode(0o700).create(dir) {
        Ok(()) => {}
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists && dir.is_dir() => return Ok(()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => match dir.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => {
                create_dir_durably(parent)?;
                DirBuilder::new().mode(0o700).create(dir)?;
            }
            _ => return Err(error),
        },
        Err(error) => return Err(error),
    }
    let parent = dir.parent().filter(|parent| !parent.as_os_str().is_empty());
    fs::File::open(parent.unwrap_or(Path::new(".")))?.sync_all()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::os::unix::fs::PermissionsExt;

    use super::*;
    use crate::disk::read_full;

    #[test]
    fn missing_parents_are_made_for_the_owner_only() {
        let temporary = tempfile::tempdir().unwrap();
        let dir = temporary.path().join("a/b");
        let disk = OsDisk::open(&dir).unwrap();
        disk.create("x").unwrap();
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!((mode(&dir), mode(&dir.join("x"))), (0o700, 0o600));
    }

    #[test]
    fn a_directory_is_taken_once_until_it_is_let_go() {
        let dir = tempfile::tempdir().unwrap();
        let disk = OsDisk::open(dir.path()).unwrap();
        assert!(matches!(OsDisk::open(dir.path()), Err(OpenDiskError::Locked)));
        drop(disk);
        assert!(OsDisk::open(dir.path()).is_ok());
    }

    #[test]
    fn files_are_written_listed_renamed_and_removed() {
        let dir = tempfile::tempdir().unwrap();
        let disk = OsDisk::open(dir.path()).unwrap();
        let file = disk.create("x").unwrap();
        file.write_at(2, b"abc").unwrap();
        file.sync().unwrap();
        disk.rename("x", "y").unwrap();
        disk.sync().unwrap();
        let mut buf = [9; 8];
        assert_eq!(read_full(&*disk.open("y").unwrap(), 1, &mut buf).unwrap(), 4);
        assert_eq!(&buf[..4], b"\0abc");
        let mut files = disk.list().unwrap();
        files.sort();
        assert_eq!(files, [("lock".to_owned(), 0), ("y".to_owned(), 5)]);
        disk.remove("y").unwrap();
        assert_eq!(disk.list().unwrap().len(), 1);
    }
}
