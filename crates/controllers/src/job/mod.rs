//! The Job controller: pods that run to their end, so many of them, and then no more. Also takes ended Jobs away
//! when their time is up, and lets pods go whose Job is gone.
//!
//! A Job that names another manager in `managedBy` is left to it.

mod apply;
mod backoff;
mod indexes;
mod orphans;
mod plan;
mod pod;
mod policy;
mod status;

use std::sync::Arc;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::batch::v1::{Job, JobSpec};
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use kube::api::{DeleteParams, Preconditions, PropagationPolicy};
use kube::{Api, Client};
use stead_informer::semantics::Selector;
use stead_informer::{Informers, Key, Objects, Queue, Reconciled, Recorder, Task};
use tokio_util::sync::CancellationToken;

use self::pod::is_tracked;
use crate::owned::{Dependents, follow};
use crate::refused::{Refused, is_conflict, is_not_found};
use crate::written::{STALE, Written};

/// Jobs that are looked at at a time.
const WORKERS: usize = 16;
/// The name of this controller, by which a Job may be managed.
const MANAGER: &str = "kubernetes.io/job-controller";

/// The controller.
pub struct JobsController {
    client: Client,
    informers: Informers,
    recorder: Recorder,
    queue: Queue<Key>,
    /// Pods whose Job may be gone.
    orphans: Queue<Key>,
    wrote_jobs: Written<Job>,
    wrote_pods: Written<Pod>,
}

impl JobsController {
    /// A controller that hears of changes from now on.
    pub fn new(client: Client, informers: &Informers, recorder: Recorder) -> Arc<JobsController> {
        let (queue, orphans) = (Queue::new(), Queue::new());
        let jobs = ("Job", &informers.jobs);
        follow(jobs, &informers.pods, selector, &queue);
        orphans::listen(informers, &orphans);
        Arc::new(JobsController {
            client,
            informers: informers.clone(),
            recorder,
            queue,
            orphans,
            wrote_jobs: Written::new(&informers.jobs),
            wrote_pods: Written::new(&informers.pods),
        })
    }

    /// Works until cancelled.
    pub fn run(self: Arc<Self>, shutdown: CancellationToken) -> Task {
        Box::pin(async move {
            self.informers.synced().await;
            let jobs = Objects {
                name: "job",
                queue: self.queue.clone(),
                concurrency: WORKERS,
                informer: self.informers.jobs.clone(),
                recorder: self.recorder.clone(),
            };
            let pods = Objects {
                name: "job-orphans",
                queue: self.orphans.clone(),
                concurrency: WORKERS,
                informer: self.informers.pods.clone(),
                recorder: self.recorder.clone(),
            };
            let look = |controller: Arc<Self>, key| async move { controller.reconcile(&key).await };
            let let_go = |controller: Arc<Self>, key| async move { controller.let_go(&key).await };
            futures::join!(
                jobs.run(Arc::clone(&self), shutdown.clone(), look),
                pods.run(self, shutdown, let_go)
            );
        })
    }

    async fn reconcile(&self, key: &Key) -> Result<Reconciled, Refused> {
        if !self.wrote_jobs.caught_up().await || !self.wrote_pods.caught_up().await {
            return Ok(Reconciled::Again(STALE));
        }
        let Some(job) = self.informers.jobs.get(key) else {
            return Ok(Reconciled::Done);
        };
        let ended = job.status.as_ref().and_then(status::ended_at);
        let is_ours = job
            .spec
            .as_ref()
            .and_then(|spec| spec.managed_by.as_deref())
            .is_none_or(|manager| manager == MANAGER);
        // Without a selector, all pods would be its own.
        let Some((spec, selector)) = job
            .spec
            .as_ref()
            .and_then(|spec| Some((spec, spec.selector.as_ref()?)))
        else {
            return Ok(Reconciled::Done);
        };
        if is_ours {
            let pods = self.own_pods(&job, selector).await?;
            let pods: Vec<&Pod> = pods.iter().map(|pod| &**pod).collect();
            match ended {
                None => return self.work(&job, spec, &pods).await,
                Some(_) => {
                    let left: Vec<&Pod> = pods.into_iter().filter(|pod| is_tracked(pod)).collect();
                    self.untrack(&left).await?;
                }
            }
        }
        match ended {
            Some(at) => self.expire(&job, spec, at).await,
            None => Ok(Reconciled::Done),
        }
    }

    /// Deletes a Job that ended so long ago ("Automatic Cleanup for Finished Jobs").
    async fn expire(&self, job: &Job, spec: &JobSpec, ended: Timestamp) -> Result<Reconciled, Refused> {
        let Some(seconds) = spec.ttl_seconds_after_finished else {
            return Ok(Reconciled::Done);
        };
        if job.metadata.deletion_timestamp.is_some() {
            return Ok(Reconciled::Done);
        }
        let time = SignedDuration::from_secs(seconds.into());
        let left = ended
            .saturating_add(time)
            .unwrap_or(ended)
            .duration_since(Timestamp::now());
        if left.is_positive() {
            return Ok(Reconciled::Again(Duration::try_from(left).unwrap_or_default()));
        }
        let params = DeleteParams {
            propagation_policy: Some(PropagationPolicy::Foreground),
            preconditions: Some(Preconditions {
                uid: job.metadata.uid.clone(),
                // Its time may just have been prolonged.
                resource_version: job.metadata.resource_version.clone(),
            }),
            ..DeleteParams::default()
        };
        let name = job.metadata.name.as_deref().unwrap_or_default();
        match self.jobs(job).delete(name, &params).await {
            Err(error) if !is_not_found(&error) && !is_conflict(&error) => {
                Err(Refused::to(format!("delete job {name}"))(error))
            }
            _ => Ok(Reconciled::Done),
        }
    }

    /// The Job's pods, after adopting and releasing what is to be.
    async fn own_pods(&self, job: &Job, selector: &LabelSelector) -> Result<Vec<Arc<Pod>>, Refused> {
        let namespace = job.metadata.namespace.as_deref().unwrap_or_default();
        let dependents = Dependents {
            kind: ("batch/v1", "Job"),
            owner: &job.metadata,
            owners: self.jobs(job),
            selector,
            api: Api::namespaced(self.client.clone(), namespace),
            written: &self.wrote_pods,
            finalizer: Some(pod::TRACKING),
            is_wanted: |_| true,
        };
        dependents
            .claim(self.informers.pods.in_namespace(namespace))
            .await
    }

    fn jobs(&self, job: &Job) -> Api<Job> {
        let namespace = job.metadata.namespace.as_deref().unwrap_or_default();
        Api::namespaced(self.client.clone(), namespace)
    }
}

/// What selects a Job's pods; nothing, if it does not say.
fn selector(job: &Job) -> Selector {
    let spec = job.spec.as_ref();
    let selector = spec.and_then(|spec| spec.selector.as_ref());
    selector.map_or_else(Selector::nothing, Selector::new)
}

#[cfg(test)]
mod tests;
