//! The image store: archives good and bad, and a registry. Needs root, and for the registry Debian's
//! `docker-registry`.
//!
//! The test program is its own helper (see `stead_runtime::become_helper`), so it has a `main` of its own.

#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "tests")]

#[path = "images/archives.rs"]
mod archives;
#[path = "images/layers.rs"]
mod layers;
#[path = "images/registry.rs"]
mod registry;
#[allow(dead_code, reason = "shared with other tests")]
mod support;

use libtest_mimic::{Arguments, Trial};
use stead_runtime::images::ImageStore;

/// Makes a trial of each test.
#[macro_export]
macro_rules! trials {
    ($($name:ident),* $(,)?) => {
        vec![$(libtest_mimic::Trial::test(stringify!($name), || { $name(); Ok(()) })),*]
    };
}

/// A store in a directory of its own, and how much it has on disk.
struct Store {
    dir: tempfile::TempDir,
    images: std::sync::Arc<ImageStore>,
}

impl Store {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let images = std::sync::Arc::new(ImageStore::open(dir.path().join("images")).unwrap());
        Self { dir, images }
    }

    fn path(&self, part: &str) -> std::path::PathBuf {
        self.dir.path().join("images").join(part)
    }

    /// The directories of the layers.
    fn layers(&self) -> Vec<std::path::PathBuf> {
        let mut layers: Vec<_> = std::fs::read_dir(self.path("layers"))
            .unwrap()
            .map(|e| e.unwrap().path())
            .collect();
        layers.sort();
        layers
    }

    /// Nothing at all, not even what is under way.
    fn assert_empty(&self) {
        assert!(self.images.list().is_empty());
        for part in ["layers", "records", "configs", "tmp"] {
            assert_eq!(std::fs::read_dir(self.path(part)).unwrap().count(), 0, "{part}");
        }
    }
}

fn main() {
    stead_runtime::become_helper();
    let trials: Vec<Trial> = [archives::trials(), layers::trials(), registry::trials()]
        .into_iter()
        .flatten()
        .collect();
    libtest_mimic::run(&Arguments::from_args(), trials).exit();
}
