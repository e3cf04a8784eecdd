//! EndpointSlice (discovery.k8s.io/v1).

use jiff::Timestamp;
use k8s_openapi::api::discovery::v1::{Endpoint, EndpointHints, EndpointPort, EndpointSlice};
use serde_json::Value;

use super::endpoints::{PROTOCOLS, first_few};
use super::{FIELD_IMMUTABLE, ip, name_cell, text};
use crate::error::{Errors, Path};
use crate::names::{self, NameRule};
use crate::object::{ApiObject, Logic};
use crate::registry::{Column, Generation, Kind, MetadataCheck};
use crate::selector::validate_labels;
use crate::table::age;

pub(super) static KIND: Kind = Kind {
    generation: Generation::Content,
    update_metadata: &[MetadataCheck::Create],
    columns: &[
        Column::NAME,
        Column::new("AddressType", "what its addresses are"),
        Column::new("Ports", "ports of every endpoint"),
        Column::new("Endpoints", "addresses"),
        Column::AGE,
    ],
    ..Kind::new(
        ("discovery.k8s.io", "v1", "EndpointSlice"),
        ("endpointslices", "endpointslice"),
        "io.k8s.api.discovery.v1.EndpointSlice",
        Logic::of::<EndpointSlice>(),
    )
};

const ADDRESS_TYPES: [&str; 3] = ["FQDN", "IPv4", "IPv6"];
const MAX_ENDPOINTS: usize = 1000;
const MAX_ADDRESSES: usize = 100;
const MAX_PORTS: usize = 20_000;
const MAX_HINTS: usize = 8;
const MAX_TOPOLOGY_LABELS: usize = 16;
const MANAGED_BY: &str = "endpointslice.kubernetes.io/managed-by";
/// Controllers that write addresses in their canonical form.
const TRUSTED: [&str; 2] = [
    "endpointslice-controller.k8s.io",
    "endpointslicemirroring-controller.k8s.io",
];
const HOSTNAME_LABEL: &str = "kubernetes.io/hostname";
const ZONE_LABEL: &str = "topology.kubernetes.io/zone";

impl ApiObject for EndpointSlice {
    fn set_defaults(&mut self) {
        for port in self.ports.iter_mut().flatten() {
            port.name.get_or_insert_default();
            port.protocol.get_or_insert_with(|| "TCP".to_owned());
        }
    }

    fn prepare_for_create(&mut self) {
        for endpoint in self.endpoints.iter_mut().flatten() {
            endpoint.deprecated_topology = None;
        }
    }

    /// `deprecatedTopology` cannot be written, but a node that it named is remembered.
    fn prepare_for_update(&mut self, old: &EndpointSlice) {
        if self.endpoints == old.endpoints {
            return;
        }
        let known: Vec<&String> = old
            .endpoints
            .iter()
            .flatten()
            .filter_map(|endpoint| endpoint.deprecated_topology.as_ref()?.get(HOSTNAME_LABEL))
            .collect();
        for endpoint in self.endpoints.iter_mut().flatten() {
            let topology = endpoint.deprecated_topology.take();
            let named = topology.and_then(|mut topology| topology.remove(HOSTNAME_LABEL));
            if endpoint.node_name.is_none() {
                endpoint.node_name =
                    named.filter(|name| known.contains(&name) && names::dns_subdomain(name).is_empty());
            }
        }
    }

    fn validate(&self, errors: &mut Errors) {
        validate_address_type(self, errors);
        validate_endpoints(self, errors);
        validate_ports(
            self.ports.as_deref().unwrap_or_default(),
            &Path::new("ports"),
            errors,
        );
    }

    /// Endpoints that stay as they are may be what an older version let through (since 1.33).
    fn validate_update(&self, old: &EndpointSlice, errors: &mut Errors) {
        validate_address_type(self, errors);
        if self.endpoints != old.endpoints {
            validate_endpoints(self, errors);
        }
        validate_ports(
            self.ports.as_deref().unwrap_or_default(),
            &Path::new("ports"),
            errors,
        );
        if self.address_type != old.address_type {
            errors.invalid(&Path::new("addressType"), &self.address_type, FIELD_IMMUTABLE);
        }
    }

    fn warnings(&self, old: Option<&EndpointSlice>) -> Vec<String> {
        let mut warnings = Vec::new();
        if old.is_none() && self.address_type == "FQDN" {
            warnings.push("spec.addressType: FQDN endpoints are deprecated".to_owned());
        }
        let manager = self
            .metadata
            .labels
            .as_ref()
            .and_then(|labels| labels.get(MANAGED_BY));
        if manager.is_some_and(|manager| TRUSTED.contains(&manager.as_str())) {
            return warnings;
        }
        for (at, endpoint) in self.endpoints.iter().flatten().enumerate() {
            let path = Path::new("endpoints").index(at).child("addresses");
            for (at, address) in endpoint.addresses.iter().enumerate() {
                warnings.extend(ip::warning(address, &path.index(at)));
            }
        }
        warnings
    }

    fn row(&self, now: Timestamp) -> Vec<Value> {
        let ports: Vec<String> = self
            .ports
            .iter()
            .flatten()
            .map(|port| match (port.port, &port.name) {
                (Some(number), _) => number.to_string(),
                (None, Some(name)) => name.clone(),
                (None, None) => "*".to_owned(),
            })
            .collect();
        let addresses: Vec<String> = self
            .endpoints
            .iter()
            .flatten()
            .flat_map(|endpoint| endpoint.addresses.iter().cloned())
            .collect();
        let listed = |items: &[String]| {
            if items.is_empty() {
                "<unset>".to_owned()
            } else {
                first_few(items)
            }
        };
        vec![
            name_cell(&self.metadata),
            self.address_type.clone().into(),
            listed(&ports).into(),
            listed(&addresses).into(),
            age(self.metadata.creation_timestamp.as_ref(), now),
        ]
    }
}

fn validate_address_type(slice: &EndpointSlice, errors: &mut Errors) {
    let path = Path::new("addressType");
    match slice.address_type.as_str() {
        "" => errors.required(&path, ""),
        other => errors.one_of(&path, other, &ADDRESS_TYPES),
    }
}

fn validate_endpoints(slice: &EndpointSlice, errors: &mut Errors) {
    let (path, endpoints) = (
        Path::new("endpoints"),
        slice.endpoints.as_deref().unwrap_or_default(),
    );
    if endpoints.len() > MAX_ENDPOINTS {
        errors.too_many(&path, endpoints.len(), MAX_ENDPOINTS);
        return;
    }
    for (at, endpoint) in endpoints.iter().enumerate() {
        validate_endpoint(endpoint, &slice.address_type, &path.index(at), errors);
    }
}

fn validate_endpoint(endpoint: &Endpoint, address_type: &str, path: &Path, errors: &mut Errors) {
    let addresses = path.child("addresses");
    match endpoint.addresses.len() {
        0 => errors.required(&addresses, "must contain at least 1 address"),
        count if count > MAX_ADDRESSES => errors.too_many(&addresses, count, MAX_ADDRESSES),
        _ => {}
    }
    for (at, address) in endpoint.addresses.iter().enumerate() {
        validate_address(address, address_type, &addresses.index(at), errors);
    }
    if let Some(node) = &endpoint.node_name {
        errors.invalid_each(&path.child("nodeName"), node, names::dns_subdomain(node));
    }
    if let Some(topology) = &endpoint.deprecated_topology {
        let path = path.child("deprecatedTopology");
        if topology.len() > MAX_TOPOLOGY_LABELS {
            errors.too_many(&path, topology.len(), MAX_TOPOLOGY_LABELS);
        }
        validate_labels(Some(topology), &path, errors);
        if topology.contains_key(ZONE_LABEL) {
            errors.internal(
                &path.key(ZONE_LABEL),
                "reserved key was not removed in conversion",
            );
        }
    }
    if let Some(hostname) = &endpoint.hostname {
        errors.invalid_each(&path.child("hostname"), hostname, names::dns_label(hostname));
    }
    if let Some(hints) = &endpoint.hints {
        validate_hints(hints, &path.child("hints"), errors);
    }
}

fn validate_address(address: &str, address_type: &str, path: &Path, errors: &mut Errors) {
    match address_type {
        "IPv4" => {
            if !ip::is_v4(address) {
                errors.invalid(path, address, "must be a valid IPv4 address");
            } else {
                ip::validate(address, &[], path, errors);
            }
            ip::validate_reachable(address, path, errors);
        }
        "IPv6" => {
            if !ip::is_v6(address) {
                errors.invalid(path, address, "must be a valid IPv6 address");
            } else {
                ip::validate_canonical(address, path, errors);
            }
            ip::validate_reachable(address, path, errors);
        }
        "FQDN" => validate_domain_name(address, path, errors),
        _ => {}
    }
}

fn validate_domain_name(name: &str, path: &Path, errors: &mut Errors) {
    if name.is_empty() {
        errors.required(path, "");
        return;
    }
    let name = name.strip_suffix('.').unwrap_or(name);
    let objections = names::dns_subdomain(name);
    if !objections.is_empty() {
        errors.invalid(path, name, &objections.join(","));
    } else if !name.contains('.') {
        errors.invalid(
            path,
            name,
            "should be a domain with at least two segments separated by dots",
        );
    } else if let Some((label, objections)) = name
        .split('.')
        .map(|label| (label, names::dns_label(label)))
        .find(|(_, objections)| !objections.is_empty())
    {
        errors.invalid(path, label, &objections.join(","));
    }
}

fn validate_ports(ports: &[EndpointPort], path: &Path, errors: &mut Errors) {
    if ports.len() > MAX_PORTS {
        errors.too_many(path, ports.len(), MAX_PORTS);
        return;
    }
    let mut seen: Vec<&str> = Vec::with_capacity(ports.len());
    for (at, port) in ports.iter().enumerate() {
        let (path, name) = (path.index(at), text(&port.name));
        if !name.is_empty() {
            errors.invalid_each(&path.child("name"), name, names::dns_label(name));
        }
        if seen.contains(&name) {
            errors.duplicate(&path.child("name"), name);
        } else {
            seen.push(name);
        }
        match port.protocol.as_deref() {
            None => errors.required(&path.child("protocol"), ""),
            Some(protocol) => errors.one_of(&path.child("protocol"), protocol, &PROTOCOLS),
        }
        if let Some(protocol) = &port.app_protocol {
            errors.invalid_each(
                &path.child("appProtocol"),
                protocol,
                names::qualified_name(protocol),
            );
        }
    }
}

fn validate_hints(hints: &EndpointHints, path: &Path, errors: &mut Errors) {
    let zones: Vec<&str> = hints
        .for_zones
        .iter()
        .flatten()
        .map(|hint| hint.name.as_str())
        .collect();
    let nodes: Vec<&str> = hints
        .for_nodes
        .iter()
        .flatten()
        .map(|hint| hint.name.as_str())
        .collect();
    let lists: [(_, _, NameRule); 2] = [
        ("forZones", zones, names::label_value),
        ("forNodes", nodes, names::dns_subdomain),
    ];
    for (field, hints, rule) in lists {
        let path = path.child(field);
        if hints.len() > MAX_HINTS {
            errors.too_many(&path, hints.len(), MAX_HINTS);
            return;
        }
        for (at, name) in hints.iter().enumerate() {
            let path = path.index(at).child("name");
            if hints[..at].contains(name) {
                errors.duplicate(&path, *name);
            }
            errors.invalid_each(&path, *name, rule(name));
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn slice(value: Value) -> EndpointSlice {
        let mut slice: EndpointSlice = serde_json::from_value(value).expect("a slice");
        slice.set_defaults();
        slice
    }

    fn with_address(address_type: &str, address: &str) -> EndpointSlice {
        slice(json!({"addressType": address_type, "endpoints": [{"addresses": [address]}]}))
    }

    #[test]
    fn addresses_are_of_their_type() {
        for (address_type, address, expected) in [
            ("IPv4", "10.0.0.1", ""),
            ("IPv6", "fd00::1", ""),
            ("FQDN", "a.example.com.", ""),
            ("IPv4", "fd00::1", "must be a valid IPv4 address"),
            ("IPv6", "fd00:0::1", "must be in canonical form (\"fd00::1\")"),
            ("IPv4", "127.0.0.1", "loopback"),
            (
                "FQDN",
                "example",
                "should be a domain with at least two segments separated by dots",
            ),
            ("", "a", "Required value"),
            ("IPX", "a", "supported values: \"FQDN\", \"IPv4\", \"IPv6\""),
        ] {
            let mut errors = Errors::new();
            with_address(address_type, address).validate(&mut errors);
            let found: Vec<_> = errors.iter().map(ToString::to_string).collect();
            assert_eq!(
                found.is_empty(),
                expected.is_empty(),
                "{address_type} {address}: {found:?}"
            );
            assert!(
                found.concat().contains(expected),
                "{address_type} {address}: {found:?}"
            );
        }
    }

    #[test]
    fn ports_have_different_names() {
        let mut errors = Errors::new();
        slice(json!({"addressType": "IPv4", "ports": [{"port": 80}, {"port": 81}]})).validate(&mut errors);
        assert_eq!(errors.summary(), "ports[1].name: Duplicate value: \"\"");
    }

    #[test]
    fn endpoints_that_stay_are_not_checked_again() {
        let mut errors = Errors::new();
        let old = with_address("IPv4", "010.0.0.1");
        old.validate_update(&old, &mut errors);
        assert!(errors.is_empty());
        with_address("IPv6", "fd00::1").validate_update(&old, &mut errors);
        assert_eq!(
            errors.summary(),
            "addressType: Invalid value: \"IPv6\": field is immutable"
        );
    }

    #[test]
    fn cells_list_three_items() {
        let row = with_address("IPv4", "10.0.0.1").row(Timestamp::UNIX_EPOCH);
        assert_eq!(row[2..4], [json!("<unset>"), json!("10.0.0.1")]);
    }
}
