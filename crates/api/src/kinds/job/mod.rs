//! Job (batch/v1): pods that run to their end.

mod indexes;
mod policies;
mod row;
mod selector;
mod status;
mod update;
mod validate;

use jiff::Timestamp;
use k8s_openapi::api::batch::v1::{Job, JobSpec, JobStatus};
use serde_json::Value;

pub(super) use self::validate::spec as validate_spec;
use super::pod::{self, Options};
use super::workload;
use super::{same, text};
use crate::error::{Errors, Path};
use crate::names;
use crate::object::{ApiObject, Logic};
use crate::registry::{Column, Generation, Kind, MetadataCheck, Subresource};

pub(super) static KIND: Kind = Kind {
    categories: &["all"],
    subresources: &[Subresource::status("Job")],
    update_metadata: &[MetadataCheck::Create, MetadataCheck::Update],
    generation: Generation::Spec,
    // Kubernetes keeps to this for clients of the time before there were policies.
    orphans_dependents: true,
    selectable: &[("status.successful", &["status", "succeeded"])],
    columns: &[
        Column::NAME,
        Column::new("Status", "whether it runs, has ended, or waits"),
        Column::new("Completions", "pods that succeeded, of those wanted"),
        Column::new("Duration", "how long it took, or has been running"),
        Column::AGE,
        Column::wide("Containers", "names of its containers"),
        Column::wide("Images", "their images"),
        Column::wide("Selector", "which pods are its own"),
    ],
    ..Kind::new(
        ("batch", "v1", "Job"),
        ("jobs", "job"),
        "io.k8s.api.batch.v1.Job",
        Logic::of::<Job>(),
    )
};

const INDEXED: &str = "Indexed";
const NON_INDEXED: &str = "NonIndexed";
const FAILED: &str = "Failed";
const TERMINATING_OR_FAILED: &str = "TerminatingOrFailed";

/// How often pods may fail, if nothing is said: so often, or as often as indexes may that have limits of their own.
const BACKOFF_LIMIT: i32 = 6;

impl ApiObject for Job {
    fn set_defaults(&mut self) {
        set_spec_defaults(self.spec.get_or_insert_default());
    }

    fn prepare_for_create(&mut self) {
        self.status = Some(JobStatus::default());
        let spec = self.spec.get_or_insert_default();
        if let Some(pod) = &mut spec.template.spec {
            pod::drop_disabled_fields(pod, None);
        }
        if spec.manual_selector != Some(true) {
            selector::generate(&self.metadata, spec);
        }
        // A Job without labels has those of its pods.
        if self
            .metadata
            .labels
            .as_ref()
            .is_none_or(|labels| labels.is_empty())
        {
            let template = spec.template.metadata.as_ref();
            self.metadata.labels = template.and_then(|template| template.labels.clone());
        }
    }

    fn prepare_for_update(&mut self, old: &Job) {
        let before = old.spec.as_ref().and_then(|spec| spec.template.spec.as_ref());
        if let Some(pod) = self.spec.as_mut().and_then(|spec| spec.template.spec.as_mut()) {
            pod::drop_disabled_fields(pod, before);
        }
    }

    fn validate(&self, errors: &mut Errors) {
        check(self, &Options::default(), errors);
    }

    fn validate_update(&self, old: &Job, errors: &mut Errors) {
        let before = old.spec.clone().unwrap_or_default();
        let options = workload::options_after(&before.template);
        // As a new one, and then as an update, which checks its spec again: errors are told twice.
        check(self, &options, errors);
        update::validate(self, old, &options, errors);
    }

    fn validate_status_update(&self, old: &Job, errors: &mut Errors) {
        status::validate_update(self, old, errors);
    }

    fn warnings(&self, old: Option<&Job>) -> Vec<String> {
        let spec = self.spec.clone().unwrap_or_default();
        let mut warnings = Vec::new();
        if old.is_none() {
            warnings.extend(workload::name_warning(&self.metadata));
        }
        if old.is_none_or(|old| !same(&old.spec, &self.spec)) {
            warnings.extend(validate::size_warning(&spec));
            warnings.extend(workload::template_warnings(&spec.template));
        }
        warnings
    }

    fn row(&self, now: Timestamp) -> Vec<Value> {
        row::row(self, now)
    }
}

/// The defaults of a Job's spec, which are not those of a template of Jobs.
fn set_spec_defaults(spec: &mut JobSpec) {
    if spec.completions.is_none() && spec.parallelism.is_none() {
        spec.completions = Some(1);
    }
    spec.parallelism.get_or_insert(1);
    let limit = match spec.backoff_limit_per_index {
        None => BACKOFF_LIMIT,
        Some(_) => i32::MAX,
    };
    spec.backoff_limit.get_or_insert(limit);
    pod::fill(&mut spec.completion_mode, NON_INDEXED);
    spec.suspend.get_or_insert(false);
    let replaced = match spec.pod_failure_policy {
        None => TERMINATING_OR_FAILED,
        Some(_) => FAILED,
    };
    pod::fill(&mut spec.pod_replacement_policy, replaced);
    set_template_defaults(spec);
}

/// The defaults that a template of Jobs has, too.
pub(super) fn set_template_defaults(spec: &mut JobSpec) {
    let rules = spec
        .pod_failure_policy
        .iter_mut()
        .flat_map(|policy| &mut policy.rules);
    for pattern in rules.flat_map(|rule| rule.on_pod_conditions.iter_mut().flatten()) {
        pod::fill(&mut pattern.status, "True");
    }
    pod::set_template_defaults(&mut spec.template);
}

/// Whether each pod of a Job has an index.
fn is_indexed(spec: &JobSpec) -> bool {
    text(&spec.completion_mode) == INDEXED
}

/// Checks a Job as one that is new.
fn check(job: &Job, options: &Options, errors: &mut Errors) {
    let spec = job.spec.clone().unwrap_or_default();
    selector::validate_generated(&job.metadata, &spec, errors);
    check_spec(&spec, options, errors);
    let name = text(&job.metadata.name);
    if let Some(last) = spec.completions.filter(|count| is_indexed(&spec) && *count > 0) {
        let hostname = format!("{name}-{}", last - 1);
        if !names::dns_label(&hostname).is_empty() {
            let why = format!("will not able to create pod with invalid DNS label: {hostname}");
            errors.invalid(&Path::new("metadata").child("name"), name, &why);
        }
    }
}

/// Checks a Job's spec, with its selector.
fn check_spec(spec: &JobSpec, options: &Options, errors: &mut Errors) {
    let path = Path::new("spec");
    validate_spec(spec, options, &path, errors);
    selector::validate(spec, &path, errors);
}

#[cfg(test)]
mod tests;
