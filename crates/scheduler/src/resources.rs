//! Amounts of several resources: what pods ask for and nodes have ("Resource Management for Pods and
//! Containers").

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{Container, PodSpec};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use stead_informer::semantics::Amount;

/// What a container is taken to use that asks for nothing, when nodes are compared; upstream's
/// defaults.
const SCORED_CPU: &str = "100m";
const SCORED_MEMORY: &str = "200Mi";

/// Amounts by the resource's name. What is not there is nothing.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Resources(BTreeMap<String, Amount>);

impl Resources {
    /// What a list of quantities says.
    pub(crate) fn of(quantities: Option<&BTreeMap<String, Quantity>>) -> Resources {
        let amounts = quantities.into_iter().flatten();
        Resources(
            amounts
                .map(|(name, quantity)| (name.clone(), Amount::of(quantity)))
                .collect(),
        )
    }

    /// The amount of a resource.
    pub(crate) fn get(&self, name: &str) -> Amount {
        self.0.get(name).copied().unwrap_or(Amount::ZERO)
    }

    /// Each resource of which there is something.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (&str, Amount)> {
        let some = self.0.iter().filter(|(_, amount)| **amount > Amount::ZERO);
        some.map(|(name, amount)| (name.as_str(), *amount))
    }

    pub(crate) fn add(&mut self, other: &Resources) {
        for (name, amount) in &other.0 {
            *self.0.entry(name.clone()).or_default() += *amount;
        }
    }

    pub(crate) fn subtract(&mut self, other: &Resources) {
        for (name, amount) in &other.0 {
            let left = self.get(name) - *amount;
            self.0.insert(name.clone(), left);
        }
    }

    /// The larger amount of each resource.
    fn raise_to(&mut self, other: &Resources) {
        for (name, amount) in &other.0 {
            let own = self.0.entry(name.clone()).or_default();
            *own = (*own).max(*amount);
        }
    }

    fn replace(&mut self, other: &Resources) {
        for (name, amount) in &other.0 {
            self.0.insert(name.clone(), *amount);
        }
    }
}

/// What a pod asks of its node: all containers and sidecars, or more while it initializes, and its
/// overhead. What the pod asks for as a whole stands instead.
pub(crate) fn requested(spec: &PodSpec) -> Resources {
    pod_total(spec, |container| {
        let resources = container.resources.as_ref();
        Resources::of(resources.and_then(|resources| resources.requests.as_ref()))
    })
}

/// As [`requested`], where containers that ask for no CPU or memory are taken to use some.
pub(crate) fn scored(spec: &PodSpec) -> Resources {
    pod_total(spec, |container| {
        let requests = container
            .resources
            .as_ref()
            .and_then(|resources| resources.requests.as_ref());
        let mut wanted = Resources::of(requests);
        for (name, default) in [("cpu", SCORED_CPU), ("memory", SCORED_MEMORY)] {
            let default = || Amount::of(&Quantity(default.to_owned()));
            wanted.0.entry(name.to_owned()).or_insert_with(default);
        }
        wanted
    })
}

fn pod_total(spec: &PodSpec, of: impl Fn(&Container) -> Resources) -> Resources {
    let mut total = Resources::default();
    for container in &spec.containers {
        total.add(&of(container));
    }
    let (mut sidecars, mut initializing) = (Resources::default(), Resources::default());
    for container in spec.init_containers.iter().flatten() {
        let wanted = of(container);
        if container.restart_policy.as_deref() == Some("Always") {
            sidecars.add(&wanted);
            initializing.raise_to(&sidecars);
        } else {
            let mut step = sidecars.clone();
            step.add(&wanted);
            initializing.raise_to(&step);
        }
    }
    total.add(&sidecars);
    total.raise_to(&initializing);
    let whole = spec
        .resources
        .as_ref()
        .and_then(|resources| resources.requests.as_ref());
    total.replace(&Resources::of(whole));
    total.add(&Resources::of(spec.overhead.as_ref()));
    total
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn check(spec: Value, expected: &[(&str, &str)]) {
        let shown = spec.to_string();
        let spec: PodSpec = serde_json::from_value(spec).expect("a spec");
        let requested = requested(&spec);
        for (name, amount) in expected {
            let amount = Amount::of(&Quantity((*amount).to_owned()));
            assert_eq!(requested.get(name), amount, "{name} of {shown}");
        }
    }

    fn container(cpu: &str) -> Value {
        json!({"name": "c", "resources": {"requests": {"cpu": cpu}}})
    }

    #[test]
    fn a_pod_asks_for_the_most_that_it_needs_at_a_time() {
        let sidecar = |cpu: &str| json!({"name": "s", "restartPolicy": "Always", "resources": {"requests": {"cpu": cpu}}});
        for (spec, cpu) in [
            (
                json!({"containers": [container("1"), container("500m")]}),
                "1500m",
            ),
            (
                json!({"containers": [container("1")], "initContainers": [container("3"), container("2")]}),
                "3",
            ),
            (
                json!({"containers": [container("1")], "initContainers": [sidecar("1"), container("2")]}),
                "3",
            ),
            (
                json!({"containers": [container("1")], "initContainers": [container("2"), sidecar("1")]}),
                "2",
            ),
            (
                json!({"containers": [container("1")], "overhead": {"cpu": "250m"}}),
                "1250m",
            ),
            (
                json!({"containers": [container("1")], "resources": {"requests": {"cpu": "4"}}}),
                "4",
            ),
            (json!({"containers": [{"name": "c"}]}), "0"),
        ] {
            check(spec, &[("cpu", cpu)]);
        }
        check(
            json!({"containers": [{"name": "c", "resources": {"requests": {"x.org/gpu": "2", "memory": "1Gi"}}}]}),
            &[("x.org/gpu", "2"), ("memory", "1024Mi"), ("cpu", "0")],
        );
    }

    #[test]
    fn what_is_added_can_be_taken_away() {
        let one = Resources::of(Some(&[("cpu".to_owned(), Quantity("1".to_owned()))].into()));
        let mut sum = Resources::default();
        sum.add(&one);
        sum.add(&one);
        sum.subtract(&one);
        assert_eq!(sum.get("cpu"), Amount::units(1));
        sum.subtract(&one);
        assert_eq!(sum.iter().count(), 0);
    }
}
