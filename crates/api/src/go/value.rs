//! JSON read as values of Go types.

use serde_json::Value as Json;

use super::types::{Shape, Table, Type};
use crate::quantity::Quantity;

/// A value with its type.
pub(super) struct Value {
    pub(super) ty: Type,
    pub(super) data: Data,
}

/// What a value holds. A pointer, list or map that is `None` is Go's nil.
pub(super) enum Data {
    Bool(bool),
    Int(i64),
    Float(f64),
    Text(String),
    Quantity(Amount),
    /// As Go prints it; none for the zero time.
    Time(Option<String>),
    /// Fields in order: name, whether it is newer than the texts that are followed, value.
    Struct(Vec<(&'static str, bool, Value)>),
    Pointer(Option<Box<Value>>),
    List(Option<Vec<Value>>),
    Map(Option<Vec<(String, Value)>>),
}

/// A quantity as Go holds it: value times a power of ten, the text it was read from if that is
/// canonical by Go's rules, and its format.
#[derive(PartialEq, Eq, Default)]
pub(super) struct Amount {
    pub(super) value: i64,
    pub(super) scale: i32,
    pub(super) text: String,
    pub(super) format: &'static str,
}

/// Reads JSON as a type; absent and null are the type's zero value.
pub(super) fn read(table: &Table, ty: &Type, json: Option<&Json>, parent: &Json) -> Value {
    let json = json.filter(|json| !json.is_null());
    let text = || json.and_then(Json::as_str).unwrap_or_default().to_owned();
    let data = match &ty.shape {
        Shape::Bool => Data::Bool(json.and_then(Json::as_bool).unwrap_or_default()),
        Shape::Int => Data::Int(json.and_then(Json::as_i64).unwrap_or_default()),
        Shape::Float => Data::Float(json.and_then(Json::as_f64).unwrap_or_default()),
        Shape::Text => Data::Text(text()),
        Shape::Quantity => Data::Quantity(json.and_then(Json::as_str).map(amount).unwrap_or_default()),
        Shape::IntOrString => Data::Struct(int_or_string(json)),
        Shape::Time => Data::Time(json.and_then(Json::as_str).map(go_time)),
        Shape::Struct(name) => Data::Struct(read_struct(table, name, json.unwrap_or(&Json::Null), parent)),
        Shape::Pointer(inner) => {
            Data::Pointer(json.map(|json| Box::new(read(table, inner, Some(json), parent))))
        }
        Shape::List(inner) => Data::List(json.and_then(Json::as_array).map(|list| {
            list.iter()
                .map(|element| read(table, inner, Some(element), &Json::Null))
                .collect()
        })),
        Shape::Map(_, inner) => Data::Map(json.and_then(Json::as_object).map(|map| {
            let mut entries: Vec<_> = map
                .iter()
                .map(|(key, value)| (key.clone(), read(table, inner, Some(value), &Json::Null)))
                .collect();
            entries.sort_by(|a, b| a.0.cmp(&b.0));
            entries
        })),
    };
    Value { ty: ty.clone(), data }
}

fn read_struct(table: &Table, name: &str, json: &Json, parent: &Json) -> Vec<(&'static str, bool, Value)> {
    let fields = table.fields(name).iter();
    fields
        .map(|field| {
            let (from, around) = match (field.json, field.json.strip_prefix('^')) {
                ("+inline", _) => (Some(json), json),
                (_, Some(name)) => (parent.get(name), json),
                (name, None) => (json.get(name), json),
            };
            (field.name, field.newer, read(table, &field.ty, from, around))
        })
        .collect()
}

fn int_or_string(json: Option<&Json>) -> Vec<(&'static str, bool, Value)> {
    let typed = |name: &str, shape, data| Value {
        ty: Type {
            name: name.to_owned(),
            named: true,
            shape,
        },
        data,
    };
    let text = json.and_then(Json::as_str);
    let number = json.and_then(Json::as_i64).unwrap_or_default();
    vec![
        (
            "Type",
            false,
            typed("intstr.Type", Shape::Int, Data::Int(i64::from(text.is_some()))),
        ),
        ("IntVal", false, typed("int32", Shape::Int, Data::Int(number))),
        (
            "StrVal",
            false,
            typed(
                "string",
                Shape::Text,
                Data::Text(text.unwrap_or_default().to_owned()),
            ),
        ),
    ]
}

/// `2024-01-01T00:00:00Z` as `time.Time` prints it.
fn go_time(text: &str) -> String {
    text.replacen('T', " ", 1).trim_end_matches('Z').to_owned() + " +0000 UTC"
}

/// A canonical quantity as Go parses it.
fn amount(text: &str) -> Amount {
    let end = text.find(|c: char| c.is_ascii_alphabetic()).unwrap_or(text.len());
    let (number, suffix) = text.split_at(end);
    let value: i64 = number.parse().unwrap_or_default();
    if let Some(power) = ["Ki", "Mi", "Gi", "Ti", "Pi", "Ei"]
        .iter()
        .position(|name| *name == suffix)
    {
        let text = if value & 7 == 0 { "" } else { text };
        let value = value.saturating_mul(1 << (10 * (power + 1)).min(62));
        return Amount {
            value,
            scale: 0,
            text: text.to_owned(),
            format: "BinarySI",
        };
    }
    let (scale, format) = match suffix {
        "n" => (-9, "DecimalSI"),
        "u" => (-6, "DecimalSI"),
        "m" => (-3, "DecimalSI"),
        "k" => (3, "DecimalSI"),
        "M" => (6, "DecimalSI"),
        "G" => (9, "DecimalSI"),
        "T" => (12, "DecimalSI"),
        "P" => (15, "DecimalSI"),
        "E" => (18, "DecimalSI"),
        "" => (0, "DecimalSI"),
        exponent => (exponent[1..].parse().unwrap_or_default(), "DecimalExponent"),
    };
    let canonical = number == "0" || !(number.ends_with("000") || number.starts_with('0'));
    Amount {
        value,
        scale,
        text: if canonical { text.to_owned() } else { String::new() },
        format,
    }
}

/// A canonical quantity as Go parses the decimal fraction that it most likely was: `1500m` as 1.5.
pub(super) fn fraction(text: &str) -> Amount {
    let mut amount = amount(text);
    while amount.scale < 0 && amount.value % 10 == 0 && amount.value != 0 {
        amount.value /= 10;
        amount.scale += 1;
    }
    if amount.scale % 3 != 0 {
        amount.text.clear();
    }
    amount
}

impl Value {
    /// Whether it is the zero value of its type.
    pub(super) fn is_zero(&self) -> bool {
        match &self.data {
            Data::Bool(value) => !value,
            Data::Int(value) => *value == 0,
            Data::Float(value) => *value == 0.0,
            Data::Text(text) => text.is_empty(),
            Data::Quantity(amount) => amount.format.is_empty(),
            Data::Time(time) => time.is_none(),
            Data::Struct(fields) => fields.iter().all(|(_, _, value)| value.is_zero()),
            Data::Pointer(inner) => inner.is_none(),
            Data::List(list) => list.is_none(),
            Data::Map(map) => map.is_none(),
        }
    }
}

impl Amount {
    /// The same amount, however it is written?
    pub(super) fn equals(&self, other: &Amount) -> bool {
        let parse = |amount: &Amount| {
            let (value, scale) = (amount.value, amount.scale);
            format!("{value}e{scale}").parse::<Quantity>().ok()
        };
        match (parse(self), parse(other)) {
            (Some(a), Some(b)) => (a - b).is_zero(),
            _ => self == other,
        }
    }
}
