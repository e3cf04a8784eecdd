//! Connecting pods: one routed veth each, with a /32 address and no bridge.
//!
//! The pod's end is `eth0` inside its network namespace. Everything it sends goes to a gateway that exists
//! only as a permanent neighbour entry; on the host, a /32 route and another permanent entry lead back. So
//! no ARP is ever sent: the first packet needs no round trip, and there is nothing to spoof or to time out.
//!
//! The host's end carries the pod's key and address in its alias, so that a new process finds the pods it
//! adopts in the kernel and not in a file. Deleting the pod's namespace deletes the veth and its route.

use crate::cluster::ClusterId;
use crate::host::{self, Link};
use crate::netlink::Netlink;
use crate::node::{Network, send, send_unless, silence_ipv6};
use crate::rtnl::{self, POD_LINK, Veth};
use netlink_sys::protocols::NETLINK_ROUTE;
use nix::sched::{CloneFlags, setns};
use std::io;
use std::net::Ipv4Addr;
use std::os::fd::BorrowedFd;

/// A pod that was connected.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Attached {
    /// The host's end of the veth.
    pub host_link: String,
    /// The hardware address of `eth0` in the pod.
    pub mac: [u8; 6],
    /// The largest packet the pod can send.
    pub mtu: u32,
}

/// A connected pod, as found in the kernel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AttachedPod {
    /// What the pod was attached as.
    pub pod_key: String,
    /// Its address.
    pub address: Ipv4Addr,
    /// The host's end of its veth.
    pub host_link: String,
}

/// Why a pod could not be connected or disconnected.
#[derive(Debug, thiserror::Error)]
pub enum AttachError {
    /// The key has to fit into the alias of a link.
    #[error("attach pod {0:?}: a pod key is 1 to 200 characters without whitespace")]
    InvalidKey(String),
    /// Another pod's key has the same hash.
    #[error("attach pod {pod_key}: the link {link} belongs to {owner:?}")]
    LinkTaken {
        /// The pod in question.
        pod_key: String,
        /// The name both pods' links would have.
        link: String,
        /// The alias of the link that is there.
        owner: String,
    },
    /// A step failed; what was done before it was undone.
    #[error("{step} of pod {pod_key}")]
    Kernel {
        /// What was attempted.
        step: &'static str,
        /// The pod in question.
        pod_key: String,
        /// What the kernel said.
        source: io::Error,
    },
}

/// An alias is 255 bytes at most, and an address and a space 16.
const LONGEST_KEY: usize = 200;

impl Network {
    /// Connects a pod: makes `eth0` with `address` inside `netns`, and routes the address to it. Attaching
    /// a pod that is attached already, in the same namespace and with the same address, repairs whatever is
    /// missing and leaves its connections alone.
    ///
    /// Takes about a millisecond of the calling thread, longer while namespaces are being deleted.
    ///
    /// # Errors
    /// When a step fails; the veth is gone then.
    pub fn attach(
        &self,
        pod_key: &str,
        netns: BorrowedFd<'_>,
        address: Ipv4Addr,
    ) -> Result<Attached, AttachError> {
        if pod_key.is_empty() || pod_key.len() > LONGEST_KEY || pod_key.contains(char::is_whitespace) {
            return Err(AttachError::InvalidKey(pod_key.to_owned()));
        }
        let failed = |step| step_of(pod_key, step);
        let link = match self.reusable_link(pod_key, netns, address)? {
            Some(link) => link,
            None => self.make_veth(pod_key, netns).map_err(failed("make the veth"))?,
        };
        let undo = |source: io::Error| {
            if let Err(error) = send(&mut self.route(), vec![rtnl::delete_link(link.index)]) {
                tracing::warn!(%error, pod_key, "delete the veth of a pod that could not be attached");
            }
            source
        };
        let host_end = self.set_up_host_end(pod_key, &link, address).map_err(undo);
        host_end.map_err(failed("set up the host's end of the veth"))?;
        let pod_end =
            in_namespace(netns, |route| set_up_pod_end(route, link.peer_index, address)).map_err(undo);
        pod_end.map_err(failed("set up eth0 in the namespace"))?;
        host::settle(&mut self.route(), &link.name).map_err(failed("settle the veth"))?;
        Ok(Attached {
            host_link: link.name,
            mac: self.cluster().pod_mac(pod_key),
            mtu: link.mtu,
        })
    }

    /// Disconnects a pod, and says whether it was connected. Its namespace may be gone already.
    ///
    /// The kernel waits for packets on their way, which takes some ten milliseconds. Pods that are detached
    /// on several threads at once wait together.
    ///
    /// # Errors
    /// When the link is there and cannot be deleted.
    pub fn detach(&self, pod_key: &str) -> Result<bool, AttachError> {
        let failed = |step| step_of(pod_key, step);
        let Some(link) = self.find(pod_key).map_err(failed("look for the veth"))? else {
            return Ok(false);
        };
        self.check_owner(pod_key, &link)?;
        self.removal()
            .delete(link.index)
            .map_err(failed("delete the veth"))?;
        Ok(true)
    }

    /// All pods that are connected, as the kernel knows them.
    ///
    /// # Errors
    /// When the kernel cannot be asked.
    pub fn attached(&self) -> io::Result<Vec<AttachedPod>> {
        let links = host::read_links(&mut self.route())?;
        Ok(links.into_iter().filter_map(|link| self.pod_of(link)).collect())
    }

    fn pod_of(&self, link: Link) -> Option<AttachedPod> {
        let (pod_key, address) = parse_alias(&link.alias)?;
        let ours =
            link.group == self.cluster().link_group() && link.name == self.cluster().veth_name(pod_key);
        ours.then(|| AttachedPod {
            pod_key: pod_key.to_owned(),
            address,
            host_link: link.name.clone(),
        })
    }

    fn find(&self, pod_key: &str) -> io::Result<Option<Link>> {
        host::read_link(&mut self.route(), &self.cluster().veth_name(pod_key))
    }

    /// The pod's veth if there is one that can stay; one that cannot is deleted.
    fn reusable_link(
        &self,
        pod_key: &str,
        netns: BorrowedFd<'_>,
        address: Ipv4Addr,
    ) -> Result<Option<Link>, AttachError> {
        let failed = |step| step_of(pod_key, step);
        let Some(link) = self.find(pod_key).map_err(failed("look for the veth"))? else {
            return Ok(None);
        };
        self.check_owner(pod_key, &link)?;
        let peer =
            in_namespace(netns, |route| host::read_link(route, POD_LINK)).map_err(failed("look for eth0"))?;
        // Indexes are unique per namespace only, so both ends have to agree.
        let joined = peer.is_some_and(|peer| peer.index == link.peer_index && peer.peer_index == link.index);
        if joined && link.alias == alias(pod_key, address) {
            return Ok(Some(link));
        }
        // The kernel may be about to delete it, together with its namespace.
        let requests = vec![rtnl::delete_link(link.index)];
        let deletion = send_unless(&mut self.route(), requests, nix::libc::ENODEV);
        deletion.map_err(failed("delete the former veth"))?;
        Ok(None)
    }

    fn check_owner(&self, pod_key: &str, link: &Link) -> Result<(), AttachError> {
        match parse_alias(&link.alias) {
            Some((owner, _)) if owner != pod_key => Err(AttachError::LinkTaken {
                pod_key: pod_key.to_owned(),
                link: link.name.clone(),
                owner: owner.to_owned(),
            }),
            _ => Ok(()),
        }
    }

    fn make_veth(&self, pod_key: &str, pod_netns: BorrowedFd<'_>) -> io::Result<Link> {
        let cluster = self.cluster();
        let name = cluster.veth_name(pod_key);
        let veth = Veth {
            name: &name,
            cluster,
            pod_mac: cluster.pod_mac(pod_key),
            pod_netns,
            mtu: self.mtu(),
        };
        let mut route = self.route();
        send(&mut route, vec![rtnl::add_veth(&veth)])?;
        // The answer also tells the index of the other end.
        host::read_link(&mut route, &name)?.ok_or_else(|| io::Error::from_raw_os_error(nix::libc::ENODEV))
    }

    fn set_up_host_end(&self, pod_key: &str, link: &Link, address: Ipv4Addr) -> io::Result<()> {
        let mut route = self.route();
        silence_ipv6(&mut route, link.index);
        let requests = vec![
            rtnl::forward_own_packets(link.index),
            rtnl::set_up(link.index),
            rtnl::replace_neighbour(link.index, address, self.cluster().pod_mac(pod_key)),
            rtnl::replace_link_route(address.into(), link.index, self.ranges().node),
            // Last, so that a link with an alias is a pod that is attached.
            rtnl::set_alias(link.index, alias(pod_key, address)),
        ];
        send(&mut route, requests)
    }
}

/// Veths that a killed process had not finished making or deleting, given all links.
pub(crate) fn unfinished(links: &[Link], cluster: ClusterId) -> impl Iterator<Item = &Link> {
    let prefix = cluster.veth_prefix();
    let ours = links.iter().filter(move |link| link.name.starts_with(&prefix));
    ours.filter(move |link| parse_alias(&link.alias).is_none() || link.group == cluster.removal_group())
}

fn set_up_pod_end(route: &mut Netlink, index: u32, address: Ipv4Addr) -> io::Result<()> {
    silence_ipv6(route, index);
    let requests = vec![
        rtnl::set_up(rtnl::LOOPBACK_INDEX),
        rtnl::set_up(index),
        rtnl::add_address(index, address),
        rtnl::replace_neighbour(index, rtnl::POD_GATEWAY, rtnl::HOST_MAC),
        rtnl::replace_pod_default_route(index, address),
    ];
    send(route, requests)
}

/// Runs `action` with a connection to rtnetlink inside `netns`. A socket belongs to the namespace of the
/// thread that opens it; a thread that ends here cannot be left in the wrong one, as one that returns could.
fn in_namespace<T: Send>(
    netns: BorrowedFd<'_>,
    action: impl FnOnce(&mut Netlink) -> io::Result<T> + Send,
) -> io::Result<T> {
    let inside = move || {
        setns(netns, CloneFlags::CLONE_NEWNET)?;
        action(&mut Netlink::open(NETLINK_ROUTE)?)
    };
    std::thread::scope(|scope| {
        let thread = std::thread::Builder::new()
            .name("pod-netns".to_owned())
            .spawn_scoped(scope, inside)?;
        thread
            .join()
            .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}

fn alias(pod_key: &str, address: Ipv4Addr) -> String {
    format!("{pod_key} {address}")
}

fn parse_alias(alias: &str) -> Option<(&str, Ipv4Addr)> {
    let (pod_key, address) = alias.split_once(' ')?;
    Some((pod_key, address.parse().ok()?))
}

fn step_of(pod_key: &str, step: &'static str) -> impl FnOnce(io::Error) -> AttachError {
    let pod_key = pod_key.to_owned();
    move |source| AttachError::Kernel {
        step,
        pod_key,
        source,
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn the_alias_of_a_link_tells_which_pod_it_belongs_to() {
        let address = Ipv4Addr::new(10, 244, 0, 5);
        assert_eq!(
            parse_alias(&alias("default/web-0", address)),
            Some(("default/web-0", address))
        );
        for foreign in ["", "web-0", "web-0 10.244", "to the office 10.0.0.1"] {
            assert_eq!(parse_alias(foreign), None, "{foreign:?}");
        }
    }

    #[test]
    fn veths_without_an_alias_or_in_the_group_to_be_deleted_are_unfinished() {
        let link = |name: &str, alias: &str| Link {
            name: name.into(),
            alias: alias.into(),
            ..Link::default()
        };
        let mut links = [
            link("sv00000aabcdefg", ""),
            link("sv00000ahijklmn", "x 10.244.0.1"),
            link("sv00000aopqrstu", "y 10.244.0.2"),
            link("sv00000babcdefg", ""),
        ];
        let cluster: ClusterId = "00000a".parse().unwrap();
        links[2].group = cluster.removal_group();
        let found: Vec<_> = unfinished(&links, cluster)
            .map(|link| link.name.as_str())
            .collect();
        assert_eq!(found, ["sv00000aabcdefg", "sv00000aopqrstu"]);
    }
}
