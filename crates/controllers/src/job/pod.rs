//! A Job's pod: how it is made, and what it tells.

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::batch::v1::{Job, JobSpec};
use k8s_openapi::api::core::v1::{Container, EnvVar, EnvVarSource, ObjectFieldSelector, Pod};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use super::policy::{Verdict, verdict};
use crate::owned::owner_reference;

/// Keeps a pod until its Job has counted it.
pub(super) const TRACKING: &str = "batch.kubernetes.io/job-tracking";
/// A label and an annotation: the index of a pod.
const INDEX: &str = "batch.kubernetes.io/job-completion-index";
/// How often pods of this index failed before this one, and how often it did not count.
const FAILURES: &str = "batch.kubernetes.io/job-index-failure-count";
const IGNORED: &str = "batch.kubernetes.io/job-index-ignored-failure-count";
/// The longest stem of a name that the API completes.
const LONGEST_STEM: usize = 58;

pub(super) fn phase(pod: &Pod) -> &str {
    let status = pod.status.as_ref();
    status
        .and_then(|status| status.phase.as_deref())
        .unwrap_or_default()
}

pub(super) fn has_succeeded(pod: &Pod) -> bool {
    phase(pod) == "Succeeded"
}

/// Whether a pod is still to be counted.
pub(super) fn is_tracked(pod: &Pod) -> bool {
    let mut finalizers = pod.metadata.finalizers.iter().flatten();
    finalizers.any(|finalizer| finalizer == TRACKING)
}

pub(super) fn is_deleting(pod: &Pod) -> bool {
    pod.metadata.deletion_timestamp.is_some()
}

pub(super) fn is_indexed(spec: &JobSpec) -> bool {
    spec.completion_mode.as_deref() == Some("Indexed")
}

/// Whether pods are replaced only once they have ended.
pub(super) fn only_failed_are_replaced(spec: &JobSpec) -> bool {
    spec.pod_replacement_policy.as_deref() == Some("Failed")
}

/// Whether a pod has failed: one that is on its way out may never come to say so.
pub(super) fn has_failed(pod: &Pod, spec: &JobSpec) -> bool {
    phase(pod) == "Failed" || !only_failed_are_replaced(spec) && is_deleting(pod) && !has_succeeded(pod)
}

/// A pod's index, if it is one of the Job's.
pub(super) fn index_of(pod: &Pod, spec: &JobSpec) -> Option<i32> {
    let index = annotation(pod, INDEX)?.parse().ok()?;
    (0..spec.completions.unwrap_or(0))
        .contains(&index)
        .then_some(index)
}

fn annotation<'p>(pod: &'p Pod, name: &str) -> Option<&'p str> {
    let annotations = pod.metadata.annotations.as_ref()?;
    annotations.get(name).map(String::as_str)
}

fn count(pod: &Pod, name: &str) -> i32 {
    annotation(pod, name)
        .and_then(|count| count.parse().ok())
        .unwrap_or(0)
}

/// How often pods of this one's index failed before it, as far as it counts.
pub(super) fn failures_before(pod: &Pod) -> i32 {
    count(pod, FAILURES)
}

/// How often pods of this one's index failed before it.
pub(super) fn all_failures_before(pod: &Pod) -> i32 {
    count(pod, FAILURES).saturating_add(count(pod, IGNORED))
}

/// When a pod ended: when the last of its containers did, or it was no longer ready, or was to go.
pub(super) fn ended_at(pod: &Pod) -> Timestamp {
    let status = pod.status.clone().unwrap_or_default();
    let containers = status.container_statuses.iter().flatten();
    let ends: Option<Vec<Timestamp>> = containers
        .map(|container| {
            let ended = container.state.as_ref()?.terminated.as_ref()?;
            ended.finished_at.as_ref().map(|time| time.0)
        })
        .collect();
    let of_containers = || ends.and_then(|ends| ends.into_iter().max());
    let unready = || {
        let mut conditions = status.conditions.iter().flatten();
        let ready = conditions.find(|condition| condition.type_ == "Ready" && condition.status == "False");
        ready
            .and_then(|condition| condition.last_transition_time.as_ref())
            .map(|time| time.0)
    };
    let deleted = || {
        let grace = pod.metadata.deletion_grace_period_seconds.unwrap_or(0);
        let end = pod.metadata.deletion_timestamp.as_ref()?;
        end.0.checked_sub(SignedDuration::from_secs(grace)).ok()
    };
    let made = || pod.metadata.creation_timestamp.as_ref().map(|time| time.0);
    of_containers()
        .or_else(unready)
        .or_else(deleted)
        .or_else(made)
        .unwrap_or_default()
}

/// A pod that a Job makes; the API names it. `index` is its index, where it has one, and `failed` the last one of
/// that index, where failures are counted for each.
pub(super) fn new_pod(job: &Job, spec: &JobSpec, index: Option<i32>, failed: Option<&Pod>) -> Pod {
    let template = spec.template.clone();
    let meta = template.metadata.unwrap_or_default();
    let mut pod_spec = template.spec.unwrap_or_default();
    let name = job.metadata.name.as_deref().unwrap_or_default();
    let mut finalizers = meta.finalizers.unwrap_or_default();
    if !finalizers.iter().any(|finalizer| finalizer == TRACKING) {
        finalizers.push(TRACKING.to_owned());
    }
    let mut metadata = ObjectMeta {
        generate_name: Some(format!("{name}-")),
        namespace: job.metadata.namespace.clone(),
        labels: meta.labels,
        annotations: meta.annotations,
        finalizers: Some(finalizers),
        owner_references: Some(vec![owner_reference(("batch/v1", "Job"), &job.metadata)]),
        ..ObjectMeta::default()
    };
    if let Some(index) = index {
        let tail = format!("-{index}-");
        let stem: String = name.chars().take(LONGEST_STEM - tail.len()).collect();
        metadata.generate_name = Some(format!("{stem}{tail}"));
        let number = index.to_string();
        metadata
            .labels
            .get_or_insert_default()
            .insert(INDEX.to_owned(), number.clone());
        let annotations = metadata.annotations.get_or_insert_default();
        annotations.insert(INDEX.to_owned(), number);
        if spec.backoff_limit_per_index.is_some() {
            let (failures, ignored) = failed.map_or((0, 0), |pod| counts_after(pod, spec));
            annotations.insert(FAILURES.to_owned(), failures.to_string());
            if ignored > 0 {
                annotations.insert(IGNORED.to_owned(), ignored.to_string());
            }
        }
        pod_spec.hostname = Some(format!("{name}-{index}"));
        let containers = pod_spec.containers.iter_mut();
        let first = pod_spec.init_containers.iter_mut().flatten();
        containers.chain(first).for_each(tell_index);
    }
    Pod {
        metadata,
        spec: Some(pod_spec),
        status: None,
    }
}

/// How often pods of an index have failed with this one, and how often it did not count.
fn counts_after(pod: &Pod, spec: &JobSpec) -> (i32, i32) {
    let (failures, ignored) = (count(pod, FAILURES), count(pod, IGNORED));
    match verdict(spec.pod_failure_policy.as_ref(), pod) {
        Verdict::Ignored => (failures, ignored.saturating_add(1)),
        _ => (failures.saturating_add(1), ignored),
    }
}

/// Has a container find its index in `JOB_COMPLETION_INDEX`.
fn tell_index(container: &mut Container) {
    const VARIABLE: &str = "JOB_COMPLETION_INDEX";
    let env = container.env.get_or_insert_default();
    if env.iter().any(|variable| variable.name == VARIABLE) {
        return;
    }
    env.push(EnvVar {
        name: VARIABLE.to_owned(),
        value_from: Some(EnvVarSource {
            field_ref: Some(ObjectFieldSelector {
                field_path: format!("metadata.labels['{INDEX}']"),
                ..ObjectFieldSelector::default()
            }),
            ..EnvVarSource::default()
        }),
        ..EnvVar::default()
    });
}
