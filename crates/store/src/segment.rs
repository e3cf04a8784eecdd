//! Reading a segment back, and telling a write that was cut short from damage.
//!
//! A batch is one frame, and the next is written only when it is durable. So after a power cut
//! the one broken frame there may be is the last; if a good frame follows a broken one, the broken
//! one was good once, and what it held was acknowledged.

use std::io;

use crate::Revision;
use crate::disk::{File, Reader, WINDOW};
use crate::format::frame::{self, Seal};
use crate::format::header::{self, Header, Kind};

/// A segment being read.
pub(crate) struct SegmentReader {
    reader: Reader,
    len: u64,
    seal: Seal,
    /// Where the next frame is expected.
    offset: u64,
    /// Checksum the next frame must repeat.
    chain: u32,
}

/// What is behind the last good frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Tail {
    /// Zeros, or nothing.
    Clean,
    /// A frame that was being written when the power went.
    Torn,
    /// A frame that was durable once: good ones follow.
    Damaged,
}

impl SegmentReader {
    /// Starts after the header, which has been read already.
    pub(crate) fn new(file: Box<dyn File>, len: u64, header: &Header) -> Self {
        Self {
            reader: Reader::new(file),
            len,
            seal: Seal::new(header.nonce),
            offset: header::LEN as u64,
            chain: header.crc(Kind::Segment),
        }
    }

    /// Where the next frame is expected.
    pub(crate) fn offset(&self) -> u64 {
        self.offset
    }

    /// The checksum of the last frame.
    pub(crate) fn chain(&self) -> u32 {
        self.chain
    }

    /// The body of the next frame if it is whole, follows on the one before and starts with
    /// revision `first`.
    pub(crate) fn next_body(&mut self, first: Revision) -> io::Result<Option<&[u8]>> {
        let Some((header, end)) = self.frame_at(self.offset)? else {
            return Ok(None);
        };
        if header.chain != self.chain || header.first != first {
            return Ok(None);
        }
        let start = self.offset + frame::HEADER_LEN as u64;
        self.offset = end;
        self.chain = header.crc;
        Ok(Some(self.reader.bytes(start, header.body_len)?))
    }

    /// Looks at what is behind the last good frame, where a frame with revision `first` would
    /// follow. (A frame with an older one is a leftover, of which there should be none.)
    pub(crate) fn tail(&mut self, first: Revision) -> io::Result<Tail> {
        let mut tail = Tail::Clean;
        let mut at = self.offset;
        while at < self.len {
            let window = self.reader.bytes(at, WINDOW.min((self.len - at) as usize))?;
            if window.is_empty() {
                break;
            }
            let step = window.len();
            if window.iter().any(|&byte| byte != 0) {
                tail = Tail::Torn;
                // Headers that begin in this window, those that end in the next one included.
                let overlapping = self.reader.bytes(at, (step + 3).min((self.len - at) as usize))?;
                let candidates: Vec<_> = self.seal.candidates(overlapping).collect();
                for candidate in candidates {
                    let candidate = at + candidate as u64;
                    let frame = self.frame_at(candidate)?;
                    if candidate > self.offset && frame.is_some_and(|(header, _)| header.first >= first) {
                        return Ok(Tail::Damaged);
                    }
                }
            }
            at += step as u64;
        }
        Ok(tail)
    }

    /// Gives the file back, with its seal.
    pub(crate) fn into_parts(self) -> (Box<dyn File>, Seal) {
        (self.reader.into_file(), self.seal)
    }

    /// The whole frame at `offset`, if there is one, and where it ends.
    fn frame_at(&mut self, offset: u64) -> io::Result<Option<(frame::FrameHeader, u64)>> {
        let fixed = self.reader.bytes(offset, frame::HEADER_LEN)?;
        let Some(header) = fixed.first_chunk().and_then(|fixed| self.seal.parse(fixed)) else {
            return Ok(None);
        };
        let start = offset + frame::HEADER_LEN as u64;
        let end = start + header.body_len as u64;
        if end > self.len || !header.accepts(self.reader.bytes(start, header.body_len)?) {
            return Ok(None);
        }
        Ok(Some((header, end)))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;
    use crate::disk::Disk;
    use crate::disk::sim::{Image, SimDisk};

    /// A segment of frames with these first revisions, bodies and, where given, a wrong checksum
    /// of the frame before.
    struct Fixture {
        header: Header,
        bytes: Vec<u8>,
    }

    impl Fixture {
        fn new() -> Self {
            let header = Header::new(3, Revision::new(1), 0);
            let bytes = header.encode(Kind::Segment).to_vec();
            Self { header, bytes }
        }

        /// Appends a frame and returns its checksum.
        fn frame(&mut self, first: u64, chain: u32, body: &[u8]) -> u32 {
            let mut frame = Vec::new();
            frame::begin(&mut frame);
            frame.extend_from_slice(body);
            let crc = Seal::new(self.header.nonce).finish(&mut frame, Revision::new(first), chain);
            self.bytes.extend_from_slice(&frame);
            crc
        }

        fn reader(&self) -> SegmentReader {
            let image = Image::from([("log".to_owned(), self.bytes.clone())]);
            let file = SimDisk::new(image).open("log").unwrap();
            SegmentReader::new(file, self.bytes.len() as u64, &self.header)
        }

        /// Bodies of the frames up to the first that does not fit, and what follows them.
        fn read(&self) -> (Vec<Vec<u8>>, Tail) {
            let mut reader = self.reader();
            let mut bodies = Vec::new();
            let mut next = Revision::new(1);
            while let Some(body) = reader.next_body(next).unwrap() {
                bodies.push(body.to_vec());
                next = next.next();
            }
            (bodies, reader.tail(next).unwrap())
        }
    }

    #[test]
    fn frames_are_read_one_after_another_up_to_the_zeros() {
        let mut segment = Fixture::new();
        let chain = segment.header.crc(Kind::Segment);
        let chain = segment.frame(1, chain, b"one");
        let chain = segment.frame(2, chain, &vec![7; 2 * WINDOW]);
        segment.frame(3, chain, b"three");
        segment.bytes.resize(segment.bytes.len() + 2 * WINDOW, 0);
        let (bodies, tail) = segment.read();
        assert_eq!(
            bodies.iter().map(Vec::len).collect::<Vec<_>>(),
            [3, 2 * WINDOW, 5]
        );
        assert_eq!(tail, Tail::Clean);
    }

    #[test]
    fn a_whole_frame_that_does_not_follow_on_the_one_before_is_not_taken() {
        let mut segment = Fixture::new();
        let chain = segment.header.crc(Kind::Segment);
        let chain = segment.frame(1, chain, b"one");
        let end = segment.bytes.len();
        segment.frame(2, chain ^ 1, b"two");
        assert_eq!(segment.read(), (vec![b"one".to_vec()], Tail::Torn));
        segment.bytes.truncate(end);
        segment.frame(1, chain, b"one again");
        assert_eq!(segment.read(), (vec![b"one".to_vec()], Tail::Torn));
    }

    #[test]
    fn a_frame_after_a_broken_one_shows_damage_wherever_it_begins() {
        for gap in [1, 24, WINDOW - 30, WINDOW - 2, WINDOW, 3 * WINDOW + 1] {
            let mut segment = Fixture::new();
            let chain = segment.header.crc(Kind::Segment);
            let chain = segment.frame(1, chain, b"one");
            segment.bytes.resize(segment.bytes.len() + gap, 1);
            segment.frame(9, chain, b"later");
            assert_eq!(
                segment.read(),
                (vec![b"one".to_vec()], Tail::Damaged),
                "gap {gap}"
            );
        }
    }

    #[test]
    fn a_frame_that_is_cut_short_is_torn() {
        let mut segment = Fixture::new();
        let chain = segment.header.crc(Kind::Segment);
        let chain = segment.frame(1, chain, b"one");
        let whole = segment.bytes.len();
        segment.frame(2, chain, b"two");
        let end = segment.bytes.len();
        for len in whole + 1..end {
            segment.bytes.truncate(end);
            segment.bytes[len..].fill(0);
            assert_eq!(
                segment.read(),
                (vec![b"one".to_vec()], Tail::Torn),
                "{len} with zeros"
            );
        }
        for len in (whole + 1..end).rev() {
            segment.bytes.truncate(len);
            assert_eq!(segment.read(), (vec![b"one".to_vec()], Tail::Torn), "{len}");
        }
    }
}
