//! What a Job does next, and its status. Pure. See "Jobs" and KEP-2307 (pods are counted by taking their finalizer).
//!
//! A pod that ended is first noted in `uncountedTerminatedPods`, then loses its finalizer, and is counted when it is
//! seen without: so each counts once, whatever goes wrong in between. An end is told in two steps, too: its criterion
//! is met (`SuccessCriteriaMet`, `FailureTarget`), and then, when no pod is left, it has come.

mod manage;

use std::collections::{HashMap, HashSet};

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::batch::v1::{Job, JobSpec, JobStatus};
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use stead_informer::semantics::pods::{has_ended, ready_since};

use super::backoff;
use super::indexes::Indexes;
use super::pod::{
    all_failures_before, ended_at, failures_before, has_failed, has_succeeded, index_of, is_deleting,
    is_indexed, is_tracked,
};
use super::policy::{self, Verdict, verdict};
use super::status::{Cause, Uncounted, holds, number, set, tidy};
use crate::replicaset::is_active;

/// The most pods that are made or deleted in one look.
const BURST: usize = 500;
/// The most pods that are noted and not yet counted, so that the status stays small.
const MOST_UNCOUNTED: usize = 500;

/// What is to be done, in this order.
#[derive(Debug)]
pub(super) struct Plan<'p> {
    pub(super) change: Change<'p>,
    /// To be written if it says something else than before.
    pub(super) status: JobStatus,
    /// To be told when the status is written.
    pub(super) news: Vec<News>,
    /// These lose their finalizer once the status is written.
    pub(super) untrack: Vec<&'p Pod>,
    /// When to look again, whatever happens.
    pub(super) again: Option<Timestamp>,
}

/// What happens to pods.
#[derive(Debug, Default)]
pub(super) enum Change<'p> {
    #[default]
    None,
    Create(Vec<Pod>),
    /// They go, and have failed.
    Fail(Vec<&'p Pod>),
    /// They go, and it does not count: they lose their finalizer first.
    Remove(Vec<&'p Pod>),
}

/// What an event tells.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum News {
    Suspended,
    Resumed,
    Completed { too_many: bool },
    Failed(Cause),
}

/// How a Job ends.
#[derive(Debug, Clone)]
enum End {
    Success(Cause),
    Failure(Cause),
}

fn failure(reason: &str, message: &str) -> End {
    End::Failure(Cause::new(reason, message))
}

/// What a Job that has not ended does, with these pods of its own.
pub(super) fn plan<'p>(job: &Job, spec: &JobSpec, pods: &[&'p Pod], now: Timestamp) -> Plan<'p> {
    let mut look = Look::new(job, spec, pods, now);
    let mut end = look.end();
    let (mut change, mut again) = (Change::None, None);
    if end.is_some() {
        change = Change::Fail(look.active.clone());
    } else {
        again = look.deadline();
        if job.metadata.deletion_timestamp.is_none() {
            let (managed, later) = look.manage();
            (change, again) = (managed, again.into_iter().chain(later).min());
        }
    }
    if let Change::Fail(gone) | Change::Remove(gone) = &change {
        look.forget(gone);
    }
    let made = match &change {
        Change::Create(pods) => pods.len(),
        _ => 0,
    };
    let active = look.active.len() + made;
    let mut news = Vec::new();
    if end.is_none() && active == 0 && look.has_enough() {
        let message = "Reached expected number of succeeded pods";
        end = Some(End::Success(Cause::new("CompletionsReached", message)));
    } else if end.is_none() && job.metadata.deletion_timestamp.is_none() {
        news.extend(look.note_suspension());
    }
    look.status.active = Some(number(active));
    look.status.ready = Some(number(
        look.active
            .iter()
            .filter(|pod| ready_since(pod).is_some())
            .count(),
    ));
    look.status.terminating = Some(number(look.terminating));
    let untrack = look.track(end.as_ref());
    let is_over = untrack.is_empty() && look.uncounted.len() == 0 && look.terminating == 0;
    if let Some(end) = &end {
        news.extend(look.note_end(end, is_over));
    }
    let mut status = look.into_status();
    tidy(&mut status);
    Plan {
        change,
        status,
        news,
        untrack,
        again,
    }
}

/// A Job as it is seen, and what follows for its status.
struct Look<'a, 'p> {
    job: &'a Job,
    spec: &'a JobSpec,
    pods: &'a [&'p Pod],
    now: Timestamp,
    status: JobStatus,
    uncounted: Uncounted,
    active: Vec<&'p Pod>,
    terminating: usize,
    /// How many pods have succeeded and failed, with those that are yet to be counted.
    succeeded: i32,
    failed: i32,
    done: Indexes,
    failed_indexes: Indexes,
    /// The last failed pod of each index that is to get another; it stays until then, as it knows the count.
    to_replace: HashMap<i32, &'p Pod>,
}

impl<'a, 'p> Look<'a, 'p> {
    fn new(job: &'a Job, spec: &'a JobSpec, pods: &'a [&'p Pod], now: Timestamp) -> Look<'a, 'p> {
        let mut status = job.status.clone().unwrap_or_default();
        let uncounted = Uncounted::take(&mut status, pods);
        if status.start_time.is_none() && spec.suspend != Some(true) {
            status.start_time = Some(Time(now));
        }
        let active: Vec<&Pod> = pods.iter().copied().filter(|pod| is_active(pod)).collect();
        let is_leaving = |pod: &&&Pod| is_deleting(pod) && !has_ended(pod);
        let completions = spec.completions.unwrap_or(0);
        let list = |list: &Option<String>| Indexes::parse(list.as_deref().unwrap_or_default(), completions);
        let mut look = Look {
            job,
            spec,
            pods,
            now,
            terminating: pods.iter().filter(is_leaving).count(),
            done: list(&status.completed_indexes),
            failed_indexes: list(&status.failed_indexes),
            status,
            uncounted,
            active,
            succeeded: 0,
            failed: 0,
            to_replace: HashMap::new(),
        };
        look.count();
        look
    }

    /// Counts those that ended, whether they are noted or not.
    fn count(&mut self) {
        let (mut succeeded, mut failed) = (self.uncounted.succeeded.len(), self.uncounted.failed.len());
        for pod in self.pods.iter().filter(|pod| is_tracked(pod)) {
            let uid = pod.metadata.uid.as_deref().unwrap_or_default();
            let index = index_of(pod, self.spec);
            if is_indexed(self.spec) && index.is_none() {
                continue;
            }
            if has_succeeded(pod) {
                succeeded += usize::from(!self.uncounted.succeeded.contains(uid));
                index.into_iter().for_each(|index| self.done.insert(index));
            } else if has_failed(pod, self.spec) {
                let is_counted = self.verdict(pod) != Verdict::Ignored;
                failed += usize::from(is_counted && !self.uncounted.failed.contains(uid));
                if let Some(index) = index.filter(|_| self.is_last_failure(pod)) {
                    self.failed_indexes.insert(index);
                }
            }
        }
        self.succeeded = self
            .status
            .succeeded
            .unwrap_or(0)
            .saturating_add(number(succeeded));
        self.failed = self.status.failed.unwrap_or(0).saturating_add(number(failed));
        if is_indexed(self.spec) {
            self.succeeded = self.done.total();
        }
        if self.spec.backoff_limit_per_index.is_some() {
            self.to_replace = self.failures_to_replace();
        }
    }

    fn verdict(&self, pod: &Pod) -> Verdict {
        verdict(self.spec.pod_failure_policy.as_ref(), pod)
    }

    /// Whether with this failure its index has failed.
    fn is_last_failure(&self, pod: &Pod) -> bool {
        let Some(limit) = self.spec.backoff_limit_per_index else {
            return false;
        };
        match self.verdict(pod) {
            Verdict::FailsIndex => true,
            Verdict::Counted => failures_before(pod) >= limit,
            Verdict::Ignored | Verdict::FailsJob(_) => false,
        }
    }

    fn failures_to_replace(&self) -> HashMap<i32, &'p Pod> {
        let active: HashSet<i32> = self
            .active
            .iter()
            .filter_map(|pod| index_of(pod, self.spec))
            .collect();
        let mut last: HashMap<i32, &Pod> = HashMap::new();
        for pod in self
            .pods
            .iter()
            .filter(|pod| is_tracked(pod) && has_failed(pod, self.spec))
        {
            let Some(index) = index_of(pod, self.spec) else {
                continue;
            };
            if active.contains(&index) || self.done.contains(index) || self.failed_indexes.contains(index) {
                continue;
            }
            let rank = |pod: &Pod| (all_failures_before(pod), ended_at(pod));
            let known = last.entry(index).or_insert(pod);
            if rank(known) < rank(pod) {
                *known = pod;
            }
        }
        last
    }

    /// How the Job ends, if it is to.
    fn end(&self) -> Option<End> {
        if let Some(met) = holds(&self.status, "SuccessCriteriaMet") {
            return Some(End::Success(Cause::of(met)));
        }
        if let Some(target) = holds(&self.status, "FailureTarget") {
            return Some(End::Failure(Cause::of(target)));
        }
        let failed = self.pods.iter().filter(|pod| has_failed(pod, self.spec));
        let fatal = failed
            .map(|pod| self.verdict(pod))
            .find_map(|verdict| match verdict {
                Verdict::FailsJob(why) => Some(why),
                _ => None,
            });
        if let Some(why) = fatal {
            return Some(failure("PodFailurePolicy", &why));
        }
        let limit = self.spec.backoff_limit.unwrap_or(i32::MAX);
        if self.failed > limit || backoff::restarted_too_often(self.spec, self.pods) {
            let message = "Job has reached the specified backoff limit";
            return Some(failure("BackoffLimitExceeded", message));
        }
        if self.deadline().is_some_and(|deadline| deadline <= self.now) {
            let message = "Job was active longer than specified deadline";
            return Some(failure("DeadlineExceeded", message));
        }
        self.end_of_indexes()
    }

    fn end_of_indexes(&self) -> Option<End> {
        let completions = self.spec.completions.filter(|_| is_indexed(self.spec))?;
        let failed = self.failed_indexes.total();
        if self.spec.max_failed_indexes.is_some_and(|most| failed > most) {
            let message = "Job has exceeded the specified maximal number of failed indexes";
            return Some(failure("MaxFailedIndexesExceeded", message));
        }
        if failed > 0 && failed + self.succeeded >= completions {
            return Some(failure("FailedIndexes", "Job has failed indexes"));
        }
        let rule = policy::success(self.spec.success_policy.as_ref()?, completions, &self.done)?;
        let message = format!("Matched rules at index {rule}");
        Some(End::Success(Cause::new("SuccessPolicy", &message)))
    }

    /// Until when the Job may be at work.
    fn deadline(&self) -> Option<Timestamp> {
        let seconds = self
            .spec
            .active_deadline_seconds
            .filter(|_| self.spec.suspend != Some(true))?;
        let start = self.status.start_time.as_ref()?.0;
        start.checked_add(SignedDuration::from_secs(seconds)).ok()
    }

    /// Takes out pods that are to be deleted.
    fn forget(&mut self, gone: &[&Pod]) {
        let uids: HashSet<_> = gone.iter().map(|pod| &pod.metadata.uid).collect();
        self.active.retain(|pod| !uids.contains(&pod.metadata.uid));
        self.terminating += gone.len();
    }

    fn has_enough(&self) -> bool {
        match self.spec.completions {
            Some(completions) => self.succeeded >= completions,
            None => self.succeeded > 0,
        }
    }

    fn note_suspension(&mut self) -> Option<News> {
        if self.spec.suspend == Some(true) {
            let cause = Cause::new("JobSuspended", "Job suspended");
            return set(&mut self.status, "Suspended", true, &cause, self.now).then_some(News::Suspended);
        }
        let cause = Cause::new("JobResumed", "Job resumed");
        if !set(&mut self.status, "Suspended", false, &cause, self.now) {
            return None;
        }
        // The time that it was suspended does not count.
        self.status.start_time = Some(Time(self.now));
        Some(News::Resumed)
    }

    /// Notes the pods that ended, and says which may lose their finalizer.
    fn track(&mut self, end: Option<&End>) -> Vec<&'p Pod> {
        let mut untrack = Vec::new();
        let fails_all = matches!(end, Some(End::Failure(_)));
        let lets_all_go = end.is_some() || self.job.metadata.deletion_timestamp.is_some();
        for pod in self.pods.iter().copied().filter(|pod| is_tracked(pod)) {
            let uid = pod.metadata.uid.clone().unwrap_or_default();
            let index = index_of(pod, self.spec);
            let failed = has_failed(pod, self.spec);
            let waits = index
                .and_then(|index| self.to_replace.get(&index))
                .is_some_and(|last| last.metadata.uid == pod.metadata.uid);
            if !(lets_all_go || has_succeeded(pod) || failed && !waits) {
                continue;
            }
            untrack.push(pod);
            let is_counted = !is_indexed(self.spec) || index.is_some();
            if has_succeeded(pod) && !self.uncounted.failed.contains(&uid) {
                // An index that succeeded is noted by itself.
                if !is_indexed(self.spec) {
                    self.uncounted.succeeded.insert(uid);
                }
            } else if (failed || fails_all) && is_counted && self.verdict(pod) != Verdict::Ignored {
                self.uncounted.failed.insert(uid);
            }
            if untrack.len() >= MOST_UNCOUNTED || self.uncounted.len() >= MOST_UNCOUNTED {
                break;
            }
        }
        untrack
    }

    /// Notes that the end is to come, or has.
    fn note_end(&mut self, end: &End, is_over: bool) -> Option<News> {
        let now = self.now;
        let (criterion, over, cause) = match end {
            End::Success(cause) => ("SuccessCriteriaMet", "Complete", cause),
            End::Failure(cause) => ("FailureTarget", "Failed", cause),
        };
        set(&mut self.status, criterion, true, cause, now);
        if !is_over {
            return None;
        }
        set(&mut self.status, over, true, cause, now);
        self.status.start_time.get_or_insert(Time(now));
        if matches!(end, End::Failure(_)) {
            return Some(News::Failed(cause.clone()));
        }
        self.status.completion_time = Some(Time(now));
        let too_many = self
            .spec
            .completions
            .is_some_and(|wanted| self.succeeded > wanted);
        Some(News::Completed { too_many })
    }

    fn into_status(self) -> JobStatus {
        let mut status = self.status;
        self.uncounted.put(&mut status);
        if is_indexed(self.spec) {
            status.succeeded = Some(self.done.total());
            status.completed_indexes = Some(self.done.to_string());
            let per_index = self.spec.backoff_limit_per_index.is_some();
            status.failed_indexes = per_index.then(|| self.failed_indexes.to_string());
        }
        status
    }
}
