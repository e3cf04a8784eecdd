//! What becomes of a target's replicas, and what is said of it. Pure.

use jiff::Timestamp;
use k8s_openapi::api::autoscaling::v2::{
    HorizontalPodAutoscalerCondition, HorizontalPodAutoscalerSpec, HorizontalPodAutoscalerStatus,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use super::metrics::Missing;

pub(super) const GOT_SCALE: &str = "the HPA controller was able to get the target's current scale";
pub(super) const SCALING_DISABLED: &str = "ScalingDisabled";

/// What becomes of the replicas.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Decision {
    /// They are brought within bounds.
    Rescale {
        to: i32,
        /// In words.
        because: &'static str,
    },
    /// They are left alone.
    Stay { because: Condition },
}

/// A condition of an autoscaler.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Condition {
    kind: &'static str,
    is_true: bool,
    pub(super) reason: &'static str,
    message: String,
    /// The events when the condition is new: reasons and messages.
    pub(super) events: Vec<(&'static str, String)>,
}

impl Condition {
    /// The target can be scaled.
    pub(super) fn able(reason: &'static str, message: &str) -> Condition {
        Condition {
            kind: "AbleToScale",
            is_true: true,
            reason,
            message: message.to_owned(),
            events: Vec::new(),
        }
    }

    /// It cannot.
    pub(super) fn unable(reason: &'static str, message: String, event: (&'static str, String)) -> Condition {
        Condition {
            kind: "AbleToScale",
            is_true: false,
            reason,
            message,
            events: vec![event],
        }
    }

    /// How many replicas there are to be cannot be told.
    fn inactive(reason: &'static str, message: String, events: Vec<(&'static str, String)>) -> Condition {
        Condition {
            kind: "ScalingActive",
            is_true: false,
            reason,
            message,
            events,
        }
    }

    /// Puts it into a status; whether that says something new.
    pub(super) fn set(&self, status: &mut HorizontalPodAutoscalerStatus, now: Timestamp) -> bool {
        let conditions = status.conditions.get_or_insert_default();
        let at = conditions
            .iter()
            .position(|condition| condition.type_ == self.kind);
        let at = at.unwrap_or_else(|| {
            conditions.push(HorizontalPodAutoscalerCondition {
                type_: self.kind.to_owned(),
                ..HorizontalPodAutoscalerCondition::default()
            });
            conditions.len() - 1
        });
        let condition = &mut conditions[at];
        let value = if self.is_true { "True" } else { "False" };
        let is_new = condition.status != value
            || condition.reason.as_deref() != Some(self.reason)
            || condition.message.as_deref() != Some(&self.message);
        if condition.status != value {
            condition.last_transition_time = Some(Time(now));
        }
        condition.status = value.to_owned();
        condition.reason = Some(self.reason.to_owned());
        condition.message = Some(self.message.clone());
        is_new
    }
}

/// What becomes of a target with so many replicas.
pub(super) fn decide(
    spec: &HorizontalPodAutoscalerSpec,
    current: i32,
    has_selector: bool,
    namespace: &str,
) -> Decision {
    let least = spec.min_replicas.unwrap_or(1);
    let stay = |because| Decision::Stay { because };
    if current == 0 && least != 0 {
        let why = "scaling is disabled since the replica count of the target is zero".to_owned();
        return stay(Condition::inactive(SCALING_DISABLED, why, Vec::new()));
    }
    if current > spec.max_replicas {
        return Decision::Rescale {
            to: spec.max_replicas,
            because: "Current number of replicas above Spec.MaxReplicas",
        };
    }
    if current < least {
        return Decision::Rescale {
            to: least,
            because: "Current number of replicas below Spec.MinReplicas",
        };
    }
    if !has_selector {
        let why = "the HPA target's scale is missing a selector".to_owned();
        let events = vec![("SelectorRequired", "selector is required".to_owned())];
        return stay(Condition::inactive("InvalidSelector", why, events));
    }
    let metrics = spec.metrics.as_deref().unwrap_or_default();
    let Some(first) = metrics.first().map(|metric| Missing::of(metric, namespace)) else {
        let why = "the autoscaler names no metric".to_owned();
        return stay(Condition::inactive("InvalidMetricSourceType", why, Vec::new()));
    };
    let count = metrics.len();
    let whole = format!(
        "invalid metrics ({count} invalid out of {count}), first error is: {}",
        first.whole()
    );
    let missing = metrics.iter().map(|metric| Missing::of(metric, namespace));
    let mut events: Vec<_> = missing.map(|missing| (missing.reason, missing.why)).collect();
    events.push(("FailedComputeMetricsReplicas", whole));
    let message = format!("the HPA was unable to compute the replica count: {}", first.why);
    stay(Condition::inactive(first.reason, message, events))
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::autoscaling::v2::MetricSpec;
    use serde_json::json;

    use super::*;

    fn spec(least: i32, most: i32, metrics: serde_json::Value) -> HorizontalPodAutoscalerSpec {
        let metrics: Vec<MetricSpec> = serde_json::from_value(metrics).expect("metrics");
        HorizontalPodAutoscalerSpec {
            min_replicas: Some(least),
            max_replicas: most,
            metrics: Some(metrics),
            ..HorizontalPodAutoscalerSpec::default()
        }
    }

    fn cpu() -> serde_json::Value {
        json!([{"type": "Resource", "resource": {"name": "cpu", "target": {"type": "Utilization", "averageUtilization": 50}}}])
    }

    #[test]
    fn replicas_are_brought_within_bounds_and_no_further() {
        let to = |current| match decide(&spec(2, 4, cpu()), current, true, "default") {
            Decision::Rescale { to, .. } => Some(to),
            Decision::Stay { .. } => None,
        };
        // At zero, somebody has switched it off.
        let expected = [(0, None), (1, Some(2)), (2, None), (4, None), (5, Some(4))];
        for (current, expected) in expected {
            assert_eq!(to(current), expected, "{current}");
        }
    }

    #[test]
    fn a_metric_that_cannot_be_had_is_named() {
        let reason = |metrics, has_selector| match decide(&spec(1, 4, metrics), 1, has_selector, "default") {
            Decision::Stay { because } => (because.reason, because.message),
            Decision::Rescale { .. } => panic!("within bounds"),
        };
        let target = json!({"type": "AverageValue", "averageValue": "1"});
        let of = |of: &str, field: &str, source: serde_json::Value| json!([{"type": of, field: source}]);
        let named = json!({"metric": {"name": "hits"}, "target": target, "describedObject": {"kind": "Service", "name": "s"}});
        for (metrics, expected) in [
            (cpu(), "FailedGetResourceMetric"),
            (of("Pods", "pods", named.clone()), "FailedGetPodsMetric"),
            (of("Object", "object", named.clone()), "FailedGetObjectMetric"),
            (of("External", "external", named), "FailedGetExternalMetric"),
            (json!([]), "InvalidMetricSourceType"),
        ] {
            assert_eq!(reason(metrics, true).0, expected);
        }
        assert_eq!(reason(cpu(), false).0, "InvalidSelector");
        let expected = "the HPA was unable to compute the replica count: failed to get cpu utilization: unable to get metrics for \
            resource cpu: unable to fetch metrics from resource metrics API: the server could not find the requested resource \
            (get pods.metrics.k8s.io)";
        assert_eq!(reason(cpu(), true).1, expected);
    }

    #[test]
    fn a_condition_is_new_once() {
        let mut status = HorizontalPodAutoscalerStatus::default();
        let (first, second) = (Timestamp::UNIX_EPOCH, Timestamp::from_second(9).expect("a time"));
        let able = Condition::able("SucceededGetScale", GOT_SCALE);
        assert!(able.set(&mut status, first));
        assert!(!able.set(&mut status, second));
        let unable = Condition::unable("FailedGetScale", "gone".into(), ("FailedGetScale", "gone".into()));
        assert!(unable.set(&mut status, second));
        let conditions = status.conditions.expect("conditions");
        assert_eq!(conditions.len(), 1);
        assert_eq!(conditions[0].last_transition_time, Some(Time(second)));
    }
}
