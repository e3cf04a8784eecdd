//! The set's status: a pure function of what was observed.

use jiff::Timestamp;
use k8s_openapi::api::apps::v1::{StatefulSet, StatefulSetCondition, StatefulSetStatus};

use super::conditions::conditions;
use super::state::{Observed, Pod, Spec, Strategy};
use super::stuck::Standing;

/// The names of the set's two live revisions, and how often a name was taken.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Revisions {
    /// The one that the set was last wholly at.
    pub(super) current: String,
    /// The one that its template is.
    pub(super) update: String,
    /// `status.collisionCount`.
    pub(super) collisions: i32,
}

/// The status of a set with these pods, and what it waits for.
pub(super) fn status(
    set: &StatefulSet,
    spec: &Spec,
    revisions: &Revisions,
    seen: &Observed,
    standing: &Standing,
    now: Timestamp,
) -> StatefulSetStatus {
    let pods = &seen.pods;
    let count = |test: &dyn Fn(&Pod) -> bool| i32::try_from(pods.iter().filter(|pod| test(pod)).count()).ok();
    let mut status = StatefulSetStatus {
        observed_generation: set.metadata.generation,
        replicas: count(&|_| true).unwrap_or_default(),
        ready_replicas: count(&Pod::is_ready),
        available_replicas: count(&Pod::is_available),
        current_replicas: count(&|pod| !pod.terminating && pod.is_current),
        updated_replicas: count(&|pod| !pod.terminating && pod.is_update),
        current_revision: Some(revisions.current.clone()),
        update_revision: Some(revisions.update.clone()),
        collision_count: Some(revisions.collisions),
        conditions: set.status.as_ref().and_then(|status| status.conditions.clone()),
    };
    let wanted = i32::try_from(spec.replicas).unwrap_or(i32::MAX);
    // With OnDelete, no update is ever complete.
    let complete = spec.strategy != Strategy::OnDelete
        && status.replicas == wanted
        && status.updated_replicas == Some(wanted)
        && status.ready_replicas == Some(wanted);
    if complete {
        status.current_replicas = status.updated_replicas;
        status.current_revision = status.update_revision.clone();
    }
    status.conditions = Some(conditions(spec, &status, seen, standing, now));
    status
}

/// What the set is newly stuck at, if it is.
pub(super) fn newly_stuck<'s>(set: &StatefulSet, status: &'s StatefulSetStatus) -> Option<&'s str> {
    let now = stuck_at(status)?;
    let before = set.status.as_ref().and_then(stuck_at);
    (before != Some(now)).then_some(now)
}

fn stuck_at(status: &StatefulSetStatus) -> Option<&str> {
    let is_stuck = |condition: &&StatefulSetCondition| {
        condition.type_.as_deref() == Some("Stuck") && condition.status.as_deref() == Some("True")
    };
    let conditions = status.conditions.as_deref().unwrap_or_default();
    conditions.iter().find(is_stuck)?.message.as_deref()
}

/// Whether a status says something else than the set's own. Absent counts are zero.
pub(super) fn differs(set: &StatefulSet, status: &StatefulSetStatus) -> bool {
    let own = set.status.clone().unwrap_or_default();
    let counts = |status: &StatefulSetStatus| {
        let or_zero = |count: Option<i32>| count.unwrap_or(0);
        [
            status.replicas,
            or_zero(status.ready_replicas),
            or_zero(status.available_replicas),
            or_zero(status.current_replicas),
            or_zero(status.updated_replicas),
            or_zero(status.collision_count),
        ]
    };
    counts(&own) != counts(status)
        || own.observed_generation != status.observed_generation
        || own.current_revision != status.current_revision
        || own.update_revision != status.update_revision
        || own.conditions != status.conditions
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use serde_json::json;

    use super::*;
    use crate::statefulset::state::Phase;
    use crate::statefulset::state::builders::{old, pod, set as spec, terminating, unready};

    fn of(spec: &Spec, pods: &[Pod]) -> StatefulSetStatus {
        let set: StatefulSet =
            serde_json::from_value(json!({"metadata": {"name": "web", "generation": 4}})).expect("a set");
        let revisions = Revisions {
            current: "r1".into(),
            update: "r2".into(),
            collisions: 0,
        };
        let seen = Observed {
            pods: pods.to_vec(),
            claims: BTreeMap::new(),
        };
        status(
            &set,
            spec,
            &revisions,
            &seen,
            &Standing::default(),
            Timestamp::UNIX_EPOCH,
        )
    }

    /// Replicas, ready, available, current and updated ones.
    fn counts(status: &StatefulSetStatus) -> [Option<i32>; 5] {
        [
            Some(status.replicas),
            status.ready_replicas,
            status.available_replicas,
            status.current_replicas,
            status.updated_replicas,
        ]
    }

    #[test]
    fn pods_are_counted_by_what_they_are() {
        let status = of(&spec(2), &[old(pod(0)), unready(1)]);
        assert_eq!(counts(&status), [2, 1, 1, 1, 1].map(Some));
        assert_eq!(status.current_revision.as_deref(), Some("r1"));
        assert_eq!(status.update_revision.as_deref(), Some("r2"));
        assert_eq!(status.observed_generation, Some(4));
    }

    #[test]
    fn a_pod_that_is_ready_too_shortly_is_not_available() {
        let fresh = Pod {
            phase: Phase::Running {
                ready: true,
                available: false,
            },
            ..pod(0)
        };
        assert_eq!(counts(&of(&spec(1), &[fresh])), [1, 1, 0, 1, 1].map(Some));
    }

    #[test]
    fn a_whole_update_becomes_the_current_revision() {
        let status = of(&spec(2), &[pod(0), pod(1)]);
        assert_eq!(status.current_revision.as_deref(), Some("r2"));
        assert_eq!(counts(&status), [2; 5].map(Some));
    }

    #[test]
    fn an_update_is_not_whole_before_all_are_there_ready_and_updated() {
        for pods in [
            vec![pod(0)],
            vec![pod(0), unready(1)],
            vec![old(pod(0)), pod(1)],
            vec![pod(0), pod(1), pod(2)],
        ] {
            let status = of(&spec(2), &pods);
            assert_eq!(status.current_revision.as_deref(), Some("r1"), "{pods:?}");
        }
    }

    #[test]
    fn with_on_delete_the_current_revision_stays() {
        let on_delete = Spec {
            strategy: Strategy::OnDelete,
            ..spec(2)
        };
        let status = of(&on_delete, &[pod(0), pod(1)]);
        assert_eq!(status.current_revision.as_deref(), Some("r1"));
        assert_eq!(counts(&status), [2, 2, 2, 0, 2].map(Some));
    }

    #[test]
    fn a_terminating_pod_counts_as_replica_only() {
        let status = of(&spec(2), &[pod(0), terminating(1)]);
        assert_eq!((status.replicas, status.updated_replicas), (2, Some(1)));
        assert_eq!(status.current_revision.as_deref(), Some("r1"));
    }

    #[test]
    fn a_status_that_says_the_same_is_not_written() {
        let status = of(&spec(1), &[pod(0)]);
        let mut set = StatefulSet {
            status: Some(status.clone()),
            ..StatefulSet::default()
        };
        assert!(!differs(&set, &status));
        // Zero and absent are one.
        let none = StatefulSetStatus {
            collision_count: None,
            ..status.clone()
        };
        assert!(!differs(&set, &none));
        set.status.as_mut().expect("a status").observed_generation = Some(3);
        assert!(differs(&set, &status));
    }
}
