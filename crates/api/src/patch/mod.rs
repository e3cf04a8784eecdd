//! Patches: JSON patch (RFC 6902), JSON merge patch (RFC 7386) and strategic merge patch.
//!
//! See "Update API Objects in Place Using kubectl patch" and the API concepts page. Each function
//! takes the object as it is and gives the patched one; nothing is changed on an error.

mod strategic;

use json_patch::PatchOperation;
use serde_json::Value;

pub use strategic::strategic_merge;

use crate::json;

/// More operations than this in one JSON patch are refused.
const MAX_OPERATIONS: usize = 10_000;
/// How much one JSON patch may copy, in bytes of JSON.
const MAX_COPIED: usize = 3 * 1024 * 1024;
/// How much it may move; that takes no memory, but time.
const MAX_MOVED: usize = 20 * MAX_COPIED;

/// Why a patch cannot be applied.
#[derive(Debug, thiserror::Error)]
pub enum PatchError {
    /// The patch is not of its format (400).
    #[error("{0}")]
    Malformed(String),
    /// Too many operations (413).
    #[error("The allowed maximum operations in a JSON patch is {MAX_OPERATIONS}, got {0}")]
    TooManyOperations(usize),
    /// Too much is copied or moved (413).
    #[error(
        "Unable to complete the {what}, the accumulated size increase of {what} is {size}, exceeding the limit {limit}"
    )]
    TooMuch {
        /// `copy` or `move`.
        what: &'static str,
        /// Bytes of JSON.
        size: usize,
        /// Bytes of JSON.
        limit: usize,
    },
    /// What comes of it nests too deep (400).
    #[error("exceeded max depth of {}", json::MAX_DEPTH)]
    TooDeep,
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
    let mut bounds = Bounds::default();
    for operation in &patch.0 {
        bounds.check(&patched, operation)?;
        json_patch::patch_unsafe(&mut patched, std::slice::from_ref(operation))
            .map_err(|error| PatchError::DoesNotFit(error.to_string()))?;
    }
    Ok(patched)
}

/// What the operations of a JSON patch have cost so far. A few copies of copies would make any object
/// as large or deep as one likes.
#[derive(Default)]
struct Bounds {
    copied: usize,
    moved: usize,
}

impl Bounds {
    fn check(&mut self, object: &Value, operation: &PatchOperation) -> Result<(), PatchError> {
        let (path, depth) = match operation {
            PatchOperation::Add(add) => (&add.path, json::depth(&add.value)),
            PatchOperation::Replace(replace) => (&replace.path, json::depth(&replace.value)),
            PatchOperation::Copy(copy) => {
                let source = object.pointer(copy.from.as_str()).unwrap_or(&Value::Null);
                spend("copy", &mut self.copied, source, MAX_COPIED)?;
                (&copy.path, json::depth(source))
            }
            PatchOperation::Move(to) => {
                let source = object.pointer(to.from.as_str()).unwrap_or(&Value::Null);
                spend("move", &mut self.moved, source, MAX_MOVED)?;
                (&to.path, json::depth(source))
            }
            PatchOperation::Remove(_) | PatchOperation::Test(_) => return Ok(()),
        };
        if path.count() + depth > json::MAX_DEPTH {
            return Err(PatchError::TooDeep);
        }
        Ok(())
    }
}

fn spend(what: &'static str, spent: &mut usize, source: &Value, limit: usize) -> Result<(), PatchError> {
    *spent += size(source);
    if *spent > limit {
        let size = *spent;
        return Err(PatchError::TooMuch { what, size, limit });
    }
    Ok(())
}

/// About as many bytes as a value's JSON has.
fn size(value: &Value) -> usize {
    match value {
        Value::Null | Value::Bool(_) | Value::Number(_) => 5,
        Value::String(text) => text.len() + 3,
        Value::Array(items) => items.iter().map(size).sum::<usize>() + 2,
        Value::Object(members) => {
            members
                .iter()
                .map(|(key, value)| key.len() + 4 + size(value))
                .sum::<usize>()
                + 2
        }
    }
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

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn patched(object: &Value, operations: &[Value]) -> Result<Value, PatchError> {
        json_patch(object, json!(operations).to_string().as_bytes())
    }

    #[test]
    fn copies_of_copies_are_bounded() {
        let object = json!({"a": "x".repeat(1000)});
        let double = json!({"op": "copy", "from": "", "path": "/b"});
        let one = patched(&object, std::slice::from_ref(&double)).expect("one copy is fine");
        assert_eq!(one["b"], object);
        let wide: Vec<Value> = (0..40)
            .map(|at| json!({"op": "copy", "from": "", "path": format!("/c{at}")}))
            .collect();
        assert!(matches!(
            patched(&object, &wide),
            Err(PatchError::TooMuch { what: "copy", .. })
        ));
        assert!(matches!(
            patched(&json!({}), &vec![double; 101]),
            Err(PatchError::TooDeep)
        ));
    }

    #[test]
    fn what_is_moved_into_one_another_does_not_get_too_deep() {
        let mut chain = json!({});
        for _ in 0..40 {
            chain = json!({"a": chain});
        }
        let object = json!({"x": chain, "y": chain, "z": chain});
        let end = "/a".repeat(40);
        let first = json!({"op": "move", "from": "/y", "path": format!("/x{end}/b")});
        assert!(patched(&object, std::slice::from_ref(&first)).is_ok());
        let second = json!({"op": "move", "from": "/z", "path": format!("/x{end}/b{end}/b")});
        assert!(matches!(
            patched(&object, &[first, second]),
            Err(PatchError::TooDeep)
        ));
    }
}
