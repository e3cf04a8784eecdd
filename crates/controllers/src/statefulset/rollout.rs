//! How a new template reaches the replicas: which pods of an old revision go next.
//!
//! Follows "Update strategies" and "Maximum unavailable Pods" of the StatefulSet page as of Kubernetes 1.37,
//! where `maxUnavailable` is always heeded (KEP-961), and `updateStatefulSetAfterInvariantEstablished`.

use super::growth::Growth;
use super::plan::Replicas;
use super::state::{Action, Observed, Phase, Pod, Policy, Spec, Strategy};

/// Replaces pods of an old revision, from the highest ordinal down.
pub(super) fn replace_outdated(spec: &Spec, replicas: &Replicas<'_>, actions: &mut Vec<Action>) {
    let Strategy::RollingUpdate { max_unavailable, .. } = spec.strategy else {
        return;
    };
    let lowest = spec.lowest();
    let present = || replicas.pods();
    let available = present().filter(|pod| !pod.is_unavailable()).count();
    let unavailable = (spec.replicas as usize).saturating_sub(available);
    let mut budget = (max_unavailable as usize).saturating_sub(unavailable);
    // What has ended is replaced anyway.
    let stays = |pod: &&Pod| pod.phase != Phase::Ended && !pod.terminating;
    let outdated: Vec<&Pod> = present()
        .rev()
        .filter(|pod| pod.ordinal >= lowest && !pod.is_update && stays(pod))
        .collect();
    match spec.policy {
        Policy::OrderedReady => actions.extend(outdated.into_iter().take(budget).map(delete)),
        Policy::Parallel => {
            // What serves nobody can go without taking from the budget.
            for pod in outdated.iter().filter(|pod| !pod.is_available()) {
                actions.push(delete(pod));
            }
            for pod in outdated.iter().filter(|pod| pod.is_available()) {
                if budget == 0 {
                    break;
                }
                actions.push(delete(pod));
                budget -= 1;
            }
        }
    }
}

/// Has claims follow their templates (KEP-4650): those of the highest ordinal first, and under `OrderedReady` one
/// replica's at a time.
pub(super) fn grow_claims(spec: &Spec, seen: &Observed, replicas: &Replicas<'_>, actions: &mut Vec<Action>) {
    let lowest = spec.lowest();
    for pod in replicas.pods().rev() {
        let growth = seen.growth_of(pod, spec, lowest);
        if growth == Growth::Due {
            actions.push(Action::GrowClaims { ordinal: pod.ordinal });
        }
        if growth != Growth::Done && spec.is_ordered() {
            return;
        }
    }
}

/// Under `OrderedReady` everything waits for a pod that is not ready, also the update that would mend it: upstream,
/// such a rollout stays stuck until a person deletes the pod (kubernetes#67250, "Forced rollback"). Here the pod
/// is replaced if nobody can have relied on it: it is not ready, not of the update revision, and either not of the
/// current one too, or was never ready.
///
/// One at a time, the lowest first, as that is the one that the others wait for; those that the partition keeps are
/// kept. (Under `Parallel`, [`replace_outdated`] replaces whatever is not available anyway.)
pub(super) fn heal(spec: &Spec, replicas: &Replicas<'_>, actions: &mut Vec<Action>) {
    if !matches!(spec.strategy, Strategy::RollingUpdate { .. }) {
        return;
    }
    let lowest = spec.lowest();
    let goes = |action: &Action| matches!(action, Action::DeletePod { .. });
    let is_replaced = replicas.pods().any(|pod| pod.terminating);
    if !spec.heals || is_replaced || actions.iter().any(goes) {
        return;
    }
    for pod in replicas.all() {
        // The replacement of a lower one comes first.
        let Some(pod) = pod.filter(|pod| !(pod.is_update && pod.is_unavailable())) else {
            return;
        };
        if pod.ordinal >= lowest && is_broken(pod) {
            actions.push(delete(pod));
            return;
        }
    }
}

/// Nobody can have relied on it, and it is not what the set asks for.
pub(super) fn is_broken(pod: &Pod) -> bool {
    let is_old = !pod.is_update && (!pod.is_current || pod.never_ready);
    is_old && !pod.is_ready() && pod.phase != Phase::Ended
}

/// The first half of `Recreate`: all pods of other revisions go, replicas or not, ready or not.
pub(super) fn clear_outdated(seen: &Observed, actions: &mut Vec<Action>) {
    let mut outdated: Vec<&Pod> = seen
        .pods
        .iter()
        .filter(|pod| !pod.is_update && !pod.terminating)
        .collect();
    outdated.sort_by_key(|pod| std::cmp::Reverse(pod.ordinal));
    actions.extend(outdated.into_iter().map(delete));
}

fn delete(pod: &Pod) -> Action {
    Action::DeletePod {
        ordinal: pod.ordinal,
        uid: pod.uid.clone(),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::statefulset::plan::plan;
    use crate::statefulset::state::builders::{
        create, delete, old, parallel, pod, set, stray, terminating, unready,
    };
    use crate::statefulset::state::{Claims, Ordinal, Revision};

    fn check(spec: &Spec, pods: &[Pod], expected: &[Action]) {
        let seen = Observed {
            pods: pods.to_vec(),
            claims: BTreeMap::new(),
        };
        assert_eq!(plan(spec, &seen), expected, "{spec:?} {pods:?}");
    }

    fn rolling(spec: Spec, partition: u32, max_unavailable: u32) -> Spec {
        Spec {
            strategy: Strategy::RollingUpdate {
                partition,
                max_unavailable,
            },
            ..spec
        }
    }

    /// Pods of the old revision; those named are unready or on their way out.
    fn olds(count: u32, is_unready: &[Ordinal], is_terminating: &[Ordinal]) -> Vec<Pod> {
        let state = |ordinal| {
            if is_unready.contains(&ordinal) {
                unready(ordinal)
            } else if is_terminating.contains(&ordinal) {
                terminating(ordinal)
            } else {
                pod(ordinal)
            }
        };
        (0..count).map(|ordinal| old(state(ordinal))).collect()
    }

    #[test]
    fn a_rolling_update_goes_down_one_at_a_time() {
        check(&set(3), &[old(pod(0)), old(pod(1)), old(pod(2))], &[delete(2)]);
        check(&set(3), &[old(pod(0)), old(pod(1)), terminating(2)], &[]);
        check(&set(3), &[old(pod(0)), old(pod(1)), unready(2)], &[]);
        check(&set(3), &[old(pod(0)), old(pod(1)), pod(2)], &[delete(1)]);
        check(&set(3), &[old(pod(0)), pod(1), pod(2)], &[delete(0)]);
        check(&set(3), &[pod(0), pod(1), pod(2)], &[]);
    }

    #[test]
    fn an_updated_pod_must_be_available_before_the_next_goes() {
        let fresh = Pod {
            phase: Phase::Running {
                ready: true,
                available: false,
            },
            ..pod(2)
        };
        let pods = [old(pod(0)), old(pod(1)), fresh];
        check(&set(3), &pods, &[]);
        check(&parallel(3), &pods, &[]);
    }

    #[test]
    fn a_partition_keeps_the_lower_replicas() {
        let partitioned = rolling(set(3), 2, 1);
        check(&partitioned, &[old(pod(0)), old(pod(1)), pod(2)], &[]);
        let recreated = Action::CreatePod {
            ordinal: 1,
            revision: Revision::Current,
        };
        check(&partitioned, &[old(pod(0)), pod(2)], &[recreated]);
        check(&rolling(set(3), 3, 1), &olds(3, &[], &[]), &[]);
    }

    #[test]
    fn a_partition_counts_from_the_first_ordinal() {
        let from_5 = Spec {
            start: 5,
            ..rolling(set(3), 2, 1)
        };
        check(&from_5, &[old(pod(5)), old(pod(6)), old(pod(7))], &[delete(7)]);
        check(&from_5, &[old(pod(5)), old(pod(6)), pod(7)], &[]);
    }

    #[test]
    fn ordered_replaces_as_many_at_a_time_as_may_be_unavailable() {
        check(
            &rolling(set(5), 0, 2),
            &olds(5, &[], &[]),
            &[delete(4), delete(3)],
        );
        // The next go when all of them are there again, one after the other.
        let [a, b, c] = [old(pod(0)), old(pod(1)), old(pod(2))];
        let with = |more: &[Pod]| [&[a.clone(), b.clone(), c.clone()], more].concat();
        let spec = rolling(set(5), 0, 2);
        check(&spec, &with(&[terminating(3), terminating(4)]), &[]);
        check(&spec, &with(&[pod(4)]), &[create(3)]);
        check(&spec, &with(&[unready(3), pod(4)]), &[]);
        check(&spec, &with(&[pod(3), pod(4)]), &[delete(2), delete(1)]);
        // More than there are.
        check(
            &rolling(set(2), 0, 9),
            &olds(2, &[], &[]),
            &[delete(1), delete(0)],
        );
    }

    #[test]
    fn ordered_waits_for_an_unavailable_pod_even_if_it_is_old() {
        for (replicas, partition, max_unavailable, unready, terminating) in [
            (1, 0, 1, vec![0], vec![]),
            (3, 0, 1, vec![2], vec![]),
            (3, 0, 1, vec![], vec![2]),
            (5, 0, 2, vec![4], vec![]),
            (5, 2, 1, vec![4], vec![]),
        ] {
            let spec = rolling(set(replicas), partition, max_unavailable);
            check(&spec, &olds(replicas, &unready, &terminating), &[]);
        }
    }

    #[test]
    fn a_pod_that_ended_is_deleted_once() {
        let ended = |held_back| Pod {
            phase: Phase::Ended,
            held_back,
            ..old(pod(0))
        };
        check(&parallel(1), &[ended(false)], &[delete(0)]);
        check(&parallel(1), &[ended(true)], &[]);
    }

    /// A pod that will never be ready in its old revision must not hold up the update that mends it.
    #[test]
    fn parallel_replaces_what_is_unavailable_first_and_counts_it() {
        for (replicas, partition, max_unavailable, unready, terminating, expected) in [
            (1, 0, 1, vec![0], vec![], vec![0]),
            (3, 0, 1, vec![2], vec![], vec![2]),
            (5, 0, 2, vec![3, 4], vec![], vec![4, 3]),
            // What is on its way out takes from what may be unavailable.
            (3, 0, 1, vec![], vec![2], vec![]),
            (5, 0, 3, vec![3], vec![4], vec![3, 2]),
            (5, 0, 3, vec![4], vec![3], vec![4, 2]),
            // So does what the partition keeps, though it stays.
            (5, 2, 1, vec![4], vec![], vec![4]),
            (5, 2, 1, vec![2], vec![], vec![2]),
            (5, 2, 1, vec![1], vec![], vec![]),
            (5, 3, 2, vec![3, 4], vec![], vec![4, 3]),
            (5, 3, 2, vec![1, 4], vec![], vec![4]),
            // Low ones that are down go before high ones that are up.
            (4, 0, 2, vec![0, 1], vec![], vec![1, 0]),
            (5, 0, 3, vec![0, 1], vec![], vec![1, 0, 4]),
            // All are down: none is spared.
            (3, 0, 1, vec![0, 1, 2], vec![], vec![2, 1, 0]),
        ] {
            let spec = rolling(parallel(replicas), partition, max_unavailable);
            let expected: Vec<_> = expected.into_iter().map(delete).collect();
            check(&spec, &olds(replicas, &unready, &terminating), &expected);
        }
    }

    #[test]
    fn parallel_replaces_as_many_at_a_time_as_may_be_unavailable() {
        let spec = rolling(parallel(4), 0, 2);
        check(&spec, &olds(4, &[], &[]), &[delete(3), delete(2)]);
        // The next need not wait for both.
        let pods = [old(pod(0)), old(pod(1)), unready(2), pod(3)];
        check(&spec, &pods, &[delete(1)]);
        // One that is not there is unavailable, too.
        let pods = [old(pod(0)), old(pod(1)), pod(3)];
        check(&spec, &pods, &[create(2), delete(1)]);
    }

    #[test]
    fn on_delete_replaces_nothing_by_itself() {
        for spec in [set(2), parallel(2)] {
            let on_delete = Spec {
                strategy: Strategy::OnDelete,
                ..spec
            };
            check(&on_delete, &olds(2, &[], &[]), &[]);
            check(&on_delete, &[old(pod(0))], &[create(1)]);
        }
    }

    #[test]
    fn claims_grow_from_the_highest_down_with_strategy_and_partition() {
        use Growth::{Done, Due, UnderWay};
        let on_delete = Spec {
            strategy: Strategy::OnDelete,
            ..set(3)
        };
        let fixed = Spec {
            grows: false,
            ..set(3)
        };
        let all = [Due, Due, Due];
        for (spec, pods, growth, expected) in [
            (set(3), [pod(0), pod(1), pod(2)], all, vec![2]),
            (set(3), [pod(0), pod(1), pod(2)], [Due, Due, UnderWay], vec![]),
            (set(3), [pod(0), pod(1), pod(2)], [Due, Due, Done], vec![1]),
            (
                parallel(3),
                [pod(0), pod(1), pod(2)],
                [Due, Due, UnderWay],
                vec![1, 0],
            ),
            // Its disk may be what a pod needs to get ready.
            (set(3), [unready(0), pod(1), pod(2)], [Due, Done, Done], vec![0]),
            (rolling(parallel(3), 2, 1), [pod(0), pod(1), pod(2)], all, vec![2]),
            (on_delete, [pod(0), old(pod(1)), old(pod(2))], all, vec![0]),
            (fixed, [pod(0), pod(1), pod(2)], all, vec![]),
        ] {
            let claims = growth.map(|growth| Claims {
                growth,
                ..Claims::default()
            });
            let seen = Observed {
                pods: pods.to_vec(),
                claims: (0..).zip(claims).collect(),
            };
            let grown = plan(&spec, &seen).into_iter().filter_map(|action| match action {
                Action::GrowClaims { ordinal } => Some(ordinal),
                _ => None,
            });
            assert_eq!(grown.collect::<Vec<_>>(), expected, "{spec:?} {growth:?}");
        }
    }

    fn never_ready(pod: Pod) -> Pod {
        Pod {
            never_ready: true,
            ..pod
        }
    }

    #[test]
    fn a_broken_rollout_heals_when_the_template_is_put_right() {
        // The update got stuck at 2; another template, or the former one, came.
        let stuck = [old(pod(0)), old(pod(1)), stray(unready(2))];
        check(&set(3), &stuck, &[delete(2)]);
        check(&set(3), &[pod(0), pod(1), stray(unready(2))], &[delete(2)]);
        // The first rollout got stuck, so that its revision is the current one.
        check(&set(3), &[never_ready(old(unready(0)))], &[delete(0)]);
        // It may have served once.
        check(&set(3), &[old(unready(0))], &[]);
        // It serves.
        check(&set(3), &[old(pod(0)), old(pod(1)), stray(pod(2))], &[delete(2)]);
        check(&set(3), &[unready(0), stray(pod(1))], &[]);
    }

    #[test]
    fn broken_pods_are_replaced_one_at_a_time_and_the_lowest_first() {
        let broken = |ordinal| stray(unready(ordinal));
        check(&set(3), &[pod(0), broken(1), broken(2)], &[delete(1)]);
        check(&set(3), &[pod(0), terminating(1), broken(2)], &[]);
        check(&set(3), &[pod(0), broken(2)], &[create(1)]);
        check(&set(3), &[pod(0), unready(1), broken(2)], &[]);
        check(&set(3), &[pod(0), pod(1), broken(2)], &[delete(2)]);
        // One that ended goes first, and one that served under the current revision is waited for by no one.
        let ended = Pod {
            phase: Phase::Ended,
            ..pod(0)
        };
        check(&set(3), &[ended, pod(1), broken(2)], &[delete(0)]);
        check(&set(3), &[old(unready(0)), pod(1), broken(2)], &[delete(2)]);
    }

    #[test]
    fn what_must_stay_is_not_healed() {
        let pods = [pod(0), stray(unready(1))];
        check(&rolling(set(2), 1, 1), &pods, &[delete(1)]);
        check(&rolling(set(2), 2, 1), &pods, &[]);
        let waits = Spec {
            heals: false,
            ..set(2)
        };
        check(&waits, &pods, &[]);
        let on_delete = Spec {
            strategy: Strategy::OnDelete,
            ..set(2)
        };
        check(&on_delete, &pods, &[]);
    }

    #[test]
    fn recreate_makes_new_pods_when_all_old_ones_are_gone() {
        for spec in [set(3), parallel(3)] {
            let spec = Spec {
                strategy: Strategy::Recreate,
                ..spec
            };
            let all = [delete(2), delete(1), delete(0)];
            check(&spec, &olds(3, &[1], &[]), &all);
            check(&spec, &olds(3, &[], &[1]), &[delete(2), delete(0)]);
            // Also those that are no replicas; new ones stay, but no more are made.
            check(&spec, &[pod(0), old(pod(5))], &[delete(5)]);
            check(&spec, &[pod(0), old(terminating(5))], &[]);
            let first = if spec.is_ordered() { 1 } else { 3 };
            let made: Vec<_> = (0..first).map(create).collect();
            check(&spec, &[], &made);
            check(&spec, &[pod(0), pod(1), pod(2)], &[]);
        }
    }
}
