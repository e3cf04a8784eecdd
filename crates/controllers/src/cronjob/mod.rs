//! The CronJob controller: makes Jobs at the times of a schedule, and takes away those that ended long ago.

mod plan;

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::batch::v1::{CronJob, Job};
use kube::api::{DeleteParams, PostParams, Preconditions, PropagationPolicy};
use kube::{Api, Client};
use stead_informer::semantics::Selector;
use stead_informer::{EventType, Informers, Key, Objects, Queue, Reconciled, Recorder, Task, reference};
use tokio_util::sync::CancellationToken;

use self::plan::{Plan, note_made, plan};
use crate::owned::{controller_of, follow};
use crate::refused::{Refused, is_already_exists, is_conflict, is_namespace_terminating, is_not_found};
use crate::written::{STALE, Written};

/// CronJobs that are looked at at a time.
const WORKERS: usize = 4;
/// The longest wait for the next time: the wall clock may be set meanwhile, and the one that waits are measured by
/// stands still while a computer sleeps.
const LONGEST_WAIT: Duration = Duration::from_secs(60);

/// The controller.
pub struct CronJobsController {
    client: Client,
    informers: Informers,
    recorder: Recorder,
    queue: Queue<Key>,
    wrote: Written<CronJob>,
    wrote_jobs: Written<Job>,
}

impl CronJobsController {
    /// A controller that hears of changes from now on.
    pub fn new(client: Client, informers: &Informers, recorder: Recorder) -> Arc<CronJobsController> {
        let queue = Queue::new();
        let cron_jobs = ("CronJob", &informers.cron_jobs);
        // It owns what it made, and adopts nothing.
        follow(cron_jobs, &informers.jobs, |_| Selector::nothing(), &queue);
        Arc::new(CronJobsController {
            client,
            informers: informers.clone(),
            recorder,
            queue,
            wrote: Written::new(&informers.cron_jobs),
            wrote_jobs: Written::new(&informers.jobs),
        })
    }

    /// Works until cancelled.
    pub fn run(self: Arc<Self>, shutdown: CancellationToken) -> Task {
        Box::pin(async move {
            self.informers.synced().await;
            let cron_jobs = Objects {
                name: "cronjob",
                queue: self.queue.clone(),
                concurrency: WORKERS,
                informer: self.informers.cron_jobs.clone(),
                recorder: self.recorder.clone(),
            };
            let look = |controller: Arc<Self>, key| async move { controller.reconcile(&key).await };
            cron_jobs.run(self, shutdown, look).await;
        })
    }

    async fn reconcile(&self, key: &Key) -> Result<Reconciled, Refused> {
        if !self.wrote.caught_up().await || !self.wrote_jobs.caught_up().await {
            return Ok(Reconciled::Again(STALE));
        }
        let Some(cron_job) = self.informers.cron_jobs.get(key) else {
            return Ok(Reconciled::Done);
        };
        let jobs = self.informers.jobs.in_namespace(&key.namespace);
        let is_own = |job: &&Job| controller_of(&job.metadata) == cron_job.metadata.uid.as_deref();
        let own: Vec<&Job> = jobs.iter().map(|job| &**job).filter(is_own).collect();
        let now = Timestamp::now();
        let mut plan = plan(&cron_job, &own, now);
        for (kind, reason, message) in std::mem::take(&mut plan.news) {
            self.record(&cron_job, kind, reason, message);
        }
        for job in &plan.delete {
            self.delete(&cron_job, job).await?;
        }
        let made = self.create(&cron_job, &mut plan).await;
        self.write_status(&cron_job, &plan).await?;
        made?;
        Ok(plan.next.map_or(Reconciled::Done, |next| {
            let wait = Duration::try_from(next.duration_since(now)).unwrap_or_default();
            Reconciled::Again(wait.min(LONGEST_WAIT))
        }))
    }

    async fn create(&self, cron_job: &CronJob, plan: &mut Plan<'_>) -> Result<(), Refused> {
        let Some((job, due)) = plan.create.take() else {
            return Ok(());
        };
        let api = self.jobs(cron_job);
        let name = job.metadata.name.clone().unwrap_or_default();
        let refused = |error: kube::Error| Refused::to(format!("create job {name}"))(error);
        let made = match api.create(&PostParams::default(), &job).await {
            Ok(made) => {
                self.record(
                    cron_job,
                    EventType::Normal,
                    "SuccessfulCreate",
                    format!("Created job {name}"),
                );
                made
            }
            Err(error) if is_namespace_terminating(&error) => return Ok(()),
            // It was made for this time already, and that could not be noted.
            Err(error) if is_already_exists(&error) => {
                let there = api.get(&name).await.map_err(refused)?;
                if controller_of(&there.metadata) != cron_job.metadata.uid.as_deref() {
                    return Err(self.failed(cron_job, refused(error)));
                }
                note_made(&mut plan.status, &there, due);
                return Ok(());
            }
            Err(error) => return Err(self.failed(cron_job, refused(error))),
        };
        self.wrote_jobs.note(&made);
        note_made(&mut plan.status, &made, due);
        Ok(())
    }

    fn failed(&self, cron_job: &CronJob, error: Refused) -> Refused {
        let message = format!("Error creating job: {}", error.cause());
        self.record(cron_job, EventType::Warning, "FailedCreate", message);
        error
    }

    async fn delete(&self, cron_job: &CronJob, job: &Job) -> Result<(), Refused> {
        let name = job.metadata.name.as_deref().unwrap_or_default();
        let params = DeleteParams {
            propagation_policy: Some(PropagationPolicy::Background),
            preconditions: Some(Preconditions {
                uid: job.metadata.uid.clone(),
                resource_version: None,
            }),
            ..DeleteParams::default()
        };
        match self.jobs(cron_job).delete(name, &params).await {
            Ok(deleted) => {
                if let Some(job) = deleted.left() {
                    self.wrote_jobs.note(&job);
                }
                let message = format!("Deleted job {name}");
                self.record(cron_job, EventType::Normal, "SuccessfulDelete", message);
                Ok(())
            }
            Err(error) if is_not_found(&error) || is_conflict(&error) => Ok(()),
            Err(error) => Err(Refused::to(format!("delete job {name}"))(error)),
        }
    }

    async fn write_status(&self, cron_job: &CronJob, plan: &Plan<'_>) -> Result<(), Refused> {
        if cron_job.status.clone().unwrap_or_default() == plan.status {
            return Ok(());
        }
        let Key { namespace, name } = Key::of(cron_job);
        let api: Api<CronJob> = Api::namespaced(self.client.clone(), &namespace);
        let mut updated = cron_job.clone();
        updated.status = Some(plan.status.clone());
        let written = api.replace_status(&name, &PostParams::default(), &updated).await;
        let what = format!("update the status of cron job {name}");
        self.wrote.settle(written, what).map(drop)
    }

    fn jobs(&self, cron_job: &CronJob) -> Api<Job> {
        let namespace = cron_job.metadata.namespace.as_deref().unwrap_or_default();
        Api::namespaced(self.client.clone(), namespace)
    }

    fn record(&self, cron_job: &CronJob, kind: EventType, reason: &str, message: String) {
        self.recorder.record(reference(cron_job), kind, reason, message);
    }
}
