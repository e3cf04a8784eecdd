//! What becomes of claims (`persistentVolumeClaimRetentionPolicy`), and of pods whose claim is missing.

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use crate::site::{Objects, Part, Site, and, uid, with_claims};

pub(super) const PARTS: &[Part] = &[
    ("claims-when-deleted", when_deleted),
    ("claims-when-scaled", when_scaled),
    ("claims-adopted-when-deleted", adopted_when_deleted),
    ("claims-adopted-when-scaled", adopted_when_scaled),
    ("claims-of-another-scaled", of_another_controller),
    ("claims-of-another-deleted", of_other_owners),
    ("claim-missing", missing_claim),
];

const CLAIMS: &str = "persistentvolumeclaims";

fn policy(deleted: &str, scaled: &str) -> Value {
    json!({"persistentVolumeClaimRetentionPolicy": {"whenDeleted": deleted, "whenScaled": scaled}})
}

/// A set with claims and this policy.
fn make(site: &Site<'_>, replicas: u32, deleted: &str, scaled: &str) -> Result<Value> {
    site.make_set(replicas, and(with_claims(), policy(deleted, scaled)))?;
    site.settled()
}

/// Waits until the claims of these replicas are there, and no others.
fn claims_are(site: &Site<'_>, ordinals: &[u32]) -> Result<Objects> {
    let names: Vec<String> = ordinals
        .iter()
        .map(|ordinal| format!("data-web-{ordinal}"))
        .collect();
    site.until(CLAIMS, &format!("{names:?}"), |claims| claims.keys().eq(&names))
}

fn owners(object: &Value) -> &Value {
    &object["metadata"]["ownerReferences"]
}

fn owned_by(owner: &Value, kind: &str) -> Value {
    let version = if kind == "ConfigMap" { "v1" } else { "apps/v1" };
    json!({"apiVersion": version, "kind": kind, "name": owner["metadata"]["name"], "uid": uid(owner)})
}

/// As the set's controller writes it.
fn controlled_by(owner: &Value, kind: &str) -> Value {
    let controller = json!({"controller": true, "blockOwnerDeletion": true});
    and(owned_by(owner, kind), controller)
}

fn set_owners(site: &Site<'_>, kind: &str, name: &str, owners: Value) -> Result<()> {
    let patch = json!({"metadata": {"ownerReferences": owners}});
    site.patch(kind, name, &patch).map(drop)
}

fn when_deleted(site: &Site<'_>) -> Result<()> {
    let set = make(site, 3, "Delete", "Retain")?;
    let owner = json!([controlled_by(&set, "StatefulSet")]);
    site.until(CLAIMS, "owned by the set", |claims| {
        claims.len() == 3 && claims.values().all(|claim| *owners(claim) == owner)
    })?;
    // Scaled down, they stay.
    site.kubectl("scale sts web --replicas=2").ok()?;
    site.pods_are(&["web-0", "web-1"])?;
    ensure!(site.list(CLAIMS)?.len() == 3);
    site.delete("statefulsets", "web")?;
    claims_are(site, &[]).map(drop)
}

fn when_scaled(site: &Site<'_>) -> Result<()> {
    make(site, 3, "Retain", "Delete")?;
    let claims = claims_are(site, &[0, 1, 2])?;
    ensure!(claims.values().all(|claim| owners(claim).is_null()), "{claims:?}");
    site.kubectl("scale sts web --replicas=1").ok()?;
    claims_are(site, &[0])?;
    site.delete("statefulsets", "web")?;
    site.pods_are::<&str>(&[])?;
    claims_are(site, &[0]).map(drop)
}

/// Lets a pod go, and waits until the set has it again.
fn adopted(site: &Site<'_>, pod: &str) -> Result<()> {
    let before = site.get("pods", pod)?;
    set_owners(site, "pods", pod, json!([]))?;
    let pods = site.until("pods", "adopted", |pods| {
        pods.get(pod).is_some_and(|pod| owners(pod) == owners(&before))
    })?;
    ensure!(uid(&pods[pod]) == uid(&before), "it was replaced");
    Ok(())
}

fn adopted_when_deleted(site: &Site<'_>) -> Result<()> {
    make(site, 3, "Delete", "Retain")?;
    claims_are(site, &[0, 1, 2])?;
    adopted(site, "web-2")?;
    site.delete("statefulsets", "web")?;
    claims_are(site, &[]).map(drop)
}

fn adopted_when_scaled(site: &Site<'_>) -> Result<()> {
    make(site, 3, "Retain", "Delete")?;
    claims_are(site, &[0, 1, 2])?;
    adopted(site, "web-2")?;
    site.kubectl("scale sts web --replicas=1").ok()?;
    claims_are(site, &[0]).map(drop)
}

fn config_map(site: &Site<'_>) -> Result<Value> {
    let map = json!({"metadata": {"name": "owner"}});
    site.api.post(&site.path("configmaps"), &map)
}

/// A claim that somebody else controls stays when the set is scaled down, until nobody does.
fn of_another_controller(site: &Site<'_>) -> Result<()> {
    make(site, 3, "Retain", "Retain")?;
    let map = config_map(site)?;
    let owner = controlled_by(&map, "ConfigMap");
    set_owners(site, CLAIMS, "data-web-1", json!([owner]))?;
    site.change(policy("Retain", "Delete"))?;
    site.kubectl("scale sts web --replicas=0").ok()?;
    let claims = claims_are(site, &[1])?;
    ensure!(*owners(&claims["data-web-1"]) == json!([owner]), "{claims:?}");
    let events = site.kubectl("events --for sts/web").ok()?;
    ensure!(
        events.contains("ConflictingController") && events.contains("data-web-1"),
        "{events}"
    );
    set_owners(site, CLAIMS, "data-web-1", json!([]))?;
    site.kubectl("scale sts web --replicas=2").ok()?;
    site.settled()?;
    let again = claims_are(site, &[0, 1])?;
    ensure!(
        uid(&again["data-web-1"]) == uid(&claims["data-web-1"]),
        "it was made anew"
    );
    site.kubectl("scale sts web --replicas=1").ok()?;
    claims_are(site, &[0]).map(drop)
}

/// Beside an owner that is no controller, the set owns a claim; where there is a controller, it does not; and
/// where it owns one without controlling it, it does so again.
fn of_other_owners(site: &Site<'_>) -> Result<()> {
    let set = make(site, 4, "Retain", "Retain")?;
    let map = owned_by(&config_map(site)?, "ConfigMap");
    set_owners(site, CLAIMS, "data-web-1", json!([map]))?;
    let stale = json!({"apiVersion": "apps/v1", "kind": "StatefulSet", "name": "unknown", "controller": true,
        "uid": "9d86d6ae-4e06-4ff1-bc55-f77f52e272e9", "blockOwnerDeletion": true});
    // Garbage collection would take it.
    let held = json!({"metadata": {"ownerReferences": [stale], "finalizers": ["example.com/held"]}});
    site.patch(CLAIMS, "data-web-3", &held)?;
    site.change(policy("Delete", "Retain"))?;
    let own = controlled_by(&set, "StatefulSet");
    let expected = [json!([own]), json!([map, own]), json!([own]), json!([stale])];
    let owned = |expected: &[Value]| {
        let expected = expected.to_vec();
        site.until(CLAIMS, "owned", move |claims| {
            claims.values().map(owners).eq(expected.iter())
        })
    };
    owned(&expected)?;
    let no_controller = and(own.clone(), json!({"controller": false}));
    set_owners(site, CLAIMS, "data-web-0", json!([no_controller]))?;
    owned(&expected)?;
    site.delete("statefulsets", "web")?;
    claims_are(site, &[1, 3])?;
    let free = json!({"metadata": {"finalizers": null}});
    site.patch(CLAIMS, "data-web-3", &free)?;
    claims_are(site, &[1]).map(drop)
}

/// A pod waits for a node, and its claim is deleted meanwhile: the claim is made anew. A label of the node stands
/// for its being closed, as other tests use it, too.
fn missing_claim(site: &Site<'_>) -> Result<()> {
    let node = site.api.get("/api/v1/nodes")?["items"][0].take();
    let node = node["metadata"]["name"].as_str().context("a node")?.to_owned();
    let open = || {
        site.kubectl(&format!("label node {node} claim-missing=open"))
            .ok()
    };
    open()?;
    let selector = json!({"template": {"spec": {"nodeSelector": {"claim-missing": "open"}}}});
    site.make_set(1, and(with_claims(), selector))?;
    site.settled()?;
    let (pod, claim) = (site.get("pods", "web-0")?, site.get(CLAIMS, "data-web-0")?);
    site.kubectl(&format!("label node {node} claim-missing-")).ok()?;
    site.delete("pods", "web-0")?;
    site.until("pods", "another pod", |pods| {
        pods.get("web-0").is_some_and(|other| uid(other) != uid(&pod))
    })?;
    site.delete(CLAIMS, "data-web-0")?;
    site.until(CLAIMS, "another claim", |claims| {
        claims
            .get("data-web-0")
            .is_some_and(|other| uid(other) != uid(&claim))
    })?;
    open()?;
    site.settled()?;
    ensure!(site.get("pods", "web-0")?["spec"]["nodeName"] == node.as_str());
    Ok(())
}
