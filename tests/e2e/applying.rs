//! Server-side apply, through the oldest and the newest `kubectl` at hand.

use anyhow::{Context, Result, ensure};
use stead_tests::{Cluster, Outcome, kubectl, on_a_cluster};

use crate::{Tests, check_contains};

pub(crate) const TESTS: Tests = &[(
    "applying: on the server, with conflicts, and after client-side apply",
    apply_on_the_server,
)];

fn settings(name: &str, data: &str) -> String {
    format!("apiVersion: v1\nkind: ConfigMap\nmetadata: {{name: {name}}}\ndata: {{{data}}}\n")
}

fn apply(cluster: &Cluster, options: &str, manifest: String) -> Result<Outcome> {
    let command = cluster.kubectl(&format!("apply {options} -f -"));
    command
        .stdin(manifest)
        .run()
        .with_context(|| format!("apply {options}"))
}

fn apply_on_the_server() -> Result<()> {
    on_a_cluster(|cluster| {
        for kubectl in [kubectl::oldest()?, kubectl::newest()?] {
            let cluster = &cluster.with_kubectl(kubectl);
            shared(cluster)?;
            migrated(cluster)?;
            cluster.kubectl("delete configmap shared migrated").ok()?;
        }
        Ok(())
    })
}

/// Two who set fields of the same object.
fn shared(cluster: &Cluster) -> Result<()> {
    let applied = apply(cluster, "--server-side", settings("shared", "a: '1', b: '1'"))?;
    applied.says(&["configmap/shared serverside-applied"])?;
    let other = "--server-side --field-manager=other";
    let refused = apply(cluster, other, settings("shared", "a: '2'"))?;
    ensure!(refused.code != 0, "{refused}");
    refused.says(&[
        "Apply failed with 1 conflict",
        "conflict with \"kubectl\": .data.a",
    ])?;
    apply(
        cluster,
        &format!("{other} --force-conflicts"),
        settings("shared", "a: '2'"),
    )?
    .says(&["serverside-applied"])?;
    // What the first applies no more goes; what the other has taken stays.
    apply(cluster, "--server-side", settings("shared", "c: '3'"))?.says(&["serverside-applied"])?;
    let data = cluster.kubectl("get configmap shared -o jsonpath={.data}").ok()?;
    ensure!(data == r#"{"a":"2","c":"3"}"#, "{data}");
    let shown = cluster
        .kubectl("get configmap shared -o yaml --show-managed-fields")
        .ok()?;
    check_contains(
        &shown,
        &[
            "manager: kubectl",
            "manager: other",
            "operation: Apply",
            "f:c: {}",
        ],
    )
}

/// An object that was applied by the client first, as most are.
fn migrated(cluster: &Cluster) -> Result<()> {
    apply(cluster, "", settings("migrated", "a: '1', b: '1'"))?.says(&["created"])?;
    apply(cluster, "--server-side", settings("migrated", "a: '1', b: '1'"))?.says(&["serverside-applied"])?;
    // The fields are the client's own, and so there is no conflict.
    let changed = apply(cluster, "--server-side", settings("migrated", "a: '2'"))?;
    ensure!(changed.code == 0, "{changed}");
    let data = cluster
        .kubectl("get configmap migrated -o jsonpath={.data}")
        .ok()?;
    ensure!(data == r#"{"a":"2"}"#, "{data}");
    Ok(())
}
