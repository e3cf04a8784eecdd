//! Who owns whom: the metadata of all objects, and for each owner its dependents.
//!
//! The graph only says when an object is to be looked at. Whether it may go is decided on what the
//! API says at that moment.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use stead_informer::Change;

use crate::inventory::{FOREGROUND, Item, Kind, ORPHAN};

/// An object's uid.
pub(super) type Uid = Arc<str>;

/// An object.
#[derive(Debug, Clone)]
pub(super) struct Node {
    pub(super) kind: Arc<Kind>,
    pub(super) item: Arc<Item>,
}

impl Node {
    /// Whether it waits for its dependents to go.
    pub(super) fn is_foreground(&self) -> bool {
        is_foreground(&self.item)
    }

    /// Whether a reference of an object in a namespace can mean it: a reference names no namespace,
    /// and so means one in its object's own or one outside namespaces.
    fn is_meant_by(&self, reference: &OwnerReference, namespace: &str) -> bool {
        let group = reference
            .api_version
            .rsplit_once('/')
            .map_or("", |(group, _)| group);
        self.kind.resource.group == group
            && self.kind.resource.kind == reference.kind
            && self.item.name() == reference.name
            && self.is_reachable_from(namespace)
    }

    fn is_reachable_from(&self, namespace: &str) -> bool {
        !self.kind.namespaced || self.item.namespace() == namespace
    }
}

fn is_foreground(item: &Item) -> bool {
    item.is_deleting() && item.has_finalizer(FOREGROUND)
}

fn is_orphaning(item: &Item) -> bool {
    item.is_deleting() && item.has_finalizer(ORPHAN)
}

fn blocks(reference: &OwnerReference) -> bool {
    reference.block_owner_deletion == Some(true)
}

/// A reference to an owner in another namespace, which means nothing.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Misplaced {
    pub(super) dependent: Uid,
    pub(super) owner: Uid,
}

/// What a change brings about.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Consequences {
    /// Objects to be looked at.
    pub(super) look: Vec<Uid>,
    /// References to be complained about.
    pub(super) misplaced: Vec<Misplaced>,
}

#[derive(Debug, Default)]
pub(super) struct Graph {
    nodes: HashMap<Uid, Node>,
    /// By owner, whether it is known or not.
    dependents: HashMap<Uid, HashSet<Uid>>,
}

impl Graph {
    pub(super) fn get(&self, uid: &str) -> Option<Node> {
        self.nodes.get(uid).cloned()
    }

    /// The objects that name an owner.
    pub(super) fn dependents(&self, owner: &str) -> Vec<Node> {
        let uids = self.dependents.get(owner).into_iter().flatten();
        uids.filter_map(|uid| self.nodes.get(uid).cloned()).collect()
    }

    pub(super) fn has_dependents(&self, owner: &str) -> bool {
        self.dependents.contains_key(owner)
    }

    /// The dependents without which an owner cannot go.
    pub(super) fn blocking(&self, owner: &str) -> Vec<Node> {
        let mut dependents = self.dependents(owner);
        dependents.retain(|node| {
            node.item
                .owners()
                .iter()
                .any(|reference| &*reference.uid == owner && blocks(reference))
        });
        dependents
    }

    /// Whether all owners of an object are known, and stay.
    pub(super) fn is_settled(&self, item: &Item) -> bool {
        item.owners().iter().all(|reference| {
            self.nodes
                .get(&*reference.uid)
                .is_some_and(|owner| owner.is_meant_by(reference, item.namespace()) && !owner.is_foreground())
        })
    }

    /// Takes a change over.
    pub(super) fn observe(&mut self, kind: &Arc<Kind>, change: &Change<Item>) -> Consequences {
        let mut consequences = Consequences::default();
        match change {
            Change::Added(item) => self.put(kind, None, item, &mut consequences),
            Change::Updated { old, new } if old.uid() == new.uid() => {
                self.put(kind, Some(old), new, &mut consequences);
            }
            // One of the same name has taken its place while nobody watched.
            Change::Updated { old, new } => {
                self.remove(old, &mut consequences);
                self.put(kind, None, new, &mut consequences);
            }
            Change::Deleted(item) => self.remove(item, &mut consequences),
        }
        consequences
    }

    fn put(
        &mut self,
        kind: &Arc<Kind>,
        old: Option<&Item>,
        new: &Arc<Item>,
        consequences: &mut Consequences,
    ) {
        let node = Node {
            kind: Arc::clone(kind),
            item: Arc::clone(new),
        };
        let uid = match self.nodes.get_key_value(new.uid()) {
            Some((uid, _)) => Arc::clone(uid),
            None => Arc::from(new.uid()),
        };
        self.nodes.insert(Arc::clone(&uid), node);
        let before = old.map(Item::owners).unwrap_or_default();
        if before != new.owners() {
            self.put_owners(&uid, before, new, consequences);
        }
        if old.is_none() {
            self.check_early_dependents(&uid, consequences);
        }
        if is_foreground(new) || is_orphaning(new) {
            consequences.look.push(Arc::clone(&uid));
        }
        if is_foreground(new) && !old.is_some_and(is_foreground) {
            consequences
                .look
                .extend(self.dependents.get(&uid).into_iter().flatten().cloned());
        }
    }

    fn put_owners(
        &mut self,
        uid: &Uid,
        before: &[OwnerReference],
        new: &Item,
        consequences: &mut Consequences,
    ) {
        let find =
            |list: &[OwnerReference], uid: &str| list.iter().find(|reference| reference.uid == uid).cloned();
        for reference in before {
            let now = find(new.owners(), &reference.uid);
            if now.is_none() {
                self.drop_dependent(&reference.uid, uid);
            }
            if blocks(reference) && !now.as_ref().is_some_and(blocks) {
                self.look_if_waiting(&reference.uid, consequences);
            }
        }
        for reference in new.owners() {
            if find(before, &reference.uid).as_ref() == Some(reference) {
                continue;
            }
            let owner: Uid = match self.nodes.get_key_value(&*reference.uid) {
                Some((owner, _)) => Arc::clone(owner),
                None => Arc::from(&*reference.uid),
            };
            self.dependents
                .entry(Arc::clone(&owner))
                .or_default()
                .insert(Arc::clone(uid));
            match self.nodes.get(&owner) {
                Some(node) if node.is_meant_by(reference, new.namespace()) && !node.is_foreground() => {}
                Some(node) => {
                    if !node.is_reachable_from(new.namespace()) {
                        consequences.misplaced.push(Misplaced {
                            dependent: Arc::clone(uid),
                            owner,
                        });
                    }
                    consequences.look.push(Arc::clone(uid));
                }
                None => consequences.look.push(Arc::clone(uid)),
            }
        }
    }

    /// Dependents that were there before their owner may name it wrongly.
    fn check_early_dependents(&self, owner: &Uid, consequences: &mut Consequences) {
        let (Some(node), Some(dependents)) = (self.nodes.get(owner), self.dependents.get(owner)) else {
            return;
        };
        for uid in dependents {
            let Some(dependent) = self.nodes.get(uid) else {
                continue;
            };
            let namespace = dependent.item.namespace();
            let mut references = dependent
                .item
                .owners()
                .iter()
                .filter(|reference| *reference.uid == **owner);
            if references.all(|reference| node.is_meant_by(reference, namespace)) {
                continue;
            }
            if !node.is_reachable_from(namespace) {
                consequences.misplaced.push(Misplaced {
                    dependent: Arc::clone(uid),
                    owner: Arc::clone(owner),
                });
            }
            consequences.look.push(Arc::clone(uid));
        }
    }

    fn remove(&mut self, item: &Item, consequences: &mut Consequences) {
        let Some((uid, last)) = self.nodes.remove_entry(item.uid()) else {
            return;
        };
        for reference in last.item.owners() {
            self.drop_dependent(&reference.uid, &uid);
            self.look_if_waiting(&reference.uid, consequences);
        }
        consequences
            .look
            .extend(self.dependents.get(&uid).into_iter().flatten().cloned());
    }

    fn drop_dependent(&mut self, owner: &str, dependent: &Uid) {
        if let Some(dependents) = self.dependents.get_mut(owner) {
            dependents.remove(dependent);
            if dependents.is_empty() {
                self.dependents.remove(owner);
            }
        }
    }

    fn look_if_waiting(&self, owner: &str, consequences: &mut Consequences) {
        if let Some((uid, node)) = self.nodes.get_key_value(owner)
            && node.is_foreground()
        {
            consequences.look.push(Arc::clone(uid));
        }
    }
}

#[cfg(test)]
pub(super) mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::inventory::kinds::tests::kind;

    pub(in crate::garbage) fn item(namespace: &str, name: &str, extra: Value) -> Arc<Item> {
        let mut meta = json!({"namespace": namespace, "name": name, "uid": format!("u-{name}")});
        if let (Value::Object(meta), Value::Object(extra)) = (&mut meta, extra) {
            meta.extend(extra);
        }
        Arc::new(serde_json::from_value(json!({"metadata": meta})).expect("an item"))
    }

    fn owned(namespace: &str, name: &str, owner: &str, block: bool) -> Arc<Item> {
        item(
            namespace,
            name,
            json!({"ownerReferences": [
                {"apiVersion": "v1", "kind": "ConfigMap", "name": owner, "uid": format!("u-{owner}"), "blockOwnerDeletion": block},
            ]}),
        )
    }

    fn deleting(name: &str, finalizer: &str) -> Arc<Item> {
        item(
            "ns",
            name,
            json!({"deletionTimestamp": "2026-01-01T00:00:00Z", "finalizers": [finalizer]}),
        )
    }

    /// A graph that has seen some ConfigMaps appear, and what came of the last of them.
    fn graph(items: &[Arc<Item>]) -> (Graph, Consequences) {
        let mut graph = Graph::default();
        let mut last = Consequences::default();
        for item in items {
            last = graph.observe(&kind("v1", "ConfigMap", true), &Change::Added(Arc::clone(item)));
        }
        (graph, last)
    }

    fn check(before: &[Arc<Item>], change: Change<Item>, expected: &[&str]) {
        let (mut graph, _) = graph(before);
        let mut look = graph.observe(&kind("v1", "ConfigMap", true), &change).look;
        look.sort();
        look.dedup();
        let expected: Vec<Uid> = expected
            .iter()
            .map(|name| Arc::from(format!("u-{name}")))
            .collect();
        assert_eq!(look, expected, "{before:?} {change:?}");
    }

    fn updated(old: &Arc<Item>, new: &Arc<Item>) -> Change<Item> {
        Change::Updated {
            old: Arc::clone(old),
            new: Arc::clone(new),
        }
    }

    #[test]
    fn dependents_are_looked_at_when_their_owner_goes() {
        let (owner, child) = (
            item("ns", "owner", json!({})),
            owned("ns", "child", "owner", false),
        );
        check(std::slice::from_ref(&owner), Change::Added(child.clone()), &[]);
        check(
            &[owner.clone(), child.clone()],
            Change::Deleted(owner.clone()),
            &["child"],
        );
        check(&[owner.clone(), child.clone()], updated(&child, &child), &[]);
        // The owner is not known, or not yet.
        check(&[], Change::Added(child.clone()), &["child"]);
        check(std::slice::from_ref(&child), Change::Added(owner.clone()), &[]);
        // One of the same name has taken its place.
        let mut other = Item::clone(&owner);
        kube::Resource::meta_mut(&mut other).uid = Some("u-2".to_owned());
        check(
            &[owner.clone(), child],
            updated(&owner, &Arc::new(other)),
            &["child"],
        );
    }

    #[test]
    fn an_owner_that_waits_is_looked_at_when_a_dependent_lets_it_go() {
        let (owner, waiting) = (item("ns", "owner", json!({})), deleting("owner", FOREGROUND));
        let (blocking, free) = (
            owned("ns", "child", "owner", true),
            owned("ns", "child", "owner", false),
        );
        check(
            &[owner.clone(), blocking.clone()],
            updated(&owner, &waiting),
            &["child", "owner"],
        );
        check(
            &[waiting.clone(), blocking.clone()],
            Change::Deleted(blocking.clone()),
            &["owner"],
        );
        check(
            &[waiting.clone(), blocking.clone()],
            updated(&blocking, &free),
            &["child", "owner"],
        );
        let orphaned = item("ns", "child", json!({}));
        check(
            &[waiting.clone(), blocking.clone()],
            updated(&blocking, &orphaned),
            &["owner"],
        );
        // A dependent that comes late goes too.
        check(&[waiting], Change::Added(free), &["child"]);
        let (graph, _) = graph(&[owner, blocking]);
        assert_eq!(graph.blocking("u-owner").len(), 1);
    }

    #[test]
    fn an_owner_that_orphans_is_looked_at() {
        let owner = item("ns", "owner", json!({}));
        check(
            std::slice::from_ref(&owner),
            updated(&owner, &deleting("owner", ORPHAN)),
            &["owner"],
        );
        check(
            std::slice::from_ref(&owner),
            updated(&owner, &deleting("owner", "other")),
            &[],
        );
    }

    #[test]
    fn owners_in_other_namespaces_are_complained_about() {
        let (owner, child) = (
            item("ns", "owner", json!({})),
            owned("other", "child", "owner", false),
        );
        let misplaced = [Misplaced {
            dependent: "u-child".into(),
            owner: "u-owner".into(),
        }];
        for order in [[owner.clone(), child.clone()], [child.clone(), owner.clone()]] {
            let (graph, last) = graph(&order);
            assert_eq!(last.misplaced, misplaced);
            assert_eq!(last.look, [Arc::from("u-child")]);
            assert!(!graph.is_settled(&child));
        }
    }

    #[test]
    fn an_object_is_settled_while_its_owners_stay() {
        let (owner, child) = (
            item("ns", "owner", json!({})),
            owned("ns", "child", "owner", false),
        );
        assert!(graph(&[owner.clone(), child.clone()]).0.is_settled(&child));
        assert!(graph(std::slice::from_ref(&owner)).0.is_settled(&owner));
        assert!(!graph(std::slice::from_ref(&child)).0.is_settled(&child));
        assert!(
            !graph(&[deleting("owner", FOREGROUND), child.clone()])
                .0
                .is_settled(&child)
        );
    }

    #[test]
    fn nothing_is_kept_of_what_is_gone() {
        let (owner, child) = (
            item("ns", "owner", json!({})),
            owned("ns", "child", "owner", false),
        );
        let (mut graph, _) = graph(&[owner.clone(), child.clone()]);
        for item in [owner, child] {
            graph.observe(&kind("v1", "ConfigMap", true), &Change::Deleted(item));
        }
        assert!(graph.nodes.is_empty() && graph.dependents.is_empty());
    }
}
