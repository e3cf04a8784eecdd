//! Admission: what the server adds to objects and refuses beyond their own checks.
//!
//! The built-in plugins of upstream that this release needs: NamespaceLifecycle, ServiceAccount,
//! DefaultTolerationSeconds, Priority, RuntimeClass, DefaultStorageClass, StorageObjectInUseProtection,
//! PersistentVolumeClaimResize, NodeRestriction, CertificateApproval, CertificateSigning,
//! CertificateSubjectRestriction, LimitRanger. See "Admission Control in Kubernetes".

mod limits;
pub(crate) mod nodes;
mod pods;
mod priority;
mod runtime_class;
pub(crate) mod signing;
mod storage;
pub(crate) mod webhook;

use serde_json::{Value, json};
use stead_api::error::ApiError;
use stead_api::meta;
use stead_store::Revision;

use crate::resource::Change;
use crate::server::Call;
use crate::stored::Stored;

/// Namespaces that always are.
const PERMANENT: [&str; 3] = ["default", "kube-system", "kube-public"];

/// Changes an object to be created.
pub(crate) fn mutate_create(call: &Call<'_>, object: &mut Value) -> Result<(), ApiError> {
    match (call.kind.group, call.kind.plural) {
        ("", "pods") => pods::admit_create(call, object),
        ("", "persistentvolumeclaims") => storage::admit_claim(call, object),
        ("", "persistentvolumes") => storage::protect(object, storage::VOLUME_PROTECTION),
        ("scheduling.k8s.io", "priorityclasses") => priority::admit_class(call, object),
        _ => Ok(()),
    }
}

/// Settles what nobody, webhooks neither, has a say in when an object is created.
pub(crate) fn settle_create(call: &Call<'_>, object: &mut Value) -> Result<(), ApiError> {
    if signing::is_request(call.kind) {
        signing::settle_create(call, object)?;
    }
    Ok(())
}

/// Refuses new objects that are valid as such.
pub(crate) fn check_create(call: &Call<'_>, object: &Value) -> Result<(), ApiError> {
    match (call.kind.group, call.kind.plural) {
        ("", "pods" | "persistentvolumeclaims") => limits::check(call, object, None),
        _ => Ok(()),
    }
}

/// Refuses what somebody may not change in a part of an object.
pub(crate) fn check_part(
    call: &Call<'_>,
    object: &Value,
    old: &Value,
    change: Change,
) -> Result<(), ApiError> {
    if signing::is_request(call.kind) {
        signing::check_part(call, object, old, change)?;
    }
    Ok(())
}

/// Changes an update.
pub(crate) fn mutate_update(call: &Call<'_>, object: &mut Value, _old: &Value) -> Result<(), ApiError> {
    if (call.kind.group, call.kind.plural) == ("", "pods") {
        pods::default_tolerations(object);
    }
    Ok(())
}

/// Refuses updates that are valid as such.
pub(crate) fn check_update(call: &Call<'_>, object: &Value, old: &Value) -> Result<(), ApiError> {
    match (call.kind.group, call.kind.plural) {
        ("", "persistentvolumeclaims") => {
            storage::check_growth(call, object, old)?;
            limits::check(call, object, Some(old))
        }
        ("scheduling.k8s.io", "priorityclasses") => priority::admit_class(call, object),
        _ => Ok(()),
    }
}

/// The namespace that an object is to be created in must be there and not be on its way out. Gives
/// what the creation depends on: its key and revision.
pub(crate) fn namespace_for_create(
    call: &Call<'_>,
    object: &Value,
) -> Result<Option<(String, Revision)>, ApiError> {
    if !call.kind.namespaced {
        return Ok(None);
    }
    let name = meta::namespace(object);
    let (namespace_key, namespace) =
        find(call, "namespaces", "", name).ok_or_else(|| ApiError::not_found("", "namespaces", name))?;
    let value = namespace.value();
    let terminating = meta::is_deleting(&value) || value["status"]["phase"] == "Terminating";
    if !terminating {
        return Ok(Some((namespace_key, namespace.revision())));
    }
    let kind = call.kind;
    let why = format!("unable to create new content in namespace {name} because it is being terminated");
    let mut error = ApiError::forbidden(kind.group, kind.plural, meta::name(object), &why);
    if let Some(details) = &mut error.details {
        details["causes"] = json!([{
            "reason": "NamespaceTerminating",
            "message": format!("namespace {name} is being terminated"),
            "field": "metadata.namespace",
        }]);
    }
    Err(error)
}

/// Refuses deletions that must not be.
pub(crate) fn check_delete(call: &Call<'_>, name: &str) -> Result<(), ApiError> {
    if call.kind.kind == "Namespace" && PERMANENT.contains(&name) {
        return Err(ApiError::forbidden(
            "",
            "namespaces",
            name,
            "this namespace may not be deleted",
        ));
    }
    match (call.kind.group, call.kind.plural) {
        ("scheduling.k8s.io", "priorityclasses") => priority::check_delete(name),
        _ => Ok(()),
    }
}

/// An object of the core group.
fn find(call: &Call<'_>, plural: &str, namespace: &str, name: &str) -> Option<(String, Stored)> {
    call.server.find(("", plural), namespace, name)
}
