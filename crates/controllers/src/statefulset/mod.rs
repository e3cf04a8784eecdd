//! The StatefulSet controller: replicas that keep their name, address and disk.
//!
//! It watches sets, their pods, claims and revisions. A look at a set observes (`observe`), decides
//! (`plan`, pure), acts (`apply`) and writes the status (`status`, pure). It keeps no state but the
//! versions it wrote ([`wrote::Wrote`]), so that no look decides on older state than the last one
//! left: an action is never repeated because a cache lags; and when pods ended early ([`backoff`]).

mod adopt;
mod apply;
mod backoff;
mod conditions;
mod explain;
mod growth;
mod history;
mod identity;
mod listen;
mod memory;
#[cfg(test)]
mod model;
mod observe;
mod ordinals;
mod plan;
mod retention;
mod revision;
mod rollout;
#[cfg(test)]
mod simulation;
mod state;
mod status;
mod stuck;
mod trouble;
mod wrote;

pub(crate) use self::backoff::{FIRST, LONG_LIFE, LONGEST};

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use jiff::Timestamp;
use k8s_openapi::api::apps::v1::{StatefulSet, StatefulSetStatus};
use k8s_openapi::api::core::v1::Pod;
use kube::api::{Patch, PatchParams, PostParams};
use kube::{Api, Client};
use serde_json::json;
use stead_informer::semantics::Selector;
use stead_informer::{EventType, Informers, Key, Objects, Queue, Reconciled, Recorder, Task, reference};
use tokio_util::sync::CancellationToken;

use self::adopt::{Relation, pod_relation};
use self::apply::{Applier, ApplyError, api_error};
use self::backoff::Backoff;
use self::history::History;
use self::memory::{Memory, Recall};
use self::observe::OwnPods;
use self::state::Pod as SeenPod;
use self::trouble::Trouble;
use self::wrote::Wrote;
use crate::owned::is_still_there;

/// Sets that are looked at at a time.
const WORKERS: usize = 16;

/// What tells the time: the wall clock, or a simulation's.
type Clock = Arc<dyn Fn() -> Timestamp + Send + Sync>;

/// The controller.
pub struct StatefulSets {
    client: Client,
    informers: Informers,
    recorder: Recorder,
    queue: Queue<Key>,
    clock: Clock,
    known: Mutex<HashMap<Key, Arc<Known>>>,
}

/// What is remembered of a set from one look to the next.
#[derive(Default)]
struct Known {
    wrote: Wrote,
    backoff: Mutex<Backoff>,
    memory: Mutex<Memory>,
}

impl Known {
    fn memory(&self) -> MutexGuard<'_, Memory> {
        self.memory.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl StatefulSets {
    /// A controller that hears of changes from now on.
    pub fn new(client: Client, informers: &Informers, recorder: Recorder) -> Arc<StatefulSets> {
        StatefulSets::with_clock(client, informers, recorder, Arc::new(Timestamp::now))
    }

    fn with_clock(
        client: Client,
        informers: &Informers,
        recorder: Recorder,
        clock: Clock,
    ) -> Arc<StatefulSets> {
        let queue = Queue::new();
        listen::listen(informers, &queue);
        Arc::new(StatefulSets {
            client,
            informers: informers.clone(),
            recorder,
            queue,
            clock,
            known: Mutex::default(),
        })
    }

    /// Works until cancelled.
    pub fn run(self: Arc<Self>, shutdown: CancellationToken) -> Task {
        Box::pin(async move {
            self.informers.synced().await;
            let sets = Objects {
                name: "statefulset",
                queue: self.queue.clone(),
                concurrency: WORKERS,
                informer: self.informers.stateful_sets.clone(),
                recorder: self.recorder.clone(),
            };
            let look = |controller: Arc<Self>, key| async move { controller.reconcile(&key).await };
            sets.run(self, shutdown, look).await;
        })
    }

    fn known(&self, key: &Key) -> Arc<Known> {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(known.entry(key.clone()).or_default())
    }

    async fn reconcile(&self, key: &Key) -> Result<Reconciled, ApplyError> {
        let known = self.known(key);
        let wrote = &known.wrote;
        wrote.caught_up(&self.informers).await;
        let Some(set) = self.informers.stateful_sets.get(key) else {
            self.known
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .remove(key);
            return Ok(Reconciled::Done);
        };
        let spec = &set.spec;
        let selector = Selector::new(&spec.selector);
        let found = self.history_and_pods(&set, &selector, &known).await;
        let (history, mut pods) = match found {
            Ok(found) => found,
            Err(error) => {
                self.hold_up(&set, &error, wrote).await?;
                return Err(error);
            }
        };
        let now = (self.clock)();
        let wanted = observe::spec(&set);
        let find_claim = |name: &str| self.informers.claims.get(&Key::new(&key.namespace, name));
        let (observed, ends) = {
            let mut backoff = known.backoff.lock().unwrap_or_else(PoisonError::into_inner);
            let names = &history.names;
            let observed = observe::observe(&set, &wanted, &mut pods, names, find_claim, &mut backoff, now);
            (observed, backoff.next(now))
        };
        let pods = pods.objects;
        let misunderstood = observe::misunderstood(&set);
        let actions = match &misunderstood {
            None => plan::plan(&wanted, &observed),
            Some(_) => Vec::new(),
        };
        let applier = Applier {
            client: &self.client,
            informers: &self.informers,
            recorder: &self.recorder,
            set: &set,
            current: (&history.names.current, &history.current),
            update: (&history.names.update, &history.update),
            ordinals: wanted.ordinals(),
            wrote,
        };
        let applied = applier.apply(&actions).await;
        let refused = history.refused.as_ref();
        let outcome = refused.map_or(applied.as_ref().copied(), Err);
        let mut standing = stuck::stuck(
            &set, &wanted, &observed, &pods, find_claim, &actions, outcome, now,
        );
        if misunderstood.is_some() {
            standing.trouble = misunderstood;
        } else {
            standing = explain::explain(&self.client, &key.namespace, standing).await;
        }
        let names = &history.names;
        let mut status = status::status(&set, &wanted, names, &observed, &standing, now);
        if refused.is_some() {
            // What is asked for has not been taken up.
            status.observed_generation = set.status.as_ref().and_then(|status| status.observed_generation);
        }
        self.write_status(&set, &status, wrote).await?;
        let pruned = self.prune(&set, &pods, &observed, &history, wrote).await;
        applied.and(pruned)?;
        if let Some(error) = history.refused {
            return Err(error);
        }
        let available = available_next(&pods, &observed.pods, spec.min_ready_seconds.unwrap_or(0), now);
        known.memory().keep(&set, &history.names, pods, observed.pods);
        Ok(next_look([available, ends, standing.look], now))
    }

    async fn history_and_pods(
        &self,
        set: &StatefulSet,
        selector: &Selector,
        known: &Known,
    ) -> Result<(History, OwnPods), ApplyError> {
        let wrote = &known.wrote;
        let revisions = self.own_revisions(set, selector, wrote).await?;
        let history = self.history(set, revisions, wrote).await?;
        let recall = known.memory().recall(set, &history.names);
        let pods = self.own_pods(set, selector, recall, wrote).await?;
        Ok((history, pods))
    }

    /// Says on the set that it cannot be looked at any further, if that will not pass by itself.
    async fn hold_up(&self, set: &StatefulSet, error: &ApplyError, wrote: &Wrote) -> Result<(), ApplyError> {
        if error.passes_by_itself() || set.metadata.deletion_timestamp.is_some() {
            return Ok(());
        }
        let mut status = set.status.clone().unwrap_or_default();
        let trouble = Trouble::new("Refused", error.words());
        status.conditions = Some(conditions::held_up(&status, &trouble, (self.clock)()));
        let written = self.write_status(set, &status, wrote).await;
        if written.is_err() {
            // There is no room for it on the set itself.
            self.recorder
                .record(reference(set), EventType::Warning, "Stuck", error.words());
        }
        written
    }

    /// The set's pods, by name, after adopting and releasing what is to be; and what is known of them already.
    async fn own_pods(
        &self,
        set: &StatefulSet,
        selector: &Selector,
        mut recall: Recall,
        wrote: &Wrote,
    ) -> Result<OwnPods, ApplyError> {
        let namespace = set.metadata.namespace.as_deref().unwrap_or_default();
        let api: Api<Pod> = Api::namespaced(self.client.clone(), namespace);
        let mut own = OwnPods::default();
        for pod in self.informers.pods.in_namespace(namespace) {
            let remembered = recall.find(&pod);
            if remembered.is_some() {
                own.add(pod, remembered);
                continue;
            }
            let name = pod.metadata.name.clone().unwrap_or_default();
            let owners = match pod_relation(set, selector, &pod) {
                Relation::None => continue,
                Relation::Own => {
                    own.add(pod, None);
                    continue;
                }
                Relation::Adopt => {
                    self.check_still_there(set).await?;
                    json!([identity::controller_reference(set)])
                }
                Relation::Release => json!([{"$patch": "delete", "uid": set.metadata.uid}]),
            };
            let patch = json!({"metadata": {"uid": pod.metadata.uid, "ownerReferences": owners}});
            match api
                .patch(&name, &PatchParams::default(), &Patch::Strategic(&patch))
                .await
            {
                Ok(patched) => {
                    wrote.pod(&patched);
                    if pod_relation(set, selector, &patched) == Relation::Own {
                        own.add(Arc::new(patched), None);
                    }
                }
                // Gone, or another pod by now.
                Err(kube::Error::Api(status)) if matches!(status.code, 404 | 409 | 422) => {}
                Err(error) => return Err(api_error(format!("change the owner of pod {name}"), error)),
            }
        }
        Ok(own)
    }

    /// Adopting needs more than a cache: the set must be there, be the same, and stay.
    async fn check_still_there(&self, set: &StatefulSet) -> Result<(), ApplyError> {
        let namespace = set.metadata.namespace.as_deref().unwrap_or_default();
        let name = set.metadata.name.as_deref().unwrap_or_default();
        let api: Api<StatefulSet> = Api::namespaced(self.client.clone(), namespace);
        let is_there = is_still_there(&api, &set.metadata).await;
        if is_there.map_err(|error| api_error(format!("get set {name}"), error))? {
            return Ok(());
        }
        let gone = kube::Error::Service(format!("set {name} is gone or on its way out").into());
        Err(api_error("adopt".to_owned(), gone))
    }

    async fn write_status(
        &self,
        set: &StatefulSet,
        status: &StatefulSetStatus,
        wrote: &Wrote,
    ) -> Result<(), ApplyError> {
        if !status::differs(set, status) {
            return Ok(());
        }
        let namespace = set.metadata.namespace.as_deref().unwrap_or_default();
        let name = set.metadata.name.as_deref().unwrap_or_default();
        let api: Api<StatefulSet> = Api::namespaced(self.client.clone(), namespace);
        let updated = StatefulSet {
            status: Some(status.clone()),
            ..set.clone()
        };
        match api.replace_status(name, &PostParams::default(), &updated).await {
            Ok(written) => {
                wrote.set(&written);
                if let Some(message) = status::newly_stuck(set, status) {
                    self.recorder
                        .record(reference(set), EventType::Warning, "Stuck", message);
                }
                Ok(())
            }
            // The set has changed or gone meanwhile: that brings the next look, with a new status.
            Err(kube::Error::Api(status)) if matches!(status.code, 404 | 409) => Ok(()),
            Err(error) => {
                let error = api_error(format!("update the status of set {name}"), error);
                if !error.passes_by_itself() {
                    self.recorder
                        .record(reference(set), EventType::Warning, "FailedUpdate", error.words());
                }
                Err(error)
            }
        }
    }
}

/// When the next pod becomes available.
fn available_next(
    pods: &[Arc<Pod>],
    seen: &[SeenPod],
    min_ready_seconds: i32,
    now: Timestamp,
) -> Option<Timestamp> {
    let waits = |(_, seen): &(&Arc<Pod>, &SeenPod)| seen.is_ready() && !seen.is_available();
    pods.iter()
        .zip(seen)
        .filter(waits)
        .filter_map(|(pod, _)| observe::available_at(pod, min_ready_seconds, now))
        .min()
}

/// When to look again though nothing changes.
fn next_look(reasons: [Option<Timestamp>; 3], now: Timestamp) -> Reconciled {
    Reconciled::until(reasons.into_iter().flatten().min(), now)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn the_next_look_is_when_the_next_pod_becomes_available() {
        let pod = |since: Option<&str>| {
            let status = if since.is_some() { "True" } else { "False" };
            let ready = json!({"type": "Ready", "status": status, "lastTransitionTime": since});
            let pod = json!({"metadata": {}, "status": {"phase": "Running", "conditions": [ready]}});
            Arc::new(serde_json::from_value::<Pod>(pod).expect("a pod"))
        };
        let now = "2026-01-01T00:00:10Z".parse().expect("a time");
        let pods = [
            pod(None),
            pod(Some("2026-01-01T00:00:01Z")),
            pod(Some("2026-01-01T00:00:08Z")),
            pod(Some("2026-01-01T00:00:07Z")),
        ];
        let next = |pods: &[Arc<Pod>], min_ready_seconds| {
            let see = |pod: &Arc<Pod>| SeenPod {
                phase: observe::phase(pod, min_ready_seconds, now),
                ..state::builders::pod(0)
            };
            let seen: Vec<SeenPod> = pods.iter().map(see).collect();
            available_next(pods, &seen, min_ready_seconds, now)
        };
        assert_eq!(next(&pods, 5), "2026-01-01T00:00:12Z".parse().ok());
        // Those that are available already need no look, nor do those that are not ready.
        assert_eq!(next(&pods[..2], 5), None);
        assert_eq!(next(&pods, 0), None);
        let in_seconds = |seconds| now.checked_add(jiff::SignedDuration::from_secs(seconds)).ok();
        let look = next_look([in_seconds(3), None, in_seconds(2)], now);
        assert!(matches!(look, Reconciled::Again(after) if after == Duration::from_secs(2)));
        assert!(matches!(next_look([None; 3], now), Reconciled::Done));
    }
}
