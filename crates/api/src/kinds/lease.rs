//! Lease (coordination.k8s.io/v1).

use jiff::Timestamp;
use k8s_openapi::api::coordination::v1::Lease;
use serde_json::Value;

use super::{name_cell, text};
use crate::error::{Errors, Path};
use crate::object::{ApiObject, Logic};
use crate::registry::{Column, Kind, MetadataCheck};
use crate::table::age;

pub(super) static KIND: Kind = Kind {
    create_on_update: true,
    unconditional_update: false,
    update_metadata: &[MetadataCheck::Update],
    columns: &[Column::NAME, Column::new("Holder", "who has it"), Column::AGE],
    ..Kind::new(
        ("coordination.k8s.io", "v1", "Lease"),
        ("leases", "lease"),
        "io.k8s.api.coordination.v1.Lease",
        Logic::of::<Lease>(),
    )
};

impl ApiObject for Lease {
    /// Coordinated leader election is off, and its fields are dropped where they are not in use.
    fn prepare_for_create(&mut self) {
        self.prepare_for_update(&Lease::default());
    }

    fn prepare_for_update(&mut self, old: &Lease) {
        let Some(spec) = &mut self.spec else { return };
        if old.spec.as_ref().is_none_or(|spec| spec.strategy.is_none()) {
            spec.strategy = None;
        }
        if old
            .spec
            .as_ref()
            .is_none_or(|spec| spec.preferred_holder.is_none())
        {
            spec.preferred_holder = None;
        }
    }

    fn validate(&self, errors: &mut Errors) {
        let Some(spec) = &self.spec else { return };
        let path = Path::new("spec");
        if let Some(seconds) = spec.lease_duration_seconds.filter(|seconds| *seconds <= 0) {
            errors.invalid(
                &path.child("leaseDurationSeconds"),
                &seconds,
                "must be greater than 0",
            );
        }
        errors.nonnegative(
            &path.child("leaseTransitions"),
            spec.lease_transitions.unwrap_or(0).into(),
        );
    }

    fn row(&self, now: Timestamp) -> Vec<Value> {
        vec![
            name_cell(&self.metadata),
            self.spec
                .as_ref()
                .map_or("", |spec| text(&spec.holder_identity))
                .into(),
            age(self.metadata.creation_timestamp.as_ref(), now),
        ]
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn durations_are_positive() {
        let lease: Lease =
            serde_json::from_value(json!({"spec": {"leaseDurationSeconds": 0, "leaseTransitions": -1}}))
                .expect("a lease");
        let mut errors = Errors::new();
        lease.validate(&mut errors);
        assert_eq!(
            errors.summary(),
            "[spec.leaseDurationSeconds: Invalid value: 0: must be greater than 0, \
             spec.leaseTransitions: Invalid value: -1: must be greater than or equal to 0]"
        );
    }
}
