//! VolumeAttachment and VolumeAttributesClass (storage.k8s.io/v1).

use std::collections::BTreeMap;

use jiff::Timestamp;
use k8s_openapi::api::storage::v1::{
    VolumeAttachment, VolumeAttachmentSource, VolumeAttachmentStatus, VolumeAttributesClass, VolumeError,
};
use serde_json::Value;

use super::volume_source::validate_driver_name;
use super::{FIELD_IMMUTABLE, name_cell, same, text};
use crate::error::{Errors, Path};
use crate::go;
use crate::names;
use crate::object::{ApiObject, Logic};
use crate::registry::{Column, Kind, MetadataCheck, Subresource};
use crate::table::age;

const GROUP: &str = "storage.k8s.io";
/// The most that errors of drivers and what they say of an attachment may be, in bytes.
const MAX_ERROR: usize = 1024;
const MAX_METADATA: usize = 256 * 1024;
const MAX_PARAMETERS: usize = 512;

pub(super) static KIND: Kind = Kind {
    namespaced: false,
    unconditional_update: false,
    subresources: &[Subresource::status("VolumeAttachment")],
    update_metadata: &[MetadataCheck::Update],
    columns: &[
        Column::NAME,
        Column {
            format: "name",
            ..Column::new("Attacher", "who attaches it")
        },
        Column::new("PV", "the volume"),
        Column::new("Node", "the node"),
        Column {
            ty: "boolean",
            ..Column::new("Attached", "whether it is attached")
        },
        Column::AGE,
    ],
    caveat: Some(
        "volumes are not attached here, as they are folders of the node: the object is kept, and nothing comes of it",
    ),
    ..Kind::new(
        (GROUP, "v1", "VolumeAttachment"),
        ("volumeattachments", "volumeattachment"),
        "io.k8s.api.storage.v1.VolumeAttachment",
        Logic::of::<VolumeAttachment>(),
    )
};

pub(super) static CLASS: Kind = Kind {
    short_names: &["vac"],
    namespaced: false,
    update_metadata: &[MetadataCheck::Update],
    columns: &[
        Column::NAME,
        Column::new("DriverName", "whose volumes it is for"),
        Column::AGE,
    ],
    caveat: Some(
        "no driver here changes volumes by their class: the object is kept, and nothing comes of it",
    ),
    ..Kind::new(
        (GROUP, "v1", "VolumeAttributesClass"),
        ("volumeattributesclasses", "volumeattributesclass"),
        "io.k8s.api.storage.v1.VolumeAttributesClass",
        Logic::of::<VolumeAttributesClass>(),
    )
};

impl ApiObject for VolumeAttachment {
    fn prepare_for_create(&mut self) {
        self.status = Some(VolumeAttachmentStatus::default());
    }

    fn validate(&self, errors: &mut Errors) {
        let path = Path::new("spec");
        let attacher = path.child("attacher");
        if self.spec.attacher.is_empty() {
            errors.required(&attacher, "");
        } else {
            validate_driver_name(&self.spec.attacher, &attacher, errors);
        }
        validate_source(&self.spec.source, &path.child("source"), errors);
        errors.invalid_each(
            &path.child("nodeName"),
            &self.spec.node_name,
            names::dns_subdomain(&self.spec.node_name),
        );
        validate_status(&self.status.clone().unwrap_or_default(), errors);
    }

    fn validate_update(&self, old: &VolumeAttachment, errors: &mut Errors) {
        self.validate(errors);
        if !same(&self.spec, &old.spec) {
            let shown = go::syntax("storage.VolumeAttachmentSpec", &self.spec);
            errors.invalid(&Path::new("spec"), &shown, FIELD_IMMUTABLE);
        }
    }

    fn validate_status_update(&self, _: &VolumeAttachment, errors: &mut Errors) {
        validate_status(&self.status.clone().unwrap_or_default(), errors);
    }

    fn row(&self, now: Timestamp) -> Vec<Value> {
        vec![
            name_cell(&self.metadata),
            self.spec.attacher.clone().into(),
            text(&self.spec.source.persistent_volume_name).into(),
            self.spec.node_name.clone().into(),
            self.status.as_ref().is_some_and(|status| status.attached).into(),
            age(self.metadata.creation_timestamp.as_ref(), now),
        ]
    }
}

fn validate_source(source: &VolumeAttachmentSource, path: &Path, errors: &mut Errors) {
    let name = text(&source.persistent_volume_name);
    match (
        source.inline_volume_spec.is_some(),
        source.persistent_volume_name.is_some(),
    ) {
        (false, false) => errors.required(
            path,
            "must specify exactly one of inlineVolumeSpec and persistentVolumeName",
        ),
        (true, true) => errors.forbidden(
            path,
            "must specify exactly one of inlineVolumeSpec and persistentVolumeName",
        ),
        (false, true) if name.is_empty() => {
            errors.required(
                &path.child("persistentVolumeName"),
                "must specify non empty persistentVolumeName",
            );
        }
        _ => {}
    }
}

fn validate_status(status: &VolumeAttachmentStatus, errors: &mut Errors) {
    let path = Path::new("status");
    if let Some(metadata) = &status.attachment_metadata {
        let size: usize = metadata.iter().map(|(key, value)| key.len() + value.len()).sum();
        let path = path.child("attachmentMetadata");
        if size > MAX_METADATA {
            errors.too_long(&path, MAX_METADATA);
        }
        if metadata.contains_key("") {
            errors.invalid(&path, "", "field can not be empty.");
        }
    }
    let failures: [(&str, &Option<VolumeError>); 2] = [
        ("attachError", &status.attach_error),
        ("detachError", &status.detach_error),
    ];
    for (field, failure) in failures {
        let message = failure.as_ref().map_or("", |failure| text(&failure.message));
        if message.len() > MAX_ERROR {
            errors.too_long(&path.child(field).child("message"), MAX_ERROR);
        }
    }
}

impl ApiObject for VolumeAttributesClass {
    fn validate(&self, errors: &mut Errors) {
        let driver = Path::new("driverName");
        if self.driver_name.is_empty() {
            errors.required(&driver, "");
        } else {
            let name = self.driver_name.to_lowercase();
            errors.invalid_each(&driver, &self.driver_name, names::qualified_name(&name));
        }
        let path = Path::new("parameters");
        let parameters: Option<&BTreeMap<String, String>> = self.parameters.as_ref();
        match parameters {
            None => errors.required(&path, "must contain at least one key/value pair"),
            Some(parameters) if parameters.is_empty() => {
                errors.required(&path, "must contain at least one key/value pair");
            }
            Some(parameters) if parameters.len() > MAX_PARAMETERS => {
                errors.too_long(&path, MAX_PARAMETERS);
            }
            Some(parameters) => {
                if parameters.contains_key("") {
                    errors.invalid(&path, "", "field can not be empty.");
                }
                let size: usize = parameters
                    .iter()
                    .map(|(key, value)| key.len() + value.len())
                    .sum();
                if size > MAX_METADATA {
                    errors.too_long(&path, MAX_METADATA);
                }
            }
        }
    }

    fn validate_update(&self, old: &VolumeAttributesClass, errors: &mut Errors) {
        if self.driver_name != old.driver_name {
            errors.forbidden(&Path::new("driverName"), "updates to driverName are forbidden.");
        }
        if self.parameters != old.parameters {
            errors.forbidden(&Path::new("parameters"), "updates to parameters are forbidden.");
        }
    }

    fn row(&self, now: Timestamp) -> Vec<Value> {
        vec![
            name_cell(&self.metadata),
            self.driver_name.clone().into(),
            age(self.metadata.creation_timestamp.as_ref(), now),
        ]
    }
}
