//! What keeps a pod from a node. Each filter is pure and says why, in Kubernetes' words; the first
//! that objects to a node speaks for it.

pub(crate) mod affinity;
pub(crate) mod fit;
pub(crate) mod node;
pub(crate) mod spread;
pub(crate) mod volumes;

use std::fmt;

use crate::queue::Causes;

/// Why a node does not do.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Rejection {
    /// It takes no new pods.
    Unschedulable,
    /// It has a taint that the pod does not tolerate.
    Taint,
    /// The pod asks for other nodes.
    NodeAffinity,
    /// Another pod has a port of the node that this one needs.
    Ports,
    /// It takes no more pods.
    TooManyPods {
        /// It takes none at all.
        ever: bool,
    },
    /// Too little of a resource is left.
    Insufficient {
        /// Which.
        resource: String,
        /// There would be too little on the empty node, too.
        ever: bool,
    },
    /// Another pod has the claim for itself.
    ClaimInUse,
    /// A volume of the pod is elsewhere.
    VolumeNode,
    /// No volume there is for a claim, and none can be made.
    NoVolume,
    /// A claim is bound to a volume that is not there.
    VolumeGone,
    /// A volume of the pod is in another zone.
    VolumeZone,
    /// Pods have to be evenly spread.
    Spread,
    /// The node lacks the label that pods are spread by.
    SpreadLabel,
    /// Pods that must be near are not.
    NotNear,
    /// Pods that must not be near are.
    NotApart,
    /// Pods there want this one not to be near.
    Shunned,
}

impl fmt::Display for Rejection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = match self {
            Rejection::Insufficient { resource, .. } => return write!(f, "Insufficient {resource}"),
            Rejection::Unschedulable => "node(s) were unschedulable",
            Rejection::Taint => "node(s) had untolerated taint(s)",
            Rejection::NodeAffinity => "node(s) didn't match Pod's node affinity/selector",
            Rejection::Ports => "node(s) didn't have free ports for the requested pod ports",
            Rejection::TooManyPods { .. } => "Too many pods",
            Rejection::ClaimInUse => {
                "node has pod using PersistentVolumeClaim with the same name and ReadWriteOncePod access mode"
            }
            Rejection::VolumeNode => "node(s) didn't match PersistentVolume's node affinity",
            Rejection::NoVolume => "node(s) didn't find available persistent volumes to bind",
            Rejection::VolumeGone => {
                "node(s) unavailable due to one or more pvc(s) bound to non-existent pv(s)"
            }
            Rejection::VolumeZone => "node(s) had no available volume zone",
            Rejection::Spread => "node(s) didn't match pod topology spread constraints",
            Rejection::SpreadLabel => {
                "node(s) didn't match pod topology spread constraints (missing required label)"
            }
            Rejection::NotNear => "node(s) didn't match pod affinity rules",
            Rejection::NotApart => "node(s) didn't match pod anti-affinity rules",
            Rejection::Shunned => "node(s) didn't satisfy existing pods anti-affinity rules",
        };
        f.write_str(text)
    }
}

impl Rejection {
    /// Whether it would hold, too, if other pods went.
    pub(crate) fn is_final(&self) -> bool {
        match self {
            Rejection::Ports
            | Rejection::ClaimInUse
            | Rejection::Spread
            | Rejection::NotApart
            | Rejection::Shunned => false,
            Rejection::Insufficient { ever, .. } | Rejection::TooManyPods { ever } => *ever,
            Rejection::Unschedulable
            | Rejection::Taint
            | Rejection::NodeAffinity
            | Rejection::VolumeNode
            | Rejection::NoVolume
            | Rejection::VolumeGone
            | Rejection::VolumeZone
            | Rejection::SpreadLabel
            | Rejection::NotNear => true,
        }
    }

    /// Which changes may end it.
    pub(crate) fn causes(&self) -> Causes {
        match self {
            Rejection::Unschedulable | Rejection::Taint | Rejection::NodeAffinity => Causes::NODES,
            Rejection::Ports | Rejection::TooManyPods { .. } | Rejection::Insufficient { .. } => {
                Causes::NODES | Causes::PODS_WENT
            }
            Rejection::ClaimInUse => Causes::PODS_WENT | Causes::STORAGE,
            Rejection::VolumeNode | Rejection::NoVolume | Rejection::VolumeGone | Rejection::VolumeZone => {
                Causes::NODES | Causes::STORAGE
            }
            Rejection::SpreadLabel => Causes::NODES,
            Rejection::NotApart | Rejection::Shunned => Causes::NODES | Causes::PODS_WENT,
            // A pod that comes elsewhere may even out the spread, or be the one that must be near.
            Rejection::Spread | Rejection::NotNear => Causes::NODES | Causes::PODS_WENT | Causes::PODS_CAME,
        }
    }
}
