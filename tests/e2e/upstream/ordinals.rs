//! Which ordinals there are (`ordinals.start`), and when pods are available (`minReadySeconds`).

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use serde_json::{Value, json};

use crate::site::{Part, Site, number};

pub(super) const PARTS: &[Part] = &[
    ("ordinals-set", |site| {
        moves(
            site,
            Value::Null,
            json!({"replicas": 3, "ordinals": {"start": 2}}),
        )
    }),
    ("ordinals-increased", |site| {
        moves(site, json!({"start": 2}), json!({"ordinals": {"start": 4}}))
    }),
    ("ordinals-decreased", |site| {
        moves(site, json!({"start": 3}), json!({"ordinals": {"start": 2}}))
    }),
    ("ordinals-removed", |site| {
        moves(site, json!({"start": 3}), json!({"ordinals": null}))
    }),
    ("min-ready-seconds-zero", available_at_once),
    ("min-ready-seconds-changed", available_later),
];

/// Makes a set of two, changes it, and checks each time which pods there are; and that they bear their ordinals.
fn moves(site: &Site<'_>, ordinals: Value, change: Value) -> Result<()> {
    let set = site.make_set(2, json!({"ordinals": ordinals}))?;
    come_to(site, &set)?;
    let set = site.change(change)?;
    come_to(site, &set)
}

fn come_to(site: &Site<'_>, set: &Value) -> Result<()> {
    let start = number(&set["spec"]["ordinals"]["start"]);
    let ordinals = start..start + number(&set["spec"]["replicas"]);
    let names: Vec<String> = ordinals.clone().map(|ordinal| format!("web-{ordinal}")).collect();
    // Former pods count as replicas, too, so that the status alone does not tell.
    let pods = site.pods_are(&names)?;
    site.settled()?;
    for (ordinal, (name, pod)) in ordinals.zip(&pods) {
        let labels = &pod["metadata"]["labels"];
        ensure!(
            labels["apps.kubernetes.io/pod-index"] == ordinal.to_string().as_str()
                && labels["statefulset.kubernetes.io/pod-name"] == name.as_str(),
            "{labels}"
        );
    }
    Ok(())
}

fn available_at_once(site: &Site<'_>) -> Result<()> {
    site.make_set(1, json!({"minReadySeconds": 0}))?;
    let status = site.settled()?["status"].take();
    ensure!(status["availableReplicas"] == 1, "{status}");
    Ok(())
}

fn available_later(site: &Site<'_>) -> Result<()> {
    let available = |count: i64| {
        move |set: &Value| {
            set["status"]["readyReplicas"] == 2 && number(&set["status"]["availableReplicas"]) == count
        }
    };
    site.make_set(
        2,
        json!({"minReadySeconds": 2, "podManagementPolicy": "Parallel"}),
    )?;
    site.set_until("two ready, none available", available(0))?;
    let begin = Instant::now();
    site.set_until("two available", available(2))?;
    // Times of conditions are in whole seconds.
    ensure!(begin.elapsed() > Duration::from_millis(500), "at once");
    site.change(json!({"minReadySeconds": 3600}))?;
    site.set_until("none available", available(0))?;
    site.change(json!({"minReadySeconds": 0}))?;
    site.set_until("two available", available(2))?;
    let yaml = site.kubectl("get sts web -o yaml").ok()?;
    ensure!(yaml.contains("availableReplicas: 2"), "{yaml}");
    Ok(())
}
