//! Files that are there whole, or as they were before.

use std::ffi::OsStr;
use std::fs;
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

/// How the extension of a file begins while it is written; the writer's pid follows.
const DRAFT: &str = "new-";

/// Writes a file that only root can read, so that it is there whole or as it was before, and stays so when
/// the power fails.
///
/// # Errors
/// When it cannot be written; then nothing has changed.
pub fn write_whole(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let aside = path.with_extension(format!("{DRAFT}{}", std::process::id()));
    let write = || {
        let mut file = fs::OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(&aside)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        fs::rename(&aside, path)
    };
    write().inspect_err(|_| {
        // It was made just now, by us.
        let _ = fs::remove_file(&aside);
    })?;
    sync_dir(path.parent())
}

/// Sees to it that a directory's entries outlive a power cut.
pub(crate) fn sync_dir(dir: Option<&Path>) -> io::Result<()> {
    let dir = dir.filter(|dir| !dir.as_os_str().is_empty());
    fs::File::open(dir.unwrap_or(Path::new(".")))?.sync_all()
}

/// Is this what [`write_whole`] left of this file when whoever wrote it was killed?
pub fn is_draft(path: &Path, of: &Path) -> bool {
    let extension = path.extension().map(OsStr::to_string_lossy);
    path.parent() == of.parent()
        && path.file_stem() == of.file_stem()
        && extension.is_some_and(|extension| extension.starts_with(DRAFT))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn a_file_is_replaced_as_a_whole_and_private() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("a.json");
        fs::write(&path, "what was there before").expect("a write");
        write_whole(&path, b"new").expect("a write");
        assert_eq!(fs::read(&path).expect("the file"), b"new");
        let mode = fs::metadata(&path).expect("the file").permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        assert_eq!(fs::read_dir(dir.path()).expect("the directory").count(), 1);
        assert!(write_whole(&dir.path().join("none/a"), b"").is_err());
    }

    #[test]
    fn drafts_are_told_by_their_names() {
        for (path, expected) in [
            ("/d/cluster.new-12", true),
            ("/d/cluster.json", false),
            ("/d/cluster", false),
            ("/d/other.new-12", false),
            ("/e/cluster.new-12", false),
        ] {
            let found = is_draft(Path::new(path), Path::new("/d/cluster.json"));
            assert_eq!(found, expected, "{path}");
        }
    }
}
