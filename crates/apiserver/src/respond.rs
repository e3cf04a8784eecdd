//! Answers: what the client accepts, and bodies in that form.

use axum::body::Body;
use bytes::Bytes;
use http::header::{
    ACCEPT, CACHE_CONTROL, CONTENT_TYPE, HeaderMap, HeaderValue, WARNING, X_CONTENT_TYPE_OPTIONS,
};
use http::{Response, StatusCode};
use serde_json::Value;
use stead_api::error::ApiError;
use stead_api::table::Include;

use crate::request::Query;

const AVAILABLE: &str = "application/json, application/yaml, application/vnd.kubernetes.protobuf";
const AVAILABLE_STREAMS: &str =
    ", application/json;stream=watch, application/vnd.kubernetes.protobuf;stream=watch";

/// How an answer is encoded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Encoding {
    Json,
    PrettyJson,
    Yaml,
}

/// What an answer shows of objects.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Form {
    /// All of them.
    Whole,
    /// A table of them.
    Table(Include),
    /// Their metadata.
    PartialMetadata,
    /// Their metadata, as a list.
    PartialMetadataList,
}

/// What a client accepts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Accepted {
    pub(crate) encoding: Encoding,
    pub(crate) form: Form,
}

impl Accepted {
    /// The best of what a request's `Accept` header names.
    pub(crate) fn parse(headers: &HeaderMap, query: &Query, collection: bool) -> Result<Accepted, ApiError> {
        let header = headers
            .get(ACCEPT)
            .and_then(|value| value.to_str().ok())
            .unwrap_or("*/*");
        let pretty = query.is_true("pretty");
        let include = match query.get("includeObject").unwrap_or_default() {
            "None" => Ok(Include::None),
            "" | "Metadata" => Ok(Include::Metadata),
            "Object" => Ok(Include::Object),
            other => Err(ApiError::bad_request(format!(
                "Unable to convert to Table as requested: includeObject: Invalid value: {}: must be 'Metadata', 'Object', 'None', or empty",
                stead_api::error::quote(other)
            ))),
        };
        for clause in header.split(',') {
            let mut parts = clause.split(';').map(str::trim);
            let media = parts.next().unwrap_or_default();
            let parameters: Vec<(&str, &str)> = parts.filter_map(|part| part.split_once('=')).collect();
            let parameter = |key: &str| {
                parameters
                    .iter()
                    .find(|(name, _)| *name == key)
                    .map(|(_, value)| *value)
            };
            let encoding = match media {
                "" | "*/*" | "application/*" | "application/json" => {
                    let wanted = parameter("pretty").is_some_and(|value| value != "0" && value != "false");
                    if pretty || wanted {
                        Encoding::PrettyJson
                    } else {
                        Encoding::Json
                    }
                }
                "application/yaml" => Encoding::Yaml,
                _ => continue,
            };
            let meta = parameter("g") == Some("meta.k8s.io") && parameter("v") == Some("v1");
            let form = match parameter("as") {
                None => Form::Whole,
                Some("Table") if meta => Form::Table(include?),
                Some("PartialObjectMetadata") if meta => Form::PartialMetadata,
                Some("PartialObjectMetadataList") if meta => Form::PartialMetadataList,
                // A form we do not have, as v1beta1 tables: the next clause may do.
                Some(_) => continue,
            };
            return Ok(Accepted { encoding, form });
        }
        Err(not_acceptable(collection))
    }
}

fn not_acceptable(collection: bool) -> ApiError {
    let streams = if collection { AVAILABLE_STREAMS } else { "" };
    ApiError {
        details: Some(serde_json::json!({})),
        ..ApiError::new(
            406,
            "NotAcceptable",
            format!("406: Not Acceptable\n\nAvailable representations: {AVAILABLE}{streams}"),
        )
    }
}

fn with_headers(status: u16, content_type: &'static str, body: Body) -> Response<Body> {
    let mut response = Response::new(body);
    *response.status_mut() = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-cache, private"));
    response
}

/// JSON that is encoded already.
pub(crate) fn json_bytes(status: u16, body: impl Into<Bytes>) -> Response<Body> {
    with_headers(status, "application/json", Body::from(body.into()))
}

/// Bytes of a media type.
pub(crate) fn bytes(status: u16, media_type: &'static str, body: impl Into<Bytes>) -> Response<Body> {
    with_headers(status, media_type, Body::from(body.into()))
}

/// JSON text that comes piece by piece.
pub(crate) fn json_stream(body: Body) -> Response<Body> {
    with_headers(200, "application/json", body)
}

/// Plain text.
pub(crate) fn text(status: u16, body: impl Into<Bytes>) -> Response<Body> {
    with_headers(status, "text/plain; charset=utf-8", Body::from(body.into()))
}

/// A value as the client wants it.
pub(crate) fn value(status: u16, encoding: Encoding, value: &Value) -> Response<Body> {
    match encoding {
        Encoding::Json => json_bytes(status, value.to_string()),
        Encoding::PrettyJson => json_bytes(
            status,
            serde_json::to_string_pretty(value).unwrap_or_default() + "\n",
        ),
        Encoding::Yaml => match serde_saphyr::to_string(value) {
            Ok(yaml) => with_headers(status, "application/yaml", Body::from(yaml)),
            Err(_) => json_bytes(status, value.to_string()),
        },
    }
}

/// JSON that is encoded already, as the client wants it.
pub(crate) fn encoded(status: u16, encoding: Encoding, json: Bytes) -> Response<Body> {
    match encoding {
        Encoding::Json => json_bytes(status, json),
        other => value(status, other, &serde_json::from_slice(&json).unwrap_or_default()),
    }
}

/// An error as its `Status`.
pub(crate) fn error(encoding: Encoding, error: &ApiError) -> Response<Body> {
    let mut response = value(error.code, encoding, &error.to_status());
    if error.code == 403 {
        response
            .headers_mut()
            .insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    }
    if error.code == 429 {
        response
            .headers_mut()
            .insert(http::header::RETRY_AFTER, HeaderValue::from_static("1"));
    }
    response
}

/// Adds warnings to those that there are, each once.
pub(crate) fn add_warnings(warnings: &mut Vec<String>, more: Vec<String>) {
    for warning in more {
        if !warnings.contains(&warning) {
            warnings.push(warning);
        }
    }
}

/// Adds a `Warning` header for each text ("Warning" in the API concepts page).
pub(crate) fn warn(response: &mut Response<Body>, warnings: &[String]) {
    for warning in warnings {
        let quoted = warning
            .replace('\\', "\\\\")
            .replace('"', "\\\"")
            .replace(['\n', '\r'], " ");
        if let Ok(value) = HeaderValue::from_str(&format!("299 - \"{quoted}\"")) {
            response.headers_mut().append(WARNING, value);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const JSON: Accepted = Accepted {
        encoding: Encoding::Json,
        form: Form::Whole,
    };

    fn accepted(header: &str) -> Result<Accepted, u16> {
        let mut headers = HeaderMap::new();
        headers.insert(ACCEPT, HeaderValue::from_str(header).expect("a header"));
        Accepted::parse(&headers, &Query::default(), true).map_err(|error| error.code)
    }

    #[test]
    fn the_first_form_we_have_is_taken() {
        let table = Form::Table(Include::Metadata);
        for (header, expected) in [
            ("*/*", Ok(JSON)),
            ("application/vnd.kubernetes.protobuf,application/json", Ok(JSON)),
            (
                "application/json;as=Table;v=v1;g=meta.k8s.io,application/json",
                Ok(Accepted { form: table, ..JSON }),
            ),
            (
                "application/json;as=Table;v=v1beta1;g=meta.k8s.io,application/json",
                Ok(JSON),
            ),
            (
                "application/yaml",
                Ok(Accepted {
                    encoding: Encoding::Yaml,
                    ..JSON
                }),
            ),
            ("text/html", Err(406)),
            ("application/vnd.kubernetes.protobuf", Err(406)),
        ] {
            assert_eq!(accepted(header), expected, "{header}");
        }
    }
}
