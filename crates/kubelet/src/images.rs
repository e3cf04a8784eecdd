//! Pulling images for containers, by policy ("Images": image pull policy, `imagePullSecrets`).

use std::time::{Duration, Instant};

use jiff::SignedDuration;
use k8s_openapi::api::core::v1::{Pod, Secret};
use kube::Api;
use stead_informer::EventType;
use stead_runtime::images::{Credentials, DockerConfig, ImageInfo, PullOptions, Reference};

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
            (Some(json), _) => DockerConfig::parse(&json.0).ok(),
            (None, Some(json)) => DockerConfig::parse_cfg(&json.0).ok(),
            (None, None) => None,
        };
        if let Some(credentials) = config.and_then(|config| config.credentials(reference)) {
            return credentials;
        }
    }
    Credentials::Anonymous
}
