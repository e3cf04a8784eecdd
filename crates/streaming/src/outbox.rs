//! What is to be sent to the client: a bounded queue of packets, many writers, one task that sends.
//!
//! The bound is the back-pressure: who writes faster than the client reads waits for a place in the queue, and
//! places are given in the order of asking, so that no stream starves another.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use tokio::io::AsyncWrite;
use tokio::sync::mpsc;
use tokio_util::sync::PollSender;

use crate::spdy;
use crate::websocket::channel::{self, Encoding};

/// How many bytes of a stream go into one packet. The clients queue packets, not bytes, before one stream
/// that they do not read stops the others, so larger ones serve better than smaller.
pub(crate) const MAX_PIECE: usize = 32 * 1024;

/// How many packets may wait; at most 256 KiB for each connection.
const QUEUE: usize = 8;

/// Something to send.
#[derive(Debug)]
pub(crate) enum Packet {
    /// The bytes of a frame, or of a WebSocket message.
    Frame(Bytes),
    /// A WebSocket's ping.
    Ping,
    /// The same, if not empty; then the connection is closed, whatever else is queued.
    Last(Bytes),
}

/// The sending end of the queue.
#[derive(Debug, Clone)]
pub(crate) struct Outbox(mpsc::Sender<Packet>);

/// Nothing can be sent any more.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("send to the client: the connection has ended")]
pub(crate) struct Closed;

/// A queue for one connection.
pub(crate) fn queue() -> (Outbox, mpsc::Receiver<Packet>) {
    let (sender, receiver) = mpsc::channel(QUEUE);
    (Outbox(sender), receiver)
}

impl Outbox {
    /// Queues a packet, when there is a place for it.
    pub(crate) async fn send(&self, frame: Bytes) -> Result<(), Closed> {
        self.0.send(Packet::Frame(frame)).await.map_err(|_| Closed)
    }

    /// Queues a ping.
    pub(crate) async fn ping(&self) -> Result<(), Closed> {
        self.0.send(Packet::Ping).await.map_err(|_| Closed)
    }

    /// Queues the last packet.
    pub(crate) async fn send_last(&self, frame: Bytes) -> Result<(), Closed> {
        self.0.send(Packet::Last(frame)).await.map_err(|_| Closed)
    }

    /// The same, and waits until it was sent, or cannot be.
    pub(crate) async fn hang_up(&self, frame: Bytes) {
        if self.send_last(frame).await.is_ok() {
            self.0.closed().await;
        }
    }

    /// A writer of one stream.
    pub(crate) fn output(&self, framing: Framing) -> Output {
        Output {
            packets: PollSender::new(self.0.clone()),
            framing,
        }
    }
}

/// How the bytes of one stream become a packet.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Framing {
    Spdy { stream: u32 },
    Channel { number: u8, encoding: Encoding },
}

impl Framing {
    pub(crate) fn packet(self, bytes: &[u8]) -> Bytes {
        match self {
            Self::Spdy { stream } => spdy::frame::data(stream, bytes, false),
            Self::Channel { number, encoding } => channel::message(encoding, number, bytes),
        }
    }
}

/// What the client is to read on one stream.
///
/// A write is complete when it is queued (a few hundred KiB at most, for all streams together); flushing adds
/// nothing to that, and neither shutting down nor dropping ends the stream for the client, which is done when
/// the session ends. When the client is gone, writing fails with [`io::ErrorKind::BrokenPipe`].
#[derive(Debug)]
pub struct Output {
    packets: PollSender<Packet>,
    framing: Framing,
}

impl AsyncWrite for Output {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        if bytes.is_empty() {
            return Poll::Ready(Ok(0));
        }
        ready!(self.packets.poll_reserve(cx)).map_err(|_| gone())?;
        let length = bytes.len().min(MAX_PIECE);
        let packet = Packet::Frame(self.framing.packet(&bytes[..length]));
        self.packets.send_item(packet).map_err(|_| gone())?;
        Poll::Ready(Ok(length))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

fn gone() -> io::Error {
    io::Error::new(io::ErrorKind::BrokenPipe, Closed)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use futures::FutureExt;
    use tokio::io::AsyncWriteExt;

    use super::*;

    fn framing() -> Framing {
        Framing::Channel {
            number: 1,
            encoding: Encoding::Binary,
        }
    }

    #[tokio::test]
    async fn a_long_write_becomes_several_packets() {
        let (outbox, mut packets) = queue();
        let bytes = vec![7; MAX_PIECE + 1];
        outbox.output(framing()).write_all(&bytes).await.unwrap();
        for expected in [MAX_PIECE + 1, 2] {
            let Some(Packet::Frame(packet)) = packets.recv().await else {
                panic!("no packet")
            };
            assert_eq!(packet.len(), expected, "with the number of the channel");
        }
    }

    #[tokio::test]
    async fn a_writer_waits_when_the_queue_is_full_and_fails_when_the_client_is_gone() {
        let (outbox, mut packets) = queue();
        let mut output = outbox.output(framing());
        for _ in 0..QUEUE {
            output.write_all(b"x").await.unwrap();
        }
        assert!(output.write(b"x").now_or_never().is_none());
        packets.recv().await.unwrap();
        output.write_all(b"x").await.unwrap();
        drop(packets);
        let error = output.write_all(b"x").await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::BrokenPipe);
    }
}
