//! StatefulSets: from the request until a watch shows the result.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use http::Method;
use serde_json::{Value, json};
use tokio::time::timeout;

use stead_tests::client::{Access, Watch};

const PODS: &str = "/api/v1/namespaces/default/pods";
const SETS: &str = "/apis/apps/v1/namespaces/default/statefulsets";
const CLAIMS: &str = "/api/v1/namespaces/default/persistentvolumeclaims";
/// Far more than anything here takes.
const PATIENCE: Duration = Duration::from_secs(120);

/// A set to be made.
#[derive(Clone, Copy)]
pub(crate) struct Shape {
    pub(crate) name: &'static str,
    pub(crate) replicas: usize,
    pub(crate) parallel: bool,
    pub(crate) claims: bool,
}

/// When a watch showed what of a pod, since the request.
#[derive(Debug, Default, Clone, Copy)]
pub(crate) struct Hops {
    pub(crate) created: Option<Duration>,
    pub(crate) scheduled: Option<Duration>,
    pub(crate) sandbox: Option<Duration>,
    pub(crate) started: Option<Duration>,
    pub(crate) ready: Option<Duration>,
}

impl Hops {
    /// Their names, in order.
    pub(crate) const NAMES: [&str; 5] = ["created", "scheduled", "sandbox", "started", "ready"];

    /// In the same order.
    pub(crate) fn values(&self) -> [Option<Duration>; 5] {
        [
            self.created,
            self.scheduled,
            self.sandbox,
            self.started,
            self.ready,
        ]
    }

    fn note(&mut self, pod: &Value, at: Duration) {
        self.created.get_or_insert(at);
        if pod.pointer("/spec/nodeName").is_some() {
            self.scheduled.get_or_insert(at);
        }
        if has_condition(pod, "PodReadyToStartContainers") {
            self.sandbox.get_or_insert(at);
        }
        if pod.pointer("/status/containerStatuses/0/state/running").is_some() {
            self.started.get_or_insert(at);
        }
        if has_condition(pod, "Ready") {
            self.ready.get_or_insert(at);
        }
    }
}

/// Makes a set; returns how long it took until all its pods were seen ready, and what was seen of each.
pub(crate) async fn create(access: &Access, shape: Shape) -> Result<(Duration, BTreeMap<String, Hops>)> {
    let mut watch = watch(access, shape.name).await?;
    let mut api = access.connect().await?;
    let set = manifest(shape);
    let begin = Instant::now();
    api.ask(Method::POST, SETS, Some(&set)).await?;
    let mut hops = BTreeMap::<String, Hops>::new();
    let all_ready = async {
        loop {
            let (at, _, pod) = watch.next().await?;
            let at = at.duration_since(begin);
            hops.entry(name(&pod)?).or_default().note(&pod, at);
            if hops.values().filter(|hops| hops.ready.is_some()).count() == shape.replicas {
                return anyhow::Ok(at);
            }
        }
    };
    let took = timeout(PATIENCE, all_ready)
        .await
        .with_context(|| format!("make {}", shape.name))??;
    Ok((took, hops))
}

/// Deletes a set and its claims; returns how long it took until the last of its pods was seen to go.
pub(crate) async fn delete(access: &Access, shape: Shape) -> Result<Duration> {
    let mut watch = watch(access, shape.name).await?;
    let mut api = access.connect().await?;
    let begin = Instant::now();
    api.ask(Method::DELETE, &format!("{SETS}/{}", shape.name), None)
        .await?;
    let all_gone = async {
        let mut gone = 0;
        loop {
            let (at, kind, _) = watch.next().await?;
            gone += usize::from(kind == "DELETED");
            if gone == shape.replicas {
                return anyhow::Ok(at.duration_since(begin));
            }
        }
    };
    let took = timeout(PATIENCE, all_gone)
        .await
        .with_context(|| format!("delete {}", shape.name))??;
    if shape.claims {
        api.ask(
            Method::DELETE,
            &format!("{CLAIMS}?labelSelector=app={}", shape.name),
            None,
        )
        .await?;
    }
    Ok(took)
}

async fn watch(access: &Access, app: &str) -> Result<Watch> {
    access
        .connect()
        .await?
        .watch(&format!("{PODS}?watch=true&labelSelector=app={app}"))
        .await
}

fn name(pod: &Value) -> Result<String> {
    match pod.pointer("/metadata/name").and_then(Value::as_str) {
        Some(name) => Ok(name.to_owned()),
        None => bail!("a watch showed no pod: {pod}"),
    }
}

fn has_condition(pod: &Value, kind: &str) -> bool {
    let conditions = pod.pointer("/status/conditions").and_then(Value::as_array);
    let mut conditions = conditions.into_iter().flatten();
    conditions.any(|condition| condition["type"] == kind && condition["status"] == "True")
}

/// A web server that, as process 1 without a handler, ignores SIGTERM; with a readiness probe.
fn manifest(shape: Shape) -> Value {
    let labels = json!({"app": shape.name});
    let claim = json!({
        "metadata": {"name": "data"},
        "spec": {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Mi"}}},
    });
    let mount = json!({"name": "data", "mountPath": "/data"});
    let if_claims = |value: Value| if shape.claims { vec![value] } else { Vec::new() };
    json!({
        "apiVersion": "apps/v1",
        "kind": "StatefulSet",
        "metadata": {"name": shape.name},
        "spec": {
            "replicas": shape.replicas,
            "serviceName": shape.name,
            "podManagementPolicy": if shape.parallel { "Parallel" } else { "OrderedReady" },
            "selector": {"matchLabels": labels},
            "volumeClaimTemplates": if_claims(claim),
            "template": {
                "metadata": {"labels": labels},
                "spec": {
                    "terminationGracePeriodSeconds": 1,
                    "containers": [{
                        "name": "web",
                        "image": "tool:1",
                        "command": ["busybox", "httpd", "-f", "-p", "8080", "-h", "/etc"],
                        "readinessProbe": {"httpGet": {"path": "/hostname", "port": 8080}, "periodSeconds": 10},
                        "volumeMounts": if_claims(mount),
                    }],
                },
            },
        },
    })
}
