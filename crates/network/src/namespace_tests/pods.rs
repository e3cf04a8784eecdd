//! Pods among themselves and with the machine.

use super::namespace::{Namespace, Pod, machine};
use crate::AttachedPod;
use std::io::ErrorKind;
use std::net::{Ipv4Addr, SocketAddrV4, UdpSocket};
use std::time::{Duration, Instant};

const AT_ONCE: Duration = Duration::from_millis(500);

#[test]
fn pods_and_the_machine_reach_each_other_under_their_own_addresses() {
    let (host, network) = machine();
    let (a, b) = (Pod::attach(&network, "pod-a"), Pod::attach(&network, "pod-b"));
    let node = network.ranges().node;
    let _server = host.serve("host", SocketAddrV4::new(node, 8080));

    assert_eq!(
        a.namespace.ask(b.socket()).unwrap(),
        format!("pod-b {}", a.address)
    );
    assert_eq!(
        b.namespace.ask(a.socket()).unwrap(),
        format!("pod-a {}", b.address)
    );
    assert_eq!(host.ask(a.socket()).unwrap(), format!("pod-a {node}"));
    let asked = a.namespace.ask(SocketAddrV4::new(node, 8080)).unwrap();
    assert_eq!(asked, format!("host {}", a.address));
    let own = SocketAddrV4::new(Ipv4Addr::LOCALHOST, 80);
    assert!(a.namespace.ask(own).unwrap().starts_with("pod-a"));
}

#[test]
fn nothing_depends_on_global_settings_and_strict_reverse_path_filters_are_no_obstacle() {
    let (host, network) = machine();
    assert_eq!(host.sysctl("ip_forward"), "0");
    assert_eq!(host.sysctl("conf/all/route_localnet"), "0");
    host.set_sysctl("conf/all/rp_filter", "1");
    let (a, b) = (Pod::attach(&network, "pod-a"), Pod::attach(&network, "pod-b"));
    assert!(a.namespace.ask(b.socket()).is_ok());
    assert!(host.ask(b.socket()).is_ok());
    assert_eq!(host.sysctl("ip_forward"), "0");
}

#[test]
fn a_packet_to_an_absent_pod_is_refused_at_once() {
    let (host, network) = machine();
    let a = Pod::attach(&network, "pod-a");
    let absent = SocketAddrV4::new(Ipv4Addr::new(10, 244, 0, 99), 80);
    for from in [&host, &a.namespace] {
        let start = Instant::now();
        assert_eq!(from.ask(absent).unwrap_err().kind(), ErrorKind::ConnectionRefused);
        assert!(start.elapsed() < AT_ONCE);
    }
}

#[test]
fn the_first_packet_needs_no_address_resolution() {
    let (_host, network) = machine();
    let (a, b) = (Pod::attach(&network, "pod-a"), Pod::attach(&network, "pod-b"));
    a.namespace.ask(b.socket()).unwrap();
    for pod in [&a, &b] {
        let neighbours = pod
            .namespace
            .run(|| std::fs::read_to_string("/proc/thread-self/net/arp").unwrap());
        let flags: Vec<_> = neighbours
            .lines()
            .skip(1)
            .map(|line| line.split_whitespace().nth(2).unwrap())
            .collect();
        // 0x6: complete and permanent.
        assert_eq!(flags, ["0x6"], "{neighbours}");
    }
}

#[test]
fn attaching_again_keeps_connections_and_the_same_link() {
    let (host, network) = machine();
    let a = Pod::attach(&network, "pod-a");
    let index = |name: &str| host.route(|route| crate::host::read_link(route, name).unwrap().unwrap().index);
    let first = network.attach("pod-a", a.namespace.fd(), a.address).unwrap();
    let before = index(&first.host_link);
    let again = network.attach("pod-a", a.namespace.fd(), a.address).unwrap();
    assert_eq!((first, before), (again.clone(), index(&again.host_link)));
    assert!(host.ask(a.socket()).is_ok());
}

#[test]
fn a_pod_attached_in_another_namespace_or_with_another_address_gets_a_new_link() {
    let (host, network) = machine();
    let old = Pod::attach(&network, "pod-a");
    let new = Pod::attach(&network, "pod-a");
    assert!(host.ask(new.socket()).is_ok());
    assert!(old.namespace.ask(new.socket()).is_err());

    let address = Ipv4Addr::new(10, 244, 0, 77);
    network.attach("pod-a", new.namespace.fd(), address).unwrap();
    assert!(host.ask(SocketAddrV4::new(address, 80)).is_ok());
    assert_eq!(
        host.ask(new.socket()).unwrap_err().kind(),
        ErrorKind::ConnectionRefused
    );
}

#[test]
fn attached_pods_are_listed_from_the_kernel_until_they_are_detached() {
    let (host, network) = machine();
    let pods = ["pod-a", "pod-b"].map(|name| Pod::attach(&network, name));
    let mut listed = network.attached().unwrap();
    listed.sort_by(|one, other| one.pod_key.cmp(&other.pod_key));
    let expected = [("pod-a", &pods[0]), ("pod-b", &pods[1])].map(|(name, pod)| AttachedPod {
        pod_key: name.to_owned(),
        address: pod.address,
        host_link: network.cluster().veth_name(name),
    });
    assert_eq!(listed, expected);
    assert!(network.detach("pod-a").unwrap());
    assert!(!network.detach("pod-a").unwrap());
    assert_eq!(network.attached().unwrap().len(), 1);
    assert_eq!(
        host.ask(pods[0].socket()).unwrap_err().kind(),
        ErrorKind::ConnectionRefused
    );
    assert!(host.ask(pods[1].socket()).is_ok());
}

#[test]
fn pods_that_are_detached_at_once_are_all_gone_and_the_others_stay() {
    let (host, network) = machine();
    let namespaces: Vec<_> = (1..=20).map(|_| Namespace::new()).collect();
    for (n, namespace) in (1..).zip(&namespaces) {
        network
            .attach(&format!("pod-{n}"), namespace.fd(), Ipv4Addr::new(10, 244, 0, n))
            .unwrap();
    }
    let stays = Pod::attach(&network, "pod-z");
    std::thread::scope(|scope| {
        for n in 1..=20 {
            let network = &network;
            scope.spawn(move || assert!(network.detach(&format!("pod-{n}")).unwrap()));
        }
    });
    let left: Vec<_> = network
        .attached()
        .unwrap()
        .into_iter()
        .map(|pod| pod.pod_key)
        .collect();
    assert_eq!(left, ["pod-z"]);
    assert!(host.ask(stays.socket()).is_ok());
}

#[test]
fn a_deleted_namespace_takes_its_veth_with_it_and_detaching_copes() {
    let (host, network) = machine();
    let namespace = Namespace::new();
    network
        .attach("pod-a", namespace.fd(), Ipv4Addr::new(10, 244, 0, 1))
        .unwrap();
    drop(namespace);
    // The kernel deletes namespaces in the background; either it or this deletes the link.
    network.detach("pod-a").unwrap();
    assert_eq!(network.attached().unwrap(), []);
    assert!(
        host.ask(SocketAddrV4::new(Ipv4Addr::new(10, 244, 0, 1), 80))
            .is_err()
    );
}

#[test]
fn a_failed_attach_leaves_nothing() {
    let (host, network) = machine();
    let before = host.snapshot();
    let namespace = Namespace::new();
    // There is an eth0 already.
    let other = Namespace::new();
    other.join("x", &namespace, Ipv4Addr::new(192, 168, 9, 1));
    assert!(
        network
            .attach("pod-a", namespace.fd(), Ipv4Addr::new(10, 244, 0, 1))
            .is_err()
    );
    assert!(
        network
            .attach("pod a", namespace.fd(), Ipv4Addr::new(10, 244, 0, 1))
            .is_err()
    );
    let no_namespace = std::fs::File::open("/proc/version").unwrap();
    let fd = std::os::fd::AsFd::as_fd(&no_namespace);
    assert!(network.attach("pod-a", fd, Ipv4Addr::new(10, 244, 0, 1)).is_err());
    assert_eq!(host.snapshot(), before);
}

#[test]
fn a_pod_cannot_take_another_ones_address() {
    let (_host, network) = machine();
    let (a, b) = (Pod::attach(&network, "pod-a"), Pod::attach(&network, "pod-b"));
    let server = b
        .namespace
        .run(|| UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 53)).unwrap());
    server.set_read_timeout(Some(Duration::from_millis(300))).unwrap();
    let taken = Ipv4Addr::new(10, 244, 0, 99);
    a.namespace.route(|route| {
        let link = crate::host::read_link(route, "eth0").unwrap().unwrap();
        crate::node::send(route, vec![crate::rtnl::add_address(link.index, taken)]).unwrap();
    });
    let received = |from: Ipv4Addr| {
        let socket = a.namespace.run(|| UdpSocket::bind((from, 0)).unwrap());
        socket
            .send_to(b"hello", SocketAddrV4::new(b.address, 53))
            .unwrap();
        server.recv(&mut [0; 8]).is_ok()
    };
    assert!(received(a.address));
    assert!(!received(taken));
}
