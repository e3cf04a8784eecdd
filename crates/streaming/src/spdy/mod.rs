//! SPDY/3.1, the server's side of it, as far as Kubernetes' clients use it.
//!
//! * [`frame`]: frames as bytes, with [`headers`] deflated against a [`dictionary`];
//! * [`session`]: a connection with the streams that the client opens.
//!
//! The clients' only implementation is moby/spdystream, which ignores windows and sends no updates of them.
//! So there is no flow control by windows here either: what holds a sender up is TCP, and between the streams
//! of one connection the order in which they ask.

mod dictionary;
pub(crate) mod frame;
mod headers;
pub(crate) mod session;

pub(crate) use headers::{Headers, parse as parse_headers};
pub(crate) use session::Stream;
