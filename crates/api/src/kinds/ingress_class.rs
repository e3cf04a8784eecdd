//! IngressClass (networking.k8s.io/v1): a kind of Ingress, and the controller that acts on it.

use jiff::Timestamp;
use k8s_openapi::api::networking::v1::{IngressClass, IngressClassParametersReference};
use serde_json::Value;

use super::{FIELD_IMMUTABLE, domain_prefixed_path, name_cell, reference_part, text};
use crate::error::{Errors, Path};
use crate::names;
use crate::object::{ApiObject, Logic};
use crate::registry::{Column, Generation, Kind};
use crate::table::age;

pub(super) static KIND: Kind = Kind {
    namespaced: false,
    generation: Generation::Spec,
    columns: &[
        Column::NAME,
        Column::new("Controller", "what acts on Ingresses of this class"),
        Column::new("Parameters", "the object with more settings of the controller"),
        Column::AGE,
    ],
    ..Kind::new(
        ("networking.k8s.io", "v1", "IngressClass"),
        ("ingressclasses", "ingressclass"),
        "io.k8s.api.networking.v1.IngressClass",
        Logic::of::<IngressClass>(),
    )
};

const LONGEST_CONTROLLER: usize = 250;
const SCOPES: [&str; 2] = ["Cluster", "Namespace"];

impl ApiObject for IngressClass {
    fn set_defaults(&mut self) {
        let parameters = self.spec.as_mut().and_then(|spec| spec.parameters.as_mut());
        if let Some(parameters) = parameters {
            parameters.scope.get_or_insert_with(|| "Cluster".to_owned());
        }
    }

    fn validate(&self, errors: &mut Errors) {
        let spec = self.spec.clone().unwrap_or_default();
        let path = Path::new("spec");
        let controller = text(&spec.controller);
        if controller.len() > LONGEST_CONTROLLER {
            errors.too_long(&path.child("controller"), LONGEST_CONTROLLER);
        }
        domain_prefixed_path(controller, &path.child("controller"), errors);
        if let Some(parameters) = &spec.parameters {
            validate_parameters(parameters, &path.child("parameters"), errors);
        }
    }

    fn validate_update(&self, old: &IngressClass, errors: &mut Errors) {
        let controller = |class: &IngressClass| {
            let spec = class.spec.as_ref();
            spec.and_then(|spec| spec.controller.clone()).unwrap_or_default()
        };
        let new = controller(self);
        if new != controller(old) {
            errors.invalid(&Path::new("spec").child("controller"), &new, FIELD_IMMUTABLE);
        }
        self.validate(errors);
    }

    fn row(&self, now: Timestamp) -> Vec<Value> {
        let spec = self.spec.clone().unwrap_or_default();
        let parameters = spec.parameters.map_or_else(
            || "<none>".to_owned(),
            |parameters| {
                let group = parameters.api_group.map(|group| format!(".{group}"));
                format!(
                    "{}{}/{}",
                    parameters.kind,
                    group.unwrap_or_default(),
                    parameters.name
                )
            },
        );
        vec![
            name_cell(&self.metadata),
            text(&spec.controller).into(),
            parameters.into(),
            age(self.metadata.creation_timestamp.as_ref(), now),
        ]
    }
}

fn validate_parameters(parameters: &IngressClassParametersReference, path: &Path, errors: &mut Errors) {
    if let Some(group) = &parameters.api_group {
        errors.invalid_each(&path.child("apiGroup"), group, names::dns_subdomain(group));
    }
    reference_part(&parameters.kind, &path.child("kind"), errors);
    reference_part(&parameters.name, &path.child("name"), errors);
    let namespace_path = path.child("namespace");
    match (parameters.scope.as_deref(), &parameters.namespace) {
        (None, _) => errors.required(&path.child("scope"), ""),
        (Some("Namespace"), None) => {
            errors.required(&namespace_path, "`parameters.scope` is set to 'Namespace'");
        }
        (Some("Namespace"), Some(namespace)) => {
            errors.invalid_each(&namespace_path, namespace, names::dns_label(namespace));
        }
        (Some("Cluster"), Some(_)) => {
            errors.forbidden(&namespace_path, "`parameters.scope` is set to 'Cluster'");
        }
        (Some("Cluster"), None) => {}
        (Some(other), _) => errors.not_supported(&path.child("scope"), other, &SCOPES),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn parameters_are_of_the_cluster_or_of_a_namespace() {
        for (parameters, expected) in [
            (json!(null), ""),
            (json!({"kind": "K", "name": "n"}), ""),
            (
                json!({"kind": "K", "name": "n", "scope": "Namespace"}),
                "spec.parameters.namespace: Required value: `parameters.scope` is set to 'Namespace'",
            ),
            (
                json!({"kind": "K", "name": "n", "namespace": "x"}),
                "spec.parameters.namespace: Forbidden: `parameters.scope` is set to 'Cluster'",
            ),
            (
                json!({"kind": "K", "name": "n", "scope": "World"}),
                "spec.parameters.scope: Unsupported value: \"World\": supported values: \"Cluster\", \"Namespace\"",
            ),
        ] {
            let mut class: IngressClass = serde_json::from_value(
                json!({"spec": {"controller": "example.com/c", "parameters": parameters}}),
            )
            .expect("a class");
            class.set_defaults();
            let mut errors = Errors::new();
            class.validate(&mut errors);
            let found: String = errors.iter().map(ToString::to_string).collect();
            assert_eq!(found, expected, "{parameters}");
        }
    }
}
