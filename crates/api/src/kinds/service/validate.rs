//! The checks of a service, in Kubernetes' order, and what to warn of.

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::api::core::v1::{LoadBalancerStatus, Service, ServicePort, ServiceSpec, ServiceStatus};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use serde_json::json;

use super::addresses::{self, list};
use super::{
    CLUSTER_IP, EXTERNAL_NAME, LOAD_BALANCER, NODE_PORT, TOPOLOGY_HINTS, TOPOLOGY_MODE, is_headless,
    is_load_balancer, is_reachable_from_outside, needs_health_check_port, needs_node_ports, spec_of,
};
use crate::error::{Errors, Path, quote};
use crate::kinds::endpoints::PROTOCOLS;
use crate::kinds::pod::validate_port as validate_target;
use crate::kinds::{ip, text};
use crate::selector::validate_labels;
use crate::{go, names};

const AFFINITIES: [&str; 2] = ["ClientIP", "None"];
/// The longest time a client can stay with its pod, in seconds.
const MAX_AFFINITY_SECONDS: i32 = 86_400;
const TYPES: [&str; 4] = [CLUSTER_IP, EXTERNAL_NAME, LOAD_BALANCER, NODE_PORT];
const TRAFFIC_POLICIES: [&str; 2] = ["Cluster", "Local"];
const DISTRIBUTIONS: [&str; 3] = ["PreferClose", "PreferSameNode", "PreferSameZone"];
const IP_MODES: [&str; 2] = ["Proxy", "VIP"];
const SOURCE_RANGES: &str = "service.beta.kubernetes.io/load-balancer-source-ranges";
const BALANCERS_ONLY: &str = "may only be used when `type` is 'LoadBalancer'";

/// Checks a service; `old` is what is stored, whose addresses may be of forms that new ones may not.
pub(super) fn validate(service: &Service, old: Option<&ServiceSpec>, errors: &mut Errors) {
    let spec = spec_of(service);
    let path = Path::new("spec");
    validate_topology(service.metadata.annotations.as_ref(), errors);
    validate_type_needs(&spec, &path, errors);
    let ports = spec.ports.as_deref().unwrap_or_default();
    let mut names = BTreeSet::new();
    for (at, port) in ports.iter().enumerate() {
        validate_port(
            port,
            ports.len() > 1,
            &mut names,
            &path.child("ports").index(at),
            errors,
        );
    }
    validate_labels(spec.selector.as_ref(), &path.child("selector"), errors);
    validate_affinity(&spec, &path, errors);
    addresses::validate(&spec, old, errors);
    validate_external_ips(&spec, old, &path.child("externalIPs"), errors);
    errors.one_of(&path.child("type"), text(&spec.type_), &TYPES);
    validate_distinct_ports(&spec, &path.child("ports"), errors);
    validate_load_balancer(service, &spec, old, &path, errors);
    validate_traffic(&spec, &path, errors);
}

fn validate_topology(annotations: Option<&BTreeMap<String, String>>, errors: &mut Errors) {
    let get = |key| annotations.and_then(|all| all.get(key));
    if let (Some(mode), Some(hints)) = (get(TOPOLOGY_MODE), get(TOPOLOGY_HINTS))
        && mode != hints
    {
        let path = Path::new("metadata").child("annotations").key(TOPOLOGY_MODE);
        let why = format!("must match annotations[{TOPOLOGY_HINTS}] when both are specified");
        errors.invalid(&path, mode, &why);
    }
}

/// What a type cannot do without, and what it cannot have.
fn validate_type_needs(spec: &ServiceSpec, path: &Path, errors: &mut Errors) {
    let ty = text(&spec.type_);
    let has_ports = spec.ports.as_ref().is_some_and(|ports| !ports.is_empty());
    if !has_ports && !is_headless(spec) && ty != EXTERNAL_NAME {
        errors.required(&path.child("ports"), "");
    }
    if needs_node_ports(spec) && is_headless(spec) {
        let why = format!("may not be set to 'None' for {ty} services");
        errors.invalid(&path.child("clusterIPs").index(0), super::NO_CLUSTER_IP, &why);
    }
    if ty != EXTERNAL_NAME {
        return;
    }
    for (field, is_set) in [
        ("clusterIPs", !list(&spec.cluster_ips).is_empty()),
        ("ipFamilies", !list(&spec.ip_families).is_empty()),
        ("ipFamilyPolicy", spec.ip_family_policy.is_some()),
    ] {
        if is_set {
            errors.forbidden(&path.child(field), "may not be set for ExternalName services");
        }
    }
    let name = text(&spec.external_name);
    match name.strip_suffix('.').unwrap_or(name) {
        "" => errors.required(&path.child("externalName"), ""),
        name => errors.invalid_each(&path.child("externalName"), name, names::dns_subdomain(name)),
    }
}

fn validate_port<'p>(
    port: &'p ServicePort,
    needs_name: bool,
    seen: &mut BTreeSet<&'p str>,
    path: &Path,
    errors: &mut Errors,
) {
    match text(&port.name) {
        "" if needs_name => errors.required(&path.child("name"), ""),
        "" => {}
        name => {
            errors.invalid_each(&path.child("name"), name, names::dns_label(name));
            if !seen.insert(name) {
                errors.duplicate(&path.child("name"), name);
            }
        }
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
    let target = port.target_port.clone().unwrap_or(IntOrString::Int(0));
    validate_target(&target, &path.child("targetPort"), errors);
    if let Some(protocol) = &port.app_protocol {
        errors.invalid_each(
            &path.child("appProtocol"),
            protocol,
            names::qualified_name(protocol),
        );
    }
}

fn validate_affinity(spec: &ServiceSpec, path: &Path, errors: &mut Errors) {
    let affinity = text(&spec.session_affinity);
    if affinity.is_empty() {
        errors.required(&path.child("sessionAffinity"), "");
    } else {
        errors.one_of(&path.child("sessionAffinity"), affinity, &AFFINITIES);
    }
    let path = path.child("sessionAffinityConfig");
    let config = spec.session_affinity_config.as_ref();
    match affinity {
        "ClientIP" => {
            let client = config.and_then(|config| config.client_ip.as_ref());
            match client.and_then(|client| client.timeout_seconds) {
                None => errors.required(&path, "when session affinity type is ClientIP"),
                Some(1..=MAX_AFFINITY_SECONDS) => {}
                Some(seconds) => {
                    let why = format!("must be greater than 0 and less than {MAX_AFFINITY_SECONDS}");
                    errors.invalid(&path.child("clientIP").child("timeoutSeconds"), &seconds, &why);
                }
            }
        }
        "None" if config.is_some() => {
            errors.forbidden(&path, "must not be set when session affinity is None");
        }
        _ => {}
    }
}

fn validate_external_ips(spec: &ServiceSpec, old: Option<&ServiceSpec>, path: &Path, errors: &mut Errors) {
    let known = known(old.map(|old| &old.external_ips));
    for (at, address) in list(&spec.external_ips).iter().enumerate() {
        let (path, before) = (path.index(at), errors.len());
        ip::validate(address, &known, &path, errors);
        if errors.len() == before {
            ip::validate_reachable(address, &path, errors);
        }
    }
}

fn known(list: Option<&Option<Vec<String>>>) -> Vec<&str> {
    list.and_then(Option::as_ref)
        .into_iter()
        .flatten()
        .map(String::as_str)
        .collect()
}

/// No two ports of a protocol have the same number, be it the service's or the node's.
fn validate_distinct_ports(spec: &ServiceSpec, path: &Path, errors: &mut Errors) {
    let ports = spec.ports.as_deref().unwrap_or_default();
    let node_port = |port: &ServicePort| port.node_port.filter(|number| *number != 0);
    if text(&spec.type_) == CLUSTER_IP {
        for (at, _) in ports
            .iter()
            .enumerate()
            .filter(|(_, port)| node_port(port).is_some())
        {
            let path = path.index(at).child("nodePort");
            errors.forbidden(&path, "may not be used when `type` is 'ClusterIP'");
        }
    }
    let mut seen = BTreeSet::new();
    for (at, port) in ports.iter().enumerate() {
        if let Some(number) = node_port(port)
            && !seen.insert((text(&port.protocol), number))
        {
            errors.duplicate(&path.index(at).child("nodePort"), &number);
        }
    }
    let mut seen = BTreeSet::new();
    for (at, port) in ports.iter().enumerate() {
        if !seen.insert((text(&port.protocol), port.port)) {
            let key = json!({"protocol": port.protocol, "port": port.port});
            errors.duplicate(&path.index(at), &go::syntax("core.ServicePort", &key));
        }
    }
}

fn validate_load_balancer(
    service: &Service,
    spec: &ServiceSpec,
    old: Option<&ServiceSpec>,
    path: &Path,
    errors: &mut Errors,
) {
    let ranges = list(&spec.load_balancer_source_ranges);
    let annotation = service
        .metadata
        .annotations
        .as_ref()
        .and_then(|all| all.get(SOURCE_RANGES));
    let is_balancer = is_load_balancer(spec);
    if !ranges.is_empty() {
        // The field's name in errors is older than the field.
        let path = path.child("LoadBalancerSourceRanges");
        if !is_balancer {
            errors.forbidden(&path, BALANCERS_ONLY);
        }
        let known = known(old.map(|old| &old.load_balancer_source_ranges));
        for (at, range) in ranges.iter().enumerate() {
            ip::validate_range(range.trim(), &known, &path.index(at), errors);
        }
    } else if let Some(ranges) = annotation {
        let path = Path::new("metadata").child("annotations").key(SOURCE_RANGES);
        if !is_balancer {
            errors.forbidden(&path, BALANCERS_ONLY);
        }
        for range in ranges.trim().split(',').filter(|_| !ranges.trim().is_empty()) {
            ip::validate_range(range.trim(), &[], &path, errors);
        }
    }
    if !is_balancer && spec.allocate_load_balancer_node_ports.is_some() {
        errors.forbidden(&path.child("allocateLoadBalancerNodePorts"), BALANCERS_ONLY);
    }
    match &spec.load_balancer_class {
        Some(_) if !is_balancer => errors.forbidden(&path.child("loadBalancerClass"), BALANCERS_ONLY),
        Some(class) => errors.invalid_each(
            &path.child("loadBalancerClass"),
            class,
            names::qualified_name(class),
        ),
        None => {}
    }
}

fn validate_traffic(spec: &ServiceSpec, path: &Path, errors: &mut Errors) {
    let at = path.child("externalTrafficPolicy");
    match (
        text(&spec.external_traffic_policy),
        is_reachable_from_outside(spec),
    ) {
        ("", true) => errors.required(&at, ""),
        ("", false) => {}
        (policy, true) => errors.one_of(&at, policy, &TRAFFIC_POLICIES),
        (policy, false) => {
            let why = "may only be set when `type` is 'NodePort' or 'LoadBalancer'";
            errors.invalid(&at, policy, why);
        }
    }
    let at = path.child("healthCheckNodePort");
    // None at all is well: it is given out after the checks.
    if let Some(port) = spec.health_check_node_port.filter(|port| *port != 0) {
        if needs_health_check_port(spec) {
            errors.invalid_each(&at, &port, names::port_number(port.into()));
        } else {
            let why = "may only be set when `type` is 'LoadBalancer' and `externalTrafficPolicy` is 'Local'";
            errors.invalid(&at, &port, why);
        }
    }
    let at = path.child("internalTrafficPolicy");
    match &spec.internal_traffic_policy {
        Some(policy) => errors.one_of(&at, policy, &TRAFFIC_POLICIES),
        None if needs_node_ports(spec) || text(&spec.type_) == CLUSTER_IP => errors.required(&at, ""),
        None => {}
    }
    if let Some(distribution) = &spec.traffic_distribution {
        errors.one_of(&path.child("trafficDistribution"), distribution, &DISTRIBUTIONS);
    }
}

/// Checks what a load balancer says of itself.
pub(super) fn validate_ingress(
    balancer: &LoadBalancerStatus,
    old: Option<&ServiceStatus>,
    spec: &ServiceSpec,
    path: &Path,
    errors: &mut Errors,
) {
    let all = balancer.ingress.as_deref().unwrap_or_default();
    if !is_load_balancer(spec) && !all.is_empty() {
        errors.forbidden(path, "may only be used when `spec.type` is 'LoadBalancer'");
        return;
    }
    let old = old.and_then(|status| status.load_balancer.as_ref()?.ingress.as_ref());
    let known: Vec<_> = old
        .into_iter()
        .flatten()
        .map(|ingress| text(&ingress.ip))
        .collect();
    for (at, ingress) in all.iter().enumerate() {
        let path = path.index(at);
        let (address, host) = (text(&ingress.ip), text(&ingress.hostname));
        if !address.is_empty() {
            ip::validate(address, &known, &path.child("ip"), errors);
        }
        let mode = path.child("ipMode");
        match &ingress.ip_mode {
            None if !address.is_empty() => errors.required(&mode, "must be specified when `ip` is set"),
            None => {}
            Some(_) if address.is_empty() => {
                errors.forbidden(&mode, "may not be specified when `ip` is not set");
            }
            Some(given) => errors.one_of(&mode, given, &IP_MODES),
        }
        if !host.is_empty() {
            errors.invalid_each(&path.child("hostname"), host, names::dns_subdomain(host));
            if ip::parse(host).is_some() {
                let why = "must be a DNS name, not an IP address";
                errors.invalid(&path.child("hostname"), host, why);
            }
        }
    }
}

/// What to warn of in a spec.
pub(super) fn warnings(spec: &ServiceSpec) -> Vec<String> {
    let path = Path::new("spec");
    let each = |field: &'static str, all: &[String]| -> Vec<String> {
        let path = path.child(field);
        all.iter()
            .enumerate()
            .filter_map(|(at, address)| ip::warning(address, &path.index(at)))
            .collect()
    };
    let mut warnings = each("clusterIPs", list(&spec.cluster_ips));
    if is_headless(spec) && text(&spec.type_) == CLUSTER_IP {
        for (field, is_set) in [
            ("loadBalancerIP", !text(&spec.load_balancer_ip).is_empty()),
            ("externalIPs", !list(&spec.external_ips).is_empty()),
            // Kubernetes spells it so.
            ("SessionAffinity", text(&spec.session_affinity) != "None"),
        ] {
            if is_set {
                warnings.push(format!("spec.{field} is ignored for headless services"));
            }
        }
    }
    warnings.extend(each("externalIPs", list(&spec.external_ips)));
    let balancer_ip = text(&spec.load_balancer_ip);
    warnings.extend(ip::warning(balancer_ip, &path.child("loadBalancerIP")));
    for (at, range) in list(&spec.load_balancer_source_ranges).iter().enumerate() {
        warnings.extend(ip::range_warnings(
            range,
            &path.child("loadBalancerSourceRanges").index(at),
        ));
    }
    let is_name = text(&spec.type_) == EXTERNAL_NAME;
    if is_name && !list(&spec.external_ips).is_empty() {
        let ty = quote(EXTERNAL_NAME);
        warnings.push(format!("spec.externalIPs is ignored when spec.type is {ty}"));
    }
    if !is_name && !text(&spec.external_name).is_empty() {
        let ty = quote(EXTERNAL_NAME);
        warnings.push(format!("spec.externalName is ignored when spec.type is not {ty}"));
    }
    if spec.traffic_distribution.as_deref() == Some("PreferClose") {
        warnings.push(
            "spec.trafficDistribution: \"PreferClose\" is deprecated; use \"PreferSameZone\"".to_owned(),
        );
    }
    warnings
}
