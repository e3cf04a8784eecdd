//! Durable writes: creations of small ConfigMaps over TLS.

use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use futures::future::try_join_all;
use http::Method;
use serde_json::{Value, json};

use stead_tests::client::{Access, Api};

const MAPS: &str = "/api/v1/namespaces/default/configmaps";

/// One client, one creation after another; returns the median of how long each took.
pub(crate) async fn alone(access: &Access, count: usize) -> Result<Duration> {
    let mut api = access.connect().await?;
    let mut times = Vec::with_capacity(count);
    for number in 0..count {
        let begin = Instant::now();
        create(&mut api, &format!("alone-{number}")).await?;
        times.push(begin.elapsed());
    }
    times.sort_unstable();
    Ok(times[count / 2])
}

/// The median of how long the disk with a folder takes for what any durable write needs: 4 KiB and a sync.
pub(crate) fn sync(dir: &Path, count: usize) -> Result<Duration> {
    let path = dir.join("bench-sync");
    let file = File::create(&path).with_context(|| format!("make {path:?}"))?;
    let bytes = [7; 4096];
    // As the store has it, the file does not grow with each write.
    file.write_all_at(&vec![0; bytes.len() * count], 0)?;
    file.sync_all()?;
    let mut times = Vec::with_capacity(count);
    for number in 0..count {
        let begin = Instant::now();
        file.write_all_at(&bytes, (number * bytes.len()) as u64)?;
        file.sync_data()?;
        times.push(begin.elapsed());
    }
    std::fs::remove_file(&path)?;
    times.sort_unstable();
    Ok(times[count / 2])
}

/// Many clients at once for a while; returns how many creations a second there were.
pub(crate) async fn together(access: &Access, clients: usize, time: Duration) -> Result<f64> {
    let begin = Instant::now();
    let client = |client| async move {
        let mut api = access.connect().await?;
        let mut done = 0_u32;
        while begin.elapsed() < time {
            create(&mut api, &format!("many-{client}-{done}")).await?;
            done += 1;
        }
        anyhow::Ok(done)
    };
    let done = try_join_all((0..clients).map(client)).await?;
    Ok(f64::from(done.into_iter().sum::<u32>()) / begin.elapsed().as_secs_f64())
}

async fn create(api: &mut Api, name: &str) -> Result<Value> {
    let map = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}, "data": {"color": "blue"}});
    api.ask(Method::POST, MAPS, Some(&map)).await
}
