//! How a command ended, in the words of the error stream.

use serde::Serialize;

/// How a command, or being attached to one, ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Exit {
    /// With exit code 0; or, attached, at all.
    Success,
    /// With another exit code. A process that a signal has killed has, as in a shell, 128 and the signal.
    Code(u8),
    /// It was not run, or what became of it is not known. The text is what Kubernetes calls an internal error,
    /// for example "error executing command in container: …"; "Internal error occurred: " is put before it.
    Failed(String),
}

impl Exit {
    /// From what `wait` gives; a code is one of 0 to 255.
    pub fn from_code(code: i32) -> Self {
        match u8::try_from(code) {
            Ok(0) => Self::Success,
            Ok(code) => Self::Code(code),
            Err(_) => Self::Failed(format!("the command ended with the impossible exit code {code}")),
        }
    }
}

/// What is sent on the error stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum StatusForm {
    /// A sentence, and nothing for success: before `v4.channel.k8s.io`.
    Text,
    /// A `metav1.Status`.
    Json,
}

#[derive(Serialize)]
struct Status {
    metadata: Empty,
    status: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    message: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    details: Option<Details>,
    #[serde(skip_serializing_if = "Option::is_none")]
    code: Option<u16>,
}

#[derive(Serialize)]
struct Empty {}

#[derive(Serialize)]
struct Details {
    causes: Vec<Cause>,
}

#[derive(Serialize)]
struct Cause {
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<&'static str>,
    message: String,
}

/// The bytes for the error stream; there may be none.
pub(crate) fn status(exit: &Exit, form: StatusForm) -> Vec<u8> {
    match form {
        StatusForm::Text => message(exit).unwrap_or_default().into_bytes(),
        StatusForm::Json => serde_json::to_vec(&object(exit)).expect("it has only strings and numbers in it"),
    }
}

fn message(exit: &Exit) -> Option<String> {
    match exit {
        Exit::Success => None,
        Exit::Code(code) => Some(format!(
            "command terminated with non-zero exit code: command terminated with exit code {code}"
        )),
        Exit::Failed(error) => Some(format!("Internal error occurred: {error}")),
    }
}

fn object(exit: &Exit) -> Status {
    let (status, reason, cause, code) = match exit {
        Exit::Success => ("Success", None, None, None),
        Exit::Code(code) => {
            let cause = Cause {
                reason: Some("ExitCode"),
                message: code.to_string(),
            };
            ("Failure", Some("NonZeroExitCode"), Some(cause), None)
        }
        Exit::Failed(error) => {
            let cause = Cause {
                reason: None,
                message: error.clone(),
            };
            ("Failure", Some("InternalError"), Some(cause), Some(500))
        }
    };
    let details = cause.map(|cause| Details { causes: vec![cause] });
    Status {
        metadata: Empty {},
        status,
        message: message(exit),
        reason,
        details,
        code,
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn the_status_is_the_kubelets() {
        let cases = [
            (Exit::from_code(0), r#"{"metadata":{},"status":"Success"}"#, ""),
            (
                Exit::from_code(3),
                r#"{"metadata":{},"status":"Failure","message":"command terminated with non-zero exit code: command terminated with exit code 3","reason":"NonZeroExitCode","details":{"causes":[{"reason":"ExitCode","message":"3"}]}}"#,
                "command terminated with non-zero exit code: command terminated with exit code 3",
            ),
            (
                Exit::Failed("error executing command in container: it is gone".to_owned()),
                r#"{"metadata":{},"status":"Failure","message":"Internal error occurred: error executing command in container: it is gone","reason":"InternalError","details":{"causes":[{"message":"error executing command in container: it is gone"}]},"code":500}"#,
                "Internal error occurred: error executing command in container: it is gone",
            ),
        ];
        for (exit, json, text) in cases {
            assert_eq!(String::from_utf8(status(&exit, StatusForm::Json)).unwrap(), json);
            assert_eq!(String::from_utf8(status(&exit, StatusForm::Text)).unwrap(), text);
        }
    }

    #[test]
    fn an_impossible_exit_code_is_a_failure() {
        assert!(matches!(Exit::from_code(256), Exit::Failed(_)));
        assert!(matches!(Exit::from_code(-1), Exit::Failed(_)));
    }
}
