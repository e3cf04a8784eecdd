//! The fixed part of the cluster's nftables table: what happens to packets whatever services there are.
//!
//! - A packet to a service or node port is looked up in two verdict maps, which [`crate::Proxy`] fills.
//! - A packet to a service address that nothing serves, or to a pod that is not there, is refused here, so
//!   that clients fail at once. The cluster's ranges are routed to the anchor link, under the pods' own
//!   routes, so everything that would leave through it is to be refused.
//! - Pod traffic that leaves the cluster takes the address of the link it leaves through.
//! - Turning on forwarding for an uplink must not turn the machine into a router or open the cluster to the
//!   LAN: what comes in from outside is dropped unless it belongs to a connection from inside, or was
//!   translated by a rule (`expose`, or another program's port forwarding).
//!
//! No packet marks are used: marks are one namespace for all programs of a machine, and what has to be
//! known after translation, connection tracking knows.

use crate::cluster::ClusterId;
use crate::nft::{Batch, Field, Hook, Kind, Rule, Set, SetKind, Slot};
use crate::ranges::Ranges;
use crate::rtnl::LOOPBACK_INDEX;
use ipnet::Ipv4Net;
use std::net::Ipv4Addr;

/// Verdicts by `address . protocol . port`.
pub(crate) const SERVICES: &str = "services";
/// Verdicts by `protocol . port`, for packets to the node.
pub(crate) const NODE_PORTS: &str = "node-ports";
/// The keys of [`SERVICES`] whose clients from outside must be answered by this node.
pub(crate) const EXTERNAL: &str = "external";
/// The same for [`NODE_PORTS`].
pub(crate) const EXTERNAL_NODE_PORTS: &str = "external-node-ports";
/// The uplinks whose forwarding the cluster turned on.
pub(crate) const OPENED_LINKS: &str = "opened-links";

/// Pairs of a pod's address with itself.
const OWN_ADDRESSES: &str = "own-addresses";
const DISPATCH: &str = "dispatch";
const FROM_OUTSIDE: &str = "from-outside";
const PREROUTING: &str = "prerouting";
const POSTROUTING: &str = "postrouting";
const OUTPUT_NAT: &str = "output-nat";
const OUTPUT: &str = "output";
const INPUT: &str = "input";
const FORWARD: &str = "forward";
const ANCHOR: &str = "anchor";

const LOOPBACK_NET: Ipv4Net = Ipv4Net::new_assert(Ipv4Addr::new(127, 0, 0, 0), 8);

/// What the table depends on.
#[derive(Clone, Debug)]
pub(crate) struct Layout {
    pub(crate) cluster: ClusterId,
    pub(crate) ranges: Ranges,
    /// Whether node ports and load balancers are reachable from other machines.
    pub(crate) expose: bool,
    pub(crate) anchor_index: u32,
    pub(crate) anchor_peer_index: u32,
}

/// Replaces the table, or makes it, with no services yet.
pub(crate) fn replace(batch: &mut Batch, layout: &Layout, opened_links: impl IntoIterator<Item = u32>) {
    // Adding a table that is there is no error, deleting one that is not would be.
    batch.add_table();
    batch.delete_table();
    batch.add_table();
    add_sets(batch);
    let own = layout
        .ranges
        .node_pods
        .hosts()
        .map(|pod| ([pod.octets(), pod.octets()].concat(), None));
    batch.add_elements(OWN_ADDRESSES, own);
    batch.add_elements(
        OPENED_LINKS,
        opened_links.into_iter().map(|index| (link_key(index), None)),
    );
    add_dispatch(batch, layout);
    add_postrouting(batch, layout);
    add_forward(batch, layout);
    add_output(batch, layout);
    add_input(batch, layout);
}

/// A link's key in [`OPENED_LINKS`].
pub(crate) fn link_key(index: u32) -> Vec<u8> {
    index.to_ne_bytes().to_vec()
}

fn add_sets(batch: &mut Batch) {
    const SERVICE: &[Field] = &[Field::ADDRESS, Field::PROTOCOL, Field::PORT];
    const NODE_PORT: &[Field] = &[Field::PROTOCOL, Field::PORT];
    const PAIR: &[Field] = &[Field::ADDRESS, Field::ADDRESS];
    for (name, key, kind) in [
        (SERVICES, SERVICE, SetKind::Verdicts),
        (NODE_PORTS, NODE_PORT, SetKind::Verdicts),
        (EXTERNAL, SERVICE, SetKind::Plain),
        (EXTERNAL_NODE_PORTS, NODE_PORT, SetKind::Plain),
        (OWN_ADDRESSES, PAIR, SetKind::Plain),
        (OPENED_LINKS, &[Field::LINK], SetKind::Plain),
    ] {
        batch.add_set(&Set { name, key, kind });
    }
}

/// From a service's address or a node port to one of its endpoints.
fn add_dispatch(batch: &mut Batch, layout: &Layout) {
    let to_node = if layout.expose {
        // Packets to 127.0.0.1 cannot be translated to a pod; a listener serves them.
        Rule::new()
            .destination_in(LOOPBACK_NET, false)
            .destination_is_local()
    } else {
        Rule::new().destination_in(layout.ranges.node.into(), true)
    };
    batch.add_chain(DISPATCH);
    batch.add_rule(
        DISPATCH,
        Rule::new()
            .load_destination(Slot(0))
            .load_protocol_and_port(Slot(1))
            .verdict_from_map(SERVICES),
    );
    batch.add_rule(
        DISPATCH,
        to_node
            .load_protocol_and_port(Slot(0))
            .verdict_from_map(NODE_PORTS),
    );

    let incoming = match layout.expose {
        true => Rule::new(),
        false => Rule::new().came_from_group(layout.cluster.link_group(), true),
    };
    batch.add_base_chain(PREROUTING, Hook::Prerouting, Kind::DestinationNat);
    batch.add_rule(PREROUTING, incoming.goto(DISPATCH));
    batch.add_base_chain(OUTPUT_NAT, Hook::Output, Kind::DestinationNat);
    batch.add_rule(OUTPUT_NAT, Rule::new().goto(DISPATCH));
}

/// Which connections get another source address.
fn add_postrouting(batch: &mut Batch, layout: &Layout) {
    let (pods, node) = (layout.ranges.pods, layout.ranges.node);
    batch.add_chain(FROM_OUTSIDE);
    batch.add_rule(
        FROM_OUTSIDE,
        Rule::new().destination_in(pods, true).translate_source(node),
    );
    batch.add_rule(FROM_OUTSIDE, Rule::new().masquerade());

    batch.add_base_chain(POSTROUTING, Hook::Postrouting, Kind::SourceNat);
    let mut rule = |rule| batch.add_rule(POSTROUTING, rule);
    // A pod that reaches itself through a service would answer itself directly, past the translation.
    rule(
        Rule::new()
            .load_source(Slot(0))
            .load_destination(Slot(1))
            .in_set(OWN_ADDRESSES)
            .translate_source(node),
    );
    // The endpoint may be on another node: its answer must come back here.
    let from_outside = || {
        Rule::new()
            .destination_was_translated(true)
            .source_in(pods, false)
            .source_is_local(false)
    };
    rule(
        from_outside()
            .load_original_destination(Slot(0))
            .load_original_protocol_and_port(Slot(1))
            .in_set(EXTERNAL)
            .goto(FROM_OUTSIDE),
    );
    rule(
        from_outside()
            .load_original_protocol_and_port(Slot(0))
            .in_set(EXTERNAL_NODE_PORTS)
            .goto(FROM_OUTSIDE),
    );
    // The cluster's addresses mean nothing outside it.
    rule(
        Rule::new()
            .source_in(pods, true)
            .destination_in(pods, false)
            .masquerade(),
    );
    rule(
        Rule::new()
            .source_in(node.into(), true)
            .destination_in(pods, false)
            .leaves_through(LOOPBACK_INDEX, false)
            .masquerade(),
    );
}

/// What may pass through this machine, and what is refused.
fn add_forward(batch: &mut Batch, layout: &Layout) {
    batch.add_base_chain(FORWARD, Hook::Forward, Kind::Filter);
    batch.add_rule(FORWARD, Rule::new().established_or_related(true).accept());
    add_refusal(batch, FORWARD, || {
        Rule::new().leaves_through(layout.anchor_index, true)
    });
    batch.add_rule(
        FORWARD,
        Rule::new()
            .came_from_set_of_links(OPENED_LINKS)
            .destination_was_translated(false)
            .drop(),
    );
    add_refusal(batch, FORWARD, || {
        Rule::new()
            .destination_in(layout.ranges.pods, true)
            .came_from_group(layout.cluster.link_group(), false)
            .destination_was_translated(false)
    });
}

/// The same for packets made on this machine. A packet keeps its first link through the output hook, even
/// after it was translated and routed anew; that it was not translated is what makes it unserved. If it was
/// translated to a pod that is gone, it does leave through the anchor, and is met at the other end: before
/// connection tracking takes it for a new connection, as the refusal has to belong to the first one.
fn add_output(batch: &mut Batch, layout: &Layout) {
    batch.add_base_chain(OUTPUT, Hook::Output, Kind::Filter);
    add_refusal(batch, OUTPUT, || {
        Rule::new()
            .leaves_through(layout.anchor_index, true)
            .destination_was_translated(false)
    });
    batch.add_base_chain(ANCHOR, Hook::Prerouting, Kind::Raw);
    add_refusal(batch, ANCHOR, || {
        Rule::new().came_from_link(layout.anchor_peer_index, true)
    });
}

/// TCP clients hear a reset, others the ICMP message for a port that nobody listens on.
fn add_refusal(batch: &mut Batch, chain: &str, which: impl Fn() -> Rule) {
    batch.add_rule(chain, which().tcp().reject_with_reset());
    batch.add_rule(chain, which().reject_with_port_unreachable());
}

/// Linux answers on every link for every address it has. The node's and the DNS server's addresses are for
/// this machine and its pods only.
fn add_input(batch: &mut Batch, layout: &Layout) {
    batch.add_base_chain(INPUT, Hook::Input, Kind::Filter);
    for address in [layout.ranges.node, layout.ranges.dns()] {
        batch.add_rule(
            INPUT,
            Rule::new()
                .destination_in(address.into(), true)
                .came_from_link(LOOPBACK_INDEX, false)
                .came_from_group(layout.cluster.link_group(), false)
                .established_or_related(false)
                .destination_was_translated(false)
                .drop(),
        );
    }
}
