//! From a layer's archive to its directory: the parent's side of [`super::unpack`].

use std::fs::{self, File};
use std::io;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use super::digest::Digest;
use super::store::{ImageStore, LayerRecord, StoreError, layer_name, remove_all, sync_dir};
use super::unpack::{self, Outcome};

/// Why a layer is not in the store.
#[derive(Debug, thiserror::Error)]
pub enum LayerError {
    /// The unpacking process could not be run.
    #[error("run the process that unpacks layer {diff_id}: {source}")]
    Run {
        /// The layer.
        diff_id: Digest,
        /// What the system said.
        source: io::Error,
    },
    /// The archive is broken, or contains what an image may not contain.
    #[error("unpack layer {diff_id}: {reason}")]
    Unpack {
        /// The layer.
        diff_id: Digest,
        /// What is wrong with it.
        reason: String,
    },
    /// The archive is another than the image says.
    #[error("layer {expected} has the digest {actual}")]
    Digest {
        /// What the image says.
        expected: Digest,
        /// What it is.
        actual: Digest,
    },
    /// See [`StoreError`].
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Unpacks a layer into the store unless it is there. It must be pinned. Blocks.
pub(super) fn install(
    store: &ImageStore,
    diff_id: &Digest,
    archive: impl FnOnce() -> io::Result<File>,
) -> Result<LayerRecord, LayerError> {
    if let Some(record) = store.known_layer(diff_id) {
        return Ok(record);
    }
    let run_error = |source| LayerError::Run {
        diff_id: diff_id.clone(),
        source,
    };
    let aside = Aside::new(store)?;
    let unpacked = run(archive().map_err(run_error)?, &aside.0).map_err(run_error)?;
    let unpacked = match unpacked {
        Outcome::Unpacked(unpacked) => unpacked,
        Outcome::Failed(reason) => {
            return Err(LayerError::Unpack {
                diff_id: diff_id.clone(),
                reason,
            });
        }
    };
    if &unpacked.diff_id != diff_id {
        return Err(LayerError::Digest {
            expected: diff_id.clone(),
            actual: unpacked.diff_id,
        });
    }
    let target = store.layers_dir().join(layer_name(diff_id));
    match fs::rename(&aside.0, &target) {
        Ok(()) => sync_dir(&store.layers_dir())?,
        // Another load was faster; the contents are the same.
        Err(error) if matches!(error.raw_os_error(), Some(libc::EEXIST | libc::ENOTEMPTY)) => {}
        Err(error) => return Err(StoreError::file("move the layer to", &target)(error).into()),
    }
    Ok(LayerRecord {
        diff_id: diff_id.clone(),
        bytes: unpacked.bytes,
    })
}

fn run(archive: File, directory: &PathBuf) -> io::Result<Outcome> {
    let output = Command::new("/proc/self/exe")
        .arg(unpack::ARGUMENT)
        .arg(directory)
        .env_clear()
        .stdin(archive)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()?
        .wait_with_output()?;
    serde_json::from_slice(&output.stdout).map_err(|_| {
        let said = String::from_utf8_lossy(&output.stderr);
        io::Error::other(format!("it ended with {}: {}", output.status, said.trim()))
    })
}

/// A directory to unpack into, removed unless it was moved away.
struct Aside(PathBuf);

impl Aside {
    fn new(store: &ImageStore) -> Result<Self, StoreError> {
        let path = store.temporary();
        fs::create_dir(&path).map_err(StoreError::file("make", &path))?;
        Ok(Self(path))
    }
}

impl Drop for Aside {
    fn drop(&mut self) {
        if let Err(error) = remove_all(&self.0) {
            tracing::warn!(%error, "a layer that was not finished stays until the next start");
        }
    }
}
