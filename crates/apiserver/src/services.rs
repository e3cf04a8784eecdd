//! Giving out cluster IPs and node ports to Services, and taking them back.
//!
//! Each address or port that is given out is a key of its own, written in the same transaction as
//! the Service that has it, on the condition that it was not there. So no crash can lose one or
//! give it out twice, and nothing has to be repaired. Two writers that choose the same at once are
//! told apart by that condition: the later one chooses again. An address's entry has the form of
//! an IPAddress (networking.k8s.io/v1), as upstream's allocator keeps it; for ports Kubernetes has
//! no kind.
//!
//! What is chosen is decided in [`plan`]; the ranges are in [`range`].

mod plan;
mod range;

use std::collections::BTreeSet;
use std::net::Ipv4Addr;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::Service;
use rand::Rng as _;
use serde::Deserialize as _;
use serde_json::{Value, json};
use stead_api::error::ApiError;
use stead_api::meta;
use stead_api::registry::Kind;
use stead_store::{Condition, Txn};

use crate::server::Call;
use crate::stored::encode;
use plan::{Pools, Refused};
use range::{AddressRange, PortRange};

const IP_ADDRESSES: &str = "/ipaddresses.networking.k8s.io/";
const NODE_PORTS: &str = "/nodeports.stead/";

/// What a Service can have for itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Held {
    Address(Ipv4Addr),
    NodePort(u16),
}

impl Held {
    fn key(self) -> String {
        match self {
            Held::Address(address) => format!("{IP_ADDRESSES}{address}"),
            Held::NodePort(port) => format!("{NODE_PORTS}{port}"),
        }
    }

    /// What stands in the store: whose it is.
    fn entry(self, owner: &Value) -> Value {
        let (version, kind, name) = match self {
            Held::Address(address) => ("networking.k8s.io/v1", "IPAddress", address.to_string()),
            Held::NodePort(port) => ("stead/v1", "NodePort", port.to_string()),
        };
        let mut metadata = json!({
            "name": name,
            "uid": crate::resource::new_uid(),
            "creationTimestamp": stead_api::time::rfc3339(Timestamp::now()),
        });
        if matches!(self, Held::Address(_)) {
            metadata["labels"] = json!({
                "ipaddress.kubernetes.io/ip-family": "IPv4",
                "ipaddress.kubernetes.io/managed-by": "ipallocator.k8s.io",
            });
        }
        json!({
            "apiVersion": version,
            "kind": kind,
            "metadata": metadata,
            "spec": {"parentRef": {
                "group": "",
                "resource": "services",
                "namespace": meta::namespace(owner),
                "name": meta::name(owner),
            }},
        })
    }
}

/// What a write of a Service takes and gives back.
#[derive(Debug, Default)]
pub(crate) struct Allocation {
    taken: Vec<(Held, Value)>,
    released: Vec<Held>,
}

impl Allocation {
    /// Makes it part of the write.
    pub(crate) fn add_to(self, mut txn: Txn) -> Txn {
        for (held, entry) in self.taken {
            txn = txn.put(held.key(), encode(&entry), Condition::Absent);
        }
        for held in self.released {
            txn = txn.delete(held.key(), Condition::Any);
        }
        txn
    }
}

/// Completes a Service that is to be written with addresses and ports, where it needs them. What
/// it chooses is given out when the [`Allocation`] is committed, and not at all if it is not. For
/// other kinds there is nothing to do.
pub(crate) fn allocate(
    call: &Call<'_>,
    new: &mut Value,
    before: Option<&Value>,
) -> Result<Allocation, ApiError> {
    if !is_service(call.kind) || before.is_some_and(|before| before["spec"] == new["spec"]) {
        return Ok(Allocation::default());
    }
    let mut service = read(new)?;
    let old = before.map(read).transpose()?;
    let config = &call.server.config;
    let pools = Pools {
        addresses: AddressRange::new(config.service_range),
        ports: PortRange::new(config.node_ports.clone()),
        is_taken: &|held| call.server.store.get(&held.key()).is_some(),
        random: &|below| rand::rng().random_range(0..below.max(1)),
    };
    plan::complete(&mut service, old.as_ref(), &pools).map_err(|refused| match refused {
        Refused::Invalid(errors) => {
            ApiError::invalid(call.kind.group, call.kind.kind, meta::name(new), &errors)
        }
        Refused::Exhausted(why) => ApiError::internal(why),
    })?;
    write_back(&service, new);
    let has = plan::held(&service);
    let had = old.as_ref().map(plan::held).unwrap_or_default();
    let taken = has
        .difference(&had)
        .map(|held| (*held, held.entry(new)))
        .collect();
    Ok(Allocation {
        taken,
        released: had.difference(&has).copied().collect(),
    })
}

/// Takes back what an object has that is to be deleted.
pub(crate) fn release(txn: Txn, kind: &Kind, object: &Value) -> Txn {
    let held = match read(object) {
        Ok(service) if is_service(kind) => plan::held(&service),
        _ => BTreeSet::new(),
    };
    held.into_iter()
        .fold(txn, |txn, held| txn.delete(held.key(), Condition::Any))
}

fn is_service(kind: &Kind) -> bool {
    kind.group.is_empty() && kind.plural == "services"
}

fn read(object: &Value) -> Result<Service, ApiError> {
    Service::deserialize(object).map_err(ApiError::internal)
}

/// Puts what was chosen into the object, and leaves the rest of it as it is.
fn write_back(service: &Service, object: &mut Value) {
    let Some(spec) = &service.spec else { return };
    let into = &mut object["spec"];
    if let (Some(first), Some(all)) = (&spec.cluster_ip, &spec.cluster_ips)
        && !all.is_empty()
    {
        into["clusterIP"] = first.as_str().into();
        into["clusterIPs"] = json!(all);
    }
    if let Some(port) = spec.health_check_node_port.filter(|port| *port != 0) {
        into["healthCheckNodePort"] = port.into();
    }
    for (at, port) in spec.ports.iter().flatten().enumerate() {
        if let Some(number) = port.node_port.filter(|number| *number != 0) {
            into["ports"][at]["nodePort"] = number.into();
        }
    }
}

#[cfg(test)]
pub(crate) mod tests;
