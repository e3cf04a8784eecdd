//! A pod's row in tables.

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{
    Container, ContainerState, ContainerStateTerminated, ContainerStatus, Pod, PodSpec, PodStatus,
};
use serde_json::Value;

use super::visit::is_sidecar;
use crate::kinds::{name_cell, text};
use crate::table::{age, since};

/// The cells of a pod.
pub(super) fn cells(pod: &Pod, now: Timestamp) -> Vec<Value> {
    let (no_spec, no_status) = (PodSpec::default(), PodStatus::default());
    let spec = pod.spec.as_ref().unwrap_or(&no_spec);
    let status = pod.status.as_ref().unwrap_or(&no_status);
    let summary = Summary::of(spec, status);
    let or_none = |text: &str| -> Value { if text.is_empty() { "<none>" } else { text }.into() };
    let ip = status
        .pod_ips
        .as_deref()
        .unwrap_or_default()
        .first()
        .map_or("", |ip| ip.ip.as_str());
    vec![
        name_cell(&pod.metadata),
        format!("{}/{}", summary.ready, summary.total).into(),
        reason(pod, status, summary.reason).into(),
        summary.restarts.cell(now),
        age(pod.metadata.creation_timestamp.as_ref(), now),
        or_none(ip),
        or_none(text(&spec.node_name)),
        or_none(text(&status.nominated_node_name)),
        readiness_gates(spec, status).into(),
    ]
}

/// What the state of the containers comes to.
struct Summary {
    ready: usize,
    total: usize,
    reason: String,
    restarts: Restarts,
}

#[derive(Default, Clone, Copy)]
struct Restarts {
    count: i32,
    last: Option<Timestamp>,
}

impl Restarts {
    fn add(&mut self, status: &ContainerStatus) {
        self.count += status.restart_count;
        let ended = status
            .last_state
            .as_ref()
            .and_then(|state| state.terminated.as_ref());
        self.last = self
            .last
            .max(ended.and_then(|ended| ended.finished_at.as_ref()).map(|at| at.0));
    }

    fn cell(self, now: Timestamp) -> Value {
        match self.last {
            Some(_) if self.count != 0 => {
                let ago = since(self.last, now);
                format!("{} ({} ago)", self.count, ago.as_str().unwrap_or_default()).into()
            }
            _ => self.count.to_string().into(),
        }
    }
}

impl Summary {
    fn of(spec: &PodSpec, status: &PodStatus) -> Summary {
        let init = spec.init_containers.as_deref().unwrap_or_default();
        let mut summary = Summary {
            ready: 0,
            total: spec.containers.len() + init.iter().filter(|container| is_sidecar(container)).count(),
            reason: text(if text(&status.reason).is_empty() {
                &status.phase
            } else {
                &status.reason
            })
            .to_owned(),
            restarts: Restarts::default(),
        };
        let conditions = || status.conditions.iter().flatten();
        if conditions().any(|it| it.type_ == "PodScheduled" && text(&it.reason) == "SchedulingGated") {
            summary.reason = "SchedulingGated".to_owned();
        }
        let (is_starting, sidecars) = summary.add_init(init, status);
        let is_initialized = conditions().any(|it| it.type_ == "Initialized" && it.status == "True");
        if !is_starting || is_initialized {
            summary.restarts = sidecars;
            summary.add_containers(status);
        }
        summary
    }

    /// Says whether an init container is still to run, and how often those that go on running have
    /// been restarted.
    fn add_init(&mut self, init: &[Container], status: &PodStatus) -> (bool, Restarts) {
        let mut sidecars = Restarts::default();
        for (at, status) in status.init_container_statuses.iter().flatten().enumerate() {
            self.restarts.add(status);
            let is_sidecar = init
                .iter()
                .any(|container| container.name == status.name && is_sidecar(container));
            if is_sidecar {
                sidecars.add(status);
            }
            let none = ContainerState::default();
            let state = status.state.as_ref().unwrap_or(&none);
            match &state.terminated {
                Some(ended) if ended.exit_code == 0 => continue,
                _ if is_sidecar && status.started == Some(true) => {
                    self.ready += usize::from(status.ready);
                    continue;
                }
                Some(ended) => self.reason = format!("Init:{}", ending(ended)),
                None => {
                    let waiting = state.waiting.as_ref().map_or("", |waiting| text(&waiting.reason));
                    self.reason = match waiting {
                        "" | "PodInitializing" => format!("Init:{at}/{}", init.len()),
                        why => format!("Init:{why}"),
                    };
                }
            }
            return (true, sidecars);
        }
        (false, sidecars)
    }

    fn add_containers(&mut self, status: &PodStatus) {
        let (mut is_running, mut failure) = (false, None);
        for container in status.container_statuses.iter().flatten().rev() {
            self.restarts.add(container);
            let none = ContainerState::default();
            let state = container.state.as_ref().unwrap_or(&none);
            let waiting = state.waiting.as_ref().map_or("", |waiting| text(&waiting.reason));
            if !waiting.is_empty() {
                self.reason = waiting.to_owned();
            } else if let Some(ended) = &state.terminated {
                self.reason = ending(ended);
                if ended.exit_code != 0 {
                    failure = Some(self.reason.clone());
                }
            } else if container.ready && state.running.is_some() {
                is_running = true;
                self.ready += 1;
            }
        }
        let mut conditions = status.conditions.iter().flatten();
        let is_ready = conditions.any(|it| it.type_ == "Ready" && it.status == "True");
        if self.reason == "Completed" {
            if is_running && is_ready {
                self.reason = "Running".to_owned();
            } else if let Some(failure) = failure {
                self.reason = failure;
            } else if is_running {
                self.reason = "NotReady".to_owned();
            }
        }
    }
}

fn ending(ended: &ContainerStateTerminated) -> String {
    match (text(&ended.reason), ended.signal.unwrap_or(0)) {
        ("", 0) => format!("ExitCode:{}", ended.exit_code),
        ("", signal) => format!("Signal:{signal}"),
        (reason, _) => reason.to_owned(),
    }
}

fn reason(pod: &Pod, status: &PodStatus, reason: String) -> String {
    let is_over = matches!(text(&status.phase), "Succeeded" | "Failed");
    match &pod.metadata.deletion_timestamp {
        Some(_) if text(&status.reason) == "NodeLost" => "Unknown".to_owned(),
        Some(_) if !is_over => "Terminating".to_owned(),
        _ => reason,
    }
}

fn readiness_gates(spec: &PodSpec, status: &PodStatus) -> String {
    let gates = spec.readiness_gates.as_deref().unwrap_or_default();
    if gates.is_empty() {
        return "<none>".to_owned();
    }
    let is_open = |name: &str| {
        let mut conditions = status.conditions.iter().flatten();
        conditions
            .find(|condition| condition.type_ == name)
            .is_some_and(|condition| condition.status == "True")
    };
    let open = gates.iter().filter(|gate| is_open(&gate.condition_type)).count();
    format!("{open}/{}", gates.len())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn check(status: Value, expected: [&str; 3]) {
        let pod = json!({
            "metadata": {"name": "p"},
            "spec": {"containers": [{"name": "a"}, {"name": "b"}], "initContainers": [{"name": "i"}]},
            "status": status,
        });
        let pod: Pod = serde_json::from_value(pod).expect("a pod");
        let row = cells(&pod, Timestamp::from_second(100).expect("a time"));
        assert_eq!(row[1..4], expected.map(Value::from), "{status}");
    }

    #[test]
    fn the_row_tells_how_far_a_pod_is() {
        let running = json!({"name": "a", "ready": true, "restartCount": 0, "state": {"running": {}}});
        check(json!({"phase": "Pending"}), ["0/2", "Pending", "0"]);
        check(
            json!({"phase": "Pending", "initContainerStatuses": [{"name": "i", "restartCount": 2, "state": {"running": {}}}]}),
            ["0/2", "Init:0/1", "2"],
        );
        check(
            json!({"phase": "Pending", "initContainerStatuses": [{"name": "i", "state": {"terminated": {"exitCode": 1}}}]}),
            ["0/2", "Init:ExitCode:1", "0"],
        );
        check(
            json!({"phase": "Running", "containerStatuses": [running, {"name": "b", "restartCount": 3,
                "state": {"waiting": {"reason": "CrashLoopBackOff"}},
                "lastState": {"terminated": {"exitCode": 1, "finishedAt": "1970-01-01T00:00:40Z"}}}]}),
            ["1/2", "CrashLoopBackOff", "3 (60s ago)"],
        );
        check(
            json!({"phase": "Running", "conditions": [{"type": "Ready", "status": "True"}],
                "containerStatuses": [running, {"name": "b", "state": {"terminated": {"exitCode": 0, "reason": "Completed"}}}]}),
            ["1/2", "Running", "0"],
        );
        check(
            json!({"phase": "Failed", "containerStatuses": [{"name": "a", "state": {"terminated": {"exitCode": 137, "reason": "OOMKilled"}}}]}),
            ["0/2", "OOMKilled", "0"],
        );
    }
}
