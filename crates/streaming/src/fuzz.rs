//! The readers of what clients send, alone: for fuzzing, and for nothing else.

use bytes::{Bytes, BytesMut};

use crate::spdy::frame::Decoder;
use crate::websocket::channel::{Dialect, Encoding, parse};
use crate::{remotecommand, spdy};

/// Reads a connection's bytes as frames of SPDY/3.1, `piece` bytes at a time.
pub fn spdy(bytes: &[u8], piece: usize) {
    let mut decoder = Decoder::new();
    let mut buffer = BytesMut::new();
    for piece in bytes.chunks(piece.max(1)) {
        buffer.extend_from_slice(piece);
        loop {
            match decoder.decode(&mut buffer) {
                Ok(Some(_)) => {}
                Ok(None) => break,
                Err(_) => return,
            }
        }
    }
}

/// Reads an inflated block of headers.
pub fn header_block(block: &[u8]) {
    let _ = spdy::parse_headers(block);
}

/// Reads a message of a WebSocket with channels, in each of its dialects.
pub fn channel_message(message: &[u8]) {
    for (encoding, ends) in [
        (Encoding::Binary, false),
        (Encoding::Binary, true),
        (Encoding::Base64, false),
    ] {
        let _ = parse(Dialect { encoding, ends }, Bytes::copy_from_slice(message));
    }
}

/// Reads the sizes of a terminal.
pub fn terminal_sizes(bytes: &[u8]) {
    remotecommand::read_sizes(bytes);
}
