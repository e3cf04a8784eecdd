//! Who an image knows: its `/etc/passwd` and `/etc/group`, read from its layers without mounting them.
//!
//! The image's root decides where a symbolic link leads (`RESOLVE_IN_ROOT`), and only regular files are
//! read, so a hostile image cannot make the server read a file of its own or block on a pipe. A link that
//! leads from one layer into another is not followed.

use std::fs::File;
use std::io::{self, Read};
use std::path::PathBuf;

use rustix::fs::{FileType, Mode, OFlags, ResolveFlags};
use rustix::io::Errno;

use super::whiteout::OPAQUE_ATTRIBUTE;
use crate::oci::user::Users;

/// Far more than anyone's user database.
const MAX_BYTES: u64 = 4 << 20;

/// Reads the user database that shows through `layers` (topmost first).
pub(super) fn read(layers: &[PathBuf]) -> Users {
    Users {
        passwd: find(layers, "passwd"),
        group: find(layers, "group"),
    }
}

fn find(layers: &[PathBuf], name: &str) -> String {
    for layer in layers {
        match look(layer, name) {
            Ok(Found::File(text)) => return text,
            Ok(Found::Hidden) => return String::new(),
            Ok(Found::Nothing) => {}
            Err(error) => {
                tracing::debug!(?layer, name, %error, "the image's user database cannot be read");
                return String::new();
            }
        }
    }
    String::new()
}

enum Found {
    File(String),
    /// Deleted here, whatever is below.
    Hidden,
    Nothing,
}

fn look(layer: &PathBuf, name: &str) -> io::Result<Found> {
    let root = rustix::fs::open(
        layer,
        OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC,
        Mode::empty(),
    )?;
    let open = |path: &str, flags: OFlags| {
        rustix::fs::openat2(
            &root,
            path,
            flags | OFlags::CLOEXEC,
            Mode::empty(),
            ResolveFlags::IN_ROOT,
        )
    };
    // Opening for a look first: a pipe or a device is not opened for reading.
    match open(&format!("etc/{name}"), OFlags::PATH) {
        Ok(file) => {
            let is_file = FileType::from_raw_mode(rustix::fs::fstat(&file)?.st_mode) == FileType::RegularFile;
            if !is_file {
                return Ok(Found::Hidden);
            }
        }
        Err(Errno::NOENT) => {
            let opaque = open("etc", OFlags::RDONLY | OFlags::DIRECTORY)
                .is_ok_and(|etc| rustix::fs::fgetxattr(&etc, OPAQUE_ATTRIBUTE, &mut [0u8; 1][..]).is_ok());
            return Ok(if opaque { Found::Hidden } else { Found::Nothing });
        }
        // /etc itself is deleted, or no directory.
        Err(Errno::NOTDIR) => return Ok(Found::Hidden),
        Err(error) => return Err(error.into()),
    }
    let file = open(&format!("etc/{name}"), OFlags::RDONLY | OFlags::NONBLOCK)?;
    let mut bytes = Vec::new();
    File::from(file).take(MAX_BYTES).read_to_end(&mut bytes)?;
    Ok(Found::File(String::from_utf8_lossy(&bytes).into_owned()))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::fs;
    use std::os::unix::fs::symlink;
    use std::path::Path;

    use super::*;

    fn layer(dir: &Path, name: &str, fill: impl FnOnce(&Path)) -> PathBuf {
        let layer = dir.join(name);
        fs::create_dir_all(&layer).unwrap();
        fill(&layer);
        layer
    }

    fn with_passwd(text: &'static str) -> impl FnOnce(&Path) {
        move |layer| {
            fs::create_dir(layer.join("etc")).unwrap();
            fs::write(layer.join("etc/passwd"), text).unwrap();
        }
    }

    #[test]
    fn the_topmost_layer_that_has_the_file_decides() {
        let dir = tempfile::tempdir().unwrap();
        let base = layer(dir.path(), "base", with_passwd("base"));
        let above = layer(dir.path(), "above", with_passwd("above"));
        let empty = layer(dir.path(), "empty", |_| {});
        let hidden = layer(dir.path(), "hidden", |layer| {
            fs::write(layer.join("etc"), "").unwrap()
        });
        assert_eq!(read(&[empty.clone(), above, base.clone()]).passwd, "above");
        assert_eq!(read(&[empty, base.clone()]).passwd, "base");
        assert_eq!(read(&[hidden, base]).passwd, "");
    }

    #[test]
    fn an_image_cannot_point_at_files_of_the_host() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("secret"), "secret").unwrap();
        let outside = dir.path().join("secret");
        let link = layer(dir.path(), "link", |layer| {
            fs::create_dir(layer.join("etc")).unwrap();
            symlink(&outside, layer.join("etc/passwd")).unwrap();
            symlink("../../secret", layer.join("etc/group")).unwrap();
        });
        assert_eq!(read(&[link]), Users::default());
        let own = layer(dir.path(), "own", |layer| {
            fs::create_dir(layer.join("etc")).unwrap();
            fs::write(layer.join("real"), "real").unwrap();
            symlink("/real", layer.join("etc/passwd")).unwrap();
        });
        assert_eq!(read(&[own]).passwd, "real");
    }
}
