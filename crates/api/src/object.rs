//! What a kind's own logic may say: defaults, checks, what a write may change, a table row.
//!
//! Logic is written against the typed structs of `k8s-openapi` by implementing [`ApiObject`]; the
//! registry holds it as [`Logic`], functions over JSON values, so that one mechanism serves every
//! kind. The steps of a write are in the order of upstream's registries: decode and default;
//! admission (the API server's business); prepare; validate.

use jiff::Timestamp;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::error::Errors;

/// The logic of a kind, on its typed form. Every method has a default that does nothing.
pub trait ApiObject: Serialize + DeserializeOwned {
    /// Fills in what was not given ("Default values" in the API conventions).
    fn set_defaults(&mut self) {}

    /// Takes away or sets what a client has no say in when it creates the object. Metadata, the
    /// generation and an empty status are seen to for every kind.
    fn prepare_for_create(&mut self) {}

    /// Likewise for an update, where `old` is what is stored. The status has been put back.
    fn prepare_for_update(&mut self, _old: &Self) {}

    /// Likewise for an update of the status, where all but the status has been put back.
    fn prepare_for_status_update(&mut self, _old: &Self) {}

    /// Checks the object; all but its metadata.
    fn validate(&self, _errors: &mut Errors) {}

    /// Checks the object and what the update changes; all but its metadata.
    fn validate_update(&self, _old: &Self, errors: &mut Errors) {
        self.validate(errors);
    }

    /// Checks what an update of the status changes.
    fn validate_status_update(&self, _old: &Self, _errors: &mut Errors) {}

    /// What to warn the client of, on create and update.
    fn warnings(&self, _old: Option<&Self>) -> Vec<String> {
        Vec::new()
    }

    /// The cells of the object's table row, one for each column of the kind.
    fn row(&self, _now: Timestamp) -> Vec<Value> {
        Vec::new()
    }
}

/// Why a value is not of the kind whose logic was called. Decoding by schema comes first, so this
/// is a mistake of ours or of a webhook.
#[derive(Debug, thiserror::Error)]
#[error("read the object as its kind")]
pub struct NotOfKind(#[from] serde_json::Error);

/// The logic of a kind as functions over JSON; see [`ApiObject`] for each.
#[derive(Debug, Clone, Copy)]
#[expect(missing_docs, reason = "each is the method of ApiObject of the same name")]
pub struct Logic {
    pub set_defaults: fn(&mut Value) -> Result<(), NotOfKind>,
    pub prepare_for_create: fn(&mut Value) -> Result<(), NotOfKind>,
    pub prepare_for_update: fn(&mut Value, &Value) -> Result<(), NotOfKind>,
    pub prepare_for_status_update: fn(&mut Value, &Value) -> Result<(), NotOfKind>,
    pub validate: fn(&Value, &mut Errors) -> Result<(), NotOfKind>,
    pub validate_update: fn(&Value, &Value, &mut Errors) -> Result<(), NotOfKind>,
    pub validate_status_update: fn(&Value, &Value, &mut Errors) -> Result<(), NotOfKind>,
    pub warnings: fn(&Value, Option<&Value>) -> Result<Vec<String>, NotOfKind>,
    pub row: fn(&Value, Timestamp) -> Result<Vec<Value>, NotOfKind>,
}

impl Logic {
    /// The logic of a type.
    pub const fn of<T: ApiObject>() -> Logic {
        Logic {
            set_defaults: |value| edit(value, T::set_defaults),
            prepare_for_create: |value| edit(value, T::prepare_for_create),
            prepare_for_update: |value, old| {
                let old = read::<T>(old)?;
                edit(value, |new: &mut T| new.prepare_for_update(&old))
            },
            prepare_for_status_update: |value, old| {
                let old = read::<T>(old)?;
                edit(value, |new: &mut T| new.prepare_for_status_update(&old))
            },
            validate: |value, errors| {
                read::<T>(value)?.validate(errors);
                Ok(())
            },
            validate_update: |value, old, errors| {
                read::<T>(value)?.validate_update(&read(old)?, errors);
                Ok(())
            },
            validate_status_update: |value, old, errors| {
                read::<T>(value)?.validate_status_update(&read(old)?, errors);
                Ok(())
            },
            warnings: |value, old| Ok(read::<T>(value)?.warnings(old.map(read).transpose()?.as_ref())),
            row: |value, now| Ok(read::<T>(value)?.row(now)),
        }
    }
}

/// What Go has for a time that was not given. It writes none; the typed form of conditions must have one.
const NO_TIME: &str = "0001-01-01T00:00:00Z";
const LAST_TRANSITION: &str = "lastTransitionTime";

/// A value as its type.
pub(crate) fn read<T: DeserializeOwned>(value: &Value) -> Result<T, NotOfKind> {
    let given = |condition: &Value| !condition[LAST_TRANSITION].is_null() || !condition.is_object();
    let conditions = value.pointer("/status/conditions").and_then(Value::as_array);
    if conditions.is_none_or(|conditions| conditions.iter().all(given)) {
        return Ok(T::deserialize(value)?);
    }
    let mut value = value.clone();
    for condition in conditions_of(&mut value).filter(|condition| !given(condition)) {
        condition[LAST_TRANSITION] = NO_TIME.into();
    }
    Ok(T::deserialize(value)?)
}

/// Edits a value as its type.
pub(crate) fn edit<T: ApiObject>(value: &mut Value, edit: impl FnOnce(&mut T)) -> Result<(), NotOfKind> {
    let mut object: T = read(value)?;
    edit(&mut object);
    *value = serde_json::to_value(&object)?;
    for condition in conditions_of(value).filter_map(Value::as_object_mut) {
        if condition.get(LAST_TRANSITION).is_some_and(|at| at == NO_TIME) {
            condition.remove(LAST_TRANSITION);
        }
    }
    Ok(())
}

fn conditions_of(value: &mut Value) -> impl Iterator<Item = &mut Value> {
    let conditions = value
        .pointer_mut("/status/conditions")
        .and_then(Value::as_array_mut);
    conditions.into_iter().flatten()
}
