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
use k8s_openapi::api::core::v1::ServicePort;
use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, ServerName};
use stead_api::error::quote;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use super::hook::Hook;
use crate::node_proxy::go_reason;
use crate::server::Inner;

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
        let is_meant = |own: &ServicePort| own.port == i32::from(port);
        let address = server
            .endpoint(&service.namespace, &service.name, is_meant, &port.to_string())
            .map_err(|missing| format!("failed to call webhook: Post {}: {}", quote(&url), missing.why()))?;
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
            Err(error) => failure = format!("dial tcp {address}: {}", go_reason(&error)),
        }
    }
    Err(failure)
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
