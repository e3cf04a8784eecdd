//! What a node is told of itself and its cluster, and where it keeps what.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};

use stead_network::pod_files::ResolvConf;

/// A node and its place in the cluster.
#[derive(Debug, Clone)]
pub struct Config {
    /// The node's name.
    pub node_name: String,
    /// The node's address in the cluster.
    pub node_ip: Ipv4Addr,
    /// Where the node's own API listens, on the node's address.
    pub port: u16,
    /// What is to survive a reboot: volumes of pods, logs.
    pub data_dir: PathBuf,
    /// What is not: secrets, memory-backed volumes. In memory, as below `/run`.
    pub run_dir: PathBuf,
    /// The cluster's DNS server.
    pub cluster_dns: Ipv4Addr,
    /// The domain of the cluster's names, usually `cluster.local`.
    pub cluster_domain: String,
    /// The machine's own resolver configuration.
    pub resolv_conf: ResolvConf,
    /// Labels of the node beside the usual ones.
    pub labels: BTreeMap<String, String>,
    /// How many pods the node takes; Kubernetes' default is 110.
    pub max_pods: u32,
    /// The kubelet's version, as the node's status shows it.
    pub version: String,
    /// Registries that speak plain HTTP, beside those on this machine.
    pub insecure_registries: Vec<String>,
}

/// Where a pod's files are.
#[derive(Debug, Clone)]
pub(crate) struct PodDirs {
    data: PathBuf,
    run: PathBuf,
    logs: PathBuf,
}

impl Config {
    /// The directories of a pod.
    pub(crate) fn pod_dirs(&self, uid: &str, namespace: &str, name: &str) -> PodDirs {
        PodDirs {
            data: self.pods_dir().join(uid),
            run: self.run_pods_dir().join(uid),
            logs: self
                .data_dir
                .join("logs")
                .join(format!("{namespace}_{name}_{uid}")),
        }
    }

    /// The directory with a directory for each pod.
    pub(crate) fn pods_dir(&self) -> PathBuf {
        self.data_dir.join("pods")
    }

    /// The same, for what a reboot is to forget.
    pub(crate) fn run_pods_dir(&self) -> PathBuf {
        self.run_dir.join("pods")
    }
}

impl PodDirs {
    /// Everything of the pod that survives a reboot, but its logs.
    pub(crate) fn data(&self) -> &Path {
        &self.data
    }

    /// Everything of the pod that does not.
    pub(crate) fn run(&self) -> &Path {
        &self.run
    }

    /// All of the pod's logs.
    pub(crate) fn logs(&self) -> &Path {
        &self.logs
    }

    /// A volume on disk.
    pub(crate) fn volume(&self, name: &str) -> PathBuf {
        self.data.join("volumes").join(name)
    }

    /// A volume in memory.
    pub(crate) fn memory_volume(&self, name: &str) -> PathBuf {
        self.run.join("volumes").join(name)
    }

    /// A file that the node writes for all containers: `hosts`, `resolv.conf`, `hostname`.
    pub(crate) fn file(&self, name: &str) -> PathBuf {
        self.data.join("etc").join(name)
    }

    /// The file where a container's attempt may leave its last words.
    pub(crate) fn termination_log(&self, container: &str, attempt: u32) -> PathBuf {
        self.data
            .join("containers")
            .join(container)
            .join(format!("{attempt}.termination"))
    }

    /// The log of a container's attempt.
    pub(crate) fn log(&self, container: &str, attempt: u32) -> PathBuf {
        self.logs.join(container).join(format!("{attempt}.log"))
    }
}

#[cfg(test)]
impl Config {
    /// A node for tests of what only passes it on.
    pub(crate) fn for_tests() -> Config {
        Config {
            node_name: "n1".to_owned(),
            node_ip: Ipv4Addr::new(10, 1, 0, 1),
            port: 10250,
            data_dir: PathBuf::from("/data"),
            run_dir: PathBuf::from("/run/stead"),
            cluster_dns: Ipv4Addr::new(10, 96, 0, 10),
            cluster_domain: "cluster.local".to_owned(),
            resolv_conf: ResolvConf::parse(""),
            labels: BTreeMap::new(),
            max_pods: 110,
            version: "v0".to_owned(),
            insecure_registries: Vec::new(),
        }
    }
}
