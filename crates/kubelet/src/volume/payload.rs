//! The files of a volume that is made from objects: ConfigMaps, Secrets, the downward API, tokens.
//! Pure, given the objects. See "Projected Volumes".

use std::collections::BTreeMap;
use std::path::{Component, Path, PathBuf};

use k8s_openapi::api::core::v1::{
    ConfigMap, ConfigMapProjection, DownwardAPIVolumeFile, KeyToPath, Pod, Secret, SecretProjection,
};

use crate::pod::fields::{self, FieldError, NodeFacts};

/// What a file holds, and its mode.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct File {
    pub(crate) content: Vec<u8>,
    pub(crate) mode: u32,
}

/// The files of a volume, by their path within it.
pub(crate) type Payload = BTreeMap<PathBuf, File>;

/// Why a volume's files cannot be had. The texts are those that events show.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum PayloadError {
    #[error("{kind} \"{name}\" not found")]
    Missing { kind: &'static str, name: String },
    #[error("references non-existent config key: {key}")]
    NoConfigKey { key: String },
    #[error("references non-existent secret key: {key}")]
    NoSecretKey { key: String },
    #[error("invalid path {0:?}: must be relative and not contain '..'")]
    BadPath(String),
    #[error(transparent)]
    Field(#[from] FieldError),
}

/// Adds a file; a path that would lead out of the volume is refused.
fn add(payload: &mut Payload, path: &str, content: Vec<u8>, mode: u32) -> Result<(), PayloadError> {
    let path_buf = Path::new(path);
    let inside = !path.is_empty()
        && path_buf
            .components()
            .all(|part| matches!(part, Component::Normal(_)));
    if !inside {
        return Err(PayloadError::BadPath(path.to_owned()));
    }
    payload.insert(path_buf.to_owned(), File { content, mode });
    Ok(())
}

fn mode(own: Option<i32>, default: u32) -> u32 {
    own.and_then(|mode| u32::try_from(mode).ok()).unwrap_or(default)
}

/// The files of keyed data: all keys under their own names, or those that `items` name.
fn keyed(
    payload: &mut Payload,
    data: &BTreeMap<&str, &[u8]>,
    items: Option<&Vec<KeyToPath>>,
    optional: bool,
    default_mode: u32,
    missing: impl Fn(String) -> PayloadError,
) -> Result<(), PayloadError> {
    let Some(items) = items.filter(|items| !items.is_empty()) else {
        for (key, value) in data {
            add(payload, key, value.to_vec(), default_mode)?;
        }
        return Ok(());
    };
    for item in items {
        match data.get(item.key.as_str()) {
            Some(value) => add(payload, &item.path, value.to_vec(), mode(item.mode, default_mode))?,
            None if optional => {}
            None => return Err(missing(item.key.clone())),
        }
    }
    Ok(())
}

/// Adds a ConfigMap's files.
pub(crate) fn config_map(
    payload: &mut Payload,
    wanted: &ConfigMapProjection,
    object: Option<&ConfigMap>,
    default_mode: u32,
) -> Result<(), PayloadError> {
    let optional = wanted.optional.unwrap_or(false);
    let Some(object) = object else {
        let missing = PayloadError::Missing {
            kind: "configmap",
            name: wanted.name.clone(),
        };
        return if optional { Ok(()) } else { Err(missing) };
    };
    let text = object
        .data
        .iter()
        .flatten()
        .map(|(key, value)| (key.as_str(), value.as_bytes()));
    let binary = object
        .binary_data
        .iter()
        .flatten()
        .map(|(key, value)| (key.as_str(), value.0.as_slice()));
    let data = text.chain(binary).collect();
    keyed(
        payload,
        &data,
        wanted.items.as_ref(),
        optional,
        default_mode,
        |key| PayloadError::NoConfigKey { key },
    )
}

/// Adds a Secret's files.
pub(crate) fn secret(
    payload: &mut Payload,
    wanted: &SecretProjection,
    object: Option<&Secret>,
    default_mode: u32,
) -> Result<(), PayloadError> {
    let optional = wanted.optional.unwrap_or(false);
    let Some(object) = object else {
        let missing = PayloadError::Missing {
            kind: "secret",
            name: wanted.name.clone(),
        };
        return if optional { Ok(()) } else { Err(missing) };
    };
    let data = object
        .data
        .iter()
        .flatten()
        .map(|(key, value)| (key.as_str(), value.0.as_slice()))
        .collect();
    keyed(
        payload,
        &data,
        wanted.items.as_ref(),
        optional,
        default_mode,
        |key| PayloadError::NoSecretKey { key },
    )
}

/// Adds files with fields of the pod.
pub(crate) fn downward(
    payload: &mut Payload,
    pod: &Pod,
    items: &[DownwardAPIVolumeFile],
    node: &NodeFacts,
    default_mode: u32,
) -> Result<(), PayloadError> {
    for item in items {
        let text = if let Some(field) = &item.field_ref {
            fields::field(pod, &field.field_path, node)?
        } else if let Some(resource) = &item.resource_field_ref {
            fields::resource(pod, None, resource, node)?
        } else {
            String::new()
        };
        add(
            payload,
            &item.path,
            text.into_bytes(),
            mode(item.mode, default_mode),
        )?;
    }
    Ok(())
}

/// Adds a token.
pub(crate) fn token(payload: &mut Payload, path: &str, token: &str, mode: u32) -> Result<(), PayloadError> {
    add(payload, path, token.as_bytes().to_vec(), mode)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn shown(payload: &Payload) -> Vec<String> {
        let line = |(path, file): (&PathBuf, &File)| {
            format!(
                "{} {:o} {}",
                path.display(),
                file.mode,
                String::from_utf8_lossy(&file.content)
            )
        };
        payload.iter().map(line).collect()
    }

    #[test]
    fn keys_become_files_under_their_own_or_given_names() {
        let object: ConfigMap =
            serde_json::from_value(json!({"data": {"a": "1", "b": "2"}})).expect("an object");
        let all: ConfigMapProjection = serde_json::from_value(json!({"name": "m"})).expect("a source");
        let mut payload = Payload::new();
        config_map(&mut payload, &all, Some(&object), 0o644).expect("files");
        assert_eq!(shown(&payload), ["a 644 1", "b 644 2"]);
        let some = json!({"name": "m", "items": [{"key": "b", "path": "dir/c", "mode": 0o400}]});
        let some: ConfigMapProjection = serde_json::from_value(some).expect("a source");
        let mut payload = Payload::new();
        config_map(&mut payload, &some, Some(&object), 0o644).expect("files");
        assert_eq!(shown(&payload), ["dir/c 400 2"]);
    }

    #[test]
    fn what_is_missing_is_named_unless_it_is_optional() {
        let wanted = |optional: bool| -> SecretProjection {
            let wanted = json!({"name": "s", "optional": optional, "items": [{"key": "k", "path": "p"}]});
            serde_json::from_value(wanted).expect("a source")
        };
        let empty = Secret::default();
        let error = |object: Option<&Secret>| {
            secret(&mut Payload::new(), &wanted(false), object, 0o644).map_err(|error| error.to_string())
        };
        assert_eq!(error(None), Err("secret \"s\" not found".to_owned()));
        assert_eq!(
            error(Some(&empty)),
            Err("references non-existent secret key: k".to_owned())
        );
        for object in [None, Some(&empty)] {
            assert_eq!(secret(&mut Payload::new(), &wanted(true), object, 0o644), Ok(()));
        }
    }

    #[test]
    fn no_path_leads_out_of_the_volume() {
        for path in ["../x", "/x", "", "a/../../x", "."] {
            assert!(token(&mut Payload::new(), path, "t", 0o600).is_err(), "{path}");
        }
    }
}
