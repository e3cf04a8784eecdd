//! What pods count for, and what they must state to be counted.

use std::collections::{BTreeMap, BTreeSet};

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::{Container, Pod, PodSpec};

use super::{Amounts, amounts};
use crate::kinds::pod::{Total, total};
use crate::kinds::resources::{is_extended, is_huge_pages};
use crate::quantity::Quantity;

/// What quotas of it oblige every container to state.
const TO_BE_STATED: [&str; 6] = [
    "cpu",
    "memory",
    "requests.cpu",
    "requests.memory",
    "limits.cpu",
    "limits.memory",
];

/// What a pod that has not ended counts for, beside that it is an object.
pub(super) fn usage(pod: &Pod) -> Amounts {
    if has_ended(pod, Timestamp::now()) {
        return Amounts::new();
    }
    let none = PodSpec::default();
    let spec = pod.spec.as_ref().unwrap_or(&none);
    let (mut requests, mut limits) = (total(spec, Total::Requests), total(spec, Total::Limits));
    for (name, overhead) in amounts(spec.overhead.as_ref()) {
        if let Some(limit) = limits.get_mut(&name).filter(|limit| !limit.is_zero()) {
            *limit = *limit + overhead;
        }
        let request = requests.entry(name).or_insert(Quantity::ZERO);
        *request = *request + overhead;
    }
    let mut usage = named(&requests, &limits);
    usage.insert("pods".to_owned(), Quantity::units(1));
    usage
}

/// Requests and limits by the names that quotas have for them.
fn named(requests: &Amounts, limits: &Amounts) -> Amounts {
    let mut usage = Amounts::new();
    for (name, amount) in requests {
        let is_bare = matches!(name.as_str(), "cpu" | "memory" | "ephemeral-storage") || is_huge_pages(name);
        if is_bare {
            usage.insert(name.clone(), *amount);
        }
        if is_bare || is_extended(name) {
            usage.insert(format!("requests.{name}"), *amount);
        }
    }
    for (name, amount) in limits {
        if matches!(name.as_str(), "cpu" | "memory" | "ephemeral-storage") {
            usage.insert(format!("limits.{name}"), *amount);
        }
    }
    usage
}

/// Whether a pod runs no more, or should not by now: whoever waits for its node need not wait for its quota.
fn has_ended(pod: &Pod, now: Timestamp) -> bool {
    let phase = pod.status.as_ref().and_then(|status| status.phase.as_deref());
    let metadata = &pod.metadata;
    let is_overdue = match (
        &metadata.deletion_timestamp,
        metadata.deletion_grace_period_seconds,
    ) {
        (Some(end), Some(grace)) => end
            .0
            .checked_add(SignedDuration::from_secs(grace))
            .is_ok_and(|end| end < now),
        _ => false,
    };
    matches!(phase, Some("Failed" | "Succeeded")) || is_overdue
}

/// What a quota of these resources has a pod state that it does not, and for which containers.
pub fn unstated<'n>(spec: &PodSpec, resources: impl Iterator<Item = &'n str>) -> Option<String> {
    let required: BTreeSet<&str> = resources.filter(|name| TO_BE_STATED.contains(name)).collect();
    let mut missing: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    let whole = spec.resources.clone().unwrap_or_default();
    let of_pod = named(&amounts(whole.requests.as_ref()), &amounts(whole.limits.as_ref()));
    for container in spec.init_containers.iter().flatten().chain(&spec.containers) {
        let stated = stated(container);
        for name in required
            .iter()
            .filter(|name| !stated.contains_key(**name) && !of_pod.contains_key(**name))
        {
            missing.entry(name).or_default().push(&container.name);
        }
    }
    if missing.is_empty() {
        return None;
    }
    let told = missing.into_iter().map(|(name, mut containers)| {
        containers.sort_unstable();
        format!("{name} for: {}", containers.join(","))
    });
    Some(format!("must specify {}", told.collect::<Vec<_>>().join("; ")))
}

fn stated(container: &Container) -> Amounts {
    let resources = container.resources.clone().unwrap_or_default();
    named(
        &amounts(resources.requests.as_ref()),
        &amounts(resources.limits.as_ref()),
    )
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_is_bounded_must_be_stated_by_each_container() {
        let spec = json!({"containers": [
            {"name": "b", "resources": {"requests": {"cpu": "1"}}},
            {"name": "a", "resources": {"limits": {"memory": "1Gi"}}},
        ]});
        let spec: PodSpec = serde_json::from_value(spec).expect("a spec");
        let said = |names: &[&str]| unstated(&spec, names.iter().copied());
        assert_eq!(
            said(&["limits.memory", "requests.cpu", "limits.cpu", "pods"]).as_deref(),
            Some("must specify limits.cpu for: a,b; limits.memory for: b; requests.cpu for: a")
        );
        assert_eq!(said(&["pods", "requests.ephemeral-storage"]), None);
    }
}
