//! A client that follows what happens to objects, through watches that end and begin again.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use fastrand::Rng;
use http::Method;
use serde_json::Value;
use stead_tests::client::Access;

use crate::crowd::{END, NAMESPACES, by_name, name, version};

/// What ends the present state that a watch begins with.
const INITIAL_END: &str = "/metadata/annotations/k8s.io~1initial-events-end";

/// What is known of a collection.
pub(crate) struct Watcher<'a> {
    access: &'a Access,
    random: Rng,
    collection: String,
    /// How many objects there are of the name that ends it all.
    ends: usize,
    known: BTreeMap<String, Value>,
    /// As of this version; none before the first list, and when the past is gone.
    as_of: Option<u64>,
    /// Changes seen.
    seen: usize,
}

impl<'a> Watcher<'a> {
    /// One of one kind, in one namespace or all.
    pub(crate) fn new(access: &'a Access, random: Rng, number: usize) -> Self {
        let plural = ["configmaps", "pods"][number % 2];
        let namespace = number / 2 % (NAMESPACES + 1);
        let (collection, ends) = match namespace {
            NAMESPACES => (format!("/api/v1/{plural}"), NAMESPACES),
            _ => (format!("/api/v1/namespaces/crowd-{namespace}/{plural}"), 1),
        };
        Self {
            access,
            random,
            collection,
            ends,
            known: BTreeMap::new(),
            as_of: None,
            seen: 0,
        }
    }

    /// Watches until the objects are there that end it all; then a list must show the same. Returns how many
    /// changes were seen.
    pub(crate) async fn watch(mut self) -> Result<usize> {
        while !self.is_at_end() {
            if self.as_of.is_none() && self.random.bool() {
                self.list().await?;
            }
            self.follow().await?;
            // The next watch begins in the past.
            let pause = Duration::from_millis(self.random.u64(..1500));
            tokio::time::sleep(pause).await;
        }
        let list = self
            .access
            .connect()
            .await?
            .ask(Method::GET, &self.collection, None)
            .await?;
        let mut there = by_name(&list)?;
        for (name, known) in &self.known {
            // Items of a list do not say what they are.
            let found = there
                .remove(name)
                .with_context(|| format!("{name} is not there any more"))?;
            ensure!(
                found["metadata"] == known["metadata"],
                "{name} is {found}, but was seen as {known}"
            );
        }
        ensure!(there.is_empty(), "never seen: {there:?}");
        Ok(self.seen)
    }

    fn is_at_end(&self) -> bool {
        let is_end = |name: &&String| name.ends_with(&format!("/{END}"));
        self.as_of.is_some() && self.known.keys().filter(is_end).count() == self.ends
    }

    async fn list(&mut self) -> Result<()> {
        let list = self
            .access
            .connect()
            .await?
            .ask(Method::GET, &self.collection, None)
            .await?;
        self.known = by_name(&list)?;
        self.as_of = Some(version(&list)?);
        Ok(())
    }

    /// Watches until the server ends it. Without a version it begins with the present state.
    async fn follow(&mut self) -> Result<()> {
        let begin = match self.as_of {
            Some(version) => format!("resourceVersion={version}"),
            None => {
                self.known.clear();
                "resourceVersionMatch=NotOlderThan&sendInitialEvents=true".to_owned()
            }
        };
        let path = format!(
            "{}?watch=true&allowWatchBookmarks=true&timeoutSeconds={}&{begin}",
            self.collection,
            self.random.u32(1..5)
        );
        let mut watch = match self.access.connect().await?.watch(&path).await {
            Err(error) if format!("{error:#}").contains("410 Gone") => {
                self.as_of = None;
                return Ok(());
            }
            watch => watch?,
        };
        while let Some((_, kind, object)) = watch.change().await? {
            if kind == "ERROR" {
                ensure!(object["code"] == 410, "{object}");
                self.as_of = None;
                return Ok(());
            }
            self.learn(&kind, object)?;
            if self.is_at_end() {
                return Ok(());
            }
        }
        Ok(())
    }

    fn learn(&mut self, kind: &str, object: Value) -> Result<()> {
        let version = version(&object)?;
        let Some(as_of) = self.as_of else {
            match kind {
                "ADDED" => drop(self.known.insert(name(&object), object)),
                "BOOKMARK" if object.pointer(INITIAL_END).is_some() => self.as_of = Some(version),
                _ => bail!("{kind} before the present state was told: {object}"),
            }
            return Ok(());
        };
        let name = name(&object);
        let is_known = self.known.contains_key(&name);
        if kind == "BOOKMARK" {
            ensure!(version >= as_of, "a bookmark of {version} after {as_of}");
        } else {
            ensure!(version > as_of, "{kind} of {name} has {version} after {as_of}");
            ensure!(
                is_known == (kind != "ADDED"),
                "{kind} of {name}, known: {is_known}"
            );
            self.seen += 1;
        }
        self.as_of = Some(version);
        match kind {
            "ADDED" | "MODIFIED" => drop(self.known.insert(name, object)),
            "DELETED" => drop(self.known.remove(&name)),
            "BOOKMARK" => {}
            _ => bail!("{kind} of {object}"),
        }
        Ok(())
    }
}
