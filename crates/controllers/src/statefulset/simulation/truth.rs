//! What is so, read from the objects themselves and independently of how the controller reads them.

use std::collections::BTreeMap;

use jiff::{SignedDuration, Timestamp};
use serde_json::Value;

use super::node::SERVED;
use super::store::{Object, controller_of, is_deleting, list, text};
use super::world::{Look, SET};
use crate::statefulset::ordinals::LeftOut;
use crate::statefulset::state::{Observed, Phase, Pod, Policy, Spec, Strategy};

const LEFT_OUT: &str = "/metadata/annotations/stead.dev~1left-out-ordinals";

/// What a set asks for.
pub(super) fn spec(set: &Value) -> Spec {
    let number =
        |pointer: &str, default: u64| set.pointer(pointer).and_then(Value::as_u64).unwrap_or(default);
    let replicas = number("/spec/replicas", 1);
    let max_unavailable = match &set["spec"]["updateStrategy"]["rollingUpdate"]["maxUnavailable"] {
        Value::String(percent) => {
            let percent: u64 = percent.trim_end_matches('%').parse().expect("a percentage");
            replicas * percent / 100
        }
        number => number.as_u64().unwrap_or(1),
    };
    Spec {
        replicas: replicas as u32,
        left_out: LeftOut::parse(text(set, LEFT_OUT)).expect("ordinals"),
        grows: true,
        start: number("/spec/ordinals/start", 0) as u32,
        policy: match text(set, "/spec/podManagementPolicy") {
            "Parallel" => Policy::Parallel,
            _ => Policy::OrderedReady,
        },
        strategy: match text(set, "/spec/updateStrategy/type") {
            "OnDelete" => Strategy::OnDelete,
            "Recreate" => Strategy::Recreate,
            _ => Strategy::RollingUpdate {
                partition: number("/spec/updateStrategy/rollingUpdate/partition", 0) as u32,
                max_unavailable: max_unavailable.max(1) as u32,
            },
        },
        heals: text(set, "/metadata/annotations/stead.dev~1broken-rollout") != "wait",
        deleting: is_deleting(set),
    }
}

/// Whether the retention policy deletes claims: with the set, and when it is scaled down.
pub(super) fn retention(set: &Value) -> (bool, bool) {
    let deletes = |when: &str| set["spec"]["persistentVolumeClaimRetentionPolicy"][when] == "Delete";
    (deletes("whenDeleted"), deletes("whenScaled"))
}

/// The image of a set's template, which tells it from others.
pub(super) fn image(set: &Value) -> &str {
    text(set, "/spec/template/spec/containers/0/image")
}

/// The image of the template that a look goes by: the former one, where the revision of the set's was refused.
pub(super) fn image_for<'s>(
    set: &'s Value,
    images: &'s BTreeMap<String, String>,
    look: Option<&Look>,
) -> &'s str {
    let is_refused = look.is_some_and(|look| look.is_refused);
    let former = images.get(text(set, "/status/updateRevision"));
    former
        .filter(|_| is_refused)
        .map_or_else(|| image(set), String::as_str)
}

/// The names of the claims of a replica.
pub(super) fn claims(set: &Value, ordinal: u32) -> Vec<String> {
    list(set, "/spec/volumeClaimTemplates")
        .iter()
        .map(|template| format!("{}-{SET}-{ordinal}", text(template, "/metadata/name")))
        .collect()
}

/// The ordinal in the name of one of the set's pods.
pub(super) fn ordinal(name: &str) -> Option<u32> {
    name.strip_prefix(SET)?.strip_prefix('-')?.parse().ok()
}

/// Whether a pod is the set's.
fn is_own(set: &Value, pod: &Value) -> bool {
    let is_selected = pod["metadata"]["labels"]["app"] == set["spec"]["selector"]["matchLabels"]["app"];
    is_selected && controller_of(pod) == Some(text(set, "/metadata/uid"))
}

/// The set's pods in a state, with what a look has changed of them.
pub(super) fn own<'s>(
    set: &'s Value,
    pods: &'s BTreeMap<String, Object>,
    look: Option<&'s Look>,
) -> impl Iterator<Item = &'s Value> {
    let pods = pods.values().map(move |pod| {
        let patched = look.and_then(|look| look.patched.get(text(pod, "/metadata/uid")));
        &**patched.unwrap_or(pod)
    });
    pods.filter(|pod| is_own(set, pod))
}

/// The set's pods in a state, at a moment. `current` names the revision that the set was last wholly at.
pub(super) fn observe(
    set: &Value,
    pods: &BTreeMap<String, Object>,
    images: &BTreeMap<String, String>,
    current: Option<&str>,
    look: Option<&Look>,
    now: Timestamp,
) -> Observed {
    let min_ready = set["spec"]["minReadySeconds"].as_i64().unwrap_or(0);
    let update = image_for(set, images, look);
    let pods = own(set, pods, look).filter_map(|pod| {
        let revision = revision_of(pod);
        let is_update = images.get(revision).is_some_and(|of| of == update);
        let conditions = list(pod, "/status/conditions");
        let ready = conditions
            .iter()
            .find(|condition| condition["type"] == "Ready" && condition["status"] == "True");
        let since = ready.map(|ready| text(ready, "/lastTransitionTime").parse().expect("a time"));
        let is_available = |since: Timestamp| since + SignedDuration::from_secs(min_ready) <= now;
        Some(Pod {
            ordinal: ordinal(text(pod, "/metadata/name"))?,
            uid: text(pod, "/metadata/uid").to_owned(),
            phase: match text(pod, "/status/phase") {
                "Running" => Phase::Running {
                    ready: since.is_some(),
                    available: since.is_some_and(is_available),
                },
                "Failed" | "Succeeded" => Phase::Ended,
                _ => Phase::Pending,
            },
            terminating: is_deleting(pod),
            is_update,
            is_current: current.map_or(is_update, |current| revision == current),
            never_ready: !conditions.iter().any(|condition| condition["type"] == SERVED),
            held_back: false,
            identity_matches: true,
        })
    });
    Observed {
        pods: pods.collect(),
        claims: BTreeMap::new(),
    }
}

/// The revision that a pod was made of.
pub(super) fn revision_of(pod: &Value) -> &str {
    text(pod, "/metadata/labels/controller-revision-hash")
}

/// Replicas, ready, available, updated and current ones, as the API documents them.
pub(super) fn counts(spec: &Spec, seen: &Observed) -> [u64; 5] {
    let count = |test: &dyn Fn(&Pod) -> bool| seen.pods.iter().filter(|pod| test(pod)).count() as u64;
    let is_ready = |pod: &Pod| matches!(pod.phase, Phase::Running { ready: true, .. });
    let is_available = |pod: &Pod| matches!(pod.phase, Phase::Running { available: true, .. });
    let (all, ready) = (count(&|_| true), count(&is_ready));
    let updated = count(&|pod| !pod.terminating && pod.is_update);
    let is_whole =
        spec.strategy != Strategy::OnDelete && [all, ready, updated] == [u64::from(spec.replicas); 3];
    let current = if is_whole {
        updated
    } else {
        count(&|pod| !pod.terminating && pod.is_current)
    };
    [all, ready, count(&is_available), updated, current]
}

/// The same of a status.
pub(super) fn counts_of(status: &Value) -> [u64; 5] {
    [
        "replicas",
        "readyReplicas",
        "availableReplicas",
        "updatedReplicas",
        "currentReplicas",
    ]
    .map(|field| status[field].as_u64().unwrap_or(0))
}
