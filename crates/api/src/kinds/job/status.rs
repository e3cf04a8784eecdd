//! Checks of a Job's status: whoever writes it, it never says what cannot be ("Delegation of managing a Job object to
//! external controller").

use std::collections::BTreeSet;

use k8s_openapi::api::batch::v1::{Job, JobStatus, UncountedTerminatedPods};
use serde_json::json;

use super::policies::refuse;
use super::{indexes, is_indexed};
use crate::error::{Errors, Path};
use crate::go;

/// Whether a condition holds.
pub(super) fn has(status: &JobStatus, kind: &str) -> bool {
    let mut conditions = status.conditions.iter().flatten();
    conditions.any(|condition| condition.type_ == kind && condition.status == "True")
}

pub(super) fn validate_update(new: &Job, old: &Job, errors: &mut Errors) {
    let (status, before) = (
        new.status.clone().unwrap_or_default(),
        old.status.clone().unwrap_or_default(),
    );
    validate_counts(&status, errors);
    // What was wrong before may stay so.
    let (mut found, mut known) = (Errors::new(), Errors::new());
    validate_state(new, &status, &mut found);
    validate_state(old, &before, &mut known);
    let known: BTreeSet<String> = known.iter().map(ToString::to_string).collect();
    if found.iter().any(|error| !known.contains(&error.to_string())) {
        errors.extend(found);
    }
    validate_change(new, &status, &before, errors);
}

fn validate_counts(status: &JobStatus, errors: &mut Errors) {
    let path = Path::new("status");
    for (field, value) in [
        ("active", status.active),
        ("succeeded", status.succeeded),
        ("failed", status.failed),
        ("ready", status.ready),
        ("terminating", status.terminating),
    ] {
        errors.nonnegative(&path.child(field), value.unwrap_or(0).into());
    }
    let Some(UncountedTerminatedPods { succeeded, failed }) = &status.uncounted_terminated_pods else {
        return;
    };
    let path = path.child("uncountedTerminatedPods");
    let mut seen = BTreeSet::new();
    for (field, uids) in [("succeeded", succeeded), ("failed", failed)] {
        for (index, uid) in uids.iter().flatten().enumerate() {
            let path = path.child(field).index(index);
            if uid.is_empty() {
                errors.invalid(&path, uid, "must not be empty");
            } else if !seen.insert(uid) {
                errors.duplicate(&path, uid);
            }
        }
    }
}

/// Checks what a status says of a Job on its own.
fn validate_state(job: &Job, status: &JobStatus, errors: &mut Errors) {
    let path = Path::new("status");
    let conditions = path.child("conditions");
    let is = |kind: &str| has(status, kind);
    let (complete, failed) = (is("Complete"), is("Failed"));
    let (met, target) = (is("SuccessCriteriaMet"), is("FailureTarget"));
    for (is_wrong, why) in [
        (
            complete && failed,
            "cannot set Complete=True and Failed=true conditions",
        ),
        (
            complete && target,
            "cannot set Complete=True and FailureTarget=true conditions",
        ),
        (
            failed && !target,
            "cannot set Failed=True condition without the FailureTarget=true condition",
        ),
        (
            complete && !met,
            "cannot set Complete=True condition without the SuccessCriteriaMet=true condition",
        ),
        (
            met && failed,
            "cannot set SuccessCriteriaMet=True and Failed=true conditions",
        ),
        (
            met && target,
            "cannot set SuccessCriteriaMet=True and FailureTarget=true conditions",
        ),
    ] {
        if is_wrong {
            refuse(&conditions, why, errors);
        }
    }
    validate_times(status, complete, complete || failed, errors);
    if complete || failed {
        validate_finished(status, errors);
    }
    validate_indexes(job, status, errors);
    if status.ready.unwrap_or(0) > status.active.unwrap_or(0) {
        let ready = status.ready.unwrap_or(0);
        errors.invalid(
            &path.child("ready"),
            &ready,
            "cannot set more ready pods than active",
        );
    }
}

fn validate_times(status: &JobStatus, complete: bool, finished: bool, errors: &mut Errors) {
    let path = Path::new("status");
    let at = path.child("completionTime");
    match &status.completion_time {
        None if complete => errors.required(&at, "completionTime is required for Complete jobs"),
        Some(time) if !complete => {
            let why = "cannot set completionTime when there is no Complete=True condition";
            errors.invalid(&at, &json!(time), why);
        }
        Some(time) if status.start_time.as_ref().is_some_and(|start| time.0 < start.0) => {
            errors.invalid(&at, &json!(time), "completionTime cannot be set before startTime");
        }
        _ => {}
    }
    if finished && status.start_time.is_none() {
        let why = "startTime is required for finished job";
        errors.required(&path.child("startTime"), why);
    }
}

/// Nothing is left to be done for what has ended.
fn validate_finished(status: &JobStatus, errors: &mut Errors) {
    let path = Path::new("status");
    for (field, value) in [("active", status.active), ("terminating", status.terminating)] {
        if let Some(value) = value.filter(|value| *value > 0) {
            let why = format!("{field}>0 is invalid for finished job");
            errors.invalid(&path.child(field), &value, &why);
        }
    }
    let Some(uncounted) = &status.uncounted_terminated_pods else {
        return;
    };
    let (succeeded, failed) = (&uncounted.succeeded, &uncounted.failed);
    if succeeded.iter().chain(failed).any(|uids| !uids.is_empty()) {
        let shown = go::syntax("batch.UncountedTerminatedPods", uncounted);
        let why = "uncountedTerminatedPods needs to be empty for finished job";
        errors.invalid(&path.child("uncountedTerminatedPods"), &shown, why);
    }
}

fn validate_indexes(job: &Job, status: &JobStatus, errors: &mut Errors) {
    let path = Path::new("status");
    let spec = job.spec.clone().unwrap_or_default();
    let completed = status.completed_indexes.as_deref().unwrap_or_default();
    let failed = status.failed_indexes.as_deref();
    let at_failed = path.child("failedIndexes");
    if let Some(count) = spec.completions {
        for (field, list) in [
            ("completedIndexes", completed),
            ("failedIndexes", failed.unwrap_or_default()),
        ] {
            if let Err(why) = indexes::count(list, count) {
                errors.invalid(&path.child(field), list, &format!("error parsing {field}: {why}"));
            }
        }
        if let Some(index) = failed.and_then(|failed| indexes::overlap(completed, failed, count)) {
            let why = format!("failedIndexes and completedIndexes overlap at index: {index}");
            errors.invalid(&at_failed, failed.unwrap_or_default(), &why);
        }
    }
    if !completed.is_empty() && !is_indexed(&spec) {
        let why = "cannot set non-empty completedIndexes when non-indexed completion mode";
        errors.invalid(&path.child("completedIndexes"), completed, why);
    }
    if let Some(failed) = failed.filter(|_| spec.backoff_limit_per_index.is_none()) {
        let why = "cannot set non-null failedIndexes when backoffLimitPerIndex is null";
        errors.invalid(&at_failed, failed, why);
    }
}

/// Checks what only a change can get wrong.
fn validate_change(job: &Job, new: &JobStatus, old: &JobStatus, errors: &mut Errors) {
    let path = Path::new("status");
    for kind in ["Failed", "Complete", "FailureTarget", "SuccessCriteriaMet"] {
        if has(old, kind) && !has(new, kind) {
            let terminal = if kind == "SuccessCriteriaMet" {
                ""
            } else {
                "terminal "
            };
            let why = format!("cannot disable the {terminal}{kind}=True condition");
            refuse(&path.child("conditions"), &why, errors);
        }
    }
    let indexed = job.spec.as_ref().is_some_and(is_indexed);
    for (field, new, old) in [
        ("failed", new.failed, old.failed),
        // Indexes that succeeded can be taken away with the others.
        ("succeeded", new.succeeded, old.succeeded.filter(|_| !indexed)),
    ] {
        let (new, old) = (new.unwrap_or(0), old.unwrap_or(0));
        if new < old {
            let why = format!("cannot decrease the {field} counter");
            errors.invalid(&path.child(field), &new, &why);
        }
    }
    if let (Some(time), Some(before)) = (&new.completion_time, &old.completion_time)
        && time != before
    {
        errors.invalid(
            &path.child("completionTime"),
            &json!(time),
            "completionTime cannot be mutated",
        );
    }
    let suspended = job.spec.as_ref().is_some_and(|spec| spec.suspend == Some(true));
    // A Job that goes on begins anew.
    let resumed = has(old, "Suspended") && !has(new, "Suspended");
    if old.start_time.is_some() && new.start_time != old.start_time && !suspended && !resumed {
        let why = "startTime cannot be removed for unsuspended job";
        errors.required(&path.child("startTime"), why);
    }
}
