//! A client of the API over TLS that adds as little as possible to what is measured: one connection, no caches.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use anyhow::{Context, Result, bail, ensure};
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use bytes::{Bytes, BytesMut};
use http::{Method, Request, StatusCode};
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
pub struct Access {
    address: SocketAddr,
    tls: TlsConnector,
}

impl Access {
    /// As a kubeconfig with one cluster and one user says.
    ///
    /// # Errors
    /// When it cannot be read, or says nothing of them.
    pub fn read(kubeconfig: &Path) -> Result<Self> {
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
    ///
    /// # Errors
    /// When there is none.
    pub async fn connect(&self) -> Result<Api> {
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
pub struct Api {
    sender: SendRequest<Full<Bytes>>,
    host: String,
}

impl Api {
    /// Asks; returns the answer, if it is a good one.
    ///
    /// # Errors
    /// When there is none, or one with an error's code.
    pub async fn ask(&mut self, method: Method, path: &str, body: Option<&Value>) -> Result<Value> {
        let (code, answer) = self.answer(method.clone(), path, body).await?;
        ensure!(code.is_success(), "{method} {path}: {code} {answer}");
        Ok(answer)
    }

    /// Asks; returns the answer, whatever its code.
    ///
    /// # Errors
    /// When there is none.
    pub async fn answer(
        &mut self,
        method: Method,
        path: &str,
        body: Option<&Value>,
    ) -> Result<(StatusCode, Value)> {
        let body = body.map(serde_json::to_vec).transpose()?.unwrap_or_default();
        let (code, answer) = self.send(method, path, body).await?;
        let answer = answer.collect().await?.to_bytes();
        let answer = serde_json::from_slice(&answer);
        Ok((
            code,
            answer.with_context(|| format!("understand the answer of {path}"))?,
        ))
    }

    /// Asks for a text, or anything else that is not to be understood.
    ///
    /// # Errors
    /// When there is none.
    pub async fn bytes(&mut self, path: &str) -> Result<Bytes> {
        Ok(self.get(path).await?.collect().await?.to_bytes())
    }

    /// Follows changes.
    ///
    /// # Errors
    /// When it is refused.
    pub async fn watch(mut self, path: &str) -> Result<Watch> {
        Ok(Watch {
            body: self.get(path).await?,
            buffer: BytesMut::new(),
            _api: self,
        })
    }

    async fn get(&mut self, path: &str) -> Result<Incoming> {
        let (code, body) = self.send(Method::GET, path, Vec::new()).await?;
        if !code.is_success() {
            let why = body.collect().await?.to_bytes();
            bail!("GET {path}: {code} {}", String::from_utf8_lossy(&why));
        }
        Ok(body)
    }

    async fn send(&mut self, method: Method, path: &str, body: Vec<u8>) -> Result<(StatusCode, Incoming)> {
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
        Ok((parts.status, body))
    }
}

/// Changes, as they come.
pub struct Watch {
    body: Incoming,
    buffer: BytesMut,
    /// The connection lives as long as this.
    _api: Api,
}

impl Watch {
    /// The next change: when it came, its type, and the object.
    ///
    /// # Errors
    /// When the watch ends.
    pub async fn next(&mut self) -> Result<(Instant, String, Value)> {
        self.change().await?.context("the watch has ended")
    }

    /// The same; none when the server has ended the watch, as it does after a while.
    ///
    /// # Errors
    /// When the connection breaks.
    pub async fn change(&mut self) -> Result<Option<(Instant, String, Value)>> {
        let Some((at, line)) = self.line().await? else {
            return Ok(None);
        };
        let mut event: Value = serde_json::from_slice(&line)?;
        let kind = event.get("type").and_then(Value::as_str).unwrap_or_default();
        Ok(Some((at, kind.to_owned(), event["object"].take())))
    }

    /// The next change as it was sent; none when the server has ended the watch.
    ///
    /// # Errors
    /// When the connection breaks.
    pub async fn line(&mut self) -> Result<Option<(Instant, BytesMut)>> {
        loop {
            if let Some(end) = self.buffer.iter().position(|byte| *byte == b'\n') {
                return Ok(Some((Instant::now(), self.buffer.split_to(end + 1))));
            }
            let Some(frame) = self.body.frame().await.transpose()? else {
                return Ok(None);
            };
            if let Ok(bytes) = frame.into_data() {
                self.buffer.extend_from_slice(&bytes);
            }
        }
    }
}
