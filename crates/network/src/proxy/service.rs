//! What services there are to be: the proxy's input, as plain data.
//!
//! One [`ServicePort`] is one port of one service; whoever fills it has already sorted out which endpoints
//! are ready and which addresses belong to the service.

use std::fmt;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::time::Duration;

/// One port of a service. The port's name may be empty, as it may be in a service with a single port.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ServicePortKey {
    /// The service's namespace.
    pub namespace: String,
    /// The service's name.
    pub service: String,
    /// The port's name.
    pub port: String,
}

/// A transport protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Protocol {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
    /// SCTP. Its node ports are not served on 127.0.0.1.
    Sctp,
}

/// Where a service sends its clients.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Endpoint {
    /// Where it listens.
    pub address: SocketAddrV4,
    /// Whether it is on this node, which matters to [`TrafficPolicy::Local`].
    pub local: bool,
}

/// Which endpoints a client may get.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum TrafficPolicy {
    /// All of them. Clients from outside the cluster are seen under the node's address.
    #[default]
    Cluster,
    /// Those on this node only. Clients from outside keep their address.
    Local,
}

/// How one port of a service is to be served.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServicePort {
    /// The service's cluster IPs (none for a headless service).
    pub cluster_ips: Vec<Ipv4Addr>,
    /// Its external and load balancer addresses.
    pub external_ips: Vec<Ipv4Addr>,
    /// The protocol of all its addresses.
    pub protocol: Protocol,
    /// The port on those addresses.
    pub port: u16,
    /// The port on the node, if any.
    pub node_port: Option<u16>,
    /// The port on the addresses by which other machines know this one, if any: where a load balancer is opened to
    /// them. It is served as a node port is, but not on 127.0.0.1.
    pub host_port: Option<u16>,
    /// The endpoints that are to receive connections. With none, clients are refused.
    pub endpoints: Vec<Endpoint>,
    /// Keeps a client on its endpoint until it was idle for this long (session affinity `ClientIP`).
    pub affinity: Option<Duration>,
    /// Applies to external addresses and the node port. Clients inside the cluster are not bound by it.
    pub external_policy: TrafficPolicy,
    /// Applies to the cluster IPs.
    pub internal_policy: TrafficPolicy,
}

impl Protocol {
    /// The number in the IP header.
    pub(crate) fn number(self) -> u8 {
        match self {
            Self::Tcp => 6,
            Self::Udp => 17,
            Self::Sctp => 132,
        }
    }
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Tcp => "TCP",
            Self::Udp => "UDP",
            Self::Sctp => "SCTP",
        })
    }
}

impl fmt::Display for ServicePortKey {
    /// `namespace/service/port`, which is also a valid name in nftables.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}/{}", self.namespace, self.service, self.port)
    }
}
