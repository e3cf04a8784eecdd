//! Making and deleting pods for who owns them, with the events that tell of it.

use futures::future::join_all;
use k8s_openapi::api::core::v1::{ObjectReference, Pod};
use kube::api::{DeleteParams, PostParams, Preconditions};
use kube::{Api, Client};
use stead_informer::{EventType, Recorder};

use crate::refused::{Refused, is_conflict, is_namespace_terminating, is_not_found};
use crate::written::Written;

/// Pods that are made at a time at first: twice as many each time that all could be.
const SLOW_START: usize = 1;

/// The pods of an owner.
pub(crate) struct PodControl<'a> {
    pub(crate) api: Api<Pod>,
    pub(crate) written: &'a Written<Pod>,
    pub(crate) recorder: &'a Recorder,
    /// The owner, whom events are about.
    pub(crate) about: ObjectReference,
}

impl<'a> PodControl<'a> {
    pub(crate) fn new(
        client: &Client,
        about: ObjectReference,
        written: &'a Written<Pod>,
        recorder: &'a Recorder,
    ) -> PodControl<'a> {
        let namespace = about.namespace.as_deref().unwrap_or_default();
        PodControl {
            api: Api::namespaced(client.clone(), namespace),
            written,
            recorder,
            about,
        }
    }

    /// Makes pods, more at a time as long as none is refused. Says how many were made.
    pub(crate) async fn create(&self, pods: &[&Pod]) -> (usize, Result<(), Refused>) {
        let (mut left, mut batch, mut made) = (pods, SLOW_START, 0);
        while !left.is_empty() {
            let (now, later) = left.split_at(batch.min(left.len()));
            let params = PostParams::default();
            let answers = join_all(now.iter().map(|pod| self.api.create(&params, pod))).await;
            let mut failure = None;
            for pod in answers {
                match pod {
                    Ok(pod) => {
                        made += 1;
                        self.written.note(&pod);
                        let name = pod.metadata.name.as_deref().unwrap_or_default();
                        self.tell("SuccessfulCreate", format!("Created pod: {name}"));
                    }
                    // All goes with the namespace.
                    Err(error) if is_namespace_terminating(&error) => return (made, Ok(())),
                    Err(error) => failure = Some(Refused::to("create a pod")(error)),
                }
            }
            if let Some(error) = failure {
                self.warn("FailedCreate", format!("Error creating: {}", error.cause()));
                return (made, Err(error));
            }
            left = later;
            batch *= 2;
        }
        (made, Ok(()))
    }

    /// Deletes pods, if they are still these.
    pub(crate) async fn delete(&self, pods: &[&Pod]) -> Result<(), Refused> {
        let deleted = join_all(pods.iter().map(async |pod| {
            let name = pod.metadata.name.as_deref().unwrap_or_default();
            let params = DeleteParams::default().preconditions(Preconditions {
                uid: pod.metadata.uid.clone(),
                resource_version: None,
            });
            (name, self.api.delete(name, &params).await)
        }))
        .await;
        let mut outcome = Ok(());
        for (name, deleted) in deleted {
            match deleted {
                Ok(deleted) => {
                    if let Some(pod) = deleted.left() {
                        self.written.note(&pod);
                    }
                    self.tell("SuccessfulDelete", format!("Deleted pod: {name}"));
                }
                // It has gone meanwhile.
                Err(error) if is_not_found(&error) || is_conflict(&error) => {}
                Err(error) => {
                    let error = Refused::to(format!("delete pod {name}"))(error);
                    self.warn("FailedDelete", format!("Error deleting: {}", error.cause()));
                    outcome = Err(error);
                }
            }
        }
        outcome
    }

    fn tell(&self, reason: &str, message: String) {
        self.recorder
            .record(self.about.clone(), EventType::Normal, reason, message);
    }

    fn warn(&self, reason: &str, message: String) {
        self.recorder
            .record(self.about.clone(), EventType::Warning, reason, message);
    }
}
