//! Pulling from a real registry (Debian's `docker-registry`) on a loopback port.

use std::fs;
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use libtest_mimic::Trial;
use oci_client::client::{Client, ClientConfig, ClientProtocol, Config, ImageLayer};
use oci_client::manifest::{ImageIndexEntry, OciImageIndex, Platform};
use oci_client::secrets::RegistryAuth;
use stead_runtime::images::{Credentials, Digest, Progress, PullError, PullOptions, Reference};

use crate::support::*;
use crate::{Store, trials};

pub(crate) fn trials() -> Vec<Trial> {
    trials![
        an_image_is_pulled_by_tag_and_by_digest,
        the_image_for_this_machine_is_pulled_from_an_index,
        a_registry_may_want_to_know_who_asks,
        what_is_not_there_is_not_found,
        layers_that_are_here_are_not_fetched_again,
        a_registry_that_lies_is_found_out,
    ]
}

/// Where it is, unless `STEAD_DOCKER_REGISTRY` says, as `make unit` does.
const PROGRAM: &str = "/usr/bin/docker-registry";
/// The user `user` with the password `secret`.
const HTPASSWD: &str = "user:$2y$05$abcdefghijklmnopqrstuuOQiyCxlgf/oeuTqixKmWdcYUh4Hjl0a\n";

/// A registry of our own; ended with the test.
struct Registry {
    child: Child,
    host: String,
    dir: tempfile::TempDir,
}

impl Registry {
    /// `None`, with a note, where there is no such program.
    fn start(auth: bool) -> Option<Self> {
        // Whoever makes HTTP requests needs it, TLS or not; the binary does this at its start.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let given = std::env::var_os("STEAD_DOCKER_REGISTRY").map(PathBuf::from);
        let program = given.unwrap_or_else(|| PROGRAM.into());
        if !program.exists() {
            println!("skipped: there is no {program:?}; `make registry` fetches it");
            return None;
        }
        let dir = tempfile::tempdir().unwrap();
        let port = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))
            .unwrap()
            .local_addr()
            .unwrap()
            .port();
        let htpasswd = dir.path().join("htpasswd");
        fs::write(&htpasswd, HTPASSWD).unwrap();
        let auth = match auth {
            true => format!(
                "auth:\n  htpasswd:\n    realm: test\n    path: {}\n",
                htpasswd.display()
            ),
            false => String::new(),
        };
        let root = dir.path().join("data");
        let config = format!(
            "version: 0.1\nlog:\n  level: error\nstorage:\n  filesystem:\n    rootdirectory: {}\n\
            http:\n  addr: 127.0.0.1:{port}\n{auth}",
            root.display()
        );
        fs::write(dir.path().join("config.yml"), config).unwrap();
        let mut command = Command::new(program);
        command
            .arg("serve")
            .arg(dir.path().join("config.yml"))
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        let registry = Self {
            child: command.spawn().unwrap(),
            host: format!("127.0.0.1:{port}"),
            dir,
        };
        for _ in 0..1000 {
            if TcpStream::connect((Ipv4Addr::LOCALHOST, port)).is_ok() {
                return Some(registry);
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        panic!("the registry does not listen");
    }

    fn name(&self, rest: &str) -> Reference {
        format!("{}/{rest}", self.host).parse().unwrap()
    }

    fn client(&self) -> Client {
        let protocol = ClientProtocol::Http;
        Client::new(ClientConfig {
            protocol,
            ..ClientConfig::default()
        })
    }

    /// Pushes an image; the digest of its manifest.
    async fn push(&self, name: &str, architecture: &str, layers: &[Vec<u8>], auth: &RegistryAuth) -> String {
        let diff_ids: Vec<_> = layers
            .iter()
            .map(|layer| format!("\"{}\"", Digest::of(layer)))
            .collect();
        let config = format!(
            r#"{{"architecture":"{architecture}","os":"linux","config":{{"Cmd":["sh"]}},
            "rootfs":{{"type":"layers","diff_ids":[{}]}}}}"#,
            diff_ids.join(",")
        );
        let layers: Vec<_> = layers
            .iter()
            .map(|layer| ImageLayer::oci_v1_gzip(gzip(layer), None))
            .collect();
        let remote: oci_client::Reference = self.name(name).to_string().parse().unwrap();
        let config = Config::oci_v1(config.into_bytes(), None);
        let client = self.client();
        client.push(&remote, &layers, config, auth, None).await.unwrap();
        client.fetch_manifest_digest(&remote, auth).await.unwrap()
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn layer(name: &str) -> Vec<u8> {
    Tar::new().file(name, 0o644, name.repeat(1000)).bytes()
}

fn machine() -> &'static str {
    if cfg!(target_arch = "x86_64") {
        "amd64"
    } else {
        "arm64"
    }
}

fn block_on(test: impl Future<Output = ()>) {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .unwrap();
    runtime
        .block_on(async { tokio::time::timeout(Duration::from_secs(60), test).await })
        .unwrap();
}

fn an_image_is_pulled_by_tag_and_by_digest() {
    let Some(registry) = Registry::start(false) else {
        return;
    };
    block_on(async {
        let layers: Vec<_> = ["one", "two", "three", "four", "five"].map(layer).to_vec();
        let digest = registry
            .push("a/b:1", machine(), &layers, &RegistryAuth::Anonymous)
            .await;
        let store = Store::new();
        let last = Arc::new(AtomicU64::new(0));
        let seen = Arc::clone(&last);
        let progress = move |progress: Progress| {
            assert!(progress.bytes <= progress.total.unwrap());
            if Some(progress.bytes) == progress.total {
                seen.fetch_add(1, Ordering::Relaxed);
            }
        };
        let options = PullOptions {
            progress: Some(Arc::new(progress)),
            ..PullOptions::default()
        };
        let name = registry.name("a/b:1");
        let id = store.images.pull(&name, &options).await.unwrap();
        assert_eq!(last.load(Ordering::Relaxed), 1, "it is complete once");
        let info = store.images.resolve(&name.to_string()).unwrap().unwrap();
        assert_eq!((&info.id, &info.repo_tags), (&id, &vec![name.to_string()]));
        assert_eq!(info.repo_digests, [format!("{}@{digest}", name.name())]);
        assert_eq!(store.layers().len(), 5);

        let by_digest = registry.name(&format!("a/b@{digest}"));
        let other = Store::new();
        assert_eq!(
            other
                .images
                .pull(&by_digest, &PullOptions::default())
                .await
                .unwrap(),
            id
        );
        assert_eq!(
            other
                .images
                .resolve(&by_digest.to_string())
                .unwrap()
                .unwrap()
                .repo_tags,
            [""; 0]
        );
        other.images.remove(&by_digest.to_string()).unwrap();
        other.assert_empty();
    });
}

fn the_image_for_this_machine_is_pulled_from_an_index() {
    let Some(registry) = Registry::start(false) else {
        return;
    };
    block_on(async {
        let auth = RegistryAuth::Anonymous;
        let mut manifests = Vec::new();
        for architecture in ["riscv64", machine()] {
            let name = format!("multi:{architecture}");
            let digest = registry
                .push(&name, architecture, &[layer(architecture)], &auth)
                .await;
            let remote: oci_client::Reference = registry.name(&name).to_string().parse().unwrap();
            let (manifest, _) = registry
                .client()
                .pull_manifest_raw(&remote, &auth, &[oci_client::manifest::OCI_IMAGE_MEDIA_TYPE])
                .await
                .unwrap();
            let platform = format!(r#"{{"os":"linux","architecture":"{architecture}"}}"#);
            let platform: Platform = serde_json::from_str(&platform).unwrap();
            manifests.push(ImageIndexEntry {
                media_type: oci_client::manifest::OCI_IMAGE_MEDIA_TYPE.to_owned(),
                digest,
                size: manifest.len() as i64,
                platform: Some(platform),
                annotations: None,
                artifact_type: None,
            });
        }
        let push_index = async |name: &str, manifests: Vec<ImageIndexEntry>| {
            let index = OciImageIndex {
                schema_version: 2,
                media_type: Some(oci_client::manifest::OCI_IMAGE_INDEX_MEDIA_TYPE.to_owned()),
                manifests,
                artifact_type: None,
                annotations: None,
            };
            let remote: oci_client::Reference = registry.name(name).to_string().parse().unwrap();
            registry
                .client()
                .push_manifest_list(&remote, &auth, index)
                .await
                .unwrap();
            registry
                .client()
                .fetch_manifest_digest(&remote, &auth)
                .await
                .unwrap()
        };
        let other = manifests[0].clone();
        let digest = push_index("multi:1", manifests).await;
        let store = Store::new();
        let name = registry.name("multi:1");
        store.images.pull(&name, &PullOptions::default()).await.unwrap();
        let info = store.images.resolve(&name.to_string()).unwrap().unwrap();
        assert_eq!(info.config.architecture, machine());
        assert_eq!(
            info.repo_digests,
            [format!("{}@{digest}", name.name())],
            "that of the index"
        );

        push_index("multi:2", vec![other]).await;
        let error = store
            .images
            .pull(&registry.name("multi:2"), &PullOptions::default())
            .await
            .unwrap_err();
        assert!(matches!(error, PullError::Platform(_)), "{error}");
    });
}

fn a_registry_may_want_to_know_who_asks() {
    let Some(registry) = Registry::start(true) else {
        return;
    };
    block_on(async {
        let auth = RegistryAuth::Basic("user".into(), "secret".into());
        registry.push("private:1", machine(), &[layer("x")], &auth).await;
        let store = Store::new();
        let name = registry.name("private:1");
        let pull = async |credentials| {
            store
                .images
                .pull(
                    &name,
                    &PullOptions {
                        credentials,
                        ..PullOptions::default()
                    },
                )
                .await
        };
        let basic = |password: &str| Credentials::Basic {
            username: "user".into(),
            password: password.into(),
        };
        for credentials in [Credentials::Anonymous, basic("wrong")] {
            let error = pull(credentials).await.unwrap_err();
            assert!(matches!(error, PullError::Denied(..)), "{error:?}");
            assert!(error.to_string().contains("pull access denied"), "{error}");
        }
        pull(basic("secret")).await.unwrap();
    });
}

fn what_is_not_there_is_not_found() {
    let Some(registry) = Registry::start(false) else {
        return;
    };
    block_on(async {
        registry
            .push("a:1", machine(), &[layer("x")], &RegistryAuth::Anonymous)
            .await;
        let store = Store::new();
        for name in ["a:2", "nosuch:1"] {
            let name = registry.name(name);
            let error = store
                .images
                .pull(&name, &PullOptions::default())
                .await
                .unwrap_err();
            let expected = format!(
                "failed to pull and unpack image \"{name}\": failed to resolve reference \"{name}\": {name}: not found"
            );
            assert_eq!(error.to_string(), expected);
        }
        let host = registry.host.clone();
        drop(registry);
        let name: Reference = format!("{host}/a:1").parse().unwrap();
        let error = store
            .images
            .pull(&name, &PullOptions::default())
            .await
            .unwrap_err();
        assert!(
            error.to_string().to_lowercase().contains("connection refused"),
            "{error}"
        );
        store.assert_empty();
    });
}

fn layers_that_are_here_are_not_fetched_again() {
    let Some(registry) = Registry::start(false) else {
        return;
    };
    block_on(async {
        let auth = RegistryAuth::Anonymous;
        registry.push("a:1", machine(), &[layer("base")], &auth).await;
        registry
            .push("a:2", machine(), &[layer("base"), layer("more")], &auth)
            .await;
        let store = Store::new();
        let total = Arc::new(AtomicU64::new(0));
        let seen = Arc::clone(&total);
        let progress = move |progress: Progress| seen.store(progress.total.unwrap(), Ordering::Relaxed);
        let options = PullOptions {
            progress: Some(Arc::new(progress)),
            ..PullOptions::default()
        };
        store.images.pull(&registry.name("a:1"), &options).await.unwrap();
        store.images.pull(&registry.name("a:2"), &options).await.unwrap();
        assert_eq!(total.load(Ordering::Relaxed), gzip(&layer("more")).len() as u64);
        assert_eq!(store.layers().len(), 2);
    });
}

fn a_registry_that_lies_is_found_out() {
    let Some(registry) = Registry::start(false) else {
        return;
    };
    block_on(async {
        registry
            .push("a:1", machine(), &[layer("honest")], &RegistryAuth::Anonymous)
            .await;
        let digest = Digest::of(&gzip(&layer("honest")));
        let hex = digest.hex();
        let blobs = registry.dir.path().join("data/docker/registry/v2/blobs/sha256");
        let blob = blobs.join(&hex[..2]).join(hex).join("data");
        let mut bytes = fs::read(&blob).unwrap();
        let middle = bytes.len() / 2;
        bytes[middle] ^= 0xff;
        fs::write(&blob, bytes).unwrap();
        let store = Store::new();
        store
            .images
            .pull(&registry.name("a:1"), &PullOptions::default())
            .await
            .unwrap_err();
        store.assert_empty();
    });
}
