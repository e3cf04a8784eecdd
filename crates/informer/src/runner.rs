//! Works through a queue: a bounded number of keys at a time, failures retried with back-off, a
//! panic confined to the key it happened on.

use std::fmt::Display;
use std::future::Future;
use std::hash::Hash;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::FutureExt as _;
use jiff::Timestamp;
use kube::Resource;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::informer::{Informer, Key, Object};
use crate::looks;
use crate::queue::Queue;
use crate::recorder::Recorder;

/// What came of looking at a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reconciled {
    /// Nothing to do until something changes.
    Done,
    /// Look again after a while, whatever happens.
    Again(Duration),
}

impl Reconciled {
    /// To be looked at again at a time, if there is one.
    pub fn until(next: Option<Timestamp>, now: Timestamp) -> Reconciled {
        next.map_or(Reconciled::Done, |at| {
            Reconciled::Again(Duration::try_from(at.duration_since(now)).unwrap_or_default())
        })
    }
}

/// The work on a kind's objects: [`run`], with an event on an object whose work panicked.
pub struct Objects<K> {
    /// Of the work, for logs and metrics.
    pub name: &'static str,
    /// Objects to look at.
    pub queue: Queue<Key>,
    /// How many of them at a time.
    pub concurrency: usize,
    /// Where they are found.
    pub informer: Informer<K>,
    /// Who tells of panics.
    pub recorder: Recorder,
}

impl<K: Object + Resource<DynamicType = ()>> Objects<K> {
    /// Works on them until cancelled.
    pub async fn run<C, F, E>(
        self,
        controller: Arc<C>,
        shutdown: CancellationToken,
        reconcile: impl Fn(Arc<C>, Key) -> F,
    ) where
        F: Future<Output = Result<Reconciled, E>> + Send + 'static,
        E: Display + Send + 'static,
    {
        let Objects {
            name,
            queue,
            concurrency,
            informer,
            recorder,
        } = self;
        let look = |key| reconcile(Arc::clone(&controller), key);
        let tell = |key: &Key| recorder.panicked(informer.get(key).as_deref());
        run(name, queue, concurrency, shutdown, look, tell).await;
    }
}

/// Works on keys until cancelled, then waits for those under work. At most `concurrency` keys are
/// worked on at a time, each by one worker. `on_panic` hears of keys whose work panicked.
pub async fn run<K, F, E>(
    name: &'static str,
    queue: Queue<K>,
    concurrency: usize,
    shutdown: CancellationToken,
    reconcile: impl Fn(K) -> F,
    on_panic: impl Fn(&K),
) where
    K: Hash + Eq + Clone + Display + Send + Sync + 'static,
    F: Future<Output = Result<Reconciled, E>> + Send + 'static,
    E: Display + Send + 'static,
{
    let mut working: JoinSet<Option<K>> = JoinSet::new();
    loop {
        tokio::select! {
            () = shutdown.cancelled() => break,
            Some(ended) = working.join_next() => report(ended, &on_panic),
            work = queue.next(), if working.len() < concurrency => {
                let job = reconcile(work.key.clone());
                let queue = queue.clone();
                working.spawn(async move {
                    let begin = Instant::now();
                    let done = AssertUnwindSafe(job).catch_unwind().await;
                    looks::note(name, begin.elapsed());
                    match done {
                        Ok(Ok(Reconciled::Done)) => queue.forget(&work.key),
                        Ok(Ok(Reconciled::Again(after))) => {
                            queue.forget(&work.key);
                            queue.add_after(work.key.clone(), after);
                        }
                        Ok(Err(error)) => {
                            tracing::debug!(controller = name, key = %work.key, %error, "to be tried again");
                            queue.add_failed(work.key.clone());
                        }
                        Err(_) => {
                            tracing::error!(controller = name, key = %work.key, "the work on a key panicked");
                            queue.add_failed(work.key.clone());
                            return Some(work.key.clone());
                        }
                    }
                    None
                });
            }
        }
    }
    while let Some(ended) = working.join_next().await {
        report(ended, &on_panic);
    }
}

fn report<K>(ended: Result<Option<K>, tokio::task::JoinError>, on_panic: &impl Fn(&K)) {
    if let Ok(Some(key)) = ended {
        on_panic(&key);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_panic_costs_only_its_own_key() {
        let queue = Queue::new();
        let shutdown = CancellationToken::new();
        let (done, panicked) = (Arc::new(Mutex::new(Vec::new())), Arc::new(Mutex::new(Vec::new())));
        queue.add("bad".to_owned());
        queue.add("good".to_owned());
        let seen = Arc::clone(&done);
        let stop = shutdown.clone();
        run(
            "test",
            queue,
            1,
            shutdown,
            move |key: String| {
                let (seen, stop) = (Arc::clone(&seen), stop.clone());
                async move {
                    assert!(key != "bad", "planted");
                    seen.lock().expect("no panic").push(key);
                    stop.cancel();
                    Ok::<_, std::convert::Infallible>(Reconciled::Done)
                }
            },
            |key| panicked.lock().expect("no panic").push(key.clone()),
        )
        .await;
        assert_eq!(*done.lock().expect("no panic"), ["good"]);
        assert_eq!(*panicked.lock().expect("no panic"), ["bad"]);
    }
}
