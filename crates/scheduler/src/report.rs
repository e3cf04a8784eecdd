//! Says of a pod that it has no node yet, and why: an event, and its condition `PodScheduled`.

use k8s_openapi::api::core::v1::{Pod, PodCondition};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::api::{Patch, PatchParams};
use kube::{Api, Client};
use serde_json::{Value, json};
use stead_informer::{EventType, Informers, Recorder, reference};

use crate::pod::{PodInfo, node_of};

const CONDITION: &str = "PodScheduled";

/// Why a pod has no node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Why {
    /// It fits nowhere.
    Unschedulable,
    /// Something failed that should not.
    SchedulerError,
}

impl Why {
    fn reason(self) -> &'static str {
        match self {
            Why::Unschedulable => "Unschedulable",
            Why::SchedulerError => "SchedulerError",
        }
    }
}

/// Reports a failure. It is not made worse by a report that fails, too.
pub(crate) async fn failure(
    client: &Client,
    informers: &Informers,
    recorder: &Recorder,
    pod: &PodInfo,
    why: Why,
    message: &str,
) {
    recorder.record(
        reference(&*pod.pod),
        EventType::Warning,
        "FailedScheduling",
        message,
    );
    let current = informers.pods.get(&pod.key);
    let current = current.filter(|current| current.metadata.uid.as_deref() == Some(pod.uid.as_str()));
    let Some(current) = current else { return };
    let now = Time(
        jiff::Timestamp::now()
            .round(jiff::Unit::Second)
            .unwrap_or_default(),
    );
    let Some(patch) = patch(&current, why, message, &now) else {
        return;
    };
    let api: Api<Pod> = Api::namespaced(client.clone(), &pod.key.namespace);
    let patched = api
        .patch_status(&pod.key.name, &PatchParams::default(), &Patch::Strategic(patch))
        .await;
    if let Err(error) = patched {
        tracing::debug!(pod = %pod.key, %error, "why the pod has no node was not written");
    }
}

/// The change of a pod's status; none where it says so already, or the pod has a node meanwhile.
fn patch(pod: &Pod, why: Why, message: &str, now: &Time) -> Option<Value> {
    if node_of(pod).is_some() {
        return None;
    }
    let conditions = pod
        .status
        .iter()
        .flat_map(|status| status.conditions.iter().flatten());
    let current: Option<&PodCondition> = conditions
        .into_iter()
        .find(|condition| condition.type_ == CONDITION);
    let says_so = current.is_some_and(|current| {
        current.status == "False"
            && current.reason.as_deref() == Some(why.reason())
            && current.message.as_deref() == Some(message)
    });
    if says_so {
        return None;
    }
    let mut condition = json!({
        "type": CONDITION,
        "status": "False",
        "reason": why.reason(),
        "message": message,
        "observedGeneration": pod.metadata.generation,
    });
    if current.is_none_or(|current| current.status != "False") {
        condition["lastTransitionTime"] = json!(now);
    }
    Some(json!({"metadata": {"uid": pod.metadata.uid}, "status": {"conditions": [condition]}}))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pod::tests::pod;

    #[test]
    fn a_condition_is_written_when_it_says_something_new() {
        let now: Time = serde_json::from_value(json!("2026-01-01T00:00:00Z")).expect("a time");
        let with = |condition: Value| json!({"status": {"conditions": [condition]}});
        let says = |status: &str, reason: &str| json!({"type": CONDITION, "status": status, "reason": reason, "message": "m"});
        for (extra, writes, turns) in [
            (json!({}), true, true),
            (with(says("True", "")), true, true),
            (with(says("False", "SchedulingGated")), true, false),
            (with(says("False", "Unschedulable")), false, false),
            (json!({"spec": {"nodeName": "n"}}), false, false),
        ] {
            let patch = patch(&pod("p", extra.clone()).pod, Why::Unschedulable, "m", &now);
            assert_eq!(patch.is_some(), writes, "{extra}");
            if let Some(patch) = patch {
                let condition = &patch["status"]["conditions"][0];
                assert_eq!(condition.get("lastTransitionTime").is_some(), turns, "{extra}");
                assert_eq!(patch["metadata"]["uid"], "uid-p");
            }
        }
    }
}
