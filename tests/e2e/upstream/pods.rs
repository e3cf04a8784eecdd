//! Whose pods are, what becomes of one that its node refuses, and an application made of several.

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use crate::site::{Part, Site, and, uid, with_claims};

pub(super) const PARTS: &[Part] = &[
    ("adopt-and-release", adopt_and_release),
    ("port-conflict", port_conflict),
    ("clustered-application", clustered_application),
];

fn adopt_and_release(site: &Site<'_>) -> Result<()> {
    site.make_set(1, with_claims())?;
    let set = site.settled()?;
    let before = site.get("pods", "web-0")?;
    let controlled = |pod: &Value| {
        let mut owners = pod["metadata"]["ownerReferences"]
            .as_array()
            .into_iter()
            .flatten();
        owners.any(|owner| {
            owner["controller"] == true
                && owner["kind"] == "StatefulSet"
                && owner["name"] == "web"
                && owner["uid"] == *uid(&set)
        })
    };
    ensure!(controlled(&before), "{before}");
    let becomes = |is_controlled: bool| {
        site.until("pods", &format!("controlled: {is_controlled}"), |pods| {
            pods.get("web-0")
                .is_some_and(|pod| controlled(pod) == is_controlled)
        })
    };
    let patch = |meta: Value| site.patch("pods", "web-0", &json!({"metadata": meta}));
    patch(json!({"ownerReferences": null}))?;
    becomes(true)?;
    let labels = before["metadata"]["labels"].clone();
    patch(json!({"labels": null}))?;
    becomes(false)?;
    // Its name is still taken, so that the set waits.
    ensure!(site.list("pods")?.len() == 1);
    patch(json!({"labels": labels}))?;
    becomes(true)?;
    site.settled()?;
    ensure!(
        uid(&site.get("pods", "web-0")?) == uid(&before),
        "it was replaced"
    );
    Ok(())
}

/// Another pod has the port on the node to which the set's pod is bound without a scheduler: the pod fails, and is
/// replaced until the port is free.
fn port_conflict(site: &Site<'_>) -> Result<()> {
    let node = site.api.get("/api/v1/nodes")?["items"][0]["metadata"]["name"].take();
    let ports = json!([{"name": "taken", "hostPort": 21017, "containerPort": 21017}]);
    let main = json!({"name": "main", "image": "tool:1", "command": ["sleep", "100000"], "ports": ports});
    let spec = json!({"nodeName": node, "terminationGracePeriodSeconds": 0, "containers": [main]});
    let other = json!({"metadata": {"name": "other"}, "spec": spec});
    site.api.post(&site.path("pods"), &other)?;
    site.pod_runs("other")?;
    let mut changes = site.follow()?;
    let bound = json!({"template": {"spec": {"nodeName": node, "containers": [{"ports": ports}]}}});
    site.make_set(1, bound)?;
    let first = site.next_pods(&mut changes, "DELETED", 1)?;
    ensure!(first == ["web-0"], "{first:?}");
    site.delete("pods", "other")?;
    site.settled()?;
    let pods = site.pods_are(&["web-0"])?;
    ensure!(pods["web-0"]["status"]["phase"] == "Running");
    Ok(())
}

/// Each member has a copy of what the first was told, which it takes from there when it starts, by its name; and a
/// member that starts again has it still. (The suite has this for four databases.)
fn clustered_application(site: &Site<'_>) -> Result<()> {
    let service = json!({"metadata": {"name": "web"}, "spec": {
        "clusterIP": "None", "publishNotReadyAddresses": true,
        "selector": {"app": "web"}, "ports": [{"port": 80}],
    }});
    site.api.post(&site.path("services"), &service)?;
    let script =
        "[ $(hostname) = web-0 ] || until wget -q -O /data/foo http://web-0.web/foo; do sleep 0.1; done
busybox httpd -p 80 -h /data
touch /tmp/ready
exec sleep 100000";
    let member = json!({"template": {"spec": {"containers": [{"command": ["sh", "-c", script]}]}}});
    site.make_set(1, and(member, with_claims()))?;
    site.settled()?;
    site.exec("web-0", "echo bar >/data/foo")?;
    site.kubectl("scale sts web --replicas=3").ok()?;
    site.settled()?;
    let read = |from: &str, of: &str| site.exec(from, &format!("wget -q -O - http://{of}.web/foo"));
    ensure!(read("web-0", "web-2")? == "bar\n");
    let before = site.list("pods")?;
    site.kubectl("rollout restart sts/web").ok()?;
    site.settled()?;
    let after = site.list("pods")?;
    for (name, pod) in before {
        let now = after.get(&name).context("it is gone")?;
        ensure!(uid(now) != uid(&pod), "{name} was not restarted");
    }
    ensure!(read("web-1", "web-2")? == "bar\n" && read("web-2", "web-0")? == "bar\n");
    Ok(())
}
