//! Defects that the model must find: a test of the test.

use std::collections::BTreeMap;

use super::{Planner, check, settings};
use crate::statefulset::ordinals::LeftOut;
use crate::statefulset::plan::plan;
use crate::statefulset::state::{Action, Observed, Phase, Policy, Revision, Spec, Strategy};

/// The planner's view, changed.
fn blinded(spec: &Spec, seen: &Observed, change: impl FnOnce(&mut Spec, &mut Observed)) -> Vec<Action> {
    let (mut spec, mut seen) = (spec.clone(), seen.clone());
    change(&mut spec, &mut seen);
    plan(&spec, &seen)
}

const MUTANTS: &[(&str, Planner)] = &[
    ("ignores terminating pods", |spec, seen| {
        blinded(spec, seen, |_, seen| seen.pods.retain(|pod| !pod.terminating))
    }),
    ("takes terminating pods for running ones", |spec, seen| {
        blinded(spec, seen, |_, seen| {
            seen.pods.iter_mut().for_each(|pod| pod.terminating = false)
        })
    }),
    ("does not wait until pods are ready", |spec, seen| {
        blinded(spec, seen, |_, seen| {
            for pod in &mut seen.pods {
                if pod.phase != Phase::Ended {
                    pod.phase = Phase::Running {
                        ready: true,
                        available: true,
                    };
                }
            }
        })
    }),
    ("does not wait until pods are available", |spec, seen| {
        blinded(spec, seen, |_, seen| {
            for pod in &mut seen.pods {
                if let Phase::Running { ready, available } = &mut pod.phase {
                    *available = *ready;
                }
            }
        })
    }),
    ("updates below the partition", |spec, seen| {
        blinded(spec, seen, |spec, _| {
            if let Strategy::RollingUpdate { partition, .. } = &mut spec.strategy {
                *partition = 0;
            }
        })
    }),
    ("forgets the partition when it makes pods", |spec, seen| {
        let mut actions = plan(spec, seen);
        for action in &mut actions {
            if let Action::CreatePod { revision, .. } = action {
                *revision = Revision::Update;
            }
        }
        actions
    }),
    ("takes one pod too many for an update", |spec, seen| {
        blinded(spec, seen, |spec, _| {
            if let Strategy::RollingUpdate { max_unavailable, .. } = &mut spec.strategy {
                *max_unavailable += 1;
            }
        })
    }),
    (
        "does not count missing and terminating pods as unavailable",
        |spec, seen| {
            blinded(spec, seen, |spec, seen| {
                let gone = seen.pods.iter().filter(|pod| pod.terminating).count();
                if let Strategy::RollingUpdate { max_unavailable, .. } = &mut spec.strategy {
                    *max_unavailable += u32::try_from(gone).unwrap_or(0);
                }
            })
        },
    ),
    ("does all at once", |spec, seen| {
        blinded(spec, seen, |spec, _| spec.policy = Policy::Parallel)
    }),
    ("scales down from the lowest", |spec, seen| {
        let mut actions = plan(spec, seen);
        let ordinals = spec.ordinals();
        let beyond = |ordinal: &u32| !ordinals.contains(*ordinal);
        let lowest = seen
            .pods
            .iter()
            .filter(|pod| beyond(&pod.ordinal) && !pod.terminating);
        let lowest = lowest.min_by_key(|pod| pod.ordinal);
        for action in &mut actions {
            if let (Action::DeletePod { ordinal, uid }, Some(pod)) = (action, lowest)
                && beyond(ordinal)
            {
                *ordinal = pod.ordinal;
                uid.clone_from(&pod.uid);
            }
        }
        actions
    }),
    ("makes one replica too many", |spec, seen| {
        blinded(spec, seen, |spec, _| {
            spec.replicas = (spec.replicas + 1).min(2 - spec.start)
        })
    }),
    ("fills the holes", |spec, seen| {
        blinded(spec, seen, |spec, _| spec.left_out = LeftOut::default())
    }),
    ("makes pods beside claims that go", |spec, seen| {
        blinded(spec, seen, |_, seen| {
            for claims in seen.claims.values_mut() {
                claims.deleting = false;
                claims.doomed = false;
            }
        })
    }),
    ("makes pods with claims that others own", |spec, seen| {
        blinded(spec, seen, |_, seen| {
            seen.claims
                .values_mut()
                .for_each(|claims| claims.owners_differ = false)
        })
    }),
    ("does not see claims at all", |spec, seen| {
        blinded(spec, seen, |_, seen| seen.claims = BTreeMap::new())
    }),
    ("leaves pods that ended", |spec, seen| {
        blinded(spec, seen, |_, seen| {
            seen.pods.iter_mut().for_each(|pod| pod.held_back = true)
        })
    }),
    ("never scales down", |spec, seen| {
        blinded(spec, seen, |spec, seen| {
            let range = spec.ordinals();
            seen.pods.retain(|pod| range.contains(pod.ordinal));
        })
    }),
    ("does not heal", |spec, seen| {
        blinded(spec, seen, |spec, _| spec.heals = false)
    }),
    ("heals what is to wait", |spec, seen| {
        blinded(spec, seen, |spec, _| spec.heals = true)
    }),
    ("heals what served", |spec, seen| {
        blinded(spec, seen, |_, seen| {
            seen.pods.iter_mut().for_each(|pod| pod.never_ready = true)
        })
    }),
    ("replaces what is deleted only by people", |spec, seen| {
        blinded(spec, seen, |spec, _| {
            if spec.strategy == Strategy::OnDelete {
                spec.strategy = super::ONE_BY_ONE;
            }
        })
    }),
    ("recreates one by one", |spec, seen| {
        blinded(spec, seen, |spec, _| {
            if spec.strategy == Strategy::Recreate {
                spec.strategy = super::ONE_BY_ONE;
            }
        })
    }),
    ("never updates", |spec, seen| {
        blinded(spec, seen, |_, seen| {
            seen.pods.iter_mut().for_each(|pod| pod.is_update = true)
        })
    }),
    ("deletes twice", |spec, seen| {
        let mut actions = plan(spec, seen);
        let again = actions
            .iter()
            .find(|action| matches!(action, Action::DeletePod { .. }))
            .cloned();
        actions.extend(again);
        actions
    }),
];

#[test]
fn planted_defects_are_found() {
    // Two places are enough for all of them, and quickly explored.
    let mut settings = settings();
    settings.iter_mut().for_each(|setting| setting.places = 2);
    let unfound: Vec<&str> = MUTANTS
        .iter()
        .filter(|(_, planner)| check(*planner, &settings).is_ok())
        .map(|(name, _)| *name)
        .collect();
    assert!(unfound.is_empty(), "not found: {unfound:?}");
}
