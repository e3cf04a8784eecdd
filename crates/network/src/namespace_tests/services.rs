//! Services by their cluster IPs: turns, refusals, affinity, changes.

use super::namespace::{Namespace, Pod, ask_from, machine, options};
use super::proxied::{AT_ONCE, CLUSTER_IP, NODE_PORT, Proxied, ask_times, service};
use crate::{Network, Protocol, ServicePort};
use std::collections::BTreeSet;
use std::io::ErrorKind;
use std::net::{Ipv4Addr, SocketAddrV4, UdpSocket};
use std::time::{Duration, Instant};

#[test]
fn connections_to_a_cluster_ip_reach_the_endpoints_in_turn() {
    let (host, network) = machine();
    let pods = ["pod-a", "pod-b", "pod-c"].map(|name| Pod::attach(&network, name));
    let mut proxied = Proxied::new(&host, &network);
    proxied.set("web", service(&pods.each_ref().map(Pod::socket)));
    let turns = ["pod-a", "pod-b", "pod-c", "pod-a", "pod-b", "pod-c"];
    assert_eq!(ask_times(&host, CLUSTER_IP, 6), turns);
    assert_eq!(ask_times(&pods[0].namespace, CLUSTER_IP, 6), turns);
}

#[test]
fn a_pod_reaches_itself_through_its_service() {
    let (host, network) = machine();
    let pod = Pod::attach(&network, "pod-a");
    let mut proxied = Proxied::new(&host, &network);
    proxied.set("web", service(&[pod.socket()]));
    let answer = pod.namespace.ask(CLUSTER_IP).unwrap();
    assert_eq!(answer, format!("pod-a {}", network.ranges().node));
}

#[test]
fn endpoints_come_and_go_without_disturbing_the_others() {
    let (host, network) = machine();
    let pods = ["pod-a", "pod-b", "pod-c"].map(|name| Pod::attach(&network, name));
    let [a, b, c] = pods.each_ref().map(Pod::socket);
    let mut proxied = Proxied::new(&host, &network);
    let mut expect = |endpoints: &[SocketAddrV4], names: &[&str]| {
        proxied.set("web", service(endpoints));
        let seen: BTreeSet<_> = ask_times(&host, CLUSTER_IP, 6).into_iter().collect();
        assert_eq!(seen, names.iter().map(|name| (*name).to_owned()).collect());
    };
    expect(&[a], &["pod-a"]);
    expect(&[a, b, c], &["pod-a", "pod-b", "pod-c"]);
    expect(&[b, c], &["pod-b", "pod-c"]);
    expect(&[b, a], &["pod-a", "pod-b"]);
    expect(&[c], &["pod-c"]);
}

#[test]
fn no_connection_is_refused_while_endpoints_come_and_go() {
    let (host, network) = machine();
    let pods = ["pod-a", "pod-b", "pod-c"].map(|name| Pod::attach(&network, name));
    let [a, b, c] = pods.each_ref().map(Pod::socket);
    let mut proxied = Proxied::new(&host, &network);
    for affinity in [None, Some(Duration::from_millis(1))] {
        let of = |endpoints: &[SocketAddrV4]| ServicePort {
            affinity,
            ..service(endpoints)
        };
        proxied.set("web", of(&[a]));
        host.asked_all_the_time(CLUSTER_IP, || {
            for _ in 0..200 {
                for endpoints in [&[a, b, c][..], &[c], &[b, c, a], &[a, b]] {
                    proxied.set("web", of(endpoints));
                }
            }
        });
    }
}

#[test]
fn what_nothing_serves_is_refused_at_once() {
    let (host, network) = machine();
    let pod = Pod::attach(&network, "pod-a");
    let mut proxied = Proxied::new(&host, &network);
    proxied.set(
        "idle",
        ServicePort {
            node_port: Some(NODE_PORT),
            ..service(&[])
        },
    );
    proxied.set(
        "busy",
        ServicePort {
            cluster_ips: vec![Ipv4Addr::new(10, 96, 0, 51)],
            ..service(&[pod.socket()])
        },
    );
    let refused = [
        CLUSTER_IP,
        SocketAddrV4::new(Ipv4Addr::new(10, 96, 0, 51), 9),
        SocketAddrV4::new(Ipv4Addr::new(10, 96, 77, 7), 80),
        SocketAddrV4::new(network.ranges().load_balancers.addr(), 80),
        SocketAddrV4::new(network.ranges().node, NODE_PORT),
    ];
    for server in refused {
        for from in [&host, &pod.namespace] {
            let start = Instant::now();
            assert_eq!(
                from.ask(server).unwrap_err().kind(),
                ErrorKind::ConnectionRefused,
                "{server}"
            );
            // What is refused on the machine that sends it, the kernel reports as not permitted.
            let refused = [ErrorKind::ConnectionRefused, ErrorKind::PermissionDenied];
            assert!(
                refused.contains(&from.ask_udp(server).unwrap_err().kind()),
                "{server}"
            );
            assert!(start.elapsed() < AT_ONCE, "{server}");
        }
    }
}

#[test]
fn a_service_whose_endpoint_is_gone_refuses_at_once() {
    let (host, network) = machine();
    let pod = Pod::attach(&network, "pod-a");
    let mut proxied = Proxied::new(&host, &network);
    proxied.set(
        "web",
        service(&[SocketAddrV4::new(Ipv4Addr::new(10, 244, 0, 99), 80)]),
    );
    for from in [&host, &pod.namespace] {
        let start = Instant::now();
        assert_eq!(
            from.ask(CLUSTER_IP).unwrap_err().kind(),
            ErrorKind::ConnectionRefused
        );
        assert!(start.elapsed() < AT_ONCE);
    }
}

#[test]
fn affinity_keeps_a_client_on_its_endpoint_while_that_is_there() {
    let (host, network) = machine();
    let pods = ["pod-a", "pod-b", "pod-c"].map(|name| Pod::attach(&network, name));
    let sockets = pods.each_ref().map(Pod::socket);
    let sticky = |endpoints: &[SocketAddrV4], node_port| ServicePort {
        affinity: Some(Duration::from_secs(10_800)),
        node_port,
        ..service(endpoints)
    };
    let mut proxied = Proxied::new(&host, &network);
    proxied.set("web", sticky(&sockets, Some(NODE_PORT)));
    let same = |from: &Namespace, server| {
        let answers: BTreeSet<_> = ask_times(from, server, 5).into_iter().collect();
        assert_eq!(answers.len(), 1, "{answers:?}");
        answers.into_iter().next().unwrap()
    };
    let first = same(&pods[0].namespace, CLUSTER_IP);
    let second = same(&pods[1].namespace, CLUSTER_IP);
    assert_ne!(first, second);
    same(&host, SocketAddrV4::new(Ipv4Addr::LOCALHOST, NODE_PORT));

    // The other endpoint goes, and comes back: nothing changes for this client.
    let keep = |name: &str| -> Vec<_> {
        (0..3)
            .filter(|n| name != format!("pod-{}", char::from(b'a' + *n as u8)))
            .map(|n| sockets[n])
            .collect()
    };
    proxied.set("web", sticky(&keep(&second), None));
    assert_eq!(same(&pods[0].namespace, CLUSTER_IP), first);
    assert_ne!(same(&pods[1].namespace, CLUSTER_IP), second);
    proxied.set("web", sticky(&sockets, None));
    assert_eq!(same(&pods[0].namespace, CLUSTER_IP), first);

    // Its own endpoint goes: it gets another one.
    proxied.set("web", sticky(&keep(&first), None));
    assert_ne!(same(&pods[0].namespace, CLUSTER_IP), first);
    // Without affinity all take turns again.
    proxied.set("web", service(&sockets));
    let all: BTreeSet<_> = ask_times(&pods[0].namespace, CLUSTER_IP, 3).into_iter().collect();
    assert_eq!(all.len(), 3);
}

#[test]
fn affinity_ends_when_a_client_was_idle_for_long() {
    let (host, network) = machine();
    let pods = ["pod-a", "pod-b"].map(|name| Pod::attach(&network, name));
    let sticky = ServicePort {
        affinity: Some(Duration::from_millis(300)),
        ..service(&pods.each_ref().map(Pod::socket))
    };
    let mut proxied = Proxied::new(&host, &network);
    proxied.set("web", sticky);
    let first = host.who(CLUSTER_IP).unwrap();
    let start = Instant::now();
    while start.elapsed() < Duration::from_millis(600) {
        assert_eq!(host.who(CLUSTER_IP).unwrap(), first);
    }
    std::thread::sleep(Duration::from_millis(800));
    assert_ne!(host.who(CLUSTER_IP).unwrap(), first);
}

#[test]
fn udp_clients_are_sent_elsewhere_when_their_endpoint_is_gone() {
    let (host, network) = machine();
    let pods = ["pod-a", "pod-b"].map(|name| Pod::attach(&network, name));
    let _servers = pods.each_ref().map(|pod| {
        pod.namespace.serve_udp(
            &pod.address.to_string(),
            SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, 80),
        )
    });
    let [a, b] = pods.each_ref().map(|pod| pod.address.to_string());
    let udp = |pod: &Pod| ServicePort {
        protocol: Protocol::Udp,
        node_port: Some(NODE_PORT),
        ..service(&[pod.socket()])
    };
    let mut proxied = Proxied::new(&host, &network);
    let node = SocketAddrV4::new(network.ranges().node, NODE_PORT);
    let [client, early, local] =
        [(); 3].map(|()| host.run(|| UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).unwrap()));
    // This one was refused before, and connection tracking remembers.
    assert!(ask_from(&early, node).is_err());

    proxied.set("dns", udp(&pods[0]));
    assert_eq!(ask_from(&client, CLUSTER_IP).unwrap(), a);
    assert_eq!(ask_from(&early, node).unwrap(), a);
    assert_eq!(
        ask_from(&local, SocketAddrV4::new(Ipv4Addr::LOCALHOST, NODE_PORT)).unwrap(),
        a
    );
    proxied.set("dns", udp(&pods[1]));
    assert_eq!(ask_from(&client, CLUSTER_IP).unwrap(), b);
    assert_eq!(ask_from(&early, node).unwrap(), b);
    assert_eq!(
        ask_from(&local, SocketAddrV4::new(Ipv4Addr::LOCALHOST, NODE_PORT)).unwrap(),
        b
    );
}

#[test]
fn a_service_may_lead_to_the_machine_itself() {
    let (host, network) = machine();
    let pod = Pod::attach(&network, "pod-a");
    let node = network.ranges().node;
    let api = SocketAddrV4::new(node, 6443);
    let _server = host.serve("api", api);
    let mut proxied = Proxied::new(&host, &network);
    proxied.set("kubernetes", service(&[api]));
    assert_eq!(
        pod.namespace.ask(CLUSTER_IP).unwrap(),
        format!("api {}", pod.address)
    );
    assert_eq!(host.ask(CLUSTER_IP).unwrap(), format!("api {node}"));
}

#[test]
fn a_service_may_lead_to_other_machines() {
    let (host, outside) = (Namespace::new(), Namespace::new());
    host.join("uplink", &outside, Ipv4Addr::new(192, 168, 7, 1));
    host.default_route("uplink");
    let database = SocketAddrV4::new(Ipv4Addr::new(192, 168, 7, 2), 5432);
    let _server = outside.serve("database", database);
    let network = host.run(|| Network::up(options("00000a", &[])).unwrap());
    let pod = Pod::attach(&network, "pod-a");
    let mut proxied = Proxied::new(&host, &network);
    proxied.set("database", service(&[database]));
    for from in [&host, &pod.namespace] {
        assert_eq!(from.ask(CLUSTER_IP).unwrap(), "database 192.168.7.1");
    }
}
