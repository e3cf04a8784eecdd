//! Reaching the nodes' own API (logs, exec, attach, port-forward), and for who asks for it pods.
//!
//! The server passes requests on and, where they upgrade, the bytes in both directions; what is
//! spoken in them (WebSocket subprotocols, later SPDY) is the node's business alone. See
//! "Communication between Nodes and the Control Plane".

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::response::Response;
use http::header::{AUTHORIZATION, HOST, HeaderValue, UPGRADE};
use http::request::Parts;
use http::{Request, StatusCode};
use hyper::client::conn::http1;
use hyper::upgrade::{OnUpgrade, Upgraded};
use hyper_util::rt::TokioIo;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::{ClientConfig, DigitallySignedStruct, SignatureScheme};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};
use stead_api::error::ApiError;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// A client of the nodes, and of pods.
pub struct NodeClient {
    tls: TlsConnector,
    /// To pods, whose certificates nobody knows.
    unverified: TlsConnector,
    /// The tasks that drive connections to nodes and carry upgraded streams.
    tasks: TaskTracker,
}

impl NodeClient {
    /// `tls` holds the server's client certificate and the CA of the nodes' certificates.
    pub fn new(tls: ClientConfig) -> NodeClient {
        NodeClient {
            tls: TlsConnector::from(Arc::new(tls)),
            unverified: TlsConnector::from(Arc::new(Unverified::config())),
            tasks: TaskTracker::new(),
        }
    }

    /// Passes a request on to a node. `uri` is the path and query there. Streams end when
    /// `shutdown` is cancelled.
    pub(crate) async fn forward(
        &self,
        node: SocketAddr,
        uri: &str,
        parts: &Parts,
        body: Body,
        shutdown: &CancellationToken,
    ) -> Result<Response, ApiError> {
        let passed = self.pass((node, Speak::Node), uri, parts, body, shutdown).await;
        passed.map_err(|error| match error {
            NotPassed::Unreachable(why) => {
                ApiError::internal(format!("error dialing backend: dial tcp {node}: {why}"))
            }
            NotPassed::Refused(error) => error,
        })
    }

    /// Passes a request on to anything at an address.
    pub(crate) async fn pass(
        &self,
        (to, speak): (SocketAddr, Speak),
        uri: &str,
        parts: &Parts,
        body: Body,
        shutdown: &CancellationToken,
    ) -> Result<Response, NotPassed> {
        let upgrading = parts.headers.contains_key(UPGRADE);
        let client = parts.extensions.get::<OnUpgrade>().cloned();
        let request = outgoing(to, uri, parts, body)?;
        let mut answer = self.send(to, speak, request, shutdown).await?;
        if upgrading && answer.status() == StatusCode::SWITCHING_PROTOCOLS {
            let node_side = hyper::upgrade::on(&mut answer);
            let client = client.ok_or_else(|| ApiError::bad_request("Upgrade request required"))?;
            let shutdown = shutdown.clone();
            self.tasks.spawn(async move {
                tokio::select! {
                    () = shutdown.cancelled() => {}
                    () = carry(client, node_side) => {}
                }
            });
            let (parts, _) = answer.into_parts();
            return Ok(Response::from_parts(parts, Body::empty()));
        }
        let (mut parts, body) = answer.into_parts();
        // The framing is this connection's own.
        parts.headers.remove(http::header::TRANSFER_ENCODING);
        parts.headers.remove(http::header::CONNECTION);
        Ok(Response::from_parts(parts, Body::new(body)))
    }

    async fn send(
        &self,
        to: SocketAddr,
        speak: Speak,
        request: Request<Body>,
        shutdown: &CancellationToken,
    ) -> Result<http::Response<hyper::body::Incoming>, NotPassed> {
        let connecting = tokio::time::timeout(DIAL, TcpStream::connect(to));
        let stream = connecting.await.map_err(|_| unreachable(&"i/o timeout"))?;
        let stream = stream.map_err(|error| unreachable(&go_reason(&error)))?;
        // Small pieces of an interactive stream must not wait for more.
        stream.set_nodelay(true).map_err(|error| unreachable(&error))?;
        let tls = match speak {
            Speak::Http => return self.exchange(to, stream, request, shutdown).await,
            Speak::Node => &self.tls,
            Speak::Https => &self.unverified,
        };
        let stream = tls
            .connect(ServerName::IpAddress(to.ip().into()), stream)
            .await
            .map_err(|error| unreachable(&error))?;
        self.exchange(to, stream, request, shutdown).await
    }

    async fn exchange<S: AsyncRead + AsyncWrite + Unpin + Send + 'static>(
        &self,
        to: SocketAddr,
        stream: S,
        request: Request<Body>,
        shutdown: &CancellationToken,
    ) -> Result<http::Response<hyper::body::Incoming>, NotPassed> {
        let (mut sender, connection) = http1::handshake(TokioIo::new(stream))
            .await
            .map_err(|error| unreachable(&error))?;
        let shutdown = shutdown.clone();
        self.tasks.spawn(async move {
            tokio::select! {
                () = shutdown.cancelled() => {}
                result = connection.with_upgrades() => {
                    if let Err(error) = result {
                        tracing::debug!(%to, %error, "a connection to a node or pod ended");
                    }
                }
            }
        });
        sender
            .send_request(request)
            .await
            .map_err(|error| unreachable(&error))
    }
}

/// What is spoken to whom a request is passed on to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Speak {
    /// HTTPS, with the server's certificate and the nodes' authority.
    Node,
    /// HTTPS, whoever it is.
    Https,
    Http,
}

/// Why a request was not passed on.
#[derive(Debug)]
pub(crate) enum NotPassed {
    /// Whom it is for does not answer.
    Unreachable(String),
    /// It is no request that could be.
    Refused(ApiError),
}

impl From<ApiError> for NotPassed {
    fn from(error: ApiError) -> NotPassed {
        NotPassed::Refused(error)
    }
}

fn unreachable(why: &dyn std::fmt::Display) -> NotPassed {
    NotPassed::Unreachable(why.to_string())
}

/// How long a connection may take.
const DIAL: Duration = Duration::from_secs(30);

/// Takes any certificate: of pods nobody has said which is right, and upstream asks for none either.
#[derive(Debug)]
struct Unverified(Arc<CryptoProvider>);

impl Unverified {
    fn config() -> ClientConfig {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let verifier = Arc::new(Unverified(Arc::clone(&provider)));
        ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .expect("the provider has these versions' cipher suites")
            .dangerous()
            .with_custom_certificate_verifier(verifier)
            .with_no_client_auth()
    }
}

impl ServerCertVerifier for Unverified {
    fn verify_server_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, cert, dss, &self.0.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, cert, dss, &self.0.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

fn outgoing(node: SocketAddr, uri: &str, parts: &Parts, body: Body) -> Result<Request<Body>, ApiError> {
    let mut request = Request::builder()
        .method(parts.method.clone())
        .uri(uri)
        .body(body)
        .map_err(ApiError::internal)?;
    *request.headers_mut() = parts.headers.clone();
    // The server speaks to the node with its own certificate, and to others as nobody.
    request.headers_mut().remove(AUTHORIZATION);
    if let Ok(host) = HeaderValue::from_str(&node.to_string()) {
        request.headers_mut().insert(HOST, host);
    }
    Ok(request)
}

/// An error of the system in the words that Go has for it.
pub(crate) fn go_reason(error: &std::io::Error) -> String {
    match error.kind() {
        std::io::ErrorKind::ConnectionRefused => "connect: connection refused".to_owned(),
        std::io::ErrorKind::HostUnreachable => "connect: no route to host".to_owned(),
        std::io::ErrorKind::NetworkUnreachable => "connect: network is unreachable".to_owned(),
        _ => error.to_string(),
    }
}

/// Carries bytes both ways until both sides are done.
async fn carry(client: OnUpgrade, node: OnUpgrade) {
    let sides: Result<(Upgraded, Upgraded), hyper::Error> = async { Ok((client.await?, node.await?)) }.await;
    let result = match sides {
        Ok((client, node)) => {
            tokio::io::copy_bidirectional(&mut TokioIo::new(client), &mut TokioIo::new(node))
                .await
                .map(|_| ())
        }
        Err(error) => Err(std::io::Error::other(error)),
    };
    if let Err(error) = result {
        tracing::debug!(%error, "an upgraded stream ended");
    }
}
