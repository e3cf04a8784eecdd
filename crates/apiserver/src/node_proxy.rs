//! Reaching the nodes' own API: logs, exec, attach, port-forward.
//!
//! The server passes requests on and, where they upgrade, the bytes in both directions; what is
//! spoken in them (WebSocket subprotocols, later SPDY) is the node's business alone. See
//! "Communication between Nodes and the Control Plane".

use std::net::SocketAddr;
use std::sync::Arc;

use axum::body::Body;
use axum::response::Response;
use http::header::{AUTHORIZATION, HOST, HeaderValue, UPGRADE};
use http::request::Parts;
use http::{Request, StatusCode};
use hyper::client::conn::http1;
use hyper::upgrade::{OnUpgrade, Upgraded};
use hyper_util::rt::TokioIo;
use rustls::ClientConfig;
use rustls_pki_types::ServerName;
use stead_api::error::ApiError;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// A client of the nodes.
pub struct NodeClient {
    tls: TlsConnector,
    /// The tasks that drive connections to nodes and carry upgraded streams.
    tasks: TaskTracker,
}

impl NodeClient {
    /// `tls` holds the server's client certificate and the CA of the nodes' certificates.
    pub fn new(tls: ClientConfig) -> NodeClient {
        NodeClient {
            tls: TlsConnector::from(Arc::new(tls)),
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
        let upgrading = parts.headers.contains_key(UPGRADE);
        let client = parts.extensions.get::<OnUpgrade>().cloned();
        let request = outgoing(node, uri, parts, body)?;
        let mut answer = self.send(node, request, shutdown).await?;
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
        node: SocketAddr,
        request: Request<Body>,
        shutdown: &CancellationToken,
    ) -> Result<http::Response<hyper::body::Incoming>, ApiError> {
        let failed = |error: &dyn std::fmt::Display| {
            ApiError::internal(format!("error dialing backend: dial tcp {node}: {error}"))
        };
        let stream = TcpStream::connect(node).await.map_err(|error| failed(&error))?;
        // Small pieces of an interactive stream must not wait for more.
        stream.set_nodelay(true).map_err(|error| failed(&error))?;
        let stream = self
            .tls
            .connect(ServerName::IpAddress(node.ip().into()), stream)
            .await
            .map_err(|error| failed(&error))?;
        let (mut sender, connection) = http1::handshake(TokioIo::new(stream))
            .await
            .map_err(|error| failed(&error))?;
        let shutdown = shutdown.clone();
        self.tasks.spawn(async move {
            tokio::select! {
                () = shutdown.cancelled() => {}
                result = connection.with_upgrades() => {
                    if let Err(error) = result {
                        tracing::debug!(%node, %error, "a connection to a node ended");
                    }
                }
            }
        });
        sender.send_request(request).await.map_err(|error| failed(&error))
    }
}

fn outgoing(node: SocketAddr, uri: &str, parts: &Parts, body: Body) -> Result<Request<Body>, ApiError> {
    let mut request = Request::builder()
        .method(parts.method.clone())
        .uri(uri)
        .body(body)
        .map_err(ApiError::internal)?;
    *request.headers_mut() = parts.headers.clone();
    // The server speaks to the node with its own certificate.
    request.headers_mut().remove(AUTHORIZATION);
    if let Ok(host) = HeaderValue::from_str(&node.to_string()) {
        request.headers_mut().insert(HOST, host);
    }
    Ok(request)
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
