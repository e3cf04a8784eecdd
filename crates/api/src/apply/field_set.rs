//! Sets of fields of an object, and their form in `managedFields` (FieldsV1).

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Map, Value, json};

/// One step of the way to a field.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Element {
    /// A field of a struct, or a key of a map.
    Field(String),
    /// An element of a list, by the JSON object of its keys.
    Key(String),
    /// An element of a list, by its JSON value.
    Value(String),
    /// An element of a list, by its place; only others write such.
    Index(String),
}

impl Element {
    fn parse(text: &str) -> Option<Element> {
        let (kind, rest) = text.split_once(':')?;
        let rest = rest.to_owned();
        Some(match kind {
            "f" => Element::Field(rest),
            "k" => Element::Key(canonical(&rest)?),
            "v" => Element::Value(canonical(&rest)?),
            "i" => Element::Index(rest),
            _ => return None,
        })
    }

    fn text(&self) -> String {
        match self {
            Element::Field(name) => format!("f:{name}"),
            Element::Key(keys) => format!("k:{keys}"),
            Element::Value(value) => format!("v:{value}"),
            Element::Index(at) => format!("i:{at}"),
        }
    }

    /// As a part of a path in messages.
    pub(super) fn shown(&self) -> String {
        match self {
            Element::Field(name) => format!(".{name}"),
            Element::Key(keys) => {
                let keys: Map<String, Value> = serde_json::from_str(keys).unwrap_or_default();
                let keys: Vec<String> = keys.iter().map(|(key, value)| format!("{key}={value}")).collect();
                format!("[{}]", keys.join(","))
            }
            Element::Value(value) => format!("[={value}]"),
            Element::Index(at) => format!("[{at}]"),
        }
    }
}

/// The text of a JSON value, its keys sorted.
fn canonical(json: &str) -> Option<String> {
    let value: Value = serde_json::from_str(json).ok()?;
    Some(value.to_string())
}

/// A set of fields: those at this level, and what is in the set below them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct FieldSet {
    members: BTreeSet<Element>,
    children: BTreeMap<Element, FieldSet>,
}

impl FieldSet {
    pub(super) fn is_empty(&self) -> bool {
        self.members.is_empty() && self.children.is_empty()
    }

    /// How many members there are.
    pub(super) fn len(&self) -> usize {
        let below = self.children.values().map(FieldSet::len);
        self.members.len() + below.sum::<usize>()
    }

    /// Adds a field, if it is a member itself, and what is below it.
    pub(super) fn add(&mut self, element: Element, member: bool, below: FieldSet) {
        if !below.is_empty() {
            let known = self.children.entry(element.clone()).or_default();
            *known = std::mem::take(known).union(below);
        }
        if member {
            self.members.insert(element);
        }
    }

    pub(super) fn has(&self, element: &Element) -> bool {
        self.members.contains(element)
    }

    /// What is in the set below a field.
    pub(super) fn below(&self, element: &Element) -> Option<&FieldSet> {
        self.children.get(element)
    }

    pub(super) fn union(mut self, other: FieldSet) -> FieldSet {
        self.members.extend(other.members);
        for (element, below) in other.children {
            let own = self.children.remove(&element).unwrap_or_default();
            self.children.insert(element, own.union(below));
        }
        self
    }

    /// What is in both.
    pub(super) fn intersection(&self, other: &FieldSet) -> FieldSet {
        self.combine(other, |own, theirs| own && theirs, FieldSet::intersection, false)
    }

    /// What is in this one only.
    pub(super) fn difference(&self, other: &FieldSet) -> FieldSet {
        self.combine(other, |own, theirs| own && !theirs, FieldSet::difference, true)
    }

    fn combine(
        &self,
        other: &FieldSet,
        keep: fn(bool, bool) -> bool,
        below: fn(&FieldSet, &FieldSet) -> FieldSet,
        keep_alone: bool,
    ) -> FieldSet {
        let members = self.members.iter();
        let mut result = FieldSet {
            members: members
                .filter(|element| keep(true, other.members.contains(*element)))
                .cloned()
                .collect(),
            children: BTreeMap::new(),
        };
        for (element, own) in &self.children {
            let rest = match other.children.get(element) {
                Some(theirs) => below(own, theirs),
                None if keep_alone => own.clone(),
                None => FieldSet::default(),
            };
            if !rest.is_empty() {
                result.children.insert(element.clone(), rest);
            }
        }
        result
    }

    /// This without fields, and all that is below them.
    pub(super) fn without(mut self, fields: &[&[&str]]) -> FieldSet {
        for path in fields {
            self.take(path);
        }
        self
    }

    fn take(&mut self, path: &[&str]) {
        let Some((first, rest)) = path.split_first() else {
            return;
        };
        let element = Element::Field((*first).to_owned());
        if rest.is_empty() {
            self.members.remove(&element);
            self.children.remove(&element);
        } else if let Some(below) = self.children.get_mut(&element) {
            below.take(rest);
            if below.is_empty() {
                self.children.remove(&element);
            }
        }
    }

    /// This with the fields on the way to its members as members, too; not elements of lists.
    pub(super) fn with_named_parents(&self) -> FieldSet {
        let mut members = self.members.clone();
        let named = self.children.keys();
        members.extend(
            named
                .filter(|element| matches!(element, Element::Field(_)))
                .cloned(),
        );
        let children = self.children.iter();
        FieldSet {
            members,
            children: children
                .map(|(element, below)| (element.clone(), below.with_named_parents()))
                .collect(),
        }
    }

    /// The paths of all members, as messages show them.
    pub(super) fn paths(&self) -> Vec<String> {
        let mut paths = Vec::new();
        self.collect_paths("", &mut paths);
        paths
    }

    fn collect_paths(&self, prefix: &str, paths: &mut Vec<String>) {
        for element in &self.members {
            paths.push(format!("{prefix}{}", element.shown()));
        }
        for (element, below) in &self.children {
            below.collect_paths(&format!("{prefix}{}", element.shown()), paths);
        }
    }

    /// Reads FieldsV1; what cannot be read is left out.
    pub(super) fn parse(fields: &Value) -> FieldSet {
        let mut set = FieldSet::default();
        for (text, below) in fields.as_object().into_iter().flatten() {
            let Some(element) = Element::parse(text) else {
                continue;
            };
            let is_leaf = below.as_object().is_none_or(Map::is_empty);
            let member = is_leaf || below.get(".").is_some();
            set.add(element, member, FieldSet::parse(below));
        }
        set
    }

    /// As FieldsV1.
    pub(super) fn to_json(&self) -> Value {
        let mut fields = Map::new();
        for element in &self.members {
            fields.insert(element.text(), json!({}));
        }
        for (element, below) in &self.children {
            let mut shown = below.to_json();
            if self.members.contains(element) {
                shown["."] = json!({});
            }
            fields.insert(element.text(), shown);
        }
        fields.into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_set_comes_back_as_it_was_written() {
        let fields = json!({
            "f:metadata": {"f:labels": {".": {}, "f:app": {}}, "f:finalizers": {"v:\"a\"": {}}},
            "f:spec": {"f:replicas": {}, "f:ports": {"k:{\"containerPort\":80,\"protocol\":\"TCP\"}": {".": {}, "f:name": {}}}},
        });
        let set = FieldSet::parse(&fields);
        assert_eq!(set.to_json(), fields);
        assert_eq!(
            set.paths(),
            [
                ".metadata.labels",
                ".metadata.finalizers[=\"a\"]",
                ".metadata.labels.app",
                ".spec.replicas",
                ".spec.ports[containerPort=80,protocol=\"TCP\"]",
                ".spec.ports[containerPort=80,protocol=\"TCP\"].name",
            ]
        );
    }

    #[test]
    fn sets_are_combined_by_their_members() {
        let set = |fields| FieldSet::parse(&fields);
        let a = set(json!({"f:data": {".": {}, "f:a": {}, "f:b": {}}}));
        let b = set(json!({"f:data": {"f:b": {}, "f:c": {}}}));
        assert_eq!(a.intersection(&b), set(json!({"f:data": {"f:b": {}}})));
        assert_eq!(a.difference(&b), set(json!({"f:data": {".": {}, "f:a": {}}})));
        assert_eq!(
            a.clone().union(b.clone()),
            set(json!({"f:data": {".": {}, "f:a": {}, "f:b": {}, "f:c": {}}}))
        );
        assert_eq!(
            b.with_named_parents(),
            set(json!({"f:data": {".": {}, "f:b": {}, "f:c": {}}}))
        );
        assert!(a.without(&[&["data"]]).is_empty());
    }
}
