//! Checkpoints: all entries as of one revision, in a file, so that the log before can go.
//!
//! After the header come blocks: length of the body (4 bytes), CRC-32 of the body seeded with the
//! checksum before it (4 bytes; the header's for the first), body. A body is entries in the order
//! of their keys: key, create revision, mod revision, value; strings with their length in front,
//! integers as varints. The header gives the number of entries, and the file ends with the last.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use bytes::Bytes;

use crate::Revision;
use crate::disk::{Disk, File, Reader};
use crate::draft::Head;
use crate::entry::{Entry, Map, Value, stored_bytes};
use crate::format::header::{self, Header, Kind};
use crate::format::{Flaw, names, varint};

/// Bytes of entries gathered into a block.
const BLOCK: usize = 256 << 10;
/// Bytes of a block's length and checksum.
const BLOCK_HEADER: usize = 8;

/// Whether a checkpoint was written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// It is there, and durable.
    Written,
    /// It was called off; nothing is left of it.
    Cancelled,
}

/// Writes the checkpoint of `map` at `revision`, under a provisional name until it is complete.
/// `chain` is the checksum of the log's last frame up to `revision`.
pub(crate) fn write<V: Value>(
    disk: &dyn Disk,
    map: &Map<V>,
    revision: Revision,
    chain: u32,
    cancel: &AtomicBool,
) -> io::Result<Outcome> {
    let name = names::checkpoint(revision);
    let unfinished = format!("{name}{}", names::UNFINISHED);
    let outcome = disk.create(&unfinished).and_then(|file| {
        let header = Header::new(chain, revision, map.len() as u64);
        match write_to(&*file, header, map, cancel)? {
            Outcome::Cancelled => return Ok(Outcome::Cancelled),
            Outcome::Written => {}
        }
        disk.rename(&unfinished, &name)?;
        disk.sync()?;
        Ok(Outcome::Written)
    });
    if !matches!(outcome, Ok(Outcome::Written)) {
        // What stays behind is removed when the store is opened again.
        let _ = disk.remove(&unfinished);
    }
    outcome
}

fn write_to<V: Value>(
    file: &dyn File,
    header: Header,
    map: &Map<V>,
    cancel: &AtomicBool,
) -> io::Result<Outcome> {
    file.write_at(0, &header.encode(Kind::Checkpoint))?;
    let mut blocks = BlockWriter {
        file,
        offset: header::LEN as u64,
        chain: header.crc(Kind::Checkpoint),
        block: vec![0; BLOCK_HEADER],
    };
    let mut value = Vec::new();
    for (key, entry) in map {
        value.clear();
        entry.value.encode(&mut value);
        blocks.push(key, entry, &value);
        if blocks.block.len() >= BLOCK {
            if cancel.load(Ordering::Relaxed) {
                return Ok(Outcome::Cancelled);
            }
            blocks.flush()?;
        }
    }
    blocks.flush()?;
    file.sync()?;
    Ok(Outcome::Written)
}

struct BlockWriter<'a> {
    file: &'a dyn File,
    offset: u64,
    chain: u32,
    block: Vec<u8>,
}

impl BlockWriter<'_> {
    fn push<V>(&mut self, key: &str, entry: &Entry<V>, value: &[u8]) {
        let out = &mut self.block;
        varint::write(out, key.len() as u64);
        out.extend_from_slice(key.as_bytes());
        varint::write(out, entry.create_revision.get());
        varint::write(out, entry.mod_revision.get());
        varint::write(out, value.len() as u64);
        out.extend_from_slice(value);
    }

    fn flush(&mut self) -> io::Result<()> {
        let body_len = self.block.len() - BLOCK_HEADER;
        if body_len == 0 {
            return Ok(());
        }
        self.chain = checksum(self.chain, &self.block[BLOCK_HEADER..]);
        self.block[0..4].copy_from_slice(&(body_len as u32).to_le_bytes());
        self.block[4..8].copy_from_slice(&self.chain.to_le_bytes());
        self.file.write_at(self.offset, &self.block)?;
        self.offset += self.block.len() as u64;
        self.block.truncate(BLOCK_HEADER);
        Ok(())
    }
}

/// Why a checkpoint could not be read.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ReadError {
    #[error("{what} at byte {offset}")]
    Damaged { offset: u64, what: Flaw },
    #[error(transparent)]
    Io(#[from] io::Error),
}

/// Reads the entries of a checkpoint of `len` bytes whose header has been read already.
pub(crate) fn read<V: Value>(file: Box<dyn File>, len: u64, header: &Header) -> Result<Head<V>, ReadError> {
    let mut head = Head {
        revision: header.revision,
        ..Head::empty()
    };
    let mut reader = Reader::new(file);
    let mut chain = header.crc(Kind::Checkpoint);
    let mut offset = header::LEN as u64;
    while offset < len {
        let damaged = |what| ReadError::Damaged { offset, what };
        let Some(&[a, b, c, d, crc @ ..]) = reader.bytes(offset, BLOCK_HEADER)?.first_chunk::<8>() else {
            return Err(damaged("a block is cut off"));
        };
        let start = offset + BLOCK_HEADER as u64;
        let body_len = u32::from_le_bytes([a, b, c, d]);
        let end = start + u64::from(body_len);
        if end > len {
            return Err(damaged("a block is cut off"));
        }
        let body = reader.bytes(start, body_len as usize)?;
        chain = checksum(chain, body);
        if chain.to_le_bytes() != crc {
            return Err(damaged("a block's checksum is wrong"));
        }
        read_block(body, &mut head).map_err(damaged)?;
        offset = end;
    }
    if head.map.len() as u64 != header.count {
        return Err(ReadError::Damaged {
            offset,
            what: "the number of entries is wrong",
        });
    }
    Ok(head)
}

fn read_block<V: Value>(mut body: &[u8], head: &mut Head<V>) -> Result<(), Flaw> {
    while !body.is_empty() {
        let key = varint::read_str(&mut body)?;
        let create_revision = Revision::new(varint::read(&mut body)?);
        let mod_revision = Revision::new(varint::read(&mut body)?);
        let value = Bytes::copy_from_slice(varint::read_bytes(&mut body)?);
        let size = u32::try_from(value.len()).unwrap_or(u32::MAX);
        let value = V::decode(key, &value, mod_revision);
        let entry = Entry {
            value,
            create_revision,
            mod_revision,
            size,
        };
        head.live_bytes += stored_bytes(key, &entry);
        head.map.insert(Arc::from(key), entry);
    }
    Ok(())
}

fn checksum(chain: u32, body: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new_with_initial(chain);
    hasher.update(body);
    hasher.finalize()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use proptest::prelude::*;

    use super::*;
    use crate::disk::read_full;
    use crate::disk::sim::{Image, SimDisk};

    const REVISION: Revision = Revision::new(500);

    fn map(entries: usize) -> Map<Bytes> {
        let mut map = Map::new();
        for number in 0..entries {
            let value = Bytes::from(vec![number as u8; 1000 + number]);
            let revision = Revision::new(number as u64 + 1);
            crate::Event::apply(&mut map, revision, &format!("/a/{number}"), Some(&value)).unwrap();
        }
        map
    }

    fn written(map: &Map<Bytes>) -> SimDisk {
        let disk = SimDisk::new(Image::new());
        let outcome = write(&disk, map, REVISION, 7, &AtomicBool::new(false)).unwrap();
        assert_eq!(outcome, Outcome::Written);
        disk
    }

    fn read_back(image: Image) -> Result<Head<Bytes>, ReadError> {
        let disk = SimDisk::new(image);
        let (name, len) = disk.list().unwrap().remove(0);
        let mut bytes = [0; header::LEN];
        read_full(&*disk.open(&name).unwrap(), 0, &mut bytes).unwrap();
        let header = Header::decode(Kind::Checkpoint, &bytes).unwrap();
        assert_eq!((header.chain, header.revision), (7, REVISION));
        read(disk.open(&name).unwrap(), len, &header)
    }

    #[test]
    fn what_is_written_is_read() {
        for entries in [0, 1, 600] {
            let map = map(entries);
            let head = read_back(written(&map).image()).unwrap();
            assert_eq!((head.revision, head.map.len()), (REVISION, entries));
            for (key, entry) in &map {
                let read = &head.map[key];
                assert_eq!((&read.value, read.size), (&entry.value, entry.size));
                assert_eq!(read.create_revision, entry.create_revision);
                assert_eq!(read.mod_revision, entry.mod_revision);
            }
            let live: u64 = map.iter().map(|(key, entry)| stored_bytes(key, entry)).sum();
            assert_eq!(head.live_bytes, live);
        }
    }

    #[test]
    fn blocks_that_are_damaged_cut_off_or_missing_are_noticed() {
        let original = written(&map(600)).image();
        let (name, bytes) = original.first_key_value().unwrap();
        let body_len = u32::from_le_bytes(bytes[header::LEN..header::LEN + 4].try_into().unwrap());
        let second_block = header::LEN + BLOCK_HEADER + body_len as usize;
        let mut damaged = bytes.clone();
        damaged[second_block + 1000] ^= 1;
        let mut without_first = bytes.clone();
        without_first.drain(header::LEN..second_block);
        for bad in [
            damaged,
            bytes[..bytes.len() - 1].to_vec(),
            bytes[..second_block].to_vec(),
            without_first,
        ] {
            assert!(matches!(
                read_back(Image::from([(name.clone(), bad)])),
                Err(ReadError::Damaged { .. })
            ));
        }
    }

    #[test]
    fn a_checkpoint_that_is_called_off_leaves_nothing() {
        let disk = SimDisk::new(Image::new());
        let outcome = write(&disk, &map(600), REVISION, 7, &AtomicBool::new(true)).unwrap();
        assert_eq!(outcome, Outcome::Cancelled);
        assert!(disk.image().is_empty());
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_or_refused(bytes: Vec<u8>) {
            let _ = read_block::<Bytes>(&bytes, &mut Head::empty());
        }
    }
}
