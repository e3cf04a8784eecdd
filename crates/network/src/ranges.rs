//! Which parts of 10/8 a cluster takes, given what the machine already uses.
//!
//! Every address of a cluster is its own: services, pods, load balancers and the node itself get ranges
//! that no address and no route of the machine overlaps, so that nothing else becomes unreachable and a
//! second cluster fits beside the first. Choosing is pure; [`crate::used_prefixes`] reads what is in use.
//! The caller keeps the outcome: the ranges of a cluster never change, as addresses are handed out of them.

use ipnet::Ipv4Net;
use serde::{Deserialize, Serialize};
use std::net::Ipv4Addr;
use std::ops::RangeInclusive;

/// The address ranges of one cluster.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ranges {
    /// Cluster IPs of services.
    pub services: Ipv4Net,
    /// Addresses of all the cluster's pods.
    pub pods: Ipv4Net,
    /// The part of `pods` that this node hands out.
    pub node_pods: Ipv4Net,
    /// Addresses for services of type `LoadBalancer`.
    pub load_balancers: Ipv4Net,
    /// The node's own address, outside the other ranges.
    pub node: Ipv4Addr,
}

/// No free range is left.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("choose address ranges: no /16 of 10.0.0.0/8 is free for {0}")]
pub struct NoFreeRange(&'static str);

/// Where the search for each range begins. The first two are what Kubernetes installers use.
const SERVICES: u8 = 96;
const PODS: u8 = 244;
const NODES: u8 = 160;

impl Ranges {
    /// Chooses ranges that overlap nothing in `used`: the usual ones if they are free, otherwise the next
    /// free /16 above them (and on from 10.0.0.0/16).
    ///
    /// A route wider than /16 (a company network's 10.0.0.0/8 through a VPN, say) is avoided as long as
    /// something outside it is free. When nothing is, it loses a /16 to the cluster, because a network that
    /// wide seldom uses all of it, while its narrower routes are still respected.
    ///
    /// # Errors
    /// When all of 10/8 is taken by prefixes of /16 or longer.
    pub fn choose(used: &[Ipv4Net]) -> Result<Self, NoFreeRange> {
        Self::choose_outside(used.to_vec()).or_else(|_| {
            Self::choose_outside(
                used.iter()
                    .copied()
                    .filter(|prefix| prefix.prefix_len() >= 16)
                    .collect(),
            )
        })
    }

    /// The address of the cluster's DNS server: the tenth of the service range, as everywhere.
    pub fn dns(&self) -> Ipv4Addr {
        nth(self.services, 10)
    }

    /// The address of the `kubernetes` service: the first of the service range.
    pub fn api(&self) -> Ipv4Addr {
        nth(self.services, 1)
    }

    /// The addresses for services of type `LoadBalancer`: all of the range but its first and last, which many
    /// programs take for a network's own.
    pub fn load_balancer_addresses(&self) -> RangeInclusive<Ipv4Addr> {
        let bits = |address: Ipv4Addr| address.to_bits();
        let net = self.load_balancers;
        Ipv4Addr::from_bits(bits(net.network()) + 1)..=Ipv4Addr::from_bits(bits(net.broadcast()) - 1)
    }

    fn choose_outside(mut used: Vec<Ipv4Net>) -> Result<Self, NoFreeRange> {
        let mut take = |start: u8, what| {
            let free = (0..=255)
                .map(|offset| slash_16(start.wrapping_add(offset)))
                .find(|candidate| !used.iter().any(|prefix| overlap(prefix, candidate)))
                .ok_or(NoFreeRange(what))?;
            used.push(free);
            Ok(free)
        };
        let services = take(SERVICES, "services")?;
        let pods = take(PODS, "pods")?;
        let nodes = take(NODES, "load balancers and the node")?;
        Ok(Self {
            services,
            pods,
            node_pods: part(pods, 0, 24),
            load_balancers: part(nodes, 0, 20),
            node: nth(part(nodes, 16, 24), 1),
        })
    }
}

/// Whether the two prefixes share an address.
pub(crate) fn overlap(a: &Ipv4Net, b: &Ipv4Net) -> bool {
    a.contains(b) || b.contains(a)
}

/// The `n`th address of `net`, which all callers know to be that large.
pub(crate) fn nth(net: Ipv4Net, n: u32) -> Ipv4Addr {
    Ipv4Addr::from_bits(net.network().to_bits() + n)
}

fn slash_16(second_octet: u8) -> Ipv4Net {
    Ipv4Net::new_assert(Ipv4Addr::new(10, second_octet, 0, 0), 16)
}

/// The part of the /16 `net` that begins at `third_octet`.
fn part(net: Ipv4Net, third_octet: u32, prefix_len: u8) -> Ipv4Net {
    Ipv4Net::new_assert(nth(net, third_octet << 8), prefix_len)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn check(used: &[&str], services: &str, pods: &str, node: &str) {
        let used: Vec<Ipv4Net> = used.iter().map(|prefix| prefix.parse().unwrap()).collect();
        let ranges = Ranges::choose(&used).unwrap();
        let seen = (
            ranges.services.to_string(),
            ranges.pods.to_string(),
            ranges.node.to_string(),
        );
        assert_eq!(
            seen,
            (services.to_owned(), pods.to_owned(), node.to_owned()),
            "given {used:?}"
        );
        assert!(ranges.pods.contains(&ranges.node_pods) && ranges.node_pods.prefix_len() == 24);
        assert!(!ranges.load_balancers.contains(&ranges.node));
        assert!(ranges.services.contains(&ranges.dns()) && ranges.services.contains(&ranges.api()));
    }

    #[test]
    fn the_usual_ranges_are_taken_when_they_are_free() {
        check(&[], "10.96.0.0/16", "10.244.0.0/16", "10.160.16.1");
        check(
            &["192.168.1.0/24", "172.17.0.0/16"],
            "10.96.0.0/16",
            "10.244.0.0/16",
            "10.160.16.1",
        );
    }

    #[test]
    fn the_next_free_range_above_is_taken_when_the_usual_one_is_in_use() {
        check(&["10.96.0.0/12"], "10.112.0.0/16", "10.244.0.0/16", "10.160.16.1");
        check(
            &["10.96.7.1/32", "10.97.0.0/16"],
            "10.98.0.0/16",
            "10.244.0.0/16",
            "10.160.16.1",
        );
        check(
            &["10.244.0.0/14", "10.160.0.0/20"],
            "10.96.0.0/16",
            "10.248.0.0/16",
            "10.161.16.1",
        );
    }

    #[test]
    fn the_search_goes_on_from_the_bottom_when_the_top_is_reached() {
        check(
            &["10.244.0.0/14", "10.248.0.0/13"],
            "10.96.0.0/16",
            "10.0.0.0/16",
            "10.160.16.1",
        );
    }

    #[test]
    fn ranges_do_not_overlap_when_little_is_left() {
        let used = ["10.0.0.0/9", "10.128.0.0/10", "10.192.0.0/11", "10.224.0.0/12"];
        check(&used, "10.240.0.0/16", "10.244.0.0/16", "10.241.16.1");
    }

    #[test]
    fn a_route_to_all_of_10_8_gives_way_but_its_narrower_routes_do_not() {
        check(
            &["10.0.0.0/8", "10.96.3.0/24"],
            "10.97.0.0/16",
            "10.244.0.0/16",
            "10.160.16.1",
        );
    }

    #[test]
    fn two_clusters_get_ranges_that_do_not_overlap() {
        let first = Ranges::choose(&[]).unwrap();
        let used = [
            first.services,
            first.pods,
            first.load_balancers,
            first.node.into(),
        ];
        let second = Ranges::choose(&used).unwrap();
        for range in [
            second.services,
            second.pods,
            second.load_balancers,
            second.node.into(),
        ] {
            assert!(
                used.iter().all(|prefix| !overlap(prefix, &range)),
                "{range} of {second:?}"
            );
        }
    }

    #[test]
    fn a_full_10_8_is_an_error() {
        let all: Vec<Ipv4Net> = (0..=255).map(slash_16).collect();
        assert_eq!(Ranges::choose(&all), Err(NoFreeRange("services")));
    }
}
