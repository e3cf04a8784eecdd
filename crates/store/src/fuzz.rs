//! The readers of the store's files, alone: for fuzzing, and for nothing else.

use crate::Revision;
use crate::format::frame::{self, Seal};
use crate::format::header::{Header, Kind};
use crate::format::{names, ops};

/// Reads the body of a frame.
pub fn body(bytes: &[u8]) {
    let _ = ops::read(bytes, Revision::ZERO.next(), |_| {});
}

/// The body of a frame with one transaction: writes of values, and deletions.
pub fn transaction(operations: &[(&str, Option<&[u8]>)]) -> Vec<u8> {
    let mut body = Vec::new();
    let mut writer = ops::OpWriter::new(&mut body);
    for (key, value) in operations {
        writer.push(key, *value);
    }
    writer.finish();
    body
}

/// The name and the content of a log whose frames have these bodies and are otherwise as they should be.
pub fn log<'b>(bodies: impl IntoIterator<Item = &'b [u8]>) -> (String, Vec<u8>) {
    let mut first = Revision::ZERO.next();
    let header = Header::new(0, first, 0);
    let name = names::segment(first);
    let seal = Seal::new(header.nonce);
    let mut chain = header.crc(Kind::Segment);
    let mut bytes = header.encode(Kind::Segment).to_vec();
    for body in bodies {
        let mut frame = Vec::new();
        frame::begin(&mut frame);
        frame.extend_from_slice(body);
        chain = seal.finish(&mut frame, first, chain);
        bytes.extend_from_slice(&frame);
        first = ops::read(body, first, |_| {}).unwrap_or(first).next();
    }
    (name, bytes)
}
