//! What becomes of the entries of a layer, and what a layer may not contain.

use std::fs;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use libtest_mimic::Trial;
use stead_runtime::images::{LoadError, LoadOptions};
use tar::EntryType;

use crate::support::*;
use crate::{Store, trials};

pub(crate) fn trials() -> Vec<Trial> {
    trials![
        owners_modes_times_links_and_attributes_are_kept,
        deletions_are_translated_for_overlayfs,
        a_later_entry_replaces_an_earlier_one,
        entries_that_climb_out_are_refused,
        links_that_lead_out_reach_nothing,
        devices_that_could_do_harm_are_left_out,
        the_store_is_roots_own,
    ]
}

/// Loads a layer; the directory it has become.
fn unpack(store: &Store, layer: Vec<u8>) -> Result<PathBuf, LoadError> {
    let archive = docker_archive(&["a:1"], "{}", &[layer]);
    store.images.load(&archive[..], &LoadOptions::default())?;
    let [layer] = store.layers().try_into().unwrap();
    Ok(layer)
}

fn owners_modes_times_links_and_attributes_are_kept() {
    let store = Store::new();
    let mut owned = Tar::header(EntryType::Regular, 0o4751);
    owned.set_path("owned").unwrap();
    owned.set_uid(1234);
    owned.set_gid(2_000_000);
    owned.set_size(3);
    owned.set_cksum();
    // As archives have extended attributes: a record before the entry.
    let record = |key: &str, value: &[u8]| {
        let rest = [b" ", key.as_bytes(), b"=", value, b"\n"].concat();
        let mut length = rest.len() + 1;
        while length.to_string().len() + rest.len() != length {
            length = length.to_string().len() + rest.len();
        }
        [length.to_string().as_bytes(), &rest].concat()
    };
    let capability = [1, 0, 0, 2, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    let pax = [
        record("SCHILY.xattr.user.note", b"hello"),
        record("SCHILY.xattr.security.capability", &capability),
        record("SCHILY.xattr.trusted.overlay.redirect", b"/etc"),
        record("mtime", b"1234567890.5"),
    ]
    .concat();
    let mut header = Tar::header(EntryType::XHeader, 0o644);
    header.set_size(pax.len() as u64);
    header.set_path("pax").unwrap();
    header.set_cksum();
    let mut link = Tar::header(EntryType::Link, 0o644);
    link.set_path("linked").unwrap();
    link.set_link_name("owned").unwrap();
    link.set_cksum();
    let layer = Tar::new()
        .dir("sticky", 0o1777)
        .dir("without/parents/of/its/own", 0o700)
        .entry(&header, &pax)
        .entry(&owned, b"abc")
        .entry(&link, b"")
        .symlink("pointer", "/absolute/target")
        .raw(EntryType::Fifo, "pipe", "", b"")
        .bytes();
    let layer = unpack(&store, layer).unwrap();
    let owned = fs::metadata(layer.join("owned")).unwrap();
    assert_eq!(
        (owned.uid(), owned.gid(), owned.mode() & 0o7777),
        (1234, 2_000_000, 0o4751)
    );
    assert_eq!((owned.mtime(), owned.mtime_nsec()), (1_234_567_890, 500_000_000));
    assert_eq!(fs::metadata(layer.join("linked")).unwrap().ino(), owned.ino());
    assert_eq!(fs::read(layer.join("linked")).unwrap(), b"abc");
    assert_eq!(
        fs::read_link(layer.join("pointer")).unwrap(),
        Path::new("/absolute/target")
    );
    assert!(fs::metadata(layer.join("pipe")).unwrap().file_type().is_fifo());
    let sticky = fs::metadata(layer.join("sticky")).unwrap();
    assert_eq!(
        (sticky.permissions().mode() & 0o7777, sticky.mtime()),
        (0o1777, 1_700_000_000)
    );
    assert_eq!(
        fs::metadata(layer.join("without/parents"))
            .unwrap()
            .permissions()
            .mode()
            & 0o7777,
        0o755
    );
    let attribute = |name: &str| {
        let mut value = [0u8; 64];
        let length = rustix::fs::lgetxattr(layer.join("owned"), name, &mut value[..]);
        length.map(|length| value[..length].to_vec())
    };
    assert_eq!(attribute("user.note").unwrap(), b"hello");
    assert_eq!(attribute("security.capability").unwrap(), capability);
    assert!(attribute("trusted.overlay.redirect").is_err());
}

fn is_whiteout(path: &Path) -> bool {
    fs::symlink_metadata(path).is_ok_and(|m| m.file_type().is_char_device() && m.rdev() == 0)
}

fn is_opaque(path: &Path) -> bool {
    rustix::fs::lgetxattr(path, "trusted.overlay.opaque", &mut [0u8; 1][..]).is_ok()
}

fn deletions_are_translated_for_overlayfs() {
    let store = Store::new();
    let layer = Tar::new()
        .file("etc/.wh.passwd", 0o644, "")
        .file("var/.wh..wh..opq", 0o644, "")
        .file("var/new", 0o644, "new")
        .file(".wh.replaced", 0o644, "")
        .file("replaced/inside", 0o644, "")
        .dir("renewed", 0o755)
        .file(".wh.renewed", 0o644, "")
        .bytes();
    let layer = unpack(&store, layer).unwrap();
    assert!(is_whiteout(&layer.join("etc/passwd")));
    assert!(!layer.join("etc/.wh.passwd").exists());
    assert!(is_opaque(&layer.join("var")) && layer.join("var/new").exists());
    assert!(!layer.join("var/.wh..wh..opq").exists());
    // Deleted and made anew in the same layer: nothing of the old directory is seen.
    assert!(is_opaque(&layer.join("replaced")) && layer.join("replaced/inside").exists());
    assert!(is_opaque(&layer.join("renewed")));
    assert!(!is_opaque(&layer.join("etc")));
}

fn a_later_entry_replaces_an_earlier_one() {
    let store = Store::new();
    let layer = Tar::new()
        .file("file", 0o644, "first")
        .file("file", 0o600, "second")
        .file("dir/inside", 0o644, "")
        .file("dir", 0o644, "now a file")
        .symlink("link", "file")
        .file("link", 0o644, "no link")
        .file("becomes-dir", 0o644, "")
        .dir("becomes-dir", 0o711)
        .bytes();
    let layer = unpack(&store, layer).unwrap();
    assert_eq!(fs::read(layer.join("file")).unwrap(), b"second");
    assert_eq!(fs::read(layer.join("dir")).unwrap(), b"now a file");
    assert_eq!(fs::read(layer.join("link")).unwrap(), b"no link");
    assert_eq!(
        fs::metadata(layer.join("becomes-dir"))
            .unwrap()
            .permissions()
            .mode()
            & 0o777,
        0o711
    );
}

fn entries_that_climb_out_are_refused() {
    let cases = [
        Tar::new().raw(EntryType::Regular, "../escaped", "", b"x"),
        Tar::new().raw(EntryType::Regular, "a/../../escaped", "", b"x"),
        Tar::new().raw(EntryType::Directory, "..", "", b""),
        Tar::new().raw(EntryType::Regular, "a/.wh...", "", b""),
        Tar::new().raw(EntryType::Link, "inside", "../../../../../../etc/passwd", b""),
        Tar::new().raw(EntryType::Link, "inside", "/etc/passwd", b""),
        // Through a symbolic link, to where nothing is when the layer's directory is the root.
        Tar::new()
            .symlink("out", "/root")
            .raw(EntryType::Regular, "out/escaped", "", b"x"),
        Tar::new()
            .symlink("out", "../../../../../root")
            .raw(EntryType::Regular, "out/escaped", "", b"x"),
        Tar::new()
            .file("file", 0o644, "")
            .raw(EntryType::Regular, "file/escaped", "", b"x"),
        Tar::new().raw(EntryType::new(b'V'), "volume", "", b""),
    ];
    for (number, layer) in cases.into_iter().enumerate() {
        let store = Store::new();
        let outside = store.dir.path().join("escaped");
        let error = unpack(&store, layer.bytes()).expect_err(&format!("case {number}"));
        assert!(matches!(error, LoadError::Layer(_)), "case {number}: {error}");
        assert!(
            !outside.exists() && !Path::new("/root/escaped").exists(),
            "case {number}"
        );
        store.assert_empty();
    }
}

fn links_that_lead_out_reach_nothing() {
    let store = Store::new();
    // Harmless here: the same path inside the layer.
    let layer = Tar::new()
        .dir("etc", 0o755)
        .symlink("evil", "/etc")
        .raw(EntryType::Regular, "evil/stead-escape-test", "", b"x")
        .raw(EntryType::Regular, "/absolute", "", b"x")
        .symlink("passwd", "/etc/passwd")
        .raw(EntryType::Link, "hard", "passwd", b"")
        .bytes();
    let layer = unpack(&store, layer).unwrap();
    assert!(layer.join("etc/stead-escape-test").exists() && layer.join("absolute").exists());
    assert!(!Path::new("/etc/stead-escape-test").exists() && !Path::new("/absolute").exists());
    // A hard link to a symbolic link is one, and not a link to what that points at.
    assert!(fs::symlink_metadata(layer.join("hard")).unwrap().is_symlink());
}

fn devices_that_could_do_harm_are_left_out() {
    let store = Store::new();
    let device = |kind, path: &str, major, minor| {
        let mut header = Tar::header(kind, 0o666);
        header.set_path(path).unwrap();
        header.set_device_major(major).unwrap();
        header.set_device_minor(minor).unwrap();
        header.set_cksum();
        header
    };
    let layer = Tar::new()
        .entry(&device(EntryType::Char, "null", 1, 3), b"")
        .entry(&device(EntryType::Char, "mem", 1, 1), b"")
        .entry(&device(EntryType::Char, "hidden", 0, 0), b"")
        .entry(&device(EntryType::Block, "disk", 8, 0), b"")
        .bytes();
    let layer = unpack(&store, layer).unwrap();
    let null = fs::metadata(layer.join("null")).unwrap();
    assert!(null.file_type().is_char_device() && null.permissions().mode() & 0o777 == 0o666);
    for name in ["mem", "hidden", "disk"] {
        assert!(!layer.join(name).exists(), "{name}");
    }
}

fn the_store_is_roots_own() {
    let store = Store::new();
    assert_eq!(
        fs::metadata(store.path(".")).unwrap().permissions().mode() & 0o777,
        0o700
    );
}
