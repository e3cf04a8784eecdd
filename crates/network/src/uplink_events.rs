//! Notices when the machine gets another way out: a laptop that changes networks, a VPN that comes up.

use crate::host;
use crate::netlink;
use crate::node::Network;
use futures::future::BoxFuture;
use netlink_packet_core::NetlinkPayload;
use netlink_packet_route::RouteNetlinkMessage;
use netlink_sys::protocols::NETLINK_ROUTE;
use netlink_sys::{AsyncSocket, AsyncSocketExt, SocketAddr, TokioSocket};
use std::io;
use tokio_util::sync::CancellationToken;

/// `RTNLGRP_IPV4_ROUTE`: changes of IPv4 routes.
const ROUTE_GROUP: u32 = 7;

impl Network {
    /// Calls [`Network::sync_uplinks`] whenever a route that leads out of the machine is added or changed,
    /// until `cancel`. Costs nothing while there is none. To be run on a thread in the network's namespace.
    ///
    /// # Errors
    /// When the kernel's notices cannot be read. A failed look at the uplinks is logged, and made up for by
    /// the next one.
    pub fn follow_uplinks<'a>(&'a self, cancel: CancellationToken) -> BoxFuture<'a, io::Result<()>> {
        Box::pin(async move {
            let socket = subscribe()?;
            // What happened before the subscription.
            self.sync_or_log();
            loop {
                let received = tokio::select! {
                    received = socket.recv_from_full() => received,
                    () = cancel.cancelled() => return Ok(()),
                };
                match received {
                    Ok((datagram, _)) if !leads_out(&datagram) => {}
                    Ok(_) => self.sync_or_log(),
                    // Notices were lost: any of them may have mattered.
                    Err(error) if error.raw_os_error() == Some(nix::libc::ENOBUFS) => self.sync_or_log(),
                    Err(error) => return Err(error),
                }
            }
        })
    }

    fn sync_or_log(&self) {
        if let Err(error) = self.sync_uplinks() {
            tracing::warn!(%error, "look at the uplinks");
        }
    }
}

fn subscribe() -> io::Result<TokioSocket> {
    let mut socket = TokioSocket::new(NETLINK_ROUTE)?;
    socket.socket_mut().bind(&SocketAddr::new(0, 0))?;
    socket.socket_ref().add_membership(ROUTE_GROUP)?;
    Ok(socket)
}

/// Whether one of a datagram's notices is about a new way out.
fn leads_out(datagram: &[u8]) -> bool {
    let notices = netlink::parse::<RouteNetlinkMessage>(datagram);
    notices.into_iter().any(|notice| match notice.payload {
        NetlinkPayload::InnerMessage(RouteNetlinkMessage::NewRoute(route)) => host::leads_out(&route),
        _ => false,
    })
}
