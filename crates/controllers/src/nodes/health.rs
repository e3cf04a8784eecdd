//! What a node's conditions and taints should be: pure functions ("Node conditions", "Taint based
//! evictions").

use std::collections::BTreeMap;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Node, NodeCondition, Taint};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use stead_informer::semantics::taints::{NO_EXECUTE, NO_SCHEDULE};

const NOT_READY: &str = "node.kubernetes.io/not-ready";
const UNREACHABLE: &str = "node.kubernetes.io/unreachable";
const UNSCHEDULABLE: &str = "node.kubernetes.io/unschedulable";
const ZONE_LABEL: &str = "topology.kubernetes.io/zone";
const REGION_LABEL: &str = "topology.kubernetes.io/region";
const EXCLUDED_LABEL: &str = "node.kubernetes.io/exclude-disruption";

/// Conditions that a kubelet keeps up to date.
const KUBELETS: [&str; 4] = ["Ready", "MemoryPressure", "DiskPressure", "PIDPressure"];
/// Which condition with which status is which taint.
const CONDITION_TAINTS: [(&str, &str, &str); 6] = [
    ("Ready", "False", NOT_READY),
    ("Ready", "Unknown", UNREACHABLE),
    ("MemoryPressure", "True", "node.kubernetes.io/memory-pressure"),
    ("DiskPressure", "True", "node.kubernetes.io/disk-pressure"),
    (
        "NetworkUnavailable",
        "True",
        "node.kubernetes.io/network-unavailable",
    ),
    ("PIDPressure", "True", "node.kubernetes.io/pid-pressure"),
];

/// A node out of this many others that are unhealthy too is not alone to blame.
const UNHEALTHY_SHARE: f64 = 0.55;
/// In a zone of so few nodes evictions stop while most of them are unhealthy.
const LARGE_ZONE: usize = 50;
const PACE: Duration = Duration::from_secs(10);
const SLOW_PACE: Duration = Duration::from_secs(100);

/// What a node says of itself, or what is said of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Ready {
    True,
    False,
    Unknown,
    /// Nothing has been said yet.
    Unsaid,
}

fn conditions(node: &Node) -> &[NodeCondition] {
    node.status
        .as_ref()
        .and_then(|status| status.conditions.as_deref())
        .unwrap_or_default()
}

pub(super) fn condition<'n>(node: &'n Node, condition_type: &str) -> Option<&'n NodeCondition> {
    conditions(node)
        .iter()
        .find(|condition| condition.type_ == condition_type)
}

pub(super) fn ready(node: &Node) -> Ready {
    match condition(node, "Ready").map(|condition| condition.status.as_str()) {
        Some("True") => Ready::True,
        Some("False") => Ready::False,
        Some(_) => Ready::Unknown,
        None => Ready::Unsaid,
    }
}

/// The conditions of a node that is not heard of any more; none where they say so already.
pub(super) fn silent(node: &Node, now: Timestamp) -> Option<Vec<NodeCondition>> {
    let mut wanted = conditions(node).to_vec();
    for condition_type in KUBELETS {
        match wanted
            .iter_mut()
            .find(|condition| condition.type_ == condition_type)
        {
            None => wanted.push(NodeCondition {
                type_: condition_type.to_owned(),
                status: "Unknown".to_owned(),
                reason: Some("NodeStatusNeverUpdated".to_owned()),
                message: Some("Kubelet never posted node status.".to_owned()),
                last_heartbeat_time: node.metadata.creation_timestamp.clone(),
                last_transition_time: Some(Time(now)),
            }),
            Some(condition) if condition.status != "Unknown" => {
                condition.status = "Unknown".to_owned();
                condition.reason = Some("NodeStatusUnknown".to_owned());
                condition.message = Some("Kubelet stopped posting node status.".to_owned());
                condition.last_transition_time = Some(Time(now));
            }
            Some(_) => {}
        }
    }
    (wanted != conditions(node)).then_some(wanted)
}

/// What is to be done about a node's taints.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Taints {
    /// What they should be; none where they are.
    pub(super) change: Option<Vec<Taint>>,
    /// Pods are to be driven off the node, which needs permission.
    pub(super) waits: bool,
}

/// Whether pods may be driven off a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Eviction {
    /// They may be, now.
    Allowed,
    /// Not now.
    NotNow,
    /// No node is healthy: the fault is rather this side's, and no node has such a taint.
    Nowhere,
}

/// Decides on the taints that this controller is responsible for; others are left alone.
pub(super) fn taints(node: &Node, eviction: Eviction, now: Timestamp) -> Taints {
    let current = node
        .spec
        .as_ref()
        .and_then(|spec| spec.taints.as_deref())
        .unwrap_or_default();
    let has = |key: &str, effect: &str| {
        current
            .iter()
            .any(|taint| taint.key == key && taint.effect == effect)
    };
    let mut wanted: Vec<(&str, &str)> = no_schedule(node)
        .into_iter()
        .map(|key| (key, NO_SCHEDULE))
        .collect();
    let mut waits = false;
    let drives_off = match ready(node) {
        Ready::False => Some((NOT_READY, UNREACHABLE)),
        Ready::Unknown => Some((UNREACHABLE, NOT_READY)),
        Ready::True | Ready::Unsaid => None,
    };
    if let Some((key, opposite)) = drives_off.filter(|_| eviction != Eviction::Nowhere) {
        // A node that is tainted already only changes its reason.
        if has(key, NO_EXECUTE) || has(opposite, NO_EXECUTE) || eviction == Eviction::Allowed {
            wanted.push((key, NO_EXECUTE));
        } else {
            waits = true;
        }
    }
    let is_ours = |taint: &Taint| match taint.effect.as_str() {
        NO_EXECUTE => [NOT_READY, UNREACHABLE].contains(&taint.key.as_str()),
        NO_SCHEDULE => {
            taint.key == UNSCHEDULABLE || CONDITION_TAINTS.iter().any(|(_, _, key)| taint.key == *key)
        }
        _ => false,
    };
    let is_wanted = |taint: &Taint| wanted.contains(&(taint.key.as_str(), taint.effect.as_str()));
    let mut taints: Vec<Taint> = current
        .iter()
        .filter(|taint| !is_ours(taint) || is_wanted(taint))
        .cloned()
        .collect();
    for (key, effect) in &wanted {
        if !has(key, effect) {
            taints.push(Taint {
                key: (*key).to_owned(),
                effect: (*effect).to_owned(),
                time_added: Some(Time(now)),
                value: None,
            });
        }
    }
    Taints {
        change: (taints != current).then_some(taints),
        waits,
    }
}

fn no_schedule(node: &Node) -> Vec<&'static str> {
    let of_condition = |condition: &NodeCondition| {
        CONDITION_TAINTS
            .iter()
            .find(|(kind, status, _)| condition.type_ == *kind && condition.status == *status)
            .map(|(_, _, key)| *key)
    };
    let mut keys: Vec<_> = conditions(node).iter().filter_map(of_condition).collect();
    if node.spec.as_ref().and_then(|spec| spec.unschedulable) == Some(true) {
        keys.push(UNSCHEDULABLE);
    }
    keys
}

/// How often a node of a zone may be tainted so that pods are driven off it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Pace {
    /// One in this long.
    Every(Duration),
    /// None: too many of the zone are unhealthy.
    Paused,
    /// None anywhere: no node is healthy.
    Nowhere,
}

/// A node's zone, for telling the failure of a node from that of a place.
pub(super) fn zone(node: &Node) -> String {
    let label = |key: &str| {
        node.metadata
            .labels
            .as_ref()
            .and_then(|labels| labels.get(key))
            .cloned()
    };
    format!(
        "{}/{}",
        label(REGION_LABEL).unwrap_or_default(),
        label(ZONE_LABEL).unwrap_or_default()
    )
}

/// The pace in a zone, given all nodes.
pub(super) fn pace<'n>(zone_name: &str, nodes: impl IntoIterator<Item = &'n Node>) -> Pace {
    let mut zones: BTreeMap<String, (usize, usize)> = BTreeMap::new();
    let is_counted = |node: &&Node| {
        !node
            .metadata
            .labels
            .as_ref()
            .is_some_and(|labels| labels.contains_key(EXCLUDED_LABEL))
    };
    for node in nodes.into_iter().filter(is_counted) {
        let (healthy, unhealthy) = zones.entry(zone(node)).or_default();
        *(if ready(node) == Ready::True {
            healthy
        } else {
            unhealthy
        }) += 1;
    }
    if zones.values().all(|(healthy, _)| *healthy == 0) {
        return Pace::Nowhere;
    }
    let (healthy, unhealthy) = zones.get(zone_name).copied().unwrap_or_default();
    let total = healthy + unhealthy;
    let is_partial = healthy > 0 && unhealthy > 2 && unhealthy as f64 / total as f64 >= UNHEALTHY_SHARE;
    match is_partial {
        false => Pace::Every(PACE),
        true if total > LARGE_ZONE => Pace::Every(SLOW_PACE),
        true => Pace::Paused,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).expect("a time")
    }

    fn node(ready: &str, taints: &[&str]) -> Node {
        let conditions: Vec<Value> = match ready {
            "" => Vec::new(),
            status => vec![
                json!({"type": "Ready", "status": status}),
                json!({"type": "DiskPressure", "status": "False"}),
            ],
        };
        let taints: Vec<_> = taints
            .iter()
            .map(|taint| {
                let (key, effect) = taint.split_once(':').expect("key:effect");
                json!({"key": full(key), "effect": effect})
            })
            .collect();
        let node = json!({"metadata": {"name": "n"}, "spec": {"taints": taints}, "status": {"conditions": conditions}});
        serde_json::from_value(node).expect("a node")
    }

    fn full(key: &str) -> String {
        if key.contains('/') {
            key.to_owned()
        } else {
            format!("node.kubernetes.io/{key}")
        }
    }

    fn check(node: Node, eviction: Eviction, expected: Option<&[&str]>, waits: bool) {
        let taints = taints(&node, eviction, at(1));
        let shown: Option<Vec<String>> = taints.change.map(|taints| {
            taints
                .iter()
                .map(|taint| {
                    format!(
                        "{}:{}",
                        taint.key.trim_start_matches("node.kubernetes.io/"),
                        taint.effect
                    )
                })
                .collect()
        });
        assert_eq!(
            shown
                .as_ref()
                .map(|list| list.iter().map(String::as_str).collect::<Vec<_>>())
                .as_deref(),
            expected,
            "{node:?}"
        );
        assert_eq!(taints.waits, waits, "{node:?}");
    }

    #[test]
    fn a_node_that_becomes_ready_loses_its_taints() {
        use Eviction::Allowed;
        check(node("True", &[]), Allowed, None, false);
        check(node("True", &["not-ready:NoSchedule"]), Allowed, Some(&[]), false);
        check(
            node("True", &["not-ready:NoExecute", "mine/x:NoSchedule"]),
            Allowed,
            Some(&["mine/x:NoSchedule"]),
            false,
        );
        check(node("", &["unreachable:NoExecute"]), Allowed, Some(&[]), false);
    }

    #[test]
    fn an_unhealthy_node_is_tainted_twice_the_second_time_when_allowed() {
        use Eviction::{Allowed, NotNow, Nowhere};
        check(
            node("False", &[]),
            Allowed,
            Some(&["not-ready:NoSchedule", "not-ready:NoExecute"]),
            false,
        );
        check(node("False", &[]), NotNow, Some(&["not-ready:NoSchedule"]), true);
        check(node("Unknown", &["unreachable:NoSchedule"]), NotNow, None, true);
        check(
            node("Unknown", &["unreachable:NoSchedule", "unreachable:NoExecute"]),
            NotNow,
            None,
            false,
        );
        // Another reason is no new eviction.
        check(
            node("Unknown", &["not-ready:NoSchedule", "not-ready:NoExecute"]),
            NotNow,
            Some(&["unreachable:NoSchedule", "unreachable:NoExecute"]),
            false,
        );
        check(
            node("Unknown", &["unreachable:NoSchedule", "unreachable:NoExecute"]),
            Nowhere,
            Some(&["unreachable:NoSchedule"]),
            false,
        );
    }

    #[test]
    fn pressure_and_cordons_are_taints_too() {
        let mut node = node("True", &[]);
        node.spec.as_mut().expect("a spec").unschedulable = Some(true);
        node.status
            .as_mut()
            .and_then(|status| status.conditions.as_mut())
            .expect("conditions")[1]
            .status = "True".to_owned();
        check(
            node,
            Eviction::Allowed,
            Some(&["disk-pressure:NoSchedule", "unschedulable:NoSchedule"]),
            false,
        );
    }

    #[test]
    fn a_silent_node_is_unknown() {
        let silent_node = |ready: &str| {
            let conditions = silent(&node(ready, &[]), at(5)).expect("a change");
            let reasons: Vec<_> = conditions
                .iter()
                .filter_map(|condition| condition.reason.clone())
                .collect();
            assert!(conditions.iter().all(|condition| condition.status == "Unknown"));
            (conditions.len(), reasons)
        };
        let (count, reasons) = silent_node("True");
        assert_eq!(
            (count, reasons[0].as_str(), reasons[2].as_str()),
            (4, "NodeStatusUnknown", "NodeStatusNeverUpdated")
        );
        assert_eq!(silent_node("").0, 4);
        let mut known = node("True", &[]);
        known.status.as_mut().expect("a status").conditions = silent(&known, at(5));
        assert_eq!(silent(&known, at(6)), None);
    }

    fn zone_of(name: &str, healthy: usize, unhealthy: usize) -> Vec<Node> {
        let node = |ready: &str| {
            let mut node = node(ready, &[]);
            node.metadata.labels = Some([(ZONE_LABEL.to_owned(), name.to_owned())].into());
            node
        };
        let healthy = std::iter::repeat_with(|| node("True")).take(healthy);
        healthy
            .chain(std::iter::repeat_with(|| node("Unknown")).take(unhealthy))
            .collect()
    }

    #[test]
    fn the_pace_of_evictions_depends_on_how_many_are_unhealthy() {
        for (zones, expected) in [
            (vec![(1, 0)], Pace::Every(PACE)),
            (vec![(0, 1)], Pace::Nowhere),
            (vec![(0, 3), (0, 1)], Pace::Nowhere),
            (vec![(0, 3), (1, 0)], Pace::Every(PACE)),
            (vec![(1, 2)], Pace::Every(PACE)),
            (vec![(1, 3)], Pace::Paused),
            (vec![(20, 40)], Pace::Every(SLOW_PACE)),
            (vec![(3, 3)], Pace::Every(PACE)),
        ] {
            let nodes: Vec<Node> = zones
                .iter()
                .enumerate()
                .flat_map(|(index, (healthy, unhealthy))| zone_of(&index.to_string(), *healthy, *unhealthy))
                .collect();
            assert_eq!(pace("/0", &nodes), expected, "{zones:?}");
        }
    }
}
