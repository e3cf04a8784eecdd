//! Deleting the veths of pods, many in the time of one.
//!
//! When a link is deleted, the kernel waits some ten milliseconds until no packet can still be on its way
//! through it, and links deleted one by one wait one after another. But links of one group are deleted by one
//! request, with one wait. So whoever wants to delete a link says so, and then waits for its turn; whose turn
//! it is deletes all that were named until then.

use crate::cluster::ClusterId;
use crate::netlink::Netlink;
use crate::node::send_unless;
use crate::rtnl;
use netlink_sys::protocols::NETLINK_ROUTE;
use std::io;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Deletes links of one cluster.
pub(crate) struct Removal {
    cluster: ClusterId,
    /// The indexes of the links that wait to be deleted.
    named: Mutex<Vec<u32>>,
    /// A connection of its own, so that pods are attached meanwhile.
    turn: Mutex<Netlink>,
}

impl Removal {
    pub(crate) fn new(cluster: ClusterId) -> io::Result<Self> {
        let turn = Mutex::new(Netlink::open(NETLINK_ROUTE)?);
        Ok(Self {
            cluster,
            named: Mutex::default(),
            turn,
        })
    }

    /// Deletes a link, and returns when it is gone.
    pub(crate) fn delete(&self, index: u32) -> io::Result<()> {
        lock(&self.named).push(index);
        let mut netlink = lock(&self.turn);
        let named = std::mem::take(&mut *lock(&self.named));
        let mut requests = Vec::new();
        if !named.is_empty() {
            let group = self.cluster.removal_group();
            requests.extend(named.iter().map(|index| rtnl::set_group(*index, group)));
            requests.push(rtnl::delete_links(group));
        }
        if !named.contains(&index) {
            // Another one deleted it with its own. If that failed, this one is left to do.
            requests.push(rtnl::delete_link(index));
        }
        // Links may have gone with their namespaces.
        send_unless(&mut netlink, requests, nix::libc::ENODEV)
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
