//! Taints of nodes and what pods tolerate ("Taints and Tolerations").

use k8s_openapi::api::core::v1::{Taint, Toleration};

/// Pods are not placed on the node.
pub const NO_SCHEDULE: &str = "NoSchedule";
/// Pods are rather not placed on the node.
pub const PREFER_NO_SCHEDULE: &str = "PreferNoSchedule";
/// Pods are neither placed on the node nor left there.
pub const NO_EXECUTE: &str = "NoExecute";

/// Whether a toleration means a taint.
pub fn tolerates(toleration: &Toleration, taint: &Taint) -> bool {
    let is_any = |field: &Option<String>| field.as_deref().is_none_or(str::is_empty);
    if !is_any(&toleration.effect) && toleration.effect.as_deref() != Some(&taint.effect) {
        return false;
    }
    if !is_any(&toleration.key) && toleration.key.as_deref() != Some(&taint.key) {
        return false;
    }
    let tolerated = toleration.value.as_deref().unwrap_or_default();
    let value = taint.value.as_deref().unwrap_or_default();
    let compared = || Some(value.parse::<i64>().ok()?.cmp(&tolerated.parse().ok()?));
    match toleration.operator.as_deref().unwrap_or_default() {
        "" | "Equal" => tolerated == value,
        "Exists" => true,
        "Lt" => compared().is_some_and(|ordering| ordering.is_lt()),
        "Gt" => compared().is_some_and(|ordering| ordering.is_gt()),
        _ => false,
    }
}

/// Whether any of these tolerations means a taint.
pub fn tolerated_by<'t>(tolerations: impl IntoIterator<Item = &'t Toleration>, taint: &Taint) -> bool {
    tolerations
        .into_iter()
        .any(|toleration| tolerates(toleration, taint))
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn check(toleration: Value, taint: Value, expected: bool) {
        let shown = format!("{toleration} {taint}");
        let toleration = serde_json::from_value(toleration).expect("a toleration");
        let taint = serde_json::from_value(taint).expect("a taint");
        assert_eq!(tolerates(&toleration, &taint), expected, "{shown}");
    }

    #[test]
    fn key_value_and_effect_must_fit_where_they_are_given() {
        let taint = json!({"key": "a", "value": "1", "effect": "NoSchedule"});
        check(
            json!({"key": "a", "value": "1", "effect": "NoSchedule"}),
            taint.clone(),
            true,
        );
        check(
            json!({"key": "a", "operator": "Equal", "value": "2"}),
            taint.clone(),
            false,
        );
        check(json!({"key": "a", "operator": "Exists"}), taint.clone(), true);
        check(json!({"key": "b", "operator": "Exists"}), taint.clone(), false);
        check(json!({"operator": "Exists"}), taint.clone(), true);
        check(
            json!({"operator": "Exists", "effect": "NoExecute"}),
            taint.clone(),
            false,
        );
        check(
            json!({"key": "a", "operator": "Gt", "value": "0"}),
            taint.clone(),
            true,
        );
        check(
            json!({"key": "a", "operator": "Lt", "value": "0"}),
            taint.clone(),
            false,
        );
        check(json!({"key": "a", "operator": "Lt", "value": "x"}), taint, false);
    }
}
