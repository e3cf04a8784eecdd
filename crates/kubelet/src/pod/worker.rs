//! The worker of one pod: it hears of everything that concerns the pod, asks the planner what to do,
//! begins it, and tells the API how the pod stands.
//!
//! The loop is: plan, begin, tell, wait. Nothing in it blocks: whatever takes time is a job
//! ([`super::jobs`]) whose end is an event like any other. The worker alone changes what is known of
//! the pod ([`Observed`]).

use std::collections::HashMap;
use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Pod, PodStatus};
use stead_informer::EventType;
use stead_runtime::{ContainerInfo, ContainerState, ExitRecord};
use tokio::sync::{mpsc, watch};
use tokio::task::{AbortHandle, JoinSet};
use tokio_util::sync::CancellationToken;

use super::jobs::{Done, Jobs, NotStarted, Start, StartFailure, Stop};
use super::observed::{
    Container, Doom, Exit, Failure, Observed, Run, Running, Sandbox, StartProblem, Step, Verdict,
};
use super::plan::{Action, Outcome, Plan, StopReason, Wanted, outcome, plan};
use super::status::status;
use super::wanted::{find, wanted};
use super::{adopt, exits};
use crate::node::Node;
use crate::probe::{self, Kind, Prober, Report, probes};
use crate::volume::Volumes;

/// The first wait after a step failed; it doubles up to [`RETRY_MAX`].
const RETRY_FIRST: Duration = Duration::from_millis(100);
const RETRY_MAX: Duration = Duration::from_secs(122);
/// Failures of volumes in a row that are not worth an event: what is missing is often on its way.
const QUIET_FAILURES: u32 = 3;
/// The waits before an image is tried again ("Images": ImagePullBackOff).
const PULL_FIRST: Duration = Duration::from_secs(10);
const PULL_MAX: Duration = Duration::from_secs(300);

/// What a worker hears of.
pub(crate) enum Msg {
    /// The pod as the API has it now.
    Pod(Arc<Pod>),
    /// The API has it no more.
    Gone,
    /// A container has ended.
    Exited {
        name: String,
        id: String,
        exit: ExitRecord,
    },
    /// The sandbox has ended, and everything in it.
    SandboxEnded,
    /// A probe of a container's attempt has something to tell.
    Probe {
        name: String,
        id: String,
        kind: Kind,
        report: Report,
    },
    /// An object that volumes are made from has changed.
    VolumesChanged,
    /// The node goes down.
    Park,
}

/// What belongs to a container that runs.
struct Live {
    exited: CancellationToken,
    /// Set once it has been told to stop.
    deadline: Option<watch::Sender<tokio::time::Instant>>,
    /// Dropped with it.
    probes: JoinSet<()>,
    /// Those of them that end when it is told to stop; its readiness is of interest to the end.
    until_stopped: Vec<AbortHandle>,
}

impl Live {
    fn new() -> Live {
        Live {
            exited: CancellationToken::new(),
            deadline: None,
            probes: JoinSet::new(),
            until_stopped: Vec::new(),
        }
    }
}

/// A pod's worker.
pub(crate) struct Worker {
    node: Arc<Node>,
    pod: Arc<Pod>,
    jobs: Jobs,
    gone: bool,
    parked: bool,
    /// Cancelled when the pod begins to end.
    ending: CancellationToken,
    seen: Observed,
    sandbox: Option<stead_runtime::Pod>,
    volumes: Volumes,
    /// What volumes are made from has changed while they were being made.
    volumes_stale: bool,
    live: HashMap<String, Live>,
    inbox: mpsc::UnboundedReceiver<Msg>,
    own: mpsc::UnboundedSender<Msg>,
    running: JoinSet<Done>,
    /// The status that the API is known to have.
    written: PodStatus,
    writing: bool,
    /// When the API is tried again after it refused.
    retry_write: Option<Instant>,
    /// Nothing of the pod is left here.
    removed: bool,
    ended: bool,
}

impl Worker {
    /// A worker for a pod, which may run here already.
    pub(crate) fn new(
        node: Arc<Node>,
        pod: Arc<Pod>,
        found: adopt::Found,
        own: mpsc::UnboundedSender<Msg>,
        inbox: mpsc::UnboundedReceiver<Msg>,
    ) -> Worker {
        let meta = &pod.metadata;
        let dirs = node.config.pod_dirs(
            meta.uid.as_deref().unwrap_or_default(),
            meta.namespace.as_deref().unwrap_or_default(),
            meta.name.as_deref().unwrap_or_default(),
        );
        let (seen, sandbox) = adopt::observed(&pod, found, node.config.node_ip, &dirs);
        let mut worker = Worker {
            jobs: Jobs {
                node: Arc::clone(&node),
                pod: Arc::clone(&pod),
                dirs,
            },
            written: pod.status.clone().unwrap_or_default(),
            node,
            pod,
            gone: false,
            parked: false,
            ending: CancellationToken::new(),
            seen,
            sandbox,
            volumes: Volumes::default(),
            volumes_stale: false,
            live: HashMap::new(),
            inbox,
            own,
            running: JoinSet::new(),
            writing: false,
            retry_write: None,
            removed: false,
            ended: false,
        };
        worker.watch_running();
        worker
    }

    /// Works until nothing of the pod is left, or the node goes down.
    pub(crate) async fn run(mut self) {
        loop {
            let wanted = wanted(&self.pod, self.gone, self.parked);
            if self.gone || self.parked || wanted.deletion.is_some() || self.seen.verdict.is_some() {
                self.ending.cancel();
            }
            let plan = plan(&wanted, &self.seen, Instant::now());
            let wake = self.wake(&plan);
            for action in plan.actions {
                self.begin(action, &wanted);
            }
            self.tell(&wanted);
            if self.ended || (self.parked && self.is_parked()) {
                return;
            }
            tokio::select! {
                biased;
                msg = self.inbox.recv() => match msg {
                    Some(msg) => self.heed(msg),
                    None => return,
                },
                Some(done) = self.running.join_next() => match done {
                    Ok(done) => self.take(done),
                    Err(error) => self.job_failed(&error),
                },
                () = sleep_until(wake) => self.woken(),
            }
        }
    }

    fn is_parked(&self) -> bool {
        self.seen.sandbox == Sandbox::Down && !self.writing && self.running.is_empty()
    }

    fn wake(&self, plan: &Plan) -> Option<Instant> {
        let renew = self.volumes.renew_at.map(|at| {
            let left = at.duration_since(Timestamp::now());
            Instant::now() + Duration::try_from(left).unwrap_or_default()
        });
        [plan.wake, self.retry_write, renew].into_iter().flatten().min()
    }

    fn woken(&mut self) {
        let due = |at: Timestamp| at <= Timestamp::now();
        if self.volumes.renew_at.is_some_and(due) && matches!(self.seen.volumes, Step::Done(())) {
            self.volumes.renew_at = None;
            self.seen.volumes = Step::Todo;
        }
        if self.retry_write.is_some_and(|at| at <= Instant::now()) {
            self.retry_write = None;
        }
    }

    /// A defect in a job: the step is tried again like one that failed.
    fn job_failed(&mut self, error: &tokio::task::JoinError) {
        tracing::error!(pod = self.pod.metadata.name, %error, "a job of a pod failed");
        self.jobs.record(
            None,
            EventType::Warning,
            "NodePanic",
            "a step of this pod failed; this is a defect of stead",
        );
        let failure = || Failure {
            reason: "CreateContainerError".to_owned(),
            message: "internal error".to_owned(),
            times: 10,
            retry_at: Instant::now() + RETRY_MAX,
        };
        if self.seen.volumes == Step::Doing {
            self.seen.volumes = Step::Failed(failure());
        }
        if self.seen.sandbox == Sandbox::Up(Step::Doing) {
            self.seen.sandbox = Sandbox::Up(Step::Failed(failure()));
        }
        for container in self.seen.containers.values_mut() {
            if container.image == Step::Doing {
                container.image = Step::Failed(failure());
            }
            container.start_job = false;
            if matches!(container.run, Run::Starting(_)) {
                container.begin_attempt();
                container.run = Run::Refused(failure());
            }
        }
    }

    fn begin(&mut self, action: Action, wanted: &Wanted) {
        let jobs = self.jobs.clone();
        match action {
            Action::SetUpVolumes => {
                self.seen.volumes = Step::Doing;
                self.running.spawn(jobs.set_up_volumes());
            }
            Action::StartSandbox => {
                self.seen.sandbox = Sandbox::Up(Step::Doing);
                self.running.spawn(jobs.start_sandbox());
            }
            Action::PullImage(name) => {
                if let Some(container) = self.seen.containers.get_mut(&name) {
                    container.image = Step::Doing;
                    self.running.spawn(jobs.pull_image(name));
                }
            }
            Action::StartContainer(name) => self.start_container(name),
            Action::StopContainer { name, grace, reason } => self.stop_container(&name, grace, &reason),
            Action::ExceedDeadline => {
                let message = "Pod was active on the node longer than the specified deadline";
                jobs.record(None, EventType::Normal, "DeadlineExceeded", message);
                self.seen.verdict = Some(Verdict {
                    reason: "DeadlineExceeded".to_owned(),
                    message: message.to_owned(),
                });
            }
            Action::TakeDown => {
                self.seen.sandbox = Sandbox::GoingDown;
                self.running.spawn(jobs.take_down(self.seen.ip));
            }
            Action::Finalize => {
                // The last status must have arrived before the pod goes.
                if !self.writing && self.retry_write.is_none() && (self.gone || !self.is_untold(wanted)) {
                    self.seen.finalized = true;
                    self.running.spawn(jobs.finalize(self.gone));
                }
            }
        }
    }

    fn start_container(&mut self, name: String) {
        let Some(sandbox) = self.sandbox.clone() else {
            return;
        };
        let Some(container) = self.seen.containers.get_mut(&name) else {
            return;
        };
        let before = match std::mem::replace(&mut container.run, Run::Waiting) {
            Run::Exited(exit) => {
                container.backoff = container.backoff.restarted();
                Some(exit)
            }
            _ => None,
        };
        let attempt = container.restarts + u32::from(before.is_some());
        container.run = Run::Starting(before);
        container.start_job = true;
        container.start_problem = None;
        let start = Start {
            sandbox,
            name,
            attempt,
            volumes: self.volumes.clone(),
            address: self.seen.ip,
            ending: self.ending.clone(),
        };
        self.running.spawn(self.jobs.clone().start_container(start));
    }

    fn stop_container(&mut self, name: &str, grace: Duration, reason: &StopReason) {
        let Some(sandbox) = self.sandbox.clone() else {
            return;
        };
        let Some(Container {
            run: Run::Running(running),
            ..
        }) = self.seen.containers.get_mut(name)
        else {
            return;
        };
        let Some(live) = self.live.get_mut(name) else {
            return;
        };
        // A probe may give less, or more, time than the pod does.
        let of_probe = |kind| {
            let probe = find(&self.pod, name).and_then(|(spec, _)| probes(spec).remove(&kind));
            probe.and_then(|probe| probe.grace).unwrap_or(grace)
        };
        let (message, grace) = match reason {
            StopReason::Pod => (format!("Stopping container {name}"), grace),
            StopReason::Doomed(Doom::Liveness) => {
                let message = format!("Container {name} failed liveness probe, will be restarted");
                (message, of_probe(Kind::Liveness))
            }
            StopReason::Doomed(Doom::Startup) => {
                let message = format!("Container {name} failed startup probe, will be restarted");
                (message, of_probe(Kind::Startup))
            }
        };
        self.jobs
            .record(Some(name), EventType::Normal, "Killing", message);
        running.stopping = true;
        let deadline = tokio::time::Instant::now() + grace;
        let (sender, receiver) = watch::channel(deadline);
        live.deadline = Some(sender);
        live.until_stopped.drain(..).for_each(|probe| probe.abort());
        let stop = Stop {
            sandbox,
            name: name.to_owned(),
            id: running.id.clone(),
            deadline: receiver,
            exited: live.exited.clone(),
        };
        self.running.spawn(self.jobs.clone().stop_container(stop));
    }

    fn heed(&mut self, msg: Msg) {
        match msg {
            Msg::Pod(pod) => self.pod_changed(pod),
            Msg::Gone => {
                self.gone = true;
                self.ended = self.removed;
                self.hurry(Duration::ZERO);
            }
            Msg::Exited { name, id, exit } => self.exited(&name, &id, &exit),
            Msg::SandboxEnded => self.sandbox_ended(),
            Msg::Probe {
                name,
                id,
                kind,
                report,
            } => self.probed(&name, &id, kind, report),
            Msg::VolumesChanged => self.sources_changed(),
            Msg::Park => self.parked = true,
        }
    }

    /// What volumes or variables come from is other than it was.
    fn sources_changed(&mut self) {
        if self.seen.volumes == Step::Doing {
            self.volumes_stale = true;
        } else {
            self.seen.volumes = Step::Todo;
        }
        for container in self.seen.containers.values_mut() {
            if let Run::Refused(failure) = &mut container.run {
                failure.retry_at = Instant::now();
            }
        }
    }

    fn pod_changed(&mut self, pod: Arc<Pod>) {
        let labelled = |pod: &Pod| (pod.metadata.labels.clone(), pod.metadata.annotations.clone());
        if labelled(&self.pod) != labelled(&pod) && shows_itself(&pod) {
            self.sources_changed();
        }
        let deleted = pod
            .metadata
            .deletion_grace_period_seconds
            .filter(|_| pod.metadata.deletion_timestamp.is_some());
        self.jobs.pod = Arc::clone(&pod);
        self.pod = pod;
        if let Some(seconds) = deleted {
            self.hurry(Duration::from_secs(u64::try_from(seconds).unwrap_or(0)));
        }
    }

    /// Containers that are being stopped get no longer than this from now on.
    fn hurry(&mut self, grace: Duration) {
        let at = tokio::time::Instant::now() + grace;
        for deadline in self.live.values().filter_map(|live| live.deadline.as_ref()) {
            deadline.send_if_modified(|deadline| {
                let sooner = at < *deadline;
                *deadline = at.min(*deadline);
                sooner
            });
        }
    }

    fn exited(&mut self, name: &str, id: &str, record: &ExitRecord) {
        let Some(container) = self.seen.containers.get_mut(name) else {
            return;
        };
        // An end that is told before the start was taken in belongs to the attempt being started.
        let is_this = match &container.run {
            Run::Running(running) => running.id == id,
            Run::Starting(_) => true,
            _ => false,
        };
        if !is_this {
            return;
        }
        container.begin_attempt();
        if let Some(live) = self.live.remove(name) {
            live.exited.cancel();
        }
        let ran_for = record.finished_at.duration_since(record.started_at);
        container.backoff = container
            .backoff
            .ended(Duration::try_from(ran_for).unwrap_or_default());
        let message = find(&self.pod, name).and_then(|(spec, _)| {
            exits::last_words(spec, &self.jobs.dirs, container.restarts, record.exit_code)
        });
        container.run = Run::Exited(exits::exit(id, record, message));
        container.image = Step::Todo;
        self.tell_of_back_off(name);
    }

    /// A container that has ended waits before it is started again, and that is worth an event.
    fn tell_of_back_off(&self, name: &str) {
        let wanted = wanted(&self.pod, self.gone, self.parked);
        let going = !self.gone && wanted.deletion.is_none() && outcome(&wanted, &self.seen) == Outcome::Going;
        let Some(container) = self.seen.containers.get(name) else {
            return;
        };
        if !going || self.parked || container.backoff.delay().is_zero() {
            return;
        }
        let meta = &self.pod.metadata;
        let message = format!(
            "Back-off restarting failed container {name} in pod {}_{}({})",
            meta.name.as_deref().unwrap_or_default(),
            meta.namespace.as_deref().unwrap_or_default(),
            meta.uid.as_deref().unwrap_or_default(),
        );
        self.jobs
            .record(Some(name), EventType::Warning, "BackOff", message);
    }

    /// The shim is gone, and all containers with it: the pod gets a new sandbox.
    fn sandbox_ended(&mut self) {
        if self.seen.sandbox != Sandbox::Up(Step::Done(self.seen.ip)) {
            return;
        }
        self.sandbox = None;
        let message = "Pod sandbox changed, it will be killed and re-created.";
        self.jobs
            .record(None, EventType::Normal, "SandboxChanged", message);
        if let Some(address) = self
            .seen
            .ip
            .take()
            .filter(|address| *address != self.node.config.node_ip)
        {
            self.node.release(address);
        }
        self.seen.sandbox = Sandbox::Up(Step::Todo);
        self.live.clear();
        adopt::begin_anew(&self.pod, &mut self.seen);
    }

    fn probed(&mut self, name: &str, id: &str, kind: Kind, report: Report) {
        let Some(Container {
            run: Run::Running(running),
            ..
        }) = self.seen.containers.get_mut(name)
        else {
            return;
        };
        if running.id != id || (running.stopping && kind != Kind::Readiness) {
            return;
        }
        match (kind, report) {
            (_, Report::Unhealthy(why)) => {
                let message = format!("{} probe failed: {why}", kind.title());
                self.jobs
                    .record(Some(name), EventType::Warning, "Unhealthy", message);
            }
            (Kind::Startup, Report::Passed) => {
                running.started = true;
                self.watch_container(name, &[Kind::Readiness, Kind::Liveness]);
            }
            (Kind::Startup, Report::Failed) => running.doom = Some(Doom::Startup),
            (Kind::Readiness, Report::Passed) => running.ready = true,
            (Kind::Readiness, Report::Failed) => running.ready = false,
            (Kind::Liveness, Report::Failed) => running.doom = Some(Doom::Liveness),
            (Kind::Liveness, Report::Passed) => {}
        }
    }

    /// Begins the probes of containers that ran before this worker.
    fn watch_running(&mut self) {
        let names: Vec<(String, bool)> = self
            .seen
            .containers
            .iter()
            .filter_map(|(name, container)| Some((name.clone(), container.running()?.started)))
            .collect();
        for (name, started) in names {
            self.live.insert(name.clone(), Live::new());
            let kinds: &[Kind] = if started {
                &[Kind::Readiness, Kind::Liveness]
            } else {
                &[Kind::Startup]
            };
            self.watch_container(&name, kinds);
        }
    }

    /// Begins some of a container's probes. A container without a readiness probe is ready once it
    /// has started.
    fn watch_container(&mut self, name: &str, kinds: &[Kind]) {
        let Some(sandbox) = &self.sandbox else { return };
        let Some((spec, _)) = find(&self.pod, name) else {
            return;
        };
        let mut probes = probes(spec);
        let Some(Container {
            run: Run::Running(running),
            ..
        }) = self.seen.containers.get_mut(name)
        else {
            return;
        };
        let Some(live) = self.live.get_mut(name) else {
            return;
        };
        if kinds.contains(&Kind::Readiness) && !probes.contains_key(&Kind::Readiness) {
            running.ready = true;
        }
        let ip: Ipv4Addr = self.seen.ip.unwrap_or(self.node.config.node_ip);
        for kind in kinds {
            let Some(wanted) = probes.remove(kind) else {
                continue;
            };
            let prober = Prober {
                pod: sandbox.clone(),
                container: running.id.clone(),
                ip: ip.into(),
            };
            let (own, name, id, kind) = (self.own.clone(), name.to_owned(), running.id.clone(), *kind);
            let tell = move |report| {
                own.send(Msg::Probe {
                    name: name.clone(),
                    id: id.clone(),
                    kind,
                    report,
                })
                .is_ok()
            };
            let probe = wanted.clone();
            let check = move || {
                let (prober, probe) = (prober.clone(), probe.clone());
                async move { probe::check(&prober, &probe).await }
            };
            let task = live.probes.spawn(probe::run(wanted, check, tell));
            if kind != Kind::Readiness {
                live.until_stopped.push(task);
            }
        }
    }

    fn take(&mut self, done: Done) {
        match done {
            Done::Volumes(Ok(volumes)) => {
                self.volumes = volumes;
                self.seen.volume_failures = 0;
                self.volumes_made();
            }
            Done::Volumes(Err(message)) => {
                let failure = failure(
                    "ContainerCreating",
                    message,
                    self.seen.volume_failures,
                    RETRY_FIRST,
                    RETRY_MAX,
                );
                if failure.times > QUIET_FAILURES {
                    self.jobs
                        .record(None, EventType::Warning, "FailedMount", failure.message.clone());
                }
                self.seen.volume_failures = failure.times;
                if self.volumes.ready {
                    // What the containers have stays as it was, until it can be renewed.
                    let wait = failure.retry_at.saturating_duration_since(Instant::now());
                    self.volumes.renew_at = Timestamp::now().checked_add(wait).ok();
                    self.volumes_made();
                } else {
                    self.seen.volumes = Step::Failed(failure);
                    self.volumes_stale = false;
                }
            }
            Done::Sandbox(Ok((sandbox, address))) => {
                self.sandbox = Some(sandbox);
                self.seen.ip = address;
                self.seen.sandbox = Sandbox::Up(Step::Done(address));
                self.seen.sandbox_failures = 0;
            }
            Done::Sandbox(Err(message)) => {
                let failure = failure(
                    "ContainerCreating",
                    message,
                    self.seen.sandbox_failures,
                    RETRY_FIRST,
                    RETRY_MAX,
                );
                self.seen.sandbox_failures = failure.times;
                self.seen.sandbox = Sandbox::Up(Step::Failed(failure));
            }
            Done::Image(name, result) => self.image_done(&name, result),
            Done::Started(name, result) => {
                if let Some(container) = self.seen.containers.get_mut(&name) {
                    container.start_job = false;
                }
                match result {
                    Ok(info) => self.started(&name, &info),
                    Err(failure) => self.not_started(&name, failure),
                }
            }
            Done::Stopped => {}
            Done::TakenDown(Ok(())) => self.seen.sandbox = Sandbox::Down,
            Done::TakenDown(Err(message)) => {
                tracing::warn!(
                    pod = self.pod.metadata.name,
                    message,
                    "a sandbox was not taken down"
                );
                let failure = failure("", message, self.seen.sandbox_failures, RETRY_FIRST, RETRY_MAX);
                self.seen.sandbox_failures = failure.times;
                self.seen.sandbox = Sandbox::NotDown(failure);
            }
            // While it has finalizers the API keeps the pod, and nothing is to be done for it.
            Done::Finalized(Ok(())) => {
                self.removed = true;
                self.ended = self.gone;
            }
            Done::Finalized(Err(message)) => {
                tracing::warn!(pod = self.pod.metadata.name, message, "a pod was not removed");
                self.seen.finalized = false;
                self.retry_write = Some(Instant::now() + RETRY_FIRST);
            }
            Done::StatusWritten(status, result) => self.status_written(*status, result),
        }
    }

    fn volumes_made(&mut self) {
        let again = std::mem::take(&mut self.volumes_stale);
        self.seen.volumes = if again { Step::Todo } else { Step::Done(()) };
    }

    fn image_done(&mut self, name: &str, result: Result<super::observed::Image, crate::images::ImageError>) {
        let Some(container) = self.seen.containers.get_mut(name) else {
            return;
        };
        match result {
            Ok(image) => {
                container.known_image = Some(image);
                container.image = Step::Done(());
                container.image_failures = 0;
            }
            Err(error) => {
                let failure = failure(
                    error.reason,
                    error.message,
                    container.image_failures,
                    PULL_FIRST,
                    PULL_MAX,
                );
                container.image_failures = failure.times;
                container.image = Step::Failed(failure);
            }
        }
    }

    fn started(&mut self, name: &str, info: &ContainerInfo) {
        let Some(container) = self.seen.containers.get_mut(name) else {
            return;
        };
        if !matches!(container.run, Run::Starting(_)) {
            // It has ended already, and that has been heard of.
            return;
        }
        container.begin_attempt();
        container.start_failures = 0;
        let started_at = match &info.state {
            ContainerState::Running { started_at, .. } => *started_at,
            ContainerState::Exited(record) => record.started_at,
        };
        let has_startup = find(&self.pod, name).is_some_and(|(spec, _)| spec.startup_probe.is_some());
        container.run = Run::Running(Running {
            id: info.id.clone(),
            started_at,
            started: !has_startup,
            ready: false,
            doom: None,
            stopping: false,
        });
        self.live.insert(name.to_owned(), Live::new());
        if has_startup {
            self.watch_container(name, &[Kind::Startup]);
        } else {
            self.watch_container(name, &[Kind::Readiness, Kind::Liveness]);
        }
    }

    fn not_started(&mut self, name: &str, failed: StartFailure) {
        let Some(container) = self.seen.containers.get_mut(name) else {
            return;
        };
        if failed.no_image {
            container.image = Step::Todo;
        }
        match failed.kind {
            // Its end is told by the runtime, or has been.
            NotStarted::Hook => {
                container.start_problem = Some(StartProblem {
                    reason: failed.reason.to_owned(),
                    message: failed.message,
                });
            }
            NotStarted::Command => {
                container.begin_attempt();
                container.image = Step::Todo;
                container.start_problem = Some(StartProblem {
                    reason: failed.reason.to_owned(),
                    message: failed.message.clone(),
                });
                container.run = Run::Exited(Exit {
                    id: String::new(),
                    code: 128,
                    reason: "StartError".to_owned(),
                    message: Some(failed.message),
                    started_at: Some(Timestamp::UNIX_EPOCH),
                    finished_at: Some(Timestamp::now()),
                    at: Instant::now(),
                });
                self.tell_of_back_off(name);
            }
            NotStarted::Refused => {
                container.begin_attempt();
                let failure = failure(
                    failed.reason,
                    failed.message,
                    container.start_failures,
                    RETRY_FIRST * 10,
                    RETRY_MAX,
                );
                container.start_failures = failure.times;
                container.run = Run::Refused(failure);
            }
        }
    }

    /// Whether the API does not know yet how the pod stands.
    fn is_untold(&self, wanted: &Wanted) -> bool {
        let (old, new) = self.statuses(wanted);
        old != new
    }

    /// The status that the API has, and how the pod stands. What others set is in both as the API has it.
    fn statuses(&self, wanted: &Wanted) -> (PodStatus, PodStatus) {
        let mut old = self.written.clone();
        super::patch::keep_foreign(&mut old, self.pod.status.as_ref());
        let mut pod = Pod::clone(&self.pod);
        pod.status = Some(old.clone());
        let new = status(
            &pod,
            wanted,
            &self.seen,
            self.node.config.node_ip,
            Timestamp::now(),
        );
        (old, new)
    }

    /// Writes the status, if it is other than what the API has and no write is under way.
    fn tell(&mut self, wanted: &Wanted) {
        if self.writing || self.gone || self.seen.finalized || self.retry_write.is_some() {
            return;
        }
        let (old, new) = self.statuses(wanted);
        if new != old {
            self.writing = true;
            self.running.spawn(self.jobs.clone().write_status(old, new));
        } else {
            self.turn_pull_errors();
        }
    }

    /// An image that could not be pulled is first shown with its error, then as waiting for the next
    /// try.
    fn turn_pull_errors(&mut self) {
        for (name, container) in &mut self.seen.containers {
            let Step::Failed(failure) = &mut container.image else {
                continue;
            };
            if failure.reason == "ErrImagePull" {
                let image = find(&self.pod, name)
                    .and_then(|(spec, _)| spec.image.clone())
                    .unwrap_or_default();
                let message = format!("Back-off pulling image \"{image}\"");
                self.jobs
                    .record(Some(name), EventType::Normal, "BackOff", message.clone());
                self.jobs.record(
                    Some(name),
                    EventType::Warning,
                    "Failed",
                    "Error: ImagePullBackOff",
                );
                failure.reason = "ImagePullBackOff".to_owned();
                failure.message = format!("{message}: ErrImagePull: {}", failure.message);
                self.retry_write = Some(Instant::now());
            }
        }
    }

    fn status_written(&mut self, status: PodStatus, result: Result<(), kube::Error>) {
        self.writing = false;
        match result {
            Ok(()) => self.written = status,
            // The pod is gone, or another one by now: the informer will tell.
            Err(kube::Error::Api(error)) if matches!(error.code, 404 | 409 | 422) => {
                tracing::debug!(pod = self.pod.metadata.name, %error, "a status was refused");
                self.retry_write = Some(Instant::now() + Duration::from_secs(1));
            }
            Err(error) => {
                tracing::debug!(pod = self.pod.metadata.name, %error, "a status was not written");
                self.retry_write = Some(Instant::now() + RETRY_FIRST);
            }
        }
    }
}

/// A failure that is tried again after a wait that doubles.
fn failure(reason: &str, message: String, before: u32, first: Duration, max: Duration) -> Failure {
    let wait = first.saturating_mul(1 << before.min(16)).min(max);
    Failure {
        reason: reason.to_owned(),
        message,
        times: before + 1,
        retry_at: Instant::now() + wait,
    }
}

async fn sleep_until(at: Option<Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at.into()).await,
        None => std::future::pending().await,
    }
}

/// Whether volumes of a pod are made from the pod itself.
fn shows_itself(pod: &Pod) -> bool {
    let volumes = pod.spec.iter().flat_map(|spec| spec.volumes.iter().flatten());
    volumes.into_iter().any(|volume| {
        let sources = volume
            .projected
            .iter()
            .flat_map(|projected| projected.sources.iter().flatten());
        volume.downward_api.is_some() || sources.into_iter().any(|source| source.downward_api.is_some())
    })
}
