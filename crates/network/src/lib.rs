//! The network of a cluster on one machine: pods, services and names, from plain data to kernel state.
//!
//! - [`Ranges`] chooses addresses that nothing on the machine uses, [`Ipam`] hands out those of pods.
//! - [`Network`] sets the machine up, connects pods by routed veths, and takes everything down again.
//!   [`Obstacle`]s are what other programs' firewalls put in the way.
//! - [`Proxy`] keeps services reachable: nftables maps, changed in one transaction of just what differs.
//! - [`dns`] answers for the cluster's names and passes on other questions.
//! - [`pod_files`] has the texts of `/etc/resolv.conf` and `/etc/hosts` in pods.
//!
//! It knows no Kubernetes types and no client: who watches the API translates what it sees into calls.
//! Everything goes over netlink; no other program is run, and there is no bridge, so nothing depends on
//! `br_netfilter`, `net.ipv4.ip_forward` or `route_localnet`. All names and numbers in the kernel carry the
//! [`ClusterId`], so that clusters live side by side and `down` finds what a killed process left behind.
//!
//! Only IPv4: pods, services and nodes have no IPv6 addresses.

mod cluster;
pub mod dns;
mod ipam;
mod node;
mod obstacles;
mod pod;
pub mod pod_files;
mod proxy;
mod ranges;
mod removal;
mod table;
mod uplink;
mod uplink_events;

mod host;
mod netlink;
mod nft;
mod rtnl;

#[cfg(test)]
mod namespace_tests;

pub use cluster::{ClusterId, InvalidClusterId};
pub use host::used_prefixes;
pub use ipam::{Ipam, IpamError};
pub use nft::NftError;
pub use node::{DownError, Network, NetworkError, Options};
pub use obstacles::Obstacle;
pub use pod::{AttachError, Attached, AttachedPod};
pub use proxy::{Applied, Endpoint, Protocol, Proxy, ServicePort, ServicePortKey, TakenPort, TrafficPolicy};
pub use ranges::{NoFreeRange, Ranges};
