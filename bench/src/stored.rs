//! Many stored objects, and many who watch: what lists, reads and changes take then.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use futures::future::{try_join, try_join_all};
use futures::stream::{self, StreamExt as _, TryStreamExt as _};
use http::Method;
use serde_json::{Value, json};
use stead_tests::client::{Access, Watch};
use tokio::time::timeout;

const PODS: &str = "/api/v1/namespaces/default/pods";
const MAPS: &str = "/api/v1/namespaces/default/configmaps";
/// Who make the objects.
const CLIENTS: usize = 64;
/// Far more than anything here takes.
const PATIENCE: Duration = Duration::from_secs(120);

/// Makes so many pods, which nobody places.
pub(crate) async fn fill(access: &Access, pods: usize) -> Result<()> {
    let client = |client: usize| async move {
        let mut api = access.connect().await?;
        for number in (client..pods).step_by(CLIENTS) {
            api.ask(Method::POST, PODS, Some(&pod(number))).await?;
        }
        anyhow::Ok(())
    };
    try_join_all((0..CLIENTS).map(client)).await?;
    Ok(())
}

/// The median of how long one client waits for one of those pods.
pub(crate) async fn get(access: &Access, count: usize) -> Result<Duration> {
    median(access, &format!("{PODS}/web-7"), count, 1000).await
}

/// The median of how long one client waits until it has the whole list of the pods.
pub(crate) async fn list(access: &Access, count: usize, pods: usize) -> Result<Duration> {
    median(access, PODS, count, pods * 500).await
}

/// The median of how long an answer takes, which must have so many bytes at least.
async fn median(access: &Access, path: &str, count: usize, bytes: usize) -> Result<Duration> {
    let mut api = access.connect().await?;
    let mut times = Vec::with_capacity(count);
    for _ in 0..count {
        let begin = Instant::now();
        let answer = api.bytes(path).await?;
        times.push(begin.elapsed());
        ensure!(answer.len() >= bytes, "{} bytes of {path}", answer.len());
    }
    times.sort_unstable();
    Ok(times[count / 2])
}

/// From the request for a change until the last of so many watchers has it; the median of some changes.
pub(crate) async fn tell(access: &Access, watchers: usize, changes: usize) -> Result<Duration> {
    let path = format!("{MAPS}?watch=true");
    let watch = || async { access.connect().await?.watch(&path).await };
    // TLS begins a few at a time, as the server would have it.
    let watches = stream::iter(0..watchers)
        .map(|_| watch())
        .buffer_unordered(CLIENTS);
    let mut watches: Vec<Watch> = watches.try_collect().await?;
    let mut api = access.connect().await?;
    let mut times = Vec::with_capacity(changes);
    for change in 0..changes {
        let name = format!("told-{change}");
        let map = json!({"metadata": {"name": name}});
        let seen = format!("\"name\":\"{name}\"").into_bytes();
        let begin = Instant::now();
        let watching = watches.iter_mut().map(|watch| until_seen(watch, &seen));
        let all = try_join(api.ask(Method::POST, MAPS, Some(&map)), try_join_all(watching));
        let (_, times_seen) = timeout(PATIENCE, all).await.context("tell all watchers")??;
        let last = times_seen.into_iter().max().context("no watchers")?;
        times.push(last.duration_since(begin));
    }
    times.sort_unstable();
    Ok(times[changes / 2])
}

/// Reads no more of the changes than it must, as there are many who do.
async fn until_seen(watch: &mut Watch, words: &[u8]) -> Result<Instant> {
    loop {
        let (at, line) = watch.line().await?.context("the watch has ended")?;
        if line.windows(words.len()).any(|window| window == words) {
            return Ok(at);
        }
    }
}

fn pod(number: usize) -> Value {
    json!({
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": format!("web-{number}"), "labels": {"app": "web", "number": number.to_string()}},
        "spec": {
            "schedulerName": "none",
            "containers": [{
                "name": "web",
                "image": "tool:1",
                "env": [{"name": "NUMBER", "value": number.to_string()}],
                "ports": [{"containerPort": 80, "name": "http"}],
                "resources": {"requests": {"cpu": "10m", "memory": "16Mi"}},
            }],
        },
    })
}
