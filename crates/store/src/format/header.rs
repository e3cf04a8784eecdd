//! The header of a segment or a checkpoint.
//!
//! | offset | bytes | |
//! |---|---|---|
//! | 0 | 8 | magic, which names the kind of file |
//! | 8 | 4 | format version |
//! | 12 | 4 | checksum of the last frame before this file (0 at the beginning of the log) |
//! | 16 | 8 | a random number of this file |
//! | 24 | 8 | segment: its first revision; checkpoint: its revision |
//! | 32 | 8 | segment: 0; checkpoint: number of entries |
//! | 40 | 4 | CRC-32 of all before |
//!
//! Every version keeps the magic and the place of the version, and may change all else.

use std::hash::{BuildHasher, Hasher, RandomState};

use super::{Flaw, u32_at, u64_at};
use crate::Revision;

/// Bytes of a header.
pub(crate) const LEN: usize = 44;
/// The format written, and the newest that is read.
pub(crate) const VERSION: u32 = 1;

const CRC_AT: usize = 40;

/// What a file is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Segment,
    Checkpoint,
}

impl Kind {
    fn magic(self) -> &'static [u8; 8] {
        match self {
            Kind::Segment => b"steadlog",
            Kind::Checkpoint => b"steadchk",
        }
    }
}

/// What a header says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Header {
    pub(crate) chain: u32,
    pub(crate) nonce: u64,
    pub(crate) revision: Revision,
    pub(crate) count: u64,
}

/// Why a file's first bytes are not a header to go by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum HeaderFlaw {
    /// Something else's file.
    Foreign,
    /// A later version's file.
    Newer(u32),
    /// Ours, but broken.
    Damaged(Flaw),
}

impl Header {
    /// A header for a new file, with a random number of its own.
    pub(crate) fn new(chain: u32, revision: Revision, count: u64) -> Self {
        // The standard library's hasher is seeded by the operating system: random enough to tell
        // files apart and not to be guessed by those who write values.
        let nonce = RandomState::new().build_hasher().finish();
        Self {
            chain,
            nonce,
            revision,
            count,
        }
    }

    pub(crate) fn encode(&self, kind: Kind) -> [u8; LEN] {
        let mut out = [0; LEN];
        out[0..8].copy_from_slice(kind.magic());
        out[8..12].copy_from_slice(&VERSION.to_le_bytes());
        out[12..16].copy_from_slice(&self.chain.to_le_bytes());
        out[16..24].copy_from_slice(&self.nonce.to_le_bytes());
        out[24..32].copy_from_slice(&self.revision.get().to_le_bytes());
        out[32..40].copy_from_slice(&self.count.to_le_bytes());
        let crc = crc32fast::hash(&out[..CRC_AT]);
        out[CRC_AT..].copy_from_slice(&crc.to_le_bytes());
        out
    }

    /// Reads the first bytes of a file, fewer than [`LEN`] only if the file is shorter.
    pub(crate) fn decode(kind: Kind, bytes: &[u8]) -> Result<Self, HeaderFlaw> {
        if bytes.len() < 12 || &bytes[0..8] != kind.magic() {
            return Err(HeaderFlaw::Foreign);
        }
        match u32_at(bytes, 8) {
            VERSION => {}
            0 => return Err(HeaderFlaw::Damaged("the header has no version")),
            newer => return Err(HeaderFlaw::Newer(newer)),
        }
        if bytes.len() < LEN {
            return Err(HeaderFlaw::Damaged("the header is cut off"));
        }
        if crc32fast::hash(&bytes[..CRC_AT]) != u32_at(bytes, CRC_AT) {
            return Err(HeaderFlaw::Damaged("the header's checksum is wrong"));
        }
        Ok(Self {
            chain: u32_at(bytes, 12),
            nonce: u64_at(bytes, 16),
            revision: Revision::new(u64_at(bytes, 24)),
            count: u64_at(bytes, 32),
        })
    }

    /// The checksum the file's first frame or block follows on.
    pub(crate) fn crc(&self, kind: Kind) -> u32 {
        u32_at(&self.encode(kind), CRC_AT)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_header_is_read_as_it_was_written() {
        let header = Header::new(7, Revision::new(42), 3);
        let bytes = header.encode(Kind::Segment);
        assert_eq!(Header::decode(Kind::Segment, &bytes), Ok(header.clone()));
        assert_eq!(Header::decode(Kind::Checkpoint, &bytes), Err(HeaderFlaw::Foreign));
        assert_eq!(header.crc(Kind::Segment).to_le_bytes(), bytes[CRC_AT..]);
    }

    #[test]
    fn a_bad_header_is_told_from_a_foreign_or_newer_one() {
        let good = Header::new(0, Revision::new(1), 0).encode(Kind::Segment);
        let damaged = HeaderFlaw::Damaged("the header's checksum is wrong");
        for (at, byte, flaw) in [
            (0, b'S', HeaderFlaw::Foreign),
            (8, 2, HeaderFlaw::Newer(2)),
            (8, 0, HeaderFlaw::Damaged("the header has no version")),
            (20, !good[20], damaged),
            (43, !good[43], damaged),
        ] {
            let mut bytes = good;
            bytes[at] = byte;
            assert_eq!(Header::decode(Kind::Segment, &bytes), Err(flaw), "byte {at}");
        }
        assert_eq!(Header::decode(Kind::Segment, b"hello"), Err(HeaderFlaw::Foreign));
        let cut = HeaderFlaw::Damaged("the header is cut off");
        assert_eq!(Header::decode(Kind::Segment, &good[..30]), Err(cut));
    }

    #[test]
    fn each_file_has_a_number_of_its_own() {
        let nonce = || Header::new(0, Revision::ZERO, 0).nonce;
        assert_ne!(nonce(), nonce());
    }
}
