//! What the planner knows of a set, and what it can decide: plain data, from which all that does not matter to
//! a decision has been taken ([`super::observe`] makes it, [`super::apply`] carries it out).

use std::collections::BTreeMap;

use super::growth::Growth;
use super::ordinals::{LeftOut, Ordinals};

/// A replica's number, counted from zero whatever `spec.ordinals.start` says.
pub(super) type Ordinal = u32;

/// What the set asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Spec {
    /// How many replicas.
    pub(super) replicas: u32,
    /// The first replica's ordinal.
    pub(super) start: Ordinal,
    /// Ordinals that there are to be no replicas of.
    pub(super) left_out: LeftOut,
    /// One after another, or all at once.
    pub(super) policy: Policy,
    /// How a new template reaches the replicas.
    pub(super) strategy: Strategy,
    /// Whether a broken rollout heals by itself ([`super::rollout::heal`]).
    pub(super) heals: bool,
    /// Whether claims follow their templates ([`super::rollout::grow_claims`]).
    pub(super) grows: bool,
    /// The set itself is on its way out.
    pub(super) deleting: bool,
}

/// `podManagementPolicy`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Policy {
    /// `OrderedReady`.
    OrderedReady,
    /// `Parallel`.
    Parallel,
}

/// `updateStrategy`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Strategy {
    /// Replicas below the partition (counted from the first) keep their revision; at most
    /// `max_unavailable` others are replaced at a time.
    RollingUpdate {
        /// `partition`; zero where `rollingUpdate` is not given at all.
        partition: u32,
        /// `maxUnavailable` as a number, at least one.
        max_unavailable: u32,
    },
    /// A pod gets the new template when somebody deletes it.
    OnDelete,
    /// All pods of other revisions go, and only when they are gone are new ones made (KEP-3541).
    Recreate,
}

/// Which of the set's two live revisions.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Revision {
    /// The one that the set was last wholly at.
    Current,
    /// The one that its template is.
    Update,
}

/// How far a pod has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Phase {
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
pub(super) struct Pod {
    /// From its name.
    pub(super) ordinal: Ordinal,
    /// Its uid, so that no other pod of the name is meant.
    pub(super) uid: String,
    /// How far it has come.
    pub(super) phase: Phase,
    /// Its deletion has been asked for.
    pub(super) terminating: bool,
    /// Made from the update revision?
    pub(super) is_update: bool,
    /// Made from the current revision, the one that the set was last wholly at?
    pub(super) is_current: bool,
    /// It has not been ready since it started, for certain.
    pub(super) never_ready: bool,
    /// It ended, and stays for a while: those before it ended early, too ([`super::backoff`]).
    pub(super) held_back: bool,
    /// Its labels and volumes are as the set wants them.
    pub(super) identity_matches: bool,
}

/// The claims of a replica, all together.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Claims {
    /// At least one is not there.
    pub(super) missing: bool,
    /// At least one is on its way out.
    pub(super) deleting: bool,
    /// At least one belongs to a former pod or a former set, and goes with it.
    pub(super) doomed: bool,
    /// At least one has owner references other than the retention policy wants.
    pub(super) owners_differ: bool,
    /// How the one that is the least so is like its template.
    pub(super) growth: Growth,
}

/// What was observed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Observed {
    /// All pods of the set, in any order.
    pub(super) pods: Vec<Pod>,
    /// The claims of each pod, and of each replica that may be made now ([`Spec::to_make`]); absent where
    /// the set has no claim templates.
    pub(super) claims: BTreeMap<Ordinal, Claims>,
}

impl Observed {
    /// How a pod's claims stand to their templates, if they are to follow them.
    pub(super) fn growth_of(&self, pod: &Pod, spec: &Spec, lowest: Ordinal) -> Growth {
        let claims = self.claims.get(&pod.ordinal);
        let growth = claims.map_or(Growth::Done, |claims| claims.growth);
        if growth != Growth::Done && spec.grows_claims_of(pod, lowest) {
            growth
        } else {
            Growth::Done
        }
    }
}

/// One thing to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Action {
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
    /// Have a replica's claims follow their templates.
    GrowClaims {
        /// Which replica.
        ordinal: Ordinal,
    },
}

impl Pod {
    pub(super) fn is_ready(&self) -> bool {
        matches!(self.phase, Phase::Running { ready: true, .. })
    }

    pub(super) fn is_available(&self) -> bool {
        matches!(
            self.phase,
            Phase::Running {
                ready: true,
                available: true
            }
        )
    }

    pub(super) fn is_unavailable(&self) -> bool {
        !self.is_available() || self.terminating
    }
}

/// Pods that one look makes at the most. What is asked for may be two billions, and there is one server for
/// all sets.
const MOST_MADE: usize = 500;

impl Spec {
    /// The replicas that are not there and may be made now, given all pods.
    pub(super) fn to_make(&self, pods: &[Pod]) -> Vec<Ordinal> {
        let most = if self.is_ordered() { 1 } else { MOST_MADE };
        // There is a missing one, if any, among so many.
        let among: Vec<Ordinal> = self.ordinals().iter().take(pods.len() + most).collect();
        let mut is_there = vec![false; among.len()];
        for pod in pods {
            if let Ok(at) = among.binary_search(&pod.ordinal) {
                is_there[at] = true;
            }
        }
        let missing = among.into_iter().zip(is_there).filter(|(_, is_there)| !is_there);
        missing.map(|(ordinal, _)| ordinal).take(most).collect()
    }

    /// The replicas' ordinals.
    pub(super) fn ordinals(&self) -> Ordinals {
        Ordinals::new(self.start, self.replicas, &self.left_out)
    }

    /// The lowest ordinal that a new template may reach: as many replicas as the partition says are below it.
    pub(super) fn lowest(&self) -> Ordinal {
        match self.strategy {
            Strategy::RollingUpdate { partition, .. } => self.ordinals().after(partition),
            Strategy::OnDelete | Strategy::Recreate => 0,
        }
    }

    pub(super) fn is_ordered(&self) -> bool {
        self.policy == Policy::OrderedReady
    }

    /// Whether the claims of a pod are to follow their templates: with the strategy and the partition, as the pod.
    /// Where pods are not replaced by the set itself, those of pods that have the newest template are. `lowest` is
    /// [`Spec::lowest`].
    fn grows_claims_of(&self, pod: &Pod, lowest: Ordinal) -> bool {
        let is_rolling = matches!(self.strategy, Strategy::RollingUpdate { .. });
        self.grows && pod.ordinal >= lowest && (is_rolling || pod.is_update)
    }

    /// The revision of a replica that is made now. (Upstream, `status.currentReplicas` stands for the partition where
    /// `rollingUpdate` is not given. That number is of the past, so that a pod could be made of the revision that
    /// it is about to be replaced for, again and again.)
    pub(super) fn revision_for(&self, ordinal: Ordinal) -> Revision {
        if ordinal < self.lowest() {
            Revision::Current
        } else {
            Revision::Update
        }
    }
}

/// Pods and sets for tests, which then say only what matters to them.
#[cfg(test)]
pub(super) mod builders {
    use super::*;

    pub(in crate::statefulset) const ROLLING: Strategy = Strategy::RollingUpdate {
        partition: 0,
        max_unavailable: 1,
    };

    pub(in crate::statefulset) fn set(replicas: u32) -> Spec {
        Spec {
            replicas,
            start: 0,
            left_out: LeftOut::default(),
            policy: Policy::OrderedReady,
            strategy: ROLLING,
            heals: true,
            grows: true,
            deleting: false,
        }
    }

    pub(in crate::statefulset) fn parallel(replicas: u32) -> Spec {
        Spec {
            policy: Policy::Parallel,
            ..set(replicas)
        }
    }

    pub(in crate::statefulset) fn pod(ordinal: Ordinal) -> Pod {
        Pod {
            ordinal,
            uid: format!("u{ordinal}"),
            phase: Phase::Running {
                ready: true,
                available: true,
            },
            terminating: false,
            is_update: true,
            is_current: false,
            never_ready: false,
            held_back: false,
            identity_matches: true,
        }
    }

    pub(in crate::statefulset) fn unready(ordinal: Ordinal) -> Pod {
        Pod {
            phase: Phase::Running {
                ready: false,
                available: false,
            },
            ..pod(ordinal)
        }
    }

    pub(in crate::statefulset) fn terminating(ordinal: Ordinal) -> Pod {
        Pod {
            terminating: true,
            ..pod(ordinal)
        }
    }

    pub(in crate::statefulset) fn old(pod: Pod) -> Pod {
        Pod {
            is_update: false,
            is_current: true,
            ..pod
        }
    }

    /// Of a revision that is neither the current nor the update one.
    pub(in crate::statefulset) fn stray(pod: Pod) -> Pod {
        Pod {
            is_update: false,
            is_current: false,
            ..pod
        }
    }

    pub(in crate::statefulset) fn create(ordinal: Ordinal) -> Action {
        Action::CreatePod {
            ordinal,
            revision: Revision::Update,
        }
    }

    pub(in crate::statefulset) fn delete(ordinal: Ordinal) -> Action {
        Action::DeletePod {
            ordinal,
            uid: format!("u{ordinal}"),
        }
    }
}
