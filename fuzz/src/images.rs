//! Archives of images, as `docker save` writes them and as OCI layouts.

use std::sync::LazyLock;

use serde_json::json;
use sha2::{Digest as _, Sha256};
use stead_runtime::images::{ImageStore, LayerError, LoadError, LoadOptions};
use tar::EntryType;
use tempfile::TempDir;

static STORE: LazyLock<(ImageStore, TempDir)> = LazyLock::new(|| {
    let dir = TempDir::new().expect("make a folder");
    let store = ImageStore::open(dir.path()).expect("open an empty store");
    (store, dir)
});

/// An archive. Layers are unpacked by the program itself, started anew: it must begin with
/// [`stead_runtime::become_helper`].
pub fn images(input: &[u8]) {
    let (store, _) = &*STORE;
    let loaded = store.load(input, &LoadOptions::default());
    if let Err(LoadError::Layer(error @ LayerError::Run { .. })) = &loaded {
        panic!("{error}");
    }
    for loaded in loaded.into_iter().flatten() {
        for name in loaded.names {
            let image = store.get(&name).expect("a name that was given is one");
            assert!(image.is_some(), "{name} has been loaded");
            store.remove(&name).expect("what has been loaded can be removed");
        }
    }
}

/// An image in both forms, and one whose layer is another than it says.
pub fn seeds() -> Vec<Vec<u8>> {
    let layer = layer();
    let config = json!({
        "architecture": "amd64", "os": "linux",
        "config": {"Env": ["A=b"], "Cmd": ["/bin/sh"], "User": "1000:1000", "WorkingDir": "/"},
        "rootfs": {"type": "layers", "diff_ids": [format!("sha256:{}", hex(&layer))]},
    });
    let config = config.to_string();
    let named = format!("{}.json", hex(config.as_bytes()));
    let docker =
        |layer: &str| json!([{"Config": named, "RepoTags": ["app:1"], "Layers": [layer]}]).to_string();
    let described = |kind: &str, bytes: &[u8]| {
        json!({
            "mediaType": format!("application/vnd.oci.image.{kind}"),
            "digest": format!("sha256:{}", hex(bytes)),
            "size": bytes.len(),
        })
    };
    let manifest = json!({
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": described("config.v1+json", config.as_bytes()),
        "layers": [described("layer.v1.tar", &layer)],
    });
    let manifest = manifest.to_string();
    let mut entry = described("manifest.v1+json", manifest.as_bytes());
    entry["annotations"] = json!({"io.containerd.image.name": "docker.io/library/app:1"});
    entry["platform"] = json!({"architecture": "amd64", "os": "linux"});
    let index = json!({"schemaVersion": 2, "manifests": [entry]}).to_string();
    let blob = |bytes: &[u8]| format!("blobs/sha256/{}", hex(bytes));
    vec![
        tar(&[
            (&named, config.as_bytes()),
            ("layer.tar", &layer),
            ("manifest.json", docker("layer.tar").as_bytes()),
        ]),
        tar(&[
            ("oci-layout", br#"{"imageLayoutVersion":"1.0.0"}"#),
            ("index.json", index.as_bytes()),
            (&blob(manifest.as_bytes()), manifest.as_bytes()),
            (&blob(config.as_bytes()), config.as_bytes()),
            (&blob(&layer), &layer),
        ]),
        tar(&[
            (&named, config.as_bytes()),
            ("manifest.json", docker(&named).as_bytes()),
        ]),
    ]
}

/// A layer with what layers have.
fn layer() -> Vec<u8> {
    let mut archive = tar::Builder::new(Vec::new());
    let mut add = |kind, name: &str, link: &str, content: &[u8]| {
        let mut header = tar::Header::new_ustar();
        header.set_entry_type(kind);
        header.set_size(content.len() as u64);
        header.set_mode(0o755);
        header.set_uid(1000);
        if link.is_empty() {
            archive.append_data(&mut header, name, content)
        } else {
            archive.append_link(&mut header, name, link)
        }
        .expect("write to memory");
    };
    add(EntryType::Directory, "etc/", "", b"");
    add(
        EntryType::Regular,
        "etc/passwd",
        "",
        b"app:x:1000:1000::/:/bin/sh\n",
    );
    add(EntryType::Symlink, "bin", "../../usr/bin", b"");
    add(EntryType::Link, "etc/group", "etc/passwd", b"");
    add(EntryType::Regular, "etc/.wh.shadow", "", b"");
    add(EntryType::Regular, "var/.wh..wh..opq", "", b"");
    archive.into_inner().expect("write to memory")
}

fn hex(bytes: &[u8]) -> String {
    Sha256::digest(bytes)
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect()
}

fn tar(files: &[(&str, &[u8])]) -> Vec<u8> {
    let mut archive = tar::Builder::new(Vec::new());
    for (name, content) in files {
        let mut header = tar::Header::new_ustar();
        header.set_size(content.len() as u64);
        header.set_mode(0o644);
        archive
            .append_data(&mut header, name, *content)
            .expect("write to memory");
    }
    archive.into_inner().expect("write to memory")
}
