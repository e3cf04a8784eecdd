//! The table of Go types, read from `types.txt` when first needed.

use std::collections::HashMap;
use std::sync::LazyLock;

/// All structs of the table.
pub(super) struct Table {
    structs: HashMap<&'static str, Struct>,
    /// Names of types that are not structs, e.g. `core.ResourceList`, with what they stand for.
    named: HashMap<&'static str, &'static str>,
}

/// A struct's fields in Go's order.
pub(super) struct Struct {
    pub(super) fields: Vec<Field>,
}

/// A field of a struct.
pub(super) struct Field {
    pub(super) name: &'static str,
    /// Its name in JSON; `+inline` for an embedded struct, `^name` for a field of the parent.
    pub(super) json: &'static str,
    pub(super) ty: Type,
    /// Printed only where it is set.
    pub(super) newer: bool,
}

/// A type as Go writes it, and what it is.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct Type {
    pub(super) name: String,
    /// It has a name of its own.
    pub(super) named: bool,
    pub(super) shape: Shape,
}

/// What a type is made of.
#[derive(Clone, PartialEq, Eq)]
pub(super) enum Shape {
    Bool,
    Int,
    Float,
    Text,
    Quantity,
    IntOrString,
    Time,
    /// A struct of the table, by name.
    Struct(String),
    Pointer(Box<Type>),
    List(Box<Type>),
    /// Map from a kind of string.
    Map(Box<Type>, Box<Type>),
}

static TABLE: LazyLock<Table> = LazyLock::new(|| parse(include_str!("types.txt")));

pub(super) fn table() -> &'static Table {
    &TABLE
}

fn parse(text: &'static str) -> Table {
    let mut table = Table {
        structs: HashMap::new(),
        named: HashMap::new(),
    };
    let mut current = "";
    for line in text.lines().filter(|line| !line.starts_with('#')) {
        if let Some(name) = line.strip_prefix('[') {
            current = name.trim_end_matches(']');
            table.structs.insert(current, Struct { fields: Vec::new() });
            continue;
        }
        let mut words = line.splitn(3, ' ');
        let (Some(name), Some(json), Some(ty)) = (words.next(), words.next(), words.next()) else {
            continue;
        };
        let bare = ty.trim_start_matches(['*', '[', ']']);
        if let Some((name, meaning)) = bare.split_once('=') {
            table.named.insert(name, meaning);
        }
        let field = Field {
            name: name.trim_start_matches('+'),
            json,
            ty: parse_type(ty),
            newer: name.starts_with('+'),
        };
        if let Some(block) = table.structs.get_mut(current) {
            block.fields.push(field);
        }
    }
    table
}

fn parse_type(text: &str) -> Type {
    let unnamed = |name: String, shape| Type {
        name,
        named: false,
        shape,
    };
    if let Some(rest) = text.strip_prefix('*') {
        let inner = parse_type(rest);
        return unnamed(format!("*{}", inner.name), Shape::Pointer(Box::new(inner)));
    }
    if let Some(rest) = text.strip_prefix("[]") {
        let inner = parse_type(rest);
        return unnamed(format!("[]{}", inner.name), Shape::List(Box::new(inner)));
    }
    if let Some((key, value)) = text.strip_prefix("map[").and_then(|rest| rest.split_once(']')) {
        let (key, value) = (parse_type(key), parse_type(value));
        let name = format!("map[{}]{}", key.name, value.name);
        return unnamed(name, Shape::Map(Box::new(key), Box::new(value)));
    }
    if let Some((name, meaning)) = text.split_once('=') {
        return Type {
            name: name.to_owned(),
            named: true,
            shape: parse_type(meaning).shape,
        };
    }
    if let Some((name, kind)) = text.strip_suffix(')').and_then(|text| text.split_once('(')) {
        return Type {
            name: name.to_owned(),
            named: true,
            shape: basic(kind),
        };
    }
    Type {
        name: text.to_owned(),
        named: true,
        shape: basic(text),
    }
}

fn basic(text: &str) -> Shape {
    match text {
        "bool" => Shape::Bool,
        "int32" | "int64" | "int" | "uint8" => Shape::Int,
        "float64" => Shape::Float,
        "string" => Shape::Text,
        "resource.Quantity" => Shape::Quantity,
        "intstr.IntOrString" => Shape::IntOrString,
        "v1.Time" | "v1.MicroTime" => Shape::Time,
        name => Shape::Struct(name.to_owned()),
    }
}

impl Table {
    /// The type of a Go expression such as `[]core.PodIP`.
    pub(super) fn resolve(&self, text: &str) -> Type {
        match self.named.get(text) {
            Some(meaning) => Type {
                name: text.to_owned(),
                named: true,
                shape: parse_type(meaning).shape,
            },
            None => parse_type(text),
        }
    }

    /// The fields of a struct; none of a name that is not in the table.
    pub(super) fn fields(&self, name: &str) -> &[Field] {
        self.structs.get(name).map_or(&[], |block| &block.fields)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_struct_that_a_field_names_is_in_the_table() {
        fn check(ty: &Type) {
            match &ty.shape {
                Shape::Struct(name) => assert!(table().structs.contains_key(name.as_str()), "{name}"),
                Shape::Pointer(inner) | Shape::List(inner) | Shape::Map(_, inner) => check(inner),
                _ => {}
            }
        }
        let fields = table().structs.values().flat_map(|block| &block.fields);
        for field in fields.filter(|field| !field.ty.name.contains("FieldsV1")) {
            check(&field.ty);
        }
    }
}
