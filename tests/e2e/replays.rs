//! What the controllers of a real Kubernetes did, done again here: `tests/golden/controllers`.
//!
//! The recording had a stub for a node. Here pods run for real, as that comes to the same; only a node that a
//! case makes itself has nobody to run pods. All cases are played at once, each in a namespace of its own.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail, ensure};
use serde_json::{Value, json};
use stead_tests::api::{Api, Changes};
use stead_tests::artifacts::{Image, root};
use stead_tests::replay::{
    Call, Case, Differences, Expected, Names, NotYet, Pods, Progress, See, Step, compare, compare_events,
    progress, shown,
};
use stead_tests::{PATIENCE, eventually, on_a_cluster};

use crate::Tests;

pub(crate) const TESTS: Tests = &[("replays: controllers do as those of Kubernetes", controllers)];

/// The cases whose kinds are served.
const CASES: &[&str] = &[
    "statefulset-",
    "deployment-",
    "replicaset-",
    "job-",
    "hpa-",
    "pv-",
    "gc-",
    "endpoints-",
    "namespace-",
    "node-lease",
    "taint-no-execute",
];

/// Who records events that are not controllers'.
const OTHERS: &[&str] = &["kubelet", "default-scheduler"];

/// How long nothing may happen after the last step.
const QUIET: Duration = Duration::from_millis(500);

/// Another name of the image that the recordings use.
pub(crate) const SECOND_IMAGE: &str = "docker.io/library/busybox:1.35";

/// The image that the recordings use. It can serve a page.
pub(crate) fn image() -> Image {
    let page = root().join("README.md");
    Image::new("busybox:1.35")
        .arg("--file", "/bin/busybox:/bin/httpd:755")
        .arg("--file", &format!("{}:/www/index.html", page.display()))
}

fn controllers() -> Result<()> {
    on_a_cluster(|cluster| {
        cluster.load(&image())?;
        let golden = root().join("tests/golden");
        let mut cases = Case::read_all(&golden.join("controllers"), CASES)?;
        let differences = Differences::read(&golden.join("controllers-differences.json"))?;
        differences.apply(&mut cases)?;
        let api = Api::open(cluster)?;
        let nodes = api.get("/api/v1/nodes")?;
        let node = nodes.pointer("/items/0/metadata/name").and_then(Value::as_str);
        let volumes = tempfile::tempdir()?;
        let names = Names {
            node: node.context("a node")?.to_owned(),
            second_image: SECOND_IMAGE.to_owned(),
            dir: volumes.path().display().to_string(),
            ..Names::default()
        };
        let faults: Vec<String> = std::thread::scope(|scope| {
            let runs: Vec<_> = cases
                .iter()
                .map(|case| (case, scope.spawn(|| replay(&api, case, names.clone()))))
                .collect();
            runs.into_iter()
                .filter_map(|(case, run)| {
                    let outcome = run.join().unwrap_or_else(|_| fail("all", anyhow!("panicked")));
                    judge(&case.scenario, outcome, &differences.not_yet)
                })
                .collect()
        });
        ensure!(faults.is_empty(), "{}", faults.join("\n\n"));
        Ok(())
    })
}

/// The step at which a case failed, and how.
type Failure = (String, anyhow::Error);

fn fail<T>(step: &str, error: anyhow::Error) -> Result<T, Failure> {
    Err((step.to_owned(), error))
}

/// What is wrong with how a case went, if anything is.
fn judge(case: &str, outcome: Result<(), Failure>, not_yet: &[NotYet]) -> Option<String> {
    let listed = not_yet.iter().find(|entry| entry.case == case);
    match (outcome, listed) {
        (Ok(()), None) => None,
        (Ok(()), Some(entry)) => Some(format!(
            "{case} is right now, and no longer as listed: {}",
            entry.why
        )),
        (Err((step, _)), Some(entry)) if step == entry.step => None,
        (Err((step, error)), _) => Some(format!("{case}, {step:?}: {error:#}")),
    }
}

fn replay(api: &Api, case: &Case, names: Names) -> Result<(), Failure> {
    let mut run = Run::begin(api, case, names).or_else(|error| fail("objects", error))?;
    for step in &case.steps {
        run.step(step).or_else(|error| fail(&step.step, error))?;
    }
    run.check_quiet().or_else(|error| fail("quiet", error))?;
    run.check_events().or_else(|error| fail("events", error))
}

struct Run<'a> {
    api: &'a Api,
    case: &'a Case,
    names: Names,
    changes: Changes,
    pods: Pods,
}

impl<'a> Run<'a> {
    fn begin(api: &'a Api, case: &'a Case, mut names: Names) -> Result<Self> {
        names.namespace = format!("replay-{}", case.scenario);
        names.naming = case.pods;
        make_namespace(api, &names.namespace)?;
        let run = Self {
            api,
            case,
            changes: api.watch(&format!("/api/v1/namespaces/{}/pods", names.namespace))?,
            names,
            pods: Pods::default(),
        };
        let made = Expected {
            code: 201,
            reason: None,
            message: None,
        };
        for call in &case.objects {
            run.call(call, &made)?;
        }
        Ok(run)
    }

    fn step(&mut self, step: &Step) -> Result<()> {
        let begin = Instant::now();
        ensure!(
            step.calls.len() == step.answers.len(),
            "as many answers as requests"
        );
        for (call, answer) in step.calls.iter().zip(&step.answers) {
            self.call(call, answer)?;
        }
        self.follow_pods(step)?;
        self.settle(step)?;
        let took = begin.elapsed().as_secs_f64();
        ensure!(
            took >= step.not_before,
            "it took {took} seconds, and must take {}",
            step.not_before
        );
        Ok(())
    }

    fn call(&self, call: &Call, expected: &Expected) -> Result<()> {
        std::thread::sleep(Duration::from_secs_f64(call.delay));
        let path = self.names.fill(&call.path);
        let body = self.with_uids(self.names.fill(&call.body.to_string()))?;
        let kind = match (call.method.as_str(), call.patch.as_str()) {
            ("PATCH", patch @ ("json" | "merge")) => format!("application/{patch}-patch+json"),
            ("PATCH", "strategic") => "application/strategic-merge-patch+json".to_owned(),
            ("PATCH", other) => bail!("a patch of kind {other:?}"),
            _ => "application/json".to_owned(),
        };
        let body: Value = serde_json::from_str(&body)?;
        let answer = self.api.ask(&call.method, &path, &kind, &body)?;
        let text = |field: &str| {
            answer.body[field]
                .as_str()
                .map(|text| self.names.scrub_text(text))
        };
        let fits = answer.code == expected.code
            && (expected.reason.is_none() || text("reason") == expected.reason)
            && (expected.message.is_none() || text("message") == expected.message);
        ensure!(
            fits,
            "{} {path}: {} {}, expected {expected:?}",
            call.method,
            answer.code,
            answer.body
        );
        Ok(())
    }

    /// A text with the uids of objects in the place of `{uid:PATH}`.
    fn with_uids(&self, mut text: String) -> Result<String> {
        while let Some((before, rest)) = text.split_once("{uid:") {
            let (path, after) = rest.split_once('}').context("an end of {uid:")?;
            let object = self.api.get(path)?;
            let uid = object.pointer("/metadata/uid").and_then(Value::as_str);
            text = format!("{before}{}{after}", uid.context("a uid")?);
        }
        Ok(text)
    }

    /// Waits until what becomes of pods has become of them.
    fn follow_pods(&mut self, step: &Step) -> Result<()> {
        let until = Instant::now() + PATIENCE;
        let mut seen = Vec::new();
        while progress(&step.pod_events, &seen, self.case.order, self.case.pods)
            .map_err(|text| anyhow!(text))?
            != Progress::Complete
        {
            let Some((kind, pod)) = self.changes.next(until)? else {
                bail!(
                    "pods: {seen:?}, and within {PATIENCE:?} not {:?}",
                    step.pod_events
                );
            };
            seen.extend(self.pods.change(&kind, &pod, &mut self.names));
            if let Some(bounds) = step.bounds {
                let (active, ready) = self.pods.counts();
                ensure!(
                    active <= bounds.max_active && ready >= bounds.min_ready,
                    "{active} pods, {ready} of them ready, which is not within {bounds:?}: {seen:?}"
                );
            }
        }
        Ok(())
    }

    /// Waits until everything looks as it should.
    fn settle(&self, step: &Step) -> Result<()> {
        eventually("looks as recorded", || {
            let differences = self.differences(step)?;
            if !differences.is_empty() {
                // Many are waiting, and it is seldom that one has to.
                std::thread::sleep(Duration::from_millis(80));
                bail!("{}", differences.join("\n"));
            }
            Ok(())
        })
    }

    fn differences(&self, step: &Step) -> Result<Vec<String>> {
        let mut all = Vec::new();
        for see in &self.case.see {
            let path = see.path();
            let expected = step
                .state
                .get(path)
                .with_context(|| format!("no state of {path}"))?;
            let actual = self.look(see)?;
            let differences = compare(expected, &actual);
            all.extend(differences.into_iter().map(|line| format!("{path}: {line}")));
        }
        Ok(all)
    }

    /// What is at a path, as recordings show it.
    fn look(&self, see: &See) -> Result<Value> {
        let path = self.names.fill(see.path());
        let answer = self.api.ask("GET", &path, "", &Value::Null)?;
        if answer.code != 200 {
            return Ok(json!(answer.code));
        }
        let (mine, all, fields) = match see {
            See::Path(_) => (false, false, None),
            See::Part {
                mine, all, fields, ..
            } => (*mine, *all, fields.as_deref()),
        };
        let mut words = path.rsplit('/');
        let last = words.next().unwrap_or_default();
        let Some(items) = answer.body.get("items").and_then(Value::as_array) else {
            let kind = words.next().unwrap_or_default();
            return Ok(self
                .names
                .scrub(shown(kind, &answer.body, fields, self.case.pods)));
        };
        let is_shown = |item: &&Value| {
            let name = item
                .pointer("/metadata/name")
                .and_then(Value::as_str)
                .unwrap_or_default();
            (!mine || name.starts_with(&self.names.namespace)) && (all || name != "kube-root-ca.crt")
        };
        let shown = |item: &Value| self.names.scrub(shown(last, item, fields, self.case.pods));
        Ok(items.iter().filter(is_shown).map(shown).collect())
    }

    fn check_quiet(&mut self) -> Result<()> {
        let until = Instant::now() + QUIET;
        let mut seen = Vec::new();
        while let Some((kind, pod)) = self.changes.next(until)? {
            seen.extend(self.pods.change(&kind, &pod, &mut self.names));
        }
        ensure!(seen.is_empty(), "after the last step: {seen:?}");
        match self.case.steps.last() {
            Some(step) => self.settle(step),
            None => Ok(()),
        }
    }

    fn check_events(&self) -> Result<()> {
        eventually("events", || {
            let differences = compare_events(&self.case.events, &self.events()?, &self.case.may_miss);
            ensure!(differences.is_empty(), "{}", differences.join("\n"));
            Ok(())
        })
    }

    /// The events of controllers about this case's objects.
    fn events(&self) -> Result<Vec<[String; 5]>> {
        let namespace = &self.names.namespace;
        let list = self.api.get("/api/v1/events")?;
        let items = list["items"].as_array().context("a list of events")?;
        let mut events = Vec::new();
        for item in items {
            let text = |pointer: &str| {
                let text = item.pointer(pointer).and_then(Value::as_str).unwrap_or_default();
                self.names.scrub_text(text)
            };
            let is_mine = text("/metadata/namespace") == "{ns}"
                || item["involvedObject"]["name"].as_str().is_some_and(|name| {
                    name.strip_prefix(namespace.as_str())
                        .is_some_and(|rest| rest.starts_with('-'))
                });
            if is_mine && !OTHERS.contains(&text("/source/component").as_str()) {
                let fields = [
                    "/involvedObject/kind",
                    "/involvedObject/name",
                    "/type",
                    "/reason",
                    "/message",
                ];
                events.push(fields.map(text));
            }
        }
        Ok(events)
    }
}

/// Makes a namespace, and waits until pods can be made in it.
pub(crate) fn make_namespace(api: &Api, name: &str) -> Result<()> {
    api.post("/api/v1/namespaces", &json!({"metadata": {"name": name}}))?;
    eventually("a new namespace has an account", || {
        api.get(&format!("/api/v1/namespaces/{name}/serviceaccounts/default"))
            .map(drop)
    })
}
