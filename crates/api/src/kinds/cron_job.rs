//! CronJob (batch/v1): Jobs at times of a schedule.

use jiff::Timestamp;
use k8s_openapi::api::batch::v1::{CronJob, CronJobSpec, CronJobStatus, JobSpec};
use serde_json::Value;

use super::pod::{self, Options};
use super::{job, name_cell, same, text, workload};
use crate::error::{Errors, Path};
use crate::go;
use crate::object::{ApiObject, Logic};
use crate::registry::{Column, Generation, Kind, MetadataCheck, Subresource};
use crate::schedule::{self, Schedule};
use crate::table::{age, since};

pub(super) static KIND: Kind = Kind {
    short_names: &["cj"],
    categories: &["all"],
    subresources: &[Subresource::status("CronJob")],
    update_metadata: &[MetadataCheck::Update],
    generation: Generation::Spec,
    columns: &[
        Column::NAME,
        Column::new("Schedule", "when its Jobs are made"),
        Column::new("Timezone", "whose clocks the schedule means"),
        Column {
            ty: "boolean",
            ..Column::new("Suspend", "whether no more Jobs are made")
        },
        Column::integer("Active", "Jobs that run"),
        Column::new("Last Schedule", "time since a Job was due last"),
        Column::AGE,
        Column::wide("Containers", "names of its containers"),
        Column::wide("Images", "their images"),
        Column::wide("Selector", "which pods are its Jobs' own"),
    ],
    ..Kind::new(
        ("batch", "v1", "CronJob"),
        ("cronjobs", "cronjob"),
        "io.k8s.api.batch.v1.CronJob",
        Logic::of::<CronJob>(),
    )
};

const POLICIES: [&str; 3] = ["Allow", "Forbid", "Replace"];

/// Names of Jobs are this one, a hyphen and a number of ten digits; a label has 63 letters.
const LONGEST_NAME: usize = 63 - 11;

impl ApiObject for CronJob {
    fn set_defaults(&mut self) {
        let spec = &mut self.spec;
        pod::fill(&mut spec.concurrency_policy, "Allow");
        spec.suspend.get_or_insert(false);
        spec.successful_jobs_history_limit.get_or_insert(3);
        spec.failed_jobs_history_limit.get_or_insert(1);
        job::set_template_defaults(spec.job_template.spec.get_or_insert_default());
    }

    fn prepare_for_create(&mut self) {
        self.status = Some(CronJobStatus::default());
        if let Some(pod) = template(&mut self.spec).and_then(|job| job.template.spec.as_mut()) {
            pod::drop_disabled_fields(pod, None);
        }
    }

    fn prepare_for_update(&mut self, old: &CronJob) {
        let before = old.spec.job_template.spec.as_ref();
        let before = before.and_then(|job| job.template.spec.as_ref());
        if let Some(pod) = template(&mut self.spec).and_then(|job| job.template.spec.as_mut()) {
            pod::drop_disabled_fields(pod, before);
        }
    }

    fn validate(&self, errors: &mut Errors) {
        validate_spec(&self.spec, None, &Options::default(), errors);
        let name = text(&self.metadata.name);
        if name.len() > LONGEST_NAME {
            let why = format!("must be no more than {LONGEST_NAME} characters");
            errors.invalid(&Path::new("metadata").child("name"), name, &why);
        }
    }

    fn validate_update(&self, old: &CronJob, errors: &mut Errors) {
        let before = old.spec.job_template.spec.clone().unwrap_or_default();
        let options = workload::options_after(&before.template);
        validate_spec(&self.spec, Some(&old.spec), &options, errors);
    }

    fn warnings(&self, old: Option<&CronJob>) -> Vec<String> {
        let mut warnings = Vec::new();
        if old.is_none() {
            warnings.extend(workload::name_warning(&self.metadata));
        }
        if old.is_none_or(|old| !same(&old.spec, &self.spec)) {
            let job = self.spec.job_template.spec.clone().unwrap_or_default();
            let path = Path::new("spec")
                .child("jobTemplate")
                .child("spec")
                .child("template");
            warnings.extend(workload::template_warnings_at(&job.template, &path));
        }
        warnings
    }

    fn row(&self, now: Timestamp) -> Vec<Value> {
        let (spec, status) = (&self.spec, self.status.clone().unwrap_or_default());
        let job = spec.job_template.spec.clone().unwrap_or_default();
        let [containers, images] = workload::containers_and_images(&job.template);
        let last = match &status.last_schedule_time {
            None => "<none>".into(),
            Some(time) => since(Some(time.0), now),
        };
        let selector = job.selector.map(|selector| workload::selector_cell(&selector));
        vec![
            name_cell(&self.metadata),
            spec.schedule.as_str().into(),
            spec.time_zone.as_deref().unwrap_or("<none>").into(),
            // So Kubernetes writes it, though the column is a boolean.
            if spec.suspend == Some(true) {
                "True"
            } else {
                "False"
            }
            .into(),
            status.active.unwrap_or_default().len().into(),
            last,
            age(self.metadata.creation_timestamp.as_ref(), now),
            containers,
            images,
            selector.unwrap_or_else(|| "<none>".into()),
        ]
    }
}

fn template(spec: &mut CronJobSpec) -> Option<&mut JobSpec> {
    spec.job_template.spec.as_mut()
}

fn validate_spec(spec: &CronJobSpec, old: Option<&CronJobSpec>, options: &Options, errors: &mut Errors) {
    let path = Path::new("spec");
    validate_schedule(spec, old, &path.child("schedule"), errors);
    let limit = |limit: Option<i32>| limit.map(i64::from);
    errors.nonnegative(
        &path.child("startingDeadlineSeconds"),
        spec.starting_deadline_seconds.unwrap_or(0),
    );
    if old.is_none_or(|old| old.time_zone != spec.time_zone) {
        validate_zone(spec.time_zone.as_deref(), &path.child("timeZone"), errors);
    }
    let at = path.child("concurrencyPolicy");
    match text(&spec.concurrency_policy) {
        "" => errors.required(&at, ""),
        policy => errors.one_of(&at, policy, &POLICIES),
    }
    validate_job(spec, options, &path.child("jobTemplate").child("spec"), errors);
    for (field, value) in [
        (
            "successfulJobsHistoryLimit",
            limit(spec.successful_jobs_history_limit),
        ),
        ("failedJobsHistoryLimit", limit(spec.failed_jobs_history_limit)),
    ] {
        errors.nonnegative(&path.child(field), value.unwrap_or(0));
    }
}

fn validate_schedule(spec: &CronJobSpec, old: Option<&CronJobSpec>, path: &Path, errors: &mut Errors) {
    let schedule = spec.schedule.as_str();
    if schedule.is_empty() {
        errors.required(path, "");
        return;
    }
    if let Err(why) = Schedule::parse(schedule) {
        errors.invalid(path, schedule, &why);
    }
    // What was let through before there was a field for it may stay.
    let had_zone = old.is_some_and(|old| old.schedule.contains("TZ"));
    if schedule.contains("TZ") {
        if !had_zone {
            let why = "cannot use TZ or CRON_TZ in schedule, use timeZone field instead";
            errors.invalid(path, schedule, why);
        } else if spec.time_zone.is_some() {
            let why = "cannot use both timeZone field and TZ or CRON_TZ in schedule";
            errors.invalid(path, schedule, why);
        }
    }
}

fn validate_zone(zone: Option<&str>, path: &Path, errors: &mut Errors) {
    let Some(zone) = zone else { return };
    if zone.is_empty() {
        errors.invalid(path, zone, "timeZone must be nil or non-empty string");
        return;
    }
    if zone.eq_ignore_ascii_case("Local") {
        let why = "timeZone must be an explicit time zone as defined in https://www.iana.org/time-zones";
        errors.invalid(path, zone, why);
    }
    if let Err(why) = schedule::zone(zone) {
        errors.invalid(path, zone, &why);
    }
}

/// Checks the template of its Jobs, whose selectors are made for each.
fn validate_job(spec: &CronJobSpec, options: &Options, path: &Path, errors: &mut Errors) {
    let job = spec.job_template.spec.clone().unwrap_or_default();
    job::validate_spec(&job, options, path, errors);
    if let Some(selector) = &job.selector {
        let shown = go::syntax("v1.LabelSelector", selector);
        errors.invalid(
            &path.child("selector"),
            &shown,
            "`selector` will be auto-generated",
        );
    }
    if job.manual_selector == Some(true) {
        errors.not_supported(&path.child("manualSelector"), &true, &["nil", "false"]);
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn cron_job(change: impl FnOnce(&mut Value)) -> Value {
        let pod = json!({"restartPolicy": "OnFailure", "containers": [{"name": "c", "image": "i"}]});
        let mut cron_job = json!({
            "metadata": {"name": "c"},
            "spec": {"schedule": "*/5 * * * *", "jobTemplate": {"spec": {"template": {"spec": pod}}}},
        });
        change(&mut cron_job);
        (KIND.logic.set_defaults)(&mut cron_job).expect("defaults");
        cron_job
    }

    fn check(cron_job: &Value) -> Vec<String> {
        let mut errors = Errors::new();
        (KIND.logic.validate)(cron_job, &mut errors).expect("a CronJob");
        errors.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn what_cannot_be_is_refused() {
        assert_eq!(check(&cron_job(|_| {})), [""; 0]);
        for (field, value, expected) in [
            (
                "schedule",
                json!("often"),
                "spec.schedule: Invalid value: \"often\": expected exactly 5 fields, found 1: [often]",
            ),
            ("schedule", json!(""), "spec.schedule: Required value"),
            (
                "schedule",
                json!("TZ=UTC 0 0 * * *"),
                "spec.schedule: Invalid value: \"TZ=UTC 0 0 * * *\": cannot use TZ or CRON_TZ in schedule, use timeZone field instead",
            ),
            (
                "timeZone",
                json!("Mars/Base"),
                "spec.timeZone: Invalid value: \"Mars/Base\": unknown time zone Mars/Base",
            ),
            (
                "concurrencyPolicy",
                json!("Odd"),
                "spec.concurrencyPolicy: Unsupported value: \"Odd\": supported values: \"Allow\", \"Forbid\", \"Replace\"",
            ),
            (
                "failedJobsHistoryLimit",
                json!(-1),
                "spec.failedJobsHistoryLimit: Invalid value: -1: must be greater than or equal to 0",
            ),
        ] {
            let cron_job = cron_job(|cron_job| cron_job["spec"][field] = value.clone());
            assert_eq!(check(&cron_job), [expected], "{field}: {value}");
        }
        let long = cron_job(|cron_job| cron_job["metadata"]["name"] = json!("c".repeat(53)));
        assert_eq!(check(&long).len(), 1);
        let selected = cron_job(|cron_job| {
            let job = &mut cron_job["spec"]["jobTemplate"]["spec"];
            job["manualSelector"] = json!(true);
            job["selector"] = json!({"matchLabels": {"a": "b"}});
        });
        assert_eq!(check(&selected).len(), 2);
    }

    #[test]
    fn a_row_shows_when_it_was_due() {
        let mut cron_job = cron_job(|cron_job| cron_job["spec"]["timeZone"] = json!("Asia/Kolkata"));
        let now = Timestamp::from_second(90).expect("a time");
        let row = |cron_job: &Value| (KIND.logic.row)(cron_job, now).expect("a row")[1..6].to_vec();
        let before = [
            json!("*/5 * * * *"),
            json!("Asia/Kolkata"),
            json!("False"),
            json!(0),
            json!("<none>"),
        ];
        assert_eq!(row(&cron_job), before);
        cron_job["status"] = json!({"lastScheduleTime": "1970-01-01T00:01:00Z", "active": [{"name": "c-1"}]});
        assert_eq!(row(&cron_job)[3..], [json!(1), json!("30s")]);
    }
}
