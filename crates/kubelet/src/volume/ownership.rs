//! Volumes that belong to a pod's group (`fsGroup`, `fsGroupChangePolicy`: "Configure a Security Context
//! for a Pod or Container").

use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, chown, lchown};
use std::path::Path;

use super::atomic::{WriteError, failed};

/// What the group may do with files, and with directories: what is made in them is the group's too.
const FILE_BITS: u32 = 0o660;
const DIRECTORY_BITS: u32 = 0o2770;

/// Gives a directory to a group, so that whatever is made in it belongs to the group.
pub(super) fn give(path: &Path, group: u32) -> Result<(), WriteError> {
    let mode = fs::metadata(path).map_err(failed("look at", path))?.mode();
    chown(path, None, Some(group)).map_err(failed("change the group of", path))?;
    fs::set_permissions(path, fs::Permissions::from_mode(mode | DIRECTORY_BITS))
        .map_err(failed("set the mode of", path))
}

/// Gives a directory and all that is in it to a group. `on_mismatch`: only if the directory itself is not
/// the group's yet (`OnRootMismatch`). Links are the group's, what they lead to is not touched.
pub(super) fn give_all(path: &Path, group: u32, on_mismatch: bool) -> Result<(), WriteError> {
    let root = fs::metadata(path).map_err(failed("look at", path))?;
    if on_mismatch && root.gid() == group && root.mode() & DIRECTORY_BITS == DIRECTORY_BITS {
        return Ok(());
    }
    // The directory itself comes last: while it is not the group's, the work is not done.
    let mut found = vec![path.to_owned()];
    let mut next = 0;
    while let Some(directory) = found.get(next).cloned() {
        next += 1;
        for entry in fs::read_dir(&directory).map_err(failed("read", &directory))? {
            let entry = entry.map_err(failed("read", &directory))?;
            let inner = entry.path();
            let about = fs::symlink_metadata(&inner).map_err(failed("look at", &inner))?;
            if about.is_dir() {
                found.push(inner);
                continue;
            }
            lchown(&inner, None, Some(group)).map_err(failed("change the group of", &inner))?;
            if !about.is_symlink() {
                let mode = fs::Permissions::from_mode(about.mode() | FILE_BITS);
                fs::set_permissions(&inner, mode).map_err(failed("set the mode of", &inner))?;
            }
        }
    }
    found
        .iter()
        .rev()
        .try_for_each(|directory| give(directory, group))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_that_is_in_a_volume_is_given_to_the_group() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = |name: &str| dir.path().join(name);
        fs::create_dir(path("inner")).expect("a directory");
        fs::write(path("inner/file"), "x").expect("a file");
        fs::set_permissions(path("inner/file"), fs::Permissions::from_mode(0o600)).expect("a mode");
        std::os::unix::fs::symlink("/etc/hostname", path("link")).expect("a link");
        let outside = fs::metadata("/etc/hostname").expect("a file").gid();
        let shown = |name: &str| {
            let about = fs::symlink_metadata(path(name)).expect("a file");
            (about.gid(), about.mode() & 0o7777)
        };
        give_all(dir.path(), 4242, false).expect("given");
        assert_eq!(shown("inner"), (4242, 0o2775));
        assert_eq!(shown("inner/file"), (4242, 0o660));
        assert_eq!(shown("link").0, 4242);
        assert_eq!(fs::metadata("/etc/hostname").expect("a file").gid(), outside);

        // What came later is looked at only if the top says so.
        fs::write(path("later"), "x").expect("a file");
        lchown(path("later"), None, Some(0)).expect("a group");
        give_all(dir.path(), 4242, true).expect("given");
        assert_eq!(shown("later").0, 0);
        give_all(dir.path(), 4242, false).expect("given");
        assert_eq!(shown("later").0, 4242);
    }
}
