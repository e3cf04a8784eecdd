//! What is said of metrics that cannot be had: there is no API that serves any. The words are those of a Kubernetes
//! without a metrics server.

use k8s_openapi::api::autoscaling::v2::{MetricIdentifier, MetricSpec, MetricTarget};

/// Why a metric cannot be had.
pub(super) struct Missing {
    /// The reason of the condition.
    pub(super) reason: &'static str,
    /// The failure.
    pub(super) why: String,
    /// What could not be done for it.
    pub(super) value: String,
}

const RESOURCE_API: &str = "unable to fetch metrics from resource metrics API: the server could not find the \
                            requested resource (get pods.metrics.k8s.io)";
const CUSTOM_API: &str = "unable to fetch metrics from custom metrics API: no custom metrics API (custom.metrics.k8s.io) registered";

impl Missing {
    /// Of a metric of an autoscaler in a namespace.
    pub(super) fn of(metric: &MetricSpec, namespace: &str) -> Missing {
        let missing = |reason, why: String, value: &str| Missing {
            reason,
            why,
            value: value.to_owned(),
        };
        if let Some(resource) = &metric.resource {
            let value = format!("failed to get {} resource metric value", resource.name);
            let why = of_resource(&resource.name, &resource.target);
            missing("FailedGetResourceMetric", why, &value)
        } else if let Some(resource) = &metric.container_resource {
            let value = format!("failed to get {} container metric value", resource.name);
            let why = of_resource(&resource.name, &resource.target);
            missing("FailedGetContainerResourceMetric", why, &value)
        } else if let Some(pods) = &metric.pods {
            let why = format!("unable to get metric {}: {CUSTOM_API}", pods.metric.name);
            missing("FailedGetPodsMetric", why, "failed to get pods metric value")
        } else if let Some(object) = &metric.object {
            let of = &object.described_object;
            let (metric, kind, name) = (&object.metric.name, &of.kind, &of.name);
            let why = format!("unable to get metric {metric}: {kind} on {namespace} {name}/{CUSTOM_API}");
            missing("FailedGetObjectMetric", why, "failed to get object metric value")
        } else if let Some(external) = &metric.external {
            let why = of_external(&external.metric, namespace);
            let value = format!("failed to get {} external metric value", external.metric.name);
            missing("FailedGetExternalMetric", why, &value)
        } else {
            let why = format!("unknown metric source type \"{}\"", metric.type_);
            missing("InvalidMetricSourceType", why, "failed to get metric value")
        }
    }

    /// The failure, and what it was for.
    pub(super) fn whole(&self) -> String {
        format!("{}: {}", self.value, self.why)
    }
}

fn of_resource(name: &str, target: &MetricTarget) -> String {
    let what = if target.average_value.is_some() {
        "usage"
    } else {
        "utilization"
    };
    format!("failed to get {name} {what}: unable to get metrics for resource {name}: {RESOURCE_API}")
}

fn of_external(metric: &MetricIdentifier, namespace: &str) -> String {
    let name = &metric.name;
    format!(
        "unable to get external metric {namespace}/{name}: unable to fetch metrics from external metrics API: the \
         server could not find the requested resource (get {name}.external.metrics.k8s.io)"
    )
}
