//! `stead delete`: the cluster and its data are gone.

use std::fs;
use std::io::{self, BufRead as _, Write as _};
use std::path::Path;

use anyhow::{Context as _, bail};

use super::{down, print, up};
use crate::cli;
use crate::cluster::{self, Cluster};
use crate::kubeconfig;
use crate::place::Place;
use crate::progress::say;

/// Deletes the cluster of a place.
pub(super) fn delete(place: &Place, options: &cli::Delete) -> anyhow::Result<()> {
    let Some(cluster) = Cluster::read(place)? else {
        remove_beginnings(place)?;
        return print(&format!("There is no cluster in {}.", place.data().display()));
    };
    let claims = claims(place);
    if !options.yes && !confirmed(place, &claims)? {
        bail!(
            "nothing was deleted; `stead{} delete --yes` does not ask",
            place.flag()
        );
    }
    let changing = up::change(place)?;
    down::stop(place)?;
    for path in &cluster.kubeconfigs {
        // The data goes all the same: an entry that leads nowhere does no harm.
        if let Err(error) = kubeconfig::remove_from(path, &place.name()) {
            say(&format!(
                "The entry {:?} is left in a kubeconfig: {error:#}",
                place.name()
            ));
        }
    }
    remove_all(place)?;
    drop(changing);
    print(&format!("The cluster {:?} is deleted.", place.name()))
}

/// Removes what a first start left that was killed before there was a cluster. Where anything else is in the
/// directory, it is left alone.
fn remove_beginnings(place: &Place) -> anyhow::Result<()> {
    if !cluster::is_only_begun(place) {
        return Ok(());
    }
    let changing = up::change(place)?;
    // Whoever had the lock may have gone on.
    if cluster::is_only_begun(place) {
        remove_all(place)?;
    }
    drop(changing);
    Ok(())
}

/// Removes all that is the cluster's. Only who holds the lock of changes may do so.
fn remove_all(place: &Place) -> anyhow::Result<()> {
    for part in place.parts().into_iter().chain(cluster::drafts(place)) {
        remove(&part).with_context(|| format!("remove {}", part.display()))?;
    }
    // Its own directory too, unless it is a mount point or someone else's things are in it.
    let _ = fs::remove_dir(place.data());
    place.remove_run();
    Ok(())
}

fn remove(path: &Path) -> io::Result<()> {
    let removed = match fs::symlink_metadata(path) {
        Ok(data) if data.is_dir() => fs::remove_dir_all(path),
        Ok(_) => fs::remove_file(path),
        Err(error) => Err(error),
    };
    match removed {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// The claims whose data will be lost: the directories of their volumes say whose they are.
fn claims(place: &Place) -> Vec<String> {
    let mut claims: Vec<String> = fs::read_dir(place.volumes())
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|entry| claim_of(&entry.file_name().to_string_lossy()))
        .collect();
    claims.sort();
    claims
}

/// `pvc-<uid>_<namespace>_<claim>` is the directory of `<namespace>/<claim>`.
fn claim_of(directory: &str) -> Option<String> {
    let mut parts = directory.strip_prefix("pvc-")?.splitn(3, '_').skip(1);
    Some(format!("{}/{}", parts.next()?, parts.next()?))
}

fn confirmed(place: &Place, claims: &[String]) -> anyhow::Result<bool> {
    let mut out = io::stderr();
    writeln!(
        out,
        "This deletes the cluster {:?} and all its data in {}.",
        place.name(),
        place.data().display()
    )?;
    if !claims.is_empty() {
        writeln!(out, "The data of these claims will be lost:")?;
        for claim in claims {
            writeln!(out, "  {claim}")?;
        }
    }
    write!(out, "Go on? [y/N] ")?;
    out.flush()?;
    let mut answer = String::new();
    io::stdin().lock().read_line(&mut answer)?;
    Ok(matches!(answer.trim().to_ascii_lowercase().as_str(), "y" | "yes"))
}

#[cfg(test)]
mod tests {
    use super::claim_of;

    #[test]
    fn a_volumes_directory_names_its_claim() {
        for (directory, claim) in [
            ("pvc-0a1b_default_data-web-0", Some("default/data-web-0")),
            ("pvc-0a1b_ns_x_y", Some("ns/x_y")),
            ("pvc-0a1b", None),
            ("other_default_x", None),
        ] {
            assert_eq!(claim_of(directory).as_deref(), claim, "{directory}");
        }
    }
}
