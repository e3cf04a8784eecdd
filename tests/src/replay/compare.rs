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
/// begins with one of `may_miss` may be missing. A Deployment may scale a set in one step where several are expected.
pub fn compare_events(expected: &[[String; 5]], actual: &[[String; 5]], may_miss: &[String]) -> Vec<String> {
    let line = |event: &[String; 5]| event.join(" ");
    let may_be_missing = |event: &[String; 5]| may_miss.iter().any(|start| event[4].starts_with(start));
    let wanted: BTreeSet<_> = expected.iter().collect();
    let found: BTreeSet<_> = actual.iter().collect();
    let mut at_once = BTreeSet::new();
    let mut surplus = Vec::new();
    for event in found.difference(&wanted) {
        match steps(&wanted, event) {
            Some(steps) => at_once.extend(steps),
            None => surplus.push(*event),
        }
    }
    let missing = wanted
        .difference(&found)
        .filter(|event| !may_be_missing(event) && !at_once.contains(*event));
    let missing = missing.map(|event| format!("no event: {}", line(event)));
    let surplus = surplus.into_iter();
    missing
        .chain(surplus.map(|event| format!("an event too many: {}", line(event))))
        .collect()
}

/// The expected steps that lead where an event of scaling leads at once.
fn steps<'e>(wanted: &BTreeSet<&'e [String; 5]>, event: &[String; 5]) -> Option<BTreeSet<&'e [String; 5]>> {
    let (what, end, mut at) = scaling(event)?;
    let mut steps = BTreeSet::new();
    while at != end {
        let (step, to) = wanted.iter().find_map(|step| {
            let (of, to, from) = scaling(step)?;
            let is_next = of == what && from == at && !steps.contains(step);
            is_next.then_some((*step, to))
        })?;
        steps.insert(step);
        at = to;
    }
    Some(steps)
}

/// What is scaled in which direction, to what size, and from which.
fn scaling(event: &[String; 5]) -> Option<(&str, u32, u32)> {
    if event[3] != "ScalingReplicaSet" {
        return None;
    }
    let (what, sizes) = event[4].split_once(" to ")?;
    let (to, from) = sizes.split_once(" from ")?;
    Some((what, to.parse().ok()?, from.parse().ok()?))
}
