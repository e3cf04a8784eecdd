//! Filter on how evenly pods are spread: constraints that must hold ("Pod Topology Spread
//! Constraints").

use std::collections::{BTreeMap, HashMap};

use k8s_openapi::api::core::v1::{Node, TopologySpreadConstraint};
use stead_informer::semantics::Selector;

use super::{Rejection, node};
use crate::cluster::{Cluster, NodeState};
use crate::pod::{PodInfo, require};

/// A constraint, and how many pods it counts in each place.
#[derive(Debug)]
struct Constraint {
    key: String,
    max_skew: i64,
    /// With fewer places than these, the emptiest counts as empty.
    min_places: usize,
    /// Whether the pod itself is among those that are counted.
    counts_itself: bool,
    counts: BTreeMap<String, i64>,
}

/// The constraints of a pod that must hold.
#[derive(Debug)]
pub(crate) struct Spread(Vec<Constraint>);

impl Spread {
    /// Counts.
    pub(crate) fn of(pod: &PodInfo, cluster: &Cluster) -> Spread {
        let hard: Vec<_> = constraints(pod)
            .filter(|constraint| constraint.when_unsatisfiable == "DoNotSchedule")
            .collect();
        let has_all_keys = |node: &Node| {
            hard.iter()
                .all(|constraint| label(node, &constraint.topology_key).is_some())
        };
        let counted = |constraint: &TopologySpreadConstraint| {
            let selector = selector(pod, constraint);
            let mut counts = BTreeMap::new();
            for (node, state) in cluster.nodes() {
                if !has_all_keys(node) || !is_counted(pod, constraint, node) {
                    continue;
                }
                if let Some(place) = label(node, &constraint.topology_key) {
                    *counts.entry(place.to_owned()).or_insert(0) += count(pod, selector.as_ref(), state);
                }
            }
            Constraint {
                key: constraint.topology_key.clone(),
                max_skew: constraint.max_skew.into(),
                min_places: constraint
                    .min_domains
                    .and_then(|places| usize::try_from(places).ok())
                    .unwrap_or(1),
                counts_itself: selector.is_some_and(|selector| selector.matches(pod.labels())),
                counts,
            }
        };
        Spread(hard.iter().map(|constraint| counted(constraint)).collect())
    }

    /// Whether all constraints would hold with the pod on a node.
    pub(crate) fn check(&self, node: &Node) -> Result<(), Rejection> {
        for constraint in &self.0 {
            let Some(place) = label(node, &constraint.key) else {
                return Err(Rejection::SpreadLabel);
            };
            let least = if constraint.counts.len() < constraint.min_places {
                0
            } else {
                constraint.counts.values().copied().min().unwrap_or(0)
            };
            let here = constraint.counts.get(place).copied().unwrap_or(0);
            if here + i64::from(constraint.counts_itself) - least > constraint.max_skew {
                return Err(Rejection::Spread);
            }
        }
        Ok(())
    }
}

/// For each node, how crowded with like pods its places are, by the constraints that should hold.
pub(crate) fn crowding(pod: &PodInfo, cluster: &Cluster) -> HashMap<String, i64> {
    let mut crowding = HashMap::new();
    for constraint in constraints(pod).filter(|constraint| constraint.when_unsatisfiable == "ScheduleAnyway")
    {
        let selector = selector(pod, constraint);
        let mut counts: HashMap<&str, i64> = HashMap::new();
        for (node, state) in cluster.nodes() {
            if let Some(place) = label(node, &constraint.topology_key) {
                *counts.entry(place).or_insert(0) += count(pod, selector.as_ref(), state);
            }
        }
        for (node, _) in cluster.nodes() {
            let place = label(node, &constraint.topology_key);
            // A node without the label is worse than the most crowded place.
            let worst = || counts.values().copied().max().unwrap_or(0) + 1;
            let here = place
                .and_then(|place| counts.get(place).copied())
                .unwrap_or_else(worst);
            let name = node.metadata.name.clone().unwrap_or_default();
            *crowding.entry(name).or_insert(0) += here;
        }
    }
    crowding
}

fn constraints(pod: &PodInfo) -> impl Iterator<Item = &TopologySpreadConstraint> {
    let spec = pod.spec().into_iter();
    spec.flat_map(|spec| spec.topology_spread_constraints.iter().flatten())
}

fn selector(pod: &PodInfo, constraint: &TopologySpreadConstraint) -> Option<Selector> {
    let mut selector = constraint.label_selector.clone();
    let keys = constraint.match_label_keys.as_deref().unwrap_or_default();
    require(&mut selector, keys, "In", pod.labels());
    selector.as_ref().map(Selector::new)
}

/// How many of a node's pods a selector means. Pods on their way out are not counted.
fn count(pod: &PodInfo, selector: Option<&Selector>, state: &NodeState) -> i64 {
    let Some(selector) = selector else { return 0 };
    let meant = state.pods.values().filter(|other| {
        other.key.namespace == pod.key.namespace
            && other.pod.metadata.deletion_timestamp.is_none()
            && selector.matches(other.labels())
    });
    i64::try_from(meant.count()).unwrap_or(i64::MAX)
}

/// Whether a node is among those that a constraint counts on.
fn is_counted(pod: &PodInfo, constraint: &TopologySpreadConstraint, node: &Node) -> bool {
    let honors = |policy: Option<&str>, default: &str| policy.unwrap_or(default) == "Honor";
    let Some(spec) = pod.spec() else { return true };
    let by_affinity =
        !honors(constraint.node_affinity_policy.as_deref(), "Honor") || node::is_asked_for(spec, node);
    let by_taints =
        !honors(constraint.node_taints_policy.as_deref(), "Ignore") || node::tolerates_taints(spec, node);
    by_affinity && by_taints
}

fn label<'n>(node: &'n Node, key: &str) -> Option<&'n str> {
    node.metadata.labels.as_ref()?.get(key).map(String::as_str)
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::cluster::tests::node;
    use crate::pod::tests::{merged, pod};

    fn web() -> Value {
        json!({"metadata": {"labels": {"app": "web"}}})
    }

    fn spread(extra: Value) -> Value {
        let constraint = merged(
            json!({
                "maxSkew": 1, "topologyKey": "zone", "whenUnsatisfiable": "DoNotSchedule",
                "labelSelector": {"matchLabels": {"app": "web"}},
            }),
            extra,
        );
        merged(
            web(),
            json!({"spec": {"topologySpreadConstraints": [constraint]}}),
        )
    }

    /// Zone `a` with two nodes, `b` with one, and a node without a zone.
    fn cluster(placed: &[&str]) -> Cluster {
        let mut cluster = Cluster::default();
        for (name, zone) in [("a1", "a"), ("a2", "a"), ("b1", "b")] {
            cluster.set_node(node(name, json!({"metadata": {"labels": {"zone": zone}}})));
        }
        cluster.set_node(node("none", json!({})));
        for (index, node) in placed.iter().enumerate() {
            cluster.assume(pod(&format!("other-{index}"), web()), node);
        }
        cluster
    }

    fn check(pod_extra: Value, placed: &[&str], expected: &[&str]) {
        let (cluster, pod) = (cluster(placed), pod("p", pod_extra));
        let spread = Spread::of(&pod, &cluster);
        let fits: Vec<_> = cluster
            .nodes()
            .filter(|(node, _)| spread.check(node).is_ok())
            .map(|(node, _)| node.metadata.name.as_deref().unwrap_or_default())
            .collect();
        assert_eq!(fits, expected, "{placed:?} {:?}", pod.spec());
    }

    #[test]
    fn no_place_gets_ahead_of_the_others() {
        check(spread(json!({})), &[], &["a1", "a2", "b1"]);
        check(spread(json!({})), &["a1"], &["b1"]);
        check(spread(json!({})), &["a1", "b1"], &["a1", "a2", "b1"]);
        check(spread(json!({"maxSkew": 2})), &["a1"], &["a1", "a2", "b1"]);
        check(spread(json!({"minDomains": 3})), &["a1", "b1"], &[]);
        check(
            spread(json!({"whenUnsatisfiable": "ScheduleAnyway"})),
            &["a1"],
            &["a1", "a2", "b1", "none"],
        );
        check(
            spread(json!({"labelSelector": null})),
            &["a1"],
            &["a1", "a2", "b1"],
        );
    }

    #[test]
    fn places_that_the_pod_cannot_have_do_not_count() {
        let only_a = json!({"spec": {"nodeSelector": {"zone": "a"}}});
        check(
            merged(spread(json!({})), only_a.clone()),
            &["a1"],
            &["a1", "a2", "b1"],
        );
        check(
            merged(spread(json!({"nodeAffinityPolicy": "Ignore"})), only_a),
            &["a1"],
            &["b1"],
        );
    }

    #[test]
    fn what_should_hold_makes_places_more_or_less_crowded() {
        let pod = pod("p", spread(json!({"whenUnsatisfiable": "ScheduleAnyway"})));
        let crowding = crowding(&pod, &cluster(&["a1", "a2"]));
        assert_eq!((crowding["a1"], crowding["b1"], crowding["none"]), (2, 0, 3));
    }
}
