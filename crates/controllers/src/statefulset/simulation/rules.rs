//! What must hold of each write of a controller, asked as the write is carried out, of the objects as they truly were.
//!
//! A controller decides on what its caches hold, which is never quite the truth, so that the rules ask: was there a
//! state that allows this, among those that the caches can have held when it decided? These are few: what its watches
//! had shown it from the begin of the look until it read the clock, and nothing older than what it wrote itself (unless
//! a watch lagged for longer than a look waits, which is five seconds). Sets and pods have watches of their own, so any
//! of the one may meet any of the other. All that a look does to pods is judged together, on one state: two deletions,
//! of which each is fine, may be one too many.

use serde_json::Value;

use super::api::{Call, Verb};
use super::store::{Kind, Object, Snapshot, controller_of, is_deleting, list, text, version_of};
use super::truth;
use super::words;
use super::world::{Deed, Look, State};
use crate::statefulset::model;
use crate::statefulset::state::{Action, Observed, Revision, Spec, Strategy};

type Verdict = Result<(), String>;

/// Notes what a look is about to do to pods.
pub(super) fn note(look: &mut Look, call: &Call) {
    let Some(ordinal) = truth::ordinal(&call.name).filter(|_| call.kind == Kind::Pods) else {
        return;
    };
    match call.verb {
        Verb::Create => look.deeds.push(Deed::Create {
            ordinal,
            revision: truth::revision_of(&call.body).to_owned(),
        }),
        Verb::Delete => look.deeds.push(Deed::Delete {
            ordinal,
            uid: text(&call.body, "/preconditions/uid").to_owned(),
        }),
        _ => {}
    }
}

/// Notes what a look is told of a request.
pub(super) fn hear(look: &mut Look, call: &Call, code: u16, reason: &str) {
    // Lists are its caches'.
    let is_refusal = code >= 400 && reason != "Conflict" && call.verb != Verb::List;
    look.has_failed |= is_refusal;
    // What may pass by itself has the look end.
    let is_final = is_refusal && reason != "AlreadyExists" && !matches!(code, 404 | 429 | 503 | 504);
    look.is_refused |= is_final && call.kind == Kind::Revisions;
}

/// A pod is made: in its turn, of the right revision, when nothing has its name, with claims that stay.
pub(super) fn creates_pod(state: &State, look: usize, pod: &Value) -> Verdict {
    let name = text(pod, "/metadata/name");
    let revision = truth::revision_of(pod);
    if state.images.get(revision).map(String::as_str) != Some(text(pod, "/spec/containers/0/image")) {
        return Err(format!("makes pod {name}, which is not of its revision"));
    }
    let ordinal = truth::ordinal(name).ok_or("makes a pod of another set")?;
    let owner = controller_of(pod).unwrap_or_default();
    let is_of = |set: &Value| text(set, "/metadata/uid") == owner;
    is_justified(state, look, is_of).map_err(|why| format!("makes pod {name}: {why}"))?;
    let look = &state.looks[look];
    for set in sets(state, look).filter(|set| is_of(set)).take(1) {
        for claim in truth::claims(set, ordinal) {
            let goes = |claim: &Object| is_deleting(claim) || is_forfeit(claim, set);
            let mut states = since(state, look, Kind::Claims);
            if states.all(|state| state.objects.get(&claim).is_some_and(goes)) {
                return Err(format!("makes pod {name} with claim {claim}, which goes"));
            }
        }
    }
    Ok(())
}

/// A pod is asked to end: in its turn, within what the strategy allows, after its claims have their owners.
pub(super) fn deletes_pod(state: &mut State, look: usize, pod: &Value, options: &Value) -> Verdict {
    let name = text(pod, "/metadata/name");
    if options["gracePeriodSeconds"] == 0 {
        return Err(format!(
            "deletes pod {name} without waiting for its processes to end"
        ));
    }
    let ordinal = truth::ordinal(name).ok_or("deletes a pod of another set")?;
    let uid = text(pod, "/metadata/uid").to_owned();
    // Without a precondition, it is whatever pod is there.
    for deed in &mut state.looks[look].deeds {
        if let Deed::Delete {
            ordinal: of,
            uid: whom,
        } = deed
            && *of == ordinal
        {
            whom.clone_from(&uid);
        }
    }
    is_justified(state, look, |_| true).map_err(|why| format!("deletes pod {name}: {why}"))?;
    let look = &state.looks[look];
    let is_condemned = |set: &&Value| !truth::spec(set).ordinals().contains(ordinal);
    let Some(set) = sets(state, look).find(is_condemned) else {
        return Ok(());
    };
    let policies: Vec<bool> = sets(state, look).map(|set| truth::retention(set).1).collect();
    let is_certain =
        sets(state, look).all(|set| is_condemned(&set)) && policies.windows(2).all(|two| two[0] == two[1]);
    for name in truth::claims(set, ordinal) {
        let is_wrong = |claim: &Object| {
            let owners = list(claim, "/metadata/ownerReferences");
            let goes_with_pod = owners.iter().any(|owner| owner["uid"] == uid.as_str());
            let is_others = owners.iter().any(|owner| is_of_former(owner, set, &uid));
            !is_deleting(claim) && !is_others && policies.first() != Some(&goes_with_pod)
        };
        let mut states = since(state, look, Kind::Claims);
        if is_certain && states.all(|state| state.objects.get(&name).is_some_and(is_wrong)) {
            return Err(format!(
                "scales down before claim {name} belongs to whom the policy says"
            ));
        }
    }
    Ok(())
}

/// A claim gets owners, with which it goes: only those that the policy asks for, and nobody else's are lost.
pub(super) fn owns_claim(state: &State, look: usize, before: Option<&Object>, after: &Value) -> Verdict {
    let name = text(after, "/metadata/name");
    let ordinal = name.rsplit('-').next().and_then(|digits| digits.parse().ok());
    let ordinal: u32 = ordinal.ok_or("owns a claim of another set")?;
    let look = &state.looks[look];
    let (none, had) = (
        Vec::new(),
        before.map(|claim| list(claim, "/metadata/ownerReferences")),
    );
    let (had, has) = (had.unwrap_or(&none), list(after, "/metadata/ownerReferences"));
    if let Some(before) = before
        && version_of(before) > state.known(look.controller, Kind::Claims)
    {
        return Err(format!("changes claim {name}, which is not as it saw it"));
    }
    // Whether the policy has the claim belong to its pod, or to the set.
    let wanted = |set: &Value, owner: &Value| {
        let (deleted, scaled) = truth::retention(set);
        let goes_with_pod = scaled && !truth::spec(set).ordinals().contains(ordinal);
        match text(owner, "/kind") {
            "Pod" => goes_with_pod,
            _ => deleted && !goes_with_pod && set["metadata"]["uid"] == owner["uid"],
        }
    };
    let is_new = |owner: &&Value| !had.iter().any(|other| other["uid"] == owner["uid"]);
    for owner in has.iter().filter(is_new) {
        if !sets(state, look).any(|set| wanted(set, owner)) {
            return Err(format!(
                "has claim {name} go with {} against the policy",
                owner["name"]
            ));
        }
    }
    let is_lost = |owner: &&Value| !has.iter().any(|other| other["uid"] == owner["uid"]);
    for owner in had.iter().filter(is_lost) {
        let is_ours = matches!(text(owner, "/kind"), "Pod" | "StatefulSet");
        if !is_ours || sets(state, look).all(|set| wanted(set, owner)) {
            return Err(format!("takes claim {name} from {}", owner["name"]));
        }
    }
    Ok(())
}

/// A pod is adopted or released: adopted only by a set that is there and stays.
pub(super) fn adopts_pod(state: &State, look: usize, before: &Value, after: &Value) -> Verdict {
    let (name, uid) = (text(before, "/metadata/name"), text(before, "/metadata/uid"));
    let look = &state.looks[look];
    let selects = |pod: &Object| pod["metadata"]["labels"]["app"] == "web";
    let is_adopted = controller_of(after).is_some();
    let was_seen = since(state, look, Kind::Pods).any(|state| {
        let pod = state
            .objects
            .get(name)
            .filter(|pod| text(pod, "/metadata/uid") == uid);
        pod.is_some_and(|pod| selects(pod) == is_adopted)
    });
    if !was_seen {
        return Err(format!(
            "changes the owner of pod {name}, of which it saw another one"
        ));
    }
    let owner = controller_of(after).unwrap_or_default();
    let stays = |state: &Snapshot| {
        let mut sets = state.objects.values();
        sets.any(|set| text(set, "/metadata/uid") == owner && !is_deleting(set))
    };
    let began = state
        .store
        .table(Kind::Sets)
        .index_at(look.began[Kind::Sets as usize]);
    if is_adopted && !state.store.table(Kind::Sets).history[began..].iter().any(stays) {
        return Err(format!("adopts pod {name} for a set that is gone or goes"));
    }
    Ok(())
}

/// A pod is put right: its identity, and nothing else.
pub(super) fn replaces_pod(before: &Value, after: &Value) -> Verdict {
    let rest = |pod: &Value| {
        let mut rest = pod.clone();
        for label in [
            "statefulset.kubernetes.io/pod-name",
            "apps.kubernetes.io/pod-index",
        ] {
            rest["metadata"]["labels"][label] = Value::Null;
        }
        rest
    };
    if rest(before) == rest(after) {
        return Ok(());
    }
    Err(format!(
        "takes back what others changed in pod {}",
        before["metadata"]["name"]
    ))
}

/// A status is written: it is true, and on top of the newest one.
pub(super) fn writes_status(state: &State, look: usize, set: &Value, after: &Value) -> Verdict {
    let look = &state.looks[look];
    if version_of(set) > state.known(look.controller, Kind::Sets) {
        return Err("overwrites a status that it has not seen".to_owned());
    }
    let spec = truth::spec(set);
    if spec.deleting {
        return Ok(());
    }
    let status = &after["status"];
    if look.has_failed && only_conditions_differ(&set["status"], status) {
        return Ok(());
    }
    let update = text(status, "/updateRevision");
    let (generation, is_its) = if look.is_refused {
        // What is asked for has not been taken up.
        (
            &set["status"]["observedGeneration"],
            update == text(set, "/status/updateRevision"),
        )
    } else {
        let image = state.images.get(update).map(String::as_str);
        (&set["metadata"]["generation"], image == Some(truth::image(set)))
    };
    if status["observedGeneration"] != *generation || !is_its {
        return Err("writes the status of another template".to_owned());
    }
    let told = truth::counts_of(status);
    let mut really = [0; 5];
    let is_true = views(state, look, set).any(|(_, seen)| {
        really = truth::counts(&spec, &seen);
        really == told
    });
    if is_true {
        return Ok(());
    }
    Err(format!(
        "counts {told:?} pods (all, ready, available, updated, current), but there are {really:?}"
    ))
}

/// Whether a status says why a look has failed, and nothing else.
fn only_conditions_differ(before: &Value, after: &Value) -> bool {
    let rest = |status: &Value| {
        let mut rest = status.clone();
        rest["conditions"] = Value::Null;
        rest
    };
    rest(before) == rest(after)
}

/// A revision goes: none that is in use.
pub(super) fn deletes_revision(state: &State, look: usize, revision: &Value) -> Verdict {
    let name = text(revision, "/metadata/name");
    let look = &state.looks[look];
    let image = state.images.get(name).map(String::as_str);
    let is_live = |set: &Value| {
        text(set, "/status/currentRevision") == name
            || image == Some(truth::image_for(set, &state.images, Some(look)))
    };
    let has_pod = |set: &Value| {
        let mut views = seen(state, look, Kind::Pods);
        views.all(|pods| {
            let mut own = truth::own(set, &pods.objects, Some(look));
            own.any(|pod| truth::revision_of(pod) == name)
        })
    };
    if sets(state, look).all(|set| is_live(set) || has_pod(set)) {
        return Err(format!("deletes revision {name}, which is in use"));
    }
    Ok(())
}

/// Whether there is a state that a look can have seen, and that allows all that it did to pods.
fn is_justified(state: &State, look: usize, is_meant: impl Fn(&Value) -> bool) -> Verdict {
    let look = &state.looks[look];
    let mut why = "acts for a set that it cannot have seen".to_owned();
    for set in sets(state, look).filter(|set| is_meant(set)) {
        let spec = truth::spec(set);
        let update = truth::image_for(set, &state.images, Some(look));
        for (current, seen) in views(state, look, set) {
            let deed = |deed: &Deed| action(state, &spec, update, current, deed);
            let actions: Option<Vec<Action>> = look.deeds.iter().map(deed).collect();
            let verdict = actions.map_or(Err("makes a pod of no revision of the set"), |actions| {
                model::allows(&spec, &seen, &actions)
            });
            match verdict {
                Ok(()) => return Ok(()),
                Err(wrong) => why = format!("{wrong}; it can have seen {}", words::summary(&spec, &seen)),
            }
        }
    }
    Err(why)
}

fn action(state: &State, spec: &Spec, update: &str, current: Option<&str>, deed: &Deed) -> Option<Action> {
    let (ordinal, revision) = match deed {
        Deed::Delete { ordinal, uid } => {
            return Some(Action::DeletePod {
                ordinal: *ordinal,
                uid: uid.clone(),
            });
        }
        Deed::Create { ordinal, revision } => (*ordinal, revision),
    };
    let is_update = state.images.get(revision).map(String::as_str) == Some(update);
    let is_current = current.map_or(is_update, |current| current == revision);
    let is_kept = match spec.strategy {
        Strategy::RollingUpdate { partition, .. } => ordinal < spec.ordinals().after(partition),
        _ => false,
    };
    let revision = match (is_update, is_current) {
        (false, false) => return None,
        (true, true) if is_kept => Revision::Current,
        (true, _) => Revision::Update,
        (false, true) => Revision::Current,
    };
    Some(Action::CreatePod { ordinal, revision })
}

/// The states of a kind that the caches can have held when a look decided.
fn seen<'s>(state: &'s State, look: &Look, kind: Kind) -> impl Iterator<Item = &'s Snapshot> {
    let table = state.store.table(kind);
    let from = table.index_at(look.held(state.now())[kind as usize]);
    let to = look
        .decided
        .map_or(from, |(_, to)| table.index_at(to[kind as usize]));
    table.history[from..=to].iter()
}

/// The same, and all later ones: what a look may have read after it decided.
fn since<'s>(state: &'s State, look: &Look, kind: Kind) -> impl Iterator<Item = &'s Snapshot> {
    let table = state.store.table(kind);
    table.history[table.index_at(look.held(state.now())[kind as usize])..].iter()
}

/// The set, as a look can have seen it.
fn sets<'s>(state: &'s State, look: &Look) -> impl Iterator<Item = &'s Value> {
    let states = seen(state, look, Kind::Sets);
    states.flat_map(|state| state.objects.values().map(|set| &**set))
}

/// The set's pods, as a look can have seen them, with the name of the current revision if that is there.
fn views<'s>(
    state: &'s State,
    look: &'s Look,
    set: &'s Value,
) -> impl Iterator<Item = (Option<&'s str>, Observed)> + 's {
    let at = look.decided.map_or(0, |(at, _)| at);
    let now = super::store::timestamp(at);
    let current = text(set, "/status/currentRevision");
    // Where that revision is gone, or a former set's as far as is known, the update revision stands for it.
    let names = [Some(current), None].into_iter().filter(move |name| {
        let mut revisions = seen(state, look, Kind::Revisions);
        let is_own = |revision: &Object| {
            controller_of(revision).is_none_or(|owner| owner == text(set, "/metadata/uid"))
        };
        let is_there = |state: &Snapshot| state.objects.get(current).is_some_and(is_own);
        match name {
            Some(_) => revisions.any(is_there),
            None => !revisions.all(is_there),
        }
    });
    names.flat_map(move |current| {
        seen(state, look, Kind::Pods).map(move |pods| {
            let seen = truth::observe(set, &pods.objects, &state.images, current, Some(look), now);
            (current, seen)
        })
    })
}

/// Whether an owner is a former pod or a former set of the name.
fn is_of_former(owner: &Value, set: &Value, pod: &str) -> bool {
    match text(owner, "/kind") {
        "Pod" => owner["uid"] != pod,
        _ => owner["uid"] != set["metadata"]["uid"],
    }
}

/// Whether a claim belongs to a pod, which there is none of, or to a former set.
fn is_forfeit(claim: &Value, set: &Value) -> bool {
    let owners = list(claim, "/metadata/ownerReferences");
    owners.iter().any(|owner| is_of_former(owner, set, ""))
}
