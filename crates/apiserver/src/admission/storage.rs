//! Admission of claims and volumes: the default storage class, and protection from deletion while
//! in use.

use serde_json::{Value, json};
use stead_api::error::ApiError;
use stead_api::meta;
use stead_api::quantity::Quantity;

use crate::lookup::Resource;
use crate::server::Call;

const CLASSES: Resource<'static> = ("storage.k8s.io", "storageclasses");
/// Keeps a claim while a pod uses it.
const CLAIM_PROTECTION: &str = "kubernetes.io/pvc-protection";
/// Keeps a volume while a claim is bound to it.
pub(super) const VOLUME_PROTECTION: &str = "kubernetes.io/pv-protection";
/// Marks the class that claims without one get.
const DEFAULT_CLASS: &str = "storageclass.kubernetes.io/is-default-class";
/// The old way to name a class.
const CLASS_ANNOTATION: &str = "volume.beta.kubernetes.io/storage-class";

pub(super) fn admit_claim(call: &Call<'_>, claim: &mut Value) -> Result<(), ApiError> {
    if class_of(claim).is_none()
        && claim["spec"].is_object()
        && let Some(class) = default_class(call)
    {
        claim["spec"]["storageClassName"] = class.into();
    }
    protect(claim, CLAIM_PROTECTION)
}

/// The class that a claim names.
fn class_of(claim: &Value) -> Option<&str> {
    let annotation = claim["metadata"]["annotations"][CLASS_ANNOTATION].as_str();
    annotation.or(claim["spec"]["storageClassName"].as_str())
}

/// Adds a finalizer.
pub(super) fn protect(object: &mut Value, finalizer: &str) -> Result<(), ApiError> {
    if !meta::finalizers(object).contains(&finalizer) {
        match object["metadata"]["finalizers"].as_array_mut() {
            Some(finalizers) => finalizers.push(finalizer.into()),
            None => meta::set(object, "finalizers", json!([finalizer])),
        }
    }
    Ok(())
}

/// A claim can grow only if its class says so.
pub(super) fn check_growth(call: &Call<'_>, claim: &Value, old: &Value) -> Result<(), ApiError> {
    let size = |claim: &Value| {
        let text = claim["spec"]["resources"]["requests"]["storage"].as_str();
        text.and_then(|text| text.parse::<Quantity>().ok())
            .unwrap_or(Quantity::ZERO)
    };
    let grows = claim["spec"]["resources"] != old["spec"]["resources"] && size(claim) > size(old);
    if !grows {
        return Ok(());
    }
    let refused = |why| ApiError::forbidden("", "persistentvolumeclaims", meta::name(claim), why);
    if old["status"]["phase"] != "Bound" {
        return Err(refused("Only bound persistent volume claims can be expanded"));
    }
    let allows = [old, claim]
        .into_iter()
        .all(|claim| class_of(claim).is_some_and(|class| allows_expansion(call, class)));
    if allows {
        return Ok(());
    }
    Err(refused(
        "only dynamically provisioned pvc can be resized and the storageclass that provisions the pvc must support \
         resize",
    ))
}

fn allows_expansion(call: &Call<'_>, class: &str) -> bool {
    call.server
        .find(CLASSES, "", class)
        .is_some_and(|(_, class)| class.value()["allowVolumeExpansion"] == true)
}

/// The newest of the classes that are marked as default.
fn default_class(call: &Call<'_>) -> Option<String> {
    call.server
        .all(CLASSES, "")
        .iter()
        .map(|class| class.value())
        .filter(|class| class["metadata"]["annotations"][DEFAULT_CLASS] == "true")
        .max_by_key(|class| meta::text(class, "creationTimestamp").to_owned())
        .map(|class| meta::name(&class).to_owned())
}
