//! Pods that stand where a set's should, or say of themselves what no node would.

use anyhow::{Result, ensure};
use serde_json::{Value, json};

use super::{is_stuck, others_get_on};
use crate::site::{Part, Site, revision, uid};

pub(super) const PARTS: &[Part] = &[
    ("pod-of-another", of_another),
    ("pod-names", names),
    ("pod-revisions", revisions),
    ("pod-times", times),
    ("pod-kept", kept),
];

/// A pod that the set would take for its own.
fn pod(name: &str) -> Value {
    json!({"metadata": {"name": name, "labels": {"app": "web"}}, "spec": {
        "terminationGracePeriodSeconds": 0,
        "containers": [{"name": "other", "image": "tool:1", "command": ["sleep", "100000"]}],
    }})
}

fn of_another(site: &Site<'_>) -> Result<()> {
    let mut other = pod("web-1");
    other["metadata"]["ownerReferences"] = json!([{
        "apiVersion": "v1", "kind": "ConfigMap", "name": "kube-root-ca.crt", "controller": true,
        "uid": site.get("configmaps", "kube-root-ca.crt")?["metadata"]["uid"],
    }]);
    let other = site.api.post(&site.path("pods"), &other)?;
    site.make_set(2, json!({}))?;
    is_stuck(site, &["web-1", "already exists"])?;
    others_get_on(site)?;
    ensure!(uid(&site.get("pods", "web-1")?) == uid(&other), "it was replaced");
    site.delete("pods", "web-1")?;
    site.settled().map(drop)
}

/// Only what is written as the set writes it is the set's.
fn names(site: &Site<'_>) -> Result<()> {
    let others = [
        "web-00",
        "web-01",
        "web-4294967296",
        "web-99999999999",
        "web-x",
        "web--1",
    ];
    for name in others {
        site.api.post(&site.path("pods"), &pod(name))?;
    }
    site.api.post(&site.path("pods"), &pod("web-2147483647"))?;
    site.make_set(2, json!({}))?;
    let mut all = others.to_vec();
    all.extend(["web-0", "web-1"]);
    all.sort_unstable();
    let pods = site.pods_are(&all)?;
    for name in others {
        let owners = &pods[name]["metadata"]["ownerReferences"];
        ensure!(owners.is_null(), "{name}: {owners}");
    }
    site.settled()?;
    others_get_on(site)
}

/// Adopted pods of revisions that do not exist, with labels of other replicas, are replaced one by one.
fn revisions(site: &Site<'_>) -> Result<()> {
    let labels = [
        json!({"app": "web", "controller-revision-hash": "web-none"}),
        json!({"app": "web", "controller-revision-hash": "", "apps.kubernetes.io/pod-index": "many"}),
        json!({"app": "web", "statefulset.kubernetes.io/pod-name": "web-7"}),
    ];
    for (ordinal, labels) in labels.into_iter().enumerate() {
        let mut pod = pod(&format!("web-{ordinal}"));
        pod["metadata"]["labels"] = labels;
        site.api.post(&site.path("pods"), &pod)?;
    }
    site.make_set(3, json!({}))?;
    let set = site.settled()?;
    for (name, pod) in site.pods_are(&["web-0", "web-1", "web-2"])? {
        ensure!(*revision(&pod) == set["status"]["updateRevision"], "{pod}");
        let labels = &pod["metadata"]["labels"];
        ensure!(
            labels["statefulset.kubernetes.io/pod-name"] == name.as_str(),
            "{labels}"
        );
    }
    others_get_on(site)
}

/// The pods are on a node that nobody is, so that what they say stays.
fn times(site: &Site<'_>) -> Result<()> {
    let node = json!({"metadata": {"name": "pod-times"}});
    site.api.post("/api/v1/nodes", &node)?;
    let bound = json!({"minReadySeconds": 2_147_483_647, "template": {"spec": {"nodeName": "pod-times"}}});
    site.make_set(2, bound)?;
    site.pods_are(&["web-0"])?;
    for time in [
        "9999-12-30T00:00:00Z",
        "0001-01-01T00:00:00Z",
        "2026-01-01T00:00:00Z",
    ] {
        let condition = json!({"type": "Ready", "status": "True", "lastTransitionTime": time});
        let state = json!({"running": {"startedAt": time}});
        let main = json!({
            "name": "main", "image": "", "imageID": "", "ready": false, "started": true, "state": state,
            "restartCount": 2_147_483_647, "lastState": {"terminated": {"exitCode": -2_147_483_648}},
        });
        let status = json!({"status": {
            "phase": "Running", "startTime": time, "conditions": [condition],
            "containerStatuses": [main, main],
        }});
        site.patch("pods", "web-0/status", &status)?;
        site.set_until("ready", |set| set["status"]["readyReplicas"] == 1)?;
        site.change(json!({"minReadySeconds": 2_147_483_646}))?;
        site.set_until("seen", |_| true)?;
        site.change(json!({"minReadySeconds": 2_147_483_647}))?;
    }
    others_get_on(site)?;
    site.change(json!({"minReadySeconds": 0}))?;
    site.pods_are(&["web-0", "web-1", "well-0"]).map(drop)
}

/// A pod that someone keeps from going.
fn kept(site: &Site<'_>) -> Result<()> {
    site.make_set(1, json!({}))?;
    site.settled()?;
    let finalizers = |list: Value| json!({"metadata": {"finalizers": list}});
    site.patch("pods", "web-0", &finalizers(json!(["example.com/for-ever"])))?;
    site.delete("pods", "web-0")?;
    is_stuck(site, &["web-0", "example.com/for-ever"])?;
    others_get_on(site)?;
    site.patch("pods", "web-0", &finalizers(Value::Null))?;
    site.settled().map(drop)
}
