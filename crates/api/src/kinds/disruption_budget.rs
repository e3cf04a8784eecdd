//! PodDisruptionBudget (policy/v1): how many of some pods must be there when others are evicted.

use jiff::Timestamp;
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use serde_json::Value;

use super::name_cell;
use super::workload::{validate_at_most_all, validate_int_or_percent};
use crate::error::{Errors, Path};
use crate::names;
use crate::object::{ApiObject, Logic};
use crate::registry::{Column, Generation, Kind, Subresource};
use crate::selector::validate_label_selector;
use crate::table::age;

pub(super) static KIND: Kind = Kind {
    short_names: &["pdb"],
    subresources: &[Subresource::status("PodDisruptionBudget")],
    generation: Generation::Spec,
    unconditional_update: false,
    update_metadata: &[],
    metadata_last: true,
    name_rule: names::path_segment,
    columns: &[
        Column::NAME,
        Column::new("Min Available", "pods that must be there"),
        Column::new("Max Unavailable", "pods that may be gone"),
        Column::integer("Allowed Disruptions", "pods that may be evicted now"),
        Column::AGE,
    ],
    ..Kind::new(
        ("policy", "v1", "PodDisruptionBudget"),
        ("poddisruptionbudgets", "poddisruptionbudget"),
        "io.k8s.api.policy.v1.PodDisruptionBudget",
        Logic::of::<PodDisruptionBudget>(),
    )
};

const POLICIES: [&str; 2] = ["AlwaysAllow", "IfHealthyBudget"];
const STATUSES: [&str; 3] = ["False", "True", "Unknown"];
const LONGEST_REASON: usize = 1024;
const LONGEST_MESSAGE: usize = 32768;

impl ApiObject for PodDisruptionBudget {
    fn validate(&self, errors: &mut Errors) {
        let spec = self.spec.clone().unwrap_or_default();
        let path = Path::new("spec");
        if spec.min_available.is_some() && spec.max_unavailable.is_some() {
            let shown = crate::go::syntax("policy.PodDisruptionBudgetSpec", &spec);
            errors.invalid(
                &path,
                &shown,
                "minAvailable and maxUnavailable cannot be both set",
            );
        }
        for (field, amount) in [
            ("minAvailable", &spec.min_available),
            ("maxUnavailable", &spec.max_unavailable),
        ] {
            if let Some(amount) = amount {
                validate_int_or_percent(amount, &path.child(field), errors);
                validate_at_most_all(amount, &path.child(field), errors);
            }
        }
        if let Some(selector) = &spec.selector {
            validate_label_selector(selector, &path.child("selector"), errors);
        }
        if let Some(policy) = &spec.unhealthy_pod_eviction_policy {
            errors.one_of(&path.child("unhealthyPodEvictionPolicy"), policy, &POLICIES);
        }
    }

    fn validate_status_update(&self, _old: &Self, errors: &mut Errors) {
        let status = self.status.clone().unwrap_or_default();
        let path = Path::new("status");
        let conditions = status.conditions.unwrap_or_default();
        for (at, condition) in conditions.iter().enumerate() {
            let path = path.child("conditions").index(at);
            if conditions[..at]
                .iter()
                .any(|other| other.type_ == condition.type_)
            {
                errors.duplicate(&path.child("type"), &condition.type_);
            }
            validate_condition(condition, &path, errors);
        }
        for (field, value) in [
            ("disruptionsAllowed", status.disruptions_allowed),
            ("currentHealthy", status.current_healthy),
            ("desiredHealthy", status.desired_healthy),
            ("expectedPods", status.expected_pods),
        ] {
            errors.nonnegative(&path.child(field), value.unwrap_or(0).into());
        }
    }

    fn row(&self, now: Timestamp) -> Vec<Value> {
        let spec = self.spec.clone().unwrap_or_default();
        let status = self.status.clone().unwrap_or_default();
        vec![
            name_cell(&self.metadata),
            amount(spec.min_available),
            amount(spec.max_unavailable),
            status.disruptions_allowed.unwrap_or(0).into(),
            age(self.metadata.creation_timestamp.as_ref(), now),
        ]
    }
}

fn amount(amount: Option<IntOrString>) -> Value {
    match amount {
        None => "N/A".into(),
        Some(IntOrString::Int(number)) => number.to_string().into(),
        Some(IntOrString::String(percent)) => percent.into(),
    }
}

fn validate_condition(condition: &Condition, path: &Path, errors: &mut Errors) {
    let of = &condition.type_;
    errors.invalid_each(&path.child("type"), of, names::qualified_name(of));
    errors.one_of(&path.child("status"), &condition.status, &STATUSES);
    if let Some(generation) = condition.observed_generation.filter(|generation| *generation < 0) {
        let why = "must be greater than or equal to zero";
        errors.invalid(&path.child("observedGeneration"), &generation, why);
    }
    if condition.reason.is_empty() {
        errors.required(&path.child("reason"), "must be set");
    } else if condition.reason.len() > LONGEST_REASON {
        errors.too_long(&path.child("reason"), LONGEST_REASON);
    }
    if condition.message.len() > LONGEST_MESSAGE {
        errors.too_long(&path.child("message"), LONGEST_MESSAGE);
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_budget_says_how_many_in_one_way() {
        for (spec, fields) in [
            (json!({"minAvailable": "50%", "selector": {}}), &[][..]),
            (json!({"minAvailable": 1, "maxUnavailable": 1}), &["spec"]),
            (json!({"minAvailable": "101%"}), &["spec.minAvailable"]),
            (json!({"maxUnavailable": -1}), &["spec.maxUnavailable"]),
            (
                json!({"unhealthyPodEvictionPolicy": "Never"}),
                &["spec.unhealthyPodEvictionPolicy"],
            ),
        ] {
            let budget: PodDisruptionBudget =
                serde_json::from_value(json!({"spec": spec})).expect("a budget");
            let mut errors = Errors::new();
            budget.validate(&mut errors);
            let found: Vec<_> = errors.iter().map(|error| error.field.as_str()).collect();
            assert_eq!(found, fields, "{spec}");
        }
    }
}
