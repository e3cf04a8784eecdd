//! From changes to nftables messages.
//!
//! A pool is a chain with a map of the same name, from 0, 1, 2… to its endpoints; the chain's rule counts
//! the connections and takes the endpoint whose turn it is. So a changed endpoint is a changed element, and
//! only another number of endpoints needs another rule.
//!
//! With affinity each endpoint is a member of its own: a set of the clients that were sent there, and a chain
//! of the same name that adds the client and translates. The pool's chain looks through the sets before it
//! counts, and its map leads to the members' chains. All of it is what `nft` can say, too: it cannot print
//! a rule set with a rule that it would not write itself.

use super::plan::Change;
use super::pool::{Frontend, Pool, Target};
use crate::nft::{Batch, Data, Field, Rule, Set, SetKind, Slot};
use crate::table::{EXTERNAL, EXTERNAL_NODE_PORTS, NODE_PORTS, SERVICES};
use ipnet::Ipv4Net;
use std::collections::HashSet;
use std::net::SocketAddrV4;

/// How many clients are remembered for an endpoint.
const REMEMBERED_CLIENTS: u32 = 65536;

/// Appends the messages that carry out `changes`.
pub(crate) fn encode(batch: &mut Batch, changes: &[Change], pods: Ipv4Net) {
    for change in changes {
        match change {
            Change::AddPool(pool) => add_pool(batch, pool, pods),
            Change::UpdatePool { old, new } => change_pool(batch, old, new, pods),
            Change::SetFrontend { frontend, old, new } => {
                set_frontend(batch, *frontend, old.as_ref(), new.as_ref())
            }
            Change::RemovePool(pool) => remove_pool(batch, pool),
        }
    }
}

fn add_pool(batch: &mut Batch, pool: &Pool, pods: Ipv4Net) {
    for endpoint in sticky_endpoints(pool) {
        add_member(batch, pool, *endpoint);
    }
    let kind = match pool.affinity {
        Some(_) => SetKind::Verdicts,
        None => SetKind::Values(&[Field::ADDRESS, Field::PORT]),
    };
    batch.add_set(&Set {
        name: &pool.name,
        key: &[Field::NUMBER],
        kind,
    });
    add_turns(batch, pool, numbered(&pool.endpoints));
    batch.add_chain(&pool.name);
    add_rules(batch, pool, pods);
}

fn change_pool(batch: &mut Batch, old: &Pool, new: &Pool, pods: Ipv4Net) {
    let (gone, come) = (without(old, new), without(new, old));
    for endpoint in sticky_endpoints(new) {
        if come.contains(endpoint) {
            add_member(batch, new, *endpoint);
        } else if old.affinity != new.affinity {
            batch.flush_chain(&member(new, *endpoint));
            add_member_rules(batch, new, *endpoint);
        }
    }
    let same = |(n, endpoint): &(u32, SocketAddrV4), other: &Pool| {
        other.endpoints.get(*n as usize) == Some(endpoint)
    };
    let stale = numbered(&old.endpoints)
        .filter(|turn| !same(turn, new))
        .map(|(n, _)| number_key(n));
    batch.delete_elements(&new.name, stale);
    add_turns(
        batch,
        new,
        numbered(&new.endpoints).filter(|turn| !same(turn, old)),
    );

    let same_rules = old.endpoints.len() == new.endpoints.len()
        && old.for_insiders == new.for_insiders
        && (new.affinity.is_none() || old.endpoints == new.endpoints);
    if !same_rules {
        batch.flush_chain(&new.name);
        add_rules(batch, new, pods);
    }
    for endpoint in sticky_endpoints(old)
        .iter()
        .filter(|endpoint| gone.contains(*endpoint))
    {
        remove_member(batch, old, *endpoint);
    }
}

fn remove_pool(batch: &mut Batch, pool: &Pool) {
    batch.delete_chain(&pool.name);
    batch.delete_set(&pool.name);
    for endpoint in sticky_endpoints(pool) {
        remove_member(batch, pool, *endpoint);
    }
}

fn set_frontend(batch: &mut Batch, frontend: Frontend, old: Option<&Target>, new: Option<&Target>) {
    let (key, verdicts, external) = match frontend {
        Frontend::Address {
            address,
            protocol,
            port,
        } => {
            let key = [&address.octets()[..], &protocol_and_port(protocol.number(), port)].concat();
            (key, SERVICES, EXTERNAL)
        }
        Frontend::NodePort { protocol, port } => (
            protocol_and_port(protocol.number(), port).to_vec(),
            NODE_PORTS,
            EXTERNAL_NODE_PORTS,
        ),
    };
    let was_external = old.is_some_and(|target| target.external);
    let is_external = new.is_some_and(|target| target.external);
    if old.map(|target| &target.pool) != new.map(|target| &target.pool) {
        batch.delete_elements(verdicts, old.map(|_| key.clone()));
        batch.add_elements(
            verdicts,
            new.map(|target| (key.clone(), Some(Data::Goto(&target.pool)))),
        );
    }
    if was_external && !is_external {
        batch.delete_elements(external, [key]);
    } else if is_external && !was_external {
        batch.add_elements(external, [(key, None)]);
    }
}

/// The rules of a pool's chain.
fn add_rules(batch: &mut Batch, pool: &Pool, pods: Ipv4Net) {
    if let Some(insiders) = &pool.for_insiders {
        batch.add_rule(&pool.name, Rule::new().source_in(pods, true).goto(insiders));
        batch.add_rule(&pool.name, Rule::new().source_is_local(true).goto(insiders));
    }
    for endpoint in sticky_endpoints(pool) {
        let member = member(pool, *endpoint);
        batch.add_rule(
            &pool.name,
            Rule::new().load_source(Slot(0)).in_set(&member).goto(&member),
        );
    }
    let Some(count) = u32::try_from(pool.endpoints.len())
        .ok()
        .filter(|count| *count > 0)
    else {
        return;
    };
    // A packet may be counted by the old rule and looked up among the new elements. If its turn is not
    // there any more, it takes the first.
    for count in [count, 1] {
        let next = Rule::new().next_of(count);
        let rule = match pool.affinity {
            Some(_) => next.verdict_from_map(&pool.name),
            None => next
                .load_from_map(&pool.name, Slot(0))
                .translate_destination(Slot(0)),
        };
        batch.add_rule(&pool.name, rule);
    }
}

/// Elements of a pool's map: whose turn is how manieth.
fn add_turns(batch: &mut Batch, pool: &Pool, turns: impl Iterator<Item = (u32, SocketAddrV4)>) {
    if pool.affinity.is_none() {
        let value = |endpoint: SocketAddrV4| {
            let [high, low] = endpoint.port().to_be_bytes();
            [&endpoint.ip().octets()[..], &[high, low, 0, 0]].concat()
        };
        let elements = turns.map(|(n, endpoint)| (number_key(n), Some(Data::Value(value(endpoint)))));
        return batch.add_elements(&pool.name, elements);
    }
    let members: Vec<_> = turns.map(|(n, endpoint)| (n, member(pool, endpoint))).collect();
    let elements = members
        .iter()
        .map(|(n, member)| (number_key(*n), Some(Data::Goto(member))));
    batch.add_elements(&pool.name, elements);
}

fn add_member(batch: &mut Batch, pool: &Pool, endpoint: SocketAddrV4) {
    let member = member(pool, endpoint);
    let kind = SetKind::Dynamic {
        size: REMEMBERED_CLIENTS,
    };
    batch.add_set(&Set {
        name: &member,
        key: &[Field::ADDRESS],
        kind,
    });
    batch.add_chain(&member);
    add_member_rules(batch, pool, endpoint);
}

fn add_member_rules(batch: &mut Batch, pool: &Pool, endpoint: SocketAddrV4) {
    let member = member(pool, endpoint);
    let translate = |rule: Rule| {
        rule.load_address(Slot(0), *endpoint.ip())
            .load_port(Slot(1), endpoint.port())
            .translate_destination(Slot(0))
    };
    if let Some(timeout) = pool.affinity {
        let remember = Rule::new().load_source(Slot(0)).remember(&member, timeout);
        batch.add_rule(&member, translate(remember));
    }
    // When the set is full, clients are served without being remembered.
    batch.add_rule(&member, translate(Rule::new()));
}

fn remove_member(batch: &mut Batch, pool: &Pool, endpoint: SocketAddrV4) {
    let member = member(pool, endpoint);
    batch.delete_chain(&member);
    batch.delete_set(&member);
}

/// The name of the chain and the set of an endpoint of a pool with affinity.
fn member(pool: &Pool, endpoint: SocketAddrV4) -> String {
    format!("{}/{}/{}", pool.name, endpoint.ip(), endpoint.port())
}

/// The endpoints that have chains and sets of their own.
fn sticky_endpoints(pool: &Pool) -> &[SocketAddrV4] {
    if pool.affinity.is_some() {
        &pool.endpoints
    } else {
        &[]
    }
}

/// The endpoints of `pool` that `other` does not have.
fn without(pool: &Pool, other: &Pool) -> HashSet<SocketAddrV4> {
    let others: HashSet<_> = other.endpoints.iter().collect();
    pool.endpoints
        .iter()
        .filter(|endpoint| !others.contains(endpoint))
        .copied()
        .collect()
}

fn numbered(endpoints: &[SocketAddrV4]) -> impl Iterator<Item = (u32, SocketAddrV4)> {
    (0..).zip(endpoints.iter().copied())
}

/// `numgen` makes numbers in the machine's byte order.
fn number_key(n: u32) -> Vec<u8> {
    n.to_ne_bytes().to_vec()
}

fn protocol_and_port(protocol: u8, port: u16) -> [u8; 8] {
    let [high, low] = port.to_be_bytes();
    [protocol, 0, 0, 0, high, low, 0, 0]
}
