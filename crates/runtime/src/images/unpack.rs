//! Unpacking a layer: a process of its own, confined to the directory the layer goes into.
//!
//! It is this same binary started anew. It reads the archive, compressed or not, from standard input, and
//! `chroot`s into the layer's directory before it looks at the first byte: whatever names, links and
//! symbolic links the archive contains, the kernel resolves them inside that directory. Its standard output
//! is one line of JSON, the [`Unpacked`] layer or why not.
//!
//! Ownership, modes, times, hard links and extended attributes are kept. Device nodes are made only for the
//! devices every container has anyway; others are left out, as a container cannot open them.

use std::ffi::OsString;
use std::fs;
use std::io::{self, BufReader, Read, Write};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::exit;

use rustix::fs::{AtFlags, CWD, FileType, Mode, OFlags, Timespec, Timestamps, XattrFlags};
use rustix::io::Errno;
use serde::{Deserialize, Serialize};
use tar::{Archive, Entry, EntryType};

use super::compression;
use super::digest::{Digest, Digesting};
use super::whiteout::{self, Meaning, OPAQUE_ATTRIBUTE};

/// The word that makes this binary unpack a layer: its first argument.
pub const ARGUMENT: &str = "unpack";

/// What became of a layer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Outcome {
    Unpacked(Unpacked),
    Failed(String),
}

/// A layer on disk.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Unpacked {
    /// Digest of the uncompressed archive.
    pub(super) diff_id: Digest,
    /// Sum of the sizes of its files.
    pub(super) bytes: u64,
}

/// Unpacks standard input into the directory that `arguments` name; never returns.
///
/// To be called first thing in `main` when the first argument is [`ARGUMENT`].
pub fn main(mut arguments: impl Iterator<Item = OsString>) -> ! {
    let outcome = match arguments.next().map(PathBuf::from) {
        Some(directory) => run(&directory).map_or_else(|e| Outcome::Failed(e.to_string()), Outcome::Unpacked),
        None => Outcome::Failed("no directory to unpack into".to_owned()),
    };
    let line = serde_json::to_vec(&outcome).unwrap_or_default();
    let written = io::stdout().write_all(&line);
    exit(i32::from(
        written.is_err() || matches!(outcome, Outcome::Failed(_)),
    ))
}

/// Why a layer cannot be unpacked.
#[derive(Debug, thiserror::Error)]
enum UnpackError {
    #[error("confine the process to {path:?}: {source}")]
    Confine { path: PathBuf, source: io::Error },
    #[error("read the archive: {0}")]
    Archive(#[source] io::Error),
    #[error(transparent)]
    Path(#[from] whiteout::PathError),
    #[error("{kind:?} {path:?} cannot be part of an image")]
    Kind { path: PathBuf, kind: EntryType },
    #[error("make {path:?}: {source}")]
    Make { path: PathBuf, source: io::Error },
    #[error("set {what} of {path:?}: {source}")]
    Attribute {
        path: PathBuf,
        what: &'static str,
        source: io::Error,
    },
    #[error("write the layer to disk: {0}")]
    Sync(#[source] io::Error),
}

fn run(directory: &Path) -> Result<Unpacked, UnpackError> {
    confine(directory).map_err(|source| UnpackError::Confine {
        path: directory.to_owned(),
        source,
    })?;
    rustix::process::umask(Mode::empty());
    let input =
        compression::reader(BufReader::with_capacity(1 << 16, io::stdin())).map_err(UnpackError::Archive)?;
    let mut archive = Archive::new(Digesting::new(input));
    let bytes = unpack(&mut archive)?;
    let (diff_id, _) = archive.into_inner().finish().map_err(UnpackError::Archive)?;
    sync().map_err(UnpackError::Sync)?;
    Ok(Unpacked { diff_id, bytes })
}

fn confine(directory: &Path) -> io::Result<()> {
    rustix::process::chroot(directory)?;
    Ok(rustix::process::chdir("/")?)
}

/// One pass over a whole layer is cheaper than a sync for each of its files.
fn sync() -> io::Result<()> {
    let root = rustix::fs::open(
        "/",
        OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC,
        Mode::empty(),
    )?;
    Ok(rustix::fs::syncfs(&root)?)
}

fn unpack(archive: &mut Archive<impl Read>) -> Result<u64, UnpackError> {
    let mut bytes = 0;
    // A directory's times are set when nothing more is put into it.
    let mut directory_times = Vec::new();
    for entry in archive.entries().map_err(UnpackError::Archive)? {
        let mut entry = entry.map_err(UnpackError::Archive)?;
        let path = entry.path().map_err(UnpackError::Archive)?.into_owned();
        match whiteout::meaning(&path)? {
            Meaning::Ignored => {}
            Meaning::Opaque(path) => make_opaque(&path)?,
            Meaning::Whiteout(path) => make_whiteout(&path)?,
            Meaning::Entry(path) => {
                bytes += entry.size();
                if let Some(times) = unpack_entry(&mut entry, &path)? {
                    directory_times.push((absolute(&path), times));
                }
            }
        }
    }
    for (path, times) in directory_times.into_iter().rev() {
        set_times(&path, &times)?;
    }
    Ok(bytes)
}

fn absolute(path: &Path) -> PathBuf {
    Path::new("/").join(path)
}

/// Unpacks one entry; gives the times of a directory.
fn unpack_entry(entry: &mut Entry<'_, impl Read>, path: &Path) -> Result<Option<Timestamps>, UnpackError> {
    let kind = entry.header().entry_type();
    if kind.is_pax_global_extensions() {
        return Ok(None);
    }
    let extensions = Extensions::read(entry).map_err(UnpackError::Archive)?;
    let target = absolute(path);
    let made = |source| UnpackError::Make {
        path: path.to_owned(),
        source,
    };
    if !path.as_os_str().is_empty() {
        make_parents(path).map_err(made)?;
    }
    let made = match kind {
        EntryType::Directory => make_directory(&target).map(|()| true),
        EntryType::Regular | EntryType::Continuous | EntryType::GNUSparse => {
            make_file(entry, &target).map(|()| true)
        }
        EntryType::Symlink => make_symlink(entry, &target).map(|()| true),
        // The file it names has its attributes already, or gets them from its own entry.
        EntryType::Link => make_link(entry, &target).map(|()| false),
        EntryType::Fifo => make_node(&target, FileType::Fifo, 0).map(|()| true),
        EntryType::Char => make_device(entry, &target),
        EntryType::Block => Ok(false),
        kind => {
            return Err(UnpackError::Kind {
                path: path.to_owned(),
                kind,
            });
        }
    }
    .map_err(made)?;
    if !made {
        return Ok(None);
    }
    set_attributes(entry, &target, kind, &extensions)?;
    let times = extensions.times(entry.header().mtime().map_err(UnpackError::Archive)?);
    if kind == EntryType::Directory {
        return Ok(Some(times));
    }
    set_times(&target, &times)?;
    Ok(None)
}

/// Directories that have no entry of their own.
fn make_parents(path: &Path) -> io::Result<()> {
    let mut at = PathBuf::from("/");
    for part in path.parent().unwrap_or(Path::new("")) {
        at.push(part);
        match fs::metadata(&at) {
            Ok(metadata) if metadata.is_dir() => {}
            // A deletion, then a directory of the same name: nothing of the old one shows through.
            Ok(metadata) if is_whiteout(&metadata) => make_directory(&at)?,
            Ok(_) => return Err(Errno::NOTDIR.into()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                rustix::fs::mkdir(&at, Mode::from_raw_mode(0o755))?;
            }
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

fn make_directory(target: &Path) -> io::Result<()> {
    match fs::symlink_metadata(target) {
        Ok(metadata) if metadata.is_dir() => return Ok(()),
        Ok(metadata) => {
            fs::remove_file(target)?;
            rustix::fs::mkdir(target, Mode::from_raw_mode(0o755))?;
            if is_whiteout(&metadata) {
                set_opaque(target)?;
            }
        }
        Err(_) => rustix::fs::mkdir(target, Mode::from_raw_mode(0o755))?,
    }
    Ok(())
}

/// What an entry of the same name in the same layer has made before; the later one wins.
fn make_room(target: &Path) -> io::Result<()> {
    match fs::symlink_metadata(target) {
        Ok(metadata) if metadata.is_dir() => fs::remove_dir_all(target),
        Ok(_) => fs::remove_file(target),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error),
    }
}

fn make_file(entry: &mut Entry<'_, impl Read>, target: &Path) -> io::Result<()> {
    make_room(target)?;
    let mut file = fs::OpenOptions::new().write(true).create_new(true).open(target)?;
    let copied = io::copy(entry, &mut file)?;
    if copied != entry.size() {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    Ok(())
}

fn make_symlink(entry: &Entry<'_, impl Read>, target: &Path) -> io::Result<()> {
    let destination = entry.link_name()?.ok_or(io::ErrorKind::InvalidData)?;
    make_room(target)?;
    std::os::unix::fs::symlink(destination, target)
}

fn make_link(entry: &Entry<'_, impl Read>, target: &Path) -> io::Result<()> {
    let existing = entry.link_name()?.ok_or(io::ErrorKind::InvalidData)?;
    let existing = absolute(&whiteout::relative(&existing).map_err(io::Error::other)?);
    if existing == target {
        return Ok(());
    }
    make_room(target)?;
    Ok(rustix::fs::linkat(CWD, &existing, CWD, target, AtFlags::empty())?)
}

fn make_node(target: &Path, kind: FileType, device: u64) -> io::Result<()> {
    make_room(target)?;
    Ok(rustix::fs::mknodat(
        CWD,
        target,
        kind,
        Mode::from_raw_mode(0o600),
        device,
    )?)
}

/// `false`: left out.
fn make_device(entry: &Entry<'_, impl Read>, target: &Path) -> io::Result<bool> {
    let major = entry.header().device_major()?.unwrap_or(0);
    let minor = entry.header().device_minor()?.unwrap_or(0);
    if !is_harmless(major, minor) {
        return Ok(false);
    }
    make_node(
        target,
        FileType::CharacterDevice,
        rustix::fs::makedev(major, minor),
    )?;
    Ok(true)
}

/// null, zero, full, random, urandom; tty and ptmx. Not 0:0, which to overlayfs is a deletion.
fn is_harmless(major: u32, minor: u32) -> bool {
    matches!((major, minor), (1, 3 | 5 | 7 | 8 | 9) | (5, 0 | 2))
}

fn is_whiteout(metadata: &fs::Metadata) -> bool {
    use std::os::unix::fs::FileTypeExt;
    metadata.file_type().is_char_device() && metadata.rdev() == 0
}

fn make_whiteout(path: &Path) -> Result<(), UnpackError> {
    let target = absolute(path);
    let make = || -> io::Result<()> {
        make_parents(path)?;
        match fs::symlink_metadata(&target) {
            // The layer has put a directory in the place of what it deletes.
            Ok(metadata) if metadata.is_dir() => set_opaque(&target),
            // Something else took its place, which hides it as well.
            Ok(_) => Ok(()),
            Err(_) => make_node(&target, FileType::CharacterDevice, 0),
        }
    };
    make().map_err(|source| UnpackError::Make {
        path: path.to_owned(),
        source,
    })
}

fn make_opaque(path: &Path) -> Result<(), UnpackError> {
    let target = absolute(path);
    let make = || -> io::Result<()> {
        make_parents(path)?;
        make_directory(&target)?;
        set_opaque(&target)
    };
    make().map_err(|source| UnpackError::Make {
        path: path.to_owned(),
        source,
    })
}

fn set_opaque(target: &Path) -> io::Result<()> {
    Ok(rustix::fs::lsetxattr(
        target,
        OPAQUE_ATTRIBUTE,
        b"y",
        XattrFlags::empty(),
    )?)
}

/// What an archive says beside the fixed fields of an entry.
#[derive(Debug, Default)]
struct Extensions {
    attributes: Vec<(String, Vec<u8>)>,
    modified: Option<Timespec>,
}

impl Extensions {
    fn read(entry: &mut Entry<'_, impl Read>) -> io::Result<Self> {
        let mut found = Self::default();
        for extension in entry.pax_extensions()?.into_iter().flatten() {
            let extension = extension?;
            let Ok(key) = extension.key() else { continue };
            if let Some(name) = key.strip_prefix("SCHILY.xattr.") {
                found
                    .attributes
                    .push((name.to_owned(), extension.value_bytes().to_vec()));
            } else if key == "mtime" {
                found.modified = extension.value().ok().and_then(parse_time);
            }
        }
        Ok(found)
    }

    fn times(&self, seconds: u64) -> Timestamps {
        let whole = Timespec {
            tv_sec: i64::try_from(seconds).unwrap_or(0),
            tv_nsec: 0,
        };
        let modified = self.modified.unwrap_or(whole);
        Timestamps {
            last_access: modified,
            last_modification: modified,
        }
    }
}

/// Seconds with a fraction.
fn parse_time(text: &str) -> Option<Timespec> {
    let (seconds, fraction) = text.split_once('.').unwrap_or((text, ""));
    let nanoseconds = format!("{:0<9}", fraction.get(..9).unwrap_or(fraction));
    Some(Timespec {
        tv_sec: seconds.parse().ok()?,
        tv_nsec: nanoseconds.parse().ok()?,
    })
}

fn set_attributes(
    entry: &Entry<'_, impl Read>,
    target: &Path,
    kind: EntryType,
    extensions: &Extensions,
) -> Result<(), UnpackError> {
    let failed = |what| {
        move |source| UnpackError::Attribute {
            path: target.to_owned(),
            what,
            source,
        }
    };
    let header = entry.header();
    let id = |id: io::Result<u64>| {
        id.map(|id| u32::try_from(id).unwrap_or(0))
            .map_err(UnpackError::Archive)
    };
    let (uid, gid) = (id(header.uid())?, id(header.gid())?);
    std::os::unix::fs::lchown(target, Some(uid), Some(gid)).map_err(failed("the owner"))?;
    if kind != EntryType::Symlink {
        // After the owner, because a change of owner clears the set-user-id bit.
        let mode = header.mode().map_err(UnpackError::Archive)? & 0o7777;
        fs::set_permissions(target, fs::Permissions::from_mode(mode)).map_err(failed("the mode"))?;
    }
    for (name, value) in extensions.attributes.iter().filter(|(name, _)| is_kept(name)) {
        match rustix::fs::lsetxattr(target, name.as_str(), value, XattrFlags::empty()) {
            // The file system has no such attributes; containerd goes on as well.
            Ok(()) | Err(Errno::NOTSUP) => {}
            Err(error) => return Err(failed("an extended attribute")(error.into())),
        }
    }
    Ok(())
}

/// Not `trusted.*`: overlayfs believes what it finds there.
fn is_kept(attribute: &str) -> bool {
    attribute.starts_with("user.")
        || matches!(
            attribute,
            "security.capability" | "system.posix_acl_access" | "system.posix_acl_default"
        )
}

fn set_times(target: &Path, times: &Timestamps) -> Result<(), UnpackError> {
    rustix::fs::utimensat(CWD, target, times, AtFlags::SYMLINK_NOFOLLOW).map_err(|error| {
        UnpackError::Attribute {
            path: target.to_owned(),
            what: "the times",
            source: error.into(),
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_have_fractions() {
        let check = |text, seconds, nanoseconds| {
            let time = parse_time(text).map(|time| (time.tv_sec, time.tv_nsec));
            assert_eq!(time, Some((seconds, nanoseconds)), "{text}");
        };
        check("1350244992.023960108", 1_350_244_992, 23_960_108);
        check("5", 5, 0);
        assert!(parse_time("x").is_none());
    }

    #[test]
    fn overlayfs_own_attributes_are_not_taken_from_an_archive() {
        for (name, kept) in [
            ("user.x", true),
            ("security.capability", true),
            ("trusted.overlay.redirect", false),
            ("security.selinux", false),
        ] {
            assert_eq!(is_kept(name), kept, "{name}");
        }
    }
}
