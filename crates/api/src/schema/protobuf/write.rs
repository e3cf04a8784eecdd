//! Writes JSON values as protobuf messages, byte for byte as Go's generated code does: fields in
//! the order of their numbers, maps in the order of their keys, and every field that Go holds by
//! value, also where it is zero.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::Value;

use super::UnfitError;
use crate::schema::{Field, Part, Schema, Type, TypeId};
use crate::time;

/// Writes an object of a type as its message.
///
/// # Errors
/// A value that is not of its field's type. What [`crate::schema::decode_value`] made fits.
pub fn to_protobuf(schema: &Schema, ty: TypeId, object: &Value) -> Result<Vec<u8>, UnfitError> {
    let mut message = Backwards::default();
    message.object(schema, ty, object)?;
    Ok(message.finish())
}

/// A message that is written from its end to its beginning. A message within it is then written
/// before its length, which so need not be known before.
#[derive(Default)]
pub(super) struct Backwards(Vec<u8>);

impl Backwards {
    /// The message.
    pub(super) fn finish(mut self) -> Vec<u8> {
        self.0.reverse();
        self.0
    }

    /// The message after its length of four bytes, the highest first.
    pub(super) fn framed(mut self) -> Vec<u8> {
        let length = self.0.len() as u32;
        self.0.extend(length.to_le_bytes());
        self.finish()
    }

    /// Bytes as they are.
    pub(super) fn raw(&mut self, bytes: &[u8]) {
        self.0.extend(bytes.iter().rev());
    }

    /// A field of bytes.
    pub(super) fn bytes(&mut self, number: u32, bytes: &[u8]) {
        self.raw(bytes);
        self.length(number, bytes.len());
    }

    /// A field that is a message of its own, which `content` writes.
    pub(super) fn message<E>(
        &mut self,
        number: u32,
        content: impl FnOnce(&mut Backwards) -> Result<(), E>,
    ) -> Result<(), E> {
        let end = self.0.len();
        content(self)?;
        self.length(number, self.0.len() - end);
        Ok(())
    }

    fn length(&mut self, number: u32, length: usize) {
        self.varint(length as u64);
        self.tag(number, 2);
    }

    fn number(&mut self, number: u32, value: i64) {
        // A negative number is its two's complement of 64 bits.
        self.varint(value as u64);
        self.tag(number, 0);
    }

    fn tag(&mut self, number: u32, wire: u8) {
        self.varint(u64::from(number) << 3 | u64::from(wire));
    }

    fn varint(&mut self, mut value: u64) {
        let mut digits = [0u8; 10];
        let mut count = 0;
        loop {
            digits[count] = (value & 0x7f) as u8 | 0x80;
            count += 1;
            value >>= 7;
            if value == 0 {
                break;
            }
        }
        digits[count - 1] &= 0x7f;
        self.0.extend(digits[..count].iter().rev());
    }

    /// The content of a struct's message. Of null it is that of Go's zero value.
    pub(super) fn object(&mut self, schema: &Schema, ty: TypeId, object: &Value) -> Result<(), UnfitError> {
        let ty = schema.get(ty);
        for (number, part) in ty.wire.iter().rev() {
            match part {
                Part::Inline(inline) => {
                    self.message(*number, |message| message.object(schema, *inline, object))?;
                }
                Part::Field(at) => self.field(schema, &ty.fields[*at], &object[ty.fields[*at].name])?,
            }
        }
        Ok(())
    }

    fn field(&mut self, schema: &Schema, field: &Field, value: &Value) -> Result<(), UnfitError> {
        let Field { number, name, .. } = *field;
        let unfit = || UnfitError { field: name };
        match (&field.ty, value) {
            // What Go holds by reference it does not write where there is none.
            (Type::List(_) | Type::Map(..) | Type::Bytes, Value::Null) => {}
            (_, Value::Null) if field.pointer => {}
            (Type::List(element), Value::Array(list)) if field.wrapped => {
                self.message(number, |message| message.list(schema, 1, element, name, list))?;
            }
            (Type::List(element), Value::Array(list)) => self.list(schema, number, element, name, list)?,
            (Type::Map(_, element), Value::Object(map)) => {
                let mut entries: Vec<_> = map.iter().collect();
                entries.sort_unstable_by_key(|(key, _)| *key);
                for (key, value) in entries.into_iter().rev() {
                    self.message(number, |entry| {
                        entry.value(schema, 2, element, name, value)?;
                        entry.bytes(1, key.as_bytes());
                        Ok(())
                    })?;
                }
            }
            (Type::List(_) | Type::Map(..), _) => return Err(unfit()),
            (ty, value) => self.value(schema, number, ty, name, value)?,
        }
        Ok(())
    }

    fn list(
        &mut self,
        schema: &Schema,
        number: u32,
        element: &Type,
        name: &'static str,
        list: &[Value],
    ) -> Result<(), UnfitError> {
        list.iter()
            .rev()
            .try_for_each(|value| self.value(schema, number, element, name, value))
    }

    /// A field of one value. Null is the type's zero value.
    fn value(
        &mut self,
        schema: &Schema,
        number: u32,
        ty: &Type,
        name: &'static str,
        value: &Value,
    ) -> Result<(), UnfitError> {
        let unfit = UnfitError { field: name };
        match ty {
            Type::String(_) => self.bytes(number, text(value, "").ok_or(unfit)?.as_bytes()),
            Type::Bytes => {
                let bytes = STANDARD.decode(text(value, "").ok_or(unfit.clone())?);
                self.bytes(number, &bytes.map_err(|_| unfit)?);
            }
            Type::Int32(_) | Type::Int64(_) => self.number(number, integer(value).ok_or(unfit)?),
            Type::Bool => match value {
                Value::Null => self.number(number, 0),
                value => self.number(number, value.as_bool().ok_or(unfit)?.into()),
            },
            Type::Float64 => {
                let float = if value.is_null() {
                    Some(0.0)
                } else {
                    value.as_f64()
                };
                self.0.extend(float.ok_or(unfit)?.to_bits().to_be_bytes());
                self.tag(number, 1);
            }
            Type::Struct(id) => match value {
                Value::Null | Value::Object(_) => {
                    self.message(number, |message| message.object(schema, *id, value))?;
                }
                _ => return Err(unfit),
            },
            // A named list type is a message with one repeated field.
            Type::List(element) => match value {
                Value::Null => self.bytes(number, b""),
                Value::Array(list) => {
                    self.message(number, |message| message.list(schema, 1, element, name, list))?;
                }
                _ => return Err(unfit),
            },
            Type::Map(..) => return Err(unfit),
            ty => self.message(number, |message| message.special(ty, value).ok_or(unfit))?,
        }
        Ok(())
    }

    /// The content of a message whose JSON is no object of its fields; none where the value is not
    /// of the type.
    fn special(&mut self, ty: &Type, value: &Value) -> Option<()> {
        match ty {
            Type::Quantity => self.bytes(1, text(value, "0")?.as_bytes()),
            Type::IntOrString => {
                let number = value.as_str().is_none();
                self.bytes(3, if number { "" } else { text(value, "")? }.as_bytes());
                self.number(2, if number { integer(value)? } else { 0 });
                self.number(1, i64::from(!number));
            }
            // Go's zero time is an empty message.
            Type::Time | Type::MicroTime if value.is_null() => {}
            Type::Time | Type::MicroTime => {
                let at = time::parse(value.as_str()?).ok()?.as_nanosecond();
                let nanos = if *ty == Type::MicroTime {
                    at.rem_euclid(1_000_000_000) / 1000 * 1000
                } else {
                    0
                };
                self.number(2, i64::try_from(nanos).ok()?);
                self.number(1, i64::try_from(at.div_euclid(1_000_000_000)).ok()?);
            }
            Type::Duration => self.number(1, time::parse_go_duration(text(value, "0s")?)?),
            // Carried as JSON.
            _ if value.is_null() => {}
            _ => self.bytes(1, value.to_string().as_bytes()),
        }
        Some(())
    }
}

/// A text; `zero` for null.
fn text<'v>(value: &'v Value, zero: &'v str) -> Option<&'v str> {
    if value.is_null() {
        Some(zero)
    } else {
        value.as_str()
    }
}

fn integer(value: &Value) -> Option<i64> {
    if value.is_null() { Some(0) } else { value.as_i64() }
}
