//! What the API is told of the pod.

use std::time::{Duration, Instant};

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Pod, PodStatus};
use stead_informer::EventType;

use super::{RETRY_FIRST, Worker};
use crate::pod::patch;
use crate::pod::plan::Wanted;
use crate::pod::status::{is_between_runs, status};
use crate::pod::wanted::find;

impl Worker {
    /// Whether the API does not know yet how the pod stands.
    pub(super) fn is_untold(&self, wanted: &Wanted) -> bool {
        let (old, new) = self.statuses(wanted);
        old != new
    }

    /// The status that the API has, and how the pod stands. What others set is in both as the API has it.
    fn statuses(&self, wanted: &Wanted) -> (PodStatus, PodStatus) {
        let mut old = self.written.clone();
        patch::keep_foreign(&mut old, self.pod.status.as_ref());
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
    pub(super) fn tell(&mut self, wanted: &Wanted) {
        if self.writing || self.gone || self.seen.finalized || self.retry_write.is_some() {
            return;
        }
        if is_between_runs(&self.pod, wanted, &self.seen) {
            return;
        }
        let (old, new) = self.statuses(wanted);
        if new != old {
            self.writing = true;
            self.running.spawn(self.jobs.clone().write_status(old, new));
        } else {
            self.turn_troubles();
        }
    }

    /// What went wrong is first shown with its error, then as waiting for the next try.
    fn turn_troubles(&mut self) {
        for (name, container) in &mut self.seen.containers {
            let waits = container
                .exit()
                .is_some_and(|exit| !container.wait(exit).is_zero());
            let Some(trouble) = &mut container.trouble else {
                continue;
            };
            let began = ["RunContainerError", "PostStartHookError"].contains(&trouble.reason.as_str());
            if began && waits {
                container.trouble = None;
                self.retry_write = Some(Instant::now());
            } else if trouble.reason == "ErrImagePull" {
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
                trouble.reason = "ImagePullBackOff".to_owned();
                trouble.message = format!("{message}: ErrImagePull: {}", trouble.message);
                self.retry_write = Some(Instant::now());
            }
        }
    }

    pub(super) fn status_written(&mut self, status: PodStatus, result: Result<(), kube::Error>) {
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
