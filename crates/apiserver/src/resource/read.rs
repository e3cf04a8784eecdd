//! Getting one object, and showing one in an answer.

use axum::response::Response;
use jiff::Timestamp;
use serde_json::{Value, json};
use stead_api::error::ApiError;
use stead_api::registry::Kind;
use stead_api::table::{partial_metadata, table};

use crate::respond::{self, Form};
use crate::server::{Call, Inner};
use crate::stored::Stored;

/// The object that a path names.
pub(crate) fn current(call: &Call<'_>) -> Result<Stored, ApiError> {
    let entry = call
        .server
        .store
        .get(&call.key())
        .ok_or_else(|| call.not_found())?;
    Ok(entry.value)
}

/// GET of an object.
pub(crate) fn get(call: &Call<'_>) -> Result<Response, ApiError> {
    let object = current(call)?;
    if call.accepted.form == Form::Whole && call.kind.stored_as.is_none() {
        return Ok(respond::encoded(200, call.accepted.encoding, object.json()));
    }
    show(call, 200, &view(call.kind, &object))
}

/// A stored object as a kind shows it.
pub(crate) fn view(kind: &Kind, object: &Stored) -> Value {
    match kind.stored_as {
        None => object.value(),
        Some(stored) => (stored.from_stored)(object.value()),
    }
}

/// An answer with one object, in the form the client asked for.
pub(crate) fn show(call: &Call<'_>, status: u16, object: &Value) -> Result<Response, ApiError> {
    let shown = present(call.kind, call.accepted.form, object)?;
    Ok(respond::value(status, call.accepted.encoding, &shown))
}

/// One object in a form.
pub(crate) fn present(kind: &Kind, form: Form, object: &Value) -> Result<Value, ApiError> {
    match form {
        Form::Whole => Ok(object.clone()),
        Form::PartialMetadata => Ok(partial_metadata(object)),
        Form::PartialMetadataList => Err(ApiError::new(
            406,
            "NotAcceptable",
            format!(
                "you requested PartialObjectMetadataList, but the requested object is not a list (*{}.{})",
                go_package(kind),
                kind.kind
            ),
        )),
        Form::Table(include) => {
            let metadata = json!({"resourceVersion": object["metadata"]["resourceVersion"]});
            table(kind, [object], metadata, include, Timestamp::now()).map_err(ApiError::internal)
        }
    }
}

/// The Go package of a kind's internal type, which some messages name.
pub(super) fn go_package(kind: &Kind) -> &'static str {
    if kind.group.is_empty() {
        "core"
    } else {
        kind.group.split('.').next().unwrap_or_default()
    }
}

impl Inner {
    /// Waits until a revision has come, for a client that has seen it elsewhere.
    pub(super) async fn wait_for(&self, revision: stead_store::Revision) -> Result<(), ApiError> {
        const PATIENCE: std::time::Duration = std::time::Duration::from_secs(3);
        if revision <= self.store.revision() {
            return Ok(());
        }
        match tokio::time::timeout(PATIENCE, self.store.wait_for(revision)).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(_)) => Err(closed()),
            Err(_) => Err(ApiError {
                details: Some(json!({
                    "causes": [{"reason": "ResourceVersionTooLarge", "message": "Too large resource version"}],
                    "retryAfterSeconds": 1,
                })),
                ..ApiError::new(
                    504,
                    "Timeout",
                    format!(
                        "Timeout: Too large resource version: {}, current: {}",
                        revision.get(),
                        self.store.revision().get()
                    ),
                )
            }),
        }
    }
}

/// 503 while the server goes down.
pub(crate) fn closed() -> ApiError {
    ApiError::new(503, "ServiceUnavailable", "the server is shutting down")
}
