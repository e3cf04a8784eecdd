//! What a client with full rights may write, and no controller ever would: sets, pods, claims and revisions full of
//! rubbish. Each is told of on the object, and no other set has to wait for it.

mod claims;
mod history;
mod pods;
mod sets;

use anyhow::{Result, ensure};
use serde_json::{Value, json};

use crate::Tests;
use crate::site::{Site, number, on_one_cluster};

pub(crate) const TESTS: Tests = &[
    ("rubbish: in sets and their history", || {
        on_one_cluster(&[sets::PARTS, history::PARTS, &[LAST]])
    }),
    ("rubbish: in pods and claims", || {
        on_one_cluster(&[pods::PARTS, claims::PARTS, &[LAST]])
    }),
];

/// Beside all the others: sets come and go as if they were alone.
const LAST: crate::site::Part = ("beside-the-rubbish", |site| {
    for _ in 0..3 {
        site.make_set(2, json!({}))?;
        site.settled()?;
        site.delete("statefulsets", "web")?;
        site.pods_are::<&str>(&[])?;
    }
    let log = site.cluster.stead("logs")?.ok()?;
    ensure!(!log.contains("panicked"), "{log}");
    Ok(())
});

/// A set of another name in the same namespace gets on.
fn others_get_on(site: &Site<'_>) -> Result<()> {
    site.make_named("well", 1, json!({}))?;
    let is_well = |set: &Value| number(&set["status"]["readyReplicas"]) == 1;
    let well = |sets: &crate::site::Objects| sets.get("well").is_some_and(is_well);
    site.until("statefulsets", "another set gets on", well).map(drop)
}

/// Waits until the set says that it is stuck, with these words; and so does an event on it.
fn is_stuck(site: &Site<'_>, words: &[&str]) -> Result<()> {
    let stuck = |set: &Value| {
        let conditions = set["status"]["conditions"].as_array().into_iter().flatten();
        let mut stuck =
            conditions.filter(|condition| condition["type"] == "Stuck" && condition["status"] == "True");
        stuck.any(|condition| {
            let message = condition["message"].as_str().unwrap_or_default();
            words.iter().all(|word| message.contains(word))
        })
    };
    site.set_until(&format!("stuck: {words:?}"), stuck)?;
    is_told_of(site, "web", "StatefulSet", words)
}

/// Waits for a warning on an object with these words.
fn is_told_of(site: &Site<'_>, name: &str, kind: &str, words: &[&str]) -> Result<()> {
    let told = |event: &Value| {
        let message = event["message"].as_str().unwrap_or_default();
        event["type"] == "Warning"
            && event["involvedObject"]["name"] == name
            && event["involvedObject"]["kind"] == kind
            && words.iter().all(|word| message.contains(word))
    };
    let what = format!("an event on {kind} {name} with {words:?}");
    site.until("events", &what, |events| events.values().any(told))
        .map(drop)
}

/// What the API answers that refuses an object.
fn refused(site: &Site<'_>, method: &str, path: &str, body: &Value, words: &[&str]) -> Result<()> {
    let kind = if method == "PATCH" {
        "application/merge-patch+json"
    } else {
        "application/json"
    };
    let answer = site.api.ask(method, path, kind, body)?;
    let message = answer.body["message"].as_str().unwrap_or_default();
    ensure!(
        answer.code == 422 && words.iter().all(|word| message.contains(word)),
        "{method} {path}: {} {message}",
        answer.code
    );
    Ok(())
}
