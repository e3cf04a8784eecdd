//! A SPDY connection: the client opens streams, and each becomes a [`Stream`] for whoever accepts it.
//!
//! One task reads the frames and distributes them. It waits where a stream has no room (see [`crate::inbox`])
//! or the queue to the client is full; a client that does not read what it is sent is not listened to either.

use std::collections::HashMap;
use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use tokio::io::{AsyncReadExt, ReadHalf};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::frame::{self, Decoder, Frame, FrameError, Goodbye, Reset};
use super::headers::Headers;
use crate::activity::Activity;
use crate::connection::{Connection, Io, Parts, Wire};
use crate::inbox::{Inbox, Input};
use crate::outbox::{self, Closed, Framing, Outbox, Output};

/// How many streams a client may have open; a forwarded connection takes two.
const MAX_STREAMS: usize = 2048;

/// How many new streams may wait to be taken.
const WAITING: usize = 16;

/// How many bytes are read at once.
const READ: usize = 32 * 1024;

/// A stream that the client has opened and that was accepted. Dropped, it is forgotten: what the client still
/// sends on it is thrown away, and the client is told nothing.
#[derive(Debug)]
pub(crate) struct Stream {
    id: u32,
    slot: Slot,
    outbox: Outbox,
    table: Arc<Table>,
    /// This side has said that it sends no more.
    finished: AtomicBool,
}

/// What the reading task knows of a stream.
#[derive(Debug, Clone, Default)]
struct Slot {
    inbox: Arc<Inbox>,
    /// Cancelled when the client has reset the stream, or is gone.
    gone: CancellationToken,
}

#[derive(Debug, Default)]
struct Table(Mutex<HashMap<u32, Slot>>);

impl Table {
    fn lock(&self) -> MutexGuard<'_, HashMap<u32, Slot>> {
        // No code that can panic runs under the lock.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn get(&self, id: u32) -> Option<Slot> {
        self.lock().get(&id).cloned()
    }
}

impl Stream {
    pub(crate) fn id(&self) -> u32 {
        self.id
    }

    /// What the client sends. To be taken once: dropped, it throws away the rest.
    pub(crate) fn input(&self) -> Input {
        Input::new(Arc::clone(&self.slot.inbox))
    }

    /// Throws away what the client has sent and will send.
    pub(crate) fn ignore_input(&self) {
        self.slot.inbox.abandon();
    }

    pub(crate) fn output(&self) -> Output {
        self.outbox.output(Framing::Spdy { stream: self.id })
    }

    /// Cancelled when the client has reset the stream, or is gone.
    pub(crate) fn gone(&self) -> CancellationToken {
        self.slot.gone.clone()
    }

    /// Sends a few last bytes, and that there will be no more. Later calls do nothing.
    pub(crate) async fn finish(&self, bytes: &[u8]) {
        if !self.finished.swap(true, Ordering::Relaxed) {
            self.say(frame::data(self.id, bytes, true)).await;
        }
    }

    /// Ends the stream in both directions.
    pub(crate) async fn reset(&self, reason: Reset) {
        self.finished.store(true, Ordering::Relaxed);
        self.say(frame::rst_stream(self.id, reason)).await;
    }

    async fn say(&self, frame: Bytes) {
        if let Err(closed) = self.outbox.send(frame).await {
            tracing::debug!(stream = self.id, %closed, "the end of a stream");
        }
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        self.table.lock().remove(&self.id);
        self.slot.inbox.abandon();
    }
}

/// Starts a connection. `accept` looks at a new stream's headers and says what it is; a stream that is nothing
/// is refused. Accepted streams come out of the receiver; once it is dropped, all further ones are refused.
pub(crate) fn start<T, A>(io: Io, idle: Duration, accept: A) -> (Connection, mpsc::Receiver<(T, Stream)>)
where
    T: Send + 'static,
    A: FnMut(u32, &Headers) -> Option<T> + Send + 'static,
{
    let (read, write) = tokio::io::split(io);
    let (outbox, packets) = outbox::queue();
    let (opened, streams) = mpsc::channel(WAITING);
    let activity = Arc::new(Activity::new());
    let server = Server {
        table: Arc::new(Table::default()),
        outbox: outbox.clone(),
        opened,
        accept,
        last_stream: 0,
        replied: false,
        leaving: false,
    };
    let reading = server.serve(Frames::new(read, Arc::clone(&activity)));
    let wire = Wire::Bytes(write);
    (
        Connection::start(
            Parts {
                outbox,
                packets,
                wire,
                activity,
                reading,
            },
            idle,
        ),
        streams,
    )
}

/// The reading task.
struct Server<T, A> {
    table: Arc<Table>,
    outbox: Outbox,
    opened: mpsc::Sender<(T, Stream)>,
    accept: A,
    /// The client's highest stream so far; the next must be higher.
    last_stream: u32,
    /// A frame with headers was sent.
    replied: bool,
    /// The client has said that it will open no more streams.
    leaving: bool,
}

impl<T, A: FnMut(u32, &Headers) -> Option<T>> Server<T, A> {
    async fn serve(mut self, mut frames: Frames) {
        loop {
            let handled = match frames.next().await {
                Ok(Some(frame)) => self.handle(frame).await,
                Ok(None) => break,
                Err(ReadError::Frame(error)) => {
                    tracing::debug!(%error, "a client's SPDY connection has an error");
                    self.outbox
                        .hang_up(frame::goaway(self.last_stream, Goodbye::ProtocolError))
                        .await;
                    break;
                }
                Err(ReadError::Io(error)) => {
                    tracing::debug!(%error, "a client's SPDY connection broke off");
                    break;
                }
            };
            if handled.is_err() {
                break;
            }
        }
        for slot in self.table.lock().values() {
            slot.inbox.end();
            slot.gone.cancel();
        }
    }

    async fn handle(&mut self, frame: Frame) -> Result<(), Closed> {
        match frame {
            Frame::SynStream { stream, fin, headers } => return self.open(stream, fin, &headers).await,
            Frame::Data { stream, bytes, fin } => {
                // Without a slot: a stream that was refused, or that this side is done with.
                if let Some(slot) = self.table.get(stream) {
                    slot.inbox.feed(bytes).await;
                    if fin {
                        slot.inbox.end();
                    }
                }
            }
            Frame::RstStream { stream } => {
                if let Some(slot) = self.table.get(stream) {
                    slot.inbox.end();
                    slot.gone.cancel();
                }
            }
            // Even numbers would answer pings of ours.
            Frame::Ping { id } if id % 2 == 1 => return self.outbox.send(frame::ping(id)).await,
            Frame::GoAway => self.leaving = true,
            Frame::Ping { .. } | Frame::Meaningless => {}
        }
        Ok(())
    }

    async fn open(&mut self, id: u32, fin: bool, headers: &Headers) -> Result<(), Closed> {
        if self.leaving {
            return Ok(());
        }
        if id.is_multiple_of(2) || id <= self.last_stream {
            return self
                .outbox
                .send(frame::rst_stream(id, Reset::ProtocolError))
                .await;
        }
        self.last_stream = id;
        let room = self.table.lock().len() < MAX_STREAMS;
        let what = if room && !self.opened.is_closed() {
            (self.accept)(id, headers)
        } else {
            None
        };
        let Some(what) = what else {
            return self.outbox.send(frame::rst_stream(id, Reset::Refused)).await;
        };
        let stream = self.stream(id);
        if fin {
            stream.slot.inbox.end();
        }
        // The client takes no data on a stream before the reply.
        self.outbox.send(frame::syn_reply(id, !self.replied)).await?;
        self.replied = true;
        if let Err(mpsc::error::SendError((_, stream))) = self.opened.send((what, stream)).await {
            stream.reset(Reset::Refused).await;
        }
        Ok(())
    }

    fn stream(&self, id: u32) -> Stream {
        let slot = Slot::default();
        self.table.lock().insert(id, slot.clone());
        let (outbox, table) = (self.outbox.clone(), Arc::clone(&self.table));
        Stream {
            id,
            slot,
            outbox,
            table,
            finished: AtomicBool::new(false),
        }
    }
}

/// Frames from a connection.
struct Frames {
    io: ReadHalf<Io>,
    buffer: BytesMut,
    decoder: Decoder,
    activity: Arc<Activity>,
}

#[derive(Debug, thiserror::Error)]
enum ReadError {
    #[error(transparent)]
    Frame(#[from] FrameError),
    #[error("read a SPDY connection")]
    Io(#[from] io::Error),
}

impl Frames {
    fn new(io: ReadHalf<Io>, activity: Arc<Activity>) -> Self {
        Self {
            io,
            buffer: BytesMut::new(),
            decoder: Decoder::new(),
            activity,
        }
    }

    /// The next frame; `None` at the end of the connection.
    async fn next(&mut self) -> Result<Option<Frame>, ReadError> {
        loop {
            if let Some(frame) = self.decoder.decode(&mut self.buffer)? {
                return Ok(Some(frame));
            }
            self.buffer.reserve(READ);
            let read = self.io.read_buf(&mut self.buffer).await?;
            self.activity.note();
            if read == 0 {
                let whole = self.buffer.is_empty() && !self.decoder.is_midway();
                return if whole {
                    Ok(None)
                } else {
                    Err(io::Error::from(io::ErrorKind::UnexpectedEof).into())
                };
            }
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};

    use super::super::frame::client::Client;
    use super::*;

    const IDLE: Duration = Duration::from_secs(60);

    type Opened = mpsc::Receiver<(String, Stream)>;

    fn session() -> (DuplexStream, Connection, Opened) {
        let (client, server) = tokio::io::duplex(1 << 16);
        let (connection, streams) = start(Box::new(server), IDLE, |_, headers| {
            headers
                .get("streamtype")
                .filter(|kind| *kind != "bad")
                .map(str::to_owned)
        });
        (client, connection, streams)
    }

    /// Reads frames as a client sees them: (control type or stream, body).
    async fn next_frame(client: &mut DuplexStream) -> (u32, Vec<u8>) {
        let (mut head, mut length) = ([0; 4], [0; 4]);
        client.read_exact(&mut head).await.unwrap();
        client.read_exact(&mut length).await.unwrap();
        length[0] = 0;
        let mut body = vec![0; u32::from_be_bytes(length) as usize];
        client.read_exact(&mut body).await.unwrap();
        (u32::from_be_bytes(head) & 0x8000_ffff, body)
    }

    const CONTROL: u32 = 0x8000_0000;

    #[tokio::test]
    async fn a_stream_is_answered_and_carries_bytes_both_ways() {
        let (mut client, _connection, mut streams) = session();
        let mut frames = Client::new();
        client
            .write_all(&frames.syn_stream(1, false, &[("streamtype", "data")]))
            .await
            .unwrap();
        let (kind, stream) = streams.recv().await.unwrap();
        assert_eq!(kind, "data");
        assert_eq!(next_frame(&mut client).await.0, CONTROL | 2);
        client
            .write_all(&frame::data(1, b"to the server", true))
            .await
            .unwrap();
        let mut text = String::new();
        stream.input().read_to_string(&mut text).await.unwrap();
        assert_eq!(text, "to the server");
        stream.output().write_all(b"to the client").await.unwrap();
        assert_eq!(next_frame(&mut client).await, (1, b"to the client".to_vec()));
        stream.finish(b"bye").await;
        stream.finish(b"not twice").await;
        assert_eq!(next_frame(&mut client).await, (1, b"bye".to_vec()));
        client.write_all(&frame::ping(7)).await.unwrap();
        assert_eq!(
            next_frame(&mut client).await,
            (CONTROL | 6, 7u32.to_be_bytes().to_vec())
        );
    }

    #[tokio::test]
    async fn wrong_streams_are_refused_and_the_others_go_on() {
        let (mut client, _connection, mut streams) = session();
        let mut frames = Client::new();
        for (id, kind) in [(3, "bad"), (2, "data"), (1, "data"), (5, "data")] {
            client
                .write_all(&frames.syn_stream(id, false, &[("streamtype", kind)]))
                .await
                .unwrap();
        }
        let mut replies = Vec::new();
        for _ in 0..4 {
            replies.push(next_frame(&mut client).await.0 & !CONTROL);
        }
        assert_eq!(replies, [3, 3, 3, 2], "three resets and a reply");
        assert_eq!(streams.recv().await.unwrap().1.id(), 5);
    }

    #[tokio::test]
    async fn more_streams_than_allowed_are_refused() {
        let (mut client, _connection, mut streams) = session();
        let mut frames = Client::new();
        let mut open = Vec::new();
        for id in 0..=MAX_STREAMS as u32 {
            client
                .write_all(&frames.syn_stream(2 * id + 1, false, &[("streamtype", "data")]))
                .await
                .unwrap();
            if next_frame(&mut client).await.0 == CONTROL | 2 {
                open.push(streams.recv().await.unwrap());
            }
        }
        assert_eq!(open.len(), MAX_STREAMS);
        open.pop();
        client
            .write_all(&frames.syn_stream(9999, false, &[("streamtype", "data")]))
            .await
            .unwrap();
        assert_eq!(next_frame(&mut client).await.0, CONTROL | 2, "one was dropped");
    }

    #[tokio::test]
    async fn a_reset_and_the_end_of_the_connection_reach_the_streams() {
        let (mut client, connection, mut streams) = session();
        let mut frames = Client::new();
        for id in [1, 3] {
            client
                .write_all(&frames.syn_stream(id, false, &[("streamtype", "data")]))
                .await
                .unwrap();
        }
        let (first, second) = (streams.recv().await.unwrap().1, streams.recv().await.unwrap().1);
        client
            .write_all(&frame::rst_stream(1, Reset::Cancel))
            .await
            .unwrap();
        first.gone().cancelled().await;
        assert!(!second.gone().is_cancelled());
        drop(client);
        second.gone().cancelled().await;
        connection.closed().cancelled().await;
        assert_eq!(second.input().read(&mut [0; 4]).await.unwrap(), 0);
    }

    #[tokio::test]
    async fn a_protocol_error_is_answered_with_goaway() {
        let (mut client, _connection, _streams) = session();
        client.write_all(&[0x80, 2, 0, 1, 0, 0, 0, 0]).await.unwrap();
        let (kind, body) = next_frame(&mut client).await;
        assert_eq!((kind, body), (CONTROL | 7, vec![0, 0, 0, 0, 0, 0, 0, 1]));
    }

    #[tokio::test]
    async fn finishing_sends_what_is_queued_and_waits_for_the_client_to_close() {
        let (mut client, connection, mut streams) = session();
        client
            .write_all(&Client::new().syn_stream(1, false, &[("streamtype", "data")]))
            .await
            .unwrap();
        let (_, stream) = streams.recv().await.unwrap();
        stream.output().write_all(&[7; 100_000]).await.unwrap();
        stream.ignore_input();
        let finishing = tokio::spawn(connection.finish(frame::goaway(1, Goodbye::Ok)));
        client
            .write_all(&frame::data(1, &[1; 10_000], false))
            .await
            .unwrap();
        let (mut got, mut kind) = (0, 0);
        while kind != CONTROL | 7 {
            let (next, body) = next_frame(&mut client).await;
            got += if next == 1 { body.len() } else { 0 };
            kind = next;
        }
        assert_eq!(got, 100_000);
        assert_eq!(client.read(&mut [0; 4]).await.unwrap(), 0);
        assert!(!finishing.is_finished());
        drop(client);
        finishing.await.unwrap().unwrap();
    }
}
