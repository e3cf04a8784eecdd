//! Finding `kubectl`, in the versions at hand.
//!
//! A `kubectl` of the Google Cloud SDK chooses among `kubectl.1.NN` beside it by the server's version. Tests
//! choose themselves: the oldest that must work, and the newest there is.

use std::env;
use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use anyhow::{Context, Result, bail};

/// The minor version of the oldest `kubectl` that tests use.
const OLDEST: u32 = 28;

const ADVICE: &str = "the tests need kubectl.1.28 and a newer one, such as kubectl.1.33, in one folder: beside \
    the program that `kubectl` on the PATH links to (the Google Cloud SDK's has them), or in STEAD_KUBECTL_DIR";

/// A `kubectl` of a known version.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Kubectl {
    /// Of its version, 1.NN.
    pub minor: u32,
    pub(crate) path: PathBuf,
}

impl Kubectl {
    /// The program.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl fmt::Display for Kubectl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "kubectl.1.{}", self.minor)
    }
}

/// The newest one.
///
/// # Errors
/// When there is none; says how to get one.
pub fn newest() -> Result<Kubectl> {
    all()?.into_iter().max().context(ADVICE)
}

/// Version 1.28.
///
/// # Errors
/// When there is none; says how to get one.
pub fn oldest() -> Result<Kubectl> {
    let mut all = all()?.into_iter();
    all.find(|kubectl| kubectl.minor == OLDEST).context(ADVICE)
}

/// All there are, in no order.
///
/// # Errors
/// When there is no folder of them; says how to get one.
pub fn all() -> Result<Vec<Kubectl>> {
    static DIR: OnceLock<Option<PathBuf>> = OnceLock::new();
    let given = || env::var_os("STEAD_KUBECTL_DIR").map(PathBuf::from);
    let Some(dir) = DIR.get_or_init(|| given().or_else(beside_the_one_on_the_path)) else {
        bail!("there is no kubectl on the PATH; {ADVICE}");
    };
    list(dir)
}

fn list(dir: &Path) -> Result<Vec<Kubectl>> {
    let entries = fs::read_dir(dir).with_context(|| format!("look for kubectl in {dir:?}; {ADVICE}"))?;
    let kubectl = |entry: fs::DirEntry| {
        let name = entry.file_name();
        let minor = name.to_str()?.strip_prefix("kubectl.1.")?.parse().ok()?;
        let path = entry.path();
        Some(Kubectl { minor, path })
    };
    Ok(entries.flatten().filter_map(kubectl).collect())
}

fn beside_the_one_on_the_path() -> Option<PathBuf> {
    let on_the_path = env::split_paths(&env::var_os("PATH")?)
        .map(|dir| dir.join("kubectl"))
        .find(|path| path.is_file())?;
    let real = fs::canonicalize(on_the_path).ok()?;
    real.parent().map(Path::to_owned)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;

    #[test]
    fn versions_are_told_by_the_names_and_compared_as_numbers() {
        let dir = tempfile::tempdir().unwrap();
        for name in ["kubectl", "kubectl.1.9", "kubectl.1.28", "kubectl.1.x", "kpt"] {
            fs::write(dir.path().join(name), "").unwrap();
        }
        let mut minors: Vec<_> = list(dir.path()).unwrap().iter().map(|k| k.minor).collect();
        minors.sort_unstable();
        assert_eq!(minors, [9, 28]);
        assert_eq!(list(dir.path()).unwrap().into_iter().max().unwrap().minor, 28);
    }
}
