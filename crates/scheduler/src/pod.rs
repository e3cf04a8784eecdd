//! A pod as decisions read it: what they need of it, parsed once.

use std::collections::BTreeMap;
use std::sync::Arc;

use k8s_openapi::api::core::v1::{Pod, PodAffinityTerm, PodSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, LabelSelectorRequirement};
use stead_informer::Key;
use stead_informer::semantics::pods::has_ended;
use stead_informer::semantics::{HostPort, Selector, host_ports};

use crate::resources::{self, Resources};

/// Labels of an object.
pub(crate) type Labels = BTreeMap<String, String>;

/// A pod, and what follows from its spec.
#[derive(Debug)]
pub(crate) struct PodInfo {
    pub(crate) key: Key,
    pub(crate) uid: String,
    pub(crate) pod: Arc<Pod>,
    pub(crate) priority: i32,
    /// What it asks of its node.
    pub(crate) requested: Resources,
    /// What it is taken to use, when nodes are compared.
    pub(crate) scored: Resources,
    pub(crate) ports: Vec<HostPort>,
    /// Pods that must be near.
    pub(crate) near: Vec<Term>,
    /// Pods that must not be near.
    pub(crate) apart: Vec<Term>,
}

/// Pods, and what it means to be near them.
#[derive(Debug, Clone)]
pub(crate) struct Term {
    /// Nodes with the same value of this label are near.
    pub(crate) topology_key: String,
    selector: Option<Selector>,
    namespaces: Vec<String>,
    namespace_selector: Option<Selector>,
}

impl Term {
    /// Reads a term of a pod's affinity.
    pub(crate) fn new(term: &PodAffinityTerm, pod: &Pod) -> Term {
        let mut namespaces = term.namespaces.clone().unwrap_or_default();
        if namespaces.is_empty() && term.namespace_selector.is_none() {
            namespaces.extend(pod.metadata.namespace.clone());
        }
        let mut selector = term.label_selector.clone();
        let labels = pod.metadata.labels.as_ref();
        for (keys, operator) in [
            (&term.match_label_keys, "In"),
            (&term.mismatch_label_keys, "NotIn"),
        ] {
            require(
                &mut selector,
                keys.as_deref().unwrap_or_default(),
                operator,
                labels,
            );
        }
        Term {
            topology_key: term.topology_key.clone(),
            selector: selector.as_ref().map(Selector::new),
            namespaces,
            namespace_selector: term.namespace_selector.as_ref().map(Selector::new),
        }
    }

    /// Whether it means a pod. `namespace_labels` are those of the pod's namespace.
    pub(crate) fn means(&self, pod: &PodInfo, namespace_labels: Option<&Labels>) -> bool {
        let by_name = self.namespaces.contains(&pod.key.namespace);
        let by_labels = || {
            let selector = self.namespace_selector.as_ref();
            selector.is_some_and(|selector| selector.matches(namespace_labels))
        };
        let selector = self.selector.as_ref();
        selector.is_some_and(|selector| selector.matches(pod.labels())) && (by_name || by_labels())
    }
}

/// Adds to a selector that pods must have the same values of some labels as this one, or others.
pub(crate) fn require(
    selector: &mut Option<LabelSelector>,
    keys: &[String],
    operator: &str,
    labels: Option<&Labels>,
) {
    let Some(selector) = selector else { return };
    for key in keys {
        if let Some(value) = labels.and_then(|labels| labels.get(key)) {
            let expressions = selector.match_expressions.get_or_insert_default();
            expressions.push(LabelSelectorRequirement {
                key: key.clone(),
                operator: operator.to_owned(),
                values: Some(vec![value.clone()]),
            });
        }
    }
}

impl PodInfo {
    /// Reads a pod.
    pub(crate) fn new(pod: Arc<Pod>) -> PodInfo {
        let empty = PodSpec::default();
        let spec = pod.spec.as_ref().unwrap_or(&empty);
        let affinity = spec.affinity.as_ref();
        let near = affinity
            .and_then(|affinity| affinity.pod_affinity.as_ref())
            .and_then(|near| {
                near.required_during_scheduling_ignored_during_execution
                    .as_deref()
            });
        let apart = affinity
            .and_then(|affinity| affinity.pod_anti_affinity.as_ref())
            .and_then(|apart| {
                apart
                    .required_during_scheduling_ignored_during_execution
                    .as_deref()
            });
        let terms = |terms: Option<&[PodAffinityTerm]>| -> Vec<Term> {
            let terms = terms.unwrap_or_default();
            terms.iter().map(|term| Term::new(term, &pod)).collect()
        };
        PodInfo {
            key: Key::of(&*pod),
            uid: pod.metadata.uid.clone().unwrap_or_default(),
            priority: spec.priority.unwrap_or(0),
            requested: resources::requested(spec),
            scored: resources::scored(spec),
            ports: host_ports(spec),
            near: terms(near),
            apart: terms(apart),
            pod,
        }
    }

    pub(crate) fn labels(&self) -> Option<&Labels> {
        self.pod.metadata.labels.as_ref()
    }

    pub(crate) fn spec(&self) -> Option<&PodSpec> {
        self.pod.spec.as_ref()
    }

    /// Whether this is the same pod, and another state of it would be decided on alike.
    pub(crate) fn still_holds(&self, pod: &Pod) -> bool {
        pod.metadata.uid.as_deref().unwrap_or_default() == self.uid
            && pod.metadata.deletion_timestamp == self.pod.metadata.deletion_timestamp
            && pod.metadata.labels == self.pod.metadata.labels
            && pod.spec == self.pod.spec
    }
}

/// The node that a pod is bound to.
pub(crate) fn node_of(pod: &Pod) -> Option<&str> {
    let node = pod.spec.as_ref()?.node_name.as_deref();
    node.filter(|name| !name.is_empty())
}

/// Whether a pod waits for a node, and it is this scheduler that it waits for.
pub(crate) fn is_to_be_placed(pod: &Pod, scheduler: &str) -> bool {
    let Some(spec) = &pod.spec else { return false };
    node_of(pod).is_none()
        && !has_ended(pod)
        && pod.metadata.deletion_timestamp.is_none()
        && spec.scheduler_name.as_deref().unwrap_or(scheduler) == scheduler
        && spec.scheduling_gates.as_deref().unwrap_or_default().is_empty()
}

#[cfg(test)]
pub(crate) mod tests {
    use serde_json::{Value, json};

    use super::*;

    /// One object with another's fields over it.
    pub(crate) fn merged(into: Value, from: Value) -> Value {
        match (into, from) {
            (Value::Object(mut into), Value::Object(from)) => {
                for (key, value) in from {
                    let old = into.remove(&key).unwrap_or(Value::Null);
                    into.insert(key, merged(old, value));
                }
                Value::Object(into)
            }
            (_, from) => from,
        }
    }

    /// A pod `ns/NAME` with what `extra` says.
    pub(crate) fn pod(name: &str, extra: Value) -> Arc<PodInfo> {
        let pod = json!({
            "metadata": {"namespace": "ns", "name": name, "uid": format!("uid-{name}")},
            "spec": {"containers": [{"name": "c"}]},
        });
        let pod: Pod = serde_json::from_value(merged(pod, extra)).expect("a pod");
        Arc::new(PodInfo::new(Arc::new(pod)))
    }

    #[test]
    fn only_pods_without_a_node_and_without_gates_are_placed() {
        for (extra, expected) in [
            (json!({}), true),
            (json!({"spec": {"schedulerName": "mine"}}), true),
            (json!({"spec": {"schedulerName": "other"}}), false),
            (json!({"spec": {"nodeName": "n"}}), false),
            (json!({"spec": {"schedulingGates": [{"name": "g"}]}}), false),
            (json!({"spec": {"schedulingGates": []}}), true),
            (
                json!({"metadata": {"deletionTimestamp": "2026-01-01T00:00:00Z"}}),
                false,
            ),
            (json!({"status": {"phase": "Failed"}}), false),
        ] {
            assert_eq!(
                is_to_be_placed(&pod("p", extra.clone()).pod, "mine"),
                expected,
                "{extra}"
            );
        }
    }

    #[test]
    fn a_term_means_pods_of_its_namespaces() {
        let labels = [("team".to_owned(), "a".to_owned())].into();
        let subject = pod("p", json!({"metadata": {"labels": {"app": "web"}}}));
        let app = json!({"matchLabels": {"app": "web"}});
        for (term, expected) in [
            (json!({"labelSelector": app}), true),
            (json!({"labelSelector": {"matchLabels": {"app": "db"}}}), false),
            (json!({"labelSelector": {}}), true),
            (json!({}), false),
            (json!({"labelSelector": app, "namespaces": ["other"]}), false),
            (json!({"labelSelector": app, "namespaceSelector": {}}), true),
            (
                json!({"labelSelector": app, "namespaceSelector": {"matchLabels": {"team": "a"}}}),
                true,
            ),
            (
                json!({"labelSelector": app, "namespaceSelector": {"matchLabels": {"team": "b"}}}),
                false,
            ),
            (json!({"labelSelector": {}, "mismatchLabelKeys": ["app"]}), false),
        ] {
            let read: PodAffinityTerm =
                serde_json::from_value(merged(json!({"topologyKey": "zone"}), term.clone())).expect("a term");
            let term = Term::new(&read, &subject.pod);
            assert_eq!(term.means(&subject, Some(&labels)), expected, "{term:?}");
        }
    }
}
