//! StatefulSets: the order of their pods, and what pods keep.

use std::time::Instant;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use stead_tests::api::Api;
use stead_tests::artifacts::Image;
use stead_tests::replay::{Names, Pods};
use stead_tests::{Cluster, PATIENCE, eventually, on_a_cluster};

use crate::manifests::{held_set, set};
use crate::replays::make_namespace;
use crate::walk::gone;
use crate::{Tests, check_contains, is_ready};

pub(crate) const TESTS: Tests = &[
    (
        "sets: OrderedReady makes a pod when the one before is ready",
        ordered,
    ),
    ("sets: Parallel makes all pods at once", parallel),
    (
        "sets: scaling down ends the last pod first and keeps its claim",
        scaling,
    ),
    ("sets: a pod comes back with its name and disk", replacement),
    (
        "sets: a claim on its way out is waited for, and made anew with its pod",
        claim_deleted,
    ),
    ("sets: a pod that was evicted is replaced", evicted),
    ("sets: orphaned pods are adopted again", orphans),
    ("sets: claims go with the set if it says so", retention),
    ("sets: pods can wait for each other by name", peers),
];

fn ordered() -> Result<()> {
    on_a_cluster(|cluster| {
        cluster.load(&Image::new("tool:1"))?;
        let mut changes = cluster.watch("pods")?;
        cluster.apply(&held_set("web", 3, "OrderedReady"))?;
        let mut ready = 0;
        let mut made = Vec::new();
        while ready < 3 {
            let (kind, pod) = changes.next()?;
            let name = name(&pod)?;
            if kind == "ADDED" {
                ensure!(name == format!("web-{ready}"), "{name} when {ready} are ready");
                made.push(name.clone());
                cluster.wait_for(
                    &format!("pod/{name}"),
                    "jsonpath={.status.containerStatuses[0].started}=true",
                )?;
                cluster.in_pod(&name, "touch /tmp/go")?;
            }
            if is_ready(&pod) && name == format!("web-{ready}") {
                ready += 1;
            }
        }
        ensure!(made == ["web-0", "web-1", "web-2"], "{made:?}");
        for ordinal in 0..3 {
            let pod = format!("web-{ordinal}");
            let labels = cluster.get(&format!("pod {pod}"))?["metadata"]["labels"].take();
            let index = &labels["apps.kubernetes.io/pod-index"];
            let name = &labels["statefulset.kubernetes.io/pod-name"];
            ensure!(
                index == ordinal.to_string().as_str() && name == pod.as_str(),
                "{labels}"
            );
        }
        Ok(())
    })
}

fn parallel() -> Result<()> {
    on_a_cluster(|cluster| {
        cluster.load(&Image::new("tool:1"))?;
        cluster.apply(&held_set("web", 3, "Parallel"))?;
        // None gets ready, so only Parallel comes to this.
        cluster.wait_for("sts/web", "jsonpath={.status.replicas}=3")?;
        for ordinal in [2, 0, 1] {
            let pod = format!("web-{ordinal}");
            cluster.wait_for(&format!("pod/{pod}"), "jsonpath={.status.phase}=Running")?;
            cluster.in_pod(&pod, "touch /tmp/go")?;
        }
        cluster.rolled_out("web").map(drop)
    })
}

fn scaling() -> Result<()> {
    on_a_cluster(|cluster| {
        cluster.load(&Image::visits()?)?;
        cluster.apply(&set("web", 4, &[]))?;
        cluster.rolled_out("web")?;
        cluster.in_pod("web-3", "echo kept >/data/kept")?;
        let mut changes = cluster.watch("pods")?;
        // It has begun when it shows the pods that are there.
        for _ in 0..4 {
            changes.next()?;
        }
        let said = cluster.kubectl("scale sts web --replicas=1").ok()?;
        check_contains(&said, &["statefulset.apps/web scaled"])?;
        let mut ended = Vec::new();
        let mut ending: Option<String> = None;
        while ended.len() < 3 {
            let (kind, pod) = changes.next()?;
            let name = name(&pod)?;
            if kind == "DELETED" {
                ensure!(ending.take().as_ref() == Some(&name), "{name} ended unasked");
                ended.push(name);
            } else if pod.pointer("/metadata/deletionTimestamp").is_some() {
                let other = ending.replace(name.clone()).filter(|other| *other != name);
                ensure!(other.is_none(), "{name} is ended while {other:?} is");
            }
        }
        ensure!(ended == ["web-3", "web-2", "web-1"], "{ended:?}");
        let claims = cluster.kubectl("get pvc -o name").ok()?;
        ensure!(claims.lines().count() == 4, "{claims}");
        cluster.kubectl("scale sts web --replicas=4").ok()?;
        cluster.rolled_out("web")?;
        ensure!(cluster.in_pod("web-3", "cat /data/kept")? == "kept\n");
        Ok(())
    })
}

fn replacement() -> Result<()> {
    on_a_cluster(|cluster| {
        cluster.load(&Image::visits()?)?;
        cluster.apply(&set("web", 2, &[]))?;
        cluster.rolled_out("web")?;
        cluster.in_pod("web-0", "hostname >/data/name")?;
        let before = cluster.uids(&["web-0", "web-1"])?;
        let claim = cluster.field("pvc data-web-0", "/spec/volumeName")?;
        check_contains(&claim, &["pvc-"])?;
        cluster.kubectl("delete pod web-0").ok()?;
        cluster.wait_for("sts/web", "jsonpath={.status.readyReplicas}=2")?;
        cluster.wait_for("pod/web-0", "condition=Ready")?;
        let after = cluster.uids(&["web-0", "web-1"])?;
        ensure!(
            before[0] != after[0] && before[1] == after[1],
            "{before:?} {after:?}"
        );
        ensure!(cluster.in_pod("web-0", "cat /data/name")? == "web-0\n");
        ensure!(cluster.field("pvc data-web-0", "/spec/volumeName")? == claim);
        Ok(())
    })
}

fn claim_deleted() -> Result<()> {
    on_a_cluster(|cluster| {
        cluster.load(&Image::visits()?)?;
        cluster.apply(&set("web", 1, &[]))?;
        cluster.rolled_out("web")?;
        cluster.in_pod("web-0", "echo old >/data/old")?;
        let claim = cluster.field("pvc data-web-0", "/metadata/uid")?;
        let pod = cluster.uids(&["web-0"])?;
        // It stays as long as a pod uses it.
        cluster.kubectl("delete pvc data-web-0 --wait=false").ok()?;
        ensure!(cluster.field("pvc data-web-0", "/metadata/uid")? == claim);
        ensure!(cluster.in_pod("web-0", "cat /data/old")? == "old\n");
        cluster.kubectl("delete pod web-0").ok()?;
        eventually("a new pod", || {
            ensure!(cluster.uids(&["web-0"])? != pod);
            Ok(())
        })?;
        cluster.wait_for("pod/web-0", "condition=Ready")?;
        ensure!(cluster.field("pvc data-web-0", "/metadata/uid")? != claim);
        ensure!(cluster.in_pod("web-0", "[ ! -e /data/old ] && echo new")? == "new\n");
        Ok(())
    })
}

/// A pod that has failed stays so for ever, and the set wants one that runs. The node is made up, so that
/// nobody but this test says what becomes of the pod.
fn evicted() -> Result<()> {
    on_a_cluster(|cluster| {
        let api = Api::open(cluster)?;
        make_namespace(&api, "lost")?;
        api.post("/api/v1/nodes", &json!({"metadata": {"name": "made-up"}}))?;
        let mut changes = api.watch("/api/v1/namespaces/lost/pods")?;
        let labels = json!({"app": "web"});
        let spec = json!({"nodeName": "made-up", "containers": [{"name": "c", "image": "none:1"}]});
        let set = json!({"metadata": {"name": "web"}, "spec": {
            "serviceName": "web",
            "selector": {"matchLabels": labels},
            "template": {"metadata": {"labels": labels}, "spec": spec},
        }});
        api.post("/apis/apps/v1/namespaces/lost/statefulsets", &set)?;
        let (mut pods, mut names) = (Pods::default(), Names::default());
        let mut seen = Vec::new();
        let until = Instant::now() + PATIENCE;
        while seen.iter().filter(|what| *what == "created").count() < 2 {
            let (kind, pod) = changes.next(until)?.with_context(|| format!("only {seen:?}"))?;
            if kind == "ADDED" && seen.is_empty() {
                let failed = json!({"status": {"phase": "Failed", "reason": "Evicted"}});
                let path = "/api/v1/namespaces/lost/pods/web-0/status";
                let answer = api.ask("PATCH", path, "application/merge-patch+json", &failed)?;
                ensure!(answer.code == 200, "{}", answer.body);
            }
            seen.extend(
                pods.change(&kind, &pod, &mut names)
                    .into_iter()
                    .map(|event| event.0),
            );
        }
        ensure!(seen == ["created", "failed", "deleted", "created"], "{seen:?}");
        Ok(())
    })
}

fn orphans() -> Result<()> {
    on_a_cluster(|cluster| {
        cluster.load(&Image::visits()?)?;
        let manifest = set("web", 2, &[]);
        cluster.apply(&manifest)?;
        cluster.rolled_out("web")?;
        let before = cluster.uids(&["web-0", "web-1"])?;
        cluster.kubectl("delete sts web --cascade=orphan").ok()?;
        ensure!(cluster.field("pod web-0", "/metadata/ownerReferences")? == "null");
        cluster.apply(&manifest)?;
        cluster.rolled_out("web")?;
        ensure!(
            cluster.uids(&["web-0", "web-1"])? == before,
            "the pods were replaced"
        );
        ensure!(cluster.field("pod web-0", "/metadata/ownerReferences/0/name")? == "web");
        Ok(())
    })
}

fn retention() -> Result<()> {
    on_a_cluster(|cluster| {
        cluster.load(&Image::visits()?)?;
        let policy = "persistentVolumeClaimRetentionPolicy: {whenScaled: Delete, whenDeleted: Delete}";
        cluster.apply(&set("web", 2, &[policy]))?;
        cluster.rolled_out("web")?;
        let volume = cluster.field("pvc data-web-1", "/spec/volumeName")?;
        cluster.kubectl("scale sts web --replicas=1").ok()?;
        gone_for_good(cluster, "pvc/data-web-1")?;
        gone_for_good(cluster, &format!("pv/{volume}"))?;
        ensure!(cluster.field("pvc data-web-0", "/status/phase")? == "Bound");
        cluster.kubectl("delete sts web").ok()?;
        gone(cluster, "web-0")?;
        gone_for_good(cluster, "pvc/data-web-0")
    })
}

/// Waits until an object is gone; it may be so already.
pub(crate) fn gone_for_good(cluster: &Cluster, what: &str) -> Result<()> {
    let outcome = cluster
        .kubectl(&format!("wait --for=delete {what} --timeout=60s"))
        .run()?;
    ensure!(
        outcome.code == 0 || outcome.stderr.contains("NotFound"),
        "{outcome}"
    );
    Ok(())
}

/// As databases do at their first start: each waits until the name of the first resolves. A name service
/// that remembers for long that there was no such name makes this slow.
fn peers() -> Result<()> {
    on_a_cluster(|cluster| {
        cluster.load(&Image::new("tool:1"))?;
        cluster.apply(
            "
apiVersion: v1
kind: Service
metadata: {name: db}
spec: {clusterIP: None, publishNotReadyAddresses: true, selector: {app: db}, ports: [{port: 1}]}
---
apiVersion: apps/v1
kind: StatefulSet
metadata: {name: db}
spec:
  replicas: 3
  serviceName: db
  podManagementPolicy: Parallel
  selector: {matchLabels: {app: db}}
  template:
    metadata: {labels: {app: db}}
    spec:
      terminationGracePeriodSeconds: 0
      containers:
        - name: db
          image: tool:1
          command:
            - sh
            - -c
            - |
              for peer in 0 1 2; do
                until nslookup db-$peer.db.default.svc.cluster.local >/dev/null; do sleep 0.1; done
              done
              touch /tmp/met
              exec sleep 10000
          readinessProbe: {exec: {command: [test, -e, /tmp/met]}, periodSeconds: 1}
",
        )?;
        cluster.rolled_out("db").map(drop)
    })
}

/// An object's name.
pub(crate) fn name(object: &Value) -> Result<String> {
    let name = object.pointer("/metadata/name").and_then(Value::as_str);
    name.map(str::to_owned)
        .with_context(|| format!("no name in {object}"))
}
