//! `stead kubectl`: the kubectl that is there, on this cluster.

use std::ffi::OsString;
use std::os::unix::process::CommandExt as _;
use std::process::Command;

use anyhow::{Context as _, bail};

use crate::cluster::Cluster;
use crate::place::Place;

/// Becomes `kubectl`. Returns only when it cannot.
pub(super) fn kubectl(place: &Place, arguments: Vec<OsString>) -> anyhow::Result<()> {
    let cluster = Cluster::read(place)?;
    let kubeconfig = cluster.and_then(|cluster| cluster.kubeconfigs.into_iter().rfind(|path| path.exists()));
    let Some(kubeconfig) = kubeconfig else {
        bail!(
            "there is no kubeconfig of the cluster {:?}; `stead{} up --detach` writes one",
            place.name(),
            place.flag()
        );
    };
    let mut command = Command::new("kubectl");
    command
        .arg("--kubeconfig")
        .arg(kubeconfig)
        .args(["--context", &place.name()])
        .args(arguments);
    let error = command.exec();
    if error.kind() == std::io::ErrorKind::NotFound {
        bail!("there is no kubectl on the PATH; https://kubernetes.io/docs/tasks/tools/ says how to get one");
    }
    Err(error).context("run kubectl")
}
