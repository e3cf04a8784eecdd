//! Go syntax: what `%#v` writes.

use super::value::{Amount, Data, Value};
use crate::error::quote;

/// Where a pointer points to tells nothing; any address will do.
const SOMEWHERE: &str = "0xc000000000";

/// Writes a value with its type.
pub(super) fn write(value: &Value) -> String {
    // Field errors follow pointers.
    match &value.data {
        Data::Pointer(Some(inner)) => write(inner),
        _ => nested(value),
    }
}

fn nested(value: &Value) -> String {
    let ty = &value.ty;
    match &value.data {
        Data::Bool(value) => value.to_string(),
        Data::Int(value) => value.to_string(),
        Data::Float(value) => value.to_string(),
        Data::Text(text) => quote(text),
        Data::Quantity(amount) => write_amount(amount),
        Data::Time(None) => "time.Date(1, time.January, 1, 0, 0, 0, 0, time.UTC)".to_owned(),
        Data::Time(Some(text)) => text.clone(),
        Data::Struct(fields) => {
            let shown = fields
                .iter()
                .filter(|(_, newer, value)| !newer || !value.is_zero());
            let fields: Vec<_> = shown
                .map(|(name, _, value)| format!("{name}:{}", nested(value)))
                .collect();
            format!("{}{{{}}}", ty.name, fields.join(", "))
        }
        // Times print themselves, which panics without one; Go shows that as nil.
        Data::Pointer(None) if matches!(ty.name.as_str(), "*v1.Time" | "*v1.MicroTime") => "<nil>".to_owned(),
        Data::Pointer(None) => format!("({})(nil)", ty.name),
        Data::Pointer(Some(_)) => format!("({})({SOMEWHERE})", ty.name),
        Data::List(None) | Data::Map(None) => format!("{}(nil)", ty.name),
        Data::List(Some(list)) => {
            let elements: Vec<_> = list.iter().map(nested).collect();
            format!("{}{{{}}}", ty.name, elements.join(", "))
        }
        Data::Map(Some(map)) => {
            let entries: Vec<_> = map
                .iter()
                .map(|(key, value)| format!("{}:{}", quote(key), nested(value)))
                .collect();
            format!("{}{{{}}}", ty.name, entries.join(", "))
        }
    }
}

pub(super) fn write_amount(amount: &Amount) -> String {
    let Amount {
        value,
        scale,
        text,
        format,
    } = amount;
    format!(
        "resource.Quantity{{i:resource.int64Amount{{value:{value}, scale:{scale}}}, \
         d:resource.infDecAmount{{Dec:(*inf.Dec)(nil)}}, s:{}, Format:{}}}",
        quote(text),
        quote(format)
    )
}
