//! How Services are reached from this machine.

use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::{Service, ServicePort, ServiceSpec};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use stead_informer::{Informers, Key};
use tokio::sync::watch;

use crate::control::{PortRow, ServiceRow};

/// The label of a slice that names its Service.
const SERVICE_NAME: &str = "kubernetes.io/service-name";

/// The Services of the cluster.
#[derive(Clone)]
pub(crate) struct Services {
    informers: Informers,
    node: Ipv4Addr,
    changed: watch::Receiver<()>,
}

impl Services {
    /// The Services that informers know, which have not begun to watch; `node` is the address of node ports.
    pub(crate) fn new(informers: &Informers, node: Ipv4Addr) -> Services {
        let (changed, receiver) = watch::channel(());
        let changed = Arc::new(changed);
        let of_slices = Arc::clone(&changed);
        informers.services.on_change(move |_| {
            changed.send_replace(());
        });
        informers.slices.on_change(move |_| {
            of_slices.send_replace(());
        });
        Services {
            informers: informers.clone(),
            node,
            changed: receiver,
        }
    }

    /// Hears of changes from now on.
    pub(crate) fn changes(&self) -> watch::Receiver<()> {
        let mut changes = self.changed.clone();
        changes.mark_unchanged();
        changes
    }

    /// All there are, by namespace and name.
    pub(crate) fn all(&self) -> Vec<ServiceRow> {
        let mut services = self.informers.services.all();
        services.sort_by_key(|service| {
            let Key { namespace, name } = Key::of(&**service);
            (namespace, name)
        });
        services.iter().map(|service| self.row(service)).collect()
    }

    /// One of them, as soon as it can be reached, or after a while as it is then.
    pub(crate) async fn get(&self, namespace: &str, name: &str, patience: Duration) -> Option<ServiceRow> {
        let key = Key::new(namespace, name);
        let mut changes = self.changes();
        let ready = async {
            loop {
                let row = self
                    .informers
                    .services
                    .get(&key)
                    .map(|service| self.row(&service));
                if row.is_some_and(|row| row.is_ready()) || changes.changed().await.is_err() {
                    break;
                }
            }
        };
        let _ = tokio::time::timeout(patience, ready).await;
        let service = self.informers.services.get(&key)?;
        Some(self.row(&service))
    }

    fn row(&self, service: &Service) -> ServiceRow {
        let Key { namespace, name } = Key::of(service);
        let slices = self.informers.slices.in_namespace(&namespace);
        let of_service = |slice: &&Arc<EndpointSlice>| {
            let labels = slice.metadata.labels.as_ref();
            labels.and_then(|labels| labels.get(SERVICE_NAME)) == Some(&name)
        };
        let ready = slices.iter().filter(of_service).map(|slice| ready(slice)).sum();
        let spec = service.spec.clone().unwrap_or_default();
        let address = load_balancer(service);
        let ports = spec.ports.iter().flatten();
        let ports = ports.map(|port| port_row(&spec, port, address.as_deref(), self.node));
        ServiceRow {
            ports: ports.collect(),
            kind: spec.type_.unwrap_or_default(),
            is_pending: is_pending(service),
            address,
            namespace,
            name,
            ready,
        }
    }
}

/// How many addresses of a slice take requests.
fn ready(slice: &EndpointSlice) -> usize {
    let endpoints = slice.endpoints.iter().flatten();
    let is_ready = endpoints.filter(|endpoint| {
        let conditions = endpoint.conditions.as_ref();
        conditions.and_then(|conditions| conditions.ready).unwrap_or(true)
    });
    is_ready.count()
}

/// The address that a load balancer serves a Service at.
fn load_balancer(service: &Service) -> Option<String> {
    let status = service.status.as_ref()?.load_balancer.as_ref()?;
    status
        .ingress
        .iter()
        .flatten()
        .find_map(|ingress| ingress.ip.clone())
}

fn is_pending(service: &Service) -> bool {
    let kind = service.spec.as_ref().and_then(|spec| spec.type_.as_deref());
    kind == Some("LoadBalancer") && load_balancer(service).is_none()
}

/// A port, and where it is reached: at the load balancer's address, on the node, or at the Service's own address, all
/// of which this machine has a way to.
fn port_row(spec: &ServiceSpec, port: &ServicePort, balanced: Option<&str>, node: Ipv4Addr) -> PortRow {
    let number = port.port;
    let own = spec.cluster_ip.as_deref();
    let own = own.filter(|address| !matches!(*address, "" | "None"));
    let at = match (balanced, port.node_port.filter(|port| *port != 0), own) {
        (Some(address), _, _) => Some(format!("{address}:{number}")),
        (None, Some(node_port), _) => Some(format!("{node}:{node_port}")),
        (None, None, Some(address)) => Some(format!("{address}:{number}")),
        (None, None, None) => None,
    };
    let named = port.name.as_deref().filter(|name| !name.is_empty());
    PortRow {
        target: named.map_or_else(|| number.to_string(), |name| format!("{name}/{number}")),
        url: at.map(|at| format!("{}://{at}", scheme(port))),
        port: u16::try_from(number).unwrap_or_default(),
        is_tcp: matches!(port.protocol.as_deref(), None | Some("TCP")),
    }
}

fn scheme(port: &ServicePort) -> &'static str {
    let is_named = |of: &Option<String>| of.as_deref().is_some_and(|of| of.eq_ignore_ascii_case("https"));
    match port.protocol.as_deref() {
        Some("UDP") => "udp",
        Some("SCTP") => "sctp",
        _ if is_named(&port.name) || is_named(&port.app_protocol) || port.port == 443 => "https",
        _ => "http",
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn url(spec: Value, balanced: Option<&str>) -> Option<String> {
        let spec: ServiceSpec = serde_json::from_value(spec).expect("a spec");
        let port = &spec.ports.as_ref().expect("ports")[0];
        port_row(&spec, port, balanced, Ipv4Addr::new(10, 0, 0, 9)).url
    }

    #[test]
    fn a_service_is_reached_at_its_best_address() {
        let spec = |port: Value| json!({"clusterIP": "10.96.0.7", "ports": [port]});
        let cases = [
            (
                spec(json!({"port": 80})),
                Some("10.1.0.1"),
                Some("http://10.1.0.1:80"),
            ),
            (
                spec(json!({"port": 80, "nodePort": 30080})),
                None,
                Some("http://10.0.0.9:30080"),
            ),
            (spec(json!({"port": 80})), None, Some("http://10.96.0.7:80")),
            (
                spec(json!({"port": 8443, "name": "https"})),
                None,
                Some("https://10.96.0.7:8443"),
            ),
            (
                spec(json!({"port": 53, "protocol": "UDP"})),
                None,
                Some("udp://10.96.0.7:53"),
            ),
            (json!({"clusterIP": "None", "ports": [{"port": 80}]}), None, None),
        ];
        for (spec, balanced, expected) in cases {
            assert_eq!(url(spec.clone(), balanced).as_deref(), expected, "{spec}");
        }
    }
}
