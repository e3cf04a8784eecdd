//! From service ports to what the table holds for them: pools of endpoints, and frontends that lead there.
//!
//! Pure. A pool is a chain that picks an endpoint; a frontend is an address or node port, and leads to a
//! pool. A service port has up to three pools, because policies let different clients have different ones.

use super::service::{Endpoint, Protocol, ServicePort, ServicePortKey, TrafficPolicy};
use std::collections::HashSet;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::time::Duration;

/// A chain that picks one of some endpoints.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Pool {
    /// The name of the chain and of its map and set.
    pub(crate) name: String,
    pub(crate) protocol: Protocol,
    /// In the order they take turns. Which order does not matter, but it should seldom change.
    pub(crate) endpoints: Vec<SocketAddrV4>,
    pub(crate) affinity: Option<Duration>,
    /// The pool for clients inside the cluster, if they get another one.
    pub(crate) for_insiders: Option<String>,
}

/// What clients connect to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Frontend {
    Address {
        address: Ipv4Addr,
        protocol: Protocol,
        port: u16,
    },
    NodePort {
        protocol: Protocol,
        port: u16,
    },
}

/// Where a frontend leads.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Target {
    pub(crate) pool: String,
    /// Whether clients from outside are answered through this node.
    pub(crate) external: bool,
}

/// Everything the table holds for one service port.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Compiled {
    /// A pool comes after the one it names.
    pub(crate) pools: Vec<Pool>,
    pub(crate) frontends: Vec<(Frontend, Target)>,
}

/// Works out what serves `port`. Pools and frontends that would lead nowhere are left out, so that their
/// packets are refused.
pub(crate) fn compile(key: &ServicePortKey, port: &ServicePort) -> Compiled {
    let mut compiled = Compiled::default();
    // What a pool consists of in the table depends on affinity, so one with it is another pool.
    let sticky = if port.affinity.is_some() { "-sticky" } else { "" };
    let all = compiled.add_pool(format!("all{sticky}/{key}"), port, |_| true, None);
    let internal = match port.internal_policy {
        TrafficPolicy::Cluster => all.clone(),
        TrafficPolicy::Local => compiled.add_pool(
            format!("local{sticky}/{key}"),
            port,
            |endpoint| endpoint.local,
            None,
        ),
    };
    let external = match port.external_policy {
        _ if port.external_ips.is_empty() && port.node_port.is_none() && port.host_port.is_none() => None,
        TrafficPolicy::Cluster => all,
        TrafficPolicy::Local => compiled.add_pool(
            format!("external{sticky}/{key}"),
            port,
            |endpoint| endpoint.local,
            all,
        ),
    };
    if let Some(pool) = internal {
        for address in &port.cluster_ips {
            let frontend = Frontend::Address {
                address: *address,
                protocol: port.protocol,
                port: port.port,
            };
            compiled.frontends.push((
                frontend,
                Target {
                    pool: pool.clone(),
                    external: false,
                },
            ));
        }
    }
    if let Some(pool) = external {
        let target = Target {
            pool,
            external: port.external_policy == TrafficPolicy::Cluster,
        };
        for address in &port.external_ips {
            let frontend = Frontend::Address {
                address: *address,
                protocol: port.protocol,
                port: port.port,
            };
            compiled.frontends.push((frontend, target.clone()));
        }
        for on_node in port.node_port.iter().chain(&port.host_port) {
            let frontend = Frontend::NodePort {
                protocol: port.protocol,
                port: *on_node,
            };
            compiled.frontends.push((frontend, target.clone()));
        }
    }
    compiled.drop_unused_pools();
    compiled
}

/// The order of `new` endpoints that differs from `old` in the fewest places: who stays keeps its place,
/// who comes takes the place of one that goes, and the last ones fill the places that are still empty.
pub(crate) fn arrange(old: &[SocketAddrV4], new: &[SocketAddrV4]) -> Vec<SocketAddrV4> {
    let staying: HashSet<_> = new.iter().collect();
    let mut known: HashSet<_> = old.iter().collect();
    let mut arrivals = new.iter().filter(|endpoint| known.insert(endpoint)).copied();
    let mut places: Vec<Option<SocketAddrV4>> = old
        .iter()
        .map(|endpoint| {
            if staying.contains(endpoint) {
                Some(*endpoint)
            } else {
                arrivals.next()
            }
        })
        .collect();
    places.extend(arrivals.map(Some));
    loop {
        while places.last() == Some(&None) {
            places.pop();
        }
        let Some(empty) = places.iter().position(Option::is_none) else {
            break;
        };
        places[empty] = places.pop().flatten();
    }
    places.into_iter().flatten().collect()
}

impl Frontend {
    pub(crate) fn protocol(self) -> Protocol {
        match self {
            Self::Address { protocol, .. } | Self::NodePort { protocol, .. } => protocol,
        }
    }
}

impl Compiled {
    /// Adds a pool, unless it would lead nowhere, and returns its name.
    fn add_pool(
        &mut self,
        name: String,
        port: &ServicePort,
        belongs: impl Fn(&Endpoint) -> bool,
        for_insiders: Option<String>,
    ) -> Option<String> {
        let chosen: Vec<_> = port
            .endpoints
            .iter()
            .filter(|endpoint| belongs(endpoint))
            .collect();
        if chosen.is_empty() && for_insiders.is_none() {
            return None;
        }
        let endpoints = arrange(
            &[],
            &chosen.iter().map(|endpoint| endpoint.address).collect::<Vec<_>>(),
        );
        self.pools.push(Pool {
            name: name.clone(),
            protocol: port.protocol,
            endpoints,
            affinity: port.affinity,
            for_insiders,
        });
        Some(name)
    }

    fn drop_unused_pools(&mut self) {
        let used: Vec<String> = (self.frontends.iter().map(|(_, target)| &target.pool))
            .chain(self.pools.iter().filter_map(|pool| pool.for_insiders.as_ref()))
            .cloned()
            .collect();
        self.pools.retain(|pool| used.contains(&pool.name));
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn endpoint(last: u8) -> SocketAddrV4 {
        SocketAddrV4::new(Ipv4Addr::new(10, 244, 0, last), 80)
    }

    fn key() -> ServicePortKey {
        ServicePortKey {
            namespace: "default".into(),
            service: "web".into(),
            port: "http".into(),
        }
    }

    /// A service with one cluster IP, one external IP and a node port; even endpoints are local.
    fn port(endpoints: &[u8]) -> ServicePort {
        let endpoints = endpoints.iter().map(|last| Endpoint {
            address: endpoint(*last),
            local: last % 2 == 0,
        });
        ServicePort {
            cluster_ips: vec![Ipv4Addr::new(10, 96, 0, 5)],
            external_ips: vec![Ipv4Addr::new(10, 160, 0, 5)],
            protocol: Protocol::Tcp,
            port: 80,
            node_port: Some(30080),
            host_port: None,
            endpoints: endpoints.collect(),
            affinity: None,
            external_policy: TrafficPolicy::Cluster,
            internal_policy: TrafficPolicy::Cluster,
        }
    }

    /// The pools as `name: endpoints [insiders]`, and where the cluster IP, the external IP and the node
    /// port lead.
    fn check(port: &ServicePort, pools: &[&str], frontends: [&str; 3]) {
        let compiled = compile(&key(), port);
        let seen: Vec<String> = compiled
            .pools
            .iter()
            .map(|pool| {
                let endpoints: Vec<_> = pool
                    .endpoints
                    .iter()
                    .map(|e| e.ip().octets()[3].to_string())
                    .collect();
                let insiders = pool
                    .for_insiders
                    .as_ref()
                    .map(|name| format!(" else {name}"))
                    .unwrap_or_default();
                format!("{}: {}{insiders}", pool.name, endpoints.join(","))
            })
            .collect();
        assert_eq!(seen, pools, "{port:?}");
        let leads_to = |wanted: Frontend| {
            let target = compiled
                .frontends
                .iter()
                .find(|(frontend, _)| *frontend == wanted);
            target.map_or(String::new(), |(_, Target { pool, external })| {
                format!(
                    "{}{}",
                    pool.split('/').next().unwrap(),
                    if *external { " masqueraded" } else { "" }
                )
            })
        };
        let address = |address: &[Ipv4Addr]| Frontend::Address {
            address: address[0],
            protocol: Protocol::Tcp,
            port: 80,
        };
        let seen = [
            leads_to(address(&port.cluster_ips)),
            leads_to(address(&port.external_ips)),
            leads_to(Frontend::NodePort {
                protocol: Protocol::Tcp,
                port: 30080,
            }),
        ];
        assert_eq!(seen, frontends, "{port:?}");
    }

    #[test]
    fn all_frontends_share_one_pool_unless_policies_differ() {
        check(
            &port(&[1, 2]),
            &["all/default/web/http: 1,2"],
            ["all", "all masqueraded", "all masqueraded"],
        );
    }

    #[test]
    fn a_service_without_endpoints_has_neither_pools_nor_frontends() {
        check(&port(&[]), &[], ["", "", ""]);
    }

    #[test]
    fn local_policies_choose_local_endpoints_and_do_not_masquerade() {
        let external = ServicePort {
            external_policy: TrafficPolicy::Local,
            ..port(&[1, 2])
        };
        let pools = [
            "all/default/web/http: 1,2",
            "external/default/web/http: 2 else all/default/web/http",
        ];
        check(&external, &pools, ["all", "external", "external"]);
        let internal = ServicePort {
            internal_policy: TrafficPolicy::Local,
            ..port(&[1, 2])
        };
        let pools = ["all/default/web/http: 1,2", "local/default/web/http: 2"];
        check(&internal, &pools, ["local", "all masqueraded", "all masqueraded"]);
    }

    #[test]
    fn local_policies_without_local_endpoints_serve_only_insiders() {
        let external = ServicePort {
            external_policy: TrafficPolicy::Local,
            ..port(&[1])
        };
        let pools = [
            "all/default/web/http: 1",
            "external/default/web/http:  else all/default/web/http",
        ];
        check(&external, &pools, ["all", "external", "external"]);
        let internal = ServicePort {
            internal_policy: TrafficPolicy::Local,
            ..port(&[1])
        };
        check(
            &internal,
            &["all/default/web/http: 1"],
            ["", "all masqueraded", "all masqueraded"],
        );
    }

    #[test]
    fn a_pool_that_no_frontend_leads_to_is_left_out() {
        let both = TrafficPolicy::Local;
        let port = ServicePort {
            internal_policy: both,
            external_ips: vec![],
            node_port: None,
            host_port: None,
            ..port(&[1, 2])
        };
        let compiled = compile(&key(), &port);
        assert_eq!(compiled.pools.len(), 1);
        assert_eq!(compiled.pools[0].name, "local/default/web/http");
    }

    #[test]
    fn an_arrangement_changes_as_few_places_as_possible() {
        let cases: [(&[u8], &[u8], &[u8]); 8] = [
            (&[], &[3, 1, 2], &[3, 1, 2]),
            (&[1, 2, 3], &[3, 2, 1], &[1, 2, 3]),
            (&[1, 2, 3], &[1, 2, 3, 4], &[1, 2, 3, 4]),
            (&[1, 2, 3], &[2, 3], &[3, 2]),
            (&[1, 2, 3], &[1, 2], &[1, 2]),
            (&[1, 2, 3], &[4, 2, 3], &[4, 2, 3]),
            (&[1, 2, 3, 4, 5], &[2, 4, 9], &[9, 2, 4]),
            (&[1, 2, 3], &[], &[]),
        ];
        for (old, new, expected) in cases {
            let list = |lasts: &[u8]| lasts.iter().map(|last| endpoint(*last)).collect::<Vec<_>>();
            assert_eq!(
                arrange(&list(old), &list(new)),
                list(expected),
                "{old:?} to {new:?}"
            );
        }
        assert_eq!(arrange(&[], &[endpoint(1), endpoint(1)]), [endpoint(1)]);
    }
}
