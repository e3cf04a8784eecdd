//! What the machine's network looks like: its links, addresses and routes, read over rtnetlink.
//!
//! Reading is separate from deciding: the functions that choose ranges, uplinks and what to clean up take
//! a [`Host`], a plain value. Only IPv4 is read; IPv6 is outside this crate's scope.

use crate::cluster::{ANCHOR_PREFIX, ClusterId, ROUTE_PROTOCOL};
use crate::netlink::Netlink;
use crate::rtnl;
use ipnet::Ipv4Net;
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::address::{AddressAttribute, AddressMessage};
use netlink_packet_route::link::{LinkAttribute, LinkMessage};
use netlink_packet_route::route::{
    RouteAddress, RouteAttribute, RouteHeader, RouteMessage, RouteProtocol, RouteType,
};
use netlink_sys::protocols::NETLINK_ROUTE;
use std::io;
use std::net::{IpAddr, Ipv4Addr};

/// The machine's network at one moment.
#[derive(Debug, Default)]
pub(crate) struct Host {
    pub(crate) links: Vec<Link>,
    pub(crate) addresses: Vec<Address>,
    pub(crate) routes: Vec<Route>,
}

/// A network interface.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Link {
    pub(crate) index: u32,
    pub(crate) name: String,
    pub(crate) alias: String,
    pub(crate) group: u32,
    pub(crate) mtu: u32,
    /// The index of a veth's other end, in that end's namespace.
    pub(crate) peer_index: u32,
}

/// An address of a link.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Address {
    pub(crate) link: u32,
    pub(crate) address: Ipv4Net,
}

/// A route of any table but the local one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Route {
    pub(crate) destination: Ipv4Net,
    /// The links it leads out of; none for `unreachable` and its like.
    pub(crate) links: Vec<u32>,
    /// Whether this crate made it.
    pub(crate) ours: bool,
    /// The route as it was listed, for deleting it.
    pub(crate) message: RouteMessage,
}

const RT_TABLE_LOCAL: u8 = 255;

/// All IPv4 prefixes that the machine has an address in or a route to, for [`crate::Ranges::choose`].
/// Default routes and other halves of the address space are no obstacle and are left out.
///
/// # Errors
/// When the kernel cannot be asked.
pub fn used_prefixes() -> io::Result<Vec<Ipv4Net>> {
    Ok(Host::read(&mut Netlink::open(NETLINK_ROUTE)?)?.used_prefixes())
}

impl Host {
    pub(crate) fn read(netlink: &mut Netlink) -> io::Result<Self> {
        let routes = netlink
            .dump(rtnl::list_routes())?
            .into_iter()
            .filter_map(|message| match message {
                RouteNetlinkMessage::NewRoute(route) => route_of(route),
                _ => None,
            });
        Ok(Self {
            routes: routes.collect(),
            addresses: read_addresses(netlink)?,
            links: read_links(netlink)?,
        })
    }

    pub(crate) fn used_prefixes(&self) -> Vec<Ipv4Net> {
        let routes = self
            .routes
            .iter()
            .map(|route| route.destination)
            .filter(|net| net.prefix_len() > 1);
        self.addresses
            .iter()
            .map(|address| address.address.trunc())
            .chain(routes)
            .collect()
    }

    pub(crate) fn anchor(&self, cluster: ClusterId) -> Option<&Link> {
        let name = cluster.link_name();
        self.links.iter().find(|link| link.name == name)
    }

    /// The anchor links of the other clusters in this namespace.
    pub(crate) fn other_anchors(&self, cluster: ClusterId) -> impl Iterator<Item = &Link> {
        let own = cluster.link_name();
        self.links
            .iter()
            .filter(move |link| link.name.starts_with(ANCHOR_PREFIX) && link.name != own)
    }

    /// The links that lead out of the machine.
    pub(crate) fn uplinks(&self) -> Vec<&Link> {
        let leads_out = |link: &&Link| {
            link.index != rtnl::LOOPBACK_INDEX
                && self
                    .routes
                    .iter()
                    .any(|route| leads_out(&route.message) && route.links.contains(&link.index))
        };
        self.links.iter().filter(leads_out).collect()
    }
}

#[cfg(test)]
impl Route {
    /// A route of somebody else.
    pub(crate) fn to(destination: &str, links: &[u32]) -> Self {
        let destination: Ipv4Net = destination.parse().expect("a prefix");
        let mut message = RouteMessage::default();
        message.header.kind = RouteType::Unicast;
        message.header.destination_prefix_length = destination.prefix_len();
        Self {
            destination,
            links: links.to_vec(),
            ours: false,
            message,
        }
    }
}

/// Whether a route leads out of the machine: a default route, or one to half of the address space, which is
/// how VPNs put themselves before it; in whichever table.
pub(crate) fn leads_out(route: &RouteMessage) -> bool {
    route.header.kind == RouteType::Unicast && route.header.destination_prefix_length <= 1
}

pub(crate) fn read_links(netlink: &mut Netlink) -> io::Result<Vec<Link>> {
    let links = netlink.dump(rtnl::list_links())?;
    Ok(links.into_iter().filter_map(link_of).collect())
}

/// One link by name.
pub(crate) fn read_link(netlink: &mut Netlink, name: &str) -> io::Result<Option<Link>> {
    match netlink.query(rtnl::get_link(name)) {
        Ok(message) => Ok(link_of(message)),
        Err(error) if error.raw_os_error() == Some(nix::libc::ENODEV) => Ok(None),
        Err(error) => Err(error),
    }
}

/// Makes a veth's end usable that was set up before the other one. The kernel starts its queue only from a
/// background job, and until then drops what is sent there, so that a pod's first connection could take a
/// second longer. Asking for a link makes it do that job first (since Linux 6.8).
pub(crate) fn settle(netlink: &mut Netlink, name: &str) -> io::Result<()> {
    read_link(netlink, name).map(drop)
}

fn read_addresses(netlink: &mut Netlink) -> io::Result<Vec<Address>> {
    let addresses = netlink.dump(rtnl::list_addresses())?;
    Ok(addresses.into_iter().filter_map(address_of).collect())
}

fn link_of(message: RouteNetlinkMessage) -> Option<Link> {
    let RouteNetlinkMessage::NewLink(LinkMessage {
        header, attributes, ..
    }) = message
    else {
        return None;
    };
    let mut link = Link {
        index: header.index,
        ..Link::default()
    };
    for attribute in attributes {
        match attribute {
            LinkAttribute::IfName(name) => link.name = name,
            LinkAttribute::IfAlias(alias) => link.alias = alias,
            LinkAttribute::Group(group) => link.group = group,
            LinkAttribute::Mtu(mtu) => link.mtu = mtu,
            LinkAttribute::Link(index) => link.peer_index = index,
            _ => {}
        }
    }
    Some(link)
}

fn address_of(message: RouteNetlinkMessage) -> Option<Address> {
    let RouteNetlinkMessage::NewAddress(AddressMessage {
        header, attributes, ..
    }) = message
    else {
        return None;
    };
    // `Local` is the link's own address; `Address` is the other side's on a point-to-point link.
    let own = attributes.iter().find_map(|attribute| match attribute {
        AddressAttribute::Local(IpAddr::V4(address)) => Some(*address),
        _ => None,
    })?;
    Some(Address {
        link: header.index,
        address: Ipv4Net::new(own, header.prefix_len).ok()?,
    })
}

fn route_of(message: RouteMessage) -> Option<Route> {
    let header = &message.header;
    if header.table == RT_TABLE_LOCAL || matches!(header.kind, RouteType::Multicast | RouteType::Broadcast) {
        return None;
    }
    let (mut destination, mut links) = (Ipv4Addr::UNSPECIFIED, Vec::new());
    for attribute in &message.attributes {
        match attribute {
            RouteAttribute::Destination(RouteAddress::Inet(address)) => destination = *address,
            RouteAttribute::Oif(index) => links.push(*index),
            RouteAttribute::MultiPath(hops) => links.extend(hops.iter().map(|hop| hop.interface_index)),
            _ => {}
        }
    }
    Some(Route {
        destination: Ipv4Net::new(destination, header.destination_prefix_length).ok()?,
        links,
        ours: header.protocol == RouteProtocol::Other(ROUTE_PROTOCOL)
            && header.table == RouteHeader::RT_TABLE_MAIN,
        message,
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn link(index: u32, name: &str) -> Link {
        Link {
            index,
            name: name.to_owned(),
            ..Link::default()
        }
    }

    #[test]
    fn uplinks_are_the_links_of_default_routes_and_of_halves_of_the_address_space() {
        let host = Host {
            links: vec![
                link(1, "lo"),
                link(2, "eth0"),
                link(3, "wlan0"),
                link(4, "tun0"),
                link(5, "docker0"),
            ],
            routes: vec![
                Route::to("0.0.0.0/0", &[2, 3]),
                Route::to("128.0.0.0/1", &[4]),
                Route::to("172.17.0.0/16", &[5]),
                Route::to("0.0.0.0/0", &[]),
            ],
            addresses: Vec::new(),
        };
        let names: Vec<_> = host
            .uplinks()
            .into_iter()
            .map(|link| link.name.as_str())
            .collect();
        assert_eq!(names, ["eth0", "wlan0", "tun0"]);
    }

    #[test]
    fn prefixes_in_use_are_those_of_addresses_and_of_routes_but_not_the_default_route() {
        let host = Host {
            links: Vec::new(),
            routes: vec![Route::to("0.0.0.0/0", &[2]), Route::to("10.8.0.0/16", &[4])],
            addresses: vec![Address {
                link: 2,
                address: "192.168.7.5/24".parse().unwrap(),
            }],
        };
        let used: Vec<_> = host.used_prefixes().iter().map(Ipv4Net::to_string).collect();
        assert_eq!(used, ["192.168.7.0/24", "10.8.0.0/16"]);
    }

    #[test]
    fn anchor_links_of_other_clusters_are_told_from_the_own_one() {
        let cluster: ClusterId = "00000a".parse().unwrap();
        let links = vec![
            link(1, "lo"),
            link(2, "stead-00000a"),
            link(3, "stead-00000b"),
            link(4, "sv00000babc"),
        ];
        let host = Host {
            links,
            ..Host::default()
        };
        assert_eq!(host.anchor(cluster).unwrap().index, 2);
        assert_eq!(
            host.other_anchors(cluster)
                .map(|link| link.index)
                .collect::<Vec<_>>(),
            [3]
        );
    }
}
