//! What is filled in where it was not given, in pods and in templates.

use k8s_openapi::api::core::v1::{
    Container, HTTPGetAction, LifecycleHandler, Pod, PodIP, PodSecurityContext, PodSpec, PodStatus,
    PodTemplateSpec, Probe, ResourceRequirements,
};

use super::visit::each_mut;
use super::{image, volume_defaults};
use crate::kinds::resources::round_up;
use crate::kinds::text;

/// Annotations that were fields before they were fields, and are dropped.
const INIT_ANNOTATIONS: [&str; 4] = [
    "pod.beta.kubernetes.io/init-containers",
    "pod.alpha.kubernetes.io/init-containers",
    "pod.beta.kubernetes.io/init-container-statuses",
    "pod.alpha.kubernetes.io/init-container-statuses",
];

/// Sets a text that is empty.
pub(crate) fn fill(field: &mut Option<String>, value: &str) {
    if text(field).is_empty() {
        *field = Some(value.to_owned());
    }
}

/// The defaults of a pod, more than a template gets.
pub(super) fn set_pod_defaults(pod: &mut Pod) {
    drop_init_annotations(&mut pod.metadata.annotations);
    let spec = pod.spec.get_or_insert_default();
    // A negative period was let through once and counted as one second (1.33).
    if let Some(period) = spec.termination_grace_period_seconds.filter(|period| *period < 0) {
        spec.termination_grace_period_seconds = Some(period.max(1));
    }
    let containers = spec
        .init_containers
        .iter_mut()
        .flatten()
        .chain(&mut spec.containers);
    for resources in containers.filter_map(|container| container.resources.as_mut()) {
        requests_from_limits(resources);
    }
    spec.enable_service_links.get_or_insert(true);
    if spec.host_network == Some(true) {
        let containers = spec
            .init_containers
            .iter_mut()
            .flatten()
            .chain(&mut spec.containers);
        for port in containers.flat_map(|container| container.ports.iter_mut().flatten()) {
            if port.host_port.unwrap_or(0) == 0 {
                port.host_port = Some(port.container_port);
            }
        }
    }
    set_spec_defaults(spec);
    if let Some(status) = &mut pod.status {
        set_status_defaults(status);
    }
}

/// The defaults of a template.
pub(crate) fn set_template_defaults(template: &mut PodTemplateSpec) {
    if let Some(metadata) = &mut template.metadata {
        drop_init_annotations(&mut metadata.annotations);
    }
    set_spec_defaults(template.spec.get_or_insert_default());
}

fn drop_init_annotations(annotations: &mut Option<std::collections::BTreeMap<String, String>>) {
    if let Some(annotations) = annotations {
        for key in INIT_ANNOTATIONS {
            annotations.remove(key);
        }
    }
}

fn requests_from_limits(resources: &mut ResourceRequirements) {
    let Some(limits) = &resources.limits else { return };
    let requests = resources.requests.get_or_insert_default();
    for (name, limit) in limits {
        requests.entry(name.clone()).or_insert_with(|| limit.clone());
    }
}

fn set_spec_defaults(spec: &mut PodSpec) {
    fill(&mut spec.dns_policy, "ClusterFirst");
    // The old name of the service account goes with the new one, which counts.
    if text(&spec.service_account_name).is_empty() {
        spec.service_account_name.clone_from(&spec.service_account);
    }
    spec.service_account.clone_from(&spec.service_account_name);
    fill(&mut spec.restart_policy, "Always");
    spec.security_context
        .get_or_insert_with(PodSecurityContext::default);
    spec.termination_grace_period_seconds.get_or_insert(30);
    fill(&mut spec.scheduler_name, "default-scheduler");
    for volume in spec.volumes.iter_mut().flatten() {
        volume_defaults::set_volume_defaults(volume);
    }
    each_mut(spec, set_container_defaults);
    round_up(&mut spec.overhead);
    if let Some(resources) = &mut spec.resources {
        round_up(&mut resources.limits);
        round_up(&mut resources.requests);
    }
}

fn set_container_defaults(container: &mut Container) {
    if text(&container.image_pull_policy).is_empty() {
        container.image_pull_policy = Some(image::pull_policy(text(&container.image)).to_owned());
    }
    fill(&mut container.termination_message_path, "/dev/termination-log");
    fill(&mut container.termination_message_policy, "File");
    for port in container.ports.iter_mut().flatten() {
        fill(&mut port.protocol, "TCP");
    }
    for source in container
        .env
        .iter_mut()
        .flatten()
        .filter_map(|variable| variable.value_from.as_mut())
    {
        if let Some(field) = &mut source.field_ref {
            fill(&mut field.api_version, "v1");
        }
        if let Some(file) = &mut source.file_key_ref {
            file.optional.get_or_insert(false);
        }
    }
    if let Some(resources) = &mut container.resources {
        round_up(&mut resources.limits);
        round_up(&mut resources.requests);
    }
    let probes = [
        &mut container.liveness_probe,
        &mut container.readiness_probe,
        &mut container.startup_probe,
    ];
    probes.into_iter().flatten().for_each(set_probe_defaults);
    if let Some(lifecycle) = &mut container.lifecycle {
        let handlers = [&mut lifecycle.post_start, &mut lifecycle.pre_stop];
        let requests = handlers
            .into_iter()
            .flatten()
            .filter_map(|LifecycleHandler { http_get, .. }| http_get.as_mut());
        requests.for_each(set_request_defaults);
    }
}

fn set_probe_defaults(probe: &mut Probe) {
    for (field, default) in [
        (&mut probe.timeout_seconds, 1),
        (&mut probe.period_seconds, 10),
        (&mut probe.success_threshold, 1),
        (&mut probe.failure_threshold, 3),
    ] {
        if field.unwrap_or(0) == 0 {
            *field = Some(default);
        }
    }
    if let Some(request) = &mut probe.http_get {
        set_request_defaults(request);
    }
    if let Some(grpc) = &mut probe.grpc {
        grpc.service.get_or_insert_default();
    }
}

fn set_request_defaults(request: &mut HTTPGetAction) {
    fill(&mut request.path, "/");
    fill(&mut request.scheme, "HTTP");
}

/// One address and the list of addresses go together; where they differ, the one counts.
fn set_status_defaults(status: &mut PodStatus) {
    let ip = text(&status.pod_ip);
    let listed = status
        .pod_ips
        .as_deref()
        .unwrap_or_default()
        .first()
        .map(|listed| listed.ip.as_str());
    if ip.is_empty() {
        status.pod_ip = listed.map(str::to_owned).or(status.pod_ip.take());
    } else if listed != Some(ip) {
        status.pod_ips = Some(vec![PodIP { ip: ip.to_owned() }]);
    }
    for container in [
        &mut status.init_container_statuses,
        &mut status.container_statuses,
        &mut status.ephemeral_container_statuses,
    ]
    .into_iter()
    .flatten()
    .flatten()
    {
        round_up(&mut container.allocated_resources);
        if let Some(resources) = &mut container.resources {
            round_up(&mut resources.limits);
            round_up(&mut resources.requests);
        }
    }
}
