//! Schemas of types, as far as operations reach them.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};

use crate::registry::{Kind, Registry};
use crate::schema::{self, Field, ListType, Schema, Struct, Type, TypeId};

const META: &str = "io.k8s.apimachinery.pkg.apis.meta.v1";

/// The schemas that a document needs.
pub(super) struct Schemas {
    table: &'static Schema,
    /// Types that are kinds: group, version, kind.
    kinds: BTreeMap<&'static str, [&'static str; 3]>,
    group_version: (String, String),
    made: BTreeMap<String, Value>,
}

impl Schemas {
    pub(super) fn new(registry: &Registry, group: &str, version: &str) -> Schemas {
        let mut kinds = BTreeMap::new();
        for kind in registry.kinds() {
            kinds.insert(kind.type_name, [kind.group, kind.version, kind.kind]);
            for subresource in kind.subresources {
                let (group, version) = subresource.group_version.unwrap_or((kind.group, kind.version));
                if let Some(ty) = type_of(group, version, subresource.kind) {
                    let name = schema::builtin().get(ty).name;
                    kinds.insert(name, [group, version, subresource.kind]);
                }
            }
        }
        Schemas {
            table: schema::builtin(),
            kinds,
            group_version: (group.to_owned(), version.to_owned()),
            made: BTreeMap::new(),
        }
    }

    /// All that were asked for, and what they refer to.
    pub(super) fn finish(self) -> Map<String, Value> {
        self.made.into_iter().collect()
    }

    /// A reference to a kind's type.
    pub(super) fn kind(&mut self, kind: &Kind) -> Value {
        self.of_struct(kind.type_id())
    }

    /// A reference to the list of a kind. Lists are not in the table: all have the same form.
    pub(super) fn list(&mut self, kind: &Kind) -> Value {
        let name = format!("{}List", kind.type_name);
        if !self.made.contains_key(&name) {
            let items = self.kind(kind);
            let metadata = self.named(&format!("{META}.ListMeta"));
            let list = json!({
                "type": "object",
                "required": ["items"],
                "properties": {
                    "apiVersion": {"type": "string"},
                    "kind": {"type": "string"},
                    "metadata": metadata,
                    "items": {"type": "array", "items": items},
                },
                "x-kubernetes-group-version-kind": [
                    {"group": kind.group, "version": kind.version, "kind": format!("{}List", kind.kind)},
                ],
            });
            self.made.insert(name.clone(), list);
        }
        reference(&name)
    }

    /// A reference to the kind of a subresource's bodies; none where it has no type in the table.
    pub(super) fn subresource(&mut self, group: &str, version: &str, kind: &str) -> Option<Value> {
        type_of(group, version, kind).map(|ty| self.of_struct(ty))
    }

    /// A reference to the `Status` of an answer.
    pub(super) fn status(&mut self) -> Value {
        self.named(&format!("{META}.Status"))
    }

    /// A reference to the options of a deletion.
    pub(super) fn delete_options(&mut self) -> Value {
        self.named(&format!("{META}.DeleteOptions"))
    }

    /// A reference to any patch.
    pub(super) fn patch(&mut self) -> Value {
        self.plain(&format!("{META}.Patch"), json!({"type": "object"}))
    }

    fn named(&mut self, name: &str) -> Value {
        let ty = self
            .table
            .find(name)
            .expect("the types of every answer are in the table");
        self.of_struct(ty)
    }

    fn plain(&mut self, name: &str, schema: Value) -> Value {
        self.made.entry(name.to_owned()).or_insert(schema);
        reference(name)
    }

    fn of_struct(&mut self, ty: TypeId) -> Value {
        let ty = self.table.get(ty);
        if !self.made.contains_key(ty.name) {
            // First of all, since a type may hold itself.
            self.made.insert(ty.name.to_owned(), Value::Null);
            let schema = self.object(ty);
            self.made.insert(ty.name.to_owned(), schema);
        }
        reference(ty.name)
    }

    fn object(&mut self, ty: &Struct) -> Value {
        let mut schema = json!({"type": "object"});
        let properties: Map<String, Value> = ty
            .fields()
            .iter()
            .map(|field| (field.name.to_owned(), self.property(field)))
            .collect();
        let required: Vec<&str> = ty
            .fields()
            .iter()
            .filter(|field| field.required)
            .map(|field| field.name)
            .collect();
        if !properties.is_empty() {
            schema["properties"] = properties.into();
        }
        if !required.is_empty() {
            schema["required"] = required.into();
        }
        if ty.atomic {
            schema["x-kubernetes-map-type"] = "atomic".into();
        }
        if let Some([group, version, kind]) = self.kinds.get(ty.name) {
            schema["x-kubernetes-group-version-kind"] =
                json!([{"group": group, "version": version, "kind": kind}]);
        } else if ty.name.ends_with(".DeleteOptions") {
            let (group, version) = &self.group_version;
            schema["x-kubernetes-group-version-kind"] =
                json!([{"group": group, "version": version, "kind": "DeleteOptions"}]);
        } else if ty.name.ends_with("meta.v1.Status") {
            schema["x-kubernetes-group-version-kind"] =
                json!([{"group": "", "version": "v1", "kind": "Status"}]);
        }
        schema
    }

    fn property(&mut self, field: &Field) -> Value {
        let mut more = Map::new();
        if matches!(field.ty, Type::List(_)) {
            let list = match field.list {
                ListType::Atomic => "atomic",
                ListType::Set => "set",
                ListType::Map => "map",
            };
            more.insert("x-kubernetes-list-type".to_owned(), list.into());
            if !field.list_keys.is_empty() {
                more.insert("x-kubernetes-list-map-keys".to_owned(), json!(field.list_keys));
            }
        }
        if field.atomic_map {
            more.insert("x-kubernetes-map-type".to_owned(), "atomic".into());
        }
        let strategy = match (field.patch_merge, field.patch_retain_keys) {
            (true, true) => Some("merge,retainKeys"),
            (true, false) => Some("merge"),
            (false, true) => Some("retainKeys"),
            (false, false) => None,
        };
        if let Some(strategy) = strategy {
            more.insert("x-kubernetes-patch-strategy".to_owned(), strategy.into());
        }
        if let Some(key) = field.patch_merge_key {
            more.insert("x-kubernetes-patch-merge-key".to_owned(), key.into());
        }
        if let Some(default) = field.default {
            more.insert("default".to_owned(), default_value(&field.ty, default));
        }
        let schema = self.of_type(&field.ty);
        with(schema, more)
    }

    fn of_type(&mut self, ty: &Type) -> Value {
        match ty {
            Type::String(_) => json!({"type": "string"}),
            Type::Int32(_) => json!({"type": "integer", "format": "int32"}),
            Type::Int64(_) => json!({"type": "integer", "format": "int64"}),
            Type::Float64 => json!({"type": "number", "format": "double"}),
            Type::Bool => json!({"type": "boolean"}),
            Type::Bytes => json!({"type": "string", "format": "byte"}),
            Type::Quantity => self.plain(
                "io.k8s.apimachinery.pkg.api.resource.Quantity",
                json!({"oneOf": [{"type": "string"}, {"type": "number"}]}),
            ),
            Type::IntOrString => self.plain(
                "io.k8s.apimachinery.pkg.util.intstr.IntOrString",
                json!({"format": "int-or-string", "oneOf": [{"type": "integer"}, {"type": "string"}]}),
            ),
            Type::Time => self.plain(
                &format!("{META}.Time"),
                json!({"type": "string", "format": "date-time"}),
            ),
            Type::MicroTime => self.plain(
                &format!("{META}.MicroTime"),
                json!({"type": "string", "format": "date-time"}),
            ),
            Type::Duration => self.plain(&format!("{META}.Duration"), json!({"type": "string"})),
            Type::FieldsV1 => self.plain(&format!("{META}.FieldsV1"), json!({"type": "object"})),
            Type::Raw => self.plain(
                "io.k8s.apimachinery.pkg.runtime.RawExtension",
                json!({"type": "object"}),
            ),
            Type::Json => self.plain(
                "io.k8s.apiextensions-apiserver.pkg.apis.apiextensions.v1.JSON",
                json!({}),
            ),
            Type::Struct(ty) => self.of_struct(*ty),
            Type::List(element) => json!({"type": "array", "items": self.of_type(element)}),
            Type::Map(_, value) => json!({"type": "object", "additionalProperties": self.of_type(value)}),
        }
    }
}

/// The type of a kind of Kubernetes' own API groups.
fn type_of(group: &str, version: &str, kind: &str) -> Option<TypeId> {
    let package = match group {
        "" => "core",
        group => group.split('.').next().unwrap_or(group),
    };
    schema::builtin().find(&format!("io.k8s.api.{package}.{version}.{kind}"))
}

fn reference(name: &str) -> Value {
    json!({"$ref": format!("#/components/schemas/{name}")})
}

/// A schema with further keywords, which must not stand beside a reference.
fn with(mut schema: Value, more: Map<String, Value>) -> Value {
    if more.is_empty() {
        return schema;
    }
    if schema.get("$ref").is_some() {
        schema = json!({"allOf": [schema]});
    }
    if let Value::Object(schema) = &mut schema {
        schema.extend(more);
    }
    schema
}

/// A default that the table holds as text.
fn default_value(ty: &Type, text: &str) -> Value {
    match ty {
        Type::Int32(_) | Type::Int64(_) | Type::Float64 | Type::Bool => {
            serde_json::from_str(text).unwrap_or_else(|_| text.into())
        }
        _ => text.into(),
    }
}
