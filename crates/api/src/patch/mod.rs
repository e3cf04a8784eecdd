//! Patches: JSON patch (RFC 6902), JSON merge patch (RFC 7386) and strategic merge patch.
//!
//! See "Update API Objects in Place Using kubectl patch" and the API concepts page. Each function
//! takes the object as it is and gives the patched one; nothing is changed on an error.

mod strategic;

use serde_json::Value;

pub use strategic::strategic_merge;

/// More operations than this in one JSON patch are refused.
const MAX_OPERATIONS: usize = 10_000;

/// Why a patch cannot be applied.
#[derive(Debug, thiserror::Error)]
pub enum PatchError {
    /// The patch is not of its format (400).
    #[error("{0}")]
    Malformed(String),
    /// Too many operations (413).
    #[error("The allowed maximum operations in a JSON patch is {MAX_OPERATIONS}, got {0}")]
    TooManyOperations(usize),
    /// It does not fit the object, as when a path or the tested value is not there (422).
    #[error("{0}")]
    DoesNotFit(String),
}

/// Applies a JSON patch.
pub fn json_patch(object: &Value, patch: &[u8]) -> Result<Value, PatchError> {
    let operations: Vec<Value> =
        serde_json::from_slice(patch).map_err(|error| PatchError::Malformed(go_json_error(patch, &error)))?;
    if operations.len() > MAX_OPERATIONS {
        return Err(PatchError::TooManyOperations(operations.len()));
    }
    let patch: json_patch::Patch = serde_json::from_value(Value::Array(operations))
        .map_err(|error| PatchError::Malformed(error.to_string()))?;
    let mut patched = object.clone();
    json_patch::patch(&mut patched, &patch).map_err(|error| PatchError::DoesNotFit(error.to_string()))?;
    Ok(patched)
}

/// Applies a JSON merge patch.
pub fn merge_patch(object: &Value, patch: &[u8]) -> Result<Value, PatchError> {
    let patch = parse_object(patch)?;
    let mut patched = object.clone();
    json_patch::merge(&mut patched, &patch);
    Ok(patched)
}

/// Parses a patch that must be an object.
pub fn parse_object(patch: &[u8]) -> Result<Value, PatchError> {
    match serde_json::from_slice(patch) {
        Ok(value @ Value::Object(_)) => Ok(value),
        Ok(other) => {
            let found = match other {
                Value::Array(_) => "array",
                Value::String(_) => "string",
                Value::Number(_) => "number",
                Value::Bool(_) => "bool",
                Value::Null | Value::Object(_) => "null",
            };
            Err(PatchError::Malformed(format!(
                "json: cannot unmarshal {found} into Go value of type map[string]interface {{}}"
            )))
        }
        Err(error) => Err(PatchError::Malformed(go_json_error(patch, &error))),
    }
}

fn go_json_error(text: &[u8], error: &serde_json::Error) -> String {
    crate::json::syntax_error(text).unwrap_or_else(|| error.to_string())
}
