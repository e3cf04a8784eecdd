//! Reading archives as they come: plain, gzip or zstd, told apart by their first bytes and not by what
//! anyone says about them.

use std::io::{self, BufRead, Read};

const GZIP: &[u8] = &[0x1f, 0x8b];
const ZSTD: &[u8] = &[0x28, 0xb5, 0x2f, 0xfd];

/// The uncompressed contents of `input`.
pub(super) fn reader<'a>(mut input: impl BufRead + 'a) -> io::Result<Box<dyn Read + 'a>> {
    let start = input.fill_buf()?;
    if start.starts_with(GZIP) {
        Ok(Box::new(flate2::bufread::MultiGzDecoder::new(input)))
    } else if start.starts_with(ZSTD) {
        Ok(Box::new(zstd::stream::read::Decoder::with_buffer(input)?))
    } else {
        Ok(Box::new(input))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn compression_is_recognised_by_the_first_bytes() {
        let text = b"the contents".repeat(100);
        let gzip = {
            let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
            io::Write::write_all(&mut encoder, &text).unwrap();
            encoder.finish().unwrap()
        };
        let zstd = zstd::stream::encode_all(&text[..], 1).unwrap();
        for input in [&text, &gzip, &zstd] {
            let mut output = Vec::new();
            reader(&input[..]).unwrap().read_to_end(&mut output).unwrap();
            assert_eq!(output, text);
        }
        let mut nothing = Vec::new();
        reader(&b""[..]).unwrap().read_to_end(&mut nothing).unwrap();
        assert!(nothing.is_empty());
    }
}
