//! The quality of service class, by which pods are evicted first or last
//! ("Pod Quality of Service Classes").

use k8s_openapi::api::core::v1::{PodSpec, ResourceRequirements};

use super::pod_resources::is_for_pods;
use crate::kinds::resources::{ResourceList, amount};
use crate::quantity::Quantity;

/// The class of a pod: `Guaranteed`, `Burstable` or `BestEffort`.
pub fn class(spec: &PodSpec) -> &'static str {
    let is_set = |resources: &&ResourceRequirements| {
        let lists = [&resources.requests, &resources.limits];
        lists
            .into_iter()
            .flatten()
            .flatten()
            .any(|(name, _)| is_for_pods(name))
    };
    if let Some(resources) = spec.resources.as_ref().filter(is_set) {
        return of_requirements(resources);
    }
    let none = ResourceRequirements::default();
    let containers = spec.init_containers.iter().flatten().chain(&spec.containers);
    let classes = containers.map(|container| of_requirements(container.resources.as_ref().unwrap_or(&none)));
    common(classes).unwrap_or("BestEffort")
}

fn of_requirements(resources: &ResourceRequirements) -> &'static str {
    let is_empty = |list: &Option<ResourceList>| list.as_ref().is_none_or(|list| list.is_empty());
    if is_empty(&resources.requests) && is_empty(&resources.limits) {
        return "BestEffort";
    }
    common(
        ["cpu", "memory"]
            .into_iter()
            .map(|name| of_resource(resources, name)),
    )
    .unwrap_or("BestEffort")
}

fn of_resource(resources: &ResourceRequirements, name: &str) -> &'static str {
    let find = |list: &Option<ResourceList>| {
        list.as_ref()
            .and_then(|list| list.get(name))
            .map_or(Quantity::ZERO, amount)
    };
    let (request, limit) = (find(&resources.requests), find(&resources.limits));
    match ((request - limit).is_zero(), request.is_zero()) {
        (false, _) => "Burstable",
        (true, true) => "BestEffort",
        (true, false) => "Guaranteed",
    }
}

/// The class of all, which is `Burstable` where they differ.
fn common(classes: impl Iterator<Item = &'static str>) -> Option<&'static str> {
    classes.reduce(|a, b| if a == b { a } else { "Burstable" })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn the_class_follows_from_requests_and_limits() {
        let both = json!({"cpu": "1", "memory": "1Gi"});
        for (resources, expected) in [
            (json!([{}]), "BestEffort"),
            (json!([{"requests": both, "limits": both}]), "Guaranteed"),
            (json!([{"requests": both, "limits": both}, {}]), "Burstable"),
            (json!([{"requests": {"cpu": "1"}}]), "Burstable"),
            (
                json!([{"requests": {"cpu": "1"}, "limits": {"cpu": "1"}}]),
                "Burstable",
            ),
            (
                json!([{"requests": {"cpu": "1000m", "memory": "1Gi"}, "limits": both}]),
                "Guaranteed",
            ),
            (json!([{"requests": {"ephemeral-storage": "1Gi"}}]), "BestEffort"),
        ] {
            let containers: Vec<_> = resources
                .as_array()
                .into_iter()
                .flatten()
                .map(|resources| json!({"name": "c", "resources": resources}))
                .collect();
            let spec = serde_json::from_value(json!({"containers": containers})).expect("a spec");
            assert_eq!(class(&spec), expected, "{resources}");
        }
    }
}
