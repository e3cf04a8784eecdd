//! What the planner knows of a set, and what it can decide: plain data, from which all that does not matter to
//! a decision has been taken ([`super::observe`] makes it, [`super::apply`] carries it out).

use std::collections::BTreeMap;

/// A replica's number, counted from zero whatever `spec.ordinals.start` says.
pub(super) type Ordinal = u32;

/// What the set asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Spec {
    /// How many replicas.
    pub(super) replicas: u32,
    /// The first replica's ordinal.
    pub(super) start: Ordinal,
    /// One after another, or all at once.
    pub(super) policy: Policy,
    /// How a new template reaches the replicas.
    pub(super) strategy: Strategy,
    /// Whether claims go with a scale-down; a claim that is on its way out blocks its replica then.
    pub(super) claims_go_on_scale_down: bool,
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
    /// At least one belongs to a former pod of the replica that is not wholly gone.
    pub(super) stale: bool,
    /// At least one has owner references other than the retention policy wants.
    pub(super) owners_differ: bool,
}

/// What was observed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Observed {
    /// All pods of the set, in any order.
    pub(super) pods: Vec<Pod>,
    /// The claims of each replica and of each pod outside the range; absent where the set has no
    /// claim templates.
    pub(super) claims: BTreeMap<Ordinal, Claims>,
    /// `status.currentReplicas`, which decides the revision where no `rollingUpdate` is given.
    pub(super) current_replicas: u32,
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

impl Spec {
    /// The replicas' ordinals.
    pub(super) fn ordinals(&self) -> std::ops::Range<Ordinal> {
        self.start..self.start.saturating_add(self.replicas)
    }

    pub(super) fn is_ordered(&self) -> bool {
        self.policy == Policy::OrderedReady
    }

    /// The revision of a replica that is made now.
    pub(super) fn revision_for(&self, ordinal: Ordinal, current_replicas: u32) -> Revision {
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

/// Pods and sets for tests, which then say only what matters to them.
#[cfg(test)]
pub(super) mod builders {
    use super::*;

    pub(in crate::statefulset) const ROLLING: Strategy = Strategy::RollingUpdate {
        partition: Some(0),
        max_unavailable: 1,
    };

    pub(in crate::statefulset) fn set(replicas: u32) -> Spec {
        Spec {
            replicas,
            start: 0,
            policy: Policy::OrderedReady,
            strategy: ROLLING,
            claims_go_on_scale_down: false,
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
