//! What a set's last look wrote, so that the next one does not decide on older state.
//!
//! Upstream keeps the same book (its consistency store); counting expected events is not needed
//! where versions can be compared.

use std::sync::atomic::{AtomicU64, Ordering};

use k8s_openapi::api::apps::v1::{ControllerRevision, StatefulSet};
use k8s_openapi::api::core::v1::{PersistentVolumeClaim, Pod};
use stead_informer::{Informers, revision_of};

/// The newest resource versions written, by kind.
#[derive(Debug, Default)]
pub(super) struct Wrote {
    pods: AtomicU64,
    claims: AtomicU64,
    revisions: AtomicU64,
    sets: AtomicU64,
}

impl Wrote {
    pub(super) fn pod(&self, pod: &Pod) {
        self.pods.fetch_max(revision_of(pod), Ordering::Relaxed);
    }

    pub(super) fn claim(&self, claim: &PersistentVolumeClaim) {
        self.claims.fetch_max(revision_of(claim), Ordering::Relaxed);
    }

    pub(super) fn revision(&self, revision: &ControllerRevision) {
        self.revisions.fetch_max(revision_of(revision), Ordering::Relaxed);
    }

    pub(super) fn set(&self, set: &StatefulSet) {
        self.sets.fetch_max(revision_of(set), Ordering::Relaxed);
    }

    /// Waits until the caches have seen all of it.
    pub(super) async fn caught_up(&self, informers: &Informers) {
        informers.pods.caught_up(self.pods.load(Ordering::Relaxed)).await;
        informers
            .claims
            .caught_up(self.claims.load(Ordering::Relaxed))
            .await;
        informers
            .revisions
            .caught_up(self.revisions.load(Ordering::Relaxed))
            .await;
        informers
            .stateful_sets
            .caught_up(self.sets.load(Ordering::Relaxed))
            .await;
    }
}
