//! The cluster's DNS server: names of services and pods, and everything else from the machine's resolvers.
//!
//! It follows the [Kubernetes DNS specification](https://github.com/kubernetes/dns/blob/master/docs/specification.md),
//! version 1.1.0, and where that is silent, CoreDNS.
//!
//! - `zone`: the services and endpoints, which whoever watches them sets and removes, with effect at once.
//! - `lookup`, pure: what the zone says about a name.
//! - `forward`: the questions for others.
//! - `handler`: from a request to a response; `hickory-server` does the sockets and the encoding.
//!
//! `hickory-server` logs two lines per query at level "info"; a program's log filter should silence it.

mod forward;
mod handler;
mod lookup;
#[cfg(test)]
mod server_tests;
mod zone;

pub use forward::Upstreams;
pub use zone::{HeadlessEndpoint, InvalidDomain, Port, ServiceRecords, Zone, ZoneOptions};

use futures::future::BoxFuture;
use handler::Handler;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::{TcpListener, UdpSocket};
use tokio_util::sync::CancellationToken;

/// A DNS server with its sockets open.
pub struct DnsServer {
    addresses: Vec<SocketAddr>,
    server: hickory_server::Server<Handler>,
}

/// An address that cannot be served.
#[derive(Debug, thiserror::Error)]
#[error("serve dns on {protocol} {address}")]
pub struct BindError {
    /// The address.
    pub address: SocketAddr,
    /// `udp` or `tcp`.
    pub protocol: &'static str,
    /// Why not.
    pub source: io::Error,
}

/// Why a running server ended.
#[derive(Debug, thiserror::Error)]
#[error("serve dns: {0}")]
pub struct ServeError(String);

/// A TCP client that is silent for this long is hung up on.
const TCP_IDLE: Duration = Duration::from_secs(10);
/// Answers of one TCP connection that may wait to be sent.
const TCP_ANSWERS: usize = 16;

impl DnsServer {
    /// Opens a UDP and a TCP socket on each address. Questions outside `zone` go to `upstreams`, but never
    /// to one of these addresses.
    ///
    /// # Errors
    /// When an address cannot be bound; then none is served.
    pub fn bind<'a>(
        addresses: &'a [SocketAddr],
        zone: Arc<Zone>,
        upstreams: Arc<Upstreams>,
    ) -> BoxFuture<'a, Result<Self, BindError>> {
        Box::pin(async move {
            let mut sockets = Vec::new();
            for &address in addresses {
                let failed = |protocol| {
                    move |source| BindError {
                        address,
                        protocol,
                        source,
                    }
                };
                let udp = UdpSocket::bind(address).await.map_err(failed("udp"))?;
                // With port 0, the port that UDP got.
                let address = udp.local_addr().map_err(failed("udp"))?;
                sockets.push((
                    address,
                    udp,
                    TcpListener::bind(address).await.map_err(failed("tcp"))?,
                ));
            }
            let addresses: Vec<_> = sockets.iter().map(|(address, ..)| *address).collect();
            let mut server = hickory_server::Server::new(Handler::new(zone, upstreams, addresses.clone()));
            for (_, udp, tcp) in sockets {
                server.register_socket(udp);
                server.register_listener(tcp, TCP_IDLE, TCP_ANSWERS);
            }
            Ok(Self { addresses, server })
        })
    }

    /// The addresses that are served, with the ports the kernel chose where port 0 was asked for.
    pub fn addresses(&self) -> &[SocketAddr] {
        &self.addresses
    }

    /// Serves until `cancel`.
    ///
    /// # Errors
    /// When a socket breaks.
    pub fn run(mut self, cancel: CancellationToken) -> BoxFuture<'static, Result<(), ServeError>> {
        Box::pin(async move {
            let ended = tokio::select! {
                ended = self.server.block_until_done() => ended,
                () = cancel.cancelled() => self.server.shutdown_gracefully().await,
            };
            ended.map_err(|error| ServeError(error.to_string()))
        })
    }
}
