//! Affinity and tolerations.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{
    Affinity, NodeAffinity, Pod, PodAffinityTerm, Toleration, WeightedPodAffinityTerm,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, LabelSelectorRequirement};

use super::options::Options;
use crate::error::{Errors, Path};
use crate::kinds::node::TAINT_EFFECTS;
use crate::kinds::{node_selector, text};
use crate::selector::check_label_selector;
use crate::{go, names};

const REQUIRED: &str = "requiredDuringSchedulingIgnoredDuringExecution";
const PREFERRED: &str = "preferredDuringSchedulingIgnoredDuringExecution";
const WEIGHTS: std::ops::RangeInclusive<i32> = 1..=100;
const WEIGHT_RANGE: &str = "must be in the range 1-100";
const OPERATORS: [&str; 2] = ["Equal", "Exists"];

/// Checks what a pod wants to be near to or far from.
pub(super) fn validate_affinity(affinity: &Affinity, options: &Options, path: &Path, errors: &mut Errors) {
    if let Some(affinity) = &affinity.node_affinity {
        validate_node_affinity(affinity, options, &path.child("nodeAffinity"), errors);
    }
    if let Some(near) = &affinity.pod_affinity {
        validate_pod_terms(
            near.required_during_scheduling_ignored_during_execution
                .as_deref(),
            near.preferred_during_scheduling_ignored_during_execution
                .as_deref(),
            options,
            &path.child("podAffinity"),
            errors,
        );
    }
    if let Some(far) = &affinity.pod_anti_affinity {
        validate_pod_terms(
            far.required_during_scheduling_ignored_during_execution.as_deref(),
            far.preferred_during_scheduling_ignored_during_execution
                .as_deref(),
            options,
            &path.child("podAntiAffinity"),
            errors,
        );
    }
}

fn validate_node_affinity(affinity: &NodeAffinity, options: &Options, path: &Path, errors: &mut Errors) {
    if let Some(selector) = &affinity.required_during_scheduling_ignored_during_execution {
        let invalid_values = options.invalid_values_in_node_affinity;
        node_selector::validate(selector, invalid_values, &path.child(REQUIRED), errors);
    }
    let terms = affinity
        .preferred_during_scheduling_ignored_during_execution
        .iter()
        .flatten();
    for (at, term) in terms.enumerate() {
        let path = path.child(PREFERRED).index(at);
        validate_weight(term.weight, &path, errors);
        // A value that no node can have only weighs nothing.
        node_selector::validate_term(&term.preference, true, &path.child("preference"), errors);
    }
}

fn validate_weight(weight: i32, path: &Path, errors: &mut Errors) {
    if !WEIGHTS.contains(&weight) {
        errors.invalid(&path.child("weight"), &weight, WEIGHT_RANGE);
    }
}

fn validate_pod_terms(
    required: Option<&[PodAffinityTerm]>,
    preferred: Option<&[WeightedPodAffinityTerm]>,
    options: &Options,
    path: &Path,
    errors: &mut Errors,
) {
    for (at, term) in required.unwrap_or_default().iter().enumerate() {
        validate_pod_term(term, options, &path.child(REQUIRED).index(at), errors);
    }
    for (at, weighted) in preferred.unwrap_or_default().iter().enumerate() {
        let path = path.child(PREFERRED).index(at);
        validate_weight(weighted.weight, &path, errors);
        validate_pod_term(
            &weighted.pod_affinity_term,
            options,
            &path.child("podAffinityTerm"),
            errors,
        );
    }
}

fn validate_pod_term(term: &PodAffinityTerm, options: &Options, path: &Path, errors: &mut Errors) {
    validate_selectors(term, options.invalid_values_in_affinity, path, errors);
    for namespace in term.namespaces.iter().flatten() {
        errors.invalid_each(&path.child("namespace"), namespace, names::dns_label(namespace));
    }
    validate_label_keys(term, path, errors);
    let (at, key) = (path.child("topologyKey"), term.topology_key.as_str());
    if key.is_empty() {
        errors.required(&at, "can not be empty");
    }
    errors.invalid_each(&at, key, names::qualified_name(key));
}

/// Checks the selectors of a term.
pub(super) fn validate_selectors(
    term: &PodAffinityTerm,
    allow_invalid_values: bool,
    path: &Path,
    errors: &mut Errors,
) {
    for (field, selector) in [
        ("labelSelector", &term.label_selector),
        ("namespaceSelector", &term.namespace_selector),
    ] {
        if let Some(selector) = selector {
            check_label_selector(selector, allow_invalid_values, &path.child(field), errors);
        }
    }
}

/// Checks the keys whose values are those of the pod (`matchLabelKeys`).
fn validate_label_keys(term: &PodAffinityTerm, path: &Path, errors: &mut Errors) {
    let matching = term.match_label_keys.as_deref().unwrap_or_default();
    let mismatching = term.mismatch_label_keys.as_deref().unwrap_or_default();
    for (field, keys) in [("matchLabelKeys", matching), ("mismatchLabelKeys", mismatching)] {
        validate_keys(keys, term.label_selector.as_ref(), &path.child(field), errors);
    }
    for at in repeated_keys(matching, term.label_selector.as_ref()) {
        let why = "exists in both matchLabelKeys and labelSelector";
        errors.invalid(&path.index(at), &matching[at], why);
    }
    for (at, key) in matching
        .iter()
        .enumerate()
        .filter(|(_, key)| mismatching.contains(key))
    {
        let why = "exists in both matchLabelKeys and mismatchLabelKeys";
        errors.invalid(&path.child("matchLabelKeys").index(at), key, why);
    }
}

/// Checks keys of labels, which mean nothing without a selector.
pub(super) fn validate_keys(
    keys: &[String],
    selector: Option<&LabelSelector>,
    path: &Path,
    errors: &mut Errors,
) {
    if keys.is_empty() {
        return;
    }
    if selector.is_none() {
        errors.forbidden(path, "must not be specified when labelSelector is not set");
        return;
    }
    for (at, key) in keys.iter().enumerate() {
        errors.invalid_each(&path.index(at), key, names::qualified_name(key));
    }
}

/// Which keys the selector has had besides what was made of them at creation: those that it names
/// more than once.
pub(super) fn repeated_keys(keys: &[String], selector: Option<&LabelSelector>) -> Vec<usize> {
    let Some(selector) = selector else {
        return Vec::new();
    };
    let mut seen: Vec<&String> = selector
        .match_labels
        .iter()
        .flatten()
        .map(|(key, _)| key)
        .collect();
    let mut repeated = Vec::new();
    for expression in selector.match_expressions.iter().flatten() {
        if let Some(at) = keys.iter().rposition(|key| *key == expression.key)
            && seen.contains(&&expression.key)
        {
            repeated.push(at);
        }
        seen.push(&expression.key);
    }
    repeated
}

/// Puts the pod's own values of label keys into the selectors (KEP-3633 and KEP-3243).
pub(super) fn resolve_label_keys(pod: &mut Pod) {
    let labels = pod.metadata.labels.clone().unwrap_or_default();
    let Some(spec) = &mut pod.spec else { return };
    for constraint in spec.topology_spread_constraints.iter_mut().flatten() {
        let keys = constraint.match_label_keys.as_deref().unwrap_or_default();
        add_values(&mut constraint.label_selector, keys, "In", &labels);
    }
    let Some(affinity) = &mut spec.affinity else {
        return;
    };
    let mut terms = Vec::new();
    if let Some(near) = &mut affinity.pod_affinity {
        terms.extend(
            near.required_during_scheduling_ignored_during_execution
                .iter_mut()
                .flatten(),
        );
        let preferred = near
            .preferred_during_scheduling_ignored_during_execution
            .iter_mut()
            .flatten();
        terms.extend(preferred.map(|weighted| &mut weighted.pod_affinity_term));
    }
    if let Some(far) = &mut affinity.pod_anti_affinity {
        terms.extend(
            far.required_during_scheduling_ignored_during_execution
                .iter_mut()
                .flatten(),
        );
        let preferred = far
            .preferred_during_scheduling_ignored_during_execution
            .iter_mut()
            .flatten();
        terms.extend(preferred.map(|weighted| &mut weighted.pod_affinity_term));
    }
    for term in terms {
        let matching = term.match_label_keys.as_deref().unwrap_or_default();
        add_values(&mut term.label_selector, matching, "In", &labels);
        let mismatching = term.mismatch_label_keys.as_deref().unwrap_or_default();
        add_values(&mut term.label_selector, mismatching, "NotIn", &labels);
    }
}

fn add_values(
    selector: &mut Option<LabelSelector>,
    keys: &[String],
    operator: &str,
    labels: &BTreeMap<String, String>,
) {
    let Some(selector) = selector else { return };
    for (key, value) in keys.iter().filter_map(|key| Some((key, labels.get(key)?))) {
        selector
            .match_expressions
            .get_or_insert_default()
            .push(LabelSelectorRequirement {
                key: key.clone(),
                operator: operator.to_owned(),
                values: Some(vec![value.clone()]),
            });
    }
}

/// Checks tolerations.
pub(crate) fn validate_tolerations(tolerations: &[Toleration], path: &Path, errors: &mut Errors) {
    for (at, toleration) in tolerations.iter().enumerate() {
        let path = path.index(at);
        let (key, value) = (text(&toleration.key), text(&toleration.value));
        let (operator, effect) = (text(&toleration.operator), text(&toleration.effect));
        if !key.is_empty() {
            errors.invalid_each(&path.child("key"), key, names::qualified_name(key));
        }
        let at = path.child("operator");
        if key.is_empty() && operator != "Exists" {
            let why =
                "operator must be Exists when `key` is empty, which means \"match all values and all keys\"";
            errors.invalid(&at, operator, why);
        }
        if toleration.toleration_seconds.is_some() && effect != "NoExecute" {
            let why = "effect must be 'NoExecute' when `tolerationSeconds` is set";
            errors.invalid(&path.child("effect"), effect, why);
        }
        match operator {
            "Equal" | "" => {
                let objections = names::label_value(value);
                if !objections.is_empty() {
                    errors.invalid(&at, value, &objections.join(";"));
                }
            }
            "Exists" if !value.is_empty() => {
                let shown = go::syntax("core.Toleration", toleration);
                errors.invalid(&at, &shown, "value must be empty when `operator` is 'Exists'");
            }
            "Exists" => {}
            other => errors.not_supported(&at, other, &OPERATORS),
        }
        if !effect.is_empty() {
            errors.one_of(&path.child("effect"), effect, &TAINT_EFFECTS);
        }
    }
}
