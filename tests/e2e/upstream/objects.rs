//! What the API has for sets beside the sets themselves: scale, status, collections.

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use crate::site::{Part, Site, uid};

pub(super) const PARTS: &[Part] = &[
    ("scale-subresource", scale_subresource),
    ("collection", collection),
    ("status-subresource", status_subresource),
];

fn scale_subresource(site: &Site<'_>) -> Result<()> {
    site.make_set(1, json!({}))?;
    site.settled()?;
    let mut scale = site.get("statefulsets", "web/scale")?;
    ensure!(
        scale["kind"] == "Scale" && scale["spec"]["replicas"] == 1 && scale["status"]["replicas"] == 1,
        "{scale}"
    );
    ensure!(scale["status"]["selector"] == "app=web", "{scale}");
    // Without a version, it is replaced whatever it has become.
    scale["metadata"]["resourceVersion"].take();
    scale["spec"]["replicas"] = json!(2);
    let path = site.object("statefulsets", "web/scale");
    let answer = site.api.ask("PUT", &path, "application/json", &scale)?;
    ensure!(
        answer.code == 200 && answer.body["spec"]["replicas"] == 2,
        "{}",
        answer.body
    );
    ensure!(site.get("statefulsets", "web")?["spec"]["replicas"] == 2);
    site.pods_are(&["web-0", "web-1"])?;
    let patch = json!({"spec": {"replicas": 4}});
    let kind = "application/strategic-merge-patch+json";
    let answer = site.api.ask("PATCH", &path, kind, &patch)?;
    ensure!(answer.code == 200, "{}", answer.body);
    ensure!(site.get("statefulsets", "web")?["spec"]["replicas"] == 4);
    site.settled()?;
    let scale = site.get("statefulsets", "web/scale")?;
    ensure!(scale["status"]["replicas"] == 4, "{scale}");
    Ok(())
}

fn collection(site: &Site<'_>) -> Result<()> {
    site.make_set(1, json!({}))?;
    site.make_named("other", 1, json!({}))?;
    site.settled()?;
    let patch = json!({"metadata": {"labels": {"of": "the-test"}}, "spec": {
        "replicas": 2,
        "template": {"spec": {"containers": [{"name": "main", "image": "tool:2"}]}},
    }});
    site.kubectl(&format!("patch sts web -p '{patch}'")).ok()?;
    let set = site.settled()?;
    ensure!(
        set["spec"]["replicas"] == 2 && set["spec"]["template"]["spec"]["containers"][0]["image"] == "tool:2",
        "{set}"
    );
    let everywhere = "/apis/apps/v1/statefulsets?labelSelector=of%3Dthe-test";
    let names = || -> Result<Vec<Value>> {
        let mut list = site.api.get(everywhere)?;
        let items = list["items"].as_array_mut().context("no items")?;
        Ok(items
            .iter_mut()
            .map(|set| set["metadata"]["name"].take())
            .collect())
    };
    ensure!(names()? == ["web"], "{:?}", names()?);
    let all = format!("{}?labelSelector=of%3Dthe-test", site.path("statefulsets"));
    let options = json!({"gracePeriodSeconds": 1});
    let answer = site.api.ask("DELETE", &all, "application/json", &options)?;
    ensure!(answer.code == 200, "{}", answer.body);
    ensure!(names()?.is_empty(), "{:?}", names()?);
    // The pods go with it, and the other set stays.
    site.pods_are(&["other-0"])?;
    site.get("statefulsets", "other").map(drop)
}

/// Conditions that others write stay, as long as they are not written over.
fn status_subresource(site: &Site<'_>) -> Result<()> {
    site.make_set(1, json!({}))?;
    let before = site.settled()?;
    let web = |status: &Value| -> Vec<(String, String)> {
        let conditions = status["conditions"].as_array().into_iter().flatten();
        let word = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        conditions
            .map(|condition| (word(&condition["type"]), word(&condition["message"])))
            .collect()
    };
    let own = web(&before["status"]);
    let mut status = site.get("statefulsets", "web/status")?;
    ensure!(
        status["kind"] == "StatefulSet" && status["status"]["readyReplicas"] == 1,
        "{status}"
    );
    let conditions = status["status"]["conditions"].as_array_mut().context("none")?;
    conditions.push(json!({"type": "Written", "status": "True", "reason": "Test", "message": "by PUT"}));
    // The spec is not what this path writes.
    status["spec"]["replicas"] = json!(5);
    let path = site.object("statefulsets", "web/status");
    let answer = site.api.ask("PUT", &path, "application/json", &status)?;
    ensure!(answer.code == 200, "{}", answer.body);
    ensure!(answer.body["spec"]["replicas"] == 1, "{}", answer.body);
    let written = ("Written".to_owned(), "by PUT".to_owned());
    // Also when the controller writes its own again.
    site.change(json!({"replicas": 2}))?;
    let set = site.settled()?;
    ensure!(web(&set["status"]).contains(&written), "{}", set["status"]);
    // A merge replaces a list as a whole; the controller's own conditions come again.
    let patch =
        json!({"status": {"conditions": [{"type": "Patched", "status": "True", "message": "by PATCH"}]}});
    site.patch("statefulsets", "web/status", &patch)?;
    let patched = ("Patched".to_owned(), "by PATCH".to_owned());
    let set = site.set_until("all conditions", |set| {
        let found = web(&set["status"]);
        found.contains(&patched)
            && own
                .iter()
                .all(|(kind, _)| found.iter().any(|found| found.0 == *kind))
    })?;
    ensure!(!web(&set["status"]).contains(&written), "{}", set["status"]);
    ensure!(uid(&set) == uid(&before));
    Ok(())
}
