//! Containers: what all have in common, and what regular, init and ephemeral ones may have.

use std::collections::HashSet;

use k8s_openapi::api::core::v1::{Container, ContainerPort, PodSpec};

use super::options::Options;
use super::spec::required_one_of;
use super::volumes::Volumes;
use super::{env, handlers, mounts, restart, security, visit};
use crate::error::{Errors, Path};
use crate::kinds::endpoints::PROTOCOLS;
use crate::kinds::resources::{Of, validate_requirements};
use crate::kinds::text;
use crate::names;

/// When images are pulled.
pub(super) const PULL_POLICIES: [&str; 3] = ["Always", "IfNotPresent", "Never"];
const MESSAGE_POLICIES: [&str; 2] = ["File", "FallbackToLogsOnError"];

/// What a container's checks need to know of its pod.
pub(super) struct Surroundings<'s> {
    pub(super) spec: &'s PodSpec,
    pub(super) volumes: &'s Volumes<'s>,
    /// The names of the pod's resource claims.
    pub(super) claims: &'s [&'s str],
    pub(super) options: &'s Options,
}

/// Checks the regular containers.
pub(super) fn validate_regular(pod: &Surroundings<'_>, path: &Path, errors: &mut Errors) {
    let containers = &pod.spec.containers;
    if containers.is_empty() {
        errors.required(path, "");
        return;
    }
    for (at, container) in containers.iter().enumerate() {
        let path = path.index(at);
        validate_common(container, pod, &path, errors);
        if containers[..at].iter().any(|other| other.name == container.name) {
            errors.duplicate(&path.child("name"), &container.name);
        }
        handlers::validate_all(container, pod.spec, &path, errors);
        restart::validate(container, &path, errors);
    }
    validate_host_port_conflicts(containers, path, errors);
}

/// Checks the init containers. Only those that go on running may have probes.
pub(super) fn validate_init(pod: &Surroundings<'_>, path: &Path, errors: &mut Errors) {
    let containers = pod.spec.init_containers.as_deref().unwrap_or_default();
    for (at, container) in containers.iter().enumerate() {
        let all = path;
        let path = path.index(at);
        validate_common(container, pod, &path, errors);
        restart::validate(container, &path, errors);
        let mut others = pod.spec.containers.iter().chain(&containers[..at]);
        if !container.name.is_empty() && others.any(|other| other.name == container.name)
            || container.name.is_empty() && pod.spec.containers.iter().any(|other| other.name.is_empty())
        {
            errors.duplicate(&path.child("name"), &container.name);
        }
        // They run one after another, so that ports can only conflict within one.
        validate_host_port_conflicts(std::slice::from_ref(container), all, errors);
        if visit::is_sidecar(container) {
            handlers::validate_all(container, pod.spec, &path, errors);
        } else {
            handlers::forbid(container, &path, errors);
            restart::validate_resize_of_init(container, pod.options, &path, errors);
        }
    }
}

/// Checks the ephemeral containers, for which most fields are not allowed.
pub(super) fn validate_ephemeral(pod: &Surroundings<'_>, path: &Path, errors: &mut Errors) {
    let ephemeral = pod.spec.ephemeral_containers.as_deref().unwrap_or_default();
    if ephemeral.is_empty() {
        return;
    }
    let lasting: Vec<&str> = pod
        .spec
        .containers
        .iter()
        .chain(pod.spec.init_containers.iter().flatten())
        .map(|container| container.name.as_str())
        .collect();
    for (at, this) in ephemeral.iter().enumerate() {
        let path = path.index(at);
        let container = visit::as_container(this.clone());
        validate_common(&container, pod, &path, errors);
        validate_image_of_pod(&container, &path, errors);
        let name = this.name.as_str();
        if lasting.contains(&name) || ephemeral[..at].iter().any(|other| other.name == name) {
            errors.duplicate(&path.child("name"), name);
        }
        let target = text(&this.target_container_name);
        if !target.is_empty() && !lasting.contains(&target) {
            errors.not_found(&path.child("targetContainerName"), target);
        }
        forbid_for_ephemeral(&container, &path, errors);
    }
}

fn forbid_for_ephemeral(container: &Container, path: &Path, errors: &mut Errors) {
    let why = "cannot be set for an Ephemeral Container";
    let resources = container.resources.as_ref();
    for (field, is_set) in [
        ("ports", container.ports.is_some()),
        (
            "resources",
            resources.is_some_and(|resources| *resources != Default::default()),
        ),
        ("resizePolicy", container.resize_policy.is_some()),
        ("restartPolicy", container.restart_policy.is_some()),
        ("restartPolicyRules", container.restart_policy_rules.is_some()),
        ("livenessProbe", container.liveness_probe.is_some()),
        ("readinessProbe", container.readiness_probe.is_some()),
        ("startupProbe", container.startup_probe.is_some()),
        ("lifecycle", container.lifecycle.is_some()),
    ] {
        if is_set {
            errors.forbidden(&path.child(field), why);
        }
    }
    for (at, mount) in container.volume_mounts.iter().flatten().enumerate() {
        let path = path.child("volumeMounts").index(at);
        for (field, value) in [
            ("subPath", &mount.sub_path),
            ("subPathExpr", &mount.sub_path_expr),
        ] {
            if !text(value).is_empty() {
                errors.forbidden(&path.child(field), why);
            }
        }
    }
}

fn validate_common(container: &Container, pod: &Surroundings<'_>, path: &Path, errors: &mut Errors) {
    let options = pod.options;
    if container.name.is_empty() {
        errors.required(&path.child("name"), "");
    } else {
        errors.invalid_each(
            &path.child("name"),
            &container.name,
            names::dns_label(&container.name),
        );
    }
    errors.present(&path.child("image"), text(&container.image));
    let message_policy = text(&container.termination_message_policy);
    required_one_of(
        &path.child("terminationMessagePolicy"),
        message_policy,
        &MESSAGE_POLICIES,
        errors,
    );
    if let Some(ports) = &container.ports {
        validate_ports(ports, &path.child("ports"), errors);
    }
    env::validate_variables(container, &path.child("env"), errors);
    env::validate_sources(container, &path.child("envFrom"), errors);
    mounts::validate_mounts(container, pod.volumes, &path.child("volumeMounts"), errors);
    mounts::validate_devices(container, pod.volumes, &path.child("volumeDevices"), errors);
    let pull_policy = text(&container.image_pull_policy);
    required_one_of(
        &path.child("imagePullPolicy"),
        pull_policy,
        &PULL_POLICIES,
        errors,
    );
    if let Some(resources) = &container.resources {
        let (at, huge_pages) = (path.child("resources"), options.indivisible_huge_pages);
        validate_requirements(resources, Of::Container, pod.claims, huge_pages, &at, errors);
    }
    restart::validate_resize(
        container,
        text(&pod.spec.restart_policy),
        &path.child("resizePolicy"),
        errors,
    );
    if let Some(context) = &container.security_context {
        let host_users = pod.spec.host_users != Some(false);
        security::validate_container(
            context,
            host_users,
            options,
            &path.child("securityContext"),
            errors,
        );
    }
}

/// What holds for the image in a pod, but not in a template.
pub(super) fn validate_image_of_pod(container: &Container, path: &Path, errors: &mut Errors) {
    let image = text(&container.image);
    if image.trim().len() != image.len() {
        errors.invalid(
            &path.child("image"),
            image,
            "must not have leading or trailing whitespace",
        );
    }
}

fn validate_ports(ports: &[ContainerPort], path: &Path, errors: &mut Errors) {
    let mut seen: HashSet<&str> = HashSet::new();
    for (at, port) in ports.iter().enumerate() {
        let (path, name) = (path.index(at), text(&port.name));
        if !name.is_empty() {
            let objections = names::port_name(name);
            if !objections.is_empty() {
                errors.invalid_each(&path.child("name"), name, objections);
            } else if !seen.insert(name) {
                errors.duplicate(&path.child("name"), name);
            }
        }
        let number = port.container_port;
        if number == 0 {
            errors.required(&path.child("containerPort"), "");
        } else {
            errors.invalid_each(
                &path.child("containerPort"),
                &number,
                names::port_number(number.into()),
            );
        }
        if let Some(number) = port.host_port.filter(|number| *number != 0) {
            errors.invalid_each(
                &path.child("hostPort"),
                &number,
                names::port_number(number.into()),
            );
        }
        required_one_of(&path.child("protocol"), text(&port.protocol), &PROTOCOLS, errors);
    }
}

/// No two ports can be the same port of the host.
fn validate_host_port_conflicts(containers: &[Container], path: &Path, errors: &mut Errors) {
    let mut seen: HashSet<(&str, &str, i32)> = HashSet::new();
    for (at, container) in containers.iter().enumerate() {
        for (port_at, port) in container.ports.iter().flatten().enumerate() {
            let number = port.host_port.unwrap_or(0);
            if number == 0 {
                continue;
            }
            let key = (text(&port.protocol), text(&port.host_ip), number);
            if !seen.insert(key) {
                let path = path.index(at).child("ports").index(port_at).child("hostPort");
                errors.duplicate(&path, &format!("{}/{}/{}", key.0, key.1, key.2));
            }
        }
    }
}
