//! Sets of many replicas: how long the controller needs for all their pods, and for a look at a set that has them.
//! The node is not asked: no scheduler is named that would place the pods, and their status is written here.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use futures::future::try_join_all;
use http::Method;
use serde_json::{Value, json};
use tokio::time::timeout;

use stead_tests::client::{Access, Api};

/// Far more than anything here takes.
const PATIENCE: Duration = Duration::from_secs(120);
/// Who play the kubelet.
const CLIENTS: usize = 16;
/// Looks that the mean is of.
const LOOKS: usize = 50;

/// What was found of a set.
pub(crate) struct Found {
    /// From the request until the last pod was there.
    pub(crate) created: Duration,
    /// What the controller works on average when something changes that matters to nothing.
    pub(crate) look: Duration,
}

/// Makes a set `Parallel` in a namespace of its own, has its pods ready, and looks at it often. It is left there.
pub(crate) async fn set(access: &Access, replicas: usize) -> Result<Found> {
    let mut api = access.connect().await?;
    let namespace = format!("with-{replicas}");
    let object = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": namespace}});
    api.ask(Method::POST, "/api/v1/namespaces", Some(&object)).await?;
    let pods = format!("/api/v1/namespaces/{namespace}/pods");
    let sets = format!("/apis/apps/v1/namespaces/{namespace}/statefulsets");
    let mut watch = access
        .connect()
        .await?
        .watch(&format!("{pods}?watch=true"))
        .await?;
    let begin = Instant::now();
    api.ask(Method::POST, &sets, Some(&manifest(replicas))).await?;
    let all_made = async {
        let mut made = 0;
        loop {
            let (at, kind, _) = watch.next().await?;
            made += usize::from(kind == "ADDED");
            if made == replicas {
                return anyhow::Ok(at.duration_since(begin));
            }
        }
    };
    let created = timeout(PATIENCE, all_made)
        .await
        .with_context(|| format!("make {replicas} pods"))??;
    drop(watch);
    let begin_ready = |client: usize| make_ready(access, &pods, (client..replicas).step_by(CLIENTS));
    try_join_all((0..CLIENTS).map(begin_ready)).await?;
    let set = format!("{sets}/web");
    until_available(access, &sets, replicas).await?;
    Ok(Found {
        created,
        look: mean_look(&mut api, &set).await?,
    })
}

/// Plays the kubelet for some of the pods.
async fn make_ready(access: &Access, pods: &str, ordinals: impl Iterator<Item = usize>) -> Result<()> {
    let mut api = access.connect().await?;
    let since = "2026-01-01T00:00:00Z";
    let conditions = json!([{"type": "Ready", "status": "True", "lastTransitionTime": since}]);
    let patch = json!({"status": {"phase": "Running", "startTime": since, "conditions": conditions}});
    for ordinal in ordinals {
        api.ask(
            Method::PATCH,
            &format!("{pods}/web-{ordinal}/status"),
            Some(&patch),
        )
        .await?;
    }
    Ok(())
}

async fn until_available(access: &Access, sets: &str, replicas: usize) -> Result<()> {
    let path = format!("{sets}?watch=true&fieldSelector=metadata.name%3Dweb");
    let mut watch = access.connect().await?.watch(&path).await?;
    let all_available = async {
        loop {
            let (_, _, set) = watch.next().await?;
            if set.pointer("/status/availableReplicas") == Some(&json!(replicas)) {
                return anyhow::Ok(());
            }
        }
    };
    timeout(PATIENCE, all_available)
        .await
        .with_context(|| format!("{replicas} pods available"))?
}

/// Changes what the controller does not care for, again and again.
async fn mean_look(api: &mut Api, set: &str) -> Result<Duration> {
    let before = looks(api).await?;
    for number in 0..LOOKS {
        let patch = json!({"metadata": {"annotations": {"touched": number.to_string()}}});
        api.ask(Method::PATCH, set, Some(&patch)).await?;
        // One look each, not one for several changes.
        while looks(api).await?.0 < before.0 + number as f64 + 1.0 {
            tokio::task::yield_now().await;
        }
    }
    let after = looks(api).await?;
    ensure!(after.0 > before.0, "nothing has been looked at");
    Ok(Duration::from_secs_f64(
        (after.1 - before.1) / (after.0 - before.0),
    ))
}

/// How often the controller has looked at sets, and the seconds it took, of all.
async fn looks(api: &mut Api) -> Result<(f64, f64)> {
    let text = String::from_utf8(api.bytes("/metrics").await?.to_vec())?;
    let value = |what: &str| {
        let line = format!("workqueue_work_duration_seconds_{what}{{name=\"statefulset\"}} ");
        let value = text.lines().find_map(|found| found.strip_prefix(&line));
        value.and_then(|value| value.parse::<f64>().ok())
    };
    value("count")
        .zip(value("sum"))
        .context("/metrics counts no looks")
}

fn manifest(replicas: usize) -> Value {
    let labels = json!({"app": "web"});
    json!({
        "apiVersion": "apps/v1",
        "kind": "StatefulSet",
        "metadata": {"name": "web"},
        "spec": {
            "replicas": replicas,
            "podManagementPolicy": "Parallel",
            "selector": {"matchLabels": labels},
            "template": {
                "metadata": {"labels": labels},
                "spec": {
                    "schedulerName": "none",
                    "terminationGracePeriodSeconds": 0,
                    "containers": [{"name": "web", "image": "tool:1"}],
                },
            },
        },
    })
}
