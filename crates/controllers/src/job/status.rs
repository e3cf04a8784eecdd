//! A Job's status: conditions, and the pods that have been counted. Pure.

use std::collections::HashSet;

use jiff::Timestamp;
use k8s_openapi::api::batch::v1::{JobCondition, JobStatus};
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use super::pod::is_tracked;

pub(super) fn find<'s>(status: &'s JobStatus, kind: &str) -> Option<&'s JobCondition> {
    let mut conditions = status.conditions.iter().flatten();
    conditions.find(|condition| condition.type_ == kind)
}

/// A condition that holds.
pub(super) fn holds<'s>(status: &'s JobStatus, kind: &str) -> Option<&'s JobCondition> {
    find(status, kind).filter(|condition| condition.status == "True")
}

/// When a Job ended, if it has.
pub(super) fn ended_at(status: &JobStatus) -> Option<Timestamp> {
    let end = holds(status, "Complete").or_else(|| holds(status, "Failed"))?;
    Some(
        end.last_transition_time
            .as_ref()
            .map(|time| time.0)
            .unwrap_or_default(),
    )
}

/// Why a condition is as it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Cause {
    pub(super) reason: String,
    pub(super) message: String,
}

impl Cause {
    pub(super) fn new(reason: &str, message: &str) -> Cause {
        Cause {
            reason: reason.to_owned(),
            message: message.to_owned(),
        }
    }

    pub(super) fn of(condition: &JobCondition) -> Cause {
        Cause {
            reason: condition.reason.clone().unwrap_or_default(),
            message: condition.message.clone().unwrap_or_default(),
        }
    }
}

/// Sets a condition; says whether that changes anything. One that never held does not cease to.
pub(super) fn set(status: &mut JobStatus, kind: &str, holds: bool, cause: &Cause, now: Timestamp) -> bool {
    let before = find(status, kind);
    let value = if holds { "True" } else { "False" };
    let is_known = before.is_some_and(|before| before.status == value && Cause::of(before) == *cause);
    if is_known || before.is_none() && !holds {
        return false;
    }
    let conditions = status.conditions.get_or_insert_default();
    let condition = JobCondition {
        type_: kind.to_owned(),
        status: value.to_owned(),
        reason: Some(cause.reason.clone()),
        message: Some(cause.message.clone()),
        last_probe_time: Some(Time(now)),
        last_transition_time: Some(Time(now)),
    };
    match conditions.iter_mut().find(|known| known.type_ == kind) {
        Some(known) => *known = condition,
        None => conditions.push(condition),
    }
    true
}

/// The pods that are noted as ended, but may still have their finalizer. Each is counted once it has it no more.
#[derive(Debug, Default)]
pub(super) struct Uncounted {
    pub(super) succeeded: HashSet<String>,
    pub(super) failed: HashSet<String>,
}

impl Uncounted {
    /// Counts those that have lost their finalizer, and takes the others out of a status.
    pub(super) fn take(status: &mut JobStatus, pods: &[&Pod]) -> Uncounted {
        let tracked: HashSet<&str> = pods
            .iter()
            .filter(|pod| is_tracked(pod))
            .filter_map(|pod| pod.metadata.uid.as_deref())
            .collect();
        let noted = status.uncounted_terminated_pods.take().unwrap_or_default();
        let count = |noted: Option<Vec<String>>, counter: &mut Option<i32>| {
            let (left, counted): (HashSet<String>, HashSet<String>) = noted
                .into_iter()
                .flatten()
                .partition(|uid| tracked.contains(uid.as_str()));
            *counter = Some(counter.unwrap_or(0).saturating_add(number(counted.len())));
            left
        };
        Uncounted {
            succeeded: count(noted.succeeded, &mut status.succeeded),
            failed: count(noted.failed, &mut status.failed),
        }
    }

    pub(super) fn len(&self) -> usize {
        self.succeeded.len() + self.failed.len()
    }

    /// Puts them back.
    pub(super) fn put(self, status: &mut JobStatus) {
        let noted = status.uncounted_terminated_pods.get_or_insert_default();
        let list = |uids: HashSet<String>| {
            let mut uids: Vec<String> = uids.into_iter().collect();
            uids.sort();
            Some(uids).filter(|uids| !uids.is_empty())
        };
        noted.succeeded = list(self.succeeded);
        noted.failed = list(self.failed);
    }
}

/// A count as the API has it.
pub(super) fn number(count: usize) -> i32 {
    i32::try_from(count).unwrap_or(i32::MAX)
}

/// Without what is as if it were not there, as the API stores it.
pub(super) fn tidy(status: &mut JobStatus) {
    for count in [&mut status.active, &mut status.succeeded, &mut status.failed] {
        *count = count.filter(|count| *count != 0);
    }
    status.completed_indexes = status.completed_indexes.take().filter(|list| !list.is_empty());
}
