//! A service's row in the table.

use std::collections::BTreeSet;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Service, ServicePort, ServiceStatus};
use serde_json::Value;

use super::addresses::list;
use super::spec_of;
use crate::kinds::{name_cell, text};
use crate::table::{age, list_or_none};

pub(super) fn row(service: &Service, now: Timestamp) -> Vec<Value> {
    let spec = spec_of(service);
    let ports: Vec<String> = spec.ports.iter().flatten().map(port).collect();
    let selector: Vec<String> = spec
        .selector
        .iter()
        .flatten()
        .map(|(key, value)| format!("{key}={value}"))
        .collect();
    let external: Value = match text(&spec.type_) {
        "ClusterIP" | "NodePort" => list_or_none(list(&spec.external_ips)),
        "LoadBalancer" => {
            let mut all: Vec<String> = balancer_addresses(service.status.as_ref()).into_iter().collect();
            all.extend_from_slice(list(&spec.external_ips));
            if all.is_empty() {
                "<pending>".into()
            } else {
                all.join(",").into()
            }
        }
        "ExternalName" => text(&spec.external_name).into(),
        _ => "<unknown>".into(),
    };
    vec![
        name_cell(&service.metadata),
        text(&spec.type_).into(),
        list(&spec.cluster_ips)
            .first()
            .map_or("<none>", String::as_str)
            .into(),
        external,
        list_or_none(&ports),
        age(service.metadata.creation_timestamp.as_ref(), now),
        list_or_none(&selector),
    ]
}

/// `80/TCP`, or `80:30080/TCP` with a node port.
fn port(port: &ServicePort) -> String {
    let protocol = text(&port.protocol);
    match port.node_port.unwrap_or(0) {
        0 => format!("{}/{protocol}", port.port),
        node_port => format!("{}:{node_port}/{protocol}", port.port),
    }
}

fn balancer_addresses(status: Option<&ServiceStatus>) -> BTreeSet<String> {
    let ingress = status.and_then(|status| status.load_balancer.as_ref()?.ingress.as_ref());
    let address = |ip: &Option<String>, host: &Option<String>| match (text(ip), text(host)) {
        ("", "") => None,
        ("", host) => Some(host.to_owned()),
        (ip, _) => Some(ip.to_owned()),
    };
    ingress
        .into_iter()
        .flatten()
        .filter_map(|ingress| address(&ingress.ip, &ingress.hostname))
        .collect()
}
