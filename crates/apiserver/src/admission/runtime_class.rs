//! Admission of runtime classes: what a pod's class costs and where it is to be had is taken over
//! into the pod ("Runtime Class", "Pod Overhead").

use serde_json::{Map, Value, json};
use stead_api::error::{ApiError, quote};
use stead_api::meta;

use crate::lookup::Resource;
use crate::server::Call;

const CLASSES: Resource<'static> = ("node.k8s.io", "runtimeclasses");

/// Completes a pod by its class, and refuses what does not fit that.
pub(super) fn admit_pod(call: &Call<'_>, pod: &mut Value) -> Result<(), ApiError> {
    let refused = |pod: &Value, why: &str| ApiError::forbidden("", "pods", meta::name(pod), why);
    let class = match pod["spec"]["runtimeClassName"].as_str() {
        None => Value::Null,
        Some(name) => match call.server.find(CLASSES, "", name) {
            Some((_, class)) => class.value(),
            None => {
                let why = format!("pod rejected: RuntimeClass {} not found", quote(name));
                return Err(refused(pod, &why));
            }
        },
    };
    complete(pod, &class).map_err(|why| refused(pod, &why))
}

fn complete(pod: &mut Value, class: &Value) -> Result<(), String> {
    let given = pod["spec"]["overhead"].clone();
    if class["overhead"].is_object() {
        let overhead = class["overhead"]["podFixed"].clone();
        if !given.is_null() && !same_amounts(&given, &overhead) {
            return Err(
                "pod rejected: Pod's Overhead doesn't match RuntimeClass's defined Overhead".to_owned(),
            );
        }
        if overhead.is_object() {
            pod["spec"]["overhead"] = overhead;
        }
    } else if !given.is_null() {
        return Err(
            "pod rejected: Pod Overhead set without corresponding RuntimeClass defined Overhead".to_owned(),
        );
    }
    let scheduling = &class["scheduling"];
    if !scheduling.is_object() {
        return Ok(());
    }
    let mut selector = pod["spec"]["nodeSelector"]
        .as_object()
        .cloned()
        .unwrap_or_default();
    for (key, value) in scheduling["nodeSelector"].as_object().into_iter().flatten() {
        match selector.get(key) {
            Some(own) if own != value => {
                let (own, value) = (
                    own.as_str().unwrap_or_default(),
                    value.as_str().unwrap_or_default(),
                );
                return Err(format!(
                    "conflict: runtimeClass.scheduling.nodeSelector[{key}] = {value}; pod.spec.nodeSelector[{key}] = {own}"
                ));
            }
            _ => selector.insert(key.clone(), value.clone()),
        };
    }
    if !selector.is_empty() {
        pod["spec"]["nodeSelector"] = selector.into();
    }
    let both: Vec<Value> = [&pod["spec"]["tolerations"], &scheduling["tolerations"]]
        .into_iter()
        .filter_map(Value::as_array)
        .flatten()
        .cloned()
        .collect();
    let merged = merged(&both);
    if !merged.is_empty() {
        pod["spec"]["tolerations"] = json!(merged);
    }
    Ok(())
}

fn same_amounts(a: &Value, b: &Value) -> bool {
    let amounts = |list: &Value| -> Map<String, Value> {
        let list = list.as_object().cloned().unwrap_or_default();
        list.into_iter()
            .map(|(name, amount)| {
                let canonical = amount
                    .as_str()
                    .and_then(|text| text.parse::<stead_api::quantity::Quantity>().ok())
                    .map(|amount| amount.to_string().into());
                (name, canonical.unwrap_or(amount))
            })
            .collect()
    };
    amounts(a) == amounts(b)
}

/// Tolerations without those that another covers.
fn merged(all: &[Value]) -> Vec<Value> {
    let mut merged: Vec<Value> = Vec::new();
    for (at, toleration) in all.iter().enumerate() {
        let before = merged.iter().any(|other| covers(other, toleration));
        // Of two that are the same, the first stays.
        let after = all[at + 1..]
            .iter()
            .any(|other| other != toleration && covers(other, toleration));
        if !before && !after {
            merged.push(toleration.clone());
        }
    }
    merged
}

/// Whether whatever the second tolerates, the first does.
fn covers(whole: &Value, part: &Value) -> bool {
    if whole == part {
        return true;
    }
    let text = |toleration: &Value, field: &str| toleration[field].as_str().unwrap_or_default().to_owned();
    let of = |field: &str| (text(whole, field), text(part, field));
    let (whole_key, part_key) = of("key");
    let operator = text(whole, "operator");
    if whole_key != part_key && !(whole_key.is_empty() && operator == "Exists") {
        return false;
    }
    let (whole_effect, part_effect) = of("effect");
    if whole_effect != part_effect && !whole_effect.is_empty() {
        return false;
    }
    if whole_effect == "NoExecute"
        && let Some(longest) = whole["tolerationSeconds"].as_i64()
        && part["tolerationSeconds"]
            .as_i64()
            .is_none_or(|seconds| seconds > longest)
    {
        return false;
    }
    match operator.as_str() {
        "Exists" => true,
        _ => text(part, "operator") == "Equal" && text(part, "value") == text(whole, "value"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pod_takes_over_what_its_class_costs_and_where_it_is() {
        let class = json!({
            "overhead": {"podFixed": {"cpu": "250m"}},
            "scheduling": {"nodeSelector": {"runtime": "kata"}, "tolerations": [{"key": "kata", "operator": "Exists"}]},
        });
        let mut pod = json!({"spec": {
            "overhead": {"cpu": "0.25"},
            "nodeSelector": {"disk": "ssd"},
            "tolerations": [{"key": "kata", "operator": "Equal", "value": "x", "effect": "NoSchedule"}],
        }});
        assert_eq!(complete(&mut pod, &class), Ok(()));
        assert_eq!(
            pod["spec"],
            json!({
                "overhead": {"cpu": "250m"},
                "nodeSelector": {"disk": "ssd", "runtime": "kata"},
                "tolerations": [{"key": "kata", "operator": "Exists"}],
            })
        );
    }

    #[test]
    fn what_does_not_fit_the_class_is_refused() {
        let class = json!({"scheduling": {"nodeSelector": {"a": "1"}}});
        for (spec, class, expected) in [
            (
                json!({"overhead": {"cpu": "1"}}),
                &Value::Null,
                "without corresponding RuntimeClass",
            ),
            (
                json!({"overhead": {"cpu": "1"}}),
                &json!({"overhead": {"podFixed": {"cpu": "2"}}}),
                "doesn't match",
            ),
            (
                json!({"nodeSelector": {"a": "2"}}),
                &class,
                "conflict: runtimeClass.scheduling.nodeSelector[a] = 1; pod.spec.nodeSelector[a] = 2",
            ),
        ] {
            let mut pod = json!({"spec": spec});
            let why = complete(&mut pod, class).expect_err("it is refused");
            assert!(why.contains(expected), "{why}");
        }
    }
}
