//! The downward API: fields of a pod and resources of its containers, as texts. Pure.
//!
//! Follows "Downward API"; paths that the API server lets through but do not lead anywhere are empty.

use std::net::Ipv4Addr;

use k8s_openapi::api::core::v1::{Container, Pod, ResourceFieldSelector};
use stead_api::quantity::Quantity;

/// What fields and limits need to know of the node.
#[derive(Debug, Clone)]
pub(crate) struct NodeFacts {
    pub(crate) name: String,
    pub(crate) ip: Ipv4Addr,
    /// Stands in for a missing CPU limit, in thousandths of a core.
    pub(crate) allocatable_millicpu: i64,
    /// Stands in for a missing memory limit.
    pub(crate) allocatable_memory_bytes: i64,
}

/// Why a field has no value.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum FieldError {
    #[error("unsupported fieldPath: {0}")]
    Unsupported(String),
    #[error("container {0} not found")]
    NoContainer(String),
    #[error("unsupported container resource : {0}")]
    Resource(String),
    #[error("quantities must be divisible by a divisor above zero")]
    Divisor,
}

impl NodeFacts {
    /// Facts for tests of what only passes them on.
    #[cfg(test)]
    pub(crate) fn for_tests() -> NodeFacts {
        NodeFacts {
            name: "n1".to_owned(),
            ip: Ipv4Addr::new(10, 1, 0, 1),
            allocatable_millicpu: 2000,
            allocatable_memory_bytes: 1 << 30,
        }
    }
}

/// The value of a pod's field.
pub(crate) fn field(pod: &Pod, path: &str, node: &NodeFacts) -> Result<String, FieldError> {
    let meta = &pod.metadata;
    let text = |value: &Option<String>| value.clone().unwrap_or_default();
    let labels = meta.labels.clone().unwrap_or_default();
    let annotations = meta.annotations.clone().unwrap_or_default();
    if let Some((map, key)) = path.strip_suffix(']').and_then(|path| path.split_once('[')) {
        let key = key.trim_matches(|c| c == '\'' || c == '"');
        return match map {
            "metadata.labels" => Ok(labels.get(key).cloned().unwrap_or_default()),
            "metadata.annotations" => Ok(annotations.get(key).cloned().unwrap_or_default()),
            _ => Err(FieldError::Unsupported(path.to_owned())),
        };
    }
    let spec = pod.spec.as_ref();
    let status = pod.status.as_ref();
    Ok(match path {
        "metadata.name" => text(&meta.name),
        "metadata.namespace" => text(&meta.namespace),
        "metadata.uid" => text(&meta.uid),
        "metadata.labels" => lines(&labels),
        "metadata.annotations" => lines(&annotations),
        "spec.nodeName" => node.name.clone(),
        "spec.serviceAccountName" => spec
            .and_then(|spec| spec.service_account_name.clone())
            .unwrap_or_default(),
        "status.hostIP" | "status.hostIPs" => node.ip.to_string(),
        "status.podIP" => status
            .and_then(|status| status.pod_ip.clone())
            .unwrap_or_default(),
        "status.podIPs" => {
            let ips = status
                .and_then(|status| status.pod_ips.as_deref())
                .unwrap_or_default();
            ips.iter().map(|ip| ip.ip.as_str()).collect::<Vec<_>>().join(",")
        }
        _ => return Err(FieldError::Unsupported(path.to_owned())),
    })
}

/// A map as lines of `key="value"`, as the downward API writes it to files.
fn lines(map: &std::collections::BTreeMap<String, String>) -> String {
    let lines: Vec<_> = map
        .iter()
        .map(|(key, value)| format!("{key}={}", stead_api::error::quote(value)))
        .collect();
    lines.join("\n")
}

/// The value of a container's resource. `own` is the container that asks, for references that name
/// none.
pub(crate) fn resource(
    pod: &Pod,
    own: Option<&str>,
    selector: &ResourceFieldSelector,
    node: &NodeFacts,
) -> Result<String, FieldError> {
    let name = selector
        .container_name
        .as_deref()
        .filter(|name| !name.is_empty())
        .or(own)
        .unwrap_or_default();
    let container = find(pod, name).ok_or_else(|| FieldError::NoContainer(name.to_owned()))?;
    let unsupported = || FieldError::Resource(selector.resource.clone());
    let (list, resource) = selector.resource.split_once('.').ok_or_else(unsupported)?;
    let resources = container.resources.as_ref();
    let given = match list {
        "limits" => resources.and_then(|resources| resources.limits.as_ref()),
        "requests" => resources.and_then(|resources| resources.requests.as_ref()),
        _ => return Err(unsupported()),
    };
    let given = given
        .and_then(|list| list.get(resource))
        .and_then(|quantity| quantity.0.parse::<Quantity>().ok());
    let divisor = selector
        .divisor
        .as_ref()
        .and_then(|divisor| divisor.0.parse::<Quantity>().ok());
    let divisor = divisor
        .filter(|divisor| !divisor.is_zero())
        .unwrap_or(Quantity::units(1));
    if divisor.is_negative() {
        return Err(FieldError::Divisor);
    }
    // Without a limit it is what the node has to give.
    let value = match (resource, given) {
        ("cpu", given) => {
            let fallback = if list == "limits" {
                node.allocatable_millicpu
            } else {
                0
            };
            ceil(given.map_or(fallback, Quantity::milli), divisor.milli())
        }
        ("memory", given) => {
            let fallback = if list == "limits" {
                node.allocatable_memory_bytes
            } else {
                0
            };
            ceil(given.map_or(fallback, Quantity::value), divisor.value())
        }
        (_, given) if resource == "ephemeral-storage" || resource.starts_with("hugepages-") => {
            ceil(given.map_or(0, Quantity::value), divisor.value())
        }
        _ => return Err(unsupported()),
    };
    Ok(value.to_string())
}

fn ceil(value: i64, divisor: i64) -> i64 {
    let divisor = divisor.max(1);
    value / divisor + i64::from(value % divisor > 0)
}

fn find<'p>(pod: &'p Pod, name: &str) -> Option<&'p Container> {
    let spec = pod.spec.as_ref()?;
    spec.containers
        .iter()
        .chain(spec.init_containers.iter().flatten())
        .find(|container| container.name == name)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn pod() -> Pod {
        serde_json::from_value(json!({
            "metadata": {"name": "p", "labels": {"app": "web", "tier": "1"}, "annotations": {"a/b": "x"}},
            "spec": {"containers": [
                {"name": "c", "resources": {"limits": {"cpu": "1500m", "memory": "64Mi"}}},
                {"name": "d"},
            ]},
            "status": {"podIP": "10.2.0.3"},
        }))
        .expect("a pod")
    }

    #[test]
    fn fields_are_texts() {
        for (path, expected) in [
            ("metadata.name", "p"),
            ("metadata.labels", "app=\"web\"\ntier=\"1\""),
            ("metadata.labels['app']", "web"),
            ("metadata.annotations['a/b']", "x"),
            ("status.podIP", "10.2.0.3"),
            ("spec.nodeName", "n1"),
        ] {
            assert_eq!(
                field(&pod(), path, &NodeFacts::for_tests()).as_deref(),
                Ok(expected),
                "{path}"
            );
        }
        assert!(field(&pod(), "spec.volumes", &NodeFacts::for_tests()).is_err());
    }

    #[test]
    fn resources_are_divided_and_rounded_up() {
        let of = |container: &str, resource: &str, divisor: &str| {
            let selector = json!({"containerName": container, "resource": resource, "divisor": divisor});
            let selector = serde_json::from_value(selector).expect("a selector");
            resource_of(&selector)
        };
        fn resource_of(selector: &ResourceFieldSelector) -> Result<String, FieldError> {
            resource(&pod(), None, selector, &NodeFacts::for_tests())
        }
        assert_eq!(of("c", "limits.cpu", "1").as_deref(), Ok("2"));
        assert_eq!(of("c", "limits.cpu", "1m").as_deref(), Ok("1500"));
        assert_eq!(of("c", "limits.memory", "1Mi").as_deref(), Ok("64"));
        assert_eq!(of("d", "limits.cpu", "0").as_deref(), Ok("2"));
        assert_eq!(of("d", "requests.cpu", "1").as_deref(), Ok("0"));
        assert_eq!(
            of("x", "limits.cpu", "1"),
            Err(FieldError::NoContainer("x".into()))
        );
        assert!(of("c", "limits.disk", "1").is_err());
    }
}
