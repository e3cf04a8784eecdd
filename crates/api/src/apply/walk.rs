//! Goes through values by their types, as server-side apply sees them: which fields they have, what
//! differs between two, how one is merged into another, and what is left when fields are taken away.
//!
//! Lists are atomic, sets of scalars, or told apart by keys; maps and structs are atomic or taken
//! field by field ("Merge strategy" in the page on server-side apply).

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Map, Value};

use super::field_set::{Element, FieldSet};
use crate::error::quote;
use crate::schema::{Field, ListType, Schema, Struct, Type};

/// A place in a type.
#[derive(Clone, Copy)]
pub(super) struct Node<'s> {
    schema: &'s Schema,
    ty: &'s Type,
    /// The field of a struct that holds it, which says how lists and maps are merged.
    field: Option<&'s Field>,
}

/// How a value is taken apart.
enum Shape<'s> {
    /// As a whole.
    Leaf,
    Struct(&'s Struct),
    Map(&'s Type),
    Set,
    /// A list of objects with the fields that tell them apart.
    Keyed(&'s [&'static str], &'s Type),
}

/// What differs between two values.
#[derive(Debug, Default)]
pub(super) struct Difference {
    pub(super) added: FieldSet,
    pub(super) removed: FieldSet,
    pub(super) modified: FieldSet,
}

/// How a field itself differs; what is below it is told apart from that.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Own {
    Same,
    Added,
    Removed,
    Modified,
}

impl Own {
    fn of(old: Option<&Value>, new: Option<&Value>, whole: bool) -> Own {
        match (old, new) {
            (None, Some(_)) => Own::Added,
            (Some(_), None) => Own::Removed,
            (old, new) if whole && old != new => Own::Modified,
            _ => Own::Same,
        }
    }
}

impl<'s> Node<'s> {
    /// The place of a whole object.
    pub(super) fn root(schema: &'s Schema, ty: &'s Type) -> Node<'s> {
        Node {
            schema,
            ty,
            field: None,
        }
    }

    fn shape(&self) -> Shape<'s> {
        match self.ty {
            Type::Struct(id) => {
                let of = self.schema.get(*id);
                if of.atomic || self.field.is_some_and(|field| field.atomic_map) {
                    Shape::Leaf
                } else {
                    Shape::Struct(of)
                }
            }
            Type::Map(_, element) if self.field.is_none_or(|field| !field.atomic_map) => Shape::Map(element),
            Type::List(element) => match self.field {
                Some(field) if field.list == ListType::Set => Shape::Set,
                Some(field) if field.list == ListType::Map => Shape::Keyed(&field.list_keys, element),
                _ => Shape::Leaf,
            },
            _ => Shape::Leaf,
        }
    }

    fn child(&self, ty: &'s Type) -> Node<'s> {
        Node {
            schema: self.schema,
            ty,
            field: None,
        }
    }

    /// The place of a field of a struct; none for one that the type does not have.
    fn field(&self, of: &'s Struct, name: &str) -> Option<Node<'s>> {
        let field = of.field(name)?;
        Some(Node {
            schema: self.schema,
            ty: &field.ty,
            field: Some(field),
        })
    }

    /// The place of a member of an object, and whether it is a key of a map.
    fn member(&self, shape: &Shape<'s>, name: &str) -> (Option<Node<'s>>, bool) {
        match shape {
            Shape::Struct(of) => (self.field(of, name), false),
            Shape::Map(element) => (Some(self.child(element)), true),
            _ => (None, false),
        }
    }

    /// An element of a list as a step of a path.
    fn element(&self, shape: &Shape<'s>, item: &Value) -> Option<Element> {
        match shape {
            Shape::Set => Some(Element::Value(item.to_string())),
            Shape::Keyed(keys, ty) => {
                let item = item.as_object()?;
                let default = |name: &str| match ty {
                    Type::Struct(id) => {
                        let default = self.schema.get(*id).field(name)?.default?;
                        Some(Value::from(default))
                    }
                    _ => None,
                };
                let found = keys.iter().filter_map(|name| {
                    let value = item.get(*name).filter(|value| !value.is_null()).cloned();
                    Some(((*name).to_owned(), value.or_else(|| default(name))?))
                });
                Some(Element::Key(Value::Object(found.collect()).to_string()))
            }
            _ => None,
        }
    }

    /// The place of the elements of a list.
    fn items(&self, shape: &Shape<'s>) -> Option<Node<'s>> {
        match shape {
            Shape::Keyed(_, ty) => Some(self.child(ty)),
            _ => None,
        }
    }

    fn indexed<'v>(&self, shape: &Shape<'s>, list: &'v Value) -> Vec<(Element, &'v Value)> {
        let items = list.as_array().into_iter().flatten();
        items
            .filter_map(|item| Some((self.element(shape, item)?, item)))
            .collect()
    }

    /// The fields that a value has, below its own.
    pub(super) fn fields(&self, value: &Value) -> FieldSet {
        let mut set = FieldSet::default();
        let shape = self.shape();
        match (&shape, value) {
            (Shape::Struct(_) | Shape::Map(_), Value::Object(members)) => {
                for (name, value) in members {
                    let (node, of_map) = self.member(&shape, name);
                    let below = node.map(|node| (node.is_leaf(value), node.fields(value)));
                    let (leaf, below) = below.unwrap_or((true, FieldSet::default()));
                    let empty = value.is_null() || value.as_object().is_some_and(Map::is_empty);
                    set.add(Element::Field(name.clone()), leaf || empty || of_map, below);
                }
            }
            (Shape::Set | Shape::Keyed(..), Value::Array(_)) => {
                for (element, item) in self.indexed(&shape, value) {
                    let below = self.items(&shape).map(|node| node.fields(item));
                    set.add(element, true, below.unwrap_or_default());
                }
            }
            _ => {}
        }
        set
    }

    /// Whether a value is a field as a whole.
    fn is_leaf(&self, value: &Value) -> bool {
        match self.shape() {
            Shape::Leaf => true,
            Shape::Struct(_) | Shape::Map(_) => !value.is_object(),
            Shape::Set | Shape::Keyed(..) => !value.is_array() && !value.is_null(),
        }
    }

    /// What differs between two objects.
    pub(super) fn compare(&self, old: &Value, new: &Value) -> Difference {
        self.differ(Some(old), Some(new)).1
    }

    fn differ(&self, old: Option<&Value>, new: Option<&Value>) -> (Own, Difference) {
        let shape = self.shape();
        let is_void = |value: Option<&Value>| match value {
            None | Some(Value::Null) => true,
            Some(Value::Object(members)) => members.is_empty(),
            Some(Value::Array(items)) => items.is_empty(),
            Some(_) => false,
        };
        let whole = matches!(shape, Shape::Leaf)
            || (is_void(old) && is_void(new))
            || [old, new]
                .into_iter()
                .flatten()
                .any(|value| self.is_leaf(value) && !value.is_null());
        let own = Own::of(old, new, whole);
        let mut difference = Difference::default();
        if !whole {
            match &shape {
                Shape::Set | Shape::Keyed(..) => self.differ_lists(&shape, old, new, &mut difference),
                _ => self.differ_objects(&shape, old, new, &mut difference),
            }
        }
        (own, difference)
    }

    fn differ_objects(
        &self,
        shape: &Shape<'s>,
        old: Option<&Value>,
        new: Option<&Value>,
        difference: &mut Difference,
    ) {
        let none = Map::new();
        let old = old.and_then(Value::as_object).unwrap_or(&none);
        let new = new.and_then(Value::as_object).unwrap_or(&none);
        let gone = old.keys().filter(|name| !new.contains_key(*name));
        for name in new.keys().chain(gone) {
            let (old, new) = (old.get(name), new.get(name));
            let (own, below) = match self.member(shape, name).0 {
                Some(node) => node.differ(old, new),
                None => unknown(old, new),
            };
            difference.put(Element::Field(name.clone()), own, below);
        }
    }

    fn differ_lists(
        &self,
        shape: &Shape<'s>,
        old: Option<&Value>,
        new: Option<&Value>,
        difference: &mut Difference,
    ) {
        let none = Value::Null;
        let (old, new) = (old.unwrap_or(&none), new.unwrap_or(&none));
        let (old, new) = (self.indexed(shape, old), self.indexed(shape, new));
        let (before, after) = (by_element(&old), by_element(&new));
        let gone = old.iter().filter(|(element, _)| !after.contains_key(element));
        for (element, _) in new.iter().chain(gone) {
            let (before, after) = (before.get(element).copied(), after.get(element).copied());
            let (own, below) = match self.items(shape) {
                Some(node) => node.differ(before, after),
                None => unknown(before, after),
            };
            difference.put(element.clone(), own, below);
        }
    }

    /// What comes of putting what a client applies over what is there.
    pub(super) fn merge(&self, live: &Value, applied: &Value) -> Value {
        let shape = self.shape();
        match (&shape, live, applied) {
            (Shape::Struct(_) | Shape::Map(_), Value::Object(live), Value::Object(applied)) => {
                let mut merged = live.clone();
                for (name, value) in applied {
                    let node = self.member(&shape, name).0;
                    let value = match (node, live.get(name)) {
                        (Some(node), Some(before)) => node.merge(before, value),
                        _ => value.clone(),
                    };
                    merged.insert(name.clone(), value);
                }
                merged.into()
            }
            (Shape::Set | Shape::Keyed(..), Value::Array(_), Value::Array(_)) => {
                self.merge_lists(&shape, live, applied)
            }
            // As if nothing were in it: what others have put there stays.
            (Shape::Struct(_) | Shape::Map(_), Value::Object(members), Value::Null)
                if !members.is_empty() =>
            {
                live.clone()
            }
            (Shape::Set | Shape::Keyed(..), Value::Array(items), Value::Null) if !items.is_empty() => {
                live.clone()
            }
            _ => applied.clone(),
        }
    }

    /// Elements keep the order in which they are applied; those that are only there already keep
    /// their place before the one that followed them.
    fn merge_lists(&self, shape: &Shape<'s>, live: &Value, applied: &Value) -> Value {
        let (live, applied) = (self.indexed(shape, live), self.indexed(shape, applied));
        let (before, after) = (by_element(&live), by_element(&applied));
        let merged = |element: &Element| {
            let after = after.get(element).copied().unwrap_or(&Value::Null);
            match (self.items(shape), before.get(element)) {
                (Some(node), Some(before)) => node.merge(before, after),
                _ => after.clone(),
            }
        };
        let mut out = Vec::new();
        let mut waiting = applied.iter().map(|(element, _)| element).peekable();
        let mut done: BTreeSet<&Element> = BTreeSet::new();
        for (element, item) in &live {
            if !after.contains_key(element) {
                out.push((*item).clone());
                continue;
            }
            if done.contains(element) {
                continue;
            }
            // All that is applied up to this one, where those are not further on in what is there.
            while let Some(next) = waiting.peek() {
                let here = *next == element;
                if !here && before.contains_key(next) {
                    break;
                }
                out.push(merged(next));
                done.insert(next);
                waiting.next();
                if here {
                    break;
                }
            }
        }
        out.extend(waiting.filter(|element| !done.contains(element)).map(merged));
        out.into()
    }

    /// A value without fields; none where nothing is left of it.
    pub(super) fn without(&self, value: &Value, fields: &FieldSet) -> Value {
        let shape = self.shape();
        match (&shape, value) {
            (Shape::Struct(_) | Shape::Map(_), Value::Object(members)) => {
                let mut left = Map::new();
                for (name, value) in members {
                    let element = Element::Field(name.clone());
                    if fields.has(&element) {
                        continue;
                    }
                    let value = match (fields.below(&element), self.member(&shape, name).0) {
                        (Some(below), Some(node)) => node.without(value, below),
                        _ => value.clone(),
                    };
                    left.insert(name.clone(), value);
                }
                if left.is_empty() { Value::Null } else { left.into() }
            }
            (Shape::Set | Shape::Keyed(..), Value::Array(items)) => {
                let mut left = Vec::new();
                for item in items {
                    let Some(element) = self.element(&shape, item) else {
                        left.push(item.clone());
                        continue;
                    };
                    if fields.has(&element) {
                        continue;
                    }
                    left.push(match (fields.below(&element), self.items(&shape)) {
                        (Some(below), Some(node)) => node.without(item, below),
                        _ => item.clone(),
                    });
                }
                if left.is_empty() { Value::Null } else { left.into() }
            }
            _ => value.clone(),
        }
    }

    /// The first thing in what is applied that does not fit the type, after its path: a field that the type does
    /// not have, an element without the keys of its list, or the second one with the same.
    pub(super) fn misfit(&self, value: &Value) -> Option<String> {
        let shape = self.shape();
        match (self.ty, value) {
            (Type::Struct(id), Value::Object(members)) => {
                let of = self.schema.get(*id);
                members
                    .iter()
                    .find_map(|(name, value)| match self.field(of, name) {
                        None => Some(format!(".{name}: field not declared in schema")),
                        Some(node) => Some(format!(".{name}{}", node.misfit(value)?)),
                    })
            }
            (Type::Map(_, element), Value::Object(members)) => members
                .iter()
                .find_map(|(name, value)| Some(format!(".{name}{}", self.child(element).misfit(value)?))),
            (Type::List(element), Value::Array(items)) => {
                let mut seen = BTreeSet::new();
                items.iter().enumerate().find_map(|(at, item)| {
                    if let Some(key) = self.missing_key(&shape, item) {
                        return Some(format!(
                            ": element {at}: associative list with keys has an element that omits key field {} (and doesn't have default value)",
                            quote(key)
                        ));
                    }
                    let own = self.element(&shape, item);
                    let step = own.as_ref().map_or_else(|| format!("[{at}]"), Element::shown);
                    if own.is_some_and(|own| !seen.insert(own)) {
                        return Some(format!(": duplicate entries for key {step}"));
                    }
                    Some(format!("{step}{}", self.child(element).misfit(item)?))
                })
            }
            _ => None,
        }
    }

    /// A key of a list that one of its elements lacks.
    fn missing_key(&self, shape: &Shape<'s>, item: &Value) -> Option<&'s str> {
        let Shape::Keyed(keys, Type::Struct(id)) = shape else {
            return None;
        };
        let item = item.as_object()?;
        let of = self.schema.get(*id);
        keys.iter().copied().find(|key| {
            item.get(*key).is_none_or(Value::is_null)
                && of.field(key).is_none_or(|field| field.default.is_none())
        })
    }
}

/// Elements of a list by their keys; of several with the same the first counts.
fn by_element<'l>(list: &'l [(Element, &'l Value)]) -> BTreeMap<&'l Element, &'l Value> {
    list.iter()
        .rev()
        .map(|(element, item)| (element, *item))
        .collect()
}

/// What differs between values without a type, which are taken as a whole.
fn unknown(old: Option<&Value>, new: Option<&Value>) -> (Own, Difference) {
    (Own::of(old, new, true), Difference::default())
}

impl Difference {
    fn put(&mut self, element: Element, own: Own, below: Difference) {
        self.added.add(element.clone(), own == Own::Added, below.added);
        self.removed
            .add(element.clone(), own == Own::Removed, below.removed);
        self.modified.add(element, own == Own::Modified, below.modified);
    }
}
