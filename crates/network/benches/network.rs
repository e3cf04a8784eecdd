//! How long the network's parts take, in a throwaway network namespace (DNS on loopback). Needs root.
//!
//! `cargo bench -p stead-network`

use nix::sched::{CloneFlags, unshare};
use std::collections::BTreeMap;
use std::error::Error;
use std::fs::File;
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4, UdpSocket};
use std::os::fd::AsFd;
use std::sync::Arc;
use std::time::{Duration, Instant};
use stead_network::dns::{DnsServer, ServiceRecords, Upstreams, Zone, ZoneOptions};
use stead_network::{
    ClusterId, Endpoint, Network, Options, Protocol, Proxy, Ranges, ServicePort, ServicePortKey,
    TrafficPolicy,
};
use tokio_util::sync::CancellationToken;

type Outcome<T = ()> = Result<T, Box<dyn Error + Send + Sync>>;

fn main() -> Outcome {
    dns()?;
    // The main thread stays outside; nothing that happens inside reaches the machine.
    let inside = std::thread::spawn(|| {
        unshare(CloneFlags::CLONE_NEWNET)?;
        lifecycle()?;
        pods()?;
        for services in [1, 100, 1000] {
            endpoints(services)?;
        }
        Ok(())
    });
    inside.join().map_err(|_| "a measurement panicked")?
}

fn lifecycle() -> Outcome {
    let (mut up, mut again, mut down) = (Samples::new("up"), Samples::new("up again"), Samples::new("down"));
    for _ in 0..30 {
        up.time(|| Network::up(options()?).map_err(Into::into))?;
        again.time(|| Network::up(options()?).map_err(Into::into))?;
        down.time(|| Network::down(cluster()).map_err(Into::into))?;
    }
    Samples::report([up, again, down]);
    Ok(())
}

fn pods() -> Outcome {
    let network = Network::up(options()?)?;
    let (mut attach, mut again) = (Samples::new("attach"), Samples::new("attach again"));
    let (mut detach, mut list) = (Samples::new("detach"), Samples::new("list attached pods"));
    let mut together = Samples::new("detach 50 pods at once");
    let mut namespaces = Vec::new();
    for n in 1..=100 {
        let namespace = std::thread::spawn(|| {
            unshare(CloneFlags::CLONE_NEWNET)?;
            File::open("/proc/thread-self/ns/net")
        });
        let namespace = namespace.join().map_err(|_| "make a namespace")??;
        let (key, address) = (format!("pod-{n}"), Ipv4Addr::new(10, 244, 0, n));
        attach.time(|| Ok(network.attach(&key, namespace.as_fd(), address)?))?;
        again.time(|| Ok(network.attach(&key, namespace.as_fd(), address)?))?;
        list.time(|| Ok(network.attached()?))?;
        namespaces.push(namespace);
    }
    for n in 1..=20 {
        detach.time(|| Ok(network.detach(&format!("pod-{n}"))?))?;
    }
    together.time(|| {
        std::thread::scope(|scope| {
            let network = &network;
            let detach = move |n| scope.spawn(move || network.detach(&format!("pod-{n}")));
            let threads: Vec<_> = (21..=70).map(detach).collect();
            for thread in threads {
                thread.join().map_err(|_| "detach a pod")??;
            }
            Ok(())
        })
    })?;
    let mut down = Samples::new("down with 30 pods");
    down.time(|| Ok(Network::down(cluster())?))?;
    Samples::report([attach, again, list, detach, together, down]);
    Ok(())
}

fn endpoints(services: u16) -> Outcome {
    let network = Network::up(options()?)?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let mut proxy = Proxy::new(&network, runtime.handle().clone());
    let all: BTreeMap<_, _> = (0..services).map(|n| (key(n), service(n, 3))).collect();
    let mut replace = Samples::new(&format!("replace all of {services} services"));
    let mut change = Samples::new(&format!("one endpoint more or less, of {services} services"));
    let mut swap = Samples::new(&format!("another endpoint, of {services} services"));
    let mut add = Samples::new(&format!("one service of {services} removed and added"));
    for _ in 0..5 {
        replace.time(|| Ok(proxy.replace(all.clone())?))?;
    }
    for n in 0..200 {
        change.time(|| Ok(proxy.update([(key(0), Some(service(0, 3 + n % 2)))])?))?;
    }
    for n in 0..200 {
        let mut other = service(0, 3);
        other.endpoints[1].address.set_port(1000 + n);
        swap.time(|| Ok(proxy.update([(key(0), Some(other))])?))?;
    }
    for n in 0..100 {
        let port = (n % 2 == 1).then(|| service(0, 3));
        add.time(|| Ok(proxy.update([(key(0), port)])?))?;
    }
    Network::down(cluster())?;
    Samples::report([replace, change, swap, add]);
    Ok(())
}

fn dns() -> Outcome {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let zone = Arc::new(Zone::new(ZoneOptions {
        domain: "cluster.local".to_owned(),
        name_servers: Vec::new(),
        ranges: Vec::new(),
    })?);
    for n in 0..1000_u16 {
        let [high, low] = n.to_be_bytes();
        let records = ServiceRecords::ClusterIp {
            addresses: vec![Ipv4Addr::new(10, 96, high, low)],
            ports: Vec::new(),
        };
        zone.set_service("default", &format!("web-{n}"), records);
    }
    let upstreams = Arc::new(Upstreams::new(Vec::new()));
    let anywhere = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
    let server = runtime.block_on(DnsServer::bind(&[anywhere], Arc::clone(&zone), upstreams))?;
    let address = server.addresses()[0];
    let cancel = CancellationToken::new();
    let stop = cancel.clone().drop_guard();
    let asking = std::thread::spawn(move || {
        let _stop = stop;
        ask(address)
    });
    runtime.block_on(server.run(cancel))?;
    let queries = asking.join().map_err(|_| "ask the dns server")??;
    let mut change = Samples::new("set a service of the zone");
    for n in 0..200 {
        let records = ServiceRecords::External(format!("{n}.example.com"));
        change.time(|| {
            zone.set_service("default", "web-7", records);
            Ok(())
        })?;
    }
    Samples::report([queries, change]);
    Ok(())
}

fn ask(server: SocketAddr) -> Outcome<Samples> {
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?;
    socket.set_read_timeout(Some(Duration::from_secs(1)))?;
    socket.connect(server)?;
    let mut question = vec![0x12, 0x34, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
    for label in ["web-500", "default", "svc", "cluster", "local", ""] {
        question.push(label.len() as u8);
        question.extend(label.as_bytes());
    }
    question.extend([0, 1, 0, 1]);
    let mut samples = Samples::new("a dns query and its answer");
    let mut answer = [0; 512];
    for _ in 0..5000 {
        samples.time(|| {
            socket.send(&question)?;
            Ok(socket.recv(&mut answer)?)
        })?;
    }
    Ok(samples)
}

fn cluster() -> ClusterId {
    ClusterId::derived_from("benchmark")
}

fn options() -> Outcome<Options> {
    Ok(Options {
        cluster: cluster(),
        ranges: Ranges::choose(&[])?,
        expose: false,
    })
}

fn key(n: u16) -> ServicePortKey {
    ServicePortKey {
        namespace: "default".to_owned(),
        service: format!("web-{n}"),
        port: "http".to_owned(),
    }
}

fn service(n: u16, endpoints: u8) -> ServicePort {
    let [high, low] = n.to_be_bytes();
    let endpoint = |last| SocketAddrV4::new(Ipv4Addr::new(10, 244, 0, last), 8080);
    ServicePort {
        cluster_ips: vec![Ipv4Addr::new(10, 96, 1 + high, low)],
        external_ips: Vec::new(),
        protocol: Protocol::Tcp,
        port: 80,
        node_port: None,
        host_port: None,
        endpoints: (1..=endpoints)
            .map(|last| Endpoint {
                address: endpoint(last),
                local: true,
            })
            .collect(),
        affinity: None,
        external_policy: TrafficPolicy::Cluster,
        internal_policy: TrafficPolicy::Cluster,
    }
}

/// How long something took, again and again.
struct Samples {
    what: String,
    times: Vec<Duration>,
}

impl Samples {
    fn new(what: &str) -> Self {
        Self {
            what: what.to_owned(),
            times: Vec::new(),
        }
    }

    fn time<T>(&mut self, action: impl FnOnce() -> Outcome<T>) -> Outcome<T> {
        let start = Instant::now();
        let outcome = action();
        self.times.push(start.elapsed());
        outcome
    }

    fn report(all: impl IntoIterator<Item = Self>) {
        for Self { what, mut times } in all {
            times.sort();
            let at = |part: usize| times[(times.len() * part / 100).min(times.len() - 1)].as_secs_f64() * 1e3;
            eprintln!(
                "{what:50} p50 {:8.3} ms   p90 {:8.3} ms   p99 {:8.3} ms",
                at(50),
                at(90),
                at(99)
            );
        }
    }
}
