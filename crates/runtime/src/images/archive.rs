//! Loading images from an archive: what `docker save` writes, and OCI layouts.
//!
//! The archive comes from a stream that cannot be read twice, and says only at its end what its members
//! are, so these are first written to disk (under numbers, so their names lead nowhere) and digested on the
//! way. Then everything is verified from the top: index, manifest, configuration, layers. An image is added
//! when all of it is in place; when one image of an archive is refused, none of them is added.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, BufReader, Read};
use std::path::{Path, PathBuf};

use serde::Deserialize;
use serde::de::DeserializeOwned;
use tar::{Archive, EntryType};

use super::config::ImageConfig;
use super::digest::{Digest, DigestError, Digesting};
use super::layer::{self, LayerError};
use super::reference::{Reference, ReferenceError};
use super::store::{ImageStore, StoreError, remove_all};
use super::{OnProgress, Progress, compression, whiteout};

/// No index, manifest or configuration is larger.
const MAX_DOCUMENT_BYTES: u64 = 16 << 20;
/// Indexes inside indexes; two levels occur.
const MAX_DEPTH: usize = 4;

/// How to load an archive.
#[derive(Clone, Default)]
pub struct LoadOptions {
    /// A name for the image, beside those the archive gives; only if it holds a single image.
    pub name: Option<Reference>,
    /// Told how much of the archive has been read.
    pub progress: Option<OnProgress>,
}

/// An image that was loaded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Loaded {
    /// Its id.
    pub id: Digest,
    /// The names it has been given, completed.
    pub names: Vec<String>,
}

/// Why an archive was not loaded.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// The archive cannot be read to its end.
    #[error("read the archive: {0}")]
    Read(#[source] io::Error),
    /// It is an archive, but not of images.
    #[error("the archive has neither a manifest.json nor an index.json")]
    NotAnImage,
    /// A member that another refers to is missing.
    #[error("{0:?} is not in the archive")]
    Missing(String),
    /// A member is not what its name or another member says.
    #[error("{name:?} has the digest {actual}")]
    Digest {
        /// Its name in the archive.
        name: String,
        /// What it is.
        actual: Digest,
    },
    /// A member has another size than another member says.
    #[error("{name:?} has {actual} bytes and not {expected}")]
    Size {
        /// Its name in the archive.
        name: String,
        /// What it should have.
        expected: u64,
        /// What it has.
        actual: u64,
    },
    /// A document cannot be read.
    #[error("read {name:?}: {source}")]
    Document {
        /// Its name in the archive.
        name: String,
        /// What is wrong with it.
        source: serde_json::Error,
    },
    /// A digest of another kind than SHA-256.
    #[error(transparent)]
    Algorithm(#[from] DigestError),
    /// The manifest and the configuration disagree.
    #[error("the image has {layers} layers, but its configuration names {diff_ids}")]
    LayerCount {
        /// In the manifest.
        layers: usize,
        /// In the configuration.
        diff_ids: usize,
    },
    /// There are images, but none for this machine.
    #[error("no image for {0} in the archive")]
    Platform(String),
    /// A name was given for an archive with several images.
    #[error("the archive holds {0} images, which cannot all have the same name")]
    Several(usize),
    /// An image has a name that is none.
    #[error(transparent)]
    Reference(#[from] ReferenceError),
    /// See [`LayerError`].
    #[error(transparent)]
    Layer(#[from] LayerError),
    /// See [`StoreError`].
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl ImageStore {
    /// Loads the images of an archive: `docker save`'s or an OCI layout, plain or compressed. Blocks.
    pub fn load(&self, archive: impl Read, options: &LoadOptions) -> Result<Vec<Loaded>, LoadError> {
        let spool = Spool::new(self)?;
        let members = spool.fill(archive, options.progress.as_ref())?;
        let mut plans = plans(&members)?;
        if let Some(name) = &options.name {
            match plans.as_mut_slice() {
                [plan] => plan.tags.push(name.resolved()),
                several => return Err(LoadError::Several(several.len())),
            }
        }
        let loaded = self.install(&plans);
        if loaded.is_err() {
            // Layers of an image that was refused.
            self.collect_garbage()?;
        }
        loaded
    }

    fn install(&self, plans: &[Plan]) -> Result<Vec<Loaded>, LoadError> {
        let mut diff_ids = Vec::new();
        for plan in plans {
            diff_ids.extend(plan.diff_ids()?);
        }
        let pins = self.pin(&diff_ids);
        let mut ready = Vec::new();
        for plan in plans {
            let layers = plan.diff_ids()?.into_iter().zip(&plan.layers);
            let layers = layers.map(|(diff_id, file)| layer::install(self, &diff_id, || File::open(file)));
            ready.push((plan, layers.collect::<Result<Vec<_>, _>>()?));
        }
        let mut loaded = Vec::new();
        for (plan, layers) in ready {
            let config = plan.config.clone();
            let id = self.commit(&plan.document, config, layers, &plan.tags, &plan.digests)?;
            loaded.push(Loaded {
                id,
                names: plan.tags.iter().map(ToString::to_string).collect(),
            });
        }
        drop(pins);
        Ok(loaded)
    }
}

/// An image to be added.
#[derive(Debug)]
struct Plan {
    document: Vec<u8>,
    config: ImageConfig,
    /// Lowest first.
    layers: Vec<PathBuf>,
    tags: Vec<Reference>,
    digests: Vec<Reference>,
}

impl Plan {
    fn new(
        name: &str,
        document: Vec<u8>,
        layers: Vec<PathBuf>,
        tags: Vec<Reference>,
    ) -> Result<Self, LoadError> {
        let config: ImageConfig = parse(name, &document)?;
        let diff_ids = config.rootfs.diff_ids.len();
        if diff_ids != layers.len() {
            return Err(LoadError::LayerCount {
                layers: layers.len(),
                diff_ids,
            });
        }
        Ok(Self {
            document,
            config,
            layers,
            tags,
            digests: Vec::new(),
        })
    }

    fn diff_ids(&self) -> Result<Vec<Digest>, DigestError> {
        self.config.rootfs.diff_ids.iter().map(|id| id.parse()).collect()
    }
}

/// The directory that an archive's members are written to; removed with them.
struct Spool {
    dir: PathBuf,
}

/// What an archive contains, by name.
#[derive(Debug, Default)]
struct Members(BTreeMap<PathBuf, Member>);

#[derive(Debug)]
enum Member {
    File {
        path: PathBuf,
        digest: Digest,
        bytes: u64,
    },
    /// Another name of a member, as older archives have for a layer that occurs twice.
    Alias(PathBuf),
}

impl Spool {
    fn new(store: &ImageStore) -> Result<Self, StoreError> {
        let dir = store.temporary();
        fs::create_dir(&dir).map_err(StoreError::file("make", &dir))?;
        Ok(Self { dir })
    }

    fn fill(&self, archive: impl Read, progress: Option<&OnProgress>) -> Result<Members, LoadError> {
        let counted = Counted {
            inner: archive,
            bytes: 0,
            progress: progress.cloned(),
        };
        let reader =
            compression::reader(BufReader::with_capacity(1 << 16, counted)).map_err(LoadError::Read)?;
        let mut archive = Archive::new(reader);
        let mut members = Members::default();
        for (number, entry) in archive.entries().map_err(LoadError::Read)?.enumerate() {
            let mut entry = entry.map_err(LoadError::Read)?;
            let kind = entry.header().entry_type();
            let name = entry.path().map_err(LoadError::Read)?.into_owned();
            // A name that is no path cannot be referred to either.
            let Ok(name) = whiteout::relative(&name) else {
                continue;
            };
            let link = entry
                .link_name()
                .map_err(LoadError::Read)?
                .map(|link| link.into_owned());
            match (kind, link) {
                (EntryType::Regular | EntryType::Continuous, _) => {
                    let member = self.write(number, &mut entry).map_err(LoadError::Read)?;
                    members.0.insert(name, member);
                }
                (EntryType::Symlink, Some(link)) => {
                    let target = name.parent().unwrap_or(Path::new("")).join(link);
                    members.0.insert(name, Member::Alias(lexical(&target)));
                }
                (EntryType::Link, Some(link)) => {
                    members.0.insert(name, Member::Alias(lexical(&link)));
                }
                _ => {}
            }
        }
        Ok(members)
    }

    fn write(&self, number: usize, entry: &mut impl Read) -> io::Result<Member> {
        let path = self.dir.join(number.to_string());
        let mut reader = Digesting::new(entry);
        io::copy(&mut reader, &mut File::create(&path)?)?;
        let (digest, bytes) = reader.finish()?;
        Ok(Member::File { path, digest, bytes })
    }
}

impl Drop for Spool {
    fn drop(&mut self) {
        if let Err(error) = remove_all(&self.dir) {
            tracing::warn!(%error, "a spooled archive stays until the next start");
        }
    }
}

/// Resolves `..` by the letters, as these names are no paths on any disk.
fn lexical(path: &Path) -> PathBuf {
    let mut result = PathBuf::new();
    for component in path.components() {
        match component {
            std::path::Component::Normal(name) => result.push(name),
            std::path::Component::ParentDir => drop(result.pop()),
            _ => {}
        }
    }
    result
}

impl Members {
    fn find(&self, name: &str) -> Result<(&Path, &Digest, u64), LoadError> {
        let missing = || LoadError::Missing(name.to_owned());
        let mut at = whiteout::relative(Path::new(name)).map_err(|_| missing())?;
        // An alias of an alias at most; a circle ends here too.
        for _ in 0..3 {
            match self.0.get(&at) {
                Some(Member::File { path, digest, bytes }) => return Ok((path, digest, *bytes)),
                Some(Member::Alias(target)) => at = target.clone(),
                None => break,
            }
        }
        Err(missing())
    }

    fn has(&self, name: &str) -> bool {
        self.find(name).is_ok()
    }

    fn read(&self, name: &str) -> Result<Vec<u8>, LoadError> {
        let (path, ..) = self.find(name)?;
        let mut bytes = Vec::new();
        let file = File::open(path).map_err(LoadError::Read)?;
        file.take(MAX_DOCUMENT_BYTES)
            .read_to_end(&mut bytes)
            .map_err(LoadError::Read)?;
        Ok(bytes)
    }

    /// The member a descriptor of an OCI layout means, if it is what the descriptor says.
    fn blob(&self, descriptor: &Descriptor) -> Result<(String, &Path), LoadError> {
        let digest: Digest = descriptor.digest.parse()?;
        let name = format!("blobs/sha256/{}", digest.hex());
        let (path, actual, bytes) = self.find(&name)?;
        if actual != &digest {
            return Err(LoadError::Digest {
                name,
                actual: actual.clone(),
            });
        }
        if bytes != descriptor.size {
            return Err(LoadError::Size {
                name,
                expected: descriptor.size,
                actual: bytes,
            });
        }
        Ok((name, path))
    }
}

fn parse<T: DeserializeOwned>(name: &str, document: &[u8]) -> Result<T, LoadError> {
    serde_json::from_slice(document).map_err(|source| LoadError::Document {
        name: name.to_owned(),
        source,
    })
}

fn plans(members: &Members) -> Result<Vec<Plan>, LoadError> {
    // Newer archives of Docker are both; there the manifest has the names.
    if members.has("manifest.json") {
        docker(members)
    } else if members.has("index.json") {
        oci(members)
    } else {
        Err(LoadError::NotAnImage)
    }
}

/// An image in `manifest.json`.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct DockerImage {
    config: String,
    repo_tags: Option<Vec<String>>,
    #[serde(default)]
    layers: Vec<String>,
}

fn docker(members: &Members) -> Result<Vec<Plan>, LoadError> {
    let images: Vec<DockerImage> = parse("manifest.json", &members.read("manifest.json")?)?;
    images
        .into_iter()
        .map(|image| docker_image(members, image))
        .collect()
}

fn docker_image(members: &Members, image: DockerImage) -> Result<Plan, LoadError> {
    let (_, actual, _) = members.find(&image.config)?;
    let stem = Path::new(&image.config)
        .file_stem()
        .and_then(|stem| stem.to_str())
        .unwrap_or_default();
    let claimed = format!("sha256:{stem}").parse::<Digest>();
    if claimed.is_ok_and(|claimed| &claimed != actual) {
        return Err(LoadError::Digest {
            name: image.config,
            actual: actual.clone(),
        });
    }
    let layers = image
        .layers
        .iter()
        .map(|name| members.find(name).map(|(path, ..)| path.to_owned()));
    let layers = layers.collect::<Result<_, _>>()?;
    let tags = image.repo_tags.unwrap_or_default();
    let tags = tags
        .iter()
        .map(|tag| Ok(tag.parse::<Reference>()?.resolved()))
        .collect::<Result<_, LoadError>>()?;
    Plan::new(&image.config, members.read(&image.config)?, layers, tags)
}

/// A reference to a blob of an OCI layout.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Descriptor {
    #[serde(default)]
    media_type: String,
    digest: String,
    size: u64,
    platform: Option<Platform>,
    #[serde(default)]
    annotations: BTreeMap<String, String>,
}

#[derive(Debug, Clone, Deserialize)]
struct Platform {
    architecture: String,
    os: String,
}

#[derive(Debug, Deserialize)]
struct OciIndex {
    #[serde(default)]
    manifests: Vec<Descriptor>,
}

#[derive(Debug, Deserialize)]
struct OciManifest {
    config: Descriptor,
    #[serde(default)]
    layers: Vec<Descriptor>,
}

fn oci(members: &Members) -> Result<Vec<Plan>, LoadError> {
    let index: OciIndex = parse("index.json", &members.read("index.json")?)?;
    let mut plans = Vec::new();
    for descriptor in index.manifests.iter().filter(|descriptor| for_us(descriptor)) {
        if let Some(mut plan) = oci_image(members, descriptor, MAX_DEPTH)? {
            plan.tags.extend(name(descriptor)?);
            let digest: Digest = descriptor.digest.parse()?;
            plan.digests = plan
                .tags
                .iter()
                .map(|tag| tag.with_digest(digest.clone()))
                .collect();
            plans.push(plan);
        }
    }
    if plans.is_empty() {
        return Err(LoadError::Platform(format!("linux/{}", architecture())));
    }
    Ok(plans)
}

/// The image of a manifest, or the one for this machine in an index.
fn oci_image(members: &Members, descriptor: &Descriptor, depth: usize) -> Result<Option<Plan>, LoadError> {
    let (name, path) = members.blob(descriptor)?;
    let document = fs::read(path).map_err(LoadError::Read)?;
    if descriptor.media_type.contains("index") || descriptor.media_type.contains("manifest.list") {
        let index: OciIndex = parse(&name, &document)?;
        let inside = index.manifests.iter().filter(|descriptor| for_us(descriptor));
        for descriptor in inside.take(if depth == 0 { 0 } else { usize::MAX }) {
            if let Some(plan) = oci_image(members, descriptor, depth - 1)? {
                return Ok(Some(plan));
            }
        }
        return Ok(None);
    }
    let manifest: OciManifest = parse(&name, &document)?;
    let (config_name, config) = members.blob(&manifest.config)?;
    let config = fs::read(config).map_err(LoadError::Read)?;
    let layers = manifest
        .layers
        .iter()
        .map(|layer| members.blob(layer).map(|(_, path)| path.to_owned()));
    Plan::new(
        &config_name,
        config,
        layers.collect::<Result<_, _>>()?,
        Vec::new(),
    )
    .map(Some)
}

fn for_us(descriptor: &Descriptor) -> bool {
    let fits = |platform: &Platform| platform.os == "linux" && platform.architecture == architecture();
    descriptor.platform.as_ref().is_none_or(fits)
}

/// containerd writes the whole name; others write at least a tag, which alone names nothing.
fn name(descriptor: &Descriptor) -> Result<Option<Reference>, LoadError> {
    let full = descriptor.annotations.get("io.containerd.image.name");
    let short = descriptor.annotations.get("org.opencontainers.image.ref.name");
    let name = full.or(short.filter(|name| name.contains(['/', ':'])));
    Ok(name
        .map(|name| name.parse::<Reference>())
        .transpose()?
        .map(|name| name.resolved()))
}

/// This machine's, in Go's words.
pub(super) fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        "x86" => "386",
        "powerpc64" => "ppc64le",
        other => other,
    }
}

/// Counts what is read through it.
struct Counted<R> {
    inner: R,
    bytes: u64,
    progress: Option<OnProgress>,
}

impl<R: Read> Read for Counted<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let length = self.inner.read(buffer)?;
        self.bytes += length as u64;
        if let Some(progress) = &self.progress {
            progress(Progress {
                bytes: self.bytes,
                total: None,
            });
        }
        Ok(length)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_inside_an_archive_resolve_by_their_letters() {
        for (path, expected) in [
            ("a/../b/layer.tar", "b/layer.tar"),
            ("../../x", "x"),
            ("/x/./y", "x/y"),
            ("a/../..", ""),
        ] {
            assert_eq!(lexical(Path::new(path)), Path::new(expected), "{path}");
        }
    }

    #[test]
    fn aliases_that_go_in_circles_lead_nowhere() {
        let mut members = Members::default();
        members.0.insert("a".into(), Member::Alias("b".into()));
        members.0.insert("b".into(), Member::Alias("a".into()));
        assert!(matches!(members.find("a"), Err(LoadError::Missing(_))));
    }
}
