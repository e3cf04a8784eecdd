//! Server-side apply: who has set which fields of an object, and what comes of applying a
//! configuration to it ("Server-Side Apply").
//!
//! [`applied`] and [`updated`] are pure: objects with their `metadata.managedFields` in, objects with
//! new ones out. `walk` goes through values by their types, `field_set` holds sets of fields.

mod field_set;
mod managers;
mod walk;

use serde_json::Value;

pub use managers::Writer;

use self::field_set::FieldSet;
use self::managers::Managers;
use self::walk::Node;
use crate::error::{ApiError, quote};
use crate::meta;
use crate::schema::{self, Type, TypeId};

/// Fields that nobody owns: the server sets them, or they say which object it is.
const UNOWNED: &[&[&str]] = &[
    &["apiVersion"],
    &["kind"],
    &["metadata", "name"],
    &["metadata", "namespace"],
    &["metadata", "creationTimestamp"],
    &["metadata", "selfLink"],
    &["metadata", "uid"],
    &["metadata", "generation"],
    &["metadata", "managedFields"],
    &["metadata", "resourceVersion"],
];

/// The most fields that are noted of who does not apply them.
const MOST_FIELDS: usize = 10_000;

/// Which part of an object is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    /// All of it, where the status is no subresource.
    Whole,
    /// All but the status.
    Main,
    /// The status alone.
    Status,
}

impl Part {
    /// Without the fields that writing this part does not set.
    fn of(self, set: FieldSet) -> FieldSet {
        match self {
            Part::Whole => set,
            Part::Main => set.without(&[&["status"]]),
            Part::Status => set.without(&[&["spec"], &["metadata"], &["data"], &["roleRef"]]),
        }
    }

    /// A configuration without them.
    fn of_object(self, object: &Value) -> Value {
        let mut object = object.clone();
        if let Some(object) = object.as_object_mut() {
            match self {
                Part::Whole => {}
                Part::Main => {
                    object.remove("status");
                }
                Part::Status => object
                    .retain(|name, _| matches!(name.as_str(), "apiVersion" | "kind" | "metadata" | "status")),
            }
        }
        object
    }
}

/// The type of objects that are written.
#[derive(Debug, Clone, Copy)]
pub struct Of {
    /// In the table of built-in types.
    pub ty: TypeId,
    /// What of them is written.
    pub part: Part,
}

impl Of {
    fn with<T>(self, look: impl FnOnce(Node<'_>) -> T) -> T {
        let ty = Type::Struct(self.ty);
        look(Node::root(schema::builtin(), &ty))
    }

    fn set(self, object: &Value) -> FieldSet {
        let fields = self.with(|root| root.fields(object));
        self.part.of(fields.without(UNOWNED))
    }
}

/// What comes of applying a configuration to an object that is there. `live` is the object as it is
/// served, null for one that is to be created.
///
/// # Errors
/// 409 with every field that somebody else has set to another value, unless `force`; 500 for what does
/// not fit the type.
pub fn applied(
    of: Of,
    live: &Value,
    configuration: &Value,
    writer: &Writer,
    force: bool,
) -> Result<Value, ApiError> {
    if let Some(why) = of.with(|root| root.misfit(configuration)) {
        return Err(ApiError::new(
            500,
            "",
            format!(
                "failed to create typed patch object ({}/{}; {}, Kind={}): {why}",
                meta::namespace(configuration),
                meta::name(configuration),
                configuration["apiVersion"].as_str().unwrap_or_default(),
                configuration["kind"].as_str().unwrap_or_default(),
            ),
        ));
    }
    let configuration = of.part.of_object(configuration);
    let mut managers = Managers::of(live);
    if managers.is_empty() && live.is_object() {
        managers.before_first_apply(of.set(live), writer);
    }
    let before = if live.is_object() { live.clone() } else { empty(of) };
    let merged = of.with(|root| root.merge(&before, &configuration));
    let former = managers.set_applied(writer, of.set(&configuration));
    // What the writer has applied before, applies no more, and nobody else has set. Each has applied the object's
    // name, too, though nobody owns it: what it is in stays.
    let name = of.with(|root| root.fields(&serde_json::json!({"metadata": {"name": ""}})));
    let abandoned = former
        .with_named_parents()
        .difference(&managers.all().union(name).with_named_parents());
    let mut merged = of.with(|root| root.without(&merged, &abandoned));
    let difference = of.with(|root| root.compare(&before, &merged));
    let changed = of
        .part
        .of(difference.modified.union(difference.added).without(UNOWNED));
    let conflicts = managers.conflicts(writer, &changed);
    if !conflicts.is_empty() && !force {
        return Err(conflict(&conflicts));
    }
    managers.take_applied(writer, &changed, &difference.removed);
    managers.write(live, &mut merged, writer);
    Ok(merged)
}

/// Notes in an object that somebody has written it by other means. `old` is null for a creation. Of an object with
/// so many fields that the notes would be larger than it, none are made.
pub fn updated(of: Of, old: &Value, new: &mut Value, writer: &Writer) {
    let mut managers = Managers::of(new);
    let before = if old.is_object() { old.clone() } else { empty(of) };
    let difference = of.with(|root| root.compare(&before, new));
    let changed = difference.modified.union(difference.added).without(UNOWNED);
    let own = of.part.of(changed.clone());
    if own.len() > MOST_FIELDS {
        meta::remove(new, "managedFields");
        return;
    }
    managers.take_updated(writer, &changed, &difference.removed, own);
    managers.write(old, new, writer);
}

/// Whether entries of `managedFields` say who has set which fields.
pub fn are_notes(entries: &[Value]) -> bool {
    Managers::are_readable(entries)
}

/// Whether it is noted who has set an object's fields.
pub fn is_tracked(object: &Value) -> bool {
    object["metadata"]["managedFields"]
        .as_array()
        .is_some_and(|entries| !entries.is_empty())
}

/// An object of a type with nothing in it, as Go writes it.
fn empty(of: Of) -> Value {
    let decoded = schema::decode_value(schema::builtin(), of.ty, Value::Object(serde_json::Map::new()));
    decoded.map(|decoded| decoded.value).unwrap_or_default()
}

fn conflict(conflicts: &[(String, Vec<String>)]) -> ApiError {
    let count: usize = conflicts.iter().map(|(_, fields)| fields.len()).sum();
    let causes: Vec<Value> = conflicts
        .iter()
        .flat_map(|(who, fields)| fields.iter().map(move |field| (who, field)))
        .map(|(who, field)| {
            serde_json::json!({
                "reason": "FieldManagerConflict",
                "message": format!("conflict with {who}"),
                "field": field,
            })
        })
        .collect();
    let plural = if count == 1 { "" } else { "s" };
    let message = match conflicts {
        [(who, fields)] if fields.len() == 1 => format!("conflict with {who}: {}", fields[0]),
        _ => {
            let told: Vec<String> = conflicts
                .iter()
                .map(|(who, fields)| format!("conflicts with {who}:\n- {}", fields.join("\n- ")))
                .collect();
            told.join("\n")
        }
    };
    ApiError {
        details: Some(serde_json::json!({"causes": causes})),
        ..ApiError::new(
            409,
            "Conflict",
            format!("Apply failed with {count} conflict{plural}: {message}"),
        )
    }
}

/// Who wrote, as conflicts name them.
fn shown(manager: &str, version: Option<&str>, subresource: &str) -> String {
    let mut text = quote(manager);
    if !subresource.is_empty() {
        text.push_str(&format!(" with subresource {}", quote(subresource)));
    }
    if let Some(version) = version {
        text.push_str(&format!(" using {version}"));
    }
    text
}

#[cfg(test)]
mod tests;
