//! `subPath`: a path within a volume. A container may write the volume, and so place links in it:
//! the kernel resolves the path, and never beyond the volume.

use std::io;
use std::os::fd::AsRawFd as _;
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags, ResolveFlags, mkdirat, openat2};

/// Finds, or makes as directories, a path within a volume, and gives it as the host sees it.
pub(crate) fn resolve(volume: &Path, sub_path: &str) -> io::Result<PathBuf> {
    let root = rustix::fs::open(
        volume,
        OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC,
        Mode::empty(),
    )?;
    let parts: Vec<&str> = sub_path
        .split('/')
        .filter(|part| !part.is_empty() && *part != ".")
        .collect();
    let mut so_far = PathBuf::new();
    for (at, part) in parts.iter().enumerate() {
        let parent = so_far.clone();
        so_far.push(part);
        let open = |path: &Path| {
            let path = if path.as_os_str().is_empty() {
                Path::new(".")
            } else {
                path
            };
            let inside = ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS;
            openat2(&root, path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty(), inside)
        };
        match open(&so_far) {
            Ok(found) if at + 1 == parts.len() => return real_path(&found),
            Ok(_) => {}
            Err(rustix::io::Errno::NOENT) => {
                let parent = open(&parent)?;
                match mkdirat(&parent, *part, Mode::from_raw_mode(0o755)) {
                    Ok(()) | Err(rustix::io::Errno::EXIST) => {}
                    Err(error) => return Err(error.into()),
                }
                if at + 1 == parts.len() {
                    return real_path(&open(&so_far)?);
                }
            }
            Err(error) => return Err(error.into()),
        }
    }
    Ok(volume.to_owned())
}

/// Where an open file is, links resolved.
fn real_path(file: &impl std::os::fd::AsFd) -> io::Result<PathBuf> {
    std::fs::read_link(format!("/proc/self/fd/{}", file.as_fd().as_raw_fd()))
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn paths_are_found_or_made_within_the_volume() {
        let dir = tempfile::tempdir().expect("a directory");
        let volume = dir.path().canonicalize().expect("a path").join("v");
        fs::create_dir_all(volume.join("a")).expect("a directory");
        fs::write(volume.join("a/file"), "").expect("a file");
        symlink("a", volume.join("inside")).expect("a link");
        assert_eq!(resolve(&volume, "a/file").expect("found"), volume.join("a/file"));
        assert_eq!(resolve(&volume, "x/y").expect("made"), volume.join("x/y"));
        assert!(volume.join("x/y").is_dir());
        assert_eq!(
            resolve(&volume, "inside/file").expect("found"),
            volume.join("a/file")
        );
    }

    #[test]
    fn no_link_leads_out() {
        let dir = tempfile::tempdir().expect("a directory");
        let volume = dir.path().join("v");
        fs::create_dir_all(&volume).expect("a directory");
        symlink("/etc", volume.join("abs")).expect("a link");
        symlink("../..", volume.join("up")).expect("a link");
        for path in ["abs/passwd", "abs", "up/x", "../x"] {
            assert!(resolve(&volume, path).is_err(), "{path}");
        }
    }
}
