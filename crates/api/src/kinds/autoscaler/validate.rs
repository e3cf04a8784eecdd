//! What an autoscaler may ask for.

use k8s_openapi::api::autoscaling::v2::{
    CrossVersionObjectReference, HPAScalingRules, HorizontalPodAutoscalerSpec, HorizontalPodAutoscalerStatus,
    MetricIdentifier, MetricSpec, MetricTarget,
};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity as Text;

use super::super::reference_part;
use crate::error::{Errors, Path};
use crate::names;
use crate::quantity::Quantity;

/// What a metric can be of; the first letter is that of its type.
const SOURCES: [&str; 5] = ["ContainerResource", "External", "Object", "Pods", "Resource"];
const TARGETS: [&str; 3] = ["Utilization", "Value", "AverageValue"];
/// Seconds.
const LONGEST_WINDOW: i32 = 3600;
const LONGEST_PERIOD: i32 = 1800;

const NO_TARGET: &str = "must set either a target raw value or a target utilization";
const TWO_TARGETS: &str = "may not set both a target raw value and a target utilization";

pub(super) fn spec(spec: &HorizontalPodAutoscalerSpec, errors: &mut Errors) {
    let path = Path::new("spec");
    let least = spec.min_replicas;
    if let Some(least) = least.filter(|least| *least < 1) {
        let why = "must be greater than or equal to 1";
        errors.invalid(&path.child("minReplicas"), &least, why);
    }
    let (most, most_path) = (spec.max_replicas, path.child("maxReplicas"));
    if most < 1 {
        errors.invalid(&most_path, &most, "must be greater than 0");
    }
    if least.is_some_and(|least| most < least) {
        errors.invalid(
            &most_path,
            &most,
            "must be greater than or equal to `minReplicas`",
        );
    }
    reference(&spec.scale_target_ref, &path.child("scaleTargetRef"), errors);
    let metrics = spec.metrics.as_deref().unwrap_or_default();
    let path_of_metrics = path.child("metrics");
    for (at, metric) in metrics.iter().enumerate() {
        self::metric(metric, &path_of_metrics.index(at), errors);
    }
    let from_outside = |metric: &MetricSpec| metric.object.is_some() || metric.external.is_some();
    if least == Some(0) && !metrics.iter().any(from_outside) {
        let why = "must specify at least one Object or External metric to support scaling to zero replicas";
        errors.forbidden(&path_of_metrics, why);
    }
    if let Some(behavior) = &spec.behavior {
        let path = path.child("behavior");
        rules(behavior.scale_up.as_ref(), &path.child("scaleUp"), errors);
        rules(behavior.scale_down.as_ref(), &path.child("scaleDown"), errors);
    }
}

pub(super) fn status(status: &HorizontalPodAutoscalerStatus, errors: &mut Errors) {
    let path = Path::new("status");
    let current = status.current_replicas.unwrap_or(0);
    errors.nonnegative(&path.child("currentReplicas"), current.into());
    errors.nonnegative(&path.child("desiredReplicas"), status.desired_replicas.into());
}

fn reference(object: &CrossVersionObjectReference, path: &Path, errors: &mut Errors) {
    reference_part(&object.kind, &path.child("kind"), errors);
    reference_part(&object.name, &path.child("name"), errors);
}

fn metric(metric: &MetricSpec, path: &Path, errors: &mut Errors) {
    let of = metric.type_.as_str();
    let path_of_type = path.child("type");
    if of.is_empty() {
        errors.required(&path_of_type, "must specify a metric source type");
    }
    errors.one_of(&path_of_type, of, &SOURCES);
    let given: Vec<&str> = [
        ("object", metric.object.is_some()),
        ("external", metric.external.is_some()),
        ("pods", metric.pods.is_some()),
        ("resource", metric.resource.is_some()),
        ("containerResource", metric.container_resource.is_some()),
    ]
    .into_iter()
    .filter_map(|(field, is_given)| is_given.then_some(field))
    .collect();
    // More than one is an error by itself.
    if let [field] = given[..] {
        source(metric, &path.child(field), errors);
    }
    let expected = field_of(of);
    if !SOURCES.contains(&of) {
        // Kubernetes tells it twice.
        errors.not_supported(&path_of_type, of, &SOURCES);
    } else if !given.contains(&expected.as_str()) {
        let why = "must populate information for the given metric source";
        errors.required(&path.child(&expected), why);
    }
    if given.len() != 1 {
        for field in given.iter().filter(|field| **field != expected) {
            errors.forbidden(&path.child(field), "must populate the given metric source only");
        }
    }
}

/// The field of a type of metric.
fn field_of(of: &str) -> String {
    let first = of.chars().next().map_or(0, char::len_utf8);
    of[..first].to_lowercase() + &of[first..]
}

/// The one source that a metric has.
fn source(metric: &MetricSpec, path: &Path, errors: &mut Errors) {
    let target_path = path.child("target");
    let required =
        |field: &str, why: &str, errors: &mut Errors| errors.required(&target_path.child(field), why);
    let forbidden =
        |field: &str, why: &str, errors: &mut Errors| errors.forbidden(&target_path.child(field), why);
    if let Some(object) = &metric.object {
        reference(&object.described_object, &path.child("describedObject"), errors);
        identifier(&object.metric, &path.child("metric"), errors);
        target(&object.target, &target_path, errors);
        if object.target.value.is_none() && object.target.average_value.is_none() {
            required(
                "averageValue",
                "must set either a target value or averageValue",
                errors,
            );
        }
    } else if let Some(external) = &metric.external {
        identifier(&external.metric, &path.child("metric"), errors);
        target(&external.target, &target_path, errors);
        match (&external.target.value, &external.target.average_value) {
            (None, None) => required(
                "averageValue",
                "must set either a target value for metric or a per-pod target",
                errors,
            ),
            (Some(_), Some(_)) => forbidden(
                "value",
                "may not set both a target value for metric and a per-pod target",
                errors,
            ),
            _ => {}
        }
    } else if let Some(pods) = &metric.pods {
        identifier(&pods.metric, &path.child("metric"), errors);
        target(&pods.target, &target_path, errors);
        if !pods.target.average_value.as_ref().is_some_and(is_positive) {
            required(
                "averageValue",
                "must specify a positive target averageValue",
                errors,
            );
        }
    } else {
        let (name, container, of) = match (&metric.container_resource, &metric.resource) {
            (Some(resource), _) => (&resource.name, Some(&resource.container), &resource.target),
            (None, Some(resource)) => (&resource.name, None, &resource.target),
            (None, None) => return,
        };
        if name.is_empty() {
            errors.required(&path.child("name"), "must specify a resource name");
        }
        if container.is_some_and(String::is_empty) {
            errors.required(&path.child("container"), "must specify a container");
        }
        target(of, &target_path, errors);
        match (of.average_utilization, &of.average_value) {
            (None, None) => required("averageUtilization", NO_TARGET, errors),
            (Some(_), Some(_)) => forbidden("averageValue", TWO_TARGETS, errors),
            _ => {}
        }
    }
}

fn identifier(metric: &MetricIdentifier, path: &Path, errors: &mut Errors) {
    let path = path.child("name");
    if metric.name.is_empty() {
        errors.required(&path, "must specify a metric name");
    } else {
        errors.invalid_each(&path, metric.name.as_str(), names::path_segment(&metric.name));
    }
}

fn target(target: &MetricTarget, path: &Path, errors: &mut Errors) {
    let of = target.type_.as_str();
    if of.is_empty() {
        errors.required(&path.child("type"), "must specify a metric target type");
    }
    if !TARGETS.contains(&of) {
        let why = "must be either Utilization, Value, or AverageValue";
        errors.invalid(&path.child("type"), of, why);
    }
    for (field, value) in [("value", &target.value), ("averageValue", &target.average_value)] {
        if let Some(value) = value.as_ref().filter(|value| !is_positive(value)) {
            errors.invalid(&path.child(field), value.0.as_str(), "must be positive");
        }
    }
    if let Some(percent) = target.average_utilization.filter(|percent| *percent < 1) {
        errors.invalid(
            &path.child("averageUtilization"),
            &percent,
            "must be greater than 0",
        );
    }
}

fn is_positive(quantity: &Text) -> bool {
    let quantity: Result<Quantity, _> = quantity.0.parse();
    quantity.is_ok_and(|quantity| !quantity.is_negative() && !quantity.is_zero())
}

fn rules(rules: Option<&HPAScalingRules>, path: &Path, errors: &mut Errors) {
    let Some(rules) = rules else { return };
    if let Some(window) = rules.stabilization_window_seconds {
        let path = path.child("stabilizationWindowSeconds");
        if window < 0 {
            errors.invalid(&path, &window, "must be greater than or equal to zero");
        }
        at_most(LONGEST_WINDOW, window, &path, errors);
    }
    if let Some(policy) = &rules.select_policy {
        errors.one_of(&path.child("selectPolicy"), policy, &["Disabled", "Max", "Min"]);
    }
    let path = path.child("policies");
    let policies = rules.policies.as_deref().unwrap_or_default();
    if policies.is_empty() {
        errors.required(&path, "must specify at least one Policy");
    }
    for (at, policy) in policies.iter().enumerate() {
        let path = path.index(at);
        errors.one_of(&path.child("type"), &policy.type_, &["Percent", "Pods"]);
        let period = policy.period_seconds;
        for (field, number) in [("value", policy.value), ("periodSeconds", period)] {
            if number <= 0 {
                errors.invalid(&path.child(field), &number, "must be greater than zero");
            }
        }
        at_most(LONGEST_PERIOD, period, &path.child("periodSeconds"), errors);
    }
    if let Some(tolerance) = rules
        .tolerance
        .as_ref()
        .filter(|tolerance| is_negative(tolerance))
    {
        let why = "must be greater or equal to zero";
        errors.invalid(&path.child("tolerance"), tolerance.0.as_str(), why);
    }
}

fn is_negative(quantity: &Text) -> bool {
    let quantity: Result<Quantity, _> = quantity.0.parse();
    quantity.is_ok_and(Quantity::is_negative)
}

fn at_most(most: i32, number: i32, path: &Path, errors: &mut Errors) {
    if number > most {
        errors.invalid(path, &number, &format!("must be less than or equal to {most}"));
    }
}
