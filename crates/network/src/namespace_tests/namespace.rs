//! Namespaces, servers and clients to test with.

use crate::host::{self, Host};
use crate::netlink::Netlink;
use crate::nft::Nft;
use crate::node::send;
use crate::rtnl::{self, Veth};
use crate::{ClusterId, Network, Options, Ranges};
use ipnet::Ipv4Net;
use netlink_packet_netfilter::nftables::ChainAttribute;
use netlink_sys::protocols::NETLINK_ROUTE;
use nix::sched::{CloneFlags, setns, unshare};
use nix::sys::socket::{Shutdown, shutdown};
use std::fs::File;
use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4, TcpListener, TcpStream, UdpSocket};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

/// Long enough for a loaded machine; what is refused "at once" is compared with less.
const PATIENCE: Duration = Duration::from_secs(5);

/// A network namespace of its own, with `lo` up and forwarding off.
pub(super) struct Namespace(File);

impl Namespace {
    pub(super) fn new() -> Self {
        let made = std::thread::spawn(|| {
            unshare(CloneFlags::CLONE_NEWNET).unwrap();
            let mut route = Netlink::open(NETLINK_ROUTE).unwrap();
            send(&mut route, vec![rtnl::set_up(rtnl::LOOPBACK_INDEX)]).unwrap();
            std::fs::write("/proc/sys/net/ipv4/ip_forward", "0").unwrap();
            File::open("/proc/thread-self/ns/net").unwrap()
        });
        Self(made.join().unwrap())
    }

    /// Runs `action` on a thread inside the namespace.
    pub(super) fn run<T: Send>(&self, action: impl FnOnce() -> T + Send) -> T {
        std::thread::scope(|scope| {
            let inside = move || {
                setns(&self.0, CloneFlags::CLONE_NEWNET).unwrap();
                action()
            };
            scope
                .spawn(inside)
                .join()
                .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    }

    pub(super) fn fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }

    /// Runs rtnetlink requests inside.
    pub(super) fn route<T: Send>(&self, action: impl FnOnce(&mut Netlink) -> T + Send) -> T {
        self.run(|| action(&mut Netlink::open(NETLINK_ROUTE).unwrap()))
    }

    /// Joins this namespace, as `name` with the address `address`/24, with `other` as `eth0`, with the
    /// next address. The other one gets no route.
    pub(super) fn join(&self, name: &str, other: &Namespace, address: Ipv4Addr) {
        let cluster = "ffffff".parse().unwrap();
        let next = Ipv4Addr::from_bits(address.to_bits() + 1);
        let index = self.route(|route| {
            let veth = Veth {
                name,
                cluster,
                pod_mac: [6, 0, 0, 0, 0, 9],
                pod_netns: other.fd(),
                mtu: 1400,
            };
            send(route, vec![rtnl::add_veth(&veth)]).unwrap();
            let link = host::read_link(route, name).unwrap().unwrap();
            connect(route, link.index, address);
            link.peer_index
        });
        other.route(|route| connect(route, index, next));
    }

    /// Adds a default route.
    pub(super) fn default_route(&self, link: &str) {
        self.add_route(link, Ipv4Net::default());
    }

    pub(super) fn add_route(&self, link: &str, destination: Ipv4Net) {
        self.route(|route| {
            let link = host::read_link(route, link).unwrap().unwrap();
            let host = Host::read(route).unwrap();
            let source = host
                .addresses
                .iter()
                .find(|address| address.link == link.index)
                .unwrap();
            let mut request = rtnl::add_link_route(destination, link.index, source.address.addr());
            if let netlink_packet_route::RouteNetlinkMessage::NewRoute(message) = &mut request.message {
                message.header.protocol = netlink_packet_route::route::RouteProtocol::Static;
            }
            send(route, vec![request]).unwrap();
        });
    }

    /// Everything the cluster could leave behind: links, addresses, routes, settings, tables.
    pub(super) fn snapshot(&self) -> String {
        self.run(|| {
            let read = |path: &str| std::fs::read_to_string(path).unwrap();
            let host = Host::read(&mut Netlink::open(NETLINK_ROUTE).unwrap()).unwrap();
            let links: Vec<_> = host
                .links
                .iter()
                .map(|link| format!("{} {:?}", link.name, link.alias))
                .collect();
            let mut settings: Vec<String> = std::fs::read_dir("/proc/sys/net/ipv4/conf")
                .unwrap()
                .map(|entry| entry.unwrap().path())
                .map(|path| {
                    let flag = |name: &str| read(path.join(name).to_str().unwrap()).trim().to_owned();
                    let flags = [
                        "forwarding",
                        "rp_filter",
                        "route_localnet",
                        "accept_local",
                        "proxy_arp",
                    ];
                    format!("{path:?} {:?}", flags.map(flag))
                })
                .collect();
            settings.sort();
            let routes = read("/proc/thread-self/net/fib_trie") + &read("/proc/thread-self/net/route");
            format!("{links:#?}\n{settings:#?}\n{routes}\n{:#?}", chains())
        })
    }

    /// The machine's IPv4 setting `name`.
    pub(super) fn sysctl(&self, name: &str) -> String {
        self.run(|| {
            std::fs::read_to_string(format!("/proc/sys/net/ipv4/{name}"))
                .unwrap()
                .trim()
                .to_owned()
        })
    }

    pub(super) fn set_sysctl(&self, name: &str, value: &str) {
        self.run(|| std::fs::write(format!("/proc/sys/net/ipv4/{name}"), value).unwrap());
    }

    /// Connects and returns what the server says.
    pub(super) fn ask(&self, server: SocketAddrV4) -> io::Result<String> {
        self.run(|| {
            let mut stream = TcpStream::connect_timeout(&SocketAddr::V4(server), PATIENCE)?;
            stream.set_read_timeout(Some(PATIENCE))?;
            let mut answer = String::new();
            stream.read_to_string(&mut answer)?;
            Ok(answer)
        })
    }

    /// Tries to connect, but not for long.
    pub(super) fn reaches(&self, server: SocketAddrV4) -> io::Result<()> {
        let patience = Duration::from_millis(300);
        self.run(|| TcpStream::connect_timeout(&SocketAddr::V4(server), patience).map(drop))
    }

    /// Asks and keeps only who answered.
    pub(super) fn who(&self, server: SocketAddrV4) -> io::Result<String> {
        let answer = self.ask(server)?;
        Ok(answer.split(' ').next().unwrap().to_owned())
    }

    /// Asks again and again while `action` goes on; all of it must be answered.
    pub(super) fn asked_all_the_time(&self, server: SocketAddrV4, action: impl FnOnce()) {
        struct SetOnDrop<'a>(&'a AtomicBool);
        impl Drop for SetOnDrop<'_> {
            fn drop(&mut self) {
                self.0.store(true, Ordering::Relaxed);
            }
        }
        let done = AtomicBool::new(false);
        let asking = || {
            while !done.load(Ordering::Relaxed) {
                TcpStream::connect(server).unwrap();
            }
        };
        std::thread::scope(|scope| {
            let _done = SetOnDrop(&done);
            for _ in 0..2 {
                scope.spawn(|| self.run(asking));
            }
            action();
        });
    }

    /// Sends a datagram from `socket`, or from a new one, and returns the answer.
    pub(super) fn ask_udp(&self, server: SocketAddrV4) -> io::Result<String> {
        self.run(|| ask_from(&UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).unwrap(), server))
    }

    /// A server that says `name` and from where it was asked, and hangs up.
    pub(super) fn serve(&self, name: &str, address: SocketAddrV4) -> Server {
        let listener = self.run(|| TcpListener::bind(address).unwrap());
        let name = name.to_owned();
        let socket = listener.try_clone().unwrap();
        let thread = std::thread::spawn(move || {
            while let Ok((mut client, peer)) = listener.accept() {
                let _ = client.write_all(format!("{name} {}", peer.ip()).as_bytes());
            }
        });
        Server::Tcp {
            socket,
            thread: Some(thread),
        }
    }

    /// The same over UDP.
    pub(super) fn serve_udp(&self, name: &str, address: SocketAddrV4) -> Server {
        let socket = self.run(|| UdpSocket::bind(address).unwrap());
        socket.set_read_timeout(Some(Duration::from_millis(20))).unwrap();
        let stop = Arc::new(AtomicBool::new(false));
        let (name, stopped) = (name.to_owned(), Arc::clone(&stop));
        let thread = std::thread::spawn(move || {
            let mut datagram = [0; 64];
            while !stopped.load(Ordering::Relaxed) {
                if let Ok((_, client)) = socket.recv_from(&mut datagram) {
                    let _ = socket.send_to(format!("{name} {}", client.ip()).as_bytes(), client);
                }
            }
        });
        Server::Udp {
            stop,
            thread: Some(thread),
        }
    }
}

/// A server's thread, which ends with this.
pub(super) enum Server {
    Tcp {
        socket: TcpListener,
        thread: Option<JoinHandle<()>>,
    },
    Udp {
        stop: Arc<AtomicBool>,
        thread: Option<JoinHandle<()>>,
    },
}

impl Drop for Server {
    fn drop(&mut self) {
        let thread = match self {
            Self::Tcp { socket, thread } => {
                let _ = shutdown(socket.as_raw_fd(), Shutdown::Both);
                thread.take()
            }
            Self::Udp { stop, thread } => {
                stop.store(true, Ordering::Relaxed);
                thread.take()
            }
        };
        thread.unwrap().join().unwrap();
    }
}

/// A namespace attached as a pod, with a server on port 80 that says its name.
pub(super) struct Pod {
    pub(super) namespace: Namespace,
    pub(super) address: Ipv4Addr,
    _server: Server,
}

impl Pod {
    pub(super) fn attach(network: &Network, name: &str) -> Self {
        let namespace = Namespace::new();
        let last: u8 = name.bytes().next_back().unwrap() - b'a' + 1;
        let address = Ipv4Addr::from_bits(network.ranges().node_pods.network().to_bits() + u32::from(last));
        network.attach(name, namespace.fd(), address).unwrap();
        let server = namespace.serve(name, SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, 80));
        Self {
            namespace,
            address,
            _server: server,
        }
    }

    pub(super) fn socket(&self) -> SocketAddrV4 {
        SocketAddrV4::new(self.address, 80)
    }
}

pub(super) fn cluster(id: &str) -> ClusterId {
    id.parse().unwrap()
}

pub(super) fn options(id: &str, used: &[Ipv4Net]) -> Options {
    Options {
        cluster: cluster(id),
        ranges: Ranges::choose(used).unwrap(),
        expose: false,
    }
}

/// A machine with the network of a cluster.
pub(super) fn machine() -> (Namespace, Network) {
    let host = Namespace::new();
    let network = host.run(|| Network::up(options("00000a", &[])).unwrap());
    (host, network)
}

pub(super) fn ask_from(socket: &UdpSocket, server: SocketAddrV4) -> io::Result<String> {
    socket.set_read_timeout(Some(Duration::from_secs(1)))?;
    socket.connect(server)?;
    socket.send(b"who?")?;
    let mut answer = [0; 64];
    let length = socket.recv(&mut answer)?;
    Ok(String::from_utf8_lossy(&answer[..length])
        .split(' ')
        .next()
        .unwrap()
        .to_owned())
}

/// The chains of all tables, as `table/chain`.
pub(super) fn chains() -> Vec<String> {
    let chains = Nft::open().unwrap().chains().unwrap();
    let mut names: Vec<String> = chains
        .iter()
        .map(|(_, attributes)| {
            let mut names = ["", ""];
            for attribute in attributes {
                match attribute {
                    ChainAttribute::Table(table) => names[0] = table,
                    ChainAttribute::Name(chain) => names[1] = chain,
                    _ => {}
                }
            }
            names.join("/")
        })
        .collect();
    names.sort();
    names
}

fn connect(route: &mut Netlink, index: u32, address: Ipv4Addr) {
    let net = Ipv4Net::new(address, 24).unwrap().trunc();
    let requests = vec![
        rtnl::set_up(index),
        rtnl::add_address(index, address),
        rtnl::add_link_route(net, index, address),
    ];
    send(route, requests).unwrap();
}
