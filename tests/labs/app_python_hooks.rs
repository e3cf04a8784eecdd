//! `examples/app-python-hooks`: hooks end as Completed, and stay or go; three ways lead to the pods.

use std::collections::BTreeSet;

use anyhow::{Result, ensure};
use stead_tests::console::Said;

use crate::{all, check_column, column, numbers};

pub(crate) fn check(said: &[Said]) -> Result<()> {
    let pods = all(said, "kubectl get pods");
    ensure!(pods.len() == 5, "{pods:?}");
    let replicas = ["app-python-hooks-0", "app-python-hooks-1"];
    let hooks = ["app-python-hooks-post-install", "app-python-hooks-pre-install"];
    // In the order in which they were made.
    check_column(pods[0], "NAME", &[hooks[1], replicas[0], replicas[1], hooks[0]])?;
    check_column(
        pods[0],
        "STATUS",
        &["Completed", "Running", "Running", "Completed"],
    )?;
    check_column(pods[0], "READY", &["0/1", "1/1", "1/1", "0/1"])?;
    // After the cluster was down.
    check_column(
        pods[1],
        "STATUS",
        &["Running", "Running", "Completed", "Completed"],
    )?;
    let restarts = column(pods[1], "RESTARTS")?;
    ensure!(restarts[2..] == ["0", "0"], "{restarts:?}");
    // Uninstalled; and installed with hooks that go.
    check_column(pods[2], "NAME", &hooks)?;
    check_column(pods[2], "STATUS", &["Completed"; 2])?;
    check_column(pods[3], "NAME", &replicas)?;
    // The hook has failed.
    check_column(pods[4], "NAME", &["pod/app-python-hooks-pre-install"])?;
    check_column(pods[4], "STATUS", &["Error"])?;

    let services = all(said, "kubectl get services")[0];
    let names = ["", "-headless", "-partners", "-public"].map(|suffix| format!("app-python-hooks{suffix}"));
    check_column(
        services,
        "NAME",
        &[&names[0], &names[1], &names[2], &names[3], "kubernetes"],
    )?;
    check_column(
        services,
        "TYPE",
        &[
            "NodePort",
            "ClusterIP",
            "LoadBalancer",
            "LoadBalancer",
            "ClusterIP",
        ],
    )?;
    let addresses: BTreeSet<_> = column(services, "EXTERNAL-IP")?.into_iter().collect();
    ensure!(
        addresses.len() == 3 && addresses.contains("<none>"),
        "{addresses:?}"
    );

    let counts = numbers(&all(said, "cat visits_cnt.txt").concat())?;
    // Those of the two pods, then after the cluster was down.
    ensure!(counts == [3, 4, 3, 4], "{counts:?}");
    Ok(())
}
