//! The directories that volumes are: made, and removed with all that is in them.
//!
//! Only what is directly below the volumes directory and named after the volume is ever removed,
//! whatever a PersistentVolume says, and symbolic links are removed, never followed. A directory is
//! first renamed, so that a half-removed one is never taken for a volume.

use std::fs;
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

/// Longest name of a volume's directory; file names end at 255, and renaming adds a prefix.
const NAME_LIMIT: usize = 240;
/// Marks what is being removed. No volume's name begins with a dot.
const REMOVED: &str = ".removed-";

/// Why a directory was not made or removed.
#[derive(Debug, thiserror::Error)]
pub(super) enum DirectoryError {
    /// The file system refused.
    #[error("{what} {path}: {source}")]
    Io {
        /// What was attempted.
        what: &'static str,
        /// Where.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// The path is not one of ours.
    #[error("{0} is not the directory of this volume; it is left alone")]
    Foreign(PathBuf),
}

fn failed(what: &'static str, path: &Path) -> impl FnOnce(io::Error) -> DirectoryError {
    let path = path.to_owned();
    move |source| DirectoryError::Io { what, path, source }
}

/// The name of a volume's directory; the volume's own name makes it unique.
pub(super) fn name(volume: &str, namespace: &str, claim: &str) -> String {
    let mut name = format!("{volume}_{namespace}_{claim}");
    name.truncate(NAME_LIMIT);
    name
}

/// Makes a directory that everybody may write to, as pods run as anybody. One that is there already
/// is taken: an earlier attempt has made it.
pub(super) fn make(root: &Path, name: &str) -> Result<PathBuf, DirectoryError> {
    let path = root.join(name);
    if !root.exists() {
        // Other users of the machine have no business in it.
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(root)
            .map_err(failed("make", root))?;
        if let Some(parent) = root.parent() {
            sync(parent)?;
        }
    }
    match fs::create_dir(&path) {
        Ok(()) => {}
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists && is_directory(&path) => {}
        Err(error) => return Err(failed("make", &path)(error)),
    }
    // The umask has its say in what `create_dir` makes.
    fs::set_permissions(&path, fs::Permissions::from_mode(0o777))
        .map_err(failed("set the mode of", &path))?;
    sync(root)?;
    Ok(path)
}

/// Removes the directory of a volume and all that is in it. It is no error if it is gone already.
pub(super) fn remove(root: &Path, path: &Path, volume: &str) -> Result<(), DirectoryError> {
    let Some(name) = own_name(root, path, volume) else {
        return Err(DirectoryError::Foreign(path.to_owned()));
    };
    let aside = root.join(format!("{REMOVED}{name}"));
    remove_all(&aside)?;
    match fs::rename(path, &aside) {
        Ok(()) => sync(root)?,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(failed("rename", path)(error)),
    }
    remove_all(&aside)
}

/// Removes what an earlier process has not finished removing.
pub(super) fn sweep(root: &Path) -> Result<(), DirectoryError> {
    let Ok(entries) = fs::read_dir(root) else {
        return Ok(());
    };
    for entry in entries.flatten() {
        if entry.file_name().to_string_lossy().starts_with(REMOVED) {
            remove_all(&entry.path())?;
        }
    }
    Ok(())
}

/// The name of a volume's directory, if a path is that of one directly below the root.
fn own_name<'p>(root: &Path, path: &'p Path, volume: &str) -> Option<&'p str> {
    let name = path.file_name()?.to_str()?;
    let is_own = name
        .strip_prefix(volume)
        .is_some_and(|rest| rest.is_empty() || rest.starts_with('_'));
    // Compared as texts: `Path` would take `/a/./b` and `/a/b` for the same.
    let is_below = path.as_os_str() == root.join(name).as_os_str();
    (is_own && is_below && !volume.is_empty() && !name.starts_with('.')).then_some(name)
}

fn is_directory(path: &Path) -> bool {
    fs::symlink_metadata(path).is_ok_and(|found| found.is_dir())
}

/// Removes a directory, or whatever else has its name; `remove_dir_all` follows no links.
fn remove_all(path: &Path) -> Result<(), DirectoryError> {
    let removed = if is_directory(path) {
        fs::remove_dir_all(path)
    } else {
        fs::remove_file(path)
    };
    match removed {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(failed("remove", path)(error)),
        _ => Ok(()),
    }
}

/// Makes a directory's entries durable.
fn sync(path: &Path) -> Result<(), DirectoryError> {
    fs::File::open(path)
        .and_then(|directory| directory.sync_all())
        .map_err(failed("sync", path))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    /// A directory that goes with the test.
    struct Scratch(PathBuf);

    impl Scratch {
        fn new(name: &str) -> Scratch {
            let path = std::env::temp_dir().join(format!("stead-volumes-{name}-{}", std::process::id()));
            let _ = fs::remove_dir_all(&path);
            fs::create_dir_all(&path).expect("a directory");
            Scratch(path)
        }
    }

    impl Drop for Scratch {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    #[test]
    fn a_directory_is_made_once_for_everybody() {
        let scratch = Scratch::new("make");
        let root = scratch.0.join("data/volumes");
        let path = make(&root, "pvc-1_ns_c").expect("made");
        fs::write(path.join("file"), "kept").expect("a file");
        assert_eq!(make(&root, "pvc-1_ns_c").expect("there"), path);
        assert!(path.join("file").exists());
        let mode = |path: &Path| fs::metadata(path).expect("there").permissions().mode() & 0o7777;
        assert_eq!((mode(&path), mode(&root)), (0o777, 0o700));
        symlink("/", root.join("pvc-2")).expect("a link");
        assert!(make(&root, "pvc-2").is_err());
    }

    #[test]
    fn removing_follows_no_links() {
        let scratch = Scratch::new("links");
        let (root, outside) = (scratch.0.join("volumes"), scratch.0.join("outside"));
        fs::create_dir(&outside).expect("a directory");
        fs::write(outside.join("precious"), "").expect("a file");
        let path = make(&root, "pvc-1_ns_c").expect("made");
        symlink(&outside, path.join("link")).expect("a link");
        remove(&root, &path, "pvc-1").expect("removed");
        remove(&root, &path, "pvc-1").expect("gone already");
        // The directory itself may have been replaced by a link.
        symlink(&outside, &path).expect("a link");
        remove(&root, &path, "pvc-1").expect("removed");
        assert!(outside.join("precious").exists());
        assert_eq!(fs::read_dir(&root).expect("there").count(), 0);
    }

    #[test]
    fn only_the_volumes_own_directory_is_removed() {
        let scratch = Scratch::new("foreign");
        let root = scratch.0.join("volumes");
        let other = make(&root, "pvc-2_ns_d").expect("made");
        for path in [
            other.clone(),
            root.clone(),
            root.join(".."),
            root.join("pvc-1/.."),
            root.join("./pvc-1"),
            root.join("pvc-2_ns_d/pvc-1"),
            scratch.0.join("pvc-1"),
            PathBuf::from("/"),
            PathBuf::from("pvc-1"),
            root.join("pvc-10"),
        ] {
            let refused = matches!(remove(&root, &path, "pvc-1"), Err(DirectoryError::Foreign(_)));
            assert!(refused, "{}", path.display());
        }
        for volume in ["", "."] {
            assert!(remove(&root, &other, volume).is_err(), "{volume:?}");
        }
        assert!(other.exists());
    }

    #[test]
    fn what_was_half_removed_goes_at_the_next_start() {
        let scratch = Scratch::new("sweep");
        let kept = make(&scratch.0, "pvc-1_ns_c").expect("made");
        make(&scratch.0, ".removed-pvc-2_ns_d").expect("made");
        sweep(&scratch.0).expect("swept");
        sweep(&scratch.0.join("absent")).expect("nothing to do");
        let left: Vec<_> = fs::read_dir(&scratch.0)
            .expect("there")
            .flatten()
            .map(|entry| entry.path())
            .collect();
        assert_eq!(left, [kept]);
    }

    #[test]
    fn long_names_are_cut() {
        assert_eq!(name("pvc-1", "ns", "c"), "pvc-1_ns_c");
        assert_eq!(name("pvc-1", "ns", &"c".repeat(253)).len(), NAME_LIMIT);
    }
}
