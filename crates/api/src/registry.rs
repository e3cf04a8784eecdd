//! The registry: one entry per kind, from which everything the API server offers of it follows.

use std::collections::HashMap;
use std::sync::LazyLock;

use serde_json::Value;

use crate::names::NameRule;
use crate::object::Logic;
use crate::schema::{self, TypeId};

/// The verbs of an ordinary resource.
pub const ALL_VERBS: &[&str] = &[
    "create",
    "delete",
    "deletecollection",
    "get",
    "list",
    "patch",
    "update",
    "watch",
];

/// A kind of the API and the resource it is served as.
#[derive(Debug)]
pub struct Kind {
    /// API group; empty for the core group.
    pub group: &'static str,
    /// Version within the group.
    pub version: &'static str,
    /// e.g. `StatefulSet`.
    pub kind: &'static str,
    /// e.g. `statefulsets`.
    pub plural: &'static str,
    /// e.g. `statefulset`.
    pub singular: &'static str,
    /// e.g. `sts`.
    pub short_names: &'static [&'static str],
    /// e.g. `all`.
    pub categories: &'static [&'static str],
    /// Whether its objects live in namespaces.
    pub namespaced: bool,
    /// Its type's name in OpenAPI documents.
    pub type_name: &'static str,
    /// What can be done with it.
    pub verbs: &'static [&'static str],
    /// Subresources; none is served that is not named here.
    pub subresources: &'static [Subresource],
    /// What its objects' names must look like.
    pub name_rule: NameRule,
    /// Updates without a resourceVersion are let through.
    pub unconditional_update: bool,
    /// A PUT to a name that is not there creates the object.
    pub create_on_update: bool,
    /// The status that an object is created with is kept, though it is a subresource.
    pub keeps_status_on_create: bool,
    /// How often, and as what, an update's metadata is checked by the kind itself, after the check
    /// that every update gets. An error is told as often.
    pub update_metadata: &'static [MetadataCheck],
    /// A new object's metadata is checked only when all else is well, and by the rules of a path
    /// segment.
    pub metadata_last: bool,
    /// `metadata.generation` counts changes of the spec.
    pub generation: Generation,
    /// What it owns stays when it is deleted, unless the request says otherwise.
    pub orphans_dependents: bool,
    /// Fields that field selectors may name beside `metadata.name` and `metadata.namespace`:
    /// the selector's name and where it is found.
    pub selectable: &'static [(&'static str, &'static [&'static str])],
    /// The table's columns.
    pub columns: &'static [Column],
    /// Defaults, checks and rows.
    pub logic: Logic,
    /// Objects are stored as another kind, of the same resource in another group.
    pub stored_as: Option<StoredAs>,
    /// What an event tells of each new object, where the object is kept but nothing acts on it as
    /// upstream does.
    pub caveat: Option<&'static str>,
}

/// A check of the metadata within that of a kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MetadataCheck {
    /// As at creation.
    Create,
    /// As at an update.
    Update,
}

/// What `metadata.generation` counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Generation {
    /// The kind has no generation.
    None,
    /// Changes to `spec`.
    Spec,
    /// Changes to `spec` or to annotations.
    SpecAndAnnotations,
    /// Changes to anything but metadata and status.
    Content,
}

/// A kind that is another view of stored objects.
#[derive(Debug, Clone, Copy)]
pub struct StoredAs {
    /// Group of the stored kind.
    pub group: &'static str,
    /// From this kind to the stored one.
    pub to_stored: fn(Value) -> Value,
    /// From the stored kind to this one.
    pub from_stored: fn(Value) -> Value,
    /// From the name of a selectable field of this kind to that of the stored one.
    pub stored_field: fn(&str) -> String,
}

/// A subresource of a kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Subresource {
    /// e.g. `status`.
    pub name: &'static str,
    /// Group and version of its kind, where they are not the resource's own.
    pub group_version: Option<(&'static str, &'static str)>,
    /// The kind of its bodies.
    pub kind: &'static str,
    /// What can be done with it.
    pub verbs: &'static [&'static str],
}

impl Subresource {
    /// `status`, of the kind itself.
    pub const fn status(kind: &'static str) -> Subresource {
        Subresource {
            name: "status",
            group_version: None,
            kind,
            verbs: &["get", "patch", "update"],
        }
    }

    /// One whose bodies are of a kind of the same group and version.
    pub const fn part(name: &'static str, kind: &'static str, verbs: &'static [&'static str]) -> Subresource {
        Subresource {
            name,
            group_version: None,
            kind,
            verbs,
        }
    }

    /// `proxy`: requests go on to what is behind the object.
    pub const fn proxy(kind: &'static str) -> Subresource {
        Subresource::part("proxy", kind, &["create", "delete", "get", "patch", "update"])
    }

    /// `scale`, an `autoscaling/v1` Scale.
    pub const SCALE: Subresource = Subresource {
        name: "scale",
        group_version: Some(("autoscaling", "v1")),
        kind: "Scale",
        verbs: &["get", "patch", "update"],
    };
}

/// A column of a kind's table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Column {
    /// Its head as the API gives it, e.g. `Nominated Node`.
    pub name: &'static str,
    /// `string`, `integer`, …
    pub ty: &'static str,
    /// `name` for the column that names the object.
    pub format: &'static str,
    /// Shown only with `-o wide` when above zero.
    pub priority: u8,
    /// For people.
    pub description: &'static str,
}

impl Column {
    /// The column that names the object.
    pub const NAME: Column = Column {
        name: "Name",
        ty: "string",
        format: "name",
        priority: 0,
        description: "name of the object",
    };

    /// How old the object is.
    pub const AGE: Column = Column::new("Age", "time since the object was created");

    /// A text that is always shown.
    pub const fn new(name: &'static str, description: &'static str) -> Column {
        Column {
            name,
            ty: "string",
            format: "",
            priority: 0,
            description,
        }
    }

    /// A text that is shown with `-o wide`.
    pub const fn wide(name: &'static str, description: &'static str) -> Column {
        Column {
            priority: 1,
            ..Column::new(name, description)
        }
    }

    /// A whole number that is always shown.
    pub const fn integer(name: &'static str, description: &'static str) -> Column {
        Column {
            ty: "integer",
            ..Column::new(name, description)
        }
    }
}

impl Kind {
    /// An ordinary kind, to be completed with `..`.
    pub const fn new(
        (group, version, kind): (&'static str, &'static str, &'static str),
        (plural, singular): (&'static str, &'static str),
        type_name: &'static str,
        logic: Logic,
    ) -> Kind {
        Kind {
            group,
            version,
            kind,
            plural,
            singular,
            short_names: &[],
            categories: &[],
            namespaced: true,
            type_name,
            verbs: ALL_VERBS,
            subresources: &[],
            name_rule: crate::names::dns_subdomain,
            unconditional_update: true,
            create_on_update: false,
            keeps_status_on_create: false,
            update_metadata: &[MetadataCheck::Update, MetadataCheck::Create],
            metadata_last: false,
            generation: Generation::None,
            orphans_dependents: false,
            selectable: &[],
            columns: &[
                Column::NAME,
                Column {
                    ty: "date",
                    ..Column::AGE
                },
            ],
            logic,
            stored_as: None,
            caveat: None,
        }
    }

    /// `apiVersion` of its objects.
    pub fn api_version(&self) -> String {
        api_version(self.group, self.version)
    }

    /// Its type in the table of built-in types.
    pub fn type_id(&self) -> TypeId {
        schema::builtin()
            .find(self.type_name)
            .expect("every registered kind's type is in the table")
    }

    /// The subresource of a name.
    pub fn subresource(&self, name: &str) -> Option<&'static Subresource> {
        self.subresources
            .iter()
            .find(|subresource| subresource.name == name)
    }

    /// Whether status is a subresource, which the main resource's writes leave alone.
    pub fn has_status(&self) -> bool {
        self.subresource("status").is_some()
    }

    /// The value of a selectable field, as text.
    pub fn field(&self, object: &Value, name: &str) -> Option<String> {
        let path = match name {
            "metadata.name" => &["metadata", "name"][..],
            "metadata.namespace" => &["metadata", "namespace"],
            _ => self
                .selectable
                .iter()
                .find(|(label, _)| *label == name)
                .map(|(_, path)| *path)?,
        };
        let value = path.iter().try_fold(object, |value, key| value.get(key));
        Some(match value {
            None | Some(Value::Null) => match name {
                // A bool that is not there is false.
                "spec.hostNetwork" | "spec.unschedulable" => "false".to_owned(),
                "status.successful" => "0".to_owned(),
                _ => String::new(),
            },
            Some(Value::String(text)) => text.clone(),
            // Such a field may be named, but has no value that a selector could match.
            Some(Value::Array(_) | Value::Object(_)) => String::new(),
            Some(other) => other.to_string(),
        })
    }

    /// Whether a field selector may name this field.
    pub fn is_selectable(&self, name: &str) -> bool {
        matches!(name, "metadata.name")
            || (name == "metadata.namespace" && self.namespaced)
            || self.selectable.iter().any(|(label, _)| *label == name)
    }
}

/// `group/version`, or the version alone in the core group.
pub fn api_version(group: &str, version: &str) -> String {
    if group.is_empty() {
        version.to_owned()
    } else {
        format!("{group}/{version}")
    }
}

/// The kinds that are served.
#[derive(Debug)]
pub struct Registry {
    kinds: Vec<&'static Kind>,
    by_resource: HashMap<(&'static str, &'static str, &'static str), &'static Kind>,
}

static BUILTIN: LazyLock<Registry> = LazyLock::new(|| Registry::new(crate::kinds::all()));

/// The registry of the built-in kinds.
pub fn builtin() -> &'static Registry {
    &BUILTIN
}

impl Registry {
    fn new(kinds: Vec<&'static Kind>) -> Registry {
        let by_resource = kinds
            .iter()
            .map(|kind| ((kind.group, kind.version, kind.plural), *kind))
            .collect();
        Registry { kinds, by_resource }
    }

    /// All kinds, in the order registered.
    pub fn kinds(&self) -> impl Iterator<Item = &'static Kind> {
        self.kinds.iter().copied()
    }

    /// The kind that a path names.
    pub fn resource(&self, group: &str, version: &str, plural: &str) -> Option<&'static Kind> {
        self.by_resource.get(&(group, version, plural)).copied()
    }

    /// The kind of an object.
    pub fn kind(&self, api_version: &str, kind: &str) -> Option<&'static Kind> {
        let (group, version) = api_version.split_once('/').unwrap_or(("", api_version));
        self.kinds()
            .find(|k| k.kind == kind && k.version == version && k.group == group)
    }

    /// Group and versions, groups in the order of discovery: core first, then by name.
    pub fn group_versions(&self) -> Vec<(&'static str, Vec<&'static str>)> {
        let mut groups: Vec<(&str, Vec<&str>)> = Vec::new();
        for kind in &self.kinds {
            match groups.iter_mut().find(|(group, _)| *group == kind.group) {
                Some((_, versions)) if versions.contains(&kind.version) => {}
                Some((_, versions)) => versions.push(kind.version),
                None => groups.push((kind.group, vec![kind.version])),
            }
        }
        groups.sort_by_key(|(group, _)| *group);
        groups
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_has_its_type_and_as_many_cells_as_columns() {
        for kind in builtin().kinds() {
            let mut object = schema::decode_value(
                schema::builtin(),
                kind.type_id(),
                serde_json::json!({"metadata": {"name": "x"}}),
            )
            .expect("an empty object is of every kind")
            .value;
            (kind.logic.set_defaults)(&mut object).expect("defaults of an empty object");
            let row = (kind.logic.row)(&object, Timestamp::UNIX_EPOCH).expect("a row of an empty object");
            assert_eq!(row.len(), kind.columns.len(), "{}", kind.kind);
        }
    }

    #[test]
    fn every_kind_is_in_the_documentation() {
        // Where tests run: several checkouts may share what is built.
        let page = std::fs::read_to_string("../../docs/api.md").expect("docs/api.md is there");
        for kind in builtin().kinds() {
            let group = if kind.group.is_empty() { "core" } else { kind.group };
            let is_told = page.lines().any(|line| {
                let cells: Vec<&str> = line.split('|').map(str::trim).collect();
                cells.len() > 3
                    && cells[1] == group
                    && cells[2].split(", ").any(|version| version == kind.version)
                    && cells[3].split(", ").any(|plural| plural == kind.plural)
            });
            assert!(is_told, "{} {} {}", group, kind.version, kind.plural);
        }
    }

    use jiff::Timestamp;
}
