//! Makes connection tracking forget UDP connections that lead to the wrong place.
//!
//! Translation is decided once per connection, and a UDP "connection" lasts as long as somebody keeps
//! sending: a client that repeats its request every second would never learn that its endpoint is gone, or
//! that the node port it tries is served by now. The table is read and the entries are deleted one by one,
//! as only recent kernels can do this by themselves. That takes time with the number of connections of the
//! machine, and happens only when UDP services change.

use super::plan::Stale;
use super::pool::Frontend;
use super::service::Protocol;
use crate::netlink::{Netlink, Request};
use netlink_packet_netfilter::conntrack::{
    ConntrackAttribute, ConntrackMessage, IPTuple, ProtoTuple, Protocol as IpProtocol, Status, Tuple,
};
use netlink_packet_netfilter::{
    NetfilterHeader, NetfilterMessage, NetfilterMessageInner, NetfilterProtoFamily,
};
use netlink_sys::protocols::NETLINK_NETFILTER;
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddrV4};

/// Deletes the connections that `stale` is about, and returns how many there were.
pub(super) fn forget(stale: &Stale) -> io::Result<usize> {
    let mut netlink = Netlink::open(NETLINK_NETFILTER)?;
    let all = netlink.dump(message(ConntrackMessage::Get(Vec::new())))?;
    let deletions: Vec<_> = all
        .into_iter()
        .filter_map(|message| deletion(message, stale))
        .collect();
    let found = deletions.len();
    if found > 0 {
        // One that has ended meanwhile is as good as deleted.
        netlink.transact(deletions)?;
    }
    Ok(found)
}

/// The request to delete a listed connection, if it is stale.
fn deletion(listed: NetfilterMessage, stale: &Stale) -> Option<Request<NetfilterMessage>> {
    let NetfilterMessageInner::Conntrack(ConntrackMessage::New(attributes)) = listed.inner else {
        return None;
    };
    let mut original = None;
    let (mut reply_source, mut translated) = (None, false);
    for attribute in attributes {
        match attribute {
            ConntrackAttribute::CtaTupleOrig(tuple) => original = Some(tuple),
            ConntrackAttribute::CtaTupleReply(tuple) => {
                reply_source = udp_ends(&tuple).map(|(source, _)| source)
            }
            ConntrackAttribute::CtaStatus(status) => translated = status.contains(Status::DstNat),
            _ => {}
        }
    }
    let original = original?;
    let (_, destination) = udp_ends(&original)?;
    is_stale(stale, destination, reply_source?, translated).then(|| Request {
        message: message(ConntrackMessage::Delete(vec![ConntrackAttribute::CtaTupleOrig(
            original,
        )])),
        flags: 0,
    })
}

fn is_stale(stale: &Stale, destination: SocketAddrV4, served_by: SocketAddrV4, translated: bool) -> bool {
    if translated {
        return stale.endpoints.contains(&served_by);
    }
    let protocol = Protocol::Udp;
    let port = destination.port();
    let address = Frontend::Address {
        address: *destination.ip(),
        protocol,
        port,
    };
    stale.frontends.contains(&address) || stale.frontends.contains(&Frontend::NodePort { protocol, port })
}

/// Source and destination of a UDP connection over IPv4.
fn udp_ends(tuples: &[Tuple]) -> Option<(SocketAddrV4, SocketAddrV4)> {
    let unset = SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, 0);
    let (mut source, mut destination, mut is_udp) = (unset, unset, false);
    for tuple in tuples {
        match tuple {
            Tuple::Ip(ips) => ips.iter().for_each(|ip| match ip {
                IPTuple::SourceAddress(IpAddr::V4(ip)) => source.set_ip(*ip),
                IPTuple::DestinationAddress(IpAddr::V4(ip)) => destination.set_ip(*ip),
                _ => {}
            }),
            Tuple::Proto(protos) => protos.iter().for_each(|proto| match proto {
                ProtoTuple::Protocol(protocol) => is_udp = *protocol == IpProtocol::Udp,
                ProtoTuple::SourcePort(port) => source.set_port(*port),
                ProtoTuple::DestinationPort(port) => destination.set_port(*port),
                _ => {}
            }),
            _ => {}
        }
    }
    is_udp.then_some((source, destination))
}

fn message(inner: ConntrackMessage) -> NetfilterMessage {
    NetfilterMessage::new(NetfilterHeader::new(NetfilterProtoFamily::IPv4, 0, 0), inner)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_connection_is_stale_by_its_endpoint_if_translated_and_else_by_its_destination() {
        let stale = Stale {
            endpoints: ["10.244.0.1:53".parse().unwrap()].into(),
            frontends: [
                Frontend::NodePort {
                    protocol: Protocol::Udp,
                    port: 30053,
                },
                Frontend::Address {
                    address: Ipv4Addr::new(10, 96, 0, 5),
                    protocol: Protocol::Udp,
                    port: 53,
                },
            ]
            .into(),
        };
        let cases = [
            ("10.96.0.5:53", "10.244.0.1:53", true, true),
            ("10.96.0.5:53", "10.244.0.2:53", true, false),
            ("10.96.0.5:53", "10.96.0.5:53", false, true),
            ("10.96.0.6:53", "10.96.0.6:53", false, false),
            ("10.160.16.1:30053", "10.160.16.1:30053", false, true),
            ("10.244.0.1:53", "10.244.0.1:53", false, false),
        ];
        for (destination, served_by, translated, expected) in cases {
            let (destination, served_by) = (destination.parse().unwrap(), served_by.parse().unwrap());
            assert_eq!(
                is_stale(&stale, destination, served_by, translated),
                expected,
                "{destination} {served_by}"
            );
        }
    }
}
