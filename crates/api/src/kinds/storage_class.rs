//! StorageClass (storage.k8s.io/v1).

use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;
use k8s_openapi::api::core::v1::TopologySelectorTerm;
use k8s_openapi::api::storage::v1::StorageClass;
use serde_json::Value;

use super::node_selector::replaced_label;
use super::{FIELD_IMMUTABLE, text};
use crate::error::{Errors, Path};
use crate::names;
use crate::object::{ApiObject, Logic};
use crate::registry::{Column, Kind, MetadataCheck};
use crate::table::age;

pub(super) static KIND: Kind = Kind {
    short_names: &["sc"],
    namespaced: false,
    update_metadata: &[MetadataCheck::Create, MetadataCheck::Update],
    columns: &[
        Column::NAME,
        Column::new("Provisioner", "who makes its volumes"),
        Column::new("ReclaimPolicy", "what happens to volumes whose claim is gone"),
        Column::new("VolumeBindingMode", "when volumes are made"),
        Column::new("AllowVolumeExpansion", "whether its volumes can grow"),
        Column::AGE,
    ],
    ..Kind::new(
        ("storage.k8s.io", "v1", "StorageClass"),
        ("storageclasses", "storageclass"),
        "io.k8s.api.storage.v1.StorageClass",
        Logic::of::<StorageClass>(),
    )
};

const MAX_PARAMETERS: usize = 512;
const MAX_PARAMETER_BYTES: usize = 256 * 1024;
const BINDING_MODES: [&str; 2] = ["Immediate", "WaitForFirstConsumer"];
const RECLAIM_POLICIES: [&str; 2] = ["Delete", "Retain"];
const DEFAULT_ANNOTATIONS: [&str; 2] = [
    "storageclass.kubernetes.io/is-default-class",
    "storageclass.beta.kubernetes.io/is-default-class",
];

/// Whether the annotations make a class the default one.
pub fn is_default(class: &StorageClass) -> bool {
    let annotations = class.metadata.annotations.as_ref();
    DEFAULT_ANNOTATIONS.iter().any(|key| {
        annotations
            .and_then(|all| all.get(*key))
            .is_some_and(|value| value == "true")
    })
}

impl ApiObject for StorageClass {
    fn set_defaults(&mut self) {
        self.reclaim_policy.get_or_insert_with(|| "Delete".to_owned());
        self.volume_binding_mode
            .get_or_insert_with(|| "Immediate".to_owned());
    }

    fn validate(&self, errors: &mut Errors) {
        let provisioner = Path::new("provisioner");
        if self.provisioner.is_empty() {
            errors.required(&provisioner, "");
        } else {
            let name = self.provisioner.to_lowercase();
            errors.invalid_each(&provisioner, &name, names::qualified_name(&name));
        }
        validate_parameters(self.parameters.as_ref(), &Path::new("parameters"), errors);
        let policy = text(&self.reclaim_policy);
        if !policy.is_empty() {
            errors.one_of(&Path::new("reclaimPolicy"), policy, &RECLAIM_POLICIES);
        }
        match self.volume_binding_mode.as_deref() {
            None => errors.required(&Path::new("volumeBindingMode"), ""),
            Some(mode) => errors.one_of(&Path::new("volumeBindingMode"), mode, &BINDING_MODES),
        }
        let topologies = self.allowed_topologies.as_deref().unwrap_or_default();
        validate_topologies(topologies, &Path::new("allowedTopologies"), errors);
    }

    fn validate_update(&self, old: &StorageClass, errors: &mut Errors) {
        self.validate(errors);
        let mut forbid = |changed: bool, field: &'static str| {
            if changed {
                errors.forbidden(&Path::new(field), &format!("updates to {field} are forbidden."));
            }
        };
        forbid(
            self.parameters
                .iter()
                .flatten()
                .ne(old.parameters.iter().flatten()),
            "parameters",
        );
        forbid(self.provisioner != old.provisioner, "provisioner");
        forbid(self.reclaim_policy != old.reclaim_policy, "reclaimPolicy");
        if self.volume_binding_mode != old.volume_binding_mode {
            let mode = text(&self.volume_binding_mode);
            errors.invalid(&Path::new("volumeBindingMode"), mode, FIELD_IMMUTABLE);
        }
    }

    fn warnings(&self, _old: Option<&StorageClass>) -> Vec<String> {
        let mut warnings = Vec::new();
        for (at, term) in self.allowed_topologies.iter().flatten().enumerate() {
            let path = Path::new("allowedTopologies")
                .index(at)
                .child("matchLabelExpressions");
            for (at, expression) in term.match_label_expressions.iter().flatten().enumerate() {
                if let Some(why) = replaced_label(&expression.key) {
                    warnings.push(format!("{}: {why}", path.index(at).child("key")));
                }
            }
        }
        warnings
    }

    fn row(&self, now: Timestamp) -> Vec<Value> {
        let name = self.metadata.name.clone().unwrap_or_default();
        vec![
            if is_default(self) {
                format!("{name} (default)")
            } else {
                name
            }
            .into(),
            self.provisioner.clone().into(),
            self.reclaim_policy.as_deref().unwrap_or("Delete").into(),
            self.volume_binding_mode.as_deref().unwrap_or("Immediate").into(),
            self.allow_volume_expansion.unwrap_or(false).into(),
            age(self.metadata.creation_timestamp.as_ref(), now),
        ]
    }
}

fn validate_parameters(parameters: Option<&BTreeMap<String, String>>, path: &Path, errors: &mut Errors) {
    let Some(parameters) = parameters else { return };
    if parameters.len() > MAX_PARAMETERS {
        errors.too_long(path, MAX_PARAMETERS);
        return;
    }
    if parameters.contains_key("") {
        errors.invalid(path, "", "field can not be empty.");
    }
    if parameters
        .iter()
        .map(|(key, value)| key.len() + value.len())
        .sum::<usize>()
        > MAX_PARAMETER_BYTES
    {
        errors.too_long(path, MAX_PARAMETER_BYTES);
    }
}

fn validate_topologies(terms: &[TopologySelectorTerm], path: &Path, errors: &mut Errors) {
    let mut seen: Vec<BTreeMap<&str, BTreeSet<&str>>> = Vec::new();
    for (at, term) in terms.iter().enumerate() {
        let path = path.index(at).child("matchLabelExpressions");
        let expressions = validate_topology(term, &path, errors);
        // Kubernetes compares with as many empty terms as there are terms, too.
        let repeats = seen.iter().filter(|other| **other == expressions).count();
        let empty = if expressions.is_empty() { terms.len() } else { 0 };
        for _ in 0..repeats + empty {
            errors.duplicate(&path, "");
        }
        seen.push(expressions);
    }
}

fn validate_topology<'t>(
    term: &'t TopologySelectorTerm,
    path: &Path,
    errors: &mut Errors,
) -> BTreeMap<&'t str, BTreeSet<&'t str>> {
    let mut expressions = BTreeMap::new();
    for (at, expression) in term.match_label_expressions.iter().flatten().enumerate() {
        let path = path.index(at);
        let values = path.child("values");
        if expression.values.is_empty() {
            errors.required(&values, "");
        }
        let mut set = BTreeSet::new();
        for (at, value) in expression.values.iter().enumerate() {
            if !set.insert(value.as_str()) {
                errors.duplicate(&values.index(at), value);
            }
        }
        let key = path.child("key");
        errors.invalid_each(&key, &expression.key, names::qualified_name(&expression.key));
        if expressions.insert(expression.key.as_str(), set).is_some() {
            errors.duplicate(&key, &expression.key);
        }
    }
    expressions
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn class(value: Value) -> StorageClass {
        let mut class: StorageClass = serde_json::from_value(value).expect("a class");
        class.set_defaults();
        class
    }

    #[test]
    fn a_class_needs_a_provisioner_and_known_policies() {
        for (value, expected) in [
            (json!({"provisioner": "example.com/Disk"}), ""),
            (json!({}), "provisioner: Required value"),
            (
                json!({"provisioner": "a", "reclaimPolicy": "Recycle"}),
                "reclaimPolicy: Unsupported value: \"Recycle\": supported values: \"Delete\", \"Retain\"",
            ),
            (
                json!({"provisioner": "a", "volumeBindingMode": "Later"}),
                "volumeBindingMode: Unsupported value: \"Later\": supported values: \"Immediate\", \"WaitForFirstConsumer\"",
            ),
            (
                json!({"provisioner": "a", "allowedTopologies": [{"matchLabelExpressions": [{"key": "zone", "values": []}]}]}),
                "allowedTopologies[0].matchLabelExpressions[0].values: Required value",
            ),
        ] {
            let mut errors = Errors::new();
            class(value.clone()).validate(&mut errors);
            assert_eq!(
                errors.iter().map(ToString::to_string).collect::<String>(),
                expected,
                "{value}"
            );
        }
    }

    #[test]
    fn most_of_a_class_cannot_be_changed() {
        let old = class(json!({"provisioner": "a"}));
        let new = class(
            json!({"provisioner": "b", "parameters": {"x": "y"}, "reclaimPolicy": "Retain",
            "volumeBindingMode": "WaitForFirstConsumer", "allowVolumeExpansion": true}),
        );
        let mut errors = Errors::new();
        new.validate_update(&old, &mut errors);
        let fields: Vec<_> = errors.iter().map(|error| error.field.as_str()).collect();
        assert_eq!(
            fields,
            ["parameters", "provisioner", "reclaimPolicy", "volumeBindingMode"]
        );
    }
}
