//! What becomes of a volume: which phase it is in, and what is done when its claim is gone
//! ("Persistent Volumes", "Reclaiming"). Pure.

use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim};
use stead_informer::semantics::volumes::{
    BOUND_BY_CONTROLLER, PROVISIONED_BY, annotation, capacity, claim_ref, phase, requested, volume_name,
};

/// Keeps a volume that was made by a provisioner until its data is deleted.
pub(super) const PROVISIONER_FINALIZER: &str = "external-provisioner.volume.kubernetes.io/finalizer";

/// Where a volume stands towards its claim.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Standing {
    /// It has no claim, or waits for one that is not made yet.
    Available,
    /// It is kept for a claim that does not know of it yet.
    Awaiting,
    /// It is its claim's.
    Bound,
    /// Its claim is gone.
    Released,
    /// Its claim has another volume: it is to be free again.
    Superseded,
}

/// Where a volume stands. `claim` is the one it refers to, if there is such a claim, now, with this
/// uid or another.
pub(super) fn standing(volume: &PersistentVolume, claim: Option<&PersistentVolumeClaim>) -> Standing {
    let Some(reference) = claim_ref(volume) else {
        return Standing::Available;
    };
    let Some(uid) = reference.uid.as_deref().filter(|uid| !uid.is_empty()) else {
        return Standing::Available;
    };
    let Some(claim) = claim.filter(|claim| claim.metadata.uid.as_deref() == Some(uid)) else {
        return Standing::Released;
    };
    match volume_name(claim) {
        None => Standing::Awaiting,
        Some(name) if volume.metadata.name.as_deref() == Some(name) => Standing::Bound,
        // Made for a claim that has found another volume meanwhile.
        Some(_) if provisioner(volume).is_some() && reclaim_policy(volume) == "Delete" => Standing::Released,
        Some(_) => Standing::Superseded,
    }
}

/// What is to be done with the data of a volume.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fate {
    /// Nothing, now.
    Keep,
    /// It goes, and the volume after it.
    Delete,
    /// The volume may go, its data stays.
    LetGo,
    /// Nobody knows how to delete it.
    NoDeleter,
    /// Nobody knows how to scrub it.
    NoRecycler,
}

/// Decides about a volume's data. `ours` is the name of our provisioner.
pub(super) fn fate(volume: &PersistentVolume, standing: Standing, ours: &str) -> Fate {
    let is_leaving = volume.metadata.deletion_timestamp.is_some();
    let is_free = match standing {
        Standing::Released => true,
        // Deleted by a person while nobody used it: its policy holds all the same.
        Standing::Available => is_leaving,
        Standing::Awaiting | Standing::Bound | Standing::Superseded => false,
    };
    if !is_free {
        return Fate::Keep;
    }
    let is_ours = provisioner(volume) == Some(ours);
    match reclaim_policy(volume) {
        "Delete" if is_ours => Fate::Delete,
        "Delete" if standing == Standing::Released && provisioner(volume).is_none() => Fate::NoDeleter,
        "Recycle" if standing == Standing::Released => Fate::NoRecycler,
        "Retain" if is_ours && is_leaving && is_held(volume) => Fate::LetGo,
        _ => Fate::Keep,
    }
}

/// Whether our finalizer holds a volume.
pub(super) fn is_held(volume: &PersistentVolume) -> bool {
    volume
        .metadata
        .finalizers
        .iter()
        .flatten()
        .any(|name| name == PROVISIONER_FINALIZER)
}

/// A volume that is not its claim's any more.
pub(super) fn unbound(volume: &PersistentVolume) -> PersistentVolume {
    let mut free = volume.clone();
    let by_us = annotation(&volume.metadata, BOUND_BY_CONTROLLER).is_some();
    if let Some(annotations) = &mut free.metadata.annotations {
        annotations.remove(BOUND_BY_CONTROLLER);
    }
    if let Some(spec) = &mut free.spec {
        if by_us {
            spec.claim_ref = None;
        } else if let Some(reference) = &mut spec.claim_ref {
            // A person keeps it for a claim of this name; only the old claim's uid goes.
            reference.uid = None;
            reference.resource_version = None;
        }
    }
    free
}

/// A volume in a phase; none where it is so already.
pub(super) fn in_phase(
    volume: &PersistentVolume,
    wanted: &str,
    message: Option<&str>,
) -> Option<PersistentVolume> {
    let status = volume.status.clone().unwrap_or_default();
    if phase(volume) == wanted && status.message.as_deref() == message {
        return None;
    }
    let mut moved = volume.clone();
    let status = moved.status.get_or_insert_default();
    status.phase = Some(wanted.to_owned());
    status.message = message.map(str::to_owned);
    Some(moved)
}

/// A volume that is as large as its claim asks for; none where it is so already.
pub(super) fn grown(volume: &PersistentVolume, claim: &PersistentVolumeClaim) -> Option<PersistentVolume> {
    if capacity(volume) >= requested(claim) {
        return None;
    }
    let requests = claim.spec.as_ref()?.resources.as_ref()?.requests.as_ref()?;
    let mut grown = volume.clone();
    let sizes = grown
        .spec
        .get_or_insert_default()
        .capacity
        .get_or_insert_default();
    sizes.insert("storage".to_owned(), requests.get("storage")?.clone());
    Some(grown)
}

/// Who has made a volume.
pub(super) fn provisioner(volume: &PersistentVolume) -> Option<&str> {
    annotation(&volume.metadata, PROVISIONED_BY)
}

fn reclaim_policy(volume: &PersistentVolume) -> &str {
    let policy = volume
        .spec
        .as_ref()
        .and_then(|spec| spec.persistent_volume_reclaim_policy.as_deref());
    policy.unwrap_or("Retain")
}

#[cfg(test)]
pub(super) mod tests {
    use std::sync::Arc;

    use serde_json::{Value, json};

    use super::*;

    pub(in super::super) fn volume(name: &str, extra: Value) -> Arc<PersistentVolume> {
        let volume = json!({
            "metadata": {"name": name},
            "spec": {"accessModes": ["ReadWriteOnce"], "storageClassName": "x", "capacity": {"storage": "1Gi"}},
            "status": {"phase": "Available"},
        });
        Arc::new(serde_json::from_value(merged(volume, extra)).expect("a volume"))
    }

    /// One object with another's fields over it.
    pub(in super::super) fn merged(into: Value, from: Value) -> Value {
        match (into, from) {
            (Value::Object(mut into), Value::Object(from)) => {
                for (key, value) in from {
                    let old = into.remove(&key).unwrap_or(Value::Null);
                    into.insert(key, merged(old, value));
                }
                Value::Object(into)
            }
            (_, from) => from,
        }
    }

    fn claim(uid: &str, volume: &str) -> PersistentVolumeClaim {
        let claim =
            json!({"metadata": {"namespace": "ns", "name": "c", "uid": uid}, "spec": {"volumeName": volume}});
        serde_json::from_value(claim).expect("a claim")
    }

    fn kept(uid: &str, extra: Value) -> Arc<PersistentVolume> {
        let reference = json!({"namespace": "ns", "name": "c", "uid": uid});
        volume("v", merged(json!({"spec": {"claimRef": reference}}), extra))
    }

    fn made_by(provisioner: &str, policy: &str) -> Value {
        json!({
            "metadata": {"annotations": {PROVISIONED_BY: provisioner}},
            "spec": {"persistentVolumeReclaimPolicy": policy},
        })
    }

    #[test]
    fn a_volume_stands_as_its_claim_does() {
        for (volume, claim, expected) in [
            (volume("v", json!({})), None, Standing::Available),
            (kept("", json!({})), None, Standing::Available),
            (kept("u1", json!({})), Some(claim("u1", "")), Standing::Awaiting),
            (kept("u1", json!({})), Some(claim("u1", "v")), Standing::Bound),
            (kept("u1", json!({})), None, Standing::Released),
            (kept("u1", json!({})), Some(claim("u2", "v")), Standing::Released),
            (
                kept("u1", json!({})),
                Some(claim("u1", "w")),
                Standing::Superseded,
            ),
            (
                kept("u1", made_by("p", "Delete")),
                Some(claim("u1", "w")),
                Standing::Released,
            ),
        ] {
            assert_eq!(
                standing(&volume, claim.as_ref()),
                expected,
                "{volume:?} {claim:?}"
            );
        }
    }

    #[test]
    fn data_goes_only_when_the_claim_is_gone_and_the_policy_says_so() {
        use Standing::{Available, Awaiting, Bound, Released, Superseded};
        let leaving = json!({"metadata": {"deletionTimestamp": "2026-01-01T00:00:00Z", "finalizers": [PROVISIONER_FINALIZER]}});
        for (policy, by, leaves, standing, expected) in [
            ("Delete", "ours", false, Released, Fate::Delete),
            ("Delete", "ours", true, Released, Fate::Delete),
            ("Delete", "ours", true, Available, Fate::Delete),
            ("Delete", "ours", false, Available, Fate::Keep),
            ("Delete", "ours", true, Bound, Fate::Keep),
            ("Delete", "ours", true, Awaiting, Fate::Keep),
            ("Delete", "ours", true, Superseded, Fate::Keep),
            ("Delete", "theirs", false, Released, Fate::Keep),
            ("Delete", "", false, Released, Fate::NoDeleter),
            ("Delete", "", true, Available, Fate::Keep),
            ("Retain", "ours", false, Released, Fate::Keep),
            ("Retain", "ours", true, Released, Fate::LetGo),
            ("Retain", "ours", true, Bound, Fate::Keep),
            ("Retain", "", true, Released, Fate::Keep),
            ("Recycle", "", false, Released, Fate::NoRecycler),
        ] {
            let mut extra = if by.is_empty() {
                json!({"spec": {"persistentVolumeReclaimPolicy": policy}})
            } else {
                made_by(by, policy)
            };
            if leaves {
                extra = merged(extra, leaving.clone());
            }
            let volume = kept("u1", extra);
            assert_eq!(
                fate(&volume, standing, "ours"),
                expected,
                "{policy} {by} {leaves} {standing:?}"
            );
        }
    }

    #[test]
    fn a_volume_that_is_freed_stays_kept_for_whom_a_person_kept_it() {
        let by_us = kept(
            "u1",
            json!({"metadata": {"annotations": {BOUND_BY_CONTROLLER: "yes"}}}),
        );
        assert_eq!(claim_ref(&unbound(&by_us)), None);
        let by_hand = unbound(&kept("u1", json!({})));
        let reference = claim_ref(&by_hand).expect("a reference");
        assert_eq!(
            (reference.name.as_deref(), reference.uid.as_deref()),
            (Some("c"), None)
        );
    }

    #[test]
    fn a_phase_is_written_once() {
        let moved = in_phase(&volume("v", json!({})), "Failed", Some("why")).expect("a change");
        assert_eq!(phase(&moved), "Failed");
        assert_eq!(in_phase(&moved, "Failed", Some("why")), None);
        assert!(in_phase(&moved, "Bound", None).is_some());
    }
}
