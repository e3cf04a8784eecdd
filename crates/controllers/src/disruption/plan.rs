//! What a budget's status is to say: pure.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::Arc;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::api::policy::v1::{PodDisruptionBudget, PodDisruptionBudgetSpec, PodDisruptionBudgetStatus};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, LabelSelector, Time};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use stead_informer::EventType;
use stead_informer::semantics::Selector;
use stead_informer::semantics::pods::ready_since;

/// How long an evicted pod may take to be on its way out.
const PATIENCE: Duration = Duration::from_secs(120);
const CONDITION: &str = "DisruptionAllowed";

/// What says how many pods there are to be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Owner {
    /// The pod is on its own.
    Nobody,
    /// Something that keeps so many.
    Counts {
        /// Counted once for all its pods.
        uid: String,
        /// How many.
        replicas: i32,
    },
    /// Something that does not say.
    Unknown {
        /// Its kind.
        kind: String,
    },
}

/// Something to be told.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Event {
    pub(super) kind: EventType,
    pub(super) reason: &'static str,
    pub(super) message: String,
}

/// What comes of a look at a budget.
#[derive(Debug)]
pub(super) struct Plan {
    pub(super) status: PodDisruptionBudgetStatus,
    pub(super) events: Vec<Event>,
    /// When to look again.
    pub(super) again: Option<Duration>,
}

/// Whether a pod is one of a budget's.
pub(super) fn selects(budget: &PodDisruptionBudget, pod: &Pod) -> bool {
    let selector = budget.spec.as_ref().and_then(|spec| spec.selector.as_ref());
    selector.is_some_and(|selector| Selector::new(selector).matches(pod.metadata.labels.as_ref()))
}

/// Counts a budget's pods.
pub(super) fn plan(
    budget: &PodDisruptionBudget,
    pods: &[Arc<Pod>],
    owner: impl Fn(&Pod) -> Owner,
    now: Timestamp,
) -> Plan {
    let spec = budget.spec.clone().unwrap_or_default();
    let before = budget.status.clone().unwrap_or_default();
    let mut events = Vec::new();
    if pods.is_empty() {
        events.push(Event {
            kind: EventType::Normal,
            reason: "NoPods",
            message: "No matching pods found".to_owned(),
        });
    }
    let mut status = PodDisruptionBudgetStatus {
        observed_generation: budget.metadata.generation,
        ..before.clone()
    };
    let (disrupted, again) = still_disrupted(&before, pods, now);
    let expected = match expected(&spec, pods, owner) {
        Ok(expected) => expected,
        Err(why) => {
            events.push(Event {
                kind: EventType::Warning,
                reason: "CalculateExpectedPodCountFailed",
                message: format!("Failed to calculate the number of expected pods: {why}"),
            });
            // To be on the safe side, nothing is evicted.
            status.disruptions_allowed = Some(0);
            say(&mut status, "False", "SyncFailed", &why, now);
            return Plan {
                status,
                events,
                again: None,
            };
        }
    };
    if expected.has_unmanaged {
        events.push(Event {
            kind: EventType::Warning,
            reason: "UnmanagedPods",
            message: format!(
                "Pods selected by this PodDisruptionBudget (selector: {}) were found to be unmanaged. As a result, the status of the PDB cannot be calculated correctly, which may result in undefined behavior. To account for these pods please set \".spec.minAvailable\" field of the PDB to an integer value.",
                shown(spec.selector.as_ref())
            ),
        });
    }
    let healthy = pods
        .iter()
        .filter(|pod| pod.metadata.deletion_timestamp.is_none())
        .filter(|pod| !disrupted.contains_key(pod.metadata.name.as_deref().unwrap_or_default()))
        .filter(|pod| ready_since(pod).is_some())
        .count();
    let healthy = i32::try_from(healthy).unwrap_or(i32::MAX);
    let allowed = match expected.pods {
        ..=0 => 0,
        _ => healthy.saturating_sub(expected.desired).max(0),
    };
    status.current_healthy = Some(healthy);
    status.desired_healthy = Some(expected.desired);
    status.expected_pods = Some(expected.pods);
    status.disruptions_allowed = Some(allowed);
    status.disrupted_pods = (!disrupted.is_empty()).then_some(disrupted);
    if allowed > 0 {
        say(&mut status, "True", "SufficientPods", "", now);
    } else {
        say(&mut status, "False", "InsufficientPods", "", now);
    }
    Plan {
        status,
        events,
        again,
    }
}

struct Expected {
    pods: i32,
    /// How many must be healthy.
    desired: i32,
    has_unmanaged: bool,
}

fn expected(
    spec: &PodDisruptionBudgetSpec,
    pods: &[Arc<Pod>],
    owner: impl Fn(&Pod) -> Owner,
) -> Result<Expected, String> {
    let scale = || -> Result<(i32, bool), String> {
        let mut owners = BTreeMap::new();
        let mut has_unmanaged = false;
        for pod in pods {
            match owner(pod) {
                Owner::Nobody => has_unmanaged = true,
                Owner::Counts { uid, replicas } => {
                    owners.insert(uid, replicas);
                }
                Owner::Unknown { kind } => {
                    let name = pod.metadata.name.as_deref().unwrap_or_default();
                    return Err(format!(
                        "found no controllers for pod {name:?}: how many pods there are to be is not known of a {kind}"
                    ));
                }
            }
        }
        Ok((owners.values().sum(), has_unmanaged))
    };
    match (&spec.max_unavailable, &spec.min_available) {
        (Some(most), _) => {
            let (pods, has_unmanaged) = scale()?;
            Ok(Expected {
                pods,
                desired: (pods - scaled(most, pods)).max(0),
                has_unmanaged,
            })
        }
        (None, Some(IntOrString::Int(least))) => Ok(Expected {
            pods: i32::try_from(pods.len()).unwrap_or(i32::MAX),
            desired: *least,
            has_unmanaged: false,
        }),
        (None, Some(percent)) => {
            let (pods, has_unmanaged) = scale()?;
            Ok(Expected {
                pods,
                desired: scaled(percent, pods),
                has_unmanaged,
            })
        }
        (None, None) => Ok(Expected {
            pods: 0,
            desired: 0,
            has_unmanaged: false,
        }),
    }
}

/// A number, or a share of all, rounded up.
fn scaled(amount: &IntOrString, all: i32) -> i32 {
    match amount {
        IntOrString::Int(number) => *number,
        IntOrString::String(percent) => {
            let percent: i64 = percent.trim_end_matches('%').parse().unwrap_or(0);
            let share = (i64::from(all) * percent + 99) / 100;
            i32::try_from(share).unwrap_or(i32::MAX)
        }
    }
}

/// The pods that were evicted and are not on their way out yet, and when the first of them has had its time.
fn still_disrupted(
    before: &PodDisruptionBudgetStatus,
    pods: &[Arc<Pod>],
    now: Timestamp,
) -> (BTreeMap<String, Time>, Option<Duration>) {
    let patience = SignedDuration::try_from(PATIENCE).unwrap_or(SignedDuration::MAX);
    let mut again: Option<Duration> = None;
    let mut disrupted = BTreeMap::new();
    for (name, since) in before.disrupted_pods.iter().flatten() {
        let is_there = pods
            .iter()
            .any(|pod| pod.metadata.name.as_ref() == Some(name) && pod.metadata.deletion_timestamp.is_none());
        let left = patience - now.duration_since(since.0);
        if is_there && let Ok(left) = Duration::try_from(left) {
            disrupted.insert(name.clone(), since.clone());
            again = Some(again.map_or(left, |again| again.min(left)));
        }
    }
    (disrupted, again)
}

fn say(status: &mut PodDisruptionBudgetStatus, is: &str, reason: &str, message: &str, now: Timestamp) {
    let observed_generation = status.observed_generation;
    let conditions = status.conditions.get_or_insert_default();
    let before = conditions.iter().find(|condition| condition.type_ == CONDITION);
    let since = before
        .filter(|before| before.status == is)
        .map_or(Time(now), |before| before.last_transition_time.clone());
    let condition = Condition {
        type_: CONDITION.to_owned(),
        status: is.to_owned(),
        reason: reason.to_owned(),
        message: message.to_owned(),
        observed_generation,
        last_transition_time: since,
    };
    conditions.retain(|condition| condition.type_ != CONDITION);
    conditions.push(condition);
}

/// A selector as Go prints it.
fn shown(selector: Option<&LabelSelector>) -> String {
    let Some(selector) = selector else {
        return "nil".to_owned();
    };
    let mut text = "&LabelSelector{MatchLabels:map[string]string{".to_owned();
    for (key, value) in selector.match_labels.iter().flatten() {
        // Writing to a String cannot fail.
        let _ = write!(text, "{key}: {value},");
    }
    text.push_str("},MatchExpressions:[]LabelSelectorRequirement{");
    for expression in selector.match_expressions.iter().flatten() {
        let values = expression.values.as_deref().unwrap_or_default().join(" ");
        let _ = write!(
            text,
            "LabelSelectorRequirement{{Key:{},Operator:{},Values:[{values}],}},",
            expression.key, expression.operator
        );
    }
    text.push_str("},}");
    text
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    const NOW: &str = "2026-01-01T00:10:00Z";

    fn pods(ready: &[bool]) -> Vec<Arc<Pod>> {
        let pod = |(at, ready): (usize, &bool)| {
            let status = if *ready { "True" } else { "False" };
            let pod = json!({"metadata": {"name": format!("p{at}"), "labels": {"app": "x"}}, "status": {"conditions": [
                {"type": "Ready", "status": status, "lastTransitionTime": "2026-01-01T00:00:00Z"},
            ]}});
            Arc::new(serde_json::from_value(pod).expect("a pod"))
        };
        ready.iter().enumerate().map(pod).collect()
    }

    fn look(spec: Value, status: Value, pods: &[Arc<Pod>], owner: Owner) -> Plan {
        let budget = json!({"metadata": {"name": "b", "generation": 1}, "spec": spec, "status": status});
        let budget = serde_json::from_value(budget).expect("a budget");
        plan(&budget, pods, |_| owner.clone(), NOW.parse().expect("a time"))
    }

    fn three() -> Owner {
        Owner::Counts {
            uid: "u".to_owned(),
            replicas: 3,
        }
    }

    #[test]
    fn what_is_more_than_must_be_healthy_may_go() {
        for (spec, ready, expected) in [
            // expected, desired, healthy, allowed
            (json!({"minAvailable": 2}), &[true, true, false][..], [3, 2, 2, 0]),
            (json!({"minAvailable": 2}), &[true, true, true], [3, 2, 3, 1]),
            (json!({"minAvailable": "50%"}), &[true, true, true], [3, 2, 3, 1]),
            (json!({"maxUnavailable": 1}), &[true, true], [3, 2, 2, 0]),
            (
                json!({"maxUnavailable": "34%"}),
                &[true, true, true],
                [3, 1, 3, 2],
            ),
            (json!({"maxUnavailable": 5}), &[true], [3, 0, 1, 1]),
            (json!({"minAvailable": 1}), &[], [0, 1, 0, 0]),
        ] {
            let status = look(spec.clone(), json!({}), &pods(ready), three()).status;
            let found = [
                status.expected_pods,
                status.desired_healthy,
                status.current_healthy,
                status.disruptions_allowed,
            ];
            assert_eq!(found, expected.map(Some), "{spec} {ready:?}");
        }
    }

    #[test]
    fn evicted_pods_are_not_counted_until_they_had_their_time() {
        let spec = json!({"minAvailable": 1});
        for (since, healthy, kept) in [
            ("2026-01-01T00:09:00Z", 1, true),
            ("2026-01-01T00:05:00Z", 2, false),
        ] {
            let status = json!({"disruptedPods": {"p0": since, "gone": since}});
            let plan = look(spec.clone(), status, &pods(&[true, true]), three());
            assert_eq!(plan.status.current_healthy, Some(healthy), "{since}");
            assert_eq!(plan.status.disrupted_pods.is_some(), kept, "{since}");
            assert_eq!(plan.again, kept.then_some(Duration::from_secs(60)), "{since}");
        }
    }

    #[test]
    fn pods_that_nothing_counts_are_told_of() {
        let spec = json!({"maxUnavailable": 1, "selector": {"matchLabels": {"app": "x"}}});
        let plan = look(spec.clone(), json!({}), &pods(&[true]), Owner::Nobody);
        assert_eq!(plan.events[0].reason, "UnmanagedPods");
        assert!(plan.events[0].message.contains(
            "(selector: &LabelSelector{MatchLabels:map[string]string{app: x,},MatchExpressions:[]LabelSelectorRequirement{},})"
        ));
        assert_eq!(plan.status.disruptions_allowed, Some(0));
        let unknown = Owner::Unknown {
            kind: "Job".to_owned(),
        };
        let plan = look(spec, json!({}), &pods(&[true]), unknown);
        let conditions = plan.status.conditions.unwrap_or_default();
        assert_eq!(conditions[0].reason, "SyncFailed");
        assert_eq!(plan.events[0].reason, "CalculateExpectedPodCountFailed");
    }

    #[test]
    fn a_second_look_changes_nothing() {
        let spec = json!({"minAvailable": 1});
        let first = look(spec.clone(), json!({}), &pods(&[true, true]), three()).status;
        let status = serde_json::to_value(&first).expect("JSON");
        let second = look(spec, status, &pods(&[true, true]), three()).status;
        assert_eq!(first, second);
    }
}
