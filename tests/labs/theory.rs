//! `examples/theory`: order, updates and claims are as a StatefulSet guarantees.

use anyhow::{Result, ensure};
use stead_tests::console::Said;

use crate::{all, check_column};

const PODS: [&str; 3] = ["web-0", "web-1", "web-2"];

pub(crate) fn check(said: &[Said]) -> Result<()> {
    let versions = all(said, "kubectl get pods -o $SHOW");
    let expected = [
        // The canary; a pod below it made again; the cluster was down; and then the others; and back.
        ["1", "1", "2"],
        ["1", "1", "2"],
        ["1", "1", "2"],
        ["2", "2", "2"],
        ["1", "1", "1"],
        // OnDelete: none, and then the one that was deleted.
        ["1", "1", "1"],
        ["1", "3", "1"],
    ];
    ensure!(versions.len() == expected.len(), "{versions:?}");
    for (table, versions) in versions.iter().zip(&expected) {
        check_column(table, "NAME", &PODS)?;
        check_column(table, "VERSION", versions)?;
    }

    let pods: Vec<_> = said
        .iter()
        .filter(|said| said.line == "kubectl get pods")
        .map(|said| said.text.as_str())
        .collect();
    let expected: [&[&str]; 5] = [
        &["0/1"],
        &["1/1", "0/1"],
        &["1/1"; 3],
        // Scaled down, and up again.
        &["1/1"],
        &["1/1"; 3],
    ];
    ensure!(pods.len() == 6, "{pods:?}");
    for (table, ready) in pods.iter().zip(expected) {
        check_column(table, "READY", ready)?;
    }
    let ended: Vec<_> = all(said, "reason=SuccessfulDelete")[0]
        .lines()
        .map(str::to_owned)
        .collect();
    let expected = ["web-2", "web-1"].map(|pod| format!("delete Pod {pod} in StatefulSet web successful"));
    ensure!(ended == expected, "{ended:?}");

    let claims = all(said, "kubectl get pvc");
    let expected: [&[&str]; 3] = [
        &["data-web-0", "data-web-1", "data-web-2"],
        &["data-web-0"],
        &["data-web-0"],
    ];
    ensure!(claims.len() == 3, "{claims:?}");
    for (table, names) in claims.iter().zip(expected) {
        check_column(table, "NAME", names)?;
    }
    Ok(())
}
