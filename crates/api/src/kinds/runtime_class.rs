//! RuntimeClass (node.k8s.io/v1): a way of running containers, what it costs and where it is to be
//! had. Costs and places are taken over into pods; there is one runtime, whatever the handler.

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{ResourceRequirements, Toleration};
use k8s_openapi::api::node::v1::RuntimeClass;
use serde_json::Value;

use super::pod::validate_tolerations;
use super::resources::{Of, validate_requirements};
use super::{FIELD_IMMUTABLE, name_cell};
use crate::error::{Errors, Path};
use crate::object::{ApiObject, Logic};
use crate::registry::{Column, Kind, MetadataCheck};
use crate::selector::validate_labels;
use crate::table::age;
use crate::{go, names};

pub(super) static KIND: Kind = Kind {
    namespaced: false,
    create_on_update: true,
    unconditional_update: false,
    update_metadata: &[MetadataCheck::Create, MetadataCheck::Update],
    columns: &[
        Column::NAME,
        Column::new("Handler", "the runtime's name for it"),
        Column::AGE,
    ],
    caveat: Some(
        "nodes of this cluster have one runtime: the handler of a RuntimeClass makes no difference to how pods run",
    ),
    ..Kind::new(
        ("node.k8s.io", "v1", "RuntimeClass"),
        ("runtimeclasses", "runtimeclass"),
        "io.k8s.api.node.v1.RuntimeClass",
        Logic::of::<RuntimeClass>(),
    )
};

impl ApiObject for RuntimeClass {
    fn validate(&self, errors: &mut Errors) {
        let handler = &self.handler;
        errors.invalid_each(&Path::new("handler"), handler, names::dns_label(handler));
        if let Some(overhead) = &self.overhead {
            let limits = ResourceRequirements {
                limits: overhead.pod_fixed.clone(),
                ..ResourceRequirements::default()
            };
            let path = Path::new("overhead");
            validate_requirements(&limits, Of::Container, &[], false, &path, errors);
        }
        if let Some(scheduling) = &self.scheduling {
            let path = Path::new("scheduling");
            validate_labels(
                scheduling.node_selector.as_ref(),
                &path.child("nodeSelector"),
                errors,
            );
            let tolerations = scheduling.tolerations.as_deref().unwrap_or_default();
            validate_different(tolerations, &path.child("tolerations"), errors);
        }
    }

    fn validate_update(&self, old: &RuntimeClass, errors: &mut Errors) {
        self.validate(errors);
        if self.handler != old.handler {
            errors.invalid(&Path::new("handler"), &self.handler, FIELD_IMMUTABLE);
        }
    }

    fn row(&self, now: Timestamp) -> Vec<Value> {
        vec![
            name_cell(&self.metadata),
            self.handler.clone().into(),
            age(self.metadata.creation_timestamp.as_ref(), now),
        ]
    }
}

fn validate_different(tolerations: &[Toleration], path: &Path, errors: &mut Errors) {
    validate_tolerations(tolerations, path, errors);
    for (at, toleration) in tolerations.iter().enumerate() {
        if tolerations[..at].contains(toleration) {
            let shown = go::syntax("core.Toleration", toleration);
            errors.duplicate(&path.index(at), &shown);
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn handlers_are_labels_and_stay() {
        let class = |handler: &str| -> RuntimeClass {
            serde_json::from_value(json!({"handler": handler})).expect("a class")
        };
        let mut errors = Errors::new();
        class("Kata").validate_update(&class("runc"), &mut errors);
        let fields: Vec<_> = errors.iter().map(|error| error.field.as_str()).collect();
        assert_eq!(fields, ["handler", "handler"]);
        assert!(
            errors.summary().contains("field is immutable"),
            "{}",
            errors.summary()
        );
    }

    #[test]
    fn tolerations_are_given_once() {
        let toleration = json!({"key": "a", "operator": "Exists"});
        let class: RuntimeClass = serde_json::from_value(json!({
            "handler": "runc",
            "overhead": {"podFixed": {"cpu": "-1"}},
            "scheduling": {"tolerations": [toleration, toleration]},
        }))
        .expect("a class");
        let mut errors = Errors::new();
        class.validate(&mut errors);
        let fields: Vec<_> = errors.iter().map(|error| error.field.as_str()).collect();
        assert_eq!(fields, ["overhead.limits[cpu]", "scheduling.tolerations[1]"]);
    }
}
