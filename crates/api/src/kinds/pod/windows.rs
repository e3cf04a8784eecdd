//! What depends on the pod's operating system, and the options of Windows.

use k8s_openapi::api::core::v1::{PodSpec, WindowsSecurityContextOptions};

use super::visit;
use crate::error::{Errors, Path};
use crate::names;

const SYSTEMS: [&str; 2] = ["linux", "windows"];
const GMSA_SPEC_MAX_KIB: usize = 64;
const DOMAIN_MAX: usize = 256;
const USER_MAX: usize = 104;
const NOT_FOR_LINUX: &str = "windows options cannot be set for a linux pod";
const NOT_FOR_WINDOWS: &str = "cannot be set for a windows pod";

/// Checks that nothing is set that the pod's operating system does not have.
pub(super) fn validate_os(spec: &PodSpec, path: &Path, errors: &mut Errors) {
    let Some(os) = &spec.os else { return };
    match os.name.as_str() {
        "" => errors.required(&path.child("os").child("name"), "cannot be empty"),
        "linux" => forbid_windows_options(spec, path, errors),
        "windows" => forbid_linux_options(spec, path, errors),
        other => errors.not_supported(&path.child("os"), other, &SYSTEMS),
    }
}

fn forbid_windows_options(spec: &PodSpec, path: &Path, errors: &mut Errors) {
    if spec
        .security_context
        .as_ref()
        .is_some_and(|context| context.windows_options.is_some())
    {
        errors.forbidden(
            &path.child("securityContext").child("windowsOptions"),
            NOT_FOR_LINUX,
        );
    }
    visit::each(spec, path, |container, path| {
        if container
            .security_context
            .as_ref()
            .is_some_and(|context| context.windows_options.is_some())
        {
            errors.forbidden(
                &path.child("securityContext").child("windowsOptions"),
                NOT_FOR_LINUX,
            );
        }
    });
}

fn forbid_linux_options(spec: &PodSpec, path: &Path, errors: &mut Errors) {
    let mut forbid = |path: &Path, fields: &[(&str, bool)]| {
        for (field, _) in fields.iter().filter(|(_, is_set)| *is_set) {
            errors.forbidden(&path.child(field), NOT_FOR_WINDOWS);
        }
    };
    if let Some(context) = &spec.security_context {
        let fields = [
            ("appArmorProfile", context.app_armor_profile.is_some()),
            ("seLinuxOptions", context.se_linux_options.is_some()),
        ];
        forbid(&path.child("securityContext"), &fields);
    }
    let fields = [
        ("hostUsers", spec.host_users.is_some()),
        ("hostPID", spec.host_pid == Some(true)),
        ("hostIPC", spec.host_ipc == Some(true)),
    ];
    forbid(path, &fields);
    if let Some(context) = &spec.security_context {
        let fields = [
            ("seccompProfile", context.seccomp_profile.is_some()),
            ("fsGroup", context.fs_group.is_some()),
            ("fsGroupChangePolicy", context.fs_group_change_policy.is_some()),
            (
                "sysctls",
                context
                    .sysctls
                    .as_ref()
                    .is_some_and(|sysctls| !sysctls.is_empty()),
            ),
        ];
        forbid(&path.child("securityContext"), &fields);
    }
    forbid(
        path,
        &[("shareProcessNamespace", spec.share_process_namespace.is_some())],
    );
    if let Some(context) = &spec.security_context {
        let fields = [
            ("runAsUser", context.run_as_user.is_some()),
            ("runAsGroup", context.run_as_group.is_some()),
            ("supplementalGroups", context.supplemental_groups.is_some()),
            (
                "supplementalGroupsPolicy",
                context.supplemental_groups_policy.is_some(),
            ),
            ("seLinuxChangePolicy", context.se_linux_change_policy.is_some()),
        ];
        forbid(&path.child("securityContext"), &fields);
    }
    visit::each(spec, path, |container, path| {
        let Some(context) = &container.security_context else {
            return;
        };
        let fields = [
            ("appArmorProfile", context.app_armor_profile.is_some()),
            ("seLinuxOptions", context.se_linux_options.is_some()),
            ("seccompProfile", context.seccomp_profile.is_some()),
            ("capabilities", context.capabilities.is_some()),
            (
                "readOnlyRootFilesystem",
                context.read_only_root_filesystem.is_some(),
            ),
            ("privileged", context.privileged.is_some()),
            (
                "allowPrivilegeEscalation",
                context.allow_privilege_escalation.is_some(),
            ),
            ("procMount", context.proc_mount.is_some()),
            ("runAsUser", context.run_as_user.is_some()),
            ("runAsGroup", context.run_as_group.is_some()),
        ];
        forbid(&path.child("securityContext"), &fields);
    });
}

/// Containers that are processes of the host are so together, and on the host's network.
pub(super) fn validate_host_process(spec: &PodSpec, path: &Path, errors: &mut Errors) {
    let of_pod = spec
        .security_context
        .as_ref()
        .and_then(|context| context.windows_options.as_ref())
        .and_then(|options| options.host_process);
    let (mut all, mut on_host) = (0, 0);
    visit::each(spec, path, |container, path| {
        let own = container
            .security_context
            .as_ref()
            .and_then(|context| context.windows_options.as_ref())
            .and_then(|options| options.host_process);
        all += 1;
        if let (Some(of_pod), Some(own)) = (of_pod, own)
            && of_pod != own
        {
            let why = format!("pod hostProcess value must be identical if both are specified, was {of_pod}");
            let path = path
                .child("securityContext")
                .child("windowsOptions")
                .child("hostProcess");
            errors.invalid(&path, &own, &why);
        }
        on_host += i32::from(own.or(of_pod) == Some(true));
    });
    if on_host == 0 {
        return;
    }
    if on_host != all {
        let why =
            "If pod contains any hostProcess containers then all containers must be HostProcess containers";
        errors.invalid(path, "", why);
    }
    if spec.host_network != Some(true) {
        let why = "hostNetwork must be true if pod contains any hostProcess containers";
        errors.invalid(&path.child("hostNetwork"), &false, why);
    }
}

/// Checks options of Windows.
pub(super) fn validate_options(
    options: Option<&WindowsSecurityContextOptions>,
    path: &Path,
    errors: &mut Errors,
) {
    let Some(options) = options else { return };
    if let Some(name) = &options.gmsa_credential_spec_name {
        errors.invalid_each(
            &path.child("gmsaCredentialSpecName"),
            name,
            names::dns_subdomain(name),
        );
    }
    if let Some(spec) = &options.gmsa_credential_spec {
        let path = path.child("gmsaCredentialSpec");
        if spec.is_empty() {
            errors.invalid(&path, spec, "gmsaCredentialSpec cannot be an empty string");
        } else if spec.len() > GMSA_SPEC_MAX_KIB * 1024 {
            let why = format!("gmsaCredentialSpec size must be under {GMSA_SPEC_MAX_KIB} KiB");
            errors.invalid(&path, spec, &why);
        }
    }
    if let Some(name) = &options.run_as_user_name {
        for why in user_name_objections(name) {
            errors.invalid(&path.child("runAsUserName"), name, &format!("runAsUserName{why}"));
        }
    }
}

/// What is wrong with `[DOMAIN\]USER`.
fn user_name_objections(name: &str) -> Vec<String> {
    if name.is_empty() {
        return vec![" cannot be an empty string".to_owned()];
    }
    if name.chars().any(|c| c.is_ascii_control()) {
        return vec![" cannot contain control characters".to_owned()];
    }
    let (domain, user) = match name.split('\\').collect::<Vec<_>>()[..] {
        [user] => (None, user),
        [domain, user] => (Some(domain), user),
        _ => return vec![" cannot contain more than one backslash".to_owned()],
    };
    let mut objections = Vec::new();
    if let Some(domain) = domain {
        if domain.len() >= DOMAIN_MAX {
            objections.push(format!("'s Domain length must be under {DOMAIN_MAX} characters"));
        }
        if !is_net_bios(domain) && !is_dns(domain) {
            objections.push("'s Domain doesn't match the NetBios nor the DNS format".to_owned());
        }
    }
    if user.is_empty() {
        objections.push("'s User cannot be empty".to_owned());
    } else if user.len() > USER_MAX {
        objections.push(format!(
            "'s User length must not be longer than {USER_MAX} characters"
        ));
    }
    if !user.is_empty() && user.chars().all(|c| c == '.' || c == ' ') {
        objections.push("'s User cannot contain only periods or spaces".to_owned());
    }
    if user.contains(|c: char| r#""/\:;|=,+*?<>@[]"#.contains(c)) {
        let why = r#"'s User cannot contain the following characters: "/\:;|=,+*?<>@[]"#;
        objections.push(why.to_owned());
    }
    objections
}

fn is_net_bios(domain: &str) -> bool {
    (1..=15).contains(&domain.chars().count())
        && !domain.starts_with('.')
        && !domain.contains(|c: char| "\\/:*?\"<>|".contains(c))
}

fn is_dns(domain: &str) -> bool {
    let is_label = |label: &str| {
        let edge = |byte: Option<&u8>| byte.is_some_and(u8::is_ascii_alphanumeric);
        let bytes = label.as_bytes();
        edge(bytes.first())
            && edge(bytes.last())
            && bytes.iter().all(|b| b.is_ascii_alphanumeric() || *b == b'-')
    };
    domain.split('.').all(is_label)
}
