//! The Endpoints object of a service: a pure function of its pods.
//!
//! Follows `endpoints_controller.go`. Addresses, ports and subsets are in a fixed order, so that the
//! same pods give the same object and nothing is written without need.

use std::collections::BTreeMap;
use std::net::IpAddr;

use k8s_openapi::api::core::v1::{EndpointAddress, EndpointPort, EndpointSubset, Endpoints, Pod};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use super::pods::{View, addresses, find_port, is_ready, is_terminating, node_name, target};

/// More addresses are cut off.
const MAX_ADDRESSES: usize = 1000;
/// Says that addresses were cut off.
const OVER_CAPACITY: &str = "endpoints.kubernetes.io/over-capacity";
/// A mark of upstream's that this controller does not make.
const TRIGGER_TIME: &str = "endpoints.kubernetes.io/last-change-trigger-time";
/// Marks services without an address of their own.
pub(super) const HEADLESS_LABEL: &str = "service.kubernetes.io/headless";
const MANAGED_BY: &str = "endpoints.kubernetes.io/managed-by";
const MANAGER: &str = "endpoint-controller";

/// Whether this controller made an Endpoints object.
pub(super) fn is_managed(endpoints: &Endpoints) -> bool {
    let labels = endpoints.metadata.labels.as_ref();
    labels
        .and_then(|labels| labels.get(MANAGED_BY))
        .is_some_and(|manager| manager == MANAGER)
}

/// The Endpoints that a service should have; none where it has them.
pub(super) fn plan(view: &View<'_>, current: Option<&Endpoints>) -> Option<Endpoints> {
    let mut subsets = subsets(view);
    let is_cut = truncate(&mut subsets);
    let meta = current
        .map(|current| current.metadata.clone())
        .unwrap_or_else(|| ObjectMeta {
            name: view.service.metadata.name.clone(),
            namespace: view.service.metadata.namespace.clone(),
            ..ObjectMeta::default()
        });
    let mut annotations = meta.annotations.unwrap_or_default();
    annotations.remove(TRIGGER_TIME);
    annotations.remove(OVER_CAPACITY);
    if is_cut {
        annotations.insert(OVER_CAPACITY.to_owned(), "truncated".to_owned());
    }
    let wanted = Endpoints {
        metadata: ObjectMeta {
            labels: Some(labels(view)),
            annotations: (!annotations.is_empty()).then_some(annotations),
            ..meta
        },
        subsets: (!subsets.is_empty()).then_some(subsets),
    };
    match current {
        Some(current) if is_same(current, &wanted) => None,
        _ => Some(wanted),
    }
}

fn labels(view: &View<'_>) -> BTreeMap<String, String> {
    let mut labels = view.service.metadata.labels.clone().unwrap_or_default();
    labels.remove(HEADLESS_LABEL);
    if view.is_headless() {
        labels.insert(HEADLESS_LABEL.to_owned(), String::new());
    }
    labels.insert(MANAGED_BY.to_owned(), MANAGER.to_owned());
    labels
}

fn is_same(current: &Endpoints, wanted: &Endpoints) -> bool {
    let annotations = |endpoints: &Endpoints| endpoints.metadata.annotations.clone().unwrap_or_default();
    let subsets = |endpoints: &Endpoints| endpoints.subsets.clone().unwrap_or_default();
    current.metadata.labels == wanted.metadata.labels
        && annotations(current) == annotations(wanted)
        && subsets(current) == subsets(wanted)
}

/// A pod's address, and whether it is among the ready ones.
struct Member {
    ip: IpAddr,
    ready: bool,
    address: EndpointAddress,
}

/// Ports, in the order in which they are shown.
type PortKey = (Option<String>, i32, Option<String>, Option<String>);

fn subsets(view: &View<'_>) -> Vec<EndpointSubset> {
    let mut pods: Vec<(Member, &Pod)> = view
        .members()
        .filter_map(|pod| Some((member(view, pod)?, pod)))
        .collect();
    pods.sort_by(|(a, pod_a), (b, pod_b)| {
        a.ip.to_string()
            .cmp(&b.ip.to_string())
            .then_with(|| pod_a.metadata.uid.cmp(&pod_b.metadata.uid))
    });
    // Which members offer a port; none is the port of a headless service without ports.
    let mut offers: BTreeMap<Option<PortKey>, Vec<usize>> = BTreeMap::new();
    for (index, (_, pod)) in pods.iter().enumerate() {
        if view.ports().is_empty() && view.is_headless() {
            offers.entry(None).or_default().push(index);
        }
        for port in view.ports() {
            let Some(number) = find_port(pod, port) else {
                continue;
            };
            let name = port.name.clone().filter(|name| !name.is_empty());
            let protocol = Some(port.protocol.clone().unwrap_or_else(|| "TCP".to_owned()));
            let members = offers
                .entry(Some((name, number, protocol, port.app_protocol.clone())))
                .or_default();
            if members.last() != Some(&index) {
                members.push(index);
            }
        }
    }
    // Ports that the same pods offer belong together.
    let mut groups: BTreeMap<Vec<usize>, Vec<PortKey>> = BTreeMap::new();
    for (port, members) in offers {
        groups.entry(members).or_default().extend(port);
    }
    let mut subsets: Vec<(Vec<PortKey>, Vec<usize>)> = groups
        .into_iter()
        .map(|(members, ports)| (ports, members))
        .collect();
    subsets.sort();
    subsets
        .into_iter()
        .map(|(ports, members)| subset(&ports, members.iter().map(|index| &pods[*index].0)))
        .collect()
}

fn subset<'m>(ports: &[PortKey], members: impl Iterator<Item = &'m Member>) -> EndpointSubset {
    let (ready, not_ready): (Vec<&Member>, Vec<&Member>) = members.partition(|member| member.ready);
    let shown = |members: Vec<&Member>| {
        let addresses: Vec<_> = members.into_iter().map(|member| member.address.clone()).collect();
        (!addresses.is_empty()).then_some(addresses)
    };
    let ports: Vec<EndpointPort> = ports
        .iter()
        .cloned()
        .map(|(name, port, protocol, app_protocol)| EndpointPort {
            name,
            port,
            protocol,
            app_protocol,
        })
        .collect();
    EndpointSubset {
        addresses: shown(ready),
        not_ready_addresses: shown(not_ready),
        ports: (!ports.is_empty()).then_some(ports),
    }
}

/// A pod on its way out has no place here unless the service wants all addresses.
fn member(view: &View<'_>, pod: &Pod) -> Option<Member> {
    if is_terminating(pod) && !view.publishes_not_ready() {
        return None;
    }
    let own = addresses(pod);
    let wants_v6 = match view.spec.ip_families.iter().flatten().next() {
        Some(family) => family == "IPv6",
        None => match view
            .spec
            .cluster_ip
            .as_deref()
            .and_then(|ip| ip.parse::<IpAddr>().ok())
        {
            Some(ip) => ip.is_ipv6(),
            None => own.first().is_some_and(IpAddr::is_ipv6),
        },
    };
    let ip = own.into_iter().find(|ip| ip.is_ipv6() == wants_v6)?;
    Some(Member {
        ip,
        ready: view.publishes_not_ready() || is_ready(pod),
        address: EndpointAddress {
            ip: ip.to_string(),
            hostname: view.hostname(pod),
            node_name: node_name(pod).map(str::to_owned),
            target_ref: Some(target(pod)),
        },
    })
}

/// Cuts addresses off where there are too many: those that are not ready first, and of each subset
/// in proportion. Says whether it did.
fn truncate(subsets: &mut [EndpointSubset]) -> bool {
    let count = |addresses: &Option<Vec<EndpointAddress>>| addresses.as_ref().map_or(0, Vec::len);
    let ready: usize = subsets.iter().map(|subset| count(&subset.addresses)).sum();
    let not_ready: usize = subsets
        .iter()
        .map(|subset| count(&subset.not_ready_addresses))
        .sum();
    if ready + not_ready <= MAX_ADDRESSES {
        return false;
    }
    let cuts_ready = ready > MAX_ADDRESSES;
    let (room, total) = if cuts_ready {
        (MAX_ADDRESSES, ready)
    } else {
        (MAX_ADDRESSES - ready, not_ready)
    };
    let mut left = room;
    for subset in subsets {
        let part = if cuts_ready {
            &mut subset.addresses
        } else {
            &mut subset.not_ready_addresses
        };
        let keep = (count(part) * room).div_ceil(total).min(left);
        if let Some(addresses) = part {
            addresses.truncate(keep);
            left -= addresses.len();
        }
        if cuts_ready {
            subset.not_ready_addresses = None;
        }
        for part in [&mut subset.addresses, &mut subset.not_ready_addresses] {
            if part.as_ref().is_some_and(Vec::is_empty) {
                *part = None;
            }
        }
    }
    true
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use k8s_openapi::api::core::v1::Service;
    use serde_json::{Value, json};

    use super::*;
    use crate::endpoints::pods::NodeView;

    fn pod(name: &str, ip: &str, ready: bool, ports: Value) -> Value {
        json!({
            "metadata": {"name": name, "namespace": "ns", "uid": format!("uid-{name}")},
            "spec": {"nodeName": "n", "containers": [{"name": "c", "ports": ports}]},
            "status": {"podIP": ip, "podIPs": [{"ip": ip}],
                "conditions": [{"type": "Ready", "status": if ready { "True" } else { "False" }}]},
        })
    }

    fn service(spec: Value) -> Service {
        let meta = json!({"name": "web", "namespace": "ns", "labels": {"of": "svc"}});
        serde_json::from_value(json!({"metadata": meta, "spec": spec})).expect("a service")
    }

    fn planned(service: &Service, pods: &[Value], current: Option<&Endpoints>) -> Option<Endpoints> {
        let pods: Vec<Arc<Pod>> = pods
            .iter()
            .map(|pod| Arc::new(serde_json::from_value(pod.clone()).expect("a pod")))
            .collect();
        let spec = service.spec.as_ref().expect("a spec");
        let node = |_: &str| NodeView::Here { zone: None };
        plan(
            &View {
                service,
                spec,
                pods: &pods,
                node: &node,
            },
            current,
        )
    }

    /// Subsets as `ready|not ready|ports`.
    fn check(spec: Value, pods: &[Value], expected: &[&str]) {
        let endpoints = planned(&service(spec), pods, None).expect("there were none");
        let ips = |list: &Option<Vec<EndpointAddress>>| -> String {
            list.iter()
                .flatten()
                .map(|address| address.ip.as_str())
                .collect::<Vec<_>>()
                .join(",")
        };
        let shown: Vec<String> = endpoints
            .subsets
            .iter()
            .flatten()
            .map(|subset| {
                let ports: Vec<_> = subset
                    .ports
                    .iter()
                    .flatten()
                    .map(|port| port.port.to_string())
                    .collect();
                format!(
                    "{}|{}|{}",
                    ips(&subset.addresses),
                    ips(&subset.not_ready_addresses),
                    ports.join(",")
                )
            })
            .collect();
        assert_eq!(shown, expected);
    }

    fn http() -> Value {
        json!({"clusterIP": "10.96.0.9", "ipFamilies": ["IPv4"], "selector": {"a": "b"},
            "ports": [{"name": "http", "port": 80, "targetPort": 8080, "protocol": "TCP"}]})
    }

    #[test]
    fn pods_are_ready_or_not() {
        check(
            http(),
            &[
                pod("b", "10.0.0.2", true, json!([])),
                pod("a", "10.0.0.1", false, json!([])),
            ],
            &["10.0.0.2|10.0.0.1|8080"],
        );
        let mut spec = http();
        spec["publishNotReadyAddresses"] = true.into();
        check(
            spec,
            &[pod("a", "10.0.0.1", false, json!([]))],
            &["10.0.0.1||8080"],
        );
    }

    #[test]
    fn ended_and_terminating_pods_and_those_without_address_are_left_out() {
        let mut ended = pod("a", "10.0.0.1", false, json!([]));
        ended["status"]["phase"] = "Succeeded".into();
        let mut terminating = pod("b", "10.0.0.2", true, json!([]));
        terminating["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z".into();
        let mut early = pod("c", "10.0.0.3", false, json!([]));
        early["status"] = json!({});
        check(http(), &[ended, terminating.clone(), early], &[]);
        let mut spec = http();
        spec["publishNotReadyAddresses"] = true.into();
        check(spec, &[terminating], &["10.0.0.2||8080"]);
    }

    #[test]
    fn named_ports_may_differ_between_pods() {
        let mut spec = http();
        spec["ports"] = json!([{"name": "x", "port": 80, "targetPort": "http"}, {"name": "y", "port": 81, "targetPort": 9}]);
        let named = |port: i32| json!([{"name": "http", "containerPort": port}]);
        let pods = [
            pod("a", "10.0.0.1", true, named(1)),
            pod("b", "10.0.0.2", true, named(2)),
            pod("c", "10.0.0.3", true, json!([])),
        ];
        check(
            spec,
            &pods,
            &["10.0.0.1||1", "10.0.0.2||2", "10.0.0.1,10.0.0.2,10.0.0.3||9"],
        );
    }

    #[test]
    fn a_headless_service_needs_no_ports() {
        check(
            json!({"clusterIP": "None"}),
            &[pod("a", "10.0.0.1", true, json!([]))],
            &["10.0.0.1||"],
        );
    }

    #[test]
    fn addresses_are_of_the_services_first_family() {
        let mut dual = pod("a", "10.0.0.1", true, json!([]));
        dual["status"]["podIPs"] = json!([{"ip": "10.0.0.1"}, {"ip": "fd00::0:1"}]);
        let mut spec = http();
        spec["ipFamilies"] = json!(["IPv6", "IPv4"]);
        check(spec, &[dual], &["fd00::1||8080"]);
    }

    #[test]
    fn labels_come_from_the_service() {
        let of = |spec| {
            planned(&service(spec), &[], None)
                .expect("there were none")
                .metadata
                .labels
                .expect("labels")
        };
        let labels = of(json!({"clusterIP": "None"}));
        assert_eq!(labels.get("of").map(String::as_str), Some("svc"));
        assert!(labels.contains_key(HEADLESS_LABEL));
        assert!(!of(http()).contains_key(HEADLESS_LABEL));
    }

    #[test]
    fn nothing_is_written_when_nothing_has_changed() {
        let service = service(http());
        let pods = [pod("a", "10.0.0.1", true, json!([]))];
        let current = planned(&service, &pods, None).expect("there were none");
        assert_eq!(planned(&service, &pods, Some(&current)), None);
        let mut foreign = current.clone();
        foreign.metadata.annotations = Some([("mine".to_owned(), "1".to_owned())].into());
        assert_eq!(planned(&service, &pods, Some(&foreign)), None);
        let emptied = planned(&service, &[], Some(&current)).expect("a change");
        assert_eq!(emptied.subsets, None);
    }

    #[test]
    fn more_than_a_thousand_addresses_are_cut_the_ready_ones_last() {
        let many = |ready: usize, not_ready: usize| -> Endpoints {
            let pods: Vec<Value> = (0..ready + not_ready)
                .map(|index| {
                    pod(
                        &index.to_string(),
                        &format!("10.0.{}.{}", index / 250, index % 250),
                        index < ready,
                        json!([]),
                    )
                })
                .collect();
            planned(&service(http()), &pods, None).expect("there were none")
        };
        let counts = |endpoints: &Endpoints| {
            let subset = endpoints.subsets.as_ref().expect("subsets")[0].clone();
            (
                subset.addresses.map_or(0, |list| list.len()),
                subset.not_ready_addresses.map_or(0, |list| list.len()),
            )
        };
        let over = many(900, 200);
        assert_eq!(counts(&over), (900, 100));
        assert_eq!(
            over.metadata.annotations.expect("annotations")[OVER_CAPACITY],
            "truncated"
        );
        assert_eq!(counts(&many(1001, 5)), (1000, 0));
        let all = many(500, 500);
        assert_eq!(counts(&all), (500, 500));
        assert_eq!(all.metadata.annotations, None);
    }
}
