//! The links that lead out of the machine, and the forwarding they need for pods to be answered.
//!
//! Linux decides per link whether a packet that came in through it may be forwarded. Pods' answers come in
//! through an uplink, so it is turned on there, and only there: `net.ipv4.ip_forward` would do so for all
//! links, and cannot be put back without guessing. [`crate::table`] keeps this from opening anything else.
//!
//! Which links were changed is written into the alias of the cluster's anchor link *before* they are. So the
//! record lives exactly as long as what it records (until reboot), survives `kill -9`, cannot be lost with
//! a file, and is seen by other clusters on this machine, which must not turn off what they share.

use crate::cluster::ClusterId;
use crate::host::{Host, Link};
use std::collections::BTreeSet;
use std::io;
use std::path::{Path, PathBuf};

/// What the alias of the anchor link begins with.
const RECORD: &str = "forwarding:";

/// What is to be done about the uplinks.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Plan {
    /// Links to turn forwarding on for.
    pub(crate) open: BTreeSet<String>,
    /// Links whose forwarding is on because of this cluster, those in `open` among them.
    pub(crate) opened: BTreeSet<String>,
}

/// Decides which uplinks to open. `forwarding` says whether it is on for a link, `everywhere` whether the
/// machine forwards between all links because somebody said so.
pub(crate) fn plan(
    host: &Host,
    cluster: ClusterId,
    forwarding: impl Fn(&str) -> bool,
    everywhere: bool,
) -> Plan {
    let exists = |name: &String| host.links.iter().any(|link| link.name == *name);
    let own = host.anchor(cluster).map(opened_by).unwrap_or_default();
    let others: BTreeSet<String> = host.other_anchors(cluster).flat_map(opened_by).collect();
    let mut plan = Plan::default();
    for Link { name, .. } in host.uplinks() {
        if !forwarding(name) {
            plan.open.insert(name.clone());
            plan.opened.insert(name.clone());
        } else if others.contains(name) && !everywhere {
            plan.opened.insert(name.clone());
        }
    }
    // A link that is no uplink any more stays open until the cluster goes: default routes come and go with
    // the network, and connections through the link may still be alive.
    if !everywhere {
        plan.opened.extend(own.into_iter().filter(exists));
    }
    plan
}

/// The links to turn forwarding off for when the cluster goes.
pub(crate) fn to_close(host: &Host, cluster: ClusterId, everywhere: bool) -> BTreeSet<String> {
    if everywhere {
        return BTreeSet::new();
    }
    let others: BTreeSet<String> = host.other_anchors(cluster).flat_map(opened_by).collect();
    let own = host.anchor(cluster).map(opened_by).unwrap_or_default();
    own.into_iter()
        .filter(|name| !others.contains(name) && host.links.iter().any(|link| link.name == *name))
        .collect()
}

/// The alias that records `opened`.
pub(crate) fn record(opened: &BTreeSet<String>) -> String {
    opened
        .iter()
        .fold(RECORD.to_owned(), |record, name| record + " " + name)
}

/// The MTU for pods: what fits through every uplink.
pub(crate) fn pod_mtu(host: &Host) -> u32 {
    const ETHERNET: u32 = 1500;
    const SMALLEST: u32 = 576;
    host.uplinks()
        .iter()
        .map(|link| link.mtu)
        .min()
        .map_or(ETHERNET, |mtu| mtu.clamp(SMALLEST, 65535))
}

/// The names recorded in a anchor link's alias. Names of links contain no whitespace.
fn opened_by(anchor: &Link) -> BTreeSet<String> {
    let names = anchor.alias.strip_prefix(RECORD).unwrap_or_default();
    names.split_whitespace().map(str::to_owned).collect()
}

/// The IPv4 settings under `/proc/sys`, which are those of the calling thread's network namespace.
pub(crate) struct Sysctl {
    ipv4: PathBuf,
}

impl Sysctl {
    /// `root` is `/proc/sys` but in tests.
    pub(crate) fn new(root: &Path) -> Self {
        Self {
            ipv4: root.join("net/ipv4"),
        }
    }

    /// Whether the machine forwards between all links.
    pub(crate) fn forwards_everywhere(&self) -> io::Result<bool> {
        read_flag(&self.ipv4.join("ip_forward"))
    }

    pub(crate) fn forwarding(&self, link: &str) -> io::Result<bool> {
        read_flag(&self.forwarding_path(link))
    }

    pub(crate) fn set_forwarding(&self, link: &str, on: bool) -> io::Result<()> {
        std::fs::write(self.forwarding_path(link), if on { "1" } else { "0" })
    }

    fn forwarding_path(&self, link: &str) -> PathBuf {
        self.ipv4.join("conf").join(link).join("forwarding")
    }
}

fn read_flag(path: &Path) -> io::Result<bool> {
    Ok(std::fs::read_to_string(path)?.trim() != "0")
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::host::Route;

    fn cluster() -> ClusterId {
        "00000a".parse().unwrap()
    }

    fn host(uplinks: &[&str], own_alias: &str, other_alias: &str) -> Host {
        let names = ["lo", "eth0", "wlan0", "stead-00000a", "stead-00000b"];
        let mut links = Vec::new();
        for (index, name) in (1..).zip(names) {
            links.push(Link {
                index,
                name: name.to_owned(),
                mtu: 1400 + index,
                ..Link::default()
            });
        }
        let routes = links
            .iter()
            .filter(|link| uplinks.contains(&link.name.as_str()))
            .map(|link| Route::to("0.0.0.0/0", &[link.index]))
            .collect();
        links[3].alias = own_alias.to_owned();
        links[4].alias = other_alias.to_owned();
        Host {
            links,
            routes,
            addresses: Vec::new(),
        }
    }

    fn names(list: &[&str]) -> BTreeSet<String> {
        list.iter().map(|name| (*name).to_owned()).collect()
    }

    #[test]
    fn uplinks_are_opened_where_forwarding_is_off_and_remembered() {
        struct Case {
            what: &'static str,
            uplinks: &'static [&'static str],
            own: &'static str,
            other: &'static str,
            on: &'static [&'static str],
            everywhere: bool,
            open: &'static [&'static str],
            opened: &'static [&'static str],
        }
        let base = Case {
            what: "off",
            uplinks: &["eth0"],
            own: "",
            other: "",
            on: &[],
            everywhere: false,
            open: &["eth0"],
            opened: &["eth0"],
        };
        let cases = [
            Case {
                what: "on by somebody",
                on: &["eth0"],
                open: &[],
                opened: &[],
                ..base
            },
            Case {
                what: "on by us",
                own: "forwarding: eth0",
                on: &["eth0"],
                open: &[],
                ..base
            },
            Case {
                what: "on by the other cluster",
                other: "forwarding: eth0",
                on: &["eth0"],
                open: &[],
                ..base
            },
            Case {
                what: "no uplink",
                uplinks: &[],
                open: &[],
                opened: &[],
                ..base
            },
            Case {
                what: "another uplink than before",
                own: "forwarding: wlan0",
                on: &["wlan0"],
                opened: &["eth0", "wlan0"],
                ..base
            },
            Case {
                what: "the recorded link is gone",
                own: "forwarding: usb0",
                ..base
            },
            Case {
                what: "somebody turned it on everywhere",
                own: "forwarding: eth0",
                on: &["eth0"],
                everywhere: true,
                open: &[],
                opened: &[],
                ..base
            },
            Case {
                what: "off on the uplink but on everywhere else",
                everywhere: true,
                ..base
            },
            base,
        ];
        for case in cases {
            let host = host(case.uplinks, case.own, case.other);
            let plan = plan(&host, cluster(), |name| case.on.contains(&name), case.everywhere);
            let expected = Plan {
                open: names(case.open),
                opened: names(case.opened),
            };
            assert_eq!(plan, expected, "{}", case.what);
        }
    }

    #[test]
    fn what_was_opened_is_closed_unless_another_cluster_or_the_machine_needs_it() {
        let cases: [(&str, &str, bool, &[&str]); 5] = [
            ("forwarding: eth0 wlan0", "", false, &["eth0", "wlan0"]),
            ("forwarding: eth0 wlan0", "forwarding: eth0", false, &["wlan0"]),
            ("forwarding: eth0 usb0", "", false, &["eth0"]),
            ("forwarding: eth0", "", true, &[]),
            ("", "", false, &[]),
        ];
        for (own, other, everywhere, expected) in cases {
            let host = host(&["eth0"], own, other);
            assert_eq!(
                to_close(&host, cluster(), everywhere),
                names(expected),
                "{own:?} {other:?}"
            );
        }
    }

    #[test]
    fn the_record_is_read_back_as_it_was_written() {
        for list in [names(&[]), names(&["eth0"]), names(&["enp3s0.100", "wlan0"])] {
            assert_eq!(
                opened_by(&Link {
                    alias: record(&list),
                    ..Link::default()
                }),
                list
            );
        }
    }

    #[test]
    fn pods_get_the_smallest_mtu_of_all_uplinks() {
        assert_eq!(pod_mtu(&host(&["eth0", "wlan0"], "", "")), 1402);
        assert_eq!(pod_mtu(&host(&[], "", "")), 1500);
    }
}
