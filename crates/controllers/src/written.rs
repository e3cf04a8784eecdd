//! What a controller wrote, so that its next look does not decide on older state.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use stead_informer::{Informer, Object, revision_of};

use crate::refused::{Refused, is_conflict, is_not_found};

/// When to look again at what a cache that lags for long shows. Who makes things whose names the API makes up must not
/// decide on it: nothing would tell that they are there already.
pub(crate) const STALE: Duration = Duration::from_secs(1);

/// The newest version of a kind that a controller wrote.
///
/// One number for all of a controller's keys: the cache gets one key's write within the same
/// fraction of a millisecond as another's, so waiting for both costs next to nothing.
pub(crate) struct Written<K> {
    informer: Informer<K>,
    newest: AtomicU64,
}

impl<K: Object> Written<K> {
    pub(crate) fn new(informer: &Informer<K>) -> Written<K> {
        Written {
            informer: informer.clone(),
            newest: AtomicU64::new(0),
        }
    }

    /// Takes note of an answer to a write.
    pub(crate) fn note(&self, object: &K) {
        self.newest.fetch_max(revision_of(object), Ordering::Relaxed);
    }

    /// Takes note of a write's answer. An object that has changed or gone meanwhile brings the next look, and is no
    /// failure; `what` says of others what was attempted.
    pub(crate) fn settle(
        &self,
        outcome: Result<K, kube::Error>,
        what: impl Into<String>,
    ) -> Result<Option<K>, Refused> {
        match outcome {
            Ok(written) => {
                self.note(&written);
                Ok(Some(written))
            }
            Err(error) if is_conflict(&error) || is_not_found(&error) => Ok(None),
            Err(error) => Err(Refused::to(what)(error)),
        }
    }

    /// Waits until the cache has seen what was written. Says whether it has: one whose watch is broken is not waited
    /// for any longer after a while.
    pub(crate) async fn caught_up(&self) -> bool {
        self.informer.caught_up(self.newest.load(Ordering::Relaxed)).await
    }
}
