//! Forwarding over SPDY: for each connection the client opens an error stream and a data stream.

use std::io;

use tokio::task::{JoinError, JoinSet};
use tokio::time::{Instant, sleep_until};

use super::Forwarder;
use super::carry::carry;
use super::pairs::{Added, Label, Pair, Pairs};
use crate::connection::{Io, Timing};
use crate::spdy::frame::Reset;
use crate::spdy::{Stream, session};

/// Forwards connections until the client is gone.
pub(super) async fn serve(io: Io, forwarder: Forwarder, timing: Timing) {
    let (_connection, mut streams) = session::start(io, timing.idle, Label::of);
    let mut pairs = Pairs::new(timing.creation);
    let mut tasks = JoinSet::new();
    loop {
        let deadline = pairs.deadline();
        let expiry = async { sleep_until(deadline.unwrap_or_else(Instant::now)).await };
        tokio::select! {
            opened = streams.recv() => {
                let Some((label, stream)) = opened else { break };
                match pairs.add(label, stream, Instant::now()) {
                    Added::Waiting => {}
                    Added::Complete(pair) => {
                        tasks.spawn(forwarder.clone().forward(pair));
                    }
                    Added::Duplicate(stream) => stream.reset(Reset::Refused).await,
                }
            }
            Some(ended) = tasks.join_next() => log(ended),
            () = expiry, if deadline.is_some() => {
                for (request, stream) in pairs.expired(Instant::now()) {
                    let message = format!("(request={request}) timed out waiting for streams");
                    tracing::debug!(message);
                    stream.finish(message.as_bytes()).await;
                }
            }
        }
    }
}

fn log(ended: Result<(), JoinError>) {
    if let Err(error) = ended {
        tracing::error!(%error, "forwarding a connection");
    }
}

impl Forwarder {
    async fn forward(self, pair: Pair<Stream>) {
        let gone = pair.data.gone();
        let connected = tokio::select! {
            biased;
            () = gone.cancelled() => Err(io::ErrorKind::ConnectionAborted.into()),
            connected = (self.connect)(pair.port) => connected,
        };
        match connected {
            Ok(pod) => {
                tokio::select! {
                    () = gone.cancelled() => {}
                    result = carry_pair(&pair, pod) => if let Err(error) = result {
                        // containerd tells this as an error, at which kubectl gives up all its connections;
                        // but a reset connection is the two programs' affair.
                        tracing::debug!(port = pair.port, %error, "a forwarded connection broke off");
                        pair.data.reset(Reset::Cancel).await;
                    }
                }
            }
            Err(error) => {
                pair.error
                    .finish(self.target.failure(pair.port, &error).as_bytes())
                    .await
            }
        }
        pair.data.finish(b"").await;
        // The client waits for the end of this stream, whatever became of the other.
        pair.error.finish(b"").await;
    }
}

async fn carry_pair(pair: &Pair<Stream>, pod: Io) -> io::Result<()> {
    let pod_is_done = async {
        pair.data.finish(b"").await;
        pair.error.finish(b"").await;
    };
    carry(pair.data.input(), pair.data.output(), pod, pod_is_done).await
}
