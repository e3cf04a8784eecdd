//! Selectors of nodes, as in a pod's node affinity and a volume's.

use k8s_openapi::api::core::v1::{NodeSelector, NodeSelectorRequirement, NodeSelectorTerm};

use crate::error::{Errors, Path};
use crate::names;

/// Labels that have been replaced, with what Kubernetes says of them.
const REPLACED_LABELS: [(&str, &str); 8] = [
    (
        "beta.kubernetes.io/arch",
        "deprecated since v1.14; use \"kubernetes.io/arch\" instead",
    ),
    (
        "beta.kubernetes.io/os",
        "deprecated since v1.14; use \"kubernetes.io/os\" instead",
    ),
    (
        "failure-domain.beta.kubernetes.io/region",
        "deprecated since v1.17; use \"topology.kubernetes.io/region\" instead",
    ),
    (
        "failure-domain.beta.kubernetes.io/zone",
        "deprecated since v1.17; use \"topology.kubernetes.io/zone\" instead",
    ),
    (
        "beta.kubernetes.io/instance-type",
        "deprecated since v1.17; use \"node.kubernetes.io/instance-type\" instead",
    ),
    ("app.kubernetes.io/created-by", "deprecated since v1.9"),
    (
        "scheduler.alpha.kubernetes.io/preferAvoidPods",
        "deprecated since v1.22; use Taints and Tolerations instead",
    ),
    (
        "node-role.kubernetes.io/master",
        "use \"node-role.kubernetes.io/control-plane\" instead",
    ),
];

/// Checks a selector; values that are no label values may be let through, where they have been.
pub(crate) fn validate(
    selector: &NodeSelector,
    allow_invalid_values: bool,
    path: &Path,
    errors: &mut Errors,
) {
    let path = path.child("nodeSelectorTerms");
    if selector.node_selector_terms.is_empty() {
        errors.required(&path, "must have at least one node selector term");
    }
    for (at, term) in selector.node_selector_terms.iter().enumerate() {
        validate_term(term, allow_invalid_values, &path.index(at), errors);
    }
}

/// Checks one term.
pub(crate) fn validate_term(
    term: &NodeSelectorTerm,
    allow_invalid_values: bool,
    path: &Path,
    errors: &mut Errors,
) {
    for (at, requirement) in term.match_expressions.iter().flatten().enumerate() {
        let path = path.child("matchExpressions").index(at);
        validate_label(requirement, allow_invalid_values, &path, errors);
    }
    for (at, requirement) in term.match_fields.iter().flatten().enumerate() {
        validate_field(requirement, &path.child("matchFields").index(at), errors);
    }
}

fn validate_label(
    requirement: &NodeSelectorRequirement,
    allow_invalid_values: bool,
    path: &Path,
    errors: &mut Errors,
) {
    let values = requirement.values.as_deref().unwrap_or_default();
    let at = path.child("values");
    match requirement.operator.as_str() {
        "In" | "NotIn" if values.is_empty() => {
            errors.required(&at, "must be specified when `operator` is 'In' or 'NotIn'");
        }
        "Exists" | "DoesNotExist" if !values.is_empty() => {
            errors.forbidden(
                &at,
                "may not be specified when `operator` is 'Exists' or 'DoesNotExist'",
            );
        }
        "Gt" | "Lt" if values.len() != 1 => {
            errors.required(
                &at,
                "must be specified single value when `operator` is 'Lt' or 'Gt'",
            );
        }
        "In" | "NotIn" | "Exists" | "DoesNotExist" | "Gt" | "Lt" => {}
        other => errors.invalid(&path.child("operator"), other, "not a valid selector operator"),
    }
    errors.invalid_each(
        &path.child("key"),
        &requirement.key,
        names::qualified_name(&requirement.key),
    );
    for (index, value) in values.iter().enumerate().filter(|_| !allow_invalid_values) {
        errors.invalid_each(&at.index(index), value, names::label_value(value));
    }
}

fn validate_field(requirement: &NodeSelectorRequirement, path: &Path, errors: &mut Errors) {
    let values = requirement.values.as_deref().unwrap_or_default();
    match requirement.operator.as_str() {
        "In" | "NotIn" if values.len() != 1 => {
            let why = "must be only one value when `operator` is 'In' or 'NotIn' for node field selector";
            errors.required(&path.child("values"), why);
        }
        "In" | "NotIn" => {}
        other => errors.invalid(&path.child("operator"), other, "not a valid selector operator"),
    }
    if requirement.key != "metadata.name" {
        errors.invalid(
            &path.child("key"),
            &requirement.key,
            "not a valid field selector key",
        );
        return;
    }
    for (at, value) in values.iter().enumerate() {
        errors.invalid_each(
            &path.child("values").index(at),
            value,
            names::dns_subdomain(value),
        );
    }
}

/// Whether any value of the terms is no label value.
pub(crate) fn has_invalid_values(terms: &[NodeSelectorTerm]) -> bool {
    let expressions = terms
        .iter()
        .flat_map(|term| term.match_expressions.iter().flatten());
    let mut values = expressions.flat_map(|expression| expression.values.iter().flatten());
    values.any(|value| !names::label_value(value).is_empty())
}

/// What to say of a label that has been replaced.
pub(crate) fn replaced_label(key: &str) -> Option<&'static str> {
    REPLACED_LABELS
        .iter()
        .find(|(label, _)| *label == key)
        .map(|(_, why)| *why)
}

/// What to warn of in a term. A requirement that only weighs is checked for its values too.
pub(crate) fn term_warnings(term: &NodeSelectorTerm, check_values: bool, path: &Path) -> Vec<String> {
    let mut warnings = Vec::new();
    for (at, expression) in term.match_expressions.iter().flatten().enumerate() {
        let path = path.child("matchExpressions").index(at);
        if let Some(why) = replaced_label(&expression.key) {
            warnings.push(format!("{}: {} is {why}", path.child("key"), expression.key));
        }
        for (at, value) in expression
            .values
            .iter()
            .flatten()
            .enumerate()
            .filter(|_| check_values)
        {
            let path = path.child("values").index(at);
            for objection in names::label_value(value) {
                warnings.push(format!("{path}: {value} is invalid, {objection}"));
            }
        }
    }
    warnings
}
