//! Security contexts.

use k8s_openapi::api::core::v1::{
    AppArmorProfile, PodSecurityContext, PodSpec, SeccompProfile, SecurityContext, Sysctl,
};

use super::mounts::validate_descending;
use super::options::Options;
use super::windows;
use crate::error::{Errors, Path};
use crate::kinds::text;
use crate::{go, names};

const CHANGE_POLICIES: [&str; 2] = ["Always", "OnRootMismatch"];
const GROUPS_POLICIES: [&str; 2] = ["Merge", "Strict"];
const SELINUX_CHANGE_POLICIES: [&str; 2] = ["MountOption", "Recursive"];
const PROC_MOUNTS: [&str; 2] = ["Default", "Unmasked"];
const PROFILE_TYPES: [&str; 3] = ["Localhost", "RuntimeDefault", "Unconfined"];
const SYSCTL_MAX: usize = 253;
const SYSCTL_FORMAT: &str = r"^([a-z0-9]([-_a-z0-9]*[a-z0-9])?[\./])*[a-z0-9]([-_a-z0-9]*[a-z0-9])?$";
const PROFILE_PATH_MAX: usize = 4095;
/// Kernel parameters that belong to the IPC namespace.
const IPC_SYSCTLS: [&str; 10] = [
    "kernel.sem",
    "kernel.shmall",
    "kernel.shmmax",
    "kernel.shmmni",
    "kernel.shm_rmid_forced",
    "kernel.shm",
    "kernel.msgmax",
    "kernel.msgmnb",
    "kernel.msgmni",
    "kernel.msg",
];

/// Checks the context of a pod as a whole.
pub(super) fn validate_pod(
    context: &PodSecurityContext,
    spec: &PodSpec,
    options: &Options,
    path: &Path,
    errors: &mut Errors,
) {
    let ids = [
        ("fsGroup", context.fs_group),
        ("runAsUser", context.run_as_user),
        ("runAsGroup", context.run_as_group),
    ];
    for (field, id) in ids {
        validate_id(&path.child(field), id, errors);
    }
    for (at, id) in context.supplemental_groups.iter().flatten().enumerate() {
        validate_id(&path.child("supplementalGroups").index(at), Some(*id), errors);
    }
    if spec.share_process_namespace == Some(true) && spec.host_pid == Some(true) {
        let why = "ShareProcessNamespace and HostPID cannot both be enabled";
        errors.invalid(&path.child("shareProcessNamespace"), &true, why);
    }
    validate_sysctls(context, spec, options, &path.child("sysctls"), errors);
    if let Some(policy) = &context.fs_group_change_policy {
        errors.one_of(&path.child("fsGroupChangePolicy"), policy, &CHANGE_POLICIES);
    }
    validate_seccomp(
        context.seccomp_profile.as_ref(),
        &path.child("seccompProfile"),
        errors,
    );
    windows::validate_options(
        context.windows_options.as_ref(),
        &path.child("windowsOptions"),
        errors,
    );
    validate_app_armor(
        context.app_armor_profile.as_ref(),
        &path.child("appArmorProfile"),
        errors,
    );
    if let Some(policy) = &context.supplemental_groups_policy {
        errors.one_of(&path.child("supplementalGroupsPolicy"), policy, &GROUPS_POLICIES);
    }
    if let Some(policy) = &context.se_linux_change_policy {
        errors.one_of(
            &path.child("seLinuxChangePolicy"),
            policy,
            &SELINUX_CHANGE_POLICIES,
        );
    }
}

/// Checks a container's context.
pub(super) fn validate_container(
    context: &SecurityContext,
    host_users: bool,
    options: &Options,
    path: &Path,
    errors: &mut Errors,
) {
    validate_id(&path.child("runAsUser"), context.run_as_user, errors);
    validate_id(&path.child("runAsGroup"), context.run_as_group, errors);
    if let Some(mount) = &context.proc_mount {
        let path = path.child("procMount");
        errors.one_of(&path, mount, &PROC_MOUNTS);
        if host_users && mount == "Unmasked" {
            errors.invalid(&path, mount, "`hostUsers` must be false to use `Unmasked`");
        }
    }
    validate_seccomp(
        context.seccomp_profile.as_ref(),
        &path.child("seccompProfile"),
        errors,
    );
    if context.allow_privilege_escalation == Some(false) {
        let shown = || go::syntax("core.SecurityContext", context);
        if context.privileged == Some(true) {
            let why = "cannot set `allowPrivilegeEscalation` to false and `privileged` to true";
            errors.invalid(path, &shown(), why);
        }
        if !options.sys_admin_without_escalation {
            for _ in added_capabilities(context).filter(|capability| *capability == "CAP_SYS_ADMIN") {
                let why =
                    "cannot set `allowPrivilegeEscalation` to false and `capabilities.Add` CAP_SYS_ADMIN";
                errors.invalid(path, &shown(), why);
            }
        }
    }
    windows::validate_options(
        context.windows_options.as_ref(),
        &path.child("windowsOptions"),
        errors,
    );
    validate_app_armor(
        context.app_armor_profile.as_ref(),
        &path.child("appArmorProfile"),
        errors,
    );
}

fn validate_id(path: &Path, id: Option<i64>, errors: &mut Errors) {
    if let Some(id) = id {
        errors.invalid_each(path, &id, names::user_id(id));
    }
}

fn added_capabilities(context: &SecurityContext) -> impl Iterator<Item = &str> {
    let added = context
        .capabilities
        .as_ref()
        .and_then(|capabilities| capabilities.add.as_deref());
    added.unwrap_or_default().iter().map(String::as_str)
}

/// Whether a context asks for what contradicts its lack of escalation.
pub(super) fn is_sys_admin_without_escalation(context: &SecurityContext) -> bool {
    context.allow_privilege_escalation != Some(true)
        && added_capabilities(context).any(|capability| capability == "CAP_SYS_ADMIN")
}

fn validate_sysctls(
    context: &PodSecurityContext,
    spec: &PodSpec,
    options: &Options,
    path: &Path,
    errors: &mut Errors,
) {
    let sysctls = context.sysctls.as_deref().unwrap_or_default();
    for (at, sysctl) in sysctls.iter().enumerate() {
        let (path, name) = (path.index(at).child("name"), sysctl.name.as_str());
        if name.is_empty() {
            errors.required(&path, "");
        } else if !is_sysctl(name) {
            let why = format!("must have at most {SYSCTL_MAX} characters and match regex {SYSCTL_FORMAT}");
            errors.invalid(&path, name, &why);
        } else if sysctls[..at].iter().any(|other| other.name == name) {
            errors.duplicate(&path, name);
        }
        if let Some(why) = host_sysctl(sysctl, spec).filter(|_| !options.host_sysctls) {
            errors.invalid(&path, name, why);
        }
    }
}

fn is_sysctl(name: &str) -> bool {
    let is_segment = |segment: &str| {
        let word = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
        let bytes = segment.as_bytes();
        bytes.first().is_some_and(|b| word(*b))
            && bytes.last().is_some_and(|b| word(*b))
            && bytes.iter().all(|b| word(*b) || matches!(b, b'-' | b'_'))
    };
    name.len() <= SYSCTL_MAX && name.split(['.', '/']).all(is_segment)
}

/// Why a kernel parameter of a namespace cannot be set, if the pod is in that of the host.
fn host_sysctl(sysctl: &Sysctl, spec: &PodSpec) -> Option<&'static str> {
    // Where the first separator is a slash, slashes separate and dots do not.
    let name = match sysctl.name.find(['.', '/']) {
        Some(at) if sysctl.name[at..].starts_with('/') => sysctl
            .name
            .chars()
            .map(|c| {
                if c == '/' {
                    '.'
                } else if c == '.' {
                    '/'
                } else {
                    c
                }
            })
            .collect(),
        _ => sysctl.name.clone(),
    };
    let name = name.split('*').next().unwrap_or_default();
    if spec.host_network == Some(true) && name.starts_with("net.") {
        Some("may not be specified when 'hostNetwork' is true")
    } else if spec.host_ipc == Some(true) && (IPC_SYSCTLS.contains(&name) || name.starts_with("fs.mqueue.")) {
        Some("may not be specified when 'hostIPC' is true")
    } else {
        None
    }
}

/// Whether a pod sets a kernel parameter of the host.
pub(super) fn has_host_sysctl(spec: &PodSpec) -> bool {
    let sysctls = spec
        .security_context
        .iter()
        .flat_map(|context| context.sysctls.iter().flatten());
    sysctls
        .into_iter()
        .any(|sysctl| host_sysctl(sysctl, spec).is_some())
}

fn validate_seccomp(profile: Option<&SeccompProfile>, path: &Path, errors: &mut Errors) {
    let Some(profile) = profile else { return };
    let (ty, at) = (path.child("type"), path.child("localhostProfile"));
    match profile.type_.as_str() {
        "" => errors.required(&ty, "type is required when seccompProfile is set"),
        other => errors.one_of(&ty, other, &PROFILE_TYPES),
    }
    match (profile.type_ == "Localhost", &profile.localhost_profile) {
        (true, None) => errors.required(&at, "must be set when seccomp type is Localhost"),
        (true, Some(file)) => validate_descending(file, &at, errors),
        (false, Some(_)) => {
            let shown = go::syntax("core.SeccompProfile", profile);
            errors.invalid(&at, &shown, "can only be set when seccomp type is Localhost");
        }
        (false, None) => {}
    }
}

/// Checks an AppArmor profile.
pub(super) fn validate_app_armor(profile: Option<&AppArmorProfile>, path: &Path, errors: &mut Errors) {
    let Some(profile) = profile else { return };
    let (ty, at) = (path.child("type"), path.child("localhostProfile"));
    let needed = "must be set when AppArmor type is Localhost";
    match (profile.type_.as_str(), &profile.localhost_profile) {
        ("Localhost", None) => errors.required(&at, needed),
        ("Localhost", Some(name)) => {
            if name.trim() != name {
                errors.invalid(&at, name, "must not be padded with whitespace");
            } else if name.is_empty() {
                errors.required(&at, needed);
            }
            if name.len() > PROFILE_PATH_MAX {
                errors.too_long(&at, PROFILE_PATH_MAX);
            }
        }
        ("RuntimeDefault" | "Unconfined", name) => {
            if name.is_some() {
                errors.invalid(&at, text(name), "can only be set when AppArmor type is Localhost");
            }
        }
        ("", _) => errors.required(&ty, "type is required when appArmorProfile is set"),
        (other, _) => errors.one_of(&ty, other, &PROFILE_TYPES),
    }
}
