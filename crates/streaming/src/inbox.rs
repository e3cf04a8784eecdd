//! What the client has sent on one stream and nobody has read yet.
//!
//! The task that reads the connection puts bytes in, and waits when there is no room: the clients' protocols
//! have no working flow control of their own, so a stream that is not read holds up its connection, and at
//! last the client. A stream that nobody is going to read any more takes everything and keeps nothing.

use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

use bytes::{Buf, Bytes, BytesMut};
use tokio::io::{AsyncRead, ReadBuf};

/// How many unread bytes a stream may have.
const ROOM: usize = 64 * 1024;

/// The client's side of a stream, between the connection and [`Input`].
#[derive(Debug, Default)]
pub(crate) struct Inbox(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    bytes: BytesMut,
    phase: Phase,
    reader: Option<Waker>,
    feeder: Option<Waker>,
}

#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// There may be more.
    #[default]
    Open,
    /// The client has said all.
    Ended,
    /// Nobody reads.
    Abandoned,
}

impl Inbox {
    /// Puts bytes in, as there is room for them. Cancelled, a part of them may have been put in.
    pub(crate) async fn feed(&self, mut bytes: Bytes) {
        poll_fn(|cx| self.poll_feed(cx, &mut bytes)).await;
    }

    /// The client will send no more.
    pub(crate) fn end(&self) {
        let mut state = self.lock();
        if state.phase == Phase::Open {
            state.phase = Phase::Ended;
        }
        wake(&mut state.reader);
    }

    /// Nobody will read.
    pub(crate) fn abandon(&self) {
        let mut state = self.lock();
        state.phase = Phase::Abandoned;
        state.bytes = BytesMut::new();
        wake(&mut state.reader);
        wake(&mut state.feeder);
    }

    fn poll_feed(&self, cx: &mut Context<'_>, bytes: &mut Bytes) -> Poll<()> {
        let mut state = self.lock();
        if state.phase != Phase::Open || bytes.is_empty() {
            return Poll::Ready(());
        }
        let length = bytes.len().min(ROOM - state.bytes.len());
        if length > 0 {
            state.bytes.extend_from_slice(&bytes[..length]);
            bytes.advance(length);
            wake(&mut state.reader);
        }
        if bytes.is_empty() {
            return Poll::Ready(());
        }
        state.feeder = Some(cx.waker().clone());
        Poll::Pending
    }

    fn poll_read(&self, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<()> {
        let mut state = self.lock();
        if state.bytes.is_empty() {
            if state.phase != Phase::Open {
                return Poll::Ready(());
            }
            state.reader = Some(cx.waker().clone());
            return Poll::Pending;
        }
        let length = state.bytes.len().min(buf.remaining());
        buf.put_slice(&state.bytes[..length]);
        state.bytes.advance(length);
        if state.bytes.is_empty() {
            // A stream can be quiet for hours.
            state.bytes = BytesMut::new();
        }
        wake(&mut state.feeder);
        Poll::Ready(())
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // No code that can panic runs under the lock.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn wake(waker: &mut Option<Waker>) {
    if let Some(waker) = waker.take() {
        waker.wake();
    }
}

/// What the client sends on one stream. It ends when the client ends it, or is gone. Dropped, what the client
/// still sends is thrown away.
///
/// To be read or dropped: unread bytes (64 KiB) hold up everything that the client sends on the connection.
#[derive(Debug)]
pub struct Input(Arc<Inbox>);

impl Input {
    pub(crate) fn new(inbox: Arc<Inbox>) -> Self {
        Self(inbox)
    }
}

impl AsyncRead for Input {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        self.0.poll_read(cx, buf).map(Ok)
    }
}

impl Drop for Input {
    fn drop(&mut self) {
        self.0.abandon();
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use futures::FutureExt;
    use tokio::io::AsyncReadExt;

    use super::*;

    fn pair() -> (Arc<Inbox>, Input) {
        let inbox = Arc::new(Inbox::default());
        (Arc::clone(&inbox), Input::new(inbox))
    }

    #[tokio::test]
    async fn bytes_are_read_in_order_and_then_the_end() {
        let (inbox, mut input) = pair();
        inbox.feed(Bytes::from_static(b"one ")).await;
        inbox.feed(Bytes::from_static(b"two")).await;
        inbox.end();
        inbox.feed(Bytes::from_static(b"after the end")).await;
        let mut text = String::new();
        input.read_to_string(&mut text).await.unwrap();
        assert_eq!(text, "one two");
    }

    #[tokio::test]
    async fn a_full_inbox_takes_more_only_when_it_was_read() {
        let (inbox, mut input) = pair();
        let mut feeding = Box::pin(inbox.feed(vec![1; ROOM + 10].into()));
        assert!(feeding.as_mut().now_or_never().is_none());
        let mut some = [0; 10];
        input.read_exact(&mut some).await.unwrap();
        assert!(feeding.as_mut().now_or_never().is_some());
    }

    #[tokio::test]
    async fn an_inbox_that_nobody_reads_takes_everything() {
        let (inbox, input) = pair();
        let mut feeding = Box::pin(inbox.feed(vec![1; 10 * ROOM].into()));
        assert!(feeding.as_mut().now_or_never().is_none());
        drop(input);
        feeding.await;
        inbox.feed(vec![1; 10 * ROOM].into()).await;
    }

    #[tokio::test]
    async fn a_waiting_reader_learns_of_bytes_and_of_the_end() {
        let (inbox, mut input) = pair();
        let reading = tokio::spawn(async move {
            let mut bytes = Vec::new();
            input.read_to_end(&mut bytes).await.map(|_| bytes)
        });
        tokio::task::yield_now().await;
        inbox.feed(Bytes::from_static(b"late")).await;
        tokio::task::yield_now().await;
        inbox.end();
        assert_eq!(reading.await.unwrap().unwrap(), b"late");
    }
}
