//! PriorityClass (scheduling.k8s.io/v1): a name for how important pods are.

use jiff::Timestamp;
use k8s_openapi::api::scheduling::v1::PriorityClass;
use serde_json::Value;

use super::{FIELD_IMMUTABLE, name_cell, text};
use crate::error::{Errors, Path};
use crate::object::{ApiObject, Logic};
use crate::registry::{Column, Generation, Kind, MetadataCheck};
use crate::table::age;

pub(super) static KIND: Kind = Kind {
    short_names: &["pc"],
    namespaced: false,
    update_metadata: &[MetadataCheck::Update],
    // It has no spec, so that this stays 1.
    generation: Generation::Spec,
    columns: &[
        Column::NAME,
        Column::integer("Value", "the priority of its pods"),
        Column {
            ty: "boolean",
            ..Column::new("Global-Default", "whether it is for pods that name no class")
        },
        Column::AGE,
        Column::new(
            "PreemptionPolicy",
            "whether its pods may take the place of others",
        ),
    ],
    ..Kind::new(
        ("scheduling.k8s.io", "v1", "PriorityClass"),
        ("priorityclasses", "priorityclass"),
        "io.k8s.api.scheduling.v1.PriorityClass",
        Logic::of::<PriorityClass>(),
    )
};

/// The classes that every cluster has: name, value and description.
pub const SYSTEM: [(&str, i32, &str); 2] = [
    (
        "system-node-critical",
        2_000_001_000,
        "Used for system critical pods that must not be moved from their current node.",
    ),
    (
        "system-cluster-critical",
        2_000_000_000,
        "Used for system critical pods that must run in the cluster, but can be moved to another node if necessary.",
    ),
];

const SYSTEM_PREFIX: &str = "system-";
/// The highest value of a class that is not the system's.
const HIGHEST: i32 = 1_000_000_000;
const POLICIES: [&str; 2] = ["PreemptLowerPriority", "Never"];

impl ApiObject for PriorityClass {
    fn set_defaults(&mut self) {
        self.preemption_policy
            .get_or_insert_with(|| POLICIES[0].to_owned());
    }

    fn validate(&self, errors: &mut Errors) {
        let name = text(&self.metadata.name);
        let value = self.value.unwrap_or(0);
        if name.starts_with(SYSTEM_PREFIX) {
            if let Some(why) = no_system_class(name, value, self.global_default.unwrap_or(false)) {
                let path = Path::new("metadata").child("name");
                let why = format!(
                    "priority class names with '{SYSTEM_PREFIX}' prefix are reserved for system use only. error: {why}"
                );
                errors.forbidden(&path, &why);
            }
        } else if value > HIGHEST {
            let why = format!("maximum allowed value of a user defined priority is {HIGHEST}");
            errors.forbidden(&Path::new("value"), &why);
        }
        let path = Path::new("preemptionPolicy");
        match self.preemption_policy.as_deref() {
            None => {}
            Some("") => errors.required(&path, ""),
            Some(policy) => errors.one_of(&path, policy, &POLICIES),
        }
    }

    fn validate_update(&self, old: &PriorityClass, errors: &mut Errors) {
        if self.value.unwrap_or(0) != old.value.unwrap_or(0) {
            errors.forbidden(&Path::new("value"), "may not be changed in an update.");
        }
        if self.preemption_policy != old.preemption_policy {
            let policy = text(&self.preemption_policy);
            errors.invalid(&Path::new("preemptionPolicy"), policy, FIELD_IMMUTABLE);
        }
    }

    fn row(&self, now: Timestamp) -> Vec<Value> {
        vec![
            name_cell(&self.metadata),
            self.value.unwrap_or(0).into(),
            self.global_default.unwrap_or(false).into(),
            age(self.metadata.creation_timestamp.as_ref(), now),
            text(&self.preemption_policy).into(),
        ]
    }
}

/// Why a class of such a name is not one of the system's.
fn no_system_class(name: &str, value: i32, is_default: bool) -> Option<String> {
    match SYSTEM.iter().find(|(own, _, _)| *own == name) {
        None => Some(format!("{name} is not a known system priority class")),
        Some((_, own, _)) if *own != value => Some(format!("value of {name} PriorityClass must be {own}")),
        Some(_) if is_default => Some(format!("globalDefault of {name} PriorityClass must be false")),
        Some(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn class(value: Value) -> PriorityClass {
        let mut class: PriorityClass = serde_json::from_value(value).expect("a class");
        class.set_defaults();
        class
    }

    #[test]
    fn the_systems_classes_are_as_they_are() {
        for (value, expected) in [
            (json!({"metadata": {"name": "high"}, "value": 1_000_000_000}), ""),
            (
                json!({"metadata": {"name": "high"}, "value": 1_000_000_001}),
                "value: Forbidden: maximum allowed value of a user defined priority is 1000000000",
            ),
            (
                json!({"metadata": {"name": "system-node-critical"}, "value": 2_000_001_000}),
                "",
            ),
            (
                json!({"metadata": {"name": "system-x"}, "value": 1}),
                "metadata.name: Forbidden: priority class names with 'system-' prefix are reserved for system use only. \
                 error: system-x is not a known system priority class",
            ),
            (
                json!({"metadata": {"name": "a"}, "preemptionPolicy": "Sometimes"}),
                "preemptionPolicy: Unsupported value: \"Sometimes\": supported values: \"PreemptLowerPriority\", \"Never\"",
            ),
        ] {
            let mut errors = Errors::new();
            class(value.clone()).validate(&mut errors);
            let found: String = errors.iter().map(ToString::to_string).collect();
            assert_eq!(found, expected, "{value}");
        }
    }

    #[test]
    fn a_classs_value_and_policy_stay() {
        let old = class(json!({"metadata": {"name": "a"}, "value": 1}));
        let new = class(json!({"metadata": {"name": "a"}, "value": 2, "preemptionPolicy": "Never"}));
        let mut errors = Errors::new();
        new.validate_update(&old, &mut errors);
        assert_eq!(
            errors.summary(),
            "[value: Forbidden: may not be changed in an update., preemptionPolicy: Invalid value: \"Never\": field is \
             immutable]"
        );
    }
}
