//! A status as a patch: only what differs, so that conditions that others set stay. Pure.

use k8s_openapi::api::core::v1::{Pod, PodCondition, PodStatus};
use serde_json::{Map, Value, json};

use super::status::OWN_CONDITIONS;

/// The strategic merge patch from one status to another; none where they are the same.
pub(super) fn status_patch(pod: &Pod, old: &PodStatus, new: &PodStatus) -> Option<Value> {
    let object = |status: &PodStatus| match serde_json::to_value(status) {
        Ok(Value::Object(object)) => object,
        _ => Map::new(),
    };
    let (old, new) = (object(old), object(new));
    let mut changed = Map::new();
    for (field, value) in &new {
        if old.get(field) != Some(value) {
            changed.insert(field.clone(), value.clone());
        }
    }
    for field in old.keys() {
        if !new.contains_key(field) {
            changed.insert(field.clone(), Value::Null);
        }
    }
    // Conditions are merged by type: those that are the same need not be told, as others may have
    // changed them meanwhile; those that are no more have to be named.
    if let Some(Value::Array(conditions)) = changed.get_mut("conditions") {
        let types: Vec<Value> = conditions
            .iter()
            .map(|condition| condition["type"].clone())
            .collect();
        let before = old
            .get("conditions")
            .and_then(Value::as_array)
            .map(Vec::as_slice)
            .unwrap_or_default();
        conditions.retain(|condition| !before.contains(condition));
        for condition in conditions.iter_mut() {
            let former = before.iter().find(|former| former["type"] == condition["type"]);
            drop_fields(condition, former);
        }
        for condition in before
            .iter()
            .filter(|condition| !types.contains(&condition["type"]))
        {
            conditions.push(json!({"type": condition["type"], "$patch": "delete"}));
        }
    }
    // Addresses are merged too, but are to be just these.
    for field in ["podIPs", "hostIPs"] {
        if let Some(Value::Array(addresses)) = changed.get_mut(field) {
            addresses.insert(0, json!({"$patch": "replace"}));
        }
    }
    if changed.is_empty() {
        return None;
    }
    Some(json!({"metadata": {"uid": pod.metadata.uid}, "status": changed}))
}

/// Names the fields that a condition had and has no more: merged, they would stay.
fn drop_fields(condition: &mut Value, former: Option<&Value>) {
    let (Some(condition), Some(Value::Object(former))) = (condition.as_object_mut(), former) else {
        return;
    };
    for field in former.keys() {
        condition.entry(field).or_insert(Value::Null);
    }
}

/// Takes the conditions that others set, and the quality of service, from what the API has.
pub(super) fn keep_foreign(status: &mut PodStatus, api: Option<&PodStatus>) {
    let Some(api) = api else { return };
    let is_own = |condition: &PodCondition| OWN_CONDITIONS.contains(&condition.type_.as_str());
    let mut conditions: Vec<PodCondition> = status.conditions.take().unwrap_or_default();
    conditions.retain(is_own);
    conditions.extend(
        api.conditions
            .iter()
            .flatten()
            .filter(|condition| !is_own(condition))
            .cloned(),
    );
    status.conditions = Some(conditions);
    status.qos_class.clone_from(&api.qos_class);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_differs_is_written() {
        let status = |value: Value| serde_json::from_value::<PodStatus>(value).expect("a status");
        let mut pod = Pod::default();
        pod.metadata.uid = Some("u".into());
        let old = status(json!({
            "phase": "Pending", "podIP": "10.0.0.1", "startTime": "2026-01-01T00:00:00Z",
            "conditions": [
                {"type": "Ready", "status": "False", "reason": "ContainersNotReady"},
                {"type": "Same", "status": "True"},
                {"type": "Old", "status": "True"},
            ],
        }));
        let new = status(json!({
            "phase": "Running", "startTime": "2026-01-01T00:00:00Z",
            "conditions": [{"type": "Ready", "status": "True"}, {"type": "Same", "status": "True"}],
        }));
        assert_eq!(
            status_patch(&pod, &old, &new),
            Some(json!({"metadata": {"uid": "u"}, "status": {
                "phase": "Running",
                "podIP": null,
                "conditions": [
                    {"type": "Ready", "status": "True", "reason": null},
                    {"type": "Old", "$patch": "delete"},
                ],
            }}))
        );
        assert_eq!(status_patch(&pod, &new, &new), None);
    }
}
