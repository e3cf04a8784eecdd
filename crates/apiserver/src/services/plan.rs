//! Which addresses and ports a Service gets.
//!
//! Follows `pkg/registry/core/service/storage/alloc.go`; what is free is asked of the caller.

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;

use k8s_openapi::api::core::v1::{Service, ServicePort, ServiceSpec};
use stead_api::error::{Errors, GoSyntax, Path, quote};
use stead_api::kinds::service::{
    allocates_node_ports, is_headless, needs_cluster_ip, needs_health_check_port, needs_node_ports,
};

use super::Held;
use super::range::{AddressRange, PortRange};

const PORT_TAKEN: &str = "provided port is already allocated";

/// Where addresses and ports come from.
pub(super) struct Pools<'a> {
    pub(super) addresses: AddressRange,
    pub(super) ports: PortRange,
    /// Whether someone has it.
    pub(super) is_taken: &'a dyn Fn(Held) -> bool,
    /// A number below another.
    pub(super) random: &'a dyn Fn(u32) -> u32,
}

/// Why a Service gets nothing.
#[derive(Debug)]
pub(super) enum Refused {
    /// It asks for what cannot be had.
    Invalid(Errors),
    /// There is nothing left, or not what the load balancer would need.
    Exhausted(String),
}

/// What a Service has.
pub(super) fn held(service: &Service) -> BTreeSet<Held> {
    let Some(spec) = &service.spec else {
        return BTreeSet::new();
    };
    let addresses = spec
        .cluster_ips
        .iter()
        .flatten()
        .filter_map(|address| address.parse().ok());
    let mut held: BTreeSet<_> = addresses
        .filter(|_| needs_cluster_ip(spec))
        .map(Held::Address)
        .collect();
    if needs_node_ports(spec) {
        held.extend(
            spec.ports
                .iter()
                .flatten()
                .filter_map(node_port)
                .map(Held::NodePort),
        );
    }
    if needs_health_check_port(spec) {
        held.extend(number(spec.health_check_node_port).map(Held::NodePort));
    }
    held
}

fn number(port: Option<i32>) -> Option<u16> {
    port.and_then(|port| u16::try_from(port).ok())
        .filter(|port| *port != 0)
}

fn node_port(port: &ServicePort) -> Option<u16> {
    number(port.node_port)
}

/// Chooses what a Service needs and does not ask for by its value, and checks what it asks for.
/// What it had before is its own.
pub(super) fn complete(
    service: &mut Service,
    old: Option<&Service>,
    pools: &Pools<'_>,
) -> Result<(), Refused> {
    let own = old.map(held).unwrap_or_default();
    let had_node_ports = old
        .and_then(|old| old.spec.as_ref())
        .is_some_and(needs_node_ports);
    let Some(spec) = &mut service.spec else {
        return Ok(());
    };
    let mut operation = Operation {
        pools,
        own,
        ports: BTreeSet::new(),
    };
    if needs_cluster_ip(spec) && !is_headless(spec) {
        operation.cluster_ip(spec)?;
    }
    if needs_node_ports(spec) {
        if old.is_none() {
            operation.node_ports_of_new(spec)?;
        } else {
            operation.node_ports_of_changed(spec, had_node_ports)?;
        }
    }
    if needs_health_check_port(spec) {
        operation.health_check_port(spec)?;
    }
    Ok(())
}

struct Operation<'p> {
    pools: &'p Pools<'p>,
    own: BTreeSet<Held>,
    /// Ports taken so far that the Service did not have before.
    ports: BTreeSet<u16>,
}

impl Operation<'_> {
    fn is_taken(&self, held: Held) -> bool {
        !self.own.contains(&held) && (self.pools.is_taken)(held)
    }

    fn cluster_ip(&self, spec: &mut ServiceSpec) -> Result<(), Refused> {
        let asked = spec.cluster_ips.clone().unwrap_or_default();
        if let Some(address) = asked.first() {
            return self.check_address(address, &asked);
        }
        let mut candidates = self
            .pools
            .addresses
            .bands()
            .candidates(self.pools.random)
            .map(Ipv4Addr::from_bits);
        let free = candidates.find(|address| !(self.pools.is_taken)(Held::Address(*address)));
        let address = free
            .ok_or_else(|| Refused::Exhausted("failed to allocate a serviceIP: range is full".to_owned()))?
            .to_string();
        spec.cluster_ip = Some(address.clone());
        spec.cluster_ips = Some(vec![address]);
        Ok(())
    }

    fn check_address(&self, text: &str, all: &[String]) -> Result<(), Refused> {
        let Ok(address) = text.parse::<Ipv4Addr>() else {
            return Ok(());
        };
        let held = Held::Address(address);
        let range = &self.pools.addresses;
        let why = if self.own.contains(&held) {
            return Ok(());
        } else if !range.contains(address) {
            format!(
                "the provided IP ({address}) is not in the valid range. The range of valid IPs is {range}"
            )
        } else if self.is_taken(held) {
            "provided IP is already allocated".to_owned()
        } else {
            return Ok(());
        };
        let shown: Vec<_> = all.iter().map(|address| quote(address)).collect();
        let shown = GoSyntax(format!("[]string{{{}}}", shown.join(", ")));
        let mut errors = Errors::new();
        let path = Path::new("spec").child("clusterIPs");
        errors.invalid(&path, &shown, &format!("failed to allocate IP {text}: {why}"));
        Err(Refused::Invalid(errors))
    }

    /// Ports of one number, of several protocols, get one node port.
    fn node_ports_of_new(&mut self, spec: &mut ServiceSpec) -> Result<(), Refused> {
        let allocates = allocates_node_ports(spec);
        let Some(ports) = &mut spec.ports else {
            return Ok(());
        };
        let mut by_number: BTreeMap<i32, u16> = BTreeMap::new();
        for at in 0..ports.len() {
            let (port, asked) = (ports[at].port, node_port(&ports[at]));
            if asked.is_none() && !allocates {
                continue;
            }
            match (by_number.get(&port), asked) {
                (Some(shared), None) => ports[at].node_port = Some((*shared).into()),
                (Some(shared), Some(asked)) if *shared == asked => {}
                (Some(_), Some(asked)) => self.take_port(asked).map_err(|why| refuse(at, asked, why))?,
                (None, _) => {
                    let wanted = ports
                        .iter()
                        .filter(|other| other.port == port)
                        .find_map(node_port);
                    let number = match wanted {
                        Some(wanted) => {
                            self.take_port(wanted).map_err(|why| refuse(at, wanted, why))?;
                            wanted
                        }
                        None => self.choose_port("failed to allocate a nodePort")?,
                    };
                    ports[at].node_port = Some(number.into());
                    by_number.insert(port, number);
                }
            }
        }
        Ok(())
    }

    fn node_ports_of_changed(&mut self, spec: &mut ServiceSpec, had: bool) -> Result<(), Refused> {
        let allocates = allocates_node_ports(spec);
        for (at, port) in spec.ports.iter_mut().flatten().enumerate() {
            match node_port(port) {
                Some(asked) if had && self.own.contains(&Held::NodePort(asked)) => {}
                // Another protocol has it already.
                Some(asked) if self.ports.contains(&asked) => {}
                Some(asked) => self.take_port(asked).map_err(|why| refuse(at, asked, why))?,
                None if allocates => {
                    port.node_port = Some(self.choose_port("failed to allocate a nodePort")?.into());
                }
                None => {}
            }
        }
        Ok(())
    }

    fn health_check_port(&mut self, spec: &mut ServiceSpec) -> Result<(), Refused> {
        match number(spec.health_check_node_port) {
            Some(asked) if self.own.contains(&Held::NodePort(asked)) => Ok(()),
            Some(asked) => self.take_port(asked).map_err(|why| {
                Refused::Exhausted(format!(
                    "failed to allocate requested HealthCheck NodePort {asked}: {why}"
                ))
            }),
            None => {
                let port = self.choose_port("failed to allocate a HealthCheck NodePort 0")?;
                spec.health_check_node_port = Some(port.into());
                Ok(())
            }
        }
    }

    /// Takes a port by its number.
    fn take_port(&mut self, port: u16) -> Result<(), String> {
        let range = &self.pools.ports;
        if !range.contains(port) {
            return Err(format!(
                "provided port is not in the valid range. The range of valid ports is {range}"
            ));
        }
        if self.is_taken(Held::NodePort(port)) || !self.ports.insert(port) {
            return Err(PORT_TAKEN.to_owned());
        }
        Ok(())
    }

    /// Chooses one. What the Service had before is not chosen: it may still ask for it.
    fn choose_port(&mut self, failed: &str) -> Result<u16, Refused> {
        let candidates = self.pools.ports.bands().candidates(self.pools.random);
        let mut ports = candidates.filter_map(|port| u16::try_from(port).ok());
        let free = ports.find(|port| {
            let held = Held::NodePort(*port);
            !self.ports.contains(port) && !self.own.contains(&held) && !(self.pools.is_taken)(held)
        });
        let port = free.ok_or_else(|| Refused::Exhausted(format!("{failed}: range is full")))?;
        self.ports.insert(port);
        Ok(port)
    }
}

fn refuse(at: usize, port: u16, why: String) -> Refused {
    let mut errors = Errors::new();
    let path = Path::new("spec").child("ports").index(at).child("nodePort");
    errors.invalid(&path, &i32::from(port), &why);
    Refused::Invalid(errors)
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn service(spec: &Value) -> Service {
        serde_json::from_value(json!({"metadata": {"name": "s"}, "spec": spec})).expect("a service")
    }

    /// What comes of a Service where 10.0.0.5 and 30005 are someone else's.
    fn completed(old: Option<&Value>, new: &Value) -> Result<Value, String> {
        let others = [Held::Address(Ipv4Addr::new(10, 0, 0, 5)), Held::NodePort(30005)];
        let old = old.map(service);
        let own = old.as_ref().map(held).unwrap_or_default();
        let pools = Pools {
            addresses: AddressRange::new((Ipv4Addr::new(10, 0, 0, 0), 29)),
            ports: PortRange::new(30000..=30006),
            is_taken: &|held| others.contains(&held) || own.contains(&held),
            random: &|below| below.saturating_sub(2),
        };
        let mut service = service(new);
        match complete(&mut service, old.as_ref(), &pools) {
            Ok(()) => Ok(json!(service.spec)),
            Err(Refused::Invalid(errors)) => Err(errors.summary()),
            Err(Refused::Exhausted(why)) => Err(why),
        }
    }

    fn node_ports(spec: &Value) -> Vec<i64> {
        let ports = spec["ports"].as_array().into_iter().flatten();
        ports.map(|port| port["nodePort"].as_i64().unwrap_or(0)).collect()
    }

    #[test]
    fn a_service_gets_an_address_of_its_own() {
        let spec = completed(None, &json!({"type": "ClusterIP"})).expect("an address");
        assert_eq!(spec["clusterIP"], "10.0.0.6");
        assert_eq!(spec["clusterIPs"], json!(["10.0.0.6"]));
        for unneeded in [
            json!({"type": "ExternalName"}),
            json!({"type": "ClusterIP", "clusterIP": "None", "clusterIPs": ["None"]}),
        ] {
            assert_eq!(completed(None, &unneeded), Ok(unneeded));
        }
    }

    #[test]
    fn addresses_asked_for_are_in_range_and_free() {
        for (address, expected) in [
            ("10.0.0.1", ""),
            ("10.0.0.5", "provided IP is already allocated"),
            (
                "10.0.0.7",
                "the provided IP (10.0.0.7) is not in the valid range. The range of valid IPs is 10.0.0.0/29",
            ),
        ] {
            let new = json!({"type": "ClusterIP", "clusterIP": address, "clusterIPs": [address]});
            let error = completed(None, &new).err().unwrap_or_default();
            let prefix = format!(
                "spec.clusterIPs: Invalid value: []string{{\"{address}\"}}: failed to allocate IP {address}: "
            );
            assert_eq!(error.strip_prefix(&prefix).unwrap_or(&error), expected);
        }
        let own = json!({"type": "ClusterIP", "clusterIP": "10.0.0.2", "clusterIPs": ["10.0.0.2"]});
        assert_eq!(completed(Some(&own), &own), Ok(own));
    }

    #[test]
    fn node_ports_asked_for_are_in_range_and_free() {
        for (port, expected) in [
            (30001, ""),
            (30005, "provided port is already allocated"),
            (
                80,
                "provided port is not in the valid range. The range of valid ports is 30000-30006",
            ),
        ] {
            let new = json!({"type": "NodePort", "ports": [{"port": 80, "nodePort": port}]});
            let error = completed(None, &new).err().unwrap_or_default();
            let prefix = format!("spec.ports[0].nodePort: Invalid value: {port}: ");
            assert_eq!(error.strip_prefix(&prefix).unwrap_or(&error), expected);
        }
    }

    #[test]
    fn ports_of_one_number_share_a_node_port() {
        let new = json!({"type": "NodePort", "ports": [
            {"name": "a", "port": 53, "protocol": "UDP"}, {"name": "b", "port": 53, "protocol": "TCP"}, {"name": "c", "port": 54}]});
        let ports = node_ports(&completed(None, &new).expect("ports"));
        assert_eq!(ports[0], ports[1]);
        assert_ne!(ports[0], ports[2]);
        let new = json!({"type": "NodePort", "ports": [
            {"name": "a", "port": 53, "protocol": "UDP"}, {"name": "b", "port": 53, "protocol": "TCP", "nodePort": 30003}]});
        assert_eq!(node_ports(&completed(None, &new).expect("ports")), [30003, 30003]);
    }

    #[test]
    fn an_update_keeps_ports_and_chooses_for_new_ones() {
        let old = json!({"type": "NodePort", "ports": [{"name": "a", "port": 1, "nodePort": 30001}]});
        let new = json!({"type": "NodePort", "ports": [{"name": "a", "port": 1, "nodePort": 30001}, {"name": "b", "port": 2}]});
        let ports = node_ports(&completed(Some(&old), &new).expect("ports"));
        assert_eq!(ports[0], 30001);
        assert!(
            (30000..=30006).contains(&ports[1]) && ![30001, 30005].contains(&ports[1]),
            "{ports:?}"
        );
        let cluster_ip = json!({"type": "ClusterIP", "ports": [{"port": 1}]});
        let node_port = json!({"type": "NodePort", "ports": [{"port": 1}]});
        assert_ne!(
            node_ports(&completed(Some(&cluster_ip), &node_port).expect("a port")),
            [0]
        );
    }

    #[test]
    fn load_balancers_need_no_node_ports_but_one_for_health() {
        let spec = json!({"type": "LoadBalancer", "allocateLoadBalancerNodePorts": false,
            "externalTrafficPolicy": "Local", "ports": [{"port": 80}]});
        let spec = completed(None, &spec).expect("a port");
        assert_eq!(node_ports(&spec), [0]);
        let port = spec["healthCheckNodePort"].as_i64().unwrap_or(0);
        assert!((30000..=30006).contains(&port), "{port}");
        assert_eq!(held(&service(&spec)).len(), 2);
    }

    #[test]
    fn ranges_can_be_used_up() {
        let ports: Vec<_> = (0..7)
            .map(|port| json!({"name": format!("p{port}"), "port": port + 1}))
            .collect();
        assert_eq!(
            completed(None, &json!({"type": "NodePort", "ports": ports})),
            Err("failed to allocate a nodePort: range is full".to_owned())
        );
    }
}
