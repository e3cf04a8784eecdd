//! A Deployment's status and conditions. Pure.

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::apps::v1::{Deployment, DeploymentCondition, DeploymentStatus, ReplicaSet};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use super::plan::Bounds;
use super::sets;

const AVAILABLE: &str = "Available";
const PROGRESSING: &str = "Progressing";
const FAILURE: &str = "ReplicaFailure";
/// Reasons of `Progressing`.
const COMPLETE: &str = "NewReplicaSetAvailable";
const UPDATED: &str = "ReplicaSetUpdated";
const TIMED_OUT: &str = "ProgressDeadlineExceeded";
const PAUSED: &str = "DeploymentPaused";
const RESUMED: &str = "DeploymentResumed";

/// What a look did that the conditions tell.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum News {
    /// Nothing.
    None,
    /// There is a set of the newest template now.
    Created,
    /// There was one already, that nothing was told of.
    Found,
    /// There can be none.
    Refused {
        /// The set's name, and why.
        set: String,
        why: String,
    },
}

/// How long a rollout may take without getting on; none where it may take for ever.
fn deadline(deployment: &Deployment) -> Option<SignedDuration> {
    let seconds = deployment.spec.progress_deadline_seconds;
    let seconds = seconds.filter(|seconds| *seconds != i32::MAX)?;
    Some(SignedDuration::from_secs(seconds.into()))
}

fn find<'c>(conditions: &'c [DeploymentCondition], kind: &str) -> Option<&'c DeploymentCondition> {
    conditions
        .iter()
        .find(|condition| condition.type_.as_deref() == Some(kind))
}

fn reason(condition: &DeploymentCondition) -> &str {
    condition.reason.as_deref().unwrap_or_default()
}

/// Puts a condition in, at the end, unless it says what there is.
fn set(
    conditions: &mut Vec<DeploymentCondition>,
    kind: &str,
    status: &str,
    why: &str,
    message: String,
    now: Timestamp,
) {
    let before = find(conditions, kind);
    if before.is_some_and(|before| before.status.as_deref() == Some(status) && reason(before) == why) {
        return;
    }
    refresh(conditions, kind, status, why, message, now);
}

/// Puts a condition in, at the end, as of now.
fn refresh(
    conditions: &mut Vec<DeploymentCondition>,
    kind: &str,
    status: &str,
    why: &str,
    message: String,
    now: Timestamp,
) {
    let same = find(conditions, kind).filter(|before| before.status.as_deref() == Some(status));
    let since = same.and_then(|before| before.last_transition_time.clone());
    conditions.retain(|condition| condition.type_.as_deref() != Some(kind));
    conditions.push(DeploymentCondition {
        type_: Some(kind.to_owned()),
        status: Some(status.to_owned()),
        reason: Some(why.to_owned()),
        message: Some(message),
        last_transition_time: since.or(Some(Time(now))),
        last_update_time: Some(Time(now)),
    });
}

/// The numbers, and whether the Deployment is available.
fn counted(
    deployment: &Deployment,
    newest: Option<&ReplicaSet>,
    old: &[&ReplicaSet],
    now: Timestamp,
) -> DeploymentStatus {
    let all = || newest.into_iter().chain(old.iter().copied());
    let sum = |of: &dyn Fn(&ReplicaSet) -> i32| all().map(of).sum::<i32>();
    let available = sum(&available);
    let wanted = sum(&sets::size);
    let before = deployment.status.clone().unwrap_or_default();
    let mut conditions = before.conditions.unwrap_or_default();
    let bounds = Bounds::of(deployment);
    let (status, reason, message) = if available >= bounds.replicas - bounds.unavailable {
        (
            "True",
            "MinimumReplicasAvailable",
            "Deployment has minimum availability.",
        )
    } else {
        (
            "False",
            "MinimumReplicasUnavailable",
            "Deployment does not have minimum availability.",
        )
    };
    set(
        &mut conditions,
        AVAILABLE,
        status,
        reason,
        message.to_owned(),
        now,
    );
    DeploymentStatus {
        observed_generation: deployment.metadata.generation,
        replicas: Some(sum(&actual)),
        updated_replicas: Some(newest.map_or(0, actual)),
        ready_replicas: Some(sum(&|set| {
            set.status
                .as_ref()
                .and_then(|status| status.ready_replicas)
                .unwrap_or(0)
        })),
        available_replicas: Some(available),
        unavailable_replicas: Some((wanted - available).max(0)),
        terminating_replicas: Some(sum(&|set| {
            let status = set.status.as_ref();
            status.and_then(|status| status.terminating_replicas).unwrap_or(0)
        })),
        collision_count: before.collision_count,
        conditions: Some(conditions),
    }
}

/// The pods that a set has.
pub(super) fn actual(set: &ReplicaSet) -> i32 {
    set.status.as_ref().map_or(0, |status| status.replicas)
}

/// Those of them that are available.
pub(super) fn available(set: &ReplicaSet) -> i32 {
    set.status
        .as_ref()
        .and_then(|status| status.available_replicas)
        .unwrap_or(0)
}

/// Says whether a Deployment is paused, where that has changed.
fn note_pause(deployment: &Deployment, conditions: &mut Vec<DeploymentCondition>, now: Timestamp) {
    let is_paused = deployment.spec.paused == Some(true);
    let before = find(conditions, PROGRESSING).map(reason);
    if deadline(deployment).is_none() || before == Some(TIMED_OUT) {
        return;
    }
    let (why, message) = match (is_paused, before == Some(PAUSED)) {
        (true, false) => (PAUSED, "Deployment is paused"),
        (false, true) => (RESUMED, "Deployment is resumed"),
        _ => return,
    };
    refresh(conditions, PROGRESSING, "Unknown", why, message.to_owned(), now);
}

/// The status of a Deployment that is paused, scaled, or on its way out.
pub(super) fn resting(
    deployment: &Deployment,
    newest: Option<&ReplicaSet>,
    old: &[&ReplicaSet],
    now: Timestamp,
) -> DeploymentStatus {
    let mut status = counted(deployment, newest, old, now);
    if let Some(conditions) = &mut status.conditions {
        note_pause(deployment, conditions, now);
    }
    status
}

/// The status of a Deployment that rolls out.
pub(super) fn rolling(
    deployment: &Deployment,
    newest: Option<&ReplicaSet>,
    old: &[&ReplicaSet],
    news: &News,
    now: Timestamp,
) -> DeploymentStatus {
    let before = deployment.status.clone().unwrap_or_default();
    let mut status = resting(deployment, newest, old, now);
    let mut conditions = status.conditions.take().unwrap_or_default();
    let name = newest
        .and_then(|set| set.metadata.name.as_deref())
        .unwrap_or_default();
    let limit = deadline(deployment);
    if limit.is_none() {
        conditions.retain(|condition| condition.type_.as_deref() != Some(PROGRESSING));
    } else {
        match news {
            News::Created => {
                let message = format!("Created new replica set \"{name}\"");
                refresh(
                    &mut conditions,
                    PROGRESSING,
                    "True",
                    "NewReplicaSetCreated",
                    message,
                    now,
                );
            }
            News::Found if find(&conditions, PROGRESSING).is_none() => {
                let message = format!("Found new replica set \"{name}\"");
                set(
                    &mut conditions,
                    PROGRESSING,
                    "True",
                    "FoundNewReplicaSet",
                    message,
                    now,
                );
            }
            News::Refused { set: name, why } => {
                let message = format!("Failed to create new replica set \"{name}\": {why}");
                set(
                    &mut conditions,
                    PROGRESSING,
                    "False",
                    "ReplicaSetCreateError",
                    message,
                    now,
                );
            }
            News::Found | News::None => {}
        }
    }
    let was_complete = status.replicas == status.updated_replicas
        && find(&conditions, PROGRESSING).is_some_and(|condition| reason(condition) == COMPLETE);
    if let Some(limit) = limit.filter(|_| !was_complete && !matches!(news, News::Refused { .. })) {
        let about = match newest {
            Some(_) => format!("ReplicaSet \"{name}\""),
            None => format!(
                "Deployment \"{}\"",
                deployment.metadata.name.as_deref().unwrap_or_default()
            ),
        };
        if is_complete(deployment, &status) {
            let message = format!("{about} has successfully progressed.");
            set(&mut conditions, PROGRESSING, "True", COMPLETE, message, now);
        } else if gets_on(&before, &status) {
            let message = format!("{about} is progressing.");
            refresh(&mut conditions, PROGRESSING, "True", UPDATED, message, now);
        } else if has_timed_out(&conditions, limit, now) {
            let message = format!("{about} has timed out progressing.");
            set(&mut conditions, PROGRESSING, "False", TIMED_OUT, message, now);
        }
    }
    note_failures(&mut conditions, newest, old, now);
    status.conditions = Some(conditions);
    status
}

/// Whether a rollout has come to its end.
pub(super) fn is_complete(deployment: &Deployment, status: &DeploymentStatus) -> bool {
    let wanted = deployment.spec.replicas;
    [
        status.updated_replicas,
        status.replicas,
        status.available_replicas,
    ] == [wanted; 3]
        && status.observed_generation >= deployment.metadata.generation
}

/// Whether more pods are new, fewer old, or more ready or available.
fn gets_on(before: &DeploymentStatus, after: &DeploymentStatus) -> bool {
    let number = |count: Option<i32>| count.unwrap_or(0);
    let old = |status: &DeploymentStatus| number(status.replicas) - number(status.updated_replicas);
    number(after.updated_replicas) > number(before.updated_replicas)
        || old(after) < old(before)
        || number(after.ready_replicas) > number(before.ready_replicas)
        || number(after.available_replicas) > number(before.available_replicas)
}

/// When a rollout that does not get on times out. Times have no fractions of a second in the API, so that the last
/// one may have been up to a second later than it says.
fn times_out_at(conditions: &[DeploymentCondition], limit: SignedDuration) -> Option<Timestamp> {
    let condition = find(conditions, PROGRESSING)?;
    if matches!(reason(condition), COMPLETE | TIMED_OUT) {
        return None;
    }
    let since = condition.last_update_time.as_ref()?.0;
    since.checked_add(limit + SignedDuration::from_secs(1)).ok()
}

fn has_timed_out(conditions: &[DeploymentCondition], limit: SignedDuration, now: Timestamp) -> bool {
    let is_told = find(conditions, PROGRESSING).is_some_and(|condition| reason(condition) == TIMED_OUT);
    is_told || times_out_at(conditions, limit).is_some_and(|at| at <= now)
}

/// How long until a rollout with this status has timed out, if it goes on so.
pub(super) fn next_look(
    deployment: &Deployment,
    status: &DeploymentStatus,
    now: Timestamp,
) -> Option<Duration> {
    if is_complete(deployment, status) || deployment.spec.paused == Some(true) {
        return None;
    }
    let at = times_out_at(
        status.conditions.as_deref().unwrap_or_default(),
        deadline(deployment)?,
    )?;
    let left = at.duration_since(now);
    Some(Duration::try_from(left).unwrap_or_default())
}

/// Takes over from the sets why pods cannot be made.
fn note_failures(
    conditions: &mut Vec<DeploymentCondition>,
    newest: Option<&ReplicaSet>,
    old: &[&ReplicaSet],
    now: Timestamp,
) {
    let failure = |set: &ReplicaSet| {
        let conditions = set.status.as_ref()?.conditions.as_ref()?;
        conditions
            .iter()
            .find(|condition| condition.type_.as_deref() == Some(FAILURE))
            .cloned()
    };
    let found = newest
        .and_then(failure)
        .or_else(|| old.iter().copied().find_map(failure));
    match found {
        Some(found) => {
            let why = found.reason.unwrap_or_default();
            set(
                conditions,
                FAILURE,
                found.status.as_deref().unwrap_or_default(),
                &why,
                found.message.unwrap_or_default(),
                now,
            );
        }
        None => conditions.retain(|condition| condition.type_.as_deref() != Some(FAILURE)),
    }
}

/// Whether a status says something else than another; absent counts are zero.
pub(super) fn differs(before: &DeploymentStatus, after: &DeploymentStatus) -> bool {
    let counts = |status: &DeploymentStatus| {
        [
            status.replicas,
            status.updated_replicas,
            status.ready_replicas,
            status.available_replicas,
            status.unavailable_replicas,
            status.terminating_replicas,
            status.collision_count,
        ]
        .map(|count| count.unwrap_or(0))
    };
    counts(before) != counts(after)
        || before.observed_generation != after.observed_generation
        || before.conditions.clone().unwrap_or_default() != after.conditions.clone().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::sets::new_set;
    use super::super::sets::tests::deployment;
    use super::*;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).expect("a time")
    }

    fn set_with(replicas: i32, available: i32) -> ReplicaSet {
        let deployment = deployment(replicas, "a");
        let mut set = new_set(&deployment, &Bounds::of(&deployment), replicas, 1);
        let status =
            json!({"replicas": replicas, "readyReplicas": available, "availableReplicas": available});
        set.status = Some(serde_json::from_value(status).expect("a status"));
        set
    }

    fn shown(status: &DeploymentStatus) -> Vec<String> {
        let conditions = status.conditions.iter().flatten();
        conditions
            .map(|condition| {
                format!(
                    "{}={} {}",
                    condition.type_.as_deref().unwrap_or_default(),
                    condition.status.as_deref().unwrap_or_default(),
                    reason(condition)
                )
            })
            .collect()
    }

    #[test]
    fn a_rollout_is_told_from_its_beginning_to_its_end() {
        let mut web = deployment(2, "a");
        let mut look = |set: &ReplicaSet, news: News, second: i64| {
            let status = rolling(&web, Some(set), &[], &news, at(second));
            web.status = Some(status.clone());
            (shown(&status), next_look(&web, &status, at(second)))
        };
        let (told, next) = look(&set_with(2, 0), News::Created, 0);
        assert_eq!(
            told,
            [
                "Available=False MinimumReplicasUnavailable",
                "Progressing=True ReplicaSetUpdated"
            ]
        );
        assert_eq!(next, Some(Duration::from_secs(601)));
        let (told, next) = look(&set_with(2, 1), News::None, 10);
        assert_eq!(
            told,
            [
                "Available=False MinimumReplicasUnavailable",
                "Progressing=True ReplicaSetUpdated"
            ]
        );
        assert_eq!(next, Some(Duration::from_secs(601)));
        let (told, next) = look(&set_with(2, 1), News::None, 611);
        assert_eq!(told[1], "Progressing=False ProgressDeadlineExceeded");
        assert_eq!(next, None);
        let (told, next) = look(&set_with(2, 2), News::None, 700);
        assert_eq!(
            told,
            [
                "Available=True MinimumReplicasAvailable",
                "Progressing=True NewReplicaSetAvailable"
            ]
        );
        assert_eq!(next, None);
        // Once complete, a pod that fails is no rollout.
        let (told, _) = look(&set_with(2, 1), News::None, 800);
        assert!(
            told.contains(&"Progressing=True NewReplicaSetAvailable".to_owned()),
            "{told:?}"
        );
    }

    #[test]
    fn a_pause_is_told_and_its_end() {
        let mut web = deployment(1, "a");
        web.spec.paused = Some(true);
        let set = set_with(1, 1);
        let paused = resting(&web, Some(&set), &[], at(0));
        assert_eq!(shown(&paused)[1], "Progressing=Unknown DeploymentPaused");
        web.status = Some(paused);
        assert!(!differs(
            &web.status.clone().unwrap_or_default(),
            &resting(&web, Some(&set), &[], at(5))
        ));
        web.spec.paused = Some(false);
        let resumed = resting(&web, Some(&set), &[], at(9));
        assert_eq!(shown(&resumed)[1], "Progressing=Unknown DeploymentResumed");
    }

    #[test]
    fn what_keeps_pods_from_being_made_is_taken_over() {
        let web = deployment(1, "a");
        let mut set = set_with(1, 0);
        let failure = json!([{"type": "ReplicaFailure", "status": "True", "reason": "FailedCreate", "message": "quota"}]);
        set.status.as_mut().expect("a status").conditions = serde_json::from_value(failure).ok();
        let status = rolling(&web, Some(&set), &[], &News::None, at(0));
        assert!(shown(&status).contains(&"ReplicaFailure=True FailedCreate".to_owned()));
        let refused = News::Refused {
            set: "web-x".into(),
            why: "no".into(),
        };
        let status = rolling(&web, None, &[], &refused, at(0));
        assert_eq!(shown(&status)[1], "Progressing=False ReplicaSetCreateError");
    }
}
