//! HorizontalPodAutoscaler (autoscaling/v2, and v1 as another view of it).

mod row;
mod v1;
mod validate;

use jiff::Timestamp;
use k8s_openapi::api::autoscaling::v2::{
    HPAScalingPolicy, HPAScalingRules, HorizontalPodAutoscaler, HorizontalPodAutoscalerStatus, MetricSpec,
    MetricTarget, ResourceMetricSource,
};
use serde_json::Value;

pub(super) use self::v1::KIND as V1_KIND;
use super::pod::fill;
use crate::error::Errors;
use crate::object::{ApiObject, Logic};
use crate::registry::{Column, Kind, Subresource};

pub(super) static KIND: Kind = kind(
    "v2",
    "io.k8s.api.autoscaling.v2.HorizontalPodAutoscaler",
    Logic::of::<HorizontalPodAutoscaler>(),
);

/// What the versions have in common.
const fn kind(version: &'static str, type_name: &'static str, logic: Logic) -> Kind {
    Kind {
        short_names: &["hpa"],
        categories: &["all"],
        subresources: SUBRESOURCES,
        columns: COLUMNS,
        ..Kind::new(
            ("autoscaling", version, "HorizontalPodAutoscaler"),
            ("horizontalpodautoscalers", "horizontalpodautoscaler"),
            type_name,
            logic,
        )
    }
}

const SUBRESOURCES: &[Subresource] = &[Subresource::status("HorizontalPodAutoscaler")];

const COLUMNS: &[Column] = &[
    Column::NAME,
    Column::new("Reference", "what is scaled"),
    Column::new("Targets", "each metric as it is, and as it is to be"),
    Column::new("MinPods", "replicas there are at least"),
    Column::new("MaxPods", "replicas there are at most"),
    Column::new("Replicas", "replicas there are"),
    Column::AGE,
];

/// The share of the requested processor time that pods use, if nothing else is asked for.
const DEFAULT_UTILIZATION: i32 = 80;

impl ApiObject for HorizontalPodAutoscaler {
    fn set_defaults(&mut self) {
        let spec = &mut self.spec;
        spec.min_replicas.get_or_insert(1);
        if spec.metrics.as_ref().is_none_or(Vec::is_empty) {
            spec.metrics = Some(vec![cpu_utilization(DEFAULT_UTILIZATION)]);
        }
        if let Some(behavior) = &mut spec.behavior {
            set_rule_defaults(&mut behavior.scale_up, Some(0), &[("Pods", 4), ("Percent", 100)]);
            // Without a window of its own, the controller's is used.
            set_rule_defaults(&mut behavior.scale_down, None, &[("Percent", 100)]);
        }
    }

    fn prepare_for_create(&mut self) {
        self.status = Some(HorizontalPodAutoscalerStatus::default());
    }

    fn validate(&self, errors: &mut Errors) {
        validate::spec(&self.spec, errors);
    }

    fn validate_status_update(&self, _old: &Self, errors: &mut Errors) {
        validate::status(&self.status.clone().unwrap_or_default(), errors);
    }

    fn row(&self, now: Timestamp) -> Vec<Value> {
        row::row(self, now)
    }
}

/// The metric that has pods use so many percent of the processor time they request.
fn cpu_utilization(percent: i32) -> MetricSpec {
    MetricSpec {
        type_: "Resource".to_owned(),
        resource: Some(ResourceMetricSource {
            name: "cpu".to_owned(),
            target: MetricTarget {
                type_: "Utilization".to_owned(),
                average_utilization: Some(percent),
                ..MetricTarget::default()
            },
        }),
        ..MetricSpec::default()
    }
}

fn set_rule_defaults(rules: &mut Option<HPAScalingRules>, window: Option<i32>, policies: &[(&str, i32)]) {
    let rules = rules.get_or_insert_default();
    if let Some(window) = window {
        rules.stabilization_window_seconds.get_or_insert(window);
    }
    fill(&mut rules.select_policy, "Max");
    let policy = |(of, value): &(&str, i32)| HPAScalingPolicy {
        type_: (*of).to_owned(),
        value: *value,
        period_seconds: 15,
    };
    rules
        .policies
        .get_or_insert_with(|| policies.iter().map(policy).collect());
}
