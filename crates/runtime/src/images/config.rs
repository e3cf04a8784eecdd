//! What an image says about itself: the part of its configuration document that matters for running it.
//!
//! Docker's and OCI's documents agree on these fields. Everything is optional in them, and `null` is
//! written for empty as often as not.

use std::collections::BTreeMap;

use serde::{Deserialize, Deserializer, Serialize};

/// An image's configuration.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ImageConfig {
    /// Processor architecture, in Go's words (`amd64`).
    #[serde(default)]
    pub architecture: String,
    /// Operating system.
    #[serde(default)]
    pub os: String,
    /// How to run it.
    #[serde(default, deserialize_with = "or_default", rename = "config")]
    pub run: RunConfig,
    /// Its layers.
    #[serde(default)]
    pub rootfs: RootFs,
}

/// How an image wants to be run.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct RunConfig {
    /// The program and its first arguments.
    #[serde(deserialize_with = "or_default")]
    pub entrypoint: Vec<String>,
    /// Further arguments, or the program as well.
    #[serde(deserialize_with = "or_default")]
    pub cmd: Vec<String>,
    /// `NAME=value`.
    #[serde(deserialize_with = "or_default")]
    pub env: Vec<String>,
    /// `user`, `user:group`, `uid` or `uid:gid`; root if empty.
    #[serde(deserialize_with = "or_default")]
    pub user: String,
    /// `/` if empty.
    #[serde(deserialize_with = "or_default")]
    pub working_dir: String,
    /// What to send instead of `SIGTERM`, by name or number; `SIGTERM` if empty.
    #[serde(deserialize_with = "or_default")]
    pub stop_signal: String,
    /// Labels.
    #[serde(deserialize_with = "or_default")]
    pub labels: BTreeMap<String, String>,
}

/// The layers of an image, lowest first.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RootFs {
    /// Digests of the layers' uncompressed archives.
    #[serde(default, deserialize_with = "or_default")]
    pub diff_ids: Vec<String>,
}

fn or_default<'de, D: Deserializer<'de>, T: Deserialize<'de> + Default>(from: D) -> Result<T, D::Error> {
    Ok(Option::deserialize(from)?.unwrap_or_default())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn null_stands_for_empty() {
        let text = r#"{"architecture":"amd64","config":{"Entrypoint":null,"Cmd":["sh"],"Volumes":{"/x":{}},
            "User":null,"Labels":null},"rootfs":{"type":"layers","diff_ids":null},"history":[]}"#;
        let config: ImageConfig = serde_json::from_str(text).unwrap();
        assert_eq!(config.run.cmd, ["sh"]);
        assert_eq!(config.run.entrypoint, [""; 0]);
        assert_eq!(
            serde_json::from_str::<ImageConfig>(r#"{"config":null}"#).unwrap(),
            ImageConfig::default()
        );
    }
}
