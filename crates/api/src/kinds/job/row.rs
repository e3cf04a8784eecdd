//! What `kubectl get jobs` shows.

use jiff::Timestamp;
use k8s_openapi::api::batch::v1::{Job, JobSpec, JobStatus};
use serde_json::Value;

use super::super::{name_cell, workload};
use super::status::has;
use crate::table::age;
use crate::time::human_duration;

pub(super) fn row(job: &Job, now: Timestamp) -> Vec<Value> {
    let spec = job.spec.clone().unwrap_or_default();
    let status = job.status.clone().unwrap_or_default();
    let [containers, images] = workload::containers_and_images(&spec.template);
    vec![
        name_cell(&job.metadata),
        state(job, &status).into(),
        completions(&spec, &status).into(),
        duration(&status, now).into(),
        age(job.metadata.creation_timestamp.as_ref(), now),
        containers,
        images,
        workload::selector_cell(&spec.selector.unwrap_or_default()),
    ]
}

fn state(job: &Job, status: &JobStatus) -> &'static str {
    let ended = ["Complete", "Failed"].into_iter().find(|kind| has(status, kind));
    let waiting = || {
        ["Suspended", "FailureTarget"]
            .into_iter()
            .find(|kind| has(status, kind))
    };
    match ended {
        Some(state) => state,
        None if job.metadata.deletion_timestamp.is_some() => "Terminating",
        None => waiting().unwrap_or("Running"),
    }
}

fn completions(spec: &JobSpec, status: &JobStatus) -> String {
    let succeeded = status.succeeded.unwrap_or(0);
    match (spec.completions, spec.parallelism.unwrap_or(0)) {
        (Some(wanted), _) => format!("{succeeded}/{wanted}"),
        (None, parallel @ 2..) => format!("{succeeded}/1 of {parallel}"),
        (None, _) => format!("{succeeded}/1"),
    }
}

fn duration(status: &JobStatus, now: Timestamp) -> String {
    let Some(start) = &status.start_time else {
        return String::new();
    };
    let end = status.completion_time.as_ref().map_or(now, |end| end.0);
    let took = end.as_millisecond() - start.0.as_millisecond();
    human_duration(took.div_euclid(1000))
}
