//! What must hold, said independently of how the planner comes to it.

use super::world::{Being, Claim, Life, Place, Rev, Scale, Setting};
use crate::statefulset::state::{Action, Revision, Strategy};

/// A state, and what is asked of it.
pub(super) struct Scene<'s> {
    pub(super) setting: &'s Setting,
    pub(super) scale: Scale,
    pub(super) places: &'s [Place],
}

impl Scene<'_> {
    fn pod(&self, ordinal: u32) -> Option<Being> {
        self.places.get(ordinal as usize)?.pod
    }

    fn ordinals(&self) -> impl Iterator<Item = u32> + Clone {
        self.scale.ordinals()
    }

    fn is_replica(&self, ordinal: u32) -> bool {
        self.ordinals().any(|at| at == ordinal)
    }

    /// The replicas before one.
    fn lower(&self, ordinal: u32) -> impl Iterator<Item = u32> {
        self.ordinals().filter(move |at| *at < ordinal)
    }

    fn is_there(&self, ordinal: u32) -> bool {
        self.pod(ordinal).is_some_and(Being::is_available)
    }

    fn unavailable(&self) -> u32 {
        self.ordinals().filter(|at| !self.is_there(*at)).count() as u32
    }

    fn condemned(&self) -> impl Iterator<Item = (u32, Being)> {
        let pods = (0..)
            .zip(self.places)
            .filter_map(|(at, place)| Some((at, place.pod?)));
        pods.filter(|(at, _)| !self.is_replica(*at))
    }

    /// The lowest ordinal that a rolling update may touch.
    fn lowest(&self) -> u32 {
        match self.setting.strategy {
            Strategy::RollingUpdate { partition, .. } => {
                self.ordinals().nth(partition as usize).unwrap_or(u32::MAX)
            }
            _ => 0,
        }
    }

    fn has_outdated(&self) -> bool {
        self.places
            .iter()
            .filter_map(|place| place.pod)
            .any(|pod| pod.rev != Rev::Update)
    }

    /// What a plan does that it must not.
    pub(super) fn check(&self, actions: &[Action]) -> Result<(), &'static str> {
        let mut taken = 0;
        let mut made = 0;
        let mut touched = Vec::new();
        for action in actions {
            match action {
                Action::CreatePod { ordinal, revision } => {
                    made += 1;
                    touched.push(*ordinal);
                    self.check_create(*ordinal, *revision)?;
                }
                Action::DeletePod { ordinal, .. } => {
                    touched.push(*ordinal);
                    taken += u32::from(self.check_delete(*ordinal, actions)?);
                }
                Action::FixPod { .. }
                | Action::CreateClaims { .. }
                | Action::FixClaims { .. }
                | Action::GrowClaims { .. } => {}
            }
        }
        if self.setting.is_ordered() && made > 1 {
            return Err("makes several pods at once");
        }
        touched.sort_unstable();
        if touched.windows(2).any(|two| two[0] == two[1]) {
            return Err("does two things to one pod");
        }
        if let Strategy::RollingUpdate { max_unavailable, .. } = self.setting.strategy
            && taken > 0
            && self.unavailable() + taken > max_unavailable
        {
            return Err("takes more pods than may be unavailable");
        }
        Ok(())
    }

    fn check_create(&self, ordinal: u32, revision: Revision) -> Result<(), &'static str> {
        if !self.is_replica(ordinal) {
            return Err("makes a pod that is none of the replicas");
        }
        let place = self.places[ordinal as usize];
        if place.pod.is_some() {
            return Err("makes a second pod of one identity");
        }
        if self.setting.claims && !matches!(place.claim, Claim::Bound | Claim::Missing) {
            return Err("makes a pod with a claim that goes");
        }
        let kept = ordinal < self.lowest();
        if (revision == Revision::Current) != kept {
            return Err("makes a pod of the wrong revision");
        }
        if self.setting.is_ordered() && !self.lower(ordinal).all(|lower| self.is_there(lower)) {
            return Err("makes a pod before the lower ones are available");
        }
        if self.setting.strategy == Strategy::Recreate && self.has_outdated() {
            return Err("makes a new pod beside an old one");
        }
        Ok(())
    }

    /// Whether the deletion takes an available replica away.
    fn check_delete(&self, ordinal: u32, actions: &[Action]) -> Result<bool, &'static str> {
        let Some(pod) = self.pod(ordinal).filter(|pod| !pod.terminating) else {
            return Err("deletes what goes or is gone");
        };
        let is_ordered = self.setting.is_ordered();
        if self.setting.strategy == Strategy::Recreate && pod.rev != Rev::Update {
            return Ok(false);
        }
        if !self.is_replica(ordinal) {
            if is_ordered && self.unavailable() > 0 {
                return Err("scales down before all replicas are available");
            }
            // "Before a Pod is terminated, all of its successors must be completely shutdown."
            if is_ordered && self.condemned().any(|(at, _)| at > ordinal) {
                return Err("scales down out of order");
            }
            return Ok(false);
        }
        if pod.life == Life::Ended {
            return Ok(false);
        }
        let Strategy::RollingUpdate { .. } = self.setting.strategy else {
            return Err("replaces a pod that nobody deleted");
        };
        if pod.rev == Rev::Update {
            return Err("replaces a pod that is up to date");
        }
        if ordinal < self.lowest() {
            return Err("replaces a pod below the partition");
        }
        if is_ordered && !pod.is_ready() {
            self.check_heal(ordinal, pod, actions)?;
            return Ok(false);
        }
        if is_ordered && (self.unavailable() > 0 || self.condemned().next().is_some()) {
            return Err("updates before all is in order");
        }
        let stays = |higher: u32| {
            let is_deleted =
                |action: &Action| matches!(action, Action::DeletePod { ordinal, .. } if *ordinal == higher);
            let other = self.pod(higher);
            other.is_some_and(|other| other.is_available() && other.rev != Rev::Update)
                && !actions.iter().any(is_deleted)
        };
        if pod.is_available() && self.ordinals().filter(|at| *at > ordinal).any(stays) {
            return Err("updates out of order");
        }
        Ok(pod.is_available())
    }

    /// "A broken rollout heals", and only that.
    fn check_heal(&self, ordinal: u32, pod: Being, actions: &[Action]) -> Result<(), &'static str> {
        if !self.setting.heals {
            return Err("heals what is to wait");
        }
        let may_have_served = pod.rev == Rev::Current && pod.life == Life::Failing;
        if may_have_served {
            return Err("replaces a pod that served under the current revision");
        }
        let deletions = actions
            .iter()
            .filter(|action| matches!(action, Action::DeletePod { .. }));
        let goes = |at: u32| self.pod(at).is_some_and(|pod| pod.terminating);
        let is_awaited = |at: u32| {
            self.pod(at)
                .is_none_or(|pod| pod.rev == Rev::Update && !pod.is_available())
        };
        if deletions.count() > 1 || self.ordinals().any(goes) || self.lower(ordinal).any(is_awaited) {
            return Err("replaces several broken pods at a time");
        }
        Ok(())
    }

    /// Whether a pod will never be ready, and must not be replaced.
    fn is_hopeless(&self, ordinal: u32) -> bool {
        let Some(pod) = self
            .pod(ordinal)
            .filter(|pod| !pod.is_ready() && pod.life != Life::Ended)
        else {
            return false;
        };
        let is_broken = pod.rev == Rev::Stray || pod.rev == Rev::Current && self.setting.current_is_broken;
        let served = pod.rev == Rev::Current && pod.life == Life::Failing;
        if !self.is_replica(ordinal) {
            return is_broken && (served || !self.setting.heals);
        }
        is_broken
            && match self.setting.strategy {
                Strategy::OnDelete => true,
                Strategy::Recreate => false,
                Strategy::RollingUpdate { .. } => {
                    ordinal < self.lowest() || self.setting.is_ordered() && (!self.setting.heals || served)
                }
            }
    }

    /// What is missing of the state that the set asks for, when nothing more happens.
    pub(super) fn check_end(&self) -> Result<(), &'static str> {
        let is_excused = (0..self.places.len() as u32).any(|at| self.is_hopeless(at));
        // What waits in order waits for all else, too.
        if is_excused && self.setting.is_ordered() {
            return Ok(());
        }
        if self.condemned().next().is_some() {
            return Err("a pod stays that is none of the replicas");
        }
        for ordinal in self.ordinals() {
            let Some(pod) = self.pod(ordinal) else {
                return Err("a replica is not made");
            };
            if !pod.is_available() && !self.is_hopeless(ordinal) {
                return Err("a replica does not become available");
            }
            let must_be_updated = match self.setting.strategy {
                Strategy::OnDelete => false,
                Strategy::Recreate => true,
                Strategy::RollingUpdate { .. } => ordinal >= self.lowest(),
            };
            if must_be_updated && pod.rev != Rev::Update && !is_excused {
                return Err("an update does not come to its end");
            }
        }
        Ok(())
    }
}
