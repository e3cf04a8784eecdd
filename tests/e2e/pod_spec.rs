//! What a pod's spec asks for, seen from outside. Each cluster does many things at once: most of them wait.

mod ends;
mod health;
mod hooks;
mod probes;
mod users;
mod volumes;

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use stead_tests::artifacts::Image;
use stead_tests::{Cluster, on_a_cluster, side_by_side};

use crate::Tests;

pub(crate) const TESTS: Tests = &[
    ("pod spec: probes, and how pods end", || {
        on_one_cluster(&[ends::PARTS, probes::PARTS])
    }),
    ("pod spec: hooks, users and volumes", || {
        on_one_cluster(&[hooks::PARTS, users::PARTS, volumes::PARTS])
    }),
];

/// Something that is done beside others, and what it is about.
type Part = (&'static str, fn(&Cluster) -> Result<()>);

/// Does several things on one cluster, all at once.
fn on_one_cluster(parts: &[&[Part]]) -> Result<()> {
    on_a_cluster(|cluster| {
        cluster.load(&Image::new("tool:1"))?;
        let parts = parts.iter().flat_map(|parts| parts.iter());
        side_by_side(parts.map(|(about, part)| ((*about).to_owned(), || part(cluster))))?;
        let dirs = host_dirs(cluster);
        std::fs::remove_dir_all(&dirs).with_context(|| format!("remove {dirs:?}"))
    })
}

fn host_dirs(cluster: &Cluster) -> PathBuf {
    cluster.machine.dir().join("parts")
}

/// A directory of the machine for one part, which containers of the same pod find at `/host`.
fn host_dir(cluster: &Cluster, name: &str) -> Result<PathBuf> {
    let dir = host_dirs(cluster).join(name);
    std::fs::create_dir_all(&dir).with_context(|| format!("make {dir:?}"))?;
    Ok(dir)
}

/// A line of a container's spec, and one of its pod's, by which it finds a directory of the machine at `/host`.
fn on_host(dir: &Path) -> (&'static str, String) {
    (
        "volumeMounts: [{name: host, mountPath: /host}]",
        format!("volumes: [{{name: host, hostPath: {{path: {dir:?}}}}}]"),
    )
}

/// A pod of [`crate::manifests::pod`] with more in its own spec, as lines of YAML.
fn pod(name: &str, script: &str, container: &[&str], spec: &[&str]) -> String {
    let spec: String = spec.iter().map(|line| format!("\n  {line}")).collect();
    crate::manifests::pod(name, script, container).replacen("spec:", &format!("spec:{spec}"), 1)
}

/// Waits until an event about a pod says this, and returns it: its type, reason and message.
fn told(cluster: &Cluster, pod: &str, part: &str) -> Result<String> {
    let format = "jsonpath={.type} {.reason} {.message}{\"\\n\"}";
    let about = format!("--field-selector=involvedObject.name={pod}");
    let mut events = cluster
        .kubectl(&format!("get events --watch {about} '--output={format}'"))
        .start()?;
    events.line(part)
}

/// A field of a pod's status.
fn status(cluster: &Cluster, pod: &str, pointer: &str) -> Result<String> {
    cluster.field(&format!("pod {pod}"), &format!("/status{pointer}"))
}

/// Checks fields of a pod's status.
fn check_status(cluster: &Cluster, pod: &str, fields: &[(&str, &str)]) -> Result<()> {
    let object = cluster.get(&format!("pod {pod}"))?;
    for (pointer, expected) in fields {
        let found = match object.pointer(&format!("/status{pointer}")) {
            Some(serde_json::Value::String(text)) => text.clone(),
            Some(other) => other.to_string(),
            None => "null".to_owned(),
        };
        ensure!(
            found == *expected,
            "{pod}{pointer}: {found:?}, expected {expected:?}"
        );
    }
    Ok(())
}

/// How a pod is called in messages: `name_namespace(uid)`.
fn full_name(cluster: &Cluster, pod: &str) -> Result<String> {
    let uid = cluster.field(&format!("pod {pod}"), "/metadata/uid")?;
    Ok(format!("{pod}_default({uid})"))
}
