//! The service proxy: connections to services and node ports reach their endpoints in turn.
//!
//! - [`service`]: what services there are to be, as plain data.
//! - [`pool`] and [`plan`], pure: what the table holds for them, and what changes.
//! - [`encode`]: the changes as one nftables transaction. The table's fixed part is [`crate::table`].
//! - [`loopback`]: node ports on 127.0.0.1, whose packets cannot be translated; tasks that copy instead.
//! - [`conntrack`]: forgets UDP connections that lead to the wrong place.

mod conntrack;
mod encode;
mod loopback;
mod plan;
mod pool;
mod service;

pub use loopback::TakenPort;
pub use service::{Endpoint, Protocol, ServicePort, ServicePortKey, TrafficPolicy};

use crate::nft::{Batch, NftError};
use crate::node::{Firewall, Network};
use crate::table;
use loopback::Loopback;
use plan::{Change, State};
use std::collections::BTreeMap;

/// Keeps the services of one cluster reachable on this node.
///
/// Dropping it stops the listeners on 127.0.0.1; what is in the kernel stays, for the next process or for
/// [`Network::down`].
pub struct Proxy {
    network: Network,
    state: State,
    /// Whether the table is known to hold `state`: not before it was first written, nor after an error.
    in_step: bool,
    loopback: Loopback,
}

/// What a change of services led to.
#[derive(Debug, Default)]
pub struct Applied {
    /// How many pools and frontends changed in the kernel.
    pub changes: usize,
    /// Node ports that another program has on 127.0.0.1. They are served on the node's address all the same,
    /// and on 127.0.0.1 when they become free.
    pub taken_ports: Vec<TakenPort>,
}

impl Proxy {
    /// A proxy that knows no services yet and leaves those in the kernel alone until the first call of
    /// [`Proxy::replace`] or [`Proxy::update`]. Tasks for node ports on 127.0.0.1 run on `runtime`.
    pub fn new(network: &Network, runtime: tokio::runtime::Handle) -> Self {
        Self {
            network: network.clone(),
            state: State::default(),
            in_step: false,
            loopback: Loopback::new(runtime),
        }
    }

    /// Makes `services` all there is, whatever the table held. There is no moment in which a service that
    /// stays is unreachable, also when an earlier process had set it up. Connections go on; session
    /// affinity begins anew.
    ///
    /// # Errors
    /// When the kernel turns the transaction down; what it held is still in force.
    pub fn replace(&mut self, services: BTreeMap<ServicePortKey, ServicePort>) -> Result<Applied, NftError> {
        let gone = self
            .state
            .services()
            .keys()
            .filter(|key| !services.contains_key(key));
        let updates: Vec<_> = gone.map(|key| (key.clone(), None)).collect();
        self.in_step = false;
        self.update(
            updates
                .into_iter()
                .chain(services.into_iter().map(|(key, port)| (key, Some(port)))),
        )
    }

    /// Takes in service ports that are new or have changed (`Some`) or are gone (`None`), in one
    /// transaction of just what differs.
    ///
    /// # Errors
    /// When the kernel turns the transaction down; the next call writes the whole table.
    pub fn update(
        &mut self,
        updates: impl IntoIterator<Item = (ServicePortKey, Option<ServicePort>)>,
    ) -> Result<Applied, NftError> {
        let updates: Vec<_> = updates.into_iter().collect();
        let taken_ports = self
            .loopback
            .update(updates.iter().map(|(key, port)| (key, port.as_ref())));
        let changes = self.state.apply(updates);
        if self.in_step {
            self.commit_changes(&changes)?;
        } else {
            self.commit_all()?;
        }
        forget_stale(&changes);
        Ok(Applied {
            changes: changes.len(),
            taken_ports,
        })
    }

    fn commit_changes(&mut self, changes: &[Change]) -> Result<(), NftError> {
        if changes.is_empty() {
            return Ok(());
        }
        let mut batch = self.batch();
        encode::encode(&mut batch, changes, self.network.ranges().pods);
        let outcome = self.network.firewall().nft.commit(batch);
        self.in_step = outcome.is_ok();
        outcome
    }

    /// Writes the whole table: its fixed part, and all services as if they were new.
    ///
    /// A replaced table is one transaction, but its chains are called one after another: a packet may meet
    /// the new chain while that is still empty, and then the old one when that is empty already. So a spare
    /// table with the same content is there meanwhile.
    fn commit_all(&mut self) -> Result<(), NftError> {
        let mut fresh = State::default();
        let services = self.state.services().iter();
        let changes = fresh.apply(services.map(|(key, port)| (key.clone(), Some(port.clone()))));
        let cluster = self.network.cluster();
        let mut firewall = self.network.firewall();
        let replace = |firewall: &mut Firewall, table: &str| {
            let mut batch = Batch::new(table);
            table::replace(
                &mut batch,
                self.network.layout(),
                firewall.opened_links.iter().copied(),
            );
            encode::encode(&mut batch, &changes, self.network.ranges().pods);
            firewall.nft.commit(batch)
        };
        let spare = cluster.spare_table_name();
        let replaced =
            replace(&mut firewall, &spare).and_then(|()| replace(&mut firewall, &cluster.link_name()));
        let mut removal = Batch::new(&spare);
        removal.add_table();
        removal.delete_table();
        let removed = firewall.nft.commit(removal);
        replaced.and(removed)?;
        // Its pools are arranged as the table now has them.
        self.state = fresh;
        self.in_step = true;
        Ok(())
    }

    fn batch(&self) -> Batch {
        Batch::new(&self.network.cluster().link_name())
    }
}

/// Failing to forget a connection delays one client; it must not undo what the table has.
fn forget_stale(changes: &[Change]) {
    let stale = plan::stale(changes);
    if stale.is_empty() {
        return;
    }
    match conntrack::forget(&stale) {
        Ok(found) => tracing::debug!(found, "forgot stale udp connections"),
        Err(error) => tracing::warn!(%error, "forget stale udp connections"),
    }
}
