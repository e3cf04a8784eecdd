//! How a pod is.

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Pod, PodCondition};

/// A condition of a pod.
pub fn condition<'p>(pod: &'p Pod, kind: &str) -> Option<&'p PodCondition> {
    let conditions = pod.status.as_ref()?.conditions.as_deref();
    conditions?.iter().find(|condition| condition.type_ == kind)
}

/// Since when a pod is ready, if it is.
pub fn ready_since(pod: &Pod) -> Option<Timestamp> {
    let ready = condition(pod, "Ready").filter(|condition| condition.status == "True")?;
    let since = ready.last_transition_time.as_ref();
    Some(since.map(|time| time.0).unwrap_or_default())
}

/// Whether a pod has ended, and takes nothing of its node any more.
pub fn has_ended(pod: &Pod) -> bool {
    let phase = pod.status.as_ref().and_then(|status| status.phase.as_deref());
    matches!(phase, Some("Succeeded" | "Failed"))
}
