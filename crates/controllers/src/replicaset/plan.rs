//! Which pods a ReplicaSet makes and deletes, and its status. Pure.

use std::cmp::Reverse;
use std::collections::HashMap;

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::apps::v1::{ReplicaSet, ReplicaSetCondition, ReplicaSetStatus};
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time};
use stead_informer::semantics::pods::{has_ended, ready_since};

use crate::owned::owner_reference;
use crate::statefulset::{FIRST, LONG_LIFE, LONGEST};

/// The most pods that are made or deleted in one look.
const BURST: usize = 500;
/// How much it costs to delete a pod, by which those to go are chosen.
const DELETION_COST: &str = "controller.kubernetes.io/pod-deletion-cost";

/// What is to be done.
#[derive(Debug, PartialEq)]
pub(super) enum Plan<'p> {
    /// So many pods are made.
    Create(usize),
    /// These are deleted.
    Delete(Vec<&'p Pod>),
    /// Some are missing, but those before failed too soon: none is made before this.
    Wait(Timestamp),
}

/// Whether a pod counts: it has not ended, and is not on its way out.
pub(crate) fn is_active(pod: &Pod) -> bool {
    pod.metadata.deletion_timestamp.is_none() && !has_ended(pod)
}

/// What a set with these pods does.
pub(super) fn plan<'p>(set: &ReplicaSet, pods: &[&'p Pod], now: Timestamp) -> Plan<'p> {
    if set.metadata.deletion_timestamp.is_some() {
        return Plan::Create(0);
    }
    let active: Vec<&Pod> = pods.iter().copied().filter(|pod| is_active(pod)).collect();
    let wanted = usize::try_from(set.spec.replicas.unwrap_or(1)).unwrap_or(0);
    match active.len().checked_sub(wanted) {
        None => match retry_at(pods, now).filter(|at| *at > now) {
            Some(at) => Plan::Wait(at),
            None => Plan::Create((wanted - active.len()).min(BURST)),
        },
        Some(surplus) => Plan::Delete(first_to_go(&active, surplus.min(BURST))),
    }
}

/// When the next pod may be made: at once after one that failed, but if more did, each waits twice as long as the one
/// before. A node that refuses pods would be given new ones without a pause otherwise.
fn retry_at(pods: &[&Pod], now: Timestamp) -> Option<Timestamp> {
    let failed = pods.iter().filter(|pod| {
        let phase = pod.status.as_ref().and_then(|status| status.phase.as_deref());
        phase == Some("Failed") && pod.metadata.deletion_timestamp.is_none()
    });
    let made: Vec<Timestamp> = failed
        .filter_map(|pod| pod.metadata.creation_timestamp.as_ref())
        .map(|time| time.0)
        .filter(|made| now.duration_since(*made) < LONG_LIFE)
        .collect();
    let doublings = u32::try_from(made.len().checked_sub(2)?).unwrap_or(u32::MAX);
    let wait = FIRST.saturating_mul(1 << doublings.min(16)).min(LONGEST);
    made.into_iter().max()?.checked_add(wait).ok()
}

/// The pods that are missed least: those that do nothing yet, then those that are cheap to lose, crowd a node, or
/// are young.
pub(crate) fn first_to_go<'p>(active: &[&'p Pod], count: usize) -> Vec<&'p Pod> {
    let mut on_node: HashMap<&str, usize> = HashMap::new();
    for pod in active {
        *on_node.entry(node(pod)).or_default() += 1;
    }
    let mut pods = active.to_vec();
    pods.sort_by_cached_key(|pod| {
        let phase = pod.status.as_ref().and_then(|status| status.phase.as_deref());
        let phase = match phase {
            Some("Running") => 2,
            Some("Unknown") => 1,
            _ => 0,
        };
        let since = ready_since(pod);
        let made = pod.metadata.creation_timestamp.as_ref().map(|time| time.0);
        (
            (!node(pod).is_empty(), phase, since.is_some(), cost(pod)),
            (
                Reverse(on_node[node(pod)]),
                Reverse(since),
                Reverse(restarts(pod)),
                Reverse(made),
            ),
            pod.metadata.name.clone(),
        )
    });
    pods.truncate(count);
    pods
}

fn node(pod: &Pod) -> &str {
    let spec = pod.spec.as_ref();
    spec.and_then(|spec| spec.node_name.as_deref())
        .unwrap_or_default()
}

fn cost(pod: &Pod) -> i32 {
    let annotations = pod.metadata.annotations.as_ref();
    let cost = annotations.and_then(|annotations| annotations.get(DELETION_COST));
    cost.and_then(|cost| cost.parse().ok()).unwrap_or(0)
}

fn restarts(pod: &Pod) -> i32 {
    let statuses = pod
        .status
        .iter()
        .flat_map(|status| status.container_statuses.iter());
    let restarts = statuses.flatten().map(|status| status.restart_count);
    restarts.max().unwrap_or(0)
}

/// When a pod is available: ready for as long as its set asks for.
fn available_at(pod: &Pod, min_ready: i32) -> Option<Timestamp> {
    ready_since(pod)?
        .checked_add(SignedDuration::from_secs(min_ready.into()))
        .ok()
}

/// The pod that a set makes; the API names it.
pub(super) fn new_pod(set: &ReplicaSet) -> Pod {
    let template = set.spec.template.clone().unwrap_or_default();
    let meta = template.metadata.unwrap_or_default();
    let name = set.metadata.name.as_deref().unwrap_or_default();
    Pod {
        metadata: ObjectMeta {
            generate_name: Some(format!("{name}-")),
            namespace: set.metadata.namespace.clone(),
            labels: meta.labels,
            annotations: meta.annotations,
            finalizers: meta.finalizers,
            owner_references: Some(vec![owner_reference(("apps/v1", "ReplicaSet"), &set.metadata)]),
            ..ObjectMeta::default()
        },
        spec: Some(template.spec.unwrap_or_default()),
        status: None,
    }
}

/// The status of a set with these pods, and when the next of them becomes available. `failure` is the reason
/// and message of what could not be done.
pub(super) fn status(
    set: &ReplicaSet,
    pods: &[&Pod],
    failure: Option<(&str, String)>,
    now: Timestamp,
) -> (ReplicaSetStatus, Option<Timestamp>) {
    let active: Vec<&Pod> = pods.iter().copied().filter(|pod| is_active(pod)).collect();
    let is_leaving = |pod: &&&Pod| pod.metadata.deletion_timestamp.is_some() && !has_ended(pod);
    let terminating = pods.iter().filter(is_leaving).count();
    let spec = set.spec.clone();
    let labels = spec
        .template
        .and_then(|template| template.metadata?.labels)
        .unwrap_or_default();
    let is_labelled = |pod: &Pod| {
        let of_pod = pod.metadata.labels.as_ref();
        labels
            .iter()
            .all(|(name, value)| of_pod.and_then(|labels| labels.get(name)) == Some(value))
    };
    let min_ready = spec.min_ready_seconds.unwrap_or(0);
    let count = |test: &dyn Fn(&Pod) -> bool| {
        let count = active.iter().filter(|pod| test(pod)).count();
        i32::try_from(count).unwrap_or(i32::MAX)
    };
    let times = || active.iter().filter_map(|pod| available_at(pod, min_ready));
    let mut conditions = set
        .status
        .clone()
        .and_then(|status| status.conditions)
        .unwrap_or_default();
    note_failure(&mut conditions, failure, now);
    let status = ReplicaSetStatus {
        replicas: count(&|_| true),
        fully_labeled_replicas: Some(count(&is_labelled)),
        ready_replicas: Some(count(&|pod| ready_since(pod).is_some())),
        available_replicas: Some(count(&|pod| {
            available_at(pod, min_ready).is_some_and(|at| at <= now)
        })),
        terminating_replicas: Some(i32::try_from(terminating).unwrap_or(i32::MAX)),
        observed_generation: set.metadata.generation,
        conditions: Some(conditions).filter(|conditions| !conditions.is_empty()),
    };
    (status, times().filter(|at| *at > now).min())
}

fn note_failure(conditions: &mut Vec<ReplicaSetCondition>, failure: Option<(&str, String)>, now: Timestamp) {
    let is_it = |condition: &ReplicaSetCondition| condition.type_.as_deref() == Some("ReplicaFailure");
    let before = conditions.iter().find(|condition| is_it(condition)).cloned();
    conditions.retain(|condition| !is_it(condition));
    let Some((reason, message)) = failure else { return };
    conditions.push(match before {
        Some(same) if same.status.as_deref() == Some("True") && same.reason.as_deref() == Some(reason) => {
            same
        }
        _ => ReplicaSetCondition {
            type_: Some("ReplicaFailure".to_owned()),
            status: Some("True".to_owned()),
            reason: Some(reason.to_owned()),
            message: Some(message),
            last_transition_time: Some(Time(now)),
        },
    });
}

/// Whether a status says something else than another; absent counts are zero.
pub(super) fn differs(before: &ReplicaSetStatus, after: &ReplicaSetStatus) -> bool {
    let counts = |status: &ReplicaSetStatus| {
        let or_zero = |count: Option<i32>| count.unwrap_or(0);
        [
            status.replicas,
            or_zero(status.fully_labeled_replicas),
            or_zero(status.ready_replicas),
            or_zero(status.available_replicas),
            or_zero(status.terminating_replicas),
        ]
    };
    counts(before) != counts(after)
        || before.observed_generation != after.observed_generation
        || before.conditions.clone().unwrap_or_default() != after.conditions.clone().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn set(replicas: i32) -> ReplicaSet {
        let set = json!({
            "metadata": {"name": "web", "uid": "u", "generation": 2},
            "spec": {
                "replicas": replicas, "selector": {"matchLabels": {"app": "web"}}, "minReadySeconds": 10,
                "template": {"metadata": {"labels": {"app": "web"}}, "spec": {"containers": []}},
            },
        });
        serde_json::from_value(set).expect("a set")
    }

    fn pod(name: &str, more: Value) -> Pod {
        let mut pod = json!({
            "metadata": {"name": name, "labels": {"app": "web"}, "creationTimestamp": "2024-01-01T00:00:00Z"},
            "spec": {"nodeName": "n", "containers": []},
            "status": {"phase": "Running", "conditions": [
                {"type": "Ready", "status": "True", "lastTransitionTime": "2024-01-01T00:01:00Z"},
            ]},
        });
        for (pointer, value) in more.as_object().expect("pointers") {
            let (parent, field) = pointer.rsplit_once('/').expect("a pointer");
            let parent = pod.pointer_mut(parent).expect("a parent");
            parent[field] = value.clone();
        }
        serde_json::from_value(pod).expect("a pod")
    }

    #[test]
    fn pods_that_are_missed_least_go_first() {
        let pods = [
            pod("old", json!({})),
            pod(
                "young",
                json!({"/metadata/creationTimestamp": "2024-01-01T00:00:30Z"}),
            ),
            pod(
                "restarted",
                json!({"/status/containerStatuses": [{"name": "c", "image": "", "imageID": "", "ready": true, "restartCount": 3}]}),
            ),
            pod(
                "lately-ready",
                json!({"/status/conditions": [{"type": "Ready", "status": "True", "lastTransitionTime": "2024-01-01T00:02:00Z"}]}),
            ),
            pod("crowded", json!({"/spec/nodeName": "m"})),
            pod(
                "crowded-too",
                json!({"/spec/nodeName": "m", "/metadata/annotations": {DELETION_COST: "-5"}}),
            ),
            pod("dear", json!({"/metadata/annotations": {DELETION_COST: "5"}})),
            pod("not-ready", json!({"/status/conditions": []})),
            pod("pending", json!({"/status/phase": "Pending"})),
            pod("nowhere", json!({"/spec/nodeName": null})),
        ];
        let active: Vec<&Pod> = pods.iter().collect();
        let Plan::Delete(gone) = plan(&set(0), &active, Timestamp::UNIX_EPOCH) else {
            panic!("there are too many")
        };
        let names: Vec<_> = gone
            .iter()
            .filter_map(|pod| pod.metadata.name.as_deref())
            .collect();
        let expected = [
            "nowhere",
            "pending",
            "not-ready",
            "crowded-too",
            "lately-ready",
            "restarted",
            "young",
            "old",
            "crowded",
            "dear",
        ];
        assert_eq!(names, expected);
    }

    #[test]
    fn replicas_that_are_missing_are_made() {
        let pods = [
            pod("a", json!({})),
            pod("ended", json!({"/status/phase": "Failed"})),
        ];
        let pods: Vec<&Pod> = pods.iter().collect();
        let plan = |replicas| super::plan(&set(replicas), &pods, Timestamp::UNIX_EPOCH);
        assert_eq!(plan(3), Plan::Create(2));
        assert_eq!(plan(1), Plan::Delete(vec![]));
        assert_eq!(plan(9999), Plan::Create(BURST));
    }

    #[test]
    fn pods_that_fail_again_and_again_are_replaced_later_each_time() {
        let at = |second: i64| Timestamp::from_second(1_704_067_200 + second).expect("a time");
        let failed = |second: i64| {
            let more =
                json!({"/status/phase": "Failed", "/metadata/creationTimestamp": at(second).to_string()});
            pod("failed", more)
        };
        let planned = |failures: &[i64], now: i64| {
            let pods: Vec<Pod> = failures.iter().map(|second| failed(*second)).collect();
            match plan(&set(1), &pods.iter().collect::<Vec<_>>(), at(now)) {
                Plan::Wait(until) => until.as_second() - at(0).as_second(),
                other => {
                    assert_eq!(other, Plan::Create(1));
                    now
                }
            }
        };
        assert_eq!(planned(&[0], 0), 0);
        assert_eq!(planned(&[0, 1], 1), 2);
        assert_eq!(planned(&[0, 1, 2], 2), 4);
        assert_eq!(planned(&[0, 1, 2, 4], 4), 8);
        assert_eq!(planned(&vec![4; 99], 4), 304);
        // What failed long ago has nothing to do with it.
        assert_eq!(planned(&[0, 1, 2, 4], 700), 700);
    }

    #[test]
    fn the_status_counts_pods_and_tells_when_the_next_is_available() {
        let pods = [
            pod("a", json!({})),
            pod("b", json!({"/metadata/labels": {"app": "web", "x": "y"}})),
        ];
        let active: Vec<&Pod> = pods.iter().collect();
        let at = |second: i64| Timestamp::from_second(1_704_067_260 + second).expect("a time");
        let (status, next) = status(&set(2), &active, None, at(4));
        assert_eq!(
            (status.replicas, status.ready_replicas, status.available_replicas),
            (2, Some(2), Some(0))
        );
        assert_eq!(status.fully_labeled_replicas, Some(2));
        assert_eq!(next, Some(at(10)));
        assert_eq!(status.terminating_replicas, Some(0));
        let (later, next) = super::status(&set(2), &active, Some(("FailedCreate", "quota".into())), at(10));
        assert_eq!((later.available_replicas, next), (Some(2), None));
        assert!(differs(&status, &later));
        let mut known = set(2);
        known.status = Some(later.clone());
        let (again, _) = super::status(&known, &active, Some(("FailedCreate", "quota".into())), at(20));
        assert!(!differs(&later, &again), "a failure is told once");
    }
}
