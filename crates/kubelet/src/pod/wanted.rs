//! From a pod of the API to what the planner needs to know of it.

use std::time::Duration;

use k8s_openapi::api::core::v1::{Container, Pod};

use super::plan::{ContainerWanted, Restart, Wanted};

/// `terminationGracePeriodSeconds` where a pod does not say.
const DEFAULT_GRACE_SECONDS: i64 = 30;

/// What a pod asks for. `gone`: it is no longer in the API. `parked`: the node goes down.
pub(crate) fn wanted(pod: &Pod, gone: bool, parked: bool) -> Wanted {
    let spec = pod.spec.clone().unwrap_or_default();
    let seconds = |seconds: i64| Duration::from_secs(u64::try_from(seconds).unwrap_or(0));
    let deletion = pod.metadata.deletion_timestamp.as_ref().map(|_| {
        seconds(
            pod.metadata
                .deletion_grace_period_seconds
                .unwrap_or(DEFAULT_GRACE_SECONDS),
        )
    });
    Wanted {
        init: spec
            .init_containers
            .iter()
            .flatten()
            .map(|container| named(container, true))
            .collect(),
        main: spec
            .containers
            .iter()
            .map(|container| named(container, false))
            .collect(),
        restart: match spec.restart_policy.as_deref() {
            Some("Never") => Restart::Never,
            Some("OnFailure") => Restart::OnFailure,
            _ => Restart::Always,
        },
        deletion,
        gone,
        parked,
        grace: seconds(
            spec.termination_grace_period_seconds
                .unwrap_or(DEFAULT_GRACE_SECONDS),
        ),
        deadline: spec.active_deadline_seconds.map(seconds),
    }
}

fn named(container: &Container, is_init: bool) -> ContainerWanted {
    let sidecar = is_init && container.restart_policy.as_deref() == Some("Always");
    ContainerWanted {
        name: container.name.clone(),
        sidecar,
    }
}

/// A container of the pod, init containers among them, and where it stands, as events name it.
pub(crate) fn find<'p>(pod: &'p Pod, name: &str) -> Option<(&'p Container, &'static str)> {
    let spec = pod.spec.as_ref()?;
    let main = spec
        .containers
        .iter()
        .map(|container| (container, "spec.containers"));
    let init = spec
        .init_containers
        .iter()
        .flatten()
        .map(|container| (container, "spec.initContainers"));
    main.chain(init).find(|(container, _)| container.name == name)
}
