//! What a CronJob does next. Pure. See "CronJob".

use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::batch::v1::{CronJob, CronJobStatus, Job, JobSpec};
use k8s_openapi::api::core::v1::ObjectReference;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time};
use stead_api::schedule::{Schedule, zone};
use stead_informer::EventType;

use crate::owned::owner_reference;

/// When a Job was due, in the time of the schedule's zone.
const SCHEDULED_AT: &str = "batch.kubernetes.io/cronjob-scheduled-timestamp";
/// So many times may be missed before that is told.
const MANY: usize = 100;

/// What is to be done, in this order.
#[derive(Debug, Default)]
pub(super) struct Plan<'j> {
    /// Jobs that go: they ended, and there are enough newer ones; or the next one replaces them.
    pub(super) delete: Vec<&'j Job>,
    /// A Job that is due, and since when.
    pub(super) create: Option<(Job, Timestamp)>,
    /// The status, without the Job that is made.
    pub(super) status: CronJobStatus,
    /// To be told: type, reason, message.
    pub(super) news: Vec<(EventType, &'static str, String)>,
    /// When the next Job is due.
    pub(super) next: Option<Timestamp>,
}

impl Plan<'_> {
    fn tell(&mut self, reason: &'static str, message: String) {
        self.news.push((EventType::Normal, reason, message));
    }

    fn warn(&mut self, reason: &'static str, message: String) {
        self.news.push((EventType::Warning, reason, message));
    }
}

/// What a CronJob with these Jobs of its own does.
pub(super) fn plan<'j>(cron_job: &CronJob, jobs: &[&'j Job], now: Timestamp) -> Plan<'j> {
    let mut plan = Plan {
        status: cron_job.status.clone().unwrap_or_default(),
        ..Plan::default()
    };
    follow(&mut plan, jobs);
    clean_up(&mut plan, cron_job, jobs);
    if cron_job.metadata.deletion_timestamp.is_some() || cron_job.spec.suspend == Some(true) {
        return plan;
    }
    run(&mut plan, cron_job, jobs, now);
    plan
}

fn name(meta: &ObjectMeta) -> &str {
    meta.name.as_deref().unwrap_or_default()
}

/// How a Job ended, if it has.
fn end(job: &Job) -> Option<&str> {
    let mut conditions = job.status.as_ref()?.conditions.iter().flatten();
    let ended = conditions.find(|condition| {
        matches!(condition.type_.as_str(), "Complete" | "Failed") && condition.status == "True"
    });
    ended.map(|condition| condition.type_.as_str())
}

/// Takes note of Jobs that ended or went.
fn follow(plan: &mut Plan<'_>, jobs: &[&Job]) {
    let listed = plan.status.active.take().unwrap_or_default();
    let is = |job: &Job, listed: &ObjectReference| job.metadata.uid == listed.uid;
    for job in jobs {
        let is_listed = listed.iter().any(|listed| is(job, listed));
        let job_name = name(&job.metadata);
        match end(job) {
            Some(end) if is_listed => {
                plan.tell(
                    "SawCompletedJob",
                    format!("Saw completed job: {job_name}, status: {end}"),
                );
            }
            None if !is_listed => {
                let message = format!("Saw a job that the controller did not create or forgot: {job_name}");
                plan.warn("UnexpectedJob", message);
            }
            _ => {}
        }
        let completed = job
            .status
            .as_ref()
            .and_then(|status| status.completion_time.clone());
        let last = &mut plan.status.last_successful_time;
        if let Some(time) = completed.filter(|time| last.as_ref().is_none_or(|last| time.0 > last.0)) {
            *last = Some(time);
        }
    }
    let mut active = Vec::new();
    for reference in listed {
        match jobs.iter().find(|job| is(job, &reference)) {
            None => {
                let gone = reference.name.clone().unwrap_or_default();
                plan.tell("MissingJob", format!("Active job went missing: {gone}"));
            }
            Some(job) if end(job).is_none() => active.push(reference),
            Some(_) => {}
        }
    }
    plan.status.active = Some(active).filter(|active| !active.is_empty());
}

/// Has the oldest Jobs go that ended, where there are more than are to be kept.
fn clean_up<'j>(plan: &mut Plan<'j>, cron_job: &CronJob, jobs: &[&'j Job]) {
    let limits = [
        ("Complete", cron_job.spec.successful_jobs_history_limit),
        ("Failed", cron_job.spec.failed_jobs_history_limit),
    ];
    for (how, limit) in limits {
        let Some(limit) = limit.and_then(|limit| usize::try_from(limit).ok()) else {
            continue;
        };
        let ended = jobs.iter().copied().filter(|job| end(job) == Some(how));
        let mut ended: Vec<&Job> = ended
            .filter(|job| job.metadata.deletion_timestamp.is_none())
            .collect();
        ended.sort_by_key(|job| {
            let start = job.status.as_ref().and_then(|status| status.start_time.clone());
            (start, name(&job.metadata).to_owned())
        });
        let surplus = ended.len().saturating_sub(limit);
        plan.delete.extend(ended.into_iter().take(surplus));
    }
}

/// Has the next Job run, if it is due.
fn run<'j>(plan: &mut Plan<'j>, cron_job: &CronJob, jobs: &[&'j Job], now: Timestamp) {
    let spec = &cron_job.spec;
    let zone = match spec.time_zone.as_deref().map(zone) {
        None => TimeZone::UTC,
        Some(Ok(zone)) => zone,
        Some(Err(why)) => return plan.warn("UnknownTimeZone", format!("invalid timeZone: {why}")),
    };
    let schedule = match Schedule::parse(&spec.schedule) {
        Ok(schedule) => schedule,
        Err(why) => {
            let message = format!("unparseable schedule: {:?} : {why}", spec.schedule);
            return plan.warn("UnparseableSchedule", message);
        }
    };
    let last = plan.status.last_schedule_time.as_ref().map(|time| time.0);
    let made = cron_job.metadata.creation_timestamp.as_ref().map(|time| time.0);
    let earliest = last.or(made).unwrap_or(now);
    let earliest = match spec.starting_deadline_seconds {
        Some(seconds) => {
            let deadline = now
                .checked_sub(SignedDuration::from_secs(seconds))
                .unwrap_or(earliest);
            earliest.max(deadline)
        }
        None => earliest,
    };
    let missed = Missed::between(&schedule, earliest, now, &zone);
    // The times of a fixed interval are counted from the last one.
    let base = match &schedule {
        Schedule::Every(_) => missed.last.unwrap_or(earliest),
        Schedule::Times(_) => now,
    };
    plan.next = schedule.next(base, &zone);
    let Some(due) = missed.last else { return };
    if missed.count > MANY {
        let message =
            "too many missed start times. Set or decrease .spec.startingDeadlineSeconds or check clock skew";
        plan.warn("TooManyMissedTimes", message.to_owned());
    }
    let active = plan.status.active.clone().unwrap_or_default();
    match spec.concurrency_policy.as_deref() {
        Some("Forbid") if !active.is_empty() => {
            let message =
                "Not starting job because prior execution is running and concurrency policy is Forbid";
            return plan.tell("JobAlreadyActive", message.to_owned());
        }
        Some("Replace") => {
            let is_active = |job: &&&Job| active.iter().any(|active| active.uid == job.metadata.uid);
            plan.delete.extend(jobs.iter().filter(is_active));
            plan.status.active = None;
        }
        _ => {}
    }
    plan.create = Some((new_job(cron_job, due, &zone), due));
}

/// The times of a schedule that have come.
struct Missed {
    last: Option<Timestamp>,
    /// How many; not more than are many.
    count: usize,
}

impl Missed {
    fn between(schedule: &Schedule, earliest: Timestamp, now: Timestamp, zone: &TimeZone) -> Missed {
        let times = |from: Timestamp| {
            let next = move |time: &Timestamp| schedule.next(*time, zone);
            std::iter::successors(schedule.next(from, zone), next).take_while(move |time| *time <= now)
        };
        let count = times(earliest).take(MANY + 1).count();
        if let Schedule::Every(step) = schedule {
            let seconds = now.duration_since(earliest).as_secs() / step.as_secs().max(1);
            let steps = i32::try_from(seconds).unwrap_or(i32::MAX);
            let last = (count > 0)
                .then(|| earliest.checked_add(step.saturating_mul(steps)).ok())
                .flatten();
            return Missed { last, count };
        }
        if count <= MANY {
            return Missed {
                last: times(earliest).last(),
                count,
            };
        }
        // The last one is sought from ever further back, so that a long absence costs little.
        let hours = [1, 24, 8 * 24, 32 * 24, 366 * 24, 9 * 366 * 24];
        let last = hours.into_iter().find_map(|hours| {
            let from = now.checked_sub(SignedDuration::from_hours(hours)).ok()?;
            times(from.max(earliest)).last()
        });
        Missed { last, count }
    }
}

/// The Job that is due; its name is the same however often it is made for this time.
fn new_job(cron_job: &CronJob, due: Timestamp, zone: &TimeZone) -> Job {
    let template = cron_job.spec.job_template.clone();
    let meta = template.metadata.unwrap_or_default();
    let minute = due.as_second().div_euclid(60);
    let local = due.to_zoned(zone.clone());
    let format = if local.offset().is_zero() {
        "%FT%TZ"
    } else {
        "%FT%T%:z"
    };
    let mut annotations = meta.annotations.unwrap_or_default();
    annotations.insert(SCHEDULED_AT.to_owned(), local.strftime(format).to_string());
    Job {
        metadata: ObjectMeta {
            name: Some(format!("{}-{minute}", name(&cron_job.metadata))),
            namespace: cron_job.metadata.namespace.clone(),
            labels: meta.labels,
            annotations: Some(annotations),
            owner_references: Some(vec![owner_reference(("batch/v1", "CronJob"), &cron_job.metadata)]),
            ..ObjectMeta::default()
        },
        spec: Some(JobSpec {
            ..template.spec.unwrap_or_default()
        }),
        status: None,
    }
}

/// Notes a Job that was made, now or earlier.
pub(super) fn note_made(status: &mut CronJobStatus, job: &Job, due: Timestamp) {
    status.last_schedule_time = Some(Time(due));
    let reference = stead_informer::reference(job);
    let active = status.active.get_or_insert_default();
    if end(job).is_none() && !active.iter().any(|known| known.uid == reference.uid) {
        active.push(reference);
    }
    if active.is_empty() {
        status.active = None;
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn cron_job(schedule: &str, more: Value, status: Value) -> CronJob {
        let mut spec = json!({"schedule": schedule, "jobTemplate": {"spec": {"template": {}}},
            "successfulJobsHistoryLimit": 1, "failedJobsHistoryLimit": 1});
        for (field, value) in more.as_object().expect("fields") {
            spec[field] = value.clone();
        }
        let meta =
            json!({"name": "cj", "namespace": "n", "uid": "u", "creationTimestamp": "2024-01-01T00:00:00Z"});
        serde_json::from_value(json!({"metadata": meta, "spec": spec, "status": status})).expect("a CronJob")
    }

    fn job(name: &str, end: Option<&str>, second: u8) -> Job {
        let conditions = end.map(|end| json!([{"type": end, "status": "True"}]));
        let time = |second: u8| format!("2024-01-01T00:00:{second:02}Z");
        let completed = (end == Some("Complete")).then(|| time(second + 1));
        let status =
            json!({"startTime": time(second), "completionTime": completed, "conditions": conditions});
        serde_json::from_value(json!({"metadata": {"name": name, "uid": name}, "status": status}))
            .expect("a Job")
    }

    fn at(text: &str) -> Timestamp {
        format!("2024-01-01T{text}Z").parse().expect("a time")
    }

    fn active(names: &[&str]) -> Value {
        names
            .iter()
            .map(|name| json!({"name": name, "uid": name}))
            .collect()
    }

    fn reasons(plan: &Plan<'_>) -> Vec<&'static str> {
        plan.news.iter().map(|(_, reason, _)| *reason).collect()
    }

    #[test]
    fn a_job_is_made_when_it_is_due_and_named_after_the_minute() {
        let due = cron_job("*/5 * * * *", json!({"timeZone": "Asia/Kolkata"}), json!({}));
        let early = plan(&due, &[], at("00:04:59"));
        assert!(early.create.is_none());
        assert_eq!(early.next, Some(at("00:05:00")));
        let plan = plan(&due, &[], at("00:05:01"));
        let (job, time) = plan.create.expect("a Job");
        assert_eq!((time, plan.next), (at("00:05:00"), Some(at("00:10:00"))));
        assert_eq!(job.metadata.name.as_deref(), Some("cj-28401125"));
        let annotations = job.metadata.annotations.expect("annotations");
        assert_eq!(annotations[SCHEDULED_AT], "2024-01-01T05:35:00+05:30");
        assert!(plan.news.is_empty());
    }

    #[test]
    fn only_the_last_of_those_missed_is_made_up_for() {
        let last = json!({"lastScheduleTime": "2024-01-01T00:00:00Z"});
        let due = |more| cron_job("* * * * *", more, last.clone());
        let few = plan(&due(json!({})), &[], at("00:07:30"));
        assert_eq!(few.create.map(|(_, time)| time), Some(at("00:07:00")));
        let many = plan(&due(json!({})), &[], at("20:07:30"));
        assert_eq!(reasons(&many), ["TooManyMissedTimes"]);
        assert_eq!(many.create.map(|(_, time)| time), Some(at("20:07:00")));
        // What is too late is left out.
        let late = cron_job("0 * * * *", json!({"startingDeadlineSeconds": 60}), last);
        assert!(plan(&late, &[], at("01:01:30")).create.is_none());
        let every = cron_job("@every 90s", json!({}), json!({}));
        let plan = plan(&every, &[], at("00:05:00"));
        assert_eq!(plan.create.map(|(_, time)| time), Some(at("00:04:30")));
        assert_eq!(plan.next, Some(at("00:06:00")));
    }

    #[test]
    fn a_job_that_runs_forbids_the_next_or_is_replaced_by_it() {
        let running = job("cj-1", None, 0);
        let status = json!({"active": active(&["cj-1"])});
        let look = |policy: &str| {
            let cron_job = cron_job("* * * * *", json!({"concurrencyPolicy": policy}), status.clone());
            let jobs = [&running];
            let plan = plan(&cron_job, &jobs, at("00:01:00"));
            (plan.create.is_some(), plan.delete.len(), reasons(&plan))
        };
        assert_eq!(look("Allow"), (true, 0, vec![]));
        assert_eq!(look("Forbid"), (false, 0, vec!["JobAlreadyActive"]));
        assert_eq!(look("Replace"), (true, 1, vec![]));
    }

    #[test]
    fn jobs_that_ended_are_told_and_the_oldest_go() {
        let jobs = [
            job("a", Some("Complete"), 1),
            job("b", Some("Complete"), 3),
            job("c", Some("Failed"), 5),
            job("d", None, 7),
        ];
        let jobs: Vec<&Job> = jobs.iter().collect();
        let status = json!({"active": active(&["b", "c", "gone"])});
        let idle = cron_job("0 0 1 1 *", json!({"suspend": true}), status);
        let plan = plan(&idle, &jobs, at("00:00:30"));
        let names: Vec<&str> = plan.delete.iter().map(|job| name(&job.metadata)).collect();
        assert_eq!(names, ["a"]);
        assert_eq!(
            reasons(&plan),
            [
                "SawCompletedJob",
                "SawCompletedJob",
                "UnexpectedJob",
                "MissingJob"
            ]
        );
        assert_eq!(plan.news[0].2, "Saw completed job: b, status: Complete");
        assert_eq!(plan.status.active, None);
        assert_eq!(
            plan.status.last_successful_time.map(|time| time.0),
            Some(at("00:00:04"))
        );
        assert_eq!(plan.next, None);
    }
}
