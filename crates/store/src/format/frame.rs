//! Frames: one batch of transactions each, written with one sync.
//!
//! | offset | bytes | |
//! |---|---|---|
//! | 0 | 4 | tag, from the segment's random number |
//! | 4 | 4 | length of the body |
//! | 8 | 8 | revision of the first transaction in the body |
//! | 16 | 4 | checksum of the frame before (of the segment's header for the first) |
//! | 20 | 4 | CRC-32 of all before and the body, seeded from the segment's random number |
//! | 24 | | body: the operations of the transactions, see [`super::ops`] |
//!
//! The tag and the seed make a frame recognizable wherever it is in its segment, and nowhere
//! else: not among zeros, nor in what a disk block held before, nor in a value someone committed.
//! The repeated checksum ties each frame to the one before.

use super::{u32_at, u64_at};
use crate::Revision;

/// Bytes before a frame's body.
pub(crate) const HEADER_LEN: usize = 24;

const CRC_AT: usize = 20;

/// What makes the frames of one segment its own.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Seal {
    tag: u32,
    seed: u32,
}

/// The fixed part of a frame.
#[derive(Clone, Debug)]
pub(crate) struct FrameHeader {
    pub(crate) body_len: usize,
    pub(crate) first: Revision,
    pub(crate) chain: u32,
    pub(crate) crc: u32,
    /// Checksum of the fixed part, to go on with over the body.
    begun: crc32fast::Hasher,
}

/// Empties `frame` and leaves room for the header; the body is appended by the caller.
pub(crate) fn begin(frame: &mut Vec<u8>) {
    frame.clear();
    frame.resize(HEADER_LEN, 0);
}

impl Seal {
    /// The seal of the segment with this random number.
    pub(crate) fn new(nonce: u64) -> Self {
        // Never 0, which is what unwritten parts of a file hold.
        Self {
            tag: nonce as u32 | 1,
            seed: (nonce >> 32) as u32,
        }
    }

    /// Fills in the header of `frame`, whose body is complete. Returns its checksum.
    pub(crate) fn finish(self, frame: &mut [u8], first: Revision, chain: u32) -> u32 {
        let body_len = (frame.len() - HEADER_LEN) as u32;
        frame[0..4].copy_from_slice(&self.tag.to_le_bytes());
        frame[4..8].copy_from_slice(&body_len.to_le_bytes());
        frame[8..16].copy_from_slice(&first.get().to_le_bytes());
        frame[16..20].copy_from_slice(&chain.to_le_bytes());
        let mut hasher = crc32fast::Hasher::new_with_initial(self.seed);
        hasher.update(&frame[..CRC_AT]);
        hasher.update(&frame[HEADER_LEN..]);
        let crc = hasher.finalize();
        frame[CRC_AT..HEADER_LEN].copy_from_slice(&crc.to_le_bytes());
        crc
    }

    /// Reads the fixed part of what may be a frame; `None` if it is surely not one.
    pub(crate) fn parse(self, bytes: &[u8; HEADER_LEN]) -> Option<FrameHeader> {
        if u32_at(bytes, 0) != self.tag {
            return None;
        }
        let mut begun = crc32fast::Hasher::new_with_initial(self.seed);
        begun.update(&bytes[..CRC_AT]);
        Some(FrameHeader {
            body_len: u32_at(bytes, 4) as usize,
            first: Revision::new(u64_at(bytes, 8)),
            chain: u32_at(bytes, 16),
            crc: u32_at(bytes, CRC_AT),
            begun,
        })
    }

    /// Offsets in `bytes` at which a frame's header may begin.
    pub(crate) fn candidates(self, bytes: &[u8]) -> impl Iterator<Item = usize> {
        let tag = self.tag.to_le_bytes();
        bytes
            .windows(tag.len())
            .enumerate()
            .filter(move |(_, window)| *window == tag)
            .map(|(at, _)| at)
    }
}

impl FrameHeader {
    /// Whether this frame is whole with this body.
    pub(crate) fn accepts(&self, body: &[u8]) -> bool {
        let mut hasher = self.begun.clone();
        hasher.update(body);
        body.len() == self.body_len && hasher.finalize() == self.crc
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    fn frame(seal: Seal, body: &[u8]) -> Vec<u8> {
        let mut frame = Vec::new();
        begin(&mut frame);
        frame.extend_from_slice(body);
        seal.finish(&mut frame, Revision::new(5), 77);
        frame
    }

    fn accepted(seal: Seal, frame: &[u8]) -> bool {
        let (fixed, body) = frame.split_first_chunk().unwrap();
        seal.parse(fixed).is_some_and(|header| header.accepts(body))
    }

    #[test]
    fn a_frame_is_read_as_it_was_written() {
        let seal = Seal::new(0x1234_5678_9abc_def0);
        let frame = frame(seal, b"body");
        let (fixed, body) = frame.split_first_chunk().unwrap();
        let header = seal.parse(fixed).unwrap();
        assert_eq!(
            (header.first, header.chain, header.body_len),
            (Revision::new(5), 77, 4)
        );
        assert!(header.accepts(body));
        assert!(!header.accepts(&body[1..]));
    }

    #[test]
    fn any_flipped_bit_is_noticed() {
        let seal = Seal::new(99);
        let good = frame(seal, b"the body of a frame");
        for bit in 0..good.len() * 8 {
            let mut bad = good.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            assert!(!accepted(seal, &bad), "bit {bit}");
        }
    }

    #[test]
    fn another_segments_frame_is_not_accepted() {
        let frame = frame(Seal::new(1 << 32 | 7), b"body");
        assert!(accepted(Seal::new(1 << 32 | 7), &frame));
        assert!(!accepted(Seal::new(2 << 32 | 7), &frame));
        assert!(!accepted(Seal::new(1 << 32 | 9), &frame));
    }

    #[test]
    fn zeros_are_never_a_frame() {
        assert!(!accepted(Seal::new(0), &[0; 64]));
        assert_eq!(Seal::new(0).candidates(&[0; 64]).count(), 0);
    }
}
