//! Defects of the controller's ways with the API, planted between it and the server, that the simulation must find: a
//! test of the test. (Those of the planner are in [`super::super::model`].)

use serde_json::{Value, json};

use super::api::{Answer, Call, Verb};
use super::search;
use super::store::Kind;
use super::world::State;

/// What a defective controller gets wrong.
pub(super) struct Defect {
    pub(super) name: &'static str,
    /// What it leaves out of its requests, or puts in.
    pub(super) request: fn(Verb, Kind, &mut Value),
    /// What it takes for an answer, instead of asking.
    pub(super) instead: fn(&State, usize, &Call) -> Option<Answer>,
    /// What it overlooks in answers to writes and reads.
    pub(super) answer: fn(Verb, &mut Value),
    /// What its caches get wrong.
    pub(super) view: fn(Kind, &mut Value),
    /// How many seconds its clock is ahead.
    pub(super) ahead: i64,
}

/// No defect, to add one to.
pub(super) const NONE: Defect = Defect {
    name: "none",
    request: |_, _, _| {},
    instead: |_, _, _| None,
    answer: |_, _| {},
    view: |_, _| {},
    ahead: 0,
};

/// The controller as it is.
pub(super) static SOUND: Defect = NONE;

/// In how many seeds each must be found.
const ENOUGH: u64 = 3000;

static DEFECTS: &[Defect] = &[
    Defect {
        name: "trusts its caches after a write",
        answer: |verb, answer| {
            if verb != Verb::List {
                answer["metadata"]["resourceVersion"] = json!("0");
            }
        },
        ..NONE
    },
    Defect {
        name: "knows only of what came after it started",
        answer: |verb, answer| {
            if verb == Verb::List {
                answer["items"] = json!([]);
            }
        },
        ..NONE
    },
    Defect {
        name: "deletes whatever pod has the name",
        request: |verb, kind, body| {
            if (verb, kind) == (Verb::Delete, Kind::Pods) {
                remove(body, "", "preconditions");
            }
        },
        ..NONE
    },
    Defect {
        name: "does not wait until processes have ended",
        request: |verb, kind, body| {
            if (verb, kind) == (Verb::Delete, Kind::Pods) {
                body["gracePeriodSeconds"] = json!(0);
            }
        },
        ..NONE
    },
    Defect {
        name: "changes the owner of whatever pod has the name",
        request: |verb, kind, body| {
            if (verb, kind) == (Verb::StrategicPatch, Kind::Pods) {
                remove(body, "/metadata", "uid");
            }
        },
        ..NONE
    },
    Defect {
        name: "adopts without a look at the set itself",
        instead: |state, controller, call| {
            let is_set = (call.verb, call.kind) == (Verb::Get, Kind::Sets);
            let table = state.store.table(call.kind);
            let cached = &table.history[table.index_at(state.known(controller, call.kind))];
            let set = cached.objects.get(&call.name).filter(|_| is_set)?;
            Some((200, Value::clone(set)))
        },
        ..NONE
    },
    Defect {
        name: "overwrites a newer status",
        request: |verb, _, body| {
            if verb == Verb::ReplaceStatus {
                remove(body, "/metadata", "resourceVersion");
            }
        },
        ..NONE
    },
    Defect {
        name: "overwrites a newer pod",
        request: |verb, _, body| {
            if verb == Verb::Replace {
                remove(body, "/metadata", "resourceVersion");
            }
        },
        ..NONE
    },
    Defect {
        name: "overwrites newer owners of claims",
        request: |verb, kind, body| {
            if (verb, kind) == (Verb::MergePatch, Kind::Claims) {
                remove(body, "/metadata", "resourceVersion");
            }
        },
        ..NONE
    },
    Defect {
        name: "uses claims that are being deleted",
        view: |kind, object| {
            if kind == Kind::Claims {
                remove(object, "/metadata", "deletionTimestamp");
            }
        },
        ..NONE
    },
    Defect {
        name: "uses claims that go with their former owners",
        view: |kind, object| {
            if kind == Kind::Claims {
                remove(object, "/metadata", "ownerReferences");
            }
        },
        ..NONE
    },
    Defect {
        name: "deletes claims on every scale-down",
        view: |kind, object| {
            if kind == Kind::Sets {
                object["spec"]["persistentVolumeClaimRetentionPolicy"]["whenScaled"] = json!("Delete");
            }
        },
        ..NONE
    },
    Defect {
        name: "does not see that pods are on their way out",
        view: |kind, object| {
            if kind == Kind::Pods {
                remove(object, "/metadata", "deletionTimestamp");
            }
        },
        ..NONE
    },
    Defect {
        name: "takes the order for none",
        view: |kind, object| {
            if kind == Kind::Sets {
                object["spec"]["podManagementPolicy"] = json!("Parallel");
            }
        },
        ..NONE
    },
    Defect {
        name: "updates below the partition",
        view: |kind, object| {
            if kind == Kind::Sets {
                remove(object, "/spec/updateStrategy/rollingUpdate", "partition");
            }
        },
        ..NONE
    },
    Defect {
        name: "takes more pods than may be unavailable",
        view: |kind, object| {
            if kind == Kind::Sets {
                object["spec"]["updateStrategy"]["rollingUpdate"]["maxUnavailable"] = json!(3);
            }
        },
        ..NONE
    },
    Defect {
        name: "takes pods for available too soon",
        ahead: 60,
        ..NONE
    },
    Defect {
        name: "counts a pod too many",
        request: |verb, _, body| {
            if verb == Verb::ReplaceStatus {
                let ready = body["status"]["readyReplicas"].as_u64().unwrap_or(0);
                body["status"]["readyReplicas"] = json!(ready + 1);
            }
        },
        ..NONE
    },
];

fn remove(object: &mut Value, at: &str, field: &str) {
    if let Some(fields) = object.pointer_mut(at).and_then(Value::as_object_mut) {
        fields.remove(field);
    }
}

#[test]
fn planted_defects_are_found() {
    let mut unfound = Vec::new();
    for defect in DEFECTS {
        let (played, found) = search(1, defect, |played| played >= ENOUGH);
        eprintln!("{}: after {played} seeds", defect.name);
        if found.is_none() {
            unfound.push(defect.name);
        }
    }
    assert!(unfound.is_empty(), "not found: {unfound:?}");
}
