//! What people do to the set, its pods and its claims.

use serde_json::{Value, json};

use super::node::{FOREGROUND, Happening, STUCK};
use super::store::{Kind, Object, controller_of, is_deleting, list, text, time};
use super::world::{NAMESPACE, SET, State};

const GOOD: [&str; 3] = ["good:1", "good:2", "good:3"];
const BROKEN: [&str; 3] = ["broken:pull", "broken:probe", "broken:exit"];

impl State {
    /// A set as somebody could write it.
    pub(super) fn new_set(&mut self) -> Value {
        let replicas = self.rng.u64(1..5);
        let policy = if self.rng.bool() {
            "Parallel"
        } else {
            "OrderedReady"
        };
        let image = GOOD[self.rng.usize(0..GOOD.len())];
        let limit = [0, 1, 10][self.rng.usize(0..3)];
        let mut spec = json!({
            "replicas": replicas, "podManagementPolicy": policy, "serviceName": SET,
            "selector": {"matchLabels": {"app": "web"}},
            "template": {
                "metadata": {"labels": {"app": "web"}},
                "spec": {"containers": [{"name": "main", "image": image, "readinessProbe": {"periodSeconds": 1}}]},
            },
            "updateStrategy": self.strategy(),
            "revisionHistoryLimit": limit,
        });
        if self.claims > 0 {
            let claim =
                |name: &str| json!({"metadata": {"name": name}, "spec": {"accessModes": ["ReadWriteOnce"]}});
            let claims = [claim("data"), claim("log")];
            spec["volumeClaimTemplates"] = claims[..self.claims].into();
            spec["persistentVolumeClaimRetentionPolicy"] = self.retention();
        }
        let meta = json!({"name": SET, "namespace": NAMESPACE, "generation": 1, "annotations": {}});
        json!({"metadata": meta, "spec": spec, "status": {"replicas": 0}})
    }

    fn strategy(&mut self) -> Value {
        match self.rng.u64(0..6) {
            0 => json!({"type": "OnDelete"}),
            1 => json!({"type": "Recreate"}),
            2 => json!({"type": "RollingUpdate"}),
            _ => {
                let partition = self.rng.u64(0..8).saturating_sub(4);
                let most = [json!(1), json!(2), json!("50%")][self.rng.usize(0..3)].clone();
                json!({"type": "RollingUpdate", "rollingUpdate": {"partition": partition, "maxUnavailable": most}})
            }
        }
    }

    fn retention(&mut self) -> Value {
        let mut word = || if self.rng.bool() { "Delete" } else { "Retain" };
        json!({"whenDeleted": word(), "whenScaled": word()})
    }

    pub(super) fn make_set(&mut self) {
        let set = self.new_set();
        self.tell("person", || format!("makes the set: {}", set["spec"]));
        let now = self.now();
        self.store.create(Kind::Sets, set, now);
    }

    /// Changes the set's spec, which is a new generation.
    fn change_set(&mut self, field: &str, change: impl FnOnce(&mut Value)) {
        self.edit(Kind::Sets, SET, |set| {
            change(set);
            let generation = set["metadata"]["generation"].as_u64().unwrap_or(0);
            set["metadata"]["generation"] = (generation + 1).into();
        });
        let now = self.set().and_then(|set| set.pointer(field)).cloned();
        self.tell("person", || {
            format!("sets {field} to {}", now.unwrap_or_default())
        });
    }

    fn one_of(&mut self, kind: Kind) -> Option<Object> {
        let many = self.store.objects(kind).len();
        if many == 0 {
            return None;
        }
        let at = self.rng.usize(0..many);
        self.store.objects(kind).values().nth(at).cloned()
    }

    pub(super) fn person_acts(&mut self) {
        if !self.is_faulty {
            return;
        }
        let pause = match self.rng.u64(0..4) {
            0 => self.rng.u64(1..300),
            1 => self.rng.u64(300..5000),
            _ => self.rng.u64(2000..25_000),
        };
        self.plan(pause, Happening::Person);
        if self.set().is_none() {
            return self.make_set();
        }
        match self.rng.u64(0..36) {
            0..6 => {
                let replicas = self.rng.u64(0..5);
                self.change_set("/spec/replicas", |set| set["spec"]["replicas"] = replicas.into());
            }
            6..12 => {
                let images = if self.one_in(3) { BROKEN } else { GOOD };
                let image = images[self.rng.usize(0..3)];
                self.change_image(image);
            }
            12..15 => {
                let strategy = self.strategy();
                self.change_set("/spec/updateStrategy", |set| {
                    set["spec"]["updateStrategy"] = strategy
                });
            }
            15 | 16 => {
                let start = self.rng.u64(0..3);
                self.change_set("/spec/ordinals", |set| {
                    set["spec"]["ordinals"] = json!({"start": start})
                });
            }
            17 => {
                let seconds = [0, 2, 10][self.rng.usize(0..3)];
                self.change_set("/spec/minReadySeconds", |set| {
                    set["spec"]["minReadySeconds"] = seconds.into()
                });
            }
            18..21 => {
                let policy = self.retention();
                let field = "persistentVolumeClaimRetentionPolicy";
                self.change_set(&format!("/spec/{field}"), |set| set["spec"][field] = policy);
            }
            21 => {
                let value = if self.rng.bool() { "wait" } else { "heal" };
                self.tell("person", || {
                    format!("says what becomes of broken rollouts: {value}")
                });
                self.edit(Kind::Sets, SET, |set| {
                    set["metadata"]["annotations"]["stead.dev/broken-rollout"] = value.into();
                });
            }
            22..25 => {
                if let Some(pod) = self.one_of(Kind::Pods).filter(|pod| !is_deleting(pod)) {
                    self.tell("person", || {
                        format!("deletes pod {}", text(&pod, "/metadata/name"))
                    });
                    self.begin_deletion(&pod);
                }
            }
            25..27 => self.relabel(),
            27..29 => self.delete_claim(),
            29 => {
                if let Some(pod) = self.one_of(Kind::Pods) {
                    let name = text(&pod, "/metadata/name");
                    self.tell("person", || {
                        format!("takes the label with its name from pod {name}")
                    });
                    self.edit(Kind::Pods, name, |pod| {
                        let labels = pod["metadata"]["labels"].as_object_mut().expect("it has labels");
                        labels.remove("statefulset.kubernetes.io/pod-name");
                    });
                }
            }
            30..32 => self.delete_set(),
            32 | 33 => {
                let ordinal = self.rng.u64(0..4).to_string();
                let ordinal = if self.rng.bool() { &ordinal } else { "" };
                self.tell("person", || format!("leaves out ordinals: {ordinal:?}"));
                self.edit(Kind::Sets, SET, |set| {
                    set["metadata"]["annotations"]["stead.dev/left-out-ordinals"] = ordinal.into();
                });
            }
            _ => {
                let kind = Kind::ALL[self.rng.usize(0..4)];
                if let Some(object) = self.one_of(kind) {
                    let (name, now) = (text(&object, "/metadata/name"), self.now());
                    self.tell("person", || format!("annotates {kind:?} {name}"));
                    self.edit(kind, name, |object| {
                        object["metadata"]["annotations"]["note"] = now.to_string().into()
                    });
                }
            }
        }
        self.sweep_soon();
    }

    fn change_image(&mut self, image: &str) {
        self.change_set("/spec/template/spec/containers/0/image", |set| {
            set["spec"]["template"]["spec"]["containers"][0]["image"] = image.into();
        });
    }

    /// Takes the label from a pod by which it is selected, or gives it back; and has enough of it at times.
    fn relabel(&mut self) {
        let Some(pod) = self.one_of(Kind::Pods) else {
            return;
        };
        let name = text(&pod, "/metadata/name");
        let is_selected = pod["metadata"]["labels"]["app"] == "web";
        let label = if is_selected { "debug" } else { "web" };
        let goes = !is_deleting(&pod) && self.one_in(3);
        self.tell("person", || {
            let then = if goes { ", and deletes it" } else { "" };
            format!("labels pod {name} app={label}{then}")
        });
        self.edit(Kind::Pods, name, |pod| {
            pod["metadata"]["labels"]["app"] = label.into()
        });
        if goes {
            self.begin_deletion(&pod);
        }
    }

    fn delete_claim(&mut self) {
        let Some(claim) = self.one_of(Kind::Claims).filter(|claim| !is_deleting(claim)) else {
            return;
        };
        let (name, now) = (text(&claim, "/metadata/name"), self.now());
        let is_stuck = self.one_in(3);
        self.tell("person", || {
            format!(
                "deletes claim {name}{}",
                if is_stuck { ", which is stuck" } else { "" }
            )
        });
        self.edit(Kind::Claims, name, |claim| {
            claim["metadata"]["deletionTimestamp"] = time(now);
            if is_stuck && let Some(finalizers) = claim["metadata"]["finalizers"].as_array_mut() {
                finalizers.push(STUCK.into());
            }
        });
        if is_stuck {
            let later = self.rng.u64(1000..60_000);
            self.plan(later, Happening::Unstick(name.to_owned()));
        }
    }

    fn delete_set(&mut self) {
        let now = self.now();
        match self.rng.u64(0..3) {
            0 => {
                self.tell("person", || "deletes the set".to_owned());
                self.store.remove(Kind::Sets, SET, now);
            }
            1 => {
                self.tell("person", || "deletes the set in the foreground".to_owned());
                self.edit(Kind::Sets, SET, |set| {
                    set["metadata"]["deletionTimestamp"] = time(now);
                    set["metadata"]["finalizers"] = json!([FOREGROUND]);
                });
            }
            _ => {
                self.tell("person", || "deletes the set, and orphans its pods".to_owned());
                let uid = self.set().map(|set| text(set, "/metadata/uid").to_owned());
                for kind in [Kind::Pods, Kind::Claims, Kind::Revisions] {
                    let objects: Vec<Object> = self.store.objects(kind).values().cloned().collect();
                    let owns = |owner: &Value| Some(text(owner, "/uid")) == uid.as_deref();
                    for object in objects {
                        if list(&object, "/metadata/ownerReferences").iter().any(owns) {
                            self.edit(kind, text(&object, "/metadata/name"), |object| {
                                if let Some(owners) = object["metadata"]["ownerReferences"].as_array_mut() {
                                    owners.retain(|owner| !owns(owner));
                                }
                            });
                        }
                    }
                }
                self.store.remove(Kind::Sets, SET, now);
            }
        }
    }

    /// The faults end: people want a set that can get on, and take away what is in its way.
    pub(super) fn make_peace(&mut self) {
        self.tell("person", || "all faults end".to_owned());
        self.is_faulty = false;
        if self.set().is_none() {
            self.make_set();
        }
        if text(
            &self.set().cloned().unwrap_or_default(),
            "/spec/template/spec/containers/0/image",
        )
        .starts_with("broken")
        {
            let image = GOOD[self.rng.usize(0..3)];
            self.change_image(image);
        }
        let pods: Vec<Object> = self.store.objects(Kind::Pods).values().cloned().collect();
        for pod in pods
            .iter()
            .filter(|pod| controller_of(pod).is_none() || pod["metadata"]["labels"]["app"] != "web")
        {
            self.edit(Kind::Pods, text(pod, "/metadata/name"), |pod| {
                pod["metadata"]["labels"]["app"] = "web".into()
            });
        }
    }
}
