//! What becomes of a container when it ends or is resized ("Container-level restart policies").

use k8s_openapi::api::core::v1::{Container, ContainerRestartRule, PodSpec};

use super::options::Options;
use super::spec::required_one_of;
use crate::error::{Errors, Path};

const POLICIES: [&str; 3] = ["Always", "Never", "OnFailure"];
const ACTIONS: [&str; 2] = ["Restart", "RestartAllContainers"];
const OPERATORS: [&str; 2] = ["In", "NotIn"];
const RESIZED: [&str; 2] = ["cpu", "memory"];
const RESIZE_POLICIES: [&str; 2] = ["NotRequired", "RestartContainer"];
const MAX_RULES: usize = 20;
const MAX_EXIT_CODES: usize = 255;

/// Checks a container's own restart policy, with its rules.
pub(super) fn validate(container: &Container, path: &Path, errors: &mut Errors) {
    let rules = container.restart_policy_rules.as_deref().unwrap_or_default();
    let at = path.child("restartPolicy");
    match &container.restart_policy {
        Some(policy) => errors.one_of(&at, policy, &POLICIES),
        None if rules.is_empty() => return,
        None => errors.required(&at, "must specify restartPolicy when restart rules are used"),
    }
    let path = path.child("restartPolicyRules");
    if rules.len() > MAX_RULES {
        errors.too_many(&path, rules.len(), MAX_RULES);
    }
    for (at, rule) in rules.iter().enumerate() {
        let path = path.index(at);
        errors.one_of(&path.child("action"), &rule.action, &ACTIONS);
        let at = path.child("exitCodes");
        let Some(codes) = &rule.exit_codes else {
            errors.required(&at, "must be specified");
            continue;
        };
        errors.one_of(&at.child("operator"), &codes.operator, &OPERATORS);
        let count = codes.values.as_ref().map_or(0, Vec::len);
        if count > MAX_EXIT_CODES {
            errors.too_many(&at.child("values"), count, MAX_EXIT_CODES);
        }
    }
}

/// Checks what is to happen when resources are changed in place.
pub(super) fn validate_resize(container: &Container, pod_policy: &str, path: &Path, errors: &mut Errors) {
    let policies = container.resize_policy.as_deref().unwrap_or_default();
    for (at, policy) in policies.iter().enumerate() {
        if policies[..at]
            .iter()
            .any(|other| other.resource_name == policy.resource_name)
        {
            errors.duplicate(&path.index(at), &policy.resource_name);
        }
        required_one_of(path, &policy.resource_name, &RESIZED, errors);
        required_one_of(path, &policy.restart_policy, &RESIZE_POLICIES, errors);
        if pod_policy == "Never" && policy.restart_policy != "NotRequired" {
            let why = "must be 'NotRequired' when pod `restartPolicy` is 'Never'";
            errors.invalid(path, &policy.restart_policy, why);
        }
    }
}

/// A container that runs once cannot be restarted to be resized.
pub(super) fn validate_resize_of_init(
    container: &Container,
    options: &Options,
    path: &Path,
    errors: &mut Errors,
) {
    if options.restart_on_resize_of_init {
        return;
    }
    for (at, policy) in container.resize_policy.iter().flatten().enumerate() {
        if policy.restart_policy == "RestartContainer" {
            let path = path.child("resizePolicy").index(at).child("restartPolicy");
            let why = "must not be set to 'RestartContainer' for non-sidecar initContainers";
            errors.invalid(&path, &policy.restart_policy, why);
        }
    }
}

/// Whether a container that ended with an exit code is started again.
pub(super) fn restarts(container: &Container, spec: &PodSpec, exit_code: i32) -> bool {
    let by_policy = |policy: &str| match policy {
        "OnFailure" => exit_code != 0,
        "Never" => false,
        _ => true,
    };
    let Some(own) = &container.restart_policy else {
        return by_policy(spec.restart_policy.as_deref().unwrap_or_default());
    };
    let rule = container
        .restart_policy_rules
        .iter()
        .flatten()
        .find(|rule| applies(rule, exit_code));
    if rule.is_some_and(|rule| ACTIONS.contains(&rule.action.as_str())) {
        return true;
    }
    by_policy(own)
}

fn applies(rule: &ContainerRestartRule, exit_code: i32) -> bool {
    rule.exit_codes.as_ref().is_some_and(|codes| {
        let listed = codes.values.iter().flatten().any(|code| *code == exit_code);
        match codes.operator.as_str() {
            "In" => listed,
            "NotIn" => !listed,
            _ => false,
        }
    })
}

/// Whether the end of one container can restart all.
pub(super) fn can_restart_all(spec: &PodSpec) -> bool {
    let containers = spec.init_containers.iter().flatten().chain(&spec.containers);
    let mut rules = containers.flat_map(|container| container.restart_policy_rules.iter().flatten());
    rules.any(|rule| rule.action == "RestartAllContainers")
}
