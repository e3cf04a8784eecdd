//! The ports of the node that a pod takes (`hostPort`).

use k8s_openapi::api::core::v1::{Container, PodSpec};

/// A port of the node that a container takes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostPort {
    address: String,
    protocol: String,
    port: i32,
}

impl HostPort {
    /// Whether two cannot be on one node.
    pub fn conflicts(&self, other: &HostPort) -> bool {
        const ANY: &str = "0.0.0.0";
        self.port == other.port
            && self.protocol == other.protocol
            && (self.address == other.address || self.address == ANY || other.address == ANY)
    }
}

/// The ports of the node that a pod's containers take, while they run.
pub fn host_ports(spec: &PodSpec) -> Vec<HostPort> {
    let is_sidecar = |container: &&Container| container.restart_policy.as_deref() == Some("Always");
    let sidecars = spec.init_containers.iter().flatten().filter(is_sidecar);
    let ports = spec
        .containers
        .iter()
        .chain(sidecars)
        .flat_map(|container| container.ports.iter().flatten());
    let given = |field: &Option<String>, default: &str| {
        let text = field.as_deref().filter(|text| !text.is_empty());
        text.unwrap_or(default).to_owned()
    };
    ports
        .filter_map(|port| {
            Some(HostPort {
                port: port.host_port.filter(|port| *port > 0)?,
                address: given(&port.host_ip, "0.0.0.0"),
                protocol: given(&port.protocol, "TCP"),
            })
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn host_ports_conflict_on_the_same_address() {
        let port = |port: i32, address: &str, protocol: &str| HostPort {
            address: address.to_owned(),
            protocol: protocol.to_owned(),
            port,
        };
        let web = port(80, "0.0.0.0", "TCP");
        for (other, expected) in [
            (port(80, "0.0.0.0", "TCP"), true),
            (port(80, "10.0.0.1", "TCP"), true),
            (port(81, "0.0.0.0", "TCP"), false),
            (port(80, "0.0.0.0", "UDP"), false),
        ] {
            assert_eq!(web.conflicts(&other), expected, "{other:?}");
        }
        assert!(!port(80, "10.0.0.2", "TCP").conflicts(&port(80, "10.0.0.1", "TCP")));
        let spec = json!({"containers": [{"name": "c", "ports": [{"containerPort": 1}, {"hostPort": 80}]}]});
        let spec: PodSpec = serde_json::from_value(spec).expect("a spec");
        assert_eq!(host_ports(&spec), [web]);
    }
}
