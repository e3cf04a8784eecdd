//! Checks of a Job's spec that a template of Jobs gets, too.

use k8s_openapi::api::batch::v1::JobSpec;

use super::super::pod::{self, Options};
use super::super::{domain_prefixed_path, text};
use super::{FAILED, INDEXED, NON_INDEXED, TERMINATING_OR_FAILED, is_indexed, policies};
use crate::error::{Errors, Path};
use crate::go;

/// The most pods that run at a time, and indexes that may fail, where each has an index.
const MOST_INDEXED: i32 = 100_000;
/// Where there are more completions than this, fewer of both are allowed.
const MANY_COMPLETIONS: i32 = 100_000;
const MOST_OF_MANY: i32 = 10_000;
const LONGEST_MANAGER: usize = 63;

/// Checks all but the selector.
pub(in super::super) fn spec(spec: &JobSpec, options: &Options, path: &Path, errors: &mut Errors) {
    validate_numbers(spec, path, errors);
    if let Some(manager) = &spec.managed_by {
        validate_manager(manager, &path.child("managedBy"), errors);
    }
    match text(&spec.completion_mode) {
        INDEXED => validate_indexed(spec, path, errors),
        NON_INDEXED | "" => validate_not_indexed(spec, path, errors),
        other => {
            let supported = [NON_INDEXED, INDEXED];
            errors.not_supported(&path.child("completionMode"), other, &supported);
        }
    }
    if let Some(policy) = &spec.pod_failure_policy {
        policies::validate_failure(spec, policy, &path.child("podFailurePolicy"), errors);
    }
    if let Some(policy) = &spec.success_policy {
        let path = path.child("successPolicy");
        if is_indexed(spec) {
            policies::validate_success(spec, policy, &path, errors);
        } else {
            let shown = go::syntax("batch.SuccessPolicy", policy);
            errors.invalid(&path, &shown, "requires indexed completion mode");
        }
    }
    validate_replacement(spec, &path.child("podReplacementPolicy"), errors);
    let path = path.child("template");
    pod::validate_template(&spec.template, options, &path, errors);
    validate_restart(spec, &path.child("spec").child("restartPolicy"), errors);
}

/// What is told of Jobs that are too large to be followed well.
pub(super) fn size_warning(spec: &JobSpec) -> Option<String> {
    let is_large = is_indexed(spec)
        && spec.completions.is_some_and(|count| count > MANY_COMPLETIONS)
        && spec.parallelism.is_some_and(|count| count > MOST_OF_MANY);
    is_large.then(|| {
        "In Indexed Jobs with a number of completions higher than 10^5 and a parallelism higher than 10^4, \
         Kubernetes might not be able to track completedIndexes when a big number of indexes fail"
            .to_owned()
    })
}

fn validate_numbers(spec: &JobSpec, path: &Path, errors: &mut Errors) {
    for (field, value) in [
        ("parallelism", spec.parallelism.map(i64::from)),
        ("completions", spec.completions.map(i64::from)),
        ("activeDeadlineSeconds", spec.active_deadline_seconds),
        ("backoffLimit", spec.backoff_limit.map(i64::from)),
        (
            "ttlSecondsAfterFinished",
            spec.ttl_seconds_after_finished.map(i64::from),
        ),
        (
            "backoffLimitPerIndex",
            spec.backoff_limit_per_index.map(i64::from),
        ),
        ("maxFailedIndexes", spec.max_failed_indexes.map(i64::from)),
    ] {
        errors.nonnegative(&path.child(field), value.unwrap_or(0));
    }
    if spec.max_failed_indexes.is_some() && spec.backoff_limit_per_index.is_none() {
        errors.required(
            &path.child("backoffLimitPerIndex"),
            "when maxFailedIndexes is specified",
        );
    }
}

/// A manager is named as a path of a domain.
fn validate_manager(manager: &str, path: &Path, errors: &mut Errors) {
    domain_prefixed_path(manager, path, errors);
    if manager.len() > LONGEST_MANAGER {
        errors.too_long(path, LONGEST_MANAGER);
    }
}

fn validate_indexed(spec: &JobSpec, path: &Path, errors: &mut Errors) {
    let at = |field| path.child(field);
    let at_most = |field, value: Option<i32>, limit: i32, rest: &str, errors: &mut Errors| {
        if let Some(value) = value.filter(|value| *value > limit) {
            let why = format!("must be less than or equal to {limit}{rest}");
            errors.invalid(&path.child(field), &value, &why);
        }
    };
    if spec.completions.is_none() {
        errors.required(&at("completions"), "when completion mode is Indexed");
    }
    let rest = " when completion mode is Indexed";
    at_most("parallelism", spec.parallelism, MOST_INDEXED, rest, errors);
    let failed = spec.max_failed_indexes;
    if let (Some(most), Some(count)) = (failed, spec.completions)
        && most > count
    {
        let why = "must be less than or equal to completions";
        errors.invalid(&at("maxFailedIndexes"), &most, why);
    }
    at_most("maxFailedIndexes", failed, MOST_INDEXED, "", errors);
    if spec.completions.is_some_and(|count| count > MANY_COMPLETIONS)
        && spec.backoff_limit_per_index.is_some()
    {
        if failed.is_none() {
            let why = format!("must be specified when completions is above {MANY_COMPLETIONS}");
            errors.required(&at("maxFailedIndexes"), &why);
        }
        let rest =
            format!(" when completions are above {MANY_COMPLETIONS} and used with backoff limit per index");
        at_most("parallelism", spec.parallelism, MOST_OF_MANY, &rest, errors);
        at_most("maxFailedIndexes", failed, MOST_OF_MANY, &rest, errors);
    }
}

fn validate_not_indexed(spec: &JobSpec, path: &Path, errors: &mut Errors) {
    for (field, value) in [
        ("backoffLimitPerIndex", spec.backoff_limit_per_index),
        ("maxFailedIndexes", spec.max_failed_indexes),
    ] {
        if let Some(value) = value {
            errors.invalid(&path.child(field), &value, "requires indexed completion mode");
        }
    }
}

fn validate_replacement(spec: &JobSpec, path: &Path, errors: &mut Errors) {
    let Some(policy) = &spec.pod_replacement_policy else {
        return;
    };
    match spec.pod_failure_policy {
        None => errors.one_of(path, policy, &[FAILED, TERMINATING_OR_FAILED]),
        // What a policy is to judge must have failed first.
        Some(_) => errors.one_of(path, policy, &[FAILED]),
    }
}

fn validate_restart(spec: &JobSpec, path: &Path, errors: &mut Errors) {
    let pod = spec.template.spec.as_ref();
    match pod.map_or("", |pod| text(&pod.restart_policy)) {
        "Always" | "" => errors.required(path, "valid values: \"OnFailure\", \"Never\""),
        "Never" => {}
        "OnFailure" if spec.pod_failure_policy.is_none() => {}
        "OnFailure" => {
            let why = "only \"Never\" is supported when podFailurePolicy is specified";
            errors.invalid(path, "OnFailure", why);
        }
        other => errors.not_supported(path, other, &["OnFailure", "Never"]),
    }
}
