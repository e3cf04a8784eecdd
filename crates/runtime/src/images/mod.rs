//! Images: a store of unpacked layers, filled from archives and registries.
//!
//! A layer is unpacked once, into a directory named after the digest of its archive, and from then on only
//! read: a container's root is an overlay of its image's layers with a directory of its own on top. Nothing
//! is stored before it has been verified against its digest, and what is stored is on disk before a name
//! leads to it.
//!
//! * [`reference`], [`digest`]: names;
//! * [`store`]: what is there, under which names, and what can go;
//! * [`layer`], [`unpack`], [`whiteout`]: from an archive to a directory;
//! * [`archive`]: loading `docker save` archives and OCI layouts;
//! * [`pull`], [`credentials`]: fetching from a registry, and as whom;
//! * [`users`]: who an image knows.

mod archive;
mod compression;
mod config;
mod credentials;
mod digest;
mod layer;
mod pull;
mod reference;
mod store;
pub mod unpack;
mod users;
mod whiteout;

pub use archive::{LoadError, LoadOptions, Loaded};
pub use config::{ImageConfig, RootFs, RunConfig};
pub use credentials::{Credentials, DockerConfig};
pub use digest::{Digest, DigestError};
pub use layer::LayerError;
pub use pull::{PullError, PullOptions};
pub use reference::{Reference, ReferenceError};
pub use store::{Image, ImageInfo, ImageStore, InUse, RemoveError, StoreError};

use std::sync::Arc;

/// How far a load or a pull has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Progress {
    /// Bytes read or fetched so far.
    pub bytes: u64,
    /// Bytes in all, where that is known.
    pub total: Option<u64>,
}

/// Told of progress, often and from any thread.
pub type OnProgress = Arc<dyn Fn(Progress) + Send + Sync>;
