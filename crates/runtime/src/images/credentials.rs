//! Who asks a registry, and Docker's configuration files, which say so: `auths`, by registry. Programs that keep
//! passwords (`credsStore`) are not run.

use std::collections::BTreeMap;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Serialize};

use super::reference::Reference;

/// Who asks a registry.
#[derive(Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Credentials {
    /// Anyone.
    #[default]
    Anonymous,
    /// A user with a password; exchanged for a token where the registry wants one.
    Basic {
        /// The user's name.
        username: String,
        /// The password.
        password: String,
    },
    /// The bearer of a token.
    Token(String),
}

/// A `~/.docker/config.json`, as `docker login` writes it; secrets of type `kubernetes.io/dockerconfigjson` are such.
#[derive(Default, Deserialize)]
pub struct DockerConfig {
    #[serde(default)]
    auths: BTreeMap<String, Auth>,
}

#[derive(Deserialize)]
struct Auth {
    username: Option<String>,
    password: Option<String>,
    auth: Option<String>,
}

impl DockerConfig {
    /// Reads one.
    ///
    /// # Errors
    /// When it is not JSON of that form.
    pub fn parse(json: &[u8]) -> serde_json::Result<Self> {
        serde_json::from_slice(json)
    }

    /// Reads one of the older form, `.dockercfg`, which has the registries only.
    ///
    /// # Errors
    /// When it is not JSON of that form.
    pub fn parse_cfg(json: &[u8]) -> serde_json::Result<Self> {
        serde_json::from_slice(json).map(|auths| Self { auths })
    }

    /// Whom it names for an image's registry.
    pub fn credentials(&self, image: &Reference) -> Option<Credentials> {
        let mut auths = self.auths.iter();
        let (_, auth) = auths.find(|(registry, _)| is_for(registry, image.domain()))?;
        basic(auth)
    }
}

/// Whether an entry is for a registry.
fn is_for(entry: &str, domain: &str) -> bool {
    let host = entry.trim_start_matches("https://").trim_start_matches("http://");
    let host = host.split('/').next().unwrap_or_default();
    let is_hub = |host: &str| matches!(host, "docker.io" | "index.docker.io" | "registry-1.docker.io");
    host == domain || (is_hub(host) && is_hub(domain))
}

fn basic(auth: &Auth) -> Option<Credentials> {
    if let (Some(username), Some(password)) = (&auth.username, &auth.password) {
        return Some(Credentials::Basic {
            username: username.clone(),
            password: password.clone(),
        });
    }
    let decoded = STANDARD.decode(auth.auth.as_ref()?).ok()?;
    let text = String::from_utf8(decoded).ok()?;
    let (username, password) = text.split_once(':')?;
    Some(Credentials::Basic {
        username: username.to_owned(),
        password: password.to_owned(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_of_a_docker_configuration_are_matched_by_host() {
        for (entry, domain, expected) in [
            ("https://index.docker.io/v1/", "docker.io", true),
            ("registry.example.com", "registry.example.com", true),
            (
                "https://registry.example.com:5000/v2/",
                "registry.example.com:5000",
                true,
            ),
            ("registry.example.com", "docker.io", false),
        ] {
            assert_eq!(is_for(entry, domain), expected, "{entry} {domain}");
        }
    }

    #[test]
    fn credentials_are_given_plainly_or_encoded() {
        let image: Reference = "registry.example.com/app:1".parse().expect("a name");
        let asks = |auth: &str| {
            let config = format!(r#"{{"auths":{{"registry.example.com":{auth}}}}}"#);
            let config = DockerConfig::parse(config.as_bytes()).expect("a configuration");
            config.credentials(&image)
        };
        let is_jane = |credentials: Option<Credentials>| matches!(credentials, Some(Credentials::Basic { username, password }) if username == "jane" && password == "s3:cret");
        assert!(is_jane(asks(r#"{"username":"jane","password":"s3:cret"}"#)));
        assert!(is_jane(asks(r#"{"auth":"amFuZTpzMzpjcmV0"}"#)));
        assert!(asks("{}").is_none());
        let older = br#"{"registry.example.com":{"auth":"amFuZTpzMzpjcmV0"}}"#;
        let older = DockerConfig::parse_cfg(older).expect("a configuration");
        assert!(is_jane(older.credentials(&image)));
    }
}
