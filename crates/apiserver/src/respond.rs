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

use crate::protobuf;
use crate::request::Query;

const AVAILABLE: &str = "application/json, application/yaml, application/vnd.kubernetes.protobuf";
const AVAILABLE_STREAMS: &str =
    ", application/json;stream=watch, application/vnd.kubernetes.protobuf;stream=watch";

/// The media type of Kubernetes' protobuf.
pub(crate) const PROTOBUF: &str = "application/vnd.kubernetes.protobuf";

/// How an answer is encoded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Encoding {
    Json,
    PrettyJson,
    Yaml,
    Protobuf,
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
        let header = accept(headers);
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
        for clause in clauses(header) {
            let Some(encoding) = clause.encoding(pretty) else {
                continue;
            };
            let meta = clause.parameter("g") == Some("meta.k8s.io") && clause.parameter("v") == Some("v1");
            let form = match clause.parameter("as") {
                None => Form::Whole,
                // A table has no protobuf form.
                Some("Table") if meta && encoding != Encoding::Protobuf => Form::Table(include?),
                Some("PartialObjectMetadata") if meta => Form::PartialMetadata,
                Some("PartialObjectMetadataList") if meta => Form::PartialMetadataList,
                // A form we do not have, as v1beta1 tables: the next clause may do.
                Some(_) => continue,
            };
            return Ok(Accepted { encoding, form });
        }
        Err(not_acceptable(collection))
    }

    /// How an error is told: by the best clause that asks for things as they are. JSON where there
    /// is none.
    pub(crate) fn of_errors(headers: &HeaderMap, query: &Query) -> Encoding {
        let pretty = query.is_true("pretty");
        clauses(accept(headers))
            .iter()
            .filter(|clause| clause.parameter("as").is_none())
            .find_map(|clause| clause.encoding(pretty))
            .unwrap_or(Encoding::Json)
    }
}

/// One of the things that an `Accept` header names.
struct Clause<'h> {
    media: &'h str,
    parameters: Vec<(&'h str, &'h str)>,
}

impl Clause<'_> {
    fn parameter(&self, key: &str) -> Option<&str> {
        self.parameters
            .iter()
            .find(|(name, _)| *name == key)
            .map(|(_, value)| *value)
    }

    /// How much it is wanted, of 1.
    fn quality(&self) -> f64 {
        let quality = self.parameter("q").map(str::parse);
        quality.and_then(Result::ok).unwrap_or(1.0)
    }

    /// The encoding that it names, where we have it.
    fn encoding(&self, pretty: bool) -> Option<Encoding> {
        Some(match self.media {
            "" | "*/*" | "application/*" | "application/json" => {
                let wanted = self
                    .parameter("pretty")
                    .is_some_and(|value| value != "0" && value != "false");
                if pretty || wanted {
                    Encoding::PrettyJson
                } else {
                    Encoding::Json
                }
            }
            "application/yaml" => Encoding::Yaml,
            PROTOBUF => Encoding::Protobuf,
            _ => return None,
        })
    }
}

/// What a header names, the most wanted first.
fn clauses(header: &str) -> Vec<Clause<'_>> {
    let mut clauses: Vec<Clause<'_>> = header
        .split(',')
        .map(|clause| {
            let mut parts = clause.split(';').map(str::trim);
            Clause {
                media: parts.next().unwrap_or_default(),
                parameters: parts.filter_map(|part| part.split_once('=')).collect(),
            }
        })
        .collect();
    clauses.sort_by(|a, b| b.quality().total_cmp(&a.quality()));
    clauses
}

fn accept(headers: &HeaderMap) -> &str {
    headers
        .get(ACCEPT)
        .and_then(|value| value.to_str().ok())
        .unwrap_or("*/*")
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

/// The events of a watch, which come piece by piece.
pub(crate) fn events(encoding: Encoding, body: Body) -> Response<Body> {
    let media_type = match encoding {
        Encoding::Protobuf => "application/vnd.kubernetes.protobuf;stream=watch",
        _ => "application/json",
    };
    with_headers(200, media_type, body)
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
        Encoding::Protobuf => match protobuf::seal(value) {
            Ok(message) => bytes(status, PROTOBUF, message),
            Err(error) => json_bytes(error.code, error.to_status().to_string()),
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
    let seconds = match &error.details {
        _ if error.code != 429 => None,
        Some(details) => details["retryAfterSeconds"].as_u64(),
        None => Some(1),
    };
    if let Some(seconds) = seconds {
        response
            .headers_mut()
            .insert(http::header::RETRY_AFTER, HeaderValue::from(seconds));
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

    const PROTOBUF_WHOLE: Accepted = Accepted {
        encoding: Encoding::Protobuf,
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
            (
                "application/vnd.kubernetes.protobuf,application/json",
                Ok(PROTOBUF_WHOLE),
            ),
            ("application/vnd.kubernetes.protobuf", Ok(PROTOBUF_WHOLE)),
            (
                "application/vnd.kubernetes.protobuf;stream=watch",
                Ok(PROTOBUF_WHOLE),
            ),
            (
                "application/vnd.kubernetes.protobuf;q=0.5,application/json",
                Ok(JSON),
            ),
            (
                "application/vnd.kubernetes.protobuf;as=PartialObjectMetadata;g=meta.k8s.io;v=v1",
                Ok(Accepted {
                    form: Form::PartialMetadata,
                    ..PROTOBUF_WHOLE
                }),
            ),
            (
                "application/vnd.kubernetes.protobuf;as=Table;g=meta.k8s.io;v=v1,application/json",
                Ok(JSON),
            ),
            (
                "application/vnd.kubernetes.protobuf;as=Table;g=meta.k8s.io;v=v1",
                Err(406),
            ),
            ("application/cbor", Err(406)),
            ("application/cbor,application/json", Ok(JSON)),
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
        ] {
            assert_eq!(accepted(header), expected, "{header}");
        }
    }

    #[test]
    fn errors_are_told_as_things_are_asked_for_whole() {
        for (header, expected) in [
            ("application/vnd.kubernetes.protobuf", Encoding::Protobuf),
            (
                "application/vnd.kubernetes.protobuf;as=PartialObjectMetadata;g=meta.k8s.io;v=v1,application/json",
                Encoding::Json,
            ),
            ("text/html", Encoding::Json),
            ("application/yaml", Encoding::Yaml),
        ] {
            let mut headers = HeaderMap::new();
            headers.insert(ACCEPT, HeaderValue::from_str(header).expect("a header"));
            assert_eq!(
                Accepted::of_errors(&headers, &Query::default()),
                expected,
                "{header}"
            );
        }
    }
}
