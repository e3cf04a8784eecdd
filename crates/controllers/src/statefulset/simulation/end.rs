//! The end of a simulation: without faults, the set comes to what it asks for, and rests.

use std::time::Duration;

use serde_json::Value;

use super::store::{Kind, is_deleting, list, text, timestamp};
use super::truth;
use super::world::{State, World};
use crate::statefulset::model;

/// Without a write for so long, nothing more is written: longer than any wait of the controller's or of a watch's.
const REST: u64 = 400_000;
/// Until when it has to rest.
const PATIENCE: u64 = 3_600_000;

/// Waits until nothing more is written, and checks what there is then.
pub(super) async fn come_to_rest(world: &World) {
    let began = world.lock().now();
    loop {
        let rested = {
            let mut state = world.lock();
            if state.wrong.is_some() {
                return;
            }
            // The one before was on its way out.
            if state.set().is_none() {
                state.make_set();
                state.wrote_at = state.now();
            }
            if state.now() > began + PATIENCE {
                // A pod that the partition keeps, and that ends again and again, is made anew for ever.
                if state.current_image() == Some("broken:exit") {
                    return;
                }
                return state.accuse("never comes to rest".to_owned());
            }
            state.now() - state.wrote_at.max(began)
        };
        if rested >= REST {
            break;
        }
        tokio::time::sleep(Duration::from_millis(REST - rested)).await;
    }
    let mut state = world.lock();
    if let Err(wrong) = state.check_end() {
        state.accuse(format!("in the end, {wrong}"));
    }
}

impl State {
    fn current_image(&self) -> Option<&str> {
        let current = text(self.set()?, "/status/currentRevision");
        self.images.get(current).map(String::as_str)
    }

    fn check_end(&self) -> Result<(), String> {
        let set = self.set().ok_or("the set is gone")?;
        let spec = truth::spec(set);
        if spec.deleting {
            // It waits for a claim that a pod uses which is not the set's any more.
            return Ok(());
        }
        let status = &set["status"];
        let current = text(status, "/currentRevision");
        let now = timestamp(self.now());
        let seen = truth::observe(
            set,
            self.store.objects(Kind::Pods),
            &self.images,
            Some(current),
            None,
            now,
        );
        let broken = self
            .current_image()
            .is_some_and(|image| image.starts_with("broken"));
        model::has_arrived(&spec, &seen, broken)?;
        let (told, really) = (truth::counts_of(status), truth::counts(&spec, &seen));
        if told != really {
            return Err(format!("the status counts {told:?}, but there are {really:?}"));
        }
        if status["observedGeneration"] != set["metadata"]["generation"] {
            return Err("the status is of an older generation".to_owned());
        }
        let available = seen
            .pods
            .iter()
            .filter(|pod| spec.ordinals().contains(pod.ordinal) && pod.is_available() && !pod.terminating);
        let is_available = available.count() >= spec.replicas as usize;
        let condition = |kind: &str| {
            let conditions = list(status, "/conditions").iter();
            let mut conditions = conditions.filter(|condition| condition["type"] == kind);
            conditions
                .next()
                .is_some_and(|condition| condition["status"] == "True")
        };
        if condition("Available") != is_available || is_available && condition("Stuck") {
            return Err(format!("the conditions are not true: {}", status["conditions"]));
        }
        // What waits in order waits with its claims.
        if is_available {
            self.check_claims(set)?;
        }
        self.check_history(set)
    }

    fn check_claims(&self, set: &Value) -> Result<(), String> {
        let spec = truth::spec(set);
        let (deleted, _) = truth::retention(set);
        for pod in self.store.objects(Kind::Pods).values() {
            let ordinal = truth::ordinal(text(pod, "/metadata/name"));
            let Some(ordinal) = ordinal.filter(|ordinal| spec.ordinals().contains(*ordinal)) else {
                continue;
            };
            for name in truth::claims(set, ordinal) {
                let Some(claim) = self.store.get(Kind::Claims, &name) else {
                    return Err(format!("claim {name} is not there"));
                };
                // One that a person deleted while its pod runs goes with that pod.
                if is_deleting(claim) {
                    continue;
                }
                let owners = list(claim, "/metadata/ownerReferences");
                let is_right = match owners {
                    [] => !deleted,
                    [owner] => deleted && owner["uid"] == set["metadata"]["uid"],
                    _ => false,
                };
                if !is_right {
                    return Err(format!("claim {name} belongs to {owners:?}"));
                }
            }
        }
        Ok(())
    }

    fn check_history(&self, set: &Value) -> Result<(), String> {
        let limit = set["spec"]["revisionHistoryLimit"].as_u64().unwrap_or(10) as usize;
        let pods = self.store.objects(Kind::Pods);
        let revisions = self.store.objects(Kind::Revisions);
        let is_used = |name: &str| {
            pods.values().any(|pod| truth::revision_of(pod) == name)
                || ["/status/currentRevision", "/status/updateRevision"]
                    .iter()
                    .any(|at| text(set, at) == name)
        };
        let unused = revisions.keys().filter(|name| !is_used(name)).count();
        if unused > limit {
            return Err(format!(
                "{unused} revisions are kept that nothing uses, and {limit} are to be"
            ));
        }
        let update = self.images.get(text(&set["status"], "/updateRevision"));
        if update.map(String::as_str) != Some(truth::image(set)) {
            return Err("the update revision is not the template's".to_owned());
        }
        Ok(())
    }
}
