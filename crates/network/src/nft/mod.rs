//! nftables over netlink: batches of changes that take effect as one transaction, and no `nft` process.
//!
//! Writing is done with an encoder of our own, because `netlink-packet-netfilter` has no NAT, number
//! generator, conntrack, FIB or dynamic set expressions, and because a rule set becomes one buffer this way
//! instead of some thousand small ones. Reading (the chains of other programs) uses that crate's types.
//!
//! Family `ip` only; IPv6 is outside this crate's scope.

mod batch;
mod rule;

pub(crate) use batch::{Batch, Data, Field, Hook, Kind, Set, SetKind};
pub(crate) use rule::{Rule, Slot};

use crate::netlink::{Netlink, Refused};
use netlink_packet_netfilter::nftables::{
    ChainAttribute, ChainMessage, NfTablesMessage, RuleMessage, TableAttribute, TableMessage,
};
use netlink_packet_netfilter::{
    NetfilterHeader, NetfilterMessage, NetfilterMessageInner, NetfilterProtoFamily,
};
use netlink_sys::protocols::NETLINK_NETFILTER;
use std::io;

/// Why the kernel did not do what a batch says. None of the batch took effect.
#[derive(Debug, thiserror::Error)]
#[error("change the nftables table {table}: {message}")]
pub struct NftError {
    /// The table that was to be changed.
    pub table: String,
    /// The kind of message the kernel turned down.
    pub message: &'static str,
    /// What the kernel said.
    pub source: io::Error,
}

/// A connection to nftables in the network namespace of the thread that opened it.
pub(crate) struct Nft {
    netlink: Netlink,
}

impl Nft {
    pub(crate) fn open() -> io::Result<Self> {
        Ok(Self {
            netlink: Netlink::open(NETLINK_NETFILTER)?,
        })
    }

    /// Carries out all of `batch`, or nothing.
    pub(crate) fn commit(&mut self, batch: Batch) -> Result<(), NftError> {
        let (table, buffer) = batch.finish();
        self.netlink
            .send_batch(&buffer)
            .map_err(|Refused { sequence, source }| NftError {
                table,
                message: batch::describe(&buffer, sequence),
                source,
            })
    }

    /// Whether `table` exists.
    pub(crate) fn has_table(&mut self, table: &str) -> io::Result<bool> {
        let name = TableAttribute::Name(table.to_owned());
        let query = NfTablesMessage::GetTable(TableMessage {
            attributes: vec![name],
        });
        match self.netlink.query(message(NetfilterProtoFamily::IPv4, query)) {
            Ok(_) => Ok(true),
            Err(error) if error.raw_os_error() == Some(nix::libc::ENOENT) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// All chains of all families, with their family.
    pub(crate) fn chains(&mut self) -> io::Result<Vec<(NetfilterProtoFamily, Vec<ChainAttribute>)>> {
        let all = NfTablesMessage::GetChain(ChainMessage {
            attributes: Vec::new(),
        });
        let chains = self.netlink.dump(message(NetfilterProtoFamily::Unspec, all))?;
        Ok(chains.into_iter().filter_map(chain_of).collect())
    }

    /// All rules of one family.
    pub(crate) fn rules(&mut self, family: NetfilterProtoFamily) -> io::Result<Vec<RuleMessage>> {
        let all = NfTablesMessage::GetRule(RuleMessage {
            attributes: Vec::new(),
        });
        let rules = self.netlink.dump(message(family, all))?;
        Ok(rules.into_iter().filter_map(rule_of).collect())
    }
}

fn message(family: NetfilterProtoFamily, inner: NfTablesMessage) -> NetfilterMessage {
    NetfilterMessage::new(NetfilterHeader::new(family, 0, 0), inner)
}

fn chain_of(message: NetfilterMessage) -> Option<(NetfilterProtoFamily, Vec<ChainAttribute>)> {
    match message.inner {
        NetfilterMessageInner::NfTables(NfTablesMessage::NewChain(chain)) => {
            Some((message.header.family, chain.attributes))
        }
        _ => None,
    }
}

fn rule_of(message: NetfilterMessage) -> Option<RuleMessage> {
    match message.inner {
        NetfilterMessageInner::NfTables(NfTablesMessage::NewRule(rule)) => Some(rule),
        _ => None,
    }
}
