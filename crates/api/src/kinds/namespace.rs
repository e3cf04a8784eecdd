//! Namespace (core/v1).

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Namespace, NamespaceStatus};
use serde_json::Value;

use super::{name_cell, text};
use crate::error::{Errors, Path};
use crate::object::{ApiObject, Logic};
use crate::registry::{ALL_VERBS, Column, Kind, MetadataCheck, Subresource};
use crate::table::age;
use crate::{meta, names};

pub(super) static KIND: Kind = Kind {
    short_names: &["ns"],
    namespaced: false,
    verbs: VERBS,
    subresources: &[
        Subresource {
            name: "finalize",
            group_version: None,
            kind: "Namespace",
            verbs: &["update"],
        },
        Subresource::status("Namespace"),
    ],
    name_rule: names::dns_label,
    update_metadata: &[MetadataCheck::Create, MetadataCheck::Update],
    columns: &[
        Column::NAME,
        Column::new("Status", "whether it is in use or going"),
        Column::AGE,
    ],
    selectable: &[
        ("name", &["metadata", "name"]),
        ("status.phase", &["status", "phase"]),
    ],
    ..Kind::new(
        ("", "v1", "Namespace"),
        ("namespaces", "namespace"),
        "io.k8s.api.core.v1.Namespace",
        Logic::of::<Namespace>(),
    )
};

/// Namespaces cannot be deleted as a collection.
const VERBS: &[&str] = &["create", "delete", "get", "list", "patch", "update", "watch"];
const _: () = assert!(VERBS.len() + 1 == ALL_VERBS.len());

/// The finalizer that holds a namespace until its content is gone.
const FINALIZER: &str = "kubernetes";
/// The label that carries a namespace's name.
const NAME_LABEL: &str = "kubernetes.io/metadata.name";

fn label_with_name(namespace: &mut Namespace) {
    if let Some(name) = namespace.metadata.name.clone().filter(|name| !name.is_empty()) {
        namespace
            .metadata
            .labels
            .get_or_insert_default()
            .insert(NAME_LABEL.to_owned(), name);
    }
}

impl ApiObject for Namespace {
    fn set_defaults(&mut self) {
        label_with_name(self);
        let status = self.status.get_or_insert_default();
        if text(&status.phase).is_empty() {
            status.phase = Some("Active".to_owned());
        }
    }

    fn prepare_for_create(&mut self) {
        // The name may have been made up since the defaults were set.
        label_with_name(self);
        self.status = Some(NamespaceStatus {
            phase: Some("Active".to_owned()),
            ..NamespaceStatus::default()
        });
        let finalizers = self
            .spec
            .get_or_insert_default()
            .finalizers
            .get_or_insert_default();
        if !finalizers.iter().any(|finalizer| finalizer == FINALIZER) {
            finalizers.push(FINALIZER.to_owned());
        }
    }

    /// The finalizers of the spec change through the subresource `finalize` only.
    fn prepare_for_update(&mut self, old: &Namespace) {
        self.spec.clone_from(&old.spec);
        self.status.clone_from(&old.status);
    }

    fn validate(&self, errors: &mut Errors) {
        let path = Path::new("spec").child("finalizers");
        for (at, finalizer) in self
            .spec
            .iter()
            .flat_map(|spec| spec.finalizers.iter().flatten())
            .enumerate()
        {
            let path = path.index(at);
            errors.invalid_each(&path, finalizer, names::qualified_name(finalizer));
            meta::validate_finalizer_name(finalizer, &path, errors);
        }
    }

    fn validate_status_update(&self, _old: &Namespace, errors: &mut Errors) {
        let path = Path::new("status").child("Phase");
        let phase = self.status.as_ref().map_or("", |status| text(&status.phase));
        if self.metadata.deletion_timestamp.is_none() {
            if phase != "Active" {
                errors.invalid(
                    &path,
                    phase,
                    "may only be 'Active' if `deletionTimestamp` is empty",
                );
            }
        } else if phase != "Terminating" {
            errors.invalid(
                &path,
                phase,
                "may only be 'Terminating' if `deletionTimestamp` is not empty",
            );
        }
    }

    fn row(&self, now: Timestamp) -> Vec<Value> {
        vec![
            name_cell(&self.metadata),
            self.status
                .as_ref()
                .map_or("", |status| text(&status.phase))
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
    fn a_new_namespace_is_active_labelled_and_held() {
        let mut value = json!({"metadata": {"name": "a"}, "status": {"phase": "Terminating"}});
        (KIND.logic.set_defaults)(&mut value).expect("defaults");
        (KIND.logic.prepare_for_create)(&mut value).expect("prepared");
        assert_eq!(value["metadata"]["labels"], json!({NAME_LABEL: "a"}));
        assert_eq!(value["spec"]["finalizers"], json!(["kubernetes"]));
        assert_eq!(value["status"], json!({"phase": "Active"}));
    }

    #[test]
    fn the_phase_follows_the_deletion() {
        let namespace: Namespace =
            serde_json::from_value(json!({"metadata": {"name": "a"}, "status": {"phase": "Terminating"}}))
                .expect("a namespace");
        let mut errors = Errors::new();
        namespace.validate_status_update(&namespace, &mut errors);
        assert_eq!(
            errors.summary(),
            "status.Phase: Invalid value: \"Terminating\": may only be 'Active' if `deletionTimestamp` is empty"
        );
    }
}
