//! Service (core/v1).
//!
//! Each module is a subject: [`addresses`] (cluster IPs and IP families, and how one follows from
//! the other), [`update`] (what an update keeps, wipes and may not change), [`validate`] and `row`.
//! Which addresses and node ports are free, and giving them out, is the API server's business: here
//! a service whose address or port is still to be chosen is a good one.

mod addresses;
mod row;
mod update;
mod validate;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{
    ClientIPConfig, LoadBalancerStatus, Service, ServiceSpec, ServiceStatus, SessionAffinityConfig,
};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use serde_json::Value;

use super::pod::fill;
use super::text;
use crate::error::{Errors, Path};
use crate::names;
use crate::object::{ApiObject, Logic};
use crate::registry::{Column, Kind, Subresource};

pub(super) static KIND: Kind = Kind {
    short_names: &["svc"],
    categories: &["all"],
    subresources: &[
        Subresource::proxy("ServiceProxyOptions"),
        Subresource::status("Service"),
    ],
    // Since 1.36 a name may start with a digit (KEP-5311).
    name_rule: names::dns_label,
    create_on_update: true,
    selectable: &[
        ("spec.clusterIP", &["spec", "clusterIP"]),
        ("spec.type", &["spec", "type"]),
    ],
    columns: &[
        Column::NAME,
        Column::new("Type", "how it is exposed"),
        Column::new("Cluster-IP", "its address within the cluster"),
        Column::new("External-IP", "its addresses outside the cluster"),
        Column::new("Port(s)", "its ports, with those of the nodes"),
        Column::AGE,
        Column::wide("Selector", "labels of its pods"),
    ],
    ..Kind::new(
        ("", "v1", "Service"),
        ("services", "service"),
        "io.k8s.api.core.v1.Service",
        Logic::of::<Service>(),
    )
};

/// The cluster IP of a service that has none and wants none.
pub const NO_CLUSTER_IP: &str = "None";
const CLUSTER_IP: &str = "ClusterIP";
const EXTERNAL_NAME: &str = "ExternalName";
const LOAD_BALANCER: &str = "LoadBalancer";
const NODE_PORT: &str = "NodePort";
/// How long a client stays with its pod, in seconds.
const AFFINITY_SECONDS: i32 = 10_800;
/// Tells the zones of endpoints apart; the newer name is the other one.
const TOPOLOGY_HINTS: &str = "service.kubernetes.io/topology-aware-hints";
const TOPOLOGY_MODE: &str = "service.kubernetes.io/topology-mode";

/// Whether a service has no cluster IP by its own wish.
pub fn is_headless(spec: &ServiceSpec) -> bool {
    matches!(spec.cluster_ips.as_deref(), Some([only]) if only == NO_CLUSTER_IP)
}

/// Whether a service's type comes with cluster IPs (or their absence by wish).
pub fn needs_cluster_ip(spec: &ServiceSpec) -> bool {
    text(&spec.type_) != EXTERNAL_NAME
}

/// Whether a service's type comes with node ports.
pub fn needs_node_ports(spec: &ServiceSpec) -> bool {
    matches!(text(&spec.type_), NODE_PORT | LOAD_BALANCER)
}

/// Whether ports get node ports that were not asked for.
pub fn allocates_node_ports(spec: &ServiceSpec) -> bool {
    match text(&spec.type_) {
        NODE_PORT => true,
        LOAD_BALANCER => spec.allocate_load_balancer_node_ports.unwrap_or(true),
        _ => false,
    }
}

/// Whether a load balancer asks the nodes which of them have pods of the service.
pub fn needs_health_check_port(spec: &ServiceSpec) -> bool {
    text(&spec.type_) == LOAD_BALANCER && text(&spec.external_traffic_policy) == "Local"
}

fn is_load_balancer(spec: &ServiceSpec) -> bool {
    text(&spec.type_) == LOAD_BALANCER
}

/// Whether traffic may come from outside the cluster.
fn is_reachable_from_outside(spec: &ServiceSpec) -> bool {
    let has_external_ips = spec.external_ips.as_ref().is_some_and(|list| !list.is_empty());
    needs_node_ports(spec) || (text(&spec.type_) == CLUSTER_IP && has_external_ips)
}

fn spec_of(service: &Service) -> ServiceSpec {
    service.spec.clone().unwrap_or_default()
}

impl ApiObject for Service {
    fn set_defaults(&mut self) {
        let spec = self.spec.get_or_insert_default();
        set_affinity_defaults(spec);
        fill(&mut spec.type_, CLUSTER_IP);
        for port in spec.ports.iter_mut().flatten() {
            fill(&mut port.protocol, "TCP");
            let is_given = match &port.target_port {
                None | Some(IntOrString::Int(0)) => false,
                Some(IntOrString::String(name)) => !name.is_empty(),
                Some(IntOrString::Int(_)) => true,
            };
            if !is_given {
                port.target_port = Some(IntOrString::Int(port.port));
            }
        }
        if is_reachable_from_outside(spec) {
            fill(&mut spec.external_traffic_policy, "Cluster");
        }
        if needs_node_ports(spec) || text(&spec.type_) == CLUSTER_IP {
            spec.internal_traffic_policy
                .get_or_insert_with(|| "Cluster".to_owned());
        }
        if is_load_balancer(spec) {
            spec.allocate_load_balancer_node_ports.get_or_insert(true);
            let balancer = self
                .status
                .as_mut()
                .and_then(|status| status.load_balancer.as_mut());
            for ingress in balancer
                .into_iter()
                .flat_map(|balancer| balancer.ingress.iter_mut().flatten())
            {
                if !text(&ingress.ip).is_empty() {
                    ingress.ip_mode.get_or_insert_with(|| "VIP".to_owned());
                }
            }
        }
    }

    fn prepare_for_create(&mut self) {
        self.status = Some(empty_status());
        let spec = self.spec.get_or_insert_default();
        addresses::normalize(spec, None);
        // What is wrong with them is told by the checks, which do this again.
        addresses::complete_families(spec, None);
    }

    fn prepare_for_update(&mut self, old: &Service) {
        let (spec, old_spec) = (self.spec.get_or_insert_default(), spec_of(old));
        update::keep_allocated(spec, &old_spec);
        addresses::normalize(spec, Some(&old_spec));
        addresses::complete_families(spec, Some(&old_spec));
        update::wipe_what_does_not_apply(spec, &old_spec);
        if !is_load_balancer(spec) {
            let status = self.status.get_or_insert_default();
            status.load_balancer = Some(LoadBalancerStatus::default());
        }
    }

    fn validate(&self, errors: &mut Errors) {
        let wrong_addresses = addresses::complete_families(&mut spec_of(self), None);
        if wrong_addresses.is_empty() {
            validate::validate(self, None, errors);
        } else {
            // Kubernetes gives out addresses before it makes the other checks.
            errors.extend(wrong_addresses);
        }
    }

    fn validate_update(&self, old: &Service, errors: &mut Errors) {
        let old_spec = spec_of(old);
        let wrong_addresses = addresses::complete_families(&mut spec_of(self), Some(&old_spec));
        if wrong_addresses.is_empty() {
            update::validate_change(&spec_of(self), &old_spec, errors);
            validate::validate(self, Some(&old_spec), errors);
        } else {
            errors.extend(wrong_addresses);
        }
    }

    fn validate_status_update(&self, old: &Service, errors: &mut Errors) {
        let status = self.status.clone().unwrap_or_default();
        let balancer = status.load_balancer.unwrap_or_default();
        let path = Path::new("status").child("loadBalancer").child("ingress");
        validate::validate_ingress(&balancer, old.status.as_ref(), &spec_of(self), &path, errors);
    }

    fn warnings(&self, _old: Option<&Service>) -> Vec<String> {
        let has_hints = self
            .metadata
            .annotations
            .as_ref()
            .is_some_and(|all| all.contains_key(TOPOLOGY_HINTS));
        let hints = format!("annotation {TOPOLOGY_HINTS} is deprecated, please use {TOPOLOGY_MODE} instead");
        let mut warnings: Vec<String> = has_hints.then_some(hints).into_iter().collect();
        warnings.extend(validate::warnings(&spec_of(self)));
        warnings
    }

    fn row(&self, now: Timestamp) -> Vec<Value> {
        row::row(self, now)
    }
}

fn empty_status() -> ServiceStatus {
    ServiceStatus {
        load_balancer: Some(LoadBalancerStatus::default()),
        ..ServiceStatus::default()
    }
}

fn set_affinity_defaults(spec: &mut ServiceSpec) {
    fill(&mut spec.session_affinity, "None");
    match text(&spec.session_affinity) {
        "None" => spec.session_affinity_config = None,
        "ClientIP" => {
            let config = spec
                .session_affinity_config
                .get_or_insert_with(SessionAffinityConfig::default);
            let client: &mut ClientIPConfig = config.client_ip.get_or_insert_default();
            client.timeout_seconds.get_or_insert(AFFINITY_SECONDS);
        }
        _ => {}
    }
}

#[cfg(test)]
mod tests;
