//! The checks of a volume, in Kubernetes' order.

use k8s_openapi::api::core::v1::{
    CSIPersistentVolumeSource, LocalVolumeSource, PersistentVolume, PersistentVolumeSpec, SecretReference,
    VolumeNodeAffinity,
};
use serde_json::json;

use super::{STORAGE, spec_of};
use crate::error::{Errors, Path, Shown};
use crate::kinds::persistent_volume_claim::{VOLUME_MODES, validate_modes};
use crate::kinds::pod::mounts::validate_no_backsteps;
use crate::kinds::resources::{validate_basic, validate_positive};
use crate::kinds::volume_source::{
    ISCSI_TOO_LONG, OneOf, validate_driver_name, validate_host_path, validate_plugin,
};
use crate::kinds::{FIELD_IMMUTABLE, node_selector, same, text};
use crate::{go, names};

const RECLAIM_POLICIES: [&str; 3] = ["Delete", "Recycle", "Retain"];
const SOURCE_IMMUTABLE: &str = "spec.persistentvolumesource is immutable after creation";
/// Labels of nodes that have been replaced: a volume's affinity may move from one to the other.
const SUCCESSORS: [(&str, &str); 5] = [
    ("beta.kubernetes.io/arch", "kubernetes.io/arch"),
    ("beta.kubernetes.io/os", "kubernetes.io/os"),
    (
        "beta.kubernetes.io/instance-type",
        "node.kubernetes.io/instance-type",
    ),
    (
        "failure-domain.beta.kubernetes.io/region",
        "topology.kubernetes.io/region",
    ),
    (
        "failure-domain.beta.kubernetes.io/zone",
        "topology.kubernetes.io/zone",
    ),
];

/// Checks a volume.
pub(super) fn validate_spec(
    volume: &PersistentVolume,
    allow_invalid_selector_values: bool,
    errors: &mut Errors,
) {
    let spec = spec_of(volume);
    let path = Path::new("spec");
    let modes = spec.access_modes.as_deref().unwrap_or_default();
    if modes.is_empty() {
        errors.required(&path.child("accessModes"), "");
    }
    validate_modes(modes, &path.child("accessModes"), errors);
    validate_capacity(&spec, &path.child("capacity"), errors);
    let policy = text(&spec.persistent_volume_reclaim_policy);
    errors.one_of(
        &path.child("persistentVolumeReclaimPolicy"),
        policy,
        &RECLAIM_POLICIES,
    );
    if let Some(affinity) = &spec.node_affinity {
        let path = path.child("nodeAffinity").child("required");
        match &affinity.required {
            None => errors.required(&path, "must specify required node constraints"),
            Some(required) => {
                node_selector::validate(required, allow_invalid_selector_values, &path, errors);
            }
        }
    }
    validate_source(&spec, text(&volume.metadata.name), &path, errors);
    let host_path = spec.host_path.as_ref().map(|host_path| host_path.path.as_str());
    if host_path.is_some_and(is_root) && policy == "Recycle" {
        let why = "may not be 'recycle' for a hostPath mount of '/'";
        errors.forbidden(&path.child("persistentVolumeReclaimPolicy"), why);
    }
    let class = text(&spec.storage_class_name);
    if !class.is_empty() {
        errors.invalid_each(
            &path.child("storageClassName"),
            class,
            names::dns_subdomain(class),
        );
    }
    if let Some(mode) = &spec.volume_mode {
        errors.one_of(&path.child("volumeMode"), mode, &VOLUME_MODES);
    }
    if let Some(class) = &spec.volume_attributes_class_name {
        let at = path.child("volumeAttributesClassName");
        if class.is_empty() {
            errors.required(&at, "an empty string is disallowed");
        } else {
            errors.invalid_each(&at, class, names::dns_subdomain(class));
        }
        if spec.csi.is_none() {
            let why = "has to be specified when using volumeAttributesClassName";
            errors.required(&path.child("csi"), why);
        }
    }
}

/// Whether a path comes to the root of the host's file system (`path.Clean`).
fn is_root(path: &str) -> bool {
    path.starts_with('/') && {
        let depth = path.split('/').fold(0_usize, |depth, part| match part {
            "" | "." => depth,
            ".." => depth.saturating_sub(1),
            _ => depth + 1,
        });
        depth == 0
    }
}

fn validate_capacity(spec: &PersistentVolumeSpec, path: &Path, errors: &mut Errors) {
    let capacity = spec.capacity.clone().unwrap_or_default();
    if capacity.is_empty() {
        errors.required(path, "");
    }
    if !capacity.contains_key(STORAGE) || capacity.len() > 1 {
        let ty = "core.ResourceList=map[core.ResourceName(string)]resource.Quantity";
        errors.not_supported(path, &go::syntax(ty, &spec.capacity), &[STORAGE]);
    }
    for (name, quantity) in &capacity {
        validate_basic(quantity, &path.key(name), errors);
        validate_positive(quantity, &path.key(name), errors);
    }
}

fn validate_source(spec: &PersistentVolumeSpec, name: &str, path: &Path, errors: &mut Errors) {
    let mut one = OneOf::new(path);
    one.check("hostPath", &spec.host_path, errors, validate_host_path);
    let names = ("gcePersistentDisk", "persistentDisk");
    one.check_at(names, &spec.gce_persistent_disk, errors, validate_plugin);
    one.check(
        "awsElasticBlockStore",
        &spec.aws_elastic_block_store,
        errors,
        validate_plugin,
    );
    one.check("glusterfs", &spec.glusterfs, errors, validate_plugin);
    one.check("flocker", &spec.flocker, errors, validate_plugin);
    one.check("nfs", &spec.nfs, errors, validate_plugin);
    one.check("rbd", &spec.rbd, errors, validate_plugin);
    one.check("quobyte", &spec.quobyte, errors, validate_plugin);
    one.check_at(("cephFS", "cephfs"), &spec.cephfs, errors, validate_plugin);
    one.check("iscsi", &spec.iscsi, errors, |iscsi, path, errors| {
        validate_plugin(iscsi, path, errors);
        if iscsi.initiator_name.is_some() && name.len() + 1 + iscsi.target_portal.len() > 64 {
            errors.invalid(&path.child("targetportal"), &iscsi.target_portal, ISCSI_TOO_LONG);
        }
    });
    one.check("cinder", &spec.cinder, errors, validate_plugin);
    one.check("fc", &spec.fc, errors, validate_plugin);
    one.check("flexVolume", &spec.flex_volume, errors, validate_plugin);
    one.check("azureFile", &spec.azure_file, errors, validate_plugin);
    one.check("vsphereVolume", &spec.vsphere_volume, errors, validate_plugin);
    one.check(
        "photonPersistentDisk",
        &spec.photon_persistent_disk,
        errors,
        validate_plugin,
    );
    one.check("portworxVolume", &spec.portworx_volume, errors, validate_plugin);
    one.check("azureDisk", &spec.azure_disk, errors, validate_plugin);
    one.check("scaleIO", &spec.scale_io, errors, validate_plugin);
    one.check("local", &spec.local, errors, |local, at, errors| {
        validate_local(local, at, errors);
        if spec.node_affinity.is_none() {
            let why = "Local volume requires node affinity";
            errors.required(&path.child("nodeAffinity"), why);
        }
    });
    one.check("storageos", &spec.storageos, errors, validate_plugin);
    one.check("csi", &spec.csi, errors, validate_csi);
    one.require(errors);
}

fn validate_local(local: &LocalVolumeSource, path: &Path, errors: &mut Errors) {
    if local.path.is_empty() {
        errors.required(&path.child("path"), "");
    } else {
        validate_no_backsteps(&local.path, &path.child("path"), errors);
    }
}

fn validate_csi(csi: &CSIPersistentVolumeSource, path: &Path, errors: &mut Errors) {
    validate_driver_name(&csi.driver, &path.child("driver"), errors);
    errors.present(&path.child("volumeHandle"), &csi.volume_handle);
    for (field, secret) in [
        ("controllerPublishSecretRef", &csi.controller_publish_secret_ref),
        ("controllerExpandSecretRef", &csi.controller_expand_secret_ref),
        ("nodePublishSecretRef", &csi.node_publish_secret_ref),
        ("nodeExpandSecretRef", &csi.node_expand_secret_ref),
    ] {
        if let Some(secret) = secret {
            validate_secret(secret, &path.child(field), errors);
        }
    }
}

fn validate_secret(secret: &SecretReference, path: &Path, errors: &mut Errors) {
    match text(&secret.name) {
        "" => errors.required(&path.child("name"), ""),
        name => errors.invalid_each(&path.child("name"), name, names::dns_subdomain(name)),
    }
    match text(&secret.namespace) {
        "" => errors.required(&path.child("namespace"), ""),
        namespace => errors.invalid_each(&path.child("namespace"), namespace, names::dns_label(namespace)),
    }
}

/// Checks an update: where a volume's content is cannot change, nor who can get at it.
pub(super) fn validate_change(spec: &PersistentVolumeSpec, old: &PersistentVolumeSpec, errors: &mut Errors) {
    let (mut source, old_source) = (source_of(spec), source_of(old));
    // How a volume is made larger can be told once.
    if let (Some(csi), Some(old_csi)) = (&mut source.csi, &old_source.csi)
        && old_csi.controller_expand_secret_ref.is_none()
    {
        csi.controller_expand_secret_ref = None;
    }
    let path = Path::new("spec");
    if !same(&source, &old_source) {
        let difference = go::diff("core.PersistentVolumeSource", &json!(old_source), &json!(source));
        let path = path.child("persistentvolumesource");
        errors.forbidden(&path, &format!("{SOURCE_IMMUTABLE}\n{difference}"));
    }
    if spec.volume_mode != old.volume_mode {
        errors.invalid(&Path::new("volumeMode"), text(&spec.volume_mode), FIELD_IMMUTABLE);
    }
    if let Some(old) = &old.node_affinity {
        validate_affinity_change(spec.node_affinity.as_ref(), old, errors);
    }
    if old.volume_attributes_class_name.is_some() && spec.volume_attributes_class_name.is_none() {
        let why = "update from non-nil value to nil is forbidden";
        errors.forbidden(&path.child("volumeAttributesClassName"), why);
    }
}

/// The source alone: all else taken away.
fn source_of(spec: &PersistentVolumeSpec) -> PersistentVolumeSpec {
    PersistentVolumeSpec {
        access_modes: None,
        capacity: None,
        claim_ref: None,
        mount_options: None,
        node_affinity: None,
        persistent_volume_reclaim_policy: None,
        storage_class_name: None,
        volume_attributes_class_name: None,
        volume_mode: None,
        ..spec.clone()
    }
}

fn validate_affinity_change(
    affinity: Option<&VolumeNodeAffinity>,
    old: &VolumeNodeAffinity,
    errors: &mut Errors,
) {
    let mut compared = affinity.cloned();
    let terms = |affinity: &VolumeNodeAffinity| {
        affinity
            .required
            .clone()
            .map(|required| required.node_selector_terms)
            .unwrap_or_default()
    };
    let required = compared.as_mut().and_then(|affinity| affinity.required.as_mut());
    for (term, old_term) in required
        .into_iter()
        .flat_map(|required| &mut required.node_selector_terms)
        .zip(&terms(old))
    {
        let pairs = term
            .match_expressions
            .iter_mut()
            .flatten()
            .zip(old_term.match_expressions.iter().flatten());
        for (expression, old_expression) in pairs {
            if SUCCESSORS.contains(&(&old_expression.key, &expression.key)) {
                expression.key.clone_from(&old_expression.key);
            }
        }
    }
    if compared.as_ref().is_none_or(|compared| !same(compared, old)) {
        let shown: Box<dyn Shown> = match &compared {
            Some(compared) => Box::new(go::syntax("core.VolumeNodeAffinity", compared)),
            None => Box::new("null".to_owned()),
        };
        errors.invalid(&Path::new("nodeAffinity"), &*shown, FIELD_IMMUTABLE);
    }
}
