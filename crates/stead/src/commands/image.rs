//! `stead image`: images that pods can run. A running server does it; else the store is opened here.

use std::env;
use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context as _, bail};
use bytes::Bytes;
use futures::Stream;
use stead_runtime::images::{
    Credentials, DockerConfig, ImageStore, LoadOptions, Progress, PullOptions, Reference,
};
use tokio::io::AsyncRead;
use tokio_util::io::ReaderStream;

use super::status::columns;
use super::{block_on, print};
use crate::cli;
use crate::cluster::Cluster;
use crate::control::client::Control;
use crate::control::{ImageRow, Pull};
use crate::place::Place;
use crate::progress;

/// Characters of an id that are shown, as Docker does.
const SHORT_ID: usize = 12;

/// Does what is said of images.
pub(super) fn image(place: &Place, what: cli::Image) -> anyhow::Result<()> {
    // The registry client takes the process's provider.
    let _ = rustls::crypto::ring::default_provider().install_default();
    block_on(async {
        let mut images = Images::of(place).await?;
        match what {
            cli::Image::Load { file } => load(&mut images, &file).await,
            cli::Image::Ls { output } => list(&images.list().await?, output),
            cli::Image::Rm { images: names } => {
                for name in names {
                    images.remove(&name).await?;
                    print(&format!("Untagged: {name}"))?;
                }
                Ok(())
            }
            cli::Image::Pull { reference } => pull(&mut images, reference).await,
        }
    })
}

/// The image store of a place, whoever has it open.
enum Images {
    Served(Control),
    Own(Arc<ImageStore>),
}

impl Images {
    async fn of(place: &Place) -> anyhow::Result<Images> {
        if let Some(control) = Control::connect(place).await? {
            return Ok(Images::Served(control));
        }
        if Cluster::read(place)?.is_none() {
            bail!(
                "there is no cluster in {}; make it with `stead{} up`",
                place.data().display(),
                place.flag()
            );
        }
        let store = ImageStore::open(place.images()).context("open the images")?;
        Ok(Images::Own(Arc::new(store)))
    }

    async fn list(&mut self) -> anyhow::Result<Vec<ImageRow>> {
        match self {
            Images::Served(control) => control.images().await,
            Images::Own(store) => Ok(store.list().into_iter().map(ImageRow::from).collect()),
        }
    }

    async fn remove(&mut self, name: &str) -> anyhow::Result<()> {
        match self {
            Images::Served(control) => control.remove(name).await,
            Images::Own(store) => Ok(store.remove(name)?),
        }
    }

    /// Loads an archive; returns the names it has given, or an id where it has given none.
    async fn load(&mut self, archive: Archive, total: Option<u64>) -> anyhow::Result<Vec<String>> {
        let bar = progress::Bytes::begin("Loading", total);
        match self {
            Images::Served(control) => {
                let loaded = control
                    .load(archive.stream(move |bytes| bar.at(bytes, total)))
                    .await?;
                Ok(loaded
                    .into_iter()
                    .flat_map(|row| named(row.repo_tags, row.id))
                    .collect())
            }
            Images::Own(store) => {
                let options = LoadOptions {
                    progress: Some(Arc::new(move |Progress { bytes, total }| bar.at(bytes, total))),
                    ..LoadOptions::default()
                };
                let loaded = store.load(archive.read(), &options)?;
                Ok(loaded
                    .into_iter()
                    .flat_map(|image| named(image.names, image.id.to_string()))
                    .collect())
            }
        }
    }

    async fn pull(&mut self, pull: Pull) -> anyhow::Result<String> {
        let bar = progress::Bytes::begin(format!("Pulling {}", pull.name), None);
        match self {
            Images::Served(control) => control.pull(&pull, |bytes, total| bar.at(bytes, total)).await,
            Images::Own(store) => {
                let options = PullOptions {
                    credentials: pull.credentials,
                    progress: Some(Arc::new(move |Progress { bytes, total }| bar.at(bytes, total))),
                    ..PullOptions::default()
                };
                let reference: Reference = pull.name.parse()?;
                Ok(store.pull(&reference, &options).await?.to_string())
            }
        }
    }
}

fn named(names: Vec<String>, id: String) -> Vec<String> {
    if names.is_empty() { vec![id] } else { names }
}

/// Where an archive comes from.
enum Archive {
    File(File),
    Stdin,
}

impl Archive {
    fn read(self) -> Box<dyn Read> {
        match self {
            Archive::File(file) => Box::new(file),
            Archive::Stdin => Box::new(io::stdin()),
        }
    }

    fn stream(
        self,
        progress: impl Fn(u64) + Send + 'static,
    ) -> impl Stream<Item = io::Result<Bytes>> + Send + 'static {
        use futures::StreamExt as _;
        let reader: Box<dyn AsyncRead + Send + Unpin> = match self {
            Archive::File(file) => Box::new(tokio::fs::File::from_std(file)),
            Archive::Stdin => Box::new(tokio::io::stdin()),
        };
        let mut sent = 0;
        ReaderStream::with_capacity(reader, 1 << 18).inspect(move |chunk| {
            sent += chunk.as_ref().map_or(0, |chunk| chunk.len() as u64);
            progress(sent);
        })
    }
}

async fn load(images: &mut Images, file: &Path) -> anyhow::Result<()> {
    let (archive, total) = if file == Path::new("-") {
        (Archive::Stdin, None)
    } else {
        let opened = File::open(file).with_context(|| format!("open {}", file.display()))?;
        let data = opened
            .metadata()
            .with_context(|| format!("open {}", file.display()))?;
        if data.is_dir() {
            bail!(
                "{} is a directory; pack an OCI layout into a tar archive first",
                file.display()
            );
        }
        (Archive::File(opened), data.is_file().then_some(data.len()))
    };
    let names = images
        .load(archive, total)
        .await
        .with_context(|| format!("load {}", file.display()))?;
    for name in names {
        print(&format!("Loaded image: {}", familiar(&name)))?;
    }
    Ok(())
}

async fn pull(images: &mut Images, name: String) -> anyhow::Result<()> {
    let credentials = credentials(&name.parse()?)?;
    let pull = Pull {
        name: name.clone(),
        credentials,
    };
    let id = images.pull(pull).await?;
    print(&format!("Pulled image: {name} ({})", short(&id)))
}

/// Who asks for an image: whom `docker login` has written down for its registry.
fn credentials(image: &Reference) -> anyhow::Result<Credentials> {
    let dir = env::var_os("DOCKER_CONFIG").map(PathBuf::from);
    let Some(dir) = dir.or_else(|| Some(env::home_dir()?.join(".docker"))) else {
        return Ok(Credentials::Anonymous);
    };
    let file = dir.join("config.json");
    let json = match fs::read(&file) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Credentials::Anonymous),
        read => read.with_context(|| format!("read {}", file.display()))?,
    };
    let config = DockerConfig::parse(&json).with_context(|| format!("understand {}", file.display()))?;
    Ok(config.credentials(image).unwrap_or_default())
}

fn list(images: &[ImageRow], output: Option<cli::Output>) -> anyhow::Result<()> {
    if output.is_some() {
        return print(&serde_json::to_string_pretty(images)?);
    }
    let mut rows = vec![["IMAGE", "TAG", "IMAGE ID", "SIZE"].map(str::to_owned)];
    for image in images {
        let untagged = vec!["<none>:<none>".to_owned()];
        let tags = if image.repo_tags.is_empty() {
            &untagged
        } else {
            &image.repo_tags
        };
        for tag in tags {
            // The last colon: a registry may have a port.
            let (name, tag) = tag.rsplit_once(':').unwrap_or((tag, "<none>"));
            let size = indicatif::DecimalBytes(image.bytes).to_string().replace(' ', "");
            rows.push([familiar(name), tag.to_owned(), short(&image.id), size]);
        }
    }
    rows[1..].sort();
    print(columns(&rows).trim_end())
}

/// A name without what is added to it where it is not said, as Docker shows it.
fn familiar(name: &str) -> String {
    let name = name.strip_prefix("docker.io/").unwrap_or(name);
    name.strip_prefix("library/").unwrap_or(name).to_owned()
}

fn short(id: &str) -> String {
    id.trim_start_matches("sha256:").chars().take(SHORT_ID).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_shown_as_they_are_typed() {
        for (full, shown) in [
            ("docker.io/library/visits:1", "visits:1"),
            ("docker.io/bitnami/redis:7", "bitnami/redis:7"),
            ("localhost:5000/x:1", "localhost:5000/x:1"),
        ] {
            assert_eq!(familiar(full), shown);
        }
        assert_eq!(short("sha256:0123456789abcdef"), "0123456789ab");
    }
}
