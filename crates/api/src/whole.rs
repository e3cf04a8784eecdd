//! The checks of a write as a whole: metadata and the kind's own, in upstream's order and number.
//!
//! Kubernetes checks an update's metadata more than once, first for every resource and then within
//! the check of the kind, and tells its clients of an error as often. The registry says how often.

use serde_json::Value;

use crate::error::Errors;
use crate::meta;
use crate::names;
use crate::object::NotOfKind;
use crate::registry::{Kind, MetadataCheck};

impl Kind {
    /// What is wrong with an object to be created.
    pub fn validate_create(&self, object: &Value) -> Result<Errors, NotOfKind> {
        let mut errors = Errors::new();
        if !self.metadata_last {
            meta::validate(object, self.namespaced, self.name_rule, &mut errors);
        }
        (self.logic.validate)(object, &mut errors)?;
        if self.metadata_last && errors.is_empty() {
            meta::validate(object, self.namespaced, names::path_segment, &mut errors);
        }
        Ok(errors)
    }

    /// What is wrong with an update of an object, but for its status.
    pub fn validate_update(&self, new: &Value, old: &Value) -> Result<Errors, NotOfKind> {
        let mut errors = Errors::new();
        meta::validate_change(new, old, &mut errors);
        for check in self.update_metadata {
            match check {
                MetadataCheck::Update => meta::validate_update(new, old, &mut errors),
                MetadataCheck::Create => {
                    meta::validate(new, self.namespaced, self.name_rule, &mut errors);
                }
            }
        }
        (self.logic.validate_update)(new, old, &mut errors)?;
        Ok(errors)
    }

    /// What is wrong with an update of an object's status.
    pub fn validate_status_update(&self, new: &Value, old: &Value) -> Result<Errors, NotOfKind> {
        self.validate_part(new, old, self.logic.validate_status_update)
    }

    /// What is wrong with an update of an object's approval.
    pub fn validate_approval_update(&self, new: &Value, old: &Value) -> Result<Errors, NotOfKind> {
        self.validate_part(new, old, self.logic.validate_approval_update)
    }

    fn validate_part(
        &self,
        new: &Value,
        old: &Value,
        check: fn(&Value, &Value, &mut Errors) -> Result<(), NotOfKind>,
    ) -> Result<Errors, NotOfKind> {
        let mut errors = Errors::new();
        meta::validate_change(new, old, &mut errors);
        meta::validate_update(new, old, &mut errors);
        check(new, old, &mut errors)?;
        Ok(errors)
    }
}
