//! The pods of a service, as its endpoints see them.

use std::net::IpAddr;
use std::sync::Arc;

use k8s_openapi::api::core::v1::{ObjectReference, Pod, Service, ServicePort, ServiceSpec};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use stead_informer::semantics::pods::{has_ended, ready_since};

/// What is known of a pod's node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum NodeView {
    /// It is not there, or not yet.
    Missing,
    /// It is there.
    Here {
        /// The label `topology.kubernetes.io/zone`.
        zone: Option<String>,
    },
}

/// A service and the pods that it selects.
pub(super) struct View<'a> {
    pub(super) service: &'a Service,
    pub(super) spec: &'a ServiceSpec,
    pub(super) pods: &'a [Arc<Pod>],
    pub(super) node: &'a dyn Fn(&str) -> NodeView,
}

impl View<'_> {
    pub(super) fn service_name(&self) -> &str {
        self.service.metadata.name.as_deref().unwrap_or_default()
    }

    pub(super) fn publishes_not_ready(&self) -> bool {
        self.spec.publish_not_ready_addresses == Some(true)
    }

    /// Whether the service has no address of its own.
    pub(super) fn is_headless(&self) -> bool {
        matches!(self.spec.cluster_ip.as_deref(), None | Some("" | "None"))
    }

    /// The ports of the service.
    pub(super) fn ports(&self) -> &[ServicePort] {
        self.spec.ports.as_deref().unwrap_or_default()
    }

    /// The pods that have an address and have not ended.
    pub(super) fn members(&self) -> impl Iterator<Item = &Pod> {
        self.pods
            .iter()
            .map(Arc::as_ref)
            .filter(|pod| !has_ended(pod) && !addresses(pod).is_empty())
    }

    /// The name that a pod has under a headless service ("Pod's hostname and subdomain fields").
    pub(super) fn hostname(&self, pod: &Pod) -> Option<String> {
        let spec = pod.spec.as_ref()?;
        let is_ours = spec.subdomain.as_deref() == Some(self.service_name());
        spec.hostname
            .clone()
            .filter(|hostname| is_ours && !hostname.is_empty())
    }
}

/// The number that a service's port has on a pod; a port that is asked for by name may be missing.
pub(super) fn find_port(pod: &Pod, port: &ServicePort) -> Option<i32> {
    let name = match &port.target_port {
        None => return Some(port.port),
        Some(IntOrString::Int(number)) => return Some(*number),
        Some(IntOrString::String(name)) => name,
    };
    let spec = pod.spec.as_ref()?;
    let sidecars = spec.init_containers.iter().flatten();
    let sidecars = sidecars.filter(|container| container.restart_policy.as_deref() == Some("Always"));
    let ports = spec
        .containers
        .iter()
        .chain(sidecars)
        .flat_map(|container| container.ports.iter().flatten());
    let protocol = |protocol: &Option<String>| protocol.clone().unwrap_or_else(|| "TCP".to_owned());
    ports
        .filter(|candidate| candidate.name.as_ref() == Some(name))
        .find(|candidate| protocol(&candidate.protocol) == protocol(&port.protocol))
        .map(|candidate| candidate.container_port)
}

/// The addresses of a pod that can be read.
pub(super) fn addresses(pod: &Pod) -> Vec<IpAddr> {
    let Some(status) = &pod.status else {
        return Vec::new();
    };
    match status.pod_ips.as_deref() {
        None | Some([]) => status.pod_ip.iter().filter_map(|ip| ip.parse().ok()).collect(),
        Some(ips) => ips.iter().filter_map(|ip| ip.ip.parse().ok()).collect(),
    }
}

pub(super) fn is_ready(pod: &Pod) -> bool {
    ready_since(pod).is_some()
}

pub(super) fn is_terminating(pod: &Pod) -> bool {
    pod.metadata.deletion_timestamp.is_some()
}

/// The node that a pod runs on.
pub(super) fn node_name(pod: &Pod) -> Option<&str> {
    pod.spec
        .as_ref()?
        .node_name
        .as_deref()
        .filter(|name| !name.is_empty())
}

/// An endpoint's reference to its pod.
pub(super) fn target(pod: &Pod) -> ObjectReference {
    ObjectReference {
        kind: Some("Pod".to_owned()),
        namespace: pod.metadata.namespace.clone(),
        name: pod.metadata.name.clone(),
        uid: pod.metadata.uid.clone(),
        ..ObjectReference::default()
    }
}

/// Whether a change of a pod can change the endpoints of its services. Most changes cannot: status
/// updates of containers, annotations.
pub(super) fn differs(old: &Pod, new: &Pod) -> bool {
    let names = |pod: &Pod| {
        let spec = pod.spec.as_ref();
        (
            spec.and_then(|spec| spec.hostname.clone()),
            spec.and_then(|spec| spec.subdomain.clone()),
        )
    };
    old.metadata.labels != new.metadata.labels
        || old.metadata.uid != new.metadata.uid
        || is_terminating(old) != is_terminating(new)
        || is_ready(old) != is_ready(new)
        || has_ended(old) != has_ended(new)
        || addresses(old) != addresses(new)
        || node_name(old) != node_name(new)
        || names(old) != names(new)
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn pod(extra: Value) -> Pod {
        let mut pod = json!({"metadata": {"name": "p"}, "spec": {"containers": [
            {"name": "c", "ports": [
                {"name": "http", "containerPort": 8080},
                {"name": "dns", "containerPort": 53, "protocol": "UDP"},
            ]},
        ], "initContainers": [
            {"name": "setup", "ports": [{"name": "setup", "containerPort": 1}]},
            {"name": "side", "restartPolicy": "Always", "ports": [{"name": "side", "containerPort": 2}]},
        ]}});
        if let (Value::Object(pod), Value::Object(extra)) = (&mut pod, extra) {
            pod.extend(extra);
        }
        serde_json::from_value(pod).expect("a pod")
    }

    #[test]
    fn a_target_port_is_a_number_or_a_name_of_the_pods() {
        for (port, expected) in [
            (json!({"port": 80}), Some(80)),
            (json!({"port": 80, "targetPort": 8081}), Some(8081)),
            (
                json!({"port": 80, "targetPort": "http", "protocol": "TCP"}),
                Some(8080),
            ),
            (json!({"port": 80, "targetPort": "dns"}), None),
            (
                json!({"port": 80, "targetPort": "dns", "protocol": "UDP"}),
                Some(53),
            ),
            (json!({"port": 80, "targetPort": "side"}), Some(2)),
            (json!({"port": 80, "targetPort": "setup"}), None),
        ] {
            let shown = port.to_string();
            let port = serde_json::from_value(port).expect("a port");
            assert_eq!(find_port(&pod(json!({})), &port), expected, "{shown}");
        }
    }

    #[test]
    fn only_what_endpoints_show_makes_a_difference() {
        let status = |ready: &str, ip: &str| json!({"status": {"podIP": ip, "conditions": [{"type": "Ready", "status": ready}]}});
        let old = pod(status("False", "10.0.0.1"));
        assert!(differs(&old, &pod(status("True", "10.0.0.1"))));
        assert!(differs(&old, &pod(status("False", "10.0.0.2"))));
        let mut annotated = old.clone();
        annotated.metadata.annotations = Some([("a".to_owned(), "b".to_owned())].into());
        assert!(!differs(&old, &annotated));
    }
}
