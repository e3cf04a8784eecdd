//! What an update of a service keeps for the client, wipes, and may not change.

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::api::core::v1::ServiceSpec;

use super::addresses::list;
use super::{
    is_headless, is_load_balancer, is_reachable_from_outside, needs_cluster_ip, needs_health_check_port,
    needs_node_ports,
};
use crate::error::{Errors, Path, Shown};
use crate::go;
use crate::kinds::text;

const SET_ONCE: &str = "may not change once set";

/// The node ports of a service's ports.
fn node_ports(spec: &ServiceSpec) -> BTreeSet<i32> {
    let ports = spec.ports.iter().flatten();
    ports
        .filter_map(|port| port.node_port.filter(|port| *port != 0))
        .collect()
}

/// Keeps what was given out where the update does not mention it, so that a client can put again
/// what it once sent.
pub(super) fn keep_allocated(spec: &mut ServiceSpec, old: &ServiceSpec) {
    if needs_cluster_ip(old) && needs_cluster_ip(spec) {
        if text(&spec.cluster_ip).is_empty() {
            spec.cluster_ip.clone_from(&old.cluster_ip);
        }
        if list(&spec.cluster_ips).is_empty() {
            spec.cluster_ips.clone_from(&old.cluster_ips);
        }
    }
    if needs_node_ports(old) && needs_node_ports(spec) {
        let asked = node_ports(spec);
        let old_ports = old.ports.iter().flatten();
        let by_name: BTreeMap<_, _> = old_ports.map(|port| (text(&port.name), port.node_port)).collect();
        for port in spec.ports.iter_mut().flatten() {
            if port.node_port.unwrap_or(0) == 0 {
                let known = by_name.get(text(&port.name)).copied().flatten();
                port.node_port = known.filter(|known| *known != 0 && !asked.contains(known));
            }
        }
    }
    if needs_health_check_port(old)
        && needs_health_check_port(spec)
        && spec.health_check_node_port.unwrap_or(0) == 0
    {
        spec.health_check_node_port = old.health_check_node_port;
    }
}

/// Wipes what belonged to the old type and was not touched by the update. What the client changed
/// stays, for the checks to refuse.
pub(super) fn wipe_what_does_not_apply(spec: &mut ServiceSpec, old: &ServiceSpec) {
    if needs_cluster_ip(old) && !needs_cluster_ip(spec) {
        if text(&spec.cluster_ip) == text(&old.cluster_ip)
            && list(&spec.cluster_ips) == list(&old.cluster_ips)
        {
            spec.cluster_ip = None;
            spec.cluster_ips = None;
        }
        spec.ip_families
            .take_if(|families| *families == list(&old.ip_families));
        spec.ip_family_policy
            .take_if(|policy| *policy == text(&old.ip_family_policy));
        spec.internal_traffic_policy
            .take_if(|policy| *policy == text(&old.internal_traffic_policy));
    }
    if needs_node_ports(old) && !needs_node_ports(spec) && node_ports(spec).is_subset(&node_ports(old)) {
        for port in spec.ports.iter_mut().flatten() {
            port.node_port = None;
        }
    }
    if needs_health_check_port(old) && !needs_health_check_port(spec) {
        spec.health_check_node_port
            .take_if(|port| Some(*port) == old.health_check_node_port);
    }
    if is_load_balancer(old) && !is_load_balancer(spec) {
        let before = old.allocate_load_balancer_node_ports;
        spec.allocate_load_balancer_node_ports
            .take_if(|allocate| Some(*allocate) == before);
        spec.load_balancer_class
            .take_if(|class| *class == text(&old.load_balancer_class));
    }
    if is_reachable_from_outside(old) && !is_reachable_from_outside(spec) {
        spec.external_traffic_policy
            .take_if(|policy| *policy == text(&old.external_traffic_policy));
    }
}

/// Checks what the update changes.
pub(super) fn validate_change(spec: &ServiceSpec, old: &ServiceSpec, errors: &mut Errors) {
    if needs_cluster_ip(spec) && needs_cluster_ip(old) {
        validate_addresses(spec, old, errors);
        validate_families(spec, old, errors);
    }
    let path = Path::new("spec");
    if is_load_balancer(old) && is_load_balancer(spec) && spec.load_balancer_class != old.load_balancer_class
    {
        let shown: &dyn Shown = match &spec.load_balancer_class {
            Some(class) => class,
            None => &"null".to_owned(),
        };
        errors.invalid(&path.child("loadBalancerClass"), shown, SET_ONCE);
    }
    if needs_health_check_port(old)
        && needs_health_check_port(spec)
        && spec.health_check_node_port != old.health_check_node_port
    {
        errors.forbidden(&path.child("healthCheckNodePort"), "field is immutable");
    }
}

/// The first address stays; a second one can come and, with the policy, go.
fn validate_addresses(spec: &ServiceSpec, old: &ServiceSpec, errors: &mut Errors) {
    if is_headless(old) && is_headless(spec) {
        return;
    }
    let path = Path::new("spec");
    let (new, before) = (list(&spec.cluster_ips), list(&old.cluster_ips));
    let shown = || go::syntax("[]string", &spec.cluster_ips);
    let at = path.child("clusterIPs");
    if new.is_empty() && !before.is_empty() {
        errors.invalid(&at.index(0), &shown(), "primary clusterIP can not be unset");
    }
    let compared = if new.len() == before.len() { new.len() } else { 1 };
    for (index, (new, before)) in new.iter().zip(before).take(compared).enumerate() {
        if new != before {
            errors.invalid(&at.index(index), &shown(), SET_ONCE);
        }
    }
    if new.len() == 1 && before.len() > 1 && text(&spec.ip_family_policy) != "SingleStack" {
        let why = "must be set to 'SingleStack' when releasing the secondary clusterIP";
        errors.invalid(&path.child("ipFamilyPolicy"), text(&spec.ip_family_policy), why);
    }
}

/// Likewise for families, unless there is no address.
fn validate_families(spec: &ServiceSpec, old: &ServiceSpec, errors: &mut Errors) {
    if is_headless(old) || is_headless(spec) {
        return;
    }
    let path = Path::new("spec");
    let (new, before) = (list(&spec.ip_families), list(&old.ip_families));
    let at = path.child("ipFamilies").index(0);
    let compared = if new.len() == before.len() { new.len() } else { 1 };
    for (new, before) in new.iter().zip(before).take(compared) {
        if new != before {
            errors.invalid(
                &at,
                &go::syntax("[]core.IPFamily(string)", &spec.ip_families),
                SET_ONCE,
            );
        }
    }
    if new.len() == 1 && before.len() > 1 && text(&spec.ip_family_policy) != "SingleStack" {
        let why = "must be set to 'SingleStack' when releasing the secondary ipFamily";
        errors.invalid(&path.child("ipFamilyPolicy"), text(&spec.ip_family_policy), why);
    }
}
