//! What the trace calls things.

use serde_json::Value;

use super::store::{Kind, is_deleting, list, text};
use super::truth;
use crate::statefulset::state::{Observed, Spec};

/// A state in a few words.
pub(super) fn summary(spec: &Spec, seen: &Observed) -> String {
    let pods: Vec<String> = seen
        .pods
        .iter()
        .map(|pod| {
            let revision = match (pod.is_update, pod.is_current) {
                (true, _) => "update",
                (false, true) => "current",
                (false, false) => "stray",
            };
            let goes = if pod.terminating { ", terminating" } else { "" };
            format!("{} ({}): {:?}, {revision}{goes}", pod.ordinal, pod.uid, pod.phase)
        })
        .collect();
    format!("[{}] for {spec:?}", pods.join("; "))
}

/// An object in a few words.
pub(super) fn shown(kind: Kind, object: &Value) -> String {
    let owners: Vec<String> = list(object, "/metadata/ownerReferences")
        .iter()
        .map(|owner| format!("{} {}", text(owner, "/kind"), text(owner, "/uid")))
        .collect();
    let owners = owners.join(", ");
    let uid = text(object, "/metadata/uid");
    let goes = if is_deleting(object) { ", deleting" } else { "" };
    match kind {
        Kind::Pods => format!(
            "{uid} of {}, owned by [{owners}]{goes}",
            truth::revision_of(object)
        ),
        Kind::Claims => format!("{uid} owned by [{owners}]{goes}"),
        Kind::Revisions => format!("number {}", object["revision"]),
        Kind::Sets => format!(
            "{:?} of generation {}, {}",
            truth::counts_of(&object["status"]),
            object["status"]["observedGeneration"],
            text(object, "/status/currentRevision")
        ),
    }
}
