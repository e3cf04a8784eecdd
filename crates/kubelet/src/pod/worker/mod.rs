//! The worker of one pod: it hears of everything that concerns the pod, asks the planner what to do,
//! begins it, and tells the API how the pod stands.
//!
//! The loop is: plan, begin, tell, wait. Nothing in it blocks: whatever takes time is a job
//! ([`super::jobs`]) whose end is an event like any other. The worker alone changes what is known of
//! the pod ([`Observed`]).

mod outcomes;
mod probes;
mod tell;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Pod, PodStatus};
use stead_informer::EventType;
use stead_runtime::ExitRecord;
use tokio::sync::{mpsc, watch};
use tokio::task::{AbortHandle, JoinSet};
use tokio_util::sync::CancellationToken;

use super::adopt;
use super::jobs::{Done, Jobs, Start, Stop};
use super::observed::{Container, Doom, Failure, Observed, Run, Sandbox, Step, Trouble, Verdict};
use super::plan::{Action, Plan, StopReason, Wanted, plan};
use super::wanted::{find, wanted};
use crate::node::Node;
use crate::probe::{Kind, Report, probes};
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
    /// Ends of containers whose start is still under way, by name.
    untold_ends: HashMap<String, (String, ExitRecord)>,
    /// What to show of containers that end because their hook failed, by name.
    failed_hooks: HashMap<String, Trouble>,
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
            untold_ends: HashMap::new(),
            failed_hooks: HashMap::new(),
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
                container.image_missing(failure());
            }
            container.start_job = false;
            if matches!(container.run, Run::Starting(_)) {
                container.begin_attempt();
                container.refused(failure());
            }
        }
    }

    fn begin(&mut self, action: Action, wanted: &Wanted) {
        let jobs = self.jobs.clone();
        match action {
            Action::SetUpVolumes => {
                self.seen.volumes = Step::Doing;
                self.running.spawn(jobs.set_up_volumes(self.volumes.ready));
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
            Run::Exited(exit) => Some(exit),
            _ => None,
        };
        let attempt = container.restarts + u32::from(before.is_some());
        container.run = Run::Starting(before);
        container.start_job = true;
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
        self.untold_ends.clear();
        self.failed_hooks.clear();
        adopt::begin_anew(&self.pod, &mut self.seen);
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
