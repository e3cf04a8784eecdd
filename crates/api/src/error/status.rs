//! Answers that are not what was asked for (`StatusError`).

use std::borrow::Cow;
use std::fmt;

use serde_json::{Value, json};

use super::{Errors, quote};

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
