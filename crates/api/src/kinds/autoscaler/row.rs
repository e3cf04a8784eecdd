//! What `kubectl get hpa` shows.

use jiff::Timestamp;
use k8s_openapi::api::autoscaling::v2::{
    HorizontalPodAutoscaler, MetricSpec, MetricStatus, MetricTarget, MetricValueStatus,
};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use serde_json::Value;

use super::super::name_cell;
use crate::table::age;

/// Metrics that are shown before the rest is counted.
const SHOWN: usize = 2;
const UNKNOWN: &str = "<unknown>";

pub(super) fn row(autoscaler: &HorizontalPodAutoscaler, now: Timestamp) -> Vec<Value> {
    let spec = &autoscaler.spec;
    let status = autoscaler.status.clone().unwrap_or_default();
    let target = &spec.scale_target_ref;
    let least = spec.min_replicas.map(|least| least.to_string());
    let metrics = spec.metrics.as_deref().unwrap_or_default();
    vec![
        name_cell(&autoscaler.metadata),
        format!("{}/{}", target.kind, target.name).into(),
        targets(metrics, &status.current_metrics.unwrap_or_default()).into(),
        least.unwrap_or_else(|| "<unset>".to_owned()).into(),
        spec.max_replicas.into(),
        status.current_replicas.unwrap_or(0).into(),
        age(autoscaler.metadata.creation_timestamp.as_ref(), now),
    ]
}

/// The metrics, in the order of the spec, which is that of the status.
fn targets(metrics: &[MetricSpec], current: &[MetricStatus]) -> String {
    if metrics.is_empty() {
        return "<none>".to_owned();
    }
    let shown = |(at, metric): (usize, &MetricSpec)| self::metric(metric, current.get(at));
    let mut cell = metrics
        .iter()
        .enumerate()
        .take(SHOWN)
        .map(shown)
        .collect::<Vec<_>>()
        .join(", ");
    if metrics.len() > SHOWN {
        cell += &format!(" + {} more...", metrics.len() - SHOWN);
    }
    cell
}

fn metric(metric: &MetricSpec, current: Option<&MetricStatus>) -> String {
    if let Some(resource) = &metric.resource {
        let now = current.and_then(|current| current.resource.as_ref());
        return of_resource(&resource.name, &resource.target, now.map(|now| &now.current));
    }
    if let Some(resource) = &metric.container_resource {
        let now = current.and_then(|current| current.container_resource.as_ref());
        return of_resource(&resource.name, &resource.target, now.map(|now| &now.current));
    }
    if let Some(pods) = &metric.pods {
        let now = current.and_then(|current| current.pods.as_ref());
        let now = now.and_then(|now| now.current.average_value.as_ref());
        return format!(
            "{}/{}",
            quantity(now),
            quantity(pods.target.average_value.as_ref())
        );
    }
    let (target, now) = match (&metric.object, &metric.external) {
        (Some(object), _) => {
            let now = current.and_then(|current| current.object.as_ref());
            (&object.target, now.map(|now| &now.current))
        }
        (None, Some(external)) => {
            let now = current.and_then(|current| current.external.as_ref());
            (&external.target, now.map(|now| &now.current))
        }
        (None, None) => return "<unknown type>".to_owned(),
    };
    match &target.average_value {
        Some(average) => {
            let now = now.and_then(|now| now.average_value.as_ref());
            format!("{}/{} (avg)", quantity(now), average.0)
        }
        None => {
            let now = now.and_then(|now| now.value.as_ref());
            format!("{}/{}", quantity(now), quantity(target.value.as_ref()))
        }
    }
}

fn of_resource(name: &str, target: &MetricTarget, now: Option<&MetricValueStatus>) -> String {
    if let Some(average) = &target.average_value {
        let now = now.and_then(|now| now.average_value.as_ref());
        return format!("{name}: {}/{}", quantity(now), average.0);
    }
    let percent = |percent: Option<i32>, otherwise: &str| {
        percent.map_or_else(|| otherwise.to_owned(), |percent| format!("{percent}%"))
    };
    let now = percent(now.and_then(|now| now.average_utilization), UNKNOWN);
    format!("{name}: {now}/{}", percent(target.average_utilization, "<auto>"))
}

fn quantity(quantity: Option<&Quantity>) -> &str {
    quantity.map_or(UNKNOWN, |quantity| &quantity.0)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_row_has_each_metric_as_it_is_and_as_it_is_to_be() {
        let cell = |metrics: Value, current: Value| {
            let autoscaler = json!({
                "metadata": {"name": "h"},
                "spec": {"scaleTargetRef": {"kind": "StatefulSet", "name": "web"}, "maxReplicas": 3, "metrics": metrics},
                "status": {"desiredReplicas": 0, "currentReplicas": 2, "currentMetrics": current},
            });
            let autoscaler = serde_json::from_value(autoscaler).expect("an autoscaler");
            let row = row(&autoscaler, Timestamp::UNIX_EPOCH);
            assert_eq!(row[1], "StatefulSet/web");
            assert_eq!(row[3..6], [json!("<unset>"), json!(3), json!(2)]);
            row[2].clone()
        };
        let cpu = json!({"type": "Resource", "resource": {"name": "cpu", "target": {"type": "Utilization", "averageUtilization": 80}}});
        let memory = json!({"type": "Resource", "resource": {"name": "memory", "target": {"type": "AverageValue", "averageValue": "1Gi"}}});
        let pods = json!({"type": "Pods", "pods": {"metric": {"name": "hits"}, "target": {"type": "AverageValue", "averageValue": "5"}}});
        let queue = json!({"type": "External", "external": {"metric": {"name": "queue"}, "target": {"type": "Value", "value": "7"}}});
        let used =
            json!({"type": "Resource", "resource": {"name": "cpu", "current": {"averageUtilization": 12}}});
        assert_eq!(cell(json!([]), json!(null)), "<none>");
        assert_eq!(cell(json!([cpu]), json!(null)), "cpu: <unknown>/80%");
        assert_eq!(
            cell(json!([cpu, memory]), json!([used])),
            "cpu: 12%/80%, memory: <unknown>/1Gi"
        );
        assert_eq!(
            cell(json!([queue, pods, cpu]), json!([])),
            "<unknown>/7, <unknown>/5 + 1 more..."
        );
    }
}
