//! Paths into JSON: slash-separated keys, indexes, or `key=value` to choose from a list. `~1` is a
//! slash. The empty path is the whole.

use serde_json::Value;

/// What is at a path.
pub(crate) fn get<'v>(value: &'v Value, path: &str) -> Option<&'v Value> {
    segments(path).try_fold(value, |value, segment| match value {
        Value::Object(fields) => fields.get(&segment),
        Value::Array(items) => items.get(index(items, &segment)?),
        _ => None,
    })
}

/// Puts a value at a path; `None` takes away what is there. What is missing on the way is made.
pub(crate) fn set(value: &mut Value, path: &str, new: Option<Value>) {
    let segments: Vec<String> = segments(path).collect();
    set_at(value, &segments, new);
}

fn set_at(value: &mut Value, path: &[String], new: Option<Value>) {
    let Some((first, rest)) = path.split_first() else {
        *value = new.unwrap_or_default();
        return;
    };
    if let Value::Array(items) = value {
        match (index(items, first), new) {
            (Some(at), None) if rest.is_empty() => {
                items.remove(at);
            }
            (Some(at), new) => set_at(&mut items[at], rest, new),
            (None, new) => items.extend(new),
        }
        return;
    }
    if !value.is_object() {
        *value = Value::Object(serde_json::Map::new());
    }
    if let Value::Object(fields) = value {
        if rest.is_empty() && new.is_none() {
            fields.remove(first);
        } else {
            set_at(fields.entry(first.clone()).or_insert(Value::Null), rest, new);
        }
    }
}

fn segments(path: &str) -> impl Iterator<Item = String> {
    path.split('/')
        .filter(|segment| !segment.is_empty())
        .map(|segment| segment.replace("~1", "/"))
}

fn index(items: &[Value], segment: &str) -> Option<usize> {
    match segment.split_once('=') {
        Some((key, value)) => items.iter().position(|item| item[key] == value),
        None => segment.parse().ok(),
    }
}
