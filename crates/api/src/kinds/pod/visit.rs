//! All containers of a pod, whatever their sort.

use k8s_openapi::api::core::v1::{Container, EphemeralContainer, PodSpec};

use crate::error::Path;

/// Calls a function with every container and its path: init containers first, as Kubernetes does.
pub(crate) fn each(spec: &PodSpec, path: &Path, mut visit: impl FnMut(&Container, &Path)) {
    let lists = [
        ("initContainers", spec.init_containers.as_deref()),
        ("containers", Some(&spec.containers[..])),
    ];
    for (field, containers) in lists {
        for (at, container) in containers.unwrap_or_default().iter().enumerate() {
            visit(container, &path.child(field).index(at));
        }
    }
    for (at, container) in spec.ephemeral_containers.iter().flatten().enumerate() {
        visit(
            &as_container(container.clone()),
            &path.child("ephemeralContainers").index(at),
        );
    }
}

/// Changes every container.
pub(crate) fn each_mut(spec: &mut PodSpec, mut change: impl FnMut(&mut Container)) {
    let init = spec.init_containers.iter_mut().flatten();
    init.chain(&mut spec.containers).for_each(&mut change);
    for ephemeral in spec.ephemeral_containers.iter_mut().flatten() {
        let target = ephemeral.target_container_name.take();
        let mut container = as_container(std::mem::take(ephemeral));
        change(&mut container);
        *ephemeral = as_ephemeral(container, target);
    }
}

/// Whether any container meets a condition.
pub(crate) fn any(spec: &PodSpec, mut condition: impl FnMut(&Container) -> bool) -> bool {
    let mut found = false;
    each(spec, &Path::root(), |container, _| {
        found = found || condition(container)
    });
    found
}

/// Whether an init container goes on running beside the others.
pub(crate) fn is_sidecar(container: &Container) -> bool {
    container.restart_policy.as_deref() == Some("Always")
}

macro_rules! convert {
    ($from:expr => $to:ident { $($field:ident),* } $(.. $rest:ident: $value:expr)?) => {
        $to { $($field: $from.$field,)* $($rest: $value,)? }
    };
}

/// An ephemeral container has the fields of others, and a target.
pub(crate) fn as_container(from: EphemeralContainer) -> Container {
    convert!(from => Container {
        args, command, env, env_from, image, image_pull_policy, lifecycle, liveness_probe, name, ports,
        readiness_probe, resize_policy, resources, restart_policy, restart_policy_rules, security_context,
        startup_probe, stdin, stdin_once, termination_message_path, termination_message_policy, tty,
        volume_devices, volume_mounts, working_dir
    })
}

fn as_ephemeral(from: Container, target: Option<String>) -> EphemeralContainer {
    convert!(from => EphemeralContainer {
        args, command, env, env_from, image, image_pull_policy, lifecycle, liveness_probe, name, ports,
        readiness_probe, resize_policy, resources, restart_policy, restart_policy_rules, security_context,
        startup_probe, stdin, stdin_once, termination_message_path, termination_message_policy, tty,
        volume_devices, volume_mounts, working_dir
    } .. target_container_name: target)
}
