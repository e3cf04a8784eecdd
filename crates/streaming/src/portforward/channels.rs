//! Forwarding over a WebSocket with channels: for the n-th port of the query there is one connection, with its
//! data on channel 2n and its error on channel 2n + 1. The first message on each is the port.
//!
//! There is no way to end a channel; the connection ends when the pod has ended all that are forwarded.

use std::io;
use std::sync::Arc;

use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::Forwarder;
use crate::connection::{Io, Timing};
use crate::inbox::{Inbox, Input};
use crate::outbox::{Closed, Framing, Outbox, Output};
use crate::upgrade::{Rejection, query_values};
use crate::websocket::channel::{self, Dialect, Encoding};
use crate::websocket::{self, Channels};

/// So many have numbers for their channels.
const MAX_PORTS: usize = 127;

/// The ports that a query names: as `port`, which is what API servers send to kubelets, or `ports`, which is
/// what clients send to API servers.
pub(super) fn ports(query: &str) -> Result<Vec<u16>, Rejection> {
    let mut ports = Vec::new();
    for values in ["port", "ports"]
        .into_iter()
        .flat_map(|name| query_values(query, name))
    {
        if values.is_empty() {
            return Err(Rejection::Query(
                "query parameter \"port\" cannot be empty".to_owned(),
            ));
        }
        for value in values.replace("%2C", ",").replace("%2c", ",").split(',') {
            ports.push(port(value)?);
        }
    }
    match ports.len() {
        0 => Err(Rejection::Query(
            "query parameter \"port\" is required".to_owned(),
        )),
        1..=MAX_PORTS => Ok(ports),
        _ => Err(Rejection::Query(format!(
            "query parameter \"port\" names more than {MAX_PORTS} ports"
        ))),
    }
}

fn port(text: &str) -> Result<u16, Rejection> {
    match text.parse() {
        Ok(0) => Err(Rejection::Query(format!("port {text:?} must be > 0"))),
        Ok(port) => Ok(port),
        Err(error) => Err(Rejection::Query(format!(
            "unable to parse {text:?} as a port: {error}"
        ))),
    }
}

/// Forwards one connection to each port.
pub(super) async fn serve(io: Io, encoding: Encoding, ports: &[u16], forwarder: Forwarder, timing: Timing) {
    let inboxes: Vec<_> = ports.iter().map(|_| Arc::new(Inbox::default())).collect();
    let channels: Channels = inboxes
        .iter()
        .flat_map(|inbox| [Some(Arc::clone(inbox)), None])
        .collect();
    let dialect = Dialect {
        encoding,
        ends: false,
    };
    let connection = websocket::start(io, dialect, channels, timing.idle, Arc::default()).await;
    let mut tasks = JoinSet::new();
    for (number, (port, inbox)) in (0..).step_by(2).zip(ports.iter().zip(&inboxes)) {
        let pair = Pair {
            port: *port,
            number,
            encoding,
            inbox: Arc::clone(inbox),
            outbox: connection.outbox().clone(),
            gone: connection.closed().clone(),
        };
        tasks.spawn(forwarder.clone().forward_channels(pair));
    }
    while tasks.join_next().await.is_some() {}
    inboxes.iter().for_each(|inbox| inbox.abandon());
    if let Err(error) = connection.finish(bytes::Bytes::new()).await {
        tracing::debug!(%error, "the end of forwarding ports");
    }
}

/// The channels of one port.
struct Pair {
    port: u16,
    /// Of the data channel.
    number: u8,
    encoding: Encoding,
    inbox: Arc<Inbox>,
    outbox: Outbox,
    gone: CancellationToken,
}

impl Pair {
    async fn greet(&self) -> Result<(), Closed> {
        let port = self.port.to_le_bytes();
        self.outbox
            .send(channel::message(self.encoding, self.number, &port))
            .await?;
        self.fail(&port).await
    }

    async fn fail(&self, message: &[u8]) -> Result<(), Closed> {
        self.outbox
            .send(channel::message(self.encoding, self.number + 1, message))
            .await
    }

    fn output(&self) -> Output {
        self.outbox.output(Framing::Channel {
            number: self.number,
            encoding: self.encoding,
        })
    }

    async fn carry(&self, pod: Io) -> io::Result<()> {
        let (mut input, mut output) = (Input::new(Arc::clone(&self.inbox)), self.output());
        let (mut from_pod, mut to_pod) = tokio::io::split(pod);
        let up = async move {
            let copied = tokio::io::copy(&mut input, &mut to_pod).await;
            // A pod that does not listen may still have something to say.
            drop(input);
            tracing::debug!(port = self.port, ?copied, "nothing more is sent to a pod");
            std::future::pending().await
        };
        tokio::select! {
            result = tokio::io::copy(&mut from_pod, &mut output) => result.map(|_| ()),
            never = up => never,
        }
    }
}

impl Forwarder {
    async fn forward_channels(self, pair: Pair) {
        let forwarding = async {
            pair.greet().await?;
            match (self.connect)(pair.port).await {
                Err(error) => pair.fail(self.target.failure(pair.port, &error).as_bytes()).await,
                Ok(pod) => {
                    if let Err(error) = pair.carry(pod).await {
                        tracing::debug!(port = pair.port, %error, "a forwarded connection broke off");
                    }
                    Ok(())
                }
            }
        };
        tokio::select! {
            () = pair.gone.cancelled() => {}
            result = forwarding => if let Err(error) = result {
                tracing::debug!(port = pair.port, %error, "forwarding a port");
            }
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn ports_are_read_from_the_query() {
        assert_eq!(ports("port=80"), Ok(vec![80]));
        assert_eq!(ports("port=80,81&port=82"), Ok(vec![80, 81, 82]));
        assert_eq!(ports("ports=80%2C81"), Ok(vec![80, 81]));
        let many = format!("port={}", vec!["1"; 128].join(","));
        for query in [
            "",
            "port",
            "port=",
            "port=0",
            "port=65536",
            "port=80,",
            "port=x",
            &many,
        ] {
            assert!(matches!(ports(query), Err(Rejection::Query(_))), "{query}");
        }
        let error = ports("").unwrap_err();
        assert_eq!(error.to_string(), "query parameter \"port\" is required");
    }
}
