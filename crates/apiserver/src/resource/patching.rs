//! Applying a patch to an object, before the steps of any update.

use serde_json::Value;
use stead_api::error::{ApiError, Errors};
use stead_api::patch::PatchError;
use stead_api::registry::Kind;
use stead_api::{meta, patch as patches, schema};

use super::read::go_package;
use crate::body::{self, Expected, Received};
use crate::options::FieldValidation;

/// The types of patches.
pub(super) enum PatchType {
    Json,
    Merge,
    Strategic,
    Apply,
}

/// The type that a request's headers name.
pub(super) fn patch_type(headers: &http::HeaderMap) -> Result<PatchType, ApiError> {
    let unsupported = |message: &str| ApiError {
        details: Some(serde_json::json!({})),
        ..ApiError::new(415, "UnsupportedMediaType", message)
    };
    match body::media_type(headers).as_str() {
        "application/json-patch+json" => Ok(PatchType::Json),
        "application/merge-patch+json" => Ok(PatchType::Merge),
        "application/strategic-merge-patch+json" => Ok(PatchType::Strategic),
        "application/apply-patch+yaml" => Ok(PatchType::Apply),
        _ => Err(unsupported("415: Unsupported Media Type")),
    }
}

/// Applies a patch of the type that the request's headers name.
pub(crate) fn patch_with(
    headers: &http::HeaderMap,
    before: &Value,
    ty: schema::TypeId,
    patch: &[u8],
) -> Result<Value, ApiError> {
    let patched = match patch_type(headers)? {
        PatchType::Json => patches::json_patch(before, patch),
        PatchType::Merge => patches::merge_patch(before, patch),
        PatchType::Strategic => patches::parse_object(patch)
            .and_then(|patch| patches::strategic_merge(schema::builtin(), ty, before, patch)),
        PatchType::Apply => {
            return Err(ApiError::new(
                415,
                "UnsupportedMediaType",
                "server-side apply is served for objects and their status: apply the field in the object itself",
            ));
        }
    };
    patched.map_err(|error| match error {
        PatchError::Malformed(why) => ApiError::bad_request(format!("error decoding patch: {why}")),
        PatchError::TooDeep => ApiError::bad_request(format!("error decoding patch: {error}")),
        PatchError::TooManyOperations(_) | PatchError::TooMuch { .. } => ApiError::new(
            413,
            "RequestEntityTooLarge",
            format!("Request entity too large: {error}"),
        ),
        PatchError::DoesNotFit(_) => ApiError {
            details: Some(serde_json::json!({})),
            ..ApiError::new(
                422,
                "Invalid",
                "the server rejected our request due to an error in our request",
            )
        },
    })
}

/// A patch cannot make an object into one of another kind.
pub(super) fn check_patched_kind(patched: &Value, kind: &Kind) -> Result<(), ApiError> {
    let text = |field: &str| patched[field].as_str().unwrap_or_default();
    let (found, version) = (text("kind"), text("apiVersion"));
    if found == kind.kind && version == kind.api_version() {
        return Ok(());
    }
    let mut errors = Errors::new();
    let why = format!(
        "converting ({version}.{found}) to ({}.{}): unknown conversion",
        go_package(kind),
        kind.kind
    );
    errors.invalid(
        &stead_api::error::Path::new("patch"),
        patched.to_string().as_str(),
        &why,
    );
    // It names neither object nor kind.
    Err(ApiError::invalid("", "", "", &errors))
}

/// What the patch did not bring is not held against it.
pub(super) fn decode_patched(
    before: &Value,
    patched: Value,
    expected: &Expected,
    validation: FieldValidation,
) -> Result<Received, ApiError> {
    body::decode_patched(patched, expected, validation).map_err(|error| {
        if error.message.contains("strict decoding error") {
            return error;
        }
        let mut errors = Errors::new();
        let name = meta::name(before).to_owned();
        errors.invalid(
            &stead_api::error::Path::new("patch"),
            name.as_str(),
            &error.message,
        );
        ApiError::invalid("", "", "", &errors)
    })
}
