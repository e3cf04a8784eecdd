//! Does what a plan says.

use futures::future::join_all;
use jiff::Timestamp;
use k8s_openapi::api::batch::v1::{Job, JobSpec};
use k8s_openapi::api::core::v1::Pod;
use kube::Api;
use kube::api::{Patch, PatchParams, PostParams};
use serde_json::json;
use stead_informer::{EventType, Reconciled, reference};

use super::JobsController;
use super::plan::{Change, News, plan};
use super::pod::TRACKING;
use super::status::number;
use crate::pods::PodControl;
use crate::refused::Refused;

impl JobsController {
    /// Looks after a Job that has not ended.
    pub(super) async fn work(&self, job: &Job, spec: &JobSpec, pods: &[&Pod]) -> Result<Reconciled, Refused> {
        let now = Timestamp::now();
        let mut plan = plan(job, spec, pods, now);
        let control = PodControl::new(&self.client, reference(job), &self.wrote_pods, &self.recorder);
        let mut outcome = Ok(());
        match &plan.change {
            Change::None => {}
            Change::Create(pods) => {
                let made;
                (made, outcome) = control.create(&pods.iter().collect::<Vec<_>>()).await;
                let active = plan.status.active.unwrap_or(0) - number(pods.len() - made);
                plan.status.active = Some(active).filter(|active| *active > 0);
            }
            Change::Fail(pods) => control.delete(pods).await?,
            Change::Remove(pods) => {
                self.untrack(pods).await?;
                control.delete(pods).await?;
            }
        }
        if self.write_status(job, &plan).await? {
            plan.news.iter().for_each(|news| self.tell(job, news));
            self.untrack(&plan.untrack).await?;
        }
        outcome?;
        Ok(Reconciled::until(plan.again, now))
    }

    /// Writes the status if it says something new. Says whether it is as planned now; else there will be another look.
    async fn write_status(&self, job: &Job, plan: &super::plan::Plan<'_>) -> Result<bool, Refused> {
        let mut before = job.status.clone().unwrap_or_default();
        before.uncounted_terminated_pods.get_or_insert_default();
        if before == plan.status {
            return Ok(true);
        }
        let name = job.metadata.name.as_deref().unwrap_or_default();
        let mut updated = job.clone();
        updated.status = Some(plan.status.clone());
        let params = PostParams::default();
        let written = self.jobs(job).replace_status(name, &params, &updated).await;
        let what = format!("update the status of job {name}");
        Ok(self.wrote_jobs.settle(written, what)?.is_some())
    }

    /// Takes the finalizer off pods.
    pub(super) async fn untrack(&self, pods: &[&Pod]) -> Result<(), Refused> {
        let patched = join_all(pods.iter().map(async |pod| {
            let name = pod.metadata.name.as_deref().unwrap_or_default();
            let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
            let api: Api<Pod> = Api::namespaced(self.client.clone(), namespace);
            let patch = json!({"metadata": {
                "uid": pod.metadata.uid,
                "$deleteFromPrimitiveList/finalizers": [TRACKING],
            }});
            let params = PatchParams::default();
            let patched = api.patch(name, &params, &Patch::Strategic(&patch)).await;
            let what = format!("take the finalizer off pod {name}");
            self.wrote_pods.settle(patched, what).map(drop)
        }))
        .await;
        patched.into_iter().collect()
    }

    fn tell(&self, job: &Job, news: &News) {
        let record = |kind, reason: &str, message: &str| {
            self.recorder.record(reference(job), kind, reason, message);
        };
        match news {
            News::Suspended => record(EventType::Normal, "Suspended", "Job suspended"),
            News::Resumed => record(EventType::Normal, "Resumed", "Job resumed"),
            News::Completed { too_many } => {
                if *too_many {
                    let message = "Too many succeeded pods running after completion count reached";
                    record(EventType::Warning, "TooManySucceededPods", message);
                }
                record(EventType::Normal, "Completed", "Job completed");
            }
            News::Failed(cause) => record(EventType::Warning, &cause.reason, &cause.message),
        }
    }
}
