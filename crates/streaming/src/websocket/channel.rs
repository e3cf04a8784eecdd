//! The channel protocols of Kubernetes' WebSockets: each message begins with the number of its channel.
//!
//! In the `base64.` variants a message is text: the number as a digit, the rest in base64. From `v5` on, a
//! client can end a channel with a message of its own. See the packages `wsstream` and `remotecommand` of
//! Kubernetes.

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use bytes::{Bytes, BytesMut};

/// The channel by which a client ends another.
const END: u8 = 255;

/// How the bytes of a message are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Encoding {
    Binary,
    Base64,
}

/// What a client's messages may be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Dialect {
    pub(crate) encoding: Encoding,
    /// Channels can be ended.
    pub(crate) ends: bool,
}

/// What a client says with a message.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Event {
    Data { channel: u8, bytes: Bytes },
    End { channel: u8 },
    Nothing,
}

/// A message that is not of the protocol.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub(crate) enum ChannelError {
    #[error("read a message that ends a channel: it has {0} bytes, not 2")]
    EndLength(usize),
    #[error("read a message of channel {0}: it is not base64")]
    Base64(u8),
}

/// Takes a client's message apart.
pub(crate) fn parse(dialect: Dialect, message: Bytes) -> Result<Event, ChannelError> {
    let Some(&first) = message.first() else {
        return Ok(Event::Nothing);
    };
    let rest = message.slice(1..);
    match dialect.encoding {
        Encoding::Binary if dialect.ends && first == END => match rest[..] {
            [channel] => Ok(Event::End { channel }),
            _ => Err(ChannelError::EndLength(message.len())),
        },
        Encoding::Binary => Ok(Event::Data {
            channel: first,
            bytes: rest,
        }),
        Encoding::Base64 => {
            let channel = first.wrapping_sub(b'0');
            let bytes = BASE64_STANDARD
                .decode(rest)
                .map_err(|_| ChannelError::Base64(channel))?;
            Ok(Event::Data {
                channel,
                bytes: bytes.into(),
            })
        }
    }
}

/// A message to a client.
pub(crate) fn message(encoding: Encoding, channel: u8, bytes: &[u8]) -> Bytes {
    match encoding {
        Encoding::Binary => {
            let mut message = BytesMut::with_capacity(1 + bytes.len());
            message.extend_from_slice(&[channel]);
            message.extend_from_slice(bytes);
            message.freeze()
        }
        Encoding::Base64 => {
            let mut message = String::with_capacity(1 + bytes.len().div_ceil(3) * 4);
            message.push(char::from(b'0'.wrapping_add(channel) & 0x7f));
            BASE64_STANDARD.encode_string(bytes, &mut message);
            message.into()
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use proptest::prelude::*;

    use super::*;

    const V5: Dialect = Dialect {
        encoding: Encoding::Binary,
        ends: true,
    };
    const V4: Dialect = Dialect {
        encoding: Encoding::Binary,
        ends: false,
    };
    const BASE64: Dialect = Dialect {
        encoding: Encoding::Base64,
        ends: false,
    };

    #[test]
    fn messages_are_taken_apart() {
        let data = |channel, bytes: &'static [u8]| {
            Ok(Event::Data {
                channel,
                bytes: bytes.into(),
            })
        };
        let cases: &[(Dialect, &'static [u8], Result<Event, ChannelError>)] = &[
            (V5, b"", Ok(Event::Nothing)),
            (V5, b"\x00hello", data(0, b"hello")),
            (V5, b"\x00", data(0, b"")),
            (V5, b"\xff\x00", Ok(Event::End { channel: 0 })),
            (V5, b"\xff\x04", Ok(Event::End { channel: 4 })),
            (V5, b"\xff", Err(ChannelError::EndLength(1))),
            (V5, b"\xff\x00\x00", Err(ChannelError::EndLength(3))),
            (V4, b"\xff\x00", data(255, b"\x00")),
            (BASE64, b"0Zm9vCg==", data(0, b"foo\n")),
            (BASE64, b"4e30=", data(4, b"{}")),
            (BASE64, b"0", data(0, b"")),
            (BASE64, b"0!", Err(ChannelError::Base64(0))),
        ];
        for (dialect, message, expected) in cases {
            assert_eq!(
                &parse(*dialect, Bytes::from_static(message)),
                expected,
                "{message:?}"
            );
        }
    }

    #[test]
    fn messages_are_put_together() {
        assert_eq!(message(Encoding::Binary, 1, b"out")[..], *b"\x01out");
        assert_eq!(message(Encoding::Binary, 3, b"")[..], *b"\x03");
        assert_eq!(message(Encoding::Base64, 1, b"foo\n")[..], *b"1Zm9vCg==");
        assert_eq!(message(Encoding::Base64, 1, b"")[..], *b"1");
    }

    proptest! {
        #[test]
        fn no_bytes_make_reading_panic(bytes in proptest::collection::vec(any::<u8>(), 0..64)) {
            for dialect in [V5, V4, BASE64] {
                let _ = parse(dialect, bytes.clone().into());
            }
        }

        #[test]
        fn what_is_put_together_is_taken_apart(
            channel in 0u8..5,
            bytes in proptest::collection::vec(any::<u8>(), 0..64),
        ) {
            for dialect in [V5, V4, BASE64] {
                let event = parse(dialect, message(dialect.encoding, channel, &bytes));
                prop_assert_eq!(event, Ok(Event::Data { channel, bytes: bytes.clone().into() }));
            }
        }
    }
}
