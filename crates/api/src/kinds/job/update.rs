//! What may change in a Job.

use std::fmt::Display;

use k8s_openapi::api::batch::v1::{Job, JobSpec};
use k8s_openapi::api::core::v1::PodTemplateSpec;
use serde::Serialize;
use serde_json::Value;

use super::super::pod::Options;
use super::super::{FIELD_IMMUTABLE, same};
use super::status::has;
use super::{check_spec, is_indexed};
use crate::error::{Errors, GoSyntax, Path, Shown as _, quote};
use crate::go;

pub(super) fn validate(new: &Job, old: &Job, options: &Options, errors: &mut Errors) {
    let allows_scheduling = scheduling_may_change(old);
    let old = &old.spec.clone().unwrap_or_default();
    let new = &new.spec.clone().unwrap_or_default();
    check_spec(new, options, errors);
    let path = Path::new("spec");
    validate_completions(new, old, &path.child("completions"), errors);
    let go = |ty: &'static str| move |value: &Value| go::syntax(ty, value).0;
    let text = |value: &Value| quote(value.as_str().unwrap_or_default());
    let mut stays = |field: &str, new: Value, old: Value, shown: &dyn Fn(&Value) -> String| {
        if !same(&new, &old) {
            let shown = if new.is_null() {
                "null".to_owned()
            } else {
                shown(&new)
            };
            errors.invalid(&path.child(field), &GoSyntax(shown), FIELD_IMMUTABLE);
        }
    };
    stays(
        "selector",
        json(&new.selector),
        json(&old.selector),
        &go("v1.LabelSelector"),
    );
    let mut template = old.template.clone();
    if allows_scheduling {
        take_scheduling(&new.template, &mut template);
    }
    stays(
        "template",
        json(&new.template),
        json(&template),
        &go("core.PodTemplateSpec"),
    );
    let (mode, before) = (json(&new.completion_mode), json(&old.completion_mode));
    stays("completionMode", mode, before, &text);
    stays(
        "podFailurePolicy",
        json(&new.pod_failure_policy),
        json(&old.pod_failure_policy),
        &go("batch.PodFailurePolicy"),
    );
    let limit = json(&new.backoff_limit_per_index);
    let before = json(&old.backoff_limit_per_index);
    stays("backoffLimitPerIndex", limit, before, &Value::shown);
    stays("managedBy", json(&new.managed_by), json(&old.managed_by), &text);
    stays(
        "successPolicy",
        json(&new.success_policy),
        json(&old.success_policy),
        &go("batch.SuccessPolicy"),
    );
}

fn json(value: &impl Serialize) -> Value {
    serde_json::to_value(value).unwrap_or_default()
}

/// The count of completions stays; that of indexes may change with how many run at a time.
fn validate_completions(new: &JobSpec, old: &JobSpec, path: &Path, errors: &mut Errors) {
    if new.completions == old.completions {
        return;
    }
    let shown = |number: Option<i32>| GoSyntax(number.map_or_else(|| "null".to_owned(), as_text));
    if !is_indexed(new) {
        errors.invalid(path, &shown(new.completions), FIELD_IMMUTABLE);
    } else if new.completions.is_some() && new.completions != new.parallelism {
        let why = "can only be modified in tandem with spec.parallelism";
        errors.invalid(path, &shown(new.completions), why);
    }
}

fn as_text(value: impl Display) -> String {
    value.to_string()
}

/// Whether where pods may run can still change: while a Job is suspended, and none of its pods run.
fn scheduling_may_change(old: &Job) -> bool {
    let status = old.status.clone().unwrap_or_default();
    let suspended = old.spec.as_ref().is_some_and(|spec| spec.suspend == Some(true));
    let is_still = has(&status, "Suspended") && status.active.unwrap_or(0) == 0;
    suspended && (status.start_time.is_none() || is_still)
}

/// Lets a template have of another what says where its pods may run.
fn take_scheduling(from: &PodTemplateSpec, to: &mut PodTemplateSpec) {
    let metadata = from.metadata.clone().unwrap_or_default();
    let kept = to.metadata.get_or_insert_default();
    kept.labels = metadata.labels;
    kept.annotations = metadata.annotations;
    let (Some(from), Some(to)) = (&from.spec, &mut to.spec) else {
        return;
    };
    to.node_selector.clone_from(&from.node_selector);
    to.tolerations.clone_from(&from.tolerations);
    to.scheduling_gates.clone_from(&from.scheduling_gates);
    let wanted = from
        .affinity
        .as_ref()
        .and_then(|affinity| affinity.node_affinity.clone());
    // An affinity that says nothing is as none.
    to.affinity.get_or_insert_default().node_affinity = wanted;
}
