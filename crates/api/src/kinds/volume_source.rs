//! Sources of volumes, which pods and persistent volumes share.
//!
//! Those that plugins serve are described as data: Kubernetes checks little more of them than that
//! the fields they cannot do without are there.

use k8s_openapi::api::core::v1::HostPathVolumeSource;
use serde::Serialize;
use serde_json::Value;

use super::pod::mounts::{validate_descending, validate_no_backsteps};
use crate::error::{Errors, Path};
use crate::{go, names};

const HOST_PATH_TYPES: [&str; 8] = [
    "",
    "BlockDevice",
    "CharDevice",
    "Directory",
    "DirectoryOrCreate",
    "File",
    "FileOrCreate",
    "Socket",
];
/// What to say where an iSCSI session's name would become too long.
pub(crate) const ISCSI_TOO_LONG: &str = "Total length of <volume name>:<iscsi.targetPortal> must be under 64 characters if iscsi.initiatorName is specified.";
const HOST_AND_PORTS: &str = "must be a host:port pair or multiple pairs separated by commas";
const CACHING_MODES: [&str; 3] = ["None", "ReadOnly", "ReadWrite"];
const DISK_KINDS: [&str; 3] = ["Dedicated", "Managed", "Shared"];
const MANAGED_DISK: &str =
    "/subscriptions/{sub-id}/resourcegroups/{group-name}/providers/microsoft.compute/disks/{disk-id}";
const BLOB_DISK: &str = "https://{account-name}.blob.core.windows.net/{container-name}/{disk-name}.vhd";
const DRIVER_NAME_MAX: usize = 63;

/// Sources of which a volume has exactly one.
pub(crate) struct OneOf<'p> {
    path: &'p Path,
    found: bool,
}

impl<'p> OneOf<'p> {
    /// None found yet.
    pub(crate) fn new(path: &'p Path) -> OneOf<'p> {
        OneOf { path, found: false }
    }

    /// Checks a source, if it is there and the first.
    pub(crate) fn check<T>(
        &mut self,
        field: &str,
        source: &Option<T>,
        errors: &mut Errors,
        check: impl FnOnce(&T, &Path, &mut Errors),
    ) {
        self.check_at((field, field), source, errors, check);
    }

    /// Likewise, where Kubernetes has two names for the source: one when it is too much, another
    /// when it is wrong.
    pub(crate) fn check_at<T>(
        &mut self,
        (too_much, wrong): (&str, &str),
        source: &Option<T>,
        errors: &mut Errors,
        check: impl FnOnce(&T, &Path, &mut Errors),
    ) {
        let Some(source) = source else { return };
        if self.found {
            errors.forbidden(
                &self.path.child(too_much),
                "may not specify more than 1 volume type",
            );
        } else {
            self.found = true;
            check(source, &self.path.child(wrong), errors);
        }
    }

    /// Checks that there was one.
    pub(crate) fn require(self, errors: &mut Errors) {
        if !self.found {
            errors.required(self.path, "must specify a volume type");
        }
    }
}

/// Checks a path on the host.
pub(crate) fn validate_host_path(source: &HostPathVolumeSource, path: &Path, errors: &mut Errors) {
    if source.path.is_empty() {
        errors.required(&path.child("path"), "");
        return;
    }
    validate_no_backsteps(&source.path, &path.child("path"), errors);
    if let Some(ty) = &source.type_ {
        errors.one_of(&path.child("type"), ty, &HOST_PATH_TYPES);
    }
}

/// Checks the name of a CSI driver.
pub(crate) fn validate_driver_name(name: &str, path: &Path, errors: &mut Errors) {
    errors.present(path, name);
    if name.len() > DRIVER_NAME_MAX {
        errors.too_long(path, DRIVER_NAME_MAX);
    }
    errors.invalid_each(path, name, names::dns_subdomain(&name.to_lowercase()));
}

/// A source that a plugin serves.
pub(crate) trait Plugin: Serialize {
    /// Fields that must be given, in order: texts and lists that are not empty.
    const REQUIRED: &'static [&'static str];
    /// Further checks.
    const CHECK: fn(&Value, &Path, &mut Errors) = |_, _, _| {};
}

/// Checks such a source.
pub(crate) fn validate_plugin<T: Plugin>(source: &T, path: &Path, errors: &mut Errors) {
    // These types are all maps with texts as keys.
    let Ok(source) = serde_json::to_value(source) else {
        return;
    };
    for field in T::REQUIRED {
        let is_empty = match &source[*field] {
            Value::String(text) => text.is_empty(),
            Value::Array(list) => list.is_empty(),
            _ => true,
        };
        if is_empty {
            errors.required(&path.child(field), "");
        }
    }
    T::CHECK(&source, path, errors);
}

macro_rules! plugins {
    ($($source:ident: $required:expr $(=> $check:expr)?;)*) => {
        $(impl Plugin for k8s_openapi::api::core::v1::$source {
            const REQUIRED: &'static [&'static str] = &$required;
            $(const CHECK: fn(&Value, &Path, &mut Errors) = $check;)?
        })*
    };
}

plugins! {
    AWSElasticBlockStoreVolumeSource: ["volumeID"] => partition;
    AzureDiskVolumeSource: ["diskName", "diskURI"] => azure_disk;
    AzureFilePersistentVolumeSource: ["secretName", "shareName"] => |source, path, errors| {
        if source["secretNamespace"] == "" {
            errors.required(&path.child("secretNamespace"), "");
        }
    };
    AzureFileVolumeSource: ["secretName", "shareName"];
    CephFSPersistentVolumeSource: ["monitors"];
    CephFSVolumeSource: ["monitors"];
    CinderPersistentVolumeSource: ["volumeID"] => secret_with_namespace;
    CinderVolumeSource: ["volumeID"] => secret;
    FCVolumeSource: [] => fibre_channel;
    FlexPersistentVolumeSource: ["driver"] => flex;
    FlexVolumeSource: ["driver"] => flex;
    FlockerVolumeSource: [] => flocker;
    GCEPersistentDiskVolumeSource: ["pdName"] => partition;
    GitRepoVolumeSource: ["repository"] => |source, path, errors| {
        validate_descending(text(source, "directory"), &path.child("directory"), errors);
    };
    GlusterfsPersistentVolumeSource: ["endpoints", "path"] => glusterfs;
    GlusterfsVolumeSource: ["endpoints", "path"];
    ISCSIPersistentVolumeSource: [] => |source, path, errors| {
        iscsi(source, "must be valid format", secret, path, errors);
    };
    ISCSIVolumeSource: [] => |source, path, errors| {
        let unknown = "must be valid format starting with iqn, eui, or naa";
        iscsi(source, unknown, |_, _, _| {}, path, errors);
    };
    NFSVolumeSource: ["server", "path"] => |source, path, errors| {
        let target = text(source, "path");
        if !target.starts_with('/') {
            errors.invalid(&path.child("path"), target, "must be an absolute path");
        }
    };
    PhotonPersistentDiskVolumeSource: ["pdID"];
    PortworxVolumeSource: ["volumeID"];
    QuobyteVolumeSource: [] => quobyte;
    RBDPersistentVolumeSource: ["monitors", "image"];
    RBDVolumeSource: ["monitors", "image"];
    ScaleIOPersistentVolumeSource: ["gateway", "system", "volumeName"];
    ScaleIOVolumeSource: ["gateway", "system", "volumeName"];
    StorageOSPersistentVolumeSource: ["volumeName"] => |source, path, errors| {
        storage_os(source, path, errors);
        secret_with_namespace(source, path, errors);
    };
    StorageOSVolumeSource: ["volumeName"] => |source, path, errors| {
        storage_os(source, path, errors);
        secret(source, path, errors);
    };
    VsphereVirtualDiskVolumeSource: ["volumePath"];
}

fn text<'s>(source: &'s Value, field: &str) -> &'s str {
    source[field].as_str().unwrap_or_default()
}

fn partition(source: &Value, path: &Path, errors: &mut Errors) {
    let partition = source["partition"].as_i64().unwrap_or(0);
    if !(0..=255).contains(&partition) {
        errors.invalid(&path.child("partition"), &partition, &names::in_range(1, 255));
    }
}

fn secret(source: &Value, path: &Path, errors: &mut Errors) {
    if source["secretRef"].is_object() {
        errors.present(
            &path.child("secretRef").child("name"),
            text(&source["secretRef"], "name"),
        );
    }
}

fn secret_with_namespace(source: &Value, path: &Path, errors: &mut Errors) {
    secret(source, path, errors);
    if source["secretRef"].is_object() {
        errors.present(
            &path.child("secretRef").child("namespace"),
            text(&source["secretRef"], "namespace"),
        );
    }
}

fn azure_disk(source: &Value, path: &Path, errors: &mut Errors) {
    let uri = text(source, "diskURI");
    if let Some(mode) = source["cachingMode"].as_str() {
        errors.one_of(&path.child("cachingMode"), mode, &CACHING_MODES);
    }
    let Some(kind) = source["kind"].as_str() else {
        return;
    };
    errors.one_of(&path.child("kind"), kind, &DISK_KINDS);
    let (prefix, form) = if kind == "Managed" {
        ("/subscriptions/", MANAGED_DISK)
    } else {
        ("https://", BLOB_DISK)
    };
    if !uri.starts_with(prefix) {
        errors.not_supported(&path.child("diskURI"), uri, &[form]);
    }
}

fn fibre_channel(source: &Value, path: &Path, errors: &mut Errors) {
    let is_set = |field: &str| source[field].as_array().is_some_and(|list| !list.is_empty());
    let (by_name, by_id) = (is_set("targetWWNs"), is_set("wwids"));
    let at = path.child("targetWWNs");
    if !by_name && !by_id {
        errors.required(&at, "must specify either targetWWNs or wwids, but not both");
    }
    if by_name && by_id {
        let shown = go::syntax("[]string", &source["targetWWNs"]);
        errors.invalid(
            &at,
            &shown,
            "targetWWNs and wwids can not be specified simultaneously",
        );
    }
    if by_name {
        match source["lun"].as_i64() {
            None => errors.required(&path.child("lun"), "lun is required if targetWWNs is specified"),
            Some(lun) => unit_number(lun, path, errors),
        }
    }
}

fn unit_number(lun: i64, path: &Path, errors: &mut Errors) {
    if !(0..=255).contains(&lun) {
        errors.invalid(&path.child("lun"), &lun, &names::in_range(0, 255));
    }
}

fn flex(source: &Value, path: &Path, errors: &mut Errors) {
    for key in source["options"]
        .as_object()
        .into_iter()
        .flatten()
        .map(|(key, _)| key)
    {
        let namespace = key
            .split_once('/')
            .map_or(key.as_str(), |(namespace, _)| namespace);
        let namespace = format!(".{}", namespace.to_lowercase());
        if namespace.ends_with(".kubernetes.io") || namespace.ends_with(".k8s.io") {
            let why = "kubernetes.io and k8s.io namespaces are reserved";
            errors.invalid(&path.child("options").key(key), key, why);
        }
    }
}

fn flocker(source: &Value, path: &Path, errors: &mut Errors) {
    let (name, uuid) = (text(source, "datasetName"), text(source, "datasetUUID"));
    if name.is_empty() && uuid.is_empty() {
        errors.required(path, "one of datasetName and datasetUUID is required");
    }
    if !name.is_empty() && !uuid.is_empty() {
        let why = "datasetName and datasetUUID can not be specified simultaneously";
        errors.invalid(path, "resource", why);
    }
    if name.contains('/') {
        errors.invalid(&path.child("datasetName"), name, "must not contain '/'");
    }
}

fn glusterfs(source: &Value, path: &Path, errors: &mut Errors) {
    let Some(namespace) = source["endpointsNamespace"].as_str() else {
        return;
    };
    let path = path.child("endpointsNamespace");
    if namespace.is_empty() {
        let why = "if the endpointnamespace is set, it must be a valid namespace name";
        errors.invalid(&path, namespace, why);
    } else {
        errors.invalid_each(&path, namespace, names::dns_label(namespace));
    }
}

fn quobyte(source: &Value, path: &Path, errors: &mut Errors) {
    let registry = text(source, "registry");
    if registry.is_empty() {
        errors.required(&path.child("registry"), HOST_AND_PORTS);
    } else if text(source, "tenant").len() >= 65 {
        let why = "must be a UUID and may not exceed a length of 64 characters";
        errors.required(&path.child("tenant"), why);
    } else {
        for _ in registry.split(',').filter(|pair| !is_host_and_port(pair)) {
            errors.invalid(&path.child("registry"), registry, HOST_AND_PORTS);
        }
    }
    errors.present(&path.child("volume"), text(source, "volume"));
}

fn is_host_and_port(pair: &str) -> bool {
    match pair.rsplit_once(':') {
        None => false,
        Some((host, port)) => {
            let bracketed = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
            !port.contains(['[', ']'])
                && !bracketed.unwrap_or(host).contains(['[', ']'])
                && (bracketed.is_some() || !host.contains(':'))
        }
    }
}

fn storage_os(source: &Value, path: &Path, errors: &mut Errors) {
    for field in ["volumeName", "volumeNamespace"] {
        let name = text(source, field);
        if !name.is_empty() {
            errors.invalid_each(&path.child(field), name, names::dns_label(name));
        }
    }
}

/// What is said of a name of no known form differs, and whether the secret is checked.
fn iscsi(
    source: &Value,
    unknown: &str,
    check_secret: fn(&Value, &Path, &mut Errors),
    path: &Path,
    errors: &mut Errors,
) {
    errors.present(&path.child("targetPortal"), text(source, "targetPortal"));
    let name = text(source, "iqn");
    match name {
        "" => errors.required(&path.child("iqn"), ""),
        name => initiator(name, unknown, &path.child("iqn"), errors),
    }
    unit_number(source["lun"].as_i64().unwrap_or(0), path, errors);
    let authenticates = source["chapAuthDiscovery"] == true || source["chapAuthSession"] == true;
    if authenticates && !source["secretRef"].is_object() {
        errors.required(&path.child("secretRef"), "");
    }
    check_secret(source, path, errors);
    if let Some(name) = source["initiatorName"].as_str() {
        initiator(name, unknown, &path.child("initiatorname"), errors);
    }
}

/// Checks the name of an iSCSI node.
fn initiator(name: &str, unknown: &str, path: &Path, errors: &mut Errors) {
    let is_hex = |rest: &str, length: usize| {
        rest.chars().count() == length + 1 && rest.chars().skip(1).all(|c| c.is_ascii_alphanumeric())
    };
    let well_formed = if name.starts_with("iqn") {
        is_qualified(name)
    } else if let Some(rest) = name.strip_prefix("eui") {
        is_hex(rest, 16)
    } else if let Some(rest) = name.strip_prefix("naa") {
        is_hex(rest, 32)
    } else {
        errors.invalid(path, name, unknown);
        return;
    };
    if !well_formed {
        errors.invalid(path, name, "must be valid format");
    }
}

/// `iqn.YYYY-MM.DOMAIN:NAME`; what comes before does not matter to Kubernetes.
fn is_qualified(name: &str) -> bool {
    name.match_indices("iqn.")
        .any(|(at, prefix)| is_dated(&name[at + prefix.len()..]))
}

fn is_dated(rest: &str) -> bool {
    let bytes = rest.as_bytes();
    let is_date = bytes.len() > 8
        && bytes[..8].iter().enumerate().all(|(at, byte)| match at {
            4 => *byte == b'-',
            7 => *byte == b'.',
            _ => byte.is_ascii_digit(),
        });
    let Some((domain, name)) = rest
        .get(8..)
        .filter(|_| is_date)
        .and_then(|rest| rest.split_once(':'))
    else {
        return false;
    };
    !domain.is_empty()
        && domain
            .chars()
            .all(|c| c.is_ascii_alphanumeric() || c == '-' || c == '.')
        && !name.is_empty()
        && !name.contains(|c: char| ",;*&$|".contains(c) || c.is_ascii_whitespace())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use k8s_openapi::api::core::v1::{AzureDiskVolumeSource, ISCSIVolumeSource, NFSVolumeSource};

    fn check<T: Plugin + serde::de::DeserializeOwned>(source: Value) -> String {
        let source: T = serde_json::from_value(source).expect("a source");
        let mut errors = Errors::new();
        validate_plugin(&source, &Path::new("s"), &mut errors);
        errors
            .iter()
            .map(ToString::to_string)
            .collect::<Vec<_>>()
            .join("|")
    }

    #[test]
    fn plugins_need_their_fields() {
        assert_eq!(check::<NFSVolumeSource>(json!({"server": "a", "path": "/b"})), "");
        assert_eq!(
            check::<NFSVolumeSource>(json!({"path": "b"})),
            "s.server: Required value|s.path: Invalid value: \"b\": must be an absolute path"
        );
        assert_eq!(
            check::<AzureDiskVolumeSource>(json!({"diskName": "a", "diskURI": "b", "kind": "Managed"})),
            format!("s.diskURI: Unsupported value: \"b\": supported values: \"{MANAGED_DISK}\"")
        );
    }

    #[test]
    fn iscsi_names_have_one_of_three_forms() {
        for (name, expected) in [
            ("iqn.2015-02.example.com:test", ""),
            ("eui.0123456789abcdef", ""),
            ("naa.60004567BA64678123456789ABCDEF12", ""),
            ("iqn.2015-02", "must be valid format"),
            ("x", "must be valid format starting with iqn, eui, or naa"),
        ] {
            let found = check::<ISCSIVolumeSource>(json!({"targetPortal": "p", "iqn": name, "lun": 0}));
            assert_eq!(found.rsplit(": ").next().unwrap_or_default(), expected, "{name}");
        }
    }
}
