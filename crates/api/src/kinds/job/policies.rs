//! Checks of the policies that say when a Job has failed or succeeded. See "Pod failure policy" and "Success policy".

use std::collections::BTreeSet;

use k8s_openapi::api::batch::v1::{
    JobSpec, PodFailurePolicy, PodFailurePolicyOnExitCodesRequirement,
    PodFailurePolicyOnPodConditionsPattern, PodFailurePolicyRule, SuccessPolicy, SuccessPolicyRule,
};
use serde_json::json;

use super::super::text;
use super::indexes;
use crate::error::{Errors, GoSyntax, Path};
use crate::names;

const MOST_RULES: usize = 20;
const MOST_EXIT_CODES: usize = 255;
const MOST_PATTERNS: usize = 20;
const LONGEST_INDEXES: usize = 64 * 1024;

const ACTIONS: [&str; 4] = ["Count", "FailIndex", "FailJob", "Ignore"];
const OPERATORS: [&str; 2] = ["In", "NotIn"];
const STATUSES: [&str; 3] = ["False", "True", "Unknown"];

pub(super) fn validate_failure(spec: &JobSpec, policy: &PodFailurePolicy, path: &Path, errors: &mut Errors) {
    let path = path.child("rules");
    check_count(policy.rules.len(), MOST_RULES, &path, errors);
    let pod = spec.template.spec.as_ref();
    let containers = pod.into_iter().flat_map(|pod| {
        let first = pod.init_containers.iter().flatten();
        pod.containers.iter().chain(first)
    });
    let names: BTreeSet<&str> = containers.map(|container| container.name.as_str()).collect();
    for (index, rule) in policy.rules.iter().enumerate() {
        validate_rule(spec, rule, &names, &path.index(index), errors);
    }
}

fn validate_rule(
    spec: &JobSpec,
    rule: &PodFailurePolicyRule,
    names: &BTreeSet<&str>,
    path: &Path,
    errors: &mut Errors,
) {
    let at = path.child("action");
    if rule.action == "FailIndex" && spec.backoff_limit_per_index.is_none() {
        let why = "requires the backoffLimitPerIndex to be set";
        errors.invalid(&at, &rule.action, why);
    }
    one_of(&at, &rule.action, &ACTIONS, errors);
    let conditions = rule.on_pod_conditions.as_deref().unwrap_or_default();
    if let Some(codes) = &rule.on_exit_codes {
        validate_exit_codes(codes, names, &path.child("onExitCodes"), errors);
    }
    validate_conditions(conditions, &path.child("onPodConditions"), errors);
    let why = match (rule.on_exit_codes.is_some(), !conditions.is_empty()) {
        (true, true) => "specifying both OnExitCodes and OnPodConditions is not supported",
        (false, false) => "specifying one of OnExitCodes and OnPodConditions is required",
        _ => return,
    };
    refuse(path, why, errors);
}

fn validate_conditions(
    patterns: &[PodFailurePolicyOnPodConditionsPattern],
    path: &Path,
    errors: &mut Errors,
) {
    check_count(patterns.len(), MOST_PATTERNS, path, errors);
    for (index, pattern) in patterns.iter().enumerate() {
        let path = path.index(index);
        let why = names::qualified_name(&pattern.type_);
        errors.invalid_each(&path.child("type"), &pattern.type_, why);
        one_of(&path.child("status"), text(&pattern.status), &STATUSES, errors);
    }
}

fn validate_exit_codes(
    codes: &PodFailurePolicyOnExitCodesRequirement,
    names: &BTreeSet<&str>,
    path: &Path,
    errors: &mut Errors,
) {
    one_of(&path.child("operator"), &codes.operator, &OPERATORS, errors);
    if let Some(name) = codes
        .container_name
        .as_deref()
        .filter(|name| !names.contains(name))
    {
        let why = "must be one of the container or initContainer names in the pod template";
        errors.invalid(&path.child("containerName"), name, why);
    }
    let path = path.child("values");
    if codes.values.is_empty() {
        errors.invalid(&path, &json!([]), "at least one value is required");
    }
    check_count(codes.values.len(), MOST_EXIT_CODES, &path, errors);
    let mut seen = BTreeSet::new();
    for (index, code) in codes.values.iter().enumerate() {
        if codes.operator == "In" && *code == 0 {
            errors.invalid(&path.index(index), code, "must not be 0 for the In operator");
        }
        if !seen.insert(code) {
            errors.duplicate(&path.index(index), code);
        }
    }
    if !codes.values.is_sorted() {
        errors.invalid(&path, &json!(codes.values), "must be ordered");
    }
}

pub(super) fn validate_success(spec: &JobSpec, policy: &SuccessPolicy, path: &Path, errors: &mut Errors) {
    let path = path.child("rules");
    if policy.rules.is_empty() {
        let why = "at least one rules must be specified when the successPolicy is specified";
        errors.required(&path, why);
    }
    check_count(policy.rules.len(), MOST_RULES, &path, errors);
    for (index, rule) in policy.rules.iter().enumerate() {
        validate_success_rule(rule, spec.completions.unwrap_or(0), &path.index(index), errors);
    }
}

fn validate_success_rule(rule: &SuccessPolicyRule, completions: i32, path: &Path, errors: &mut Errors) {
    if rule.succeeded_count.is_none() && rule.succeeded_indexes.is_none() {
        let why = "at least one of succeededCount or succeededIndexes must be specified";
        errors.required(path, why);
    }
    let mut total = 0;
    if let Some(given) = &rule.succeeded_indexes {
        let path = path.child("succeededIndexes");
        if given.len() > LONGEST_INDEXES {
            errors.too_long(&path, LONGEST_INDEXES);
        }
        match indexes::count(given, completions) {
            Ok(count) => total = count,
            Err(why) => errors.invalid(&path, given, &format!("error parsing succeededIndexes: {why}")),
        }
    }
    let Some(count) = rule.succeeded_count else { return };
    let path = path.child("succeededCount");
    errors.nonnegative(&path, count.into());
    let mut at_most = |limit: i32, what: &str| {
        if count > limit {
            let why = format!("must be less than or equal to {limit} (the number of {what})");
            errors.invalid(&path, &count, &why);
        }
    };
    at_most(completions, "specified completions");
    if rule.succeeded_indexes.is_some() {
        at_most(total, "indexes in the specified succeededIndexes field");
    }
}

fn check_count(found: usize, limit: usize, path: &Path, errors: &mut Errors) {
    if found > limit {
        errors.too_many(path, found, limit);
    }
}

/// A text that is to be given, and one of these.
fn one_of(path: &Path, value: &str, supported: &[&str], errors: &mut Errors) {
    if value.is_empty() {
        let list: Vec<String> = supported.iter().map(|text| format!("{text:?}")).collect();
        errors.required(path, &format!("valid values: [{}]", list.join(" ")));
    } else {
        errors.one_of(path, value, supported);
    }
}

/// Refuses something without showing it.
pub(super) fn refuse(path: &Path, why: &str, errors: &mut Errors) {
    errors.invalid(path, &GoSyntax(why.to_owned()), "");
}
