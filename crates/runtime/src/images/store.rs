//! What images there are, under which names, and what can go.
//!
//! ```text
//! lock               held by the one process that uses the store
//! layers/<id>/       unpacked layers; <id> is the beginning of the digest of the uncompressed archive
//! configs/<digest>   the images' configuration documents, as they came; their digests are the images' ids
//! records/<digest>   which layers an image has (JSON)
//! names.json         tags and repository digests
//! tmp/               what is under way; emptied when the store is opened
//! ```
//! An image exists when its record does. It is written after everything it refers to, and each file aside,
//! synced and renamed, so a power cut leaves at worst a layer that nothing refers to; such layers are
//! removed when the store is opened.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fs::{self, File};
use std::io::{self, Write};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use rustix::fs::FlockOperation;
use serde::{Deserialize, Serialize};

use super::digest::Digest;
use super::reference::{Reference, ReferenceError};
use super::{ImageConfig, users};
use crate::oci::user::Users;

/// The store's own files could not be used.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// Another process has it open.
    #[error("the image store {0:?} is in use by another process")]
    Locked(PathBuf),
    /// A file operation failed.
    #[error("{action} {path:?}: {source}")]
    File {
        /// What was attempted.
        action: &'static str,
        /// On what.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// A file does not contain what it should.
    #[error("read {path:?}: {source}")]
    Parse {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        source: serde_json::Error,
    },
}

impl StoreError {
    pub(super) fn file(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_owned();
        move |source| Self::File { action, path, source }
    }
}

/// Why an image was not removed.
#[derive(Debug, thiserror::Error)]
pub enum RemoveError {
    /// No image of that name or id.
    #[error("no such image: {0}")]
    NotFound(String),
    /// A container needs it.
    #[error("image {0} is in use by a container")]
    InUse(String),
    /// The name is none.
    #[error(transparent)]
    Reference(#[from] ReferenceError),
    /// See [`StoreError`].
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// An image that can be run.
#[derive(Debug)]
pub struct Image {
    id: Digest,
    config: ImageConfig,
    layers: Vec<LayerRecord>,
    /// Cloned by whoever needs the image to stay.
    uses: Arc<()>,
    users: OnceLock<Users>,
}

impl Image {
    /// The digest of its configuration.
    pub fn id(&self) -> &Digest {
        &self.id
    }

    /// What it says about itself.
    pub fn config(&self) -> &ImageConfig {
        &self.config
    }

    /// The directories of its layers in the store's layer directory, topmost first.
    pub(crate) fn layers(&self) -> Vec<String> {
        self.layers
            .iter()
            .rev()
            .map(|layer| layer_name(&layer.diff_id))
            .collect()
    }

    /// Keeps the image from being removed.
    pub fn hold(&self) -> InUse {
        InUse {
            _uses: Arc::clone(&self.uses),
        }
    }

    fn in_use(&self) -> bool {
        Arc::strong_count(&self.uses) > 1
    }
}

/// As long as it exists, the image it was got from is not removed.
#[derive(Debug)]
pub struct InUse {
    _uses: Arc<()>,
}

/// An image, as a list shows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImageInfo {
    /// The digest of its configuration.
    pub id: Digest,
    /// `repository:tag`, completed.
    pub repo_tags: Vec<String>,
    /// `repository@digest` of the manifests it was pulled by.
    pub repo_digests: Vec<String>,
    /// Size of its unpacked files.
    pub bytes: u64,
    /// What it says about itself.
    pub config: ImageConfig,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct LayerRecord {
    pub(super) diff_id: Digest,
    pub(super) bytes: u64,
}

#[derive(Debug, Serialize, Deserialize)]
struct Record {
    /// Lowest first.
    layers: Vec<LayerRecord>,
}

/// Names of images.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
struct Names {
    tags: BTreeMap<String, Digest>,
    digests: BTreeMap<String, Digest>,
}

impl Names {
    fn of<'a>(map: &'a BTreeMap<String, Digest>, id: &'a Digest) -> impl Iterator<Item = &'a String> {
        map.iter()
            .filter(move |(_, named)| *named == id)
            .map(|(name, _)| name)
    }
}

#[derive(Debug, Default)]
struct Index {
    images: BTreeMap<Digest, Arc<Image>>,
    names: Names,
    /// Layers that a load or pull under way relies on.
    pinned: HashMap<Digest, usize>,
}

/// A directory of images. Cheap to share in an [`Arc`]; its methods may be called from any thread, and
/// block for as long as the disk does.
#[derive(Debug)]
pub struct ImageStore {
    dir: PathBuf,
    index: Mutex<Index>,
    _lock: File,
}

impl ImageStore {
    /// Opens the store in `dir`, which is made if it is missing.
    pub fn open(dir: impl Into<PathBuf>) -> Result<Self, StoreError> {
        let dir = dir.into();
        for part in ["layers", "configs", "records"] {
            make_dir(&dir.join(part))?;
        }
        let lock = lock(&dir)?;
        let tmp = dir.join("tmp");
        remove_all(&tmp)?;
        make_dir(&tmp)?;
        // Layers hold set-user-id programs of other systems; nobody but root walks in.
        set_private(&dir)?;
        let store = Self {
            index: Mutex::new(read_index(&dir)?),
            dir,
            _lock: lock,
        };
        store.collect_garbage()?;
        Ok(store)
    }

    /// All images, by id.
    pub fn list(&self) -> Vec<ImageInfo> {
        let index = self.index();
        index.images.values().map(|image| index.info(image)).collect()
    }

    /// The image of a name, digest or id; `None` if it is not here.
    pub fn resolve(&self, name: &str) -> Result<Option<ImageInfo>, ReferenceError> {
        let index = self.index();
        Ok(index.find(name)?.map(|image| index.info(&image)))
    }

    /// The same, to be run.
    pub fn get(&self, name: &str) -> Result<Option<Arc<Image>>, ReferenceError> {
        self.index().find(name)
    }

    /// Removes a name, or with its last name, or by its id, an image. Layers that no image needs go as well.
    pub fn remove(&self, name: &str) -> Result<(), RemoveError> {
        {
            let mut index = self.index();
            let Some(image) = index.find(name)? else {
                return Err(RemoveError::NotFound(name.to_owned()));
            };
            let mut names = index.names.clone();
            let by_name = name
                .parse::<Reference>()
                .ok()
                .map(|reference| reference.resolved().to_string());
            let named = by_name.filter(|name| names.tags.get(name).or(names.digests.get(name)).is_some());
            match named {
                Some(name) => {
                    names.tags.remove(&name);
                    names.digests.remove(&name);
                }
                None => {
                    names.tags.retain(|_, id| id != &image.id);
                    names.digests.retain(|_, id| id != &image.id);
                }
            }
            let last = Names::of(&names.tags, &image.id).next().is_none();
            if last && image.in_use() {
                return Err(RemoveError::InUse(name.to_owned()));
            }
            if last {
                names.digests.retain(|_, id| id != &image.id);
                remove_file(&self.dir.join("records").join(image.id.hex()))?;
                remove_file(&self.dir.join("configs").join(image.id.hex()))?;
                index.images.remove(&image.id);
            }
            self.write_names(&names)?;
            index.names = names;
        }
        self.collect_garbage()?;
        Ok(())
    }

    /// The directory of all layers.
    pub(crate) fn layers_dir(&self) -> PathBuf {
        self.dir.join("layers")
    }

    /// The user database of an image; read once.
    pub(crate) fn users<'a>(&self, image: &'a Image) -> &'a Users {
        image.users.get_or_init(|| {
            let directories = image
                .layers()
                .into_iter()
                .map(|layer| self.layers_dir().join(layer));
            users::read(&directories.collect::<Vec<_>>())
        })
    }

    /// A new name below `tmp`.
    pub(super) fn temporary(&self) -> PathBuf {
        let mut random = [0u8; 8];
        // Fails only where the kernel lacks the call; the names need be unique, not secret.
        let _ = rustix::rand::getrandom(&mut random, rustix::rand::GetRandomFlags::empty());
        self.dir
            .join("tmp")
            .join(format!("{:016x}", u64::from_ne_bytes(random)))
    }

    /// Keeps layers from being collected while an image is put together.
    pub(super) fn pin(&self, diff_ids: &[Digest]) -> Pins<'_> {
        let mut index = self.index();
        for id in diff_ids {
            *index.pinned.entry(id.clone()).or_default() += 1;
        }
        Pins {
            store: self,
            diff_ids: diff_ids.to_vec(),
        }
    }

    /// Adds an image whose layers are in place, and names for it; a name moves from another image.
    pub(super) fn commit(
        &self,
        config_document: &[u8],
        config: ImageConfig,
        layers: Vec<LayerRecord>,
        tags: &[Reference],
        digests: &[Reference],
    ) -> Result<Digest, StoreError> {
        let id = Digest::of(config_document);
        let record = serde_json::to_vec(&Record {
            layers: layers.clone(),
        })
        .map_err(|source| StoreError::Parse {
            path: self.dir.join("records"),
            source,
        })?;
        write_durably(&self.dir.join("configs").join(id.hex()), config_document)?;
        write_durably(&self.dir.join("records").join(id.hex()), &record)?;
        let mut index = self.index();
        let mut names = index.names.clone();
        names
            .tags
            .extend(tags.iter().map(|tag| (tag.to_string(), id.clone())));
        names
            .digests
            .extend(digests.iter().map(|digest| (digest.to_string(), id.clone())));
        self.write_names(&names)?;
        index.names = names;
        index
            .images
            .entry(id.clone())
            .or_insert_with(|| Arc::new(new_image(id.clone(), config, layers)));
        Ok(id)
    }

    /// The record of a layer that is in place already. Pin it first.
    pub(super) fn known_layer(&self, diff_id: &Digest) -> Option<LayerRecord> {
        let index = self.index();
        let mut layers = index.images.values().flat_map(|image| &image.layers);
        layers.find(|layer| &layer.diff_id == diff_id).cloned()
    }

    /// Removes layers that neither an image nor a load under way needs.
    pub(super) fn collect_garbage(&self) -> Result<(), StoreError> {
        let dir = self.layers_dir();
        let mut gone = Vec::new();
        {
            let index = self.index();
            let needed = index
                .images
                .values()
                .flat_map(|image| &image.layers)
                .map(|layer| &layer.diff_id);
            let needed: BTreeSet<_> = needed.chain(index.pinned.keys()).map(layer_name).collect();
            for entry in fs::read_dir(&dir).map_err(StoreError::file("list", &dir))? {
                let entry = entry.map_err(StoreError::file("list", &dir))?;
                if entry
                    .file_name()
                    .to_str()
                    .is_none_or(|name| !needed.contains(name))
                {
                    // Out of the way at once; the slow part is done without holding anyone up.
                    let aside = self.temporary();
                    fs::rename(entry.path(), &aside).map_err(StoreError::file("move", &entry.path()))?;
                    gone.push(aside);
                }
            }
        }
        gone.iter().try_for_each(|path| remove_all(path))
    }

    fn write_names(&self, names: &Names) -> Result<(), StoreError> {
        let path = self.dir.join("names.json");
        match serde_json::to_vec(names) {
            Ok(bytes) => write_durably(&path, &bytes),
            Err(source) => Err(StoreError::Parse { path, source }),
        }
    }

    fn index(&self) -> MutexGuard<'_, Index> {
        // Every change is made whole or not at all, so a panic elsewhere leaves it usable.
        self.index.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Index {
    fn find(&self, name: &str) -> Result<Option<Arc<Image>>, ReferenceError> {
        let as_id = name.parse().or_else(|_| format!("sha256:{name}").parse()).ok();
        if let Some(image) = as_id.and_then(|id: Digest| self.images.get(&id)) {
            return Ok(Some(Arc::clone(image)));
        }
        if name.parse::<Digest>().is_ok() || format!("sha256:{name}").parse::<Digest>().is_ok() {
            return Ok(None);
        }
        let name = name.parse::<Reference>()?.resolved().to_string();
        let id = self
            .names
            .tags
            .get(&name)
            .or_else(|| self.names.digests.get(&name));
        Ok(id.and_then(|id| self.images.get(id)).map(Arc::clone))
    }

    fn info(&self, image: &Image) -> ImageInfo {
        ImageInfo {
            id: image.id.clone(),
            repo_tags: Names::of(&self.names.tags, &image.id).cloned().collect(),
            repo_digests: Names::of(&self.names.digests, &image.id).cloned().collect(),
            bytes: image.layers.iter().map(|layer| layer.bytes).sum(),
            config: image.config.clone(),
        }
    }
}

/// See [`ImageStore::pin`].
pub(super) struct Pins<'a> {
    store: &'a ImageStore,
    diff_ids: Vec<Digest>,
}

impl Drop for Pins<'_> {
    fn drop(&mut self) {
        let mut index = self.store.index();
        for id in &self.diff_ids {
            match index.pinned.get_mut(id) {
                Some(count) if *count > 1 => *count -= 1,
                _ => drop(index.pinned.remove(id)),
            }
        }
    }
}

/// A name short enough for many to fit into the options of a mount, and long enough to be unique.
pub(super) fn layer_name(diff_id: &Digest) -> String {
    diff_id.hex()[..24].to_owned()
}

fn new_image(id: Digest, config: ImageConfig, layers: Vec<LayerRecord>) -> Image {
    Image {
        id,
        config,
        layers,
        uses: Arc::default(),
        users: OnceLock::new(),
    }
}

fn lock(dir: &Path) -> Result<File, StoreError> {
    let path = dir.join("lock");
    let file = fs::OpenOptions::new()
        .create(true)
        .truncate(false)
        .write(true)
        .open(&path);
    let file = file.map_err(StoreError::file("open", &path))?;
    match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(file),
        Err(rustix::io::Errno::WOULDBLOCK) => Err(StoreError::Locked(dir.to_owned())),
        Err(error) => Err(StoreError::file("lock", &path)(error.into())),
    }
}

fn read_index(dir: &Path) -> Result<Index, StoreError> {
    let mut index = Index::default();
    let records = dir.join("records");
    for entry in fs::read_dir(&records).map_err(StoreError::file("list", &records))? {
        let entry = entry.map_err(StoreError::file("list", &records))?;
        let name = entry.file_name().into_string().unwrap_or_default();
        // What was being written when the power went.
        let Ok(id) = format!("sha256:{name}").parse::<Digest>() else {
            continue;
        };
        let record: Record = read_json(&entry.path())?;
        let config = read_json(&dir.join("configs").join(&name))?;
        index
            .images
            .insert(id.clone(), Arc::new(new_image(id, config, record.layers)));
    }
    let names = dir.join("names.json");
    if names.exists() {
        index.names = read_json(&names)?;
        let images = &index.images;
        index.names.tags.retain(|_, id| images.contains_key(id));
        index.names.digests.retain(|_, id| images.contains_key(id));
    }
    Ok(index)
}

fn read_json<T: serde::de::DeserializeOwned>(path: &Path) -> Result<T, StoreError> {
    let bytes = fs::read(path).map_err(StoreError::file("read", path))?;
    serde_json::from_slice(&bytes).map_err(|source| StoreError::Parse {
        path: path.to_owned(),
        source,
    })
}

fn write_durably(path: &Path, bytes: &[u8]) -> Result<(), StoreError> {
    let aside = path.with_extension("new");
    let write = || -> io::Result<()> {
        let mut file = File::create(&aside)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        fs::rename(&aside, path)
    };
    write().map_err(StoreError::file("write", path))?;
    sync_dir(path.parent().unwrap_or(Path::new(".")))
}

/// Makes a rename in a directory durable.
pub(super) fn sync_dir(dir: &Path) -> Result<(), StoreError> {
    File::open(dir)
        .and_then(|dir| dir.sync_all())
        .map_err(StoreError::file("sync", dir))
}

fn make_dir(path: &Path) -> Result<(), StoreError> {
    fs::create_dir_all(path).map_err(StoreError::file("make", path))
}

fn set_private(dir: &Path) -> Result<(), StoreError> {
    let dir_file = File::open(dir).map_err(StoreError::file("open", dir))?;
    rustix::fs::fchmod(dir_file.as_fd(), rustix::fs::Mode::from_raw_mode(0o700))
        .map_err(|error| StoreError::file("protect", dir)(error.into()))
}

fn remove_file(path: &Path) -> Result<(), StoreError> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(StoreError::file("remove", path)(error)),
        _ => Ok(()),
    }
}

/// Removes a file or a directory with everything in it. That it is not there is no error.
pub(super) fn remove_all(path: &Path) -> Result<(), StoreError> {
    let removed = match fs::symlink_metadata(path) {
        Ok(metadata) if metadata.is_dir() => fs::remove_dir_all(path),
        Ok(_) => fs::remove_file(path),
        Err(error) => Err(error),
    };
    match removed {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(StoreError::file("remove", path)(error)),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    /// A store with images that share no file with any real one: their layers are empty directories.
    fn store_with(dir: &Path, images: &[(&str, &[&str], &[&str])]) -> ImageStore {
        let store = ImageStore::open(dir).unwrap();
        for (name, tags, layers) in images {
            let document = format!(r#"{{"architecture":"{name}"}}"#);
            let config = serde_json::from_str(&document).unwrap();
            let record = |layer: &&str| LayerRecord {
                diff_id: Digest::of(layer.as_bytes()),
                bytes: 1,
            };
            let layers: Vec<_> = layers.iter().map(record).collect();
            for layer in &layers {
                fs::create_dir_all(store.layers_dir().join(layer_name(&layer.diff_id))).unwrap();
            }
            let tags: Vec<Reference> = tags
                .iter()
                .map(|tag| tag.parse::<Reference>().unwrap().resolved())
                .collect();
            store
                .commit(document.as_bytes(), config, layers, &tags, &[])
                .unwrap();
        }
        store
    }

    fn layers(store: &ImageStore) -> usize {
        fs::read_dir(store.layers_dir()).unwrap().count()
    }

    #[test]
    fn an_image_goes_with_its_last_name_and_takes_the_layers_only_it_needs() {
        let dir = tempfile::tempdir().unwrap();
        let store = store_with(
            dir.path(),
            &[
                ("one", &["a:1", "a:2"], &["base", "x"]),
                ("two", &["b:1"], &["base"]),
            ],
        );
        assert_eq!(layers(&store), 2);
        store.remove("a:1").unwrap();
        assert_eq!(
            store.resolve("a:2").unwrap().unwrap().repo_tags,
            ["docker.io/library/a:2"]
        );
        store.remove("a:2").unwrap();
        assert_eq!((store.list().len(), layers(&store)), (1, 1));
        assert!(matches!(store.remove("a:2"), Err(RemoveError::NotFound(_))));
        assert!(matches!(store.remove("A"), Err(RemoveError::Reference(_))));
        let id = store.list()[0].id.to_string();
        store.remove(&id).unwrap();
        assert_eq!((store.list().len(), layers(&store)), (0, 0));
    }

    #[test]
    fn an_image_in_use_stays_until_it_is_let_go() {
        let dir = tempfile::tempdir().unwrap();
        let store = store_with(dir.path(), &[("one", &["a:1", "a:2"], &["x"])]);
        let hold = store.get("a:1").unwrap().unwrap().hold();
        store.remove("a:1").unwrap();
        let error = store.remove("a:2").unwrap_err();
        assert_eq!(error.to_string(), "image a:2 is in use by a container");
        drop(hold);
        store.remove("a:2").unwrap();
    }

    #[test]
    fn a_name_moves_to_the_image_that_was_loaded_last() {
        let dir = tempfile::tempdir().unwrap();
        let store = store_with(dir.path(), &[("one", &["a"], &["x"]), ("two", &["a"], &["y"])]);
        let tags: Vec<_> = store
            .list()
            .into_iter()
            .map(|i| (i.config.architecture, i.repo_tags))
            .collect();
        assert!(tags.contains(&("one".to_owned(), vec![])));
        assert!(tags.contains(&("two".to_owned(), vec!["docker.io/library/a:latest".to_owned()])));
    }

    #[test]
    fn a_reopened_store_is_as_it_was_without_leftovers() {
        let dir = tempfile::tempdir().unwrap();
        let store = store_with(dir.path(), &[("one", &["a"], &["x"])]);
        assert!(matches!(ImageStore::open(dir.path()), Err(StoreError::Locked(_))));
        let before = store.list();
        fs::create_dir_all(store.layers_dir().join("unfinished/x")).unwrap();
        fs::create_dir_all(dir.path().join("tmp/unfinished")).unwrap();
        fs::write(dir.path().join("records/0.new"), "{").unwrap();
        drop(store);
        let store = ImageStore::open(dir.path()).unwrap();
        assert_eq!(store.list(), before);
        assert_eq!(layers(&store), 1);
        assert_eq!(fs::read_dir(dir.path().join("tmp")).unwrap().count(), 0);
    }

    #[test]
    fn images_are_found_by_name_and_by_id() {
        let dir = tempfile::tempdir().unwrap();
        let store = store_with(dir.path(), &[("one", &["busybox:1.35"], &["x"])]);
        let id = store.list()[0].id.clone();
        for name in [
            "busybox:1.35",
            "docker.io/library/busybox:1.35",
            &id.to_string(),
            id.hex(),
        ] {
            assert_eq!(
                store.resolve(name).unwrap().map(|info| info.id),
                Some(id.clone()),
                "{name}"
            );
        }
        for name in [
            "busybox",
            "busybox:1.36",
            &Digest::of(b"?").to_string(),
            Digest::of(b"?").hex(),
        ] {
            assert_eq!(store.resolve(name).unwrap(), None, "{name}");
        }
    }
}
