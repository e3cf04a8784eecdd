//! Other programs' firewalls.

use super::namespace::{Namespace, Pod, machine, options};
use crate::nft::{Batch, Hook, Kind, Nft, Rule};
use crate::{Network, Obstacle};
use std::net::Ipv4Addr;

/// Another program's table with a forward chain that drops, as Docker's.
fn foreign_firewall(host: &Namespace, rule: Option<Rule>) {
    host.run(|| {
        let mut batch = Batch::new("filter");
        batch.add_table();
        batch.add_dropping_chain("FORWARD", Hook::Forward, Kind::Filter);
        if let Some(rule) = rule {
            batch.add_rule("FORWARD", rule);
        }
        Nft::open().unwrap().commit(batch).unwrap();
    });
}

#[test]
fn a_machine_without_firewalls_has_no_obstacles() {
    let (host, network) = machine();
    assert_eq!(host.run(|| network.obstacles().unwrap()), []);
}

#[test]
fn a_forward_chain_that_drops_is_an_obstacle_until_it_has_a_rule_about_our_links() {
    let (host, network) = machine();
    let pods = ["pod-a", "pod-b"].map(|name| Pod::attach(&network, name));
    foreign_firewall(&host, None);
    assert!(pods[0].namespace.reaches(pods[1].socket()).is_err());
    let expected = Obstacle::DroppingChain {
        family: "ip",
        table: "filter".to_owned(),
        chain: "FORWARD".to_owned(),
        forwarded: true,
        links: "sv00000a".to_owned(),
    };
    assert_eq!(host.run(|| network.obstacles().unwrap()), [expected]);

    foreign_firewall(&host, Some(Rule::new().came_from_link_named("sv00000a").accept()));
    assert!(pods[0].namespace.reaches(pods[1].socket()).is_ok());
    assert_eq!(host.run(|| network.obstacles().unwrap()), []);
}

#[test]
fn an_uplink_that_does_not_forward_is_an_obstacle() {
    let (host, outside) = (Namespace::new(), Namespace::new());
    host.join("uplink", &outside, Ipv4Addr::new(192, 168, 7, 1));
    host.default_route("uplink");
    let network = host.run(|| Network::up(options("00000a", &[])).unwrap());
    assert_eq!(host.run(|| network.obstacles().unwrap()), []);
    host.set_sysctl("conf/uplink/forwarding", "0");
    let expected = Obstacle::NotForwarding {
        link: "uplink".to_owned(),
    };
    assert_eq!(host.run(|| network.obstacles().unwrap()), [expected]);
}
