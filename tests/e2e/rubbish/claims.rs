//! Claims that belong to others, to nobody there is, or that will never be bound.

use anyhow::{Result, ensure};
use serde_json::{Value, json};

use super::{is_stuck, is_told_of, others_get_on};
use crate::site::{Part, Site, and, uid, with_claims};

pub(super) const PARTS: &[Part] = &[
    ("claim-owners", owners),
    ("claim-never-bound", never_bound),
    ("claim-kept", kept),
];

const CLAIMS: &str = "persistentvolumeclaims";

fn claim(name: &str, owners: Value) -> Value {
    json!({"metadata": {"name": name, "ownerReferences": owners}, "spec": {
        "accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Mi"}},
    }})
}

fn delete_all() -> Value {
    json!({"persistentVolumeClaimRetentionPolicy": {"whenDeleted": "Delete", "whenScaled": "Delete"}})
}

fn owners(site: &Site<'_>) -> Result<()> {
    let map = json!({
        "apiVersion": "v1", "kind": "ConfigMap", "name": "kube-root-ca.crt", "controller": true,
        "uid": site.get("configmaps", "kube-root-ca.crt")?["metadata"]["uid"],
    });
    let nobody = |version: &str, kind: &str, name: &str| json!({"apiVersion": version, "kind": kind, "name": name, "uid": "not-a-uid"});
    let former = and(
        nobody("apps/v1", "StatefulSet", "web"),
        json!({"controller": true}),
    );
    let mut made = Vec::new();
    for (ordinal, owners) in [
        json!([map]),
        json!([former]),
        json!([nobody("v1", "Pod", "web-2")]),
        json!([
            nobody("example.com/v9", "Nothing", "x"),
            nobody("v1", "Pod", "web-0")
        ]),
    ]
    .into_iter()
    .enumerate()
    {
        let claim = claim(&format!("data-web-{ordinal}"), owners);
        made.push(site.api.post(&site.path(CLAIMS), &claim)?);
    }
    site.make_set(4, and(with_claims(), delete_all()))?;
    let set = site.settled()?;
    others_get_on(site)?;
    let claims = site.list(CLAIMS)?;
    ensure!(
        uid(&claims["data-web-0"]) == uid(&made[0])
            && claims["data-web-0"]["metadata"]["ownerReferences"] == json!([map]),
        "{}",
        claims["data-web-0"]
    );
    for ordinal in 1..3 {
        let claim = &claims[&format!("data-web-{ordinal}")];
        ensure!(
            uid(claim) != uid(&made[ordinal]),
            "a claim that goes is used: {claim}"
        );
        let owners = &claim["metadata"]["ownerReferences"];
        ensure!(owners[0]["uid"] == *uid(&set), "{owners}");
    }
    site.kubectl("scale sts web --replicas=0").ok()?;
    is_told_of(
        site,
        "web",
        "StatefulSet",
        &["data-web-0", "conflicting OwnerReference"],
    )?;
    site.until(CLAIMS, "only that of another", |claims| {
        claims.keys().eq(["data-web-0"])
    })
    .map(drop)
}

fn never_bound(site: &Site<'_>) -> Result<()> {
    let mut claim = claim("data-web-0", Value::Null);
    claim["spec"]["volumeName"] = json!("no-such-volume");
    site.api.post(&site.path(CLAIMS), &claim)?;
    site.make_set(2, with_claims())?;
    is_stuck(site, &["web-0", "unbound"])?;
    others_get_on(site)
}

/// A claim that someone keeps from going.
fn kept(site: &Site<'_>) -> Result<()> {
    let mut held = claim("data-web-0", Value::Null);
    held["metadata"]["finalizers"] = json!(["example.com/for-ever"]);
    site.api.post(&site.path(CLAIMS), &held)?;
    site.delete(CLAIMS, "data-web-0")?;
    site.make_set(1, with_claims())?;
    is_stuck(site, &["web-0", "claim"])?;
    others_get_on(site)?;
    site.patch(CLAIMS, "data-web-0", &json!({"metadata": {"finalizers": null}}))?;
    site.settled().map(drop)
}
