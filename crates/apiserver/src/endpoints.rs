//! Where the pods behind a Service are, for requests that the server itself makes.

use std::net::SocketAddr;

use k8s_openapi::api::core::v1::{Service, ServicePort};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use rand::seq::IndexedRandom as _;
use serde::Deserialize as _;
use stead_api::error::quote;

use crate::server::Inner;

/// Why no pod behind a Service can be reached, in upstream's words.
#[derive(Debug)]
pub(crate) enum Unreachable {
    /// There is no such Service.
    Service(String),
    /// It has no such port.
    Port(String),
    /// No pod behind it is ready.
    Endpoints(String),
}

impl Unreachable {
    /// For people.
    pub(crate) fn why(self) -> String {
        let (Unreachable::Service(why) | Unreachable::Port(why) | Unreachable::Endpoints(why)) = self;
        why
    }
}

impl Inner {
    /// A pod that is ready, behind the port of a Service that is meant.
    pub(crate) fn endpoint(
        &self,
        namespace: &str,
        service: &str,
        is_meant: impl Fn(&ServicePort) -> bool,
        port: &str,
    ) -> Result<SocketAddr, Unreachable> {
        let missing = || Unreachable::Service(format!("service {} not found", quote(service)));
        let (_, stored) = self
            .find(("", "services"), namespace, service)
            .ok_or_else(missing)?;
        let object = Service::deserialize(stored.value()).map_err(|_| missing())?;
        let ports = object.spec.and_then(|spec| spec.ports).unwrap_or_default();
        let wanted = ports.iter().find(|own| is_meant(own)).ok_or_else(|| {
            Unreachable::Port(format!(
                "no service port {port} found for service {}",
                quote(service)
            ))
        })?;
        let ready = self.ready(namespace, service, wanted);
        ready.choose(&mut rand::rng()).copied().ok_or_else(|| {
            Unreachable::Endpoints(format!("no endpoints available for service {}", quote(service)))
        })
    }

    /// The pods behind a port of a Service that are ready.
    fn ready(&self, namespace: &str, service: &str, wanted: &ServicePort) -> Vec<SocketAddr> {
        let name = wanted.name.as_deref().unwrap_or_default();
        let mut found = Vec::new();
        for stored in self.all(("discovery.k8s.io", "endpointslices"), namespace) {
            let of = stored.facts().labels.get("kubernetes.io/service-name");
            if of.and_then(|of| of.as_str()) != Some(service) {
                continue;
            }
            let Ok(slice) = EndpointSlice::deserialize(stored.value()) else {
                continue;
            };
            let ports = slice.ports.iter().flatten();
            let port = ports
                .filter(|own| own.name.as_deref().unwrap_or_default() == name)
                .find_map(|own| u16::try_from(own.port?).ok());
            let Some(port) = port.or_else(|| number(wanted.target_port.as_ref())) else {
                continue;
            };
            let ready = slice.endpoints.iter().flatten().filter(|endpoint| {
                let conditions = endpoint.conditions.as_ref();
                conditions.and_then(|conditions| conditions.ready).unwrap_or(true)
            });
            let addresses = ready.filter_map(|endpoint| endpoint.addresses.first()?.parse().ok());
            found.extend(addresses.map(|address| SocketAddr::new(address, port)));
        }
        found
    }
}

fn number(port: Option<&IntOrString>) -> Option<u16> {
    match port? {
        IntOrString::Int(port) => u16::try_from(*port).ok(),
        IntOrString::String(_) => None,
    }
}
