//! The verbs of the simulated API server, as far as the controller uses them.

use serde_json::{Value, json};

use super::node::Happening;
use super::rules;
use super::store::{Kind, Object, is_deleting, list, text, version_of};
use super::words;
use super::world::State;

/// A request, read.
pub(super) struct Call {
    pub(super) verb: Verb,
    pub(super) kind: Kind,
    pub(super) name: String,
    pub(super) body: Value,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Verb {
    List,
    Get,
    Create,
    Replace,
    ReplaceStatus,
    StrategicPatch,
    MergePatch,
    Delete,
}

/// An answer: the code, and an object or a `Status`.
pub(super) type Answer = (u16, Value);

impl Call {
    pub(super) fn is_write(&self) -> bool {
        !matches!(self.verb, Verb::List | Verb::Get)
    }
}

/// A refusal, in the API's words.
pub(super) fn refusal(code: u16, reason: &str, message: &str) -> Answer {
    let status = json!({
        "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
        "reason": reason, "message": message, "code": code,
    });
    (code, status)
}

impl State {
    /// Carries a request of a controller's out.
    pub(super) fn answer(&mut self, call: &Call, controller: usize, look: Option<usize>) -> Answer {
        let answer = match call.verb {
            Verb::List => self.list(call.kind),
            Verb::Create => self.create(call, look),
            _ => match self.store.get(call.kind, &call.name).cloned() {
                None => refusal(404, "NotFound", "there is no such object"),
                Some(object) => self.on_object(call, &object, look),
            },
        };
        if call.is_write() {
            self.wrote_at = self.now();
            let (_, kind, _) = call.kind.names();
            let verb = call.verb;
            self.tell(&format!("controller {controller}"), || {
                let outcome = match answer.0 {
                    200..300 => words::shown(call.kind, &answer.1),
                    code => format!("refused: {code} {}", text(&answer.1, "/reason")),
                };
                format!("{verb:?} {kind} {}: {outcome}", call.name)
            });
        }
        answer
    }

    fn list(&self, kind: Kind) -> Answer {
        let snapshot = self.store.table(kind).last();
        let items: Vec<&Value> = snapshot.objects.values().map(|object| &**object).collect();
        let (_, name, version) = kind.names();
        let list = json!({
            "kind": format!("{name}List"), "apiVersion": version,
            "metadata": {"resourceVersion": snapshot.version.to_string()}, "items": items,
        });
        (200, list)
    }

    fn create(&mut self, call: &Call, look: Option<usize>) -> Answer {
        let mut object = call.body.clone();
        if self.store.get(call.kind, &call.name).is_some() {
            return refusal(409, "AlreadyExists", "already exists");
        }
        let now = self.now();
        match call.kind {
            Kind::Pods => {
                self.judge(look, |state, look| rules::creates_pod(state, look, &object));
                object["status"] = json!({"phase": "Pending"});
            }
            Kind::Claims => {
                self.judge(look, |state, look| rules::owns_claim(state, look, None, &object));
                object["metadata"]["finalizers"] = json!(["kubernetes.io/pvc-protection"]);
            }
            Kind::Revisions => {
                let image = text(&object, "/data/spec/template/spec/containers/0/image").to_owned();
                self.images.insert(call.name.clone(), image);
            }
            Kind::Sets => panic!("the controller makes a set"),
        }
        let object = self.store.create(call.kind, object, now);
        if call.kind == Kind::Pods {
            let uid = text(&object, "/metadata/uid").to_owned();
            let soon = self.rng.u64(0..50);
            self.plan(soon, Happening::Bind(uid));
        }
        (201, Value::clone(&object))
    }

    fn on_object(&mut self, call: &Call, object: &Object, look: Option<usize>) -> Answer {
        let body = &call.body;
        let differs = |field: &str, given: &str| !given.is_empty() && text(object, field) != given;
        let given = if call.verb == Verb::Delete {
            "/preconditions"
        } else {
            "/metadata"
        };
        for field in ["uid", "resourceVersion"] {
            if differs(
                &format!("/metadata/{field}"),
                text(body, &format!("{given}/{field}")),
            ) {
                return refusal(409, "Conflict", "the object is another one by now");
            }
        }
        let mut changed = match call.verb {
            Verb::Get => return (200, Value::clone(object)),
            Verb::Delete => return self.delete(call, object, look),
            Verb::Replace => {
                let mut changed = body.clone();
                changed["status"] = object["status"].clone();
                changed
            }
            Verb::ReplaceStatus => {
                let mut changed = Value::clone(object);
                changed["status"] = body["status"].clone();
                changed
            }
            Verb::MergePatch => {
                let mut changed = Value::clone(object);
                merge(&mut changed, body);
                changed
            }
            Verb::StrategicPatch => strategic(object, body),
            Verb::List | Verb::Create => unreachable!("these have no object"),
        };
        changed["metadata"]["resourceVersion"] = object["metadata"]["resourceVersion"].clone();
        if let Some(look) = look
            && (call.kind, call.verb) == (Kind::Pods, Verb::StrategicPatch)
        {
            // It goes on with the pod as the answer shows it.
            let uid = text(object, "/metadata/uid").to_owned();
            self.looks[look].patched.insert(uid, Object::new(changed.clone()));
        }
        if changed == **object {
            return (200, changed);
        }
        let owners = list(&changed, "/metadata/ownerReferences");
        if owners.iter().filter(|owner| owner["controller"] == true).count() > 1 {
            return refusal(
                422,
                "Invalid",
                "only one reference can have controller set to true",
            );
        }
        if call.kind == Kind::Pods && changed["spec"] != object["spec"] {
            return refusal(422, "Invalid", "pod updates may not change the spec");
        }
        if owners.iter().any(|owner| text(owner, "/uid").is_empty()) {
            return refusal(422, "Invalid", "an owner must have a uid");
        }
        self.judge(look, |state, look| match (call.kind, call.verb) {
            (Kind::Sets, Verb::ReplaceStatus) => rules::writes_status(state, look, object, &changed),
            (Kind::Claims, _) => rules::owns_claim(state, look, Some(object), &changed),
            (Kind::Pods, Verb::StrategicPatch) => rules::adopts_pod(state, look, object, &changed),
            (Kind::Pods, _) => rules::replaces_pod(object, &changed),
            (Kind::Revisions, _) => Ok(()),
            (Kind::Sets, verb) => Err(format!("does {verb:?} to a set")),
        });
        let now = self.now();
        let written = self.store.put(call.kind, changed, now);
        (200, Value::clone(&written))
    }

    fn delete(&mut self, call: &Call, object: &Object, look: Option<usize>) -> Answer {
        let now = self.now();
        match call.kind {
            Kind::Pods if is_deleting(object) => {}
            Kind::Pods => {
                self.judge(look, |state, look| {
                    rules::deletes_pod(state, look, object, &call.body)
                });
                self.begin_deletion(object);
            }
            Kind::Revisions => {
                self.judge(look, |state, look| rules::deletes_revision(state, look, object));
                self.store.remove(call.kind, &call.name, now);
                let success =
                    json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success"});
                return (200, success);
            }
            Kind::Claims | Kind::Sets => {
                self.judge(look, |_, _| Err(format!("deletes {:?} {}", call.kind, call.name)));
            }
        }
        let left = self.store.get(call.kind, &call.name).unwrap_or(object);
        (200, Value::clone(left))
    }

    /// Asks a rule whether a look may do this, and notes it if not.
    fn judge(&mut self, look: Option<usize>, rule: impl FnOnce(&mut State, usize) -> Result<(), String>) {
        let Some(look) = look else {
            return self.accuse("a write outside of any look".to_owned());
        };
        if let Err(wrong) = rule(self, look) {
            let controller = self.looks[look].controller;
            self.accuse(format!("controller {controller} {wrong}"));
        }
    }

    /// Changes an object by hand.
    pub(super) fn edit(&mut self, kind: Kind, name: &str, change: impl FnOnce(&mut Value)) {
        if let Some(object) = self.store.get(kind, name) {
            let mut changed = Value::clone(object);
            change(&mut changed);
            let now = self.now();
            self.store.put(kind, changed, now);
        }
    }
}

/// RFC 7386.
fn merge(target: &mut Value, patch: &Value) {
    let Some(fields) = patch.as_object() else {
        *target = patch.clone();
        return;
    };
    if !target.is_object() {
        *target = json!({});
    }
    for (field, value) in fields {
        if value.is_null() {
            target.as_object_mut().expect("an object").remove(field);
        } else {
            merge(&mut target[field], value);
        }
    }
}

/// A strategic merge patch, of owner references only.
fn strategic(object: &Value, patch: &Value) -> Value {
    let mut fields = patch["metadata"]
        .as_object()
        .into_iter()
        .flat_map(|meta| meta.keys());
    let is_known = fields.all(|field| matches!(field.as_str(), "ownerReferences" | "uid"));
    assert!(is_known, "the simulation knows no strategic patch {patch}");
    let mut owners = list(object, "/metadata/ownerReferences").to_vec();
    for owner in list(patch, "/metadata/ownerReferences") {
        owners.retain(|own| own["uid"] != owner["uid"]);
        if owner["$patch"] != "delete" {
            owners.push(owner.clone());
        }
    }
    let mut changed = object.clone();
    changed["metadata"]["ownerReferences"] = owners.into();
    changed
}

/// The version that a write left, which its answer tells.
pub(super) fn written(answer: &Answer) -> u64 {
    version_of(&answer.1)
}
