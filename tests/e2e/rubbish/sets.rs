//! Sets whose pods cannot be made, sets without measure, and status that no controller would write.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use serde_json::{Value, json};

use super::{is_stuck, is_told_of, others_get_on, refused};
use crate::site::{Part, Site, and, held, number};

pub(super) const PARTS: &[Part] = &[
    ("no-such-account", no_such_account),
    ("two-billion-replicas", two_billion_replicas),
    ("far-ordinals", far_ordinals),
    ("large-annotations", large_annotations),
    ("large-template", large_template),
    ("status-of-nothing", status_of_nothing),
    ("status-too-large", status_too_large),
];

fn no_such_account(site: &Site<'_>) -> Result<()> {
    site.make_set(2, json!({"template": {"spec": {"serviceAccountName": "absent"}}}))?;
    is_stuck(site, &["web-0", "serviceaccount \"absent\" not found"])?;
    others_get_on(site)
}

fn two_billion_replicas(site: &Site<'_>) -> Result<()> {
    site.make_set(2_147_483_647, held())?;
    site.pod_runs("web-0")?;
    site.set_until("one", |set| set["status"]["replicas"] == 1)?;
    others_get_on(site)?;
    site.change(json!({"replicas": 1}))?;
    site.make_ready(&["web-0"], true)?;
    site.settled().map(drop)
}

fn far_ordinals(site: &Site<'_>) -> Result<()> {
    let start = |start: i64| json!({"ordinals": {"start": start}});
    let spec = &["spec.ordinals.start"];
    let set = json!({"metadata": {"name": "web"}, "spec": and(json!({
        "replicas": 3, "selector": {"matchLabels": {"app": "web"}}, "serviceName": "web",
        "template": {
            "metadata": {"labels": {"app": "web"}},
            "spec": {"containers": [{"name": "main", "image": "tool:1"}]},
        },
    }), start(2_147_483_646))});
    refused(site, "POST", &site.path("statefulsets"), &set, spec)?;
    site.make_set(2, start(2_147_483_645))?;
    site.pods_are(&["web-2147483645", "web-2147483646"])?;
    site.settled()?;
    let web = site.object("statefulsets", "web");
    refused(site, "PATCH", &web, &json!({"spec": start(2_147_483_647)}), spec)?;
    refused(site, "PATCH", &web, &json!({"spec": start(-1)}), spec)?;
    site.change(start(0))?;
    site.pods_are(&["web-0", "web-1"]).map(drop)
}

fn large_annotations(site: &Site<'_>) -> Result<()> {
    site.make_set(1, json!({}))?;
    let note = |bytes: usize| json!({"metadata": {"annotations": {"note": "x".repeat(bytes)}}});
    let web = site.object("statefulsets", "web");
    refused(
        site,
        "PATCH",
        &web,
        &note(1 << 20),
        &["metadata.annotations: Too long"],
    )?;
    site.patch("statefulsets", "web", &note(250_000))?;
    let template = json!({"template": note(250_000)});
    site.change(template)?;
    site.settled()?;
    others_get_on(site)
}

/// The history holds the template with all that is filled in by default, so that it may be larger than what a client
/// may send.
fn large_template(site: &Site<'_>) -> Result<()> {
    let ports: Vec<Value> = (1..=60_000)
        .map(|port| json!({"containerPort": port, "name": format!("p{port}")}))
        .collect();
    let image = json!({"template": {"spec": {"containers": [{"ports": ports}]}}});
    let begin = Instant::now();
    site.make_set(1, image)?;
    ensure!(begin.elapsed() < Duration::from_secs(10), "{:?}", begin.elapsed());
    is_told_of(site, "web", "StatefulSet", &["create revision", "too large"])?;
    others_get_on(site)?;
    site.change(json!({"template": {"spec": {"containers": [{"name": "main", "image": "tool:1", "command": ["sleep", "9"]}]}}}))?;
    site.settled().map(drop)
}

fn status_of_nothing(site: &Site<'_>) -> Result<()> {
    site.make_set(2, json!({}))?;
    let set = site.settled()?;
    let path = site.object("statefulsets", "web/status");
    for negative in [
        "replicas",
        "readyReplicas",
        "currentReplicas",
        "updatedReplicas",
        "collisionCount",
    ] {
        let status = json!({"status": {negative: -7}});
        refused(site, "PATCH", &path, &status, &[&format!("status.{negative}")])?;
    }
    let rubbish = json!({"status": {
        "currentRevision": "web-none",
        "updateRevision": "../../etc",
        "replicas": 2_000_000_000, "readyReplicas": 2_000_000_000, "currentReplicas": 1_999_999_999,
        "availableReplicas": 7, "updatedReplicas": 3, "collisionCount": 2_147_483_647,
        "observedGeneration": 1_000,
        "conditions": [
            {"type": "Stuck", "status": "Nonsense", "lastTransitionTime": "9999-12-30T00:00:00Z"},
            {"type": "Stuck", "status": "True", "message": "twice"},
            {"type": "", "status": ""},
        ],
    }});
    site.patch("statefulsets", "web/status", &rubbish)?;
    let after = site.set_until("its own status", |set| {
        let status = &set["status"];
        number(&status["replicas"]) == 2 && status["readyReplicas"] == 2 && status["availableReplicas"] == 2
    })?;
    ensure!(
        after["status"]["currentRevision"] == set["status"]["currentRevision"],
        "{}",
        after["status"]
    );
    // And it goes on from there.
    site.change_image("tool:2")?;
    site.settled()?;
    others_get_on(site)
}

/// There is no room in the status for what the controller has to say.
fn status_too_large(site: &Site<'_>) -> Result<()> {
    site.make_set(1, json!({}))?;
    site.settled()?;
    let noise = "x".repeat(3_145_500);
    let conditions = json!([{"type": "Noise", "status": "True", "message": noise}]);
    site.patch(
        "statefulsets",
        "web/status",
        &json!({"status": {"conditions": conditions}}),
    )?;
    site.kubectl("scale sts web --replicas=2").ok()?;
    site.pods_are(&["web-0", "web-1"])?;
    site.pod_is_ready("web-1", true)?;
    is_told_of(site, "web", "StatefulSet", &["update the status", "too large"])?;
    others_get_on(site)
}
