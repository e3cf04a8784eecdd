//! The set's status: a pure function of what was observed.

use k8s_openapi::api::apps::v1::{StatefulSet, StatefulSetStatus};

use super::plan::{Pod, Spec, is_available, is_ready};

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

/// The status of a set with these pods; `is_current` says whether a pod is of the current revision.
pub(super) fn status(
    set: &StatefulSet,
    spec: &Spec,
    revisions: &Revisions,
    pods: &[Pod],
    is_current: impl Fn(&Pod) -> bool,
) -> StatefulSetStatus {
    let count = |test: &dyn Fn(&Pod) -> bool| i32::try_from(pods.iter().filter(|pod| test(pod)).count()).ok();
    let mut status = StatefulSetStatus {
        observed_generation: set.metadata.generation,
        replicas: count(&|_| true).unwrap_or_default(),
        ready_replicas: count(&is_ready),
        available_replicas: count(&is_available),
        current_replicas: count(&|pod| !pod.terminating && is_current(pod)),
        updated_replicas: count(&|pod| !pod.terminating && pod.is_update),
        current_revision: Some(revisions.current.clone()),
        update_revision: Some(revisions.update.clone()),
        collision_count: Some(revisions.collisions),
        conditions: set.status.as_ref().and_then(|status| status.conditions.clone()),
    };
    let wanted = i32::try_from(spec.replicas).unwrap_or(i32::MAX);
    let complete = status.replicas == wanted
        && status.updated_replicas == Some(wanted)
        && status.ready_replicas == Some(wanted);
    if complete {
        status.current_replicas = status.updated_replicas;
        status.current_revision = status.update_revision.clone();
    }
    status
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
    use serde_json::json;

    use super::*;
    use crate::statefulset::plan::{Phase, Policy, Strategy};

    fn pod(ordinal: u32, is_update: bool, ready: bool) -> Pod {
        Pod {
            ordinal,
            uid: format!("u{ordinal}"),
            phase: Phase::Running {
                ready,
                available: ready,
            },
            terminating: false,
            is_update,
            identity_matches: true,
        }
    }

    fn of(pods: &[Pod]) -> StatefulSetStatus {
        let set: StatefulSet =
            serde_json::from_value(json!({"metadata": {"name": "web", "generation": 4}})).expect("a set");
        let spec = Spec {
            replicas: 2,
            start: 0,
            policy: Policy::OrderedReady,
            strategy: Strategy::OnDelete,
            claims_go_on_scale_down: false,
            deleting: false,
        };
        let revisions = Revisions {
            current: "r1".into(),
            update: "r2".into(),
            collisions: 0,
        };
        status(&set, &spec, &revisions, pods, |pod| !pod.is_update)
    }

    #[test]
    fn pods_are_counted_by_what_they_are() {
        let status = of(&[pod(0, false, true), pod(1, true, false)]);
        assert_eq!(
            (status.replicas, status.ready_replicas, status.available_replicas),
            (2, Some(1), Some(1))
        );
        assert_eq!(
            (status.current_replicas, status.updated_replicas),
            (Some(1), Some(1))
        );
        assert_eq!(status.current_revision.as_deref(), Some("r1"));
        assert_eq!(status.observed_generation, Some(4));
    }

    #[test]
    fn a_whole_update_becomes_the_current_revision() {
        let status = of(&[pod(0, true, true), pod(1, true, true)]);
        assert_eq!(status.current_revision.as_deref(), Some("r2"));
        assert_eq!(status.current_replicas, Some(2));
    }

    #[test]
    fn a_terminating_pod_counts_as_replica_only() {
        let status = of(&[
            pod(0, true, true),
            Pod {
                terminating: true,
                ..pod(1, true, true)
            },
        ]);
        assert_eq!((status.replicas, status.updated_replicas), (2, Some(1)));
        assert_eq!(status.current_revision.as_deref(), Some("r1"));
    }
}
