//! Which address each Service of type `LoadBalancer` has. Pure.

use std::collections::BTreeMap;
use std::fmt;
use std::net::Ipv4Addr;
use std::ops::RangeInclusive;
use std::sync::Arc;

use k8s_openapi::api::core::v1::{Service, ServicePort};
use stead_informer::Key;

/// What is to be done about a Service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Step {
    /// It gets this address.
    Give(Ipv4Addr),
    /// It has an address that it is not to have any more.
    Take,
    /// It can have none, and why.
    Refuse(String),
}

/// Whether a Service is to have an address of ours. A class names another implementation.
pub(super) fn wants(service: &Service) -> bool {
    let spec = service.spec.as_ref();
    spec.is_some_and(|spec| {
        spec.type_.as_deref() == Some("LoadBalancer") && spec.load_balancer_class.is_none()
    })
}

/// The address that a Service has of a pool.
pub(super) fn held(service: &Service, pool: &RangeInclusive<Ipv4Addr>) -> Option<Ipv4Addr> {
    let status = service.status.as_ref()?.load_balancer.as_ref()?;
    let addresses = status.ingress.iter().flatten();
    addresses
        .filter_map(|ingress| ingress.ip.as_ref()?.parse().ok())
        .find(|address| pool.contains(address))
}

/// Whether a Service has ports of the node.
pub(super) fn has_node_ports(service: &Service) -> bool {
    ports(service).any(|port| port.node_port.is_some())
}

fn ports(service: &Service) -> impl Iterator<Item = &ServicePort> {
    let spec = service.spec.iter();
    spec.flat_map(|spec| spec.ports.iter().flatten())
}

/// Says whether no program of this machine waits at a port of a protocol.
pub(super) type IsFree = dyn Fn(&str, u16) -> bool + Send + Sync;

/// Who has which ports of this machine, where Services are opened by them.
struct HostPorts<'a> {
    /// Says whether no program has a port.
    is_free: &'a IsFree,
    taken: BTreeMap<(String, i32), Key>,
}

/// A port of this machine that is another's.
struct Conflict {
    protocol: String,
    port: i32,
    /// The Service whose it is; else a program's.
    service: Option<Key>,
}

impl fmt::Display for Conflict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "port {}/{} of this machine is that of ",
            self.port, self.protocol
        )?;
        match &self.service {
            Some(service) => write!(f, "Service {service}"),
            None => f.write_str("another program"),
        }
    }
}

impl HostPorts<'_> {
    /// One of the ports that a Service is to have, if it is another's.
    fn conflict(&self, service: &Service) -> Option<Conflict> {
        let key = Key::of(service);
        ports(service).find_map(|port| {
            let (protocol, number) = (protocol(port), port.port);
            let other = self.taken.get(&(protocol.to_owned(), number));
            let is_free = || u16::try_from(number).is_ok_and(|number| (self.is_free)(protocol, number));
            if other == Some(&key) || other.is_none() && is_free() {
                return None;
            }
            Some(Conflict {
                protocol: protocol.to_owned(),
                port: number,
                service: other.cloned(),
            })
        })
    }

    fn take(&mut self, service: &Service) {
        for port in ports(service) {
            let place = (protocol(port).to_owned(), port.port);
            self.taken.entry(place).or_insert_with(|| Key::of(service));
        }
    }
}

fn protocol(port: &ServicePort) -> &str {
    port.protocol.as_deref().unwrap_or("TCP")
}

/// What is to be done, of all Services there are. `exposed` says whether no program has a port of this machine, where
/// Services are opened by such ports.
pub(super) fn plan(
    services: &[Arc<Service>],
    pool: &RangeInclusive<Ipv4Addr>,
    exposed: Option<&IsFree>,
) -> Vec<(Arc<Service>, Step)> {
    let mut taken: BTreeMap<Ipv4Addr, Key> = BTreeMap::new();
    for service in services.iter().filter(|service| wants(service)) {
        if let Some(address) = held(service, pool) {
            taken.entry(address).or_insert_with(|| Key::of(&**service));
        }
    }
    let mut services: Vec<_> = services.iter().collect();
    // Who came first is served first.
    services.sort_by_key(|service| (service.metadata.creation_timestamp.clone(), Key::of(&***service)));
    let mut steps = Vec::new();
    let mut host_ports = exposed.map(|is_free| HostPorts {
        is_free,
        taken: node_ports(&services),
    });
    // Who has its ports keeps them, whoever else came before.
    if let Some(host) = &mut host_ports {
        for service in services
            .iter()
            .filter(|service| wants(service) && held(service, pool).is_some())
        {
            host.take(service);
        }
    }
    for service in services {
        let conflict = host_ports.as_ref().and_then(|host| {
            let is_asked = wants(service) && service.metadata.deletion_timestamp.is_none();
            let is_held = held(service, pool).is_some();
            // A program that came later than the Service takes nothing from it.
            let conflict = is_asked.then(|| host.conflict(service)).flatten()?;
            (!is_held || conflict.service.is_some()).then_some(conflict)
        });
        if let Some(why) = conflict {
            if held(service, pool).is_some() {
                steps.push((Arc::clone(service), Step::Take));
            }
            steps.push((Arc::clone(service), Step::Refuse(why.to_string())));
            continue;
        }
        let step = match (wants(service), held(service, pool)) {
            (false, Some(_)) => Step::Take,
            (true, None) if service.metadata.deletion_timestamp.is_none() => {
                match choose(service, pool, &taken) {
                    Ok(address) => {
                        taken.insert(address, Key::of(&**service));
                        if let Some(host) = &mut host_ports {
                            host.take(service);
                        }
                        Step::Give(address)
                    }
                    Err(why) => Step::Refuse(why),
                }
            }
            _ => continue,
        };
        steps.push((Arc::clone(service), step));
    }
    steps
}

/// The ports of the node that Services have already.
fn node_ports(services: &[&Arc<Service>]) -> BTreeMap<(String, i32), Key> {
    let mut taken = BTreeMap::new();
    for service in services {
        for port in ports(service) {
            if let Some(number) = port.node_port {
                taken.insert((protocol(port).to_owned(), number), Key::of(&***service));
            }
        }
    }
    taken
}

/// The address that a Service asks for, or the first that is free.
fn choose(
    service: &Service,
    pool: &RangeInclusive<Ipv4Addr>,
    taken: &BTreeMap<Ipv4Addr, Key>,
) -> Result<Ipv4Addr, String> {
    let (first, last) = (pool.start(), pool.end());
    let asked = service
        .spec
        .as_ref()
        .and_then(|spec| spec.load_balancer_ip.as_deref());
    if let Some(asked) = asked.filter(|asked| !asked.is_empty()) {
        let address = asked.parse().ok().filter(|address| pool.contains(address));
        let address =
            address.ok_or_else(|| format!("spec.loadBalancerIP {asked} is not within {first} to {last}"))?;
        return match taken.get(&address) {
            Some(other) => Err(format!("spec.loadBalancerIP {asked} is that of Service {other}")),
            None => Ok(address),
        };
    }
    (first.to_bits()..=last.to_bits())
        .map(Ipv4Addr::from_bits)
        .find(|address| !taken.contains_key(address))
        .ok_or_else(|| format!("all addresses from {first} to {last} are taken"))
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn pool() -> RangeInclusive<Ipv4Addr> {
        Ipv4Addr::new(10, 0, 0, 1)..=Ipv4Addr::new(10, 0, 0, 2)
    }

    fn service(name: &str, kind: &str, address: Option<&str>, more: Value) -> Arc<Service> {
        let mut service = json!({
            "metadata": {"name": name, "namespace": "default"}, "spec": {"type": kind},
            "status": {"loadBalancer": {"ingress": address.map(|ip| json!([{"ip": ip}]))}},
        });
        for (field, value) in more.as_object().expect("fields") {
            service["spec"][field] = value.clone();
        }
        Arc::new(serde_json::from_value(service).expect("a Service"))
    }

    fn planned(services: &[Arc<Service>]) -> Vec<(String, Step)> {
        planned_on(services, None)
    }

    fn planned_on(services: &[Arc<Service>], programs: Option<&[u16]>) -> Vec<(String, Step)> {
        let taken = programs.unwrap_or_default().to_vec();
        let is_free = move |_: &str, port: u16| !taken.contains(&port);
        let exposed = programs.map(|_| &is_free as &IsFree);
        let steps = plan(services, &pool(), exposed).into_iter();
        steps
            .map(|(service, step)| (service.metadata.name.clone().unwrap_or_default(), step))
            .collect()
    }

    #[test]
    fn each_gets_an_address_of_its_own_and_keeps_it() {
        let has = service("b", "LoadBalancer", Some("10.0.0.1"), json!({}));
        let new = service("a", "LoadBalancer", None, json!({}));
        let other = service("c", "NodePort", None, json!({}));
        let second = Step::Give(Ipv4Addr::new(10, 0, 0, 2));
        assert_eq!(planned(&[has, new, other]), [("a".to_owned(), second)]);
    }

    #[test]
    fn where_services_are_opened_each_port_of_the_machine_is_one_ones() {
        let with = |name, address, port: i32| {
            service(
                name,
                "LoadBalancer",
                address,
                json!({"ports": [{"port": port, "nodePort": 30000 + port}]}),
            )
        };
        let first = Step::Give(Ipv4Addr::new(10, 0, 0, 1));
        let refuse = |why: &str| Step::Refuse(why.to_owned());
        let named = |steps: &[(&str, Step)]| -> Vec<(String, Step)> {
            steps
                .iter()
                .map(|(name, step)| ((*name).to_owned(), step.clone()))
                .collect()
        };
        let new = with("a", None, 80);
        let taken = "port 80/TCP of this machine is that of Service default/a";
        let node = "port 30080/TCP of this machine is that of Service default/a";
        let expected = [
            ("a", first),
            ("b", refuse(taken)),
            (
                "c",
                refuse("port 22/TCP of this machine is that of another program"),
            ),
            ("d", refuse(node)),
        ];
        let same = service("b", "LoadBalancer", None, json!({"ports": [{"port": 80}]}));
        let on_node = service("d", "LoadBalancer", None, json!({"ports": [{"port": 30080}]}));
        let services = [new, same, with("c", None, 22), on_node];
        assert_eq!(planned_on(&services, Some(&[22])), named(&expected));
        // Of two that had addresses before, the first keeps its own; a program takes nothing from it.
        let both = [
            with("a", Some("10.0.0.1"), 80),
            service(
                "b",
                "LoadBalancer",
                Some("10.0.0.2"),
                json!({"ports": [{"port": 80}]}),
            ),
        ];
        let steps = named(&[("b", Step::Take), ("b", refuse(taken))]);
        assert_eq!(planned_on(&both, Some(&[80])), steps);
    }

    #[test]
    fn an_address_is_given_back_with_the_type() {
        let was = service("a", "ClusterIP", Some("10.0.0.1"), json!({}));
        let foreign = service("b", "ClusterIP", Some("192.168.0.1"), json!({}));
        let new = service("c", "LoadBalancer", None, json!({}));
        let first = Step::Give(Ipv4Addr::new(10, 0, 0, 1));
        let expected = [("a".to_owned(), Step::Take), ("c".to_owned(), first)];
        assert_eq!(planned(&[was, foreign, new]), expected);
    }

    #[test]
    fn who_can_have_none_is_told_why() {
        let has = service("a", "LoadBalancer", Some("10.0.0.1"), json!({}));
        let asks = |name, ip| service(name, "LoadBalancer", None, json!({"loadBalancerIP": ip}));
        let classed = service("z", "LoadBalancer", None, json!({"loadBalancerClass": "other"}));
        let services = [
            has,
            asks("b", "10.0.0.1"),
            asks("c", "8.8.8.8"),
            asks("d", "10.0.0.2"),
            service("e", "LoadBalancer", None, json!({})),
            classed,
        ];
        let refuse = |why: &str| Step::Refuse(why.to_owned());
        let expected = [
            (
                "b",
                refuse("spec.loadBalancerIP 10.0.0.1 is that of Service default/a"),
            ),
            (
                "c",
                refuse("spec.loadBalancerIP 8.8.8.8 is not within 10.0.0.1 to 10.0.0.2"),
            ),
            ("d", Step::Give(Ipv4Addr::new(10, 0, 0, 2))),
            ("e", refuse("all addresses from 10.0.0.1 to 10.0.0.2 are taken")),
        ];
        assert_eq!(
            planned(&services),
            expected.map(|(name, step)| (name.to_owned(), step))
        );
    }
}
