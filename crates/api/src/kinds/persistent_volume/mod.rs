//! PersistentVolume (core/v1): the registry's entry, defaults, warnings and the row; the checks are
//! in `validate`.

mod validate;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeSpec, PersistentVolumeStatus};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use serde_json::Value;

use self::validate::{validate_change, validate_spec};
use super::persistent_volume_claim::{CLASS_ANNOTATION, short_modes};
use super::pod::fill;
use super::pod::volume_defaults::{
    set_azure_disk_defaults, set_host_path_defaults, set_rbd_defaults, set_scale_io_defaults,
};
use super::resources::round_up;
use super::{name_cell, node_selector, text};
use crate::error::{Errors, Path};
use crate::object::{ApiObject, Logic};
use crate::registry::{Column, Kind, MetadataCheck, Subresource};
use crate::table::age;

pub(super) static KIND: Kind = Kind {
    short_names: &["pv"],
    namespaced: false,
    subresources: &[Subresource::status("PersistentVolume")],
    // Kubernetes checks a volume once for the update and once as such, but for the change of its
    // metadata, which every resource's is checked for.
    update_metadata: &[MetadataCheck::Create, MetadataCheck::Create],
    columns: &[
        Column::NAME,
        Column::new("Capacity", "its size"),
        Column::new("Access Modes", "who can use it, and how"),
        Column::new("Reclaim Policy", "what happens to it when its claim is gone"),
        Column::new("Status", "whether it has a claim"),
        Column::new("Claim", "its claim"),
        Column::new("StorageClass", "its class"),
        Column::new("Reason", "why it is in its status"),
        Column::AGE,
        Column::wide("VolumeMode", "file system or block device"),
    ],
    ..Kind::new(
        ("", "v1", "PersistentVolume"),
        ("persistentvolumes", "persistentvolume"),
        "io.k8s.api.core.v1.PersistentVolume",
        Logic::of::<PersistentVolume>(),
    )
};

const STORAGE: &str = "storage";
const RECYCLE_DEPRECATED: &str = "spec.persistentVolumeReclaimPolicy: The Recycle reclaim policy is deprecated. \
    Instead, the recommended approach is to use dynamic provisioning.";

fn spec_of(volume: &PersistentVolume) -> PersistentVolumeSpec {
    volume.spec.clone().unwrap_or_default()
}

impl ApiObject for PersistentVolume {
    fn set_defaults(&mut self) {
        fill(&mut self.status.get_or_insert_default().phase, "Pending");
        let spec = self.spec.get_or_insert_default();
        fill(&mut spec.persistent_volume_reclaim_policy, "Retain");
        spec.volume_mode.get_or_insert_with(|| "Filesystem".to_owned());
        round_up(&mut spec.capacity);
        set_source_defaults(spec);
    }

    fn prepare_for_create(&mut self) {
        self.status = Some(PersistentVolumeStatus {
            phase: Some("Pending".to_owned()),
            // It is in its first phase since it is there (since 1.31).
            last_phase_transition_time: self.metadata.creation_timestamp.clone(),
            ..PersistentVolumeStatus::default()
        });
    }

    /// The time of the last transition is kept, or set for clients that do not know of it.
    fn prepare_for_status_update(&mut self, old: &PersistentVolume) {
        let (status, before) = (
            self.status.get_or_insert_default(),
            old.status.clone().unwrap_or_default(),
        );
        let time = &mut status.last_phase_transition_time;
        if status.phase == before.phase {
            if time.is_none() {
                *time = before.last_phase_transition_time;
            }
        } else if time.is_none() || *time == before.last_phase_transition_time {
            *time = Timestamp::from_second(Timestamp::now().as_second())
                .ok()
                .map(Time);
        }
    }

    fn validate(&self, errors: &mut Errors) {
        validate_spec(self, false, errors);
    }

    fn validate_update(&self, old: &PersistentVolume, errors: &mut Errors) {
        let affinity = old.spec.as_ref().and_then(|spec| spec.node_affinity.as_ref());
        let required = affinity.and_then(|affinity| affinity.required.as_ref());
        let allow_invalid =
            required.is_some_and(|required| node_selector::has_invalid_values(&required.node_selector_terms));
        validate_spec(self, allow_invalid, errors);
        validate_spec(self, allow_invalid, errors);
        validate_change(&spec_of(self), &spec_of(old), errors);
    }

    fn warnings(&self, _old: Option<&PersistentVolume>) -> Vec<String> {
        let spec = spec_of(self);
        let mut warnings = Vec::new();
        let annotations = self.metadata.annotations.as_ref();
        if annotations.is_some_and(|all| all.contains_key(CLASS_ANNOTATION)) {
            let path = Path::new("metadata").child("annotations").key(CLASS_ANNOTATION);
            let why = "deprecated since v1.8; use \"storageClassName\" attribute instead";
            warnings.push(format!("{path}: {why}"));
        }
        if text(&spec.persistent_volume_reclaim_policy) == "Recycle" {
            warnings.push(RECYCLE_DEPRECATED.to_owned());
        }
        let required = spec
            .node_affinity
            .as_ref()
            .and_then(|affinity| affinity.required.as_ref());
        let path = Path::new("spec")
            .child("nodeAffinity")
            .child("required")
            .child("nodeSelectorTerms");
        for (at, term) in required
            .into_iter()
            .flat_map(|required| &required.node_selector_terms)
            .enumerate()
        {
            warnings.extend(node_selector::term_warnings(term, false, &path.index(at)));
        }
        for (field, is_set, why) in [
            (
                "cephfs",
                spec.cephfs.is_some(),
                "deprecated in v1.28, non-functional in v1.31+",
            ),
            (
                "photonPersistentDisk",
                spec.photon_persistent_disk.is_some(),
                "deprecated in v1.11, non-functional in v1.16+",
            ),
            (
                "scaleIO",
                spec.scale_io.is_some(),
                "deprecated in v1.16, non-functional in v1.22+",
            ),
            (
                "storageOS",
                spec.storageos.is_some(),
                "deprecated in v1.22, non-functional in v1.25+",
            ),
            (
                "glusterfs",
                spec.glusterfs.is_some(),
                "deprecated in v1.25, non-functional in v1.26+",
            ),
            (
                "rbd",
                spec.rbd.is_some(),
                "deprecated in v1.28, non-functional in v1.31+",
            ),
        ] {
            if is_set {
                warnings.push(format!("spec.{field}: {why}"));
            }
        }
        warnings
    }

    fn row(&self, now: Timestamp) -> Vec<Value> {
        let (spec, status) = (spec_of(self), self.status.clone().unwrap_or_default());
        let capacity = spec.capacity.as_ref().and_then(|capacity| capacity.get(STORAGE));
        let claim = spec.claim_ref.as_ref();
        let claim = claim.map(|claim| format!("{}/{}", text(&claim.namespace), text(&claim.name)));
        let is_deleting = self.metadata.deletion_timestamp.is_some();
        let class = self
            .metadata
            .annotations
            .as_ref()
            .and_then(|all| all.get(CLASS_ANNOTATION));
        vec![
            name_cell(&self.metadata),
            capacity.map_or("0", |capacity| &capacity.0).into(),
            short_modes(spec.access_modes.as_deref().unwrap_or_default()).into(),
            text(&spec.persistent_volume_reclaim_policy).into(),
            if is_deleting {
                "Terminating"
            } else {
                text(&status.phase)
            }
            .into(),
            claim.unwrap_or_default().into(),
            class
                .map_or(text(&spec.storage_class_name), String::as_str)
                .into(),
            text(&status.reason).into(),
            age(self.metadata.creation_timestamp.as_ref(), now),
            spec.volume_mode.as_deref().unwrap_or("<unset>").into(),
        ]
    }
}

fn set_source_defaults(spec: &mut PersistentVolumeSpec) {
    if let Some(host_path) = &mut spec.host_path {
        set_host_path_defaults(host_path);
    }
    if let Some(iscsi) = &mut spec.iscsi {
        fill(&mut iscsi.iscsi_interface, "default");
    }
    if let Some(rbd) = &mut spec.rbd {
        set_rbd_defaults(&mut rbd.pool, &mut rbd.user, &mut rbd.keyring);
    }
    if let Some(disk) = &mut spec.azure_disk {
        set_azure_disk_defaults(disk);
    }
    if let Some(scale_io) = &mut spec.scale_io {
        set_scale_io_defaults(&mut scale_io.storage_mode, &mut scale_io.fs_type);
    }
}

#[cfg(test)]
mod tests;
