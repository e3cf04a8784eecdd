//! 200 clients at once, over TLS: they create, change, list and delete the same objects, and watch them.
//!
//! `STEAD_CROWD_SECONDS` sets for how long (default 20), `STEAD_CROWD_SEED` what they do; the seed is printed.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant, SystemTime};

use anyhow::{Context, Result, ensure};
use fastrand::Rng;
use futures::future::{try_join, try_join_all};
use http::Method;
use serde_json::{Value, json};
use stead_tests::client::{Access, Api};
use stead_tests::{PATIENCE, on_a_cluster};

use crate::Tests;
use crate::watching::Watcher;

pub(crate) const TESTS: Tests = &[("faults: 200 clients at once see the same", crowd)];

/// Those that write and list, and those that watch.
const WRITERS: usize = 160;
const WATCHERS: usize = 40;
/// Few objects, so that clients meet.
pub(crate) const NAMESPACES: usize = 4;
const NAMES: usize = 25;
const SECONDS: u64 = 20;

/// Comes after all other names, when all has been written.
pub(crate) const END: &str = "zz-end";

fn crowd() -> Result<()> {
    let number = |name: &str| std::env::var(name).ok()?.parse::<u64>().ok();
    let time = Duration::from_secs(number("STEAD_CROWD_SECONDS").unwrap_or(SECONDS));
    let clock = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH)?;
    let seed = number("STEAD_CROWD_SEED").unwrap_or(clock.as_micros() as u64);
    eprintln!("STEAD_CROWD_SEED={seed}");
    on_a_cluster(|cluster| {
        let access = Access::read(cluster.kubeconfig())?;
        cluster.machine.inside(|| {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()?;
            let all = async { tokio::time::timeout(time + 2 * PATIENCE, all(&access, time, seed)).await };
            runtime.block_on(all).context("they do not come to an end")?
        })
    })
}

async fn all(access: &Access, time: Duration, seed: u64) -> Result<()> {
    let mut api = access.connect().await?;
    let mut without: BTreeSet<String> = (0..NAMESPACES).map(|number| format!("crowd-{number}")).collect();
    for name in &without {
        let object = json!({"metadata": {"name": name}});
        api.ask(Method::POST, "/api/v1/namespaces", Some(&object)).await?;
    }
    // Pods need an account, which a controller makes in each.
    let accounts = "/api/v1/serviceaccounts?watch=true&fieldSelector=metadata.name%3Ddefault";
    let mut accounts = access.connect().await?.watch(accounts).await?;
    while !without.is_empty() {
        let (_, _, account) = accounts.next().await?;
        without.remove(account["metadata"]["namespace"].as_str().unwrap_or_default());
    }
    let until = Instant::now() + time;
    let random = |number: usize| Rng::with_seed(seed.wrapping_add(number as u64));
    let writers = (0..WRITERS).map(|number| async move {
        let mut writer = Writer {
            api: access.connect().await?,
            random: random(number),
            requests: 0,
        };
        let written = writer.write(until).await;
        written.with_context(|| format!("writer {number}"))?;
        anyhow::Ok(writer.requests)
    });
    let write = async {
        let requests = try_join_all(writers).await?;
        // The server has closed the other connection, on which nothing was asked.
        let mut api = access.connect().await?;
        for (collection, make) in collections() {
            api.ask(Method::POST, &collection, Some(&make(END))).await?;
        }
        anyhow::Ok(requests.into_iter().sum::<u32>())
    };
    let watchers = (0..WATCHERS).map(|number| async move {
        let watched = Watcher::new(access, random(WRITERS + number), number)
            .watch()
            .await;
        watched.with_context(|| format!("watcher {number}"))
    });
    let (requests, seen) = try_join(write, try_join_all(watchers)).await?;
    let seen: usize = seen.into_iter().sum();
    eprintln!("{requests} requests, {seen} changes seen");
    ensure!(requests > 0 && seen > 0, "nothing has happened");
    Ok(())
}

/// Makes an object of a name.
type Make = fn(&str) -> Value;

/// Where objects are, and how they are made.
fn collections() -> Vec<(String, Make)> {
    let kinds: [(&str, Make); 2] = [("configmaps", config_map), ("pods", pod)];
    let of = |namespace| {
        kinds.map(|(plural, make)| (format!("/api/v1/namespaces/crowd-{namespace}/{plural}"), make))
    };
    (0..NAMESPACES).flat_map(of).collect()
}

fn config_map(name: &str) -> Value {
    json!({"metadata": {"name": name}, "data": {"color": "blue"}})
}

/// A pod that nobody places.
fn pod(name: &str) -> Value {
    let container = json!({"name": "web", "image": "tool:1"});
    json!({"metadata": {"name": name}, "spec": {"schedulerName": "none", "containers": [container]}})
}

/// The version of an object or a list.
pub(crate) fn version(object: &Value) -> Result<u64> {
    let version = object["metadata"]["resourceVersion"].as_str();
    let version = version.and_then(|version| version.parse().ok());
    version.with_context(|| format!("no resourceVersion: {object}"))
}

/// The objects of a list, by namespace and name.
pub(crate) fn by_name(list: &Value) -> Result<BTreeMap<String, Value>> {
    let items = list["items"].as_array().context("no items")?;
    Ok(items.iter().map(|item| (name(item), item.clone())).collect())
}

/// An object's namespace and name.
pub(crate) fn name(object: &Value) -> String {
    let text = |field: &str| object["metadata"][field].as_str().unwrap_or_default();
    format!("{}/{}", text("namespace"), text("name"))
}

/// A client that does one thing after another.
struct Writer {
    api: Api,
    random: Rng,
    requests: u32,
}

impl Writer {
    async fn write(&mut self, until: Instant) -> Result<()> {
        let collections = collections();
        while Instant::now() < until {
            let (collection, make) = &collections[self.random.usize(..collections.len())];
            let name = format!("n{}", self.random.usize(..NAMES));
            let object = format!("{collection}/{name}");
            match self.random.u8(..10) {
                0..3 => drop(
                    self.ask(Method::POST, collection, Some(&make(&name)), &[201, 409])
                        .await?,
                ),
                3..7 => self.change(&object).await?,
                7 => self.list(collection).await?,
                _ => drop(self.ask(Method::DELETE, &object, None, &[200, 404, 409]).await?),
            }
        }
        Ok(())
    }

    /// Changes an object as it was read.
    async fn change(&mut self, path: &str) -> Result<()> {
        let Some(old) = self.ask(Method::GET, path, None, &[200, 404]).await? else {
            return Ok(());
        };
        let touched = self.random.u64(..).to_string();
        let metadata = json!({
            "resourceVersion": old["metadata"]["resourceVersion"], "annotations": {"touched": touched},
        });
        let patch = json!({"metadata": metadata});
        if let Some(new) = self
            .ask(Method::PATCH, path, Some(&patch), &[200, 404, 409])
            .await?
        {
            ensure!(version(&new)? > version(&old)?, "{new} follows {old}");
            ensure!(
                new["metadata"]["annotations"]["touched"] == *touched,
                "{new} has not {touched}"
            );
        }
        Ok(())
    }

    /// Lists a page at a time.
    async fn list(&mut self, collection: &str) -> Result<()> {
        let limit = self.random.usize(1..10);
        let mut path = format!("{collection}?limit={limit}");
        let mut before: Option<(u64, String)> = None;
        while let Some(page) = self.ask(Method::GET, &path, None, &[200, 410]).await? {
            let of_page = version(&page)?;
            let names = by_name(&page)?;
            ensure!(names.len() <= limit, "{} of {limit}", names.len());
            let (first, last) = (names.keys().next(), names.keys().next_back());
            if let (Some((of_list, end)), Some(first)) = (&before, first) {
                ensure!(*of_list == of_page, "a page of {of_page} in a list of {of_list}");
                ensure!(end < first, "{first} follows {end}");
            }
            let next = page["metadata"]["continue"].as_str().unwrap_or_default();
            if next.is_empty() {
                return Ok(());
            }
            path = format!("{collection}?limit={limit}&continue={next}");
            before = Some((
                of_page,
                last.context("an empty page that is not the last")?.clone(),
            ));
        }
        Ok(())
    }

    /// Asks; none for an answer with an error's code, which must be one of those that can be.
    async fn ask(
        &mut self,
        method: Method,
        path: &str,
        body: Option<&Value>,
        codes: &[u16],
    ) -> Result<Option<Value>> {
        let (code, answer) = self.api.answer(method.clone(), path, body).await?;
        self.requests += 1;
        ensure!(codes.contains(&code.as_u16()), "{method} {path}: {code} {answer}");
        Ok(code.is_success().then_some(answer))
    }
}
