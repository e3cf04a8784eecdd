//! Claims and volumes: which volume a claim may have, and the marks that say who bound what
//! ("Persistent Volumes", "Binding"). The binder and the scheduler must agree on it.

use std::sync::Arc;

use k8s_openapi::api::core::v1::{
    Node, ObjectReference, PersistentVolume, PersistentVolumeClaim, PersistentVolumeSpec,
};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::Resource as _;

use super::{Amount, Selector, node_selector};

/// On a claim: it has been bound once; what is amiss since then is a loss.
pub const BIND_COMPLETED: &str = "pv.kubernetes.io/bind-completed";
/// On either: the binding was made by the binder, not by a person beforehand.
pub const BOUND_BY_CONTROLLER: &str = "pv.kubernetes.io/bound-by-controller";
/// On a claim: the node that the scheduler has chosen for its first consumer.
pub const SELECTED_NODE: &str = "volume.kubernetes.io/selected-node";
/// On a claim: who is to provision its volume.
pub const STORAGE_PROVISIONER: &str = "volume.kubernetes.io/storage-provisioner";
/// On a volume: who has provisioned it.
pub const PROVISIONED_BY: &str = "pv.kubernetes.io/provisioned-by";
/// The provisioner of classes whose volumes are all made by hand.
pub const NO_PROVISIONER: &str = "kubernetes.io/no-provisioner";
/// The binding mode of classes whose claims wait for a pod to be placed.
pub const WAIT_FOR_FIRST_CONSUMER: &str = "WaitForFirstConsumer";

const CLASS_ANNOTATION: &str = "volume.beta.kubernetes.io/storage-class";

/// An annotation of an object.
pub fn annotation<'m>(meta: &'m ObjectMeta, name: &str) -> Option<&'m str> {
    meta.annotations.as_ref()?.get(name).map(String::as_str)
}

/// The class that a claim asks for; none where it leaves that open, which is other than the empty
/// class.
pub fn claim_class(claim: &PersistentVolumeClaim) -> Option<&str> {
    annotation(&claim.metadata, CLASS_ANNOTATION).or_else(|| {
        claim
            .spec
            .as_ref()
            .and_then(|spec| spec.storage_class_name.as_deref())
    })
}

/// The class of a volume; empty where it has none.
pub fn volume_class(volume: &PersistentVolume) -> &str {
    annotation(&volume.metadata, CLASS_ANNOTATION)
        .or_else(|| {
            volume
                .spec
                .as_ref()
                .and_then(|spec| spec.storage_class_name.as_deref())
        })
        .unwrap_or_default()
}

/// How much a claim asks for.
pub fn requested(claim: &PersistentVolumeClaim) -> Amount {
    storage_request(claim).map_or(Amount::ZERO, Amount::of)
}

/// How much a claim asks for, as it is written.
pub fn storage_request(claim: &PersistentVolumeClaim) -> Option<&Quantity> {
    let resources = claim.spec.as_ref()?.resources.as_ref()?;
    resources.requests.as_ref()?.get("storage")
}

/// Whether a bound claim asks for more than it has: its volume is to grow, or does.
pub fn is_too_small(claim: &PersistentVolumeClaim) -> bool {
    let status = claim.status.as_ref();
    let has = status.and_then(|status| status.capacity.as_ref()?.get("storage"));
    // Mostly they are written alike.
    has.is_some_and(|has| Some(has) != storage_request(claim) && Amount::of(has) < requested(claim))
}

/// How much a volume holds.
pub fn capacity(volume: &PersistentVolume) -> Amount {
    let capacity = volume
        .spec
        .as_ref()
        .and_then(|spec| spec.capacity.as_ref()?.get("storage"));
    capacity.map_or(Amount::ZERO, Amount::of)
}

/// The volume that a claim names; none where it is bound to none and asks for none.
pub fn volume_name(claim: &PersistentVolumeClaim) -> Option<&str> {
    claim
        .spec
        .as_ref()?
        .volume_name
        .as_deref()
        .filter(|name| !name.is_empty())
}

/// The claim that a volume is bound to, or kept for.
pub fn claim_ref(volume: &PersistentVolume) -> Option<&ObjectReference> {
    volume.spec.as_ref()?.claim_ref.as_ref()
}

/// A volume's phase.
pub fn phase(volume: &PersistentVolume) -> &str {
    volume
        .status
        .as_ref()
        .and_then(|status| status.phase.as_deref())
        .unwrap_or_default()
}

/// Whether the binder has finished with a claim: it is bound, and its pods may use it.
pub fn is_fully_bound(claim: &PersistentVolumeClaim) -> bool {
    volume_name(claim).is_some() && annotation(&claim.metadata, BIND_COMPLETED).is_some()
}

/// Whether a volume is bound to a claim, or kept for it. A reference without a uid is by name only.
pub fn is_bound_to(volume: &PersistentVolume, claim: &PersistentVolumeClaim) -> bool {
    claim_ref(volume).is_some_and(|reference| {
        reference.name == claim.metadata.name
            && reference.namespace == claim.metadata.namespace
            && (is_unset(&reference.uid) || reference.uid == claim.metadata.uid)
    })
}

fn is_unset(field: &Option<String>) -> bool {
    field.as_deref().is_none_or(str::is_empty)
}

/// A volume bound to a claim; none where it is so already.
pub fn bound_volume(volume: &PersistentVolume, claim: &PersistentVolumeClaim) -> Option<PersistentVolume> {
    let by_us = !is_bound_to(volume, claim);
    let has_uid = claim_ref(volume).is_some_and(|reference| reference.uid == claim.metadata.uid);
    if !by_us && has_uid {
        return None;
    }
    let mut bound = volume.clone();
    bound.spec.get_or_insert_default().claim_ref = Some(reference_to(claim));
    if by_us {
        let annotations = bound.metadata.annotations.get_or_insert_default();
        annotations
            .entry(BOUND_BY_CONTROLLER.to_owned())
            .or_insert_with(|| "yes".to_owned());
    }
    Some(bound)
}

/// A volume's reference to its claim.
pub fn reference_to(claim: &PersistentVolumeClaim) -> ObjectReference {
    ObjectReference {
        api_version: Some(PersistentVolumeClaim::api_version(&()).into_owned()),
        kind: Some(PersistentVolumeClaim::kind(&()).into_owned()),
        namespace: claim.metadata.namespace.clone(),
        name: claim.metadata.name.clone(),
        uid: claim.metadata.uid.clone(),
        resource_version: claim.metadata.resource_version.clone(),
        field_path: None,
    }
}

/// Whether a volume can be used on a node.
pub fn fits_node(volume: &PersistentVolume, node: &Node) -> bool {
    let required = volume
        .spec
        .as_ref()
        .and_then(|spec| spec.node_affinity.as_ref()?.required.as_ref());
    required.is_none_or(|selector| node_selector::matches(selector, node))
}

/// Whether a volume can be used in all the ways that a claim asks for.
pub fn has_access_modes(volume: &PersistentVolume, claim: &PersistentVolumeClaim) -> bool {
    let offered = volume
        .spec
        .as_ref()
        .and_then(|spec| spec.access_modes.as_deref())
        .unwrap_or_default();
    let wanted = claim
        .spec
        .as_ref()
        .and_then(|spec| spec.access_modes.as_deref())
        .unwrap_or_default();
    wanted.iter().all(|mode| offered.contains(mode))
}

/// Whether one is a file system and the other a block device.
pub fn modes_differ(volume: &PersistentVolume, claim: &PersistentVolumeClaim) -> bool {
    let mode = |field: Option<&String>| field.map_or("Filesystem", String::as_str).to_owned();
    mode(volume.spec.as_ref().and_then(|spec| spec.volume_mode.as_ref()))
        != mode(claim.spec.as_ref().and_then(|spec| spec.volume_mode.as_ref()))
}

/// Whether volume and claim differ in their VolumeAttributesClass.
pub fn attributes_differ(volume: &PersistentVolume, claim: &PersistentVolumeClaim) -> bool {
    let class = |field: Option<&String>| field.map(String::as_str).unwrap_or_default().to_owned();
    class(
        volume
            .spec
            .as_ref()
            .and_then(|spec| spec.volume_attributes_class_name.as_ref()),
    ) != class(
        claim
            .spec
            .as_ref()
            .and_then(|spec| spec.volume_attributes_class_name.as_ref()),
    )
}

/// Who looks for a volume.
#[derive(Debug, Clone, Copy)]
pub enum Finder<'n> {
    /// The binder, for a claim that is bound at once.
    Binder,
    /// The binder, for a claim that waits for its first consumer: only a volume that is kept for
    /// the claim will do.
    DelayingBinder,
    /// The scheduler, for a pod on this node.
    Scheduler(&'n Node),
}

/// The volume that a claim should have: the one that is kept for it, or else the smallest that
/// fits, and among equals the one with the fewest access modes. `is_taken` excludes volumes that
/// another claim of the same pod is to have.
pub fn find_match<'v>(
    claim: &PersistentVolumeClaim,
    volumes: &'v [Arc<PersistentVolume>],
    finder: Finder<'_>,
    is_taken: impl Fn(&PersistentVolume) -> bool,
) -> Option<&'v Arc<PersistentVolume>> {
    let candidates = || {
        volumes
            .iter()
            .filter(|volume| !is_taken(volume) && may_hold(volume, claim))
    };
    if let Some(kept) = candidates().find(|volume| is_bound_to(volume, claim)) {
        return match finder {
            Finder::Scheduler(node) if !fits_node(kept, node) => None,
            _ => Some(kept),
        };
    }
    if matches!(finder, Finder::DelayingBinder) {
        return None;
    }
    let selector = claim
        .spec
        .as_ref()
        .and_then(|spec| spec.selector.as_ref())
        .map(Selector::new);
    let class = claim_class(claim).unwrap_or_default();
    candidates()
        .filter(|volume| phase(volume) == "Available" && volume_class(volume) == class)
        .filter(|volume| {
            selector
                .as_ref()
                .is_none_or(|selector| selector.matches(volume.metadata.labels.as_ref()))
        })
        .filter(|volume| match finder {
            Finder::Scheduler(node) => fits_node(volume, node),
            Finder::Binder | Finder::DelayingBinder => true,
        })
        .min_by_key(|volume| (mode_count(volume.spec.as_ref()), capacity(volume)))
}

/// Whether a volume is free for a claim, large enough and of its kind.
fn may_hold(volume: &PersistentVolume, claim: &PersistentVolumeClaim) -> bool {
    (claim_ref(volume).is_none() || is_bound_to(volume, claim))
        && volume.metadata.deletion_timestamp.is_none()
        && capacity(volume) >= requested(claim)
        && !modes_differ(volume, claim)
        && !attributes_differ(volume, claim)
        && has_access_modes(volume, claim)
}

fn mode_count(spec: Option<&PersistentVolumeSpec>) -> usize {
    spec.and_then(|spec| spec.access_modes.as_ref())
        .map_or(0, Vec::len)
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn claim(extra: Value) -> PersistentVolumeClaim {
        let mut claim = json!({
            "metadata": {"namespace": "ns", "name": "c", "uid": "u1"},
            "spec": {
                "accessModes": ["ReadWriteOnce"],
                "storageClassName": "x",
                "resources": {"requests": {"storage": "1Gi"}},
            },
        });
        merge(&mut claim, extra);
        serde_json::from_value(claim).expect("a claim")
    }

    fn volume(name: &str, extra: Value) -> Arc<PersistentVolume> {
        let mut volume = json!({
            "metadata": {"name": name},
            "spec": {"accessModes": ["ReadWriteOnce"], "storageClassName": "x", "capacity": {"storage": "1Gi"}},
            "status": {"phase": "Available"},
        });
        merge(&mut volume, extra);
        Arc::new(serde_json::from_value(volume).expect("a volume"))
    }

    fn merge(into: &mut Value, from: Value) {
        match (into, from) {
            (Value::Object(into), Value::Object(from)) => {
                from.into_iter()
                    .for_each(|(key, value)| merge(into.entry(key).or_insert(Value::Null), value));
            }
            (into, from) => *into = from,
        }
    }

    fn check(
        claim: &PersistentVolumeClaim,
        volumes: &[Arc<PersistentVolume>],
        finder: Finder<'_>,
        expected: &str,
    ) {
        let found = find_match(claim, volumes, finder, |_| false);
        let name = found
            .and_then(|volume| volume.metadata.name.as_deref())
            .unwrap_or("none");
        assert_eq!(name, expected, "{finder:?} {volumes:?}");
    }

    #[test]
    fn the_smallest_volume_that_fits_is_taken() {
        let size = |name: &str, size: &str| volume(name, json!({"spec": {"capacity": {"storage": size}}}));
        let all = [size("small", "500Mi"), size("large", "5Gi"), size("right", "2Gi")];
        check(&claim(json!({})), &all, Finder::Binder, "right");
        check(&claim(json!({})), &all[..1], Finder::Binder, "none");
        let wide = volume(
            "wide",
            json!({"spec": {"accessModes": ["ReadWriteOnce", "ReadOnlyMany"]}}),
        );
        check(
            &claim(json!({})),
            &[wide, size("large", "5Gi")],
            Finder::Binder,
            "large",
        );
    }

    #[test]
    fn class_modes_selector_and_phase_must_fit() {
        for (why, claim_extra, volume_extra) in [
            ("class", json!({}), json!({"spec": {"storageClassName": "y"}})),
            (
                "access mode",
                json!({"spec": {"accessModes": ["ReadWriteMany"]}}),
                json!({}),
            ),
            ("volume mode", json!({}), json!({"spec": {"volumeMode": "Block"}})),
            (
                "selector",
                json!({"spec": {"selector": {"matchLabels": {"a": "b"}}}}),
                json!({}),
            ),
            ("phase", json!({}), json!({"status": {"phase": "Released"}})),
            (
                "deletion",
                json!({}),
                json!({"metadata": {"deletionTimestamp": "2026-01-01T00:00:00Z"}}),
            ),
            (
                "another's",
                json!({}),
                json!({"spec": {"claimRef": {"namespace": "ns", "name": "d"}}}),
            ),
            (
                "a former one's",
                json!({}),
                json!({"spec": {"claimRef": {"namespace": "ns", "name": "c", "uid": "u0"}}}),
            ),
        ] {
            let found = find_match(
                &claim(claim_extra),
                &[volume("v", volume_extra)],
                Finder::Binder,
                |_| false,
            )
            .is_some();
            assert!(!found, "{why}");
        }
    }

    #[test]
    fn a_volume_kept_for_the_claim_comes_first() {
        let kept = volume(
            "kept",
            json!({"spec": {
                "claimRef": {"namespace": "ns", "name": "c"}, "capacity": {"storage": "9Gi"}, "storageClassName": "y",
            }}),
        );
        let all = [volume("free", json!({})), kept];
        check(&claim(json!({})), &all, Finder::Binder, "kept");
        check(&claim(json!({})), &all, Finder::DelayingBinder, "kept");
        check(&claim(json!({})), &all[..1], Finder::DelayingBinder, "none");
    }

    #[test]
    fn the_scheduler_looks_at_the_node_too() {
        let node: Node = serde_json::from_value(json!({"metadata": {"name": "n1"}})).expect("a node");
        let on = |node: &str| {
            let terms =
                json!([{"matchFields": [{"key": "metadata.name", "operator": "In", "values": [node]}]}]);
            json!({"spec": {"nodeAffinity": {"required": {"nodeSelectorTerms": terms}}}})
        };
        check(
            &claim(json!({})),
            &[volume("here", on("n1"))],
            Finder::Scheduler(&node),
            "here",
        );
        check(
            &claim(json!({})),
            &[volume("there", on("n2"))],
            Finder::Scheduler(&node),
            "none",
        );
        let all = [volume("a", json!({})), volume("b", json!({}))];
        let found = find_match(&claim(json!({})), &all, Finder::Scheduler(&node), |volume| {
            volume.metadata.name.as_deref() == Some("a")
        });
        assert_eq!(
            found.and_then(|volume| volume.metadata.name.as_deref()),
            Some("b")
        );
    }

    #[test]
    fn binding_a_volume_completes_its_reference() {
        let claim = claim(json!({}));
        let bound = bound_volume(&volume("v", json!({})), &claim).expect("a change");
        assert!(is_bound_to(&bound, &claim));
        assert_eq!(annotation(&bound.metadata, BOUND_BY_CONTROLLER), Some("yes"));
        assert_eq!(bound_volume(&bound, &claim), None);
        // Kept by a person: only the uid is missing.
        let kept = volume(
            "v",
            json!({"spec": {"claimRef": {"namespace": "ns", "name": "c"}}}),
        );
        let bound = bound_volume(&kept, &claim).expect("a change");
        assert_eq!(
            claim_ref(&bound).and_then(|reference| reference.uid.as_deref()),
            Some("u1")
        );
        assert_eq!(annotation(&bound.metadata, BOUND_BY_CONTROLLER), None);
    }
}
