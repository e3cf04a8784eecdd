//! Revisions that hold nothing of use, or stand where the set's own should.

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use super::{is_stuck, others_get_on, refused};
use crate::site::{Part, Site};

pub(super) const PARTS: &[Part] = &[
    ("revisions-of-rubbish", of_rubbish),
    ("revision-numbers", numbers),
    ("revision-current-broken", broken_current),
    ("revision-name-taken", name_taken),
];

const REVISIONS: &str = "controllerrevisions";

/// A revision that the set would take for its own, as it bears its labels and belongs to nobody.
fn revision(name: &str, number: i64, data: Value) -> Value {
    json!({"metadata": {"name": name, "labels": {"app": "web"}}, "revision": number, "data": data})
}

fn of_rubbish(site: &Site<'_>) -> Result<()> {
    let all = site.path(REVISIONS);
    for (name, data) in [
        ("empty", json!({})),
        ("number", json!({"spec": 7})),
        ("list", json!({"spec": {"template": [1, 2]}})),
        (
            "no-pod",
            json!({"spec": {"template": {"spec": {"containers": "none"}}}}),
        ),
        (
            "other-kind",
            json!({"apiVersion": "v1", "kind": "Secret", "data": {"a": "b"}}),
        ),
        (
            "deep",
            json!({"spec": {"template": {"metadata": {"labels": {"a": {"b": {"c": []}}}}}}}),
        ),
    ] {
        site.api.post(&all, &revision(name, 0, data))?;
    }
    // Not objects, which the API may refuse.
    for (name, data) in [("null", Value::Null), ("text", json!("x")), ("array", json!([1]))] {
        let answer = site
            .api
            .ask("POST", &all, "application/json", &revision(name, 1, data))?;
        ensure!(matches!(answer.code, 201 | 400 | 422), "{}", answer.body);
    }
    site.make_set(1, json!({"revisionHistoryLimit": 20}))?;
    let set = site.settled()?;
    others_get_on(site)?;
    for revision in site.list(REVISIONS)?.values() {
        let owner = &revision["metadata"]["ownerReferences"][0]["name"];
        ensure!(owner == "web" || owner == "well", "{revision}");
    }
    let history = site.kubectl("rollout history sts/web").run()?;
    ensure!(history.code == 0, "{history}");
    site.change_image("tool:2")?;
    site.settled()?;
    // Those that nobody uses go.
    site.change(json!({"revisionHistoryLimit": 0}))?;
    let own = |revision: &&Value| revision["metadata"]["ownerReferences"][0]["uid"] == set["metadata"]["uid"];
    site.until(REVISIONS, "only its own", |all| {
        all.values().filter(own).count() == 1
    })
    .map(drop)
}

fn numbers(site: &Site<'_>) -> Result<()> {
    let all = site.path(REVISIONS);
    refused(
        site,
        "POST",
        &all,
        &revision("negative", -1, json!({})),
        &["revision"],
    )?;
    site.make_set(1, json!({}))?;
    let first = site.settled()?["status"]["currentRevision"].take();
    site.api.post(&all, &revision("last", i64::MAX, json!({})))?;
    others_get_on(site)?;
    // A new revision is newer than the newest all the same, and there is a way back.
    site.change_image("tool:2")?;
    let status = site.settled()?["status"].take();
    let all = site.list(REVISIONS)?;
    let number = |name: &Value| -> Result<i64> {
        let revision = name.as_str().and_then(|name| all.get(name));
        revision
            .and_then(|revision| revision["revision"].as_i64())
            .with_context(|| format!("no number of {name}"))
    };
    let (last, newest) = (number(&json!("last"))?, number(&status["updateRevision"])?);
    ensure!(last < newest && newest < 6, "{last}, {newest}");
    let first = number(&first)?;
    site.kubectl(&format!("rollout undo sts/web --to-revision={first}"))
        .ok()?;
    let back = site.settled()?;
    let image = &back["spec"]["template"]["spec"]["containers"][0]["image"];
    ensure!(image == "tool:1", "{image}");
    Ok(())
}

/// The revision that the replicas below the partition are made from says nothing that a pod could be made from.
fn broken_current(site: &Site<'_>) -> Result<()> {
    let rolling = json!({"updateStrategy": {"rollingUpdate": {"partition": 1}}});
    let set = site.make_set(1, rolling)?;
    site.settled()?;
    let template = json!({"spec": {"template": {
        "$patch": "replace", "metadata": {"labels": {"app": "web"}}, "spec": {"containers": []},
    }}});
    site.api
        .post(&site.path(REVISIONS), &revision("broken", 1, template))?;
    // Nothing but the current revision is of use for the pod that is to come.
    site.change_image("tool:2")?;
    site.until(REVISIONS, "adopted", |all| {
        let owner =
            |revision: &Value| revision["metadata"]["ownerReferences"][0]["uid"] == set["metadata"]["uid"];
        all.get("broken").is_some_and(owner)
    })?;
    let status = json!({"status": {"currentRevision": "broken"}});
    site.patch("statefulsets", "web/status", &status)?;
    site.delete("pods", "web-0")?;
    is_stuck(site, &["web-0", "spec.containers: Required value"])?;
    others_get_on(site)?;
    site.change(json!({"updateStrategy": {"rollingUpdate": {"partition": 0}}}))?;
    site.settled().map(drop)
}

/// At the highest count of collisions there is one more.
fn name_taken(site: &Site<'_>) -> Result<()> {
    let most = json!({"status": {"collisionCount": 2_147_483_647}});
    let second = || -> Result<String> {
        site.make_set(1, json!({}))?;
        site.settled()?;
        site.patch("statefulsets", "web/status", &most)?;
        site.change_image("tool:2")?;
        let set = site.settled()?;
        let name = set["status"]["updateRevision"].as_str().context("no revision")?;
        Ok(name.to_owned())
    };
    let name = second()?;
    site.delete("statefulsets", "web")?;
    site.until(REVISIONS, "none", |all| all.is_empty())?;
    site.pods_are::<&str>(&[])?;
    let mut taken = revision(&name, 7, json!({"spec": {"template": "not this"}}));
    taken["metadata"]["ownerReferences"] = json!([{
        "apiVersion": "v1", "kind": "ConfigMap", "name": "kube-root-ca.crt", "controller": true,
        "uid": site.get("configmaps", "kube-root-ca.crt")?["metadata"]["uid"],
    }]);
    site.api.post(&site.path(REVISIONS), &taken)?;
    let other = second()?;
    ensure!(other != name, "{name} was somebody else's");
    others_get_on(site)
}
