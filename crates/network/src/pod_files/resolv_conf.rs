//! `/etc/resolv.conf`: which name servers and search domains a pod gets, by its DNS policy.
//!
//! See <https://kubernetes.io/docs/concepts/services-networking/dns-pod-service/>. Where systemd-resolved
//! runs, the machine's file to start from is `/run/systemd/resolve/resolv.conf`: the other one names a
//! server on 127.0.0.53, which is not there in a pod's network.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

/// What such a file says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ResolvConf {
    /// Addresses of name servers, as they are spelled.
    pub nameservers: Vec<String>,
    /// Domains that are tried after a name.
    pub searches: Vec<String>,
    /// Options such as `ndots:5`, one of a name.
    pub options: Vec<String>,
}

/// A pod's DNS policy.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum DnsPolicy {
    /// The cluster's server, except for pods in the machine's network, which get [`DnsPolicy::Default`].
    #[default]
    ClusterFirst,
    /// The cluster's server in any case.
    ClusterFirstWithHostNet,
    /// What the machine has.
    Default,
    /// Nothing but the pod's own configuration.
    None,
}

/// What a pod's spec adds (`dnsConfig`).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DnsConfig {
    /// Further name servers.
    pub nameservers: Vec<String>,
    /// Further search domains.
    pub searches: Vec<String>,
    /// Options with their values; they replace those of the same name.
    pub options: Vec<(String, Option<String>)>,
}

/// All that decides about a pod's file.
#[derive(Clone, Debug, Default)]
pub struct PodDns<'a> {
    /// The pod's policy.
    pub policy: DnsPolicy,
    /// Whether it is in the machine's network.
    pub host_network: bool,
    /// Its namespace.
    pub namespace: &'a str,
    /// The cluster's domain, usually `cluster.local`.
    pub cluster_domain: &'a str,
    /// The addresses of the cluster's DNS server. With none, policies that want it get the machine's.
    pub cluster_dns: &'a [Ipv4Addr],
    /// What the pod's spec adds.
    pub config: DnsConfig,
}

/// What did not fit into the file. The kubelet makes an event of it (`DNSConfigForming`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Omitted {
    /// Name servers after the third, which resolvers ignore.
    Nameservers,
    /// Search domains beyond the limits.
    Searches,
}

const MAX_NAMESERVERS: usize = 3;
const MAX_SEARCHES: usize = 32;
/// Of all search domains with the spaces between them.
const MAX_SEARCH_CHARS: usize = 2048;
/// A longer name makes some resolvers abort.
const MAX_DOMAIN_CHARS: usize = 253;

impl ResolvConf {
    /// Reads a file. Lines that are not understood are left out; of several `search` lines the last counts.
    pub fn parse(text: &str) -> Self {
        let mut conf = Self::default();
        for line in text.lines() {
            let mut words = line.split_whitespace();
            match words.next() {
                Some("nameserver") => conf.nameservers.extend(words.next().map(str::to_owned)),
                Some("search") => {
                    let domains = words.filter(|domain| *domain != ".");
                    conf.searches = domains
                        .map(|domain| domain.trim_end_matches('.').to_owned())
                        .collect();
                }
                Some("options") => words.for_each(|option| conf.set_option(option.to_owned())),
                _ => {}
            }
        }
        conf
    }

    /// The name servers to pass questions on to (see [`crate::dns::Upstreams`]).
    pub fn upstreams(&self) -> Vec<SocketAddr> {
        let addresses = self
            .nameservers
            .iter()
            .filter_map(|server| server.parse::<IpAddr>().ok());
        addresses.map(|address| SocketAddr::new(address, 53)).collect()
    }

    /// What a pod gets on a machine that has `machine`, and what was left out of it.
    pub fn for_pod(machine: &Self, pod: &PodDns<'_>) -> (Self, Vec<Omitted>) {
        let wants_cluster = match pod.policy {
            DnsPolicy::ClusterFirst => !pod.host_network,
            DnsPolicy::ClusterFirstWithHostNet => true,
            DnsPolicy::Default | DnsPolicy::None => false,
        };
        let mut conf = match pod.policy {
            DnsPolicy::None => Self::default(),
            _ if wants_cluster && !pod.cluster_dns.is_empty() => machine.with_cluster(pod),
            _ => machine.clone(),
        };
        conf.add(&pod.config);
        let omitted = conf.fit();
        (conf, omitted)
    }

    /// The text of the file.
    pub fn render(&self) -> String {
        let mut text = String::new();
        if !self.searches.is_empty() {
            text += &format!("search {}\n", self.searches.join(" "));
        }
        for server in &self.nameservers {
            text += &format!("nameserver {server}\n");
        }
        if !self.options.is_empty() {
            text += &format!("options {}\n", self.options.join(" "));
        }
        text
    }

    fn with_cluster(&self, pod: &PodDns<'_>) -> Self {
        let (namespace, domain) = (pod.namespace, pod.cluster_domain);
        let mut searches = Vec::new();
        if !domain.is_empty() {
            searches = vec![
                format!("{namespace}.svc.{domain}"),
                format!("svc.{domain}"),
                domain.to_owned(),
            ];
        }
        extend_without_duplicates(&mut searches, &self.searches);
        Self {
            nameservers: pod.cluster_dns.iter().map(Ipv4Addr::to_string).collect(),
            searches,
            options: vec!["ndots:5".to_owned()],
        }
    }

    fn add(&mut self, config: &DnsConfig) {
        extend_without_duplicates(&mut self.nameservers, &config.nameservers);
        extend_without_duplicates(&mut self.searches, &config.searches);
        for (name, value) in &config.options {
            self.set_option(match value.as_deref() {
                None | Some("") => name.clone(),
                Some(value) => format!("{name}:{value}"),
            });
        }
    }

    /// An option replaces the one of the same name.
    fn set_option(&mut self, option: String) {
        let name = |option: &str| option.split(':').next().unwrap_or_default().to_owned();
        match self.options.iter_mut().find(|known| name(known) == name(&option)) {
            Some(known) => *known = option,
            None => self.options.push(option),
        }
    }

    /// Cuts to what resolvers accept.
    fn fit(&mut self) -> Vec<Omitted> {
        let mut omitted = Vec::new();
        if self.nameservers.len() > MAX_NAMESERVERS {
            self.nameservers.truncate(MAX_NAMESERVERS);
            omitted.push(Omitted::Nameservers);
        }
        let before = self.searches.len();
        self.searches.truncate(MAX_SEARCHES);
        self.searches.retain(|domain| domain.len() <= MAX_DOMAIN_CHARS);
        while self.searches.join(" ").len() > MAX_SEARCH_CHARS {
            self.searches.pop();
        }
        if self.searches.len() < before {
            omitted.push(Omitted::Searches);
        }
        omitted
    }
}

fn extend_without_duplicates(list: &mut Vec<String>, more: &[String]) {
    let all = std::mem::take(list).into_iter().chain(more.iter().cloned());
    all.for_each(|entry| {
        if !list.contains(&entry) {
            list.push(entry);
        }
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    const MACHINE: &str = "# made by hand\nnameserver 192.168.1.1\nnameserver fe80::1%eth0\nsearch old.example\n\
                           search lan.example. . cluster.local\noptions edns0 ndots:2\noptions ndots:1 trust-ad\n";

    const DNS: [Ipv4Addr; 1] = [Ipv4Addr::new(10, 96, 0, 10)];

    fn pod(policy: DnsPolicy) -> PodDns<'static> {
        PodDns {
            policy,
            namespace: "shop",
            cluster_domain: "cluster.local",
            cluster_dns: &DNS,
            ..PodDns::default()
        }
    }

    fn check(pod: &PodDns<'_>, expected: &str) {
        let (conf, omitted) = ResolvConf::for_pod(&ResolvConf::parse(MACHINE), pod);
        assert_eq!(conf.render(), expected, "{pod:?}");
        assert_eq!(omitted, []);
    }

    const CLUSTER: &str = "search shop.svc.cluster.local svc.cluster.local cluster.local lan.example\n\
                           nameserver 10.96.0.10\noptions ndots:5\n";
    const SAME_AS_MACHINE: &str = "search lan.example cluster.local\nnameserver 192.168.1.1\n\
                                   nameserver fe80::1%eth0\noptions edns0 ndots:1 trust-ad\n";

    #[test]
    fn the_policy_decides_between_the_clusters_server_and_the_machines() {
        check(&pod(DnsPolicy::ClusterFirst), CLUSTER);
        check(
            &PodDns {
                host_network: true,
                ..pod(DnsPolicy::ClusterFirst)
            },
            SAME_AS_MACHINE,
        );
        check(
            &PodDns {
                host_network: true,
                ..pod(DnsPolicy::ClusterFirstWithHostNet)
            },
            CLUSTER,
        );
        check(&pod(DnsPolicy::Default), SAME_AS_MACHINE);
        check(&pod(DnsPolicy::None), "");
        check(
            &PodDns {
                cluster_dns: &[],
                ..pod(DnsPolicy::ClusterFirst)
            },
            SAME_AS_MACHINE,
        );
    }

    #[test]
    fn the_pods_own_configuration_is_added_and_its_options_win() {
        let config = DnsConfig {
            nameservers: vec!["1.1.1.1".into(), "10.96.0.10".into()],
            searches: vec!["my.example".into(), "lan.example".into()],
            options: vec![("ndots".into(), Some("2".into())), ("edns0".into(), None)],
        };
        check(
            &PodDns {
                config: config.clone(),
                ..pod(DnsPolicy::ClusterFirst)
            },
            "search shop.svc.cluster.local svc.cluster.local cluster.local lan.example my.example\n\
             nameserver 10.96.0.10\nnameserver 1.1.1.1\noptions ndots:2 edns0\n",
        );
        check(
            &PodDns {
                config,
                ..pod(DnsPolicy::None)
            },
            "search my.example lan.example\nnameserver 1.1.1.1\nnameserver 10.96.0.10\noptions ndots:2 edns0\n",
        );
    }

    #[test]
    fn what_resolvers_do_not_accept_is_left_out_and_reported() {
        let fit = |nameservers: usize, searches: Vec<String>| {
            let nameservers = (0..nameservers).map(|n| format!("10.0.0.{n}")).collect();
            let config = DnsConfig {
                nameservers,
                searches,
                options: Vec::new(),
            };
            let pod = PodDns {
                config,
                ..pod(DnsPolicy::None)
            };
            let (conf, omitted) = ResolvConf::for_pod(&ResolvConf::default(), &pod);
            (conf.nameservers.len(), conf.searches.len(), omitted)
        };
        let named =
            |count: usize, length: usize| (0..count).map(|n| format!("{n:0length$}")).collect::<Vec<_>>();
        assert_eq!(fit(3, named(32, 10)), (3, 32, vec![]));
        assert_eq!(
            fit(4, named(33, 10)),
            (3, 32, vec![Omitted::Nameservers, Omitted::Searches])
        );
        assert_eq!(fit(0, named(1, 254)), (0, 0, vec![Omitted::Searches]));
        // 20 of 102 and the spaces between them are 2059.
        assert_eq!(fit(0, named(20, 102)), (0, 19, vec![Omitted::Searches]));
    }

    #[test]
    fn upstreams_are_the_machines_servers_on_port_53() {
        let text = "nameserver 192.168.1.1\nnameserver fe80::1%eth0\nnameserver 2001:db8::1\nnameserver\n";
        let upstreams: Vec<_> = ResolvConf::parse(text)
            .upstreams()
            .iter()
            .map(SocketAddr::to_string)
            .collect();
        assert_eq!(upstreams, ["192.168.1.1:53", "[2001:db8::1]:53"]);
    }
}
