//! Writes a volume's files so that a reader sees either the old ones or the new ones, never a mix:
//! they are in a directory of their own that a link `..data` points to, and each visible name is a
//! link through it. The layout is the kubelet's, which programs that watch such volumes know.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::os::unix::fs::{PermissionsExt as _, chown, symlink};
use std::path::{Path, PathBuf};

use super::payload::Payload;

const DATA: &str = "..data";
const DATA_NEW: &str = "..data_tmp";

/// A file operation that failed.
#[derive(Debug, thiserror::Error)]
#[error("{action} {path:?}: {source}")]
pub(crate) struct WriteError {
    pub(crate) action: &'static str,
    pub(crate) path: PathBuf,
    pub(crate) source: io::Error,
}

pub(crate) fn failed(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> WriteError {
    let path = path.to_owned();
    move |source| WriteError { action, path, source }
}

/// Makes a directory hold just these files. Does nothing where it does already. `group` owns them,
/// if given.
pub(crate) fn write(dir: &Path, payload: &Payload, group: Option<u32>) -> Result<(), WriteError> {
    fs::create_dir_all(dir).map_err(failed("make", dir))?;
    let data = dir.join(DATA);
    let old = fs::read_link(&data).ok().map(|target| dir.join(target));
    if old.as_ref().is_some_and(|old| holds(old, payload)) {
        return link_names(dir, payload);
    }
    let stamp = jiff::Timestamp::now().as_nanosecond();
    let new = dir.join(format!("..{stamp}"));
    write_files(&new, payload, group)?;
    let aside = dir.join(DATA_NEW);
    let _ = fs::remove_file(&aside);
    symlink(format!("..{stamp}"), &aside).map_err(failed("link", &aside))?;
    fs::rename(&aside, &data).map_err(failed("rename", &data))?;
    link_names(dir, payload)?;
    if let Some(old) = old {
        fs::remove_dir_all(&old).map_err(failed("remove", &old))?;
    }
    Ok(())
}

fn write_files(dir: &Path, payload: &Payload, group: Option<u32>) -> Result<(), WriteError> {
    fs::create_dir_all(dir).map_err(failed("make", dir))?;
    fs::set_permissions(dir, fs::Permissions::from_mode(0o755)).map_err(failed("set the mode of", dir))?;
    for (name, file) in payload {
        let path = dir.join(name);
        if let Some(parent) = path.parent() {
            fs::create_dir_all(parent).map_err(failed("make", parent))?;
        }
        fs::write(&path, &file.content).map_err(failed("write", &path))?;
        if group.is_some() {
            chown(&path, None, group).map_err(failed("change the group of", &path))?;
        }
        // The group that owns the volume may read what its owner may.
        let extra = if group.is_some() {
            (file.mode & 0o700) >> 3 & 0o050
        } else {
            0
        };
        fs::set_permissions(&path, fs::Permissions::from_mode(file.mode | extra))
            .map_err(failed("set the mode of", &path))?;
    }
    Ok(())
}

fn holds(dir: &Path, payload: &Payload) -> bool {
    let count = count_files(dir).unwrap_or(usize::MAX);
    count == payload.len()
        && payload
            .iter()
            .all(|(name, file)| fs::read(dir.join(name)).is_ok_and(|content| content == file.content))
}

fn count_files(dir: &Path) -> io::Result<usize> {
    let mut count = 0;
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        count += if entry.file_type()?.is_dir() {
            count_files(&entry.path())?
        } else {
            1
        };
    }
    Ok(count)
}

/// Makes the visible names, and takes away those that are no more.
fn link_names(dir: &Path, payload: &Payload) -> Result<(), WriteError> {
    let names: BTreeSet<_> = payload
        .keys()
        .filter_map(|path| path.components().next())
        .map(|name| name.as_os_str().to_owned())
        .collect();
    for name in &names {
        let link = dir.join(name);
        if fs::symlink_metadata(&link).is_err() {
            symlink(Path::new(DATA).join(name), &link).map_err(failed("link", &link))?;
        }
    }
    for entry in fs::read_dir(dir).map_err(failed("read", dir))?.flatten() {
        let name = entry.file_name();
        let hidden = name.to_string_lossy().starts_with("..");
        if !hidden && !names.contains(&name) {
            fs::remove_file(entry.path()).map_err(failed("remove", &entry.path()))?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::payload::File;
    use super::*;

    fn payload(files: &[(&str, &str)]) -> Payload {
        let file = |content: &str| File {
            content: content.as_bytes().to_vec(),
            mode: 0o640,
        };
        files
            .iter()
            .map(|(name, content)| (PathBuf::from(name), file(content)))
            .collect()
    }

    fn visible(dir: &Path) -> Vec<String> {
        let mut names: Vec<_> = fs::read_dir(dir)
            .expect("the directory")
            .flatten()
            .map(|entry| entry.file_name().to_string_lossy().into_owned())
            .filter(|name| !name.starts_with(".."))
            .collect();
        names.sort();
        names
    }

    #[test]
    fn files_are_replaced_all_at_once() {
        let dir = tempfile::tempdir().expect("a directory");
        let dir = dir.path();
        write(dir, &payload(&[("a", "1"), ("sub/b", "2")]), None).expect("a write");
        assert_eq!(visible(dir), ["a", "sub"]);
        assert_eq!(fs::read_to_string(dir.join("sub/b")).expect("a file"), "2");
        let before = fs::read_link(dir.join(DATA)).expect("a link");
        write(dir, &payload(&[("a", "1"), ("sub/b", "2")]), None).expect("a write");
        assert_eq!(
            fs::read_link(dir.join(DATA)).expect("a link"),
            before,
            "nothing changed"
        );
        write(dir, &payload(&[("a", "3"), ("c", "4")]), None).expect("a write");
        assert_eq!(visible(dir), ["a", "c"]);
        assert_eq!(fs::read_to_string(dir.join("a")).expect("a file"), "3");
        assert!(!dir.join(before).exists(), "the old files are gone");
        let mode = fs::metadata(dir.join("a")).expect("a file").permissions().mode();
        assert_eq!(mode & 0o777, 0o640);
    }
}
