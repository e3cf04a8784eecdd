//! The types of the API as data: every field's name, type, zero value, list and patch semantics.
//!
//! One table serves decoding, defaulting of zero values, pruning, strategic merge, protobuf and
//! OpenAPI. The built-in types are read from `types.txt`, which `tools/schema` writes from the
//! published Go types and OpenAPI documents; custom resources will be further tables of the same
//! form. This module knows nothing of kinds, HTTP or storage.

mod decode;
mod parse;
mod protobuf;

pub use decode::{Decoded, decode_bytes, decode_value, normalize};
pub use protobuf::{
    EnvelopeError, ProtobufError, UnfitError, from_protobuf, open_envelope, seal, seal_list, to_protobuf,
    watch_frame,
};

use std::collections::HashMap;
use std::sync::LazyLock;

/// Which type of a [`Schema`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct TypeId(u32);

/// A table of types.
#[derive(Debug)]
pub struct Schema {
    types: Vec<Struct>,
    by_name: HashMap<&'static str, TypeId>,
}

/// An object type: what Go calls a struct.
#[derive(Debug)]
pub struct Struct {
    /// Its name in OpenAPI documents, e.g. `io.k8s.api.core.v1.Pod`.
    pub name: &'static str,
    /// Its Go name with the package's last element, e.g. `v1.Pod`.
    pub go_name: &'static str,
    /// Server-side apply replaces it as a whole (`x-kubernetes-map-type: atomic`).
    pub atomic: bool,
    /// Its fields, sorted by name; those of inline structs among them.
    fields: Vec<Field>,
    /// Its fields as protobuf has them, sorted by their numbers.
    wire: Vec<(u32, Part)>,
}

/// What a number stands for in a type's protobuf message.
#[derive(Debug, Clone, Copy)]
enum Part {
    /// The field of this index.
    Field(usize),
    /// An inline struct, which is a message of its own there.
    Inline(TypeId),
}

/// A field of a [`Struct`].
#[derive(Debug, Clone)]
pub struct Field {
    /// Its JSON name.
    pub name: &'static str,
    /// Its protobuf number; 0 where it has none.
    pub number: u32,
    /// Protobuf has its list as a message of its own, with the elements as its first field.
    pub wrapped: bool,
    /// Its type, without the pointer.
    pub ty: Type,
    /// Go holds it by pointer, so that its zero value differs from its absence.
    pub pointer: bool,
    /// Go's encoder leaves its zero value out.
    pub omit_empty: bool,
    /// Go's encoder leaves it out when it is a struct with nothing set.
    pub omit_zero: bool,
    /// OpenAPI calls it required.
    pub required: bool,
    /// The default value that OpenAPI names, as text.
    pub default: Option<&'static str>,
    /// `x-kubernetes-list-type`.
    pub list: ListType,
    /// `x-kubernetes-list-map-keys`.
    pub list_keys: Vec<&'static str>,
    /// `x-kubernetes-map-type: atomic`.
    pub atomic_map: bool,
    /// Strategic merge: lists are merged rather than replaced.
    pub patch_merge: bool,
    /// Strategic merge: `$retainKeys` applies.
    pub patch_retain_keys: bool,
    /// Strategic merge: elements of the same value of this field are merged.
    pub patch_merge_key: Option<&'static str>,
}

/// How server-side apply merges a list.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ListType {
    /// Not a list, or one that is replaced as a whole.
    Atomic,
    /// Scalars, each at most once.
    Set,
    /// Objects told apart by [`Field::list_keys`].
    Map,
}

/// The type of a field or element.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Type {
    /// A string; with its Go name.
    String(&'static str),
    /// 32-bit integer; with its Go name.
    Int32(&'static str),
    /// 64-bit integer; with its Go name.
    Int64(&'static str),
    /// 64-bit float.
    Float64,
    /// Boolean.
    Bool,
    /// Bytes, base64 in JSON.
    Bytes,
    /// `resource.Quantity`.
    Quantity,
    /// `intstr.IntOrString`.
    IntOrString,
    /// RFC 3339 time to the second.
    Time,
    /// RFC 3339 time to the microsecond.
    MicroTime,
    /// Go duration as text.
    Duration,
    /// The field set of a managed fields entry.
    FieldsV1,
    /// Any object, carried as it is.
    Raw,
    /// Any JSON value, carried as it is.
    Json,
    /// A struct of the same table.
    Struct(TypeId),
    /// A list.
    List(Box<Type>),
    /// A map from strings; with its Go name.
    Map(&'static str, Box<Type>),
}

static BUILTIN: LazyLock<Schema> = LazyLock::new(|| parse::parse(include_str!("types.txt")));

/// The table of the built-in types.
pub fn builtin() -> &'static Schema {
    &BUILTIN
}

impl Schema {
    /// The type of an OpenAPI name such as `io.k8s.api.core.v1.Pod`.
    pub fn find(&self, name: &str) -> Option<TypeId> {
        self.by_name.get(name).copied()
    }

    /// The struct behind an id of this table.
    pub fn get(&self, id: TypeId) -> &Struct {
        &self.types[id.0 as usize]
    }

    /// The Go name of a type, as Go's decoder writes it in errors.
    pub fn go_name(&self, ty: &Type) -> String {
        match ty {
            Type::String(name) | Type::Int32(name) | Type::Int64(name) => (*name).to_owned(),
            Type::Float64 => "float64".to_owned(),
            Type::Bool => "bool".to_owned(),
            Type::Bytes => "[]uint8".to_owned(),
            Type::Quantity => "resource.Quantity".to_owned(),
            Type::IntOrString => "intstr.IntOrString".to_owned(),
            Type::Time => "v1.Time".to_owned(),
            Type::MicroTime => "v1.MicroTime".to_owned(),
            Type::Duration => "v1.Duration".to_owned(),
            Type::FieldsV1 => "v1.FieldsV1".to_owned(),
            Type::Raw => "runtime.RawExtension".to_owned(),
            Type::Json => "v1.JSON".to_owned(),
            Type::Struct(id) => self.get(*id).go_name.to_owned(),
            Type::List(element) => format!("[]{}", self.go_name(element)),
            Type::Map(name, _) => (*name).to_owned(),
        }
    }
}

impl Struct {
    /// All fields, sorted by name.
    pub fn fields(&self) -> &[Field] {
        &self.fields
    }

    /// The field of a JSON name; names are case-sensitive.
    pub fn field(&self, name: &str) -> Option<&Field> {
        self.fields
            .binary_search_by(|field| field.name.cmp(name))
            .ok()
            .map(|at| &self.fields[at])
    }

    /// The last element of the Go name, e.g. `Pod`.
    pub fn short_name(&self) -> &'static str {
        self.go_name.rsplit('.').next().unwrap_or(self.go_name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pod_spec() -> &'static Struct {
        let schema = builtin();
        schema.get(
            schema
                .find("io.k8s.api.core.v1.PodSpec")
                .expect("PodSpec is in the table"),
        )
    }

    #[test]
    fn fields_carry_their_merge_and_patch_semantics() {
        let containers = pod_spec().field("containers").expect("containers");
        assert_eq!(containers.list, ListType::Map);
        assert_eq!(containers.list_keys, ["name"]);
        assert!(containers.patch_merge);
        assert_eq!(containers.patch_merge_key, Some("name"));
        let volumes = pod_spec().field("volumes").expect("volumes");
        assert!(volumes.patch_merge && volumes.patch_retain_keys);
    }

    #[test]
    fn inline_structs_lend_their_fields() {
        let schema = builtin();
        let probe = schema.get(schema.find("io.k8s.api.core.v1.Probe").expect("Probe"));
        assert!(probe.field("httpGet").is_some() && probe.field("periodSeconds").is_some());
    }

    #[test]
    fn go_names_are_those_of_the_field_types() {
        let schema = builtin();
        let name = |field: &str| schema.go_name(&pod_spec().field(field).expect("a field").ty);
        assert_eq!(name("containers"), "[]v1.Container");
        assert_eq!(name("nodeSelector"), "map[string]string");
        assert_eq!(name("restartPolicy"), "v1.RestartPolicy");
        assert_eq!(name("overhead"), "v1.ResourceList");
    }
}
