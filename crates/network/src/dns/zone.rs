//! What the DNS server knows: services and the endpoints of headless ones.
//!
//! Plain data behind a lock, held for a few lines and never across an `await`. A change is seen by the next
//! query: pods of a StatefulSet look for each other as soon as they start.

use hickory_proto::rr::Name;
use ipnet::Ipv4Net;
use std::collections::{BTreeMap, HashMap};
use std::net::Ipv4Addr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, PoisonError, RwLock};

use crate::proxy::Protocol;

/// The names of one cluster.
pub struct Zone {
    /// The zone's own name, such as `cluster.local`.
    pub(super) origin: Name,
    /// Its labels in lower case.
    pub(super) labels: Vec<String>,
    pub(super) options: ZoneOptions,
    names: RwLock<Names>,
    turn: AtomicUsize,
}

/// What a zone is made with.
#[derive(Clone, Debug)]
pub struct ZoneOptions {
    /// The cluster's domain, usually `cluster.local`.
    pub domain: String,
    /// The addresses of the DNS service, for the zone's name server record.
    pub name_servers: Vec<Ipv4Addr>,
    /// The cluster's address ranges. Names of addresses in them are nobody else's to know, so questions
    /// about them are not forwarded.
    pub ranges: Vec<Ipv4Net>,
}

/// The domain is not a valid name.
#[derive(Debug, thiserror::Error)]
#[error("serve the dns domain {0:?}: it is no valid name")]
pub struct InvalidDomain(String);

/// What the zone says about one service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ServiceRecords {
    /// A service with cluster IPs.
    ClusterIp {
        /// Its addresses.
        addresses: Vec<Ipv4Addr>,
        /// Its ports.
        ports: Vec<Port>,
    },
    /// A headless service: its name stands for its endpoints. Those that are not ready are to be left out,
    /// unless the service publishes them.
    Headless(Vec<HeadlessEndpoint>),
    /// An alias for a name somewhere else (type `ExternalName`).
    External(String),
}

/// A port of a service or endpoint.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Port {
    /// Its name, which may be empty; then there is no `_name._protocol` record.
    pub name: String,
    /// Its protocol.
    pub protocol: Protocol,
    /// The number: of a headless service, that of the endpoint.
    pub port: u16,
}

/// An endpoint of a headless service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HeadlessEndpoint {
    /// Its address.
    pub address: Ipv4Addr,
    /// Its own name below the service's. Without one, it is named after its address: `10-244-0-5`.
    pub hostname: Option<String>,
    /// Its ports.
    pub ports: Vec<Port>,
}

/// A service's namespace and name.
pub(super) type ServiceName = (String, String);

#[derive(Default)]
struct Names {
    /// By namespace, then by name.
    services: HashMap<String, HashMap<String, Arc<ServiceRecords>>>,
    /// The services that have an address, and the name of it below the service's, if it has one.
    addresses: HashMap<Ipv4Addr, BTreeMap<ServiceName, Option<String>>>,
}

impl Zone {
    /// An empty zone.
    ///
    /// # Errors
    /// When the domain is no valid name.
    pub fn new(options: ZoneOptions) -> Result<Self, InvalidDomain> {
        let invalid = || InvalidDomain(options.domain.clone());
        let mut origin = Name::from_ascii(&options.domain)
            .map_err(|_| invalid())?
            .to_lowercase();
        origin.set_fqdn(true);
        let labels = lower_labels(&origin);
        if labels.is_empty() {
            return Err(invalid());
        }
        Ok(Self {
            origin,
            labels,
            options,
            names: RwLock::default(),
            turn: AtomicUsize::new(0),
        })
    }

    /// Sets what is known about a service, in place of what was.
    pub fn set_service(&self, namespace: &str, name: &str, records: ServiceRecords) {
        let mut names = self.names.write().unwrap_or_else(PoisonError::into_inner);
        names.remove(namespace, name);
        names.insert(namespace, name, records);
    }

    /// Forgets a service. Says whether it was known.
    pub fn remove_service(&self, namespace: &str, name: &str) -> bool {
        self.names
            .write()
            .unwrap_or_else(PoisonError::into_inner)
            .remove(namespace, name)
    }

    pub(super) fn service(&self, namespace: &str, name: &str) -> Option<Arc<ServiceRecords>> {
        let names = self.names.read().unwrap_or_else(PoisonError::into_inner);
        names.services.get(namespace)?.get(name).cloned()
    }

    /// Whether a namespace has any services. Empty ones are not known here.
    pub(super) fn has_namespace(&self, namespace: &str) -> bool {
        self.names
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .services
            .contains_key(namespace)
    }

    /// The names of an address: services, and the endpoint's name below the service's.
    pub(super) fn names_of(&self, address: Ipv4Addr) -> Vec<(ServiceName, Option<String>)> {
        let names = self.names.read().unwrap_or_else(PoisonError::into_inner);
        let found = names.addresses.get(&address).into_iter().flatten();
        found
            .map(|(service, hostname)| (service.clone(), hostname.clone()))
            .collect()
    }

    /// A number that differs from one call to the next, for answers in changing order.
    pub(super) fn next_turn(&self) -> usize {
        self.turn.fetch_add(1, Ordering::Relaxed)
    }
}

impl Names {
    fn insert(&mut self, namespace: &str, name: &str, records: ServiceRecords) {
        let service = (namespace.to_owned(), name.to_owned());
        for (address, hostname) in addresses_of(&records) {
            self.addresses
                .entry(address)
                .or_default()
                .insert(service.clone(), hostname);
        }
        self.services
            .entry(service.0)
            .or_default()
            .insert(service.1, Arc::new(records));
    }

    fn remove(&mut self, namespace: &str, name: &str) -> bool {
        let Some(services) = self.services.get_mut(namespace) else {
            return false;
        };
        let Some(records) = services.remove(name) else {
            return false;
        };
        if services.is_empty() {
            self.services.remove(namespace);
        }
        let service = (namespace.to_owned(), name.to_owned());
        for (address, _) in addresses_of(&records) {
            if let Some(names) = self.addresses.get_mut(&address) {
                names.remove(&service);
                if names.is_empty() {
                    self.addresses.remove(&address);
                }
            }
        }
        true
    }
}

/// A service's addresses with their names below the service's.
fn addresses_of(records: &ServiceRecords) -> Vec<(Ipv4Addr, Option<String>)> {
    match records {
        ServiceRecords::ClusterIp { addresses, .. } => {
            addresses.iter().map(|address| (*address, None)).collect()
        }
        ServiceRecords::Headless(endpoints) => endpoints
            .iter()
            .map(|endpoint| (endpoint.address, Some(endpoint.host_label())))
            .collect(),
        ServiceRecords::External(_) => Vec::new(),
    }
}

impl HeadlessEndpoint {
    /// Its name below the service's.
    pub(super) fn host_label(&self) -> String {
        let dashed = || self.address.to_string().replace('.', "-");
        self.hostname
            .as_ref()
            .map_or_else(dashed, |hostname| hostname.to_ascii_lowercase())
    }
}

/// The labels of a name, in lower case. DNS compares names without regard to case.
pub(super) fn lower_labels(name: &Name) -> Vec<String> {
    name.iter()
        .map(|label| String::from_utf8_lossy(label).to_ascii_lowercase())
        .collect()
}
