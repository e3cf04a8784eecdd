//! EndpointSlices of Endpoints that somebody made for a service without a selector: a pure function
//! of them and of the slices there are.
//!
//! Follows `endpointslicemirroring`: one slice for each subset and kind of address.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use k8s_openapi::api::core::v1::{EndpointAddress, EndpointSubset, Endpoints};
use k8s_openapi::api::discovery::v1::{Endpoint, EndpointConditions, EndpointPort, EndpointSlice};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use super::slices::{
    Changes, Identity, MANAGED_BY, PortKey, SERVICE_NAME, identity, is_same_endpoint, name_prefix, owner,
    port_key,
};

/// Who makes these slices.
pub(super) const MANAGER: &str = "endpointslicemirroring-controller.k8s.io";
const SKIP_LABEL: &str = "endpointslice.kubernetes.io/skip-mirror";
const LEADER_ANNOTATION: &str = "control-plane.alpha.kubernetes.io/leader";
/// Annotations that are about the Endpoints object itself.
const OWN_ANNOTATIONS: [&str; 2] = [
    "endpoints.kubernetes.io/last-change-trigger-time",
    "kubectl.kubernetes.io/last-applied-configuration",
];
/// Addresses of a subset; more are left out.
pub(super) const MAX_ADDRESSES: usize = 1000;

/// What is to be done, and what of the Endpoints cannot be mirrored.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Plan {
    pub(super) changes: Changes,
    /// Addresses that cannot be read.
    pub(super) invalid: usize,
    /// Addresses beyond the limit.
    pub(super) skipped: usize,
}

/// Whether Endpoints are to be mirrored at all.
pub(super) fn wants_mirror(endpoints: &Endpoints) -> bool {
    let meta = &endpoints.metadata;
    let skips = meta
        .labels
        .as_ref()
        .and_then(|labels| labels.get(SKIP_LABEL))
        .is_some_and(|value| value == "true");
    let elects = meta
        .annotations
        .as_ref()
        .is_some_and(|annotations| annotations.contains_key(LEADER_ANNOTATION));
    !skips && !elects
}

#[derive(Default)]
struct Group {
    ports: Vec<EndpointPort>,
    endpoints: BTreeMap<Identity, Endpoint>,
}

/// What the slices that mirror these Endpoints lack.
pub(super) fn plan(endpoints: &Endpoints, existing: &[Arc<EndpointSlice>]) -> Plan {
    let mut plan = Plan::default();
    let mut groups: BTreeMap<(&'static str, PortKey), Group> = BTreeMap::new();
    for subset in endpoints.subsets.iter().flatten() {
        collect(subset, &mut groups, &mut plan);
    }
    let mut by_group: BTreeMap<(String, PortKey), Vec<&Arc<EndpointSlice>>> = BTreeMap::new();
    for slice in existing {
        let key = (
            slice.address_type.clone(),
            port_key(slice.ports.as_deref().unwrap_or_default()),
        );
        by_group.entry(key).or_default().push(slice);
    }
    let changes = &mut plan.changes;
    for ((family, ports), group) in groups {
        let slices = by_group.remove(&(family.to_owned(), ports)).unwrap_or_default();
        let Some((first, others)) = slices.split_first() else {
            changes.create.push(new_slice(endpoints, family, group));
            continue;
        };
        changes
            .delete
            .extend(others.iter().map(|slice| Arc::clone(slice)));
        let mut wanted = new_slice(endpoints, family, group);
        if !is_same_slice(first, &wanted) {
            wanted.metadata.name = first.metadata.name.clone();
            wanted.metadata.generate_name = first.metadata.generate_name.clone();
            wanted.metadata.resource_version = first.metadata.resource_version.clone();
            wanted.metadata.uid = first.metadata.uid.clone();
            changes.update.push(wanted);
        }
    }
    changes.delete.extend(by_group.into_values().flatten().cloned());
    changes.recycle(|_| true);
    if endpoints.metadata.deletion_timestamp.is_some() {
        changes.create.clear();
    }
    plan
}

fn collect(subset: &EndpointSubset, groups: &mut BTreeMap<(&'static str, PortKey), Group>, plan: &mut Plan) {
    let ports: Vec<EndpointPort> = subset
        .ports
        .iter()
        .flatten()
        .map(|port| EndpointPort {
            name: Some(port.name.clone().unwrap_or_default()),
            port: Some(port.port),
            protocol: Some(port.protocol.clone().unwrap_or_else(|| "TCP".to_owned())),
            app_protocol: port.app_protocol.clone(),
        })
        .collect();
    let key = port_key(&ports);
    let ready = subset.addresses.iter().flatten().map(|address| (address, true));
    let not_ready = subset
        .not_ready_addresses
        .iter()
        .flatten()
        .map(|address| (address, false));
    let mut added = 0;
    for (address, ready) in ready.chain(not_ready) {
        if added == MAX_ADDRESSES {
            plan.skipped += 1;
            continue;
        }
        let Ok(ip) = address.ip.parse::<IpAddr>() else {
            plan.invalid += 1;
            continue;
        };
        added += 1;
        let family = if ip.is_ipv6() { "IPv6" } else { "IPv4" };
        let group = groups.entry((family, key.clone())).or_default();
        group.ports.clone_from(&ports);
        let endpoint = endpoint(address, ip, ready);
        group.endpoints.insert(identity(&endpoint), endpoint);
    }
}

fn endpoint(address: &EndpointAddress, ip: IpAddr, ready: bool) -> Endpoint {
    Endpoint {
        addresses: vec![ip.to_string()],
        conditions: Some(EndpointConditions {
            ready: Some(ready),
            serving: None,
            terminating: None,
        }),
        hostname: address.hostname.clone().filter(|hostname| !hostname.is_empty()),
        node_name: address.node_name.clone(),
        target_ref: address.target_ref.clone(),
        ..Endpoint::default()
    }
}

fn new_slice(endpoints: &Endpoints, family: &str, group: Group) -> EndpointSlice {
    let name = endpoints.metadata.name.clone().unwrap_or_default();
    let mut labels = endpoints.metadata.labels.clone().unwrap_or_default();
    labels.insert(SERVICE_NAME.to_owned(), name.clone());
    labels.insert(MANAGED_BY.to_owned(), MANAGER.to_owned());
    let mut annotations = endpoints.metadata.annotations.clone().unwrap_or_default();
    annotations.retain(|key, _| !OWN_ANNOTATIONS.contains(&key.as_str()));
    EndpointSlice {
        metadata: ObjectMeta {
            generate_name: Some(name_prefix(&name)),
            namespace: endpoints.metadata.namespace.clone(),
            labels: Some(labels),
            annotations: (!annotations.is_empty()).then_some(annotations),
            owner_references: Some(vec![owner("Endpoints", &endpoints.metadata)]),
            ..ObjectMeta::default()
        },
        address_type: family.to_owned(),
        endpoints: Some(group.endpoints.into_values().take(MAX_ADDRESSES).collect()),
        ports: Some(group.ports),
    }
}

fn is_same_slice(current: &EndpointSlice, wanted: &EndpointSlice) -> bool {
    let endpoints = |slice: &EndpointSlice| -> BTreeMap<Identity, Endpoint> {
        slice
            .endpoints
            .iter()
            .flatten()
            .map(|endpoint| (identity(endpoint), endpoint.clone()))
            .collect()
    };
    let (old, new) = (endpoints(current), endpoints(wanted));
    let annotations = |slice: &EndpointSlice| slice.metadata.annotations.clone().unwrap_or_default();
    current.metadata.labels == wanted.metadata.labels
        && annotations(current) == annotations(wanted)
        && current.metadata.owner_references == wanted.metadata.owner_references
        && old.len() == new.len()
        && old
            .iter()
            .zip(&new)
            .all(|((a, old), (b, new))| a == b && is_same_endpoint(old, new))
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn endpoints(subsets: Value) -> Endpoints {
        let meta = json!({"name": "web", "namespace": "ns", "uid": "e1", "labels": {"mine": "1"},
            "annotations": {"note": "x", "kubectl.kubernetes.io/last-applied-configuration": "{}"}});
        serde_json::from_value(json!({"metadata": meta, "subsets": subsets})).expect("endpoints")
    }

    fn subset(ready: &[&str], not_ready: &[&str], port: i32) -> Value {
        let list = |ips: &[&str]| ips.iter().map(|ip| json!({"ip": ip})).collect::<Vec<_>>();
        json!({"addresses": list(ready), "notReadyAddresses": list(not_ready), "ports": [{"name": "http", "port": port, "protocol": "TCP"}]})
    }

    fn named(slices: &[EndpointSlice]) -> Vec<Arc<EndpointSlice>> {
        let named = slices.iter().enumerate().map(|(index, slice)| {
            let mut slice = slice.clone();
            slice.metadata.name = Some(format!("web-{index}"));
            Arc::new(slice)
        });
        named.collect()
    }

    fn ips(slice: &EndpointSlice) -> Vec<(String, Option<bool>)> {
        let endpoints = slice.endpoints.iter().flatten();
        let ready = |endpoint: &Endpoint| {
            endpoint
                .conditions
                .as_ref()
                .and_then(|conditions| conditions.ready)
        };
        endpoints
            .map(|endpoint| (endpoint.addresses[0].clone(), ready(endpoint)))
            .collect()
    }

    #[test]
    fn a_subset_becomes_a_slice_of_each_family() {
        let plan = plan(
            &endpoints(json!([subset(&["192.0.2.7", "2001:db8::1"], &["192.0.2.8"], 80)])),
            &[],
        );
        let slices = &plan.changes.create;
        assert_eq!(slices.len(), 2);
        assert_eq!(
            ips(&slices[0]),
            [
                ("192.0.2.7".to_owned(), Some(true)),
                ("192.0.2.8".to_owned(), Some(false))
            ]
        );
        assert_eq!(
            (slices[1].address_type.as_str(), ips(&slices[1]).len()),
            ("IPv6", 1)
        );
        let labels = slices[0].metadata.labels.as_ref().expect("labels");
        assert_eq!(
            (labels["mine"].as_str(), labels[MANAGED_BY].as_str()),
            ("1", MANAGER)
        );
        let annotations = slices[0].metadata.annotations.as_ref().expect("annotations");
        assert_eq!(annotations.keys().collect::<Vec<_>>(), ["note"]);
    }

    #[test]
    fn nothing_is_done_twice_and_changes_are_made_in_place() {
        let before = endpoints(json!([subset(&["192.0.2.7"], &[], 80)]));
        let slices = named(&plan(&before, &[]).changes.create);
        assert_eq!(plan(&before, &slices), Plan::default());
        let changes = plan(&endpoints(json!([subset(&[], &["192.0.2.7"], 80)])), &slices).changes;
        assert_eq!(
            (changes.create.len(), changes.update.len(), changes.delete.len()),
            (0, 1, 0)
        );
        // Another port makes another slice, which takes the old one's place.
        let changes = plan(&endpoints(json!([subset(&["192.0.2.7"], &[], 81)])), &slices).changes;
        assert_eq!(
            (changes.create.len(), changes.update.len(), changes.delete.len()),
            (0, 1, 0)
        );
        let changes = plan(&endpoints(json!([])), &slices).changes;
        assert_eq!(
            (changes.create.len(), changes.update.len(), changes.delete.len()),
            (0, 0, 1)
        );
    }

    #[test]
    fn what_cannot_be_mirrored_is_counted() {
        let plan = plan(
            &endpoints(json!([subset(&["192.0.2.7", "nowhere"], &[], 80)])),
            &[],
        );
        assert_eq!((plan.invalid, plan.skipped, plan.changes.create.len()), (1, 0, 1));
    }

    #[test]
    fn a_label_or_a_leader_election_prevents_mirroring() {
        let mut skipped = endpoints(json!([]));
        assert!(wants_mirror(&skipped));
        skipped.metadata.labels = Some([(SKIP_LABEL.to_owned(), "true".to_owned())].into());
        assert!(!wants_mirror(&skipped));
        let mut leader = endpoints(json!([]));
        leader.metadata.annotations = Some([(LEADER_ANNOTATION.to_owned(), "{}".to_owned())].into());
        assert!(!wants_mirror(&leader));
    }
}
