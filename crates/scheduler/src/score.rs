//! Which of the nodes that do is the best: the default scores of Kubernetes, with its weights.
//!
//! Each score is from 0 to 100. Nodes are compared only when there is more than one.

use std::collections::HashMap;

use k8s_openapi::api::core::v1::{Node, PodAffinityTerm, PodSpec, WeightedPodAffinityTerm};
use stead_informer::semantics::node_selector::term_matches;
use stead_informer::semantics::taints::{PREFER_NO_SCHEDULE, tolerated_by};

use crate::cluster::{Cluster, NodeState};
use crate::filter::affinity::NamespaceLabels;
use crate::filter::spread;
use crate::pod::{PodInfo, Term};

const BEST: f64 = 100.0;

/// The best of some nodes, by name. Among equals it is the one with the fewest pods, then the first.
pub(crate) fn best(
    pod: &PodInfo,
    candidates: &[&str],
    cluster: &Cluster,
    namespace_labels: NamespaceLabels<'_>,
) -> Option<usize> {
    if candidates.len() < 2 {
        return (!candidates.is_empty()).then_some(0);
    }
    let names: HashMap<&str, usize> = candidates.iter().copied().zip(0..).collect();
    let nodes: Vec<(usize, &Node, &NodeState)> = cluster
        .nodes()
        .filter_map(|(node, state)| {
            let index = names.get(node.metadata.name.as_deref()?)?;
            Some((*index, &**node, state))
        })
        .collect();
    let affinity = pod_affinity(pod, cluster, namespace_labels);
    let crowding = spread::crowding(pod, cluster);
    let name = |node: &Node| node.metadata.name.clone().unwrap_or_default();
    let by_node =
        |table: &HashMap<String, i64>, node: &Node| table.get(&name(node)).copied().unwrap_or(0) as f64;
    let score = |of: &dyn Fn(&Node, &NodeState) -> f64| -> Vec<f64> {
        nodes.iter().map(|(_, node, state)| of(node, state)).collect()
    };
    let parts = [
        (1.0, score(&|_, state| least_allocated(pod, state))),
        (1.0, score(&|_, state| balanced(pod, state))),
        (1.0, score(&|node, _| image_locality(pod, node))),
        (3.0, scaled(score(&|node, _| -soft_taints(pod, node)))),
        (2.0, scaled(score(&|node, _| preferred(pod, node)))),
        (2.0, scaled(score(&|node, _| by_node(&affinity, node)))),
        (2.0, scaled(score(&|node, _| -by_node(&crowding, node)))),
        (2.0, scaled(score(&|_, state| -siblings(pod, state)))),
    ];
    let totals = (0..nodes.len()).map(|index| {
        parts
            .iter()
            .map(|(weight, part)| weight * part[index])
            .sum::<f64>()
    });
    let ranked = totals
        .zip(&nodes)
        .max_by(|(left, (at, _, a)), (right, (bt, _, b))| {
            let by_score = left.total_cmp(right);
            by_score.then(b.pods.len().cmp(&a.pods.len())).then(bt.cmp(at))
        });
    ranked.map(|(_, (index, _, _))| *index)
}

/// Brings scores to the range from 0 to 100; all the same are all 0.
fn scaled(mut scores: Vec<f64>) -> Vec<f64> {
    let least = scores.iter().copied().fold(f64::INFINITY, f64::min);
    let most = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    for score in &mut scores {
        *score = if most > least {
            (*score - least) / (most - least) * BEST
        } else {
            0.0
        };
    }
    scores
}

/// The shares of CPU and memory that would be taken.
fn shares(pod: &PodInfo, state: &NodeState) -> [f64; 2] {
    ["cpu", "memory"].map(|name| {
        let all = state.allocatable.get(name).as_f64();
        let taken = (state.scored.get(name) + pod.scored.get(name)).as_f64();
        if all > 0.0 { (taken / all).min(1.0) } else { 1.0 }
    })
}

fn least_allocated(pod: &PodInfo, state: &NodeState) -> f64 {
    let shares = shares(pod, state);
    shares.iter().map(|share| (1.0 - share) * BEST).sum::<f64>() / 2.0
}

/// How alike the shares of CPU and memory would be.
fn balanced(pod: &PodInfo, state: &NodeState) -> f64 {
    let [cpu, memory] = shares(pod, state);
    (1.0 - (cpu - memory).abs() / 2.0) * BEST
}

/// Whether large images of the pod are there already.
fn image_locality(pod: &PodInfo, node: &Node) -> f64 {
    const SMALL: f64 = 23.0 * 1024.0 * 1024.0;
    const LARGE: f64 = 1000.0 * 1024.0 * 1024.0;
    let images = node
        .status
        .iter()
        .flat_map(|status| status.images.iter().flatten());
    let wanted = |names: &[String]| {
        let mut containers = pod.spec().into_iter().flat_map(|spec| &spec.containers);
        containers.any(|container| {
            let image = container.image.as_deref().unwrap_or_default();
            names.iter().any(|name| {
                name == image || name.ends_with(&format!("/{image}")) || *name == format!("{image}:latest")
            })
        })
    };
    let there = images.filter(|image| wanted(image.names.as_deref().unwrap_or_default()));
    let bytes: f64 = there.map(|image| image.size_bytes.unwrap_or(0) as f64).sum();
    ((bytes.min(LARGE) - SMALL) / (LARGE - SMALL)).max(0.0) * BEST
}

/// Soft taints that the pod does not tolerate.
fn soft_taints(pod: &PodInfo, node: &Node) -> f64 {
    let taints = node.spec.iter().flat_map(|spec| spec.taints.iter().flatten());
    let tolerations = || {
        pod.spec()
            .into_iter()
            .flat_map(|spec| spec.tolerations.iter().flatten())
    };
    let soft =
        taints.filter(|taint| taint.effect == PREFER_NO_SCHEDULE && !tolerated_by(tolerations(), taint));
    soft.count() as f64
}

/// The weight of the pod's preferred node affinities that mean a node.
fn preferred(pod: &PodInfo, node: &Node) -> f64 {
    let terms = pod
        .spec()
        .and_then(|spec| spec.affinity.as_ref()?.node_affinity.as_ref())
        .and_then(|affinity| {
            affinity
                .preferred_during_scheduling_ignored_during_execution
                .as_deref()
        })
        .unwrap_or_default();
    let met = terms.iter().filter(|term| {
        let preference = &term.preference;
        // As upstream: an empty preference means all nodes, unlike an empty requirement.
        let is_empty = preference.match_expressions.is_none() && preference.match_fields.is_none();
        is_empty || term_matches(preference, node)
    });
    met.map(|term| f64::from(term.weight)).sum()
}

/// How many pods of the same owner are on a node; upstream spreads those by default.
fn siblings(pod: &PodInfo, state: &NodeState) -> f64 {
    let owner = |pod: &PodInfo| {
        let mut owners = pod.pod.metadata.owner_references.iter().flatten();
        owners
            .find(|owner| owner.controller == Some(true))
            .map(|owner| owner.uid.clone())
    };
    let Some(own) = owner(pod) else { return 0.0 };
    state
        .pods
        .values()
        .filter(|other| owner(other).as_ref() == Some(&own))
        .count() as f64
}

/// For each node, the weight of pods nearby that the pod prefers, or that prefer it.
fn pod_affinity(
    pod: &PodInfo,
    cluster: &Cluster,
    namespace_labels: NamespaceLabels<'_>,
) -> HashMap<String, i64> {
    let own = weighted_terms(pod);
    let own_labels = namespace_labels(&pod.key.namespace);
    let mut weights: HashMap<(String, String), i64> = HashMap::new();
    let mut add = |node: &Node, term: &Term, weight: i64| {
        let value = node
            .metadata
            .labels
            .as_ref()
            .and_then(|labels| labels.get(&term.topology_key));
        if let Some(value) = value {
            *weights
                .entry((term.topology_key.clone(), value.clone()))
                .or_insert(0) += weight;
        }
    };
    for (node, state) in cluster.nodes() {
        for other in state.pods.values() {
            if !own.is_empty() {
                let labels = namespace_labels(&other.key.namespace);
                for (term, weight) in own.iter().filter(|(term, _)| term.means(other, labels.as_ref())) {
                    add(node, term, *weight);
                }
            }
            let required = other.near.iter().map(|term| (term.clone(), 1));
            for (term, weight) in weighted_terms(other).into_iter().chain(required) {
                if term.means(pod, own_labels.as_ref()) {
                    add(node, &term, weight);
                }
            }
        }
    }
    let total = |node: &Node| -> i64 {
        let labels = node.metadata.labels.iter().flatten();
        labels
            .map(|(key, value)| weights.get(&(key.clone(), value.clone())).copied().unwrap_or(0))
            .sum()
    };
    cluster
        .nodes()
        .map(|(node, _)| (node.metadata.name.clone().unwrap_or_default(), total(node)))
        .collect()
}

/// The pods that a pod prefers near, and with a negative weight those that it does not.
fn weighted_terms(pod: &PodInfo) -> Vec<(Term, i64)> {
    let affinity = pod.spec().and_then(|spec: &PodSpec| spec.affinity.as_ref());
    let near = affinity
        .and_then(|affinity| affinity.pod_affinity.as_ref())
        .and_then(|near| {
            near.preferred_during_scheduling_ignored_during_execution
                .as_deref()
        });
    let apart = affinity
        .and_then(|affinity| affinity.pod_anti_affinity.as_ref())
        .and_then(|apart| {
            apart
                .preferred_during_scheduling_ignored_during_execution
                .as_deref()
        });
    let read = |term: &PodAffinityTerm| Term::new(term, &pod.pod);
    let terms = |terms: Option<&[WeightedPodAffinityTerm]>, sign: i64| -> Vec<(Term, i64)> {
        let terms = terms.unwrap_or_default().iter();
        terms
            .map(|term| (read(&term.pod_affinity_term), sign * i64::from(term.weight)))
            .collect()
    };
    [terms(near, 1), terms(apart, -1)].concat()
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::cluster::tests::node;
    use crate::pod::tests::{merged, pod};

    fn check(pod_extra: Value, a: Value, b: Value, placed: &[(&str, Value)], expected: &str) {
        let shown = pod_extra.to_string();
        let mut cluster = Cluster::default();
        cluster.set_node(node("a", a));
        cluster.set_node(node("b", b));
        for (index, (node, extra)) in placed.iter().enumerate() {
            cluster.assume(pod(&format!("other-{index}"), extra.clone()), node);
        }
        let candidates = ["a", "b"];
        let best = best(&pod("p", pod_extra), &candidates, &cluster, &|_| None);
        assert_eq!(best.map(|index| candidates[index]), Some(expected), "{shown}");
    }

    #[test]
    fn the_emptier_node_is_better() {
        let busy = json!({"spec": {"containers": [{"name": "c", "resources": {"requests": {"cpu": "2", "memory": "4Gi"}}}]}});
        check(json!({}), json!({}), json!({}), &[("a", busy.clone())], "b");
        check(json!({}), json!({}), json!({}), &[("b", busy)], "a");
        check(json!({}), json!({}), json!({}), &[], "a");
    }

    #[test]
    fn preferences_of_pod_and_node_count() {
        let ssd = json!({"metadata": {"labels": {"disk": "ssd"}}});
        let prefers = json!({"spec": {"affinity": {"nodeAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": [
            {"weight": 1, "preference": {"matchExpressions": [{"key": "disk", "operator": "In", "values": ["ssd"]}]}}]}}}});
        check(prefers, json!({}), ssd, &[], "b");
        let soft = json!({"spec": {"taints": [{"key": "k", "effect": PREFER_NO_SCHEDULE}]}});
        check(json!({}), soft, json!({}), &[], "b");
    }

    #[test]
    fn preferred_neighbours_and_spread_count() {
        let web = json!({"metadata": {"labels": {"app": "web"}}});
        let term = json!([{"weight": 100, "podAffinityTerm":
            {"labelSelector": {"matchLabels": {"app": "web"}}, "topologyKey": "kubernetes.io/hostname"}}]);
        let wants = |kind: &str| json!({"spec": {"affinity": {kind: {"preferredDuringSchedulingIgnoredDuringExecution": term}}}});
        check(
            wants("podAffinity"),
            json!({}),
            json!({}),
            &[("b", web.clone())],
            "b",
        );
        check(
            wants("podAntiAffinity"),
            json!({}),
            json!({}),
            &[("a", web.clone())],
            "b",
        );
        let spread = json!({"spec": {"topologySpreadConstraints": [{"maxSkew": 1, "topologyKey": "kubernetes.io/hostname",
            "whenUnsatisfiable": "ScheduleAnyway", "labelSelector": {"matchLabels": {"app": "web"}}}]}});
        check(
            merged(web.clone(), spread),
            json!({}),
            json!({}),
            &[("a", web)],
            "b",
        );
        let owned = json!({"metadata": {"ownerReferences": [
            {"apiVersion": "apps/v1", "kind": "StatefulSet", "name": "s", "uid": "s", "controller": true}]}});
        check(
            owned.clone(),
            json!({}),
            json!({}),
            &[("a", owned), ("b", json!({}))],
            "b",
        );
    }

    #[test]
    fn large_images_draw_pods() {
        let image = json!({"status": {"images": [{"names": ["docker.io/library/big:1"], "sizeBytes": 2_000_000_000_u64}]}});
        let pod = json!({"spec": {"containers": [{"name": "c", "image": "docker.io/library/big:1"}]}});
        check(pod, json!({}), image, &[], "b");
    }
}
