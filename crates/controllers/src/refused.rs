//! A call of the API that failed, and which failures are none.

/// The API did not do what was asked.
#[derive(Debug, thiserror::Error)]
#[error("{what}: {source}")]
pub(crate) struct Refused {
    what: String,
    source: Box<kube::Error>,
}

impl Refused {
    /// Says what was attempted, for `map_err`.
    pub(crate) fn to(what: impl Into<String>) -> impl FnOnce(kube::Error) -> Refused {
        |source| Refused {
            what: what.into(),
            source: Box::new(source),
        }
    }

    /// The refusal itself, as events show it.
    pub(crate) fn cause(&self) -> String {
        match &*self.source {
            kube::Error::Api(status) => status.message.clone(),
            other => other.to_string(),
        }
    }
}

fn is_code(error: &kube::Error, code: u16) -> bool {
    matches!(error, kube::Error::Api(status) if status.code == code)
}

/// There is no such object.
pub(crate) fn is_not_found(error: &kube::Error) -> bool {
    is_code(error, 404)
}

/// The object is there already.
pub(crate) fn is_already_exists(error: &kube::Error) -> bool {
    matches!(error, kube::Error::Api(status) if status.reason == "AlreadyExists")
}

/// The object has changed meanwhile, or is another one.
pub(crate) fn is_conflict(error: &kube::Error) -> bool {
    matches!(error, kube::Error::Api(status) if status.reason == "Conflict")
}

/// Nothing can be created because the namespace is on its way out.
pub(crate) fn is_namespace_terminating(error: &kube::Error) -> bool {
    let kube::Error::Api(status) = error else {
        return false;
    };
    let causes = status
        .details
        .as_ref()
        .map(|details| details.causes.as_slice())
        .unwrap_or_default();
    causes.iter().any(|cause| cause.reason == "NamespaceTerminating")
}
