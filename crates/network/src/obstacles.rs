//! What on this machine keeps the cluster's packets from passing, in words a person can act on.
//!
//! nftables and iptables chains of other programs are called beside ours, and a packet passes only if all
//! of them let it. A chain that drops by default (Docker's `FORWARD`, a firewall's `input`) cannot be
//! overruled from our table, and changing other programs' chains is not for us: so it is told.
//!
//! Only policies are looked at, and whether the table has any rule about our links, which a person who has
//! followed the advice has made. A chain that accepts by default and ends in a "reject everything" rule is
//! not recognized.

use crate::host::Host;
use crate::nft::Nft;
use crate::node::Network;
use crate::uplink::Sysctl;
use netlink_packet_core::Emitable;
use netlink_packet_netfilter::NetfilterProtoFamily as Family;
use netlink_packet_netfilter::nftables::{
    ChainAttribute, Hook, HookNumber, InetHookNumber, RuleAttribute, RuleMessage,
};
use std::fmt;
use std::io;
use std::path::Path;

/// Something that keeps packets from passing. Its `Display` says what, and what to do about it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Obstacle {
    /// Another program's chain drops what it does not know, and knows nothing of the cluster's links.
    DroppingChain {
        /// `ip` or `inet`.
        family: &'static str,
        /// The chain's table.
        table: String,
        /// The chain.
        chain: String,
        /// Whether it is about packets that pass through the machine, or about packets to the machine.
        forwarded: bool,
        /// What the names of the cluster's links begin with.
        links: String,
    },
    /// Rules of the old iptables are loaded, which cannot be seen from here.
    LegacyIptables {
        /// What the names of the cluster's links begin with.
        links: String,
    },
    /// Packets that come in through an uplink are not forwarded, and that could not be changed.
    NotForwarding {
        /// The uplink.
        link: String,
    },
}

/// What matters of a chain.
#[derive(Debug, Default)]
struct Chain {
    table: String,
    name: String,
    is_filter: bool,
    drops: bool,
    hook: Option<InetHookNumber>,
}

const POLICY_DROP: u32 = 0;

impl Network {
    /// Looks for what could keep packets of pods from passing. To be asked after [`Network::up`], and when
    /// something does not work.
    ///
    /// # Errors
    /// When the kernel cannot be asked.
    pub fn obstacles(&self) -> io::Result<Vec<Obstacle>> {
        let mut nft = Nft::open()?;
        let links = self.cluster().veth_prefix();
        let mut obstacles = Vec::new();
        let chains = nft.chains()?;
        for (family, name) in [(Family::IPv4, "ip"), (Family::Inet, "inet")] {
            let own = chains
                .iter()
                .filter(|(of, _)| *of == family)
                .map(|(_, chain)| parse_chain(chain));
            let dropping: Vec<_> = own.filter(Chain::may_obstruct).collect();
            if !dropping.is_empty() {
                let known = tables_about(&nft.rules(family)?, links.as_bytes());
                obstacles.extend(
                    dropping
                        .into_iter()
                        .filter_map(|chain| chain.obstacle(name, &known, &links)),
                );
            }
        }
        if has_legacy_filter(Path::new("/proc/thread-self/net/ip_tables_names")) {
            obstacles.push(Obstacle::LegacyIptables { links });
        }
        let host = Host::read(&mut self.route())?;
        let sysctl = Sysctl::new(Path::new("/proc/sys"));
        let closed = host
            .uplinks()
            .into_iter()
            .filter(|link| !sysctl.forwarding(&link.name).unwrap_or(true));
        obstacles.extend(closed.map(|link| Obstacle::NotForwarding {
            link: link.name.clone(),
        }));
        Ok(obstacles)
    }
}

impl Chain {
    fn may_obstruct(&self) -> bool {
        let hooked = matches!(self.hook, Some(InetHookNumber::Forward | InetHookNumber::LocalIn));
        self.is_filter && self.drops && hooked
    }

    /// What the chain obstructs, unless its table is `known` to have rules about our links.
    fn obstacle(self, family: &'static str, known: &[String], links: &str) -> Option<Obstacle> {
        (!known.contains(&self.table)).then(|| Obstacle::DroppingChain {
            family,
            forwarded: self.hook == Some(InetHookNumber::Forward),
            table: self.table,
            chain: self.name,
            links: links.to_owned(),
        })
    }
}

fn parse_chain(attributes: &[ChainAttribute]) -> Chain {
    let mut chain = Chain::default();
    for attribute in attributes {
        match attribute {
            ChainAttribute::Table(table) => chain.table.clone_from(table),
            ChainAttribute::Name(name) => chain.name.clone_from(name),
            ChainAttribute::Type(kind) => chain.is_filter = kind == "filter",
            ChainAttribute::Policy(policy) => chain.drops = *policy == POLICY_DROP,
            ChainAttribute::Hook(hooks) => {
                chain.hook = hooks.iter().find_map(|hook| match hook {
                    Hook::Number(HookNumber::Inet(number)) => Some(*number),
                    _ => None,
                });
            }
            _ => {}
        }
    }
    chain
}

/// The tables with a rule in which `needle` occurs.
fn tables_about(rules: &[RuleMessage], needle: &[u8]) -> Vec<String> {
    let mentions = |rule: &&RuleMessage| {
        let mut bytes = vec![0; rule.attributes.as_slice().buffer_len()];
        rule.attributes.as_slice().emit(&mut bytes);
        bytes.windows(needle.len()).any(|window| window == needle)
    };
    let table_of = |rule: &RuleMessage| {
        rule.attributes.iter().find_map(|attribute| match attribute {
            RuleAttribute::Table(table) => Some(table.clone()),
            _ => None,
        })
    };
    rules.iter().filter(mentions).filter_map(table_of).collect()
}

/// Whether the old iptables have a filter table; `path` lists their tables.
fn has_legacy_filter(path: &Path) -> bool {
    std::fs::read_to_string(path).is_ok_and(|names| names.lines().any(|name| name == "filter"))
}

impl fmt::Display for Obstacle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::DroppingChain {
                family,
                table,
                chain,
                forwarded,
                links,
            } => {
                let (what, who) = match forwarded {
                    true => ("packets between pods, services and other machines", "pods"),
                    false => (
                        "packets from pods to this machine, such as to its API and DNS",
                        "pods",
                    ),
                };
                write!(
                    f,
                    "the chain {chain} of the nftables table {family} {table} drops {what}, as its policy is \
                     drop and no rule of it is about the links of {who} ({links}*). Let them pass: "
                )?;
                write_advice(f, family, table, chain, *forwarded, links)
            }
            Self::LegacyIptables { links } => write!(
                f,
                "the old iptables have filter rules, which may drop the packets of pods. If pods cannot reach \
                 each other, let them pass: iptables-legacy -I FORWARD -i {links}+ -j ACCEPT; iptables-legacy \
                 -I FORWARD -o {links}+ -j ACCEPT; iptables-legacy -I INPUT -i {links}+ -j ACCEPT"
            ),
            Self::NotForwarding { link } => write!(
                f,
                "packets that come in through {link} are not forwarded, so pods get no answers from other \
                 machines. Turn it on: sysctl net.ipv4.conf.{link}.forwarding=1"
            ),
        }
    }
}

/// The command that lets the cluster's links pass a chain. `iptables` owns the tables it made, and Docker
/// leaves a chain for others' rules that survives its restarts.
fn write_advice(
    f: &mut fmt::Formatter<'_>,
    family: &str,
    table: &str,
    chain: &str,
    forwarded: bool,
    links: &str,
) -> fmt::Result {
    let by_iptables = family == "ip" && table == "filter" && matches!(chain, "FORWARD" | "INPUT");
    match (by_iptables, forwarded) {
        (true, true) => write!(
            f,
            "iptables -I FORWARD -i {links}+ -j ACCEPT; iptables -I FORWARD -o {links}+ -j ACCEPT \
             (with Docker, put them into DOCKER-USER instead)"
        ),
        (true, false) => write!(f, "iptables -I INPUT -i {links}+ -j ACCEPT"),
        (false, true) => write!(
            f,
            "nft insert rule {family} {table} {chain} iifname \"{links}*\" accept; nft insert rule {family} \
             {table} {chain} oifname \"{links}*\" accept"
        ),
        (false, false) => write!(
            f,
            "nft insert rule {family} {table} {chain} iifname \"{links}*\" accept"
        ),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn the_advice_fits_the_program_that_made_the_chain() {
        let cases = [
            (
                "ip",
                "filter",
                "FORWARD",
                true,
                "iptables -I FORWARD -i sv00000a+ -j ACCEPT",
            ),
            (
                "ip",
                "filter",
                "INPUT",
                false,
                "iptables -I INPUT -i sv00000a+ -j ACCEPT",
            ),
            (
                "inet",
                "filter",
                "forward",
                true,
                "nft insert rule inet filter forward oifname \"sv00000a*\" accept",
            ),
            (
                "inet",
                "fw",
                "in",
                false,
                "nft insert rule inet fw in iifname \"sv00000a*\" accept",
            ),
        ];
        for (family, table, chain, forwarded, advice) in cases {
            let obstacle = Obstacle::DroppingChain {
                family,
                table: table.to_owned(),
                chain: chain.to_owned(),
                forwarded,
                links: "sv00000a".to_owned(),
            };
            assert!(obstacle.to_string().contains(advice), "{obstacle}");
        }
    }

    #[test]
    fn only_filter_chains_that_drop_at_forward_or_input_may_obstruct() {
        let hook = |number| ChainAttribute::Hook(vec![Hook::Number(HookNumber::Inet(number))]);
        let kind = |name: &str| ChainAttribute::Type(name.to_owned());
        let cases = [
            (
                vec![
                    kind("filter"),
                    hook(InetHookNumber::Forward),
                    ChainAttribute::Policy(0),
                ],
                true,
            ),
            (
                vec![
                    kind("filter"),
                    hook(InetHookNumber::LocalIn),
                    ChainAttribute::Policy(0),
                ],
                true,
            ),
            (
                vec![
                    kind("filter"),
                    hook(InetHookNumber::Forward),
                    ChainAttribute::Policy(1),
                ],
                false,
            ),
            (
                vec![
                    kind("filter"),
                    hook(InetHookNumber::LocalOut),
                    ChainAttribute::Policy(0),
                ],
                false,
            ),
            (
                vec![
                    kind("nat"),
                    hook(InetHookNumber::Forward),
                    ChainAttribute::Policy(0),
                ],
                false,
            ),
            (vec![kind("filter")], false),
        ];
        for (attributes, expected) in cases {
            assert_eq!(
                parse_chain(&attributes).may_obstruct(),
                expected,
                "{attributes:?}"
            );
        }
    }

    #[test]
    fn the_old_iptables_are_recognized_by_the_kernels_list() {
        let path = std::env::temp_dir().join(format!("stead-tables-{}", std::process::id()));
        for (content, expected) in [("nat\nfilter\n", true), ("nat\n", false), ("", false)] {
            std::fs::write(&path, content).unwrap();
            assert_eq!(has_legacy_filter(&path), expected, "{content:?}");
        }
        std::fs::remove_file(&path).unwrap();
        assert!(!has_legacy_filter(&path));
    }
}
