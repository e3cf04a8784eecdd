//! The rtnetlink messages this crate sends, as plain values: links, addresses, routes, neighbours.
//!
//! Nothing is sent here; see [`crate::netlink`]. Each function says what `ip` command it corresponds to.

use crate::cluster::{ClusterId, ROUTE_PROTOCOL};
use crate::netlink::Request;
use ipnet::Ipv4Net;
use netlink_packet_core::{NLM_F_CREATE, NLM_F_EXCL, NLM_F_REPLACE};
use netlink_packet_route::address::{AddressAttribute, AddressMessage};
use netlink_packet_route::link::{
    AfSpecInet, AfSpecInet6, AfSpecUnspec, In6AddrGenMode, InetDevConf, InfoData, InfoKind, InfoVeth,
    LinkAttribute, LinkExtentMask, LinkFlags, LinkInfo, LinkMessage,
};
use netlink_packet_route::neighbour::{NeighbourAttribute, NeighbourMessage, NeighbourState};
use netlink_packet_route::route::{
    RouteAttribute, RouteFlags, RouteHeader, RouteMessage, RouteProtocol, RouteScope, RouteType,
};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};
use std::net::Ipv4Addr;
use std::os::fd::{AsRawFd, BorrowedFd};

pub(crate) type RouteRequest = Request<RouteNetlinkMessage>;

/// The gateway of every pod: a link-local address that nothing owns, whose hardware address is known in
/// advance. So pods need no subnet, and the host's end needs no address.
pub(crate) const POD_GATEWAY: Ipv4Addr = Ipv4Addr::new(169, 254, 1, 1);

/// The hardware address of the host's end of every veth; it is seen by nobody but the pod on that veth.
pub(crate) const HOST_MAC: [u8; 6] = [0x02, 0, 0, 0, 0, 1];

/// The hardware address of both ends of the anchor.
const ANCHOR_MAC: [u8; 6] = [0x02, 0, 0, 0, 0, 2];

/// The name of the pod's end.
pub(crate) const POD_LINK: &str = "eth0";

/// The index of `lo`, which is the first link of every namespace.
pub(crate) const LOOPBACK_INDEX: u32 = 1;

/// What a pod's veth is made with.
pub(crate) struct Veth<'a> {
    pub(crate) name: &'a str,
    pub(crate) cluster: ClusterId,
    pub(crate) pod_mac: [u8; 6],
    pub(crate) pod_netns: BorrowedFd<'a>,
    pub(crate) mtu: u32,
}

/// `ip link add NAME group GROUP mtu MTU type veth peer name eth0 netns NETNS`. The peer is made inside the
/// pod's namespace, so there is no moment in which its name could clash with a link of the host. Both ends
/// get their hardware address here: systemd-udevd leaves an address alone that was set at creation.
pub(crate) fn add_veth(veth: &Veth<'_>) -> RouteRequest {
    let mut peer = LinkMessage::default();
    peer.attributes = vec![
        LinkAttribute::IfName(POD_LINK.to_owned()),
        LinkAttribute::Address(veth.pod_mac.to_vec()),
        LinkAttribute::Mtu(veth.mtu),
        LinkAttribute::NetNsFd(veth.pod_netns.as_raw_fd()),
    ];
    let mut link = LinkMessage::default();
    link.attributes = vec![
        LinkAttribute::IfName(veth.name.to_owned()),
        LinkAttribute::Address(HOST_MAC.to_vec()),
        LinkAttribute::Mtu(veth.mtu),
        LinkAttribute::Group(veth.cluster.link_group()),
        LinkAttribute::LinkInfo(vec![
            LinkInfo::Kind(InfoKind::Veth),
            LinkInfo::Data(InfoData::Veth(InfoVeth::Peer(peer))),
        ]),
    ];
    create(RouteNetlinkMessage::NewLink(link))
}

/// `ip link add NAME group GROUP type veth peer name PEER group GROUP`, both ends on the host. They have the
/// same hardware address: without ARP, packets are sent to the sender's own, and the other end is to take
/// them for its own.
pub(crate) fn add_anchor(cluster: ClusterId) -> RouteRequest {
    let mut peer = LinkMessage::default();
    peer.attributes = vec![
        LinkAttribute::IfName(cluster.anchor_peer_name()),
        LinkAttribute::Address(ANCHOR_MAC.to_vec()),
        LinkAttribute::Group(cluster.link_group()),
    ];
    let mut link = LinkMessage::default();
    link.attributes = vec![
        LinkAttribute::IfName(cluster.link_name()),
        LinkAttribute::Address(ANCHOR_MAC.to_vec()),
        LinkAttribute::Group(cluster.link_group()),
        LinkAttribute::LinkInfo(vec![
            LinkInfo::Kind(InfoKind::Veth),
            LinkInfo::Data(InfoData::Veth(InfoVeth::Peer(peer))),
        ]),
    ];
    create(RouteNetlinkMessage::NewLink(link))
}

/// `ip link set INDEX addrgenmode none`: without IPv6 addresses, a veth stays silent instead of sending
/// router solicitations and duplicate address detection from both ends of every pod.
pub(crate) fn silence_ipv6(index: u32) -> RouteRequest {
    let silent = AfSpecInet6::AddrGenMode(In6AddrGenMode::None);
    set_link(
        index,
        vec![LinkAttribute::AfSpecUnspec(vec![AfSpecUnspec::Inet6(vec![
            silent,
        ])])],
    )
}

/// `sysctl net.ipv4.conf.LINK.forwarding=1 net.ipv4.conf.LINK.rp_filter=1`, which also works where
/// `/proc/sys` is read-only. Packets that come in are passed on, but only under the pod's own address.
pub(crate) fn forward_own_packets(index: u32) -> RouteRequest {
    let mut conf = InetDevConf::default();
    conf.forwarding = 1;
    conf.rp_filter = 1;
    let inet = AfSpecUnspec::Inet(vec![AfSpecInet::DevConfRequest(conf)]);
    set_link(index, vec![LinkAttribute::AfSpecUnspec(vec![inet])])
}

/// `ip link set INDEX alias ALIAS`.
pub(crate) fn set_alias(index: u32, alias: String) -> RouteRequest {
    set_link(index, vec![LinkAttribute::IfAlias(alias)])
}

/// `ip link set INDEX up`.
pub(crate) fn set_up(index: u32) -> RouteRequest {
    let mut link = LinkMessage::default();
    link.header.index = index;
    link.header.flags = LinkFlags::Up;
    link.header.change_mask = LinkFlags::Up;
    change(RouteNetlinkMessage::SetLink(link))
}

/// `ip link set INDEX up arp off multicast off`: nothing is to be sent there.
pub(crate) fn set_up_silent(index: u32) -> RouteRequest {
    let mut link = LinkMessage::default();
    link.header.index = index;
    link.header.flags = LinkFlags::Up | LinkFlags::Noarp;
    link.header.change_mask = LinkFlags::Up | LinkFlags::Noarp | LinkFlags::Multicast;
    change(RouteNetlinkMessage::SetLink(link))
}

/// `ip link del INDEX`.
pub(crate) fn delete_link(index: u32) -> RouteRequest {
    let mut link = LinkMessage::default();
    link.header.index = index;
    change(RouteNetlinkMessage::DelLink(link))
}

/// `ip link del group GROUP`: all links of a group in one go, which takes as long as deleting one.
pub(crate) fn delete_links(group: u32) -> RouteRequest {
    let mut link = LinkMessage::default();
    link.attributes = vec![LinkAttribute::Group(group)];
    change(RouteNetlinkMessage::DelLink(link))
}

/// `ip link set INDEX group GROUP`.
pub(crate) fn set_group(index: u32, group: u32) -> RouteRequest {
    set_link(index, vec![LinkAttribute::Group(group)])
}

/// `ip link show`, of one link by its name.
pub(crate) fn get_link(name: &str) -> RouteNetlinkMessage {
    let mut link = LinkMessage::default();
    link.attributes = vec![LinkAttribute::IfName(name.to_owned()), skip_stats()];
    RouteNetlinkMessage::GetLink(link)
}

/// `ip link show`, of all links.
pub(crate) fn list_links() -> RouteNetlinkMessage {
    let mut link = LinkMessage::default();
    link.attributes = vec![skip_stats()];
    RouteNetlinkMessage::GetLink(link)
}

/// `ip address replace ADDRESS/32 dev INDEX`.
pub(crate) fn add_address(index: u32, address: Ipv4Addr) -> RouteRequest {
    Request {
        message: RouteNetlinkMessage::NewAddress(address_message(index, address)),
        flags: NLM_F_CREATE | NLM_F_REPLACE,
    }
}

/// `ip address del ADDRESS/32 dev INDEX`.
pub(crate) fn delete_address(index: u32, address: Ipv4Addr) -> RouteRequest {
    change(RouteNetlinkMessage::DelAddress(address_message(index, address)))
}

/// `ip -4 address show`.
pub(crate) fn list_addresses() -> RouteNetlinkMessage {
    let mut message = AddressMessage::default();
    message.header.family = AddressFamily::Inet;
    RouteNetlinkMessage::GetAddress(message)
}

/// `ip route replace DESTINATION dev INDEX src SOURCE scope link`.
pub(crate) fn replace_link_route(destination: Ipv4Net, index: u32, source: Ipv4Addr) -> RouteRequest {
    Request {
        flags: NLM_F_CREATE | NLM_F_REPLACE,
        ..add_link_route(destination, index, source)
    }
}

/// `ip route add DESTINATION dev INDEX src SOURCE scope link`: fails with EEXIST when there is a route.
pub(crate) fn add_link_route(destination: Ipv4Net, index: u32, source: Ipv4Addr) -> RouteRequest {
    let mut route = route_message(destination, RouteType::Unicast, RouteScope::Link);
    route.attributes.push(RouteAttribute::Oif(index));
    route.attributes.push(RouteAttribute::PrefSource(source.into()));
    create(RouteNetlinkMessage::NewRoute(route))
}

/// `ip route replace default via 169.254.1.1 dev INDEX onlink src SOURCE`.
pub(crate) fn replace_pod_default_route(index: u32, source: Ipv4Addr) -> RouteRequest {
    let mut route = route_message(Ipv4Net::default(), RouteType::Unicast, RouteScope::Universe);
    route.header.flags = RouteFlags::Onlink;
    route.attributes.extend([
        RouteAttribute::Gateway(POD_GATEWAY.into()),
        RouteAttribute::Oif(index),
        RouteAttribute::PrefSource(source.into()),
    ]);
    Request {
        message: RouteNetlinkMessage::NewRoute(route),
        flags: NLM_F_CREATE | NLM_F_REPLACE,
    }
}

/// `ip route del`, of exactly the route that was listed.
pub(crate) fn delete_route(route: RouteMessage) -> RouteRequest {
    change(RouteNetlinkMessage::DelRoute(route))
}

/// `ip -4 route show table all`.
pub(crate) fn list_routes() -> RouteNetlinkMessage {
    let mut route = RouteMessage::default();
    route.header.address_family = AddressFamily::Inet;
    RouteNetlinkMessage::GetRoute(route)
}

/// `ip neighbour replace ADDRESS lladdr MAC dev INDEX nud permanent`.
pub(crate) fn replace_neighbour(index: u32, address: Ipv4Addr, mac: [u8; 6]) -> RouteRequest {
    let mut neighbour = NeighbourMessage::default();
    neighbour.header.family = AddressFamily::Inet;
    neighbour.header.ifindex = index;
    neighbour.header.state = NeighbourState::Permanent;
    neighbour.header.kind = RouteType::Unicast;
    neighbour.attributes = vec![
        NeighbourAttribute::Destination(address.into()),
        NeighbourAttribute::LinkLayerAddress(mac.to_vec()),
    ];
    Request {
        message: RouteNetlinkMessage::NewNeighbour(neighbour),
        flags: NLM_F_CREATE | NLM_F_REPLACE,
    }
}

fn address_message(index: u32, address: Ipv4Addr) -> AddressMessage {
    let mut message = AddressMessage::default();
    message.header.family = AddressFamily::Inet;
    message.header.prefix_len = 32;
    message.header.index = index;
    message.attributes = vec![
        AddressAttribute::Local(address.into()),
        AddressAttribute::Address(address.into()),
    ];
    message
}

fn route_message(destination: Ipv4Net, kind: RouteType, scope: RouteScope) -> RouteMessage {
    let mut route = RouteMessage::default();
    route.header.address_family = AddressFamily::Inet;
    route.header.destination_prefix_length = destination.prefix_len();
    route.header.table = RouteHeader::RT_TABLE_MAIN;
    route.header.protocol = RouteProtocol::Other(ROUTE_PROTOCOL);
    route.header.scope = scope;
    route.header.kind = kind;
    if destination.prefix_len() > 0 {
        route
            .attributes
            .push(RouteAttribute::Destination(destination.network().into()));
    }
    route
}

fn set_link(index: u32, attributes: Vec<LinkAttribute>) -> RouteRequest {
    let mut link = LinkMessage::default();
    link.header.index = index;
    link.attributes = attributes;
    change(RouteNetlinkMessage::SetLink(link))
}

fn skip_stats() -> LinkAttribute {
    LinkAttribute::ExtMask(vec![LinkExtentMask::SkipStats])
}

fn create(message: RouteNetlinkMessage) -> RouteRequest {
    Request {
        message,
        flags: NLM_F_CREATE | NLM_F_EXCL,
    }
}

fn change(message: RouteNetlinkMessage) -> RouteRequest {
    Request { message, flags: 0 }
}
