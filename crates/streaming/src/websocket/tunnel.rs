//! A WebSocket connection as one stream of bytes: what is in its binary messages, whatever their bounds.
//!
//! So clients carry SPDY through proxies that let only WebSockets pass (`SPDY/3.1+portforward.k8s.io`; see the
//! enhancement "Transition from SPDY to WebSockets").

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes};
use futures::{Sink, Stream};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;

use crate::connection::{Io, normal_close};

/// The stream of bytes.
pub(crate) struct Tunnel {
    socket: WebSocketStream<Io>,
    /// What is left of the last message.
    rest: Bytes,
    closing: bool,
}

impl Tunnel {
    pub(crate) fn new(socket: WebSocketStream<Io>) -> Self {
        Self {
            socket,
            rest: Bytes::new(),
            closing: false,
        }
    }

    fn socket(&mut self) -> Pin<&mut WebSocketStream<Io>> {
        Pin::new(&mut self.socket)
    }
}

impl AsyncRead for Tunnel {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        while self.rest.is_empty() {
            match ready!(self.socket().poll_next(cx)) {
                Some(Ok(Message::Binary(bytes))) => self.rest = bytes,
                Some(Ok(Message::Text(_))) => return Poll::Ready(Err(io::ErrorKind::InvalidData.into())),
                Some(Ok(_)) => {}
                Some(Err(error)) => return Poll::Ready(Err(io::Error::other(error))),
                None => return Poll::Ready(Ok(())),
            }
        }
        let length = self.rest.len().min(buf.remaining());
        buf.put_slice(&self.rest[..length]);
        self.rest.advance(length);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Tunnel {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        ready!(self.socket().poll_ready(cx)).map_err(io::Error::other)?;
        let message = Message::Binary(Bytes::copy_from_slice(bytes));
        self.socket().start_send(message).map_err(io::Error::other)?;
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.socket().poll_flush(cx).map_err(io::Error::other)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if !self.closing {
            ready!(self.socket().poll_ready(cx)).map_err(io::Error::other)?;
            self.closing = true;
            self.socket()
                .start_send(normal_close())
                .map_err(io::Error::other)?;
        }
        self.socket().poll_flush(cx).map_err(io::Error::other)
    }
}
