//! Server-side apply, and who has set which fields ("Server-Side Apply").
//!
//! Of what the system itself makes it is noted from the first application on, as upstream does for
//! objects that come without such notes; of what clients make, from the start.

use axum::response::Response;
use bytes::Bytes;
use jiff::Timestamp;
use serde_json::Value;
use stead_api::apply::{self, Of, Part, Writer};
use stead_api::error::ApiError;
use stead_api::meta;
use stead_api::registry::{Kind, api_version};

use super::patching::decode_patched;
use super::prepare::fit_to_path;
use super::read::{current, view};
use super::write::{ATTEMPTS, Change, Failure, answer, check_version, create_object, modified, write_update};
use crate::authz::Asked;
use crate::body::{Expected, yaml_to_json};
use crate::identity::SERVER;
use crate::options::{FieldSource, WriteOptions};
use crate::server::Call;

/// PATCH of an object or of a part of it with what a client wants to be there.
pub(super) async fn apply_part(call: &Call<'_>, body: &Bytes, change: Change) -> Result<Response, ApiError> {
    let options = WriteOptions {
        fields: FieldSource::Applied,
        ..WriteOptions::parse(call.query, "PatchOptions")?
    };
    let force = call.query.is_true("force");
    WriteOptions::check_apply(call.query)?;
    let mut configuration = read(call, body)?;
    fit_to_path(call, &mut configuration)?;
    let (of, writer) = (of(call.kind, change), writer(call));
    let expected = Expected::of(call.kind);
    for _ in 0..ATTEMPTS {
        let old = match current(call) {
            Ok(old) => old,
            Err(_) if change == Change::Main => {
                call.server.check(call.identity, &creation(call))?;
                let mut new = configuration.clone();
                let uid = meta::uid(&new);
                if !uid.is_empty() {
                    let why = format!(
                        "uid mismatch: the provided object specified uid {uid}, and no existing object was found"
                    );
                    return Err(ApiError::conflict(
                        call.kind.group,
                        call.kind.plural,
                        &call.path.name,
                        &why,
                    ));
                }
                meta::remove(&mut new, "resourceVersion");
                let new = apply::applied(of, &Value::Null, &new, &writer, force)?;
                let received = decode_patched(&Value::Null, new, &expected, options.field_validation)?;
                let mut warnings = received.warnings;
                let written = create_object(call, received.object, &mut warnings, options).await;
                match written {
                    // Somebody else was faster.
                    Err(error) if error.reason == "AlreadyExists" && current(call).is_ok() => continue,
                    written => return answer(call, 201, written, &warnings),
                }
            }
            Err(error) => return Err(error),
        };
        let before = view(call.kind, &old);
        let merged = apply::applied(of, &before, &configuration, &writer, force)?;
        let received = decode_patched(&before, merged, &expected, options.field_validation)?;
        let (mut new, mut warnings) = (received.object, received.warnings);
        let conditional = !meta::text(&configuration, "resourceVersion").is_empty();
        check_version(call, &mut new, &before)?;
        match write_update(call, &old, &before, new, change, options, &mut warnings).await {
            Err(Failure::LostRace(_)) if !conditional => {}
            result => return answer(call, 200, result.map_err(ApiError::from), &warnings),
        }
    }
    Err(modified(call))
}

/// Reads a configuration, which is YAML, or JSON.
fn read(call: &Call<'_>, body: &Bytes) -> Result<Value, ApiError> {
    let malformed = |why: String| {
        ApiError::bad_request(format!(
            "error decoding YAML: error converting YAML to JSON: yaml: {why}"
        ))
    };
    let json = yaml_to_json(body).map_err(malformed)?;
    let configuration: Value = serde_json::from_str(&json).map_err(|error| malformed(error.to_string()))?;
    let text = |field: &str| configuration[field].as_str().unwrap_or_default();
    let (version, kind) = (text("apiVersion"), text("kind"));
    if version != call.kind.api_version() || kind != call.kind.kind {
        let version = if version.contains('/') {
            version.to_owned()
        } else {
            format!("/{version}")
        };
        return Err(ApiError::bad_request(format!(
            "invalid object type: {version}, Kind={kind}"
        )));
    }
    if !configuration["metadata"]["managedFields"].is_null() {
        return Err(ApiError::bad_request("metadata.managedFields must be nil"));
    }
    Ok(configuration)
}

/// Who applies or puts what is not there creates it.
pub(crate) fn creation<'a>(call: &Call<'a>) -> Asked<'a> {
    Asked::Resource {
        verb: "create",
        group: &call.path.group,
        resource: &call.path.resource,
        subresource: &call.path.subresource,
        namespace: &call.path.namespace,
        name: &call.path.name,
    }
}

/// What of which objects is written.
fn of(kind: &Kind, change: Change) -> Of {
    let part = match change {
        Change::Status | Change::Approval => Part::Status,
        _ if kind.has_status() => Part::Main,
        _ => Part::Whole,
    };
    Of {
        ty: kind.type_id(),
        part,
    }
}

/// Who makes a request, as they are noted.
fn writer(call: &Call<'_>) -> Writer {
    let agent = call
        .headers
        .get("user-agent")
        .and_then(|agent| agent.to_str().ok());
    let agent = agent.and_then(|agent| agent.split('/').next());
    let own = call.identity.name.strip_prefix("system:");
    let manager = call.query.text("fieldManager").or(agent).or(own);
    Writer {
        manager: manager.unwrap_or("unknown").chars().take(128).collect(),
        api_version: api_version(call.kind.group, call.kind.version),
        subresource: call.path.subresource.clone(),
        now: stead_api::time::rfc3339(Timestamp::now()),
    }
}

/// Notes who makes an object.
pub(super) fn note_creation(call: &Call<'_>, new: &mut Value, options: WriteOptions) {
    let is_system = call.identity.is_component() || call.identity.name == SERVER;
    if options.fields == FieldSource::Sent && !is_system {
        apply::updated(of(call.kind, Change::Main), &Value::Null, new, &writer(call));
    }
}

/// Notes who changes an object, if its fields are followed.
pub(super) fn note_update(
    call: &Call<'_>,
    old: &Value,
    new: &mut Value,
    change: Change,
    options: WriteOptions,
) {
    if options.fields == FieldSource::Sent && apply::is_tracked(new) {
        apply::updated(of(call.kind, change), old, new, &writer(call));
    }
}

/// Whose notes an update begins with: those that the client sent, or else the stored ones. A client
/// clears them by a list with nothing in it; what cannot be read is as if it were not sent.
pub(super) fn keep_notes(new: &mut Value, old: &Value) {
    let entries = new["metadata"]["managedFields"].as_array();
    let says_nothing = |entry: &Value| entry.as_object().is_none_or(serde_json::Map::is_empty);
    match entries {
        Some(entries) if entries.iter().all(says_nothing) => meta::remove(new, "managedFields"),
        Some(entries) if apply::are_notes(entries) => {}
        _ => {
            let stored = old["metadata"]["managedFields"].clone();
            if stored.is_array() {
                meta::set(new, "managedFields", stored);
            } else {
                meta::remove(new, "managedFields");
            }
        }
    }
}
