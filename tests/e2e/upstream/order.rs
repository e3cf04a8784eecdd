//! In which order pods come and go, and who they are.

use anyhow::{Result, ensure};
use serde_json::json;

use crate::site::{Part, Site, and, held, number, with_claims};

pub(super) const PARTS: &[Part] = &[
    ("basic-identity", basic_identity),
    ("predecessor-fails", predecessor_fails),
    ("ordered-scaling-halts", ordered_scaling_halts),
    ("burst-scaling-goes-on", burst_scaling_goes_on),
];

fn basic_identity(site: &Site<'_>) -> Result<()> {
    let service = json!({"metadata": {"name": "web"}, "spec": {
        "clusterIP": "None", "selector": {"app": "web"}, "ports": [{"port": 80}],
    }});
    site.api.post(&site.path("services"), &service)?;
    site.make_set(3, with_claims())?;
    site.settled()?;
    let pods = ["web-0", "web-1", "web-2"];
    for pod in pods {
        ensure!(site.exec(pod, "hostname")? == format!("{pod}\n"));
        site.exec(pod, "hostname >/data/name && ln -s /data/name /data/link && sync")?;
    }
    // Each finds the others by their names.
    let addresses = site.list("pods")?;
    for pod in pods {
        let host = format!("{pod}.web.{}.svc.cluster.local", site.namespace);
        let found = site.exec("web-0", &format!("nslookup {host}"))?;
        let address = addresses[pod]["status"]["podIP"].as_str().unwrap_or("no address");
        ensure!(found.contains(address), "{host}: {address} is not in {found}");
    }
    site.kubectl("scale sts web --replicas=0").ok()?;
    site.pods_are::<&str>(&[])?;
    site.kubectl("scale sts web --replicas=3").ok()?;
    site.settled()?;
    for pod in pods {
        let kept = site.exec(pod, "cat /data/name /data/link && hostname")?;
        ensure!(kept == format!("{pod}\n{pod}\n{pod}\n"), "{kept}");
    }
    Ok(())
}

/// The first pod fails while the second has yet to become ready: the first is made again all the same.
fn predecessor_fails(site: &Site<'_>) -> Result<()> {
    site.make_set(2, and(held(), with_claims()))?;
    site.pod_runs("web-0")?;
    ensure!(site.list("pods")?.len() == 1, "web-1 did not wait");
    site.make_ready(&["web-0"], true)?;
    site.pod_runs("web-1")?;
    let mut changes = site.follow()?;
    site.delete("pods", "web-0")?;
    ensure!(site.next_pods(&mut changes, "ADDED", 1)? == ["web-0"]);
    site.pod_runs("web-0")?;
    site.pod_is_ready("web-1", false)?;
    site.make_ready(&["web-1"], true)?;
    site.make_ready(&["web-0"], true)?;
    site.settled().map(drop)
}

fn ordered_scaling_halts(site: &Site<'_>) -> Result<()> {
    let mut changes = site.follow()?;
    site.make_set(1, json!({}))?;
    site.settled()?;
    site.make_ready(&["web-0"], false)?;
    site.set_until("unready", |set| number(&set["status"]["readyReplicas"]) == 0)?;
    site.kubectl("scale sts web --replicas=3").ok()?;
    let set = site.set_until("seen", |_| true)?;
    ensure!(
        set["status"]["replicas"] == 1 && site.list("pods")?.len() == 1,
        "it was scaled up"
    );
    site.make_ready(&["web-0"], true)?;
    site.settled()?;
    let made = site.next_pods(&mut changes, "ADDED", 3)?;
    ensure!(made == ["web-0", "web-1", "web-2"], "{made:?}");

    site.make_ready(&["web-0", "web-1", "web-2"], false)?;
    site.set_until("unready", |set| number(&set["status"]["readyReplicas"]) == 0)?;
    site.kubectl("scale sts web --replicas=0").ok()?;
    let set = site.set_until("seen", |_| true)?;
    ensure!(number(&set["status"]["replicas"]) == 3, "it was scaled down");
    for (pod, object) in site.list("pods")? {
        let deleted = &object["metadata"]["deletionTimestamp"];
        ensure!(deleted.is_null(), "{pod} goes");
    }
    // The last one may go though it is not ready itself.
    for pod in ["web-0", "web-1"] {
        site.exec(pod, "touch /tmp/ready")?;
    }
    let gone = site.next_pods(&mut changes, "DELETED", 3)?;
    ensure!(gone == ["web-2", "web-1", "web-0"], "{gone:?}");
    site.settled().map(drop)
}

fn burst_scaling_goes_on(site: &Site<'_>) -> Result<()> {
    site.make_set(1, json!({"podManagementPolicy": "Parallel"}))?;
    site.settled()?;
    site.make_ready(&["web-0"], false)?;
    site.kubectl("scale sts web --replicas=3").ok()?;
    let pods = ["web-0", "web-1", "web-2"];
    site.pods_are(&pods)?;
    site.pod_is_ready("web-0", false)?;
    site.make_ready(&["web-0"], true)?;
    site.settled()?;
    site.make_ready(&pods, false)?;
    site.kubectl("scale sts web --replicas=0").ok()?;
    site.pods_are::<&str>(&[])?;
    site.settled().map(drop)
}
