//! What a container mounts, and the paths within volumes.

use k8s_openapi::api::core::v1::{Container, VolumeMount};

use super::volumes::Volumes;
use crate::error::{Errors, Path};
use crate::go;
use crate::kinds::text;

const PROPAGATIONS: [&str; 3] = ["Bidirectional", "HostToContainer", "None"];
const RECURSIVE_READ_ONLY: [&str; 3] = ["Disabled", "Enabled", "IfPossible"];
const BIND_OPTIONS: [&str; 3] = ["nodev", "noexec", "nosuid"];

/// Checks the file systems that a container mounts.
pub(super) fn validate_mounts(
    container: &Container,
    volumes: &Volumes<'_>,
    path: &Path,
    errors: &mut Errors,
) {
    let mounts = container.volume_mounts.as_deref().unwrap_or_default();
    let devices = container.volume_devices.as_deref().unwrap_or_default();
    for (at, mount) in mounts.iter().enumerate() {
        let item = path.index(at);
        let (name, target) = (item.child("name"), item.child("mountPath"));
        errors.present(&name, &mount.name);
        if volumes.find(&mount.name).is_none() {
            errors.not_found(&name, &mount.name);
        }
        errors.present(&target, &mount.mount_path);
        if mounts[..at]
            .iter()
            .any(|other| other.mount_path == mount.mount_path)
        {
            errors.invalid(&target, &mount.mount_path, "must be unique");
        }
        if devices.iter().any(|device| device.name == mount.name) {
            errors.invalid(&name, &mount.name, "must not already exist in volumeDevices");
        }
        if devices
            .iter()
            .any(|device| device.device_path == mount.mount_path)
        {
            let why = "must not already exist as a path in volumeDevices";
            errors.invalid(&target, &mount.mount_path, why);
        }
        validate_sub_paths(mount, &item, path, errors);
        // From here on Kubernetes has the path of the list, not of the item.
        validate_propagation(mount, container, &path.child("mountPropagation"), errors);
        validate_recursive_read_only(mount, &path.child("recursiveReadOnly"), errors);
        validate_bind_options(mount, volumes, &item.child("bindMountOptions"), errors);
    }
}

fn validate_sub_paths(mount: &VolumeMount, item: &Path, list: &Path, errors: &mut Errors) {
    let (sub_path, expression) = (text(&mount.sub_path), text(&mount.sub_path_expr));
    if !sub_path.is_empty() {
        validate_descending(sub_path, &list.child("subPath"), errors);
    }
    if !expression.is_empty() {
        if !sub_path.is_empty() {
            let why = "subPathExpr and subPath are mutually exclusive";
            errors.invalid(&item.child("subPathExpr"), expression, why);
        }
        validate_descending(expression, &list.child("subPathExpr"), errors);
    }
}

fn validate_propagation(mount: &VolumeMount, container: &Container, path: &Path, errors: &mut Errors) {
    let Some(propagation) = &mount.mount_propagation else {
        return;
    };
    errors.one_of(path, propagation, &PROPAGATIONS);
    let privileged = container
        .security_context
        .as_ref()
        .and_then(|context| context.privileged);
    if propagation == "Bidirectional" && privileged != Some(true) {
        let why = "Bidirectional mount propagation is available only to privileged containers";
        errors.forbidden(path, why);
    }
}

fn validate_recursive_read_only(mount: &VolumeMount, path: &Path, errors: &mut Errors) {
    let Some(mode) = &mount.recursive_read_only else {
        return;
    };
    errors.one_of(path, mode, &RECURSIVE_READ_ONLY);
    if matches!(mode.as_str(), "Enabled" | "IfPossible") {
        if mount.read_only != Some(true) {
            errors.forbidden(path, "may only be specified when readOnly is true");
        }
        if mount
            .mount_propagation
            .as_deref()
            .is_some_and(|propagation| propagation != "None")
        {
            let why = "may only be specified when mountPropagation is None or not specified";
            errors.forbidden(path, why);
        }
    }
}

fn validate_bind_options(mount: &VolumeMount, volumes: &Volumes<'_>, path: &Path, errors: &mut Errors) {
    let options = mount.bind_mount_options.as_deref().unwrap_or_default();
    for (at, option) in options.iter().enumerate() {
        errors.one_of(&path.index(at), option, &BIND_OPTIONS);
        if options[..at].contains(option) {
            errors.duplicate(&path.index(at), option);
        }
    }
    if !options.is_empty()
        && volumes
            .find(&mount.name)
            .is_some_and(|volume| volume.image.is_some())
    {
        let why = "bindMountOptions may not be used with image volumes";
        errors.invalid(path, &go::syntax("[]string", &options), why);
    }
}

/// Checks the block devices that a container gets.
pub(super) fn validate_devices(
    container: &Container,
    volumes: &Volumes<'_>,
    path: &Path,
    errors: &mut Errors,
) {
    let mounts = container.volume_mounts.as_deref().unwrap_or_default();
    let devices = container.volume_devices.as_deref().unwrap_or_default();
    for (at, device) in devices.iter().enumerate() {
        let item = path.index(at);
        let (name, target) = (item.child("name"), item.child("devicePath"));
        let (of, to) = (device.name.as_str(), device.device_path.as_str());
        errors.present(&name, of);
        if !of.is_empty() && devices[..at].iter().any(|other| other.name == of) {
            errors.invalid(&name, of, "must be unique");
        }
        match volumes.find(of) {
            None => errors.not_found(&name, of),
            Some(volume) if volume.persistent_volume_claim.is_none() && volume.ephemeral.is_none() => {
                let why =
                    "can only use volume source type of PersistentVolumeClaim or Ephemeral for block mode";
                errors.invalid(&name, of, why);
            }
            Some(_) => {}
        }
        errors.present(&target, to);
        let repeats = |other: &k8s_openapi::api::core::v1::VolumeDevice| {
            other.device_path == to && !has_backsteps(&other.device_path)
        };
        if devices[..at].iter().any(repeats) {
            errors.invalid(&target, to, "must be unique");
        }
        if has_backsteps(to) {
            errors.invalid(&target, to, "can not contain backsteps ('..')");
        }
        if mounts.iter().any(|mount| mount.name == of) {
            errors.invalid(&name, of, "must not already exist in volumeMounts");
        }
        if mounts.iter().any(|mount| mount.mount_path == to) {
            errors.invalid(&target, to, "must not already exist as a path in volumeMounts");
        }
    }
}

fn has_backsteps(path: &str) -> bool {
    path.split('/').any(|part| part == "..")
}

/// Checks that a path does not step back.
pub(crate) fn validate_no_backsteps(target: &str, path: &Path, errors: &mut Errors) {
    if has_backsteps(target) {
        errors.invalid(path, target, "must not contain '..'");
    }
}

/// Checks that a path is relative and does not step back.
pub(crate) fn validate_descending(target: &str, path: &Path, errors: &mut Errors) {
    if target.starts_with('/') {
        errors.invalid(path, target, "must be a relative path");
    }
    validate_no_backsteps(target, path, errors);
}

/// Checks the path of a file that Kubernetes writes into a volume.
pub(crate) fn validate_local_path(target: &str, path: &Path, errors: &mut Errors) {
    validate_descending(target, path, errors);
    if target.starts_with("..") && !target.starts_with("../") {
        errors.invalid(path, target, "must not start with '..'");
    }
}
