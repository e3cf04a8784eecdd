//! The decision about one pod: the node it is to be on and what its claims need first, or why it
//! fits nowhere. Pure.

use crate::cluster::{Cluster, NodeState};
use crate::filter::affinity::{NamespaceLabels, Neighbours};
use crate::filter::spread::Spread;
use crate::filter::volumes::{self, Bindings, Claims, Storage, Unready};
use crate::filter::{Rejection, fit, node};
use crate::message::{self, Reasons, Room};
use crate::pod::PodInfo;
use crate::queue::Causes;
use crate::score;

/// All that a decision looks at.
pub(crate) struct View<'v> {
    pub(crate) cluster: &'v Cluster,
    pub(crate) storage: &'v Storage<'v>,
    pub(crate) namespace_labels: NamespaceLabels<'v>,
}

/// Where a pod is to be.
#[derive(Debug)]
pub(crate) struct Placement {
    pub(crate) node: String,
    pub(crate) bindings: Bindings,
}

/// Why a pod fits nowhere.
#[derive(Debug)]
pub(crate) struct Failure {
    pub(crate) message: String,
    /// Changes that may help.
    pub(crate) causes: Causes,
    /// A claim that the cache does not have. It may lag: whether there is such a claim only the API
    /// can say.
    pub(crate) missing_claim: Option<String>,
}

/// Decides about a pod.
pub(crate) fn decide(pod: &PodInfo, view: &View<'_>) -> Result<Placement, Failure> {
    if let Some(why) = unsupported(pod) {
        return Err(everywhere(pod, view.cluster, why, Causes::NONE));
    }
    let claims = volumes::claims(pod, view.storage).map_err(|unready| {
        let failure = everywhere(pod, view.cluster, &unready.to_string(), Causes::STORAGE);
        let missing_claim = match unready {
            Unready::Missing(claim) => Some(claim),
            _ => None,
        };
        Failure {
            missing_claim,
            ..failure
        }
    })?;
    let filters = Filters {
        pod,
        view,
        claims: &claims,
        spread: Spread::of(pod, view.cluster),
        neighbours: Neighbours::of(pod, view.cluster, view.namespace_labels),
    };
    let mut feasible = Vec::new();
    let (mut rejections, mut room) = (Vec::new(), Vec::new());
    for (node, state) in view.cluster.nodes() {
        match filters.check(node, state) {
            Ok(bindings) => {
                feasible.push((node.metadata.name.as_deref().unwrap_or_default(), bindings));
            }
            Err(why) => {
                room.push(room_on(pod, state, &why));
                rejections.push(why);
            }
        }
    }
    let names: Vec<&str> = feasible.iter().map(|(name, _)| *name).collect();
    match score::best(pod, &names, view.cluster, view.namespace_labels) {
        Some(best) => {
            let (node, bindings) = feasible.swap_remove(best);
            Ok(Placement {
                node: node.to_owned(),
                bindings,
            })
        }
        None => {
            let causes = rejections.iter().flatten().map(Rejection::causes);
            let room = may_preempt(pod).then_some(&room[..]);
            Err(Failure {
                message: message::failure(rejections.len(), &Reasons::ByNode(&rejections), room),
                // A new node may always help.
                causes: causes.fold(Causes::NODES, |all, causes| all | causes),
                missing_claim: None,
            })
        }
    }
}

/// What a pod asks for that this scheduler does not know how to give.
fn unsupported(pod: &PodInfo) -> Option<&'static str> {
    let spec = pod.spec()?;
    let has_devices = !spec.resource_claims.as_deref().unwrap_or_default().is_empty();
    has_devices.then_some("pod has resourceClaims, which this scheduler does not allocate")
}

struct Filters<'f> {
    pod: &'f PodInfo,
    view: &'f View<'f>,
    claims: &'f Claims,
    spread: Spread,
    neighbours: Neighbours<'f>,
}

impl Filters<'_> {
    /// In upstream's order, so that the same objection is the first.
    fn check(
        &self,
        node: &k8s_openapi::api::core::v1::Node,
        state: &NodeState,
    ) -> Result<Bindings, Vec<Rejection>> {
        let one = |rejection: Rejection| vec![rejection];
        node::check(self.pod, node).map_err(one)?;
        fit::check_ports(self.pod, state).map_err(one)?;
        fit::check_resources(self.pod, state)?;
        self.claims.check_use(self.pod, self.view.cluster).map_err(one)?;
        let bindings = self
            .claims
            .check(node, self.view.cluster, self.view.storage)
            .map_err(one)?;
        self.spread.check(node).map_err(one)?;
        self.neighbours.check(node).map_err(one)?;
        Ok(bindings)
    }
}

/// A failure that has nothing to do with nodes.
fn everywhere(pod: &PodInfo, cluster: &Cluster, why: &str, causes: Causes) -> Failure {
    let nodes = cluster.nodes().count();
    let room = vec![Room::NotHelpful; nodes];
    let room = may_preempt(pod).then_some(&room[..]);
    Failure {
        message: message::failure(nodes, &Reasons::Everywhere(why), room),
        // Without nodes that is what is said, and it changes with the first one.
        causes: if nodes == 0 {
            causes | Causes::NODES
        } else {
            causes
        },
        missing_claim: None,
    }
}

fn may_preempt(pod: &PodInfo) -> bool {
    pod.spec().and_then(|spec| spec.preemption_policy.as_deref()) != Some("Never")
}

fn room_on(pod: &PodInfo, state: &NodeState, rejections: &[Rejection]) -> Room {
    if rejections.iter().any(Rejection::is_final) {
        Room::NotHelpful
    } else if state.pods.values().any(|other| other.priority < pod.priority) {
        Room::LeftAlone
    } else {
        Room::NoVictims
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::cluster::tests::node;
    use crate::filter::volumes::tests::{Stored, claim, class, user};
    use crate::pod::tests::{merged, pod};

    fn decided(pod: &PodInfo, cluster: &Cluster, stored: &Stored) -> Result<Placement, Failure> {
        stored.with(|storage| {
            let view = View {
                cluster,
                storage,
                namespace_labels: &|_| None,
            };
            decide(pod, &view)
        })
    }

    fn cluster(nodes: &[(&str, Value)]) -> Cluster {
        let mut cluster = Cluster::default();
        for (name, extra) in nodes {
            cluster.set_node(node(name, extra.clone()));
        }
        cluster
    }

    fn cpu(amount: &str) -> Value {
        json!({"spec": {"containers": [{"name": "c", "resources": {"requests": {"cpu": amount}}}]}})
    }

    #[test]
    fn a_pod_is_placed_where_it_fits() {
        let two = cluster(&[
            ("small", json!({"status": {"allocatable": {"cpu": "1"}}})),
            ("large", json!({})),
        ]);
        let placement = decided(&pod("p", cpu("2")), &two, &Stored::default()).expect("it fits");
        assert_eq!(placement.node, "large");
    }

    #[test]
    fn a_pod_that_fits_nowhere_says_why_and_what_may_help() {
        let one = |cluster_extra: Value| cluster(&[("n", cluster_extra)]);
        let helpless = "preemption: 0/1 nodes are available: 1 Preemption is not helpful for scheduling.";
        let no_victims =
            "preemption: 0/1 nodes are available: 1 No preemption victims found for incoming pod.";
        let mut full = one(json!({}));
        full.assume(pod("other", cpu("4")), "n");
        let urgent = merged(cpu("1"), json!({"spec": {"priority": 10}}));
        let meek = merged(cpu("1"), json!({"spec": {"preemptionPolicy": "Never"}}));
        for (pod_extra, cluster, message, causes) in [
            (
                json!({"spec": {"nodeSelector": {"disk": "ssd"}}}),
                &one(json!({})),
                format!("0/1 nodes are available: 1 node(s) didn't match Pod's node affinity/selector. {helpless}"),
                Causes::NODES,
            ),
            (
                cpu("1"),
                &full,
                format!("0/1 nodes are available: 1 Insufficient cpu. {no_victims}"),
                Causes::NODES | Causes::PODS_WENT,
            ),
            (
                cpu("5"),
                &full,
                format!("0/1 nodes are available: 1 Insufficient cpu. {helpless}"),
                Causes::NODES | Causes::PODS_WENT,
            ),
            (
                urgent,
                &full,
                "0/1 nodes are available: 1 Insufficient cpu. preemption: 0/1 nodes are available: 1 Preemption \
                 of pods with lower priority is not supported by this scheduler."
                    .to_owned(),
                Causes::NODES | Causes::PODS_WENT,
            ),
            (
                meek,
                &full,
                "0/1 nodes are available: 1 Insufficient cpu. preemption: not eligible due to \
                 preemptionPolicy=Never."
                    .to_owned(),
                Causes::NODES | Causes::PODS_WENT,
            ),
            (
                json!({}),
                &one(json!({"spec": {"taints": [{"key": "node.kubernetes.io/not-ready", "effect": "NoSchedule"}]}})),
                format!("0/1 nodes are available: 1 node(s) had untolerated taint(s). {helpless}"),
                Causes::NODES,
            ),
            (
                json!({}),
                &cluster(&[]),
                "no nodes available to schedule pods".to_owned(),
                Causes::NODES,
            ),
            (
                json!({"spec": {"resourceClaims": [{"name": "gpu"}]}}),
                &one(json!({})),
                format!(
                    "0/1 nodes are available: pod has resourceClaims, which this scheduler does not allocate. {helpless}"
                ),
                Causes::NONE,
            ),
        ] {
            let failure = decided(&pod("p", pod_extra), cluster, &Stored::default()).expect_err("it does not fit");
            assert_eq!((failure.message, failure.causes), (message, causes));
        }
    }

    #[test]
    fn a_missing_claim_is_told_apart() {
        let failure = decided(
            &user("p", &["nosuch"]),
            &cluster(&[("n", json!({}))]),
            &Stored::default(),
        )
        .expect_err("it does not fit");
        assert_eq!(failure.missing_claim.as_deref(), Some("nosuch"));
        assert_eq!(
            failure.message,
            "0/1 nodes are available: persistentvolumeclaim \"nosuch\" not found. preemption: \
             0/1 nodes are available: 1 Preemption is not helpful for scheduling."
        );
    }

    #[test]
    fn a_placement_says_what_its_claims_need() {
        let stored = Stored {
            claims: vec![claim("c", json!({}))],
            classes: vec![class("p", json!({}))],
            ..Stored::default()
        };
        let placement = decided(&user("p", &["c"]), &cluster(&[("n", json!({}))]), &stored).expect("it fits");
        assert_eq!(placement.bindings.to_make.len(), 1);
        assert_eq!(placement.bindings.claims.len(), 1);
    }
}
