//! What to do next for a pod: a pure function of what it asks for and what was observed.
//!
//! Follows the pod lifecycle page: volumes and sandbox first, init containers one after another,
//! then the others; restarts by policy and with back-off; at the end containers are stopped, the
//! sandbox taken down and the API told.

use std::time::{Duration, Instant};

use super::observed::{Container, Doom, Observed, Run, Sandbox, Step};

/// What a pod asks for, as far as decisions need it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Wanted {
    /// In order.
    pub(crate) init: Vec<ContainerWanted>,
    /// In order.
    pub(crate) main: Vec<ContainerWanted>,
    /// `restartPolicy`.
    pub(crate) restart: Restart,
    /// Its deletion has been asked for; how long it gets.
    pub(crate) deletion: Option<Duration>,
    /// It is no longer in the API.
    pub(crate) gone: bool,
    /// The node goes down: everything stops, and nothing of the pod is forgotten.
    pub(crate) parked: bool,
    /// How long a container gets to stop when the pod itself goes on.
    pub(crate) grace: Duration,
    /// `activeDeadlineSeconds`.
    pub(crate) deadline: Option<Duration>,
}

/// A container, as far as decisions need it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ContainerWanted {
    pub(crate) name: String,
    /// An init container that runs on beside the others (KEP-753).
    pub(crate) sidecar: bool,
}

/// `restartPolicy`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Restart {
    Always,
    OnFailure,
    Never,
}

/// Why a container is stopped.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum StopReason {
    /// The pod ends.
    Pod,
    /// A probe or hook failed; it will be started again if the policy says so.
    Doomed(Doom),
}

/// One thing to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Action {
    SetUpVolumes,
    StartSandbox,
    PullImage(String),
    StartContainer(String),
    /// Stop a container; it gets this long.
    StopContainer {
        name: String,
        grace: Duration,
        reason: StopReason,
    },
    /// The pod's time is over.
    ExceedDeadline,
    /// Take down network, shim and mounts. Logs and volumes' data stay until the pod is deleted.
    TakeDown,
    /// Remove all that is left of the pod on this node, and tell the API that it is over.
    Finalize,
}

/// What to do now, and when to look again though nothing happens.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Plan {
    pub(crate) actions: Vec<Action>,
    pub(crate) wake: Option<Instant>,
}

impl Plan {
    fn act(&mut self, action: Action) {
        self.actions.push(action);
    }

    fn wake_at(&mut self, at: Instant) {
        self.wake = Some(self.wake.map_or(at, |wake| wake.min(at)));
    }
}

/// How a pod stands as a whole.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// It goes on.
    Going,
    /// All its containers ended well, for good.
    Succeeded,
    /// It ended otherwise.
    Failed,
}

/// Whether a pod is over by itself.
pub(crate) fn outcome(wanted: &Wanted, seen: &Observed) -> Outcome {
    if seen.verdict.is_some() {
        return Outcome::Failed;
    }
    let exit_code = |container: &ContainerWanted| {
        let exit = seen.containers.get(&container.name).and_then(Container::exit);
        exit.map(|exit| exit.code)
    };
    let failed_init = wanted
        .init
        .iter()
        .filter(|container| !container.sidecar)
        .any(|container| {
            wanted.restart == Restart::Never && exit_code(container).is_some_and(|code| code != 0)
        });
    if failed_init {
        return Outcome::Failed;
    }
    let mut outcome = Outcome::Succeeded;
    for container in &wanted.main {
        match exit_code(container) {
            Some(code) if !restarts(wanted.restart, code) => {
                if code != 0 {
                    outcome = Outcome::Failed;
                }
            }
            _ => return Outcome::Going,
        }
    }
    outcome
}

fn restarts(policy: Restart, code: i32) -> bool {
    match policy {
        Restart::Always => true,
        Restart::OnFailure => code != 0,
        Restart::Never => false,
    }
}

/// What to do next.
pub(crate) fn plan(wanted: &Wanted, seen: &Observed, now: Instant) -> Plan {
    let mut plan = Plan::default();
    if let Some(deadline) = wanted
        .deadline
        .filter(|_| seen.verdict.is_none() && !wanted.parked)
    {
        let at = seen.since + deadline;
        if now >= at && outcome(wanted, seen) == Outcome::Going {
            plan.act(Action::ExceedDeadline);
            return plan;
        }
        plan.wake_at(at);
    }
    let deleted = wanted.gone || wanted.deletion.is_some();
    if deleted || wanted.parked || outcome(wanted, seen) != Outcome::Going {
        end(wanted, seen, now, &mut plan);
    } else {
        go_on(wanted, seen, now, &mut plan);
    }
    plan
}

/// Stops what runs, takes the sandbox down, and finishes a pod that was deleted.
fn end(wanted: &Wanted, seen: &Observed, now: Instant, plan: &mut Plan) {
    let grace = wanted.deletion.unwrap_or(wanted.grace);
    let busy = |container: &ContainerWanted| {
        seen.containers
            .get(&container.name)
            .is_some_and(Container::is_busy)
    };
    let stop = |container: &ContainerWanted, plan: &mut Plan| {
        let running = seen.containers.get(&container.name).and_then(Container::running);
        if running.is_some_and(|running| !running.stopping) {
            let name = container.name.clone();
            plan.act(Action::StopContainer {
                name,
                grace,
                reason: StopReason::Pod,
            });
        }
    };
    let (sidecars, init): (Vec<_>, Vec<_>) = wanted.init.iter().partition(|container| container.sidecar);
    wanted
        .main
        .iter()
        .chain(init.iter().copied())
        .for_each(|container| stop(container, plan));
    if wanted.main.iter().chain(init.iter().copied()).any(busy) {
        return;
    }
    // Sidecars outlive the others, and go in the reverse of the order they came in.
    if let Some(last) = sidecars.iter().rev().find(|sidecar| busy(sidecar)) {
        return stop(last, plan);
    }
    let settled = !matches!(seen.volumes, Step::Doing);
    match &seen.sandbox {
        Sandbox::Up(Step::Doing) | Sandbox::GoingDown => {}
        Sandbox::NotDown(failure) if now < failure.retry_at => plan.wake_at(failure.retry_at),
        Sandbox::Up(_) | Sandbox::NotDown(_) if settled => plan.act(Action::TakeDown),
        Sandbox::Down if (wanted.deletion.is_some() || wanted.gone) && !seen.finalized => {
            plan.act(Action::Finalize);
        }
        _ => {}
    }
}

/// Brings the pod a step further.
fn go_on(wanted: &Wanted, seen: &Observed, now: Instant, plan: &mut Plan) {
    let volumes = attempt(&seen.volumes, now, plan, || Action::SetUpVolumes);
    let sandbox = match &seen.sandbox {
        Sandbox::Up(step) => attempt(step, now, plan, || Action::StartSandbox),
        Sandbox::GoingDown | Sandbox::NotDown(_) | Sandbox::Down => false,
    };
    if !volumes || !sandbox {
        return;
    }
    // A sidecar that is restarted later does not hold up those that run.
    let begun = wanted
        .main
        .iter()
        .any(|main| seen.containers.get(&main.name).is_some_and(Container::is_busy));
    for init in &wanted.init {
        let Some(container) = seen.containers.get(&init.name) else {
            return;
        };
        if init.sidecar {
            run_container(Restart::Always, &init.name, container, wanted, now, plan);
            if !begun && !container.running().is_some_and(|running| running.started) {
                return;
            }
        } else {
            let complete = container.exit().is_some_and(|exit| exit.code == 0);
            if !complete {
                // An init container that fails is tried again unless the policy is Never.
                let policy = match wanted.restart {
                    Restart::Never => Restart::Never,
                    Restart::Always | Restart::OnFailure => Restart::OnFailure,
                };
                run_container(policy, &init.name, container, wanted, now, plan);
                return;
            }
        }
    }
    for main in &wanted.main {
        if let Some(container) = seen.containers.get(&main.name) {
            run_container(wanted.restart, &main.name, container, wanted, now, plan);
        }
    }
}

/// Begins a step that is due. Says whether it is done.
fn attempt<T>(step: &Step<T>, now: Instant, plan: &mut Plan, action: impl FnOnce() -> Action) -> bool {
    match step {
        Step::Todo => plan.act(action()),
        Step::Failed(failure) if now >= failure.retry_at => plan.act(action()),
        Step::Failed(failure) => plan.wake_at(failure.retry_at),
        Step::Doing => {}
        Step::Done(_) => return true,
    }
    false
}

/// Starts a container that is due, or stops one that is doomed.
fn run_container(
    policy: Restart,
    name: &str,
    container: &Container,
    wanted: &Wanted,
    now: Instant,
    plan: &mut Plan,
) {
    let start_at = match &container.run {
        Run::Starting(_) => return,
        Run::Running(running) => {
            if let Some(doom) = running.doom.clone().filter(|_| !running.stopping) {
                let reason = StopReason::Doomed(doom);
                plan.act(Action::StopContainer {
                    name: name.to_owned(),
                    grace: wanted.grace,
                    reason,
                });
            }
            return;
        }
        Run::Waiting => now,
        Run::Refused(failure) => failure.retry_at,
        Run::Exited(exit) if restarts(policy, exit.code) => exit.at + container.wait(exit),
        Run::Exited(_) => return,
    };
    if container.start_job {
        return;
    }
    if now < start_at {
        plan.wake_at(start_at);
    } else if attempt(&container.image, now, plan, || Action::PullImage(name.to_owned())) {
        plan.act(Action::StartContainer(name.to_owned()));
    }
}

#[cfg(test)]
impl Wanted {
    /// What a pod of these containers asks for; those whose names begin with "side" are sidecars.
    pub(super) fn of(init: &[&str], main: &[&str]) -> Wanted {
        let named = |names: &[&str]| {
            let named = |name: &&str| ContainerWanted {
                name: (*name).to_owned(),
                sidecar: name.starts_with("side"),
            };
            names.iter().map(named).collect()
        };
        Wanted {
            init: named(init),
            main: named(main),
            restart: Restart::Always,
            deletion: None,
            gone: false,
            parked: false,
            grace: Duration::from_secs(30),
            deadline: None,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use jiff::Timestamp;

    use super::super::observed::{Backoff, Exit, Failure, Running, Verdict};
    use super::*;

    struct Case {
        wanted: Wanted,
        seen: Observed,
        now: Instant,
    }

    /// A pod whose volumes and sandbox are ready and whose images are there.
    fn pod(init: &[&str], main: &[&str]) -> Case {
        let now = Instant::now();
        let fresh = Container {
            image: Step::Done(()),
            ..Container::new()
        };
        let containers: BTreeMap<_, _> = init
            .iter()
            .chain(main)
            .map(|name| ((*name).to_owned(), fresh.clone()))
            .collect();
        Case {
            wanted: Wanted::of(init, main),
            seen: Observed::ready(containers, now),
            now,
        }
    }

    impl Case {
        fn restart(mut self, policy: Restart) -> Case {
            self.wanted.restart = policy;
            self
        }

        fn set(mut self, name: &str, run: Run) -> Case {
            self.seen.containers.get_mut(name).expect("a container").run = run;
            self
        }

        fn with(mut self, change: impl FnOnce(&mut Case)) -> Case {
            change(&mut self);
            self
        }

        fn check(&self, expected: &[Action]) {
            assert_eq!(plan(&self.wanted, &self.seen, self.now).actions, expected);
        }

        fn wakes_after(&self, after: Duration) {
            let plan = plan(&self.wanted, &self.seen, self.now);
            assert_eq!((plan.actions, plan.wake), (vec![], Some(self.now + after)));
        }
    }

    fn running() -> Run {
        Run::Running(Running {
            id: "id".into(),
            started_at: Timestamp::UNIX_EPOCH,
            started: true,
            ready: true,
            doom: None,
            stopping: false,
        })
    }

    fn exited(case: &Case, code: i32) -> Run {
        Run::Exited(Exit {
            id: "id".into(),
            code,
            reason: "Error".into(),
            message: None,
            started_at: None,
            finished_at: None,
            at: case.now,
            doomed: false,
        })
    }

    fn start(name: &str) -> Action {
        Action::StartContainer(name.to_owned())
    }

    #[test]
    fn volumes_and_sandbox_come_first_side_by_side() {
        let case = pod(&[], &["a"]).with(|case| {
            case.seen.volumes = Step::Todo;
            case.seen.sandbox = Sandbox::Up(Step::Todo);
        });
        case.check(&[Action::SetUpVolumes, Action::StartSandbox]);
        pod(&[], &["a"])
            .with(|case| case.seen.volumes = Step::Doing)
            .check(&[]);
    }

    #[test]
    fn a_failed_step_is_tried_again_in_its_time() {
        let after = Duration::from_secs(2);
        let case = pod(&[], &["a"]).with(|case| {
            let failure = Failure {
                reason: "x".into(),
                message: "y".into(),
                times: 1,
                retry_at: case.now + after,
            };
            case.seen.volumes = Step::Failed(failure);
        });
        case.wakes_after(after);
        case.with(|case| case.now += after).check(&[Action::SetUpVolumes]);
    }

    #[test]
    fn init_containers_run_one_after_another_then_all_others() {
        let case = pod(&["i", "j"], &["a", "b"]);
        case.check(&[start("i")]);
        let done = exited(&case, 0);
        let case = case.set("i", done.clone());
        case.check(&[start("j")]);
        let case = case.set("j", running());
        case.check(&[]);
        case.set("j", done).check(&[start("a"), start("b")]);
    }

    #[test]
    fn a_sidecar_runs_on_and_the_next_waits_until_it_has_started() {
        let case = pod(&["side", "i"], &["a"]);
        case.check(&[start("side")]);
        let slow = Run::Running(Running {
            started: false,
            ..match running() {
                Run::Running(r) => r,
                _ => unreachable!(),
            }
        });
        let case = case.set("side", slow);
        case.check(&[]);
        case.set("side", running()).check(&[start("i")]);
    }

    #[test]
    fn a_sidecar_that_is_restarted_does_not_hold_up_those_that_run() {
        let case = pod(&["side"], &["a", "b"]).set("a", running());
        let ended = exited(&case, 1);
        case.set("side", ended.clone())
            .set("b", ended)
            .check(&[start("side"), start("b")]);
    }

    #[test]
    fn exits_are_restarted_by_policy() {
        for (policy, code, expected) in [
            (Restart::Always, 0, vec![start("a")]),
            (Restart::Always, 1, vec![start("a")]),
            (Restart::OnFailure, 1, vec![start("a")]),
            (Restart::OnFailure, 0, vec![Action::TakeDown]),
            (Restart::Never, 1, vec![Action::TakeDown]),
        ] {
            let case = pod(&[], &["a"]).restart(policy);
            let run = exited(&case, code);
            case.set("a", run).check(&expected);
        }
    }

    #[test]
    fn a_restart_waits_for_its_back_off() {
        let case = pod(&[], &["a"]);
        let run = exited(&case, 1);
        let case = case.set("a", run).with(|case| {
            case.seen.containers.get_mut("a").expect("a container").backoff = Backoff::after_restarts(1);
        });
        case.wakes_after(Duration::from_secs(10));
    }

    #[test]
    fn a_missing_image_is_pulled_before_the_start() {
        let case = pod(&[], &["a"]).with(|case| {
            case.seen.containers.get_mut("a").expect("a container").image = Step::Todo;
        });
        case.check(&[Action::PullImage("a".into())]);
    }

    #[test]
    fn a_doomed_container_is_stopped_once() {
        let doomed = |stopping| match running() {
            Run::Running(running) => Run::Running(Running {
                doom: Some(Doom::Liveness),
                stopping,
                ..running
            }),
            other => other,
        };
        let stop = Action::StopContainer {
            name: "a".into(),
            grace: Duration::from_secs(30),
            reason: StopReason::Doomed(Doom::Liveness),
        };
        pod(&[], &["a"]).set("a", doomed(false)).check(&[stop]);
        pod(&[], &["a"]).set("a", doomed(true)).check(&[]);
    }

    #[test]
    fn a_deleted_pod_is_stopped_taken_down_and_finalized() {
        let grace = Duration::from_secs(5);
        let stop = |name: &str| Action::StopContainer {
            name: name.into(),
            grace,
            reason: StopReason::Pod,
        };
        let case = pod(&["side"], &["a", "b"]).with(|case| case.wanted.deletion = Some(grace));
        let end = exited(&case, 137);
        let case = case
            .set("side", running())
            .set("a", running())
            .set("b", running());
        case.check(&[stop("a"), stop("b")]);
        // Sidecars go after the others.
        let case = case.set("a", end.clone()).set("b", end.clone());
        case.check(&[stop("side")]);
        let case = case.set("side", end);
        case.check(&[Action::TakeDown]);
        let case = case.with(|case| case.seen.sandbox = Sandbox::GoingDown);
        case.check(&[]);
        let case = case.with(|case| case.seen.sandbox = Sandbox::Down);
        case.check(&[Action::Finalize]);
        case.with(|case| case.seen.finalized = true).check(&[]);
    }

    #[test]
    fn a_parked_pod_is_stopped_but_not_forgotten() {
        let case = pod(&[], &["a"]).with(|case| case.wanted.parked = true);
        case.check(&[Action::TakeDown]);
        case.with(|case| case.seen.sandbox = Sandbox::Down).check(&[]);
    }

    #[test]
    fn a_sandbox_that_stays_is_taken_down_again_in_its_time() {
        let after = Duration::from_secs(1);
        let case = pod(&[], &["a"]).with(|case| {
            case.wanted.deletion = Some(Duration::ZERO);
            let retry_at = case.now + after;
            let failure = Failure {
                reason: String::new(),
                message: "busy".into(),
                times: 1,
                retry_at,
            };
            case.seen.sandbox = Sandbox::NotDown(failure);
        });
        case.wakes_after(after);
        case.with(|case| case.now += after).check(&[Action::TakeDown]);
    }

    #[test]
    fn nothing_is_started_or_taken_down_while_a_start_is_under_way() {
        let case = pod(&[], &["a"]);
        let run = exited(&case, 1);
        let case = case.set("a", run).with(|case| {
            case.seen.containers.get_mut("a").expect("a container").start_job = true;
        });
        case.check(&[]);
        case.with(|case| case.wanted.deletion = Some(Duration::ZERO))
            .check(&[]);
    }

    #[test]
    fn a_deleted_pod_that_never_ran_is_finalized_all_the_same() {
        let case = pod(&[], &["a"]).with(|case| {
            case.wanted.deletion = Some(Duration::ZERO);
            case.seen.sandbox = Sandbox::Up(Step::Todo);
        });
        case.check(&[Action::TakeDown]);
    }

    #[test]
    fn a_failed_init_container_ends_the_pod_under_never() {
        let case = pod(&["i"], &["a"]).restart(Restart::Never);
        let failed = exited(&case, 3);
        let case = case.set("i", failed);
        assert_eq!(outcome(&case.wanted, &case.seen), Outcome::Failed);
        case.check(&[Action::TakeDown]);
    }

    #[test]
    fn a_deadline_ends_the_pod() {
        let case = pod(&[], &["a"]).set("a", running());
        let case = case.with(|case| case.wanted.deadline = Some(Duration::from_secs(7)));
        case.wakes_after(Duration::from_secs(7));
        let case = case.with(|case| case.now += Duration::from_secs(7));
        case.check(&[Action::ExceedDeadline]);
        let verdict = Verdict {
            reason: "DeadlineExceeded".into(),
            message: String::new(),
        };
        let case = case.with(|case| case.seen.verdict = Some(verdict));
        assert!(matches!(
            plan(&case.wanted, &case.seen, case.now).actions[..],
            [Action::StopContainer { .. }]
        ));
    }

    #[test]
    fn outcomes_follow_from_the_exits() {
        for (policy, codes, expected) in [
            (Restart::Never, [Some(0), Some(0)], Outcome::Succeeded),
            (Restart::Never, [Some(0), Some(1)], Outcome::Failed),
            (Restart::Never, [Some(1), None], Outcome::Going),
            (Restart::OnFailure, [Some(0), Some(1)], Outcome::Going),
            (Restart::Always, [Some(0), Some(0)], Outcome::Going),
        ] {
            let mut case = pod(&[], &["a", "b"]).restart(policy);
            for (name, code) in ["a", "b"].into_iter().zip(codes) {
                if let Some(code) = code {
                    let run = exited(&case, code);
                    case = case.set(name, run);
                }
            }
            assert_eq!(
                outcome(&case.wanted, &case.seen),
                expected,
                "{policy:?} {codes:?}"
            );
        }
    }
}
