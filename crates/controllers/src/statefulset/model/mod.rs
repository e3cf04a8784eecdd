//! Model checking: every state that a set of up to three replicas can come to, whatever happens to its pods, claims,
//! template and scale, and wherever a server that carries out a plan dies. In each, the plan keeps the rules
//! ([`rules`]); from each, a fair schedule comes to what the set asks for.

mod judge;
mod mutants;
mod retention;
mod rules;
mod world;

use std::collections::VecDeque;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

pub(super) use self::judge::{allows, has_arrived};
use self::rules::Scene;
use self::world::{Place, SCALES, Scale, Setting, act};
use super::plan::plan;
use super::state::{Action, Observed, Policy, Spec, Strategy};

/// A planner: the real one, or one with a defect.
type Planner = fn(&Spec, &Observed) -> Vec<Action>;

/// How many states there were, or what is wrong.
type Outcome = Result<usize, String>;

const NOWHERE: u32 = u32::MAX;

/// Explores all states of a setting, from a set without pods.
struct Explorer<'e> {
    setting: &'e Setting,
    planner: Planner,
    alphabet: Vec<Place>,
    /// By [`code`], where a place is in the alphabet.
    index: Vec<u32>,
    /// What can become of a place.
    moves: Vec<Vec<u32>>,
    /// For each state, the one it was reached from; itself, where it all began.
    from: Vec<u32>,
    /// For each state that was reached, where a fair turn leads.
    turn: Vec<u32>,
    todo: VecDeque<u32>,
}

fn code(place: Place) -> usize {
    let pod = place.pod.map_or(0, |pod| {
        1 + pod.life as usize * 6 + pod.rev as usize * 2 + usize::from(pod.terminating)
    });
    pod * 5 + place.claim as usize
}

impl<'e> Explorer<'e> {
    fn new(setting: &'e Setting, planner: Planner) -> Explorer<'e> {
        let alphabet = setting.alphabet();
        let mut index = vec![NOWHERE; 37 * 5];
        for (at, place) in (0..).zip(&alphabet) {
            index[code(*place)] = at;
        }
        let moves = alphabet.iter().map(|place| {
            let moves = setting.moves(*place).into_iter();
            moves
                .map(|place| index[code(place)])
                .filter(|at| *at != NOWHERE)
                .collect()
        });
        let states = SCALES.len() * alphabet.len().pow(setting.places as u32);
        Explorer {
            setting,
            planner,
            moves: moves.collect(),
            index,
            alphabet,
            from: vec![NOWHERE; states],
            turn: vec![NOWHERE; states],
            todo: VecDeque::new(),
        }
    }

    /// A state's number; none if it is beyond the places or the alphabet.
    fn encode(&self, scale: usize, places: &[Place]) -> Option<u32> {
        let mut state = scale;
        for place in places.iter().rev() {
            let at = self.index[code(*place)];
            if at == NOWHERE {
                return None;
            }
            state = state * self.alphabet.len() + at as usize;
        }
        u32::try_from(state).ok()
    }

    fn decode(&self, state: u32) -> (usize, Vec<u32>) {
        let mut rest = state as usize;
        let mut places = Vec::with_capacity(self.setting.places);
        for _ in 0..self.setting.places {
            places.push((rest % self.alphabet.len()) as u32);
            rest /= self.alphabet.len();
        }
        (rest, places)
    }

    fn reach(&mut self, state: Option<u32>, from: u32) {
        if let Some(state) = state
            && self.from[state as usize] == NOWHERE
        {
            self.from[state as usize] = from;
            self.todo.push_back(state);
        }
    }

    fn explore(&mut self) -> Outcome {
        let nothing = Place {
            pod: None,
            claim: if self.setting.claims {
                world::Claim::Missing
            } else {
                world::Claim::Bound
            },
        };
        let start = self.encode(1, &vec![nothing; self.setting.places]);
        self.reach(start, start.unwrap_or(0));
        let mut count = 0;
        while let Some(state) = self.todo.pop_front() {
            count += 1;
            self.visit(state).map_err(|wrong| self.tell(state, wrong))?;
        }
        self.check_ends()?;
        Ok(count)
    }

    fn visit(&mut self, state: u32) -> Result<(), &'static str> {
        let (scale_at, indices) = self.decode(state);
        let scale = SCALES[scale_at];
        let places: Vec<Place> = indices.iter().map(|at| self.alphabet[*at as usize]).collect();
        let actions = self.plan(scale, &places);
        let setting = self.setting;
        let scene = Scene {
            setting,
            scale,
            places: &places,
        };
        scene.check(&actions)?;
        // A server may die after any of the writes, which are made side by side.
        let some = if actions.len() > 4 { 0 } else { 1 << actions.len() };
        for chosen in 1..some {
            let mut after = places.clone();
            let taken = actions
                .iter()
                .enumerate()
                .filter(|(at, _)| chosen & (1 << at) != 0);
            taken.for_each(|(_, action)| act(&mut after, action));
            let after = self.encode(scale_at, &after);
            self.reach(after, state);
        }
        let mut turn = places.clone();
        actions.iter().for_each(|action| act(&mut turn, action));
        let after = self.encode(scale_at, &turn);
        self.reach(after, state);
        turn.iter_mut().for_each(|place| *place = setting.get_on(*place));
        let turn = self.encode(scale_at, &turn);
        self.turn[state as usize] = turn.ok_or("leads out of the world")?;
        self.reach(turn, state);
        if turn == Some(state) {
            if !actions.is_empty() {
                return Err("never comes to rest");
            }
            scene.check_end()?;
        }
        let base = self.alphabet.len() as u32;
        let mut weight = 1;
        for at in indices {
            for next in 0..self.moves[at as usize].len() {
                let moved = self.moves[at as usize][next];
                self.reach(Some(state - at * weight + moved * weight), state);
            }
            weight *= base;
        }
        for places in setting.templates(scale, &places) {
            let changed = self.encode(scale_at, &places);
            self.reach(changed, state);
        }
        for (other, scale) in SCALES.iter().enumerate() {
            if scale.places() <= setting.places {
                let scaled = self.encode(other, &places);
                self.reach(scaled, state);
            }
        }
        Ok(())
    }

    fn plan(&self, scale: Scale, places: &[Place]) -> Vec<Action> {
        let seen = self.setting.observe(scale, places);
        (self.planner)(&self.setting.spec(scale), &seen)
    }

    /// Whether fair turns lead to an end from everywhere: no state comes back that is not an end.
    fn check_ends(&self) -> Result<(), String> {
        // The walk that a state was first seen on; none before.
        let mut walk = vec![NOWHERE; self.turn.len()];
        for start in (0..)
            .take(self.turn.len())
            .filter(|state| self.turn[*state as usize] != NOWHERE)
        {
            let mut state = start;
            while walk[state as usize] == NOWHERE {
                walk[state as usize] = start;
                state = self.turn[state as usize];
            }
            if walk[state as usize] == start && self.turn[state as usize] != state {
                return Err(self.tell(state, "goes round in circles"));
            }
        }
        Ok(())
    }

    /// What is wrong, and how it comes about.
    fn tell(&self, state: u32, wrong: &str) -> String {
        let mut path = vec![state];
        let mut at = state;
        while self.from[at as usize] != at {
            at = self.from[at as usize];
            path.push(at);
        }
        let mut told = format!("{wrong}: {:?}\n", self.setting);
        let skipped = path.len().saturating_sub(12);
        for state in path.into_iter().rev().skip(skipped) {
            let (scale, places) = self.decode(state);
            told += &format!("  {:?}:", SCALES[scale]);
            let places: Vec<Place> = places.iter().map(|at| self.alphabet[*at as usize]).collect();
            for place in &places {
                match place.pod {
                    None => told += " -",
                    Some(pod) => told += &format!(" {:?}/{:?}", pod.life, pod.rev),
                }
                told += if place.pod.is_some_and(|pod| pod.terminating) {
                    "/terminating"
                } else {
                    ""
                };
                if self.setting.claims {
                    told += &format!("+{:?}", place.claim);
                }
            }
            told += &format!("\n    plan: {:?}\n", self.plan(SCALES[scale], &places));
        }
        told
    }
}

fn strategies() -> Vec<Strategy> {
    let mut strategies = vec![Strategy::OnDelete, Strategy::Recreate];
    for partition in 0..=3 {
        for max_unavailable in 1..=2 {
            strategies.push(Strategy::RollingUpdate {
                partition,
                max_unavailable,
            });
        }
    }
    strategies
}

const ONE_BY_ONE: Strategy = Strategy::RollingUpdate {
    partition: 0,
    max_unavailable: 1,
};

/// All settings.
fn settings() -> Vec<Setting> {
    let mut settings = Vec::new();
    for policy in [Policy::OrderedReady, Policy::Parallel] {
        for strategy in strategies() {
            for current_is_broken in [false, true] {
                let plain = Setting {
                    policy,
                    strategy,
                    heals: true,
                    claims: false,
                    places: 3,
                    current_is_broken,
                };
                if strategy == ONE_BY_ONE {
                    settings.push(Setting {
                        heals: false,
                        ..plain.clone()
                    });
                }
                settings.push(plain);
            }
        }
        for strategy in [ONE_BY_ONE, Strategy::Recreate, Strategy::OnDelete] {
            for places in 2..=3 {
                settings.push(Setting {
                    policy,
                    strategy,
                    heals: true,
                    claims: true,
                    places,
                    current_is_broken: false,
                });
            }
        }
    }
    settings
}

/// Checks a planner in settings, side by side.
fn check(planner: Planner, settings: &[Setting]) -> Outcome {
    let next = AtomicUsize::new(0);
    let outcomes = Mutex::new(Vec::new());
    let workers = std::thread::available_parallelism().map_or(1, usize::from).min(8);
    std::thread::scope(|scope| {
        for _ in 0..workers {
            scope.spawn(|| {
                while let Some(setting) = settings.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let outcome = Explorer::new(setting, planner).explore();
                    let stop = outcome.is_err();
                    outcomes
                        .lock()
                        .unwrap_or_else(PoisonError::into_inner)
                        .push(outcome);
                    if stop {
                        next.store(settings.len(), Ordering::Relaxed);
                    }
                }
            });
        }
    });
    let outcomes = outcomes.into_inner().unwrap_or_else(PoisonError::into_inner);
    outcomes.into_iter().sum()
}

#[test]
fn every_state_keeps_the_rules_and_comes_to_its_end() {
    let states = check(plan, &settings()).unwrap_or_else(|wrong| panic!("{wrong}"));
    // If it were much less, something would not be reached any more.
    assert!(states > 8_000_000, "{states} states");
}
