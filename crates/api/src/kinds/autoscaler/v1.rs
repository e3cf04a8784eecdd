//! HorizontalPodAutoscaler in autoscaling/v1: the processor time that pods use is a field there, and all that
//! this version has no field for is in annotations.

use k8s_openapi::api::autoscaling::v2::HorizontalPodAutoscaler;
use serde_json::{Map, Value, json};

use super::super::{Errors, Path};
use super::{DEFAULT_UTILIZATION, kind};
use crate::object::{ApiObject, Logic, NotOfKind, read};
use crate::registry::{Kind, StoredAs};
use crate::schema;

pub(in crate::kinds) static KIND: Kind = Kind {
    stored_as: Some(StoredAs {
        group: "autoscaling",
        to_stored,
        from_stored,
        stored_field: str::to_owned,
    }),
    ..kind("v1", "io.k8s.api.autoscaling.v1.HorizontalPodAutoscaler", LOGIC)
};

const METRICS: &str = "autoscaling.alpha.kubernetes.io/metrics";
const CURRENT: &str = "autoscaling.alpha.kubernetes.io/current-metrics";
const CONDITIONS: &str = "autoscaling.alpha.kubernetes.io/conditions";
const BEHAVIOR: &str = "autoscaling.alpha.kubernetes.io/behavior";

/// The logic of the stored form.
const LOGIC: Logic = Logic {
    set_defaults: |value| {
        if let Some(spec) = value["spec"].as_object_mut() {
            spec.entry("minReplicas").or_insert_with(|| 1.into());
        }
        Ok(())
    },
    prepare_for_create: |value| {
        value["status"] = json!({"currentReplicas": 0, "desiredReplicas": 0});
        Ok(())
    },
    prepare_for_update: |_, _| Ok(()),
    prepare_for_status_update: |_, _| Ok(()),
    validate,
    validate_update: |value, _, errors| validate(value, errors),
    validate_status_update: |value, old, errors| {
        stored(value)?.validate_status_update(&stored(old)?, errors);
        Ok(())
    },
    validate_approval_update: |_, _, _| Ok(()),
    warnings: |_, _| Ok(Vec::new()),
    row: |value, now| Ok(stored(value)?.row(now)),
};

fn validate(value: &Value, errors: &mut Errors) -> Result<(), NotOfKind> {
    for annotation in [METRICS, CURRENT, CONDITIONS, BEHAVIOR] {
        let text = value["metadata"]["annotations"][annotation].as_str();
        if let Some(text) = text.filter(|_| parsed(value, annotation).is_none()) {
            let path = Path::new("metadata").child("annotations").key(annotation);
            errors.invalid(&path, text, "must be JSON as the API writes it here");
        }
    }
    stored(value)?.validate(errors);
    Ok(())
}

fn stored(value: &Value) -> Result<HorizontalPodAutoscaler, NotOfKind> {
    read(&to_stored(value.clone()))
}

/// A metric's source: its field; and of each of its fields the name here and where it is in the newer version.
type Source = (&'static str, &'static [(&'static str, &'static [&'static str])]);

const NAME: &[&str] = &["metric", "name"];
const SELECTOR: &[&str] = &["metric", "selector"];
const VALUE: &[&str] = &["target", "value"];
const AVERAGE: &[&str] = &["target", "averageValue"];
const UTILIZATION: &[&str] = &["target", "averageUtilization"];

/// In the order in which they are written.
const SOURCES: [Source; 5] = [
    (
        "object",
        &[
            ("target", &["describedObject"]),
            ("metricName", NAME),
            ("targetValue", VALUE),
            ("selector", SELECTOR),
            ("averageValue", AVERAGE),
        ],
    ),
    (
        "pods",
        &[
            ("metricName", NAME),
            ("targetAverageValue", AVERAGE),
            ("selector", SELECTOR),
        ],
    ),
    (
        "resource",
        &[
            ("name", &["name"]),
            ("targetAverageUtilization", UTILIZATION),
            ("targetAverageValue", AVERAGE),
        ],
    ),
    (
        "containerResource",
        &[
            ("name", &["name"]),
            ("targetAverageUtilization", UTILIZATION),
            ("targetAverageValue", AVERAGE),
            ("container", &["container"]),
        ],
    ),
    (
        "external",
        &[
            ("metricName", NAME),
            ("metricSelector", SELECTOR),
            ("targetValue", VALUE),
            ("targetAverageValue", AVERAGE),
        ],
    ),
];

/// Metrics as they are to be, and as they are. The latter have `current` in names where the former have `target`.
#[derive(Clone, Copy, PartialEq)]
enum Side {
    Target,
    Current,
}

impl Side {
    fn name(self, name: &str) -> String {
        match name.strip_prefix("target") {
            Some(rest) if self == Side::Current && !rest.is_empty() => format!("current{rest}"),
            _ => name.to_owned(),
        }
    }

    fn path(self, path: &[&'static str]) -> Vec<&'static str> {
        let step = |step: &&'static str| match *step {
            "target" if self == Side::Current => "current",
            step => step,
        };
        path.iter().map(step).collect()
    }
}

/// To autoscaling/v2.
fn to_stored(mut value: Value) -> Value {
    value["apiVersion"] = "autoscaling/v2".into();
    let mut metrics = match parsed(&value, METRICS) {
        Some(Value::Array(metrics)) => metrics.iter().map(|metric| newer(metric, Side::Target)).collect(),
        _ => Vec::new(),
    };
    let mut current = match parsed(&value, CURRENT) {
        Some(Value::Array(metrics)) => metrics
            .iter()
            .map(|metric| newer(metric, Side::Current))
            .collect(),
        _ => Vec::new(),
    };
    let conditions = parsed(&value, CONDITIONS);
    let behavior = parsed(&value, BEHAVIOR);
    if let Some(annotations) = value["metadata"]["annotations"].as_object_mut() {
        for annotation in [METRICS, CURRENT, CONDITIONS, BEHAVIOR] {
            annotations.remove(annotation);
        }
    }
    if let Some(spec) = value.get_mut("spec").and_then(Value::as_object_mut) {
        let percent = spec
            .remove("targetCPUUtilizationPercentage")
            .filter(Value::is_number);
        let percent = percent.or_else(|| metrics.is_empty().then(|| DEFAULT_UTILIZATION.into()));
        if let Some(percent) = percent {
            metrics.insert(0, cpu(percent, Side::Target));
        }
        spec.insert("metrics".to_owned(), metrics.into());
        if let Some(behavior) = behavior {
            spec.insert("behavior".to_owned(), with_case(&behavior, str::to_lowercase));
        }
    }
    if let Some(status) = value.get_mut("status").and_then(Value::as_object_mut) {
        if let Some(percent) = status
            .remove("currentCPUUtilizationPercentage")
            .filter(Value::is_number)
        {
            current.insert(0, cpu(percent, Side::Current));
        }
        if !current.is_empty() {
            status.insert("currentMetrics".to_owned(), current.into());
        }
        if let Some(conditions) = conditions {
            status.insert("conditions".to_owned(), conditions);
        }
    }
    schema::normalize(schema::builtin(), super::KIND.type_id(), &mut value);
    value
}

/// From autoscaling/v2.
fn from_stored(mut value: Value) -> Value {
    value["apiVersion"] = "autoscaling/v1".into();
    let take = |value: &mut Value, part: &str, field: &str| {
        let part = value.get_mut(part).and_then(Value::as_object_mut);
        part.and_then(|part| part.remove(field))
            .filter(|field| !field.is_null())
    };
    let mut annotations = Vec::new();
    for (part, list, annotation, percentage, side) in [
        (
            "spec",
            "metrics",
            METRICS,
            "targetCPUUtilizationPercentage",
            Side::Target,
        ),
        (
            "status",
            "currentMetrics",
            CURRENT,
            "currentCPUUtilizationPercentage",
            Side::Current,
        ),
    ] {
        let metrics = take(&mut value, part, list);
        let mut others = Vec::new();
        for metric in metrics.iter().filter_map(Value::as_array).flatten() {
            match utilization(metric, side) {
                Some(percent) => value[part][percentage] = percent.clone(),
                None => others.push(older(metric, side)),
            }
        }
        if !others.is_empty() {
            annotations.push((annotation, format!("[{}]", others.join(","))));
        }
    }
    if let Some(conditions) = take(&mut value, "status", "conditions") {
        annotations.push((CONDITIONS, conditions.to_string()));
    }
    if let Some(behavior) = take(&mut value, "spec", "behavior") {
        annotations.push((BEHAVIOR, behavior_text(&behavior)));
    }
    if !annotations.is_empty() {
        let all = &mut value["metadata"]["annotations"];
        if !all.is_object() {
            *all = json!({});
        }
        for (annotation, text) in annotations {
            all[annotation] = text.into();
        }
    }
    schema::normalize(schema::builtin(), KIND.type_id(), &mut value);
    value
}

/// What an annotation holds.
fn parsed(value: &Value, annotation: &str) -> Option<Value> {
    let text = value["metadata"]["annotations"][annotation].as_str()?;
    let parsed: Value = serde_json::from_str(text).ok()?;
    let is_right = match annotation {
        BEHAVIOR => parsed.is_object(),
        _ => parsed.is_array(),
    };
    is_right.then_some(parsed)
}

/// The metric of the processor time that pods use.
fn cpu(percent: Value, side: Side) -> Value {
    let target = match side {
        Side::Target => json!({"target": {"type": "Utilization", "averageUtilization": percent}}),
        Side::Current => json!({"current": {"averageUtilization": percent}}),
    };
    let mut metric = json!({"type": "Resource", "resource": target});
    metric["resource"]["name"] = "cpu".into();
    metric
}

/// The percentage of a metric of the processor time that pods use.
fn utilization(metric: &Value, side: Side) -> Option<&Value> {
    let resource = metric
        .get("resource")
        .filter(|resource| resource["name"] == "cpu")?;
    at(resource, &side.path(UTILIZATION))
}

fn at<'v>(value: &'v Value, path: &[&str]) -> Option<&'v Value> {
    let found = path.iter().try_fold(value, |value, step| value.get(step));
    found.filter(|found| !found.is_null())
}

/// A metric as this version writes it.
fn older(metric: &Value, side: Side) -> String {
    let mut fields = vec![("type".to_owned(), metric["type"].to_string())];
    for (source, names) in SOURCES {
        let Some(given) = at(metric, &[source]) else {
            continue;
        };
        let of_source = names.iter().filter_map(|(name, path)| {
            let value = at(given, &side.path(path))?;
            Some((side.name(name), value.to_string()))
        });
        fields.push((source.to_owned(), object(of_source)));
    }
    object(fields)
}

/// A metric that this version wrote.
fn newer(metric: &Value, side: Side) -> Value {
    let mut newer = json!({"type": metric["type"]});
    for (source, names) in SOURCES {
        let Some(given) = at(metric, &[source]) else {
            continue;
        };
        let mut fields = json!({});
        for (name, path) in names {
            if let Some(value) = given.get(side.name(name)) {
                let path = side.path(path);
                let field = path.iter().fold(&mut fields, |field, step| &mut field[step]);
                *field = value.clone();
            }
        }
        if side == Side::Target {
            fields["target"]["type"] = if at(&fields, UTILIZATION).is_some() {
                "Utilization".into()
            } else if at(&fields, AVERAGE).is_some() {
                "AverageValue".into()
            } else {
                "Value".into()
            };
        }
        newer[source] = fields;
    }
    newer
}

/// JSON with the fields in this order.
fn object(fields: impl IntoIterator<Item = (String, String)>) -> String {
    let fields: Vec<_> = fields
        .into_iter()
        .map(|(name, value)| format!("\"{name}\":{value}"))
        .collect();
    format!("{{{}}}", fields.join(","))
}

/// How it scales, as the annotation has it: Kubernetes' internal names of the fields, in their order.
fn behavior_text(behavior: &Value) -> String {
    const POLICY: [&str; 3] = ["Type", "Value", "PeriodSeconds"];
    let capital = |name: &str| with_first(name, str::to_uppercase);
    let small = |name: &str| with_first(name, str::to_lowercase);
    let rules = |rules: &Value| {
        let policies = rules["policies"].as_array().into_iter().flatten();
        let policies: Vec<_> = policies
            .map(|policy| object(POLICY.map(|name| (name.to_owned(), policy[small(name)].to_string()))))
            .collect();
        let mut fields: Vec<_> = ["stabilizationWindowSeconds", "selectPolicy"]
            .map(|name| (capital(name), rules[name].to_string()))
            .into();
        fields.push(("Policies".to_owned(), format!("[{}]", policies.join(","))));
        if let Some(tolerance) = at(rules, &["tolerance"]) {
            fields.push(("Tolerance".to_owned(), tolerance.to_string()));
        }
        object(fields)
    };
    object(["scaleUp", "scaleDown"].map(|of| {
        let text = at(behavior, &[of]).map_or_else(|| "null".to_owned(), rules);
        (capital(of), text)
    }))
}

/// A value whose fields' names have their first letter changed.
fn with_case(value: &Value, case: fn(&str) -> String) -> Value {
    match value {
        Value::Object(fields) => fields
            .iter()
            .map(|(name, value)| (with_first(name, case), with_case(value, case)))
            .collect::<Map<_, _>>()
            .into(),
        Value::Array(values) => values.iter().map(|value| with_case(value, case)).collect(),
        other => other.clone(),
    }
}

fn with_first(name: &str, case: fn(&str) -> String) -> String {
    let first = name.chars().next().map_or(0, char::len_utf8);
    let (first, rest) = name.split_at(first);
    case(first) + rest
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_older_version_has_no_field_for_is_kept() {
        let metric = |of: &str, source: Value| {
            let mut metric = json!({"type": of});
            metric[with_first(of, str::to_lowercase)] = source;
            metric
        };
        let target = |kind: &str, field: &str, value: Value| {
            let mut target = json!({"type": kind});
            target[field] = value;
            target
        };
        let average = target("AverageValue", "averageValue", "100Mi".into());
        let named = json!({"name": "hits", "selector": {"matchLabels": {"a": "b"}}});
        let described = json!({"kind": "Service", "name": "s", "apiVersion": "v1"});
        let mut autoscaler = json!({
            "apiVersion": "autoscaling/v2", "kind": "HorizontalPodAutoscaler",
            "metadata": {"name": "h", "annotations": {"a": "b"}},
            "spec": {
                "scaleTargetRef": {"kind": "StatefulSet", "name": "web", "apiVersion": "apps/v1"},
                "minReplicas": 2, "maxReplicas": 3,
                "metrics": [
                    cpu(60.into(), Side::Target),
                    metric("Resource", json!({"name": "memory", "target": average})),
                    metric("ContainerResource", json!({"name": "cpu", "container": "c", "target": average})),
                    metric("Pods", json!({"metric": named, "target": average})),
                    metric("Object", json!({"metric": named, "describedObject": described, "target": target("Value", "value", "5".into())})),
                    metric("External", json!({"metric": {"name": "queue"}, "target": target("Value", "value", "7".into())})),
                ],
                "behavior": {"scaleDown": {
                    "stabilizationWindowSeconds": 5, "selectPolicy": "Min", "tolerance": "10m",
                    "policies": [{"type": "Pods", "value": 1, "periodSeconds": 9}],
                }},
            },
            "status": {
                "currentReplicas": 2, "desiredReplicas": 3,
                "currentMetrics": [
                    cpu(12.into(), Side::Current),
                    {"type": "Pods", "pods": {"metric": {"name": "hits"}, "current": {"averageValue": "3"}}},
                ],
                "conditions": [{"type": "AbleToScale", "status": "True"}],
            },
        });
        schema::normalize(schema::builtin(), super::super::KIND.type_id(), &mut autoscaler);
        let older = from_stored(autoscaler.clone());
        assert_eq!(older["spec"]["targetCPUUtilizationPercentage"], 60);
        assert_eq!(older["status"]["currentCPUUtilizationPercentage"], 12);
        let current = r#"[{"type":"Pods","pods":{"metricName":"hits","currentAverageValue":"3"}}]"#;
        assert_eq!(older["metadata"]["annotations"][CURRENT], current);
        assert_eq!(to_stored(older), autoscaler);
    }

    #[test]
    fn without_any_metric_it_is_the_usual_one() {
        let older =
            json!({"spec": {"maxReplicas": 3, "scaleTargetRef": {"kind": "StatefulSet", "name": "web"}}});
        let metrics = to_stored(older)["spec"]["metrics"].clone();
        assert_eq!(metrics, json!([cpu(DEFAULT_UTILIZATION.into(), Side::Target)]));
    }

    #[test]
    fn annotations_that_are_not_what_they_must_be_are_refused() {
        for (annotation, text) in [
            (METRICS, "{"),
            (METRICS, "{}"),
            (BEHAVIOR, "[]"),
            (CONDITIONS, "5"),
        ] {
            let mut older = json!({
                "metadata": {"annotations": {}},
                "spec": {"maxReplicas": 3, "scaleTargetRef": {"kind": "StatefulSet", "name": "web"}},
            });
            older["metadata"]["annotations"][annotation] = text.into();
            let mut errors = Errors::new();
            validate(&older, &mut errors).expect("an autoscaler");
            let path = format!("metadata.annotations[{annotation}]: Invalid value");
            assert!(errors.summary().starts_with(&path), "{}", errors.summary());
        }
    }
}
