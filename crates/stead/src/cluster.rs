//! What is settled at a cluster's first start and stays: its addresses, its port, its node's name.

use std::ffi::OsString;
use std::fs;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::PathBuf;

use anyhow::{Context as _, bail};
use serde::{Deserialize, Serialize};
use stead_apiserver::files::{is_draft, write_whole};
use stead_network::Ranges;

use crate::place::Place;

/// The form of the file.
const FORMAT: u32 = 1;

/// A cluster's record.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Cluster {
    format: u32,
    /// The node's name.
    pub(crate) node: String,
    /// The port of the API on this machine, where it was last.
    pub(crate) port: Option<u16>,
    /// The kubeconfigs that have entries of this cluster.
    pub(crate) kubeconfigs: Vec<std::path::PathBuf>,
    /// The cluster's addresses.
    pub(crate) ranges: Ranges,
}

impl Cluster {
    /// The cluster of a place, if there is one.
    pub(crate) fn read(place: &Place) -> anyhow::Result<Option<Cluster>> {
        let path = place.cluster();
        let text = match fs::read(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error).with_context(|| format!("read {}", path.display())),
        };
        let cluster: Cluster = serde_json::from_slice(&text).with_context(|| {
            format!(
                "{} is damaged, and is left as it is; restore it from a backup",
                path.display()
            )
        })?;
        if cluster.format > FORMAT {
            bail!("{} was written by a newer stead; use that one", path.display());
        }
        Ok(Some(cluster))
    }

    /// A new cluster, with addresses that nothing on this machine uses.
    pub(crate) fn new() -> anyhow::Result<Cluster> {
        let used = stead_network::used_prefixes().context("read this machine's routes")?;
        Ok(Cluster {
            format: FORMAT,
            node: node_name(&rustix::system::uname().nodename().to_string_lossy()),
            port: None,
            kubeconfigs: Vec::new(),
            ranges: Ranges::choose(&used)?,
        })
    }

    /// Writes the record, whole or not at all.
    pub(crate) fn write(&self, place: &Place) -> anyhow::Result<()> {
        let path = place.cluster();
        write_whole(&path, &serde_json::to_vec_pretty(self)?)
            .with_context(|| format!("write {}", path.display()))
    }
}

/// Makes the data directory. One that holds something else is not taken.
pub(crate) fn make_data_dir(place: &Place) -> anyhow::Result<()> {
    let data = place.data();
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(data)
        .with_context(|| format!("make the data directory {}", data.display()))?;
    if place.cluster().exists() {
        return Ok(());
    }
    if let Some(foreign) = foreign(place)? {
        bail!(
            "{} is not a data directory of stead: {foreign:?} is in it; name an empty or new directory with --data-dir",
            data.display(),
        );
    }
    Ok(())
}

/// Whether a first start has made the data directory, but come no further than its lock and log.
pub(crate) fn is_only_begun(place: &Place) -> bool {
    let mut begun = drafts(place);
    begun.extend([place.server_lock(), place.log()]);
    fs::read_dir(place.data()).is_ok_and(|entries| {
        let mut paths = entries.flatten().map(|entry| entry.path());
        paths.all(|path| begun.contains(&path))
    })
}

/// Something in the data directory that is not ours.
fn foreign(place: &Place) -> anyhow::Result<Option<OsString>> {
    let data = place.data();
    let entries = fs::read_dir(data).with_context(|| format!("read {}", data.display()))?;
    let (ours, drafts) = (place.parts(), drafts(place));
    Ok(entries.flatten().map(|entry| entry.path()).find_map(|path| {
        let name = path.file_name()?.to_owned();
        // `mkfs` makes that in a file system of its own.
        (!ours.contains(&path) && !drafts.contains(&path) && name != "lost+found").then_some(name)
    }))
}

/// Records that are being written, or were when whoever wrote them was killed.
pub(crate) fn drafts(place: &Place) -> Vec<PathBuf> {
    let entries = fs::read_dir(place.data()).into_iter().flatten().flatten();
    let paths = entries.map(|entry| entry.path());
    paths.filter(|path| is_draft(path, &place.cluster())).collect()
}

/// A host name as the name of a node, which must be a DNS subdomain.
fn node_name(host: &str) -> String {
    let mapped = host.to_ascii_lowercase().replace(
        |c: char| !(c.is_ascii_alphanumeric() || matches!(c, '-' | '.')),
        "-",
    );
    let labels = mapped
        .split('.')
        .map(|label| label.trim_matches('-'))
        .filter(|label| !label.is_empty());
    let name = labels.collect::<Vec<_>>().join(".");
    if name.is_empty() {
        "stead".to_owned()
    } else {
        name.chars().take(63).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_name_becomes_a_node_name() {
        for (host, expected) in [
            ("web1", "web1"),
            ("Web_1.Example.org", "web-1.example.org"),
            ("-x-.", "x"),
            ("", "stead"),
            ("_", "stead"),
        ] {
            assert_eq!(node_name(host), expected, "{host}");
        }
    }

    #[test]
    fn a_record_is_read_back_and_a_damaged_or_newer_one_refused() {
        let dir = tempfile::tempdir().expect("a directory");
        let place = Place::new(dir.path()).expect("a place");
        assert_eq!(Cluster::read(&place).expect("no record"), None);
        let cluster = Cluster {
            format: FORMAT,
            node: "n".to_owned(),
            port: Some(6443),
            kubeconfigs: vec!["/root/.kube/config".into()],
            ranges: Ranges::choose(&[]).expect("ranges"),
        };
        cluster.write(&place).expect("a write");
        assert_eq!(Cluster::read(&place).expect("a record"), Some(cluster.clone()));
        Cluster {
            format: FORMAT + 1,
            ..cluster
        }
        .write(&place)
        .expect("a write");
        assert!(
            Cluster::read(&place)
                .expect_err("refused")
                .to_string()
                .contains("newer")
        );
        fs::write(place.cluster(), "{").expect("a write");
        assert!(
            Cluster::read(&place)
                .expect_err("refused")
                .to_string()
                .contains("damaged")
        );
    }

    #[test]
    fn a_directory_with_something_else_in_it_is_not_taken() {
        let dir = tempfile::tempdir().expect("a directory");
        let place = Place::new(dir.path()).expect("a place");
        make_data_dir(&place).expect("an empty directory will do");
        // What a first start leaves that was killed.
        for ours in ["lock", "server.log", "cluster.new-123"] {
            fs::write(dir.path().join(ours), "").expect("a write");
        }
        make_data_dir(&place).expect("all of it is ours");
        assert_eq!(drafts(&place), [dir.path().join("cluster.new-123")]);
        assert!(is_only_begun(&place));
        fs::create_dir(place.volumes()).expect("a directory");
        assert!(!is_only_begun(&place), "there may be claims");
        fs::write(dir.path().join("thesis.txt"), "").expect("a write");
        let error = make_data_dir(&place).expect_err("refused").to_string();
        assert!(error.contains("thesis.txt"), "{error}");
    }
}
