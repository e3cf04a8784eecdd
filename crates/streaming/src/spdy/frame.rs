//! The frames of SPDY/3.1 ("2.2 Framing" and "2.6 Control frames" of its draft) as bytes.
//!
//! Reading is tolerant, as the clients' library (moby/spdystream) is: frames that mean nothing to a server of
//! this kind are passed over. Data are given out as they come, whatever length their frame has; every other
//! frame must be complete, and has a limit.

use bytes::{Buf, BufMut, Bytes, BytesMut};

use super::headers::{EMPTY_BLOCK, HeaderError, Headers, Inflater, STREAM_START};

/// How many bytes a control frame may have.
const MAX_CONTROL: usize = 64 * 1024;

const HEAD: usize = 8;
const VERSION: u16 = 3;
const FIN: u8 = 1;
const STREAM_ID: u32 = 0x7fff_ffff;

const SYN_STREAM: u16 = 1;
const SYN_REPLY: u16 = 2;
const RST_STREAM: u16 = 3;
const PING: u16 = 6;
const GOAWAY: u16 = 7;
const HEADERS: u16 = 8;

/// Why a stream is reset, as in "2.6.3 RST_STREAM".
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Reset {
    ProtocolError = 1,
    Refused = 3,
    Cancel = 5,
}

/// Why a connection ends, as in "2.6.6 GOAWAY".
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Goodbye {
    Ok = 0,
    ProtocolError = 1,
}

/// What a client can say.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Frame {
    /// A new stream. `fin`: the client will send nothing on it.
    SynStream {
        stream: u32,
        fin: bool,
        headers: Headers,
    },
    /// The client is done with a stream, in both directions.
    RstStream { stream: u32 },
    /// To be sent back, if the number is odd.
    Ping { id: u32 },
    /// The client will open no more streams.
    GoAway,
    /// A piece of a stream. `fin`: the last.
    Data { stream: u32, bytes: Bytes, fin: bool },
    /// Settings, replies and headers on streams, window updates (neither side of this protocol limits itself
    /// by windows), and what is unknown.
    Meaningless,
}

/// Bytes that are not SPDY/3.1, or too many of them.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub(crate) enum FrameError {
    #[error("read a frame: it is of SPDY/{0}, not of SPDY/3")]
    Version(u16),
    #[error("read a frame of type {kind}: {length} bytes are more than {MAX_CONTROL}")]
    TooLarge { kind: u16, length: usize },
    #[error("read a frame of type {kind}: {length} bytes are too few")]
    TooShort { kind: u16, length: usize },
    #[error("read a frame: it is for stream 0")]
    StreamZero,
    #[error(transparent)]
    Headers(#[from] HeaderError),
}

/// The state of reading one direction of a connection.
pub(crate) struct Decoder {
    inflater: Inflater,
    /// The data frame that is being read.
    data: Option<PartialData>,
}

struct PartialData {
    stream: u32,
    left: usize,
    fin: bool,
}

impl Decoder {
    pub(crate) fn new() -> Self {
        Self {
            inflater: Inflater::new(),
            data: None,
        }
    }

    /// Takes the next frame, or piece of one, from the front of `buffer`; `None` if more bytes are needed.
    pub(crate) fn decode(&mut self, buffer: &mut BytesMut) -> Result<Option<Frame>, FrameError> {
        if let Some(data) = self.data.take() {
            return Ok(self.piece(data, buffer));
        }
        let Some(&[a, b, c, d, flags, e, f, g]) = buffer.first_chunk::<HEAD>() else {
            return Ok(None);
        };
        let first = u32::from_be_bytes([a, b, c, d]);
        let length = u32::from_be_bytes([0, e, f, g]) as usize;
        let fin = flags & FIN != 0;
        if first & !STREAM_ID == 0 {
            buffer.advance(HEAD);
            let data = PartialData {
                stream: nonzero(first)?,
                left: length,
                fin,
            };
            return Ok(self.piece(data, buffer));
        }
        let (version, kind) = ((first >> 16 & 0x7fff) as u16, first as u16);
        if version != VERSION {
            return Err(FrameError::Version(version));
        }
        if length > MAX_CONTROL {
            return Err(FrameError::TooLarge { kind, length });
        }
        if buffer.len() < HEAD + length {
            return Ok(None);
        }
        buffer.advance(HEAD);
        self.control(kind, fin, buffer.split_to(length).freeze())
            .map(Some)
    }

    /// True within a frame whose beginning was taken already.
    pub(crate) fn is_midway(&self) -> bool {
        self.data.is_some()
    }

    fn piece(&mut self, mut data: PartialData, buffer: &mut BytesMut) -> Option<Frame> {
        let length = data.left.min(buffer.len());
        if length == 0 && data.left > 0 {
            self.data = Some(data);
            return None;
        }
        data.left -= length;
        let bytes = buffer.split_to(length).freeze();
        let frame = Frame::Data {
            stream: data.stream,
            bytes,
            fin: data.fin && data.left == 0,
        };
        if data.left > 0 {
            self.data = Some(data);
        }
        Some(frame)
    }

    fn control(&mut self, kind: u16, fin: bool, mut body: Bytes) -> Result<Frame, FrameError> {
        let length = body.len();
        let number = |body: &mut Bytes| {
            body.try_get_u32()
                .map_err(|_| FrameError::TooShort { kind, length })
        };
        match kind {
            SYN_STREAM => {
                let stream = nonzero(number(&mut body)?)?;
                let _associated_to = number(&mut body)?;
                // Priority and slot.
                body.try_get_u16()
                    .map_err(|_| FrameError::TooShort { kind, length })?;
                Ok(Frame::SynStream {
                    stream,
                    fin,
                    headers: self.inflater.read(&body)?,
                })
            }
            SYN_REPLY | HEADERS => {
                number(&mut body)?;
                // Only because the next block continues the deflate stream.
                self.inflater.read(&body)?;
                Ok(Frame::Meaningless)
            }
            RST_STREAM => Ok(Frame::RstStream {
                stream: nonzero(number(&mut body)?)?,
            }),
            PING => Ok(Frame::Ping {
                id: number(&mut body)?,
            }),
            GOAWAY => Ok(Frame::GoAway),
            _ => Ok(Frame::Meaningless),
        }
    }
}

fn nonzero(stream: u32) -> Result<u32, FrameError> {
    match stream & STREAM_ID {
        0 => Err(FrameError::StreamZero),
        stream => Ok(stream),
    }
}

/// A piece of a stream. `bytes` are far fewer than a frame can hold (16 MiB).
pub(crate) fn data(stream: u32, bytes: &[u8], fin: bool) -> Bytes {
    let mut frame = BytesMut::with_capacity(HEAD + bytes.len());
    frame.put_u32(stream);
    frame.put_u32(u32::from(fin) << 24 | bytes.len() as u32);
    frame.extend_from_slice(bytes);
    frame.freeze()
}

/// The stream is accepted. `first`: the first frame with headers (of which there are none) on a connection.
pub(crate) fn syn_reply(stream: u32, first: bool) -> Bytes {
    let start = if first { STREAM_START } else { &[] };
    control(SYN_REPLY, &[&stream.to_be_bytes(), start, EMPTY_BLOCK])
}

pub(crate) fn rst_stream(stream: u32, reason: Reset) -> Bytes {
    control(
        RST_STREAM,
        &[&stream.to_be_bytes(), &(reason as u32).to_be_bytes()],
    )
}

pub(crate) fn ping(id: u32) -> Bytes {
    control(PING, &[&id.to_be_bytes()])
}

/// `last_stream`: the last stream of the client that was looked at.
pub(crate) fn goaway(last_stream: u32, status: Goodbye) -> Bytes {
    control(
        GOAWAY,
        &[&last_stream.to_be_bytes(), &(status as u32).to_be_bytes()],
    )
}

fn control(kind: u16, body: &[&[u8]]) -> Bytes {
    let body = body.concat();
    let mut frame = BytesMut::with_capacity(HEAD + body.len());
    frame.put_u16(0x8000 | VERSION);
    frame.put_u16(kind);
    frame.put_u32(body.len() as u32);
    frame.extend_from_slice(&body);
    frame.freeze()
}

/// The frames that only clients send.
#[cfg(test)]
pub(crate) mod client {
    use super::super::headers::deflate::Deflater;
    use super::*;

    pub(crate) struct Client(Deflater);

    impl Client {
        pub(crate) fn new() -> Self {
            Self(Deflater::new())
        }

        pub(crate) fn syn_stream(&mut self, stream: u32, fin: bool, headers: &[(&str, &str)]) -> Bytes {
            let block = self.0.block(headers);
            let mut frame = control(SYN_STREAM, &[&stream.to_be_bytes(), &[0; 6], &block]).to_vec();
            frame[4] = u8::from(fin);
            frame.into()
        }

        pub(crate) fn headers(&mut self, stream: u32, headers: &[(&str, &str)]) -> Bytes {
            let block = self.0.block(headers);
            control(HEADERS, &[&stream.to_be_bytes(), &block])
        }
    }

    pub(crate) fn window_update(stream: u32) -> Bytes {
        control(9, &[&stream.to_be_bytes(), &65_536u32.to_be_bytes()])
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use proptest::prelude::*;

    use super::client::Client;
    use super::*;

    fn decode_all(bytes: &[u8], step: usize) -> (Vec<Frame>, Option<FrameError>) {
        let (mut decoder, mut buffer, mut frames) = (Decoder::new(), BytesMut::new(), Vec::new());
        for piece in bytes.chunks(step.max(1)) {
            buffer.extend_from_slice(piece);
            loop {
                match decoder.decode(&mut buffer) {
                    Ok(Some(frame)) => frames.push(frame),
                    Ok(None) => break,
                    Err(error) => return (frames, Some(error)),
                }
            }
        }
        (frames, None)
    }

    fn joined(frames: Vec<Frame>) -> Vec<Frame> {
        let mut whole: Vec<Frame> = Vec::new();
        for frame in frames {
            match (whole.last_mut(), frame) {
                (
                    Some(Frame::Data {
                        stream,
                        bytes,
                        fin: last @ false,
                    }),
                    Frame::Data {
                        stream: next,
                        bytes: more,
                        fin,
                    },
                ) if *stream == next => {
                    *bytes = [&bytes[..], &more].concat().into();
                    *last = fin;
                }
                (_, frame) => whole.push(frame),
            }
        }
        whole
    }

    fn conversation() -> Vec<u8> {
        let mut client = Client::new();
        [
            client.syn_stream(1, true, &[("streamtype", "error"), ("port", "80")]),
            client.syn_stream(3, false, &[("streamtype", "data"), ("port", "80")]),
            client::window_update(3),
            client.headers(3, &[("more", "of them")]),
            data(3, b"hello", false),
            data(3, b"", true),
            ping(1),
            rst_stream(1, Reset::Cancel),
            goaway(0, Goodbye::Ok),
        ]
        .concat()
    }

    #[test]
    fn frames_are_read_however_the_bytes_are_cut() {
        let bytes = conversation();
        let (whole, error) = decode_all(&bytes, bytes.len());
        assert_eq!(error, None);
        let whole = joined(whole);
        assert_eq!(whole.len(), 8, "data frames of one stream are joined here");
        assert!(
            matches!(&whole[0], Frame::SynStream { stream: 1, fin: true, headers }
            if headers.get("port") == Some("80"))
        );
        assert!(matches!(
            &whole[1],
            Frame::SynStream {
                stream: 3,
                fin: false,
                ..
            }
        ));
        assert_eq!(
            whole[4],
            Frame::Data {
                stream: 3,
                bytes: Bytes::from_static(b"hello"),
                fin: true
            }
        );
        assert_eq!(
            whole[5..],
            [
                Frame::Ping { id: 1 },
                Frame::RstStream { stream: 1 },
                Frame::GoAway
            ]
        );
        for step in 1..20 {
            assert_eq!(
                joined(decode_all(&bytes, step).0),
                whole,
                "{step} bytes at a time"
            );
        }
    }

    #[test]
    fn data_of_the_largest_frame_are_given_out_as_they_come() {
        let (mut decoder, mut buffer) = (Decoder::new(), BytesMut::new());
        buffer.extend_from_slice(&[0, 0, 0, 1, 1, 0xff, 0xff, 0xff]);
        assert_eq!(decoder.decode(&mut buffer), Ok(None));
        assert!(decoder.is_midway());
        let mut left = 0xff_ffff;
        while left > 0 {
            let length = left.min(100_000);
            buffer.extend_from_slice(&vec![7; length]);
            left -= length;
            let frame = decoder.decode(&mut buffer).unwrap();
            assert!(matches!(frame, Some(Frame::Data { stream: 1, bytes, fin })
                if bytes.len() == length && fin == (left == 0)));
        }
        assert!(!decoder.is_midway());
    }

    #[test]
    fn wrong_frames_are_refused() {
        let check = |bytes: &[u8], expected: FrameError| {
            assert_eq!(decode_all(bytes, bytes.len()).1, Some(expected), "{bytes:?}");
        };
        check(&[0x80, 2, 0, 1, 0, 0, 0, 0], FrameError::Version(2));
        check(
            &[0x80, 3, 0, 1, 0, 1, 0, 1],
            FrameError::TooLarge {
                kind: 1,
                length: 65_537,
            },
        );
        check(
            &[0x80, 3, 0, 1, 0, 0, 0, 2, 0, 0],
            FrameError::TooShort { kind: 1, length: 2 },
        );
        check(
            &[0x80, 3, 0, 1, 0, 0, 0, 8, 0, 0, 0, 1, 0, 0, 0, 0],
            FrameError::TooShort { kind: 1, length: 8 },
        );
        check(
            &[0x80, 3, 0, 6, 0, 0, 0, 0],
            FrameError::TooShort { kind: 6, length: 0 },
        );
        check(
            &[0x80, 3, 0, 3, 0, 0, 0, 4, 0x80, 0, 0, 0],
            FrameError::StreamZero,
        );
        check(&[0, 0, 0, 0, 0, 0, 0, 0], FrameError::StreamZero);
        check(
            &[0x80, 3, 0, 8, 0, 0, 0, 6, 0, 0, 0, 1, 9, 9],
            FrameError::Headers(HeaderError::Inflate),
        );
    }

    #[test]
    fn frames_of_unknown_types_are_passed_over() {
        let bytes = [&[0x80, 3, 0x12, 0x34, 0, 0, 0, 3, 1, 2, 3][..], &ping(5)].concat();
        assert_eq!(
            decode_all(&bytes, 4),
            (vec![Frame::Meaningless, Frame::Ping { id: 5 }], None)
        );
    }

    #[test]
    fn written_frames_have_the_bytes_of_the_draft() {
        assert_eq!(data(3, b"ab", true)[..], [0, 0, 0, 3, 1, 0, 0, 2, b'a', b'b']);
        assert_eq!(
            rst_stream(1, Reset::Cancel)[..],
            [0x80, 3, 0, 3, 0, 0, 0, 8, 0, 0, 0, 1, 0, 0, 0, 5]
        );
        assert_eq!(
            goaway(7, Goodbye::ProtocolError)[..],
            [0x80, 3, 0, 7, 0, 0, 0, 8, 0, 0, 0, 7, 0, 0, 0, 1]
        );
        assert_eq!(syn_reply(1, true).len(), 8 + 4 + 6 + 14);
        assert_eq!(syn_reply(3, false).len(), 8 + 4 + 14);
    }

    proptest! {
        #[test]
        fn no_bytes_make_reading_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300), step in 1usize..40) {
            decode_all(&bytes, step);
        }

        #[test]
        fn no_damage_to_a_conversation_makes_reading_panic(
            damage in proptest::collection::vec((any::<proptest::sample::Index>(), any::<u8>()), 1..8),
            step in 1usize..40,
        ) {
            let mut bytes = conversation();
            for (place, byte) in damage {
                *place.get_mut(&mut bytes) = byte;
            }
            decode_all(&bytes, step);
        }
    }
}
