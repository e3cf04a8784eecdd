//! Secret (core/v1).

use std::collections::BTreeMap;

use jiff::Timestamp;
use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::Secret;
use serde_json::Value;

use super::config_map::{IMMUTABLE, MAX_DATA_BYTES};
use super::{FIELD_IMMUTABLE, name_cell, text};
use crate::error::{Errors, Path};
use crate::object::{ApiObject, Logic};
use crate::registry::{Column, Kind};
use crate::table::age;
use crate::{json, names};

pub(super) static KIND: Kind = Kind {
    columns: &[
        Column::NAME,
        Column::new("Type", "what the data is"),
        Column::new("Data", "number of keys"),
        Column::AGE,
    ],
    selectable: &[("type", &["type"])],
    ..Kind::new(
        ("", "v1", "Secret"),
        ("secrets", "secret"),
        "io.k8s.api.core.v1.Secret",
        Logic::of::<Secret>(),
    )
};

const TLS: &str = "kubernetes.io/tls";
const ACCOUNT_NAME: &str = "kubernetes.io/service-account.name";

impl ApiObject for Secret {
    /// `stringData` is for writing only: it becomes data.
    fn set_defaults(&mut self) {
        if let Some(texts) = self.string_data.take() {
            let data = self.data.get_or_insert_default();
            data.extend(
                texts
                    .into_iter()
                    .map(|(key, text)| (key, ByteString(text.into_bytes()))),
            );
        }
        if text(&self.type_).is_empty() {
            self.type_ = Some("Opaque".to_owned());
        }
    }

    fn validate(&self, errors: &mut Errors) {
        let path = Path::new("data");
        let mut total = 0;
        for (key, value) in self.data.iter().flatten() {
            errors.invalid_each(&path.key(key), key, names::config_key(key));
            total += value.0.len();
        }
        if total > MAX_DATA_BYTES {
            errors.too_long(&path, MAX_DATA_BYTES);
        }
        validate_type(self, &path, errors);
    }

    fn validate_update(&self, old: &Secret, errors: &mut Errors) {
        if self.type_ != old.type_ {
            errors.invalid(&Path::new("type"), text(&self.type_), FIELD_IMMUTABLE);
        }
        if old.immutable == Some(true) {
            if self.immutable != Some(true) {
                errors.forbidden(&Path::new("immutable"), IMMUTABLE);
            }
            if self.data.iter().flatten().ne(old.data.iter().flatten()) {
                errors.forbidden(&Path::new("data"), IMMUTABLE);
            }
        }
        self.validate(errors);
    }

    fn warnings(&self, _old: Option<&Secret>) -> Vec<String> {
        if text(&self.type_) == TLS {
            tls_objection(self).into_iter().collect()
        } else {
            Vec::new()
        }
    }

    fn row(&self, now: Timestamp) -> Vec<Value> {
        vec![
            name_cell(&self.metadata),
            text(&self.type_).into(),
            self.data.as_ref().map_or(0, BTreeMap::len).into(),
            age(self.metadata.creation_timestamp.as_ref(), now),
        ]
    }
}

fn value<'s>(secret: &'s Secret, key: &str) -> Option<&'s [u8]> {
    secret.data.as_ref()?.get(key).map(|value| value.0.as_slice())
}

/// Each well-known type has keys that must be there.
fn validate_type(secret: &Secret, path: &Path, errors: &mut Errors) {
    let missing = |key: &str| value(secret, key).is_none();
    match text(&secret.type_) {
        "kubernetes.io/service-account-token" => {
            let annotations = secret.metadata.annotations.as_ref();
            if annotations
                .and_then(|all| all.get(ACCOUNT_NAME))
                .is_none_or(String::is_empty)
            {
                errors.required(&Path::new("metadata").child("annotations").key(ACCOUNT_NAME), "");
            }
        }
        "kubernetes.io/dockercfg" => validate_json(secret, ".dockercfg", path, errors),
        "kubernetes.io/dockerconfigjson" => validate_json(secret, ".dockerconfigjson", path, errors),
        "kubernetes.io/basic-auth" if missing("username") && missing("password") => {
            errors.required(&path.key("username"), "");
            errors.required(&path.key("password"), "");
        }
        "kubernetes.io/ssh-auth" if value(secret, "ssh-privatekey").is_none_or(<[u8]>::is_empty) => {
            errors.required(&path.key("ssh-privatekey"), "");
        }
        TLS => {
            for key in ["tls.crt", "tls.key"].into_iter().filter(|key| missing(key)) {
                errors.required(&path.key(key), "");
            }
        }
        _ => {}
    }
}

fn validate_json(secret: &Secret, key: &str, path: &Path, errors: &mut Errors) {
    let path = path.key(key);
    match value(secret, key) {
        None => errors.required(&path, ""),
        Some(value) => {
            if let Some(why) = object_error(value) {
                errors.invalid(&path, "<secret contents redacted>", &why);
            }
        }
    }
}

/// What keeps certificate and key from being read, as Go's TLS library says it. What they hold
/// is not looked into.
fn tls_objection(secret: &Secret) -> Option<String> {
    let blocks = |key: &str| pem_blocks(value(secret, key).unwrap_or_default());
    let (certificate, key) = (blocks("tls.crt"), blocks("tls.key"));
    let is_key = |label: &&String| *label == "PRIVATE KEY" || label.ends_with(" PRIVATE KEY");
    let why = if !certificate.iter().any(|label| label == "CERTIFICATE") {
        match certificate.first() {
            None => "failed to find any PEM data in certificate input".to_owned(),
            Some(_) if certificate.len() == 1 && certificate.iter().any(|label| is_key(&label)) => {
                "failed to find certificate PEM data in certificate input, but did find a private key; \
                 PEM inputs may have been switched"
                    .to_owned()
            }
            Some(_) => format!(
                "failed to find \"CERTIFICATE\" PEM block in certificate input after skipping PEM blocks of the following types: {certificate:?}"
            )
            .replace(", ", " "),
        }
    } else if !key.iter().any(|label| is_key(&label)) {
        match key.first() {
            None => "failed to find any PEM data in key input".to_owned(),
            Some(label) if key.len() == 1 && label == "CERTIFICATE" => {
                "found a certificate rather than a key in the PEM for the private key".to_owned()
            }
            Some(_) => format!(
                "failed to find PEM block with type ending in \"PRIVATE KEY\" in key input after skipping PEM blocks of the following types: {key:?}"
            )
            .replace(", ", " "),
        }
    } else {
        return None;
    };
    Some(format!("tls: {why}"))
}

/// Why a text is not a JSON object, in Go's words.
fn object_error(text: &[u8]) -> Option<String> {
    if let Some(error) = json::syntax_error(text) {
        return Some(error);
    }
    let kind = match text.iter().find(|byte| !byte.is_ascii_whitespace())? {
        b'{' | b'n' => return None,
        b'[' => "array",
        b'"' => "string",
        b't' | b'f' => "bool",
        _ => "number",
    };
    Some(format!(
        "json: cannot unmarshal {kind} into Go value of type map[string]interface {{}}"
    ))
}

/// The labels of the PEM blocks in a text.
fn pem_blocks(text: &[u8]) -> Vec<String> {
    let text = String::from_utf8_lossy(text);
    let mut labels = Vec::new();
    let mut rest = text.as_ref();
    while let Some((_, after)) = rest.split_once("-----BEGIN ") {
        let Some((label, body)) = after.split_once("-----") else {
            break;
        };
        rest = match body.split_once(&format!("-----END {label}-----")) {
            Some((_, after)) => {
                labels.push(label.to_owned());
                after
            }
            None => body,
        };
    }
    labels
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn secret(value: Value) -> Secret {
        serde_json::from_value(value).expect("a secret")
    }

    #[test]
    fn string_data_becomes_data_and_wins() {
        let mut secret = secret(json!({"data": {"a": "eA==", "b": "eA=="}, "stringData": {"a": "new"}}));
        secret.set_defaults();
        let value = serde_json::to_value(&secret).expect("a value");
        assert_eq!(value["data"], json!({"a": "bmV3", "b": "eA=="}));
        assert_eq!(
            (&value["stringData"], &value["type"]),
            (&Value::Null, &json!("Opaque"))
        );
    }

    #[test]
    fn well_known_types_need_their_keys() {
        for (ty, data, expected) in [
            ("Opaque", json!({}), ""),
            (
                "kubernetes.io/tls",
                json!({"tls.crt": ""}),
                "data[tls.key]: Required value",
            ),
            (
                "kubernetes.io/ssh-auth",
                json!({"ssh-privatekey": ""}),
                "data[ssh-privatekey]: Required value",
            ),
            ("kubernetes.io/basic-auth", json!({"password": ""}), ""),
            (
                "kubernetes.io/dockercfg",
                json!({}),
                "data[.dockercfg]: Required value",
            ),
            (
                "kubernetes.io/dockerconfigjson",
                json!({".dockerconfigjson": "W10="}),
                "data[.dockerconfigjson]: Invalid value: \"<secret contents redacted>\": json: cannot unmarshal array into Go value of type map[string]interface {}",
            ),
            (
                "kubernetes.io/service-account-token",
                json!({}),
                "metadata.annotations[kubernetes.io/service-account.name]: Required value",
            ),
            ("Opaque", json!({"a b": ""}), "data[a b]: Invalid value"),
        ] {
            let mut errors = Errors::new();
            secret(json!({"type": ty, "data": data})).validate(&mut errors);
            let found: Vec<_> = errors.iter().map(ToString::to_string).collect();
            assert_eq!(found.is_empty(), expected.is_empty(), "{ty}: {found:?}");
            assert!(found.concat().starts_with(expected), "{ty}: {found:?}");
        }
    }

    #[test]
    fn an_unreadable_certificate_is_warned_of() {
        let secret = secret(json!({"type": TLS, "data": {"tls.crt": "", "tls.key": ""}}));
        assert_eq!(
            secret.warnings(None),
            ["tls: failed to find any PEM data in certificate input"]
        );
    }
}
