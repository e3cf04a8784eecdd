//! Resources of a pod as a whole ("Pod-level resources", on by default since 1.34).

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{Container, PodSpec, ResourceRequirements};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity as Written;

use super::options::Options;
use super::visit;
use crate::error::{Errors, Path};
use crate::kinds::resources::{Of, ResourceList, amount, is_huge_pages, validate_requirements};
use crate::quantity::Quantity;

type Amounts = BTreeMap<String, Quantity>;

/// Whether a resource can be given to a pod as a whole.
pub(super) fn is_for_pods(name: &str) -> bool {
    matches!(name, "cpu" | "memory") || is_huge_pages(name)
}

/// What is summed up of a pod.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Total {
    /// What it asks for.
    Requests,
    /// The most that it may use.
    Limits,
}

/// What a pod asks for, or may use, by resource: what is said of the pod as a whole, or else what its containers need
/// together. Its overhead is not counted.
pub fn total(spec: &PodSpec, what: Total) -> BTreeMap<String, Quantity> {
    let of: fn(&ResourceRequirements) -> Option<&ResourceList> = match what {
        Total::Requests => |resources| resources.requests.as_ref(),
        Total::Limits => |resources| resources.limits.as_ref(),
    };
    let mut total = aggregate(spec, of);
    let whole = spec.resources.as_ref().and_then(of);
    let named = whole.into_iter().flatten().filter(|(name, _)| is_for_pods(name));
    total.extend(named.map(|(name, written)| (name.clone(), amount(written))));
    total
}

/// What the containers need together: those that run at once in sum, or the most that an init
/// container needs beside those that go on running.
fn aggregate(spec: &PodSpec, of: fn(&ResourceRequirements) -> Option<&ResourceList>) -> Amounts {
    let amounts = |container: &Container| -> Amounts {
        let list = container.resources.as_ref().and_then(of);
        list.into_iter()
            .flatten()
            .map(|(name, written)| (name.clone(), amount(written)))
            .collect()
    };
    let mut total = Amounts::new();
    for container in &spec.containers {
        add(&mut total, &amounts(container));
    }
    let (mut sidecars, mut starting) = (Amounts::new(), Amounts::new());
    for container in spec.init_containers.iter().flatten() {
        let own = amounts(container);
        if visit::is_sidecar(container) {
            add(&mut total, &own);
            add(&mut sidecars, &own);
            raise(&mut starting, &sidecars);
        } else {
            let mut together = own;
            add(&mut together, &sidecars);
            raise(&mut starting, &together);
        }
    }
    raise(&mut total, &starting);
    total
}

fn add(to: &mut Amounts, more: &Amounts) {
    for (name, amount) in more {
        let sum = to.get(name).map_or(*amount, |before| *before + *amount);
        to.insert(name.clone(), sum);
    }
}

fn raise(to: &mut Amounts, least: &Amounts) {
    for (name, amount) in least {
        if to.get(name).is_none_or(|before| exceeds(*amount, *before)) {
            to.insert(name.clone(), *amount);
        }
    }
}

fn exceeds(a: Quantity, b: Quantity) -> bool {
    let difference = a - b;
    !difference.is_zero() && !difference.is_negative()
}

/// Completes requests and limits of a pod that has some.
pub(super) fn set_defaults(spec: &mut PodSpec) {
    let Some(resources) = &spec.resources else { return };
    let is_empty = |list: &Option<ResourceList>| list.as_ref().is_none_or(BTreeMap::is_empty);
    if is_empty(&resources.requests) && is_empty(&resources.limits) {
        return;
    }
    let mut requests = resources.requests.clone().unwrap_or_default();
    let mut limits = resources.limits.clone().unwrap_or_default();
    let written = |amount: &Quantity| Written(amount.to_string());
    let of_containers = aggregate(spec, |resources| resources.limits.as_ref());
    for (name, amount) in of_containers.iter().filter(|(name, _)| is_huge_pages(name)) {
        if !requests.contains_key(name) {
            limits.entry(name.clone()).or_insert_with(|| written(amount));
        }
    }
    let requested = aggregate(spec, |resources| resources.requests.as_ref());
    for (name, amount) in requested
        .iter()
        .filter(|(name, _)| matches!(name.as_str(), "cpu" | "memory"))
    {
        requests.entry(name.clone()).or_insert_with(|| written(amount));
    }
    for (name, limit) in limits.iter().filter(|(name, _)| is_for_pods(name)) {
        requests.entry(name.clone()).or_insert_with(|| limit.clone());
    }
    // What every container limits, the pod limits.
    for (name, request) in requests.iter().filter(|(name, _)| is_for_pods(name)) {
        let has_limit = |container: &Container| {
            let limits = container
                .resources
                .as_ref()
                .and_then(|resources| resources.limits.as_ref());
            limits.is_some_and(|limits| limits.contains_key(name))
        };
        if limits.contains_key(name) || visit::any(spec, |container| !has_limit(container)) {
            continue;
        }
        if let Some(limit) = of_containers.get(name) {
            let limit = if exceeds(amount(request), *limit) {
                amount(request)
            } else {
                *limit
            };
            limits.insert(name.clone(), written(&limit));
        }
    }
    let filled = |list: ResourceList| if list.is_empty() { None } else { Some(list) };
    if let Some(resources) = &mut spec.resources {
        resources.requests = filled(requests);
        resources.limits = filled(limits);
    }
}

/// Checks the resources of the pod, and that its containers' fit in.
pub(super) fn validate(spec: &PodSpec, claims: &[&str], options: &Options, path: &Path, errors: &mut Errors) {
    let Some(resources) = &spec.resources else { return };
    let path = path.child("resources");
    if spec.os.as_ref().is_some_and(|os| os.name == "windows") {
        errors.forbidden(&path, "may not be set for a windows pod");
        return;
    }
    if resources.claims.is_some() {
        errors.forbidden(
            &path.child("claims"),
            "claims may not be set for Resources at pod-level",
        );
    }
    validate_requirements(
        resources,
        Of::Pod,
        claims,
        options.indivisible_huge_pages,
        &path,
        errors,
    );
    let covers = |list: &Option<ResourceList>, needed: Amounts, field: &str, errors: &mut Errors| {
        for (name, needed) in needed {
            let Some(given) = list.as_ref().and_then(|list| list.get(&name)) else {
                continue;
            };
            if exceeds(needed, amount(given)) {
                let why = format!("must be greater than or equal to aggregate container {field} of {needed}");
                errors.invalid(&path.child(field).key(&name), &given.0, &why);
            }
        }
    };
    covers(
        &resources.requests,
        aggregate(spec, |own| own.requests.as_ref()),
        "requests",
        errors,
    );
    let mut limits = aggregate(spec, |own| own.limits.as_ref());
    limits.retain(|name, _| is_huge_pages(name));
    covers(&resources.limits, limits, "limits", errors);
    for (at, container) in spec.containers.iter().enumerate() {
        let own = container.resources.as_ref().and_then(|own| own.limits.as_ref());
        for (name, limit) in own.into_iter().flatten() {
            let Some(most) = resources.limits.as_ref().and_then(|list| list.get(name)) else {
                continue;
            };
            if exceeds(amount(limit), amount(most)) {
                let path = path.child("containers").index(at).key(name).child("limits");
                let why = format!("must be less than or equal to pod limits of {}", most.0);
                errors.invalid(&path, &limit.0, &why);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn defaulted(resources: Value, containers: Value) -> Value {
        let mut spec: PodSpec =
            serde_json::from_value(json!({"resources": resources, "containers": containers}))
                .expect("a spec");
        set_defaults(&mut spec);
        serde_json::to_value(spec.resources).expect("a value")
    }

    #[test]
    fn requests_come_from_containers_and_limits() {
        let containers = json!([{"name": "a", "resources": {"requests": {"cpu": "100m"}}}, {"name": "b"}]);
        assert_eq!(
            defaulted(
                json!({"limits": {"cpu": "1", "memory": "1Gi"}}),
                containers.clone()
            ),
            json!({"limits": {"cpu": "1", "memory": "1Gi"}, "requests": {"cpu": "100m", "memory": "1Gi"}})
        );
        assert_eq!(defaulted(json!({}), containers), json!({}));
    }

    #[test]
    fn what_every_container_limits_the_pod_limits() {
        let container =
            |cpu: &str| json!({"name": "a", "resources": {"limits": {"cpu": cpu}, "requests": {"cpu": cpu}}});
        assert_eq!(
            defaulted(
                json!({"requests": {"cpu": "100m"}}),
                json!([container("200m"), container("300m")])
            ),
            json!({"limits": {"cpu": "500m"}, "requests": {"cpu": "100m"}})
        );
    }
}
