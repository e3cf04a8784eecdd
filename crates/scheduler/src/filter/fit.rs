//! Filters on what is left of a node: resources, places for pods, ports.

use stead_informer::semantics::Amount;

use super::Rejection;
use crate::cluster::NodeState;
use crate::pod::PodInfo;

/// Whether the ports that a pod needs are free.
pub(crate) fn check_ports(pod: &PodInfo, node: &NodeState) -> Result<(), Rejection> {
    if pod.ports.is_empty() {
        return Ok(());
    }
    let taken = node.pods.values().flat_map(|other| &other.ports);
    let conflicts = taken
        .into_iter()
        .any(|taken| pod.ports.iter().any(|port| port.conflicts(taken)));
    if conflicts { Err(Rejection::Ports) } else { Ok(()) }
}

/// What there is too little of, all of it.
pub(crate) fn check_resources(pod: &PodInfo, node: &NodeState) -> Result<(), Vec<Rejection>> {
    let mut lacking = Vec::new();
    let places = node.allocatable.get("pods");
    let count = Amount::units(i64::try_from(node.pods.len()).unwrap_or(i64::MAX));
    if count + Amount::units(1) > places {
        lacking.push(Rejection::TooManyPods {
            ever: Amount::units(1) > places,
        });
    }
    for (name, wanted) in pod.requested.iter() {
        let all = node.allocatable.get(name);
        if wanted > all - node.requested.get(name) {
            lacking.push(Rejection::Insufficient {
                resource: name.to_owned(),
                ever: wanted > all,
            });
        }
    }
    if lacking.is_empty() { Ok(()) } else { Err(lacking) }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::cluster::Cluster;
    use crate::cluster::tests::node;
    use crate::pod::tests::pod;

    fn cluster(node_extra: Value, pods: &[Value]) -> Cluster {
        let mut cluster = Cluster::default();
        cluster.set_node(node("n", node_extra));
        for (index, extra) in pods.iter().enumerate() {
            cluster.assume(pod(&format!("other-{index}"), extra.clone()), "n");
        }
        cluster
    }

    fn requests(requests: Value) -> Value {
        json!({"spec": {"containers": [{"name": "c", "resources": {"requests": requests}}]}})
    }

    fn insufficient(resource: &str, ever: bool) -> Rejection {
        Rejection::Insufficient {
            resource: resource.to_owned(),
            ever,
        }
    }

    #[test]
    fn what_is_asked_for_must_be_left() {
        let three = [requests(json!({"cpu": "3"}))];
        for (wanted, others, expected) in [
            (json!({"cpu": "1"}), &three[..], Ok(())),
            (
                json!({"cpu": "1001m"}),
                &three,
                Err(vec![insufficient("cpu", false)]),
            ),
            (json!({"cpu": "5"}), &three, Err(vec![insufficient("cpu", true)])),
            (
                json!({"cpu": "5", "memory": "9Gi"}),
                &[],
                Err(vec![insufficient("cpu", true), insufficient("memory", true)]),
            ),
            (
                json!({"x.org/gpu": "1"}),
                &[],
                Err(vec![insufficient("x.org/gpu", true)]),
            ),
            (json!({"x.org/gpu": "0"}), &[], Ok(())),
            (
                json!({"ephemeral-storage": "1Gi"}),
                &[],
                Err(vec![insufficient("ephemeral-storage", true)]),
            ),
        ] {
            let cluster = cluster(json!({}), others);
            let node = cluster.node("n").expect("the node");
            assert_eq!(
                check_resources(&pod("p", requests(wanted.clone())), node),
                expected,
                "{wanted}"
            );
        }
    }

    #[test]
    fn a_node_takes_so_many_pods() {
        for (places, expected) in [
            ("2", Ok(())),
            ("1", Err(vec![Rejection::TooManyPods { ever: false }])),
            ("0", Err(vec![Rejection::TooManyPods { ever: true }])),
        ] {
            let cluster = cluster(json!({"status": {"allocatable": {"pods": places}}}), &[json!({})]);
            let node = cluster.node("n").expect("the node");
            assert_eq!(check_resources(&pod("p", json!({})), node), expected, "{places}");
        }
    }

    #[test]
    fn ports_must_be_free() {
        let web = json!({"spec": {"containers": [{"name": "c", "ports": [{"hostPort": 80}]}]}});
        let cluster = cluster(json!({}), std::slice::from_ref(&web));
        let node = cluster.node("n").expect("the node");
        assert_eq!(check_ports(&pod("p", web), node), Err(Rejection::Ports));
        assert_eq!(check_ports(&pod("p", json!({})), node), Ok(()));
    }
}
