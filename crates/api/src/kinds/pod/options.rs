//! What is let through in a pod because it has been let through before.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{PodAffinityTerm, PodSpec};

use super::{annotations, mounts, scheduling, security, spread, visit};
use crate::error::{Errors, Path};
use crate::kinds::node_selector;
use crate::kinds::resources::{is_divisible, is_huge_pages};
use crate::selector::validate_label_selector;

/// Rules that are relaxed; by default none is, as for a new pod.
#[derive(Debug, Clone, Default)]
pub(crate) struct Options {
    /// The spec is that of a pod, not of a template.
    pub(crate) is_pod: bool,
    pub(super) invalid_deletion_cost: bool,
    pub(super) invalid_values_in_affinity: bool,
    pub(super) invalid_values_in_node_affinity: bool,
    pub(super) invalid_spread_selector: bool,
    pub(super) key_in_spread_selector: bool,
    pub(super) indivisible_huge_pages: bool,
    pub(super) token_path_anywhere: bool,
    pub(super) host_sysctls: bool,
    pub(super) restart_on_resize_of_init: bool,
    pub(super) devices_in_user_namespace: bool,
    pub(super) empty_image_reference: bool,
    pub(super) sys_admin_without_escalation: bool,
}

impl Options {
    /// The rules for an update of what is there, or for something new.
    pub(crate) fn after(old: Option<&PodSpec>, annotations: Option<&BTreeMap<String, String>>) -> Options {
        let Some(spec) = old else {
            return Options::default();
        };
        Options {
            is_pod: false,
            invalid_deletion_cost: !annotations::is_deletion_cost(annotations),
            invalid_values_in_affinity: affinity_terms(spec).any(|term| {
                has_errors(|path, errors| scheduling::validate_selectors(term, false, path, errors))
            }),
            invalid_values_in_node_affinity: spec
                .affinity
                .as_ref()
                .and_then(|affinity| affinity.node_affinity.as_ref())
                .and_then(|affinity| {
                    affinity
                        .required_during_scheduling_ignored_during_execution
                        .as_ref()
                })
                .is_some_and(|selector| node_selector::has_invalid_values(&selector.node_selector_terms)),
            invalid_spread_selector: constraints(spec).any(|constraint| {
                let selector = constraint.label_selector.as_ref();
                selector.is_some_and(|selector| {
                    has_errors(|path, errors| validate_label_selector(selector, path, errors))
                })
            }),
            key_in_spread_selector: constraints(spec).any(|constraint| {
                has_errors(|path, errors| spread::validate_match_keys(constraint, path, errors))
            }),
            indivisible_huge_pages: has_indivisible_huge_pages(spec),
            token_path_anywhere: token_paths(spec)
                .any(|token| has_errors(|path, errors| mounts::validate_local_path(token, path, errors))),
            host_sysctls: security::has_host_sysctl(spec),
            restart_on_resize_of_init: spec.init_containers.iter().flatten().any(|container| {
                let mut policies = container.resize_policy.iter().flatten();
                !visit::is_sidecar(container)
                    && policies.any(|policy| policy.restart_policy == "RestartContainer")
            }),
            devices_in_user_namespace: spec.host_users == Some(false)
                && visit::any(spec, |container| {
                    container
                        .volume_devices
                        .as_ref()
                        .is_some_and(|list| !list.is_empty())
                }),
            empty_image_reference: spec.volumes.iter().flatten().any(|volume| {
                volume
                    .image
                    .as_ref()
                    .is_some_and(|image| crate::kinds::text(&image.reference).is_empty())
            }),
            sys_admin_without_escalation: visit::any(spec, |container| {
                container
                    .security_context
                    .as_ref()
                    .is_some_and(security::is_sys_admin_without_escalation)
            }),
        }
    }
}

fn has_errors(check: impl FnOnce(&Path, &mut Errors)) -> bool {
    let mut errors = Errors::new();
    check(&Path::root(), &mut errors);
    !errors.is_empty()
}

fn constraints(
    spec: &PodSpec,
) -> impl Iterator<Item = &k8s_openapi::api::core::v1::TopologySpreadConstraint> {
    spec.topology_spread_constraints.iter().flatten()
}

fn affinity_terms(spec: &PodSpec) -> impl Iterator<Item = &PodAffinityTerm> {
    let affinity = spec.affinity.as_ref();
    let near = affinity.and_then(|affinity| affinity.pod_affinity.as_ref());
    let far = affinity.and_then(|affinity| affinity.pod_anti_affinity.as_ref());
    let required = [
        near.and_then(|terms| {
            terms
                .required_during_scheduling_ignored_during_execution
                .as_deref()
        }),
        far.and_then(|terms| {
            terms
                .required_during_scheduling_ignored_during_execution
                .as_deref()
        }),
    ];
    let preferred = [
        near.and_then(|terms| {
            terms
                .preferred_during_scheduling_ignored_during_execution
                .as_deref()
        }),
        far.and_then(|terms| {
            terms
                .preferred_during_scheduling_ignored_during_execution
                .as_deref()
        }),
    ];
    let preferred = preferred
        .into_iter()
        .flatten()
        .flatten()
        .map(|term| &term.pod_affinity_term);
    required.into_iter().flatten().flatten().chain(preferred)
}

fn token_paths(spec: &PodSpec) -> impl Iterator<Item = &str> {
    let projected = spec
        .volumes
        .iter()
        .flatten()
        .filter_map(|volume| volume.projected.as_ref());
    let sources = projected.flat_map(|projected| projected.sources.iter().flatten());
    sources
        .filter_map(|source| source.service_account_token.as_ref())
        .map(|token| token.path.as_str())
}

fn has_indivisible_huge_pages(spec: &PodSpec) -> bool {
    let mut found = false;
    let mut look = |list: Option<&crate::kinds::resources::ResourceList>| {
        let mut amounts = list.into_iter().flatten();
        found |= amounts.any(|(name, amount)| is_huge_pages(name) && !is_divisible(name, amount));
    };
    look(spec.overhead.as_ref());
    visit::each(spec, &Path::root(), |container, _| {
        if let Some(resources) = &container.resources {
            look(resources.limits.as_ref());
            look(resources.requests.as_ref());
        }
    });
    found
}
