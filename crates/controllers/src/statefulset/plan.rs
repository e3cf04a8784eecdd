//! What to do next for a StatefulSet: a pure function of what was observed.
//!
//! Follows "Deployment and Scaling Guarantees" of the StatefulSet page, and is meant to be read beside
//! `defaultStatefulSetControl.updateStatefulSet`. It has no client and no clock ([`super::state`] is all it
//! knows). How a new template reaches the replicas is in [`super::rollout`].
//!
//! The plan of one look never depends on its own actions having been carried out: what must come
//! after them is for the next look, which the changes they cause bring about.

use std::collections::BTreeMap;

use super::rollout::replace_outdated;
use super::state::{Action, Observed, Ordinal, Phase, Pod, Spec};

/// What to do next.
pub(super) fn plan(spec: &Spec, seen: &Observed) -> Vec<Action> {
    if spec.deleting {
        return Vec::new();
    }
    let (replicas, condemned) = partition(spec, &seen.pods);
    let mut actions = Vec::new();
    for (ordinal, pod) in &replicas {
        let next = replica(spec, seen, *ordinal, *pod, &mut actions);
        if next == Next::Wait && spec.is_ordered() {
            return actions;
        }
    }
    for pod in &condemned {
        if seen
            .claims
            .get(&pod.ordinal)
            .is_some_and(|claims| claims.owners_differ)
        {
            actions.push(Action::FixClaims { ordinal: pod.ordinal });
        }
    }
    if scale_down(spec, &replicas, &condemned, &mut actions) == Next::Wait {
        return actions;
    }
    replace_outdated(spec, &replicas, &mut actions);
    actions
}

/// Whether the plan goes on after a step.
#[derive(PartialEq, Eq)]
enum Next {
    Go,
    Wait,
}

/// The replicas that are to be, with the pods that there are.
pub(super) type Replicas<'p> = BTreeMap<Ordinal, Option<&'p Pod>>;

/// The pods that are to be, by ordinal, with holes; and those that are not, highest first.
fn partition<'p>(spec: &Spec, pods: &'p [Pod]) -> (Replicas<'p>, Vec<&'p Pod>) {
    let range = spec.ordinals();
    let mut replicas: Replicas<'p> = range.clone().map(|ordinal| (ordinal, None)).collect();
    let mut condemned = Vec::new();
    for pod in pods {
        match replicas.get_mut(&pod.ordinal) {
            Some(place) => *place = Some(pod),
            None => condemned.push(pod),
        }
    }
    condemned.sort_by_key(|pod| std::cmp::Reverse(pod.ordinal));
    (replicas, condemned)
}

/// What one replica needs, and whether those above it have to wait for it.
fn replica(
    spec: &Spec,
    seen: &Observed,
    ordinal: Ordinal,
    pod: Option<&Pod>,
    actions: &mut Vec<Action>,
) -> Next {
    let claims = seen.claims.get(&ordinal).copied().unwrap_or_default();
    let Some(pod) = pod else {
        // A claim that goes must be gone before it is made anew.
        let blocked = claims.deleting || (spec.claims_go_on_scale_down && claims.stale);
        if !blocked {
            let revision = spec.revision_for(ordinal, seen.current_replicas);
            actions.push(Action::CreatePod { ordinal, revision });
        }
        return Next::Wait;
    };
    if pod.phase == Phase::Ended {
        if !pod.terminating {
            actions.push(Action::DeletePod {
                ordinal,
                uid: pod.uid.clone(),
            });
        }
        return Next::Wait;
    }
    if pod.terminating {
        return Next::Wait;
    }
    if pod.phase == Phase::Pending && claims.missing {
        actions.push(Action::CreateClaims { ordinal });
    }
    if claims.owners_differ {
        actions.push(Action::FixClaims { ordinal });
    }
    if !pod.is_available() {
        return Next::Wait;
    }
    if !pod.identity_matches {
        actions.push(Action::FixPod {
            ordinal,
            uid: pod.uid.clone(),
        });
    }
    Next::Go
}

/// Takes the highest of the condemned, in order, or all of them at once.
fn scale_down(spec: &Spec, replicas: &Replicas<'_>, condemned: &[&Pod], actions: &mut Vec<Action>) -> Next {
    // An unhealthy pod may go though it is unhealthy, if it is what everything waits for.
    let first_unhealthy = replicas
        .values()
        .flatten()
        .find(|pod| pod.is_unavailable())
        .or_else(|| condemned.iter().rev().find(|pod| pod.is_unavailable()))
        .map(|pod| pod.uid.as_str());
    for pod in condemned {
        if pod.terminating {
            if spec.is_ordered() {
                return Next::Wait;
            }
            continue;
        }
        let may_go = pod.is_available() || first_unhealthy == Some(pod.uid.as_str());
        if spec.is_ordered() && !may_go {
            return Next::Wait;
        }
        actions.push(Action::DeletePod {
            ordinal: pod.ordinal,
            uid: pod.uid.clone(),
        });
        if spec.is_ordered() {
            return Next::Wait;
        }
    }
    Next::Go
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::statefulset::state::builders::{create, delete, parallel, pod, set, terminating, unready};
    use crate::statefulset::state::{Claims, Revision, Strategy};

    fn check(spec: Spec, pods: &[Pod], expected: &[Action]) {
        let seen = Observed {
            pods: pods.to_vec(),
            claims: BTreeMap::new(),
            current_replicas: 0,
        };
        assert_eq!(plan(&spec, &seen), expected, "{spec:?} {pods:?}");
    }

    #[test]
    fn ordered_ready_creates_one_after_another() {
        check(set(3), &[], &[create(0)]);
        check(set(3), &[unready(0)], &[]);
        check(set(3), &[pod(0)], &[create(1)]);
        check(set(3), &[pod(0), pod(1), pod(2)], &[]);
        check(set(3), &[terminating(0), pod(1), pod(2)], &[]);
        check(set(3), &[pod(1), pod(2)], &[create(0)]);
    }

    #[test]
    fn min_ready_seconds_hold_the_next_one_back() {
        let fresh = Pod {
            phase: Phase::Running {
                ready: true,
                available: false,
            },
            ..pod(0)
        };
        check(set(2), &[fresh], &[]);
    }

    #[test]
    fn parallel_creates_all_at_once() {
        check(parallel(3), &[], &[create(0), create(1), create(2)]);
        check(parallel(3), &[unready(1)], &[create(0), create(2)]);
    }

    #[test]
    fn ordinals_start_where_the_set_says() {
        check(Spec { start: 5, ..set(2) }, &[], &[create(5)]);
        check(Spec { start: 5, ..set(2) }, &[pod(5), pod(6)], &[]);
        check(
            Spec { start: 1, ..set(2) },
            &[pod(0), pod(1), pod(2)],
            &[delete(0)],
        );
        check(
            Spec {
                start: 1,
                ..parallel(2)
            },
            &[pod(0), pod(1)],
            &[create(2), delete(0)],
        );
    }

    #[test]
    fn scaling_down_takes_the_highest_first() {
        check(set(1), &[pod(0), pod(1), pod(2)], &[delete(2)]);
        check(set(1), &[pod(0), pod(1), terminating(2)], &[]);
        check(parallel(1), &[pod(0), pod(1), pod(2)], &[delete(2), delete(1)]);
    }

    #[test]
    fn scaling_down_waits_for_the_remaining_to_be_healthy() {
        check(set(1), &[unready(0), pod(1)], &[]);
        // But the only unhealthy one may go.
        check(set(1), &[pod(0), unready(1)], &[delete(1)]);
        check(set(1), &[pod(0), unready(1), pod(2)], &[delete(2)]);
        check(set(1), &[pod(0), unready(1), unready(2)], &[]);
    }

    #[test]
    fn a_pod_that_ended_is_replaced() {
        let ended = Pod {
            phase: Phase::Ended,
            ..pod(1)
        };
        check(set(3), &[pod(0), ended.clone(), pod(2)], &[delete(1)]);
        check(
            set(3),
            &[
                pod(0),
                Pod {
                    terminating: true,
                    ..ended
                },
                pod(2),
            ],
            &[],
        );
    }

    #[test]
    fn an_evicted_pod_is_replaced_in_parallel_too() {
        let failed = Pod {
            phase: Phase::Ended,
            ..pod(0)
        };
        check(parallel(3), &[failed, pod(1)], &[delete(0), create(2)]);
    }

    #[test]
    fn a_moved_start_makes_the_new_replicas_before_the_old_ones_go() {
        let moved = |start| Spec { start, ..set(2) };
        // Up: 5 and 6 become 6 and 7.
        check(moved(6), &[pod(5), pod(6)], &[create(7)]);
        check(moved(6), &[pod(5), pod(6), unready(7)], &[]);
        check(moved(6), &[pod(5), pod(6), pod(7)], &[delete(5)]);
        // Down: 5 and 6 become 4 and 5.
        check(moved(4), &[pod(5), pod(6)], &[create(4)]);
        check(moved(4), &[pod(4), pod(5), pod(6)], &[delete(6)]);
        // Far: none stays.
        check(moved(0), &[pod(0), pod(5), pod(6)], &[create(1)]);
        check(moved(0), &[pod(0), pod(1), pod(5), pod(6)], &[delete(6)]);
    }

    #[test]
    fn without_a_rolling_update_as_many_are_of_the_current_revision_as_the_status_says() {
        let spec = Spec {
            strategy: Strategy::RollingUpdate {
                partition: None,
                max_unavailable: 1,
            },
            start: 3,
            ..parallel(2)
        };
        let seen = Observed {
            pods: vec![],
            claims: BTreeMap::new(),
            current_replicas: 1,
        };
        let current = Action::CreatePod {
            ordinal: 3,
            revision: Revision::Current,
        };
        assert_eq!(plan(&spec, &seen), [current, create(4)]);
    }

    #[test]
    fn a_set_on_its_way_out_is_left_alone() {
        check(
            Spec {
                deleting: true,
                ..set(3)
            },
            &[],
            &[],
        );
    }

    #[test]
    fn a_claim_on_its_way_out_blocks_its_replica() {
        let with = |claims: Claims, spec: Spec| {
            let claims = BTreeMap::from([(0, claims)]);
            plan(
                &spec,
                &Observed {
                    pods: vec![],
                    claims,
                    current_replicas: 0,
                },
            )
        };
        let deleting = Claims {
            deleting: true,
            ..Claims::default()
        };
        assert_eq!(with(deleting, set(1)), []);
        let stale = Claims {
            stale: true,
            ..Claims::default()
        };
        assert_eq!(with(stale, set(1)), [create(0)]);
        assert_eq!(
            with(
                stale,
                Spec {
                    claims_go_on_scale_down: true,
                    ..set(1)
                }
            ),
            []
        );
    }

    #[test]
    fn missing_claims_of_a_pending_pod_are_made() {
        let pending = Pod {
            phase: Phase::Pending,
            ..pod(0)
        };
        let claims = BTreeMap::from([(
            0,
            Claims {
                missing: true,
                ..Claims::default()
            },
        )]);
        let seen = Observed {
            pods: vec![pending],
            claims,
            current_replicas: 0,
        };
        assert_eq!(plan(&set(1), &seen), [Action::CreateClaims { ordinal: 0 }]);
    }

    #[test]
    fn owners_of_claims_and_identities_of_pods_are_put_right_on_the_way() {
        let strange = Pod {
            identity_matches: false,
            ..pod(0)
        };
        let claims = BTreeMap::from([(
            1,
            Claims {
                owners_differ: true,
                ..Claims::default()
            },
        )]);
        let seen = Observed {
            pods: vec![strange, pod(1), pod(2)],
            claims,
            current_replicas: 0,
        };
        assert_eq!(
            plan(&set(2), &seen),
            [
                Action::FixPod {
                    ordinal: 0,
                    uid: "u0".into()
                },
                Action::FixClaims { ordinal: 1 },
                delete(2)
            ]
        );
    }
}
