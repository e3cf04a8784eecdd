//! Whose claims are, in every case: the retention policy, whether the replica is to be, whether its pod is there,
//! and who owns the claim already. Said as what becomes of the data when the owners go.

use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::api::core::v1::PersistentVolumeClaim;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use serde_json::json;

use crate::statefulset::retention::{PodRef, is_doomed, wanted_owners};

/// The owners that a claim can have: the set, its pod, a former pod, a former set, someone else.
const OWNERS: [(&str, &str, &str, &str); 5] = [
    ("apps/v1", "StatefulSet", "web", "set"),
    ("v1", "Pod", "web-0", "pod"),
    ("v1", "Pod", "web-0", "former-pod"),
    ("apps/v1", "StatefulSet", "web", "former-set"),
    ("example.com/v1", "Backup", "nightly", "backup"),
];

type Decide = fn(&PersistentVolumeClaim, &StatefulSet, &PodRef<'_>) -> Option<Vec<OwnerReference>>;

fn set(deleted: bool, scaled: bool) -> StatefulSet {
    let word = |deletes: bool| if deletes { "Delete" } else { "Retain" };
    serde_json::from_value(json!({
        "metadata": {"name": "web", "uid": "set"},
        "spec": {
            "selector": {}, "template": {},
            "persistentVolumeClaimRetentionPolicy": {"whenDeleted": word(deleted), "whenScaled": word(scaled)},
        },
    }))
    .expect("a set")
}

fn check(decide: Decide) -> Result<u32, String> {
    let mut cases = 0;
    for bits in 0..(1_u32 << 9) {
        let bit = |at: u32| bits & (1 << at) != 0;
        let set = set(bit(0), bit(1));
        let (condemned, has_pod) = (bit(2), bit(3));
        let owners = (4..).zip(OWNERS).filter(|(at, _)| bit(*at));
        let owners: Vec<_> = owners
            .map(|(_, (version, kind, name, uid))| {
                // Someone else's is beside the set's: a claim has one controller.
                let controller = uid != "backup";
                json!({"apiVersion": version, "kind": kind, "name": name, "uid": uid, "controller": controller})
            })
            .collect();
        let claim = json!({"metadata": {"name": "data-web-0", "ownerReferences": owners}});
        let mut claim: PersistentVolumeClaim = serde_json::from_value(claim).expect("a claim");
        let pod = PodRef {
            ordinal: 0,
            uid: if has_pod { "pod" } else { "" },
            condemned,
        };
        if !has_pod && bit(5) {
            // A pod that is not there is a former one.
            continue;
        }
        cases += 1;
        let had_doom = is_doomed(&claim, &set, &pod);
        for _ in 0..3 {
            if let Some(wanted) = decide(&claim, &set, &pod) {
                claim.metadata.owner_references = Some(wanted);
            }
        }
        let owners = claim.metadata.owner_references.clone().unwrap_or_default();
        let owns = |uid: &str| owners.iter().any(|owner| owner.uid == uid);
        let wrong = if had_doom {
            // Garbage collection is at it: the set does not interfere.
            (owners.len() != (4..9).filter(|at| bit(*at)).count()).then_some("interferes with what goes")
        } else if !has_pod {
            (owns("former-pod") && !bit(1)).then_some("goes with a former pod against the policy")
        } else if owns("pod") != (bit(1) && condemned) {
            Some("goes with the pod if and only if it is scaled down and the policy says so")
        } else if owns("set") != (bit(0) && !(bit(1) && condemned)) {
            Some("goes with the set if and only if the policy says so")
        } else {
            (owns("backup") != bit(8)).then_some("takes or gives what is someone else's")
        };
        if let Some(wrong) = wrong {
            return Err(format!(
                "{wrong}: {set:?} {claim:?} condemned: {condemned}, pod: {has_pod}"
            ));
        }
        if decide(&claim, &set, &pod).is_some() {
            return Err(format!("never comes to rest: {set:?} {claim:?}"));
        }
    }
    Ok(cases)
}

#[test]
fn claims_belong_to_whom_the_policy_says() {
    match check(wanted_owners) {
        Ok(cases) => assert!(cases > 300, "{cases}"),
        Err(wrong) => panic!("{wrong}"),
    }
}

#[test]
fn planted_defects_are_found() {
    let mutants: [(&str, Decide); 4] = [
        ("deletes claims on every scale-down", |claim, of, pod| {
            let deleted = of.spec.persistent_volume_claim_retention_policy.as_ref();
            let deleted = deleted.and_then(|policy| policy.when_deleted.as_deref()) == Some("Delete");
            wanted_owners(claim, &set(deleted, true), pod)
        }),
        ("deletes claims with the set always", |claim, of, pod| {
            let scaled = of.spec.persistent_volume_claim_retention_policy.as_ref();
            let scaled = scaled.and_then(|policy| policy.when_scaled.as_deref()) == Some("Delete");
            wanted_owners(claim, &set(true, scaled), pod)
        }),
        ("takes every pod for one to be scaled down", |claim, of, pod| {
            let pod = PodRef {
                condemned: true,
                ..*pod
            };
            wanted_owners(claim, of, &pod)
        }),
        ("takes other owners away", |claim, of, pod| {
            let mut wanted = wanted_owners(claim, of, pod)?;
            wanted.retain(|owner| owner.kind != "Backup");
            Some(wanted)
        }),
    ];
    for (name, decide) in mutants {
        assert!(check(decide).is_err(), "not found: {name}");
    }
}
