//! What a claim needs next: a volume that is there, a new one, or patience ("Persistent Volumes",
//! "Binding"). Pure.

use std::sync::Arc;

use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim, PersistentVolumeClaimStatus};
use k8s_openapi::api::storage::v1::StorageClass;
use stead_informer::EventType;
use stead_informer::semantics::volumes::{
    BIND_COMPLETED, BOUND_BY_CONTROLLER, Finder, NO_PROVISIONER, SELECTED_NODE, STORAGE_PROVISIONER,
    WAIT_FOR_FIRST_CONSUMER, annotation, attributes_differ, capacity, claim_class, claim_ref, find_match,
    has_access_modes, is_bound_to, modes_differ, requested, volume_class, volume_name,
};

use super::provision::PROVISIONER;

/// The former name of [`STORAGE_PROVISIONER`], which provisioners still read.
pub(super) const BETA_STORAGE_PROVISIONER: &str = "volume.beta.kubernetes.io/storage-provisioner";

/// What to do about a claim.
#[derive(Debug)]
pub(super) enum Step {
    /// Bind it to a volume, or put right what is left of that.
    Bind(Arc<PersistentVolume>),
    /// Have a volume made for it.
    Provision(Arc<StorageClass>),
    /// Nothing can be done yet.
    Wait(Option<Told>),
    /// It was bound, and its volume is gone.
    Lost(Told),
    /// It is on its way out.
    Leave,
}

/// What the claim's user is to know.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Told {
    pub(super) event_type: EventType,
    pub(super) reason: &'static str,
    pub(super) message: String,
}

fn told(event_type: EventType, reason: &'static str, message: impl Into<String>) -> Told {
    Told {
        event_type,
        reason,
        message: message.into(),
    }
}

/// Decides about a claim. `class` is the one that it asks for, if there is such a class.
pub(super) fn step(
    claim: &PersistentVolumeClaim,
    volumes: &[Arc<PersistentVolume>],
    class: Option<&Arc<StorageClass>>,
) -> Step {
    let named = volume_name(claim).map(|name| {
        let found = volumes
            .iter()
            .find(|volume| volume.metadata.name.as_deref() == Some(name));
        (name, found)
    });
    if annotation(&claim.metadata, BIND_COMPLETED).is_some() {
        return bound(claim, named.map(|(_, found)| found));
    }
    if claim.metadata.deletion_timestamp.is_some() {
        return Step::Leave;
    }
    match named {
        Some((name, volume)) => prebound(claim, name, volume),
        None => unbound(claim, volumes, class),
    }
}

/// A claim that was bound once: its volume must be there and be bound to it.
fn bound(claim: &PersistentVolumeClaim, volume: Option<Option<&Arc<PersistentVolume>>>) -> Step {
    let lost = |reason, message: &str| Step::Lost(told(EventType::Warning, reason, message));
    match volume {
        None => lost(
            "ClaimLost",
            "Bound claim has lost reference to PersistentVolume. Data on the volume is lost!",
        ),
        Some(None) => lost(
            "ClaimLost",
            "Bound claim has lost its PersistentVolume. Data on the volume is lost!",
        ),
        Some(Some(volume)) if claim_ref(volume).is_none() || is_bound_to(volume, claim) => {
            Step::Bind(Arc::clone(volume))
        }
        Some(Some(_)) => lost(
            "ClaimMisbound",
            "Two claims are bound to the same volume, this one is bound incorrectly",
        ),
    }
}

/// A claim that asks for a certain volume.
fn prebound(claim: &PersistentVolumeClaim, name: &str, volume: Option<&Arc<PersistentVolume>>) -> Step {
    let Some(volume) = volume else {
        return Step::Wait(None);
    };
    if claim_ref(volume).is_some() {
        if is_bound_to(volume, claim) {
            return Step::Bind(Arc::clone(volume));
        }
        let message = format!("volume \"{name}\" already bound to a different claim.");
        return Step::Wait(Some(told(EventType::Warning, "FailedBinding", message)));
    }
    match mismatch(volume, claim) {
        None => Step::Bind(Arc::clone(volume)),
        Some(why) => {
            let message = format!("Cannot bind to requested volume \"{name}\": {why}");
            Step::Wait(Some(told(EventType::Warning, "VolumeMismatch", message)))
        }
    }
}

/// Why a volume that a claim asks for by name cannot be its.
fn mismatch(volume: &PersistentVolume, claim: &PersistentVolumeClaim) -> Option<&'static str> {
    if volume.metadata.deletion_timestamp.is_some() {
        Some("the volume is marked for deletion")
    } else if capacity(volume) < requested(claim) {
        Some("requested PV is too small")
    } else if volume_class(volume) != claim_class(claim).unwrap_or_default() {
        Some("storageClassName does not match")
    } else if attributes_differ(volume, claim) {
        Some("volumeAttributesClassName does not match")
    } else if modes_differ(volume, claim) {
        Some("incompatible volumeMode")
    } else if !has_access_modes(volume, claim) {
        Some("incompatible accessMode")
    } else {
        None
    }
}

fn unbound(
    claim: &PersistentVolumeClaim,
    volumes: &[Arc<PersistentVolume>],
    class: Option<&Arc<StorageClass>>,
) -> Step {
    let waits = class.is_some_and(|class| waits_for_consumer(class));
    let finder = if waits {
        Finder::DelayingBinder
    } else {
        Finder::Binder
    };
    if let Some(volume) = find_match(claim, volumes, finder, |_| false) {
        return Step::Bind(Arc::clone(volume));
    }
    if waits && annotation(&claim.metadata, SELECTED_NODE).is_none() {
        let message = "waiting for first consumer to be created before binding";
        return Step::Wait(Some(told(EventType::Normal, "WaitForFirstConsumer", message)));
    }
    let name = claim_class(claim).unwrap_or_default();
    if name.is_empty() {
        let message = "no persistent volumes available for this claim and no storage class is set";
        return Step::Wait(Some(told(EventType::Normal, "FailedBinding", message)));
    }
    match class {
        None => {
            let message = format!("storageclass.storage.k8s.io \"{name}\" not found");
            Step::Wait(Some(told(EventType::Warning, "ProvisioningFailed", message)))
        }
        Some(class) if class.provisioner == NO_PROVISIONER => {
            let message = format!("no volume plugin matched name: {NO_PROVISIONER}");
            Step::Wait(Some(told(EventType::Warning, "ProvisioningFailed", message)))
        }
        Some(class) => Step::Provision(Arc::clone(class)),
    }
}

/// Whether claims of a class are bound only when a pod that uses them is placed.
pub(super) fn waits_for_consumer(class: &StorageClass) -> bool {
    class.volume_binding_mode.as_deref() == Some(WAIT_FOR_FIRST_CONSUMER)
}

/// A claim bound to a volume; none where it is so already. `provisioner` has made the volume.
pub(super) fn bound_claim(
    claim: &PersistentVolumeClaim,
    volume: &PersistentVolume,
    provisioner: Option<&str>,
) -> Option<PersistentVolumeClaim> {
    let mut bound = claim.clone();
    if volume_name(claim) != volume.metadata.name.as_deref() {
        bound.spec.get_or_insert_default().volume_name = volume.metadata.name.clone();
        annotate(&mut bound, BOUND_BY_CONTROLLER, "yes");
    }
    annotate(&mut bound, BIND_COMPLETED, "yes");
    if let Some(provisioner) = provisioner {
        annotate(&mut bound, STORAGE_PROVISIONER, provisioner);
        annotate(&mut bound, BETA_STORAGE_PROVISIONER, provisioner);
    }
    (bound != *claim).then_some(bound)
}

/// A claim that says who is to provision its volume; none where it does so already.
pub(super) fn handed_over(claim: &PersistentVolumeClaim, provisioner: &str) -> Option<PersistentVolumeClaim> {
    let mut handed = claim.clone();
    annotate(&mut handed, STORAGE_PROVISIONER, provisioner);
    annotate(&mut handed, BETA_STORAGE_PROVISIONER, provisioner);
    (handed != *claim).then_some(handed)
}

fn annotate(claim: &mut PersistentVolumeClaim, name: &str, value: &str) {
    let annotations = claim.metadata.annotations.get_or_insert_default();
    if annotations.get(name).map(String::as_str) != Some(value) {
        annotations.insert(name.to_owned(), value.to_owned());
    }
}

/// The status of a claim in a phase, with the volume that it is bound to.
pub(super) fn status(
    claim: &PersistentVolumeClaim,
    phase: &str,
    volume: Option<&PersistentVolume>,
) -> PersistentVolumeClaimStatus {
    let mut status = claim.status.clone().unwrap_or_default();
    let was = status.phase.replace(phase.to_owned());
    let Some(spec) = volume.and_then(|volume| volume.spec.as_ref()) else {
        status.access_modes = None;
        status.capacity = None;
        return status;
    };
    status.access_modes = spec.access_modes.clone();
    status
        .current_volume_attributes_class_name
        .clone_from(&spec.volume_attributes_class_name);
    // Later the capacity is what a resize has made of it: with a file system, that takes more than a larger volume.
    // Our own volumes have none.
    let is_ours = volume.and_then(super::volume::provisioner) == Some(PROVISIONER);
    if was.as_deref() != Some("Bound") || status.capacity.is_none() || is_ours {
        status.capacity.clone_from(&spec.capacity);
    }
    status
}

#[cfg(test)]
pub(super) mod tests {
    use serde_json::{Value, json};

    use super::super::volume::tests::{merged, volume};
    use super::*;

    pub(in super::super) fn claim(extra: Value) -> PersistentVolumeClaim {
        let claim = json!({
            "metadata": {"namespace": "ns", "name": "c", "uid": "u1"},
            "spec": {
                "accessModes": ["ReadWriteOnce"],
                "storageClassName": "x",
                "resources": {"requests": {"storage": "1Gi"}},
            },
        });
        serde_json::from_value(merged(claim, extra)).expect("a claim")
    }

    fn class(provisioner: &str, mode: &str) -> Arc<StorageClass> {
        let class = json!({"metadata": {"name": "x"}, "provisioner": provisioner, "volumeBindingMode": mode});
        Arc::new(serde_json::from_value(class).expect("a class"))
    }

    /// A step in words.
    fn shown(step: &Step) -> String {
        let told = |told: &Told| format!("{} {}", told.reason, told.message);
        match step {
            Step::Bind(volume) => format!("bind {}", volume.metadata.name.as_deref().unwrap_or_default()),
            Step::Provision(class) => format!("provision by {}", class.provisioner),
            Step::Wait(None) => "wait".to_owned(),
            Step::Wait(Some(why)) => format!("wait {}", told(why)),
            Step::Lost(why) => format!("lost {}", told(why)),
            Step::Leave => "leave".to_owned(),
        }
    }

    fn check(
        claim: &PersistentVolumeClaim,
        volumes: &[Arc<PersistentVolume>],
        class: Option<&Arc<StorageClass>>,
        expected: &str,
    ) {
        let step = shown(&step(claim, volumes, class));
        assert!(
            step.starts_with(expected),
            "{step:?} instead of {expected:?} for {claim:?}"
        );
    }

    #[test]
    fn a_claim_gets_a_volume_that_fits_or_a_new_one() {
        let (immediate, waiting) = (class("p", "Immediate"), class("p", WAIT_FOR_FIRST_CONSUMER));
        let free = [volume("v", json!({}))];
        let chosen = claim(json!({"metadata": {"annotations": {SELECTED_NODE: "n"}}}));
        check(&claim(json!({})), &free, None, "bind v");
        check(&claim(json!({})), &free, Some(&immediate), "bind v");
        check(&claim(json!({})), &[], Some(&immediate), "provision by p");
        check(
            &claim(json!({})),
            &free,
            Some(&waiting),
            "wait WaitForFirstConsumer",
        );
        check(&chosen, &free, Some(&waiting), "provision by p");
        let kept = [volume(
            "v",
            json!({"spec": {"claimRef": {"namespace": "ns", "name": "c"}}}),
        )];
        check(&claim(json!({})), &kept, Some(&waiting), "bind v");
    }

    #[test]
    fn a_claim_that_must_wait_says_why() {
        for (extra, class, expected) in [
            (
                json!({}),
                None,
                r#"wait ProvisioningFailed storageclass.storage.k8s.io "x" not found"#,
            ),
            (
                json!({"spec": {"storageClassName": ""}}),
                None,
                "wait FailedBinding no persistent volumes available for this claim and no storage class is set",
            ),
            (
                json!({}),
                Some(class(NO_PROVISIONER, "Immediate")),
                "wait ProvisioningFailed no volume plugin matched name: kubernetes.io/no-provisioner",
            ),
            (json!({"spec": {"volumeName": "absent"}}), None, "wait"),
            (
                json!({"spec": {"volumeName": "v", "resources": {"requests": {"storage": "2Gi"}}}}),
                None,
                r#"wait VolumeMismatch Cannot bind to requested volume "v": requested PV is too small"#,
            ),
            (
                json!({"spec": {"volumeName": "v", "storageClassName": "y"}}),
                None,
                "wait VolumeMismatch",
            ),
            (
                json!({"spec": {"volumeName": "other"}}),
                None,
                r#"wait FailedBinding volume "other" already bound to a different claim."#,
            ),
            (
                json!({"metadata": {"deletionTimestamp": "2026-01-01T00:00:00Z"}}),
                None,
                "leave",
            ),
        ] {
            let taken = json!({"spec": {"claimRef": {"namespace": "ns", "name": "d", "uid": "u2"}}});
            let mut volumes = vec![volume("other", taken)];
            if extra["spec"]["volumeName"] == "v" {
                volumes.push(volume("v", json!({})));
            }
            check(&claim(extra), &volumes, class.as_ref(), expected);
        }
    }

    #[test]
    fn a_claim_that_asks_for_a_volume_gets_it() {
        let asking = claim(json!({"spec": {"volumeName": "v"}}));
        check(&asking, &[volume("v", json!({}))], None, "bind v");
        let bound = volume(
            "v",
            json!({"spec": {"claimRef": {"namespace": "ns", "name": "c", "uid": "u1"}}}),
        );
        check(&asking, &[bound], None, "bind v");
    }

    #[test]
    fn a_bound_claim_whose_volume_is_gone_is_lost() {
        let bound = |extra: Value| {
            claim(merged(
                json!({"metadata": {"annotations": {BIND_COMPLETED: "yes"}}}),
                extra,
            ))
        };
        check(
            &bound(json!({})),
            &[],
            None,
            "lost ClaimLost Bound claim has lost reference",
        );
        let named = bound(json!({"spec": {"volumeName": "v"}}));
        check(
            &named,
            &[],
            None,
            "lost ClaimLost Bound claim has lost its PersistentVolume",
        );
        check(&named, &[volume("v", json!({}))], None, "bind v");
        let taken = json!({"spec": {"claimRef": {"namespace": "ns", "name": "c", "uid": "u0"}}});
        check(&named, &[volume("v", taken)], None, "lost ClaimMisbound");
    }

    #[test]
    fn binding_a_claim_says_who_bound_it() {
        let volume = volume("v", json!({}));
        let bound = bound_claim(&claim(json!({})), &volume, Some("p")).expect("a change");
        assert_eq!(volume_name(&bound), Some("v"));
        for (name, value) in [
            (BIND_COMPLETED, "yes"),
            (BOUND_BY_CONTROLLER, "yes"),
            (STORAGE_PROVISIONER, "p"),
        ] {
            assert_eq!(annotation(&bound.metadata, name), Some(value), "{name}");
        }
        assert_eq!(bound_claim(&bound, &volume, None), None);
        // Asked for by name: the binder has not chosen it.
        let asked =
            bound_claim(&claim(json!({"spec": {"volumeName": "v"}})), &volume, None).expect("a change");
        assert_eq!(annotation(&asked.metadata, BOUND_BY_CONTROLLER), None);
    }

    #[test]
    fn a_status_shows_what_the_volume_offers() {
        let volume = volume(
            "v",
            json!({"spec": {"capacity": {"storage": "5Gi"}, "accessModes": ["ReadWriteOnce", "ReadOnlyMany"]}}),
        );
        let bound = status(&claim(json!({})), "Bound", Some(&volume));
        assert_eq!(
            serde_json::to_value(&bound).expect("JSON"),
            json!({"phase": "Bound", "capacity": {"storage": "5Gi"}, "accessModes": ["ReadWriteOnce", "ReadOnlyMany"]})
        );
        let mut was = claim(json!({}));
        was.status = Some(bound);
        assert_eq!(
            serde_json::to_value(status(&was, "Lost", None)).expect("JSON"),
            json!({"phase": "Lost"})
        );
    }
}
