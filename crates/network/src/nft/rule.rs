//! The expressions of a rule: what it looks at and what it does.
//!
//! A rule is a list of expressions over sixteen registers of four bytes ([`Slot`]). An expression that does
//! not match ends the rule, and the next rule is tried. Each method appends one expression; what it is in
//! the language of `nft` stands beside it. Numbers follow `linux/netfilter/nf_tables.h`.

use super::batch::Attributes;
use ipnet::Ipv4Net;
use std::net::Ipv4Addr;
use std::time::Duration;

/// A register of four bytes; longer data takes the ones after it, too.
#[derive(Clone, Copy)]
pub(crate) struct Slot(pub(crate) u32);

/// A rule under construction.
#[derive(Default)]
pub(crate) struct Rule(Vec<u8>);

const BASE_NETWORK: u32 = 1;
const BASE_TRANSPORT: u32 = 2;
const META_IIF: u32 = 4;
const META_OIF: u32 = 5;
#[cfg(test)]
const META_IIFNAME: u32 = 6;
const META_L4PROTO: u32 = 16;
const META_IIFGROUP: u32 = 21;
const CT_STATE: u32 = 0;
const CT_STATUS: u32 = 2;
const CT_PROTOCOL: u32 = 10;
const CT_PROTO_DST: u32 = 12;
const CT_DST_IP: u32 = 20;
const CT_STATE_ESTABLISHED_OR_RELATED: u32 = 2 | 4;
const CT_STATUS_DNAT: u32 = 1 << 5;
const FIB_SOURCE: u32 = 1;
const FIB_DESTINATION: u32 = 2;
const ROUTE_TYPE_LOCAL: u32 = 2;
const VERDICT_REGISTER: u32 = 0;
const NAT_SOURCE: u32 = 0;
const NAT_DESTINATION: u32 = 1;
const NFPROTO_IPV4: u32 = 2;
const RANDOM_FULLY: u32 = 1 << 4;
const DYNSET_UPDATE: u32 = 1;
const REJECT_ICMP: u32 = 0;
const REJECT_TCP_RESET: u32 = 1;
const ICMP_PORT_UNREACHABLE: u8 = 3;
const TCP: u8 = 6;

impl Slot {
    fn number(self) -> u32 {
        8 + self.0
    }
}

impl Rule {
    pub(crate) fn new() -> Self {
        Self::default()
    }

    /// `ip saddr ADDRESS/LENGTH`, or `!=`.
    pub(crate) fn source_in(self, net: Ipv4Net, inside: bool) -> Self {
        self.load_source(Slot(0)).compare_net(net, inside)
    }

    /// `ip daddr ADDRESS/LENGTH`, or `!=`.
    pub(crate) fn destination_in(self, net: Ipv4Net, inside: bool) -> Self {
        self.load_destination(Slot(0)).compare_net(net, inside)
    }

    /// `meta iifgroup GROUP`, or `!=`.
    pub(crate) fn came_from_group(self, group: u32, inside: bool) -> Self {
        self.meta(META_IIFGROUP).compare(&group.to_ne_bytes(), inside)
    }

    /// `meta iif INDEX`, or `!=`.
    pub(crate) fn came_from_link(self, index: u32, inside: bool) -> Self {
        self.meta(META_IIF).compare(&index.to_ne_bytes(), inside)
    }

    /// `iifname PREFIX*`, as in other programs' rules.
    #[cfg(test)]
    pub(crate) fn came_from_link_named(self, prefix: &str) -> Self {
        self.meta(META_IIFNAME).compare(prefix.as_bytes(), true)
    }

    /// `meta iif @SET`.
    pub(crate) fn came_from_set_of_links(self, set: &str) -> Self {
        self.meta(META_IIF).in_set(set)
    }

    /// `meta oif INDEX`, or `!=`.
    pub(crate) fn leaves_through(self, index: u32, inside: bool) -> Self {
        self.meta(META_OIF).compare(&index.to_ne_bytes(), inside)
    }

    /// `meta l4proto tcp`.
    pub(crate) fn tcp(self) -> Self {
        self.meta(META_L4PROTO).compare(&[TCP], true)
    }

    /// `ct state established,related`, or neither of them.
    pub(crate) fn established_or_related(self, established: bool) -> Self {
        self.conntrack(CT_STATE, Slot(0))
            .has_bits(CT_STATE_ESTABLISHED_OR_RELATED, established)
    }

    /// `ct status dnat`, or `ct status & dnat == 0`.
    pub(crate) fn destination_was_translated(self, translated: bool) -> Self {
        self.conntrack(CT_STATUS, Slot(0))
            .has_bits(CT_STATUS_DNAT, translated)
    }

    /// `fib saddr type local`, or `!=`.
    pub(crate) fn source_is_local(self, local: bool) -> Self {
        self.fib_type(FIB_SOURCE)
            .compare(&ROUTE_TYPE_LOCAL.to_ne_bytes(), local)
    }

    /// `fib daddr type local`.
    pub(crate) fn destination_is_local(self) -> Self {
        self.fib_type(FIB_DESTINATION)
            .compare(&ROUTE_TYPE_LOCAL.to_ne_bytes(), true)
    }

    /// Loads `ip saddr`.
    pub(crate) fn load_source(self, slot: Slot) -> Self {
        self.payload(slot, BASE_NETWORK, 12, 4)
    }

    /// Loads `ip daddr`.
    pub(crate) fn load_destination(self, slot: Slot) -> Self {
        self.payload(slot, BASE_NETWORK, 16, 4)
    }

    /// Loads `meta l4proto . th dport` into `slot` and the one after it.
    pub(crate) fn load_protocol_and_port(self, slot: Slot) -> Self {
        self.meta_into(META_L4PROTO, slot)
            .payload(Slot(slot.0 + 1), BASE_TRANSPORT, 2, 2)
    }

    /// Loads `ct original ip daddr`.
    pub(crate) fn load_original_destination(self, slot: Slot) -> Self {
        self.conntrack_original(CT_DST_IP, slot)
    }

    /// Loads `ct protocol . ct original proto-dst` into `slot` and the one after it.
    pub(crate) fn load_original_protocol_and_port(self, slot: Slot) -> Self {
        self.conntrack_original(CT_PROTOCOL, slot)
            .conntrack_original(CT_PROTO_DST, Slot(slot.0 + 1))
    }

    /// Loads a constant address.
    pub(crate) fn load_address(self, slot: Slot, address: Ipv4Addr) -> Self {
        self.immediate(slot, &address.octets())
    }

    /// Loads a constant port.
    pub(crate) fn load_port(self, slot: Slot, port: u16) -> Self {
        self.immediate(slot, &port.to_be_bytes())
    }

    /// `@SET`: what was loaded from the first slot on is in the set.
    pub(crate) fn in_set(self, set: &str) -> Self {
        self.expression("lookup", |data| {
            data.text(1, set);
            data.be32(2, Slot(0).number());
        })
    }

    /// `vmap @MAP`: goes where the map says for what was loaded from the first slot on.
    pub(crate) fn verdict_from_map(self, map: &str) -> Self {
        self.expression("lookup", |data| {
            data.text(1, map);
            data.be32(2, Slot(0).number());
            data.be32(3, VERDICT_REGISTER);
        })
    }

    /// `map @MAP`: loads the map's value for what is in the first slot.
    pub(crate) fn load_from_map(self, map: &str, slot: Slot) -> Self {
        self.expression("lookup", |data| {
            data.text(1, map);
            data.be32(2, Slot(0).number());
            data.be32(3, slot.number());
        })
    }

    /// `numgen inc mod COUNT` into the first slot: counts up with every packet that gets here.
    pub(crate) fn next_of(self, count: u32) -> Self {
        self.expression("numgen", |data| {
            data.be32(1, Slot(0).number());
            data.be32(2, count);
            data.be32(3, 0);
        })
    }

    /// `update @SET { ... timeout TIMEOUT }`: remembers what was loaded from the first slot on, for this
    /// long from now. Does not match when the set is full.
    pub(crate) fn remember(self, set: &str, timeout: Duration) -> Self {
        self.expression("dynset", |data| {
            data.text(1, set);
            data.be32(3, DYNSET_UPDATE);
            data.be32(4, Slot(0).number());
            data.be64(6, u64::try_from(timeout.as_millis()).unwrap_or(u64::MAX));
        })
    }

    /// `dnat to`: the address in `slot`, the port in the one after it.
    pub(crate) fn translate_destination(self, slot: Slot) -> Self {
        self.expression("nat", |data| {
            data.be32(1, NAT_DESTINATION);
            data.be32(2, NFPROTO_IPV4);
            data.be32(3, slot.number());
            data.be32(5, slot.number() + 1);
        })
    }

    /// `snat to ADDRESS`.
    pub(crate) fn translate_source(self, address: Ipv4Addr) -> Self {
        self.load_address(Slot(0), address).expression("nat", |data| {
            data.be32(1, NAT_SOURCE);
            data.be32(2, NFPROTO_IPV4);
            data.be32(3, Slot(0).number());
            data.be32(7, RANDOM_FULLY);
        })
    }

    /// `masquerade fully-random`: random ports, as two packets at once could otherwise claim the same one.
    pub(crate) fn masquerade(self) -> Self {
        self.expression("masq", |data| data.be32(1, RANDOM_FULLY))
    }

    /// `reject with tcp reset`.
    pub(crate) fn reject_with_reset(self) -> Self {
        self.expression("reject", |data| {
            data.be32(1, REJECT_TCP_RESET);
            data.raw(2, &[0]);
        })
    }

    /// `reject with icmp port-unreachable`.
    pub(crate) fn reject_with_port_unreachable(self) -> Self {
        self.expression("reject", |data| {
            data.be32(1, REJECT_ICMP);
            data.raw(2, &[ICMP_PORT_UNREACHABLE]);
        })
    }

    /// `accept`.
    pub(crate) fn accept(self) -> Self {
        self.verdict(1, None)
    }

    /// `drop`.
    pub(crate) fn drop(self) -> Self {
        self.verdict(0, None)
    }

    /// `goto CHAIN`.
    pub(crate) fn goto(self, chain: &str) -> Self {
        self.verdict(-4, Some(chain))
    }

    pub(super) fn into_expressions(self) -> Vec<u8> {
        self.0
    }

    fn payload(self, slot: Slot, base: u32, offset: u32, length: u32) -> Self {
        self.expression("payload", |data| {
            data.be32(1, slot.number());
            data.be32(2, base);
            data.be32(3, offset);
            data.be32(4, length);
        })
    }

    fn meta(self, key: u32) -> Self {
        self.meta_into(key, Slot(0))
    }

    fn meta_into(self, key: u32, slot: Slot) -> Self {
        self.expression("meta", |data| {
            data.be32(1, slot.number());
            data.be32(2, key);
        })
    }

    fn conntrack(self, key: u32, slot: Slot) -> Self {
        self.expression("ct", |data| {
            data.be32(1, slot.number());
            data.be32(2, key);
        })
    }

    fn conntrack_original(self, key: u32, slot: Slot) -> Self {
        self.expression("ct", |data| {
            data.be32(1, slot.number());
            data.be32(2, key);
            data.raw(3, &[0]);
        })
    }

    fn fib_type(self, flags: u32) -> Self {
        self.expression("fib", |data| {
            data.be32(1, Slot(0).number());
            data.be32(2, 3);
            data.be32(3, flags);
        })
    }

    fn immediate(self, slot: Slot, value: &[u8]) -> Self {
        self.expression("immediate", |data| {
            data.be32(1, slot.number());
            data.value(2, value);
        })
    }

    fn compare(self, value: &[u8], equal: bool) -> Self {
        self.expression("cmp", |data| {
            data.be32(1, Slot(0).number());
            data.be32(2, u32::from(!equal));
            data.value(3, value);
        })
    }

    fn compare_net(self, net: Ipv4Net, inside: bool) -> Self {
        self.mask(net.netmask().octets())
            .compare(&net.network().octets(), inside)
    }

    fn has_bits(self, bits: u32, any: bool) -> Self {
        self.mask(bits.to_ne_bytes()).compare(&[0; 4], !any)
    }

    fn mask(self, mask: [u8; 4]) -> Self {
        self.expression("bitwise", |data| {
            data.be32(1, Slot(0).number());
            data.be32(2, Slot(0).number());
            data.be32(3, 4);
            data.value(4, &mask);
            data.value(5, &[0; 4]);
        })
    }

    fn verdict(self, code: i32, chain: Option<&str>) -> Self {
        self.expression("immediate", |data| {
            data.be32(1, VERDICT_REGISTER);
            data.verdict(2, code as u32, chain);
        })
    }

    fn expression(mut self, name: &str, body: impl FnOnce(&mut Attributes<'_>)) -> Self {
        Attributes(&mut self.0).nested(1, |expression| {
            expression.text(1, name);
            expression.nested(2, body);
        });
        self
    }
}
