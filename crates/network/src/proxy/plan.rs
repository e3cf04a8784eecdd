//! What has to change in the table when services change.
//!
//! Pure: [`State`] holds what the table is to hold, takes new service ports, and returns the difference as
//! an ordered list of [`Change`]s, which [`super::encode`] turns into one transaction. Its cost depends on
//! what changes, not on how many services there are.

use super::pool::{Frontend, Pool, Target, arrange, compile};
use super::service::{Protocol, ServicePort, ServicePortKey};
use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddrV4;

/// What the table holds for all services.
#[derive(Debug, Default)]
pub(crate) struct State {
    services: BTreeMap<ServicePortKey, ServicePort>,
    pools: BTreeMap<String, Pool>,
    /// Who wants a frontend. Nothing keeps two services from naming one external address; the first by name
    /// gets it, and the next one when that goes.
    claims: BTreeMap<Frontend, BTreeMap<ServicePortKey, Target>>,
}

/// A difference, to be carried out in the order of the list.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Change {
    AddPool(Pool),
    UpdatePool {
        old: Pool,
        new: Pool,
    },
    SetFrontend {
        frontend: Frontend,
        old: Option<Target>,
        new: Option<Target>,
    },
    RemovePool(Pool),
}

/// Connections over UDP that must be forgotten, because the kernel would keep sending their packets where
/// they went before: UDP has no end of connection, and a client that goes on keeps its entry alive.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Stale {
    /// Endpoints that receive nothing any more.
    pub(crate) endpoints: BTreeSet<SocketAddrV4>,
    /// Frontends that nothing served before.
    pub(crate) frontends: BTreeSet<Frontend>,
}

impl State {
    /// Takes in service ports that are new or have changed (`Some`) or are gone (`None`).
    pub(crate) fn apply(
        &mut self,
        updates: impl IntoIterator<Item = (ServicePortKey, Option<ServicePort>)>,
    ) -> Vec<Change> {
        let (mut added, mut removed) = (Vec::new(), Vec::new());
        let mut frontends_before = BTreeMap::new();
        for (key, new) in updates {
            let old = match &new {
                Some(port) => self.services.insert(key.clone(), port.clone()),
                None => self.services.remove(&key),
            };
            if old == new {
                continue;
            }
            let old = old.map(|port| compile(&key, &port)).unwrap_or_default();
            let new = new.map(|port| compile(&key, &port)).unwrap_or_default();
            for (frontend, _) in old.frontends.iter().chain(&new.frontends) {
                frontends_before
                    .entry(*frontend)
                    .or_insert_with(|| self.target(frontend));
            }
            self.change_claims(&key, old.frontends, new.frontends);
            // A pool that names another one comes after it, and goes before it.
            let gone = old
                .pools
                .iter()
                .rev()
                .filter(|pool| !new.pools.iter().any(|kept| kept.name == pool.name));
            removed.extend(gone.filter_map(|pool| self.pools.remove(&pool.name)));
            added.extend(new.pools.into_iter().filter_map(|pool| self.put_pool(pool)));
        }
        let frontends = frontends_before.into_iter().filter_map(|(frontend, old)| {
            let new = self.target(&frontend);
            (old != new).then_some(Change::SetFrontend { frontend, old, new })
        });
        added.extend(frontends);
        added.extend(removed.into_iter().map(Change::RemovePool));
        added
    }

    /// All service ports.
    pub(crate) fn services(&self) -> &BTreeMap<ServicePortKey, ServicePort> {
        &self.services
    }

    fn target(&self, frontend: &Frontend) -> Option<Target> {
        self.claims
            .get(frontend)?
            .first_key_value()
            .map(|(_, target)| target.clone())
    }

    fn change_claims(
        &mut self,
        key: &ServicePortKey,
        old: Vec<(Frontend, Target)>,
        new: Vec<(Frontend, Target)>,
    ) {
        for (frontend, _) in old {
            if let Some(claims) = self.claims.get_mut(&frontend) {
                claims.remove(key);
                if claims.is_empty() {
                    self.claims.remove(&frontend);
                }
            }
        }
        for (frontend, target) in new {
            self.claims
                .entry(frontend)
                .or_default()
                .insert(key.clone(), target);
        }
    }

    fn put_pool(&mut self, mut pool: Pool) -> Option<Change> {
        let Some(old) = self.pools.get(&pool.name) else {
            self.pools.insert(pool.name.clone(), pool.clone());
            return Some(Change::AddPool(pool));
        };
        pool.endpoints = arrange(&old.endpoints, &pool.endpoints);
        if *old == pool {
            return None;
        }
        let old = self.pools.insert(pool.name.clone(), pool.clone())?;
        Some(Change::UpdatePool { old, new: pool })
    }
}

/// Which UDP connections the changes make stale.
pub(crate) fn stale(changes: &[Change]) -> Stale {
    let mut stale = Stale::default();
    for change in changes {
        match change {
            Change::UpdatePool { old, new } if old.protocol == Protocol::Udp => {
                stale
                    .endpoints
                    .extend(old.endpoints.iter().filter(|gone| !new.endpoints.contains(gone)));
            }
            Change::RemovePool(pool) if pool.protocol == Protocol::Udp => {
                stale.endpoints.extend(&pool.endpoints);
            }
            Change::SetFrontend {
                frontend,
                old: None,
                new: Some(_),
            } if frontend.protocol() == Protocol::Udp => {
                stale.frontends.insert(*frontend);
            }
            _ => {}
        }
    }
    stale
}

impl Stale {
    pub(crate) fn is_empty(&self) -> bool {
        self.endpoints.is_empty() && self.frontends.is_empty()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::proxy::service::{Endpoint, TrafficPolicy};
    use std::net::Ipv4Addr;

    fn key(service: &str) -> ServicePortKey {
        ServicePortKey {
            namespace: "default".into(),
            service: service.into(),
            port: String::new(),
        }
    }

    fn port(ip: u8, endpoints: &[u8]) -> ServicePort {
        let endpoint = |last: &u8| SocketAddrV4::new(Ipv4Addr::new(10, 244, 0, *last), 80);
        ServicePort {
            cluster_ips: vec![Ipv4Addr::new(10, 96, 0, ip)],
            external_ips: Vec::new(),
            protocol: Protocol::Udp,
            port: 80,
            node_port: None,
            host_port: None,
            endpoints: endpoints
                .iter()
                .map(|e| Endpoint {
                    address: endpoint(e),
                    local: true,
                })
                .collect(),
            affinity: None,
            external_policy: TrafficPolicy::Cluster,
            internal_policy: TrafficPolicy::Cluster,
        }
    }

    fn lasts(endpoints: &[SocketAddrV4]) -> Vec<u8> {
        endpoints
            .iter()
            .map(|endpoint| endpoint.ip().octets()[3])
            .collect()
    }

    fn check(state: &mut State, updates: Vec<(&str, Option<ServicePort>)>, expected: &[&str]) -> Vec<Change> {
        let changes = state.apply(updates.into_iter().map(|(service, port)| (key(service), port)));
        let seen: Vec<String> = changes
            .iter()
            .map(|change| match change {
                Change::AddPool(pool) => format!("add {} {:?}", pool.name, lasts(&pool.endpoints)),
                Change::UpdatePool { old, new } => {
                    format!(
                        "change {} {:?} {:?}",
                        new.name,
                        lasts(&old.endpoints),
                        lasts(&new.endpoints)
                    )
                }
                Change::SetFrontend { frontend, old, new } => {
                    let at = match frontend {
                        Frontend::Address { address, .. } => address.octets()[3].into(),
                        Frontend::NodePort { port, .. } => *port,
                    };
                    let name =
                        |target: &Option<Target>| target.as_ref().map_or("-".into(), |t| t.pool.clone());
                    format!("lead {at} from {} to {}", name(old), name(new))
                }
                Change::RemovePool(pool) => format!("remove {}", pool.name),
            })
            .collect();
        assert_eq!(seen, expected);
        changes
    }

    #[test]
    fn a_service_comes_changes_and_goes_with_exactly_the_changes_it_needs() {
        let mut state = State::default();
        let pool = "all/default/a/";
        check(
            &mut state,
            vec![("a", Some(port(5, &[1, 2])))],
            &["add all/default/a/ [1, 2]", "lead 5 from - to all/default/a/"],
        );
        check(&mut state, vec![("a", Some(port(5, &[2, 1])))], &[]);
        check(
            &mut state,
            vec![("a", Some(port(5, &[1, 2, 3])))],
            &[&format!("change {pool} [1, 2] [1, 2, 3]")],
        );
        check(
            &mut state,
            vec![("a", Some(port(5, &[2, 3])))],
            &[&format!("change {pool} [1, 2, 3] [3, 2]")],
        );
        check(
            &mut state,
            vec![("a", Some(port(6, &[2, 3])))],
            &[
                &format!("lead 5 from {pool} to -"),
                &format!("lead 6 from - to {pool}"),
            ],
        );
        check(
            &mut state,
            vec![("a", Some(port(6, &[])))],
            &[&format!("lead 6 from {pool} to -"), &format!("remove {pool}")],
        );
        check(&mut state, vec![("a", None)], &[]);
        check(&mut state, vec![("a", None)], &[]);
        assert!(state.services.is_empty() && state.pools.is_empty() && state.claims.is_empty());
    }

    #[test]
    fn a_frontend_that_two_services_claim_goes_to_the_first_by_name_and_then_to_the_next() {
        let mut state = State::default();
        check(
            &mut state,
            vec![("b", Some(port(5, &[1])))],
            &["add all/default/b/ [1]", "lead 5 from - to all/default/b/"],
        );
        check(
            &mut state,
            vec![("a", Some(port(5, &[2])))],
            &[
                "add all/default/a/ [2]",
                "lead 5 from all/default/b/ to all/default/a/",
            ],
        );
        check(
            &mut state,
            vec![("a", None)],
            &[
                "lead 5 from all/default/a/ to all/default/b/",
                "remove all/default/a/",
            ],
        );
    }

    #[test]
    fn an_address_may_move_from_one_service_to_another_in_one_transaction() {
        let mut state = State::default();
        state.apply([(key("a"), Some(port(5, &[1])))]);
        check(
            &mut state,
            vec![("a", None), ("b", Some(port(5, &[1])))],
            &[
                "add all/default/b/ [1]",
                "lead 5 from all/default/a/ to all/default/b/",
                "remove all/default/a/",
            ],
        );
    }

    #[test]
    fn a_pool_that_names_another_is_removed_first() {
        let mut state = State::default();
        let local = ServicePort {
            external_policy: TrafficPolicy::Local,
            node_port: Some(30080),
            host_port: None,
            ..port(5, &[1])
        };
        check(
            &mut state,
            vec![("a", Some(local))],
            &[
                "add all/default/a/ [1]",
                "add external/default/a/ [1]",
                "lead 5 from - to all/default/a/",
                "lead 30080 from - to external/default/a/",
            ],
        );
        check(
            &mut state,
            vec![("a", None)],
            &[
                "lead 5 from all/default/a/ to -",
                "lead 30080 from external/default/a/ to -",
                "remove external/default/a/",
                "remove all/default/a/",
            ],
        );
    }

    #[test]
    fn udp_connections_are_stale_when_their_endpoint_is_gone_or_their_frontend_is_new() {
        let mut state = State::default();
        let endpoint = |last| SocketAddrV4::new(Ipv4Addr::new(10, 244, 0, last), 80);
        let frontend = Frontend::Address {
            address: Ipv4Addr::new(10, 96, 0, 5),
            protocol: Protocol::Udp,
            port: 80,
        };
        let of = |state: &mut State, port: Option<ServicePort>| stale(&state.apply([(key("a"), port)]));
        let expected = Stale {
            frontends: [frontend].into(),
            ..Stale::default()
        };
        assert_eq!(of(&mut state, Some(port(5, &[1, 2]))), expected);
        let expected = Stale {
            endpoints: [endpoint(1)].into(),
            ..Stale::default()
        };
        assert_eq!(of(&mut state, Some(port(5, &[2, 3]))), expected);
        let expected = Stale {
            endpoints: [endpoint(2), endpoint(3)].into(),
            ..Stale::default()
        };
        assert_eq!(of(&mut state, None), expected);
        let tcp = ServicePort {
            protocol: Protocol::Tcp,
            ..port(5, &[1])
        };
        assert!(of(&mut state, Some(tcp)).is_empty());
        assert!(of(&mut state, None).is_empty());
    }
}
