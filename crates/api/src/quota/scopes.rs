//! Whether a quota counts an object: what its scopes say.

use k8s_openapi::api::core::v1::{
    PodAffinityTerm, PodSpec, ResourceQuotaSpec, ScopedResourceSelectorRequirement,
};
use serde::Deserialize as _;
use serde_json::Value;

use crate::kinds::pod::qos;

/// Whether a quota counts an object of a resource. One without scopes counts all.
pub fn counts(quota: &ResourceQuotaSpec, (group, plural): (&str, &str), object: &Value) -> bool {
    let scopes = quota.scopes.as_deref().unwrap_or_default();
    let expressions = quota
        .scope_selector
        .as_ref()
        .and_then(|selector| selector.match_expressions.as_deref())
        .unwrap_or_default();
    if scopes.is_empty() && expressions.is_empty() {
        return true;
    }
    let listed = scopes.iter().map(|scope| ScopedResourceSelectorRequirement {
        scope_name: scope.clone(),
        operator: "Exists".to_owned(),
        values: None,
    });
    let mut all = listed.chain(expressions.iter().cloned());
    match (group, plural) {
        ("", "pods") => {
            PodSpec::deserialize(&object["spec"]).is_ok_and(|spec| all.all(|scope| is_of_pod(&scope, &spec)))
        }
        ("", "persistentvolumeclaims") => {
            let class = object["spec"]["volumeAttributesClassName"].as_str();
            all.all(|scope| {
                scope.scope_name == "VolumeAttributesClass" && selects(&scope, class.unwrap_or_default())
            })
        }
        _ => false,
    }
}

fn is_of_pod(scope: &ScopedResourceSelectorRequirement, spec: &PodSpec) -> bool {
    let is_best_effort = || qos::class(spec) == "BestEffort";
    let is_terminating = spec.active_deadline_seconds.is_some_and(|seconds| seconds >= 0);
    match scope.scope_name.as_str() {
        "BestEffort" => is_best_effort(),
        "NotBestEffort" => !is_best_effort(),
        "Terminating" => is_terminating,
        "NotTerminating" => !is_terminating,
        "PriorityClass" => selects(scope, spec.priority_class_name.as_deref().unwrap_or_default()),
        "CrossNamespacePodAffinity" => names_namespaces(spec),
        _ => false,
    }
}

/// Whether a scope's expression selects a class; none is given as an empty name.
fn selects(scope: &ScopedResourceSelectorRequirement, class: &str) -> bool {
    let is_listed = scope.values.iter().flatten().any(|value| value == class);
    match scope.operator.as_str() {
        "Exists" => !class.is_empty(),
        "DoesNotExist" => class.is_empty(),
        "In" => !class.is_empty() && is_listed,
        "NotIn" => !is_listed,
        _ => false,
    }
}

fn names_namespaces(spec: &PodSpec) -> bool {
    let affinity = spec.affinity.clone().unwrap_or_default();
    let (with, without) = (
        affinity.pod_affinity.unwrap_or_default(),
        affinity.pod_anti_affinity.unwrap_or_default(),
    );
    let names = |term: &PodAffinityTerm| {
        term.namespaces.as_ref().is_some_and(|names| !names.is_empty()) || term.namespace_selector.is_some()
    };
    let required = [
        with.required_during_scheduling_ignored_during_execution,
        without.required_during_scheduling_ignored_during_execution,
    ];
    let preferred = [
        with.preferred_during_scheduling_ignored_during_execution,
        without.preferred_during_scheduling_ignored_during_execution,
    ];
    required.iter().flatten().flatten().any(names)
        || preferred
            .iter()
            .flatten()
            .flatten()
            .any(|weighted| names(&weighted.pod_affinity_term))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn scopes_divide_pods() {
        let plain = json!({"spec": {"containers": [{"name": "c"}]}});
        let asking = json!({"spec": {"priorityClassName": "high", "activeDeadlineSeconds": 5,
            "containers": [{"name": "c", "resources": {"requests": {"cpu": "1"}}}]}});
        for (quota, of_plain, of_asking) in [
            (json!({}), true, true),
            (json!({"scopes": ["BestEffort"]}), true, false),
            (json!({"scopes": ["NotBestEffort", "Terminating"]}), false, true),
            (json!({"scopes": ["NotTerminating"]}), true, false),
            (json!({"scopes": ["PriorityClass"]}), false, true),
            (
                json!({"scopeSelector": {"matchExpressions": [
                    {"scopeName": "PriorityClass", "operator": "In", "values": ["high"]}]}}),
                false,
                true,
            ),
            (json!({"scopes": ["CrossNamespacePodAffinity"]}), false, false),
        ] {
            let spec: ResourceQuotaSpec = serde_json::from_value(quota.clone()).expect("a quota");
            let pods = ("", "pods");
            assert_eq!(
                (counts(&spec, pods, &plain), counts(&spec, pods, &asking)),
                (of_plain, of_asking),
                "{quota}"
            );
        }
    }
}
