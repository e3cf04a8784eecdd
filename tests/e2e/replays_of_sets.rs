//! What a real Kubernetes did with StatefulSets on a real node, done again here: `tests/golden/statefulset`.

use std::time::Instant;

use anyhow::{Context, Result, anyhow, bail, ensure};
use serde::Deserialize;
use serde_json::{Value, json};
use stead_tests::api::{Api, Changes};
use stead_tests::artifacts::root;
use stead_tests::replay::{Names, Naming, Order, PodEvent, Pods, Progress, compare, progress};
use stead_tests::{PATIENCE, on_a_cluster};

use crate::Tests;
use crate::replays::{SECOND_IMAGE, image, make_namespace};

pub(crate) const TESTS: Tests = &[("replays: StatefulSets go as those of Kubernetes", sets)];

/// This recording was cut short: what comes after its end is not wrong.
const CUT_SHORT: &str = "parallel-rolling-update";
/// In this one, the template is changed back while a pod ends. The pod takes longer than recorded, so that
/// the change comes in time on a busy machine, too.
const CHANGED_MIDWAY: &str = "rolling-update";

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Scenario {
    scenario: String,
    template: Value,
    steps: Vec<Step>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Step {
    step: String,
    pod_events: Vec<PodEvent>,
    status: Value,
}

fn sets() -> Result<()> {
    on_a_cluster(|cluster| {
        cluster.load(&image())?;
        let api = Api::open(cluster)?;
        let mut scenarios = Vec::new();
        for entry in std::fs::read_dir(root().join("tests/golden/statefulset"))? {
            let text = std::fs::read_to_string(entry?.path())?;
            scenarios.push(serde_json::from_str::<Scenario>(&text)?);
        }
        ensure!(scenarios.len() == 6, "{} scenarios", scenarios.len());
        let faults: Vec<String> = std::thread::scope(|scope| {
            let runs: Vec<_> = scenarios
                .iter()
                .map(|scenario| (scenario, scope.spawn(|| replay(&api, scenario))))
                .collect();
            runs.into_iter()
                .filter_map(|(scenario, run)| {
                    let outcome = run.join().unwrap_or_else(|_| Err(anyhow!("panicked")));
                    Some(format!("{}: {:#}", scenario.scenario, outcome.err()?))
                })
                .collect()
        });
        ensure!(faults.is_empty(), "{}", faults.join("\n\n"));
        Ok(())
    })
}

fn replay(api: &Api, scenario: &Scenario) -> Result<()> {
    let namespace = format!("replay-{}", scenario.scenario);
    make_namespace(api, &namespace)?;
    let sets = format!("/apis/apps/v1/namespaces/{namespace}/statefulsets");
    let mut run = Run {
        pods: Pods::default(),
        names: Names::default(),
        pod_changes: api.watch(&format!("/api/v1/namespaces/{namespace}/pods"))?,
        set_changes: api.watch(&sets)?,
        order: Order::Exact,
    };
    for step in &scenario.steps {
        match Action::parse(&step.step)? {
            Action::Create(more) => {
                let mut set = scenario.template.clone();
                merge(&mut set["spec"], more);
                if scenario.scenario == CHANGED_MIDWAY {
                    set["spec"]["template"]["spec"]["terminationGracePeriodSeconds"] = json!(3);
                }
                if set["spec"]["podManagementPolicy"] == "Parallel" {
                    run.order = Order::PerPod;
                }
                api.post(&sets, &set)?;
            }
            Action::Change(spec) => {
                let path = format!("{sets}/web");
                let kind = "application/strategic-merge-patch+json";
                let answer = api.ask("PATCH", &path, kind, &json!({"spec": spec}))?;
                ensure!(answer.code == 200, "{}", answer.body);
            }
            Action::DeletePod(pod) => {
                let path = format!("/api/v1/namespaces/{namespace}/pods/web-{pod}");
                let answer = api.ask("DELETE", &path, "", &Value::Null)?;
                ensure!(answer.code == 200, "{}", answer.body);
            }
        }
        run.follow(step).with_context(|| step.step.clone())?;
    }
    if scenario.scenario == CUT_SHORT {
        return Ok(());
    }
    run.check_quiet()
}

struct Run {
    pods: Pods,
    names: Names,
    pod_changes: Changes,
    set_changes: Changes,
    order: Order,
}

impl Run {
    /// Waits until pods and status have become what they should.
    fn follow(&mut self, step: &Step) -> Result<()> {
        let until = Instant::now() + PATIENCE;
        let mut seen = Vec::new();
        while progress(&step.pod_events, &seen, self.order, Naming::Named).map_err(|text| anyhow!(text))?
            != Progress::Complete
        {
            let Some((kind, pod)) = self.pod_changes.next(until)? else {
                bail!(
                    "pods: {seen:?}, and within {PATIENCE:?} not {:?}",
                    step.pod_events
                );
            };
            seen.extend(self.pods.change(&kind, &pod, &mut self.names));
        }
        let mut last = Vec::new();
        while let Some((_, set)) = self.set_changes.next(until)? {
            last = compare(&step.status, &status(&set, &step.status));
            if last.is_empty() {
                return Ok(());
            }
        }
        bail!("the status at last: {}", last.join("\n"))
    }

    fn check_quiet(&mut self) -> Result<()> {
        let until = Instant::now() + std::time::Duration::from_millis(500);
        let mut seen = Vec::new();
        while let Some((kind, pod)) = self.pod_changes.next(until)? {
            seen.extend(self.pods.change(&kind, &pod, &mut self.names));
        }
        ensure!(seen.is_empty(), "after the last step: {seen:?}");
        Ok(())
    }
}

/// The status of a set, with the fields of the expected one; zero is as good as absent.
fn status(set: &Value, expected: &Value) -> Value {
    let status = &set["status"];
    let fields = expected.as_object().into_iter().flatten();
    fields
        .map(|(field, _)| {
            let value = match field.as_str() {
                "currentIsUpdate" => json!(status["currentRevision"] == status["updateRevision"]),
                field if status[field] == 0 => Value::Null,
                field => status[field].clone(),
            };
            (field.clone(), value)
        })
        .collect()
}

/// What a step does, from its name.
#[derive(Debug)]
enum Action {
    /// Makes the set, with this in its spec.
    Create(Value),
    /// Changes the set's spec.
    Change(Value),
    /// Deletes a pod.
    DeletePod(u32),
}

impl Action {
    fn parse(step: &str) -> Result<Self> {
        let image = |image: &str| {
            Self::Change(json!({"template": {"spec": {"containers": [{"name": "web", "image": image}]}}}))
        };
        if let Some(words) = step.strip_prefix("create ") {
            let mut spec = json!({});
            for word in words.split(' ') {
                merge(&mut spec, setting(word)?);
            }
            return Ok(Self::Create(spec));
        }
        if let Some(replicas) = step.strip_prefix("scale to ") {
            return Ok(Self::Change(json!({"replicas": replicas.parse::<u32>()?})));
        }
        if let Some(pod) = step.strip_prefix("delete pod ") {
            return Ok(Self::DeletePod(pod.parse()?));
        }
        match step {
            "change image" => Ok(image(SECOND_IMAGE)),
            "change image back" => Ok(image("busybox:1.35")),
            other => Ok(Self::Change(setting(other)?)),
        }
    }
}

/// A word of a step's name, as a part of a set's spec.
fn setting(word: &str) -> Result<Value> {
    Ok(match word.split_once('=') {
        Some(("replicas", number)) => json!({"replicas": number.parse::<u32>()?}),
        Some(("ordinals.start", number)) => json!({"ordinals": {"start": number.parse::<u32>()?}}),
        None if matches!(word, "OrderedReady" | "Parallel") => json!({"podManagementPolicy": word}),
        None if word == "OnDelete" => json!({"updateStrategy": {"type": word}}),
        _ => bail!("no such step: {word:?}"),
    })
}

/// Puts the fields of one object into another.
fn merge(object: &mut Value, more: Value) {
    if let (Value::Object(fields), Value::Object(more)) = (object, more) {
        fields.extend(more);
    }
}
