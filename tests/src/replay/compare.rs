//! Comparing what is shown with what was recorded.

use std::collections::BTreeSet;

use serde_json::Value;

/// How `actual` differs from what is expected, a line for each difference. Objects in lists are compared
/// whatever their order.
pub fn compare(expected: &Value, actual: &Value) -> Vec<String> {
    let mut differences = Vec::new();
    descend("", expected, actual, &mut differences);
    differences
}

fn descend(path: &str, expected: &Value, actual: &Value, differences: &mut Vec<String>) {
    match (expected, actual) {
        (Value::Object(wanted), Value::Object(found)) => {
            let names: BTreeSet<_> = wanted.keys().chain(found.keys()).collect();
            for name in names {
                let (wanted, found) = (wanted.get(name), found.get(name));
                let missing = Value::Null;
                let path = format!("{path}/{name}");
                descend(
                    &path,
                    wanted.unwrap_or(&missing),
                    found.unwrap_or(&missing),
                    differences,
                );
            }
        }
        (Value::Array(wanted), Value::Array(found)) if wanted.len() == found.len() => {
            let (wanted, found) = (sorted(wanted), sorted(found));
            for (index, (wanted, found)) in wanted.into_iter().zip(found).enumerate() {
                descend(&format!("{path}/{index}"), wanted, found, differences);
            }
        }
        (Value::String(text), Value::String(_)) if text == "<volume>" => {}
        // Something that recordings do not have at all.
        (Value::String(text), _) if text == "<any>" => {}
        _ if expected == actual => {}
        _ => differences.push(format!("{path}: {actual}, expected {expected}")),
    }
}

/// Objects by what they say; other values stay in their order.
fn sorted(items: &[Value]) -> Vec<&Value> {
    let mut items: Vec<&Value> = items.iter().collect();
    if items.iter().all(|item| item.is_object()) {
        items.sort_by_cached_key(|item| item.to_string());
    }
    items
}

/// How events differ from those that are expected: kind, name, type, reason and message. Those whose message
/// begins with one of `may_miss` may be missing.
pub fn compare_events(expected: &[[String; 5]], actual: &[[String; 5]], may_miss: &[String]) -> Vec<String> {
    let line = |event: &[String; 5]| event.join(" ");
    let may_be_missing = |event: &[String; 5]| may_miss.iter().any(|start| event[4].starts_with(start));
    let wanted: BTreeSet<_> = expected.iter().collect();
    let found: BTreeSet<_> = actual.iter().collect();
    let missing = wanted.difference(&found).filter(|event| !may_be_missing(event));
    let missing = missing.map(|event| format!("no event: {}", line(event)));
    let surplus = found.difference(&wanted);
    missing
        .chain(surplus.map(|event| format!("an event too many: {}", line(event))))
        .collect()
}
