//! Binding (core/v1): tells a pod its node. Created only; nothing of it is stored. Also the body of
//! `pods/binding`.

use k8s_openapi::api::core::v1::Binding;

use super::text;
use crate::error::{Errors, Path};
use crate::names;
use crate::object::{ApiObject, Logic};
use crate::registry::Kind;

pub(super) static KIND: Kind = Kind {
    verbs: &["create"],
    ..Kind::new(
        ("", "v1", "Binding"),
        ("bindings", "binding"),
        "io.k8s.api.core.v1.Binding",
        Logic::of::<Binding>(),
    )
};

impl ApiObject for Binding {
    fn validate(&self, errors: &mut Errors) {
        validate(self, errors);
    }

    fn row(&self, now: jiff::Timestamp) -> Vec<serde_json::Value> {
        vec![
            super::name_cell(&self.metadata),
            crate::table::age(self.metadata.creation_timestamp.as_ref(), now),
        ]
    }
}

/// Checks that a pod's binding names a node. Its metadata is that of the pod and needs no check.
pub fn validate(binding: &Binding, errors: &mut Errors) {
    let target = Path::new("target");
    let kind = text(&binding.target.kind);
    if !matches!(kind, "" | "Node") {
        errors.not_supported(&target.child("kind"), kind, &["Node", "<empty>"]);
    }
    // Since 1.37 the name of a node is checked.
    match text(&binding.target.name) {
        "" => errors.required(&target.child("name"), ""),
        name if matches!(kind, "" | "Node") => {
            errors.invalid_each(&target.child("name"), name, names::dns_subdomain(name));
        }
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_pod_is_bound_to_a_named_node() {
        for (target, expected) in [
            (json!({"name": "n1"}), ""),
            (json!({"kind": "Node", "name": "n1"}), ""),
            (json!({"kind": "Node"}), "target.name: Required value"),
            (
                json!({"kind": "Pod", "name": "p"}),
                "target.kind: Unsupported value: \"Pod\": supported values: \"Node\", \"<empty>\"",
            ),
        ] {
            let binding = serde_json::from_value(json!({"target": target})).expect("a binding");
            let mut errors = Errors::new();
            validate(&binding, &mut errors);
            assert_eq!(
                errors.iter().map(ToString::to_string).collect::<String>(),
                expected
            );
        }
    }
}
