//! The cluster's network on this machine: setting it up, keeping it up, taking it down.
//!
//! On the host there is one link per cluster that leads nowhere, the anchor. It carries the node's address
//! and the DNS server's, and the ranges of services and load balancers are routed to it: a packet made on
//! this machine needs a route before it can be translated, and the route gives it the node's address as its
//! source. Nothing is ever sent through the anchor; what is not translated is refused (see
//! [`crate::table`]). It is a veth with both ends here, because pods need veths anyway, while the `dummy`
//! driver, made for this, is a module that small kernels and containers lack.
//!
//! The pod range is routed there as well, under the pods' own /32 routes, so that packets to a pod that is
//! gone are refused on this machine and never leave it. An `unreachable` route would answer with ICMP, and
//! TCP ignores that while `connect` is still at work on the socket, which it is when the answer is as near
//! as here: the client would notice only with its second try, a second later. (`blackhole` would not even
//! answer.) A reset is heard at once.
//!
//! Everything is idempotent, and found again by name (see [`crate::ClusterId`]), so that a killed process
//! leaves nothing that `down` does not find. No address or route of ours is kept anywhere but in the kernel.
//!
//! Reverse path filtering may be strict anywhere: a packet from a pod comes in where packets to it go out,
//! also when it is translated. On the pods' own links it is, so that no pod takes another's address. Only
//! IPv4 is handled.
//!
//! All calls are synchronous, and take well under a millisecond unless links are made or deleted. They are
//! all to be made on threads in one network namespace.

use crate::cluster::ClusterId;
use crate::host::{self, Host, Link};
use crate::netlink::Netlink;
use crate::nft::{Batch, Nft, NftError};
use crate::pod;
use crate::ranges::Ranges;
use crate::removal::Removal;
use crate::rtnl::{self, RouteRequest};
use crate::table::{self, Layout};
use crate::uplink::{self, Sysctl};
use ipnet::Ipv4Net;
use netlink_sys::protocols::NETLINK_ROUTE;
use std::collections::BTreeSet;
use std::error::Error;
use std::io;
use std::path::Path;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// The network of one cluster on this machine. Clones share one connection to the kernel.
#[derive(Clone)]
pub struct Network {
    inner: Arc<Inner>,
}

/// What a cluster's network is made of.
#[derive(Clone, Debug)]
pub struct Options {
    /// Distinguishes this cluster from others in the same network namespace.
    pub cluster: ClusterId,
    /// The cluster's addresses.
    pub ranges: Ranges,
    /// Whether node ports and load balancers answer to other machines. Off, only the machine itself and its
    /// pods reach them.
    pub expose: bool,
}

/// Why the network could not be set up.
#[derive(Debug, thiserror::Error)]
pub enum NetworkError {
    /// The kernel could not be asked, or said no.
    #[error("{action}")]
    Kernel {
        /// What was attempted.
        action: &'static str,
        /// What the kernel said.
        source: io::Error,
    },
    /// Somebody else, perhaps a cluster that started at the same moment, took the range since it was chosen.
    #[error("route the range {0}: it is taken by another route")]
    RangeTaken(Ipv4Net),
    /// The nftables table could not be written.
    #[error(transparent)]
    Table(#[from] NftError),
}

/// What [`Network::down`] could not remove. It removed everything else.
#[derive(Debug, thiserror::Error)]
#[error("remove the network of cluster {cluster}: {}", list(.failures))]
pub struct DownError {
    /// The cluster that was to be removed.
    pub cluster: ClusterId,
    /// Every step that failed.
    pub failures: Vec<NetworkError>,
}

struct Inner {
    layout: Layout,
    mtu: AtomicU32,
    route: Mutex<Netlink>,
    removal: Removal,
    firewall: Mutex<Firewall>,
}

/// The table and what it was last told about uplinks.
pub(crate) struct Firewall {
    pub(crate) nft: Nft,
    pub(crate) opened_links: BTreeSet<u32>,
}

impl Network {
    /// Sets the cluster's network up, or takes over what an earlier process of the same cluster left. Its
    /// services keep working until the first [`crate::Proxy::replace`].
    ///
    /// # Errors
    /// [`NetworkError::RangeTaken`] asks for other ranges. After an error nothing is left that this call made.
    pub fn up(options: Options) -> Result<Self, NetworkError> {
        let mut route = kernel("open rtnetlink", Netlink::open(NETLINK_ROUTE))?;
        let nft = kernel("open nftables", Nft::open())?;
        let cluster = options.cluster;
        let removal = kernel("open rtnetlink", Removal::new(cluster))?;
        let before = kernel("read the network", Host::read(&mut route))?;
        let is_new = before.anchor(cluster).is_none();
        let undo = |error| {
            if is_new && let Err(error) = Self::down(cluster) {
                tracing::warn!(%error, "undo the set-up of the network");
            }
            error
        };
        let unfinished = pod::unfinished(&before.links, cluster);
        let deletions = unfinished.map(|link| rtnl::delete_link(link.index)).collect();
        let deleted = send_unless(&mut route, deletions, nix::libc::ENODEV);
        kernel("delete unfinished veths", deleted)?;
        let anchor = make_anchor(&mut route, cluster, &options.ranges).map_err(undo)?;
        add_routes(&mut route, &options.ranges, anchor.index, &before).map_err(undo)?;
        let Options {
            cluster,
            ranges,
            expose,
        } = options;
        let network = Self {
            inner: Arc::new(Inner {
                layout: Layout {
                    cluster,
                    ranges,
                    expose,
                    anchor_index: anchor.index,
                    anchor_peer_index: anchor.peer_index,
                },
                mtu: AtomicU32::new(0),
                route: Mutex::new(route),
                removal,
                firewall: Mutex::new(Firewall {
                    nft,
                    opened_links: BTreeSet::new(),
                }),
            }),
        };
        network.make_table(is_new).map_err(undo)?;
        network.sync_uplinks().map_err(undo)?;
        Ok(network)
    }

    /// Removes everything the cluster has put into the kernel, and puts back the settings it changed. To be
    /// called without a [`Network`] too, also when only parts of one are left, or nothing.
    ///
    /// Takes some ten milliseconds, as the kernel waits for the links to be out of use.
    ///
    /// # Errors
    /// A list of what could not be removed, after everything else was.
    pub fn down(cluster: ClusterId) -> Result<(), DownError> {
        let failures = match kernel("open rtnetlink", Netlink::open(NETLINK_ROUTE)) {
            Ok(mut route) => remove_all(&mut route, cluster),
            Err(error) => vec![error],
        };
        if failures.is_empty() {
            Ok(())
        } else {
            Err(DownError { cluster, failures })
        }
    }

    /// Looks at the uplinks again: turns on forwarding where it is off, and adopts their MTU for new pods.
    /// [`Network::follow_uplinks`] calls this whenever a default route changes.
    ///
    /// # Errors
    /// When the kernel cannot be asked. A link that cannot be changed is logged, and reported by
    /// [`Network::obstacles`].
    pub fn sync_uplinks(&self) -> Result<(), NetworkError> {
        let host = kernel("read the network", Host::read(&mut self.route()))?;
        self.inner.mtu.store(uplink::pod_mtu(&host), Ordering::Relaxed);
        let sysctl = Sysctl::new(Path::new("/proc/sys"));
        let everywhere = sysctl.forwards_everywhere().unwrap_or(false);
        // An unreadable setting is taken for "on": then there is nothing to change, and nothing to put back.
        let forwarding = |name: &str| sysctl.forwarding(name).unwrap_or(true);
        let plan = uplink::plan(&host, self.cluster(), forwarding, everywhere);
        let record = rtnl::set_alias(self.inner.layout.anchor_index, uplink::record(&plan.opened));
        kernel("record the opened uplinks", send(&mut self.route(), vec![record]))?;
        for name in &plan.open {
            if let Err(error) = sysctl.set_forwarding(name, true) {
                tracing::warn!(%error, link = name, "turn on forwarding; pods will not reach beyond this machine");
            }
        }
        let opened = host.links.iter().filter(|link| plan.opened.contains(&link.name));
        self.set_opened_links(opened.map(|link| link.index).collect())
    }

    /// The cluster this network belongs to.
    pub fn cluster(&self) -> ClusterId {
        self.inner.layout.cluster
    }

    /// The cluster's addresses.
    pub fn ranges(&self) -> &Ranges {
        &self.inner.layout.ranges
    }

    /// Whether node ports and load balancers are open to other machines.
    pub fn is_exposed(&self) -> bool {
        self.inner.layout.expose
    }

    pub(crate) fn layout(&self) -> &Layout {
        &self.inner.layout
    }

    pub(crate) fn mtu(&self) -> u32 {
        self.inner.mtu.load(Ordering::Relaxed)
    }

    pub(crate) fn route(&self) -> MutexGuard<'_, Netlink> {
        self.inner.route.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn removal(&self) -> &Removal {
        &self.inner.removal
    }

    pub(crate) fn firewall(&self) -> MutexGuard<'_, Firewall> {
        self.inner.firewall.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Makes the table, unless an earlier process left one, whose services are to go on working.
    fn make_table(&self, is_new: bool) -> Result<(), NetworkError> {
        let mut firewall = self.firewall();
        let exists = kernel(
            "look for the table",
            firewall.nft.has_table(&self.cluster().link_name()),
        )?;
        if is_new || !exists {
            self.replace_table(&mut firewall)?;
        }
        Ok(())
    }

    fn set_opened_links(&self, opened: BTreeSet<u32>) -> Result<(), NetworkError> {
        let mut firewall = self.firewall();
        firewall.opened_links = opened;
        let mut batch = Batch::new(&self.cluster().link_name());
        batch.flush_set(table::OPENED_LINKS);
        let links = firewall
            .opened_links
            .iter()
            .map(|index| (table::link_key(*index), None));
        batch.add_elements(table::OPENED_LINKS, links);
        if let Err(error) = firewall.nft.commit(batch) {
            // The table is another version's, or was flushed by somebody.
            tracing::warn!(%error, "the nftables table is not as expected and is made anew");
            self.replace_table(&mut firewall)?;
        }
        Ok(())
    }

    fn replace_table(&self, firewall: &mut Firewall) -> Result<(), NftError> {
        let mut batch = Batch::new(&self.cluster().link_name());
        table::replace(&mut batch, self.layout(), firewall.opened_links.iter().copied());
        firewall.nft.commit(batch)
    }
}

/// Every failure with what caused it, as a list can have no single source.
fn list(failures: &[NetworkError]) -> String {
    let with_causes = failures.iter().map(|failure| {
        let (mut text, mut cause) = (failure.to_string(), failure.source());
        while let Some(error) = cause {
            text = format!("{text}: {error}");
            cause = error.source();
        }
        text
    });
    with_causes.collect::<Vec<_>>().join("; ")
}

/// Makes the anchor link with its two addresses and nothing else.
fn make_anchor(route: &mut Netlink, cluster: ClusterId, ranges: &Ranges) -> Result<Link, NetworkError> {
    let made = send_unless(route, vec![rtnl::add_anchor(cluster)], nix::libc::EEXIST);
    kernel("make the anchor link", made)?;
    let link = kernel(
        "find the anchor link",
        host::read_link(route, &cluster.link_name()),
    )?;
    let link = link.unwrap_or_default();
    let index = link.index;
    let wanted = [ranges.node, ranges.dns()];
    let peer = link.peer_index;
    let mut requests = vec![rtnl::set_up_silent(index), rtnl::set_up_silent(peer)];
    requests.extend(wanted.map(|address| rtnl::add_address(index, address)));
    silence_ipv6(route, index);
    silence_ipv6(route, peer);
    kernel("give the anchor link its addresses", send(route, requests))?;
    kernel("settle the anchor link", host::settle(route, &link.name))?;

    let host = kernel("read the network", Host::read(route))?;
    let others = host
        .addresses
        .iter()
        .filter(|address| address.link == index)
        .map(|address| address.address.addr());
    let stale = others.filter(|address| !wanted.contains(address));
    let deletions = stale
        .map(|address| rtnl::delete_address(index, address))
        .collect();
    kernel("remove old addresses", send(route, deletions))?;
    Ok(link)
}

/// Routes the cluster's ranges, after removing routes for ranges the cluster had before.
fn add_routes(
    route: &mut Netlink,
    ranges: &Ranges,
    anchor_index: u32,
    before: &Host,
) -> Result<(), NetworkError> {
    let wanted = [ranges.pods, ranges.services, ranges.load_balancers];
    let (kept, stale): (Vec<_>, Vec<_>) = (before.routes.iter())
        .filter(|route| route.ours && route.links == [anchor_index])
        .partition(|route| wanted.contains(&route.destination));
    let deletions = stale
        .into_iter()
        .map(|route| rtnl::delete_route(route.message.clone()))
        .collect();
    // Those with an address that was removed as their source went with it.
    kernel(
        "remove old routes",
        send_unless(route, deletions, nix::libc::ESRCH),
    )?;

    for range in wanted {
        let request = match kept.iter().any(|route| route.destination == range) {
            true => rtnl::replace_link_route(range, anchor_index, ranges.node),
            // Of two clusters that chose one range at the same moment, only one can add its route.
            false => rtnl::add_link_route(range, anchor_index, ranges.node),
        };
        match send(route, vec![request]) {
            Err(error) if error.raw_os_error() == Some(nix::libc::EEXIST) => {
                return Err(NetworkError::RangeTaken(range));
            }
            outcome => kernel("route the cluster's ranges", outcome)?,
        }
    }
    Ok(())
}

/// Carries out every step of the removal and returns the ones that failed.
fn remove_all(route: &mut Netlink, cluster: ClusterId) -> Vec<NetworkError> {
    let mut failures = Vec::new();
    let host = match kernel("read the network", Host::read(route)) {
        Ok(host) => host,
        Err(error) => return vec![error],
    };
    failures.extend(remove_tables(cluster).err());

    // All routes are routes through these links.
    let groups = [cluster.link_group(), cluster.removal_group()].map(rtnl::delete_links);
    let links = send_unless(route, groups.into(), nix::libc::ENODEV);
    failures.extend(kernel("delete the links", links).err());

    let sysctl = Sysctl::new(Path::new("/proc/sys"));
    let everywhere = sysctl.forwards_everywhere().unwrap_or(false);
    for name in uplink::to_close(&host, cluster, everywhere) {
        failures.extend(kernel("turn forwarding off again", sysctl.set_forwarding(&name, false)).err());
    }
    failures
}

fn remove_tables(cluster: ClusterId) -> Result<(), NetworkError> {
    let mut nft = kernel("open nftables", Nft::open())?;
    for table in [cluster.link_name(), cluster.spare_table_name()] {
        if kernel("look for the table", nft.has_table(&table))? {
            let mut batch = Batch::new(&table);
            batch.delete_table();
            nft.commit(batch)?;
        }
    }
    Ok(())
}

/// Keeps a link from sending IPv6 packets of its own. Where the kernel has no IPv6 there is nothing to do.
pub(crate) fn silence_ipv6(route: &mut Netlink, index: u32) {
    if let Err(error) = send(route, vec![rtnl::silence_ipv6(index)]) {
        tracing::debug!(%error, index, "leave IPv6 as it is");
    }
}

/// Sends requests that all have to succeed, and returns the first error.
pub(crate) fn send(route: &mut Netlink, requests: Vec<RouteRequest>) -> io::Result<()> {
    send_unless(route, requests, 0)
}

/// The same, but takes one error for success: that what was to be made exists, or is gone that was to be
/// removed.
pub(crate) fn send_unless(
    route: &mut Netlink,
    requests: Vec<RouteRequest>,
    tolerated: i32,
) -> io::Result<()> {
    if requests.is_empty() {
        return Ok(());
    }
    let is_tolerated = |error: &io::Error| error.raw_os_error() == Some(tolerated);
    let outcomes = route.transact(requests)?;
    outcomes
        .into_iter()
        .filter(|outcome| !outcome.as_ref().is_err_and(is_tolerated))
        .collect()
}

pub(crate) fn kernel<T>(action: &'static str, outcome: io::Result<T>) -> Result<T, NetworkError> {
    outcome.map_err(|source| NetworkError::Kernel { action, source })
}
