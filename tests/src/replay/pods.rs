//! What becomes of pods, told from their changes.

use std::collections::HashMap;

use serde::Deserialize;
use serde_json::Value;

use super::names::Names;

/// What became of a pod: what, its name, and its revision or `-`.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq)]
pub struct PodEvent(pub String, pub String, pub String);

/// How events of several pods are compared.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub enum Order {
    /// All in the same order.
    Exact,
    /// Those of each pod in the same order.
    PerPod,
}

/// Whether it makes a difference which pod something happens to. Where names are made up, `p1` is the first pod.
#[derive(Clone, Copy, Debug, Default, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub enum Naming {
    /// It does.
    #[default]
    Named,
    /// It does not.
    Interchangeable,
}

/// How far events have come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Progress {
    /// Some are yet to come.
    Partial,
    /// All are there.
    Complete,
}

/// The pods of a namespace.
#[derive(Debug, Default)]
pub struct Pods(HashMap<String, Seen>);

#[derive(Clone, Copy, Debug, Default)]
struct Seen {
    ready: bool,
    ended: bool,
    terminating: bool,
    tracked: bool,
}

impl Pods {
    /// How many pods are there and neither ended nor on their way out, and how many of them are ready.
    pub fn counts(&self) -> (usize, usize) {
        let active = || self.0.values().filter(|pod| !pod.terminating && !pod.ended);
        (active().count(), active().filter(|pod| pod.ready).count())
    }

    /// What a change of a pod means. What happens to a pod that is on its way out is not told, but its end.
    pub fn change(&mut self, kind: &str, pod: &Value, names: &mut Names) -> Vec<PodEvent> {
        let text = |pointer: &str| pod.pointer(pointer).and_then(Value::as_str);
        let name = text("/metadata/name").unwrap_or_default().to_owned();
        let label = |name: &str| text(&format!("/metadata/labels/{name}"));
        let revision = label("controller-revision-hash").or_else(|| label("pod-template-hash"));
        let revision = revision.map_or_else(|| "-".to_owned(), |revision| names.revision(revision));
        let before = self.0.get(&name).copied();
        let called = names.pod(&name, is_made_up(pod));
        let was = before.unwrap_or_default();
        let phase = text("/status/phase").unwrap_or_default();
        let now = Seen {
            ready: is_ready(pod),
            ended: matches!(phase, "Succeeded" | "Failed"),
            terminating: text("/metadata/deletionTimestamp").is_some(),
            tracked: is_tracked(pod) && kind != "DELETED",
        };
        // The recordings do not tell of a Job's pods when they are ready.
        let is_of_job = label("batch.kubernetes.io~1job-name").is_some();
        let mut what = Vec::new();
        if before.is_none() && kind != "DELETED" {
            what.push("created");
        }
        if !was.terminating && !now.terminating {
            if now.ended && !was.ended {
                what.push(if phase == "Failed" { "failed" } else { "succeeded" });
            } else if now.ready != was.ready && !now.ended && !is_of_job {
                what.push(if now.ready { "ready" } else { "unready" });
            }
        }
        if now.terminating && !was.terminating {
            what.push("terminating");
        }
        if was.tracked && !now.tracked {
            what.push("untracked");
        }
        if kind == "DELETED" {
            what.push("deleted");
            self.0.remove(&name);
        } else {
            self.0.insert(name.clone(), now);
        }
        what.into_iter()
            .map(|what| PodEvent(what.to_owned(), called.clone(), revision.clone()))
            .collect()
    }
}

fn is_ready(pod: &Value) -> bool {
    let conditions = pod.pointer("/status/conditions").and_then(Value::as_array);
    conditions.into_iter().flatten().any(|condition| {
        let is = |field: &str, value: &str| condition.get(field).and_then(Value::as_str) == Some(value);
        is("type", "Ready") && is("status", "True")
    })
}

/// Whether a pod is kept until its Job has counted it.
fn is_tracked(pod: &Value) -> bool {
    let finalizers = pod.pointer("/metadata/finalizers").and_then(Value::as_array);
    let mut names = finalizers.into_iter().flatten();
    names.any(|name| name == "batch.kubernetes.io/job-tracking")
}

/// Whether a pod's name is of no meaning: those of a StatefulSet's pods have one.
pub(super) fn is_made_up(pod: &Value) -> bool {
    let is_replica = pod.pointer("/metadata/labels/statefulset.kubernetes.io~1pod-name");
    pod.pointer("/metadata/generateName").is_some() && is_replica.is_none()
}

/// How far `seen` has come towards what is expected.
///
/// # Errors
/// What was seen instead.
pub fn progress(
    expected: &[PodEvent],
    seen: &[PodEvent],
    order: Order,
    naming: Naming,
) -> Result<Progress, String> {
    let is_so_far = match order {
        // What is on its way may be any pod's; in the end each has had one of the lives.
        Order::PerPod if naming == Naming::Interchangeable => {
            seen.len() < expected.len() || lives(seen) == lives(expected)
        }
        Order::Exact => expected.starts_with(seen),
        Order::PerPod => seen
            .iter()
            .all(|event| of(expected, &event.1).starts_with(&of(seen, &event.1))),
    };
    if !is_so_far {
        let lines = |events: &[PodEvent]| {
            let line = |PodEvent(what, pod, revision): &PodEvent| format!("  {what} {pod} {revision}");
            events.iter().map(line).collect::<Vec<_>>().join("\n")
        };
        return Err(format!("pods\n{}\nbut should\n{}", lines(seen), lines(expected)));
    }
    Ok(if seen.len() == expected.len() {
        Progress::Complete
    } else {
        Progress::Partial
    })
}

/// What became of each pod, whichever.
fn lives(events: &[PodEvent]) -> Vec<Vec<(&str, &str)>> {
    let mut lives: HashMap<&str, Vec<(&str, &str)>> = HashMap::new();
    for PodEvent(what, pod, revision) in events {
        lives.entry(pod).or_default().push((what, revision));
    }
    let mut lives: Vec<_> = lives.into_values().collect();
    lives.sort();
    lives
}

fn of(events: &[PodEvent], pod: &str) -> Vec<PodEvent> {
    events.iter().filter(|event| event.1 == pod).cloned().collect()
}
