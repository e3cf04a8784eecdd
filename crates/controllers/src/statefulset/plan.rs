//! What to do next for a StatefulSet: a pure function of what was observed.
//!
//! Follows "Deployment and Scaling Guarantees" and "Update strategies" of the StatefulSet page, and
//! is meant to be read beside `defaultStatefulSetControl.updateStatefulSet`. It has no client and no
//! clock; pods and claims are reduced to what the decision needs ([`super::observe`]).
//!
//! The plan of one look never depends on its own actions having been carried out: what must come
//! after them is for the next look, which the changes they cause bring about.

use std::collections::BTreeMap;

/// A replica's number, counted from zero whatever `spec.ordinals.start` says.
pub type Ordinal = u32;

/// What the set asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Spec {
    /// How many replicas.
    pub replicas: u32,
    /// The first replica's ordinal.
    pub start: Ordinal,
    /// One after another, or all at once.
    pub policy: Policy,
    /// How a new template reaches the replicas.
    pub strategy: Strategy,
    /// Whether claims go with a scale-down; a claim that is on its way out blocks its replica then.
    pub claims_go_on_scale_down: bool,
    /// The set itself is on its way out.
    pub deleting: bool,
}

/// `podManagementPolicy`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Policy {
    /// `OrderedReady`.
    OrderedReady,
    /// `Parallel`.
    Parallel,
}

/// `updateStrategy`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Strategy {
    /// Replicas below the partition (counted from the first) keep their revision; at most
    /// `max_unavailable` others are replaced at a time.
    RollingUpdate {
        /// `partition`; none where `rollingUpdate` is not given at all.
        partition: Option<u32>,
        /// `maxUnavailable` as a number, at least one.
        max_unavailable: u32,
    },
    /// A pod gets the new template when somebody deletes it.
    OnDelete,
}

/// Which of the set's two live revisions.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Revision {
    /// The one that the set was last wholly at.
    Current,
    /// The one that its template is.
    Update,
}

/// How far a pod has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Phase {
    /// Not running yet, or unknown.
    Pending,
    /// Running; `ready` and, for `minReadySeconds`, `available`.
    Running {
        /// The Ready condition is true.
        ready: bool,
        /// It has been so for `minReadySeconds`.
        available: bool,
    },
    /// `Failed` or `Succeeded`.
    Ended,
}

/// A pod of the set.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pod {
    /// From its name.
    pub ordinal: Ordinal,
    /// Its uid, so that no other pod of the name is meant.
    pub uid: String,
    /// How far it has come.
    pub phase: Phase,
    /// Its deletion has been asked for.
    pub terminating: bool,
    /// Made from the update revision?
    pub is_update: bool,
    /// Its labels and volumes are as the set wants them.
    pub identity_matches: bool,
}

/// The claims of a replica, all together.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Claims {
    /// At least one is not there.
    pub missing: bool,
    /// At least one is on its way out.
    pub deleting: bool,
    /// At least one belongs to a former pod of the replica that is not wholly gone.
    pub stale: bool,
    /// At least one has owner references other than the retention policy wants.
    pub owners_differ: bool,
}

/// What was observed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Observed {
    /// All pods of the set, in any order.
    pub pods: Vec<Pod>,
    /// The claims of each replica and of each pod outside the range; absent where the set has no
    /// claim templates.
    pub claims: BTreeMap<Ordinal, Claims>,
    /// `status.currentReplicas`, which decides the revision where no `rollingUpdate` is given.
    pub current_replicas: u32,
}

/// One thing to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// Make the replica's claims that are missing, then its pod.
    CreatePod {
        /// Which replica.
        ordinal: Ordinal,
        /// From which revision.
        revision: Revision,
    },
    /// Delete a pod.
    DeletePod {
        /// Which replica.
        ordinal: Ordinal,
        /// A newer pod of the same name is not meant.
        uid: String,
    },
    /// Put labels and volumes of a pod right.
    FixPod {
        /// Which replica.
        ordinal: Ordinal,
        /// A newer pod of the same name is not meant.
        uid: String,
    },
    /// Make the claims of a pod that waits for them.
    CreateClaims {
        /// Which replica.
        ordinal: Ordinal,
    },
    /// Put the owner references of a pod's claims right.
    FixClaims {
        /// Which replica.
        ordinal: Ordinal,
    },
}

impl Pod {
    fn is_ready(&self) -> bool {
        matches!(self.phase, Phase::Running { ready: true, .. })
    }

    fn is_available(&self) -> bool {
        matches!(
            self.phase,
            Phase::Running {
                ready: true,
                available: true
            }
        )
    }

    fn is_unavailable(&self) -> bool {
        !self.is_available() || self.terminating
    }
}

impl Spec {
    /// The replicas' ordinals.
    pub fn ordinals(&self) -> std::ops::Range<Ordinal> {
        self.start..self.start.saturating_add(self.replicas)
    }

    fn is_ordered(&self) -> bool {
        self.policy == Policy::OrderedReady
    }

    /// The revision of a replica that is made now.
    fn revision_for(&self, ordinal: Ordinal, current_replicas: u32) -> Revision {
        let kept = match self.strategy {
            Strategy::RollingUpdate {
                partition: Some(partition),
                ..
            } => partition,
            Strategy::RollingUpdate { partition: None, .. } => current_replicas,
            Strategy::OnDelete => 0,
        };
        if ordinal < self.start.saturating_add(kept) {
            Revision::Current
        } else {
            Revision::Update
        }
    }
}

/// What to do next.
pub fn plan(spec: &Spec, seen: &Observed) -> Vec<Action> {
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
    update(spec, &replicas, &mut actions);
    actions
}

/// Whether the plan goes on after a step.
#[derive(PartialEq, Eq)]
enum Next {
    Go,
    Wait,
}

type Replicas<'p> = BTreeMap<Ordinal, Option<&'p Pod>>;

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

/// Replaces pods of an old revision, from the highest ordinal down.
fn update(spec: &Spec, replicas: &Replicas<'_>, actions: &mut Vec<Action>) {
    let Strategy::RollingUpdate {
        partition,
        max_unavailable,
    } = spec.strategy
    else {
        return;
    };
    let lowest = spec.start.saturating_add(partition.unwrap_or(0));
    let present = || replicas.values().flatten().copied();
    let missing = replicas.values().filter(|pod| pod.is_none()).count();
    let unavailable = present().filter(|pod| pod.is_unavailable()).count() + missing;
    let mut budget = (max_unavailable as usize).saturating_sub(unavailable);
    let outdated: Vec<&Pod> = present()
        .rev()
        .filter(|pod| pod.ordinal >= lowest && !pod.is_update && !pod.terminating)
        .collect();
    let mut delete = |pod: &Pod| {
        actions.push(Action::DeletePod {
            ordinal: pod.ordinal,
            uid: pod.uid.clone(),
        })
    };
    match spec.policy {
        Policy::OrderedReady => outdated.iter().take(budget).for_each(|pod| delete(pod)),
        Policy::Parallel => {
            // What serves nobody can go without taking from the budget.
            for pod in outdated.iter().filter(|pod| !pod.is_available()) {
                delete(pod);
            }
            for pod in outdated.iter().filter(|pod| pod.is_available()) {
                if budget == 0 {
                    break;
                }
                delete(pod);
                budget -= 1;
            }
        }
    }
}

/// Whether a pod serves, for the status.
pub(super) fn is_ready(pod: &Pod) -> bool {
    pod.is_ready()
}

/// Whether a pod has served for long enough, for the status.
pub(super) fn is_available(pod: &Pod) -> bool {
    pod.is_available()
}

#[cfg(test)]
mod tests {
    use super::*;

    const ROLLING: Strategy = Strategy::RollingUpdate {
        partition: Some(0),
        max_unavailable: 1,
    };

    fn set(replicas: u32) -> Spec {
        Spec {
            replicas,
            start: 0,
            policy: Policy::OrderedReady,
            strategy: ROLLING,
            claims_go_on_scale_down: false,
            deleting: false,
        }
    }

    fn parallel(replicas: u32) -> Spec {
        Spec {
            policy: Policy::Parallel,
            ..set(replicas)
        }
    }

    fn pod(ordinal: Ordinal) -> Pod {
        Pod {
            ordinal,
            uid: format!("u{ordinal}"),
            phase: Phase::Running {
                ready: true,
                available: true,
            },
            terminating: false,
            is_update: true,
            identity_matches: true,
        }
    }

    fn unready(ordinal: Ordinal) -> Pod {
        Pod {
            phase: Phase::Running {
                ready: false,
                available: false,
            },
            ..pod(ordinal)
        }
    }

    fn terminating(ordinal: Ordinal) -> Pod {
        Pod {
            terminating: true,
            ..pod(ordinal)
        }
    }

    fn old(pod: Pod) -> Pod {
        Pod {
            is_update: false,
            ..pod
        }
    }

    fn create(ordinal: Ordinal) -> Action {
        Action::CreatePod {
            ordinal,
            revision: Revision::Update,
        }
    }

    fn delete(ordinal: Ordinal) -> Action {
        Action::DeletePod {
            ordinal,
            uid: format!("u{ordinal}"),
        }
    }

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
    fn a_rolling_update_goes_down_one_at_a_time() {
        check(set(3), &[old(pod(0)), old(pod(1)), old(pod(2))], &[delete(2)]);
        check(set(3), &[old(pod(0)), old(pod(1)), terminating(2)], &[]);
        check(set(3), &[old(pod(0)), old(pod(1)), unready(2)], &[]);
        check(set(3), &[old(pod(0)), old(pod(1)), pod(2)], &[delete(1)]);
    }

    #[test]
    fn a_partition_keeps_the_lower_replicas() {
        let partitioned = Spec {
            strategy: Strategy::RollingUpdate {
                partition: Some(2),
                max_unavailable: 1,
            },
            ..set(3)
        };
        check(partitioned.clone(), &[old(pod(0)), old(pod(1)), pod(2)], &[]);
        let recreated = Action::CreatePod {
            ordinal: 1,
            revision: Revision::Current,
        };
        check(partitioned, &[old(pod(0)), pod(2)], &[recreated]);
    }

    #[test]
    fn more_may_be_unavailable_if_the_set_says_so() {
        let two = Strategy::RollingUpdate {
            partition: Some(0),
            max_unavailable: 2,
        };
        let all_old = [old(pod(0)), old(pod(1)), old(pod(2))];
        check(
            Spec {
                strategy: two,
                ..set(3)
            },
            &all_old,
            &[delete(2), delete(1)],
        );
        let one_down = [old(pod(0)), old(unready(1)), old(pod(2))];
        // What is unavailable already goes first, and counts.
        check(
            Spec {
                strategy: two,
                ..parallel(3)
            },
            &one_down,
            &[delete(1), delete(2)],
        );
        check(parallel(3), &one_down, &[delete(1)]);
    }

    #[test]
    fn on_delete_replaces_nothing_by_itself() {
        let on_delete = Spec {
            strategy: Strategy::OnDelete,
            ..set(2)
        };
        check(on_delete.clone(), &[old(pod(0)), old(pod(1))], &[]);
        check(on_delete, &[old(pod(0))], &[create(1)]);
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
