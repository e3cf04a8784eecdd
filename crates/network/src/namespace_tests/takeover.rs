//! Several proxies: one after another, and side by side.

use super::namespace::{Pod, machine, options};
use super::proxied::{AT_ONCE, CLUSTER_IP, Proxied, ask_times, key, service};
use crate::{Network, ServicePort};
use ipnet::Ipv4Net;
use std::collections::BTreeMap;
use std::io::ErrorKind;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::time::Instant;

#[test]
fn a_new_process_takes_over_without_a_gap() {
    let (host, network) = machine();
    let pods = ["pod-a", "pod-b"].map(|name| Pod::attach(&network, name));
    let web = service(&pods.each_ref().map(Pod::socket));
    let mut proxied = Proxied::new(&host, &network);
    proxied.set("web", web.clone());
    proxied.set(
        "old",
        ServicePort {
            cluster_ips: vec![Ipv4Addr::new(10, 96, 0, 51)],
            ..web.clone()
        },
    );
    drop(proxied);
    drop(network);

    host.asked_all_the_time(CLUSTER_IP, || {
        for _ in 0..100 {
            let network = host.run(|| Network::up(options("00000a", &[])).unwrap());
            let mut proxied = Proxied::new(&host, &network);
            proxied.replace(BTreeMap::from([(key("web"), web.clone())]));
        }
    });
    assert_eq!(
        host.ask(SocketAddrV4::new(Ipv4Addr::new(10, 96, 0, 51), 8080))
            .unwrap_err()
            .kind(),
        ErrorKind::ConnectionRefused
    );
}

#[test]
fn the_proxy_recovers_when_somebody_deletes_its_table() {
    let (host, network) = machine();
    let pods = ["pod-a", "pod-b"].map(|name| Pod::attach(&network, name));
    let mut proxied = Proxied::new(&host, &network);
    proxied.set("web", service(&[pods[0].socket()]));
    host.run(|| {
        let mut batch = crate::nft::Batch::new(&network.cluster().link_name());
        batch.delete_table();
        crate::nft::Nft::open().unwrap().commit(batch).unwrap();
    });
    let both = service(&pods.each_ref().map(Pod::socket));
    assert!(
        host.run(|| proxied.proxy.update([(key("web"), Some(both.clone()))]))
            .is_err()
    );
    proxied.set("web", both);
    assert_eq!(ask_times(&host, CLUSTER_IP, 2), ["pod-a", "pod-b"]);
}

#[test]
fn two_clusters_live_side_by_side_and_do_not_mix() {
    let (host, first) = machine();
    let used: Vec<Ipv4Net> = host.run(|| crate::used_prefixes().unwrap());
    let second = host.run(|| Network::up(options("00000b", &used)).unwrap());
    let (a, b) = (Pod::attach(&first, "pod-a"), Pod::attach(&second, "pod-b"));
    let other_ip = SocketAddrV4::new(
        Ipv4Addr::from_bits(second.ranges().services.addr().to_bits() + 50),
        8080,
    );
    let mut in_first = Proxied::new(&host, &first);
    let mut in_second = Proxied::new(&host, &second);
    in_first.set("web", service(&[a.socket()]));
    in_second.set(
        "web",
        ServicePort {
            cluster_ips: vec![*other_ip.ip()],
            ..service(&[b.socket()])
        },
    );
    assert_eq!(host.who(CLUSTER_IP).unwrap(), "pod-a");
    assert_eq!(host.who(other_ip).unwrap(), "pod-b");
    assert_eq!(a.namespace.who(CLUSTER_IP).unwrap(), "pod-a");
    // Their pods do not see each other.
    for server in [b.socket(), other_ip] {
        let start = Instant::now();
        assert!(a.namespace.ask(server).is_err());
        assert!(start.elapsed() < AT_ONCE);
    }
    host.run(|| Network::down(first.cluster()).unwrap());
    assert_eq!(host.who(other_ip).unwrap(), "pod-b");
    assert_eq!(b.namespace.who(other_ip).unwrap(), "pod-b");
}
