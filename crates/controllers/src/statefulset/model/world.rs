//! The world that the planner is checked in: up to three places for pods and their claims, and everything that can
//! happen to them.

use std::collections::BTreeMap;

use crate::statefulset::growth::Growth;
use crate::statefulset::ordinals::LeftOut;
use crate::statefulset::state::{Action, Claims, Observed, Phase, Pod, Policy, Revision, Spec, Strategy};

/// How far a pod has come. What has not been ready yet differs from what is so no longer.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Life {
    Pending,
    Starting,
    Failing,
    Ready,
    Available,
    Ended,
}

/// The revision of a pod: the template's, the one that the set was last wholly at, or another.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Rev {
    Update,
    Current,
    Stray,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Being {
    pub(super) life: Life,
    pub(super) rev: Rev,
    pub(super) terminating: bool,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Claim {
    Bound,
    Missing,
    /// Its deletion has been asked for.
    Deleting,
    /// It belongs to a former pod, and goes with it.
    Doomed,
    /// It belongs to a former pod, but the policy has been changed to keep it.
    Former,
}

/// A replica's place.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Place {
    pub(super) pod: Option<Being>,
    pub(super) claim: Claim,
}

/// What does not change during one exploration.
#[derive(Clone, Debug)]
pub(super) struct Setting {
    pub(super) policy: Policy,
    pub(super) strategy: Strategy,
    pub(super) heals: bool,
    /// Whether there are claims.
    pub(super) claims: bool,
    /// How many places there are.
    pub(super) places: usize,
    /// Whether pods of the current revision that have not been ready never will be.
    pub(super) current_is_broken: bool,
}

/// What replicas there are to be.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Scale {
    pub(super) start: u32,
    pub(super) replicas: u32,
    pub(super) left_out: Option<u32>,
}

const fn scale(start: u32, replicas: u32) -> Scale {
    Scale {
        start,
        replicas,
        left_out: None,
    }
}

const fn without(left_out: u32, replicas: u32) -> Scale {
    Scale {
        left_out: Some(left_out),
        ..scale(0, replicas)
    }
}

/// All that a set can be scaled to: any number of replicas, ordinals that start elsewhere, or have a hole.
pub(super) const SCALES: [Scale; 9] = [
    scale(0, 0),
    scale(0, 1),
    scale(0, 2),
    scale(0, 3),
    scale(1, 2),
    scale(1, 1),
    without(1, 2),
    without(1, 1),
    without(0, 1),
];

impl Scale {
    /// The replicas' ordinals.
    pub(super) fn ordinals(self) -> impl DoubleEndedIterator<Item = u32> + Clone {
        let end = self.start + self.replicas;
        let hole = self.left_out.filter(|hole| (self.start..end).contains(hole));
        (self.start..end + u32::from(hole.is_some())).filter(move |at| Some(*at) != hole)
    }

    /// How many places it needs.
    pub(super) fn places(self) -> usize {
        self.ordinals().next_back().map_or(0, |last| last as usize + 1)
    }
}

const LIVES: [Life; 6] = [
    Life::Pending,
    Life::Starting,
    Life::Failing,
    Life::Ready,
    Life::Available,
    Life::Ended,
];
const REVS: [Rev; 3] = [Rev::Update, Rev::Current, Rev::Stray];
const CLAIMS: [Claim; 5] = [
    Claim::Bound,
    Claim::Missing,
    Claim::Deleting,
    Claim::Doomed,
    Claim::Former,
];

impl Being {
    pub(super) fn is_ready(self) -> bool {
        matches!(self.life, Life::Ready | Life::Available)
    }

    pub(super) fn is_available(self) -> bool {
        self.life == Life::Available && !self.terminating
    }
}

impl Setting {
    pub(super) fn spec(&self, scale: Scale) -> Spec {
        Spec {
            replicas: scale.replicas,
            start: scale.start,
            left_out: scale.left_out.map_or_else(LeftOut::default, |hole| {
                LeftOut::parse(&hole.to_string()).expect("an ordinal")
            }),
            policy: self.policy,
            strategy: self.strategy,
            heals: self.heals,
            grows: true,
            deleting: false,
        }
    }

    pub(super) fn is_ordered(&self) -> bool {
        self.policy == Policy::OrderedReady
    }

    /// All that a place can be. With claims, there are three places only if pods are of one revision and either
    /// start or run: the rest is independent of claims.
    pub(super) fn alphabet(&self) -> Vec<Place> {
        let mut pods: Vec<Option<Being>> = vec![None];
        for life in LIVES {
            for rev in REVS {
                for terminating in [false, true] {
                    pods.push(Some(Being {
                        life,
                        rev,
                        terminating,
                    }));
                }
            }
        }
        let is_small = self.claims && self.places > 2;
        let is_in = |pod: &Option<Being>| {
            pod.is_none_or(|pod| {
                pod.rev == Rev::Update && matches!(pod.life, Life::Pending | Life::Available | Life::Ended)
            })
        };
        pods.retain(|pod| !is_small || is_in(pod));
        let claims = if self.claims { &CLAIMS[..] } else { &CLAIMS[..1] };
        let place = |pod: &Option<Being>| {
            let pod = *pod;
            claims.iter().map(move |claim| Place { pod, claim: *claim })
        };
        pods.iter().flat_map(place).collect()
    }

    /// What the planner sees of a state.
    pub(super) fn observe(&self, scale: Scale, places: &[Place]) -> Observed {
        let mut pods = Vec::new();
        let mut claims = BTreeMap::new();
        for (ordinal, place) in (0..).zip(places) {
            if let Some(pod) = place.pod {
                pods.push(Pod {
                    ordinal,
                    uid: String::from(["0", "1", "2"][ordinal as usize]),
                    phase: match pod.life {
                        Life::Pending => Phase::Pending,
                        Life::Ended => Phase::Ended,
                        _ => Phase::Running {
                            ready: pod.is_ready(),
                            available: pod.life == Life::Available,
                        },
                    },
                    terminating: pod.terminating,
                    is_update: pod.rev == Rev::Update,
                    is_current: pod.rev == Rev::Current,
                    never_ready: matches!(pod.life, Life::Pending | Life::Starting),
                    held_back: false,
                    identity_matches: true,
                });
            }
            if self.claims && (place.pod.is_some() || scale.ordinals().any(|at| at == ordinal)) {
                claims.insert(
                    ordinal,
                    Claims {
                        missing: place.claim == Claim::Missing,
                        deleting: place.claim == Claim::Deleting,
                        doomed: place.claim == Claim::Doomed,
                        owners_differ: place.claim == Claim::Former,
                        growth: Growth::Done,
                    },
                );
            }
        }
        Observed { pods, claims }
    }

    /// A turn of a fair schedule, after the planner's: what is to end ends, and what can get on does.
    pub(super) fn get_on(&self, place: Place) -> Place {
        let pod = place.pod.filter(|pod| !pod.terminating).map(|mut pod| {
            let is_good = match pod.rev {
                Rev::Update => true,
                Rev::Current => !self.current_is_broken,
                Rev::Stray => false,
            };
            pod.life = match pod.life {
                Life::Ended => Life::Ended,
                Life::Ready | Life::Available => Life::Available,
                _ if is_good => Life::Available,
                Life::Pending => Life::Starting,
                same => same,
            };
            pod
        });
        let claim = match place.claim {
            Claim::Doomed => Claim::Deleting,
            Claim::Deleting if place.pod.is_none() => Claim::Missing,
            same => same,
        };
        Place { pod, claim }
    }

    /// All that can happen to a place but for what the planner does: its pod gets on, fails, is deleted, goes;
    /// its claim is deleted, goes, and changes hands.
    pub(super) fn moves(&self, place: Place) -> Vec<Place> {
        let mut moves = Vec::new();
        if let Some(pod) = place.pod {
            let lives: &[Life] = match pod.life {
                Life::Pending => &[Life::Starting, Life::Available, Life::Ended],
                Life::Starting => &[Life::Ready, Life::Ended],
                Life::Failing => &[Life::Ready, Life::Ended],
                Life::Ready => &[Life::Available, Life::Failing, Life::Ended],
                Life::Available => &[Life::Failing, Life::Ended],
                Life::Ended => &[],
            };
            let with = |pod: Option<Being>| Place { pod, ..place };
            moves.extend(lives.iter().map(|life| with(Some(Being { life: *life, ..pod }))));
            moves.push(with((!pod.terminating).then_some(Being {
                terminating: true,
                ..pod
            })));
        }
        if self.claims {
            let claims: &[Claim] = match (place.claim, place.pod) {
                (Claim::Bound, None) => &[Claim::Deleting, Claim::Doomed, Claim::Former],
                (Claim::Bound, Some(_)) => &[Claim::Deleting],
                (Claim::Deleting, None) => &[Claim::Missing],
                (Claim::Deleting, Some(_)) | (Claim::Missing, _) => &[],
                (Claim::Doomed, _) => &[Claim::Deleting],
                (Claim::Former, _) => &[Claim::Deleting, Claim::Doomed],
            };
            moves.extend(claims.iter().map(|claim| Place {
                claim: *claim,
                ..place
            }));
        }
        moves
    }

    /// What becomes of the revisions when the template is changed: to a new one, or back to the current one.
    pub(super) fn templates(&self, scale: Scale, places: &[Place]) -> Vec<Vec<Place>> {
        let is_there = |at: u32| {
            let pod = places[at as usize].pod;
            pod.is_some_and(|pod| pod.rev == Rev::Update && pod.is_ready() && !pod.terminating)
        };
        let pods = places.iter().filter(|place| place.pod.is_some()).count();
        let is_whole = pods == scale.replicas as usize && scale.ordinals().all(is_there);
        let change = |update: Rev, current: Rev| -> Vec<Place> {
            let mut places = places.to_vec();
            for pod in places.iter_mut().filter_map(|place| place.pod.as_mut()) {
                pod.rev = match pod.rev {
                    Rev::Update => update,
                    Rev::Current => current,
                    Rev::Stray => Rev::Stray,
                };
            }
            places
        };
        // When all are updated, their revision is the current one.
        let is_promoted = is_whole && self.strategy != Strategy::OnDelete;
        let new = if is_promoted {
            change(Rev::Current, Rev::Stray)
        } else {
            change(Rev::Stray, Rev::Current)
        };
        vec![new, change(Rev::Stray, Rev::Update)]
    }
}

/// Carries an action out.
pub(super) fn act(places: &mut [Place], action: &Action) {
    match action {
        Action::CreatePod { ordinal, revision } => {
            let place = &mut places[*ordinal as usize];
            place.pod = Some(Being {
                life: Life::Pending,
                rev: match revision {
                    Revision::Current => Rev::Current,
                    Revision::Update => Rev::Update,
                },
                terminating: false,
            });
            if place.claim == Claim::Missing {
                place.claim = Claim::Bound;
            }
        }
        Action::DeletePod { ordinal, .. } => {
            if let Some(pod) = &mut places[*ordinal as usize].pod {
                pod.terminating = true;
            }
        }
        Action::CreateClaims { ordinal } => {
            let claim = &mut places[*ordinal as usize].claim;
            if *claim == Claim::Missing {
                *claim = Claim::Bound;
            }
        }
        Action::FixClaims { ordinal } => {
            let claim = &mut places[*ordinal as usize].claim;
            if *claim == Claim::Former {
                *claim = Claim::Bound;
            }
        }
        Action::FixPod { .. } | Action::GrowClaims { .. } => {}
    }
}
