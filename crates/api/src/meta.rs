//! Metadata: reading it from JSON objects, and the checks that all kinds share.

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde::Deserialize as _;
use serde_json::{Map, Value};

use crate::error::{Errors, Path, Shown as _};
use crate::selector::validate_label;
use crate::{go, names};

/// The finalizer under which dependents are orphaned.
pub const ORPHAN_FINALIZER: &str = "orphan";
/// The finalizer under which dependents go first.
pub const FOREGROUND_FINALIZER: &str = "foregroundDeletion";

const ANNOTATIONS_LIMIT_BYTES: usize = 256 * 1024;
const IMMUTABLE: &str = "field is immutable";

/// A text in an object's metadata; empty where there is none.
pub fn text<'o>(object: &'o Value, field: &str) -> &'o str {
    object["metadata"][field].as_str().unwrap_or_default()
}

/// `metadata.name`.
pub fn name(object: &Value) -> &str {
    text(object, "name")
}

/// `metadata.namespace`; empty for objects outside namespaces.
pub fn namespace(object: &Value) -> &str {
    text(object, "namespace")
}

/// `metadata.uid`.
pub fn uid(object: &Value) -> &str {
    text(object, "uid")
}

/// `metadata.labels`.
pub fn labels(object: &Value) -> Option<&Map<String, Value>> {
    object["metadata"]["labels"].as_object()
}

/// `metadata.finalizers`.
pub fn finalizers(object: &Value) -> Vec<&str> {
    object["metadata"]["finalizers"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(Value::as_str)
        .collect()
}

/// Whether its deletion has been asked for.
pub fn is_deleting(object: &Value) -> bool {
    object["metadata"]["deletionTimestamp"].is_string()
}

/// Sets a field of the metadata.
pub fn set(object: &mut Value, field: &str, value: impl Into<Value>) {
    if let Some(metadata) = object["metadata"].as_object_mut() {
        metadata.insert(field.to_owned(), value.into());
    } else if object.is_object() {
        object["metadata"] = Value::Object(Map::from_iter([(field.to_owned(), value.into())]));
    }
}

/// Takes a field of the metadata away.
pub fn remove(object: &mut Value, field: &str) {
    if let Some(metadata) = object["metadata"].as_object_mut() {
        metadata.remove(field);
    }
}

/// The metadata as its type. What does not fit is as if it were not there.
pub fn typed(object: &Value) -> ObjectMeta {
    ObjectMeta::deserialize(&object["metadata"]).unwrap_or_default()
}

/// Checks the metadata of an object to be created.
pub fn validate(object: &Value, namespaced: bool, name_rule: fn(&str) -> Vec<String>, errors: &mut Errors) {
    let path = Path::new("metadata");
    let prefix = text(object, "generateName");
    if !prefix.is_empty() {
        errors.invalid_each(
            &path.child("generateName"),
            prefix,
            names::as_prefix(name_rule, prefix),
        );
    }
    match name(object) {
        "" => errors.required(&path.child("name"), "name or generateName is required"),
        name => errors.invalid_each(&path.child("name"), name, name_rule(name)),
    }
    match (namespace(object), namespaced) {
        ("", true) => errors.required(&path.child("namespace"), ""),
        ("", false) => {}
        (_, false) => errors.forbidden(&path.child("namespace"), "not allowed on this type"),
        (namespace, true) => {
            errors.invalid_each(&path.child("namespace"), namespace, names::dns_label(namespace));
        }
    }
    if let Some(generation) = object["metadata"]["generation"]
        .as_i64()
        .filter(|generation| *generation < 0)
    {
        errors.invalid(
            &path.child("generation"),
            &generation,
            "must be greater than or equal to 0",
        );
    }
    validate_common(object, &path, errors);
    let finalizers = finalizers(object);
    let at = path.child("finalizers");
    for finalizer in &finalizers {
        errors.invalid_each(&at, *finalizer, names::qualified_name(finalizer));
    }
    if finalizers.contains(&ORPHAN_FINALIZER) && finalizers.contains(&FOREGROUND_FINALIZER) {
        let both = format!("finalizer {ORPHAN_FINALIZER} and {FOREGROUND_FINALIZER} cannot be both set");
        errors.invalid(&at, &go::syntax("[]string", &finalizers), &both);
    }
    validate_finalizer_names(object, errors);
}

/// Checks what an update does to the metadata.
pub fn validate_update(new: &Value, old: &Value, errors: &mut Errors) {
    validate_change(new, old, errors);
    validate_finalizer_names(new, errors);
}

/// The part of [`validate_update`] that holds for every resource, custom ones too.
pub(crate) fn validate_change(new: &Value, old: &Value, errors: &mut Errors) {
    let path = Path::new("metadata");
    if is_deleting(old) {
        forbid_new_finalizers(new, old, &path, errors);
    }
    if text(new, "resourceVersion").is_empty() {
        errors.invalid(
            &path.child("resourceVersion"),
            "",
            "must be specified for an update",
        );
    }
    let generation = |object: &Value| object["metadata"]["generation"].as_i64().unwrap_or(0);
    if generation(new) < generation(old) {
        errors.invalid(
            &path.child("generation"),
            &generation(new),
            "must not be decremented",
        );
    }
    for field in [
        "name",
        "namespace",
        "uid",
        "creationTimestamp",
        "deletionTimestamp",
        "deletionGracePeriodSeconds",
    ] {
        let (now, then) = (&new["metadata"][field], &old["metadata"][field]);
        if now != then {
            errors.invalid(&path.child(field), now, IMMUTABLE);
        }
    }
    validate_common(new, &path, errors);
}

fn validate_common(object: &Value, path: &Path, errors: &mut Errors) {
    let texts = |field: &str| {
        let entries = object["metadata"][field].as_object().into_iter().flatten();
        entries.map(|(key, value)| (key.as_str(), value.as_str().unwrap_or_default()))
    };
    for (key, value) in texts("labels") {
        validate_label(key, value, &path.child("labels"), errors);
    }
    check_annotations(texts("annotations"), &path.child("annotations"), errors);
    validate_owners(object, &path.child("ownerReferences"), errors);
}

/// Checks annotations: keys like labels' but in any case, and a limit on their total size.
pub fn validate_annotations(
    annotations: Option<&BTreeMap<String, String>>,
    path: &Path,
    errors: &mut Errors,
) {
    let entries = annotations.into_iter().flatten();
    check_annotations(
        entries.map(|(key, value)| (key.as_str(), value.as_str())),
        path,
        errors,
    );
}

fn check_annotations<'a>(
    annotations: impl Iterator<Item = (&'a str, &'a str)>,
    path: &Path,
    errors: &mut Errors,
) {
    let mut total = 0;
    for (key, value) in annotations {
        errors.invalid_each(path, key, names::qualified_name(&key.to_lowercase()));
        total += key.len() + value.len();
    }
    if total > ANNOTATIONS_LIMIT_BYTES {
        errors.too_long(path, ANNOTATIONS_LIMIT_BYTES);
    }
}

fn validate_owners(object: &Value, path: &Path, errors: &mut Errors) {
    let mut controller: Option<String> = None;
    let owners = &object["metadata"]["ownerReferences"];
    for owner in owners.as_array().into_iter().flatten() {
        let text = |field: &str| owner[field].as_str().unwrap_or_default();
        let api_version = text("apiVersion");
        let malformed = api_version.matches('/').count() > 1 || api_version.ends_with('/');
        if api_version.is_empty() || malformed {
            errors.invalid(
                &path.child("apiVersion"),
                api_version,
                "version must not be empty",
            );
        }
        for field in ["kind", "name", "uid"] {
            if text(field).is_empty() {
                errors.invalid(&path.child(field), "", &format!("{field} must not be empty"));
            }
        }
        if (api_version, text("kind")) == ("v1", "Event") {
            let why = "/v1, Kind=Event is disallowed from being an owner";
            errors.invalid(path, &go::syntax("v1.OwnerReference", owner), why);
        }
        if owner["controller"] == true {
            let this = format!("{}/{}", text("kind"), text("name"));
            match &controller {
                None => controller = Some(this),
                Some(first) => {
                    let why = format!(
                        "Only one reference can have Controller set to true. Found \"true\" in references for {first} and {this}"
                    );
                    errors.invalid(path, &go::syntax("[]v1.OwnerReference", owners), &why);
                }
            }
        }
    }
}

/// Finalizers without a domain must be Kubernetes' own.
pub(crate) fn validate_finalizer_names(object: &Value, errors: &mut Errors) {
    for (at, finalizer) in finalizers(object).into_iter().enumerate() {
        let path = Path::new("metadata").child("finalizers").index(at);
        validate_finalizer_name(finalizer, &path, errors);
    }
}

/// A finalizer without a domain must be one of Kubernetes' own.
pub(crate) fn validate_finalizer_name(finalizer: &str, path: &Path, errors: &mut Errors) {
    if !finalizer.contains('/')
        && !matches!(finalizer, "kubernetes" | ORPHAN_FINALIZER | FOREGROUND_FINALIZER)
    {
        let why = "name is neither a standard finalizer name nor is it fully qualified";
        errors.invalid(path, finalizer, why);
    }
}

fn forbid_new_finalizers(new: &Value, old: &Value, path: &Path, errors: &mut Errors) {
    let before = finalizers(old);
    let mut extra: Vec<_> = finalizers(new)
        .into_iter()
        .filter(|name| !before.contains(name))
        .collect();
    if extra.is_empty() {
        return;
    }
    extra.sort_unstable();
    let list: Vec<_> = extra.iter().map(|name| name.shown()).collect();
    errors.forbidden(
        &path.child("finalizers"),
        &format!(
            "no new finalizers can be added if the object is being deleted, found new finalizers []string{{{}}}",
            list.join(", ")
        ),
    );
}
