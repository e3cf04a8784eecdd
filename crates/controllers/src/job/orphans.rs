//! Pods whose Job is gone: nobody counts them any more, so they are let go.

use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::Pod;
use kube::Api;
use stead_informer::{Change, Informers, Key, Queue, Reconciled};

use super::pod::is_tracked;
use super::{JobsController, selector};
use crate::owned::{controller_of, controller_reference_of, owner_of};
use crate::refused::Refused;

/// Notes pods that may be orphans: their Job went, or they have none.
pub(super) fn listen(informers: &Informers, queue: &Queue<Key>) {
    let (changed, jobs) = (queue.clone(), informers.jobs.clone());
    informers.pods.on_change(move |change| {
        let pod = change.object();
        if is_tracked(pod) && !has_job(pod, |key| jobs.get(key)) {
            changed.add(Key::of(&**pod));
        }
    });
    let (changed, pods) = (queue.clone(), informers.pods.clone());
    informers.jobs.on_change(move |change| {
        let Change::Deleted(job) = change else { return };
        let namespace = job.metadata.namespace.as_deref().unwrap_or_default();
        for pod in pods.in_namespace(namespace) {
            if is_tracked(&pod) && controller_of(&pod.metadata) == job.metadata.uid.as_deref() {
                changed.add(Key::of(&*pod));
            }
        }
    });
}

/// Whether a pod's Job is there.
fn has_job(pod: &Pod, get: impl Fn(&Key) -> Option<std::sync::Arc<Job>>) -> bool {
    let job = owner_of(&pod.metadata, "Job").and_then(|key| get(&key));
    job.is_some_and(|job| job.metadata.uid.as_deref() == controller_of(&pod.metadata))
}

impl JobsController {
    /// Lets go of a pod if its Job is gone.
    pub(super) async fn let_go(&self, key: &Key) -> Result<Reconciled, Refused> {
        self.wrote_pods.caught_up().await;
        let Some(pod) = self.informers.pods.get(key).filter(|pod| is_tracked(pod)) else {
            return Ok(Reconciled::Done);
        };
        let is_kept = match controller_reference_of(&pod.metadata) {
            Some(owner) if owner.kind != "Job" => true,
            // The cache may be older than the pod.
            Some(owner) => {
                let api: Api<Job> = Api::namespaced(self.client.clone(), &key.namespace);
                let job = api.get_opt(&owner.name).await;
                let job = job.map_err(Refused::to(format!("get job {}", owner.name)))?;
                job.is_some_and(|job| job.metadata.uid.as_ref() == Some(&owner.uid))
            }
            // Someone is about to adopt it.
            None => self
                .informers
                .jobs
                .in_namespace(&key.namespace)
                .iter()
                .any(|job| {
                    job.metadata.deletion_timestamp.is_none()
                        && selector(job).matches(pod.metadata.labels.as_ref())
                }),
        };
        if !is_kept {
            self.untrack(&[&pod]).await?;
        }
        Ok(Reconciled::Done)
    }
}
