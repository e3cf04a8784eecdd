//! What every cluster has from its start: the system's namespaces and priority classes, and the
//! `kubernetes` Service with the server's own address behind it.

use std::net::{Ipv4Addr, SocketAddrV4};

use axum::body::Body;
use futures::future::{BoxFuture, try_join_all};
use http::{Method, Request, StatusCode};
use http_body_util::BodyExt as _;
use serde_json::{Value, json};
use stead_api::kinds::api_service;
use stead_api::kinds::priority_class::SYSTEM;
use stead_api::kinds::rbac::GROUP;
use tower::ServiceExt as _;

use crate::authz::defaults;
use crate::identity::{Identity, MASTERS, SERVER};
use crate::pki::Pki;
use crate::server::ApiServer;

const NAMESPACES: [&str; 4] = ["default", "kube-system", "kube-public", "kube-node-lease"];

/// Something could not be set up.
#[derive(Debug, thiserror::Error)]
#[error("set up {what}: {message}")]
pub struct BootstrapError {
    what: String,
    message: String,
}

/// Where the server and the cluster's DNS are, for pods.
#[derive(Debug, Clone, Copy)]
pub struct Addresses {
    /// The cluster IP of the `kubernetes` Service.
    pub service: Ipv4Addr,
    /// Where the server listens for pods.
    pub endpoint: SocketAddrV4,
    /// The cluster IP of DNS.
    pub dns: Ipv4Addr,
}

impl ApiServer {
    /// Makes what is missing, and puts right what points elsewhere. Runs the server's own chores
    /// until it is closed, too.
    pub fn bootstrap<'a>(&'a self, addresses: &'a Addresses) -> BoxFuture<'a, Result<(), BootstrapError>> {
        Box::pin(async move {
            for name in NAMESPACES {
                let namespace = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}});
                self.ensure("/api/v1/namespaces", name, namespace, false).await?;
            }
            self.ensure_policy().await?;
            self.ensure_services().await?;
            for (name, value, description) in SYSTEM {
                let class = json!({
                    "apiVersion": "scheduling.k8s.io/v1",
                    "kind": "PriorityClass",
                    "metadata": {"name": name},
                    "value": value,
                    "description": description,
                });
                self.ensure("/apis/scheduling.k8s.io/v1/priorityclasses", name, class, false)
                    .await?;
            }
            let endpoint = &addresses.endpoint;
            self.ensure(
                "/api/v1/namespaces/default/services",
                "kubernetes",
                kubernetes_service(addresses),
                false,
            )
            .await?;
            let endpoints = json!({
                "apiVersion": "v1",
                "kind": "Endpoints",
                "metadata": {"name": "kubernetes", "labels": {"endpointslice.kubernetes.io/skip-mirror": "true"}},
                "subsets": [{
                    "addresses": [{"ip": endpoint.ip()}],
                    "ports": [{"name": "https", "port": endpoint.port(), "protocol": "TCP"}],
                }],
            });
            self.ensure(
                "/api/v1/namespaces/default/endpoints",
                "kubernetes",
                endpoints,
                true,
            )
            .await?;
            let slice = json!({
                "apiVersion": "discovery.k8s.io/v1",
                "kind": "EndpointSlice",
                "metadata": {"name": "kubernetes", "labels": {"kubernetes.io/service-name": "kubernetes"}},
                "addressType": "IPv4",
                "endpoints": [{"addresses": [endpoint.ip()], "conditions": {"ready": true}}],
                "ports": [{"name": "https", "port": endpoint.port(), "protocol": "TCP"}],
            });
            self.ensure(
                "/apis/discovery.k8s.io/v1/namespaces/default/endpointslices",
                "kubernetes",
                slice,
                true,
            )
            .await?;
            self.ensure(
                "/api/v1/namespaces/kube-system/services",
                "kube-dns",
                dns_service(addresses),
                false,
            )
            .await
        })
    }

    /// Keeps house until the server is closed: old events go, aggregated roles get their rules, and
    /// approved requests their certificates.
    pub fn run<'a>(&'a self, pki: &'a Pki) -> BoxFuture<'a, ()> {
        Box::pin(async move {
            futures::join!(
                self.inner.expire_events(),
                self.aggregate_roles(),
                self.sign_requests(pki)
            );
        })
    }

    /// An APIService for each group and version that is served.
    async fn ensure_services(&self) -> Result<(), BootstrapError> {
        let versions = self.inner.registry.group_versions();
        let versions = versions
            .iter()
            .flat_map(|(group, versions)| versions.iter().map(move |version| (*group, *version)));
        // Together, so that they share what is waited for.
        try_join_all(versions.filter_map(|(group, version)| {
            let object = api_service::local(group, version)?;
            let name = format!("{version}.{group}");
            Some(async move {
                let path = format!("/apis/{}/v1/apiservices", api_service::GROUP);
                self.ensure(&path, &name, object, false).await
            })
        }))
        .await
        .map(drop)
    }

    /// The default roles and bindings. What a newer version adds to them is added.
    async fn ensure_policy(&self) -> Result<(), BootstrapError> {
        let (roles, bindings) = defaults::policy();
        let base = format!("/apis/{GROUP}/v1");
        let failed = |error: serde_json::Error| BootstrapError {
            what: base.clone(),
            message: error.to_string(),
        };
        for role in &roles {
            let collection = format!("{base}/clusterroles");
            let name = role.metadata.name.as_deref().unwrap_or_default();
            let (status, body) = self.get(&collection, name).await?;
            if status == StatusCode::NOT_FOUND {
                let object = serde_json::to_value(role).map_err(failed)?;
                self.write(Method::POST, &collection, name, &object).await?;
                continue;
            }
            let found = serde_json::from_str(&body).map_err(failed)?;
            if let Some(role) = defaults::completed(&found, role) {
                let object = serde_json::to_value(&role).map_err(failed)?;
                self.write(Method::PUT, &collection, name, &object).await?;
            }
        }
        for binding in &bindings {
            let name = binding.metadata.name.as_deref().unwrap_or_default();
            let object = serde_json::to_value(binding).map_err(failed)?;
            self.ensure(&format!("{base}/clusterrolebindings"), name, object, false)
                .await?;
        }
        Ok(())
    }

    async fn get(&self, collection: &str, name: &str) -> Result<(StatusCode, String), BootstrapError> {
        let own = format!("{collection}/{name}");
        let found = self.call(Method::GET, &own, &Value::Null).await;
        found.map_err(|message| BootstrapError { what: own, message })
    }

    /// Creates an object that is not there; where it is and `update` says so, makes it like this.
    async fn ensure(
        &self,
        path: &str,
        name: &str,
        object: Value,
        update: bool,
    ) -> Result<(), BootstrapError> {
        let (found, _) = self.get(path, name).await?;
        let method = match found {
            StatusCode::NOT_FOUND => Method::POST,
            _ if update => Method::PUT,
            _ => return Ok(()),
        };
        self.write(method, path, name, &object).await
    }

    /// Makes an object of a collection, or writes over it.
    async fn write(
        &self,
        method: Method,
        collection: &str,
        name: &str,
        object: &Value,
    ) -> Result<(), BootstrapError> {
        let own = format!("{collection}/{name}");
        let path = if method == Method::POST { collection } else { &own };
        let written = self.call(method, path, object).await;
        match written {
            Ok((status, _)) if status.is_success() => Ok(()),
            Ok((_, message)) | Err(message) => Err(BootstrapError { what: own, message }),
        }
    }

    /// A request of the server's own.
    pub(crate) async fn call(
        &self,
        method: Method,
        path: &str,
        object: &Value,
    ) -> Result<(StatusCode, String), String> {
        let mut request = Request::builder()
            .method(method)
            .uri(path)
            .header("content-type", "application/json")
            .body(Body::from(object.to_string()))
            .map_err(|error| error.to_string())?;
        request.extensions_mut().insert(Identity::new(SERVER, [MASTERS]));
        // A router's error type has no values.
        let response = self
            .router()
            .oneshot(request)
            .await
            .map_err(|error| error.to_string())?;
        let status = response.status();
        let body = response
            .into_body()
            .collect()
            .await
            .map_err(|error| error.to_string())?
            .to_bytes();
        Ok((status, String::from_utf8_lossy(&body).into_owned()))
    }
}

fn kubernetes_service(addresses: &Addresses) -> Value {
    json!({
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {
            "name": "kubernetes",
            "labels": {"component": "apiserver", "provider": "kubernetes"},
        },
        "spec": {
            "clusterIP": addresses.service,
            "ports": [{
                "name": "https",
                "port": 443,
                "protocol": "TCP",
                "targetPort": addresses.endpoint.port(),
            }],
        },
    })
}

/// DNS is served at this address by the nodes themselves; the Service makes it known.
fn dns_service(addresses: &Addresses) -> Value {
    json!({
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {
            "name": "kube-dns",
            "labels": {"k8s-app": "kube-dns", "kubernetes.io/name": "CoreDNS"},
        },
        "spec": {
            "clusterIP": addresses.dns,
            "ports": [
                {"name": "dns", "port": 53, "protocol": "UDP"},
                {"name": "dns-tcp", "port": 53, "protocol": "TCP"},
            ],
        },
    })
}
