//! The world of one simulation: the API server's objects, what is going to happen, who controls, and what is known of
//! each look that a controller takes.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use serde_json::Value;
use tokio::sync::Notify;
use tokio::time::Instant;

use super::mutants::Defect;
use super::node::Happening;
use super::store::{Kind, Object, Store};

/// The one set that all is about.
pub(super) const SET: &str = "web";
pub(super) const NAMESPACE: &str = "default";
/// How long a look waits until its caches have what the controller wrote: `Informer::caught_up`'s patience.
const PATIENCE: u64 = 5000;

/// All that there is. One thread runs all of it: the lock is never waited for.
#[derive(Clone)]
pub(super) struct World(Arc<Mutex<State>>);

pub(super) struct State {
    pub(super) store: Store,
    pub(super) rng: fastrand::Rng,
    started: Instant,
    /// Whether there are faults: of the network, of pods, of people.
    pub(super) is_faulty: bool,
    pub(super) controllers: Vec<Controller>,
    pub(super) looks: Vec<Look>,
    /// The image of each revision that there ever was, which tells templates apart.
    pub(super) images: BTreeMap<String, String>,
    /// How many claims each replica has, whichever set it is of: pods cannot be given others.
    pub(super) claims: usize,
    /// When a controller wrote last.
    pub(super) wrote_at: u64,
    /// What happened, line by line, if it is to be told.
    pub(super) trace: Option<Vec<String>>,
    /// The first rule that was broken.
    pub(super) wrong: Option<String>,
    /// Hears of a broken rule, and of a crash.
    pub(super) alarm: Arc<Notify>,
    agenda: BTreeMap<(u64, u64), Happening>,
    agenda_changed: Arc<Notify>,
    tickets: u64,
}

/// A process of the controller.
pub(super) struct Controller {
    pub(super) is_alive: bool,
    /// After how many requests it dies.
    pub(super) dies_after: Option<u32>,
    pub(super) defect: &'static Defect,
    /// What its watches have shown it of each kind.
    shown: [Shown; 4],
    /// The newest version of each kind that it wrote and knows it wrote.
    wrote: [u64; 4],
    pub(super) look: Option<usize>,
}

#[derive(Clone, Copy, Default)]
struct Shown {
    version: u64,
    /// The version before that moment, and the moment: caches get to it within the moment.
    before: u64,
    at: u64,
}

/// What a look at the set could see, and what it did.
pub(super) struct Look {
    pub(super) controller: usize,
    /// The versions that its caches had at the least: what had been shown, and what the controller itself had written.
    from: [u64; 4],
    /// When it began, what had been shown by then, and the versions that there were.
    at: u64,
    shown: [u64; 4],
    pub(super) began: [u64; 4],
    /// When it decided, and the versions that its caches had at the most.
    pub(super) decided: Option<(u64, [u64; 4])>,
    pub(super) deeds: Vec<Deed>,
    /// Whether one of its requests was refused, and whether so was the revision of the set's template.
    pub(super) has_failed: bool,
    pub(super) is_refused: bool,
    /// The pods that it adopted and released, by uid, as they were then.
    pub(super) patched: BTreeMap<String, Object>,
}

/// A pod that was made or deleted.
#[derive(Clone)]
pub(super) enum Deed {
    Create { ordinal: u32, revision: String },
    Delete { ordinal: u32, uid: String },
}

impl Look {
    /// The versions that its caches have, or had when it decided, at the least.
    pub(super) fn held(&self, now: u64) -> [u64; 4] {
        let at = self.decided.map_or(now, |(at, _)| at);
        if at < self.at + PATIENCE {
            self.from
        } else {
            self.shown
        }
    }
}

impl World {
    pub(super) fn new(seed: u64, is_told: bool) -> World {
        let mut rng = fastrand::Rng::with_seed(seed);
        let claims = rng.usize(0..3);
        World(Arc::new(Mutex::new(State {
            store: Store::new(),
            rng,
            claims,
            started: Instant::now(),
            is_faulty: true,
            controllers: Vec::new(),
            looks: Vec::new(),
            images: BTreeMap::new(),
            wrote_at: 0,
            trace: is_told.then(Vec::new),
            wrong: None,
            alarm: Arc::default(),
            agenda: BTreeMap::new(),
            agenda_changed: Arc::default(),
            tickets: 0,
        })))
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Lets happen what is on the agenda, until dropped.
    pub(super) async fn turn(self) {
        let (started, changed) = {
            let state = self.lock();
            (state.started, Arc::clone(&state.agenda_changed))
        };
        loop {
            let next = {
                let mut state = self.lock();
                let now = state.now();
                match state.agenda.first_key_value().map(|(due, _)| *due) {
                    Some(due) if due.0 <= now => {
                        if let Some(happening) = state.agenda.remove(&due) {
                            state.happen(happening);
                        }
                        continue;
                    }
                    next => next,
                }
            };
            match next {
                None => changed.notified().await,
                Some((due, _)) => {
                    let due = started + std::time::Duration::from_millis(due);
                    tokio::select! {
                        biased;
                        () = changed.notified() => {}
                        () = tokio::time::sleep_until(due) => {}
                    }
                }
            }
        }
    }
}

impl State {
    /// Milliseconds since the beginning.
    pub(super) fn now(&self) -> u64 {
        self.started.elapsed().as_millis() as u64
    }

    /// Whether something that happens once in `n` times does.
    pub(super) fn one_in(&mut self, n: u64) -> bool {
        self.rng.u64(0..n) == 0
    }

    /// Puts something on the agenda.
    pub(super) fn plan(&mut self, after: u64, happening: Happening) {
        self.tickets += 1;
        let due = (self.now() + after, self.tickets);
        self.agenda.insert(due, happening);
        self.agenda_changed.notify_one();
    }

    /// Notes what happened, if it is to be told.
    pub(super) fn tell(&mut self, who: &str, what: impl FnOnce() -> String) {
        let now = self.now();
        if let Some(trace) = &mut self.trace {
            trace.push(format!(
                "{:>5}.{:03} {who:<13} {}",
                now / 1000,
                now % 1000,
                what()
            ));
        }
    }

    /// Notes that a rule was broken.
    pub(super) fn accuse(&mut self, rule: String) {
        self.tell("RULE", || rule.clone());
        self.wrong.get_or_insert(rule);
        self.alarm.notify_one();
    }

    /// A new process of the controller, which knows nothing yet.
    pub(super) fn add_controller(&mut self, defect: &'static Defect) -> usize {
        self.controllers.push(Controller {
            is_alive: true,
            dies_after: None,
            defect,
            shown: [Shown::default(); 4],
            wrote: [0; 4],
            look: None,
        });
        self.controllers.len() - 1
    }

    /// A watch has shown a controller this version.
    pub(super) fn show(&mut self, controller: usize, kind: Kind, version: u64) {
        let now = self.now();
        let shown = &mut self.controllers[controller].shown[kind as usize];
        if shown.at < now {
            shown.before = shown.version;
            shown.at = now;
        }
        shown.version = shown.version.max(version);
    }

    /// A controller has been told that it wrote this version.
    pub(super) fn acknowledge(&mut self, controller: usize, kind: Kind, version: u64) {
        let wrote = &mut self.controllers[controller].wrote[kind as usize];
        *wrote = version.max(*wrote);
    }

    pub(super) fn begin_look(&mut self, controller: usize) {
        let now = self.now();
        let process = &self.controllers[controller];
        let settled = |shown: Shown| {
            if shown.at < now {
                shown.version
            } else {
                shown.before
            }
        };
        let shown = process.shown.map(settled);
        let from = std::array::from_fn(|kind| shown[kind].max(process.wrote[kind]));
        let began = Kind::ALL.map(|kind| self.store.table(kind).last().version);
        self.looks.push(Look {
            controller,
            from,
            at: now,
            shown,
            began,
            decided: None,
            deeds: Vec::new(),
            has_failed: false,
            is_refused: false,
            patched: BTreeMap::new(),
        });
        self.controllers[controller].look = Some(self.looks.len() - 1);
    }

    pub(super) fn end_look(&mut self, controller: usize, outcome: &Result<(), String>) {
        self.controllers[controller].look = None;
        if let Err(error) = outcome {
            self.tell(&format!("controller {controller}"), || {
                let words = error.split(" (Status").next().unwrap_or_default();
                format!("will try again: {words}")
            });
        }
    }

    /// The newest version of a kind that a controller has seen, or has been told it wrote.
    pub(super) fn known(&self, controller: usize, kind: Kind) -> u64 {
        let process = &self.controllers[controller];
        process.shown[kind as usize]
            .version
            .max(process.wrote[kind as usize])
    }

    /// A look reads the clock when it has read its caches: it decides now.
    pub(super) fn decide(&mut self, controller: usize) {
        let now = self.now();
        let process = &self.controllers[controller];
        if let Some(look) = process.look {
            let shown = process.shown.map(|shown| shown.version);
            let look = &mut self.looks[look];
            look.decided = Some((now, std::array::from_fn(|kind| shown[kind].max(look.from[kind]))));
        }
    }

    /// The set, if it is there.
    pub(super) fn set(&self) -> Option<&Value> {
        self.store.get(Kind::Sets, SET).map(|set| &**set)
    }
}
