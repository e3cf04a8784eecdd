//! Scale (autoscaling/v1): the replicas of other kinds, as one form for all.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use crate::registry::Kind;
use crate::selector::Selector;

/// A kind that has a scale.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ScaleKind {
    /// Its replicas are in `spec.replicas` and `status.replicas`, its selector is a label selector.
    LabelSelector,
    /// Likewise, but its selector is only labels.
    Labels,
}

impl ScaleKind {
    /// How the scale of a kind is found; none if it has none.
    pub fn of(kind: &Kind) -> Option<ScaleKind> {
        kind.subresource("scale").map(|_| match kind.kind {
            "ReplicationController" => ScaleKind::Labels,
            _ => ScaleKind::LabelSelector,
        })
    }
}

/// The scale of an object.
pub fn to_scale(kind: ScaleKind, object: &Value) -> Value {
    let mut metadata = json!({});
    for field in ["name", "namespace", "uid", "resourceVersion", "creationTimestamp"] {
        if let Some(value) = object["metadata"].get(field) {
            metadata[field] = value.clone();
        }
    }
    let replicas = |part: &str| object[part]["replicas"].as_i64().unwrap_or(0);
    let selector = object["spec"]["selector"].clone();
    let selector = match kind {
        ScaleKind::LabelSelector => {
            let selector = serde_json::from_value(selector).ok();
            Selector::from_label_selector(selector.as_ref())
        }
        ScaleKind::Labels => {
            let labels: BTreeMap<String, String> = serde_json::from_value(selector).unwrap_or_default();
            Ok(Selector::from_labels(&labels))
        }
    };
    let selector = selector.map(|selector| selector.to_string());
    // No replicas is the zero value, which is left out of the spec.
    let spec = match replicas("spec") {
        0 => json!({}),
        replicas => json!({"replicas": replicas}),
    };
    json!({
        "kind": "Scale",
        "apiVersion": "autoscaling/v1",
        "metadata": metadata,
        "spec": spec,
        "status": {"replicas": replicas("status"), "selector": selector.unwrap_or_default()},
    })
}

/// The object with the replicas of a scale.
pub fn from_scale(object: &Value, scale: &Value) -> Value {
    let mut object = object.clone();
    object["spec"]["replicas"] = scale["spec"]["replicas"].as_i64().unwrap_or(0).into();
    if let Some(version) = scale["metadata"]["resourceVersion"]
        .as_str()
        .filter(|version| !version.is_empty())
    {
        object["metadata"]["resourceVersion"] = version.into();
    }
    object
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_scale_shows_and_sets_the_replicas() {
        let set = json!({
            "metadata": {"name": "web", "namespace": "a", "uid": "1", "resourceVersion": "5", "labels": {"x": "y"}},
            "spec": {"replicas": 3, "selector": {"matchLabels": {"app": "web"},
                "matchExpressions": [{"key": "tier", "operator": "In", "values": ["b", "a"]}]}},
            "status": {"replicas": 2},
        });
        let scale = to_scale(ScaleKind::LabelSelector, &set);
        assert_eq!(
            scale,
            json!({
                "kind": "Scale", "apiVersion": "autoscaling/v1",
                "metadata": {"name": "web", "namespace": "a", "uid": "1", "resourceVersion": "5"},
                "spec": {"replicas": 3},
                "status": {"replicas": 2, "selector": "app=web,tier in (a,b)"},
            })
        );
        let scaled = from_scale(&set, &json!({"spec": {"replicas": 7}}));
        assert_eq!(
            (&scaled["spec"]["replicas"], &scaled["metadata"]["labels"]),
            (&json!(7), &json!({"x": "y"}))
        );
        let controller = json!({"metadata": {}, "spec": {"selector": {"b": "c", "a": "b"}}});
        assert_eq!(
            to_scale(ScaleKind::Labels, &controller)["status"]["selector"],
            "a=b,b=c"
        );
    }
}
