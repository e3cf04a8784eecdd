//! Integers in as few bytes as they need: seven bits a byte, lowest first, the top bit set on all
//! but the last.

use super::Flaw;

/// Appends `value` to `out`.
pub(crate) fn write(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

/// Takes an integer off the front of `input`.
pub(crate) fn read(input: &mut &[u8]) -> Result<u64, Flaw> {
    let mut value = 0;
    for shift in (0..64).step_by(7) {
        let (&byte, rest) = input.split_first().ok_or("a number is cut off")?;
        *input = rest;
        if shift == 63 && byte > 1 {
            break;
        }
        value |= u64::from(byte & 0x7f) << shift;
        if byte < 0x80 {
            return Ok(value);
        }
    }
    Err("a number is too large")
}

/// Takes a length, then as many bytes, off the front of `input`.
pub(crate) fn read_bytes<'a>(input: &mut &'a [u8]) -> Result<&'a [u8], Flaw> {
    let len = usize::try_from(read(input)?).map_err(|_| "a length is too large")?;
    let (bytes, rest) = input.split_at_checked(len).ok_or("a string is cut off")?;
    *input = rest;
    Ok(bytes)
}

/// Takes a length, then as many bytes of UTF-8, off the front of `input`.
pub(crate) fn read_str<'a>(input: &mut &'a [u8]) -> Result<&'a str, Flaw> {
    std::str::from_utf8(read_bytes(input)?).map_err(|_| "a key is not UTF-8")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn what_is_written_is_read(value: u64, rest: Vec<u8>) {
            let mut out = Vec::new();
            write(&mut out, value);
            out.extend_from_slice(&rest);
            let mut input = out.as_slice();
            prop_assert_eq!(read(&mut input), Ok(value));
            prop_assert_eq!(input, rest.as_slice());
        }

        #[test]
        fn any_bytes_are_read_or_refused(bytes: Vec<u8>) {
            let _ = read_str(&mut bytes.as_slice());
        }
    }

    #[test]
    fn a_number_of_more_than_64_bits_is_refused() {
        let mut bytes = [0xff; 10];
        bytes[9] = 2;
        assert!(read(&mut &bytes[..]).is_err());
        bytes[9] = 1;
        assert_eq!(read(&mut &bytes[..]), Ok(u64::MAX));
    }
}
