//! Services for this node's processes and pods: from Services and EndpointSlices to the proxy's
//! rules and the names of cluster DNS.
//!
//! One look at a service computes both. Looks are driven by events, one key at a time, in order; many
//! changes at once become one transaction.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{Ipv4Addr, SocketAddrV4};
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::{Service, ServicePort as ApiPort};
use k8s_openapi::api::discovery::v1::{Endpoint as ApiEndpoint, EndpointPort, EndpointSlice};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use stead_informer::{Informers, Key};
use stead_network::dns::{HeadlessEndpoint, Port, ServiceRecords, Zone};
use stead_network::{Applied, Endpoint, Protocol, Proxy, ServicePort, ServicePortKey, TrafficPolicy};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

/// The label with the name of a slice's service.
const SERVICE_NAME: &str = "kubernetes.io/service-name";
/// `sessionAffinityConfig.clientIP.timeoutSeconds` where it is not given.
const AFFINITY_SECONDS: u64 = 10_800;

/// Where services are served.
pub(crate) struct Place {
    /// The node's name.
    pub(crate) node: String,
    /// Whether load balancers are open to other machines, by the node's own ports.
    pub(crate) is_exposed: bool,
}

/// Keeps proxy and names in step with the API.
pub(crate) struct Services {
    informers: Informers,
    place: Place,
    proxy: Proxy,
    zone: Arc<Zone>,
    changed: mpsc::UnboundedReceiver<Key>,
    /// What each service has in the proxy.
    ports: BTreeMap<Key, BTreeSet<ServicePortKey>>,
}

impl Services {
    /// Hears of changes from now on. To be made before the informers run.
    pub(crate) fn new(informers: &Informers, place: Place, proxy: Proxy, zone: Arc<Zone>) -> Services {
        let (sender, changed) = mpsc::unbounded_channel();
        let services = sender.clone();
        informers.services.on_change(move |change| {
            // The receiver is gone only when the node goes down.
            let _ = services.send(Key::of(&**change.object()));
        });
        informers.slices.on_change(move |change| {
            if let Some(key) = service_of(&change.object().metadata) {
                let _ = sender.send(key);
            }
        });
        Services {
            informers: informers.clone(),
            place,
            proxy,
            zone,
            changed,
            ports: BTreeMap::new(),
        }
    }

    /// Works until cancelled. The first rules are written when the informers hold all there is, so
    /// that services of a former process of the server are never without theirs.
    pub(crate) async fn run(mut self, shutdown: CancellationToken) {
        self.informers.services.synced().await;
        self.informers.slices.synced().await;
        while self.changed.try_recv().is_ok() {}
        self.look_at_all();
        loop {
            let first = tokio::select! {
                () = shutdown.cancelled() => return,
                key = self.changed.recv() => key,
            };
            let Some(first) = first else { return };
            let mut keys = BTreeSet::from([first]);
            while let Ok(key) = self.changed.try_recv() {
                keys.insert(key);
            }
            self.look_at(&keys);
        }
    }

    fn look_at_all(&mut self) {
        let all: Vec<Key> = self
            .informers
            .services
            .all()
            .iter()
            .map(|service| Key::of(&**service))
            .collect();
        let mut rules = BTreeMap::new();
        for key in all {
            let own = self.rules(&key);
            self.ports.insert(key, own.keys().cloned().collect());
            rules.extend(own);
        }
        let applied = self.proxy.replace(rules);
        report(applied);
    }

    fn look_at(&mut self, keys: &BTreeSet<Key>) {
        let mut updates: BTreeMap<ServicePortKey, Option<ServicePort>> = BTreeMap::new();
        for key in keys {
            let rules = self.rules(key);
            let before = self.ports.remove(key).unwrap_or_default();
            updates.extend(before.into_iter().map(|port| (port, None)));
            if !rules.is_empty() {
                self.ports.insert(key.clone(), rules.keys().cloned().collect());
            }
            updates.extend(rules.into_iter().map(|(port, rule)| (port, Some(rule))));
        }
        let applied = self.proxy.update(updates);
        report(applied);
    }

    /// A service's rules for the proxy. Its names are set on the way.
    fn rules(&self, key: &Key) -> BTreeMap<ServicePortKey, ServicePort> {
        let Some(service) = self.informers.services.get(key) else {
            self.zone.remove_service(&key.namespace, &key.name);
            return BTreeMap::new();
        };
        let slices: Vec<Arc<EndpointSlice>> = self
            .informers
            .slices
            .in_namespace(&key.namespace)
            .into_iter()
            .filter(|slice| service_of(&slice.metadata).as_ref() == Some(key) && slice.address_type == "IPv4")
            .collect();
        match records(&service, &slices) {
            Some(records) => self.zone.set_service(&key.namespace, &key.name, records),
            None => {
                self.zone.remove_service(&key.namespace, &key.name);
            }
        }
        rules(&service, &slices, &self.place)
    }
}

fn report(applied: Result<Applied, stead_network::NftError>) {
    match applied {
        Ok(applied) => {
            for taken in applied.taken_ports {
                tracing::warn!(
                    service = %taken.key,
                    port = taken.port,
                    error = %taken.source,
                    "a node port is not served on 127.0.0.1: another program has it"
                );
            }
        }
        Err(error) => tracing::error!(%error, "the rules of services were not written"),
    }
}

fn service_of(meta: &ObjectMeta) -> Option<Key> {
    let name = meta.labels.as_ref()?.get(SERVICE_NAME)?;
    Some(Key::new(meta.namespace.clone().unwrap_or_default(), name.clone()))
}

fn protocol(text: Option<&str>) -> Protocol {
    match text {
        Some("UDP") => Protocol::Udp,
        Some("SCTP") => Protocol::Sctp,
        _ => Protocol::Tcp,
    }
}

fn number(port: i32) -> Option<u16> {
    u16::try_from(port).ok().filter(|port| *port != 0)
}

fn addresses<'a>(list: impl IntoIterator<Item = &'a String>) -> Vec<Ipv4Addr> {
    list.into_iter()
        .filter_map(|address| address.parse().ok())
        .collect()
}

/// What the proxy is to do for a service. Pure.
fn rules(
    service: &Service,
    slices: &[Arc<EndpointSlice>],
    place: &Place,
) -> BTreeMap<ServicePortKey, ServicePort> {
    let Some(spec) = &service.spec else {
        return BTreeMap::new();
    };
    let cluster_ips = addresses(spec.cluster_ips.iter().flatten());
    if spec.type_.as_deref() == Some("ExternalName") || cluster_ips.is_empty() {
        return BTreeMap::new();
    }
    let ingress = service
        .status
        .iter()
        .flat_map(|status| status.load_balancer.iter())
        .flat_map(|lb| lb.ingress.iter().flatten());
    let mut external_ips = addresses(spec.external_ips.iter().flatten());
    let balanced = addresses(ingress.filter_map(|ingress| ingress.ip.as_ref()));
    // Who has an address has the machine's ports, too: see the controller that gives both.
    let is_opened = place.is_exposed && !balanced.is_empty() && spec.load_balancer_class.is_none();
    external_ips.extend(balanced);
    let policy = |policy: Option<&str>| {
        if policy == Some("Local") {
            TrafficPolicy::Local
        } else {
            TrafficPolicy::Cluster
        }
    };
    let affinity = (spec.session_affinity.as_deref() == Some("ClientIP")).then(|| {
        let config = spec
            .session_affinity_config
            .as_ref()
            .and_then(|config| config.client_ip.as_ref());
        let seconds = config
            .and_then(|config| config.timeout_seconds)
            .and_then(|seconds| u64::try_from(seconds).ok());
        Duration::from_secs(seconds.unwrap_or(AFFINITY_SECONDS))
    });
    let rule = |port: &ApiPort| {
        let name = port.name.clone().unwrap_or_default();
        let key = ServicePortKey {
            namespace: service.metadata.namespace.clone().unwrap_or_default(),
            service: service.metadata.name.clone().unwrap_or_default(),
            port: name.clone(),
        };
        let rule = ServicePort {
            cluster_ips: cluster_ips.clone(),
            external_ips: external_ips.clone(),
            protocol: protocol(port.protocol.as_deref()),
            port: number(port.port)?,
            node_port: port.node_port.and_then(number),
            host_port: number(port.port).filter(|_| is_opened),
            endpoints: endpoints(slices, &name, &place.node),
            affinity,
            external_policy: policy(spec.external_traffic_policy.as_deref()),
            internal_policy: policy(spec.internal_traffic_policy.as_deref()),
        };
        Some((key, rule))
    };
    spec.ports.iter().flatten().filter_map(rule).collect()
}

/// The endpoints behind a port: those that are ready; where none is, those that still serve while
/// they terminate (KEP-1669).
fn endpoints(slices: &[Arc<EndpointSlice>], port_name: &str, node_name: &str) -> Vec<Endpoint> {
    let ready = |endpoint: &ApiEndpoint| endpoint.conditions.as_ref().and_then(|c| c.ready).unwrap_or(true);
    let serving = |endpoint: &ApiEndpoint| {
        let conditions = endpoint.conditions.clone().unwrap_or_default();
        conditions.serving.unwrap_or(false) && conditions.terminating.unwrap_or(false)
    };
    let chosen = |test: &dyn Fn(&ApiEndpoint) -> bool| -> Vec<Endpoint> {
        let mut found = Vec::new();
        for slice in slices {
            let Some(port) = port_of(slice, port_name) else {
                continue;
            };
            for endpoint in slice.endpoints.iter().flatten().filter(|endpoint| test(endpoint)) {
                let local = endpoint.node_name.as_deref() == Some(node_name);
                found.extend(
                    addresses(&endpoint.addresses)
                        .into_iter()
                        .map(|address| Endpoint {
                            address: SocketAddrV4::new(address, port),
                            local,
                        }),
                );
            }
        }
        found.sort_by_key(|endpoint| endpoint.address);
        found.dedup_by_key(|endpoint| endpoint.address);
        found
    };
    let ready = chosen(&ready);
    if ready.is_empty() { chosen(&serving) } else { ready }
}

fn port_of(slice: &EndpointSlice, name: &str) -> Option<u16> {
    let named = |port: &&EndpointPort| port.name.as_deref().unwrap_or_default() == name;
    slice
        .ports
        .iter()
        .flatten()
        .find(named)
        .and_then(|port| port.port)
        .and_then(number)
}

/// The names of a service. Pure.
fn records(service: &Service, slices: &[Arc<EndpointSlice>]) -> Option<ServiceRecords> {
    let spec = service.spec.as_ref()?;
    if spec.type_.as_deref() == Some("ExternalName") {
        return Some(ServiceRecords::External(spec.external_name.clone()?));
    }
    let cluster_ips = addresses(spec.cluster_ips.iter().flatten());
    if !cluster_ips.is_empty() {
        let ports = spec.ports.iter().flatten().filter_map(|port| {
            Some(Port {
                name: port.name.clone().unwrap_or_default(),
                protocol: protocol(port.protocol.as_deref()),
                port: number(port.port)?,
            })
        });
        return Some(ServiceRecords::ClusterIp {
            addresses: cluster_ips,
            ports: ports.collect(),
        });
    }
    if spec.cluster_ip.as_deref() != Some("None") {
        return None;
    }
    let mut endpoints = Vec::new();
    for slice in slices {
        let ports: Vec<Port> = slice
            .ports
            .iter()
            .flatten()
            .filter_map(|port| {
                Some(Port {
                    name: port.name.clone().unwrap_or_default(),
                    protocol: protocol(port.protocol.as_deref()),
                    port: port.port.and_then(number)?,
                })
            })
            .collect();
        for endpoint in slice.endpoints.iter().flatten() {
            let ready = endpoint
                .conditions
                .as_ref()
                .and_then(|conditions| conditions.ready)
                .unwrap_or(true);
            if !ready {
                continue;
            }
            endpoints.extend(
                addresses(&endpoint.addresses)
                    .into_iter()
                    .map(|address| HeadlessEndpoint {
                        address,
                        hostname: endpoint.hostname.clone(),
                        ports: ports.clone(),
                    }),
            );
        }
    }
    Some(ServiceRecords::Headless(endpoints))
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn place() -> Place {
        Place {
            node: "n1".to_owned(),
            is_exposed: false,
        }
    }

    fn service(spec: Value) -> Service {
        serde_json::from_value(json!({"metadata": {"name": "web", "namespace": "n"}, "spec": spec}))
            .expect("a service")
    }

    fn slice(endpoints: Value) -> Arc<EndpointSlice> {
        Arc::new(
            serde_json::from_value(json!({
                "metadata": {"name": "web-x", "namespace": "n", "labels": {SERVICE_NAME: "web"}},
                "addressType": "IPv4",
                "ports": [{"name": "http", "port": 8080, "protocol": "TCP"}],
                "endpoints": endpoints,
            }))
            .expect("a slice"),
        )
    }

    fn targets(rules: &BTreeMap<ServicePortKey, ServicePort>) -> Vec<String> {
        rules
            .values()
            .flat_map(|rule| {
                rule.endpoints
                    .iter()
                    .map(|e| format!("{}{}", e.address, if e.local { "*" } else { "" }))
            })
            .collect()
    }

    #[test]
    fn a_services_ready_endpoints_are_served() {
        let service = service(json!({
            "type": "NodePort", "clusterIP": "10.96.0.7", "clusterIPs": ["10.96.0.7"],
            "ports": [{"name": "http", "port": 80, "nodePort": 30080}],
        }));
        let slices = [slice(json!([
            {"addresses": ["10.244.0.3"], "nodeName": "n1", "conditions": {"ready": true}},
            {"addresses": ["10.244.0.2"], "nodeName": "n2", "conditions": {"ready": true}},
            {"addresses": ["10.244.0.4"], "conditions": {"ready": false}},
        ]))];
        let rules = rules(&service, &slices, &place());
        assert_eq!(targets(&rules), ["10.244.0.2:8080", "10.244.0.3:8080*"]);
        let rule = rules.values().next().expect("a rule");
        assert_eq!((rule.port, rule.node_port), (80, Some(30080)));
    }

    #[test]
    fn terminating_endpoints_serve_while_nobody_else_does() {
        let service = service(
            json!({"clusterIP": "10.96.0.7", "clusterIPs": ["10.96.0.7"], "ports": [{"name": "http", "port": 80}]}),
        );
        let leaving = json!({"addresses": ["10.244.0.3"], "conditions": {"ready": false, "serving": true, "terminating": true}});
        let alone = rules(&service, &[slice(json!([leaving]))], &place());
        assert_eq!(targets(&alone), ["10.244.0.3:8080"]);
        let ready = json!({"addresses": ["10.244.0.2"], "conditions": {"ready": true}});
        let both = rules(&service, &[slice(json!([leaving, ready]))], &place());
        assert_eq!(targets(&both), ["10.244.0.2:8080"]);
    }

    #[test]
    fn headless_services_have_names_but_no_rules() {
        let service = service(
            json!({"clusterIP": "None", "clusterIPs": ["None"], "ports": [{"name": "http", "port": 80}]}),
        );
        let slices = [slice(
            json!([{"addresses": ["10.244.0.3"], "hostname": "web-0", "conditions": {"ready": true}}]),
        )];
        assert!(rules(&service, &slices, &place()).is_empty());
        let Some(ServiceRecords::Headless(endpoints)) = records(&service, &slices) else {
            panic!("headless")
        };
        assert_eq!(endpoints.len(), 1);
        assert_eq!(endpoints[0].hostname.as_deref(), Some("web-0"));
    }

    #[test]
    fn an_external_name_is_only_a_name() {
        let service = service(json!({"type": "ExternalName", "externalName": "example.com"}));
        assert!(rules(&service, &[], &place()).is_empty());
        assert!(
            matches!(records(&service, &[]), Some(ServiceRecords::External(target)) if target == "example.com")
        );
    }
}
