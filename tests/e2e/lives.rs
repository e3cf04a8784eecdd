//! What a real Kubernetes showed of pods' lives, lived again here: `tests/golden/pods`.
//!
//! All pods live at once, each in a namespace of its own, so that all of them take as long as the longest does.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail, ensure};
use serde_json::{Value, json};
use stead_tests::api::{Api, Changes};
use stead_tests::artifacts::root;
use stead_tests::lives::{Action, Differences, Life, Recording, Run, Told, compare_told, snapshot};
use stead_tests::{PATIENCE, on_a_cluster};

use crate::Tests;
use crate::replays::{image, make_namespace};

pub(crate) const TESTS: Tests = &[("lives: pods live as those of Kubernetes", pods)];

/// How long a pod is watched at the most once all has been shown that was recorded.
const LONGEST: Duration = Duration::from_secs(12);

/// The name of every pod that was recorded.
const POD: &str = "p";

fn pods() -> Result<()> {
    on_a_cluster(|cluster| {
        cluster.load(&image())?;
        let golden = root().join("tests/golden");
        let mut recordings = Recording::read_all(&golden.join("pods"))?;
        ensure!(recordings.len() == 27, "{} recordings", recordings.len());
        let differences = Differences::read(&golden.join("pods-differences.json"))?;
        differences.apply(&mut recordings)?;
        let api = Api::open(cluster)?;
        let nodes = api.get("/api/v1/nodes")?;
        let text = |pointer: &str| nodes.pointer(pointer).and_then(Value::as_str);
        let run = Run {
            node: text("/items/0/metadata/name").context("a node")?.to_owned(),
            node_ip: text("/items/0/status/addresses/0/address")
                .context("an address")?
                .to_owned(),
            ..Run::default()
        };
        let faults: Vec<String> = std::thread::scope(|scope| {
            let lives: Vec<_> = recordings
                .iter()
                .map(|recording| {
                    let live = || Living::begin(&api, recording, &differences, run.clone())?.live();
                    (recording, scope.spawn(live))
                })
                .collect();
            lives
                .into_iter()
                .filter_map(|(recording, life)| {
                    let outcome = life.join().unwrap_or_else(|_| Err(anyhow!("panicked")));
                    Some(format!("{}: {:#}", recording.scenario, outcome.err()?))
                })
                .collect()
        });
        ensure!(faults.is_empty(), "{}", faults.join("\n\n"));
        Ok(())
    })
}

/// A pod that lives as one was recorded.
struct Living<'a> {
    api: &'a Api,
    recording: &'a Recording,
    differences: &'a Differences,
    run: Run,
    life: Life,
    changes: Changes,
    events: Changes,
    begun: Instant,
    /// What was shown that should not have been.
    faults: Vec<String>,
}

impl<'a> Living<'a> {
    fn begin(
        api: &'a Api,
        recording: &'a Recording,
        differences: &'a Differences,
        mut run: Run,
    ) -> Result<Self> {
        run.namespace = format!("lives-{}", recording.scenario);
        make_namespace(api, &run.namespace)?;
        let path = format!("/api/v1/namespaces/{}", run.namespace);
        let changes = api.watch(&format!("{path}/pods"))?;
        let events = api.watch(&format!("{path}/events"))?;
        let pod = api.post(&format!("{path}/pods"), &recording.pod)?;
        run.uid = pod["metadata"]["uid"].as_str().context("a uid")?.to_owned();
        Ok(Self {
            api,
            recording,
            differences,
            run,
            life: Life::new(recording, differences.rules(&recording.scenario)),
            changes,
            events,
            begun: Instant::now(),
            faults: Vec::new(),
        })
    }

    fn live(mut self) -> Result<()> {
        for action in &self.recording.actions {
            let due = self.begun + Duration::from_secs(action.after_seconds);
            let undisturbed = self.recording.undisturbed();
            if self.follow(due, |life| life.come() >= undisturbed)? {
                self.act(action)?;
            }
        }
        let watched = Duration::from_secs(self.recording.watched_seconds).min(LONGEST);
        let until = if self.recording.goes_on {
            self.begun
        } else {
            self.begun + watched
        };
        self.follow(until, Life::is_complete)?;
        if let Err(error) = self.hear() {
            self.faults.push(error.to_string());
        }
        let (faults, story) = (self.faults.join("\n"), self.life.story());
        ensure!(faults.is_empty(), "{faults}\nthere {story}");
        Ok(())
    }

    /// Follows the pod until then, and for as long as it takes until it has come so far. Returns whether it is there
    /// still.
    fn follow(&mut self, until: Instant, is_there: impl Fn(&Life) -> bool) -> Result<bool> {
        let mut patience = until.max(Instant::now()) + PATIENCE;
        loop {
            let has_come = is_there(&self.life);
            if has_come && Instant::now() >= until {
                return Ok(true);
            }
            let limit = if has_come { until } else { patience };
            match self.changes.next(limit)? {
                Some((event, pod)) => {
                    let mut shown = snapshot(&event, &pod, &self.run);
                    self.differences.without_newer(&mut shown);
                    if let Err(fault) = self.life.see(&shown) {
                        self.faults.push(fault);
                        // What is wrong already need not be waited for long.
                        patience = patience.min(until.max(Instant::now()) + LONGEST);
                    }
                    if event == "DELETED" {
                        return Ok(false);
                    }
                }
                None if has_come => {}
                None => {
                    let (faults, story) = (self.faults.join("\n"), self.life.story());
                    bail!("{faults}\nthe last has not come; there {story}")
                }
            }
        }
    }

    fn act(&self, action: &Action) -> Result<()> {
        let path = format!("/api/v1/namespaces/{}/pods/{POD}", self.run.namespace);
        let answer = match action.action.as_str() {
            "delete" => self.api.ask("DELETE", &path, "", &Value::Null)?,
            "evict" => {
                let body = json!({
                    "apiVersion": "policy/v1",
                    "kind": "Eviction",
                    "metadata": {"name": POD, "namespace": self.run.namespace},
                });
                self.api
                    .ask("POST", &format!("{path}/eviction"), "application/json", &body)?
            }
            "unfinalize" => {
                let kind = "application/merge-patch+json";
                self.api
                    .ask("PATCH", &path, kind, &json!({"metadata": {"finalizers": null}}))?
            }
            other => bail!("an action {other:?}"),
        };
        ensure!(answer.code < 300, "{}: {}", action.action, answer.body);
        Ok(())
    }

    /// Waits until all has been told that was recorded, and checks that nothing else was.
    fn hear(&mut self) -> Result<()> {
        let may = self.differences.may_tell(&self.recording.scenario);
        let patience = Instant::now() + PATIENCE;
        let mut told = Vec::new();
        loop {
            // What has come already is read at once.
            while let Some((_, event)) = self.events.next(Instant::now())? {
                told.extend(Told::read(&event, &self.run));
            }
            let (missing, wrong) = compare_told(&self.recording.events, &told, &may);
            let faults = [missing.as_slice(), wrong.as_slice()].concat();
            if missing.is_empty() || Instant::now() > patience {
                ensure!(faults.is_empty(), "{}", faults.join("\n"));
                return Ok(());
            }
            if let Some((_, event)) = self.events.next(patience)? {
                told.extend(Told::read(&event, &self.run));
            }
        }
    }
}
