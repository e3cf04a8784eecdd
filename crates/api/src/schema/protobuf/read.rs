//! Reads protobuf messages into JSON values.
//!
//! What comes out is then decoded like any JSON ([`crate::schema::decode_value`]), so one place
//! knows zero values and errors.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Map, Value};

use super::ProtobufError;
use crate::schema::{Part, Schema, Type, TypeId};
use crate::time;

/// Messages within messages beyond this are refused; the deepest type we have nests some 20.
const MAX_DEPTH: usize = 100;

/// Reads a message of a type. The value has only the fields that the message has.
pub fn from_protobuf(schema: &Schema, ty: TypeId, message: &[u8]) -> Result<Value, ProtobufError> {
    let mut object = Map::new();
    read_struct(schema, ty, message, &mut object, 0)?;
    Ok(Value::Object(object))
}

#[derive(Debug, Clone, Copy)]
pub(super) enum Wire<'b> {
    Varint(u64),
    Fixed64(u64),
    Bytes(&'b [u8]),
    Fixed32,
}

impl Wire<'_> {
    fn code(self) -> u8 {
        match self {
            Wire::Varint(_) => 0,
            Wire::Fixed64(_) => 1,
            Wire::Bytes(_) => 2,
            Wire::Fixed32 => 5,
        }
    }
}

/// The fields of a message in order.
pub(super) struct Fields<'b>(pub(super) &'b [u8]);

impl<'b> Iterator for Fields<'b> {
    type Item = Result<(u32, Wire<'b>), ProtobufError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.0.is_empty() {
            return None;
        }
        let field = self.read();
        if field.is_err() {
            self.0 = &[];
        }
        Some(field)
    }
}

impl<'b> Fields<'b> {
    fn read(&mut self) -> Result<(u32, Wire<'b>), ProtobufError> {
        let tag = self.varint()?;
        let number = u32::try_from(tag >> 3).map_err(|_| ProtobufError::Overflow)?;
        let wire = match (tag & 7) as u8 {
            0 => Wire::Varint(self.varint()?),
            1 => Wire::Fixed64(u64::from_le_bytes(self.array()?)),
            2 => {
                let length = usize::try_from(self.varint()?).map_err(|_| ProtobufError::Overflow)?;
                Wire::Bytes(self.take(length)?)
            }
            5 => self.array::<4>().map(|_| Wire::Fixed32)?,
            wire => {
                return Err(ProtobufError::WireType {
                    field: number.to_string(),
                    wire,
                });
            }
        };
        Ok((number, wire))
    }

    fn varint(&mut self) -> Result<u64, ProtobufError> {
        let mut value = 0u64;
        for shift in (0..64).step_by(7) {
            let [byte] = self.array()?;
            value |= u64::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return Ok(value);
            }
        }
        Err(ProtobufError::Overflow)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], ProtobufError> {
        let (head, rest) = self.0.split_first_chunk::<N>().ok_or(ProtobufError::Truncated)?;
        self.0 = rest;
        Ok(*head)
    }

    fn take(&mut self, length: usize) -> Result<&'b [u8], ProtobufError> {
        let (head, rest) = self.0.split_at_checked(length).ok_or(ProtobufError::Truncated)?;
        self.0 = rest;
        Ok(head)
    }
}

fn read_struct(
    schema: &Schema,
    id: TypeId,
    message: &[u8],
    object: &mut Map<String, Value>,
    depth: usize,
) -> Result<(), ProtobufError> {
    if depth > MAX_DEPTH {
        return Err(ProtobufError::TooDeep);
    }
    let ty = schema.get(id);
    for item in Fields(message) {
        let (number, wire) = item?;
        let Ok(at) = ty.wire.binary_search_by_key(&number, |(number, _)| *number) else {
            continue;
        };
        let field = match ty.wire[at].1 {
            Part::Field(at) => &ty.fields[at],
            Part::Inline(inline) => {
                let Wire::Bytes(inner) = wire else {
                    return Err(ProtobufError::WireType {
                        field: number.to_string(),
                        wire: wire.code(),
                    });
                };
                read_struct(schema, inline, inner, object, depth + 1)?;
                continue;
            }
        };
        match &field.ty {
            Type::List(element) if !field.wrapped => {
                let value = read_value(schema, element, field.name, wire, depth)?;
                let list = object
                    .entry(field.name)
                    .or_insert_with(|| Value::Array(Vec::new()));
                if let Value::Array(list) = list {
                    list.push(value);
                }
            }
            Type::Map(_, element) => {
                let (key, value) = read_entry(schema, element, field.name, wire, depth)?;
                let map = object
                    .entry(field.name)
                    .or_insert_with(|| Value::Object(Map::new()));
                if let Value::Object(map) = map {
                    map.insert(key, value);
                }
            }
            ty => {
                object.insert(
                    field.name.to_owned(),
                    read_value(schema, ty, field.name, wire, depth)?,
                );
            }
        }
    }
    Ok(())
}

fn read_entry(
    schema: &Schema,
    element: &Type,
    name: &'static str,
    wire: Wire<'_>,
    depth: usize,
) -> Result<(String, Value), ProtobufError> {
    let Wire::Bytes(entry) = wire else {
        return Err(ProtobufError::WireType {
            field: name.to_owned(),
            wire: wire.code(),
        });
    };
    let mut key = String::new();
    let mut value = Value::Null;
    for item in Fields(entry) {
        match item? {
            (1, Wire::Bytes(text)) => key = utf8(text, name)?,
            (2, wire) => value = read_value(schema, element, name, wire, depth)?,
            _ => {}
        }
    }
    Ok((key, value))
}

fn read_value(
    schema: &Schema,
    ty: &Type,
    name: &'static str,
    wire: Wire<'_>,
    depth: usize,
) -> Result<Value, ProtobufError> {
    Ok(match (ty, wire) {
        (Type::String(_), Wire::Bytes(text)) => Value::String(utf8(text, name)?),
        (Type::Bytes, Wire::Bytes(bytes)) => Value::String(STANDARD.encode(bytes)),
        // A negative int32 is sign-extended to 64 bits on the wire.
        (Type::Int32(_), Wire::Varint(value)) => Value::from(value as i32),
        (Type::Int64(_), Wire::Varint(value)) => Value::from(value as i64),
        (Type::Bool, Wire::Varint(value)) => Value::Bool(value != 0),
        (Type::Float64, Wire::Fixed64(bits)) => Value::from(f64::from_bits(bits)),
        (Type::Quantity, Wire::Bytes(message)) => match bytes_field(message, 1)? {
            Some(text) => Value::String(utf8(text, name)?),
            None => Value::String("0".to_owned()),
        },
        (Type::IntOrString, Wire::Bytes(message)) => int_or_string(message, name)?,
        (Type::Time, Wire::Bytes(message)) => {
            timestamp(message)?.map_or(Value::Null, |at| Value::String(time::rfc3339(at)))
        }
        (Type::MicroTime, Wire::Bytes(message)) => {
            timestamp(message)?.map_or(Value::Null, |at| Value::String(time::rfc3339_micro(at)))
        }
        (Type::Duration, Wire::Bytes(message)) => {
            let nanos = varint_field(message, 1)?.unwrap_or(0) as i64;
            Value::String(time::go_duration(nanos))
        }
        (Type::FieldsV1 | Type::Raw | Type::Json, Wire::Bytes(message)) => match bytes_field(message, 1)? {
            Some(json) => serde_json::from_slice(json).map_err(|_| ProtobufError::NotJson(name))?,
            None => Value::Null,
        },
        (Type::Struct(id), Wire::Bytes(message)) => {
            let mut object = Map::new();
            read_struct(schema, *id, message, &mut object, depth + 1)?;
            Value::Object(object)
        }
        // A named list type is a message with one repeated field.
        (Type::List(element), Wire::Bytes(message)) => {
            let mut list = Vec::new();
            for item in Fields(message) {
                if let (1, wire) = item? {
                    list.push(read_value(schema, element, name, wire, depth + 1)?);
                }
            }
            Value::Array(list)
        }
        (_, wire) => {
            return Err(ProtobufError::WireType {
                field: name.to_owned(),
                wire: wire.code(),
            });
        }
    })
}

pub(super) fn utf8(bytes: &[u8], name: &'static str) -> Result<String, ProtobufError> {
    std::str::from_utf8(bytes)
        .map(str::to_owned)
        .map_err(|_| ProtobufError::NotUtf8(name))
}

fn bytes_field(message: &[u8], wanted: u32) -> Result<Option<&[u8]>, ProtobufError> {
    let mut found = None;
    for item in Fields(message) {
        if let (number, Wire::Bytes(bytes)) = item?
            && number == wanted
        {
            found = Some(bytes);
        }
    }
    Ok(found)
}

fn varint_field(message: &[u8], wanted: u32) -> Result<Option<u64>, ProtobufError> {
    let mut found = None;
    for item in Fields(message) {
        if let (number, Wire::Varint(value)) = item?
            && number == wanted
        {
            found = Some(value);
        }
    }
    Ok(found)
}

fn int_or_string(message: &[u8], name: &'static str) -> Result<Value, ProtobufError> {
    if varint_field(message, 1)?.unwrap_or(0) == 0 {
        return Ok(Value::from(varint_field(message, 2)?.unwrap_or(0) as i32));
    }
    Ok(Value::String(utf8(
        bytes_field(message, 3)?.unwrap_or_default(),
        name,
    )?))
}

/// No time where Go's is zero, which is an empty message.
fn timestamp(message: &[u8]) -> Result<Option<jiff::Timestamp>, ProtobufError> {
    if message.is_empty() {
        return Ok(None);
    }
    let seconds = varint_field(message, 1)?.unwrap_or(0) as i64;
    let nanos = varint_field(message, 2)?.unwrap_or(0) as i32;
    jiff::Timestamp::new(seconds, nanos)
        .map(Some)
        .map_err(|_| ProtobufError::Overflow)
}
