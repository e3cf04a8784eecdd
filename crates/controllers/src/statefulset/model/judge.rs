//! The model's rules, asked of what was observed elsewhere: in the [simulation](super::super::simulation), where at most
//! one ordinal is left out.

use super::rules::Scene;
use super::world::{Being, Claim, Life, Place, Rev, Scale, Setting};
use crate::statefulset::state::{Action, Observed, Phase, Pod, Spec};

/// Whether actions that one look took are allowed in a state, of which claims are left to others.
pub(in crate::statefulset) fn allows(
    spec: &Spec,
    seen: &Observed,
    actions: &[Action],
) -> Result<(), &'static str> {
    if spec.deleting {
        return Err("acts for a set that goes");
    }
    for action in actions {
        if let Action::DeletePod { ordinal, uid } = action
            && !seen
                .pods
                .iter()
                .any(|pod| pod.ordinal == *ordinal && pod.uid == *uid)
        {
            return Err("deletes another pod than it saw");
        }
    }
    ask(spec, seen, false, |scene| scene.check(actions))
}

/// Whether a state in which nothing more happens is what the set asks for. `current_is_broken` says that pods of the
/// current revision never become ready.
pub(in crate::statefulset) fn has_arrived(
    spec: &Spec,
    seen: &Observed,
    current_is_broken: bool,
) -> Result<(), &'static str> {
    ask(spec, seen, current_is_broken, |scene| scene.check_end())
}

fn ask(
    spec: &Spec,
    seen: &Observed,
    current_is_broken: bool,
    question: impl FnOnce(&Scene<'_>) -> Result<(), &'static str>,
) -> Result<(), &'static str> {
    let beyond = seen.pods.iter().map(|pod| pod.ordinal + 1).max().unwrap_or(0);
    let empty = Place {
        pod: None,
        claim: Claim::Bound,
    };
    let end = spec.ordinals().iter().last().map_or(0, |last| last + 1);
    let mut places = vec![empty; beyond.max(end) as usize];
    for pod in &seen.pods {
        places[pod.ordinal as usize].pod = Some(being(pod));
    }
    let setting = Setting {
        policy: spec.policy,
        strategy: spec.strategy,
        heals: spec.heals,
        claims: false,
        places: places.len(),
        current_is_broken,
    };
    question(&Scene {
        setting: &setting,
        scale: Scale {
            start: spec.start,
            replicas: spec.replicas,
            left_out: spec.ordinals().holes(spec.start).parse().ok(),
        },
        places: &places,
    })
}

fn being(pod: &Pod) -> Being {
    Being {
        life: match pod.phase {
            Phase::Pending => Life::Pending,
            Phase::Ended => Life::Ended,
            Phase::Running { available: true, .. } => Life::Available,
            Phase::Running { ready: true, .. } => Life::Ready,
            Phase::Running { .. } if pod.never_ready => Life::Starting,
            Phase::Running { .. } => Life::Failing,
        },
        rev: match (pod.is_update, pod.is_current) {
            (true, _) => Rev::Update,
            (false, true) => Rev::Current,
            (false, false) => Rev::Stray,
        },
        terminating: pod.terminating,
    }
}
