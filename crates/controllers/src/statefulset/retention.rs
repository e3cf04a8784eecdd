//! Whose a claim is: the owner references that `persistentVolumeClaimRetentionPolicy` asks for
//! (KEP-1847). A claim that the set or its pod owns goes with it, by garbage collection.

use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::api::core::v1::PersistentVolumeClaim;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;

use super::identity::{controller_reference, pod_name};
use super::state::Ordinal;

/// The pod of a claim's replica, as far as owner references need it.
pub(super) struct PodRef<'p> {
    pub(super) ordinal: Ordinal,
    /// Empty where there is no pod yet.
    pub(super) uid: &'p str,
    /// It is not among the replicas that are to be.
    pub(super) condemned: bool,
}

#[derive(Clone, Copy, PartialEq, Eq)]
struct Policy {
    deleted: bool,
    scaled: bool,
}

fn policy(set: &StatefulSet) -> Policy {
    let policy = set.spec.persistent_volume_claim_retention_policy.as_ref();
    let deletes = |field: Option<&String>| field.is_some_and(|value| value == "Delete");
    Policy {
        deleted: deletes(policy.and_then(|policy| policy.when_deleted.as_ref())),
        scaled: deletes(policy.and_then(|policy| policy.when_scaled.as_ref())),
    }
}

fn owners(claim: &PersistentVolumeClaim) -> &[OwnerReference] {
    claim.metadata.owner_references.as_deref().unwrap_or_default()
}

fn is_set(reference: &OwnerReference, set: &StatefulSet) -> bool {
    reference.api_version == "apps/v1"
        && reference.kind == "StatefulSet"
        && Some(&reference.name) == set.metadata.name.as_ref()
}

fn is_pod(reference: &OwnerReference, set: &StatefulSet, pod: &PodRef<'_>) -> bool {
    let set_name = set.metadata.name.as_deref().unwrap_or_default();
    reference.api_version == "v1"
        && reference.kind == "Pod"
        && reference.name == pod_name(set_name, pod.ordinal)
}

/// Whether a claim belongs to a pod of the replica's name that is not this one.
pub(super) fn is_stale(claim: &PersistentVolumeClaim, set: &StatefulSet, pod: &PodRef<'_>) -> bool {
    owners(claim)
        .iter()
        .any(|owner| is_pod(owner, set, pod) && owner.uid != pod.uid)
}

/// Whether a claim goes with a pod or a set that is gone, or about to go: garbage collection will take it, and it
/// must not be used before it is made anew. A former pod's claim that the policy keeps by now is not lost yet.
pub(super) fn is_doomed(claim: &PersistentVolumeClaim, set: &StatefulSet, pod: &PodRef<'_>) -> bool {
    let set_uid = set.metadata.uid.as_deref().unwrap_or_default();
    let stale_set = owners(claim)
        .iter()
        .any(|owner| is_set(owner, set) && owner.uid != set_uid);
    stale_set || (policy(set).scaled && is_stale(claim, set, pod))
}

/// Whether someone else manages the claim, so that the policy has no say.
pub(super) fn has_other_controller(
    claim: &PersistentVolumeClaim,
    set: &StatefulSet,
    pod: &PodRef<'_>,
) -> bool {
    let policy = policy(set);
    if !policy.deleted && !policy.scaled {
        return false;
    }
    let set_uid = set.metadata.uid.as_deref().unwrap_or_default();
    owners(claim).iter().any(|owner| {
        if is_set(owner, set) {
            owner.uid != set_uid
        } else if is_pod(owner, set, pod) {
            policy.scaled && owner.uid != pod.uid
        } else {
            owner.controller == Some(true)
        }
    })
}

/// The owner references that a claim should have; none where it has them.
pub(super) fn wanted_owners(
    claim: &PersistentVolumeClaim,
    set: &StatefulSet,
    pod: &PodRef<'_>,
) -> Option<Vec<OwnerReference>> {
    if is_doomed(claim, set, pod) {
        return None;
    }
    let policy = policy(set);
    let mut wanted: Vec<OwnerReference> = owners(claim)
        .iter()
        .filter(|owner| !is_set(owner, set) && !is_pod(owner, set, pod))
        .cloned()
        .collect();
    if !has_other_controller(claim, set, pod) {
        if policy.scaled && pod.condemned {
            wanted.push(pod_reference(set, pod));
        } else if policy.deleted {
            wanted.push(controller_reference(set));
        }
    }
    let key = |owner: &OwnerReference| (owner.uid.clone(), owner.controller);
    let same = wanted.len() == owners(claim).len()
        && wanted
            .iter()
            .all(|owner| owners(claim).iter().any(|own| key(own) == key(owner)));
    (!same).then_some(wanted)
}

fn pod_reference(set: &StatefulSet, pod: &PodRef<'_>) -> OwnerReference {
    OwnerReference {
        api_version: "v1".to_owned(),
        kind: "Pod".to_owned(),
        name: pod_name(set.metadata.name.as_deref().unwrap_or_default(), pod.ordinal),
        uid: pod.uid.to_owned(),
        controller: Some(true),
        block_owner_deletion: Some(true),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn set(deleted: &str, scaled: &str) -> StatefulSet {
        serde_json::from_value(json!({
            "metadata": {"name": "web", "uid": "s1"},
            "spec": {
                "selector": {}, "template": {},
                "persistentVolumeClaimRetentionPolicy": {"whenDeleted": deleted, "whenScaled": scaled},
            },
        }))
        .expect("a set")
    }

    fn claim(owners: serde_json::Value) -> PersistentVolumeClaim {
        serde_json::from_value(json!({"metadata": {"name": "data-web-0", "ownerReferences": owners}}))
            .expect("a claim")
    }

    fn owner(kind: &str, name: &str, uid: &str) -> serde_json::Value {
        let version = if kind == "Pod" { "v1" } else { "apps/v1" };
        json!({"apiVersion": version, "kind": kind, "name": name, "uid": uid, "controller": true, "blockOwnerDeletion": true})
    }

    fn wanted(set: &StatefulSet, owners: serde_json::Value, condemned: bool) -> Option<Vec<String>> {
        let pod = PodRef {
            ordinal: 0,
            uid: "p1",
            condemned,
        };
        let wanted = wanted_owners(&claim(owners), set, &pod)?;
        Some(
            wanted
                .into_iter()
                .map(|owner| format!("{}/{}", owner.kind, owner.uid))
                .collect(),
        )
    }

    #[test]
    fn the_policy_decides_who_owns_a_claim() {
        let set_owner = || owner("StatefulSet", "web", "s1");
        let pod_owner = || owner("Pod", "web-0", "p1");
        for (deleted, scaled, owners, condemned, expected) in [
            ("Retain", "Retain", json!([]), false, None),
            ("Retain", "Retain", json!([set_owner()]), false, Some(vec![])),
            ("Delete", "Retain", json!([]), false, Some(vec!["StatefulSet/s1"])),
            ("Delete", "Retain", json!([set_owner()]), true, None),
            ("Retain", "Delete", json!([]), false, None),
            ("Retain", "Delete", json!([]), true, Some(vec!["Pod/p1"])),
            (
                "Delete",
                "Delete",
                json!([set_owner()]),
                true,
                Some(vec!["Pod/p1"]),
            ),
            (
                "Delete",
                "Delete",
                json!([pod_owner()]),
                false,
                Some(vec!["StatefulSet/s1"]),
            ),
        ] {
            let expected = expected.map(|list: Vec<&str>| list.into_iter().map(str::to_owned).collect());
            assert_eq!(
                wanted(&set(deleted, scaled), owners.clone(), condemned),
                expected,
                "{deleted} {scaled} {owners} {condemned}"
            );
        }
    }

    #[test]
    fn a_changed_policy_changes_the_owners() {
        let set_owner = || owner("StatefulSet", "web", "s1");
        let pod_owner = || owner("Pod", "web-0", "p1");
        let none: Vec<String> = vec![];
        let to_set = vec!["StatefulSet/s1".to_owned()];
        for (deleted, scaled, owners, condemned, expected) in [
            // Scaled down, then kept after all.
            ("Retain", "Retain", json!([pod_owner()]), true, &none),
            ("Delete", "Retain", json!([pod_owner()]), true, &to_set),
            // Scaled down, and up again before the pod was gone.
            ("Retain", "Delete", json!([pod_owner()]), false, &none),
            ("Delete", "Delete", json!([pod_owner()]), false, &to_set),
            // Scaled down, then kept after all, when the pod was gone already.
            (
                "Retain",
                "Retain",
                json!([owner("Pod", "web-0", "p0")]),
                false,
                &none,
            ),
            (
                "Delete",
                "Retain",
                json!([owner("Pod", "web-0", "p0")]),
                false,
                &to_set,
            ),
            // No longer to go with the set.
            ("Retain", "Delete", json!([set_owner()]), false, &none),
            // Both, as an interrupted change could leave it.
            (
                "Delete",
                "Delete",
                json!([set_owner(), pod_owner()]),
                false,
                &to_set,
            ),
        ] {
            let found = wanted(&set(deleted, scaled), owners.clone(), condemned);
            assert_eq!(
                found.as_ref(),
                Some(expected),
                "{deleted} {scaled} {owners} {condemned}"
            );
        }
    }

    /// Before 1.31, the set owned its claims without being their controller.
    #[test]
    fn an_owner_becomes_the_controller() {
        let mut old = owner("StatefulSet", "web", "s1");
        for field in ["controller", "blockOwnerDeletion"] {
            old.as_object_mut().expect("an owner").remove(field);
        }
        let pod = PodRef {
            ordinal: 0,
            uid: "p1",
            condemned: false,
        };
        let owners = wanted_owners(&claim(json!([old])), &set("Delete", "Retain"), &pod);
        assert_eq!(owners, Some(vec![controller_reference(&set("Delete", "Retain"))]));
    }

    #[test]
    fn other_owners_stay_beside_the_set() {
        let mut other = owner("Backup", "nightly", "b1");
        other["controller"] = json!(false);
        let set = set("Delete", "Retain");
        let expected = ["Backup/b1", "StatefulSet/s1"].map(str::to_owned).to_vec();
        assert_eq!(wanted(&set, json!([other]), false), Some(expected));
    }

    #[test]
    fn a_claim_with_another_controller_loses_what_the_set_put_there() {
        let owners = json!([owner("Database", "db", "d1"), owner("StatefulSet", "web", "s1")]);
        let expected = vec!["Database/d1".to_owned()];
        assert_eq!(wanted(&set("Delete", "Delete"), owners, false), Some(expected));
    }

    #[test]
    fn what_others_own_is_left_to_them() {
        let set = set("Delete", "Delete");
        assert_eq!(wanted(&set, json!([owner("Database", "db", "d1")]), false), None);
        // A reference to a former pod of the name: garbage collection is at it.
        assert_eq!(wanted(&set, json!([owner("Pod", "web-0", "p0")]), false), None);
        let pod = PodRef {
            ordinal: 0,
            uid: "p1",
            condemned: false,
        };
        assert!(is_doomed(
            &claim(json!([owner("Pod", "web-0", "p0")])),
            &set,
            &pod
        ));
        // So it is with those of a former set of the name.
        let of_former_set = claim(json!([owner("StatefulSet", "web", "s0")]));
        assert!(is_doomed(&of_former_set, &self::set("Retain", "Retain"), &pod));
    }
}
