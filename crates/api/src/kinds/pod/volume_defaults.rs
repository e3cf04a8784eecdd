//! Defaults of volumes, which persistent volumes share in part.

use k8s_openapi::api::core::v1::{
    AzureDiskVolumeSource, DownwardAPIVolumeFile, EmptyDirVolumeSource, HostPathVolumeSource,
    ProjectedVolumeSource, Volume,
};

use super::defaults::fill;
use super::image;
use crate::kinds::persistent_volume_claim::set_spec_defaults as set_claim_defaults;
use crate::kinds::text;

/// Read and write for the owner, read for all others.
const DEFAULT_MODE: i32 = 0o644;
/// How long a projected token is good for, in seconds.
const TOKEN_SECONDS: i64 = 3600;

/// A volume without any source is an empty directory.
pub(super) fn set_volume_defaults(volume: &mut Volume) {
    if *volume
        == (Volume {
            name: volume.name.clone(),
            ..Volume::default()
        })
    {
        volume.empty_dir = Some(EmptyDirVolumeSource::default());
    }
    if let Some(image) = &mut volume.image
        && text(&image.pull_policy).is_empty()
    {
        image.pull_policy = Some(image::pull_policy(text(&image.reference)).to_owned());
    }
    if let Some(secret) = &mut volume.secret {
        secret.default_mode.get_or_insert(DEFAULT_MODE);
    }
    if let Some(config_map) = &mut volume.config_map {
        config_map.default_mode.get_or_insert(DEFAULT_MODE);
    }
    if let Some(downward) = &mut volume.downward_api {
        downward.default_mode.get_or_insert(DEFAULT_MODE);
        downward.items.iter_mut().flatten().for_each(set_file_defaults);
    }
    if let Some(projected) = &mut volume.projected {
        set_projected_defaults(projected);
    }
    if let Some(host_path) = &mut volume.host_path {
        set_host_path_defaults(host_path);
    }
    if let Some(iscsi) = &mut volume.iscsi {
        fill(&mut iscsi.iscsi_interface, "default");
    }
    if let Some(rbd) = &mut volume.rbd {
        set_rbd_defaults(&mut rbd.pool, &mut rbd.user, &mut rbd.keyring);
    }
    if let Some(disk) = &mut volume.azure_disk {
        set_azure_disk_defaults(disk);
    }
    if let Some(scale_io) = &mut volume.scale_io {
        set_scale_io_defaults(&mut scale_io.storage_mode, &mut scale_io.fs_type);
    }
    let template = volume
        .ephemeral
        .as_mut()
        .and_then(|source| source.volume_claim_template.as_mut());
    if let Some(template) = template {
        set_claim_defaults(&mut template.spec);
    }
}

fn set_projected_defaults(projected: &mut ProjectedVolumeSource) {
    projected.default_mode.get_or_insert(DEFAULT_MODE);
    for source in projected.sources.iter_mut().flatten() {
        if let Some(downward) = &mut source.downward_api {
            downward.items.iter_mut().flatten().for_each(set_file_defaults);
        }
        if let Some(token) = &mut source.service_account_token {
            token.expiration_seconds.get_or_insert(TOKEN_SECONDS);
        }
    }
}

fn set_file_defaults(file: &mut DownwardAPIVolumeFile) {
    if let Some(field) = &mut file.field_ref {
        fill(&mut field.api_version, "v1");
    }
}

/// The type of a path on the host is not checked by default.
pub(crate) fn set_host_path_defaults(host_path: &mut HostPathVolumeSource) {
    host_path.type_.get_or_insert_default();
}

/// Defaults of RADOS block devices.
pub(crate) fn set_rbd_defaults(
    pool: &mut Option<String>,
    user: &mut Option<String>,
    keyring: &mut Option<String>,
) {
    fill(pool, "rbd");
    fill(user, "admin");
    fill(keyring, "/etc/ceph/keyring");
}

/// Defaults of Azure disks.
pub(crate) fn set_azure_disk_defaults(disk: &mut AzureDiskVolumeSource) {
    disk.caching_mode.get_or_insert_with(|| "ReadWrite".to_owned());
    disk.kind.get_or_insert_with(|| "Shared".to_owned());
    disk.fs_type.get_or_insert_with(|| "ext4".to_owned());
    disk.read_only.get_or_insert(false);
}

/// Defaults of ScaleIO volumes.
pub(crate) fn set_scale_io_defaults(storage_mode: &mut Option<String>, fs_type: &mut Option<String>) {
    fill(storage_mode, "ThinProvisioned");
    fill(fs_type, "xfs");
}
