//! Fetching an image from a registry.
//!
//! Manifest and configuration first, then the layers that are not here yet, a few at a time, each to disk
//! and unpacked when it has arrived. What the registry sends is verified against the digests of the
//! manifest, and each unpacked layer against the configuration, whose digest is the image's id.

use std::fs::File;
use std::io;
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use futures::future::BoxFuture;
use futures::stream::{StreamExt, TryStreamExt};
use oci_client::client::{ClientConfig, ClientProtocol};
use oci_client::errors::{OciDistributionError, OciErrorCode};
use oci_client::manifest::{ImageIndexEntry, OciDescriptor, OciImageManifest};
use oci_client::secrets::RegistryAuth;
use oci_client::{Client, Reference as RemoteReference};
use tokio::io::AsyncWrite;

use super::archive::architecture;
use super::credentials::Credentials;
use super::digest::{Digest, DigestError};
use super::layer::{self, LayerError};
use super::reference::Reference;
use super::store::{ImageStore, LayerRecord, StoreError, remove_all};
use super::{ImageConfig, OnProgress, Progress};
use crate::blocking::blocking;

/// Layers fetched at the same time; containerd's number.
const PARALLEL_LAYERS: usize = 3;
/// No configuration is larger.
const MAX_CONFIG_BYTES: i64 = 16 << 20;

/// How to pull an image.
#[derive(Clone, Default)]
pub struct PullOptions {
    /// Who asks.
    pub credentials: Credentials,
    /// Registries (`host` or `host:port`) that speak plain HTTP, beside those on this machine.
    pub insecure_registries: Vec<String>,
    /// Told how many bytes of the layers have been fetched.
    pub progress: Option<OnProgress>,
}

/// How long finding and reaching a registry may take, its name's lookup included.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// How long a registry may be silent in the middle of an answer.
const READ_TIMEOUT: Duration = Duration::from_secs(60);

/// Why an image was not pulled. The texts are close to containerd's.
#[derive(Debug, thiserror::Error)]
pub enum PullError {
    /// The registry has no such image.
    #[error("failed to pull and unpack image \"{0}\": failed to resolve reference \"{0}\": {0}: not found")]
    NotFound(Reference),
    /// The registry does not give it to us, or does not say whether it has it.
    #[error(
        "failed to pull and unpack image \"{0}\": failed to resolve reference \"{0}\": pull access denied, \
         repository does not exist or may require authorization: {1}"
    )]
    Denied(Reference, String),
    /// The registry has the image, but not for this machine.
    #[error(
        "failed to pull and unpack image \"{0}\": no match for platform in manifest: linux/{arch}: not found",
        arch = architecture()
    )]
    Platform(Reference),
    /// The registry could not be reached, or answered nonsense.
    #[error("failed to pull and unpack image \"{reference}\": {reason}")]
    Registry {
        /// The image.
        reference: Reference,
        /// What happened.
        reason: String,
    },
    /// What came is not what was announced.
    #[error("failed to pull and unpack image \"{reference}\": {source}")]
    Digest {
        /// The image.
        reference: Reference,
        /// What is wrong.
        source: DigestError,
    },
    /// A layer was refused.
    #[error("failed to pull and unpack image \"{reference}\": {source}")]
    Layer {
        /// The image.
        reference: Reference,
        /// What is wrong with it.
        source: Box<LayerError>,
    },
    /// See [`StoreError`].
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The disk.
    #[error("write a layer to {path:?}: {source}")]
    Write {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
}

impl ImageStore {
    /// Pulls an image, for this machine's architecture, and names it as `reference` says.
    ///
    /// Cancelled, it leaves at most layers that are complete, which go with the next image that is removed,
    /// or when the store is opened.
    pub fn pull<'a>(
        self: &'a Arc<Self>,
        reference: &'a Reference,
        options: &'a PullOptions,
    ) -> BoxFuture<'a, Result<Digest, PullError>> {
        Box::pin(async move {
            let reference = reference.resolved();
            let pull = Pull::new(Arc::clone(self), reference, options)?;
            let pulled = pull.run(options).await;
            if pulled.is_err() {
                // Layers that arrived before one that did not.
                let store = Arc::clone(self);
                blocking(move || store.collect_garbage()).await?;
            }
            pulled
        })
    }
}

struct Pull {
    store: Arc<ImageStore>,
    reference: Reference,
    remote: RemoteReference,
    client: Client,
    auth: RegistryAuth,
}

impl Pull {
    fn new(store: Arc<ImageStore>, reference: Reference, options: &PullOptions) -> Result<Self, PullError> {
        let invalid = |reason: String| PullError::Registry {
            reference: reference.clone(),
            reason,
        };
        let remote = remote(&reference);
        let registry = remote.resolve_registry().to_owned();
        let plain = is_loopback(&registry) || options.insecure_registries.contains(&registry);
        let config = ClientConfig {
            protocol: ClientProtocol::HttpsExcept(if plain { vec![registry] } else { Vec::new() }),
            platform_resolver: Some(Box::new(for_us)),
            user_agent: concat!("stead/", env!("CARGO_PKG_VERSION")),
            connect_timeout: Some(CONNECT_TIMEOUT),
            read_timeout: Some(READ_TIMEOUT),
            ..ClientConfig::default()
        };
        let client = Client::try_from(config).map_err(|error| invalid(error.to_string()))?;
        let auth = match &options.credentials {
            Credentials::Anonymous => RegistryAuth::Anonymous,
            Credentials::Basic { username, password } => {
                RegistryAuth::Basic(username.clone(), password.clone())
            }
            Credentials::Token(token) => RegistryAuth::Bearer(token.clone()),
        };
        Ok(Self {
            store,
            reference,
            remote,
            client,
            auth,
        })
    }

    async fn run(&self, options: &PullOptions) -> Result<Digest, PullError> {
        let (manifest, digest, list_digest) = self
            .client
            .pull_image_manifest_and_list_digest(&self.remote, &self.auth)
            .await
            .map_err(|error| self.failed(error))?;
        // What the name led to: the list of an image for many machines, or the image itself.
        let named_digest = self.digest(list_digest.as_ref().unwrap_or(&digest))?;
        let document = self.config(&manifest).await?;
        let config: ImageConfig =
            serde_json::from_slice(&document).map_err(|error| self.nonsense(error.to_string()))?;
        let diff_ids = config
            .rootfs
            .diff_ids
            .iter()
            .map(|id| self.digest(id))
            .collect::<Result<Vec<_>, _>>()?;
        if diff_ids.len() != manifest.layers.len() {
            return Err(self.nonsense("manifest and configuration disagree about the layers".to_owned()));
        }
        let pins = self.store.pin(&diff_ids);
        let layers = self
            .layers(&manifest, &diff_ids, options.progress.clone())
            .await?;
        let (store, reference) = (Arc::clone(&self.store), self.reference.clone());
        let commit = move || {
            let digests = [reference.with_digest(named_digest)];
            let tags: Vec<_> = reference.tag().map(|_| reference.clone()).into_iter().collect();
            store.commit(&document, config, layers, &tags, &digests)
        };
        let id = blocking(commit).await?;
        drop(pins);
        Ok(id)
    }

    async fn config(&self, manifest: &OciImageManifest) -> Result<Vec<u8>, PullError> {
        if manifest.config.size > MAX_CONFIG_BYTES {
            return Err(self.nonsense("the configuration is too large".to_owned()));
        }
        let mut document = Vec::new();
        let pulled = self
            .client
            .pull_blob(&self.remote, &manifest.config, &mut document)
            .await;
        pulled.map_err(|error| self.failed(error))?;
        Ok(document)
    }

    async fn layers(
        &self,
        manifest: &OciImageManifest,
        diff_ids: &[Digest],
        progress: Option<OnProgress>,
    ) -> Result<Vec<LayerRecord>, PullError> {
        let missing = manifest
            .layers
            .iter()
            .zip(diff_ids)
            .filter(|(_, id)| self.store.known_layer(id).is_none());
        let total = missing
            .map(|(layer, _)| u64::try_from(layer.size).unwrap_or(0))
            .sum();
        let fetched = Fetched {
            bytes: Arc::default(),
            total,
            progress,
        };
        // Owned, as a future over references into a closure is not known to be `Send`.
        let layers: Vec<_> = manifest
            .layers
            .iter()
            .cloned()
            .zip(diff_ids.iter().cloned())
            .collect();
        futures::stream::iter(layers)
            .map(|(descriptor, diff_id)| {
                let fetched = fetched.clone();
                async move { self.layer(&descriptor, &diff_id, fetched).await }
            })
            .buffered(PARALLEL_LAYERS)
            .try_collect()
            .await
    }

    async fn layer(
        &self,
        descriptor: &OciDescriptor,
        diff_id: &Digest,
        fetched: Fetched,
    ) -> Result<LayerRecord, PullError> {
        if let Some(record) = self.store.known_layer(diff_id) {
            return Ok(record);
        }
        let file = Spooled(self.store.temporary());
        let write_error = |source| PullError::Write {
            path: file.0.clone(),
            source,
        };
        let out = tokio::fs::File::create(&file.0).await.map_err(write_error)?;
        let pulled = self
            .client
            .pull_blob(&self.remote, descriptor, Counting { out, fetched })
            .await;
        pulled.map_err(|error| self.failed(error))?;
        let (store, diff_id, path) = (Arc::clone(&self.store), diff_id.clone(), file.0.clone());
        blocking(move || layer::install(&store, &diff_id, || File::open(path)))
            .await
            .map_err(|source| PullError::Layer {
                reference: self.reference.clone(),
                source: Box::new(source),
            })
    }

    fn digest(&self, text: &str) -> Result<Digest, PullError> {
        text.parse().map_err(|source| PullError::Digest {
            reference: self.reference.clone(),
            source,
        })
    }

    fn nonsense(&self, reason: String) -> PullError {
        PullError::Registry {
            reference: self.reference.clone(),
            reason,
        }
    }

    fn failed(&self, error: OciDistributionError) -> PullError {
        let reference = self.reference.clone();
        match error {
            OciDistributionError::ImageManifestNotFoundError(reason) if reason.contains("platform") => {
                PullError::Platform(reference)
            }
            OciDistributionError::ImageManifestNotFoundError(_)
            | OciDistributionError::ServerError { code: 404, .. } => PullError::NotFound(reference),
            OciDistributionError::AuthenticationFailure(reason) => PullError::Denied(reference, reason),
            OciDistributionError::UnauthorizedError { .. } => PullError::Denied(
                reference,
                "authorization failed: no basic auth credentials".to_owned(),
            ),
            OciDistributionError::RegistryError { envelope, url } => {
                let code = envelope.errors.first().map(|error| &error.code);
                match code {
                    Some(
                        OciErrorCode::ManifestUnknown
                        | OciErrorCode::NameUnknown
                        | OciErrorCode::NotFound
                        | OciErrorCode::ManifestBlobUnknown,
                    ) => PullError::NotFound(reference),
                    Some(OciErrorCode::Unauthorized | OciErrorCode::Denied) => {
                        PullError::Denied(reference, envelope.to_string())
                    }
                    _ => PullError::Registry {
                        reference,
                        reason: format!("{url}: {envelope}"),
                    },
                }
            }
            other => PullError::Registry {
                reference,
                reason: with_sources(&other),
            },
        }
    }
}

/// Of a failed request the message says little, and its sources the rest.
fn with_sources(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(error) = next {
        text = format!("{text}: {error}");
        next = error.source();
    }
    text
}

/// The same in the client's terms. Not by its text, in which the client would look for the registry anew.
fn remote(reference: &Reference) -> RemoteReference {
    let (domain, path) = (reference.domain().to_owned(), reference.path().to_owned());
    match (reference.digest(), reference.tag()) {
        (Some(digest), _) => RemoteReference::with_digest(domain, path, digest.to_string()),
        (None, tag) => RemoteReference::with_tag(domain, path, tag.unwrap_or_default().to_owned()),
    }
}

/// A registry on this machine needs no protection on the way.
fn is_loopback(registry: &str) -> bool {
    let host = match registry.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        Some((host, _)) => host,
        None => registry.split(':').next().unwrap_or_default(),
    };
    host == "localhost"
        || host
            .parse::<std::net::IpAddr>()
            .is_ok_and(|address| address.is_loopback())
}

fn for_us(manifests: &[ImageIndexEntry]) -> Option<String> {
    let fits = |entry: &&ImageIndexEntry| {
        let platform = entry.platform.as_ref();
        platform.is_some_and(|p| p.os.to_string() == "linux" && p.architecture.to_string() == architecture())
    };
    manifests.iter().find(fits).map(|entry| entry.digest.clone())
}

/// A layer's archive on its way; removed when it has been unpacked, or has not.
struct Spooled(PathBuf);

impl Drop for Spooled {
    fn drop(&mut self) {
        if let Err(error) = remove_all(&self.0) {
            tracing::warn!(%error, "a fetched layer stays until the next start");
        }
    }
}

/// Bytes fetched, over all layers.
#[derive(Clone)]
struct Fetched {
    bytes: Arc<AtomicU64>,
    total: u64,
    progress: Option<OnProgress>,
}

/// Counts what is written through it.
struct Counting {
    out: tokio::fs::File,
    fetched: Fetched,
}

impl AsyncWrite for Counting {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
        let polled = Pin::new(&mut self.out).poll_write(cx, data);
        if let Poll::Ready(Ok(length)) = polled {
            let before = self.fetched.bytes.fetch_add(length as u64, Ordering::Relaxed);
            if let Some(progress) = &self.fetched.progress {
                progress(Progress {
                    bytes: before + length as u64,
                    total: Some(self.fetched.total),
                });
            }
        }
        polled
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.out).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.out).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_registry_is_the_one_that_the_name_has() {
        for (name, registry, repository) in [
            ("busybox:1", "index.docker.io", "library/busybox"),
            ("UPPER/case:1", "UPPER", "case"),
            ("localhost:5000/a/b:1", "localhost:5000", "a/b"),
        ] {
            let reference: Reference = name.parse().expect("a reference");
            let remote = remote(&reference.resolved());
            assert_eq!(
                (remote.resolve_registry(), remote.repository()),
                (registry, repository)
            );
        }
    }

    #[test]
    fn only_registries_on_this_machine_are_trusted_without_tls() {
        for (registry, loopback) in [
            ("localhost:5000", true),
            ("127.0.0.1:5000", true),
            ("127.1.2.3", true),
            ("[::1]:5000", true),
            ("localhost.example.com", false),
            ("10.0.0.1:5000", false),
            ("index.docker.io", false),
        ] {
            assert_eq!(is_loopback(registry), loopback, "{registry}");
        }
    }
}
