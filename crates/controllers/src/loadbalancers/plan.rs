//! Which address each Service of type `LoadBalancer` has. Pure.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::ops::RangeInclusive;
use std::sync::Arc;

use k8s_openapi::api::core::v1::Service;
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

/// What is to be done, of all Services there are.
pub(super) fn plan(services: &[Arc<Service>], pool: &RangeInclusive<Ipv4Addr>) -> Vec<(Arc<Service>, Step)> {
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
    for service in services {
        let step = match (wants(service), held(service, pool)) {
            (false, Some(_)) => Step::Take,
            (true, None) if service.metadata.deletion_timestamp.is_none() => {
                match choose(service, pool, &taken) {
                    Ok(address) => {
                        taken.insert(address, Key::of(&**service));
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
        let steps = plan(services, &pool()).into_iter();
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
