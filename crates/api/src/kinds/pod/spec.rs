//! The checks of a pod's spec, in Kubernetes' order; most are in the modules beside this one.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{PodSpec, PodTemplateSpec};

use super::containers::Surroundings;
use super::options::Options;
use super::{
    annotations, claims, containers, dns, pod_resources, scheduling, security, spread, volumes, windows,
};
use crate::error::{Errors, Path};
use crate::kinds::resources::{Of, validate_requirements};
use crate::kinds::text;
use crate::names;
use crate::selector::validate_labels;

/// The policies of a pod's containers when they end.
const RESTART_POLICIES: [&str; 3] = ["Always", "OnFailure", "Never"];
const PREEMPTION_POLICIES: [&str; 2] = ["PreemptLowerPriority", "Never"];

/// Checks a spec. The name is the pod's and empty in templates.
pub(crate) fn validate_spec(
    spec: &PodSpec,
    pod_name: &str,
    options: &Options,
    path: &Path,
    errors: &mut Errors,
) {
    if spec.termination_grace_period_seconds.is_none() {
        errors.required(&path.child("terminationGracePeriodSeconds"), "");
    }
    let volumes = volumes::validate_all(spec, pod_name, options, &path.child("volumes"), errors);
    claims::validate_all(spec, &path.child("resourceClaims"), errors);
    let claims: Vec<&str> = claims::names(spec);
    let surroundings = Surroundings {
        spec,
        volumes: &volumes,
        claims: &claims,
        options,
    };
    containers::validate_regular(&surroundings, &path.child("containers"), errors);
    containers::validate_init(&surroundings, &path.child("initContainers"), errors);
    containers::validate_ephemeral(&surroundings, &path.child("ephemeralContainers"), errors);
    pod_resources::validate(spec, &claims, options, path, errors);
    validate_host_ports(spec, options, path, errors);
    required_one_of(
        &path.child("restartPolicy"),
        text(&spec.restart_policy),
        &RESTART_POLICIES,
        errors,
    );
    required_one_of(
        &path.child("dnsPolicy"),
        text(&spec.dns_policy),
        &dns::POLICIES,
        errors,
    );
    validate_labels(spec.node_selector.as_ref(), &path.child("nodeSelector"), errors);
    if let Some(context) = &spec.security_context {
        security::validate_pod(context, spec, options, &path.child("securityContext"), errors);
    }
    if let Some(affinity) = &spec.affinity {
        scheduling::validate_affinity(affinity, options, &path.child("affinity"), errors);
    }
    dns::validate_config(spec, &path.child("dnsConfig"), errors);
    validate_gates(spec, path, errors);
    let constraints = spec.topology_spread_constraints.as_deref().unwrap_or_default();
    spread::validate_all(
        constraints,
        options,
        &path.child("topologySpreadConstraints"),
        errors,
    );
    windows::validate_host_process(spec, path, errors);
    validate_host_users(spec, options, path, errors);
    dns::validate_hostname_override(spec, path, errors);
    validate_names(spec, path, errors);
    if let Some(seconds) = spec
        .active_deadline_seconds
        .filter(|seconds| !(1..=i64::from(i32::MAX)).contains(seconds))
    {
        let why = names::in_range(1, i32::MAX.into());
        errors.invalid(&path.child("activeDeadlineSeconds"), &seconds, &why);
    }
    for (field, value) in [("hostname", &spec.hostname), ("subdomain", &spec.subdomain)] {
        if !text(value).is_empty() {
            errors.invalid_each(&path.child(field), text(value), names::dns_label(text(value)));
        }
    }
    let tolerations = spec.tolerations.as_deref().unwrap_or_default();
    scheduling::validate_tolerations(tolerations, &path.child("tolerations"), errors);
    dns::validate_host_aliases(spec, &path.child("hostAliases"), errors);
    let priority_class = text(&spec.priority_class_name);
    if !priority_class.is_empty() {
        let at = path.child("priorityClassName");
        errors.invalid_each(&at, priority_class, names::dns_subdomain(priority_class));
    }
    if let Some(class) = &spec.runtime_class_name {
        errors.invalid_each(
            &path.child("runtimeClassName"),
            class,
            names::dns_subdomain(class),
        );
    }
    if let Some(policy) = &spec.preemption_policy {
        required_one_of(
            &path.child("preemptionPolicy"),
            policy,
            &PREEMPTION_POLICIES,
            errors,
        );
    }
    if spec.overhead.is_some() {
        let overhead = k8s_openapi::api::core::v1::ResourceRequirements {
            limits: spec.overhead.clone(),
            ..Default::default()
        };
        let (at, huge_pages) = (path.child("overhead"), options.indivisible_huge_pages);
        validate_requirements(&overhead, Of::Container, &[], huge_pages, &at, errors);
    }
    windows::validate_os(spec, path, errors);
    volumes::validate_env_files(spec, path, errors);
}

/// Checks a template.
pub(crate) fn validate_template(
    template: &PodTemplateSpec,
    options: &Options,
    path: &Path,
    errors: &mut Errors,
) {
    validate_template_metadata(template, options, path, errors);
    let none = PodSpec::default();
    let spec = template.spec.as_ref().unwrap_or(&none);
    let given = template
        .metadata
        .as_ref()
        .and_then(|metadata| metadata.annotations.as_ref());
    let path = path.child("spec");
    validate_spec(spec, "", options, &path, errors);
    annotations::validate_seccomp_agrees(given, spec, &path, errors);
    annotations::validate_app_armor_agrees(given, spec, &path, errors);
    if spec
        .ephemeral_containers
        .as_ref()
        .is_some_and(|list| !list.is_empty())
    {
        let why = "ephemeral containers not allowed in pod template";
        errors.forbidden(&path.child("ephemeralContainers"), why);
    }
}

/// Checks a template's labels and annotations alone.
pub(crate) fn validate_template_metadata(
    template: &PodTemplateSpec,
    options: &Options,
    path: &Path,
    errors: &mut Errors,
) {
    let metadata = template.metadata.as_ref();
    let labels = metadata.and_then(|metadata| metadata.labels.as_ref());
    let given = metadata.and_then(|metadata| metadata.annotations.as_ref());
    validate_labels(labels, &path.child("labels"), errors);
    let path = path.child("annotations");
    crate::meta::validate_annotations(given, &path, errors);
    let none = PodSpec::default();
    annotations::validate(
        given,
        template.spec.as_ref().unwrap_or(&none),
        options,
        &path,
        errors,
    );
}

/// A text that must be given and be one of a few.
pub(super) fn required_one_of(path: &Path, value: &str, supported: &[&str], errors: &mut Errors) {
    match value {
        "" => errors.required(path, ""),
        value => errors.one_of(path, value, supported),
    }
}

/// On the host's network a container's port is the host's.
fn validate_host_ports(spec: &PodSpec, options: &Options, path: &Path, errors: &mut Errors) {
    if spec.host_network != Some(true) {
        return;
    }
    for (at, container) in spec.containers.iter().enumerate() {
        let path = path.child("containers").index(at).child("ports");
        for (at, port) in container.ports.iter().flatten().enumerate() {
            let host_port = port.host_port.unwrap_or(0);
            // In templates it may be left out, and is filled in when the pod is made.
            if (options.is_pod || host_port != 0) && host_port != port.container_port {
                let why = "must match `containerPort` when `hostNetwork` is true";
                errors.invalid(&path.index(at).child("hostPort"), &host_port, why);
            }
        }
    }
}

fn validate_gates(spec: &PodSpec, path: &Path, errors: &mut Errors) {
    for (at, gate) in spec.readiness_gates.iter().flatten().enumerate() {
        let path = path.child("readinessGates").index(at).child("conditionType");
        errors.invalid_each(
            &path,
            &gate.condition_type,
            names::qualified_name(&gate.condition_type),
        );
    }
    let gates = spec.scheduling_gates.as_deref().unwrap_or_default();
    for (at, gate) in gates.iter().enumerate() {
        let path = path.child("schedulingGates").index(at);
        errors.invalid_each(&path, &gate.name, names::qualified_name(&gate.name));
        if gates[..at].iter().any(|other| other.name == gate.name) {
            errors.duplicate(&path, &gate.name);
        }
    }
}

/// A user namespace of its own does not go with other namespaces of the host.
fn validate_host_users(spec: &PodSpec, options: &Options, path: &Path, errors: &mut Errors) {
    if spec.host_users != Some(false) {
        return;
    }
    let why = "when `pod.Spec.HostUsers` is false";
    for (field, shared) in [
        ("hostNetwork", spec.host_network),
        ("HostPID", spec.host_pid),
        ("HostIPC", spec.host_ipc),
    ] {
        if shared == Some(true) {
            errors.forbidden(&path.child(field), why);
        }
    }
    if !options.devices_in_user_namespace {
        super::visit::each(spec, path, |container, path| {
            if container
                .volume_devices
                .as_ref()
                .is_some_and(|devices| !devices.is_empty())
            {
                errors.forbidden(&path.child("volumeDevices"), why);
            }
        });
    }
}

fn validate_names(spec: &PodSpec, path: &Path, errors: &mut Errors) {
    for (field, value) in [
        ("serviceAccountName", &spec.service_account_name),
        ("nodeName", &spec.node_name),
    ] {
        if !text(value).is_empty() {
            errors.invalid_each(&path.child(field), text(value), names::dns_subdomain(text(value)));
        }
    }
}

/// Annotations of a pod or template.
pub(crate) type Annotations = BTreeMap<String, String>;
