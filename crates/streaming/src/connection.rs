//! One upgraded connection: the task that reads it, the task that writes to it, and how it ends.
//!
//! Both tasks end with the [`Connection`] that owns them. A connection ends well in this order: what is queued
//! is sent, then the last packet; this side says that it sends no more; then what the client still sends is
//! read until the client closes. Closed any earlier, with bytes of the client unread, TCP would reset the
//! connection and could destroy output that the client has received but not yet read.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::SinkExt;
use futures::stream::SplitSink;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt, WriteHalf};
use tokio::sync::mpsc;
use tokio::time::timeout;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::protocol::CloseFrame;
use tokio_tungstenite::tungstenite::protocol::frame::Utf8Bytes;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

use crate::activity::Activity;
use crate::outbox::{Outbox, Packet};
use crate::websocket::channel::Encoding;

/// How long to wait for the client to close, once everything was sent to it. Clients do so at once; but a slow
/// one may first have to read much output that is on its way.
const LINGER: Duration = Duration::from_secs(30);

/// How long to wait for a client.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Timing {
    /// A connection on which nothing happens for so long is closed. Default: 4 hours, as the kubelet's
    /// `streamingConnectionIdleTimeout`.
    pub idle: Duration,
    /// So long a client may take to open the streams that belong together. Default: 30 seconds.
    pub creation: Duration,
}

impl Default for Timing {
    fn default() -> Self {
        Self {
            idle: Duration::from_secs(4 * 3600),
            creation: Duration::from_secs(30),
        }
    }
}

/// What an upgraded connection is made of.
pub(crate) trait Duplex: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Duplex for T {}

/// The bytes of an upgraded connection.
pub(crate) type Io = Box<dyn Duplex>;

/// Where packets go.
pub(crate) enum Wire {
    /// One after another.
    Bytes(WriteHalf<Io>),
    /// Each into a message.
    Messages(SplitSink<WebSocketStream<Io>, Message>, Encoding),
}

impl Wire {
    async fn put(&mut self, packet: Bytes) -> io::Result<()> {
        match self {
            Self::Bytes(io) => io.write_all(&packet).await,
            Self::Messages(sink, encoding) => {
                let message = match encoding {
                    Encoding::Binary => Message::Binary(packet),
                    Encoding::Base64 => Message::Text(Utf8Bytes::try_from(packet).map_err(io::Error::other)?),
                };
                sink.feed(message).await.map_err(io::Error::other)
            }
        }
    }

    /// Asks a WebSocket client for a sign of life.
    async fn ping(&mut self) -> io::Result<()> {
        match self {
            Self::Bytes(_) => Ok(()),
            Self::Messages(sink, _) => sink
                .feed(Message::Ping(Bytes::new()))
                .await
                .map_err(io::Error::other),
        }
    }

    async fn flush(&mut self) -> io::Result<()> {
        match self {
            Self::Bytes(io) => io.flush().await,
            Self::Messages(sink, _) => sink.flush().await.map_err(io::Error::other),
        }
    }

    /// Tells the client that nothing more will come.
    async fn close(&mut self) -> io::Result<()> {
        match self {
            Self::Bytes(io) => io.shutdown().await,
            Self::Messages(sink, _) => sink.send(normal_close()).await.map_err(io::Error::other),
        }
    }
}

/// The message that ends a WebSocket connection without fault; client-go takes any other for an error.
pub(crate) fn normal_close() -> Message {
    Message::Close(Some(CloseFrame {
        code: CloseCode::Normal,
        reason: Utf8Bytes::default(),
    }))
}

/// The client was gone before all was sent to it.
#[derive(Debug, thiserror::Error)]
pub enum HungUp {
    /// It closed the connection, or was silent for too long.
    #[error("send to the client: it has closed the connection")]
    Closed,
    /// Sending failed.
    #[error("send to the client")]
    Send(#[source] io::Error),
}

/// A connection and its two tasks, which end when this is dropped.
#[derive(Debug)]
pub(crate) struct Connection {
    outbox: Outbox,
    closed: CancellationToken,
    reading: AbortOnDropHandle<()>,
    writing: AbortOnDropHandle<Result<Wire, HungUp>>,
}

/// What [`Connection::start`] sets going.
pub(crate) struct Parts<R> {
    pub(crate) outbox: Outbox,
    pub(crate) packets: mpsc::Receiver<Packet>,
    pub(crate) wire: Wire,
    pub(crate) activity: Arc<Activity>,
    /// Reads the connection to its end.
    pub(crate) reading: R,
}

impl Connection {
    pub(crate) fn start<R>(parts: Parts<R>, idle: Duration) -> Self
    where
        R: Future<Output = ()> + Send + 'static,
    {
        let Parts {
            outbox,
            packets,
            wire,
            activity,
            reading,
        } = parts;
        let closed = CancellationToken::new();
        let writing = write(wire, packets, Arc::clone(&activity), closed.clone());
        let reading = read(reading, activity, idle, closed.clone());
        Self {
            outbox,
            closed,
            reading: AbortOnDropHandle::new(tokio::spawn(reading)),
            writing: AbortOnDropHandle::new(tokio::spawn(writing)),
        }
    }

    pub(crate) fn outbox(&self) -> &Outbox {
        &self.outbox
    }

    /// Cancelled when the client is gone.
    pub(crate) fn closed(&self) -> &CancellationToken {
        &self.closed
    }

    /// Sends what is queued and `last`, and closes. What the client sends must from here on be read without
    /// waiting for anyone. Cancelled, the connection is cut off.
    pub(crate) async fn finish(mut self, last: Bytes) -> Result<(), HungUp> {
        // If this fails, the task says why.
        let _ = self.outbox.send_last(last).await;
        let mut wire = (&mut self.writing).await.map_err(|_| HungUp::Closed)??;
        let closing = async {
            if wire.close().await.is_ok() {
                let _ = (&mut self.reading).await;
            }
        };
        // All was sent; a client that does not close is not the caller's concern.
        let _ = timeout(LINGER, closing).await;
        Ok(())
    }
}

async fn read(
    reading: impl Future<Output = ()>,
    activity: Arc<Activity>,
    idle: Duration,
    closed: CancellationToken,
) {
    tokio::select! {
        () = reading => {}
        () = activity.quiet_for(idle) => tracing::debug!(?idle, "nothing happened on a connection"),
        () = closed.cancelled() => {}
    }
    closed.cancel();
}

/// Returns when the last packet was sent.
async fn write(
    wire: Wire,
    packets: mpsc::Receiver<Packet>,
    activity: Arc<Activity>,
    closed: CancellationToken,
) -> Result<Wire, HungUp> {
    let result = tokio::select! {
        result = send_all(wire, packets, &activity) => result.map_err(HungUp::Send),
        () = closed.cancelled() => Err(HungUp::Closed),
    };
    if result.is_err() {
        closed.cancel();
    }
    result
}

async fn send_all(
    mut wire: Wire,
    mut packets: mpsc::Receiver<Packet>,
    activity: &Activity,
) -> io::Result<Wire> {
    while let Some(packet) = packets.recv().await {
        let (frame, is_last) = match packet {
            Packet::Frame(frame) => (frame, false),
            Packet::Ping => {
                wire.ping().await?;
                (Bytes::new(), false)
            }
            Packet::Last(frame) => (frame, true),
        };
        if !frame.is_empty() {
            wire.put(frame).await?;
        }
        if is_last || packets.is_empty() {
            wire.flush().await?;
            activity.note();
        }
        if is_last {
            break;
        }
    }
    Ok(wire)
}
