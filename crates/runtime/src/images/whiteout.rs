//! Deletions in a layer: how archives write them, and how overlayfs does.
//!
//! An archive has an empty file `.wh.name` for a name that is gone, and `.wh..wh..opq` in a directory of
//! which nothing below shows through (the OCI image specification, "Whiteouts"). overlayfs has a character
//! device 0:0 in the name's place, and the attribute `trusted.overlay.opaque` on the directory.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};

/// The attribute of a directory of which nothing below shows through.
pub(super) const OPAQUE_ATTRIBUTE: &str = "trusted.overlay.opaque";

/// What an entry's name means.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Meaning {
    /// A file, directory or whatever the entry says, at this path relative to the root.
    Entry(PathBuf),
    /// The name is gone.
    Whiteout(PathBuf),
    /// Nothing of this directory in lower layers is seen.
    Opaque(PathBuf),
    /// Bookkeeping of AUFS, which means nothing here.
    Ignored,
}

/// A path in an archive that is no path in an image.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum PathError {
    #[error("the entry {0:?} climbs out with \"..\"")]
    Climbs(PathBuf),
    #[error("the entry {0:?} deletes what cannot be deleted")]
    Whiteout(PathBuf),
}

/// Reads an entry's path. A leading slash is the image's root; some tools write it.
pub(super) fn meaning(path: &Path) -> Result<Meaning, PathError> {
    let relative = relative(path)?;
    let Some(name) = relative.file_name().map(OsStr::as_bytes) else {
        return Ok(Meaning::Entry(relative));
    };
    match name.strip_prefix(b".wh.") {
        None => Ok(Meaning::Entry(relative)),
        Some(b".wh..opq") => Ok(Meaning::Opaque(
            relative.parent().unwrap_or(Path::new("")).to_owned(),
        )),
        Some(special) if special.starts_with(b".wh.") => Ok(Meaning::Ignored),
        Some(b"" | b"." | b"..") => Err(PathError::Whiteout(path.to_owned())),
        Some(deleted) => Ok(Meaning::Whiteout(
            relative.with_file_name(OsStr::from_bytes(deleted)),
        )),
    }
}

/// A path below the root of an image. `..` is refused even where it would stay inside: with symbolic links
/// on the way, nobody could say where it leads.
pub(super) fn relative(path: &Path) -> Result<PathBuf, PathError> {
    let mut relative = PathBuf::new();
    for component in path.components() {
        match component {
            Component::Normal(name) => relative.push(name),
            Component::RootDir | Component::CurDir => {}
            Component::ParentDir | Component::Prefix(_) => return Err(PathError::Climbs(path.to_owned())),
        }
    }
    Ok(relative)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_mean_entries_or_deletions() {
        let entry = |path: &str| Ok(Meaning::Entry(path.into()));
        let cases = [
            ("etc/passwd", entry("etc/passwd")),
            ("./etc//passwd/", entry("etc/passwd")),
            ("/etc/passwd", entry("etc/passwd")),
            ("./", entry("")),
            ("a/.wh.b", Ok(Meaning::Whiteout("a/b".into()))),
            (".wh.b", Ok(Meaning::Whiteout("b".into()))),
            ("a/.wh..wh..opq", Ok(Meaning::Opaque("a".into()))),
            (".wh..wh..opq", Ok(Meaning::Opaque("".into()))),
            (".wh..wh.plnk/x", entry(".wh..wh.plnk/x")),
            (".wh..wh.aufs", Ok(Meaning::Ignored)),
            ("a/.wh.", Err(PathError::Whiteout("a/.wh.".into()))),
            ("a/.wh...", Err(PathError::Whiteout("a/.wh...".into()))),
            ("../x", Err(PathError::Climbs("../x".into()))),
            ("a/../../x", Err(PathError::Climbs("a/../../x".into()))),
            ("a/../b", Err(PathError::Climbs("a/../b".into()))),
        ];
        for (path, expected) in cases {
            assert_eq!(meaning(Path::new(path)), expected, "{path}");
        }
    }
}
