//! `serviceaccounts/token`: tokens for service accounts (TokenRequest, KEP-1205).

use axum::response::Response;
use bytes::Bytes;
use jiff::{Timestamp, ToSpan as _};
use serde_json::Value;
use stead_api::error::{ApiError, Errors, Path};
use stead_api::meta;

use super::decide;
use crate::admission;
use crate::authn::Claims;
use crate::authn::Reference;
use crate::body::{self, Expected};
use crate::options::WriteOptions;
use crate::resource::{current, new_uid};
use crate::respond;
use crate::server::Call;

const DEFAULT_SECONDS: i64 = 3600;
const MIN_SECONDS: i64 = 600;
const MAX_SECONDS: i64 = 1 << 32;
/// Claims of the mounted tokens' own length stay good for a year, so that an old client which never
/// reads the file again goes on working; upstream's `--service-account-extend-token-expiration`.
const MOUNTED_SECONDS: i64 = 3607;
const EXTENDED_SECONDS: i64 = 365 * 24 * 3600;

pub(super) async fn create(call: &Call<'_>, body: &Bytes) -> Result<Response, ApiError> {
    let options = WriteOptions::parse(call.query, "CreateOptions")?;
    let expected = Expected::named(
        "authentication.k8s.io",
        "v1",
        "TokenRequest",
        "io.k8s.api.authentication.v1.TokenRequest",
    );
    let mut request = body::decode(call.headers, body, &expected, options.field_validation)?.object;
    let account = current(call)?.value();
    let mut warnings = Vec::new();
    decide(
        call,
        &expected,
        None,
        &mut request,
        &mut warnings,
        options.dry_run,
    )
    .await?;
    admission::nodes::check(call, Some(&request), None)?;
    let seconds = request["spec"]["expirationSeconds"]
        .as_i64()
        .unwrap_or(DEFAULT_SECONDS);
    check(seconds)?;
    let (pod, secret) = match bound(call, &request, &account)? {
        Bound::Nothing => (None, None),
        Bound::Pod(pod) => (Some(pod), None),
        Bound::Secret(secret) => (None, Some(secret)),
    };
    let audiences = match request["spec"]["audiences"].as_array() {
        Some(list) if !list.is_empty() => list.iter().filter_map(Value::as_str).map(str::to_owned).collect(),
        _ => vec![call.server.tokens.issuer().to_owned()],
    };
    let now = Timestamp::now();
    let mounted = seconds == MOUNTED_SECONDS && pod.is_some() && audiences == [call.server.tokens.issuer()];
    let lifetime = if mounted { EXTENDED_SECONDS } else { seconds };
    let after = |seconds: i64| now.saturating_add(seconds.seconds()).map_err(ApiError::internal);
    let claims = Claims {
        audiences: audiences.clone(),
        issued_at: now,
        expires_at: after(lifetime)?,
        namespace: call.path.namespace.clone(),
        service_account: Reference {
            name: call.path.name.clone(),
            uid: meta::uid(&account).to_owned(),
        },
        pod,
        secret,
        id: new_uid(),
    };
    let token = call.server.tokens.sign(&claims).map_err(ApiError::internal)?;
    meta::set(&mut request, "name", call.path.name.as_str());
    meta::set(&mut request, "namespace", call.path.namespace.as_str());
    meta::set(&mut request, "creationTimestamp", stead_api::time::rfc3339(now));
    request["spec"]["audiences"] = audiences.into();
    request["spec"]["expirationSeconds"] = seconds.into();
    request["status"] = serde_json::json!({
        "token": token,
        "expirationTimestamp": stead_api::time::rfc3339(after(seconds)?),
    });
    let mut response = respond::value(201, call.accepted.encoding, &request);
    respond::warn(&mut response, &warnings);
    Ok(response)
}

fn check(seconds: i64) -> Result<(), ApiError> {
    let mut errors = Errors::new();
    let path = Path::new("spec").child("expirationSeconds");
    if seconds < MIN_SECONDS {
        errors.invalid(&path, &seconds, "may not specify a duration less than 10 minutes");
    }
    if seconds > MAX_SECONDS {
        errors.invalid(
            &path,
            &seconds,
            "may not specify a duration larger than 2^32 seconds",
        );
    }
    if errors.is_empty() {
        return Ok(());
    }
    Err(ApiError::invalid(
        "authentication.k8s.io",
        "TokenRequest",
        "",
        &errors,
    ))
}

/// What a token may be bound to.
enum Bound {
    Nothing,
    Pod(Reference),
    Secret(Reference),
}

/// What the token is to be bound to: it must be the object named, and a pod must use the account.
fn bound(call: &Call<'_>, request: &Value, account: &Value) -> Result<Bound, ApiError> {
    let reference = &request["spec"]["boundObjectRef"];
    if reference.is_null() {
        return Ok(Bound::Nothing);
    }
    let text = |field: &str| reference[field].as_str().unwrap_or_default();
    let plural = match (text("apiVersion"), text("kind")) {
        ("v1", "Pod") => "pods",
        ("v1", "Secret") => "secrets",
        (version, kind) => {
            let (group, version) = version.rsplit_once('/').unwrap_or(("", version));
            return Err(ApiError::bad_request(format!(
                "cannot bind token to object of type {group}/{version}, Kind={kind}"
            )));
        }
    };
    let name = text("name");
    let found = call.server.find(("", plural), &call.path.namespace, name);
    let (_, stored) = found.ok_or_else(|| ApiError::not_found("", plural, name))?;
    let object = stored.value();
    let uid = text("uid");
    if !uid.is_empty() && uid != meta::uid(&object) {
        let why = format!(
            "the UID in the bound object reference ({uid}) does not match the UID in record. The object might have been deleted and then recreated"
        );
        return Err(ApiError::conflict("", plural, name, &why));
    }
    let bound = Reference {
        name: name.to_owned(),
        uid: meta::uid(&object).to_owned(),
    };
    if plural == "secrets" {
        return Ok(Bound::Secret(bound));
    }
    if object["spec"]["serviceAccountName"] != meta::name(account) {
        return Err(ApiError::bad_request(format!(
            "cannot bind token for serviceaccount {} to pod running with different serviceaccount name.",
            stead_api::error::quote(meta::name(account))
        )));
    }
    Ok(Bound::Pod(bound))
}
