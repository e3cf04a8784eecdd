//! Loading archives of every kind, and refusing those that are not what they say.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use libtest_mimic::Trial;
use stead_runtime::images::{Digest, LoadError, LoadOptions, Progress};

use crate::support::*;
use crate::{Store, trials};

pub(crate) fn trials() -> Vec<Trial> {
    trials![
        archives_are_loaded_plain_and_compressed,
        an_oci_layout_is_loaded_with_layers_of_every_compression,
        the_image_for_this_machine_is_taken_from_an_index,
        an_archive_may_hold_several_images_and_names,
        a_layer_that_occurs_twice_is_stored_once,
        an_archive_that_ends_early_is_refused_whole,
        an_archive_whose_parts_are_not_what_they_say_is_refused_whole,
        what_is_no_image_is_refused,
        progress_is_reported,
        a_name_may_be_given,
    ]
}

fn layer(name: &str) -> Vec<u8> {
    Tar::new()
        .dir("etc", 0o755)
        .file(&format!("etc/{name}"), 0o644, name)
        .bytes()
}

fn archives_are_loaded_plain_and_compressed() {
    let plain = docker_archive(&["a:1"], r#"{"Cmd":["x"]}"#, &[layer("one"), layer("two")]);
    let mut ids = Vec::new();
    for archive in [plain.clone(), gzip(&plain), zstd(&plain)] {
        let store = Store::new();
        let loaded = store.images.load(&archive[..], &LoadOptions::default()).unwrap();
        assert_eq!(loaded[0].names, ["docker.io/library/a:1"]);
        let info = store.images.resolve("a:1").unwrap().unwrap();
        assert_eq!((info.config.run.cmd, info.bytes), (vec!["x".to_owned()], 6));
        assert_eq!(info.repo_tags, ["docker.io/library/a:1"]);
        assert_eq!(store.layers().len(), 2);
        ids.push(loaded[0].id.clone());
    }
    assert!(ids.iter().all(|id| *id == ids[0]));
}

/// An OCI layout; blobs are added as they are needed.
struct Layout {
    tar: Option<Tar>,
    index: Vec<String>,
}

impl Layout {
    fn new() -> Self {
        Self {
            tar: Some(Tar::new().file("oci-layout", 0o644, r#"{"imageLayoutVersion":"1.0.0"}"#)),
            index: vec![],
        }
    }

    /// Adds a blob; its descriptor, without the closing brace.
    fn blob(&mut self, media_type: &str, data: &[u8]) -> String {
        let digest = Digest::of(data);
        let tar = self.tar.take().unwrap();
        self.tar = Some(tar.file(&format!("blobs/sha256/{}", digest.hex()), 0o644, data));
        format!(
            r#"{{"mediaType":"{media_type}","digest":"{digest}","size":{}"#,
            data.len()
        )
    }

    /// Adds an image; its manifest's descriptor, without the closing brace.
    fn image(&mut self, architecture: &str, layers: &[(Vec<u8>, Vec<u8>)]) -> String {
        let diff_ids: Vec<_> = layers
            .iter()
            .map(|(plain, _)| format!("\"{}\"", Digest::of(plain)))
            .collect();
        let config = format!(
            r#"{{"architecture":"{architecture}","os":"linux","rootfs":{{"type":"layers","diff_ids":[{}]}}}}"#,
            diff_ids.join(",")
        );
        let config = self.blob("application/vnd.oci.image.config.v1+json", config.as_bytes());
        let layers: Vec<_> = layers
            .iter()
            .map(|(_, stored)| self.blob("application/vnd.oci.image.layer.v1.tar", stored) + "}")
            .collect();
        let manifest = format!(
            r#"{{"schemaVersion":2,"config":{config}}},"layers":[{}]}}"#,
            layers.join(",")
        );
        self.blob("application/vnd.oci.image.manifest.v1+json", manifest.as_bytes())
    }

    fn bytes(self) -> Vec<u8> {
        let index = format!(r#"{{"schemaVersion":2,"manifests":[{}]}}"#, self.index.join(","));
        self.tar.unwrap().file("index.json", 0o644, index).bytes()
    }
}

fn machine() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

fn an_oci_layout_is_loaded_with_layers_of_every_compression() {
    let (one, two, three) = (layer("one"), layer("two"), layer("three"));
    let stored = [
        (one.clone(), one.clone()),
        (two.clone(), gzip(&two)),
        (three.clone(), zstd(&three)),
    ];
    let mut layout = Layout::new();
    let manifest = layout.image(machine(), &stored);
    layout
        .index
        .push(manifest + r#","annotations":{"io.containerd.image.name":"docker.io/library/o:2"}}"#);
    let store = Store::new();
    let loaded = store
        .images
        .load(&layout.bytes()[..], &LoadOptions::default())
        .unwrap();
    assert_eq!(loaded[0].names, ["docker.io/library/o:2"]);
    assert_eq!(store.layers().len(), 3);
    let info = store.images.resolve("o:2").unwrap().unwrap();
    let [digest] = info.repo_digests.try_into().unwrap();
    assert!(digest.starts_with("docker.io/library/o@sha256:"));
    assert_eq!(store.images.resolve(&digest).unwrap().unwrap().id, info.id);
}

fn the_image_for_this_machine_is_taken_from_an_index() {
    let (ours, theirs) = (layer("ours"), layer("theirs"));
    let mut layout = Layout::new();
    let platform =
        |architecture: &str| format!(r#","platform":{{"os":"linux","architecture":"{architecture}"}}}}"#);
    let theirs = layout.image("pdp11", &[(theirs.clone(), theirs)]) + &platform("pdp11");
    let ours = layout.image(machine(), &[(ours.clone(), gzip(&ours))]) + &platform(machine());
    let attestation =
        layout.image("unknown", &[]) + r#","platform":{"os":"unknown","architecture":"unknown"}}"#;
    let index = format!(r#"{{"schemaVersion":2,"manifests":[{theirs},{attestation},{ours}]}}"#);
    let index = layout.blob("application/vnd.oci.image.index.v1+json", index.as_bytes());
    layout
        .index
        .push(index + r#","annotations":{"org.opencontainers.image.ref.name":"localhost:5000/x:1"}}"#);
    let store = Store::new();
    store
        .images
        .load(&layout.bytes()[..], &LoadOptions::default())
        .unwrap();
    let info = store.images.resolve("localhost:5000/x:1").unwrap().unwrap();
    assert_eq!(info.config.architecture, machine());

    let mut other = Layout::new();
    let other_layer = layer("x");
    let manifest = other.image("pdp11", &[(other_layer.clone(), other_layer)]) + &platform("pdp11");
    other.index.push(manifest);
    let store = Store::new();
    let error = store
        .images
        .load(&other.bytes()[..], &LoadOptions::default())
        .unwrap_err();
    assert!(matches!(error, LoadError::Platform(_)), "{error}");
    store.assert_empty();
}

fn an_archive_may_hold_several_images_and_names() {
    let store = Store::new();
    let archive = docker_archive(&["a:1", "b/c:2"], "{}", &[layer("one")]);
    store.images.load(&archive[..], &LoadOptions::default()).unwrap();
    let info = store.images.resolve("a:1").unwrap().unwrap();
    assert_eq!(info.repo_tags, ["docker.io/b/c:2", "docker.io/library/a:1"]);
    // The same name for another image leaves the first without it.
    let other = docker_archive(&["a:1"], "{}", &[layer("two")]);
    store.images.load(&other[..], &LoadOptions::default()).unwrap();
    assert_ne!(store.images.resolve("a:1").unwrap().unwrap().id, info.id);
    assert_eq!(store.images.list().len(), 2);

    let mut layout = Layout::new();
    for name in ["x:1", "y:1"] {
        let layer = layer(name);
        let manifest = layout.image(machine(), &[(layer.clone(), layer)]);
        layout.index.push(format!(
            r#"{manifest},"annotations":{{"io.containerd.image.name":"{name}"}}}}"#
        ));
    }
    let loaded = store
        .images
        .load(&layout.bytes()[..], &LoadOptions::default())
        .unwrap();
    assert_eq!(loaded.len(), 2);
    assert!(store.images.resolve("y:1").unwrap().is_some());
}

fn a_layer_that_occurs_twice_is_stored_once() {
    let store = Store::new();
    let archive = docker_archive(&["a:1"], "{}", &[layer("one"), layer("two"), layer("one")]);
    store.images.load(&archive[..], &LoadOptions::default()).unwrap();
    assert_eq!(store.layers().len(), 2);
    let archive = docker_archive(&["b:1"], "{}", &[layer("one"), layer("three")]);
    store.images.load(&archive[..], &LoadOptions::default()).unwrap();
    assert_eq!(store.layers().len(), 3);
    store.images.remove("a:1").unwrap();
    assert_eq!(store.layers().len(), 2);
    store.images.remove("b:1").unwrap();
    store.assert_empty();
}

fn an_archive_that_ends_early_is_refused_whole() {
    let archive = docker_archive(&["a:1"], "{}", &[layer("one"), layer("two")]);
    let packed = gzip(&archive);
    for whole in [&archive, &packed] {
        for share in [10, 30, 50, 70, 90] {
            let store = Store::new();
            let part = &whole[..whole.len() * share / 100];
            assert!(
                store.images.load(part, &LoadOptions::default()).is_err(),
                "{share}%"
            );
            store.assert_empty();
        }
    }
}

fn an_archive_whose_parts_are_not_what_they_say_is_refused_whole() {
    let refuse = |archive: Vec<u8>, expected: fn(&LoadError) -> bool| {
        let store = Store::new();
        let error = store
            .images
            .load(&archive[..], &LoadOptions::default())
            .unwrap_err();
        assert!(expected(&error), "{error:?}");
        store.assert_empty();
    };
    let (good, bad) = (layer("good"), layer("evil"));
    // A layer with another content than the configuration names. The lengths are the same.
    let archive = docker_archive(&["a:1"], "{}", &[good.clone(), good.clone()]);
    let lying = replace_last(&archive, &good, &bad);
    refuse(lying, |error| matches!(error, LoadError::Layer(_)));
    // A configuration with another content than its name says.
    let archive = docker_archive(&["a:1"], r#"{"Cmd":["x"]}"#, std::slice::from_ref(&good));
    let lying = replace_last(&archive, br#"["x"]"#, br#"["y"]"#);
    refuse(lying, |error| matches!(error, LoadError::Digest { .. }));
    // The same in an OCI layout, for a layer and for the size of one.
    let layout = || {
        let mut layout = Layout::new();
        let manifest = layout.image(machine(), &[(good.clone(), good.clone())]);
        layout.index.push(manifest + "}");
        layout.bytes()
    };
    refuse(replace_last(&layout(), &good, &bad), |error| {
        matches!(error, LoadError::Digest { .. })
    });
    let mut layout = Layout::new();
    let manifest = layout.image(machine(), &[(good.clone(), good.clone())]);
    let (head, size) = manifest.rsplit_once(':').unwrap();
    layout
        .index
        .push(format!("{head}:{}}}", size.parse::<u64>().unwrap() + 1));
    refuse(layout.bytes(), |error| matches!(error, LoadError::Size { .. }));
    // A compressed layer that is broken inside.
    let mut broken = gzip(&good);
    let middle = broken.len() / 2;
    broken[middle] ^= 0xff;
    let mut layout = Layout::new();
    let manifest = layout.image(machine(), &[(good.clone(), broken)]);
    layout.index.push(manifest + "}");
    refuse(layout.bytes(), |error| matches!(error, LoadError::Layer(_)));
}

/// Replaces the last occurrence of a byte string by one as long.
fn replace_last(bytes: &[u8], from: &[u8], to: &[u8]) -> Vec<u8> {
    assert_eq!(from.len(), to.len());
    let at = bytes
        .windows(from.len())
        .rposition(|window| window == from)
        .unwrap();
    let mut bytes = bytes.to_vec();
    bytes[at..at + to.len()].copy_from_slice(to);
    bytes
}

fn what_is_no_image_is_refused() {
    let store = Store::new();
    let check = |archive: &[u8], expected: fn(&LoadError) -> bool| {
        let error = store.images.load(archive, &LoadOptions::default()).unwrap_err();
        assert!(expected(&error), "{error:?}");
        store.assert_empty();
    };
    check(b"", |error| matches!(error, LoadError::NotAnImage));
    check(&[7; 5000], |error| matches!(error, LoadError::Read(_)));
    check(&layer("x"), |error| matches!(error, LoadError::NotAnImage));
    let missing = r#"[{"Config":"c.json","RepoTags":[],"Layers":[]}]"#;
    let archive = Tar::new().file("manifest.json", 0o644, missing).bytes();
    check(&archive, |error| matches!(error, LoadError::Missing(_)));
    let archive = Tar::new().file("manifest.json", 0o644, "[{]").bytes();
    check(&archive, |error| matches!(error, LoadError::Document { .. }));
    let archive = docker_archive(&["A:1"], "{}", &[layer("x")]);
    check(&archive, |error| matches!(error, LoadError::Reference(_)));
}

fn progress_is_reported() {
    let archive = docker_archive(&["a:1"], "{}", &[layer("one")]);
    let last = Arc::new(AtomicU64::new(0));
    let seen = Arc::clone(&last);
    let progress = move |progress: Progress| {
        assert!(progress.bytes >= seen.load(Ordering::Relaxed));
        seen.store(progress.bytes, Ordering::Relaxed);
    };
    let options = LoadOptions {
        progress: Some(Arc::new(progress)),
        ..LoadOptions::default()
    };
    Store::new().images.load(&archive[..], &options).unwrap();
    assert!(
        last.load(Ordering::Relaxed) >= archive.len() as u64 - 1024,
        "the archive's padding may stay unread"
    );
}

fn a_name_may_be_given() {
    let store = Store::new();
    let archive = docker_archive(&[], "{}", &[layer("one")]);
    let options = LoadOptions {
        name: Some("given".parse().unwrap()),
        ..LoadOptions::default()
    };
    store.images.load(&archive[..], &options).unwrap();
    assert_eq!(
        store.images.list()[0].repo_tags,
        ["docker.io/library/given:latest"]
    );
}
