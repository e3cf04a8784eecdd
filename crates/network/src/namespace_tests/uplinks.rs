//! Pods and other machines.

use super::namespace::{Namespace, Pod, machine, options};
use crate::Network;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::time::{Duration, Instant};
use tokio_util::sync::CancellationToken;

const OUTSIDE: SocketAddrV4 = SocketAddrV4::new(Ipv4Addr::new(192, 168, 7, 2), 80);

/// A machine with an uplink to `outside`, which has a default route back to it and a server.
fn uplinked() -> (Namespace, Namespace, super::namespace::Server) {
    let (host, outside) = (Namespace::new(), Namespace::new());
    host.join("uplink", &outside, Ipv4Addr::new(192, 168, 7, 1));
    host.default_route("uplink");
    let server = outside.serve("outside", OUTSIDE);
    (host, outside, server)
}

#[test]
fn pods_reach_other_machines_under_the_machines_address() {
    let (host, _outside, _server) = uplinked();
    let network = host.run(|| Network::up(options("00000a", &[])).unwrap());
    let pod = Pod::attach(&network, "pod-a");
    assert_eq!(pod.namespace.ask(OUTSIDE).unwrap(), "outside 192.168.7.1");
    assert_eq!(host.sysctl("ip_forward"), "0");
    assert_eq!(host.sysctl("conf/uplink/forwarding"), "1");
    // The uplink's MTU is 1400.
    assert_eq!(
        network
            .attach("pod-a", pod.namespace.fd(), pod.address)
            .unwrap()
            .mtu,
        1400
    );
}

#[test]
fn other_machines_reach_neither_pods_nor_the_nodes_addresses_nor_through_this_machine() {
    let (host, outside, _server) = uplinked();
    let beyond = Namespace::new();
    host.join("other", &beyond, Ipv4Addr::new(192, 168, 8, 1));
    beyond.default_route("eth0");
    outside.default_route("eth0");
    let _beyond = beyond.serve("beyond", SocketAddrV4::new(Ipv4Addr::new(192, 168, 8, 2), 80));
    let network = host.run(|| Network::up(options("00000a", &[])).unwrap());
    let pod = Pod::attach(&network, "pod-a");
    let _node = host.serve("node", SocketAddrV4::new(network.ranges().node, 80));
    assert!(
        pod.namespace
            .ask(SocketAddrV4::new(network.ranges().node, 80))
            .is_ok()
    );
    let unreachable = [
        pod.socket(),
        SocketAddrV4::new(network.ranges().node, 80),
        SocketAddrV4::new(Ipv4Addr::new(192, 168, 8, 2), 80),
    ];
    // On-link routes resolve addresses, which Linux answers for all it has or forwards to.
    for server in unreachable {
        assert!(outside.reaches(server).is_err(), "{server}");
    }
}

#[test]
fn a_new_uplink_is_opened_when_its_default_route_appears() {
    let (host, network) = machine();
    let outside = Namespace::new();
    let pod = Pod::attach(&network, "pod-a");
    let _server = outside.serve(
        "outside",
        SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, OUTSIDE.port()),
    );
    let cancel = CancellationToken::new();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .unwrap();
            host.run(|| runtime.block_on(network.follow_uplinks(cancel.clone())).unwrap());
        });
        host.join("uplink", &outside, Ipv4Addr::new(192, 168, 7, 1));
        host.default_route("uplink");
        let deadline = Instant::now() + Duration::from_secs(5);
        while pod.namespace.reaches(OUTSIDE).is_err() && Instant::now() < deadline {}
        cancel.cancel();
    });
    assert_eq!(pod.namespace.ask(OUTSIDE).unwrap(), "outside 192.168.7.1");
}

#[test]
fn an_uplink_that_two_clusters_share_is_closed_by_the_last_one() {
    let (host, _outside, _server) = uplinked();
    let first = host.run(|| Network::up(options("00000a", &[])).unwrap());
    let used = host.run(|| crate::used_prefixes().unwrap());
    let second = host.run(|| Network::up(options("00000b", &used)).unwrap());
    host.run(|| Network::down(first.cluster()).unwrap());
    let pod = Pod::attach(&second, "pod-a");
    assert_eq!(pod.namespace.ask(OUTSIDE).unwrap(), "outside 192.168.7.1");
    host.run(|| Network::down(second.cluster()).unwrap());
    assert_eq!(host.sysctl("conf/uplink/forwarding"), "0");
}

#[test]
fn forwarding_that_somebody_else_turned_on_stays_on() {
    let (host, _outside, _server) = uplinked();
    host.set_sysctl("ip_forward", "1");
    let network = host.run(|| Network::up(options("00000a", &[])).unwrap());
    let pod = Pod::attach(&network, "pod-a");
    assert!(pod.namespace.ask(OUTSIDE).is_ok());
    host.run(|| Network::down(network.cluster()).unwrap());
    assert_eq!(host.sysctl("conf/uplink/forwarding"), "1");
}
