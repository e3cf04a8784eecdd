//! Pulling images for containers, by policy ("Images": image pull policy, `imagePullSecrets`).

use std::time::{Duration, Instant};

use jiff::SignedDuration;
use k8s_openapi::api::core::v1::{Pod, Secret};
use kube::Api;
use serde::Deserialize;
use stead_informer::EventType;
use stead_runtime::images::{Credentials, ImageInfo, PullOptions, Reference};

use crate::node::Node;
use crate::pod::observed::Image;

/// Why a container has no image: the reason and message of its waiting state.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ImageError {
    pub(crate) reason: &'static str,
    pub(crate) message: String,
}

/// Makes sure that an image is here, as the policy wants it, and records the events that tell of it
/// through `record`.
pub(crate) async fn ensure(
    node: &Node,
    pod: &Pod,
    name: &str,
    policy: &str,
    record: impl Fn(EventType, &str, String),
) -> Result<Image, ImageError> {
    let reference: Reference = name.parse().map_err(|error| {
        let message = format!("Failed to apply default image tag \"{name}\": {error}");
        record(EventType::Warning, "InspectFailed", message.clone());
        refuse("InvalidImageName", message, &record)
    })?;
    let present = node.images.resolve(name).ok().flatten();
    match (policy, present) {
        ("IfNotPresent" | "Never", Some(info)) => {
            let message = format!(
                "Container image \"{name}\" already present on machine and can be accessed by the pod"
            );
            record(EventType::Normal, "Pulled", message);
            return Ok(image(&reference, &info));
        }
        ("Never", None) => {
            let message = format!("Container image \"{name}\" is not present with pull policy of Never");
            record(EventType::Warning, "ErrImageNeverPull", message.clone());
            return Err(refuse("ErrImageNeverPull", message, &record));
        }
        _ => {}
    }
    record(EventType::Normal, "Pulling", format!("Pulling image \"{name}\""));
    let started = Instant::now();
    let options = PullOptions {
        credentials: credentials(node, pod, &reference).await,
        insecure_registries: node.config.insecure_registries.clone(),
        progress: None,
    };
    match node.images.pull(&reference, &options).await {
        Ok(id) => {
            let info = node.images.resolve(&id.to_string()).ok().flatten();
            let took = seconds(started.elapsed());
            let bytes = info.as_ref().map_or(0, |info| info.bytes);
            let message = format!(
                "Successfully pulled image \"{name}\" in {took} ({took} including waiting). Image size: {bytes} bytes."
            );
            record(EventType::Normal, "Pulled", message);
            Ok(info.map_or_else(
                || Image {
                    name: reference.resolved().to_string(),
                    id: id.to_string(),
                },
                |info| image(&reference, &info),
            ))
        }
        Err(error) => {
            let message = error.to_string();
            record(
                EventType::Warning,
                "Failed",
                format!("Failed to pull image \"{name}\": {message}"),
            );
            Err(refuse("ErrImagePull", message, &record))
        }
    }
}

fn refuse(reason: &'static str, message: String, record: &impl Fn(EventType, &str, String)) -> ImageError {
    record(EventType::Warning, "Failed", format!("Error: {reason}"));
    ImageError { reason, message }
}

/// An image as a container's status shows it.
fn image(reference: &Reference, info: &ImageInfo) -> Image {
    let id = info
        .repo_digests
        .first()
        .cloned()
        .unwrap_or_else(|| info.id.to_string());
    Image {
        name: reference.resolved().to_string(),
        id,
    }
}

/// An image by its id, for a container that runs already.
pub(crate) fn known(name: &str, id: &str) -> Image {
    let name = name
        .parse::<Reference>()
        .map_or_else(|_| name.to_owned(), |reference| reference.resolved().to_string());
    Image {
        name,
        id: id.to_owned(),
    }
}

fn seconds(took: Duration) -> String {
    let millis = SignedDuration::try_from(took).map_or(0, |took| took.as_millis());
    if millis < 1000 {
        format!("{millis}ms")
    } else {
        format!("{}.{:03}s", millis / 1000, millis % 1000)
    }
}

#[derive(Deserialize)]
struct DockerConfig {
    #[serde(default)]
    auths: std::collections::BTreeMap<String, Auth>,
}

#[derive(Deserialize)]
struct Auth {
    username: Option<String>,
    password: Option<String>,
    auth: Option<String>,
}

/// The credentials for an image among the pod's pull secrets.
async fn credentials(node: &Node, pod: &Pod, reference: &Reference) -> Credentials {
    let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
    let api: Api<Secret> = Api::namespaced(node.client.clone(), namespace);
    let secrets = pod
        .spec
        .iter()
        .flat_map(|spec| spec.image_pull_secrets.iter().flatten());
    for secret in secrets {
        // A secret that is not there is no reason not to try without.
        let Ok(Some(secret)) = api.get_opt(&secret.name).await else {
            continue;
        };
        let data = secret.data.unwrap_or_default();
        let config = match (data.get(".dockerconfigjson"), data.get(".dockercfg")) {
            (Some(json), _) => serde_json::from_slice::<DockerConfig>(&json.0).ok(),
            (None, Some(json)) => serde_json::from_slice(&json.0)
                .ok()
                .map(|auths| DockerConfig { auths }),
            (None, None) => None,
        };
        let Some(config) = config else { continue };
        let found = config
            .auths
            .iter()
            .find(|(registry, _)| is_for(registry, reference.domain()));
        if let Some(credentials) = found.and_then(|(_, auth)| basic(auth)) {
            return credentials;
        }
    }
    Credentials::Anonymous
}

/// Whether an entry of a Docker configuration is for a registry.
fn is_for(entry: &str, domain: &str) -> bool {
    let host = entry.trim_start_matches("https://").trim_start_matches("http://");
    let host = host.split('/').next().unwrap_or_default();
    let is_hub = |host: &str| matches!(host, "docker.io" | "index.docker.io" | "registry-1.docker.io");
    host == domain || (is_hub(host) && is_hub(domain))
}

fn basic(auth: &Auth) -> Option<Credentials> {
    use base64::Engine as _;
    if let (Some(username), Some(password)) = (&auth.username, &auth.password) {
        return Some(Credentials::Basic {
            username: username.clone(),
            password: password.clone(),
        });
    }
    let decoded = base64::engine::general_purpose::STANDARD
        .decode(auth.auth.as_ref()?)
        .ok()?;
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
        let auth = |json: &str| basic(&serde_json::from_str::<Auth>(json).expect("an entry"));
        let is_jane = |credentials: Option<Credentials>| matches!(credentials, Some(Credentials::Basic { username, password }) if username == "jane" && password == "s3:cret");
        assert!(is_jane(auth(r#"{"username":"jane","password":"s3:cret"}"#)));
        assert!(is_jane(auth(r#"{"auth":"amFuZTpzMzpjcmV0"}"#)));
        assert!(auth("{}").is_none());
    }
}
