//! Filters on the pods nearby: required pod affinity and anti-affinity, of the new pod and of those
//! that are placed ("Inter-pod affinity and anti-affinity").

use std::collections::HashSet;

use k8s_openapi::api::core::v1::Node;

use super::Rejection;
use crate::cluster::Cluster;
use crate::pod::{Labels, PodInfo, Term};

/// Labels of a namespace.
pub(crate) type NamespaceLabels<'n> = &'n dyn Fn(&str) -> Option<Labels>;

/// Places, each a label of nodes and its value.
type Places = HashSet<(String, String)>;

/// Where a pod may be for the sake of other pods.
#[derive(Debug)]
pub(crate) struct Neighbours<'p> {
    pod: &'p PodInfo,
    /// Places with pods that must be near.
    near: Places,
    /// Places with pods that must not be near.
    apart: Places,
    /// Places with pods that will not have this one near.
    shunned: Places,
    /// No pod is what must be near, but this one is: it is the first of its group.
    is_first: bool,
}

impl Neighbours<'_> {
    /// Looks at all placed pods.
    pub(crate) fn of<'p>(
        pod: &'p PodInfo,
        cluster: &Cluster,
        namespace_labels: NamespaceLabels<'_>,
    ) -> Neighbours<'p> {
        let mut neighbours = Neighbours {
            pod,
            near: Places::new(),
            apart: Places::new(),
            shunned: Places::new(),
            is_first: false,
        };
        let own_labels = namespace_labels(&pod.key.namespace);
        for (node, state) in cluster.nodes() {
            for other in state.pods.values() {
                for term in &other.apart {
                    if term.means(pod, own_labels.as_ref()) {
                        neighbours.shunned.extend(place(node, term));
                    }
                }
                if pod.near.is_empty() && pod.apart.is_empty() {
                    continue;
                }
                let labels = namespace_labels(&other.key.namespace);
                let means = |term: &&Term| term.means(other, labels.as_ref());
                if !pod.near.is_empty() && pod.near.iter().all(|term| means(&term)) {
                    let places = pod.near.iter().filter_map(|term| place(node, term));
                    neighbours.near.extend(places);
                }
                let apart = pod.apart.iter().filter(means);
                neighbours
                    .apart
                    .extend(apart.filter_map(|term| place(node, term)));
            }
        }
        let means_itself = || pod.near.iter().all(|term| term.means(pod, own_labels.as_ref()));
        neighbours.is_first = neighbours.near.is_empty() && means_itself();
        neighbours
    }

    /// Whether a node is near what it must be near, and nothing else.
    pub(crate) fn check(&self, node: &Node) -> Result<(), Rejection> {
        for term in &self.pod.near {
            let is_near = match place(node, term) {
                Some(place) => self.is_first || self.near.contains(&place),
                None => false,
            };
            if !is_near {
                return Err(Rejection::NotNear);
            }
        }
        let is_apart = |term: &Term| place(node, term).is_none_or(|place| !self.apart.contains(&place));
        if !self.pod.apart.iter().all(is_apart) {
            return Err(Rejection::NotApart);
        }
        let labels = node.metadata.labels.iter().flatten();
        let is_shunned =
            |(key, value): (&String, &String)| self.shunned.contains(&(key.clone(), value.clone()));
        if !self.shunned.is_empty() && labels.into_iter().any(is_shunned) {
            return Err(Rejection::Shunned);
        }
        Ok(())
    }
}

/// The place of a node that a term is about.
fn place(node: &Node, term: &Term) -> Option<(String, String)> {
    let value = node.metadata.labels.as_ref()?.get(&term.topology_key)?;
    Some((term.topology_key.clone(), value.clone()))
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::cluster::tests::node;
    use crate::pod::tests::{merged, pod};

    /// Two zones with two nodes each.
    fn cluster(placed: &[(&str, Value)]) -> Cluster {
        let mut cluster = Cluster::default();
        for (name, zone) in [("a1", "a"), ("a2", "a"), ("b1", "b"), ("b2", "b")] {
            cluster.set_node(node(name, json!({"metadata": {"labels": {"zone": zone}}})));
        }
        for (index, (node, extra)) in placed.iter().enumerate() {
            cluster.assume(pod(&format!("other-{index}"), extra.clone()), node);
        }
        cluster
    }

    fn app(app: &str) -> Value {
        json!({"metadata": {"labels": {"app": app}}})
    }

    fn term(kind: &str, app: &str, key: &str) -> Value {
        let term = json!([{"labelSelector": {"matchLabels": {"app": app}}, "topologyKey": key}]);
        json!({"spec": {"affinity": {kind: {"requiredDuringSchedulingIgnoredDuringExecution": term}}}})
    }

    /// The nodes that a pod may be on, or why the first may not.
    fn check(pod_extra: Value, placed: &[(&str, Value)], expected: Result<&[&str], Rejection>) {
        let shown = format!("{pod_extra} {placed:?}");
        let (cluster, pod) = (cluster(placed), pod("p", pod_extra));
        let neighbours = Neighbours::of(&pod, &cluster, &|_| None);
        let mut first = None;
        let mut fits = Vec::new();
        for (node, _) in cluster.nodes() {
            match neighbours.check(node) {
                Ok(()) => fits.push(node.metadata.name.as_deref().unwrap_or_default()),
                Err(why) => first = first.or(Some(why)),
            }
        }
        match expected {
            Ok(nodes) => assert_eq!(fits, nodes, "{shown}"),
            Err(why) => assert_eq!((fits.len(), first), (0, Some(why)), "{shown}"),
        }
    }

    #[test]
    fn pods_that_must_be_near_are() {
        let near = term("podAffinity", "db", "zone");
        check(near.clone(), &[("a1", app("db"))], Ok(&["a1", "a2"]));
        check(near.clone(), &[("a1", app("web"))], Err(Rejection::NotNear));
        check(near.clone(), &[], Err(Rejection::NotNear));
        let host = term("podAffinity", "db", "kubernetes.io/hostname");
        check(host, &[("b2", app("db"))], Ok(&["b2"]));
        // The first of a group that keeps together may be anywhere with the label.
        check(
            merged(near.clone(), app("db")),
            &[],
            Ok(&["a1", "a2", "b1", "b2"]),
        );
        let lost = term("podAffinity", "db", "absent");
        check(merged(lost, app("db")), &[], Err(Rejection::NotNear));
    }

    #[test]
    fn pods_that_must_not_be_near_are_not() {
        let apart = term("podAntiAffinity", "web", "zone");
        check(apart.clone(), &[("a1", app("web"))], Ok(&["b1", "b2"]));
        check(
            apart,
            &[("a1", app("web")), ("b1", app("web"))],
            Err(Rejection::NotApart),
        );
    }

    #[test]
    fn placed_pods_keep_others_away() {
        let shunning = term("podAntiAffinity", "web", "zone");
        check(app("web"), &[("a1", shunning.clone())], Ok(&["b1", "b2"]));
        check(
            app("db"),
            &[("a1", shunning.clone())],
            Ok(&["a1", "a2", "b1", "b2"]),
        );
        check(
            app("web"),
            &[("a1", shunning.clone()), ("b1", shunning)],
            Err(Rejection::Shunned),
        );
    }
}
