//! Setting up, taking over, taking down.

use super::namespace::{Namespace, Pod, cluster, machine, options};
use crate::{Network, NetworkError, Ranges};
use ipnet::Ipv4Net;
use std::net::{Ipv4Addr, SocketAddrV4};

#[test]
fn down_leaves_the_machine_exactly_as_it_was() {
    let (host, outside) = (Namespace::new(), Namespace::new());
    host.join("uplink", &outside, Ipv4Addr::new(192, 168, 7, 1));
    host.default_route("uplink");
    let before = host.snapshot();
    let network = host.run(|| Network::up(options("00000a", &[])).unwrap());
    let _pods: Vec<_> = ["pod-a", "pod-b", "pod-c"]
        .map(|name| Pod::attach(&network, name))
        .into();
    assert_ne!(host.snapshot(), before);
    host.run(|| Network::down(network.cluster()).unwrap());
    assert_eq!(host.snapshot(), before);
    host.run(|| Network::down(network.cluster()).unwrap());
    assert_eq!(host.snapshot(), before);
}

#[test]
fn down_finds_whatever_a_killed_process_left() {
    let host = Namespace::new();
    let before = host.snapshot();
    let leave = |step: usize| {
        let network = host.run(|| Network::up(options("00000a", &[])).unwrap());
        let _pod = Pod::attach(&network, "pod-a");
        let id = network.cluster();
        match step {
            0 => {}
            1 => host.route(|route| {
                let anchor = crate::host::read_link(route, &id.link_name()).unwrap().unwrap();
                crate::node::send(route, vec![crate::rtnl::delete_link(anchor.index)]).unwrap();
            }),
            2 => host.run(|| {
                let mut batch = crate::nft::Batch::new(&id.link_name());
                batch.delete_table();
                crate::nft::Nft::open().unwrap().commit(batch).unwrap();
            }),
            3 => host.run(|| {
                let mut batch = crate::nft::Batch::new(&id.spare_table_name());
                batch.add_table();
                crate::nft::Nft::open().unwrap().commit(batch).unwrap();
            }),
            _ => host.route(|route| {
                crate::node::send(route, vec![crate::rtnl::delete_links(id.link_group())]).unwrap()
            }),
        }
        host.run(|| Network::down(id).unwrap());
        assert_eq!(host.snapshot(), before, "step {step}");
    };
    (0..5).for_each(leave);
}

#[test]
fn up_again_after_a_kill_changes_nothing_and_finds_the_pods() {
    let (host, network) = machine();
    let pod = Pod::attach(&network, "pod-a");
    let set_up = host.snapshot();
    drop(network);
    let network = host.run(|| Network::up(options("00000a", &[])).unwrap());
    assert_eq!(host.snapshot(), set_up);
    assert_eq!(network.attached().unwrap()[0].address, pod.address);
    assert!(host.ask(pod.socket()).is_ok());
}

#[test]
fn up_repairs_what_is_missing() {
    let (host, network) = machine();
    let set_up = host.snapshot();
    let id = network.cluster();
    host.route(|route| crate::node::send(route, vec![crate::rtnl::delete_links(id.link_group())]).unwrap());
    host.run(|| Network::up(options("00000a", &[])).unwrap());
    assert_eq!(host.snapshot(), set_up);
    host.run(|| {
        let mut batch = crate::nft::Batch::new(&id.link_name());
        batch.delete_table();
        crate::nft::Nft::open().unwrap().commit(batch).unwrap();
        Network::up(options("00000a", &[])).unwrap()
    });
    assert_eq!(host.snapshot(), set_up);
}

#[test]
fn up_with_other_ranges_removes_those_the_cluster_had() {
    let (host, network) = machine();
    let used: Vec<Ipv4Net> = host.run(|| crate::used_prefixes().unwrap());
    host.run(|| Network::up(options("00000a", &used)).unwrap());
    let moved = host.snapshot();
    host.run(|| {
        Network::down(network.cluster()).unwrap();
        Network::up(options("00000a", &used)).unwrap();
    });
    assert_eq!(host.snapshot(), moved);
}

#[test]
fn a_range_that_somebody_else_routes_is_not_taken_and_nothing_is_left() {
    let host = Namespace::new();
    let other = Namespace::new();
    host.join("lan", &other, Ipv4Addr::new(192, 168, 7, 1));
    host.add_route("lan", "10.96.0.0/16".parse().unwrap());
    let before = host.snapshot();
    let error = host.run(|| Network::up(options("00000a", &[])).err().unwrap());
    assert!(
        matches!(error, NetworkError::RangeTaken(range) if range.to_string() == "10.96.0.0/16"),
        "{error}"
    );
    assert_eq!(host.snapshot(), before);

    let used = host.run(|| crate::used_prefixes().unwrap());
    assert_eq!(
        Ranges::choose(&used).unwrap().services.to_string(),
        "10.97.0.0/16"
    );
}

#[test]
fn ranges_are_chosen_outside_what_another_cluster_has() {
    let (host, first) = machine();
    let used = host.run(|| crate::used_prefixes().unwrap());
    let ranges = Ranges::choose(&used).unwrap();
    let first = first.ranges();
    assert_eq!(ranges.services.to_string(), "10.97.0.0/16");
    assert_ne!(ranges.pods, first.pods);
    assert_ne!(ranges.node, first.node);
    assert_ne!(ranges.load_balancers, first.load_balancers);
}

#[test]
fn many_links_are_deleted_in_one_go() {
    let (host, network) = machine();
    let pods: Vec<_> = (0..20).map(|_| Namespace::new()).collect();
    for (n, pod) in (1..).zip(&pods) {
        network
            .attach(&format!("pod-{n}"), pod.fd(), Ipv4Addr::new(10, 244, 0, n))
            .unwrap();
    }
    assert_eq!(network.attached().unwrap().len(), 20);
    host.run(|| Network::down(cluster("00000a")).unwrap());
    assert_eq!(network.attached().unwrap().len(), 0);
    assert!(
        host.ask(SocketAddrV4::new(Ipv4Addr::new(10, 244, 0, 1), 80))
            .is_err()
    );
}
