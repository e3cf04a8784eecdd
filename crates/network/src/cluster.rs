//! The short name of a cluster, and the names of everything it puts into the kernel.
//!
//! Two clusters may run side by side in one network namespace, and a cluster must find and remove what
//! it made even when the process that made it was killed. So every link, table and route carries the
//! cluster's id, and no list of what was made has to be kept anywhere else.
//!
//! Assumes that two clusters on one machine have different ids; who makes a cluster chooses and keeps it.

use std::fmt;
use std::str::FromStr;

/// The identity of a cluster on this machine: six hexadecimal digits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ClusterId(u32);

/// Why a text is no cluster id.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("a cluster id is six lower-case hexadecimal digits, not {0:?}")]
pub struct InvalidClusterId(String);

/// What the name of every cluster's anchor begins with.
pub(crate) const ANCHOR_PREFIX: &str = "stead-";

/// `rtm_protocol` of our routes: a number that no routing daemon registers in `rt_protos`.
pub(crate) const ROUTE_PROTOCOL: u8 = 115;

impl ClusterId {
    /// An id that is always the same for the same `seed`, such as the path of the cluster's data.
    pub fn derived_from(seed: &str) -> Self {
        let hash = fnv1a([seed.as_bytes()]);
        Self((hash ^ (hash >> 24) ^ (hash >> 48)) as u32 & 0xff_ffff)
    }

    /// The anchor: the link that carries the node's addresses. Also the name of the nftables table.
    pub fn link_name(self) -> String {
        format!("{ANCHOR_PREFIX}{self}")
    }

    /// The table that does the work while the other one is replaced.
    pub(crate) fn spare_table_name(self) -> String {
        format!("{}-next", self.link_name())
    }

    /// The other end of the anchor.
    pub(crate) fn anchor_peer_name(self) -> String {
        format!("sp{self}")
    }

    /// What the host's end of each of the cluster's veths begins with. `iptables` rules that let the
    /// cluster's traffic through a firewall name it as `sv......+`.
    pub fn veth_prefix(self) -> String {
        format!("sv{self}")
    }

    /// The host's end of a pod's veth. 35 bits of hash keep a node's few hundred pods apart.
    pub(crate) fn veth_name(self, pod_key: &str) -> String {
        const DIGITS: &[u8; 32] = b"abcdefghijklmnopqrstuvwxyz234567";
        let hash = self.hash(pod_key);
        let tail = (0..7).map(|place| char::from(DIGITS[(hash >> (5 * place)) as usize & 31]));
        self.veth_prefix().chars().chain(tail).collect()
    }

    /// The pod's hardware address: locally administered, and the same whenever the pod is attached again.
    pub(crate) fn pod_mac(self, pod_key: &str) -> [u8; 6] {
        let [_, _, _, a, b, c, d, e] = self.hash(pod_key).to_be_bytes();
        [0x06, a, b, c, d, e]
    }

    /// The link group (`IFLA_GROUP`) of all the cluster's links. One request deletes a whole group, and
    /// nftables compares it in four bytes.
    pub(crate) fn link_group(self) -> u32 {
        0x7300_0000 | self.0
    }

    /// The group of the cluster's links that are about to be deleted.
    pub(crate) fn removal_group(self) -> u32 {
        0x7400_0000 | self.0
    }

    fn hash(self, pod_key: &str) -> u64 {
        fnv1a([&self.0.to_be_bytes(), pod_key.as_bytes()])
    }
}

impl fmt::Display for ClusterId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:06x}", self.0)
    }
}

impl FromStr for ClusterId {
    type Err = InvalidClusterId;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let digits = text.len() == 6 && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
        match u32::from_str_radix(text, 16) {
            Ok(number) if digits => Ok(Self(number)),
            _ => Err(InvalidClusterId(text.to_owned())),
        }
    }
}

/// FNV-1a: stable across versions of this program, unlike the standard library's hasher. Links made by
/// one version must be found by the next.
fn fnv1a<'a>(parts: impl IntoIterator<Item = &'a [u8]>) -> u64 {
    parts
        .into_iter()
        .flatten()
        .fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
            (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)
        })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn an_id_is_six_lower_case_hexadecimal_digits() {
        assert_eq!("00beef".parse::<ClusterId>().unwrap().to_string(), "00beef");
        for wrong in ["", "beef", "00beefs", "00BEEF", "+0beef", "00 bee", "ébeef"] {
            assert_eq!(
                wrong.parse::<ClusterId>(),
                Err(InvalidClusterId(wrong.to_owned()))
            );
        }
    }

    #[test]
    fn a_derived_id_is_stable_and_depends_on_the_seed() {
        let id = ClusterId::derived_from("/var/lib/stead");
        assert_eq!(id, ClusterId::derived_from("/var/lib/stead"));
        assert_ne!(id, ClusterId::derived_from("/var/lib/stead2"));
        assert_eq!(id.to_string().parse(), Ok(id));
    }

    #[test]
    fn names_fit_into_fifteen_characters_and_do_not_collide() {
        let id: ClusterId = "a1b2c3".parse().unwrap();
        assert_eq!(id.link_name(), "stead-a1b2c3");
        let names: HashSet<_> = (0..10_000).map(|i| id.veth_name(&format!("pod-{i}"))).collect();
        assert_eq!(names.len(), 10_000);
        assert!(
            names
                .iter()
                .all(|name| name.len() == 15 && name.starts_with("sva1b2c3"))
        );
    }

    #[test]
    fn hardware_addresses_are_locally_administered_unicast() {
        let id: ClusterId = "a1b2c3".parse().unwrap();
        let mac = id.pod_mac("x");
        assert_eq!(mac[0] & 0b11, 0b10);
        assert_eq!(mac, id.pod_mac("x"));
        assert_ne!(mac, id.pod_mac("y"));
    }
}
