//! Inputs as files: those that are kept, the one that is being run, those that were found.

use std::collections::hash_map::DefaultHasher;
use std::fs::{self, File};
use std::hash::{Hash, Hasher};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

/// The files of a target.
pub(crate) struct Kept {
    target: &'static str,
    running: File,
}

impl Kept {
    /// Those of a target.
    pub(crate) fn of(target: &'static str) -> io::Result<Self> {
        let dir = findings();
        fs::create_dir_all(&dir)?;
        let running = File::create(dir.join(format!("{target}.running")))?;
        Ok(Self { target, running })
    }

    /// What is in the target's folder of `corpus`, which need not be there.
    pub(crate) fn corpus(&self) -> io::Result<Vec<(PathBuf, Vec<u8>)>> {
        let entries = match fs::read_dir(Path::new("corpus").join(self.target)) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(error),
        };
        let mut paths = entries
            .map(|entry| Ok(entry?.path()))
            .collect::<io::Result<Vec<_>>>()?;
        paths.sort();
        paths
            .into_iter()
            .map(|path| Ok((path.clone(), fs::read(path)?)))
            .collect()
    }

    /// Notes what is about to be run.
    pub(crate) fn note(&self, input: &[u8]) -> io::Result<()> {
        self.running.write_all_at(input, 0)?;
        self.running.set_len(input.len() as u64)
    }

    /// Leaves a file with what was found.
    pub(crate) fn leave(&self, input: &[u8]) -> io::Result<PathBuf> {
        let mut hasher = DefaultHasher::new();
        input.hash(&mut hasher);
        let path = findings().join(format!("{}-{:016x}", self.target, hasher.finish()));
        fs::write(&path, input)?;
        Ok(path)
    }
}

fn findings() -> PathBuf {
    Path::new(env!("CARGO_TARGET_TMPDIR")).join("fuzz")
}
