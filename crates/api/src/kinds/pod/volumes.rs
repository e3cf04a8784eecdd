//! The volumes of a pod.

use k8s_openapi::api::core::v1::{
    CSIVolumeSource, ConfigMapVolumeSource, DownwardAPIVolumeFile, DownwardAPIVolumeSource,
    EmptyDirVolumeSource, EphemeralVolumeSource, ImageVolumeSource, KeyToPath, PodSpec, SecretVolumeSource,
    Volume,
};

use super::containers::PULL_POLICIES;
use super::env::{For, validate_field, validate_resource};
use super::mounts::validate_local_path;
use super::options::Options;
use super::spec::required_one_of;
use super::{projected, visit};
use crate::error::{Errors, Path};
use crate::kinds::resources::amount;
use crate::kinds::text;
use crate::kinds::volume_source::{OneOf, validate_driver_name, validate_host_path, validate_plugin};
use crate::kinds::{metadata_of_template, persistent_volume_claim};
use crate::names;

/// Octal, for the owner, the group and all others.
const MODES: std::ops::RangeInclusive<i32> = 0..=0o777;
const MODE_RANGE: &str = "must be a number between 0 and 0777 (octal), both inclusive";
const EMPTY_DIR_MODES: std::ops::RangeInclusive<i32> = 0..=0o1777;
const EMPTY_DIR_MODE_RANGE: &str = "must be a number between 0 and 01777 (octal), both inclusive";

/// The volumes that can be mounted.
pub(super) struct Volumes<'v>(Vec<&'v Volume>);

impl<'v> Volumes<'v> {
    /// The volume of a name.
    pub(super) fn find(&self, name: &str) -> Option<&'v Volume> {
        self.0.iter().find(|volume| volume.name == name).copied()
    }
}

/// Checks all volumes and returns those that are well formed. The pod's name is empty in templates.
pub(super) fn validate_all<'v>(
    spec: &'v PodSpec,
    pod_name: &str,
    options: &Options,
    path: &Path,
    errors: &mut Errors,
) -> Volumes<'v> {
    let all = spec.volumes.as_deref().unwrap_or_default();
    let mut good = Volumes(Vec::with_capacity(all.len()));
    for (at, volume) in all.iter().enumerate() {
        let path = path.index(at);
        let before = errors.len();
        validate_one(volume, pod_name, options, &path, errors);
        let name = path.child("name");
        if volume.name.is_empty() {
            errors.required(&name, "");
        } else {
            errors.invalid_each(&name, &volume.name, names::dns_label(&volume.name));
        }
        if good.find(&volume.name).is_some() {
            errors.duplicate(&name, &volume.name);
        }
        if errors.len() == before {
            good.0.push(volume);
        }
        if let Some(claim) = &volume.persistent_volume_claim {
            let made = |other: &Volume| {
                other.ephemeral.is_some() && claim.claim_name == format!("{pod_name}-{}", other.name)
            };
            if !pod_name.is_empty() && all.iter().any(made) {
                let why = "must not reference a PVC that gets created for an ephemeral volume";
                let path = path.child("persistentVolumeClaim").child("claimName");
                errors.invalid(&path, &claim.claim_name, why);
            }
        }
    }
    good
}

fn validate_one(volume: &Volume, pod_name: &str, options: &Options, path: &Path, errors: &mut Errors) {
    let mut one = OneOf::new(path);
    one.check("emptyDir", &volume.empty_dir, errors, validate_empty_dir);
    one.check("hostPath", &volume.host_path, errors, validate_host_path);
    one.check("gitRepo", &volume.git_repo, errors, validate_plugin);
    one.check_at(
        ("gcePersistentDisk", "persistentDisk"),
        &volume.gce_persistent_disk,
        errors,
        validate_plugin,
    );
    one.check(
        "awsElasticBlockStore",
        &volume.aws_elastic_block_store,
        errors,
        validate_plugin,
    );
    one.check("secret", &volume.secret, errors, validate_secret);
    one.check("nfs", &volume.nfs, errors, validate_plugin);
    one.check("iscsi", &volume.iscsi, errors, validate_plugin);
    if let Some(iscsi) = &volume.iscsi
        && iscsi.initiator_name.is_some()
        && volume.name.len() + 1 + iscsi.target_portal.len() > 64
    {
        errors.invalid(
            &path.child("name"),
            &volume.name,
            crate::kinds::volume_source::ISCSI_TOO_LONG,
        );
    }
    one.check("glusterfs", &volume.glusterfs, errors, validate_plugin);
    one.check("flocker", &volume.flocker, errors, validate_plugin);
    one.check(
        "persistentVolumeClaim",
        &volume.persistent_volume_claim,
        errors,
        |claim, path, errors| {
            errors.present(&path.child("claimName"), &claim.claim_name);
        },
    );
    one.check("rbd", &volume.rbd, errors, validate_plugin);
    one.check("cinder", &volume.cinder, errors, validate_plugin);
    one.check_at(("cephFS", "cephfs"), &volume.cephfs, errors, validate_plugin);
    one.check("quobyte", &volume.quobyte, errors, validate_plugin);
    one.check_at(
        ("downwarAPI", "downwardAPI"),
        &volume.downward_api,
        errors,
        validate_downward,
    );
    one.check("fc", &volume.fc, errors, validate_plugin);
    one.check("flexVolume", &volume.flex_volume, errors, validate_plugin);
    one.check("configMap", &volume.config_map, errors, validate_config_map);
    one.check("azureFile", &volume.azure_file, errors, validate_plugin);
    one.check("vsphereVolume", &volume.vsphere_volume, errors, validate_plugin);
    one.check(
        "photonPersistentDisk",
        &volume.photon_persistent_disk,
        errors,
        validate_plugin,
    );
    one.check("portworxVolume", &volume.portworx_volume, errors, validate_plugin);
    one.check("azureDisk", &volume.azure_disk, errors, validate_plugin);
    one.check("storageos", &volume.storageos, errors, validate_plugin);
    one.check("projected", &volume.projected, errors, |source, path, errors| {
        projected::validate(source, options, path, errors);
    });
    one.check("scaleIO", &volume.scale_io, errors, validate_plugin);
    one.check("csi", &volume.csi, errors, validate_csi);
    one.check("ephemeral", &volume.ephemeral, errors, |source, at, errors| {
        validate_ephemeral(source, at, errors);
        if !pod_name.is_empty() && !volume.name.is_empty() {
            let claim = format!("{pod_name}-{}", volume.name);
            for why in names::dns_subdomain(&claim) {
                let why = format!("PVC name {}: {why}", crate::error::quote(&claim));
                errors.invalid(&path.child("name"), &volume.name, &why);
            }
        }
    });
    one.check("image", &volume.image, errors, |source, path, errors| {
        validate_image(source, options, path, errors);
    });
    one.require(errors);
}

fn validate_empty_dir(source: &EmptyDirVolumeSource, path: &Path, errors: &mut Errors) {
    if source
        .size_limit
        .as_ref()
        .is_some_and(|limit| amount(limit).is_negative())
    {
        errors.forbidden(
            &path.child("sizeLimit"),
            "SizeLimit field must be a valid resource quantity",
        );
    }
    if let Some(mode) = source.mode.filter(|mode| !EMPTY_DIR_MODES.contains(mode)) {
        errors.invalid(&path.child("mode"), &mode, EMPTY_DIR_MODE_RANGE);
    }
}

fn validate_secret(source: &SecretVolumeSource, path: &Path, errors: &mut Errors) {
    errors.present(&path.child("secretName"), text(&source.secret_name));
    validate_mode("defaultMode", source.default_mode, path, errors);
    validate_user("defaultUser", source.default_user, path, errors);
    validate_items(source.items.as_deref(), path, errors);
}

fn validate_config_map(source: &ConfigMapVolumeSource, path: &Path, errors: &mut Errors) {
    errors.present(&path.child("name"), &source.name);
    validate_mode("defaultMode", source.default_mode, path, errors);
    validate_user("defaultUser", source.default_user, path, errors);
    validate_items(source.items.as_deref(), path, errors);
}

fn validate_items(items: Option<&[KeyToPath]>, path: &Path, errors: &mut Errors) {
    for (at, item) in items.unwrap_or_default().iter().enumerate() {
        validate_item(item, &path.child("items").index(at), errors);
    }
}

/// Checks which key becomes which file.
pub(super) fn validate_item(item: &KeyToPath, path: &Path, errors: &mut Errors) {
    errors.present(&path.child("key"), &item.key);
    errors.present(&path.child("path"), &item.path);
    validate_local_path(&item.path, &path.child("path"), errors);
    validate_mode("mode", item.mode, path, errors);
    validate_user("user", item.user, path, errors);
}

/// Checks the permissions of files.
pub(super) fn validate_mode(field: &str, mode: Option<i32>, path: &Path, errors: &mut Errors) {
    if let Some(mode) = mode.filter(|mode| !MODES.contains(mode)) {
        errors.invalid(&path.child(field), &mode, MODE_RANGE);
    }
}

/// Checks the owner of files.
pub(super) fn validate_user(field: &str, user: Option<i64>, path: &Path, errors: &mut Errors) {
    if let Some(user) = user {
        errors.invalid_each(&path.child(field), &user, names::user_id(user));
    }
}

fn validate_downward(source: &DownwardAPIVolumeSource, path: &Path, errors: &mut Errors) {
    validate_mode("defaultMode", source.default_mode, path, errors);
    validate_user("defaultUser", source.default_user, path, errors);
    for file in source.items.iter().flatten() {
        // Kubernetes has the path of the source here, not of the item.
        validate_file(file, path, errors);
    }
}

/// Checks a file that holds a field of the pod.
pub(super) fn validate_file(file: &DownwardAPIVolumeFile, path: &Path, errors: &mut Errors) {
    errors.present(&path.child("path"), &file.path);
    validate_local_path(&file.path, &path.child("path"), errors);
    match (&file.field_ref, &file.resource_field_ref) {
        (Some(field), resource) => {
            validate_field(field, For::File, &path.child("fieldRef"), errors);
            if resource.is_some() {
                let why = "fieldRef and resourceFieldRef can not be specified simultaneously";
                errors.invalid(path, "resource", why);
            }
        }
        (None, Some(resource)) => {
            validate_resource(resource, For::File, &path.child("resourceFieldRef"), errors);
        }
        (None, None) => errors.required(path, "one of fieldRef and resourceFieldRef is required"),
    }
    validate_mode("mode", file.mode, path, errors);
    validate_user("user", file.user, path, errors);
}

fn validate_csi(source: &CSIVolumeSource, path: &Path, errors: &mut Errors) {
    validate_driver_name(&source.driver, &path.child("driver"), errors);
    if let Some(secret) = &source.node_publish_secret_ref {
        if secret.name.is_empty() {
            errors.required(&path.child("nodePublishSecretRef").child("name"), "");
        } else {
            errors.invalid_each(
                &path.child("name"),
                &secret.name,
                names::dns_subdomain(&secret.name),
            );
        }
    }
}

fn validate_ephemeral(source: &EphemeralVolumeSource, path: &Path, errors: &mut Errors) {
    let path = path.child("volumeClaimTemplate");
    match &source.volume_claim_template {
        None => errors.required(&path, ""),
        Some(template) => {
            metadata_of_template(template.metadata.as_ref(), &path.child("metadata"), errors);
            persistent_volume_claim::validate_spec(&template.spec, false, &path.child("spec"), errors);
        }
    }
}

fn validate_image(source: &ImageVolumeSource, options: &Options, path: &Path, errors: &mut Errors) {
    if !options.empty_image_reference {
        errors.present(&path.child("reference"), text(&source.reference));
    }
    required_one_of(
        &path.child("pullPolicy"),
        text(&source.pull_policy),
        &PULL_POLICIES,
        errors,
    );
}

/// Variables from files can only be read from empty directories.
pub(super) fn validate_env_files(spec: &PodSpec, path: &Path, errors: &mut Errors) {
    visit::each(spec, path, |container, path| {
        for (at, variable) in container.env.iter().flatten().enumerate() {
            let source = variable
                .value_from
                .as_ref()
                .and_then(|source| source.file_key_ref.as_ref());
            let Some(file) = source else { continue };
            let path = path
                .child("env")
                .index(at)
                .child("valueFrom")
                .child("fileKeyRef")
                .child("volumeName");
            // Of volumes of one name the last one counts.
            match spec
                .volumes
                .iter()
                .flatten()
                .rfind(|volume| volume.name == file.volume_name)
            {
                None => errors.not_found(&path, &file.volume_name),
                Some(volume) if volume.empty_dir.is_none() => {
                    let why = "referenced volume must be of type emptyDir";
                    errors.invalid(&path, &file.volume_name, why);
                }
                Some(_) => {}
            }
        }
    });
}
