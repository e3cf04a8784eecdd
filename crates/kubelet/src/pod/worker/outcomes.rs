//! What came of the pod's jobs, and how its containers ended.

use std::time::{Duration, Instant};

use jiff::Timestamp;
use stead_informer::EventType;
use stead_runtime::{ContainerInfo, ContainerState, ExitRecord};

use super::{Live, PULL_FIRST, PULL_MAX, QUIET_FAILURES, RETRY_FIRST, RETRY_MAX, Worker};
use crate::images::ImageError;
use crate::pod::exits;
use crate::pod::jobs::{Done, NotStarted, StartFailure};
use crate::pod::observed::{Exit, Failure, Image, Run, Running, Sandbox, Step, Trouble};
use crate::pod::plan::{Outcome, outcome};
use crate::pod::wanted::{find, wanted};
use crate::probe::Kind;

impl Worker {
    pub(super) fn take(&mut self, done: Done) {
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
                let end = self.untold_ends.remove(&name);
                match result {
                    Ok(info) => self.started(&name, &info),
                    Err(failure) => self.not_started(&name, failure),
                }
                if let Some((id, record)) = end {
                    self.exited(&name, &id, &record);
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

    fn image_done(&mut self, name: &str, result: Result<Image, ImageError>) {
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
                container.image_missing(failure);
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
        container.trouble = None;
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
        // The next start looks for its image anew.
        container.image = Step::Todo;
        let trouble = Trouble {
            reason: failed.reason.to_owned(),
            message: failed.message.clone(),
        };
        match failed.kind {
            // Shown with its end, which the runtime tells.
            NotStarted::Hook => {
                self.failed_hooks.insert(name.to_owned(), trouble);
            }
            NotStarted::Command { id } => {
                container.begin_attempt();
                container.run = Run::Exited(Exit {
                    id,
                    code: 128,
                    reason: "StartError".to_owned(),
                    message: Some(failed.message),
                    started_at: Some(Timestamp::UNIX_EPOCH),
                    finished_at: Some(Timestamp::now()),
                    at: Instant::now(),
                    doomed: false,
                });
                container.trouble = Some(trouble);
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
                container.refused(failure);
            }
        }
    }

    pub(super) fn exited(&mut self, name: &str, id: &str, record: &ExitRecord) {
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
        if container.start_job {
            // It is told together with what the job has to say of it.
            self.untold_ends
                .insert(name.to_owned(), (id.to_owned(), record.clone()));
            return;
        }
        let doomed = container.running().is_some_and(|running| running.doom.is_some());
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
        container.run = Run::Exited(Exit {
            doomed,
            ..exits::exit(id, record, message)
        });
        container.image = Step::Todo;
        container.trouble = self.failed_hooks.remove(name);
        self.tell_of_back_off(name);
    }

    /// A container that has ended waits before it is started again, and that is worth an event.
    fn tell_of_back_off(&self, name: &str) {
        let wanted = wanted(&self.pod, self.gone, self.parked);
        let going = !self.gone && wanted.deletion.is_none() && outcome(&wanted, &self.seen) == Outcome::Going;
        let Some(container) = self.seen.containers.get(name) else {
            return;
        };
        let waits = container
            .exit()
            .is_some_and(|exit| !container.wait(exit).is_zero());
        if !going || self.parked || !waits {
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
