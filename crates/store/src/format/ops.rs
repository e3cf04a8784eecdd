//! The body of a frame: operations, one after another.
//!
//! An operation is a byte of flags (1: it writes a value, else it deletes; 2: the last of its
//! transaction), the length of the key, the key, and for a write the length of the value and the
//! value. The transactions of a frame have consecutive revisions.

use super::{Flaw, varint};
use crate::Revision;

const PUT: u8 = 1;
const LAST: u8 = 2;

/// Appends the operations of one transaction to a frame.
pub(crate) struct OpWriter<'a> {
    out: &'a mut Vec<u8>,
    /// Where the flags of the operation written last are.
    last: Option<usize>,
}

impl<'a> OpWriter<'a> {
    pub(crate) fn new(out: &'a mut Vec<u8>) -> Self {
        Self { out, last: None }
    }

    /// Appends a write (`Some` value) or a deletion.
    pub(crate) fn push(&mut self, key: &str, value: Option<&[u8]>) {
        self.last = Some(self.out.len());
        self.out.push(if value.is_some() { PUT } else { 0 });
        varint::write(self.out, key.len() as u64);
        self.out.extend_from_slice(key.as_bytes());
        if let Some(value) = value {
            varint::write(self.out, value.len() as u64);
            self.out.extend_from_slice(value);
        }
    }

    /// Ends the transaction.
    pub(crate) fn finish(self) {
        if let Some(at) = self.last {
            self.out[at] |= LAST;
        }
    }
}

/// An operation as read from a frame.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct StoredOp<'a> {
    pub(crate) revision: Revision,
    pub(crate) key: &'a str,
    /// `None`: the key is deleted.
    pub(crate) value: Option<&'a [u8]>,
}

/// Calls `each` with the operations in a frame's body, the first of which has revision `first`.
/// Returns the revision of the last.
pub(crate) fn read(
    mut body: &[u8],
    first: Revision,
    mut each: impl FnMut(StoredOp<'_>),
) -> Result<Revision, Flaw> {
    let mut revision = first;
    loop {
        let (&flags, rest) = body.split_first().ok_or("a transaction is cut off")?;
        if flags & !(PUT | LAST) != 0 {
            return Err("an unknown operation");
        }
        body = rest;
        let key = varint::read_str(&mut body)?;
        let value = if flags & PUT != 0 {
            Some(varint::read_bytes(&mut body)?)
        } else {
            None
        };
        each(StoredOp { revision, key, value });
        if flags & LAST != 0 {
            if body.is_empty() {
                return Ok(revision);
            }
            revision = revision.next();
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn transactions_are_read_as_they_were_written() {
        let mut body = Vec::new();
        let mut first = OpWriter::new(&mut body);
        first.push("/a", Some(b"1"));
        first.push("/b", None);
        first.finish();
        OpWriter::new(&mut body).finish();
        let mut second = OpWriter::new(&mut body);
        second.push("/c", Some(b""));
        second.finish();

        let mut seen = Vec::new();
        let last = read(&body, Revision::new(5), |op| {
            seen.push((op.revision.get(), op.key.to_owned(), op.value.map(<[u8]>::to_vec)));
        });
        assert_eq!(last, Ok(Revision::new(6)));
        assert_eq!(
            seen,
            [
                (5, "/a".to_owned(), Some(b"1".to_vec())),
                (5, "/b".to_owned(), None),
                (6, "/c".to_owned(), Some(Vec::new())),
            ]
        );
        for len in 0..body.len() {
            let whole_first = len == body.len() - 5;
            assert_eq!(
                read(&body[..len], Revision::new(5), |_| {}).is_ok(),
                whole_first,
                "{len}"
            );
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_or_refused(bytes: Vec<u8>) {
            let _ = read(&bytes, Revision::new(1), |_| {});
        }
    }
}
