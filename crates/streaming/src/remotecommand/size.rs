//! The sizes of the client's terminal, as it changes: JSON documents one after another on a stream.

use serde::Deserialize;
use tokio::io::AsyncReadExt;

use crate::inbox::Input;

/// How long a document may be; clients send `{"Width":80,"Height":24}`.
const MAX_DOCUMENT: usize = 4096;

/// A size of a terminal, in characters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TerminalSize {
    /// Its width.
    pub columns: u16,
    /// Its height.
    pub rows: u16,
}

/// What clients send; by upper or lower case, as Go reads it.
#[derive(Deserialize)]
struct Document {
    #[serde(rename = "Width", alias = "width", default)]
    width: u16,
    #[serde(rename = "Height", alias = "height", default)]
    height: u16,
}

/// The sizes that the client's terminal takes on. To be read or dropped, as [`Input`].
#[derive(Debug)]
pub struct Sizes {
    input: Input,
    unread: Vec<u8>,
}

impl Sizes {
    pub(crate) fn new(input: Input) -> Self {
        Self {
            input,
            unread: Vec::new(),
        }
    }

    /// The next size; `None` when there will be no more. Cancelled, it may be called again.
    pub async fn next(&mut self) -> Option<TerminalSize> {
        loop {
            match take(&mut self.unread) {
                Taken::Size(size) => return Some(size),
                Taken::Wrong => return None,
                Taken::Incomplete => {}
            }
            if self.input.read_buf(&mut self.unread).await.unwrap_or(0) == 0 {
                return None;
            }
        }
    }
}

/// Reads all sizes in some bytes, until one is wrong or incomplete.
pub(crate) fn read_all(bytes: &[u8]) {
    let mut unread = bytes.to_vec();
    while let Taken::Size(_) = take(&mut unread) {}
}

#[derive(Debug, PartialEq, Eq)]
enum Taken {
    Size(TerminalSize),
    Incomplete,
    Wrong,
}

/// Takes the first document out of `unread`.
fn take(unread: &mut Vec<u8>) -> Taken {
    let mut documents = serde_json::Deserializer::from_slice(unread).into_iter::<Document>();
    match documents.next() {
        Some(Ok(Document { width, height })) => {
            let length = documents.byte_offset();
            unread.drain(..length);
            Taken::Size(TerminalSize {
                columns: width,
                rows: height,
            })
        }
        Some(Err(error)) if !error.is_eof() => Taken::Wrong,
        _ if unread.len() > MAX_DOCUMENT => Taken::Wrong,
        _ => Taken::Incomplete,
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::sync::Arc;

    use super::*;
    use crate::inbox::Inbox;

    fn size(columns: u16, rows: u16) -> Taken {
        Taken::Size(TerminalSize { columns, rows })
    }

    #[test]
    fn documents_are_taken_one_by_one() {
        let check = |text: &str, expected: &[Taken]| {
            let mut unread = text.as_bytes().to_vec();
            for expected in expected {
                assert_eq!(&take(&mut unread), expected, "{text}");
            }
        };
        check("", &[Taken::Incomplete]);
        check(
            "{\"Width\":80,\"Height\":24}\n",
            &[size(80, 24), Taken::Incomplete],
        );
        check(
            "{\"Width\":80,\"Height\":24}{\"Width\":1,\"Height\":2}",
            &[size(80, 24), size(1, 2)],
        );
        check("{\"width\":80,\"height\":24}", &[size(80, 24)]);
        check("{}", &[size(0, 0)]);
        check("{\"Width\":80,\"Hei", &[Taken::Incomplete]);
        check("{\"Width\":65536}", &[Taken::Wrong]);
        check("hello", &[Taken::Wrong]);
        check(&" ".repeat(MAX_DOCUMENT + 1), &[Taken::Wrong]);
    }

    #[tokio::test]
    async fn sizes_are_read_however_they_are_cut() {
        let inbox = Arc::new(Inbox::default());
        let mut sizes = Sizes::new(Input::new(Arc::clone(&inbox)));
        let reading =
            tokio::spawn(async move { (sizes.next().await, sizes.next().await, sizes.next().await) });
        for piece in [
            "{\"Width\":8",
            "0,\"Height\":24}{\"Wid",
            "th\":100,\"Height\":30}",
        ] {
            inbox.feed(piece.into()).await;
            tokio::task::yield_now().await;
        }
        inbox.end();
        let (first, second, third) = reading.await.unwrap();
        assert_eq!(
            first,
            Some(TerminalSize {
                columns: 80,
                rows: 24
            })
        );
        assert_eq!(
            second,
            Some(TerminalSize {
                columns: 100,
                rows: 30
            })
        );
        assert_eq!(third, None);
    }
}
