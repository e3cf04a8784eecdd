//! What makes the simulated cluster live: scheduler and kubelet, garbage collection, and the protection of claims.

use serde_json::{Value, json};

use super::store::{Kind, Object, is_deleting, list, text, time};
use super::world::{SET, State};

const PROTECTION: &str = "kubernetes.io/pvc-protection";
/// A finalizer that somebody takes away after a while.
pub(super) const STUCK: &str = "example.com/stuck";
/// The finalizer of a set that goes after its dependents.
pub(super) const FOREGROUND: &str = "foregroundDeletion";
/// The condition of a pod that was ready once.
pub(super) const SERVED: &str = "example.com/served";

/// Something that is going to happen, to a pod by its uid.
pub(super) enum Happening {
    Bind(String),
    Start(String),
    Ready(String),
    Unready(String),
    End(String),
    Gone(String),
    /// Garbage is collected, and claims that nobody uses any more are let go.
    Sweep,
    /// Somebody takes the finalizer from a claim that keeps it.
    Unstick(String),
    /// A person does something.
    Person,
}

impl State {
    pub(super) fn happen(&mut self, happening: Happening) {
        match happening {
            Happening::Sweep => return self.sweep(),
            Happening::Person => return self.person_acts(),
            Happening::Unstick(claim) => self.take_finalizer(&claim, STUCK),
            Happening::Bind(uid) => self.bind(&uid),
            Happening::Start(uid) => self.start(&uid),
            Happening::Ready(uid) => self.get_ready(&uid),
            Happening::Unready(uid) => {
                if self.is_faulty && self.update(&uid, "Running", Some(false)) {
                    let later = self.rng.u64(100..20_000);
                    self.plan(later, Happening::Ready(uid));
                }
            }
            Happening::End(uid) => {
                let phase = if self.one_in(4) { "Succeeded" } else { "Failed" };
                self.update(&uid, phase, Some(false));
            }
            Happening::Gone(uid) => {
                if let Some(pod) = self.pod(&uid) {
                    let name = text(&pod, "/metadata/name").to_owned();
                    self.tell("kubelet", || format!("pod {name} has ended"));
                    let now = self.now();
                    self.store.remove(Kind::Pods, &name, now);
                }
            }
        }
        self.sweep_soon();
    }

    pub(super) fn sweep_soon(&mut self) {
        let soon = self.rng.u64(1..1500);
        self.plan(soon, Happening::Sweep);
    }

    fn pod(&self, uid: &str) -> Option<Object> {
        let mut pods = self.store.objects(Kind::Pods).values();
        pods.find(|pod| text(pod, "/metadata/uid") == uid).cloned()
    }

    fn bind(&mut self, uid: &str) {
        let Some(pod) = self.pod(uid).filter(|pod| !is_deleting(pod)) else {
            return;
        };
        let mut claims = claims_of(&pod);
        let is_bound = |claim: &str| {
            let claim = self.store.get(Kind::Claims, claim);
            claim.is_some_and(|claim| !is_deleting(claim))
        };
        if !claims.all(is_bound) {
            return self.plan(2000, Happening::Bind(uid.to_owned()));
        }
        let now = self.now();
        let name = text(&pod, "/metadata/name");
        self.edit(Kind::Pods, name, |pod| {
            pod["spec"]["nodeName"] = "n1".into();
            pod["status"]["startTime"] = time(now);
            pod["status"]["conditions"] =
                json!([{"type": "Ready", "status": "False", "lastTransitionTime": time(now)}]);
        });
        let soon = match self.rng.u64(0..10) {
            0 => self.rng.u64(1000..15_000),
            _ => self.rng.u64(10..400),
        };
        self.plan(soon, Happening::Start(uid.to_owned()));
    }

    /// What becomes of a pod lies in its image.
    fn start(&mut self, uid: &str) {
        let Some(pod) = self.pod(uid).filter(|pod| !is_deleting(pod)) else {
            return;
        };
        let image = text(&pod, "/spec/containers/0/image").to_owned();
        match image.as_str() {
            "broken:pull" => {
                let waiting = json!({"waiting": {"reason": "ErrImagePull", "message": "it is nowhere"}});
                let status = json!({
                    "name": "main", "image": image, "imageID": "", "ready": false, "restartCount": 0, "state": waiting,
                });
                self.edit(Kind::Pods, text(&pod, "/metadata/name"), |pod| {
                    pod["status"]["containerStatuses"] = json!([status]);
                });
            }
            "broken:exit" => self.plan(500, Happening::End(uid.to_owned())),
            image => {
                self.update(uid, "Running", None);
                if image != "broken:probe" {
                    let soon = self.rng.u64(1..1500);
                    self.plan(soon, Happening::Ready(uid.to_owned()));
                }
                if self.is_faulty && self.one_in(15) {
                    let later = self.rng.u64(1..5000);
                    self.plan(later, Happening::End(uid.to_owned()));
                }
            }
        }
    }

    fn get_ready(&mut self, uid: &str) {
        if !self.update(uid, "Running", Some(true)) || !self.is_faulty {
            return;
        }
        match self.rng.u64(0..20) {
            // Readiness takes some failed probes to go, and times are in whole seconds.
            0..3 => {
                let later = self.rng.u64(3000..60_000);
                self.plan(later, Happening::Unready(uid.to_owned()));
            }
            3 => {
                let later = self.rng.u64(1..60_000);
                self.plan(later, Happening::End(uid.to_owned()));
            }
            _ => {}
        }
    }

    /// Writes a pod's phase, and its readiness if that has changed. Nothing, if it has ended or is gone.
    fn update(&mut self, uid: &str, phase: &str, ready: Option<bool>) -> bool {
        let Some(pod) = self.pod(uid) else {
            return false;
        };
        if matches!(text(&pod, "/status/phase"), "Failed" | "Succeeded") {
            return false;
        }
        let now = self.now();
        let name = text(&pod, "/metadata/name").to_owned();
        self.tell("kubelet", || {
            let readiness = match ready {
                Some(true) => ", ready",
                Some(false) => ", not ready",
                None => "",
            };
            format!("pod {name}: {phase}{readiness}")
        });
        self.edit(Kind::Pods, &name, |pod| {
            pod["status"]["phase"] = phase.into();
            let Some(ready) = ready else {
                return;
            };
            let status = if ready { "True" } else { "False" };
            let before = list(pod, "/status/conditions");
            let is_changed = !before
                .iter()
                .any(|condition| condition["type"] == "Ready" && condition["status"] == status);
            if is_changed {
                let had_served = before.iter().any(|condition| condition["type"] == SERVED);
                let mut conditions =
                    vec![json!({"type": "Ready", "status": status, "lastTransitionTime": time(now)})];
                if ready || had_served {
                    conditions.push(json!({"type": SERVED, "status": "True"}));
                }
                pod["status"]["conditions"] = conditions.into();
            }
        });
        true
    }

    /// Asks for a pod's deletion. One without a node goes at once.
    pub(super) fn begin_deletion(&mut self, pod: &Value) {
        let name = text(pod, "/metadata/name").to_owned();
        let now = self.now();
        if text(pod, "/spec/nodeName").is_empty() {
            return self.store.remove(Kind::Pods, &name, now);
        }
        self.edit(Kind::Pods, &name, |pod| {
            pod["metadata"]["deletionTimestamp"] = time(now + 30_000);
            pod["metadata"]["deletionGracePeriodSeconds"] = 30.into();
        });
        let uid = text(pod, "/metadata/uid").to_owned();
        let ends = match self.rng.u64(0..10) {
            0 => self.rng.u64(2000..50_000),
            _ => self.rng.u64(1..2000),
        };
        if self.one_in(3) {
            self.plan(ends / 2, Happening::End(uid.clone()));
        }
        self.plan(ends, Happening::Gone(uid));
    }

    fn sweep(&mut self) {
        let mut is_changed = self.orphans_go();
        let now = self.now();
        let claims: Vec<Object> = self.store.objects(Kind::Claims).values().cloned().collect();
        for claim in claims.iter().filter(|claim| is_deleting(claim)) {
            let name = text(claim, "/metadata/name");
            let uses = |pod: &Object| {
                let runs = !matches!(text(pod, "/status/phase"), "Failed" | "Succeeded");
                runs && !text(pod, "/spec/nodeName").is_empty() && claims_of(pod).any(|used| used == name)
            };
            if !self.store.objects(Kind::Pods).values().any(uses) {
                self.take_finalizer(name, PROTECTION);
            }
            let left = self.store.get(Kind::Claims, name);
            if left.is_some_and(|claim| list(claim, "/metadata/finalizers").is_empty()) {
                self.tell("protection", || format!("claim {name} is gone"));
                self.store.remove(Kind::Claims, name, now);
                is_changed = true;
            }
        }
        if is_changed {
            self.sweep_soon();
        }
    }

    /// Garbage collection: what belonged to those that are gone, or that wait for what is theirs to go.
    fn orphans_go(&mut self) -> bool {
        let mut is_changed = false;
        for kind in [Kind::Pods, Kind::Claims, Kind::Revisions] {
            let objects: Vec<Object> = self.store.objects(kind).values().cloned().collect();
            for object in objects {
                let owners = list(&object, "/metadata/ownerReferences");
                let stays: Vec<Value> = owners
                    .iter()
                    .filter(|owner| self.store.is_there(text(owner, "/uid")) && !self.waits(owner))
                    .cloned()
                    .collect();
                if stays.len() == owners.len() || stays.is_empty() && is_deleting(&object) {
                    continue;
                }
                is_changed = true;
                let name = text(&object, "/metadata/name").to_owned();
                let goes = stays.is_empty();
                self.tell("collector", || {
                    let what = if goes { "goes with" } else { "loses one of" };
                    format!("{} {name} {what} its owners", kind.names().1)
                });
                let now = self.now();
                match kind {
                    _ if !goes => self.edit(kind, &name, |object| {
                        object["metadata"]["ownerReferences"] = stays.into();
                    }),
                    Kind::Pods => self.begin_deletion(&object),
                    Kind::Revisions => self.store.remove(kind, &name, now),
                    _ => self.edit(kind, &name, |object| {
                        object["metadata"]["deletionTimestamp"] = time(now);
                    }),
                }
            }
        }
        let waits = self.set().is_some_and(is_deleting);
        let uid = self.set().map(|set| text(set, "/metadata/uid").to_owned());
        let has_owner = |object: &Object| {
            let owners = list(object, "/metadata/ownerReferences");
            owners.iter().any(|owner| {
                Some(text(owner, "/uid")) == uid.as_deref() && owner["blockOwnerDeletion"] == true
            })
        };
        let mut dependents = [Kind::Pods, Kind::Claims, Kind::Revisions]
            .into_iter()
            .flat_map(|kind| self.store.objects(kind).values());
        if waits && !dependents.any(has_owner) {
            self.tell("collector", || "the set goes after its dependents".to_owned());
            let now = self.now();
            self.store.remove(Kind::Sets, SET, now);
            is_changed = true;
        }
        is_changed
    }

    /// Whether an owner waits for what it owns to go.
    fn waits(&self, owner: &Value) -> bool {
        let set = self.set().filter(|set| is_deleting(set));
        set.is_some_and(|set| set["metadata"]["uid"] == owner["uid"])
    }

    fn take_finalizer(&mut self, claim: &str, finalizer: &str) {
        let has = self.store.get(Kind::Claims, claim).is_some_and(|claim| {
            let finalizers = list(claim, "/metadata/finalizers");
            finalizers.iter().any(|other| other == finalizer)
        });
        if has {
            self.edit(Kind::Claims, claim, |claim| {
                if let Some(finalizers) = claim["metadata"]["finalizers"].as_array_mut() {
                    finalizers.retain(|other| other != finalizer);
                }
            });
        }
    }
}

/// The claims that a pod uses.
fn claims_of(pod: &Value) -> impl Iterator<Item = &str> {
    let volumes = list(pod, "/spec/volumes").iter();
    volumes
        .map(|volume| text(volume, "/persistentVolumeClaim/claimName"))
        .filter(|name| !name.is_empty())
}
