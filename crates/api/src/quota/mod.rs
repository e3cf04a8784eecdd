//! What objects count for in the quotas of their namespace. See "Resource Quotas".
//!
//! Pure: the API server refuses by it what would be too much, in the transaction that writes the
//! object; the controller counts anew by it what has become less.

mod pods;
mod scopes;

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{PersistentVolumeClaim, Pod, Service};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity as Written;
use serde::Deserialize as _;
use serde_json::Value;

pub use pods::unstated;
pub use scopes::counts;

use crate::kinds::resources::amount;
use crate::quantity::Quantity;

/// Amounts by the names that quotas have for them.
pub type Amounts = BTreeMap<String, Quantity>;

/// Kinds of the core group that are also counted by their plural name alone.
const COUNTED_BY_NAME: [&str; 4] = [
    "configmaps",
    "resourcequotas",
    "replicationcontrollers",
    "secrets",
];
/// The old way to name a claim's class.
const CLASS_ANNOTATION: &str = "volume.beta.kubernetes.io/storage-class";

/// What an object of a resource (its group and plural name) counts for. Of one that cannot be read as its kind, only
/// that it is there.
pub fn usage(group: &str, plural: &str, object: &Value) -> Amounts {
    let one = Quantity::units(1);
    let mut usage = Amounts::from([(count_name(group, plural), one)]);
    if !group.is_empty() {
        return usage;
    }
    match plural {
        "pods" => {
            if let Ok(pod) = Pod::deserialize(object) {
                usage.extend(pods::usage(&pod));
            }
        }
        "services" => {
            if let Ok(service) = Service::deserialize(object) {
                usage.extend(usage_of_service(&service));
            }
        }
        "persistentvolumeclaims" => {
            if let Ok(claim) = PersistentVolumeClaim::deserialize(object) {
                usage.extend(usage_of_claim(&claim));
            }
        }
        plural if COUNTED_BY_NAME.contains(&plural) => {
            usage.insert(plural.to_owned(), one);
        }
        _ => {}
    }
    usage
}

/// The name under which objects of a resource are counted.
pub fn count_name(group: &str, plural: &str) -> String {
    if group.is_empty() {
        format!("count/{plural}")
    } else {
        format!("count/{plural}.{group}")
    }
}

/// The amounts of a list as a field has it.
pub fn amounts(list: Option<&BTreeMap<String, Written>>) -> Amounts {
    list.into_iter()
        .flatten()
        .map(|(name, quantity)| (name.clone(), amount(quantity)))
        .collect()
}

fn usage_of_service(service: &Service) -> Amounts {
    let spec = service.spec.clone().unwrap_or_default();
    let ports = spec.ports.unwrap_or_default();
    let is_load_balancer = spec.type_.as_deref() == Some("LoadBalancer");
    let with_port = || {
        ports
            .iter()
            .filter(|port| port.node_port.unwrap_or(0) != 0)
            .count()
    };
    let node_ports = match spec.type_.as_deref() {
        Some("NodePort") => ports.len(),
        Some("LoadBalancer") if spec.allocate_load_balancer_node_ports == Some(false) => with_port(),
        Some("LoadBalancer") => ports.len(),
        _ => 0,
    };
    let number = |count: usize| Quantity::units(i64::try_from(count).unwrap_or(i64::MAX));
    Amounts::from([
        ("services".to_owned(), number(1)),
        ("services.nodeports".to_owned(), number(node_ports)),
        (
            "services.loadbalancers".to_owned(),
            number(is_load_balancer.into()),
        ),
    ])
}

fn usage_of_claim(claim: &PersistentVolumeClaim) -> Amounts {
    let one = Quantity::units(1);
    let spec = claim.spec.clone().unwrap_or_default();
    let annotations = claim.metadata.annotations.as_ref();
    let class = annotations
        .and_then(|all| all.get(CLASS_ANNOTATION))
        .or(spec.storage_class_name.as_ref())
        .filter(|class| !class.is_empty());
    let of_class = |what: &str| class.map(|class| format!("{class}.storageclass.storage.k8s.io/{what}"));
    let mut usage = Amounts::from([("persistentvolumeclaims".to_owned(), one)]);
    usage.extend(of_class("persistentvolumeclaims").map(|name| (name, one)));
    let storage = |list: Option<&BTreeMap<String, Written>>| list?.get("storage").map(amount);
    let asked = storage(spec.resources.as_ref().and_then(|all| all.requests.as_ref()));
    let allocated = storage(
        claim
            .status
            .as_ref()
            .and_then(|all| all.allocated_resources.as_ref()),
    );
    if let Some(asked) = asked {
        // What was asked for before counts until it is given back.
        let most = allocated.map_or(asked, |allocated| allocated.max(asked));
        usage.insert("requests.storage".to_owned(), most);
        usage.extend(of_class("requests.storage").map(|name| (name, most)));
    }
    usage
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn check(group: &str, plural: &str, object: &Value, expected: &[(&str, &str)]) {
        let used = usage(group, plural, object);
        let used: Vec<(String, String)> = used
            .iter()
            .filter(|(_, amount)| !amount.is_zero())
            .map(|(name, amount)| (name.clone(), amount.to_string()))
            .collect();
        let used: Vec<(&str, &str)> = used
            .iter()
            .map(|(name, amount)| (name.as_str(), amount.as_str()))
            .collect();
        assert_eq!(used, expected, "{object}");
    }

    #[test]
    fn objects_are_counted() {
        check(
            "",
            "secrets",
            &json!({}),
            &[("count/secrets", "1"), ("secrets", "1")],
        );
        check(
            "apps",
            "deployments",
            &json!({}),
            &[("count/deployments.apps", "1")],
        );
    }

    #[test]
    fn services_are_counted_with_their_ports() {
        let service = json!({"spec": {"type": "LoadBalancer", "ports": [{"port": 1}, {"port": 2}]}});
        check(
            "",
            "services",
            &service,
            &[
                ("count/services", "1"),
                ("services", "1"),
                ("services.loadbalancers", "1"),
                ("services.nodeports", "2"),
            ],
        );
    }

    #[test]
    fn claims_are_counted_by_their_class_too() {
        let claim =
            json!({"spec": {"storageClassName": "fast", "resources": {"requests": {"storage": "10Mi"}}}});
        check(
            "",
            "persistentvolumeclaims",
            &claim,
            &[
                ("count/persistentvolumeclaims", "1"),
                ("fast.storageclass.storage.k8s.io/persistentvolumeclaims", "1"),
                ("fast.storageclass.storage.k8s.io/requests.storage", "10Mi"),
                ("persistentvolumeclaims", "1"),
                ("requests.storage", "10Mi"),
            ],
        );
    }

    #[test]
    fn pods_that_have_ended_are_only_counted_as_objects() {
        let container = json!({"name": "c", "resources": {
            "requests": {"cpu": "100m", "example.com/gpu": "1"}, "limits": {"memory": "1Gi"}}});
        let mut pod = json!({"spec": {"containers": [container], "overhead": {"cpu": "50m"}}});
        check(
            "",
            "pods",
            &pod,
            &[
                ("count/pods", "1"),
                ("cpu", "150m"),
                ("limits.memory", "1Gi"),
                ("pods", "1"),
                ("requests.cpu", "150m"),
                ("requests.example.com/gpu", "1"),
            ],
        );
        pod["status"] = json!({"phase": "Succeeded"});
        check("", "pods", &pod, &[("count/pods", "1")]);
    }
}
