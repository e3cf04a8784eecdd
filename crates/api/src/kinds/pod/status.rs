//! Updates of a pod's status.

use k8s_openapi::api::core::v1::{Container, ContainerStatus, Pod, PodCondition, PodSpec, PodStatus};
use serde::Serialize;

use super::restart;
use crate::error::{Errors, Path};
use crate::kinds::{FIELD_IMMUTABLE, ip, text};
use crate::{go, names};

const SYSTEM_CONDITIONS: [&str; 3] = ["PodScheduled", "Ready", "Initialized"];
const STILL: &str = "may not be transitioned to non-terminated state";

/// Puts back what a kubelet may not touch, or does not know of.
pub(super) fn prepare(new: &mut Pod, old: &Pod) {
    new.metadata
        .deletion_timestamp
        .clone_from(&old.metadata.deletion_timestamp);
    new.metadata
        .owner_references
        .clone_from(&old.metadata.owner_references);
    let none = PodStatus::default();
    let old = old.status.as_ref().unwrap_or(&none);
    let status = new.status.get_or_insert_default();
    if text(&status.qos_class).is_empty() {
        status.qos_class.clone_from(&old.qos_class);
    }
    if status.resource_claim_statuses.is_none() {
        status
            .resource_claim_statuses
            .clone_from(&old.resource_claim_statuses);
    }
    if status.extended_resource_claim_status.is_none() {
        status
            .extended_resource_claim_status
            .clone_from(&old.extended_resource_claim_status);
    }
    if status.observed_generation.unwrap_or(0) == 0 {
        status.observed_generation = old.observed_generation;
    }
    keep_observed_generations(
        status.conditions.as_deref_mut().unwrap_or_default(),
        old.conditions.as_deref().unwrap_or_default(),
    );
    if old.volume_health.is_none() {
        status.volume_health = None;
    }
    if old.node_allocatable_resource_claim_statuses.is_none() {
        status.node_allocatable_resource_claim_statuses = None;
    }
}

/// Conditions without a generation keep the one they had; several may be of one type.
fn keep_observed_generations(new: &mut [PodCondition], old: &[PodCondition]) {
    let mut left: Vec<&PodCondition> = old.iter().collect();
    for condition in new {
        let known = left
            .iter()
            .position(|old| old.type_ == condition.type_)
            .map(|at| left.remove(at));
        if condition.observed_generation.unwrap_or(0) == 0 {
            condition.observed_generation = known.and_then(|old| old.observed_generation);
        }
    }
}

/// Checks an update of the status.
pub(super) fn validate(new: &Pod, old: &Pod, errors: &mut Errors) {
    let (none, no_spec) = (PodStatus::default(), PodSpec::default());
    let (status, old_status) = (
        new.status.as_ref().unwrap_or(&none),
        old.status.as_ref().unwrap_or(&none),
    );
    let spec = old.spec.as_ref().unwrap_or(&no_spec);
    // Kubernetes has the path of conditions wrong in 1.28, which clients know.
    let conditions = Path::new("metadata").child("conditions");
    validate_conditions(
        status.conditions.as_deref().unwrap_or_default(),
        &conditions,
        errors,
    );
    let path = Path::new("status");
    validate_nomination(status, old_status, spec, &path.child("nominatedNodeName"), errors);
    if let Some(generation) = status.observed_generation.filter(|generation| *generation < 0) {
        errors.invalid(
            &path.child("observedGeneration"),
            &generation,
            "must be a non-negative integer",
        );
    }
    if text(&status.qos_class) != text(&old_status.qos_class) {
        errors.invalid(&path.child("qosClass"), text(&status.qos_class), FIELD_IMMUTABLE);
    }
    validate_containers(status, old_status, spec, &path, errors);
    validate_claims(status, spec, &path.child("resourceClaimStatuses"), errors);
    let ips = |status: &PodStatus| -> Vec<String> {
        status.pod_ips.iter().flatten().map(|ip| ip.ip.clone()).collect()
    };
    let shown = go::syntax("[]core.PodIP", &status.pod_ips);
    validate_ips(
        &ips(status),
        &ips(old_status),
        shown,
        "core.PodIP",
        &path.child("podIPs"),
        errors,
    );
    let ips = |status: &PodStatus| -> Vec<String> {
        status.host_ips.iter().flatten().map(|ip| ip.ip.clone()).collect()
    };
    let hosts = ips(status);
    let at = path.child("hostIPs");
    if let Some(first) = hosts.first().filter(|first| *first != text(&status.host_ip)) {
        errors.invalid(&at.index(0).child("ip"), first, "must be equal to `hostIP`");
    }
    let shown = go::syntax("[]core.HostIP", &status.host_ips);
    validate_ips(&hosts, &ips(old_status), shown, "core.HostIP", &at, errors);
}

fn validate_conditions(conditions: &[PodCondition], path: &Path, errors: &mut Errors) {
    for (at, condition) in conditions.iter().enumerate() {
        let path = path.index(at);
        if let Some(generation) = condition.observed_generation.filter(|generation| *generation < 0) {
            errors.invalid(
                &path.child("observedGeneration"),
                &generation,
                "must be a non-negative integer",
            );
        }
        if !SYSTEM_CONDITIONS.contains(&condition.type_.as_str()) {
            errors.invalid_each(
                &path.child("Type"),
                &condition.type_,
                names::qualified_name(&condition.type_),
            );
        }
    }
}

fn validate_nomination(
    status: &PodStatus,
    old: &PodStatus,
    spec: &PodSpec,
    path: &Path,
    errors: &mut Errors,
) {
    let node = text(&status.nominated_node_name);
    if node.is_empty() || node == text(&old.nominated_node_name) {
        return;
    }
    errors.invalid_each(path, node, names::dns_subdomain(node));
    if !text(&spec.node_name).is_empty() {
        errors.forbidden(path, "may not be set on pods that are already bound to a node");
    }
}

/// A container that ended stays so, unless it is to be restarted.
fn validate_containers(
    status: &PodStatus,
    old: &PodStatus,
    spec: &PodSpec,
    path: &Path,
    errors: &mut Errors,
) {
    let init = spec.init_containers.as_deref().unwrap_or_default();
    let lists = [
        (
            "containerStatuses",
            &status.container_statuses,
            &old.container_statuses,
            &spec.containers[..],
        ),
        (
            "initContainerStatuses",
            &status.init_container_statuses,
            &old.init_container_statuses,
            init,
        ),
    ];
    for (field, new, old, containers) in lists {
        if restart::can_restart_all(spec) {
            continue;
        }
        let may_restart = |name: &str, exit_code: i32| {
            let found = containers
                .iter()
                .find(|container: &&Container| container.name == name);
            found.is_some_and(|container| restart::restarts(container, spec, exit_code))
        };
        validate_transitions(
            new.as_deref(),
            old.as_deref(),
            may_restart,
            &path.child(field),
            errors,
        );
    }
    let (new, old) = (
        &status.ephemeral_container_statuses,
        &old.ephemeral_container_statuses,
    );
    let path = path.child("ephemeralContainerStatuses");
    validate_transitions(new.as_deref(), old.as_deref(), |_, _| false, &path, errors);
}

fn validate_transitions(
    new: Option<&[ContainerStatus]>,
    old: Option<&[ContainerStatus]>,
    may_restart: impl Fn(&str, i32) -> bool,
    path: &Path,
    errors: &mut Errors,
) {
    fn ended(status: &ContainerStatus) -> Option<i32> {
        Some(status.state.as_ref()?.terminated.as_ref()?.exit_code)
    }
    for (at, old) in old.unwrap_or_default().iter().enumerate() {
        let Some(exit_code) = ended(old) else { continue };
        let runs = |new: &&ContainerStatus| new.name == old.name && ended(new).is_none();
        if new.unwrap_or_default().iter().any(|new| runs(&new)) && !may_restart(&old.name, exit_code) {
            errors.forbidden(&path.index(at).child("state"), STILL);
        }
    }
}

fn validate_claims(status: &PodStatus, spec: &PodSpec, path: &Path, errors: &mut Errors) {
    let statuses = status.resource_claim_statuses.as_deref().unwrap_or_default();
    for (at, claim) in statuses.iter().enumerate() {
        let (path, name) = (path.index(at), claim.name.as_str());
        if spec
            .resource_claims
            .iter()
            .flatten()
            .all(|claim| claim.name != name)
        {
            let why = "must match the name of an entry in `spec.resourceClaims`";
            errors.invalid(&path.child("name"), name, why);
        }
        if statuses[..at].iter().any(|other| other.name == name) {
            errors.duplicate(&path.child("name"), name);
        }
        if let Some(claim) = &claim.resource_claim_name {
            errors.invalid_each(&path.child("name"), claim, names::dns_subdomain(claim));
        }
    }
}

/// At most one address of each family.
fn validate_ips(
    addresses: &[String],
    known: &[String],
    all: crate::error::GoSyntax,
    ty: &str,
    path: &Path,
    errors: &mut Errors,
) {
    #[derive(Serialize)]
    struct Address<'a> {
        ip: &'a str,
    }
    let known: Vec<&str> = known.iter().map(String::as_str).collect();
    for (at, address) in addresses.iter().enumerate() {
        ip::validate(address, &known, &path.index(at), errors);
    }
    if addresses.len() < 2 {
        return;
    }
    let is_dual = addresses.iter().any(|address| ip::is_v4(address))
        && addresses.iter().any(|address| ip::is_v6(address));
    if !is_dual || addresses.len() > 2 {
        errors.invalid(path, &all, "may specify no more than one IP for each IP family");
    }
    for (at, address) in addresses
        .iter()
        .enumerate()
        .filter(|(at, ip)| addresses[..*at].contains(ip))
    {
        errors.duplicate(&path.index(at), &go::syntax(ty, &Address { ip: address }));
    }
}
