//! What is tested, and the images that tests run.
//!
//! `STEAD_BIN` and `STEAD_VISITS_BIN` name the programs; else `target/release` of the project has them, as
//! `make build` leaves them.

use std::env;
use std::fs;
use std::path::PathBuf;
use std::process::Command;
use std::sync::{Mutex, PoisonError};

use anyhow::{Context, Result, bail, ensure};

/// The project's folder. As cargo says when it runs the tests, not when it built them: several checkouts may
/// share what is built.
pub fn root() -> PathBuf {
    let tests = env::var_os("CARGO_MANIFEST_DIR").map_or_else(|| PathBuf::from("."), PathBuf::from);
    let tests = fs::canonicalize(&tests).unwrap_or(tests);
    tests.parent().unwrap_or(&tests).to_owned()
}

/// The `stead` under test.
///
/// # Errors
/// When it has not been built.
pub fn stead() -> Result<PathBuf> {
    program("STEAD_BIN", "stead")
}

/// The app of `examples/visits`.
///
/// # Errors
/// When it has not been built.
pub fn visits() -> Result<PathBuf> {
    program("STEAD_VISITS_BIN", "visits")
}

fn program(variable: &str, name: &str) -> Result<PathBuf> {
    let built = || root().join("target/release").join(name);
    let path = env::var_os(variable).map_or_else(built, PathBuf::from);
    fs::canonicalize(&path).with_context(|| format!("no {path:?}: run `make build`, or set {variable}"))
}

/// `helm`: `STEAD_HELM`, which `make labs` sets, or the one on the PATH.
///
/// # Errors
/// When there is none.
pub fn helm() -> Result<PathBuf> {
    if let Some(path) = env::var_os("STEAD_HELM") {
        return fs::canonicalize(&path).with_context(|| format!("no {path:?}, as STEAD_HELM says"));
    }
    on_the_path("helm").context("no helm: run `make labs`, or set STEAD_HELM")
}

/// Helm 4: `STEAD_HELM4`, which `make test-clients` sets.
///
/// # Errors
/// When there is none.
pub fn helm4() -> Result<PathBuf> {
    prepared("STEAD_HELM4")
}

/// The folder of other people's clients: `STEAD_CLIENTS`, which `make test-clients` sets.
///
/// # Errors
/// When there is none.
pub fn clients() -> Result<PathBuf> {
    prepared("STEAD_CLIENTS")
}

fn prepared(variable: &str) -> Result<PathBuf> {
    let path =
        env::var_os(variable).with_context(|| format!("run `make test-clients`, or set {variable}"))?;
    fs::canonicalize(&path).with_context(|| format!("no {path:?}, as {variable} says"))
}

/// Debian's `docker-registry`: `STEAD_DOCKER_REGISTRY`, which `make registry` makes, or the one on the PATH. Tests
/// that need it do without where there is none.
pub fn registry() -> Option<PathBuf> {
    let given = env::var_os("STEAD_DOCKER_REGISTRY").map(PathBuf::from);
    given
        .filter(|path| path.is_file())
        .or_else(|| on_the_path("docker-registry"))
}

/// An image to be made with `tools/image.sh`.
#[derive(Debug)]
pub struct Image {
    name: String,
    args: Vec<String>,
}

/// Where images are kept until [`clean`].
static DIR: Mutex<Option<tempfile::TempDir>> = Mutex::new(None);

impl Image {
    /// `visits:1` and `visits:2`, which are the same image; as `docker save` puts several into one file.
    ///
    /// # Errors
    /// When the app has not been built.
    pub fn visits() -> Result<Self> {
        let app = visits()?;
        Ok(Self::new("visits:1")
            .arg("--tag", "visits:2")
            .arg("--file", &format!("{}:/bin/visits:755", app.display()))
            .arg("--entrypoint", "/bin/visits"))
    }

    /// An image with busybox in it, called `tag`.
    pub fn new(tag: &str) -> Self {
        let image = Self {
            name: tag.replace(['/', ':'], "-"),
            args: Vec::new(),
        };
        image.arg("--tag", tag)
    }

    /// Adds an argument of `tools/image.sh`.
    #[must_use]
    pub fn arg(mut self, option: &str, value: &str) -> Self {
        self.args.extend([option.to_owned(), value.to_owned()]);
        self
    }

    /// The image's file, made when it is first asked for. An image is known by its first tag.
    ///
    /// # Errors
    /// When it cannot be made.
    pub fn file(&self) -> Result<PathBuf> {
        let mut dir = DIR.lock().unwrap_or_else(PoisonError::into_inner);
        if dir.is_none() {
            *dir = Some(tempfile::Builder::new().prefix("stead-images-").tempdir()?);
        }
        let file = dir
            .as_ref()
            .context("made above")?
            .path()
            .join(format!("{}.tar", self.name));
        if !file.exists() {
            let script = root().join("tools/image.sh");
            let made = Command::new(&script)
                .arg("--output")
                .arg(&file)
                .args(&self.args)
                .output()
                .with_context(|| format!("run {script:?}"))?;
            ensure!(
                made.status.success(),
                "{script:?}: {}",
                String::from_utf8_lossy(&made.stderr)
            );
        }
        Ok(file)
    }
}

/// Removes the images. To be called when all tests are done: a static is never dropped.
///
/// # Errors
/// When they cannot be removed.
pub fn clean() -> Result<()> {
    match DIR.lock().unwrap_or_else(PoisonError::into_inner).take() {
        Some(dir) => dir.close().context("remove the images"),
        None => Ok(()),
    }
}

/// Checks that everything is there that tests need.
///
/// # Errors
/// Names everything that is missing.
pub fn check() -> Result<()> {
    let mut missing = Vec::new();
    if !rustix::process::geteuid().is_root() {
        missing.push("root: the tests make network namespaces".to_owned());
    }
    for (program, package) in [
        ("ip", "iproute2"),
        ("nft", "nftables"),
        ("curl", "curl"),
        ("busybox", "busybox-static"),
        ("setpriv", "util-linux"),
        ("script", "bsdutils"),
    ] {
        if on_the_path(program).is_none() {
            missing.push(format!("{program}, of Debian's package {package}"));
        }
    }
    if !missing.is_empty() {
        bail!(
            "missing:\n  {}\n`make packages` installs packages",
            missing.join("\n  ")
        );
    }
    Ok(())
}

fn on_the_path(program: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    let mut places = env::split_paths(&path).map(|dir| dir.join(program));
    places.find(|path| path.is_file())
}
