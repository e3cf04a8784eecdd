//! How a new template reaches the pods.

use anyhow::{Result, ensure};
use serde_json::{Value, json};

use crate::is_ready;
use crate::site::{Objects, Part, Site, and, image, number, revision, uid, with_claims};

pub(super) const PARTS: &[Part] = &[
    ("roll-and-roll-back", |site| roll_and_roll_back(site, json!({}))),
    ("roll-and-roll-back-claims", |site| {
        roll_and_roll_back(site, with_claims())
    }),
    ("canary-and-phases", canary_and_phases),
    ("partition-pod-0", |site| pod_below_the_partition(site, 0)),
    ("partition-pod-0-fails", |site| pod_below_the_partition(site, 1)),
    ("on-delete", on_delete),
    ("max-unavailable", max_unavailable),
];

/// Checks what the pods are made from, from the first on.
fn check_pods(pods: &Objects, expected: &[(&str, &Value)]) -> Result<()> {
    let found: Vec<_> = pods.values().map(|pod| (image(pod), revision(pod))).collect();
    ensure!(found == expected, "{found:?} rather than {expected:?}");
    Ok(())
}

/// While the middle pod is not ready, no other goes; the last goes first; and back it is the former revision.
fn roll_and_roll_back(site: &Site<'_>, more: Value) -> Result<()> {
    site.make_set(3, more)?;
    let set = site.settled()?;
    let first = set["status"]["currentRevision"].clone();
    check_pods(&site.list("pods")?, &[("tool:1", &first); 3])?;
    let mut former = first.clone();
    for to in ["tool:2", "tool:1"] {
        site.make_ready(&["web-1"], false)?;
        site.set_until("unready", |set| set["status"]["readyReplicas"] == 2)?;
        let mut changes = site.follow()?;
        site.change_image(to)?;
        let status = site.set_until("a new revision", |_| true)?["status"].take();
        let next = status["updateRevision"].clone();
        ensure!(status["currentRevision"] == former && next != former, "{status}");
        ensure!(
            to != "tool:1" || next == first,
            "back is a revision of its own: {status}"
        );
        ensure!(number(&status["updatedReplicas"]) == 0, "{status}");
        site.make_ready(&["web-1"], true)?;
        let gone = site.next_pods(&mut changes, "DELETED", 3)?;
        ensure!(gone == ["web-2", "web-1", "web-0"], "{gone:?}");
        let set = site.settled()?;
        ensure!(set["status"]["currentRevision"] == next, "{}", set["status"]);
        check_pods(&site.list("pods")?, &[(to, &next); 3])?;
        former = next;
    }
    Ok(())
}

fn partition(partition: u32) -> Value {
    json!({"updateStrategy": {"type": "RollingUpdate", "rollingUpdate": {"partition": partition}}})
}

fn canary_and_phases(site: &Site<'_>) -> Result<()> {
    site.make_set(3, partition(3))?;
    let old = site.settled()?["status"]["currentRevision"].take();
    site.change_image("tool:2")?;
    let status = site.set_until("a new revision", |_| true)?["status"].take();
    let new = status["updateRevision"].clone();
    ensure!(status["currentRevision"] == old && new != old, "{status}");
    let [was, is] = [("tool:1", &old), ("tool:2", &new)];
    // The partition is beyond the last.
    check_pods(&site.list("pods")?, &[was; 3])?;
    let ready = |updated: i64| {
        move |set: &Value| {
            number(&set["status"]["updatedReplicas"]) == updated && set["status"]["readyReplicas"] == 3
        }
    };
    site.change(partition(2))?;
    site.set_until("the canary", ready(1))?;
    check_pods(&site.list("pods")?, &[was, was, is])?;
    // What goes comes again as it was, on both sides of the partition.
    for pod in ["web-0", "web-2"] {
        let before = site.get("pods", pod)?;
        site.delete("pods", pod)?;
        site.until("pods", "another pod", |pods| {
            pods.get(pod)
                .is_some_and(|pod| is_ready(pod) && uid(pod) != uid(&before))
        })?;
    }
    site.set_until("the canary again", ready(1))?;
    check_pods(&site.list("pods")?, &[was, was, is])?;
    for (phase, expected) in [(1, [was, is, is]), (0, [is, is, is])] {
        site.change(partition(phase))?;
        site.set_until("the phase", ready(3 - i64::from(phase)))?;
        check_pods(&site.list("pods")?, &expected)?;
    }
    let status = site.settled()?["status"].take();
    ensure!(status["currentRevision"] == new, "{status}");
    Ok(())
}

/// The pod below the partition goes, ending with this code, and is kept for a while: it comes again as it was,
/// once it is gone, and the others stay.
fn pod_below_the_partition(site: &Site<'_>, code: u32) -> Result<()> {
    let script = format!("touch /tmp/ready; trap \"exit {code}\" TERM; while true; do sleep 0.1; done");
    let slow = json!({"template": {"spec": {
        "terminationGracePeriodSeconds": 30, "containers": [{"command": ["sh", "-c", script]}],
    }}});
    site.make_set(3, and(partition(1), slow))?;
    let old = site.settled()?["status"]["currentRevision"].take();
    let finalizers = |list: Value| json!({"metadata": {"finalizers": list}});
    site.patch("pods", "web-0", &finalizers(json!(["example.com/held"])))?;
    site.change_image("tool:2")?;
    let set = site.set_until("two of three", |set| {
        set["status"]["updatedReplicas"] == 2 && set["status"]["readyReplicas"] == 3
    })?;
    let new = set["status"]["updateRevision"].clone();
    let [was, is] = [("tool:1", &old), ("tool:2", &new)];
    let before = site.list("pods")?;
    check_pods(&before, &[was, is, is])?;
    site.delete("pods", "web-0")?;
    let phase = if code == 0 { "Succeeded" } else { "Failed" };
    site.until("pods", phase, |pods| {
        pods.get("web-0")
            .is_some_and(|pod| pod["status"]["phase"] == phase)
    })?;
    site.set_until("two ready", |set| set["status"]["readyReplicas"] == 2)?;
    ensure!(
        uid(&site.get("pods", "web-0")?) == uid(&before["web-0"]),
        "it was replaced though it is still there"
    );
    site.patch("pods", "web-0", &finalizers(Value::Null))?;
    site.set_until("three ready", |set| set["status"]["readyReplicas"] == 3)?;
    let after = site.list("pods")?;
    check_pods(&after, &[was, is, is])?;
    for (pod, before) in before {
        let same = uid(&after[&pod]) == uid(&before);
        ensure!(same == (pod != "web-0"), "{pod}: the same pod: {same}");
    }
    Ok(())
}

/// Nothing happens before pods are deleted; then those that were come from the new template, in any number.
fn on_delete(site: &Site<'_>) -> Result<()> {
    site.make_set(3, json!({"updateStrategy": {"type": "OnDelete"}}))?;
    let old = site.settled()?["status"]["currentRevision"].take();
    // Without a new template, nothing is new about the next pods.
    let all = ["web-0", "web-1", "web-2"];
    let replace = |batch: &[&str]| -> Result<()> {
        let before = site.list("pods")?;
        for pod in batch {
            site.delete("pods", pod)?;
        }
        let done = |pods: &Objects| {
            let is_done = |pod: &&str| {
                pods.get(*pod).is_some_and(|now| {
                    is_ready(now) && (uid(now) != uid(&before[*pod])) == batch.contains(pod)
                })
            };
            all.iter().all(is_done)
        };
        site.until("pods", "other pods", done).map(drop)
    };
    replace(&all)?;
    check_pods(&site.list("pods")?, &[("tool:1", &old); 3])?;
    site.change_image("tool:2")?;
    let new = site.set_until("a new revision", |_| true)?["status"]["updateRevision"].take();
    let [was, is] = [("tool:1", &old), ("tool:2", &new)];
    check_pods(&site.list("pods")?, &[was; 3])?;
    replace(&["web-1"])?;
    check_pods(&site.list("pods")?, &[was, is, was])?;
    replace(&["web-0", "web-2"])?;
    check_pods(&site.list("pods")?, &[is; 3])
}

/// Not in the suite but in the documentation: so many go at a time, and no more.
fn max_unavailable(site: &Site<'_>) -> Result<()> {
    let two = json!({"updateStrategy": {"rollingUpdate": {"maxUnavailable": 2}}});
    site.make_set(4, and(two, json!({"podManagementPolicy": "Parallel"})))?;
    site.settled()?;
    let held = json!([{"op": "replace", "path": "/spec/template/spec/containers/0/command",
        "value": ["sleep", "100000"]}]);
    site.kubectl(&format!("patch sts web --type=json -p '{held}'"))
        .ok()?;
    // The new pods are not ready, so that only these two go.
    site.set_until("two", |set| set["status"]["updatedReplicas"] == 2)?;
    let pods = site.list("pods")?;
    let updated = |pod: &str| revision(&pods[pod]) != revision(&pods["web-0"]);
    ensure!(
        updated("web-3") && updated("web-2") && !updated("web-1"),
        "{pods:?}"
    );
    for pod in ["web-3", "web-2"] {
        site.pod_runs(pod)?;
        site.make_ready(&[pod], true)?;
    }
    site.set_until("all", |set| set["status"]["updatedReplicas"] == 4)?;
    site.pod_runs("web-0")?;
    site.pod_runs("web-1")?;
    site.make_ready(&["web-1", "web-0"], true)?;
    site.settled().map(drop)
}
