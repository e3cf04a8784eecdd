//! The texts of `/etc/resolv.conf` and `/etc/hosts` in a pod's containers, as the kubelet writes them.
//!
//! Pure: reading the machine's own files and writing those of pods is for others.

mod hosts;
mod resolv_conf;

pub use hosts::{HostAlias, host_network_hosts, pod_hosts};
pub use resolv_conf::{DnsConfig, DnsPolicy, Omitted, PodDns, ResolvConf};
