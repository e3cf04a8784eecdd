//! How statuses follow from what was observed.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::super::observed::{Backoff, Image, Running, Trouble, Verdict};
use super::super::plan::Restart;
use super::*;

struct Case {
    pod: Pod,
    wanted: Wanted,
    seen: Observed,
}

fn case(init: &[&str], main: &[&str]) -> Case {
    let containers = |names: &[&str]| -> Vec<Value> {
        names
            .iter()
            .map(|name| json!({"name": name, "image": "busybox:1.35"}))
            .collect()
    };
    let spec = json!({"initContainers": containers(init), "containers": containers(main)});
    let pod = json!({"metadata": {"name": "p", "namespace": "n", "uid": "u"}, "spec": spec});
    let all = init.iter().chain(main);
    Case {
        pod: serde_json::from_value(pod).expect("a pod"),
        wanted: Wanted::of(init, main),
        seen: Observed::ready(
            all.map(|name| ((*name).to_owned(), Container::new())).collect(),
            Instant::now(),
        ),
    }
}

impl Case {
    fn container(mut self, name: &str, change: impl FnOnce(&mut Container)) -> Case {
        let container = self.seen.containers.get_mut(name).expect("a container");
        container.image = Step::Done(());
        container.known_image = Some(Image {
            name: "docker.io/library/busybox:1.35".into(),
            id: "i".into(),
        });
        change(container);
        self
    }

    /// Phase, conditions as `Type=Status:Reason`, and each container's state in short.
    fn shown(&self) -> (String, Vec<String>, Vec<String>) {
        let status = status(
            &self.pod,
            &self.wanted,
            &self.seen,
            Ipv4Addr::LOCALHOST,
            Timestamp::UNIX_EPOCH,
        );
        let conditions = status
            .conditions
            .iter()
            .flatten()
            .filter(|c| c.type_ != "PodReadyToStartContainers")
            .map(|c| {
                format!(
                    "{}={}:{}",
                    c.type_,
                    c.status,
                    c.reason.as_deref().unwrap_or_default()
                )
            })
            .collect();
        let containers = status
            .init_container_statuses
            .iter()
            .flatten()
            .chain(status.container_statuses.iter().flatten());
        let containers = containers
            .map(|c| {
                let state = |state: &Option<ContainerState>| {
                    let state = state.clone().unwrap_or_default();
                    match (state.waiting, state.running, state.terminated) {
                        (Some(waiting), ..) => waiting.reason.unwrap_or_default(),
                        (_, Some(_), _) => "running".to_owned(),
                        (.., Some(end)) => {
                            format!("{}:{}", end.reason.unwrap_or_default(), end.exit_code)
                        }
                        _ => String::new(),
                    }
                };
                format!(
                    "{}|{}|{}|{}",
                    state(&c.state),
                    state(&c.last_state),
                    c.ready,
                    c.restart_count
                )
            })
            .collect();
        (status.phase.unwrap_or_default(), conditions, containers)
    }

    fn check(&self, phase: &str, conditions: [&str; 3], containers: &[&str]) {
        let shown = self.shown();
        assert_eq!(
            (shown.0.as_str(), &shown.1[..], &shown.2[..]),
            (
                phase,
                &conditions.map(str::to_owned)[..],
                &containers.iter().map(|c| (*c).to_owned()).collect::<Vec<_>>()[..]
            )
        );
    }
}

fn running(ready: bool) -> Run {
    Run::Running(Running {
        id: "c1".into(),
        started_at: Timestamp::UNIX_EPOCH,
        started: true,
        ready,
        doom: None,
        stopping: false,
    })
}

fn exit(code: i32, reason: &str) -> Exit {
    Exit {
        id: "c0".into(),
        code,
        reason: reason.into(),
        message: None,
        started_at: None,
        finished_at: None,
        at: Instant::now(),
        doomed: false,
    }
}

const UNREADY: [&str; 3] = [
    "Initialized=True:",
    "Ready=False:ContainersNotReady",
    "ContainersReady=False:ContainersNotReady",
];
const READY: [&str; 3] = ["Initialized=True:", "Ready=True:", "ContainersReady=True:"];

#[test]
fn a_pod_is_created_runs_and_is_ready() {
    let case = case(&[], &["a"]);
    case.check("Pending", UNREADY, &["ContainerCreating||false|0"]);
    let case = case.container("a", |container| container.run = running(false));
    case.check("Running", UNREADY, &["running||false|0"]);
    let case = case.container("a", |container| container.run = running(true));
    case.check("Running", READY, &["running||true|0"]);
}

#[test]
fn init_containers_hold_the_others_back() {
    let case = case(&["i"], &["a"]);
    let conditions = [
        "Initialized=False:ContainersNotInitialized",
        UNREADY[1],
        UNREADY[2],
    ];
    case.check(
        "Pending",
        conditions,
        &["PodInitializing||false|0", "PodInitializing||false|0"],
    );
    let case = case.container("i", |container| container.run = Run::Exited(exit(0, "Completed")));
    case.check(
        "Pending",
        UNREADY,
        &["Completed:0||true|0", "PodInitializing||false|0"],
    );
}

#[test]
fn a_crash_loop_shows_both_ends() {
    let case = case(&[], &["a"]).container("a", |container| container.run = Run::Exited(exit(1, "Error")));
    case.check("Running", UNREADY, &["Error:1||false|0"]);
    let case = case.container("a", |container| {
        container.restarts = 1;
        container.backoff = Backoff::after_restarts(1);
    });
    case.check("Running", UNREADY, &["CrashLoopBackOff|Error:1|false|1"]);
}

#[test]
fn a_start_error_waits_with_the_runtimes_words() {
    let case = case(&[], &["a"]).container("a", |container| {
        container.run = Run::Exited(exit(128, "StartError"));
        container.trouble = Some(Trouble {
            reason: "RunContainerError".into(),
            message: "m".into(),
        });
    });
    case.check("Running", UNREADY, &["RunContainerError|StartError:128|false|0"]);
}

#[test]
fn an_attempt_that_never_began_well_tells_why_and_then_backs_off() {
    let case = case(&[], &["a"]).container("a", |container| {
        container.run = Run::Exited(exit(137, "Error"));
        container.trouble = Some(Trouble {
            reason: "PostStartHookError".into(),
            message: "m".into(),
        });
    });
    case.check("Running", UNREADY, &["PostStartHookError|Error:137|false|0"]);
    let case = case.container("a", |container| {
        container.backoff = Backoff::after_restarts(1);
        container.trouble = None;
    });
    case.check("Running", UNREADY, &["CrashLoopBackOff|Error:137|false|0"]);
}

#[test]
fn a_restart_shows_the_former_end_until_it_runs() {
    let case = case(&[], &["a"]).container("a", |container| {
        container.run = Run::Starting(Some(exit(1, "Error")))
    });
    case.check("Running", UNREADY, &["Error:1||false|0"]);
    let case = case.container("a", |container| container.backoff = Backoff::after_restarts(1));
    case.check("Running", UNREADY, &["CrashLoopBackOff|Error:1|false|0"]);
    let case = case.container("a", |container| {
        container.begin_attempt();
        container.run = running(true);
    });
    case.check("Running", READY, &["running|Error:1|true|1"]);
}

#[test]
fn an_init_container_is_ready_only_when_it_is_done() {
    let case = case(&["i"], &["a"]).container("i", |container| container.run = running(true));
    let conditions = [
        "Initialized=False:ContainersNotInitialized",
        UNREADY[1],
        UNREADY[2],
    ];
    case.check(
        "Pending",
        conditions,
        &["running||false|0", "PodInitializing||false|0"],
    );
}

#[test]
fn containers_of_a_pod_whose_init_container_failed_go_on_waiting() {
    let mut case =
        case(&["i"], &["a"]).container("i", |container| container.run = Run::Exited(exit(4, "Error")));
    case.wanted.restart = Restart::Never;
    case.seen.sandbox = Sandbox::Down;
    let conditions = [
        "Initialized=False:ContainersNotInitialized",
        "Ready=False:PodFailed",
        "ContainersReady=False:PodFailed",
    ];
    case.check(
        "Failed",
        conditions,
        &["Error:4||false|0", "PodInitializing||false|0"],
    );
}

#[test]
fn a_container_that_is_being_stopped_stays_ready() {
    let case = case(&[], &["a"]).container("a", |container| {
        container.run = running(true);
        if let Run::Running(running) = &mut container.run {
            running.stopping = true;
        }
    });
    case.check("Running", READY, &["running||true|0"]);
}

#[test]
fn the_sandbox_and_the_generation_are_shown() {
    let mut case = case(&[], &["a"]);
    case.pod.metadata.generation = Some(3);
    let shown = |case: &Case| {
        let status = status(
            &case.pod,
            &case.wanted,
            &case.seen,
            Ipv4Addr::LOCALHOST,
            Timestamp::UNIX_EPOCH,
        );
        let condition = status.conditions.unwrap_or_default().remove(0);
        assert_eq!(condition.type_, "PodReadyToStartContainers");
        assert_eq!(
            (status.observed_generation, condition.observed_generation),
            (Some(3), Some(3))
        );
        condition.status
    };
    assert_eq!(shown(&case), "True");
    case.seen.sandbox = Sandbox::Down;
    assert_eq!(shown(&case), "False");
}

#[test]
fn a_pod_that_completes_is_not_ready_because_it_is_done() {
    let mut case =
        case(&[], &["a"]).container("a", |container| container.run = Run::Exited(exit(0, "Completed")));
    case.wanted.restart = Restart::Never;
    let conditions = [
        "Initialized=True:PodCompleted",
        "Ready=False:PodCompleted",
        "ContainersReady=False:PodCompleted",
    ];
    case.check("Succeeded", conditions, &["Completed:0||false|0"]);
}

#[test]
fn a_deleted_pod_ends_failed_or_succeeded_by_its_exits() {
    let mut case =
        case(&[], &["a"]).container("a", |container| container.run = Run::Exited(exit(137, "Error")));
    case.wanted.deletion = Some(Duration::ZERO);
    case.seen.sandbox = Sandbox::Down;
    let conditions = [
        "Initialized=True:",
        "Ready=False:PodFailed",
        "ContainersReady=False:PodFailed",
    ];
    case.check("Failed", conditions, &["Error:137||false|0"]);
}

#[test]
fn the_last_exit_of_a_deleted_pod_is_its_end() {
    let mut case =
        case(&[], &["a"]).container("a", |container| container.run = Run::Exited(exit(137, "Error")));
    case.wanted.deletion = Some(Duration::ZERO);
    let conditions = [
        "Initialized=True:",
        "Ready=False:PodFailed",
        "ContainersReady=False:PodFailed",
    ];
    // Its sandbox is still there.
    case.check("Failed", conditions, &["Error:137||false|0"]);
}

#[test]
fn nothing_is_told_between_the_runs_that_a_probe_divides() {
    let between = |case: &Case| is_between_runs(&case.pod, &case.wanted, &case.seen);
    let doomed = Exit {
        doomed: true,
        ..exit(137, "Error")
    };
    let mut case = case(&[], &["a"]).container("a", |container| container.run = Run::Exited(doomed.clone()));
    assert!(between(&case));
    case.seen.containers.get_mut("a").expect("a container").run = Run::Starting(Some(doomed));
    assert!(between(&case));
    // It cannot be started, or is not to be.
    case.seen.containers.get_mut("a").expect("a container").trouble = Some(Trouble {
        reason: "ErrImagePull".into(),
        message: "m".into(),
    });
    assert!(!between(&case));
    case.seen.containers.get_mut("a").expect("a container").trouble = None;
    case.wanted.restart = Restart::Never;
    assert!(!between(&case));
}

#[test]
fn a_pod_deleted_before_it_ran_has_containers_that_nobody_saw() {
    let mut case = case(&[], &["a"]);
    case.wanted.deletion = Some(Duration::ZERO);
    case.seen.sandbox = Sandbox::Down;
    case.check("Failed", UNREADY, &["ContainerStatusUnknown:137||false|0"]);
}

#[test]
fn a_missing_image_is_named() {
    let case = case(&[], &["a"]).container("a", |container| {
        container.trouble = Some(Trouble {
            reason: "ErrImageNeverPull".into(),
            message: "m".into(),
        });
    });
    case.check("Pending", UNREADY, &["ErrImageNeverPull||false|0"]);
    // The next try has nothing better to show, until it is over.
    let case = case.container("a", |container| container.run = Run::Starting(None));
    case.check("Pending", UNREADY, &["ErrImageNeverPull||false|0"]);
}

#[test]
fn a_verdict_fails_the_pod() {
    let mut case = case(&[], &["a"]).container("a", |container| container.run = running(true));
    case.seen.verdict = Some(Verdict {
        reason: "DeadlineExceeded".into(),
        message: "late".into(),
    });
    let conditions = [
        "Initialized=True:",
        "Ready=False:PodFailed",
        "ContainersReady=False:PodFailed",
    ];
    case.check("Failed", conditions, &["running||true|0"]);
}

#[test]
fn readiness_gates_must_be_open() {
    let mut case = case(&[], &["a"]).container("a", |container| container.run = running(true));
    let spec = case.pod.spec.as_mut().expect("a spec");
    spec.readiness_gates =
        serde_json::from_value(json!([{"conditionType": "example.com/gate"}])).expect("gates");
    case.check(
        "Running",
        [READY[0], "Ready=False:ReadinessGatesNotReady", READY[2]],
        &["running||true|0"],
    );
    let open = json!({"conditions": [{"type": "example.com/gate", "status": "True"}]});
    case.pod.status = serde_json::from_value(open).expect("a status");
    assert_eq!(case.shown().1[1], "Ready=True:");
}

#[test]
fn durations_read_as_gos() {
    assert_eq!([10, 80, 300].map(go_seconds), ["10s", "1m20s", "5m0s"]);
}
