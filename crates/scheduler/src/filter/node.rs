//! Filters on the node itself: whether it takes pods, its taints, and the nodes that a pod asks for
//! ("Assigning Pods to Nodes", "Taints and Tolerations").

use k8s_openapi::api::core::v1::{Node, PodSpec, Taint};
use stead_informer::semantics::node_selector;
use stead_informer::semantics::taints::{NO_EXECUTE, NO_SCHEDULE, tolerated_by};

use super::Rejection;
use crate::pod::PodInfo;

/// The taint that stands for `spec.unschedulable`; a pod may tolerate it.
const UNSCHEDULABLE: &str = "node.kubernetes.io/unschedulable";

pub(crate) fn check(pod: &PodInfo, node: &Node) -> Result<(), Rejection> {
    let Some(spec) = pod.spec() else { return Ok(()) };
    let is_closed = node.spec.as_ref().and_then(|spec| spec.unschedulable) == Some(true);
    if is_closed && !tolerates_closed(spec) {
        return Err(Rejection::Unschedulable);
    }
    if !tolerates_taints(spec, node) {
        return Err(Rejection::Taint);
    }
    if !is_asked_for(spec, node) {
        return Err(Rejection::NodeAffinity);
    }
    Ok(())
}

fn tolerates_closed(spec: &PodSpec) -> bool {
    let taint = Taint {
        key: UNSCHEDULABLE.to_owned(),
        effect: NO_SCHEDULE.to_owned(),
        ..Taint::default()
    };
    tolerated_by(spec.tolerations.iter().flatten(), &taint)
}

/// Whether a pod tolerates all taints of a node that keep pods away.
pub(crate) fn tolerates_taints(spec: &PodSpec, node: &Node) -> bool {
    let taints = node.spec.iter().flat_map(|spec| spec.taints.iter().flatten());
    taints
        .filter(|taint| taint.effect == NO_SCHEDULE || taint.effect == NO_EXECUTE)
        .all(|taint| tolerated_by(spec.tolerations.iter().flatten(), taint))
}

/// Whether a node is one that a pod asks for by its node selector and required node affinity.
pub(crate) fn is_asked_for(spec: &PodSpec, node: &Node) -> bool {
    let label = |key: &str| node.metadata.labels.as_ref().and_then(|labels| labels.get(key));
    let selected = spec
        .node_selector
        .iter()
        .flatten()
        .all(|(key, wanted)| label(key) == Some(wanted));
    let required = spec
        .affinity
        .as_ref()
        .and_then(|affinity| affinity.node_affinity.as_ref())
        .and_then(|affinity| {
            affinity
                .required_during_scheduling_ignored_during_execution
                .as_ref()
        });
    selected && required.is_none_or(|selector| node_selector::matches(selector, node))
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::cluster::tests::node;
    use crate::pod::tests::pod;

    fn verdict(pod_extra: Value, node_extra: Value) -> Result<(), Rejection> {
        check(&pod("p", json!({"spec": pod_extra})), &node("n", node_extra))
    }

    #[test]
    fn a_closed_node_takes_only_pods_that_tolerate_it() {
        let closed = json!({"spec": {"unschedulable": true}});
        assert_eq!(verdict(json!({}), closed.clone()), Err(Rejection::Unschedulable));
        let tolerant = json!({"tolerations": [{"key": UNSCHEDULABLE, "operator": "Exists"}]});
        assert_eq!(verdict(tolerant, closed), Ok(()));
    }

    #[test]
    fn hard_taints_keep_pods_away() {
        let taint = |effect: &str| json!({"spec": {"taints": [{"key": "node.kubernetes.io/not-ready", "effect": effect}]}});
        let tolerant = json!({"tolerations": [{"operator": "Exists"}]});
        for (pod, effect, expected) in [
            (json!({}), NO_SCHEDULE, Err(Rejection::Taint)),
            (json!({}), NO_EXECUTE, Err(Rejection::Taint)),
            (json!({}), "PreferNoSchedule", Ok(())),
            (tolerant, NO_SCHEDULE, Ok(())),
        ] {
            assert_eq!(verdict(pod.clone(), taint(effect)), expected, "{pod} {effect}");
        }
    }

    #[test]
    fn selector_and_affinity_must_both_mean_the_node() {
        let labels = json!({"metadata": {"labels": {"disk": "ssd"}}});
        let affinity = |value: &str| {
            json!({"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {
            "nodeSelectorTerms": [{"matchExpressions": [{"key": "disk", "operator": "In", "values": [value]}]}]}}})
        };
        for (pod, expected) in [
            (json!({"nodeSelector": {"disk": "ssd"}}), Ok(())),
            (
                json!({"nodeSelector": {"disk": "hdd"}}),
                Err(Rejection::NodeAffinity),
            ),
            (json!({"affinity": affinity("ssd")}), Ok(())),
            (json!({"affinity": affinity("hdd")}), Err(Rejection::NodeAffinity)),
            (
                json!({"nodeSelector": {"disk": "hdd"}, "affinity": affinity("ssd")}),
                Err(Rejection::NodeAffinity),
            ),
        ] {
            assert_eq!(verdict(pod.clone(), labels.clone()), expected, "{pod}");
        }
    }
}
