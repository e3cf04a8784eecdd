//! A proxy on a test machine.

use super::namespace::Namespace;
use crate::{Endpoint, Network, Protocol, Proxy, ServicePort, ServicePortKey, TrafficPolicy};
use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::time::Duration;
use tokio::runtime::Runtime;

/// Far less than the second after which TCP tries again.
pub(super) const AT_ONCE: Duration = Duration::from_millis(500);
pub(super) const CLUSTER_IP: SocketAddrV4 = SocketAddrV4::new(Ipv4Addr::new(10, 96, 0, 50), 8080);
pub(super) const NODE_PORT: u16 = 30080;

pub(super) fn key(service: &str) -> ServicePortKey {
    ServicePortKey {
        namespace: "default".into(),
        service: service.into(),
        port: "http".into(),
    }
}

pub(super) fn service(endpoints: &[SocketAddrV4]) -> ServicePort {
    let endpoint = |address: &SocketAddrV4| Endpoint {
        address: *address,
        local: true,
    };
    ServicePort {
        cluster_ips: vec![*CLUSTER_IP.ip()],
        external_ips: Vec::new(),
        protocol: Protocol::Tcp,
        port: CLUSTER_IP.port(),
        node_port: None,
        host_port: None,
        endpoints: endpoints.iter().map(endpoint).collect(),
        affinity: None,
        external_policy: TrafficPolicy::Cluster,
        internal_policy: TrafficPolicy::Cluster,
    }
}

/// A proxy with the runtime of its tasks, all of whose calls are made on the machine.
pub(super) struct Proxied<'h> {
    host: &'h Namespace,
    pub(super) proxy: Proxy,
    _runtime: Runtime,
}

impl<'h> Proxied<'h> {
    pub(super) fn new(host: &'h Namespace, network: &Network) -> Self {
        // Tasks make sockets, too.
        let runtime = host.run(|| {
            tokio::runtime::Builder::new_multi_thread()
                .worker_threads(1)
                .enable_all()
                .build()
                .unwrap()
        });
        let proxy = Proxy::new(network, runtime.handle().clone());
        Self {
            host,
            proxy,
            _runtime: runtime,
        }
    }

    pub(super) fn set(&mut self, name: &str, service: ServicePort) -> crate::Applied {
        self.host
            .run(|| self.proxy.update([(key(name), Some(service))]).unwrap())
    }

    pub(super) fn replace(&mut self, services: BTreeMap<ServicePortKey, ServicePort>) -> crate::Applied {
        self.host.run(|| self.proxy.replace(services).unwrap())
    }
}

pub(super) fn ask_times(from: &Namespace, server: SocketAddrV4, times: usize) -> Vec<String> {
    (0..times).map(|_| from.who(server).unwrap()).collect()
}
