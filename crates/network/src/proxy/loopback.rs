//! Node ports on 127.0.0.1.
//!
//! The kernel can translate a packet from 127.0.0.1 to a pod only with `route_localnet`, which also lets
//! packets for 127.0.0.1 in from the network. So these ports are served by listeners that copy bytes
//! between the client and an endpoint. Endpoints see the node's address as the client's.
//!
//! Each listener is one task that owns the tasks of its connections; ending it ends them. SCTP is left out.

use super::service::{Protocol, ServicePort, ServicePortKey};
use nix::sys::socket::{Shutdown, shutdown};
use std::collections::{BTreeMap, HashMap};
use std::io;
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4};
use std::os::fd::AsRawFd;
use std::sync::{Arc, OnceLock};
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::runtime::Handle;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio_util::task::AbortOnDropHandle;

/// A node port that cannot be served on 127.0.0.1.
#[derive(Debug)]
pub struct TakenPort {
    /// The service port that has it.
    pub key: ServicePortKey,
    /// TCP or UDP.
    pub protocol: Protocol,
    /// The node port.
    pub port: u16,
    /// Why; usually the address is in use.
    pub source: io::Error,
}

/// The listeners of all node ports.
pub(super) struct Loopback {
    runtime: Handle,
    listeners: BTreeMap<ServicePortKey, Listener>,
}

/// What is to be served for a service port.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Wanted {
    protocol: Protocol,
    port: u16,
    backends: Backends,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Backends {
    endpoints: Vec<SocketAddrV4>,
    /// All clients have one address here, so affinity is to stay with one endpoint.
    affinity: bool,
}

struct Listener {
    protocol: Protocol,
    port: u16,
    backends: watch::Sender<Backends>,
    socket: Arc<OnceLock<Bound>>,
    _task: AbortOnDropHandle<()>,
}

/// How often a taken port is tried again.
const RETRY: Duration = Duration::from_secs(1);
/// A UDP client that was silent for this long gets a new socket when it comes back.
const UDP_IDLE: Duration = Duration::from_secs(60);
/// Clients of one UDP node port at a time; each costs a socket.
const UDP_CLIENTS: usize = 1024;
const LARGEST_DATAGRAM: usize = 65535;

/// An open socket on 127.0.0.1.
enum Bound {
    Tcp(TcpListener),
    Udp(Arc<UdpSocket>),
}

impl Drop for Listener {
    /// The task ends in its own time, but from now on clients are to be refused, and the port is free.
    fn drop(&mut self) {
        if let Some(Bound::Tcp(listener)) = self.socket.get() {
            let _ = shutdown(listener.as_raw_fd(), Shutdown::Both);
        }
    }
}

impl Loopback {
    pub(super) fn new(runtime: Handle) -> Self {
        Self {
            runtime,
            listeners: BTreeMap::new(),
        }
    }

    /// Takes in changed service ports, and returns those whose node port is taken. Those are tried again
    /// until they are free.
    pub(super) fn update<'a>(
        &mut self,
        updates: impl Iterator<Item = (&'a ServicePortKey, Option<&'a ServicePort>)>,
    ) -> Vec<TakenPort> {
        let (mut to_open, mut freed) = (Vec::new(), BTreeMap::new());
        for (key, port) in updates {
            let wanted = port.and_then(wanted);
            if wanted.as_ref().is_some_and(|wanted| self.keeps(key, wanted)) {
                continue;
            }
            if let Some(listener) = self.listeners.remove(key) {
                freed.insert((listener.protocol, listener.port), listener);
            }
            to_open.extend(wanted.map(|wanted| (key.clone(), wanted)));
        }
        let mut taken = Vec::new();
        let _inside = self.runtime.enter();
        for (
            key,
            Wanted {
                protocol,
                port,
                backends,
            },
        ) in to_open
        {
            // A port may pass from one service to another, with its connections.
            if let Some(listener) = freed.remove(&(protocol, port)) {
                listener.backends.send_replace(backends);
                self.listeners.insert(key, listener);
                continue;
            }
            let socket = Arc::new(OnceLock::new());
            match bind(protocol, port) {
                Ok(bound) => drop(socket.set(bound)),
                Err(source) => taken.push(TakenPort {
                    key: key.clone(),
                    protocol,
                    port,
                    source,
                }),
            }
            let (backends, receiver) = watch::channel(backends);
            let task = self
                .runtime
                .spawn(serve(Arc::clone(&socket), protocol, port, receiver));
            let _task = AbortOnDropHandle::new(task);
            self.listeners.insert(
                key,
                Listener {
                    protocol,
                    port,
                    backends,
                    socket,
                    _task,
                },
            );
        }
        taken
    }

    /// Whether a listener on the wanted port is there; it gets the new endpoints.
    fn keeps(&self, key: &ServicePortKey, wanted: &Wanted) -> bool {
        let listener = self.listeners.get(key);
        let same = listener.filter(|found| (found.protocol, found.port) == (wanted.protocol, wanted.port));
        if let Some(listener) = same {
            listener.backends.send_replace(wanted.backends.clone());
        }
        same.is_some()
    }
}

/// Opens the socket for a node port. To be called inside a runtime.
fn bind(protocol: Protocol, port: u16) -> io::Result<Bound> {
    let address = SocketAddrV4::new(Ipv4Addr::LOCALHOST, port);
    if protocol == Protocol::Udp {
        let socket = std::net::UdpSocket::bind(address)?;
        socket.set_nonblocking(true)?;
        return Ok(Bound::Udp(Arc::new(UdpSocket::from_std(socket)?)));
    }
    let listener = std::net::TcpListener::bind(address)?;
    listener.set_nonblocking(true)?;
    Ok(Bound::Tcp(TcpListener::from_std(listener)?))
}

/// What to serve for a service port, if anything. Clients on the node get all endpoints whatever the
/// external policy, and are refused when there are none.
fn wanted(service: &ServicePort) -> Option<Wanted> {
    let port = service.node_port?;
    if service.protocol == Protocol::Sctp || service.endpoints.is_empty() {
        return None;
    }
    let endpoints = service
        .endpoints
        .iter()
        .map(|endpoint| endpoint.address)
        .collect();
    let backends = Backends {
        endpoints,
        affinity: service.affinity.is_some(),
    };
    Some(Wanted {
        protocol: service.protocol,
        port,
        backends,
    })
}

impl Backends {
    /// The endpoints to try for the `turn`th client, in order.
    fn in_turn(&self, turn: usize) -> impl Iterator<Item = SocketAddrV4> {
        let first = if self.affinity {
            0
        } else {
            turn % self.endpoints.len().max(1)
        };
        let (before, after) = self.endpoints.split_at(first.min(self.endpoints.len()));
        after.iter().chain(before).copied()
    }
}

/// Serves a node port, as soon as it is free.
async fn serve(
    socket: Arc<OnceLock<Bound>>,
    protocol: Protocol,
    port: u16,
    backends: watch::Receiver<Backends>,
) {
    loop {
        match socket.get() {
            Some(Bound::Tcp(listener)) => return serve_tcp(listener, backends).await,
            Some(Bound::Udp(socket)) => return serve_udp(socket, backends).await,
            // Nothing tells when a port becomes free.
            None => tokio::time::sleep(RETRY).await,
        }
        if let Ok(bound) = bind(protocol, port) {
            drop(socket.set(bound));
        }
    }
}

async fn serve_tcp(listener: &TcpListener, backends: watch::Receiver<Backends>) {
    let mut connections = JoinSet::new();
    let mut turn = 0_usize;
    loop {
        let client = tokio::select! {
            accepted = listener.accept() => accepted,
            // Ended connections are collected as they end.
            Some(_) = connections.join_next() => continue,
        };
        match client {
            Ok((client, _)) => {
                let endpoints: Vec<_> = backends.borrow().in_turn(turn).collect();
                connections.spawn(copy_tcp(client, endpoints));
                turn = turn.wrapping_add(1);
            }
            // The listener was shut down.
            Err(error) if error.kind() == io::ErrorKind::InvalidInput => return,
            // Out of file descriptors; nothing tells when there are some again.
            Err(error) => {
                tracing::warn!(%error, "accept a connection to a node port");
                tokio::time::sleep(RETRY).await;
            }
        }
    }
}

/// Connects to the first endpoint that answers and copies until both sides are done.
async fn copy_tcp(mut client: TcpStream, endpoints: Vec<SocketAddrV4>) {
    for endpoint in endpoints {
        match TcpStream::connect(endpoint).await {
            Ok(mut server) => {
                // Small messages are to pass through as they come.
                let _ = (client.set_nodelay(true), server.set_nodelay(true));
                if let Err(error) = tokio::io::copy_bidirectional(&mut client, &mut server).await {
                    tracing::debug!(%error, %endpoint, "a connection to a node port broke");
                }
                return;
            }
            Err(error) => tracing::debug!(%error, %endpoint, "connect to an endpoint of a node port"),
        }
    }
}

/// A UDP client: its socket towards the endpoint.
struct Session {
    endpoint: SocketAddrV4,
    socket: Arc<UdpSocket>,
}

async fn serve_udp(socket: &Arc<UdpSocket>, backends: watch::Receiver<Backends>) {
    let mut sessions: HashMap<SocketAddr, Session> = HashMap::new();
    let mut returns = JoinSet::new();
    let mut datagram = vec![0; LARGEST_DATAGRAM];
    let mut turn = 0_usize;
    loop {
        let (length, client) = tokio::select! {
            received = socket.recv_from(&mut datagram) => match received {
                Ok(received) => received,
                // An endpoint's "port unreachable" for an earlier answer.
                Err(_) => continue,
            },
            Some(ended) = returns.join_next() => {
                if let Ok((client, ended)) = ended
                    && sessions.get(&client).is_some_and(|session| Arc::ptr_eq(&session.socket, &ended))
                {
                    sessions.remove(&client);
                }
                continue;
            }
        };
        let candidates: Vec<_> = backends.borrow().in_turn(turn).collect();
        let live = sessions
            .get(&client)
            .filter(|session| candidates.contains(&session.endpoint));
        let upstream = match live {
            Some(session) => Arc::clone(&session.socket),
            None if sessions.len() >= UDP_CLIENTS => continue,
            None => match open_session(&candidates).await {
                Ok(session) => {
                    turn = turn.wrapping_add(1);
                    let upstream = Arc::clone(&session.socket);
                    sessions.insert(client, session);
                    returns.spawn(return_udp(client, Arc::clone(&upstream), Arc::clone(socket)));
                    upstream
                }
                Err(error) => {
                    tracing::debug!(%error, "open a socket to an endpoint of a node port");
                    continue;
                }
            },
        };
        // A datagram that cannot be sent is lost, as datagrams are.
        let _ = upstream.send(&datagram[..length]).await;
    }
}

async fn open_session(candidates: &[SocketAddrV4]) -> io::Result<Session> {
    let endpoint = *candidates.first().ok_or(io::ErrorKind::NotConnected)?;
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).await?;
    socket.connect(endpoint).await?;
    Ok(Session {
        endpoint,
        socket: Arc::new(socket),
    })
}

/// Passes an endpoint's answers back until there are none for a while.
async fn return_udp(
    client: SocketAddr,
    upstream: Arc<UdpSocket>,
    socket: Arc<UdpSocket>,
) -> (SocketAddr, Arc<UdpSocket>) {
    let mut datagram = vec![0; LARGEST_DATAGRAM];
    while let Ok(Ok(length)) = tokio::time::timeout(UDP_IDLE, upstream.recv(&mut datagram)).await {
        let _ = socket.send_to(&datagram[..length], client).await;
    }
    (client, upstream)
}
