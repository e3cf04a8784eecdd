//! `scale`: an object's replicas as an `autoscaling/v1` Scale.

use axum::response::Response;
use bytes::Bytes;
use serde_json::Value;
use stead_api::error::{ApiError, Errors, Path};
use stead_api::kinds::scale::{ScaleKind, from_scale, to_scale};
use stead_api::meta;

use super::decide;
use crate::body::{self, Expected};
use crate::options::WriteOptions;
use crate::request::Verb;
use crate::resource::{Change, Failure, Written, current, patch_with, write_update};
use crate::respond;
use crate::server::{Call, not_allowed};

const ATTEMPTS: usize = 8;

pub(super) async fn serve(call: &Call<'_>, verb: Verb, body: &Bytes) -> Result<Response, ApiError> {
    let kind = ScaleKind::of(call.kind).ok_or_else(not_allowed)?;
    match verb {
        Verb::Get => {
            let object = current(call).map_err(|error| missing(call, error))?;
            let scale = to_scale(kind, &object.value());
            Ok(respond::value(200, call.accepted.encoding, &scale))
        }
        Verb::Update => write(call, kind, body, "UpdateOptions").await,
        Verb::Patch => write(call, kind, body, "PatchOptions").await,
        _ => Err(not_allowed()),
    }
}

async fn write(call: &Call<'_>, kind: ScaleKind, body: &Bytes, options: &str) -> Result<Response, ApiError> {
    let expected = Expected::named("autoscaling", "v1", "Scale", "io.k8s.api.autoscaling.v1.Scale");
    let options = WriteOptions::parse(call.query, options)?;
    let mut warnings = Vec::new();
    for _ in 0..ATTEMPTS {
        let old = current(call)?;
        let before = old.value();
        let scale = to_scale(kind, &before);
        let received = match call.headers.get("content-type") {
            Some(media) if media.to_str().is_ok_and(|media| media.contains("patch")) => {
                let patched = patch_with(call.headers, &scale, expected.ty, body)?;
                body::decode_patched(patched, &expected, options.field_validation)?
            }
            _ => body::decode(call.headers, body, &expected, options.field_validation)?,
        };
        let mut wanted = received.object;
        check_target(call, &wanted)?;
        decide(
            call,
            &expected,
            Some(&scale),
            &mut wanted,
            &mut warnings,
            options.dry_run,
        )
        .await?;
        check(call, &wanted)?;
        let version = meta::text(&wanted, "resourceVersion");
        let own = meta::text(&before, "resourceVersion");
        if !version.is_empty() && version != own {
            return Err(conflict(call));
        }
        let new = from_scale(&before, &wanted);
        match write_update(call, &old, &before, new, Change::Main, options, &mut warnings).await {
            // Somebody else was faster. Who wrote a version is told so by the next attempt; a patch that says none
            // has the newest one.
            Err(Failure::LostRace(_)) => {}
            Ok(Written::Stored(object)) => {
                return Ok(answer(call, kind, &object.value(), &warnings));
            }
            Ok(Written::Unstored(object)) => return Ok(answer(call, kind, &object, &warnings)),
            Err(Failure::Refused(error)) => return Err(error),
        }
    }
    Err(conflict(call))
}

fn answer(call: &Call<'_>, kind: ScaleKind, object: &Value, warnings: &[String]) -> Response {
    let mut response = respond::value(200, call.accepted.encoding, &to_scale(kind, object));
    respond::warn(&mut response, warnings);
    response
}

/// Of most kinds the scale is not found, rather than the object.
fn missing(call: &Call<'_>, error: ApiError) -> ApiError {
    if error.code != 404 || call.kind.kind == "StatefulSet" {
        return error;
    }
    let resource = format!("{}/scale", call.kind.plural);
    ApiError::not_found(call.kind.group, &resource, &call.path.name)
}

/// A scale that names an object must name the one on the path.
fn check_target(call: &Call<'_>, scale: &Value) -> Result<(), ApiError> {
    let (name, namespace) = (meta::name(scale), meta::namespace(scale));
    if !name.is_empty() && name != call.path.name {
        return Err(ApiError::bad_request(format!(
            "the name of the object ({name}) does not match the name on the URL ({})",
            call.path.name
        )));
    }
    if !namespace.is_empty() && namespace != call.path.namespace {
        return Err(ApiError::bad_request(format!(
            "the namespace of the object ({namespace}) does not match the namespace on the URL ({})",
            call.path.namespace
        )));
    }
    Ok(())
}

fn check(call: &Call<'_>, scale: &Value) -> Result<(), ApiError> {
    let replicas = scale["spec"]["replicas"].as_i64().unwrap_or(0);
    if replicas >= 0 {
        return Ok(());
    }
    let mut errors = Errors::new();
    let path = Path::new("spec").child("replicas");
    errors.invalid(&path, &replicas, "must be greater than or equal to 0");
    Err(ApiError::invalid(
        "autoscaling",
        "Scale",
        &call.path.name,
        &errors,
    ))
}

fn conflict(call: &Call<'_>) -> ApiError {
    ApiError::conflict(
        call.kind.group,
        call.kind.plural,
        &call.path.name,
        "the object has been modified; please apply your changes to the latest version and try again",
    )
}
