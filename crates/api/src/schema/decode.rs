//! Decodes JSON into a value that is exactly what a Kubernetes API server would hold: fields the
//! type does not have are left out, quantities and times are canonical, zero values are present or
//! absent as Go's encoder writes them.
//!
//! Errors and strict findings are those of Go's decoder as the API shows them (see "Field
//! validation" in the API concepts page). What is wrong in syntax is for the caller: decoding
//! ends with serde's error there.

use std::fmt;

use base64::Engine as _;
use serde::de::{DeserializeSeed, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Number, Value};

use super::{Field, Schema, Struct, Type, TypeId};
use crate::quantity::Quantity;
use crate::{json, time};

/// A decoded object, with what a strict decoder objects to.
#[derive(Debug, Clone, PartialEq)]
pub struct Decoded {
    /// The object.
    pub value: Value,
    /// Unknown and duplicate fields in document order, e.g. `unknown field "spec.replcas"`.
    pub strict: Vec<String>,
}

/// Decodes a JSON text as a type. `Err` is the message of the first mismatch between value and
/// type, or of a syntax error.
pub fn decode_bytes(schema: &Schema, ty: TypeId, bytes: &[u8]) -> Result<Decoded, String> {
    let mut json = serde_json::Deserializer::from_slice(bytes);
    let decoded = decode(schema, ty, &mut json)?;
    json.end().map_err(|error| error.to_string())?;
    Ok(decoded)
}

/// Decodes a JSON value as a type; see [`decode_bytes`].
pub fn decode_value(schema: &Schema, ty: TypeId, value: Value) -> Result<Decoded, String> {
    decode(schema, ty, value)
}

/// Writes a value as Go would after decoding it; for values of our own making, whose fields fit
/// their types. One that does not fit is left as it is.
pub fn normalize(schema: &Schema, ty: TypeId, value: &mut Value) {
    if let Ok(decoded) = decode_value(schema, ty, value.clone()) {
        *value = decoded.value;
    }
}

fn decode<'de, D>(schema: &Schema, ty: TypeId, json: D) -> Result<Decoded, String>
where
    D: Deserializer<'de>,
    D::Error: fmt::Display,
{
    let mut context = Context {
        schema,
        path: Vec::new(),
        owner: None,
        strict: Vec::new(),
        error: None,
    };
    let ty = Type::Struct(ty);
    let value = Seed {
        context: &mut context,
        ty: &ty,
    }
    .deserialize(json)
    .map_err(|error| error.to_string())?;
    match context.error {
        Some(error) => Err(error),
        None if json::depth(&value) > json::MAX_DEPTH => {
            Err(format!("exceeded max depth of {}", json::MAX_DEPTH))
        }
        None if value.is_null() => Ok(Decoded {
            value: zero(schema, &ty).unwrap_or_default(),
            strict: context.strict,
        }),
        None => Ok(Decoded {
            value,
            strict: context.strict,
        }),
    }
}

enum Segment {
    Field(&'static str),
    Key(String),
    Index(usize),
}

struct Context<'s> {
    schema: &'s Schema,
    path: Vec<Segment>,
    /// The struct whose fields are being decoded.
    owner: Option<TypeId>,
    strict: Vec<String>,
    error: Option<String>,
}

impl Context<'_> {
    /// The first error counts; decoding goes on, as Go's does.
    fn fail(&mut self, message: String) {
        self.error.get_or_insert(message);
    }

    fn mismatch(&mut self, found: &str, ty: &Type) {
        let go_type = self.schema.go_name(ty);
        let fields: Vec<&str> = self
            .path
            .iter()
            .filter_map(|segment| match segment {
                Segment::Field(name) => Some(*name),
                _ => None,
            })
            .collect();
        let message = match self.owner {
            Some(owner) if !fields.is_empty() => format!(
                "json: cannot unmarshal {found} into Go struct field {}.{} of type {go_type}",
                self.schema.get(owner).short_name(),
                fields.join("."),
            ),
            _ => format!("json: cannot unmarshal {found} into Go value of type {go_type}"),
        };
        self.fail(message);
    }

    /// The path with one more name, as strict errors write it: `spec.containers[0].imge`.
    fn path_to(&self, name: &str) -> String {
        let mut text = String::new();
        for segment in &self.path {
            match segment {
                Segment::Index(index) => text.push_str(&format!("[{index}]")),
                Segment::Field(part) => push_name(&mut text, part),
                Segment::Key(part) => push_name(&mut text, part),
            }
        }
        push_name(&mut text, name);
        text
    }
}

fn push_name(text: &mut String, name: &str) {
    if !text.is_empty() {
        text.push('.');
    }
    text.push_str(name);
}

struct Seed<'c, 's, 't> {
    context: &'c mut Context<'s>,
    ty: &'t Type,
}

impl<'de> DeserializeSeed<'de> for Seed<'_, '_, '_> {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        match self.ty {
            Type::Raw | Type::Json | Type::FieldsV1 => serde::Deserialize::deserialize(deserializer),
            _ => deserializer.deserialize_any(self),
        }
    }
}

impl<'de> Visitor<'de> for Seed<'_, '_, '_> {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        match self.ty {
            Type::Bool => return Ok(Value::Bool(value)),
            Type::Quantity => self.context.fail(Quantity::FORMAT_ERROR.to_owned()),
            ty => self.context.mismatch("bool", ty),
        }
        Ok(Value::Null)
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        match self.ty {
            Type::Int64(_) => return Ok(Value::from(value)),
            Type::Int32(_) | Type::IntOrString if i32::try_from(value).is_ok() => {
                return Ok(Value::from(value));
            }
            Type::Float64 => return Ok(Value::from(value)),
            Type::Quantity => return Ok(quantity(self.context, &value.to_string())),
            ty @ Type::Int32(_) => self.context.mismatch(&format!("number {value}"), ty),
            Type::IntOrString => {
                self.context.fail(format!(
                    "json: cannot unmarshal number {value} into Go value of type int32"
                ));
            }
            ty => self.not_a_number(ty),
        }
        Ok(Value::Null)
    }

    fn visit_u64<E: serde::de::Error>(self, value: u64) -> Result<Value, E> {
        match i64::try_from(value) {
            Ok(value) => self.visit_i64(value),
            Err(_) => self.visit_f64(value as f64),
        }
    }

    fn visit_f64<E>(self, value: f64) -> Result<Value, E> {
        match self.ty {
            Type::Float64 => return Ok(Number::from_f64(value).map_or(Value::Null, Value::Number)),
            Type::Quantity => return Ok(quantity(self.context, &value.to_string())),
            Type::IntOrString => {
                self.context.fail(format!(
                    "json: cannot unmarshal number {value} into Go value of type int32"
                ));
            }
            ty @ (Type::Int32(_) | Type::Int64(_)) => self.context.mismatch(&format!("number {value}"), ty),
            ty => self.not_a_number(ty),
        }
        Ok(Value::Null)
    }

    fn visit_str<E: serde::de::Error>(self, value: &str) -> Result<Value, E> {
        self.visit_string(value.to_owned())
    }

    fn visit_string<E>(self, value: String) -> Result<Value, E> {
        match self.ty {
            Type::String(_) | Type::IntOrString | Type::Duration => return Ok(Value::String(value)),
            Type::Bytes => match illegal_base64(&value) {
                None => return Ok(Value::String(value)),
                Some(at) => self
                    .context
                    .fail(format!("illegal base64 data at input byte {at}")),
            },
            Type::Quantity => return Ok(quantity(self.context, &value)),
            Type::Time => match time::parse(&value) {
                Ok(at) => return Ok(Value::String(time::rfc3339(at))),
                Err(error) => self.context.fail(error),
            },
            Type::MicroTime => match time::parse(&value) {
                Ok(at) => return Ok(Value::String(time::rfc3339_micro(at))),
                Err(error) => self.context.fail(error),
            },
            ty => self.context.mismatch("string", ty),
        }
        Ok(Value::Null)
    }

    fn visit_seq<A: SeqAccess<'de>>(mut self, mut seq: A) -> Result<Value, A::Error> {
        let Type::List(element) = self.ty else {
            self.not_expected("array");
            while seq.next_element::<IgnoredAny>()?.is_some() {}
            return Ok(Value::Null);
        };
        let mut list = Vec::with_capacity(seq.size_hint().unwrap_or(0).min(1024));
        loop {
            self.context.path.push(Segment::Index(list.len()));
            let next = seq.next_element_seed(Seed {
                context: &mut *self.context,
                ty: element,
            })?;
            self.context.path.pop();
            match next {
                None => return Ok(Value::Array(list)),
                Some(Value::Null) => list.push(zero(self.context.schema, element).unwrap_or_default()),
                Some(value) => list.push(value),
            }
        }
    }

    fn visit_map<A: MapAccess<'de>>(mut self, mut map: A) -> Result<Value, A::Error> {
        match self.ty {
            Type::Struct(id) => visit_struct(self.context, *id, map),
            Type::Map(_, element) => visit_string_map(self.context, element, map),
            _ => {
                self.not_expected("object");
                while map.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
                Ok(Value::Null)
            }
        }
    }
}

impl Seed<'_, '_, '_> {
    /// A list or object where the type has neither.
    fn not_expected(&mut self, found: &str) {
        match self.ty {
            Type::Quantity => self.context.fail(Quantity::FORMAT_ERROR.to_owned()),
            Type::Time | Type::MicroTime | Type::Duration => {
                self.context.fail(format!(
                    "json: cannot unmarshal {found} into Go value of type string"
                ));
            }
            Type::IntOrString => {
                self.context.fail(format!(
                    "json: cannot unmarshal {found} into Go value of type int32"
                ));
            }
            ty => self.context.mismatch(found, ty),
        }
    }

    fn not_a_number(self, ty: &Type) {
        match ty {
            Type::Time | Type::MicroTime | Type::Duration => {
                self.context
                    .fail("json: cannot unmarshal number into Go value of type string".to_owned());
            }
            ty => self.context.mismatch("number", ty),
        }
    }
}

fn quantity(context: &mut Context<'_>, text: &str) -> Value {
    match text.parse::<Quantity>() {
        Ok(quantity) => Value::String(quantity.to_string()),
        Err(error) => {
            context.fail(error.to_string());
            Value::Null
        }
    }
}

fn visit_struct<'de, A: MapAccess<'de>>(
    context: &mut Context<'_>,
    id: TypeId,
    mut map: A,
) -> Result<Value, A::Error> {
    let schema = context.schema;
    let ty = schema.get(id);
    let mut object = Map::new();
    let mut seen = 0u128;
    while let Some(key) = map.next_key::<String>()? {
        let Ok(at) = ty.fields.binary_search_by(|field| field.name.cmp(key.as_str())) else {
            let path = context.path_to(&key);
            context.strict.push(format!("unknown field \"{path}\""));
            map.next_value::<IgnoredAny>()?;
            continue;
        };
        let field = &ty.fields[at];
        if seen & (1 << at) != 0 {
            let path = context.path_to(&key);
            context.strict.push(format!("duplicate field \"{path}\""));
        }
        seen |= 1 << at;
        context.path.push(Segment::Field(field.name));
        let owner = context.owner.replace(id);
        let value = map.next_value_seed(Seed {
            context,
            ty: &field.ty,
        })?;
        context.owner = owner;
        context.path.pop();
        if value.is_null() || leaves_out(field, &value) {
            object.remove(field.name);
        } else {
            object.insert(key, value);
        }
    }
    fill_zeros(schema, ty, &mut object);
    Ok(Value::Object(object))
}

fn visit_string_map<'de, A: MapAccess<'de>>(
    context: &mut Context<'_>,
    element: &Type,
    mut map: A,
) -> Result<Value, A::Error> {
    let mut object = Map::new();
    while let Some(key) = map.next_key::<String>()? {
        if object.contains_key(&key) {
            let path = context.path_to(&key);
            context.strict.push(format!("duplicate field \"{path}\""));
        }
        context.path.push(Segment::Key(key.clone()));
        let value = map.next_value_seed(Seed { context, ty: element })?;
        context.path.pop();
        let value = match (value, element) {
            // Go has it null, and knows no difference.
            (Value::Null, Type::List(_)) => Value::Array(Vec::new()),
            (Value::Null, _) => zero(context.schema, element).unwrap_or_default(),
            (value, _) => value,
        };
        object.insert(key, value);
    }
    Ok(Value::Object(object))
}

/// Whether Go's encoder would leave this value of the field out.
fn leaves_out(field: &Field, value: &Value) -> bool {
    if field.pointer {
        return false;
    }
    match value {
        Value::Object(map) if matches!(field.ty, Type::Struct(_)) => field.omit_zero && map.is_empty(),
        _ if !field.omit_empty => false,
        Value::Object(map) => map.is_empty() && !matches!(field.ty, Type::Raw | Type::Json | Type::FieldsV1),
        Value::Array(list) => list.is_empty(),
        Value::String(text) => text.is_empty() && !matches!(field.ty, Type::IntOrString | Type::Quantity),
        Value::Number(number) => number.as_i64() == Some(0) && field.ty != Type::IntOrString,
        Value::Bool(value) => !value,
        Value::Null => true,
    }
}

/// Adds what Go's encoder writes of fields that were not given.
fn fill_zeros(schema: &Schema, ty: &Struct, object: &mut Map<String, Value>) {
    for field in &ty.fields {
        let written = !field.pointer
            && match field.ty {
                Type::Struct(_) => !field.omit_zero,
                _ => !field.omit_empty,
            };
        if written
            && !object.contains_key(field.name)
            && let Some(zero) = zero(schema, &field.ty)
        {
            object.insert(field.name.to_owned(), zero);
        }
    }
}

/// The zero value of a type as Go encodes it; none for those whose zero value is null.
fn zero(schema: &Schema, ty: &Type) -> Option<Value> {
    Some(match ty {
        Type::String(_) | Type::Bytes => Value::String(String::new()),
        Type::Int32(_) | Type::Int64(_) | Type::Float64 | Type::IntOrString => Value::from(0),
        Type::Bool => Value::Bool(false),
        Type::Quantity => Value::String("0".to_owned()),
        Type::Duration => Value::String("0s".to_owned()),
        Type::Struct(id) => {
            let mut object = Map::new();
            fill_zeros(schema, schema.get(*id), &mut object);
            Value::Object(object)
        }
        Type::Time | Type::MicroTime | Type::FieldsV1 | Type::Raw | Type::Json => return None,
        Type::List(_) | Type::Map(..) => return None,
    })
}

/// The offset of the first byte that is not base64, by the rules of Go's `StdEncoding`.
fn illegal_base64(text: &str) -> Option<usize> {
    let folded;
    let text = if text.contains(['\n', '\r']) {
        folded = text.replace(['\n', '\r'], "");
        &folded
    } else {
        text
    };
    match base64::engine::general_purpose::STANDARD.decode(text) {
        Ok(_) => None,
        Err(base64::DecodeError::InvalidByte(at, _) | base64::DecodeError::InvalidLastSymbol(at, _)) => {
            Some(at)
        }
        // A text that ends within a group of four is reported at the group's start.
        Err(_) => Some(text.trim_end_matches('=').len() / 4 * 4),
    }
}
