//! The controllers: one folder each, in the same shape (`mod.rs` watches and wires, `plan.rs`
//! decides and is pure, `apply.rs` writes).
//!
//! They know the cluster only through a `kube::Client` and the informers over it, so each also runs
//! against any other Kubernetes API server. None holds state that a restart would lose.

pub mod autoscaler;
pub mod cronjob;
pub mod deployment;
pub mod disruption;
pub mod endpoints;
pub mod garbage;
mod hash;
pub mod inventory;
pub mod job;
pub mod loadbalancers;
pub mod namespaces;
pub mod nodes;
mod owned;
mod pods;
pub mod quota;
mod refused;
pub mod replicaset;
pub mod serviceaccounts;
pub mod statefulset;
pub mod volumes;
mod written;
