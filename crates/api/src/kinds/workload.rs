//! What StatefulSet, Deployment and ReplicaSet share: a selector and a template of pods that it selects.

use k8s_openapi::api::core::v1::{Container, PodTemplateSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, ObjectMeta};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use serde_json::Value;

use super::pod::{self, Options};
use super::{FIELD_IMMUTABLE, same, text};
use crate::error::{Errors, GoSyntax, Path};
use crate::object::{ApiObject, Logic, NotOfKind, edit, read};
use crate::selector::{Selector, validate_label_selector};
use crate::{go, names};

/// A kind whose typed form has a selector always, though one that is not given is not the same as an empty one.
pub(super) trait Workload: ApiObject {
    /// Checks a new object.
    fn check(&self, has_selector: bool, errors: &mut Errors);

    /// Checks an object and what an update changes.
    fn check_update(&self, old: &Self, has_selector: bool, errors: &mut Errors);
}

/// The logic of such a kind.
pub(super) const fn logic<T: Workload>() -> Logic {
    Logic {
        set_defaults: |value| keep_absent_selector(value, |value| edit(value, T::set_defaults)),
        prepare_for_create: |value| keep_absent_selector(value, |value| edit(value, T::prepare_for_create)),
        prepare_for_update: |value, old| {
            let old = read::<T>(old)?;
            keep_absent_selector(value, |value| {
                edit(value, |new: &mut T| new.prepare_for_update(&old))
            })
        },
        validate: |value, errors| {
            read::<T>(value)?.check(has_selector(value), errors);
            Ok(())
        },
        validate_update: |value, old, errors| {
            read::<T>(value)?.check_update(&read(old)?, has_selector(value), errors);
            Ok(())
        },
        ..Logic::of::<T>()
    }
}

fn has_selector(value: &Value) -> bool {
    value.pointer("/spec/selector").is_some_and(Value::is_object)
}

fn keep_absent_selector(
    value: &mut Value,
    change: impl FnOnce(&mut Value) -> Result<(), NotOfKind>,
) -> Result<(), NotOfKind> {
    let has_selector = has_selector(value);
    change(value)?;
    if !has_selector && let Some(spec) = value["spec"].as_object_mut() {
        spec.remove("selector");
    }
    Ok(())
}

/// A selector, if it is given.
pub(super) struct Given<'a>(Option<&'a LabelSelector>);

impl<'a> Given<'a> {
    pub(super) fn new(selector: &'a LabelSelector, is_given: bool) -> Given<'a> {
        Given(is_given.then_some(selector))
    }

    /// Checks that it selects something. `whose` is the kind that errors name. Says whether it is a selector.
    pub(super) fn validate(&self, whose: &str, path: &Path, errors: &mut Errors) -> bool {
        let Some(selector) = self.0 else {
            errors.required(path, "");
            return true;
        };
        let before = errors.len();
        validate_label_selector(selector, path, errors);
        let is_selector = errors.len() == before;
        let has_labels = selector
            .match_labels
            .as_ref()
            .is_some_and(|labels| !labels.is_empty());
        let has_expressions = selector
            .match_expressions
            .as_ref()
            .is_some_and(|list| !list.is_empty());
        if !has_labels && !has_expressions {
            let shown = go::syntax("v1.LabelSelector", selector);
            errors.invalid(path, &shown, &format!("empty selector is invalid for {whose}"));
        }
        is_selector
    }

    /// Says that it is no selector.
    pub(super) fn refuse(&self, why: &str, path: &Path, errors: &mut Errors) {
        if let Some(selector) = self.0 {
            errors.invalid(path, &go::syntax("v1.LabelSelector", selector), why);
        }
    }

    /// Checks that it selects what is made from a template.
    pub(super) fn validate_labels(&self, template: &PodTemplateSpec, path: &Path, errors: &mut Errors) {
        let labels = metadata(template).and_then(|metadata| metadata.labels.as_ref());
        let selector = Selector::from_label_selector(self.0);
        if selector.is_ok_and(|selector| !selector.is_everything() && !selector.matches(labels)) {
            let shown = go::syntax("map[string]string", &labels);
            let path = path.child("metadata").child("labels");
            errors.invalid(&path, &shown, "`selector` does not match template `labels`");
        }
    }
}

fn metadata(template: &PodTemplateSpec) -> Option<&ObjectMeta> {
    template.metadata.as_ref()
}

/// What a template's update may keep as it is.
pub(super) fn options_after(old: &PodTemplateSpec) -> Options {
    let annotations = metadata(old).and_then(|metadata| metadata.annotations.as_ref());
    Options::after(old.spec.as_ref(), annotations)
}

/// Checks that pods run until they are deleted. `whose` is the kind that errors name.
pub(super) fn validate_lasting(template: &PodTemplateSpec, whose: &str, path: &Path, errors: &mut Errors) {
    let pod = template.spec.as_ref();
    let restart_policy = pod.map_or("", |pod| text(&pod.restart_policy));
    let path = path.child("spec");
    errors.one_of(&path.child("restartPolicy"), restart_policy, &["Always"]);
    if pod.is_some_and(|pod| pod.active_deadline_seconds.is_some()) {
        let why = format!("activeDeadlineSeconds in {whose} is not Supported");
        errors.forbidden(&path.child("activeDeadlineSeconds"), &why);
    }
}

/// Checks the template of a ReplicaSet, or of what makes ReplicaSets, and the selector with it.
pub(super) fn validate_of_replica_set(
    selector: &Given<'_>,
    template: &PodTemplateSpec,
    options: &Options,
    errors: &mut Errors,
) {
    let path = Path::new("spec");
    // Kubernetes says so of ReplicaSets, too.
    let is_selector = selector.validate("deployment", &path.child("selector"), errors);
    if !is_selector {
        selector.refuse("invalid label selector", &path.child("selector"), errors);
        return;
    }
    let path = path.child("template");
    selector.validate_labels(template, &path, errors);
    pod::validate_template(template, options, &path, errors);
    validate_lasting(template, "ReplicaSet", &path, errors);
}

/// A selector cannot change.
pub(super) fn validate_same_selector(new: &Given<'_>, old: &LabelSelector, errors: &mut Errors) {
    let path = Path::new("spec").child("selector");
    match new.0 {
        None => errors.invalid(&path, "null", FIELD_IMMUTABLE),
        Some(new) if !same(new, old) => {
            errors.invalid(&path, &go::syntax("v1.LabelSelector", new), FIELD_IMMUTABLE);
        }
        Some(_) => {}
    }
}

/// A number or a percentage, not below zero; its number. One that is none counts as zero.
pub(super) fn validate_int_or_percent(amount: &IntOrString, path: &Path, errors: &mut Errors) -> i64 {
    match amount {
        IntOrString::Int(number) => {
            errors.nonnegative(path, (*number).into());
            i64::from(*number)
        }
        IntOrString::String(percent) => {
            errors.invalid_each(path, &int_or_percent(amount), names::percent(percent));
            percent.trim_end_matches('%').parse().unwrap_or(0)
        }
    }
}

/// A percentage cannot be of more than there is.
pub(super) fn validate_at_most_all(amount: &IntOrString, path: &Path, errors: &mut Errors) {
    if let IntOrString::String(percent) = amount
        && names::percent(percent).is_empty()
        && percent.trim_end_matches('%').parse::<i64>().unwrap_or(0) > 100
    {
        errors.invalid(path, &int_or_percent(amount), "must not be greater than 100%");
    }
}

/// A number or a percentage as errors show it.
pub(super) fn int_or_percent(amount: &IntOrString) -> GoSyntax {
    go::syntax("intstr.IntOrString", amount)
}

/// What is told of the name that pods will have as a part of theirs.
pub(super) fn name_warning(metadata: &ObjectMeta) -> Option<String> {
    let objections = names::dns_label(text(&metadata.name));
    (!objections.is_empty()).then(|| {
        format!(
            "metadata.name: this is used in Pod names and hostnames, which can result in surprising behavior; a \
             DNS label is recommended: [{}]",
            objections.join(" ")
        )
    })
}

/// What to warn of in a template.
pub(super) fn template_warnings(template: &PodTemplateSpec) -> Vec<String> {
    template_warnings_at(template, &Path::new("spec").child("template"))
}

/// What to warn of in a template that is not where a workload has it.
pub(super) fn template_warnings_at(template: &PodTemplateSpec, path: &Path) -> Vec<String> {
    let Some(pod) = &template.spec else {
        return Vec::new();
    };
    let metadata = template.metadata.clone().unwrap_or_default();
    pod::spec_warnings(&metadata, pod, path)
}

/// Cells: the containers' names, and their images.
pub(super) fn containers_and_images(template: &PodTemplateSpec) -> [Value; 2] {
    let containers = template.spec.as_ref().map_or(&[][..], |pod| &pod.containers);
    let list = |of: fn(&Container) -> &str| -> Value {
        containers.iter().map(of).collect::<Vec<_>>().join(",").into()
    };
    [
        list(|container| &container.name),
        list(|container| text(&container.image)),
    ]
}

/// The cell that shows a selector.
pub(super) fn selector_cell(selector: &LabelSelector) -> Value {
    match Selector::from_label_selector(Some(selector)).map(|selector| selector.to_string()) {
        Ok(text) if text.is_empty() => "<none>".into(),
        Ok(text) => text.into(),
        Err(_) => "<error>".into(),
    }
}

/// Checks the counts of a status: none is below zero, and none of the parts above `replicas`.
pub(super) fn validate_counts(
    replicas: i32,
    parts: &[(&str, i32)],
    others: &[(&str, i64)],
    errors: &mut Errors,
) {
    let path = Path::new("status");
    errors.nonnegative(&path.child("replicas"), replicas.into());
    for (field, value) in parts {
        errors.nonnegative(&path.child(field), i64::from(*value));
    }
    for (field, value) in others {
        errors.nonnegative(&path.child(field), *value);
    }
    for (field, value) in parts.iter().filter(|(_, value)| *value > replicas) {
        errors.invalid(
            &path.child(field),
            value,
            "cannot be greater than status.replicas",
        );
    }
}

/// No more pods are available than are ready.
pub(super) fn validate_available(available: i32, ready: i32, errors: &mut Errors) {
    if available > ready {
        let path = Path::new("status").child("availableReplicas");
        errors.invalid(&path, &available, "cannot be greater than readyReplicas");
    }
}

/// A count of collisions only grows.
pub(super) fn validate_collisions(new: Option<i32>, old: Option<i32>, errors: &mut Errors) {
    let count = new.unwrap_or(0);
    if old.is_some_and(|old| count < old) {
        let path = Path::new("status").child("collisionCount");
        errors.invalid(&path, &count, "cannot be decremented");
    }
}
