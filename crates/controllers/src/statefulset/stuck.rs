//! What a set waits for that will not come by itself.

use std::collections::HashSet;
use std::sync::Arc;

use jiff::Timestamp;
use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::api::core::v1::{PersistentVolumeClaim, Pod as PodObject};

use super::apply::ApplyError;
use super::explain::Question;
use super::identity::pod_name;
use super::observe::claim_names;
use super::state::{Action, Observed, Phase, Pod, Spec};
use super::trouble::{Finding, Trouble, trouble};

/// What a set waits for.
#[derive(Debug, Default)]
pub(super) struct Standing {
    /// What will not come by itself.
    pub(super) trouble: Option<Trouble>,
    /// What may come yet.
    pub(super) slow: Option<Trouble>,
    /// What an event may tell of it.
    pub(super) question: Option<Question>,
    /// When to look again, as time alone can make trouble.
    pub(super) look: Option<Timestamp>,
}

/// What holds a set up, the lowest replica's first. `objects` are the pods that were seen, in the same order;
/// `find_claim` looks up a claim of its namespace.
#[allow(clippy::too_many_arguments, reason = "all that a look knows")]
pub(super) fn stuck(
    set: &StatefulSet,
    spec: &Spec,
    seen: &Observed,
    objects: &[Arc<PodObject>],
    find_claim: impl Fn(&str) -> Option<Arc<PersistentVolumeClaim>>,
    planned: &[Action],
    applied: Result<(), &ApplyError>,
    now: Timestamp,
) -> Standing {
    let mut look: Option<Timestamp> = None;
    let mut found: Option<(u32, Finding)> = None;
    let mut note = |ordinal: u32, finding: Finding| {
        // What is trouble is said before what may be.
        let rank = |ordinal: u32, finding: &Finding| (finding.trouble.is_none(), ordinal);
        let is_first = found
            .as_ref()
            .is_none_or(|(first, known)| rank(ordinal, &finding) < rank(*first, known));
        if is_first && (finding.trouble.is_some() || finding.question.is_some()) {
            found = Some((ordinal, finding));
        }
    };
    let of_trouble = |trouble: Trouble| Finding {
        trouble: Some(trouble),
        ..Finding::default()
    };
    let goes: HashSet<&str> = planned.iter().filter_map(deleted).collect();
    let ordinals = spec.ordinals();
    for (pod, object) in seen.pods.iter().zip(objects) {
        let is_replica = ordinals.contains(pod.ordinal);
        let uid = pod.uid.as_str();
        if !pod.is_unavailable() || goes.contains(uid) || !(is_replica || pod.terminating) {
            continue;
        }
        if pod.phase == Phase::Ended && !pod.terminating {
            if pod.held_back {
                note(pod.ordinal, of_trouble(ended(set, pod, object)));
            }
            continue;
        }
        let is_placed = object.spec.as_ref().is_some_and(|spec| spec.node_name.is_some());
        let waiting = (!is_placed)
            .then(|| unbound_claim(set, pod.ordinal, &find_claim))
            .flatten();
        let finding = trouble(object, waiting.as_deref(), now);
        look = [look, finding.look].into_iter().flatten().min();
        note(pod.ordinal, finding);
    }
    for ordinal in spec.to_make(&seen.pods) {
        let claims = seen.claims.get(&ordinal).copied().unwrap_or_default();
        if claims.deleting || claims.doomed {
            let pod = pod_name(set.metadata.name.as_deref().unwrap_or_default(), ordinal);
            let message = format!(
                "pod {pod} is not made before its claim is gone, which is being deleted, and made anew: see kubectl get pvc"
            );
            note(ordinal, of_trouble(Trouble::new("ClaimDoesNotEnd", message)));
        }
    }
    let refused = applied.err().filter(|error| !error.passes_by_itself());
    let refused = refused.map(|error| Trouble::new("Refused", error.words()));
    let found = found.map(|(_, finding)| finding).unwrap_or_default();
    Standing {
        question: found.question.filter(|_| refused.is_none()),
        trouble: refused.or(found.trouble),
        slow: None,
        look,
    }
}

/// A claim of a replica that has no volume yet.
fn unbound_claim(
    set: &StatefulSet,
    ordinal: u32,
    find: impl Fn(&str) -> Option<Arc<PersistentVolumeClaim>>,
) -> Option<Arc<PersistentVolumeClaim>> {
    let is_unbound = |claim: &Arc<PersistentVolumeClaim>| {
        let phase = claim.status.as_ref().and_then(|status| status.phase.as_deref());
        phase != Some("Bound")
    };
    claim_names(set, ordinal)
        .into_iter()
        .filter_map(|name| find(&name))
        .find(is_unbound)
}

fn deleted(action: &Action) -> Option<&str> {
    match action {
        Action::DeletePod { uid, .. } => Some(uid),
        _ => None,
    }
}

/// A pod that ended early, as its predecessor did.
fn ended(set: &StatefulSet, pod: &Pod, object: &PodObject) -> Trouble {
    let name = pod_name(set.metadata.name.as_deref().unwrap_or_default(), pod.ordinal);
    let status = object.status.clone().unwrap_or_default();
    let words = [status.phase, status.reason, status.message];
    let how: Vec<String> = words.into_iter().flatten().collect();
    let message = format!(
        "pod {name} ended soon after it was made, as did the one before ({}); it is replaced ever more slowly",
        how.join(": ")
    );
    Trouble::new("PodEnds", message)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use serde_json::json;

    use super::*;
    use crate::statefulset::state::Claims;
    use crate::statefulset::state::builders::{delete, pod, set as spec, unready};

    fn of(pods: &[Pod], claims: Claims, planned: &[Action]) -> Option<&'static str> {
        let set = serde_json::from_value(json!({"metadata": {"name": "web"}})).expect("a set");
        let objects: Vec<_> = pods
            .iter()
            .map(|pod| {
                let unscheduled = json!([{"type": "PodScheduled", "status": "False"}]);
                let object = json!({
                    "metadata": {"name": format!("web-{}", pod.ordinal), "uid": pod.uid},
                    "status": {"conditions": unscheduled},
                });
                Arc::new(serde_json::from_value::<PodObject>(object).expect("a pod"))
            })
            .collect();
        let seen = Observed {
            pods: pods.to_vec(),
            claims: BTreeMap::from([(1, claims)]),
        };
        let now = Timestamp::UNIX_EPOCH;
        let standing = stuck(&set, &spec(2), &seen, &objects, |_| None, planned, Ok(()), now);
        assert_eq!(standing.look, None);
        standing.trouble.map(|trouble| trouble.reason)
    }

    #[test]
    fn only_what_a_set_waits_for_is_its_trouble() {
        let none = Claims::default();
        assert_eq!(of(&[pod(0), pod(1)], none, &[]), None);
        assert_eq!(of(&[pod(0), unready(1)], none, &[]), Some("Unschedulable"));
        // It is about to go, or is none of the replicas.
        assert_eq!(of(&[pod(0), unready(1)], none, &[delete(1)]), None);
        assert_eq!(of(&[pod(0), pod(1), unready(2)], none, &[]), None);
        let ended = Pod {
            phase: Phase::Ended,
            ..pod(1)
        };
        let held_back = Pod {
            held_back: true,
            ..ended.clone()
        };
        assert_eq!(of(&[pod(0), ended], none, &[]), None);
        assert_eq!(of(&[pod(0), held_back], none, &[]), Some("PodEnds"));
        let deleting = Claims {
            deleting: true,
            ..none
        };
        assert_eq!(of(&[pod(0)], deleting, &[]), Some("ClaimDoesNotEnd"));
        assert_eq!(of(&[unready(0)], deleting, &[]), Some("Unschedulable"));
        assert_eq!(of(&[pod(0)], none, &[]), None);
    }
}
