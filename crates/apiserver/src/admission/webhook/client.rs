//! Asks a webhook over HTTPS: at a URL, or at a pod behind a Service.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{ACCEPT, CONTENT_TYPE, HOST, USER_AGENT};
use http::{Request, Uri};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, ServerName};
use serde::Deserialize as _;
use stead_api::error::quote;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use super::hook::{Hook, ServiceReference};
use crate::server::Inner;
use crate::stored::key;

/// The largest answer that is read, in bytes.
const MAX_BYTES: usize = 3 * 1024 * 1024;
const DEFAULT_SECONDS: u64 = 10;
const PORT: u16 = 443;

/// Where to ask.
struct Place {
    /// As errors name it; with path and query.
    url: String,
    host: String,
    port: u16,
    /// Where that is, if it is known already.
    address: Option<SocketAddr>,
}

/// Sends a question to a webhook. The error is as upstream words it.
pub(super) async fn ask(server: &Inner, hook: &Hook, question: Vec<u8>) -> Result<Bytes, String> {
    let seconds = hook.timeout_seconds.unwrap_or(DEFAULT_SECONDS);
    let place = place(server, hook, seconds)?;
    let failed = |why: String| format!("failed to call webhook: Post {}: {why}", quote(&place.url));
    match tokio::time::timeout(Duration::from_secs(seconds), send(hook, &place, question)).await {
        Ok(answer) => answer.map_err(failed),
        Err(_) => Err(failed("context deadline exceeded".to_owned())),
    }
}

fn place(server: &Inner, hook: &Hook, seconds: u64) -> Result<Place, String> {
    if let Some(service) = &hook.client_config.service {
        let port = service.port.unwrap_or(PORT);
        let host = format!("{}.{}.svc", service.name, service.namespace);
        let path = service.path.as_deref().unwrap_or("/");
        let url = format!("https://{host}:{port}{path}?timeout={seconds}s");
        let address = endpoint(server, service, port)
            .map_err(|why| format!("failed to call webhook: Post {}: {why}", quote(&url)))?;
        return Ok(Place {
            url,
            host,
            port,
            address: Some(address),
        });
    }
    let given = hook.client_config.url.as_deref().unwrap_or_default();
    let uri: Uri = given.parse().map_err(|error| format!("{given}: {error}"))?;
    let host = uri.host().unwrap_or_default().trim_matches(['[', ']']).to_owned();
    Ok(Place {
        url: format!("{given}?timeout={seconds}s"),
        host,
        port: uri.port_u16().unwrap_or(PORT),
        address: None,
    })
}

/// A pod that is ready, behind a Service's port.
fn endpoint(server: &Inner, reference: &ServiceReference, port: u16) -> Result<SocketAddr, String> {
    let missing = || format!("service {} not found", quote(&reference.name));
    let kind = server
        .registry
        .resource("", "v1", "services")
        .ok_or_else(missing)?;
    let found = server
        .store
        .get(&key::object(kind, &reference.namespace, &reference.name));
    let service = found.ok_or_else(missing)?.value.value();
    let service = Service::deserialize(service).map_err(|error| error.to_string())?;
    let ports = service.spec.and_then(|spec| spec.ports).unwrap_or_default();
    let Some(wanted) = ports.iter().find(|own| own.port == i32::from(port)) else {
        return Err(format!(
            "no service port {port} found for service {}",
            quote(&reference.name)
        ));
    };
    let name = wanted.name.as_deref().unwrap_or_default();
    let kind = server
        .registry
        .resource("discovery.k8s.io", "v1", "endpointslices")
        .ok_or_else(missing)?;
    let snapshot = server.store.snapshot();
    let prefix = key::prefix(kind, &reference.namespace);
    for (_, entry) in snapshot.prefix(&prefix) {
        let of = entry.value.facts().labels.get("kubernetes.io/service-name");
        if of.and_then(|of| of.as_str()) != Some(&reference.name) {
            continue;
        }
        let Ok(slice) = EndpointSlice::deserialize(entry.value.value()) else {
            continue;
        };
        let ports = slice.ports.iter().flatten();
        let port = ports
            .filter(|own| own.name.as_deref().unwrap_or_default() == name)
            .find_map(|own| u16::try_from(own.port?).ok());
        let ready = slice
            .endpoints
            .iter()
            .flatten()
            .filter(|endpoint| {
                let conditions = endpoint.conditions.as_ref();
                conditions.and_then(|conditions| conditions.ready).unwrap_or(true)
            })
            .find_map(|endpoint| endpoint.addresses.first()?.parse().ok());
        if let (Some(port), Some(ready)) = (port.or_else(|| number(wanted.target_port.as_ref())), ready) {
            return Ok(SocketAddr::new(ready, port));
        }
    }
    Err(format!(
        "no endpoints available for service {}",
        quote(&reference.name)
    ))
}

fn number(port: Option<&IntOrString>) -> Option<u16> {
    match port? {
        IntOrString::Int(port) => u16::try_from(*port).ok(),
        IntOrString::String(_) => None,
    }
}

async fn send(hook: &Hook, place: &Place, question: Vec<u8>) -> Result<Bytes, String> {
    let uri: Uri = place
        .url
        .parse()
        .map_err(|error: http::uri::InvalidUri| error.to_string())?;
    let path = uri.path_and_query().map_or("/", |path| path.as_str());
    let request = Request::post(path)
        .header(HOST, uri.authority().map_or("", |authority| authority.as_str()))
        .header(CONTENT_TYPE, "application/json")
        .header(ACCEPT, "application/json, */*")
        .header(USER_AGENT, "kube-apiserver-admission")
        .body(Full::new(Bytes::from(question)))
        .map_err(|error| error.to_string())?;
    let stream = connect(place).await?;
    let name = ServerName::try_from(place.host.clone()).map_err(|error| error.to_string())?;
    let stream = TlsConnector::from(Arc::new(trusting(&hook.client_config.ca())?))
        .connect(name, stream)
        .await
        .map_err(|error| format!("tls: failed to verify certificate: x509: {error}"))?;
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream))
        .await
        .map_err(|error| error.to_string())?;
    let exchange = async {
        let answer = sender
            .send_request(request)
            .await
            .map_err(|error| error.to_string())?;
        let status = answer.status();
        let body = Limited::new(answer.into_body(), MAX_BYTES).collect().await;
        let body = body.map_err(|error| error.to_string())?.to_bytes();
        Ok::<_, String>((status, body))
    };
    let mut exchange = std::pin::pin!(exchange);
    // The connection is driven by this task, and ends with it. What came before its end counts.
    let (status, body) = tokio::select! {
        answered = &mut exchange => answered?,
        ended = connection => exchange.await.map_err(|error| match ended {
            Ok(()) => "EOF".to_owned(),
            Err(_) => error,
        })?,
    };
    if status.is_success() {
        return Ok(body);
    }
    let said = String::from_utf8_lossy(&body);
    Err(format!(
        "an error on the server ({}) has prevented the request from succeeding: {status}",
        quote(said.trim())
    ))
}

async fn connect(place: &Place) -> Result<TcpStream, String> {
    let addresses = match place.address {
        Some(address) => vec![address],
        None => tokio::net::lookup_host((place.host.as_str(), place.port))
            .await
            .map_err(|_| format!("dial tcp: lookup {}: no such host", place.host))?
            .collect(),
    };
    let mut failure = format!("dial tcp: lookup {}: no such host", place.host);
    for address in addresses {
        match TcpStream::connect(address).await {
            Ok(stream) => return Ok(stream),
            Err(error) => failure = format!("dial tcp {address}: connect: {}", reason(&error)),
        }
    }
    Err(failure)
}

/// An error of the system in the words that Go has for it.
fn reason(error: &std::io::Error) -> String {
    match error.kind() {
        std::io::ErrorKind::ConnectionRefused => "connection refused".to_owned(),
        std::io::ErrorKind::HostUnreachable => "no route to host".to_owned(),
        std::io::ErrorKind::NetworkUnreachable => "network is unreachable".to_owned(),
        _ => error.to_string(),
    }
}

/// TLS that trusts a bundle of authorities in PEM.
fn trusting(bundle: &[u8]) -> Result<ClientConfig, String> {
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(bundle) {
        let certificate = certificate.map_err(|error| format!("caBundle: {error}"))?;
        roots
            .add(certificate)
            .map_err(|error| format!("caBundle: {error}"))?;
    }
    Ok(ClientConfig::builder()
        .with_root_certificates(roots)
        .with_no_client_auth())
}
