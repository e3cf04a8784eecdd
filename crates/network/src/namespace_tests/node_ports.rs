//! Services by node ports and external addresses, and who may reach them.

use super::namespace::{Namespace, Pod, machine, options};
use super::proxied::{CLUSTER_IP, NODE_PORT, Proxied, ask_times, key, service};
use crate::{Network, ServicePort, TrafficPolicy};
use std::collections::{BTreeMap, BTreeSet};
use std::io::ErrorKind;
use std::net::{Ipv4Addr, SocketAddrV4, TcpListener};
use std::time::{Duration, Instant};

#[test]
fn a_node_port_is_served_on_the_node_and_on_127_0_0_1_and_to_pods() {
    let (host, network) = machine();
    let pods = ["pod-a", "pod-b"].map(|name| Pod::attach(&network, name));
    let node = SocketAddrV4::new(network.ranges().node, NODE_PORT);
    let local = SocketAddrV4::new(Ipv4Addr::LOCALHOST, NODE_PORT);
    let mut proxied = Proxied::new(&host, &network);
    let ported = ServicePort {
        node_port: Some(NODE_PORT),
        ..service(&pods.each_ref().map(Pod::socket))
    };
    assert_eq!(proxied.set("web", ported.clone()).taken_ports.len(), 0);
    let turns = ["pod-a", "pod-b", "pod-a", "pod-b"];
    assert_eq!(ask_times(&host, node, 4), turns);
    assert_eq!(ask_times(&pods[1].namespace, node, 4), turns);
    assert_eq!(ask_times(&host, local, 4), turns);

    proxied.set(
        "web",
        ServicePort {
            node_port: Some(NODE_PORT + 1),
            ..ported.clone()
        },
    );
    for gone in [node, local] {
        assert_eq!(host.ask(gone).unwrap_err().kind(), ErrorKind::ConnectionRefused);
    }
    assert!(
        host.ask(SocketAddrV4::new(Ipv4Addr::LOCALHOST, NODE_PORT + 1))
            .is_ok()
    );
    proxied.set(
        "web",
        ServicePort {
            node_port: Some(NODE_PORT + 1),
            ..service(&[])
        },
    );
    assert!(
        host.ask(SocketAddrV4::new(Ipv4Addr::LOCALHOST, NODE_PORT + 1))
            .is_err()
    );
}

#[test]
fn a_taken_node_port_is_reported_once_and_served_when_it_becomes_free() {
    let (host, network) = machine();
    let pod = Pod::attach(&network, "pod-a");
    let local = SocketAddrV4::new(Ipv4Addr::LOCALHOST, NODE_PORT);
    let squatter = host.run(|| TcpListener::bind(local).unwrap());
    let mut proxied = Proxied::new(&host, &network);
    let ported = ServicePort {
        node_port: Some(NODE_PORT),
        ..service(&[pod.socket()])
    };
    let taken = proxied.set("web", ported.clone()).taken_ports;
    assert_eq!(
        taken
            .iter()
            .map(|taken| (taken.port, taken.source.kind()))
            .collect::<Vec<_>>(),
        [(NODE_PORT, ErrorKind::AddrInUse)]
    );
    assert_eq!(
        host.who(SocketAddrV4::new(network.ranges().node, NODE_PORT))
            .unwrap(),
        "pod-a"
    );
    assert_eq!(proxied.set("web", ported.clone()).taken_ports.len(), 0);
    drop(squatter);
    let deadline = Instant::now() + Duration::from_secs(10);
    while host.who(local).is_err() && Instant::now() < deadline {}
    assert_eq!(host.who(local).unwrap(), "pod-a");
}

#[test]
fn a_node_port_may_pass_from_one_service_to_another() {
    let (host, network) = machine();
    let pods = ["pod-a", "pod-b"].map(|name| Pod::attach(&network, name));
    let ported = |pod: &Pod, ip| ServicePort {
        node_port: Some(NODE_PORT),
        cluster_ips: vec![Ipv4Addr::new(10, 96, 0, ip)],
        ..service(&[pod.socket()])
    };
    let mut proxied = Proxied::new(&host, &network);
    proxied.set("old", ported(&pods[0], 60));
    let updates = [(key("old"), None), (key("new"), Some(ported(&pods[1], 61)))];
    let applied = host.run(|| proxied.proxy.update(updates).unwrap());
    assert_eq!(applied.taken_ports.len(), 0);
    for address in [network.ranges().node, Ipv4Addr::LOCALHOST] {
        assert_eq!(host.who(SocketAddrV4::new(address, NODE_PORT)).unwrap(), "pod-b");
    }
}

#[test]
fn load_balancer_addresses_are_served_inside_the_machine() {
    let (host, network) = machine();
    let pod = Pod::attach(&network, "pod-a");
    let address = Ipv4Addr::from_bits(network.ranges().load_balancers.addr().to_bits() + 7);
    let external = SocketAddrV4::new(address, CLUSTER_IP.port());
    let mut proxied = Proxied::new(&host, &network);
    for external_policy in [TrafficPolicy::Cluster, TrafficPolicy::Local] {
        proxied.set(
            "web",
            ServicePort {
                external_ips: vec![address],
                external_policy,
                ..service(&[pod.socket()])
            },
        );
        assert_eq!(host.who(external).unwrap(), "pod-a");
        assert_eq!(pod.namespace.who(external).unwrap(), "pod-a");
    }
}

#[test]
fn local_policies_exclude_other_nodes_endpoints_for_whom_they_apply_to() {
    let (host, network) = machine();
    let pods = ["pod-a", "pod-b"].map(|name| Pod::attach(&network, name));
    let remote = |mut port: ServicePort| {
        port.endpoints[1].local = false;
        port
    };
    let all = remote(service(&pods.each_ref().map(Pod::socket)));
    let mut proxied = Proxied::new(&host, &network);
    proxied.set(
        "web",
        ServicePort {
            internal_policy: TrafficPolicy::Local,
            ..all.clone()
        },
    );
    assert_eq!(ask_times(&host, CLUSTER_IP, 3), ["pod-a", "pod-a", "pod-a"]);
    proxied.set(
        "web",
        ServicePort {
            external_policy: TrafficPolicy::Local,
            node_port: Some(NODE_PORT),
            ..all
        },
    );
    let inside: BTreeSet<_> = ask_times(&host, SocketAddrV4::new(network.ranges().node, NODE_PORT), 4)
        .into_iter()
        .collect();
    assert_eq!(inside.len(), 2);
}

#[test]
fn exposed_services_answer_other_machines_and_others_do_not() {
    let outside = Namespace::new();
    let host = Namespace::new();
    host.join("uplink", &outside, Ipv4Addr::new(192, 168, 7, 1));
    host.default_route("uplink");
    let lan = SocketAddrV4::new(Ipv4Addr::new(192, 168, 7, 1), NODE_PORT);
    for (expose, policy, seen_as) in [
        (true, TrafficPolicy::Cluster, "10.160.16.1"),
        (true, TrafficPolicy::Local, "192.168.7.2"),
        (false, TrafficPolicy::Cluster, ""),
    ] {
        let network = host.run(|| {
            Network::up(crate::Options {
                expose,
                ..options("00000a", &[])
            })
            .unwrap()
        });
        let pod = Pod::attach(&network, "pod-a");
        let mut proxied = Proxied::new(&host, &network);
        proxied.replace(BTreeMap::from([(
            key("web"),
            ServicePort {
                node_port: Some(NODE_PORT),
                host_port: Some(80).filter(|_| expose),
                external_policy: policy,
                ..service(&[pod.socket()])
            },
        )]));
        if expose {
            // A load balancer's port is one of the machine's own, beside its node port.
            let host_port = SocketAddrV4::new(*lan.ip(), 80);
            assert_eq!(outside.ask(host_port).unwrap(), format!("pod-a {seen_as}"));
            assert_eq!(outside.ask(lan).unwrap(), format!("pod-a {seen_as}"));
            assert_eq!(host.who(lan).unwrap(), "pod-a");
        } else {
            assert_eq!(outside.ask(lan).unwrap_err().kind(), ErrorKind::ConnectionRefused);
            assert_eq!(host.ask(lan).unwrap_err().kind(), ErrorKind::ConnectionRefused);
        }
        host.run(|| Network::down(network.cluster()).unwrap());
    }
}
