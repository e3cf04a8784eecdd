//! Environment variables.

use k8s_openapi::api::core::v1::{
    Container, EnvVarSource, FileKeySelector, ObjectFieldSelector, ResourceFieldSelector,
};

use super::mounts::validate_no_backsteps;
use crate::error::{Errors, Path};
use crate::kinds::resources::amount;
use crate::kinds::text;
use crate::names::{self, NameRule};

/// The fields of its pod that a variable may hold.
const ENV_FIELDS: [&str; 9] = [
    "metadata.name",
    "metadata.namespace",
    "metadata.uid",
    "spec.nodeName",
    "spec.serviceAccountName",
    "status.hostIP",
    "status.hostIPs",
    "status.podIP",
    "status.podIPs",
];
/// The fields of its pod that a file of a volume may hold.
const FILE_FIELDS: [&str; 5] = [
    "metadata.annotations",
    "metadata.labels",
    "metadata.name",
    "metadata.namespace",
    "metadata.uid",
];
/// Fields that can be named at all.
const POD_FIELDS: [&str; 15] = [
    "metadata.annotations",
    "metadata.labels",
    "metadata.name",
    "metadata.namespace",
    "metadata.uid",
    "spec.nodeName",
    "spec.restartPolicy",
    "spec.serviceAccountName",
    "spec.schedulerName",
    "status.phase",
    "status.hostIP",
    "status.hostIPs",
    "status.podIP",
    "status.podIPs",
    "spec.host",
];
const RESOURCES: [&str; 6] = [
    "limits.cpu",
    "limits.ephemeral-storage",
    "limits.memory",
    "requests.cpu",
    "requests.ephemeral-storage",
    "requests.memory",
];
const BYTE_DIVISORS: [&str; 13] = [
    "1", "1k", "1M", "1G", "1T", "1P", "1E", "1Ki", "1Mi", "1Gi", "1Ti", "1Pi", "1Ei",
];

/// Where a reference to a field of the pod stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum For {
    /// A variable.
    Variable,
    /// A file of a volume.
    File,
}

/// Checks the variables of a container.
pub(super) fn validate_variables(container: &Container, path: &Path, errors: &mut Errors) {
    for (at, variable) in container.env.iter().flatten().enumerate() {
        let path = path.index(at);
        if variable.name.is_empty() {
            errors.required(&path.child("name"), "");
        } else {
            errors.invalid_each(
                &path.child("name"),
                &variable.name,
                names::env_var_name(&variable.name),
            );
        }
        if let Some(source) = &variable.value_from {
            let has_value = !text(&variable.value).is_empty();
            validate_source(source, has_value, &path.child("valueFrom"), errors);
        }
    }
}

fn validate_source(source: &EnvVarSource, has_value: bool, path: &Path, errors: &mut Errors) {
    let mut count = 0;
    if let Some(field) = &source.field_ref {
        count += 1;
        validate_field(field, For::Variable, &path.child("fieldRef"), errors);
    }
    if let Some(resource) = &source.resource_field_ref {
        count += 1;
        validate_resource(resource, For::Variable, &path.child("resourceFieldRef"), errors);
    }
    if let Some(key) = &source.config_map_key_ref {
        count += 1;
        validate_key(&key.name, &key.key, &path.child("configMapKeyRef"), errors);
    }
    if let Some(key) = &source.secret_key_ref {
        count += 1;
        validate_key(&key.name, &key.key, &path.child("secretKeyRef"), errors);
    }
    if let Some(file) = &source.file_key_ref {
        count += 1;
        validate_file_key(file, &path.child("fileKeyRef"), errors);
    }
    if count == 0 {
        let why = "must specify one of: `fieldRef`, `resourceFieldRef`, `configMapKeyRef` or `secretKeyRef`";
        errors.invalid(path, "", why);
    } else if has_value {
        errors.invalid(path, "", "may not be specified when `value` is not empty");
    } else if count > 1 {
        errors.invalid(path, "", "may not have more than one field specified at a time");
    }
}

fn validate_key(name: &str, key: &str, path: &Path, errors: &mut Errors) {
    errors.invalid_each(&path.child("name"), name, names::dns_subdomain(name));
    if key.is_empty() {
        errors.required(&path.child("key"), "");
    } else {
        errors.invalid_each(&path.child("key"), key, names::config_key(key));
    }
}

fn validate_file_key(file: &FileKeySelector, path: &Path, errors: &mut Errors) {
    let checks: [(_, &str, NameRule); 2] = [
        ("key", &file.key, names::env_var_name),
        ("volumeName", &file.volume_name, names::dns_label),
    ];
    for (field, value, rule) in checks {
        if value.is_empty() {
            errors.required(&path.child(field), "");
        } else {
            errors.invalid_each(&path.child(field), value, rule(value));
        }
    }
    if file.path.is_empty() {
        errors.required(&path.child("path"), "");
    } else {
        validate_no_backsteps(&file.path, &path.child("path"), errors);
    }
}

/// Checks a reference to a field of the pod.
pub(super) fn validate_field(field: &ObjectFieldSelector, used: For, path: &Path, errors: &mut Errors) {
    let version = text(&field.api_version);
    if version.is_empty() {
        errors.required(&path.child("apiVersion"), "");
        return;
    }
    let name = field.field_path.as_str();
    if name.is_empty() {
        errors.required(&path.child("fieldPath"), "");
        return;
    }
    let subscript = subscripted(name);
    let problem = match subscript {
        _ if version != "v1" => Some(format!("unsupported pod version: {version}")),
        Some(("metadata.annotations" | "metadata.labels", _)) => None,
        Some(_) => Some(format!("field label does not support subscript: {name}")),
        None if POD_FIELDS.contains(&name) => None,
        None => Some(format!("field label not supported: {name}")),
    };
    if let Some(problem) = problem {
        let why = format!("error converting fieldPath: {problem}");
        errors.invalid(&path.child("fieldPath"), name, &why);
        return;
    }
    // The old name of the field.
    let name = if name == "spec.host" {
        "spec.nodeName"
    } else {
        name
    };
    let supported = match used {
        For::Variable => &ENV_FIELDS[..],
        For::File => &FILE_FIELDS,
    };
    match subscript {
        Some(("metadata.annotations", key)) => {
            let key = key.to_lowercase();
            errors.invalid_each(path, &key, names::qualified_name(&key));
        }
        Some((_, key)) => errors.invalid_each(path, key, names::qualified_name(key)),
        None => errors.one_of(&path.child("fieldPath"), name, supported),
    }
}

/// The parts of `path['key']`.
fn subscripted(name: &str) -> Option<(&str, &str)> {
    let (path, key) = name.strip_suffix("']")?.split_once("['")?;
    (!path.is_empty()).then_some((path, key))
}

/// Checks a reference to a container's resources.
pub(super) fn validate_resource(
    resource: &ResourceFieldSelector,
    used: For,
    path: &Path,
    errors: &mut Errors,
) {
    let name = resource.resource.as_str();
    let is_huge_pages = name.starts_with("limits.hugepages-") || name.starts_with("requests.hugepages-");
    if used == For::File && text(&resource.container_name).is_empty() {
        errors.required(&path.child("containerName"), "");
    } else if name.is_empty() {
        errors.required(&path.child("resource"), "");
    } else if !is_huge_pages {
        errors.one_of(&path.child("resource"), name, &RESOURCES);
    }
    let Some(divisor) = resource
        .divisor
        .as_ref()
        .filter(|divisor| !amount(divisor).is_zero())
    else {
        return;
    };
    let (what, allowed) = match name {
        "limits.cpu" | "requests.cpu" => ("cpu", &["1m", "1"][..]),
        "limits.memory" | "requests.memory" => ("memory", &BYTE_DIVISORS[..]),
        "limits.ephemeral-storage" | "requests.ephemeral-storage" => {
            ("local ephemeral storage", &BYTE_DIVISORS[..])
        }
        _ if is_huge_pages => ("hugepages", &BYTE_DIVISORS[..]),
        _ => return,
    };
    if !allowed.contains(&amount(divisor).to_string().as_str()) {
        let list = if what == "cpu" {
            "1m and 1".to_owned()
        } else {
            allowed.join(", ")
        };
        let why = format!("only divisor's values {list} are supported with the {what} resource");
        errors.invalid(&path.child("divisor"), name, &why);
    }
}

/// Checks where whole sets of variables come from.
pub(super) fn validate_sources(container: &Container, path: &Path, errors: &mut Errors) {
    for (at, source) in container.env_from.iter().flatten().enumerate() {
        let (at, prefix) = (path.index(at), text(&source.prefix));
        if !prefix.is_empty() {
            errors.invalid_each(&at.child("prefix"), prefix, names::env_var_name(prefix));
        }
        let names = [
            (
                "configMapRef",
                source.config_map_ref.as_ref().map(|source| &source.name),
            ),
            ("secretRef", source.secret_ref.as_ref().map(|source| &source.name)),
        ];
        let mut count = 0;
        for (field, name) in names {
            let Some(name) = name else { continue };
            count += 1;
            let path = at.child(field).child("name");
            if name.is_empty() {
                errors.required(&path, "");
            } else {
                errors.invalid_each(&path, name, names::as_prefix(names::dns_subdomain, name));
            }
        }
        match count {
            0 => errors.invalid(path, "", "must specify one of: `configMapRef` or `secretRef`"),
            1 => {}
            _ => errors.invalid(path, "", "may not have more than one field specified at a time"),
        }
    }
}
