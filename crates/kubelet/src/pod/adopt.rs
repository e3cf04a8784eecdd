//! A pod that runs here already when its worker begins: after a restart of the server its
//! containers go on as they were, after one of the machine they begin anew.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::time::Instant;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{ContainerStatus, Pod};
use stead_runtime::config::NetworkMode;
use stead_runtime::{ContainerInfo, ContainerState, DeadPod, ExitRecord};

use super::exits;
use super::jobs::ADDRESS;
use super::observed::{Backoff, Container, Exit, Image, Observed, Run, Running, Sandbox, Step, Verdict};
use super::wanted::find;
use crate::config::PodDirs;
use crate::images;

/// What the runtime found of a pod.
pub(crate) enum Found {
    /// Nothing: the pod is new.
    Nothing,
    /// Nothing, and the node does not take it.
    Refused(Verdict),
    /// It runs.
    Alive(stead_runtime::Pod),
    /// It has run; nothing of it is left but how its containers ended.
    Dead(Box<DeadPod>),
}

/// The address that a sandbox was given.
pub(crate) fn address(config: &stead_runtime::config::PodConfig) -> Option<Ipv4Addr> {
    config.annotations.get(ADDRESS)?.parse().ok()
}

/// What is known of a pod at first, and its sandbox.
pub(super) fn observed(
    pod: &Pod,
    found: Found,
    node_ip: Ipv4Addr,
    dirs: &PodDirs,
) -> (Observed, Option<stead_runtime::Pod>) {
    let spec = pod.spec.as_ref();
    let init = spec
        .and_then(|spec| spec.init_containers.as_deref())
        .unwrap_or_default();
    let main = spec.map(|spec| spec.containers.as_slice()).unwrap_or_default();
    let names = init.iter().chain(main).map(|container| container.name.clone());
    let start_time = pod
        .status
        .as_ref()
        .and_then(|status| status.start_time.as_ref())
        .map_or_else(Timestamp::now, |time| time.0);
    let active = Timestamp::now()
        .duration_since(start_time)
        .try_into()
        .unwrap_or_default();
    let mut seen = Observed {
        volumes: Step::Todo,
        volume_failures: 0,
        sandbox: Sandbox::Up(Step::Todo),
        sandbox_failures: 0,
        containers: names
            .map(|name| (name, Container::new()))
            .collect::<BTreeMap<_, _>>(),
        since: Instant::now().checked_sub(active).unwrap_or_else(Instant::now),
        start_time,
        ip: None,
        verdict: None,
        finalized: false,
    };
    go_on_counting(pod, &mut seen);
    match found {
        Found::Refused(verdict) => {
            seen.sandbox = Sandbox::Down;
            seen.verdict = Some(verdict);
            (seen, None)
        }
        Found::Nothing => {
            restore_ended(pod, &mut seen);
            (seen, None)
        }
        Found::Alive(sandbox) => {
            take_over(pod, &mut seen, &sandbox.containers(), dirs);
            let on_host = sandbox.config().network == NetworkMode::Host;
            seen.ip = if on_host {
                Some(node_ip)
            } else {
                address(sandbox.config())
            };
            seen.sandbox = Sandbox::Up(Step::Done(seen.ip));
            (seen, Some(sandbox))
        }
        Found::Dead(dead) => {
            take_over(pod, &mut seen, &dead.containers, dirs);
            // What made it end has passed, so nothing is to be waited for.
            seen.containers
                .values_mut()
                .for_each(|container| container.backoff = Backoff::default());
            begin_anew(pod, &mut seen);
            (seen, None)
        }
    }
}

/// Where the runtime knows nothing of a container, the API still knows how often it was started.
fn go_on_counting(pod: &Pod, seen: &mut Observed) {
    for (name, container) in &mut seen.containers {
        let Some(told) = told(pod, name) else { continue };
        let before = u32::try_from(told.restart_count).unwrap_or(0);
        container.restarts = before + u32::from(told.container_id.is_some());
    }
}

/// Containers as the runtime has them; whether one was ready is what the API was told.
fn take_over(pod: &Pod, seen: &mut Observed, containers: &[ContainerInfo], dirs: &PodDirs) {
    let last_words = |info: &ContainerInfo, record: &ExitRecord| {
        let (spec, _) = find(pod, &info.name)?;
        exits::last_words(spec, dirs, info.attempt, record.exit_code)
    };
    for (name, container) in &mut seen.containers {
        let mut attempts: Vec<&ContainerInfo> = containers.iter().filter(|info| info.name == *name).collect();
        attempts.sort_by_key(|info| info.attempt);
        let Some(latest) = attempts.pop() else { continue };
        let told = told(pod, name);
        container.restarts = latest.attempt;
        container.backoff = Backoff::after_restarts(latest.attempt);
        container.known_image = Some(images::known(
            &latest.image,
            &told.map_or_else(|| latest.image_id.to_string(), |told| told.image_id.clone()),
        ));
        container.last = attempts.pop().and_then(|before| match &before.state {
            ContainerState::Exited(record) => {
                Some(exits::exit(&before.id, record, last_words(before, record)))
            }
            ContainerState::Running { .. } => None,
        });
        let has_startup = find(pod, name).is_some_and(|(spec, _)| spec.startup_probe.is_some());
        container.run = match &latest.state {
            ContainerState::Running { started_at, .. } => {
                let same = told.filter(|told| {
                    told.container_id
                        .as_deref()
                        .is_some_and(|id| id.ends_with(&latest.id))
                });
                Run::Running(Running {
                    id: latest.id.clone(),
                    started_at: *started_at,
                    started: same.and_then(|told| told.started).unwrap_or(false) || !has_startup,
                    ready: same.is_some_and(|told| told.ready),
                    doom: None,
                    stopping: false,
                })
            }
            ContainerState::Exited(record) => {
                Run::Exited(exits::exit(&latest.id, record, last_words(latest, record)))
            }
        };
    }
}

/// What the API was told of a container.
fn told<'p>(pod: &'p Pod, name: &str) -> Option<&'p ContainerStatus> {
    let status = pod.status.as_ref()?;
    let main = status.container_statuses.iter().flatten();
    main.chain(status.init_container_statuses.iter().flatten())
        .find(|status| status.name == name)
}

/// A pod that was over before, and of which nothing is left here, stays over.
fn restore_ended(pod: &Pod, seen: &mut Observed) {
    let Some(status) = &pod.status else { return };
    if !matches!(status.phase.as_deref(), Some("Succeeded" | "Failed")) {
        return;
    }
    seen.sandbox = Sandbox::Down;
    seen.ip = status.pod_ip.as_deref().and_then(|ip| ip.parse().ok());
    if let Some(reason) = &status.reason {
        seen.verdict = Some(Verdict {
            reason: reason.clone(),
            message: status.message.clone().unwrap_or_default(),
        });
    }
    for (name, container) in &mut seen.containers {
        let told = told(pod, name);
        let end = told
            .and_then(|told| told.state.as_ref())
            .and_then(|state| state.terminated.as_ref());
        container.restarts = told
            .and_then(|told| u32::try_from(told.restart_count).ok())
            .unwrap_or(0);
        container.known_image = told.map(|told| Image {
            name: told.image.clone(),
            id: told.image_id.clone(),
        });
        container.run = Run::Exited(Exit {
            id: end
                .and_then(|end| end.container_id.as_deref())
                .and_then(|id| id.split("://").nth(1))
                .unwrap_or_default()
                .to_owned(),
            code: end.map_or(137, |end| end.exit_code),
            reason: end
                .and_then(|end| end.reason.clone())
                .unwrap_or_else(|| "ContainerStatusUnknown".to_owned()),
            message: end.and_then(|end| end.message.clone()),
            started_at: end.and_then(|end| end.started_at.as_ref()).map(|time| time.0),
            finished_at: end.and_then(|end| end.finished_at.as_ref()).map(|time| time.0),
            at: Instant::now(),
            doomed: false,
        });
    }
}

/// A pod whose sandbox is gone begins anew: its init containers run again.
pub(super) fn begin_anew(pod: &Pod, seen: &mut Observed) {
    let restarts = pod.spec.as_ref().and_then(|spec| spec.restart_policy.as_deref()) != Some("Never");
    let init = pod
        .spec
        .iter()
        .flat_map(|spec| spec.init_containers.iter().flatten());
    for spec in init {
        let Some(container) = seen.containers.get_mut(&spec.name) else {
            continue;
        };
        if let Run::Exited(exit) = &container.run
            && restarts
        {
            container.last = Some(exit.clone());
            container.restarts += 1;
            container.run = Run::Waiting;
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::config::Config;

    #[test]
    fn a_pod_that_nothing_is_left_of_goes_on_counting_its_restarts() {
        let pod: Pod = serde_json::from_value(json!({
            "metadata": {"name": "p", "namespace": "n", "uid": "u"},
            "spec": {"containers": [{"name": "a"}, {"name": "b"}, {"name": "c"}]},
            "status": {"phase": "Running", "containerStatuses": [
                {"name": "a", "image": "", "imageID": "", "ready": true, "restartCount": 2, "containerID": "stead://x"},
                {"name": "b", "image": "", "imageID": "", "ready": false, "restartCount": 0},
            ]},
        }))
        .expect("a pod");
        let dirs = Config::for_tests().pod_dirs("u", "n", "p");
        let (seen, sandbox) = observed(&pod, Found::Nothing, Ipv4Addr::LOCALHOST, &dirs);
        let restarts: Vec<u32> = seen
            .containers
            .values()
            .map(|container| container.restarts)
            .collect();
        assert_eq!(restarts, [3, 0, 0]);
        assert!(sandbox.is_none());
    }

    #[test]
    fn a_pod_that_was_over_stays_over() {
        let pod: Pod = serde_json::from_value(json!({
            "metadata": {"name": "p", "namespace": "n", "uid": "u"},
            "spec": {"containers": [{"name": "a"}], "restartPolicy": "Never"},
            "status": {"phase": "Succeeded", "podIP": "10.0.0.7", "containerStatuses": [{
                "name": "a", "image": "i", "imageID": "d", "ready": false, "restartCount": 1,
                "containerID": "stead://x", "state": {"terminated": {"exitCode": 0, "reason": "Completed", "containerID": "stead://x"}},
            }]},
        }))
        .expect("a pod");
        let dirs = Config::for_tests().pod_dirs("u", "n", "p");
        let (seen, _) = observed(&pod, Found::Nothing, Ipv4Addr::LOCALHOST, &dirs);
        assert_eq!(seen.sandbox, Sandbox::Down);
        let container = &seen.containers["a"];
        assert_eq!(
            (
                container.restarts,
                container.exit().map(|exit| (exit.code, exit.id.as_str()))
            ),
            (1, Some((0, "x")))
        );
    }
}
