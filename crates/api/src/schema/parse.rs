//! Reads the table of types from its text form (see the head of `types.txt`).
//!
//! The text is part of the program, so a mistake in it is a mistake of ours: it panics, and the
//! tests that load the table would show it.

use std::collections::HashMap;

use super::{Field, ListType, Part, Schema, Struct, Type, TypeId};

/// A block of the text: a type with its fields' lines.
struct Block {
    name: &'static str,
    go_name: &'static str,
    atomic: bool,
    lines: Vec<&'static str>,
}

/// Builds the table.
pub(super) fn parse(text: &'static str) -> Schema {
    let blocks = blocks(text);
    let by_name: HashMap<_, _> = blocks
        .iter()
        .enumerate()
        .map(|(at, block)| (block.name, TypeId(at as u32)))
        .collect();
    let mut types: Vec<Struct> = blocks.iter().map(|block| parse_struct(block, &by_name)).collect();
    let inlined: Vec<Vec<Field>> = (0..types.len()).map(|at| inlined_fields(&types, at)).collect();
    for (ty, inlined) in types.iter_mut().zip(inlined) {
        ty.fields.extend(inlined);
        ty.fields.sort_by_key(|field| field.name);
        let numbered = ty
            .fields
            .iter()
            .enumerate()
            .filter(|(_, field)| field.number != 0);
        ty.wire
            .extend(numbered.map(|(at, field)| (field.number, Part::Field(at))));
        ty.wire.sort_by_key(|(number, _)| *number);
    }
    Schema { types, by_name }
}

fn blocks(text: &'static str) -> Vec<Block> {
    let mut blocks: Vec<Block> = Vec::new();
    for line in text
        .lines()
        .filter(|line| !line.is_empty() && !line.starts_with('#'))
    {
        if let Some(head) = line.strip_prefix('[') {
            let (name, rest) = head.split_once("] ").expect("a block's head is [name] go-name");
            let mut words = rest.split(' ');
            let go_name = words.next().expect("split yields one word at least");
            blocks.push(Block {
                name,
                go_name,
                atomic: words.next() == Some("atomic"),
                lines: Vec::new(),
            });
        } else {
            blocks
                .last_mut()
                .expect("a field follows its type's head")
                .lines
                .push(line);
        }
    }
    blocks
}

fn parse_struct(block: &Block, by_name: &HashMap<&'static str, TypeId>) -> Struct {
    let mut fields = Vec::with_capacity(block.lines.len());
    let mut wire = Vec::new();
    for line in &block.lines {
        let mut words = line.split(' ');
        let name = words.next().expect("split yields one word at least");
        let number = words
            .next()
            .and_then(|n| n.parse().ok())
            .expect("a field's second word is its number");
        let ty = words.next().expect("a field's third word is its type");
        if name == "+inline" {
            wire.push((number, Part::Inline(by_name[ty])));
        } else {
            fields.push(parse_field(name, number, ty, words, by_name));
        }
    }
    Struct {
        name: block.name,
        go_name: block.go_name,
        atomic: block.atomic,
        fields,
        wire,
    }
}

fn parse_field(
    name: &'static str,
    number: u32,
    ty: &'static str,
    options: impl Iterator<Item = &'static str>,
    by_name: &HashMap<&'static str, TypeId>,
) -> Field {
    let (pointer, ty) = match ty.strip_prefix('*') {
        Some(rest) => (true, rest),
        None => (false, ty),
    };
    let mut field = Field {
        name,
        number,
        ty: parse_type(ty, by_name),
        wrapped: false,
        pointer,
        omit_empty: false,
        omit_zero: false,
        required: false,
        default: None,
        list: ListType::Atomic,
        list_keys: Vec::new(),
        atomic_map: false,
        patch_merge: false,
        patch_retain_keys: false,
        patch_merge_key: None,
    };
    for option in options {
        match option.split_once('=') {
            None if option == "omitempty" => field.omit_empty = true,
            None if option == "omitzero" => field.omit_zero = true,
            None if option == "wrapped" => field.wrapped = true,
            None if option == "required" => field.required = true,
            Some(("default", value)) => field.default = Some(value),
            Some(("list", "set")) => field.list = ListType::Set,
            Some(("list", "map")) => field.list = ListType::Map,
            Some(("list", "atomic")) => {}
            Some(("keys", keys)) => field.list_keys = keys.split(',').collect(),
            Some(("map", kind)) => field.atomic_map = kind == "atomic",
            Some(("patch", strategies)) => {
                field.patch_merge = strategies.split(',').any(|s| s == "merge");
                field.patch_retain_keys = strategies.split(',').any(|s| s == "retainKeys");
            }
            Some(("key", key)) => field.patch_merge_key = Some(key),
            _ => panic!("unknown option {option:?} of field {name:?}"),
        }
    }
    field
}

fn parse_type(text: &'static str, by_name: &HashMap<&'static str, TypeId>) -> Type {
    if let Some(element) = text.strip_prefix("[]") {
        return Type::List(Box::new(parse_type(element.trim_start_matches('*'), by_name)));
    }
    if let Some(rest) = text.strip_prefix("map:") {
        let (go_name, value) = rest.split_once(':').expect("a map type is map:go-name:value");
        return Type::Map(go_name, Box::new(parse_type(value, by_name)));
    }
    let (base, go_name) = match text.strip_suffix(')').and_then(|t| t.split_once('(')) {
        Some((base, go_name)) => (base, go_name),
        None => (text, text),
    };
    match base {
        "string" => Type::String(go_name),
        "int32" | "uint8" => Type::Int32(go_name),
        "int64" => Type::Int64(go_name),
        "float64" => Type::Float64,
        "bool" => Type::Bool,
        "bytes" => Type::Bytes,
        "quantity" => Type::Quantity,
        "intorstring" => Type::IntOrString,
        "time" => Type::Time,
        "microtime" => Type::MicroTime,
        "duration" => Type::Duration,
        "fieldsv1" => Type::FieldsV1,
        "raw" => Type::Raw,
        "json" => Type::Json,
        name => Type::Struct(
            *by_name
                .get(name)
                .unwrap_or_else(|| panic!("unknown type {name:?}")),
        ),
    }
}

/// The fields that a type has from its inline structs, at any depth. Protobuf holds them in
/// messages of their own, so they have no number here.
fn inlined_fields(types: &[Struct], at: usize) -> Vec<Field> {
    let mut fields = Vec::new();
    for (_, part) in &types[at].wire {
        let Part::Inline(inline) = part else { continue };
        let inner = inline.0 as usize;
        fields.extend(
            types[inner]
                .fields
                .iter()
                .cloned()
                .map(|field| Field { number: 0, ..field }),
        );
        fields.extend(inlined_fields(types, inner));
    }
    fields
}
