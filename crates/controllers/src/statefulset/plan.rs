//! What to do next for a StatefulSet: a pure function of what was observed.
//!
//! Follows "Deployment and Scaling Guarantees" of the StatefulSet page, and is meant to be read beside
//! `defaultStatefulSetControl.updateStatefulSet`. It has no client and no clock ([`super::state`] is all it
//! knows). How a new template reaches the replicas is in [`super::rollout`].
//!
//! The plan of one look never depends on its own actions having been carried out: what must come
//! after them is for the next look, which the changes they cause bring about.

use super::rollout::{clear_outdated, grow_claims, heal, is_broken, replace_outdated};
use super::state::{Action, Observed, Ordinal, Phase, Pod, Spec, Strategy};

/// What to do next.
pub(super) fn plan(spec: &Spec, seen: &Observed) -> Vec<Action> {
    if spec.deleting {
        return Vec::new();
    }
    let (replicas, condemned) = partition(spec, &seen.pods);
    let mut actions = Vec::new();
    // A pod may be down because its disk is full: claims wait for none.
    grow_claims(spec, seen, &replicas, &mut actions);
    if spec.strategy == Strategy::Recreate && seen.pods.iter().any(|pod| !pod.is_update) {
        fix_claims(seen, &condemned, &mut actions);
        clear_outdated(seen, &mut actions);
        return actions;
    }
    for (ordinal, pod) in &replicas.0 {
        let next = replica(spec, seen, *ordinal, *pod, &mut actions);
        if next == Next::Wait && spec.is_ordered() {
            heal(spec, &replicas, &mut actions);
            return actions;
        }
    }
    fix_claims(seen, &condemned, &mut actions);
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

/// The replicas that are to be, by ordinal, with the pods that there are. Of those without a pod only those that may
/// be made now, as there may be any number of them.
pub(super) struct Replicas<'p>(Vec<(Ordinal, Option<&'p Pod>)>);

impl<'p> Replicas<'p> {
    /// From the lowest up; none where there is no pod.
    pub(super) fn all(&self) -> impl Iterator<Item = Option<&'p Pod>> {
        self.0.iter().map(|(_, pod)| *pod)
    }

    /// The pods, from the lowest up.
    pub(super) fn pods(&self) -> impl DoubleEndedIterator<Item = &'p Pod> {
        self.0.iter().filter_map(|(_, pod)| *pod)
    }
}

/// The pods that are to be, by ordinal, with holes; and those that are not, highest first.
fn partition<'p>(spec: &Spec, pods: &'p [Pod]) -> (Replicas<'p>, Vec<&'p Pod>) {
    let range = spec.ordinals();
    let missing = spec.to_make(pods).into_iter();
    let mut replicas: Vec<_> = missing.map(|ordinal| (ordinal, None)).collect();
    let mut condemned = Vec::new();
    for pod in pods {
        if range.contains(pod.ordinal) {
            replicas.push((pod.ordinal, Some(pod)));
        } else {
            condemned.push(pod);
        }
    }
    replicas.sort_unstable_by_key(|(ordinal, _)| *ordinal);
    condemned.sort_by_key(|pod| std::cmp::Reverse(pod.ordinal));
    (Replicas(replicas), condemned)
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
        // A claim that goes must be gone before it is made anew; one that would go by mistake is kept first.
        if claims.deleting || claims.doomed {
            return Next::Wait;
        }
        if claims.owners_differ {
            actions.push(Action::FixClaims { ordinal });
        } else {
            let revision = spec.revision_for(ordinal);
            actions.push(Action::CreatePod { ordinal, revision });
        }
        return Next::Wait;
    };
    if pod.phase == Phase::Ended {
        if !pod.terminating && !pod.held_back {
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

/// Has the owners of the claims of the condemned put right, before they go.
fn fix_claims(seen: &Observed, condemned: &[&Pod], actions: &mut Vec<Action>) {
    let differ = |pod: &&&Pod| {
        let claims = seen.claims.get(&pod.ordinal);
        claims.is_some_and(|claims| claims.owners_differ)
    };
    let ordinals = condemned.iter().filter(differ).map(|pod| pod.ordinal);
    actions.extend(ordinals.map(|ordinal| Action::FixClaims { ordinal }));
}

/// Takes the highest of the condemned, in order, or all of them at once.
fn scale_down(spec: &Spec, replicas: &Replicas<'_>, condemned: &[&Pod], actions: &mut Vec<Action>) -> Next {
    // An unhealthy pod may go though it is unhealthy, if it is what everything waits for.
    let first_unhealthy = replicas
        .pods()
        .find(|pod| pod.is_unavailable())
        .or_else(|| condemned.iter().rev().copied().find(|pod| pod.is_unavailable()))
        .map(|pod| pod.uid.as_str());
    for pod in condemned {
        if pod.terminating {
            if spec.is_ordered() {
                return Next::Wait;
            }
            continue;
        }
        // What will not get ready any more would be waited for in vain, as it is upstream.
        let is_lost = pod.phase == Phase::Ended || spec.heals && is_broken(pod);
        let may_go = pod.is_available() || is_lost || first_unhealthy == Some(pod.uid.as_str());
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
mod tests;
