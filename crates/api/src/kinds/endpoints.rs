//! Endpoints (core/v1).

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{EndpointAddress, EndpointPort, EndpointSubset, Endpoints};
use serde_json::Value;

use super::{ip, name_cell, text};
use crate::error::{Errors, Path};
use crate::names;
use crate::object::{ApiObject, Logic};
use crate::registry::{Column, Kind};
use crate::table::age;

pub(super) static KIND: Kind = Kind {
    short_names: &["ep"],
    create_on_update: true,
    columns: &[
        Column::NAME,
        Column::new("Endpoints", "addresses with ports"),
        Column::AGE,
    ],
    ..Kind::new(
        ("", "v1", "Endpoints"),
        ("endpoints", "endpoints"),
        "io.k8s.api.core.v1.Endpoints",
        Logic::of::<Endpoints>(),
    )
};

/// The protocols of ports.
pub(super) const PROTOCOLS: [&str; 3] = ["SCTP", "TCP", "UDP"];
/// How many items a cell lists.
const SHOWN: usize = 3;
const MANAGED_BY: &str = "endpoints.kubernetes.io/managed-by";

impl ApiObject for Endpoints {
    fn set_defaults(&mut self) {
        for subset in self.subsets.iter_mut().flatten() {
            for port in subset
                .ports
                .iter_mut()
                .flatten()
                .filter(|port| text(&port.protocol).is_empty())
            {
                port.protocol = Some("TCP".to_owned());
            }
        }
    }

    fn validate(&self, errors: &mut Errors) {
        for (at, subset) in self.subsets.iter().flatten().enumerate() {
            validate_subset(subset, &Path::new("subsets").index(at), errors);
        }
    }

    /// Subsets that stay as they are may be what an older version let through (since 1.33).
    fn validate_update(&self, old: &Endpoints, errors: &mut Errors) {
        if self.subsets != old.subsets {
            self.validate(errors);
        }
    }

    fn warnings(&self, _old: Option<&Endpoints>) -> Vec<String> {
        let labels = self.metadata.labels.as_ref();
        if labels
            .and_then(|all| all.get(MANAGED_BY))
            .is_some_and(|by| by == "endpoint-controller")
        {
            return Vec::new();
        }
        let mut warnings = Vec::new();
        for (at, subset) in self.subsets.iter().flatten().enumerate() {
            let path = Path::new("subsets").index(at);
            let lists = [
                ("addresses", &subset.addresses),
                ("notReadyAddresses", &subset.not_ready_addresses),
            ];
            for (field, addresses) in lists {
                for (at, address) in addresses.iter().flatten().enumerate() {
                    warnings.extend(ip::warning(&address.ip, &path.child(field).index(at).child("ip")));
                }
            }
        }
        warnings
    }

    fn row(&self, now: Timestamp) -> Vec<Value> {
        vec![
            name_cell(&self.metadata),
            shown(self.subsets.as_deref().unwrap_or_default()).into(),
            age(self.metadata.creation_timestamp.as_ref(), now),
        ]
    }
}

fn validate_subset(subset: &EndpointSubset, path: &Path, errors: &mut Errors) {
    let ready = subset.addresses.as_deref().unwrap_or_default();
    let not_ready = subset.not_ready_addresses.as_deref().unwrap_or_default();
    if ready.is_empty() && not_ready.is_empty() {
        errors.required(path, "must specify `addresses` or `notReadyAddresses`");
    }
    for (field, addresses) in [("addresses", ready), ("notReadyAddresses", not_ready)] {
        for (at, address) in addresses.iter().enumerate() {
            validate_address(address, &path.child(field).index(at), errors);
        }
    }
    let ports = subset.ports.as_deref().unwrap_or_default();
    for (at, port) in ports.iter().enumerate() {
        validate_port(port, ports.len() > 1, &path.child("ports").index(at), errors);
    }
}

fn validate_address(address: &EndpointAddress, path: &Path, errors: &mut Errors) {
    let at = path.child("ip");
    ip::validate(&address.ip, &[], &at, errors);
    let hostname = text(&address.hostname);
    if !hostname.is_empty() {
        errors.invalid_each(&path.child("hostname"), hostname, names::dns_label(hostname));
    }
    if let Some(node) = &address.node_name {
        errors.invalid_each(&path.child("nodeName"), node, names::dns_subdomain(node));
    }
    ip::validate_reachable(&address.ip, &at, errors);
}

fn validate_port(port: &EndpointPort, needs_name: bool, path: &Path, errors: &mut Errors) {
    let name = text(&port.name);
    if !name.is_empty() {
        errors.invalid_each(&path.child("name"), name, names::dns_label(name));
    } else if needs_name {
        errors.required(&path.child("name"), "");
    }
    errors.invalid_each(
        &path.child("port"),
        &port.port,
        names::port_number(port.port.into()),
    );
    match text(&port.protocol) {
        "" => errors.required(&path.child("protocol"), ""),
        protocol => errors.one_of(&path.child("protocol"), protocol, &PROTOCOLS),
    }
    if let Some(protocol) = &port.app_protocol {
        errors.invalid_each(
            &path.child("appProtocol"),
            protocol,
            names::qualified_name(protocol),
        );
    }
}

/// The first addresses with their ports, and how many more there are.
fn shown(subsets: &[EndpointSubset]) -> String {
    let mut all = Vec::new();
    for subset in subsets {
        let addresses = subset.addresses.as_deref().unwrap_or_default();
        match subset.ports.as_deref().unwrap_or_default() {
            [] => all.extend(addresses.iter().map(|address| address.ip.clone())),
            ports => {
                for port in ports {
                    all.extend(addresses.iter().map(|address| {
                        let bracketed = address.ip.contains([':', '%']);
                        let ip = if bracketed {
                            format!("[{}]", address.ip)
                        } else {
                            address.ip.clone()
                        };
                        format!("{ip}:{}", port.port)
                    }));
                }
            }
        }
    }
    if subsets.is_empty() {
        "<none>".to_owned()
    } else {
        first_few(&all)
    }
}

/// The first items, and how many more there are.
pub(super) fn first_few(items: &[String]) -> String {
    let list = items[..items.len().min(SHOWN)].join(",");
    if items.len() > SHOWN {
        format!("{list} + {} more...", items.len() - SHOWN)
    } else {
        list
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn endpoints(subsets: Value) -> Endpoints {
        let mut endpoints: Endpoints =
            serde_json::from_value(json!({"subsets": subsets})).expect("endpoints");
        endpoints.set_defaults();
        endpoints
    }

    #[test]
    fn subsets_need_addresses_and_names_for_many_ports() {
        for (subset, expected) in [
            (
                json!({"addresses": [{"ip": "10.0.0.1"}], "ports": [{"port": 80}]}),
                "",
            ),
            (json!({"addresses": [{"ip": "10.0.0.1"}]}), ""),
            (
                json!({}),
                "subsets[0]: Required value: must specify `addresses` or `notReadyAddresses`",
            ),
            (
                json!({"addresses": [{"ip": "127.0.0.1"}]}),
                "subsets[0].addresses[0].ip: Invalid value: \"127.0.0.1\": may not be in the loopback range (127.0.0.0/8, ::1/128)",
            ),
            (
                json!({"addresses": [{"ip": "10.0.0.1"}], "ports": [{"port": 80}, {"name": "b", "port": 0}]}),
                "subsets[0].ports[0].name: Required value|subsets[0].ports[1].port: Invalid value: 0: must be between 1 and 65535, inclusive",
            ),
        ] {
            let mut errors = Errors::new();
            endpoints(json!([subset])).validate(&mut errors);
            let found: Vec<_> = errors.iter().map(ToString::to_string).collect();
            assert_eq!(found.join("|"), expected);
        }
    }

    #[test]
    fn cells_list_three_addresses() {
        let many: Vec<_> = (1..=5).map(|n| json!({"ip": format!("10.0.0.{n}")})).collect();
        let cell = |subsets| endpoints(subsets).row(Timestamp::UNIX_EPOCH)[1].clone();
        assert_eq!(cell(json!([])), "<none>");
        assert_eq!(
            cell(json!([{"addresses": many, "ports": [{"port": 80}]}])),
            "10.0.0.1:80,10.0.0.2:80,10.0.0.3:80 + 2 more..."
        );
        assert_eq!(
            cell(json!([{"addresses": [{"ip": "fd00::1"}], "ports": [{"port": 80}]}])),
            "[fd00::1]:80"
        );
    }
}
