//! The nodes, and what is placed on them: as the watches show it, and ahead of them what was decided
//! a moment ago.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use k8s_openapi::api::core::v1::{Node, Pod};
use stead_informer::Key;
use stead_informer::semantics::pods::has_ended;

use crate::pod::{PodInfo, node_of};
use crate::resources::Resources;

/// All nodes and all placed pods.
#[derive(Debug, Default)]
pub(crate) struct Cluster {
    nodes: BTreeMap<String, NodeState>,
    placed: HashMap<Key, Placed>,
}

#[derive(Debug)]
struct Placed {
    info: Arc<PodInfo>,
    node: String,
    /// It was decided, and no watch has shown it yet.
    is_assumed: bool,
}

/// A node, and what is placed on it.
#[derive(Debug, Default)]
pub(crate) struct NodeState {
    /// None while pods are known of a node that is not.
    node: Option<Arc<Node>>,
    pub(crate) allocatable: Resources,
    pub(crate) requested: Resources,
    pub(crate) scored: Resources,
    pub(crate) pods: BTreeMap<Key, Arc<PodInfo>>,
}

impl NodeState {
    fn remove(&mut self, key: &Key) {
        if let Some(info) = self.pods.remove(key) {
            self.requested.subtract(&info.requested);
            self.scored.subtract(&info.scored);
        }
    }
}

/// What a change of a pod means to those that wait for a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Effect {
    /// Nothing.
    None,
    /// A pod has come to a node.
    Came,
    /// A pod has left a node, or takes less of it.
    Went,
}

impl Cluster {
    /// The nodes there are, by name.
    pub(crate) fn nodes(&self) -> impl Iterator<Item = (&Arc<Node>, &NodeState)> + Clone {
        self.nodes
            .values()
            .filter_map(|state| Some((state.node.as_ref()?, state)))
    }

    pub(crate) fn node(&self, name: &str) -> Option<&NodeState> {
        self.nodes.get(name).filter(|state| state.node.is_some())
    }

    pub(crate) fn set_node(&mut self, node: Arc<Node>) {
        let name = node.metadata.name.clone().unwrap_or_default();
        let state = self.nodes.entry(name).or_default();
        let status = node.status.as_ref();
        state.allocatable = Resources::of(status.and_then(|status| status.allocatable.as_ref()));
        state.node = Some(node);
    }

    pub(crate) fn remove_node(&mut self, name: &str) {
        if let Some(state) = self.nodes.get_mut(name) {
            state.node = None;
            if state.pods.is_empty() {
                self.nodes.remove(name);
            }
        }
    }

    /// Takes over what a watch shows of a pod.
    pub(crate) fn set_pod(&mut self, pod: &Arc<Pod>) -> Effect {
        let key = Key::of(&**pod);
        let known = self.placed.get(&key);
        let uid = pod.metadata.uid.as_deref().unwrap_or_default();
        let Some(node) = node_of(pod).filter(|_| !has_ended(pod)) else {
            // An assumed pod is shown without a node until its binding is.
            let is_ahead = known.is_some_and(|known| known.is_assumed && known.info.uid == uid);
            let went = (!is_ahead || has_ended(pod)) && self.remove(&key);
            return if went { Effect::Went } else { Effect::None };
        };
        if let Some(known) = known
            && known.node == node
            && known.info.still_holds_but_for_node(pod)
        {
            let was_assumed = known.is_assumed;
            if let Some(known) = self.placed.get_mut(&key) {
                known.is_assumed = false;
            }
            return if was_assumed { Effect::Came } else { Effect::None };
        }
        let was_known = self.remove(&key);
        self.insert(Arc::new(PodInfo::new(Arc::clone(pod))), node.to_owned(), false);
        if was_known { Effect::Went } else { Effect::Came }
    }

    /// Forgets a pod that is gone; whether it was placed.
    pub(crate) fn remove_pod(&mut self, pod: &Pod) -> bool {
        let key = Key::of(pod);
        let uid = pod.metadata.uid.as_deref().unwrap_or_default();
        self.placed.get(&key).is_some_and(|known| known.info.uid == uid) && self.remove(&key)
    }

    /// Counts a pod as placed before any watch shows it.
    pub(crate) fn assume(&mut self, info: Arc<PodInfo>, node: &str) {
        self.remove(&info.key);
        self.insert(info, node.to_owned(), true);
    }

    /// Takes that back, unless a watch has confirmed it meanwhile; whether it was taken back.
    pub(crate) fn forget(&mut self, info: &PodInfo) -> bool {
        let is_assumed = |known: &Placed| known.is_assumed && known.info.uid == info.uid;
        self.placed.get(&info.key).is_some_and(is_assumed) && self.remove(&info.key)
    }

    fn insert(&mut self, info: Arc<PodInfo>, node: String, is_assumed: bool) {
        let state = self.nodes.entry(node.clone()).or_default();
        state.requested.add(&info.requested);
        state.scored.add(&info.scored);
        state.pods.insert(info.key.clone(), Arc::clone(&info));
        let placed = Placed {
            info: Arc::clone(&info),
            node,
            is_assumed,
        };
        self.placed.insert(info.key.clone(), placed);
    }

    fn remove(&mut self, key: &Key) -> bool {
        let Some(placed) = self.placed.remove(key) else {
            return false;
        };
        if let Some(state) = self.nodes.get_mut(&placed.node) {
            state.remove(key);
            if state.pods.is_empty() && state.node.is_none() {
                self.nodes.remove(&placed.node);
            }
        }
        true
    }
}

impl PodInfo {
    /// As [`PodInfo::still_holds`]; an assumed pod has no node in its spec.
    fn still_holds_but_for_node(&self, pod: &Pod) -> bool {
        if self.still_holds(pod) {
            return true;
        }
        let same_meta = pod.metadata.uid.as_deref().unwrap_or_default() == self.uid
            && pod.metadata.deletion_timestamp == self.pod.metadata.deletion_timestamp
            && pod.metadata.labels == self.pod.metadata.labels;
        let mut spec = self.pod.spec.clone();
        if let (Some(spec), Some(other)) = (&mut spec, &pod.spec) {
            spec.node_name.clone_from(&other.node_name);
        }
        same_meta && spec == pod.spec
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use serde_json::{Value, json};
    use stead_informer::semantics::Amount;

    use super::*;
    use crate::pod::tests::{merged, pod};

    /// A ready node with 4 CPUs.
    pub(crate) fn node(name: &str, extra: Value) -> Arc<Node> {
        let node = json!({
            "metadata": {"name": name, "labels": {"kubernetes.io/hostname": name}},
            "status": {"allocatable": {"cpu": "4", "memory": "8Gi", "pods": "10"}},
        });
        Arc::new(serde_json::from_value(merged(node, extra)).expect("a node"))
    }

    fn cpu(cluster: &Cluster) -> Amount {
        cluster
            .node("n")
            .map(|state| state.requested.get("cpu"))
            .unwrap_or_default()
    }

    fn asking(name: &str, extra: Value) -> Arc<PodInfo> {
        let spec = json!({"spec": {"containers": [{"name": "c", "resources": {"requests": {"cpu": "1"}}}]}});
        pod(name, merged(spec, extra))
    }

    #[test]
    fn a_placed_pod_counts_once_from_the_decision_to_its_end() {
        let mut cluster = Cluster::default();
        cluster.set_node(node("n", json!({})));
        let new = asking("p", json!({}));
        cluster.assume(Arc::clone(&new), "n");
        assert_eq!(cpu(&cluster), Amount::units(1));
        // An older state of the watch does not undo the decision.
        assert_eq!(cluster.set_pod(&new.pod), Effect::None);
        assert_eq!(cpu(&cluster), Amount::units(1));
        let bound = asking("p", json!({"spec": {"nodeName": "n"}}));
        assert_eq!(cluster.set_pod(&bound.pod), Effect::Came);
        assert_eq!(cluster.set_pod(&bound.pod), Effect::None);
        assert!(!cluster.forget(&new));
        assert_eq!(cpu(&cluster), Amount::units(1));
        let ended = asking(
            "p",
            json!({"spec": {"nodeName": "n"}, "status": {"phase": "Succeeded"}}),
        );
        assert_eq!(cluster.set_pod(&ended.pod), Effect::Went);
        assert_eq!(cpu(&cluster), Amount::ZERO);
        assert!(!cluster.remove_pod(&ended.pod));
    }

    #[test]
    fn a_decision_can_be_taken_back() {
        let mut cluster = Cluster::default();
        cluster.set_node(node("n", json!({})));
        let new = asking("p", json!({}));
        cluster.assume(Arc::clone(&new), "n");
        assert!(cluster.forget(&new));
        assert!(!cluster.forget(&new));
        assert_eq!(cpu(&cluster), Amount::ZERO);
    }

    #[test]
    fn another_pod_of_the_name_takes_the_place() {
        let mut cluster = Cluster::default();
        cluster.set_node(node("n", json!({})));
        let old = asking("p", json!({"spec": {"nodeName": "n"}}));
        cluster.set_pod(&old.pod);
        let new = asking("p", json!({"metadata": {"uid": "other"}}));
        assert_eq!(cluster.set_pod(&new.pod), Effect::Went);
        assert_eq!(cpu(&cluster), Amount::ZERO);
        cluster.assume(Arc::clone(&new), "n");
        // The end of the old one comes late.
        assert!(!cluster.remove_pod(&old.pod));
        assert_eq!(cpu(&cluster), Amount::units(1));
    }

    #[test]
    fn pods_of_a_node_that_comes_and_goes_are_not_lost() {
        let mut cluster = Cluster::default();
        let bound = asking("p", json!({"spec": {"nodeName": "n"}}));
        cluster.set_pod(&bound.pod);
        assert_eq!(cluster.nodes().count(), 0);
        cluster.set_node(node("n", json!({})));
        assert_eq!(cpu(&cluster), Amount::units(1));
        cluster.remove_node("n");
        assert!(cluster.node("n").is_none());
        cluster.set_node(node("n", json!({})));
        assert_eq!(cpu(&cluster), Amount::units(1));
    }
}
