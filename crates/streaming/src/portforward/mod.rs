//! Forwarding connections to ports of a pod.
//!
//! A client opens one connection and forwards any number through it: over SPDY/3.1, over the same inside a
//! WebSocket (kubectl from 1.31), or over a WebSocket with a pair of channels for each port that the query
//! names. The kubelet's handler calls [`accept`], sends the answer, and in a task of its own lets
//! [`Upgrade::serve`] run until the client is done:
//!
//! ```no_run
//! use stead_streaming::portforward::{Target, accept};
//! use tokio::net::TcpStream;
//!
//! # fn handler(mut request: http::Request<()>) -> Result<(), stead_streaming::Rejection> {
//! let (response, upgrade) = accept(&mut request)?;
//! # drop(response);
//! let target = Target { pod: "web-0".to_owned(), uid: "5f0c".to_owned() };
//! let task = upgrade.serve(target, Default::default(), |port| TcpStream::connect(("10.1.0.7", port)));
//! # drop(task);
//! # Ok(())
//! # }
//! ```

mod carry;
mod channels;
mod pairs;
mod spdy;

use std::fmt;
use std::io;
use std::sync::Arc;

use futures::FutureExt;
use futures::future::BoxFuture;
use http::{Request, Response};
use tokio::io::{AsyncRead, AsyncWrite};

use crate::connection::{Io, Timing};
use crate::upgrade::{self, Offer, Pending, Rejection};
use crate::websocket;
use crate::websocket::channel::Encoding;
use crate::websocket::tunnel::Tunnel;

const SPDY: &str = "portforward.k8s.io";

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum WebSocketForm {
    Tunnel,
    Channels(Encoding),
}

const WEBSOCKET: &[(&str, WebSocketForm)] = &[
    ("SPDY/3.1+portforward.k8s.io", WebSocketForm::Tunnel),
    ("v4.channel.k8s.io", WebSocketForm::Channels(Encoding::Binary)),
    (
        "v4.base64.channel.k8s.io",
        WebSocketForm::Channels(Encoding::Base64),
    ),
];

/// The pod whose ports are forwarded; for messages.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target {
    /// Its name.
    pub pod: String,
    /// Its UID.
    pub uid: String,
}

impl Target {
    /// Why a connection failed, as the kubelet tells it.
    fn failure(&self, port: u16, error: &dyn fmt::Display) -> String {
        format!(
            "error forwarding port {port} to pod {}, uid {}: {error}",
            self.pod, self.uid
        )
    }
}

#[derive(Debug)]
enum Transport {
    Spdy,
    Tunnel,
    Channels { encoding: Encoding, ports: Vec<u16> },
}

/// Looks at a request to forward ports, and answers it. The answer, status 101, must be sent for the
/// [`Upgrade`] to go on; a [`Rejection`] has an answer of its own.
///
/// The connection is taken out of the request's extensions.
pub fn accept<B>(request: &mut Request<B>) -> Result<(Response<()>, Upgrade), Rejection> {
    let (response, transport) = match Offer::of(request)? {
        Offer::Spdy { protocols } => {
            let (name, ()) = upgrade::choose(&protocols, &[(SPDY, ())])?;
            (upgrade::to_spdy(name), Transport::Spdy)
        }
        Offer::WebSocket { protocols, key } => {
            let (name, form) = match &protocols[..] {
                [] => (None, WebSocketForm::Channels(Encoding::Binary)),
                _ => upgrade::choose(&protocols, WEBSOCKET).map(|(name, form)| (Some(name), form))?,
            };
            let transport = match form {
                WebSocketForm::Tunnel => Transport::Tunnel,
                WebSocketForm::Channels(encoding) => {
                    let ports = channels::ports(request.uri().query().unwrap_or_default())?;
                    Transport::Channels { encoding, ports }
                }
            };
            (upgrade::to_websocket(name, &key), transport)
        }
    };
    Ok((
        response,
        Upgrade {
            pending: Pending::take(request)?,
            transport,
        },
    ))
}

/// A connection that is about to carry others.
#[derive(Debug)]
pub struct Upgrade {
    pending: Pending,
    transport: Transport,
}

/// Nothing was forwarded: the answer could not be sent.
#[derive(Debug, thiserror::Error)]
#[error("upgrade a connection to forward ports")]
pub struct UpgradeError(#[source] hyper::Error);

/// Makes a connection to a port of the pod.
type Connect = dyn Fn(u16) -> BoxFuture<'static, io::Result<Io>> + Send + Sync;

/// What every forwarded connection needs.
#[derive(Clone)]
struct Forwarder {
    target: Arc<Target>,
    connect: Arc<Connect>,
}

impl Upgrade {
    /// Forwards connections until the client closes its own, or has forwarded nothing for
    /// [`Timing::idle`]. `connect` is called for each of them; its error is told to the client.
    ///
    /// Cancelled, all of them are cut off.
    pub async fn serve<C, F, S>(self, target: Target, timing: Timing, connect: C) -> Result<(), UpgradeError>
    where
        C: Fn(u16) -> F + Send + Sync + 'static,
        F: Future<Output = io::Result<S>> + Send + 'static,
        S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    {
        let connect = move |port| {
            let connecting = connect(port);
            async move { Ok(Box::new(connecting.await?) as Io) }.boxed()
        };
        let forwarder = Forwarder {
            target: Arc::new(target),
            connect: Arc::new(connect),
        };
        let io = self.pending.io().await.map_err(UpgradeError)?;
        match self.transport {
            Transport::Spdy => spdy::serve(io, forwarder, timing).await,
            Transport::Tunnel => {
                let tunnel = Tunnel::new(websocket::socket(io).await);
                spdy::serve(Box::new(tunnel), forwarder, timing).await;
            }
            Transport::Channels { encoding, ports } => {
                channels::serve(io, encoding, &ports, forwarder, timing).await;
            }
        }
        Ok(())
    }
}
