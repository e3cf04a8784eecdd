//! Amounts of resources: their names, their quantities, and the requirements of containers.
//!
//! Follows "Resource Management for Pods and Containers".

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{ResourceClaim, ResourceRequirements};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity as Written;

use super::text;
use crate::error::{Errors, Path};
use crate::quantity::Quantity;
use crate::{go, names};

/// Resources by name.
pub(crate) type ResourceList = BTreeMap<String, Written>;

const HUGE_PAGES: &str = "hugepages-";
/// Resources that Kubernetes gives out itself, per container.
const CONTAINER_RESOURCES: [&str; 3] = ["cpu", "memory", "ephemeral-storage"];
/// Resources that can be counted in a quota, but not asked for by a container.
const QUOTA_RESOURCES: [&str; 16] = [
    "requests.cpu",
    "requests.memory",
    "requests.ephemeral-storage",
    "limits.cpu",
    "limits.memory",
    "limits.ephemeral-storage",
    "pods",
    "resourcequotas",
    "services",
    "replicationcontrollers",
    "secrets",
    "persistentvolumeclaims",
    "configmaps",
    "services.nodeports",
    "services.loadbalancers",
    "requests.storage",
];
/// Quota counts and the like, which are whole numbers.
const COUNTED: [&str; 9] = [
    "pods",
    "resourcequotas",
    "services",
    "replicationcontrollers",
    "secrets",
    "configmaps",
    "persistentvolumeclaims",
    "services.nodeports",
    "services.loadbalancers",
];

/// The amount that a field holds. Fields are canonical, so that one that is none cannot occur.
pub(crate) fn amount(quantity: &Written) -> Quantity {
    quantity.0.parse().unwrap_or(Quantity::ZERO)
}

/// Rounds amounts up to thousandths, which is the precision that Kubernetes keeps.
pub(crate) fn round_up(list: &mut Option<ResourceList>) {
    for quantity in list.iter_mut().flatten().map(|(_, quantity)| quantity) {
        // Only amounts below a thousandth have these suffixes.
        if quantity.0.ends_with(['n', 'u']) {
            let rounded = Quantity::thousandths(amount(quantity).milli());
            quantity.0 = rounded.to_string();
        }
    }
}

/// Whether a name is of Kubernetes' own namespace.
pub(crate) fn is_native(name: &str) -> bool {
    !name.contains('/') || name.contains("kubernetes.io/")
}

/// Whether a name is of an extended resource such as `example.com/gpu`.
pub(crate) fn is_extended(name: &str) -> bool {
    !is_native(name)
        && !name.starts_with("requests.")
        && names::qualified_name(&format!("requests.{name}")).is_empty()
}

/// Whether a name is of huge pages of some size.
pub(crate) fn is_huge_pages(name: &str) -> bool {
    name.starts_with(HUGE_PAGES)
}

/// Whether more of a resource may be promised than there is.
pub(crate) fn is_overcommitted(name: &str) -> bool {
    is_native(name) && !is_huge_pages(name)
}

fn is_whole(name: &str) -> bool {
    COUNTED.contains(&name) || is_extended(name)
}

fn is_standard(name: &str) -> bool {
    CONTAINER_RESOURCES.contains(&name)
        || QUOTA_RESOURCES.contains(&name)
        || name == "storage"
        || is_huge_pages(name)
        || name.strip_prefix("requests.").is_some_and(is_huge_pages)
}

/// Checks an amount of a resource.
pub(crate) fn validate_amount(name: &str, quantity: &Written, path: &Path, errors: &mut Errors) {
    let value = amount(quantity);
    if value.is_negative() {
        errors.invalid(path, &quantity.0, "must be greater than or equal to 0");
    }
    if is_whole(name) && value.milli() % 1000 != 0 {
        errors.invalid(path, &go::fraction(&quantity.0), "must be an integer");
    }
}

/// Checks that an amount is above zero.
pub(crate) fn validate_positive(quantity: &Written, path: &Path, errors: &mut Errors) {
    let value = amount(quantity);
    if value.is_negative() || value.is_zero() {
        errors.invalid(path, &quantity.0, "must be greater than zero");
    }
}

/// Checks that whole units of an amount are not below zero.
pub(crate) fn validate_basic(quantity: &Written, path: &Path, errors: &mut Errors) {
    let value = amount(quantity).value();
    if value < 0 {
        errors.invalid(path, &value, "must be a valid resource quantity");
    }
}

/// Checks the form of a resource's name.
fn validate_name(name: &str, path: &Path, errors: &mut Errors) -> bool {
    let objections = names::qualified_name(name);
    if !objections.is_empty() {
        errors.invalid_each(path, name, objections);
        return false;
    }
    if !name.contains('/') && !is_standard(name) {
        errors.invalid(path, name, "must be a standard resource type or fully qualified");
        return false;
    }
    true
}

/// Checks the name of a resource that a quota counts.
pub(crate) fn validate_quota_name(name: &str, path: &Path, errors: &mut Errors) {
    validate_name(name, path, errors);
    let is_counted = CONTAINER_RESOURCES.contains(&name)
        || QUOTA_RESOURCES.contains(&name)
        || is_huge_pages(name)
        || name.strip_prefix("requests.").is_some_and(is_huge_pages);
    if !name.contains('/') && !is_counted {
        errors.invalid(path, name, "must be a standard resource for quota");
    }
}

/// Checks the name of what a LimitRange is about: one of the known, or one with a domain.
pub(crate) fn validate_kind_name(name: &str, known: &[&str], path: &Path, errors: &mut Errors) {
    let objections = names::qualified_name(name);
    if !objections.is_empty() {
        errors.invalid_each(path, name, objections);
    } else if !name.contains('/') && !known.contains(&name) {
        errors.invalid(path, name, "must be a standard limit type or fully qualified");
    }
}

/// Checks the name of a resource that a LimitRange limits. `of` is its type.
pub(crate) fn validate_named(name: &str, of: &str, path: &Path, errors: &mut Errors) {
    if of == "Pod" || of == "Container" {
        validate_container_name(name, path, errors);
    } else {
        validate_name(name, path, errors);
    }
}

fn validate_container_name(name: &str, path: &Path, errors: &mut Errors) {
    validate_name(name, path, errors);
    if !name.contains('/') {
        if !CONTAINER_RESOURCES.contains(&name) && !is_huge_pages(name) {
            errors.invalid(path, name, "must be a standard resource for containers");
        }
    } else if !is_native(name) && !is_extended(name) {
        errors.invalid(path, name, "doesn't follow extended resource name standard");
    }
}

/// Resources that a pod may ask for as a whole.
fn validate_pod_name(name: &str, path: &Path, errors: &mut Errors) {
    if validate_name(name, path, errors) && !matches!(name, "cpu" | "memory") && !is_huge_pages(name) {
        errors.not_supported(path, name, &["cpu", "hugepages-", "memory"]);
    }
}

/// Where requirements stand: their resources differ.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Of {
    /// A container's.
    Container,
    /// A pod's as a whole.
    Pod,
}

/// Checks requirements. `claims` are the names of the pod's resource claims.
pub(crate) fn validate_requirements(
    requirements: &ResourceRequirements,
    of: Of,
    claims: &[&str],
    allow_indivisible_huge_pages: bool,
    path: &Path,
    errors: &mut Errors,
) {
    let limits = path.child("limits");
    let requests = path.child("requests");
    let validate_one = |name: &str, quantity: &Written, path: &Path, errors: &mut Errors| {
        match of {
            Of::Container => validate_container_name(name, path, errors),
            Of::Pod => validate_pod_name(name, path, errors),
        }
        validate_amount(name, quantity, path, errors);
    };
    let validate_pages = |name: &str, quantity: &Written, path: &Path, errors: &mut Errors| {
        if is_huge_pages(name) && !allow_indivisible_huge_pages && !is_divisible(name, quantity) {
            let why = format!("{} is not positive integer multiple of {name}", quantity.0);
            errors.invalid(path, &quantity.0, &why);
        }
    };
    for (name, quantity) in requirements.limits.iter().flatten() {
        let path = limits.key(name);
        validate_one(name, quantity, &path, errors);
        validate_pages(name, quantity, &path, errors);
    }
    for (name, quantity) in requirements.requests.iter().flatten() {
        let path = requests.key(name);
        validate_one(name, quantity, &path, errors);
        validate_within_limit(name, quantity, requirements, (&requests, &limits), errors);
        validate_pages(name, quantity, &path, errors);
    }
    let has = |wanted: fn(&str) -> bool| {
        let lists = [&requirements.limits, &requirements.requests];
        lists
            .into_iter()
            .flatten()
            .flatten()
            .any(|(name, _)| wanted(name))
    };
    if has(is_huge_pages) && !has(|name| matches!(name, "cpu" | "memory")) {
        errors.forbidden(path, "HugePages require cpu or memory");
    }
    let own = requirements.claims.as_deref().unwrap_or_default();
    validate_claims(own, claims, &path.child("claims"), errors);
}

fn validate_within_limit(
    name: &str,
    request: &Written,
    requirements: &ResourceRequirements,
    (requests, limits): (&Path, &Path),
    errors: &mut Errors,
) {
    match requirements.limits.as_ref().and_then(|limits| limits.get(name)) {
        Some(limit) => {
            let (asked, most) = (amount(request), amount(limit));
            let difference = asked - most;
            if !difference.is_zero() && !is_overcommitted(name) {
                let why = format!("must be equal to {name} limit of {}", limit.0);
                errors.invalid(requests, &request.0, &why);
            } else if !difference.is_zero() && !difference.is_negative() {
                let why = format!("must be less than or equal to {name} limit of {}", limit.0);
                errors.invalid(requests, &request.0, &why);
            }
        }
        None if !is_overcommitted(name) => {
            errors.required(limits, "Limit must be set for non overcommitable resources");
        }
        None => {}
    }
}

/// Whether an amount of huge pages is a whole number of pages.
pub(crate) fn is_divisible(name: &str, quantity: &Written) -> bool {
    let size = name
        .strip_prefix(HUGE_PAGES)
        .and_then(|size| size.parse::<Quantity>().ok());
    let Some(size) = size.map(Quantity::value).filter(|size| *size > 0) else {
        return false;
    };
    amount(quantity).value() % size == 0
}

fn validate_claims(claims: &[ResourceClaim], known: &[&str], path: &Path, errors: &mut Errors) {
    let mut seen: Vec<String> = Vec::new();
    for (at, claim) in claims.iter().enumerate() {
        let (path, name) = (path.index(at), claim.name.as_str());
        if name.is_empty() {
            errors.required(&path, "");
            continue;
        }
        let request = text(&claim.request);
        if seen.iter().any(|key| key == name) {
            errors.duplicate(&path, name);
        } else {
            let key = if request.is_empty() {
                name.to_owned()
            } else {
                format!("{name}/{request}")
            };
            if !request.is_empty() {
                errors.invalid_each(&path.child("request"), request, names::dns_label(request));
            }
            if seen.contains(&key) {
                errors.duplicate(&path, &key);
            } else if request.is_empty() {
                let parts = seen
                    .iter()
                    .filter(|key| key.split_once('/').is_some_and(|(claim, _)| claim == name));
                parts.for_each(|_| errors.duplicate(&path, name));
            }
            seen.push(key);
        }
        if !known.contains(&name) {
            let mut sorted = known.to_vec();
            sorted.sort_unstable();
            let which = if known.is_empty() {
                " which is empty".to_owned()
            } else {
                format!(": {}", sorted.join(", "))
            };
            let why = format!("must be one of the names in pod.spec.resourceClaims{which}");
            errors.not_found_because(&path, name, &why);
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn check(requirements: serde_json::Value) -> Vec<String> {
        let requirements = serde_json::from_value(requirements).expect("requirements");
        let mut errors = Errors::new();
        let path = Path::new("resources");
        validate_requirements(&requirements, Of::Container, &[], false, &path, &mut errors);
        errors.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn requests_stay_within_limits() {
        let good =
            json!({"limits": {"cpu": "1", "memory": "1Gi"}, "requests": {"cpu": "500m", "memory": "1Gi"}});
        assert_eq!(check(good), Vec::<String>::new());
        assert_eq!(
            check(json!({"limits": {"cpu": "1"}, "requests": {"cpu": "1500m"}})),
            ["resources.requests: Invalid value: \"1500m\": must be less than or equal to cpu limit of 1"]
        );
        assert_eq!(
            check(json!({"requests": {"example.com/gpu": "1"}})),
            ["resources.limits: Required value: Limit must be set for non overcommitable resources"]
        );
        assert_eq!(
            check(json!({"limits": {"example.com/gpu": "2"}, "requests": {"example.com/gpu": "1"}})),
            ["resources.requests: Invalid value: \"1\": must be equal to example.com/gpu limit of 2"]
        );
    }

    #[test]
    fn names_and_amounts_are_checked() {
        for (name, quantity, part) in [
            ("cpus", "1", "must be a standard resource type or fully qualified"),
            ("pods", "1", "must be a standard resource for containers"),
            ("example.com/gpu", "1500m", "must be an integer"),
            ("cpu", "-1", "must be greater than or equal to 0"),
            (
                "hugepages-2Mi",
                "3Mi",
                "3Mi is not positive integer multiple of hugepages-2Mi",
            ),
            ("hugepages-2Mi", "2Mi", "HugePages require cpu or memory"),
        ] {
            let found = check(json!({"limits": {name: quantity}})).join("\n");
            assert!(found.contains(part), "{name}: {found}");
        }
    }

    #[test]
    fn amounts_are_kept_to_the_thousandth() {
        let mut list = Some(ResourceList::from([("cpu".to_owned(), Written("1n".to_owned()))]));
        round_up(&mut list);
        assert_eq!(list.expect("the list")["cpu"].0, "1m");
    }
}
