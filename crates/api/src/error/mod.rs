//! Errors as the API gives them: field errors, and the `Status` that carries them.
//!
//! Codes, reasons and texts follow `apimachinery`'s `errors` and `field` packages and the
//! "Response codes" part of the API conventions.

use std::borrow::Cow;
use std::fmt;

use serde_json::{Value, json};

pub use crate::path::Path;

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

    fn reason(self) -> &'static str {
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

/// A text quoted as Go's `%q` does.
pub fn quote(text: &str) -> String {
    let mut quoted = String::with_capacity(text.len() + 2);
    quoted.push('"');
    for c in text.chars() {
        match c {
            '"' => quoted.push_str("\\\""),
            '\\' => quoted.push_str("\\\\"),
            '\n' => quoted.push_str("\\n"),
            '\r' => quoted.push_str("\\r"),
            '\t' => quoted.push_str("\\t"),
            '\u{7}' => quoted.push_str("\\a"),
            '\u{8}' => quoted.push_str("\\b"),
            '\u{b}' => quoted.push_str("\\v"),
            '\u{c}' => quoted.push_str("\\f"),
            c if c.is_ascii_control() => quoted.push_str(&format!("\\x{:02x}", c as u32)),
            c if is_invisible(c) => quoted.push_str(&format!("\\u{:04x}", c as u32)),
            c if c.is_control() => quoted.push_str(&format!("\\u{:04x}", c as u32)),
            c => quoted.push(c),
        }
    }
    quoted.push('"');
    quoted
}

/// Spaces, formatting and private characters, which Go's `%q` escapes.
fn is_invisible(c: char) -> bool {
    c.is_control()
        || (c.is_whitespace() && c != ' ')
        || matches!(c, '\u{ad}' | '\u{61c}' | '\u{180e}' | '\u{200b}'..='\u{200f}' | '\u{202a}'..='\u{202e}'
            | '\u{2060}'..='\u{206f}' | '\u{e000}'..='\u{f8ff}' | '\u{feff}' | '\u{fff9}'..='\u{fffb}')
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

/// An answer that is not what was asked for: a `Status` of failure.
#[derive(Debug, Clone, PartialEq)]
pub struct ApiError {
    /// HTTP status code.
    pub code: u16,
    /// Machine-readable reason, e.g. `NotFound`; empty where there is none.
    pub reason: Cow<'static, str>,
    /// For people.
    pub message: String,
    /// `details` of the status.
    pub details: Option<Value>,
}

impl ApiError {
    /// An error without details.
    pub fn new(code: u16, reason: impl Into<Cow<'static, str>>, message: impl Into<String>) -> ApiError {
        ApiError {
            code,
            reason: reason.into(),
            message: message.into(),
            details: None,
        }
    }

    /// 400 BadRequest.
    pub fn bad_request(message: impl Into<String>) -> ApiError {
        ApiError::new(400, "BadRequest", message)
    }

    /// 404 for an object that is not there. `resource` is the plural with its group, see
    /// [`qualified`].
    pub fn not_found(group: &str, resource: &str, name: &str) -> ApiError {
        ApiError {
            details: Some(object_details(name, group, resource)),
            ..ApiError::new(
                404,
                "NotFound",
                format!("{} {} not found", qualified(group, resource), quote(name)),
            )
        }
    }

    /// 409 for an object that is there already.
    pub fn already_exists(group: &str, resource: &str, name: &str) -> ApiError {
        let message = format!("{} {} already exists", qualified(group, resource), quote(name));
        ApiError {
            details: Some(object_details(name, group, resource)),
            ..ApiError::new(409, "AlreadyExists", message)
        }
    }

    /// 409 for a write that does not fit what is stored.
    pub fn conflict(group: &str, resource: &str, name: &str, why: &str) -> ApiError {
        let message = format!(
            "Operation cannot be fulfilled on {} {}: {why}",
            qualified(group, resource),
            quote(name)
        );
        ApiError {
            details: Some(object_details(name, group, resource)),
            ..ApiError::new(409, "Conflict", message)
        }
    }

    /// 422 with every field's error.
    pub fn invalid(group: &str, kind: &str, name: &str, errors: &Errors) -> ApiError {
        let mut details = object_details(name, group, kind);
        if kind.is_empty()
            && let Some(details) = details.as_object_mut()
        {
            details.remove("kind");
        }
        details["causes"] = errors
            .iter()
            .map(|error| json!({"reason": error.problem.reason(), "message": error.body(), "field": error.field}))
            .collect();
        let message = format!(
            "{} {} is invalid: {}",
            qualified(group, kind),
            quote(name),
            errors.summary()
        );
        ApiError {
            details: Some(details),
            ..ApiError::new(422, "Invalid", message)
        }
    }

    /// 403 on an object.
    pub fn forbidden(group: &str, resource: &str, name: &str, why: &str) -> ApiError {
        let subject = if name.is_empty() {
            qualified(group, resource)
        } else {
            format!("{} {}", qualified(group, resource), quote(name))
        };
        ApiError {
            details: Some(object_details(name, group, resource)),
            ..ApiError::new(403, "Forbidden", format!("{subject} is forbidden: {why}"))
        }
    }

    /// 405.
    pub fn method_not_supported(group: &str, resource: &str, verb: &str) -> ApiError {
        let message = format!(
            "{verb} is not supported on resources of kind {}",
            quote(&qualified(group, resource))
        );
        ApiError {
            details: Some(object_details("", group, resource)),
            ..ApiError::new(405, "MethodNotAllowed", message)
        }
    }

    /// 410 for a resource version outside the history.
    pub fn expired(message: impl Into<String>) -> ApiError {
        ApiError::new(410, "Expired", message)
    }

    /// 500.
    pub fn internal(message: impl fmt::Display) -> ApiError {
        ApiError {
            details: Some(json!({"causes": [{"message": message.to_string()}]})),
            ..ApiError::new(
                500,
                "InternalError",
                format!("Internal error occurred: {message}"),
            )
        }
    }

    /// The `Status` object.
    pub fn to_status(&self) -> Value {
        let mut status = json!({
            "kind": "Status",
            "apiVersion": "v1",
            "metadata": {},
            "status": "Failure",
            "message": self.message,
            "code": self.code,
        });
        if !self.reason.is_empty() {
            status["reason"] = self.reason.as_ref().into();
        }
        if let Some(details) = &self.details {
            status["details"] = details.clone();
        }
        status
    }
}

impl fmt::Display for ApiError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for ApiError {}

/// A resource or kind with its group, e.g. `statefulsets.apps`.
pub fn qualified(group: &str, name: &str) -> String {
    if group.is_empty() {
        name.to_owned()
    } else {
        format!("{name}.{group}")
    }
}

fn object_details(name: &str, group: &str, kind: &str) -> Value {
    let mut details = json!({"kind": kind});
    if !name.is_empty() {
        details["name"] = name.into();
    }
    if !group.is_empty() {
        details["group"] = group.into();
    }
    details
}

#[cfg(test)]
mod tests {
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

    #[test]
    fn texts_are_quoted_as_go_does() {
        assert_eq!(quote("a\"b\\\n\u{1}é"), "\"a\\\"b\\\\\\n\\x01é\"");
    }
}
