//! A client of the API that adds as little as possible to what is measured: one connection, no caches.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use anyhow::{Context, Result, bail};
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use bytes::{Bytes, BytesMut};
use http::{Method, Request};
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use serde_json::Value;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

/// Where the API is, and who asks.
#[derive(Clone)]
pub(crate) struct Access {
    address: SocketAddr,
    tls: TlsConnector,
}

impl Access {
    /// As a kubeconfig with one cluster and one user says.
    pub(crate) fn read(kubeconfig: &Path) -> Result<Self> {
        let text = std::fs::read_to_string(kubeconfig).with_context(|| format!("read {kubeconfig:?}"))?;
        let config: Value = serde_saphyr::from_str(&text)?;
        let field = |pointer: &str| {
            let value = config.pointer(pointer).and_then(Value::as_str);
            value.with_context(|| format!("no {pointer} in {kubeconfig:?}"))
        };
        let pem = |pointer: &str| anyhow::Ok(BASE64_STANDARD.decode(field(pointer)?)?);
        let server = field("/clusters/0/cluster/server")?;
        let address = server
            .trim_start_matches("https://")
            .parse()
            .context("read the server's address")?;
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_slice(&pem(
            "/clusters/0/cluster/certificate-authority-data",
        )?)?)?;
        let certificate = CertificateDer::from_pem_slice(&pem("/users/0/user/client-certificate-data")?)?;
        let key = PrivateKeyDer::from_pem_slice(&pem("/users/0/user/client-key-data")?)?;
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()?
            .with_root_certificates(roots)
            .with_client_auth_cert(vec![certificate], key)?;
        let tls = TlsConnector::from(Arc::new(config));
        Ok(Self { address, tls })
    }

    /// Opens a connection.
    pub(crate) async fn connect(&self) -> Result<Api> {
        let stream = TcpStream::connect(self.address)
            .await
            .context("connect to the API")?;
        stream.set_nodelay(true)?;
        let name = ServerName::IpAddress(self.address.ip().into());
        let stream = self.tls.connect(name, stream).await.context("begin TLS")?;
        let (sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
        // Ends with the sender.
        tokio::spawn(connection);
        Ok(Api {
            sender,
            host: self.address.to_string(),
        })
    }
}

/// A connection to the API. One request at a time.
pub(crate) struct Api {
    sender: SendRequest<Full<Bytes>>,
    host: String,
}

impl Api {
    /// Asks; returns the answer, if it is a good one.
    pub(crate) async fn ask(&mut self, method: Method, path: &str, body: Option<&Value>) -> Result<Value> {
        let body = body.map(serde_json::to_vec).transpose()?.unwrap_or_default();
        let answer = self.send(method, path, body).await?.collect().await?.to_bytes();
        serde_json::from_slice(&answer).with_context(|| format!("understand the answer of {path}"))
    }

    /// Asks for a text.
    pub(crate) async fn text(&mut self, path: &str) -> Result<String> {
        let answer = self.send(Method::GET, path, Vec::new()).await?;
        let answer = answer.collect().await?.to_bytes();
        Ok(String::from_utf8_lossy(&answer).into_owned())
    }

    /// Follows changes.
    pub(crate) async fn watch(mut self, path: &str) -> Result<Watch> {
        let body = self.send(Method::GET, path, Vec::new()).await?;
        Ok(Watch {
            body,
            buffer: BytesMut::new(),
            _api: self,
        })
    }

    async fn send(&mut self, method: Method, path: &str, body: Vec<u8>) -> Result<Incoming> {
        let content_type = match method {
            Method::PATCH => "application/merge-patch+json",
            _ => "application/json",
        };
        let request = Request::builder()
            .method(method.clone())
            .uri(path)
            .header("host", &self.host)
            .header("content-type", content_type)
            .header("accept", "application/json")
            .body(Full::from(body))?;
        self.sender.ready().await?;
        let answer = self
            .sender
            .send_request(request)
            .await
            .with_context(|| format!("{method} {path}"))?;
        let (parts, body) = answer.into_parts();
        if !parts.status.is_success() {
            let why = body.collect().await?.to_bytes();
            bail!(
                "{method} {path}: {} {}",
                parts.status,
                String::from_utf8_lossy(&why)
            );
        }
        Ok(body)
    }
}

/// Changes, as they come.
pub(crate) struct Watch {
    body: Incoming,
    buffer: BytesMut,
    /// The connection lives as long as this.
    _api: Api,
}

impl Watch {
    /// The next change: when it came, its type, and the object.
    pub(crate) async fn next(&mut self) -> Result<(Instant, String, Value)> {
        loop {
            if let Some(end) = self.buffer.iter().position(|byte| *byte == b'\n') {
                let line = self.buffer.split_to(end + 1);
                let now = Instant::now();
                let mut event: Value = serde_json::from_slice(&line)?;
                let kind = event
                    .pointer("/type")
                    .and_then(Value::as_str)
                    .unwrap_or_default()
                    .to_owned();
                return Ok((now, kind, event["object"].take()));
            }
            let frame = self.body.frame().await.context("the watch has ended")??;
            if let Ok(bytes) = frame.into_data() {
                self.buffer.extend_from_slice(&bytes);
            }
        }
    }
}
