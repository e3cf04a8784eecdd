//! What a recording shows of an object: who it is, and for each kind what its controller decides. What differs
//! from run to run (times, uids, versions, where pods run) is left out or a placeholder, and so is what is zero
//! or empty.

use std::net::Ipv4Addr;

use serde_json::{Map, Value, json};

use super::pods::{Naming, is_made_up};

/// For each kind, by its name in paths, what is shown beside the metadata. A dot leads into a field.
const FIELDS: &[(&str, &[&str])] = &[
    ("configmaps", &["data"]),
    ("controllerrevisions", &["revision", "data"]),
    ("cronjobs", &["status"]),
    ("deployments", &["status"]),
    ("endpoints", &["subsets"]),
    ("endpointslices", &["endpoints", "ports", "addressType"]),
    ("horizontalpodautoscalers", &["status"]),
    ("jobs", &["spec.suspend", "status"]),
    ("leases", &["spec"]),
    ("namespaces", &["spec.finalizers", "status"]),
    (
        "persistentvolumeclaims",
        &["spec.volumeName", "spec.storageClassName", "status"],
    ),
    ("persistentvolumes", &["spec.claimRef", "status"]),
    ("pods", &["spec.hostname", "spec.subdomain"]),
    ("replicasets", &["spec.replicas", "status"]),
    ("secrets", &["type", "data"]),
    ("serviceaccounts", &[]),
    ("statefulsets", &["status"]),
];

/// Fields that are different in every run.
const DROPPED: &[&str] = &[
    "uid",
    "resourceVersion",
    "lastTransitionTime",
    "lastPhaseTransitionTime",
    "lastProbeTime",
    "lastScaleTime",
    "lastUpdateTime",
    "nodeName",
    "observedGeneration",
    "endpoints.kubernetes.io/last-change-trigger-time",
];

/// Fields whose time is different in every run.
const TIMES: &[&str] = &[
    "batch.kubernetes.io/cronjob-scheduled-timestamp",
    "completionTime",
    "lastScheduleTime",
    "lastSuccessfulTime",
    "renewTime",
    "startTime",
];

/// Fields whose uid is different in every run.
const UIDS: &[&str] = &[
    "batch.kubernetes.io/controller-uid",
    "controller-uid",
    "kubernetes.io/service-account.uid",
];

/// What is shown of an object of a kind: `fields` beside the usual ones. Where it makes no difference which pod is
/// which, a name that was made up is shown without its end.
pub fn shown(kind: &str, object: &Value, fields: Option<&[String]>, naming: Naming) -> Value {
    let meta = &object["metadata"];
    let mut shown = Map::new();
    for field in ["name", "labels", "annotations", "finalizers", "ownerReferences"] {
        shown.insert(field.to_owned(), meta[field].clone());
    }
    let is_any_pod = kind == "pods" && naming == Naming::Interchangeable && is_made_up(object);
    if (kind == "endpointslices" || is_any_pod)
        && let Some(stem) = meta["generateName"].as_str()
    {
        shown.insert("name".to_owned(), json!(format!("{stem}*")));
    }
    if meta.get("deletionTimestamp").is_some() {
        shown.insert("deleting".to_owned(), json!(true));
    }
    let usual = FIELDS.iter().find(|(name, _)| *name == kind);
    let usual: Vec<String> = usual
        .into_iter()
        .flat_map(|(_, fields)| fields.iter().map(|field| (*field).to_owned()))
        .collect();
    for field in usual.iter().chain(fields.unwrap_or_default()) {
        let pointer = format!("/{}", field.replace('.', "/"));
        let mut value = object.pointer(&pointer).cloned().unwrap_or_default();
        if field == "data" && kind != "controllerrevisions" {
            // What is in them is made anew each time.
            value = value
                .as_object()
                .into_iter()
                .flat_map(Map::keys)
                .cloned()
                .collect();
        }
        shown.insert(field.clone(), value);
    }
    if matches!(kind, "deployments" | "replicasets" | "statefulsets") {
        let observed = object.pointer("/status/observedGeneration") == meta.get("generation");
        shown["status"]["observed"] = json!(observed);
    }
    tidy(Value::Object(shown)).unwrap_or_default()
}

/// Without what is empty or differs from run to run; nothing if nothing is left.
fn tidy(value: Value) -> Option<Value> {
    let tidied = match value {
        Value::Object(fields) => {
            let kept = fields.into_iter().filter_map(|(name, value)| {
                if DROPPED.contains(&name.as_str()) {
                    return None;
                }
                let value = match name.as_str() {
                    _ if TIMES.contains(&name.as_str()) && value.is_string() => json!("<time>"),
                    _ if UIDS.contains(&name.as_str()) => json!("<uid>"),
                    _ => tidy(value)?,
                };
                Some((name, value))
            });
            Value::Object(kept.collect())
        }
        Value::Array(items) => items.into_iter().filter_map(tidy).collect(),
        Value::String(text) if is_pod_address(&text) => json!("<ip>"),
        other => other,
    };
    let is_empty = match &tidied {
        Value::Null => true,
        Value::Bool(_) => false,
        Value::Number(number) => number.as_f64() == Some(0.0),
        Value::String(text) => text.is_empty(),
        Value::Array(items) => items.is_empty(),
        Value::Object(fields) => fields.is_empty(),
    };
    (!is_empty).then_some(tidied)
}

/// Is it an address, and not one of those that cases name, which are for documentation?
fn is_pod_address(text: &str) -> bool {
    text.parse::<Ipv4Addr>()
        .is_ok_and(|address| !address.is_documentation() && !address.is_loopback())
}
