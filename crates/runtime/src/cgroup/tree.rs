//! Folders of cgroups: made down from the cluster's, set up, removed.

use std::fs;
use std::io;
use std::path::Path;

use super::layout::Hierarchy;
use super::{CgroupError, CgroupPath, limits};

/// Makes a cgroup and those above it, down from the cluster's, and lets it pass its controllers on.
pub(super) fn make(hierarchy: &Hierarchy, path: &CgroupPath) -> Result<(), CgroupError> {
    let mut at = hierarchy.mount().to_owned();
    for part in &path.0 {
        if hierarchy.is_v2() {
            pass_on_controllers(hierarchy, &at)?;
        }
        let parent = at.clone();
        at.push(part);
        match fs::create_dir(&at) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            Err(error) => return Err(CgroupError::file("make", &at)(error)),
        }
        if hierarchy.has("cpuset") {
            inherit_cpuset(&parent, &at)?;
        }
    }
    Ok(())
}

/// A v2 cgroup has the controllers its parent lists here.
fn pass_on_controllers(hierarchy: &Hierarchy, dir: &Path) -> Result<(), CgroupError> {
    let file = dir.join("cgroup.subtree_control");
    let wanted = hierarchy.controllers();
    if wanted.is_empty() {
        return Ok(());
    }
    let have = fs::read_to_string(&file).map_err(CgroupError::file("read", &file))?;
    for controller in wanted {
        if !have.split_whitespace().any(|name| name == *controller) {
            fs::write(&file, format!("+{controller}")).map_err(CgroupError::file("write", &file))?;
        }
    }
    Ok(())
}

/// A v1 cpuset begins empty, and nothing can join it until it has processors and memory nodes. One that was
/// there may still be empty, if whoever made it ended before it came to this.
fn inherit_cpuset(parent: &Path, dir: &Path) -> Result<(), CgroupError> {
    for name in ["cpuset.cpus", "cpuset.mems"] {
        let (from, to) = (parent.join(name), dir.join(name));
        let read = |path: &Path| fs::read_to_string(path).map_err(CgroupError::file("read", path));
        if !read(&to)?.trim().is_empty() {
            continue;
        }
        let value = read(&from)?;
        fs::write(&to, value.trim()).map_err(CgroupError::file("write", &to))?;
    }
    Ok(())
}

pub(super) fn set(dir: &Path, file: limits::LimitFile, value: &str) -> Result<(), CgroupError> {
    let path = dir.join(file.name);
    match fs::write(&path, value) {
        // Swap accounting may not be compiled in or be switched off.
        Err(error) if file.optional && error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other.map_err(CgroupError::file("write", &path)),
    }
}

pub(super) fn remove_tree(dir: &Path) -> io::Result<()> {
    let entries = match fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error),
    };
    for entry in entries {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            remove_tree(&entry.path())?;
        }
    }
    match fs::remove_dir(dir) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}
