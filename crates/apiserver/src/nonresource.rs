//! Paths that are no resources: health, version, discovery, OpenAPI, metrics.

use axum::response::Response;
use http::HeaderMap;
use http::header::ACCEPT;
use serde_json::{Value, json};
use sha2::{Digest as _, Sha512};
use stead_api::error::ApiError;
use stead_api::{KUBERNETES_VERSION, discovery, openapi};

use crate::request::Query;
use crate::respond::{self, Accepted};
use crate::server::{Inner, no_such_resource, unavailable};

/// Checks that `/livez/NAME` and its like answer to.
const HEALTH_CHECKS: [&str; 3] = ["ping", "log", "etcd"];

const OPENAPI_V2_PROTOBUF: &str = "application/com.github.proto-openapi.spec.v2.v1.0+protobuf";

pub(crate) fn serve(
    server: &Inner,
    headers: &HeaderMap,
    path: &str,
    query: &Query,
) -> Result<Response, ApiError> {
    let segments: Vec<&str> = path.split('/').filter(|segment| !segment.is_empty()).collect();
    let json = |value: Value| -> Result<Response, ApiError> {
        let accepted = Accepted::parse(headers, query, false)?;
        Ok(respond::value(200, accepted.encoding, &value))
    };
    let registry = server.registry;
    match segments[..] {
        ["healthz" | "livez" | "readyz"] => Ok(respond::text(200, "ok")),
        ["healthz" | "livez" | "readyz", check] if HEALTH_CHECKS.contains(&check) => {
            Ok(respond::text(200, "ok"))
        }
        ["version"] => Ok(respond::json_bytes(
            200,
            version(&server.config.version).to_string(),
        )),
        ["metrics"] => Ok(respond::text(
            200,
            server.metrics.render(&server.store.metrics()) + &(server.config.more_metrics)(),
        )),
        ["api"] => match aggregated_version(headers) {
            Some(version) => Ok(aggregated(server, true, version)),
            None => json(discovery::api_versions(&server.config.address)),
        },
        ["apis"] => match aggregated_version(headers) {
            Some(version) => Ok(aggregated(server, false, version)),
            None => json(discovery::group_list(registry)),
        },
        ["api", version] => {
            json(discovery::resource_list(registry, "", version).ok_or_else(no_such_resource)?)
        }
        ["apis", group] => match discovery::group(registry, group) {
            Some(group) => json(group),
            None => Ok(not_found()),
        },
        ["apis", group, version] if server.is_served_elsewhere(group, version) => Ok(unavailable()),
        ["apis", group, version] => {
            json(discovery::resource_list(registry, group, version).ok_or_else(no_such_resource)?)
        }
        [".well-known", "openid-configuration"] => json(issuer(server)),
        ["openid", "v1", "jwks"] => Ok(respond::bytes(
            200,
            "application/jwk-set+json",
            server.tokens.key_set().to_string(),
        )),
        ["openapi", "v2"] => Ok(openapi_v2(server, headers)),
        ["openapi", "v3"] => Ok(respond::json_bytes(200, openapi::root(registry).to_string())),
        ["openapi", "v3", ref rest @ ..] => Ok(openapi_document(server, &rest.join("/"), query)),
        _ => Ok(not_found()),
    }
}

/// How others check the tokens of service accounts ("Service account issuer discovery").
fn issuer(server: &Inner) -> Value {
    json!({
        "issuer": server.tokens.issuer(),
        "jwks_uri": format!("https://{}/openid/v1/jwks", server.config.address),
        "response_types_supported": ["id_token"],
        "subject_types_supported": ["public"],
        "id_token_signing_alg_values_supported": ["ES256"],
    })
}

fn not_found() -> Response {
    respond::text(404, "404 page not found\n")
}

/// The document of OpenAPI v2, as protobuf where that is asked for.
fn openapi_v2(server: &Inner, headers: &HeaderMap) -> Response {
    let accept = headers
        .get(ACCEPT)
        .and_then(|value| value.to_str().ok())
        .unwrap_or_default();
    if accept.contains("com.github.proto-openapi.spec.v2") {
        return respond::bytes(200, OPENAPI_V2_PROTOBUF, openapi::v2_protobuf());
    }
    respond::json_bytes(200, openapi::v2(server.registry).to_string())
}

/// An OpenAPI document. Under a URL with its hash it never changes, and a client may keep it; one
/// that asks by an old hash is sent to the new.
fn openapi_document(server: &Inner, path: &str, query: &Query) -> Response {
    let Some(document) = openapi::document(server.registry, path) else {
        return respond::text(404, "");
    };
    let Some(hash) = query.text("hash") else {
        return respond::json_bytes(200, document.to_string());
    };
    let current = openapi::current_url(server.registry, path).unwrap_or_default();
    let (mut response, headers) = if current.ends_with(&format!("?hash={hash}")) {
        let response = respond::json_bytes(200, document.to_string());
        (
            response,
            [
                ("cache-control", "public, immutable".to_owned()),
                ("etag", format!("\"{hash}\"")),
            ],
        )
    } else {
        (
            respond::text(301, ""),
            [
                ("cache-control", "no-cache, private".to_owned()),
                ("location", current),
            ],
        )
    };
    for (name, value) in headers {
        if let Ok(value) = http::HeaderValue::from_str(&value) {
            response
                .headers_mut()
                .insert(http::HeaderName::from_static(name), value);
        }
    }
    response
}

/// What `/version` says.
fn version(own: &str) -> Value {
    let (major, minor, patch) = KUBERNETES_VERSION;
    json!({
        "major": major,
        "minor": minor,
        "gitVersion": format!("v{major}.{minor}.{patch}+stead.{own}"),
        "gitCommit": "",
        "gitTreeState": "clean",
        "buildDate": "1970-01-01T00:00:00Z",
        "goVersion": "",
        "compiler": "rustc",
        "platform": format!("linux/{}", if cfg!(target_arch = "x86_64") { "amd64" } else { "arm64" }),
    })
}

/// The version of aggregated discovery that a client asks for before anything else.
fn aggregated_version(headers: &HeaderMap) -> Option<&'static str> {
    let accept = headers.get(ACCEPT)?.to_str().ok()?;
    let first = accept
        .split(',')
        .find(|clause| clause.contains("application/json"))?;
    if !(first.contains("g=apidiscovery.k8s.io") && first.contains("as=APIGroupDiscoveryList")) {
        return None;
    }
    ["v2", "v2beta1"]
        .into_iter()
        .find(|version| first.split(';').any(|part| part.trim() == format!("v={version}")))
}

fn aggregated(server: &Inner, core: bool, version: &'static str) -> Response {
    let api_version = format!("apidiscovery.k8s.io/{version}");
    let body = discovery::aggregated(server.registry, core, &api_version).to_string();
    let digest = Sha512::digest(body.as_bytes());
    let tag: String = digest.iter().map(|byte| format!("{byte:02X}")).collect();
    let mut response = respond::json_bytes(200, body);
    let headers = response.headers_mut();
    let media = format!("application/json;g=apidiscovery.k8s.io;v={version};as=APIGroupDiscoveryList");
    for (name, value) in [
        ("content-type", media),
        ("etag", format!("\"{tag}\"")),
        ("vary", "Accept".to_owned()),
    ] {
        if let Ok(value) = http::HeaderValue::from_str(&value) {
            headers.insert(http::HeaderName::from_static(name), value);
        }
    }
    response
}
