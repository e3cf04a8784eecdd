//! The pod's status as the API shows it: a pure function of the pod and what was observed.
//!
//! Phases, reasons and messages follow the pod lifecycle page and the kubelet's `generateAPIPodStatus`
//! (as recorded in `golden/pods`).

use std::net::Ipv4Addr;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{
    ContainerState, ContainerStateRunning, ContainerStateTerminated, ContainerStateWaiting, ContainerStatus,
    HostIP, Pod, PodCondition, PodIP, PodStatus,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use super::observed::{Container, Exit, Observed, Run, Sandbox, Step, Trouble};
use super::plan::{ContainerWanted, Outcome, Wanted, outcome};

/// How container ids begin, as with every runtime.
const ID_SCHEME: &str = "stead://";
/// What is shown of a container that was never made when its pod ended.
const UNKNOWN_MESSAGE: &str = "The container could not be located when the pod was terminated";

/// Conditions that are the kubelet's own.
pub(super) const OWN_CONDITIONS: [&str; 4] = [
    "PodReadyToStartContainers",
    "Initialized",
    "Ready",
    "ContainersReady",
];

/// The status of a pod now. `old` is what the API has.
pub(crate) fn status(
    pod: &Pod,
    wanted: &Wanted,
    seen: &Observed,
    host_ip: Ipv4Addr,
    now: Timestamp,
) -> PodStatus {
    let old = pod.status.clone().unwrap_or_default();
    let over = is_over(wanted, seen);
    let view = View {
        pod,
        wanted,
        seen,
        over,
    };
    let init: Vec<_> = wanted
        .init
        .iter()
        .map(|container| view.container(container, true))
        .collect();
    let main: Vec<_> = wanted
        .main
        .iter()
        .map(|container| view.container(container, false))
        .collect();
    let phase = view.phase(&init, &main);
    let conditions = view.conditions(phase, &init, &main, &old, now);
    // On the host's network the address is known from the start.
    let on_host = pod.spec.as_ref().and_then(|spec| spec.host_network) == Some(true);
    let ip = seen.ip.or(on_host.then_some(host_ip)).map(|ip| ip.to_string());
    PodStatus {
        observed_generation: pod.metadata.generation,
        phase: Some(phase.to_owned()),
        conditions: Some(conditions),
        message: seen
            .verdict
            .as_ref()
            .map(|verdict| verdict.message.clone())
            .filter(|text| !text.is_empty()),
        reason: seen.verdict.as_ref().map(|verdict| verdict.reason.clone()),
        host_ip: Some(host_ip.to_string()),
        host_ips: Some(vec![HostIP {
            ip: host_ip.to_string(),
        }]),
        pod_ip: ip.clone(),
        pod_ips: ip.map(|ip| vec![PodIP { ip }]),
        start_time: Some(Time(seen.start_time)),
        init_container_statuses: (!init.is_empty()).then_some(init),
        container_statuses: Some(main),
        qos_class: old.qos_class,
        nominated_node_name: None,
        resource_claim_statuses: old.resource_claim_statuses,
        ..PodStatus::default()
    }
}

/// Whether nothing of the pod runs any more, and nothing will.
fn is_over(wanted: &Wanted, seen: &Observed) -> bool {
    if wanted.gone || wanted.deletion.is_some() {
        !seen.containers.values().any(Container::is_busy)
    } else {
        seen.sandbox == Sandbox::Down && outcome(wanted, seen) != Outcome::Going
    }
}

/// Whether a container is between two runs because a probe wants it to be: it is started again at once, and
/// nothing is told until it has been.
pub(crate) fn is_between_runs(pod: &Pod, wanted: &Wanted, seen: &Observed) -> bool {
    let view = View {
        pod,
        wanted,
        seen,
        over: is_over(wanted, seen),
    };
    wanted.init.iter().chain(&wanted.main).any(|named| {
        let container = seen.containers.get(&named.name);
        container.is_some_and(|container| match &container.run {
            Run::Exited(exit) | Run::Starting(Some(exit)) => {
                exit.doomed
                    && container.trouble.is_none()
                    && container.wait(exit).is_zero()
                    && view.will_restart(named, exit)
            }
            _ => false,
        })
    })
}

struct View<'v> {
    pod: &'v Pod,
    wanted: &'v Wanted,
    seen: &'v Observed,
    over: bool,
}

impl View<'_> {
    fn spec_image(&self, name: &str) -> String {
        let spec = self.pod.spec.as_ref();
        let init = spec
            .and_then(|spec| spec.init_containers.as_deref())
            .unwrap_or_default();
        let main = spec.map(|spec| spec.containers.as_slice()).unwrap_or_default();
        let container = init.iter().chain(main).find(|container| container.name == name);
        container
            .and_then(|container| container.image.clone())
            .unwrap_or_default()
    }

    fn container(&self, wanted: &ContainerWanted, is_init: bool) -> ContainerStatus {
        let fresh = Container::new();
        let container = self.seen.containers.get(&wanted.name).unwrap_or(&fresh);
        let (state, last) = self.states(wanted, container);
        let running = container.running();
        let completed = is_init && !wanted.sidecar && container.exit().is_some_and(|exit| exit.code == 0);
        let id = match &container.run {
            Run::Running(running) => Some(&running.id),
            Run::Exited(exit) | Run::Starting(Some(exit)) => Some(&exit.id),
            _ => container.last.as_ref().map(|exit| &exit.id),
        };
        // The image of a container that was never made is what was asked for.
        let known = container.known_image.as_ref().filter(|_| id.is_some());
        // Probes have no say in whether an init container is done.
        let passes = running.is_some_and(|running| running.ready) && (!is_init || wanted.sidecar);
        ContainerStatus {
            name: wanted.name.clone(),
            state: Some(state),
            last_state: Some(last.map(terminated).unwrap_or_default()),
            ready: completed || passes,
            restart_count: i32::try_from(container.restarts).unwrap_or(i32::MAX),
            image: known.map_or_else(|| self.spec_image(&wanted.name), |image| image.name.clone()),
            image_id: known.map(|image| image.id.clone()).unwrap_or_default(),
            container_id: id
                .filter(|id| !id.is_empty())
                .map(|id| format!("{ID_SCHEME}{id}")),
            started: Some(running.is_some_and(|running| running.started)),
            ..ContainerStatus::default()
        }
    }

    /// What a container is doing, and how it ended before.
    fn states<'c>(
        &self,
        wanted: &ContainerWanted,
        container: &'c Container,
    ) -> (ContainerState, Option<&'c Exit>) {
        let last = container.last.as_ref();
        match &container.run {
            Run::Running(running) => {
                let started_at = Some(Time(running.started_at));
                let running = Some(ContainerStateRunning { started_at });
                (
                    ContainerState {
                        running,
                        ..ContainerState::default()
                    },
                    last,
                )
            }
            // Until the next attempt runs, the former is what there is.
            Run::Exited(exit) | Run::Starting(Some(exit)) if self.will_restart(wanted, exit) => {
                match &container.trouble {
                    Some(trouble) => (in_trouble(trouble), Some(exit)),
                    None if container.wait(exit).is_zero() => (terminated(exit), last),
                    None => {
                        let message = self.back_off_message(wanted, container.wait(exit));
                        (waiting("CrashLoopBackOff", Some(message)), Some(exit))
                    }
                }
            }
            Run::Exited(exit) | Run::Starting(Some(exit)) => (terminated(exit), last),
            Run::Waiting | Run::Starting(None) | Run::Refused(_) if self.is_lost(wanted) => (unknown(), last),
            Run::Waiting | Run::Starting(None) | Run::Refused(_) => match &container.trouble {
                Some(trouble) => (in_trouble(trouble), last),
                None if self.wanted.init.is_empty() => (waiting("ContainerCreating", None), last),
                None => (waiting("PodInitializing", None), last),
            },
        }
    }

    fn back_off_message(&self, wanted: &ContainerWanted, wait: Duration) -> String {
        let meta = &self.pod.metadata;
        format!(
            "back-off {} restarting failed container={} pod={}_{}({})",
            go_seconds(wait.as_secs()),
            wanted.name,
            meta.name.as_deref().unwrap_or_default(),
            meta.namespace.as_deref().unwrap_or_default(),
            meta.uid.as_deref().unwrap_or_default(),
        )
    }

    /// Whether a container that was never made should have been: its pod is over, and had come so far
    /// that all init containers were done.
    fn is_lost(&self, wanted: &ContainerWanted) -> bool {
        let done = |init: &ContainerWanted| {
            let container = self.seen.containers.get(&init.name);
            init.sidecar
                || container
                    .and_then(Container::exit)
                    .is_some_and(|exit| exit.code == 0)
        };
        let is_init = self.wanted.init.iter().any(|init| init.name == wanted.name);
        self.over && !is_init && self.wanted.init.iter().all(done)
    }

    fn will_restart(&self, wanted: &ContainerWanted, exit: &Exit) -> bool {
        let going = self.wanted.deletion.is_none()
            && !self.wanted.gone
            && outcome(self.wanted, self.seen) == Outcome::Going;
        let is_init = self.wanted.init.iter().any(|init| init.name == wanted.name) && !wanted.sidecar;
        going
            && match self.wanted.restart {
                super::plan::Restart::Never => wanted.sidecar,
                super::plan::Restart::OnFailure => wanted.sidecar || exit.code != 0,
                super::plan::Restart::Always => !is_init || exit.code != 0,
            }
    }

    fn phase(&self, init: &[ContainerStatus], main: &[ContainerStatus]) -> &'static str {
        if self.over {
            let exits = || {
                main.iter()
                    .filter_map(|status| status.state.as_ref()?.terminated.as_ref())
            };
            let well = exits().count() == main.len() && exits().all(|exit| exit.exit_code == 0);
            return if well && self.seen.verdict.is_none() {
                "Succeeded"
            } else {
                "Failed"
            };
        }
        match outcome(self.wanted, self.seen) {
            Outcome::Succeeded => return "Succeeded",
            Outcome::Failed => return "Failed",
            Outcome::Going => {}
        }
        let pending_init = init.iter().zip(&self.wanted.init).any(|(status, wanted)| {
            if wanted.sidecar {
                status.started != Some(true)
            } else {
                !status.ready
            }
        });
        // A container that waits after an end has been running.
        let never_ran = |status: &ContainerStatus| {
            let is_waiting = status.state.as_ref().is_some_and(|state| state.waiting.is_some());
            is_waiting
                && status
                    .last_state
                    .as_ref()
                    .is_none_or(|last| last.terminated.is_none())
        };
        if pending_init || main.iter().any(never_ran) {
            "Pending"
        } else {
            "Running"
        }
    }

    fn conditions(
        &self,
        phase: &str,
        init: &[ContainerStatus],
        main: &[ContainerStatus],
        old: &PodStatus,
        now: Timestamp,
    ) -> Vec<PodCondition> {
        // A pod of which nothing ever ran shows what its containers lacked, however it ended.
        let was_there = |container: &Container| {
            container.last.is_some() || matches!(container.run, Run::Running(_) | Run::Exited(_))
        };
        let ever_ran = self.seen.containers.values().any(was_there);
        let ended = match phase {
            "Succeeded" => Some("PodCompleted"),
            "Failed" if ever_ran => Some("PodFailed"),
            _ => None,
        };
        let incomplete: Vec<&str> = init
            .iter()
            .zip(&self.wanted.init)
            .filter(|(status, wanted)| {
                if wanted.sidecar {
                    status.started != Some(true)
                } else {
                    !status.ready
                }
            })
            .map(|(status, _)| status.name.as_str())
            .collect();
        let unready: Vec<&str> = init
            .iter()
            .zip(&self.wanted.init)
            .filter(|(status, wanted)| wanted.sidecar && !status.ready)
            .map(|(status, _)| status)
            .chain(main.iter().filter(|status| !status.ready))
            .map(|status| status.name.as_str())
            .collect();
        let initialized = match ended {
            Some("PodCompleted") => Condition::yes().because("PodCompleted"),
            _ if incomplete.is_empty() => Condition::yes(),
            _ => Condition::no("ContainersNotInitialized").saying(format!(
                "containers with incomplete status: [{}]",
                incomplete.join(" ")
            )),
        };
        let containers_ready = match ended {
            Some(reason) => Condition::no(reason),
            None if unready.is_empty() => Condition::yes(),
            None => Condition::no("ContainersNotReady")
                .saying(format!("containers with unready status: [{}]", unready.join(" "))),
        };
        let ready = self.with_gates(containers_ready.clone(), old);
        // Newer than the recorded 1.28: the sandbox is there, with its network (KEP-3085).
        let has_sandbox = matches!(self.seen.sandbox, Sandbox::Up(Step::Done(_)));
        let sandboxed = Condition {
            status: has_sandbox,
            reason: None,
            message: None,
        };
        let generation = self.pod.metadata.generation;
        let mut conditions = vec![
            sandboxed.into_api("PodReadyToStartContainers", old, now),
            initialized.into_api("Initialized", old, now),
            ready.into_api("Ready", old, now),
            containers_ready.into_api("ContainersReady", old, now),
        ];
        for condition in &mut conditions {
            condition.observed_generation = generation;
        }
        let is_own = |condition: &PodCondition| OWN_CONDITIONS.contains(&condition.type_.as_str());
        let foreign = old
            .conditions
            .iter()
            .flatten()
            .filter(|condition| !is_own(condition));
        conditions.extend(foreign.cloned());
        conditions
    }

    /// Readiness gates: conditions that others set must hold too (KEP-580).
    fn with_gates(&self, ready: Condition, old: &PodStatus) -> Condition {
        let gates = self
            .pod
            .spec
            .as_ref()
            .and_then(|spec| spec.readiness_gates.as_deref())
            .unwrap_or_default();
        if !ready.status {
            return ready;
        }
        let conditions = old.conditions.as_deref().unwrap_or_default();
        let closed: Vec<String> = gates
            .iter()
            .filter_map(|gate| {
                let name = &gate.condition_type;
                match conditions.iter().find(|condition| &condition.type_ == name) {
                    None => Some(format!(
                        "corresponding condition of pod readiness gate \"{name}\" does not exist."
                    )),
                    Some(condition) if condition.status != "True" => Some(format!(
                        "the status of pod readiness gate \"{name}\" is not \"True\", but {}",
                        condition.status
                    )),
                    Some(_) => None,
                }
            })
            .collect();
        if closed.is_empty() {
            ready
        } else {
            Condition::no("ReadinessGatesNotReady").saying(closed.join(", "))
        }
    }
}

#[derive(Clone)]
struct Condition {
    status: bool,
    reason: Option<String>,
    message: Option<String>,
}

impl Condition {
    fn yes() -> Condition {
        Condition {
            status: true,
            reason: None,
            message: None,
        }
    }

    fn no(reason: &str) -> Condition {
        Condition {
            status: false,
            reason: Some(reason.to_owned()),
            message: None,
        }
    }

    fn because(self, reason: &str) -> Condition {
        Condition {
            reason: Some(reason.to_owned()),
            ..self
        }
    }

    fn saying(self, message: String) -> Condition {
        Condition {
            message: Some(message),
            ..self
        }
    }

    /// As the API has it; the time of the last transition stays while the status does.
    fn into_api(self, type_: &str, old: &PodStatus, now: Timestamp) -> PodCondition {
        let status = if self.status { "True" } else { "False" };
        let before = old
            .conditions
            .iter()
            .flatten()
            .find(|condition| condition.type_ == type_);
        let since = before.filter(|condition| condition.status == status);
        PodCondition {
            type_: type_.to_owned(),
            status: status.to_owned(),
            reason: self.reason,
            message: self.message,
            last_transition_time: since
                .and_then(|condition| condition.last_transition_time.clone())
                .or(Some(Time(now))),
            ..PodCondition::default()
        }
    }
}

fn waiting(reason: &str, message: Option<String>) -> ContainerState {
    let waiting = ContainerStateWaiting {
        reason: Some(reason.to_owned()),
        message,
    };
    ContainerState {
        waiting: Some(waiting),
        ..ContainerState::default()
    }
}

fn in_trouble(trouble: &Trouble) -> ContainerState {
    waiting(&trouble.reason, Some(trouble.message.clone()))
}

fn terminated(exit: &Exit) -> ContainerState {
    let terminated = ContainerStateTerminated {
        exit_code: exit.code,
        signal: None,
        reason: Some(exit.reason.clone()),
        message: exit.message.clone(),
        started_at: exit.started_at.map(Time),
        finished_at: exit.finished_at.map(Time),
        container_id: (!exit.id.is_empty()).then(|| format!("{ID_SCHEME}{}", exit.id)),
    };
    ContainerState {
        terminated: Some(terminated),
        ..ContainerState::default()
    }
}

fn unknown() -> ContainerState {
    let terminated = ContainerStateTerminated {
        exit_code: 137,
        reason: Some("ContainerStatusUnknown".to_owned()),
        message: Some(UNKNOWN_MESSAGE.to_owned()),
        ..ContainerStateTerminated::default()
    };
    ContainerState {
        terminated: Some(terminated),
        ..ContainerState::default()
    }
}

/// Whole seconds as Go writes a duration: `10s`, `1m20s`, `5m0s`.
fn go_seconds(seconds: u64) -> String {
    match seconds {
        ..60 => format!("{seconds}s"),
        _ => format!("{}m{}s", seconds / 60, seconds % 60),
    }
}

#[cfg(test)]
mod tests;
