//! What is wrong with an object's fields (`field.Error`, `field.ErrorList`).

use std::fmt;

use serde_json::Value;

use super::{Path, quote};

/// What is wrong with a field.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Problem {
    /// The value does not fit.
    Invalid,
    /// A value must be given.
    Required,
    /// The value must be one of a few.
    NotSupported,
    /// The value may not be given, or not be changed.
    Forbidden,
    /// Something of the same value stands before it.
    Duplicate,
    /// It names something that is not there.
    NotFound,
    /// A text or list beyond its limit.
    TooLong,
    /// A list with more items than allowed.
    TooMany,
    /// The type is wrong.
    TypeInvalid,
    /// The check itself failed.
    Internal,
}

impl Problem {
    fn text(self) -> &'static str {
        match self {
            Problem::Invalid | Problem::TypeInvalid => "Invalid value",
            Problem::Required => "Required value",
            Problem::NotSupported => "Unsupported value",
            Problem::Forbidden => "Forbidden",
            Problem::Duplicate => "Duplicate value",
            Problem::NotFound => "Not found",
            Problem::TooLong => "Too long",
            Problem::TooMany => "Too many",
            Problem::Internal => "Internal error",
        }
    }

    pub(super) fn reason(self) -> &'static str {
        match self {
            Problem::Invalid => "FieldValueInvalid",
            Problem::TypeInvalid => "FieldValueTypeInvalid",
            Problem::Required => "FieldValueRequired",
            Problem::NotSupported => "FieldValueNotSupported",
            Problem::Forbidden => "FieldValueForbidden",
            Problem::Duplicate => "FieldValueDuplicate",
            Problem::NotFound => "FieldValueNotFound",
            Problem::TooLong => "FieldValueTooLong",
            Problem::TooMany => "FieldValueTooMany",
            Problem::Internal => "InternalError",
        }
    }
}

/// One field's error.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FieldError {
    /// The field's path, e.g. `spec.containers[0].name`.
    pub field: String,
    /// What is wrong.
    pub problem: Problem,
    /// The rest of the message, the value first where one is shown.
    detail: String,
}

impl FieldError {
    /// The message without the path, e.g. `Invalid value: "a b": must …`.
    pub fn body(&self) -> String {
        if self.detail.is_empty() {
            self.problem.text().to_owned()
        } else {
            format!("{}: {}", self.problem.text(), self.detail)
        }
    }
}

impl fmt::Display for FieldError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.field, self.body())
    }
}

/// Anything that can be shown as the offending value.
pub trait Shown {
    /// As Kubernetes writes it: texts quoted, numbers plain, the rest as JSON.
    fn shown(&self) -> String;
}

impl Shown for str {
    fn shown(&self) -> String {
        quote(self)
    }
}

impl Shown for String {
    fn shown(&self) -> String {
        quote(self)
    }
}

impl Shown for Value {
    fn shown(&self) -> String {
        match self {
            Value::String(text) => quote(text),
            other => other.to_string(),
        }
    }
}

macro_rules! shown_plainly {
    ($($ty:ty),*) => {
        $(impl Shown for $ty {
            fn shown(&self) -> String {
                self.to_string()
            }
        })*
    };
}
shown_plainly!(i32, i64, u64, usize, bool, f64);

/// A Go expression shown as it is, where Kubernetes shows one.
#[derive(Debug, Clone)]
pub struct GoSyntax(pub String);

impl Shown for GoSyntax {
    fn shown(&self) -> String {
        self.0.clone()
    }
}

/// The errors found in an object; validation goes on to the end and collects them all.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Errors(Vec<FieldError>);

impl Errors {
    /// None yet.
    pub fn new() -> Errors {
        Errors::default()
    }

    fn push(&mut self, path: &Path, problem: Problem, detail: String) {
        self.0.push(FieldError {
            field: path.to_string(),
            problem,
            detail,
        });
    }

    /// `Invalid value: "value": detail`.
    pub fn invalid(&mut self, path: &Path, value: &(impl Shown + ?Sized), detail: &str) {
        let separator = if detail.is_empty() { "" } else { ": " };
        self.push(
            path,
            Problem::Invalid,
            format!("{}{separator}{detail}", value.shown()),
        );
    }

    /// `Required value: detail`; the detail may be empty.
    pub fn required(&mut self, path: &Path, detail: &str) {
        self.push(path, Problem::Required, detail.to_owned());
    }

    /// `Unsupported value: "value": supported values: "a", "b"`.
    pub fn not_supported(&mut self, path: &Path, value: &(impl Shown + ?Sized), supported: &[&str]) {
        let mut detail = value.shown();
        if !supported.is_empty() {
            let list: Vec<_> = supported.iter().map(|text| quote(text)).collect();
            detail.push_str(&format!(": supported values: {}", list.join(", ")));
        }
        self.push(path, Problem::NotSupported, detail);
    }

    /// `Forbidden: detail`.
    pub fn forbidden(&mut self, path: &Path, detail: &str) {
        self.push(path, Problem::Forbidden, detail.to_owned());
    }

    /// `Duplicate value: "value"`.
    pub fn duplicate(&mut self, path: &Path, value: &(impl Shown + ?Sized)) {
        self.push(path, Problem::Duplicate, value.shown());
    }

    /// `Duplicate value: "value": detail`.
    pub fn duplicate_because(&mut self, path: &Path, value: &(impl Shown + ?Sized), detail: &str) {
        self.push(path, Problem::Duplicate, format!("{}: {detail}", value.shown()));
    }

    /// `Not found: "value": detail`.
    pub fn not_found_because(&mut self, path: &Path, value: &(impl Shown + ?Sized), detail: &str) {
        self.push(path, Problem::NotFound, format!("{}: {detail}", value.shown()));
    }

    /// `Not found: "value"`.
    pub fn not_found(&mut self, path: &Path, value: &(impl Shown + ?Sized)) {
        self.push(path, Problem::NotFound, value.shown());
    }

    /// `Too long: must have at most N bytes`.
    pub fn too_long(&mut self, path: &Path, limit_bytes: usize) {
        self.push(
            path,
            Problem::TooLong,
            format!("must have at most {limit_bytes} bytes"),
        );
    }

    /// `Too many: N: must have at most M items`.
    pub fn too_many(&mut self, path: &Path, found: usize, limit: usize) {
        self.push(
            path,
            Problem::TooMany,
            format!("{found}: must have at most {limit} items"),
        );
    }

    /// `Internal error: detail`.
    pub fn internal(&mut self, path: &Path, detail: &str) {
        self.push(path, Problem::Internal, detail.to_owned());
    }

    /// Each message as an invalid value of the path.
    pub fn invalid_each(&mut self, path: &Path, value: &(impl Shown + ?Sized), details: Vec<String>) {
        for detail in details {
            self.invalid(path, value, &detail);
        }
    }

    /// A number that may not be below zero.
    pub fn nonnegative(&mut self, path: &Path, value: i64) {
        if value < 0 {
            self.invalid(path, &value, "must be greater than or equal to 0");
        }
    }

    /// A text that must be one of a few; the supported ones are listed in the order given.
    pub fn one_of(&mut self, path: &Path, value: &str, supported: &[&str]) {
        if !supported.contains(&value) {
            self.not_supported(path, value, supported);
        }
    }

    /// A text that must be given.
    pub fn present(&mut self, path: &Path, value: &str) {
        if value.is_empty() {
            self.required(path, "");
        }
    }

    /// Takes over the errors of another check.
    pub fn extend(&mut self, other: Errors) {
        self.0.extend(other.0);
    }

    /// Nothing wrong?
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// How many.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// One after another, in the order found.
    pub fn iter(&self) -> impl Iterator<Item = &FieldError> {
        self.0.iter()
    }

    /// All in one text, as Kubernetes aggregates them: one as it is, several in brackets, without
    /// repeats.
    pub fn summary(&self) -> String {
        let mut texts: Vec<String> = Vec::new();
        for error in &self.0 {
            let text = error.to_string();
            if !texts.contains(&text) {
                texts.push(text);
            }
        }
        if texts.len() == 1 {
            texts.remove(0)
        } else {
            format!("[{}]", texts.join(", "))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::ApiError;
    use super::*;

    #[test]
    fn several_field_errors_stand_in_brackets_without_repeats() {
        let mut errors = Errors::new();
        let path = Path::new("spec").child("ports").index(0).child("name");
        errors.required(&path, "");
        assert_eq!(errors.summary(), "spec.ports[0].name: Required value");
        errors.required(&path, "");
        errors.not_supported(&Path::new("type"), "x", &["a", "b"]);
        assert_eq!(
            errors.summary(),
            "[spec.ports[0].name: Required value, type: Unsupported value: \"x\": supported values: \"a\", \"b\"]"
        );
        let status = ApiError::invalid("apps", "StatefulSet", "web", &errors).to_status();
        assert_eq!(status["details"]["causes"].as_array().map(Vec::len), Some(3));
        assert_eq!(status["details"]["group"], "apps");
    }
}
