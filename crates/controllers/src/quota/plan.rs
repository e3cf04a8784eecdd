//! What a quota counts, and what its status is to say: pure.

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::api::core::v1::{ResourceQuota, ResourceQuotaStatus};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity as Written;
use serde_json::Value;
use stead_api::quantity::Quantity;
use stead_api::quota::{Amounts, counts, usage};

/// A resource: its group and plural name.
pub(super) type Resource = (String, String);

/// Whether a quota's status is not of its spec.
pub(super) fn is_to_be_counted(quota: &ResourceQuota) -> bool {
    let hard = quota.spec.as_ref().and_then(|spec| spec.hard.as_ref());
    let status = quota.status.as_ref();
    let none = BTreeMap::new();
    let (hard, in_force) = (
        hard.unwrap_or(&none),
        status.and_then(|status| status.hard.as_ref()),
    );
    let used = status.and_then(|status| status.used.as_ref());
    in_force.unwrap_or(&none) != hard || used.unwrap_or(&none).keys().any(|name| !hard.contains_key(name))
}

/// The resources whose objects a quota counts.
pub(super) fn sources(quota: &ResourceQuota) -> BTreeSet<Resource> {
    let hard = quota.spec.as_ref().and_then(|spec| spec.hard.as_ref());
    hard.into_iter()
        .flatten()
        .filter_map(|(name, _)| source(name))
        .collect()
}

fn source(name: &str) -> Option<Resource> {
    let core = |plural: &str| Some((String::new(), plural.to_owned()));
    if let Some(counted) = name.strip_prefix("count/") {
        let (plural, group) = counted.split_once('.').unwrap_or((counted, ""));
        return Some((group.to_owned(), plural.to_owned()));
    }
    if name.contains(".storageclass.storage.k8s.io/") {
        return core("persistentvolumeclaims");
    }
    match name {
        "persistentvolumeclaims" | "requests.storage" => core("persistentvolumeclaims"),
        "services" | "services.nodeports" | "services.loadbalancers" => core("services"),
        "configmaps" | "resourcequotas" | "replicationcontrollers" | "secrets" => core(name),
        "pods" | "cpu" | "memory" | "ephemeral-storage" => core("pods"),
        _ => {
            let of_pods = ["requests.", "limits.", "hugepages-"];
            of_pods
                .iter()
                .any(|prefix| name.starts_with(prefix))
                .then(|| core("pods"))?
        }
    }
}

/// The status by what there is of each of its resources. What is bounded but served by nobody is not counted.
pub(super) fn status(quota: &ResourceQuota, counted: &[(Resource, Vec<Value>)]) -> ResourceQuotaStatus {
    let spec = quota.spec.clone().unwrap_or_default();
    let hard = spec.hard.clone().unwrap_or_default();
    let is_counted = |name: &&String| {
        source(name).is_some_and(|source| counted.iter().any(|(resource, _)| *resource == source))
    };
    let mut used: Amounts = hard
        .keys()
        .filter(is_counted)
        .map(|name| (name.clone(), Quantity::ZERO))
        .collect();
    for ((group, plural), objects) in counted {
        for object in objects
            .iter()
            .filter(|object| counts(&spec, (group.as_str(), plural.as_str()), object))
        {
            for (name, amount) in usage(group, plural, object) {
                if let Some(sum) = used.get_mut(&name) {
                    *sum = *sum + amount;
                }
            }
        }
    }
    let used: BTreeMap<String, Written> = used
        .into_iter()
        .map(|(name, amount)| (name, Written(amount.to_string())))
        .collect();
    let given = |list: BTreeMap<String, Written>| (!list.is_empty()).then_some(list);
    ResourceQuotaStatus {
        hard: given(hard),
        used: given(used),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn quota(value: Value) -> ResourceQuota {
        serde_json::from_value(value).expect("a quota")
    }

    #[test]
    fn resources_are_found_by_what_bounds_them() {
        for (name, group, plural) in [
            ("count/deployments.apps", "apps", "deployments"),
            ("count/configmaps", "", "configmaps"),
            ("secrets", "", "secrets"),
            ("requests.storage", "", "persistentvolumeclaims"),
            (
                "fast.storageclass.storage.k8s.io/requests.storage",
                "",
                "persistentvolumeclaims",
            ),
            ("services.nodeports", "", "services"),
            ("requests.example.com/gpu", "", "pods"),
            ("hugepages-2Mi", "", "pods"),
        ] {
            assert_eq!(
                source(name),
                Some((group.to_owned(), plural.to_owned())),
                "{name}"
            );
        }
        assert_eq!(source("bogus"), None);
    }

    #[test]
    fn what_there_is_is_summed_up() {
        let quota = quota(
            json!({"spec": {"hard": {"pods": "3", "requests.cpu": "1", "count/odd.example.com": "1"}}}),
        );
        let pod = |cpu: &str, phase: &str| json!({"spec": {"containers": [{"name": "c", "resources": {"requests": {"cpu": cpu}}}]}, "status": {"phase": phase}});
        let pods = (
            (String::new(), "pods".to_owned()),
            vec![pod("100m", "Running"), pod("200m", "Pending"), pod("1", "Failed")],
        );
        assert!(is_to_be_counted(&quota));
        let status = status(&quota, &[pods]);
        assert_eq!(
            serde_json::to_value(&status).expect("a status"),
            json!({
                "hard": {"pods": "3", "requests.cpu": "1", "count/odd.example.com": "1"},
                "used": {"pods": "2", "requests.cpu": "300m"},
            })
        );
        let counted = ResourceQuota {
            status: Some(status),
            ..quota
        };
        assert!(!is_to_be_counted(&counted));
    }
}
