//! Header blocks: names and values, deflated in one stream per direction.
//!
//! What the client sends is inflated as it comes: every block, also of frames that mean nothing here, because
//! each continues the stream of those before it. After an error the stream is lost, and with it the
//! connection. What this side sends never has a header in it, so its deflated form is constant, and no
//! compressor (a quarter of a megabyte for each connection) is needed.

use flate2::{Decompress, FlushDecompress, Status};

use super::dictionary::{ADLER32, dictionary};

/// How many bytes a block may have when inflated. Clients send some tens.
pub(super) const MAX_BLOCK: usize = 64 * 1024;

/// Inflated a piece at a time, so that a hostile block costs no more than it contains.
const PIECE: usize = 1024;

/// A block that cannot be understood.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub(crate) enum HeaderError {
    #[error("inflate a header block: it is not a deflate stream with the dictionary of SPDY/3")]
    Inflate,
    #[error("inflate a header block: it has more than {MAX_BLOCK} bytes")]
    TooLarge,
    #[error("read a header block: it ends within a name or a value")]
    Truncated,
}

/// The headers of one frame.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Headers(Vec<(String, String)>);

impl Headers {
    /// The value of a header; the first, if there are several. `name` is in lower case.
    pub(crate) fn get(&self, name: &str) -> Option<&str> {
        let (_, value) = self.0.iter().find(|(candidate, _)| candidate == name)?;
        value.split('\0').next()
    }
}

/// The inflating end of the client's stream of blocks.
pub(super) struct Inflater(Decompress);

impl Inflater {
    pub(super) fn new() -> Self {
        Self(Decompress::new(true))
    }

    /// Inflates the next block and takes it apart.
    pub(super) fn read(&mut self, block: &[u8]) -> Result<Headers, HeaderError> {
        parse(&self.inflate(block)?)
    }

    fn inflate(&mut self, block: &[u8]) -> Result<Vec<u8>, HeaderError> {
        let start = self.0.total_in();
        let mut inflated = Vec::new();
        loop {
            let rest = &block[(self.0.total_in() - start) as usize..];
            inflated.reserve(PIECE);
            let before = (self.0.total_in(), self.0.total_out());
            match self.0.decompress_vec(rest, &mut inflated, FlushDecompress::Sync) {
                Ok(Status::Ok | Status::BufError) => {}
                Ok(Status::StreamEnd) => return Err(HeaderError::Inflate),
                Err(error) => {
                    self.give_dictionary(error.needs_dictionary())?;
                    continue;
                }
            }
            if inflated.len() > MAX_BLOCK {
                return Err(HeaderError::TooLarge);
            }
            if inflated.len() < inflated.capacity() && before == (self.0.total_in(), self.0.total_out()) {
                return Ok(inflated);
            }
        }
    }

    fn give_dictionary(&mut self, needed: Option<u32>) -> Result<(), HeaderError> {
        if needed != Some(ADLER32) {
            return Err(HeaderError::Inflate);
        }
        self.0
            .set_dictionary(&dictionary())
            .map(|_| ())
            .map_err(|_| HeaderError::Inflate)
    }
}

/// Takes an inflated block apart: a count, then so many names and values, each with its length before it.
pub(crate) fn parse(mut block: &[u8]) -> Result<Headers, HeaderError> {
    let count = take_number(&mut block)?;
    let mut headers = Vec::new();
    for _ in 0..count {
        let name = take_text(&mut block)?.to_ascii_lowercase();
        headers.push((name, take_text(&mut block)?));
    }
    Ok(Headers(headers))
}

fn take_number(block: &mut &[u8]) -> Result<u32, HeaderError> {
    let (number, rest) = block.split_first_chunk().ok_or(HeaderError::Truncated)?;
    *block = rest;
    Ok(u32::from_be_bytes(*number))
}

fn take_text(block: &mut &[u8]) -> Result<String, HeaderError> {
    let length = take_number(block)? as usize;
    let (text, rest) = block.split_at_checked(length).ok_or(HeaderError::Truncated)?;
    *block = rest;
    Ok(String::from_utf8_lossy(text).into_owned())
}

/// A block without headers, deflated: stored as it is, then an empty piece that makes every inflater give out
/// what it holds.
pub(super) const EMPTY_BLOCK: &[u8] = &[0, 4, 0, 0xfb, 0xff, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff];

/// What comes before a direction's first block: method and window, "dictionary follows", which dictionary.
pub(super) const STREAM_START: &[u8] = &{
    let [a, b, c, d] = ADLER32.to_be_bytes();
    [0x78, 0x20, a, b, c, d]
};

/// The deflating end, as a client has it.
#[cfg(test)]
pub(super) mod deflate {
    #![allow(clippy::unwrap_used)]

    use super::*;

    pub(crate) struct Deflater(flate2::Compress);

    impl Deflater {
        pub(crate) fn new() -> Self {
            let mut compress = flate2::Compress::new(flate2::Compression::best(), true);
            compress.set_dictionary(&dictionary()).unwrap();
            Self(compress)
        }

        pub(crate) fn block(&mut self, headers: &[(&str, &str)]) -> Vec<u8> {
            let mut plain = (headers.len() as u32).to_be_bytes().to_vec();
            for text in headers.iter().flat_map(|(name, value)| [name, value]) {
                plain.extend_from_slice(&(text.len() as u32).to_be_bytes());
                plain.extend_from_slice(text.as_bytes());
            }
            self.raw(&plain)
        }

        pub(crate) fn raw(&mut self, plain: &[u8]) -> Vec<u8> {
            let mut block = Vec::with_capacity(plain.len() + 256);
            self.0
                .compress_vec(plain, &mut block, flate2::FlushCompress::Sync)
                .unwrap();
            block
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::deflate::Deflater;
    use super::*;

    #[test]
    fn blocks_of_one_direction_share_a_stream() {
        let (mut deflater, mut inflater) = (Deflater::new(), Inflater::new());
        for id in ["0", "1", "2"] {
            let block = deflater.block(&[("streamtype", "error"), ("Port", "80"), ("requestid", id)]);
            let headers = inflater.read(&block).unwrap();
            assert_eq!(headers.get("streamtype"), Some("error"));
            assert_eq!(headers.get("port"), Some("80"), "names are in lower case");
            assert_eq!(headers.get("requestid"), Some(id));
            assert_eq!(headers.get("other"), None);
        }
    }

    #[test]
    fn of_several_values_the_first_counts() {
        let block = Deflater::new().block(&[("port", "80\x0081")]);
        assert_eq!(Inflater::new().read(&block).unwrap().get("port"), Some("80"));
    }

    #[test]
    fn our_empty_blocks_are_a_stream_that_others_can_inflate() {
        let mut inflater = Inflater::new();
        let first = [STREAM_START, EMPTY_BLOCK].concat();
        assert_eq!(inflater.read(&first), Ok(Headers::default()));
        assert_eq!(inflater.read(EMPTY_BLOCK), Ok(Headers::default()));
    }

    #[test]
    fn a_block_that_inflates_to_too_much_is_refused() {
        let bomb = Deflater::new().raw(&vec![0; 10 << 20]);
        assert!(bomb.len() < MAX_BLOCK);
        assert_eq!(Inflater::new().read(&bomb), Err(HeaderError::TooLarge));
    }

    #[test]
    fn a_block_with_lengths_beyond_its_end_is_refused() {
        let count_only = 1u32.to_be_bytes();
        let long_name = [1u32.to_be_bytes(), u32::MAX.to_be_bytes()].concat();
        let many = u32::MAX.to_be_bytes();
        for plain in [&count_only[..], &long_name, &many, &[0, 0]] {
            let block = Deflater::new().raw(plain);
            assert_eq!(Inflater::new().read(&block), Err(HeaderError::Truncated));
        }
    }

    #[test]
    fn what_is_no_deflate_stream_is_refused() {
        assert_eq!(
            Inflater::new().read(b"GET / HTTP/1.1\r\n\r\n"),
            Err(HeaderError::Inflate)
        );
        let other_dictionary = [0x78, 0x20, 1, 2, 3, 4];
        assert_eq!(Inflater::new().read(&other_dictionary), Err(HeaderError::Inflate));
    }
}
