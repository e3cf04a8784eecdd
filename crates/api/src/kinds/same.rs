//! Equality in the sense of the API: what is not given is as if it were empty, and amounts are
//! compared as such (`apiequality.Semantic`).

use serde::Serialize;
use serde_json::{Map, Value};

use crate::quantity::Quantity;

/// Fields that hold amounts, or maps of amounts.
const AMOUNTS: [&str; 6] = [
    "capacity",
    "divisor",
    "limits",
    "overhead",
    "requests",
    "sizeLimit",
];

/// Whether two values mean the same.
pub(crate) fn same<T: Serialize + PartialEq>(a: &T, b: &T) -> bool {
    if a == b {
        return true;
    }
    match (serde_json::to_value(a), serde_json::to_value(b)) {
        (Ok(a), Ok(b)) => same_values(&a, &b, false),
        _ => false,
    }
}

fn same_values(a: &Value, b: &Value, amounts: bool) -> bool {
    match (a, b) {
        (Value::Object(a), Value::Object(b)) => same_maps(a, b, amounts),
        (Value::Array(a), Value::Array(b)) => {
            a.len() == b.len() && a.iter().zip(b).all(|(a, b)| same_values(a, b, amounts))
        }
        (Value::String(a), Value::String(b)) if amounts => a == b || same_amounts(a, b),
        _ => a == b || (is_empty(a) && is_empty(b)),
    }
}

fn same_maps(a: &Map<String, Value>, b: &Map<String, Value>, amounts: bool) -> bool {
    let null = Value::Null;
    a.keys().chain(b.keys()).all(|key| {
        let (a, b) = (a.get(key).unwrap_or(&null), b.get(key).unwrap_or(&null));
        same_values(a, b, amounts || AMOUNTS.contains(&key.as_str()))
    })
}

/// Empty lists and maps are as if they were not there. Structures are not maps, but none of those
/// that are compared means something by being empty that it would not mean by not being there.
fn is_empty(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Array(list) => list.is_empty(),
        Value::Object(map) => map.is_empty(),
        Value::String(text) => text.is_empty(),
        _ => false,
    }
}

fn same_amounts(a: &str, b: &str) -> bool {
    match (a.parse::<Quantity>(), b.parse::<Quantity>()) {
        (Ok(a), Ok(b)) => (a - b).is_zero(),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_is_empty_is_as_what_is_absent() {
        for (a, b, expected) in [
            (json!({"a": []}), json!({}), true),
            (json!({"a": null}), json!({"a": {}}), true),
            (
                json!({"limits": {"memory": "1Ki"}}),
                json!({"limits": {"memory": "1024"}}),
                true,
            ),
            (json!({"image": "1Ki"}), json!({"image": "1024"}), false),
            (json!({"a": [1]}), json!({"a": [1, 2]}), false),
            (json!({"a": 0}), json!({}), false),
        ] {
            assert_eq!(same(&a, &b), expected, "{a} {b}");
        }
    }
}
