//! Annotations of pods that have a meaning: profiles from before there were fields for them, mirror
//! pods, and the cost of deletion.

use k8s_openapi::api::core::v1::{AppArmorProfile, Container, Pod, PodSpec, SeccompProfile};

use super::mounts::validate_descending;
use super::options::Options;
use super::scheduling::validate_tolerations;
use super::security::validate_app_armor;
use super::spec::Annotations;
use super::visit;
use crate::error::{Errors, Path, quote};
use crate::json;
use crate::kinds::text;

/// Marks the copy of a pod that a kubelet has from a file.
const MIRROR: &str = "kubernetes.io/config.mirror";
const TOLERATIONS: &str = "scheduler.alpha.kubernetes.io/tolerations";
const DELETION_COST: &str = "controller.kubernetes.io/pod-deletion-cost";
/// The seccomp profile of a pod.
pub(super) const SECCOMP_POD: &str = "seccomp.security.alpha.kubernetes.io/pod";
/// The seccomp profile of a container, whose name follows.
pub(super) const SECCOMP_CONTAINER: &str = "container.seccomp.security.alpha.kubernetes.io/";
/// The AppArmor profile of a container, whose name follows.
pub(super) const APP_ARMOR: &str = "container.apparmor.security.beta.kubernetes.io/";
const LOCALHOST: &str = "localhost/";

/// Whether the cost of deletion, if there is one, is a number.
pub(super) fn is_deletion_cost(annotations: Option<&Annotations>) -> bool {
    let Some(cost) = annotations.and_then(|all| all.get(DELETION_COST)) else {
        return true;
    };
    let first = cost.bytes().next();
    let starts_well = cost == "0" || first.is_some_and(|byte| byte == b'-' || (b'1'..=b'9').contains(&byte));
    starts_well && cost.parse::<i32>().is_ok()
}

/// Checks annotations of a pod or template.
pub(super) fn validate(
    annotations: Option<&Annotations>,
    spec: &PodSpec,
    options: &Options,
    path: &Path,
    errors: &mut Errors,
) {
    let Some(annotations) = annotations else { return };
    if let Some(mirror) = annotations.get(MIRROR)
        && text(&spec.node_name).is_empty()
    {
        let why = "must set spec.nodeName if mirror pod annotation is set";
        errors.invalid(&path.key(MIRROR), mirror, why);
    }
    if let Some(tolerations) = annotations.get(TOLERATIONS).filter(|value| !value.is_empty()) {
        match serde_json::from_str::<Vec<_>>(tolerations) {
            Ok(tolerations) => validate_tolerations(&tolerations, &path.child(TOLERATIONS), errors),
            Err(error) => {
                let why = json::syntax_error(tolerations.as_bytes()).unwrap_or_else(|| error.to_string());
                errors.invalid(path, TOLERATIONS, &why);
            }
        }
    }
    if !options.invalid_deletion_cost && !is_deletion_cost(Some(annotations)) {
        errors.invalid(
            &path.key(DELETION_COST),
            &annotations[DELETION_COST],
            "must be a 32bit integer",
        );
    }
    validate_profiles(annotations, spec, path, errors);
}

fn validate_profiles(annotations: &Annotations, spec: &PodSpec, path: &Path, errors: &mut Errors) {
    if let Some(profile) = annotations.get(SECCOMP_POD) {
        validate_seccomp(profile, &path.child(SECCOMP_POD), errors);
    }
    for (key, profile) in annotations
        .iter()
        .filter(|(key, _)| key.starts_with(SECCOMP_CONTAINER))
    {
        validate_seccomp(profile, &path.child(key), errors);
    }
    for (key, profile) in annotations {
        let Some(name) = key.strip_prefix(APP_ARMOR) else {
            continue;
        };
        if !visit::any(spec, |container| container.name == name) {
            errors.invalid(&path.key(key), name, "container not found");
        }
        let known = matches!(profile.as_str(), "" | "runtime/default" | "unconfined");
        if !known && !profile.starts_with(LOCALHOST) {
            let why = format!("invalid AppArmor profile name: {}", quote(profile));
            errors.invalid(&path.key(key), profile, &why);
        }
    }
}

fn validate_seccomp(profile: &str, path: &Path, errors: &mut Errors) {
    match profile.strip_prefix(LOCALHOST) {
        Some(file) => validate_descending(file, path, errors),
        None if matches!(profile, "runtime/default" | "docker/default" | "unconfined") => {}
        None => errors.invalid(path, profile, "must be a valid seccomp profile"),
    }
}

/// Checks that seccomp profiles are the same in annotations and in fields.
pub(super) fn validate_seccomp_agrees(
    annotations: Option<&Annotations>,
    spec: &PodSpec,
    path: &Path,
    errors: &mut Errors,
) {
    let Some(annotations) = annotations else { return };
    let mut check = |key: &str, field: Option<&SeccompProfile>, path: &Path| {
        if let (Some(annotation), Some(field)) = (annotations.get(key), field) {
            let path = path.child("securityContext").child("seccompProfile");
            let local = field.localhost_profile.as_deref();
            let profile = Profile {
                name: "seccomp",
                ty: &field.type_,
                local,
            };
            profile.validate(annotation, &["runtime/default", "docker/default"], &path, errors);
        }
    };
    let of_pod = spec
        .security_context
        .as_ref()
        .and_then(|context| context.seccomp_profile.as_ref());
    check(SECCOMP_POD, of_pod, path);
    visit::each(spec, path, |container, path| {
        let own = container
            .security_context
            .as_ref()
            .and_then(|context| context.seccomp_profile.as_ref());
        check(&format!("{SECCOMP_CONTAINER}{}", container.name), own, path);
    });
}

/// Checks that AppArmor profiles are the same in annotations and in fields.
pub(super) fn validate_app_armor_agrees(
    annotations: Option<&Annotations>,
    spec: &PodSpec,
    path: &Path,
    errors: &mut Errors,
) {
    let Some(annotations) = annotations.filter(|_| !is_windows(spec)) else {
        return;
    };
    let of_pod = app_armor_of_pod(spec);
    visit::each(spec, path, |container, path| {
        let Some(profile) = app_armor_of(container).or(of_pod) else {
            return;
        };
        if let Some(annotation) = annotations.get(&format!("{APP_ARMOR}{}", container.name)) {
            let path = path.child("securityContext").child("appArmorProfile");
            let local = profile.localhost_profile.as_deref();
            let profile = Profile {
                name: "apparmor",
                ty: &profile.type_,
                local,
            };
            profile.validate(annotation, &["runtime/default"], &path, errors);
        }
    });
}

/// A profile that is given in a field.
struct Profile<'p> {
    name: &'static str,
    ty: &'p str,
    local: Option<&'p str>,
}

impl Profile<'_> {
    fn validate(&self, annotation: &str, defaults: &[&str], path: &Path, errors: &mut Errors) {
        let agrees = match self.ty {
            "Unconfined" => annotation == "unconfined",
            "RuntimeDefault" => defaults.contains(&annotation),
            "Localhost" => annotation.starts_with(LOCALHOST),
            _ => true,
        };
        if !agrees {
            let why = format!("{} type in annotation and field must match", self.name);
            errors.forbidden(&path.child("type"), &why);
        } else if self.ty == "Localhost" && annotation.strip_prefix(LOCALHOST) != self.local {
            let why = format!("{} profile in annotation and field must match", self.name);
            errors.forbidden(&path.child("localhostProfile"), &why);
        }
    }
}

fn is_windows(spec: &PodSpec) -> bool {
    spec.os.as_ref().is_some_and(|os| os.name == "windows")
}

fn app_armor_of_pod(spec: &PodSpec) -> Option<&AppArmorProfile> {
    spec.security_context.as_ref()?.app_armor_profile.as_ref()
}

fn app_armor_of(container: &Container) -> Option<&AppArmorProfile> {
    container.security_context.as_ref()?.app_armor_profile.as_ref()
}

/// The field that an annotation stands for.
pub(super) fn app_armor_profile(annotation: &str) -> Option<AppArmorProfile> {
    let (type_, localhost_profile) = match annotation {
        "unconfined" => ("Unconfined", None),
        "runtime/default" => ("RuntimeDefault", None),
        other => (
            "Localhost",
            Some(
                other
                    .strip_prefix(LOCALHOST)
                    .filter(|name| !name.is_empty())?
                    .to_owned(),
            ),
        ),
    };
    Some(AppArmorProfile {
        type_: type_.to_owned(),
        localhost_profile,
    })
}

/// Gives containers the AppArmor fields for which they have annotations (since 1.30).
pub(super) fn set_app_armor_fields(pod: &mut Pod) {
    let Some(annotations) = &pod.metadata.annotations else {
        return;
    };
    let Some(spec) = pod.spec.as_mut().filter(|spec| !is_windows(spec)) else {
        return;
    };
    if !annotations.keys().any(|key| key.starts_with(APP_ARMOR)) {
        return;
    }
    let of_pod = app_armor_of_pod(spec).cloned();
    visit::each_mut(spec, |container| {
        let annotation = annotations.get(&format!("{APP_ARMOR}{}", container.name));
        let Some(profile) = annotation.and_then(|annotation| app_armor_profile(annotation)) else {
            return;
        };
        let mut errors = Errors::new();
        validate_app_armor(Some(&profile), &Path::root(), &mut errors);
        if errors.is_empty() && app_armor_of(container).is_none() && of_pod.as_ref() != Some(&profile) {
            container
                .security_context
                .get_or_insert_default()
                .app_armor_profile = Some(profile);
        }
    });
}

/// Checks what an update does to annotations that cannot change.
pub(super) fn validate_update(
    new: Option<&Annotations>,
    old: Option<&Annotations>,
    path: &Path,
    errors: &mut Errors,
) {
    let empty = Annotations::new();
    let (new, old) = (new.unwrap_or(&empty), old.unwrap_or(&empty));
    for key in old
        .iter()
        .filter(|(key, value)| new.get(*key) != Some(value))
        .map(|(key, _)| key)
    {
        if key.starts_with(APP_ARMOR) {
            errors.forbidden(&path.key(key), "may not remove or update AppArmor annotations");
        }
        if key == MIRROR {
            errors.forbidden(&path.key(key), "may not remove or update mirror pod annotation");
        }
    }
    for key in new.keys().filter(|key| !old.contains_key(*key)) {
        if key.starts_with(APP_ARMOR) {
            errors.forbidden(&path.key(key), "may not add AppArmor annotations");
        }
        if key == MIRROR {
            errors.forbidden(&path.key(key), "may not add mirror pod annotation");
        }
    }
}
