//! Topology spread constraints.

use k8s_openapi::api::core::v1::TopologySpreadConstraint;

use super::options::Options;
use super::scheduling::{repeated_keys, validate_keys};
use crate::error::{Errors, Path};
use crate::selector::validate_label_selector;

const ACTIONS: [&str; 2] = ["DoNotSchedule", "ScheduleAnyway"];
const INCLUSION_POLICIES: [&str; 2] = ["Honor", "Ignore"];
const NOT_POSITIVE: &str = "must be greater than zero";

/// Checks constraints.
pub(super) fn validate_all(
    constraints: &[TopologySpreadConstraint],
    options: &Options,
    path: &Path,
    errors: &mut Errors,
) {
    for (at, constraint) in constraints.iter().enumerate() {
        let (path, action) = (path.index(at), constraint.when_unsatisfiable.as_str());
        if constraint.max_skew <= 0 {
            errors.invalid(&path.child("maxSkew"), &constraint.max_skew, NOT_POSITIVE);
        }
        if constraint.topology_key.is_empty() {
            errors.required(&path.child("topologyKey"), "can not be empty");
        }
        errors.one_of(&path.child("whenUnsatisfiable"), action, &ACTIONS);
        let same = |other: &TopologySpreadConstraint| {
            (&other.topology_key, &other.when_unsatisfiable)
                == (&constraint.topology_key, &constraint.when_unsatisfiable)
        };
        if constraints[at + 1..].iter().any(same) {
            let both = format!("{{{}, {action}}}", constraint.topology_key);
            errors.duplicate(&path.child("{topologyKey, whenUnsatisfiable}"), &both);
        }
        if let Some(domains) = constraint.min_domains {
            let path = path.child("minDomains");
            if domains <= 0 {
                errors.invalid(&path, &domains, NOT_POSITIVE);
            }
            if action != "DoNotSchedule" {
                let why = format!("can only use minDomains if whenUnsatisfiable=DoNotSchedule, not {action}");
                errors.invalid(&path, &domains, &why);
            }
        }
        for (field, policy) in [
            ("nodeAffinityPolicy", &constraint.node_affinity_policy),
            ("nodeTaintsPolicy", &constraint.node_taints_policy),
        ] {
            if let Some(policy) = policy {
                errors.one_of(&path.child(field), policy, &INCLUSION_POLICIES);
            }
        }
        if options.key_in_spread_selector {
            validate_keys_apart(constraint, &path, errors);
        } else {
            validate_match_keys(constraint, &path, errors);
        }
        if let Some(selector) = constraint
            .label_selector
            .as_ref()
            .filter(|_| !options.invalid_spread_selector)
        {
            validate_label_selector(selector, &path.child("labelSelector"), errors);
        }
    }
}

/// Checks the keys whose values are the pod's, which are in the selector since its creation.
pub(super) fn validate_match_keys(constraint: &TopologySpreadConstraint, path: &Path, errors: &mut Errors) {
    let keys = constraint.match_label_keys.as_deref().unwrap_or_default();
    let (selector, path) = (constraint.label_selector.as_ref(), path.child("matchLabelKeys"));
    validate_keys(keys, selector, &path, errors);
    for at in repeated_keys(keys, selector) {
        errors.invalid(
            &path.index(at),
            &keys[at],
            "exists in both matchLabelKeys and labelSelector",
        );
    }
}

/// Likewise for a pod from before 1.34, whose selector has been left alone.
fn validate_keys_apart(constraint: &TopologySpreadConstraint, path: &Path, errors: &mut Errors) {
    let keys = constraint.match_label_keys.as_deref().unwrap_or_default();
    let (selector, path) = (constraint.label_selector.as_ref(), path.child("matchLabelKeys"));
    validate_keys(keys, selector, &path, errors);
    let Some(selector) = selector else { return };
    for (at, key) in keys.iter().enumerate() {
        let in_labels = selector
            .match_labels
            .as_ref()
            .is_some_and(|labels| labels.contains_key(key));
        let mut expressions = selector.match_expressions.iter().flatten();
        if in_labels || expressions.any(|expression| expression.key == *key) {
            errors.invalid(
                &path.index(at),
                key,
                "exists in both matchLabelKeys and labelSelector",
            );
        }
    }
}
