//! Request bodies: JSON, YAML or Kubernetes' protobuf, into objects of the kind they should be.

use http::header::{CONTENT_TYPE, HeaderMap};
use serde_json::Value;
use serde_saphyr::DuplicateKeyPolicy;
use stead_api::error::{ApiError, quote};
use stead_api::json::syntax_error;
use stead_api::registry::{self, api_version};
use stead_api::schema::{self, TypeId, builtin};

use crate::admission::webhook::Part;
use crate::options::FieldValidation;
use crate::protobuf;

/// The largest body that is read, in bytes.
pub(crate) const MAX_BYTES: usize = 3 * 1024 * 1024;

/// The kind that a body must be of.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Expected {
    pub(crate) group: &'static str,
    pub(crate) version: &'static str,
    pub(crate) kind: &'static str,
    pub(crate) ty: TypeId,
}

impl Expected {
    /// The kind of a resource.
    pub(crate) fn of(kind: &registry::Kind) -> Expected {
        Expected {
            group: kind.group,
            version: kind.version,
            kind: kind.kind,
            ty: kind.type_id(),
        }
    }

    /// A kind that is no resource of its own, such as a subresource's.
    pub(crate) fn named(
        group: &'static str,
        version: &'static str,
        kind: &'static str,
        ty: &str,
    ) -> Expected {
        let ty = builtin()
            .find(ty)
            .expect("the kinds of subresources are in the table");
        Expected {
            group,
            version,
            kind,
            ty,
        }
    }

    /// As webhooks are told of it.
    pub(crate) fn part(&self) -> Part {
        Part {
            group: self.group,
            version: self.version,
            kind: self.kind,
        }
    }

    fn api_version(&self) -> String {
        api_version(self.group, self.version)
    }

    fn cannot_handle(&self, found: &str, why: &str) -> ApiError {
        ApiError::bad_request(format!(
            "{found} in version {} cannot be handled as a {}: {why}",
            quote(self.version),
            self.kind
        ))
    }

    fn unrecognized(&self, why: &str) -> ApiError {
        ApiError::bad_request(format!(
            "the object provided is unrecognized (must be of type {}): {why}",
            self.kind
        ))
    }
}

/// An object and what to warn its sender of.
#[derive(Debug)]
pub(crate) struct Received {
    pub(crate) object: Value,
    pub(crate) warnings: Vec<String>,
}

/// Reads a body as the kind expected, its zero values and nulls as Go would hold them.
pub(crate) fn decode(
    headers: &HeaderMap,
    body: &[u8],
    expected: &Expected,
    validation: FieldValidation,
) -> Result<Received, ApiError> {
    let media = media_type(headers);
    let decoded = match media.as_str() {
        "" | "application/json" => decode_json(body, expected)?,
        "application/yaml" | "application/x-yaml" | "text/yaml" => decode_yaml(body, expected)?,
        "application/vnd.kubernetes.protobuf" => decode_protobuf(body, expected)?,
        _ => {
            return Err(ApiError::new(
                415,
                "UnsupportedMediaType",
                "the body of the request was in an unknown format - accepted media types include: application/json, application/yaml, application/vnd.kubernetes.protobuf",
            ));
        }
    };
    finish(decoded, expected, validation)
}

/// Reads an object that a patch has made, as the kind expected.
pub(crate) fn decode_patched(
    object: Value,
    expected: &Expected,
    validation: FieldValidation,
) -> Result<Received, ApiError> {
    let decoded = schema::decode_value(builtin(), expected.ty, object)
        .map_err(|error| ApiError::bad_request(error.to_string()))?;
    finish(decoded, expected, validation)
}

fn finish(
    decoded: schema::Decoded,
    expected: &Expected,
    validation: FieldValidation,
) -> Result<Received, ApiError> {
    let mut object = decoded.value;
    let warnings = match validation {
        FieldValidation::Ignore => Vec::new(),
        FieldValidation::Warn => decoded.strict,
        FieldValidation::Strict if decoded.strict.is_empty() => Vec::new(),
        FieldValidation::Strict => {
            let why = format!("strict decoding error: {}", decoded.strict.join(", "));
            return Err(expected.cannot_handle(expected.kind, &why));
        }
    };
    object["apiVersion"] = expected.api_version().into();
    object["kind"] = expected.kind.into();
    Ok(Received { object, warnings })
}

/// The media type of a body, without its parameters.
pub(crate) fn media_type(headers: &HeaderMap) -> String {
    let header = headers
        .get(CONTENT_TYPE)
        .and_then(|value| value.to_str().ok())
        .unwrap_or_default();
    header
        .split(';')
        .next()
        .unwrap_or_default()
        .trim()
        .to_ascii_lowercase()
}

/// A body as the value it stands for, for those who only look at it; none where it is nothing that
/// can be read.
pub(crate) fn look(headers: &HeaderMap, body: &[u8]) -> Option<Value> {
    match media_type(headers).as_str() {
        "application/vnd.kubernetes.protobuf" => {
            let envelope = schema::open_envelope(body).ok()?;
            let ty = protobuf::type_of(&envelope.api_version, &envelope.kind)?;
            let mut object = schema::from_protobuf(builtin(), ty, envelope.raw).ok()?;
            object["apiVersion"] = envelope.api_version.into();
            object["kind"] = envelope.kind.into();
            Some(object)
        }
        media if media.contains("yaml") => serde_json::from_str(&yaml_to_json(body).ok()?).ok(),
        _ => serde_json::from_slice(body).ok(),
    }
}

/// YAML as the JSON it stands for. Of keys that are there twice the last counts.
pub(crate) fn yaml_to_json(body: &[u8]) -> Result<String, String> {
    let text = std::str::from_utf8(body).map_err(|_| "invalid leading UTF-8 octet".to_owned())?;
    let value: Value = read_yaml(text, DuplicateKeyPolicy::LastWins).map_err(|error| yaml_error(&error))?;
    Ok(value.to_string())
}

fn read_yaml(text: &str, duplicate_keys: DuplicateKeyPolicy) -> Result<Value, serde_saphyr::Error> {
    serde_saphyr::from_str_with_options(text, serde_saphyr::options! { duplicate_keys: duplicate_keys })
}

/// What is wrong with a text that is no YAML, in the words of the Go library's.
fn yaml_error(error: &serde_saphyr::Error) -> String {
    let shown = error.without_snippet().to_string();
    // Ours ends with the place, as ` at line 1, column 5`.
    let why = shown
        .rsplit_once(" at line ")
        .map_or(shown.as_str(), |(why, _)| why);
    match error.location().map_or(0, |location| location.line()) {
        0 | 1 => why.to_owned(),
        line => format!("line {line}: {why}"),
    }
}

fn decode_yaml(body: &[u8], expected: &Expected) -> Result<schema::Decoded, ApiError> {
    let json = yaml_to_json(body)
        .map_err(|error| expected.unrecognized(&format!("yaml: {error} ({})", hex(body))))?;
    let mut decoded = decode_json(json.as_bytes(), expected)?;
    let again = std::str::from_utf8(body).map(|text| read_yaml(text, DuplicateKeyPolicy::Error));
    if let Ok(Err(error)) = again
        && let serde_saphyr::Error::DuplicateMappingKey { key, location } = error.without_snippet()
    {
        let key = quote(key.as_deref().unwrap_or_default());
        let why = format!(
            "yaml: unmarshal errors:\n  line {}: key {key} already set in map",
            location.line()
        );
        decoded.strict.insert(0, why);
    }
    Ok(decoded)
}

fn decode_json(body: &[u8], expected: &Expected) -> Result<schema::Decoded, ApiError> {
    if let Some(error) = parse_error(body) {
        return Err(expected.unrecognized(&error));
    }
    // What the body says it is comes first: a wrong kind is told so before its fields are read.
    if let Ok(envelope) = serde_json::from_slice::<TypeMeta>(body) {
        check_kind(&envelope.api_version, &envelope.kind, expected)?;
    }
    schema::decode_bytes(builtin(), expected.ty, body)
        .map_err(|error| expected.cannot_handle(expected.kind, &error))
}

#[derive(serde::Deserialize, Default)]
#[serde(default, rename_all = "camelCase")]
struct TypeMeta {
    api_version: String,
    kind: String,
}

/// Why a text cannot be asked for its kind, in Kubernetes' words.
fn parse_error(body: &[u8]) -> Option<String> {
    let shown = || {
        if body.is_empty() {
            "<empty>".to_owned()
        } else {
            String::from_utf8_lossy(body).into_owned()
        }
    };
    if let Err(error) = serde_json::from_slice::<serde::de::IgnoredAny>(body) {
        let error = syntax_error(body).unwrap_or_else(|| error.to_string());
        return Some(format!(
            "couldn't get version/kind; json parse error: {error} ({})",
            shown()
        ));
    }
    let found = match body.iter().find(|byte| !byte.is_ascii_whitespace()) {
        Some(b'[') => "array",
        Some(b'"') => "string",
        Some(b't' | b'f') => "bool",
        Some(b'-' | b'0'..=b'9') => "number",
        _ => return None,
    };
    Some(format!(
        "couldn't get version/kind; json parse error: json: cannot unmarshal {found} into Go value of type struct {{ APIVersion string \"json:\\\"apiVersion,omitempty\\\"\"; Kind string \"json:\\\"kind,omitempty\\\"\" }} ({})",
        hex(body)
    ))
}

fn hex(body: &[u8]) -> String {
    body.iter().take(512).map(|byte| format!("{byte:02x}")).collect()
}

/// A body that names neither is of the kind expected; one that names another is refused.
fn check_kind(version: &str, kind: &str, expected: &Expected) -> Result<(), ApiError> {
    let version_fits = version.is_empty() || version == expected.api_version();
    if version_fits && (kind.is_empty() || kind == expected.kind) {
        return Ok(());
    }
    let kind = if kind.is_empty() { expected.kind } else { kind };
    let own = expected.api_version();
    let version = if version.is_empty() { &own } else { version };
    let short = |version: &str| version.rsplit('/').next().unwrap_or_default().to_owned();
    let found = ApiError::bad_request(match registry::builtin().kind(version, kind) {
        Some(_) => format!(
            "{kind} in version {} cannot be handled as a {}: converting ({}.{kind}) to ({}.{}): unknown conversion",
            quote(&short(version)),
            expected.kind,
            short(version),
            if expected.group.is_empty() {
                "core"
            } else {
                group_package(expected.group)
            },
            expected.kind,
        ),
        None => format!(
            "{kind} in version {} cannot be handled as a {}: no kind {} is registered for version {} in scheme \"pkg/api/legacyscheme/scheme.go:30\"",
            quote(&short(version)),
            expected.kind,
            quote(kind),
            quote(version),
        ),
    });
    Err(found)
}

/// The Go package of a group's internal types.
fn group_package(group: &'static str) -> &'static str {
    group.split('.').next().unwrap_or(group)
}

fn decode_protobuf(body: &[u8], expected: &Expected) -> Result<schema::Decoded, ApiError> {
    let envelope = schema::open_envelope(body).map_err(|error| expected.unrecognized(&error.to_string()))?;
    check_kind(&envelope.api_version, &envelope.kind, expected)?;
    schema::from_protobuf(builtin(), expected.ty, envelope.raw)
        .map_err(|error| error.to_string())
        .and_then(|value| schema::decode_value(builtin(), expected.ty, value))
        .map_err(|error| expected.cannot_handle(expected.kind, &error))
}
