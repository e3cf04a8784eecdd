//! What is done to an object before it is checked and stored, whoever sent it: pure functions.

use jiff::Timestamp;
use rand::Rng as _;
use serde_json::Value;
use stead_api::error::ApiError;
use stead_api::registry::{Generation, Kind};
use stead_api::{meta, schema};

use super::write::{Change, broken};
use crate::admission::signing;
use crate::respond;
use crate::server::Call;

/// How long a generated name may be before its random end.
const GENERATED_STEM: usize = 58;

pub(crate) fn fit_to_namespace(call: &Call<'_>, object: &mut Value) -> Result<(), ApiError> {
    let (own, wanted) = (meta::namespace(object), call.path.namespace.as_str());
    if own == wanted {
        return Ok(());
    }
    if !call.kind.namespaced {
        meta::remove(object, "namespace");
    } else if own.is_empty() {
        meta::set(object, "namespace", wanted);
    } else {
        return Err(ApiError::bad_request(
            "the namespace of the provided object does not match the namespace sent on the request",
        ));
    }
    Ok(())
}

pub(super) fn fit_to_path(call: &Call<'_>, object: &mut Value) -> Result<(), ApiError> {
    let name = meta::name(object);
    if name.is_empty() {
        meta::set(object, "name", call.path.name.as_str());
    } else if name != call.path.name {
        return Err(ApiError::bad_request(format!(
            "the name of the object ({name}) does not match the name on the URL ({})",
            call.path.name
        )));
    }
    fit_to_namespace(call, object)
}

pub(super) fn fill_metadata(kind: &Kind, object: &mut Value) {
    for field in ["deletionTimestamp", "deletionGracePeriodSeconds", "selfLink"] {
        meta::remove(object, field);
    }
    meta::set(object, "uid", new_uid());
    meta::set(
        object,
        "creationTimestamp",
        stead_api::time::rfc3339(Timestamp::now()),
    );
    if kind.generation != Generation::None {
        meta::set(object, "generation", 1);
    }
}

/// A random uuid (version 4).
pub(crate) fn new_uid() -> String {
    let bytes: u128 = rand::rng().random();
    let bits = (bytes & !(0xf << 76) & !(0x3 << 62)) | (0x4 << 76) | (0x2 << 62);
    let hex = format!("{bits:032x}");
    [&hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..]].join("-")
}

/// A prefix with five random characters, as `SimpleNameGenerator` makes them.
pub(super) fn generate_name(prefix: &str) -> String {
    let stem: String = prefix.chars().take(GENERATED_STEM).collect();
    format!("{stem}{}", random_suffix(5))
}

/// Random characters that make no words.
pub(crate) fn random_suffix(length: usize) -> String {
    const ALPHABET: &[u8] = b"bcdfghjklmnpqrstvwxz2456789";
    let mut random = rand::rng();
    (0..length)
        .map(|_| char::from(ALPHABET[random.random_range(0..ALPHABET.len())]))
        .collect()
}

pub(super) fn prepare_create(
    kind: &Kind,
    object: &mut Value,
    warnings: &mut Vec<String>,
) -> Result<(), ApiError> {
    if kind.has_status() && !kind.keeps_status_on_create {
        clear_status(object);
    }
    (kind.logic.prepare_for_create)(object).map_err(broken)?;
    normalize(kind, object);
    let errors = kind.validate_create(object).map_err(broken)?;
    if !errors.is_empty() {
        return Err(ApiError::invalid(
            stored_group(kind),
            kind.kind,
            meta::name(object),
            &errors,
        ));
    }
    respond::add_warnings(warnings, (kind.logic.warnings)(object, None).map_err(broken)?);
    Ok(())
}

/// The group that errors name: checks are of what is stored.
pub(super) fn stored_group(kind: &Kind) -> &'static str {
    kind.stored_as.map_or(kind.group, |stored| stored.group)
}

fn clear_status(object: &mut Value) {
    if let Some(object) = object.as_object_mut() {
        object.remove("status");
    }
}

fn normalize(kind: &Kind, object: &mut Value) {
    schema::normalize(schema::builtin(), kind.type_id(), object);
    object["apiVersion"] = kind.api_version().into();
    object["kind"] = kind.kind.into();
}

/// Puts back what no update can change.
pub(super) fn keep_metadata(new: &mut Value, old: &Value) {
    let kept = |field: &str| old["metadata"][field].clone();
    for field in ["generation", "creationTimestamp", "deletionTimestamp"] {
        match kept(field) {
            Value::Null => meta::remove(new, field),
            value => meta::set(new, field, value),
        }
    }
    for field in ["uid", "deletionGracePeriodSeconds"] {
        if new["metadata"][field].is_null() && !old["metadata"][field].is_null() {
            meta::set(new, field, kept(field));
        }
    }
    meta::remove(new, "selfLink");
}

/// Puts back the parts that this kind of update does not change.
pub(super) fn keep_parts(kind: &Kind, new: &mut Value, old: &Value, change: Change) {
    let (Some(new), Some(old)) = (new.as_object_mut(), old.as_object()) else {
        return;
    };
    match change {
        Change::Main if kind.has_status() => {
            new.remove("status");
            if let Some(status) = old.get("status") {
                new.insert("status".to_owned(), status.clone());
            }
        }
        Change::Main => {}
        Change::Status | Change::Approval => {
            new.retain(|name, _| matches!(name.as_str(), "metadata" | "status"));
            for (name, value) in old {
                if !matches!(name.as_str(), "metadata" | "status") {
                    new.insert(name.clone(), value.clone());
                }
            }
        }
        Change::Finalize => {
            if let Some(status) = old.get("status") {
                new.insert("status".to_owned(), status.clone());
            }
        }
    }
}

pub(super) fn prepare_update(
    kind: &Kind,
    new: &mut Value,
    old: &Value,
    change: Change,
) -> Result<(), ApiError> {
    match change {
        Change::Main => (kind.logic.prepare_for_update)(new, old).map_err(broken)?,
        Change::Status => (kind.logic.prepare_for_status_update)(new, old).map_err(broken)?,
        Change::Approval => signing::keep_certificate(new, old),
        Change::Finalize => {}
    }
    if matches!(change, Change::Status | Change::Approval) && signing::is_request(kind) {
        signing::stamp(new, old)?;
    }
    normalize(kind, new);
    let changed = match kind.generation {
        Generation::None => false,
        Generation::Spec => new["spec"] != old["spec"],
        Generation::SpecAndAnnotations => {
            let annotations = |object: &Value| object["metadata"]["annotations"].clone();
            // Controllers keep book in annotations when they write the status.
            let annotated = change == Change::Main && annotations(new) != annotations(old);
            new["spec"] != old["spec"] || annotated
        }
        Generation::Content => {
            let content = |object: &Value| -> Vec<(String, Value)> {
                let parts = object.as_object().into_iter().flatten();
                parts
                    .filter(|(name, _)| !matches!(name.as_str(), "metadata" | "status"))
                    .map(|(name, value)| (name.clone(), value.clone()))
                    .collect()
            };
            content(new) != content(old)
        }
    };
    if changed {
        let generation = old["metadata"]["generation"].as_i64().unwrap_or(0);
        meta::set(new, "generation", generation + 1);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn uids_are_random_version_4_uuids() {
        let (a, b) = (new_uid(), new_uid());
        assert_ne!(a, b);
        assert_eq!((a.len(), &a[14..15]), (36, "4"));
        assert!("89ab".contains(&a[19..20]), "{a}");
    }

    #[test]
    fn generated_names_fit_a_label() {
        let name = generate_name(&"x".repeat(100));
        assert_eq!(name.len(), 63);
        assert!(name.starts_with("xxx"));
    }
}
