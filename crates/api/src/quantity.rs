//! Quantities: `resource.Quantity` of the API, parsed, compared, added and written canonically.
//!
//! Follows "Quantity" in the Kubernetes API reference: fixed point with a binary (`Ki`), decimal
//! (`k`, `m`) or exponent (`e3`) suffix; the canonical form has the largest suffix that leaves no
//! fraction. Precision is a billionth; finer values are rounded up, larger ones are capped.

use std::fmt;
use std::str::FromStr;

const NANO: i128 = 1_000_000_000;
/// The largest magnitude, 2^63 - 1 units.
const MAX: i128 = i64::MAX as i128 * NANO;

/// An amount of a resource.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Quantity {
    nanos: i128,
    format: Format,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Format {
    Decimal,
    Binary,
    Exponent,
}

/// Why a text is no quantity; the messages are Kubernetes'.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ParseQuantityError {
    /// Not a number with a suffix.
    #[error("{}", Quantity::FORMAT_ERROR)]
    Format,
    /// The suffix is none of the known ones.
    #[error("unable to parse quantity's suffix")]
    Suffix,
}

const DECIMAL: [(&str, i32); 10] = [
    ("n", -9),
    ("u", -6),
    ("m", -3),
    ("", 0),
    ("k", 3),
    ("M", 6),
    ("G", 9),
    ("T", 12),
    ("P", 15),
    ("E", 18),
];
const BINARY: [&str; 7] = ["", "Ki", "Mi", "Gi", "Ti", "Pi", "Ei"];

impl Quantity {
    /// What Kubernetes says of a text that is no quantity at all.
    pub const FORMAT_ERROR: &'static str =
        "quantities must match the regular expression '^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$'";

    /// Nothing.
    pub const ZERO: Quantity = Quantity {
        nanos: 0,
        format: Format::Decimal,
    };

    /// A whole number of units.
    pub fn units(units: i64) -> Quantity {
        Quantity {
            nanos: i128::from(units) * NANO,
            format: Format::Decimal,
        }
    }

    /// A number of thousandths.
    pub fn thousandths(thousandths: i64) -> Quantity {
        Quantity {
            nanos: i128::from(thousandths) * (NANO / 1000),
            format: Format::Decimal,
        }
    }

    /// A number of bytes, written with binary suffixes.
    pub fn bytes(bytes: i64) -> Quantity {
        Quantity {
            nanos: i128::from(bytes) * NANO,
            format: Format::Binary,
        }
    }

    /// Whole units, rounded up.
    pub fn value(self) -> i64 {
        div_ceil(self.nanos, NANO) as i64
    }

    /// Thousandths, rounded up; capped at the range of `i64`.
    pub fn milli(self) -> i64 {
        div_ceil(self.nanos, NANO / 1000).clamp(i64::MIN.into(), i64::MAX.into()) as i64
    }

    /// Below zero?
    pub fn is_negative(self) -> bool {
        self.nanos < 0
    }

    /// Nothing?
    pub fn is_zero(self) -> bool {
        self.nanos == 0
    }

    /// More than another amount, however both are written?
    pub fn exceeds(self, other: Quantity) -> bool {
        self.nanos > other.nanos
    }

    /// Has a part finer than a unit?
    pub fn is_fractional(self) -> bool {
        self.nanos % NANO != 0
    }
}

impl std::ops::Add for Quantity {
    type Output = Quantity;

    /// The sum, in the format of the left side (of the right one if the left is zero).
    fn add(self, other: Quantity) -> Quantity {
        let format = if self.nanos == 0 {
            other.format
        } else {
            self.format
        };
        Quantity {
            nanos: (self.nanos + other.nanos).clamp(-MAX, MAX),
            format,
        }
    }
}

impl std::ops::Sub for Quantity {
    type Output = Quantity;

    fn sub(self, other: Quantity) -> Quantity {
        self + Quantity {
            nanos: -other.nanos,
            ..other
        }
    }
}

impl PartialOrd for Quantity {
    fn partial_cmp(&self, other: &Quantity) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Quantity {
    /// By amount, then by format so that it agrees with equality.
    fn cmp(&self, other: &Quantity) -> std::cmp::Ordering {
        self.nanos
            .cmp(&other.nanos)
            .then((self.format as u8).cmp(&(other.format as u8)))
    }
}

impl FromStr for Quantity {
    type Err = ParseQuantityError;

    fn from_str(text: &str) -> Result<Quantity, ParseQuantityError> {
        let (negative, rest) = match text.as_bytes().first() {
            Some(b'-') => (true, &text[1..]),
            Some(b'+') => (false, &text[1..]),
            _ => (false, text),
        };
        let end = rest
            .find(|c: char| !c.is_ascii_digit() && c != '.')
            .unwrap_or(rest.len());
        let (number, suffix) = rest.split_at(end);
        let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
        if (whole.is_empty() && fraction.is_empty()) || fraction.contains('.') {
            return Err(ParseQuantityError::Format);
        }
        let (format, base, power) = parse_suffix(suffix)?;
        let nanos = scale(whole, fraction, base, power);
        Ok(Quantity {
            nanos: if negative { -nanos } else { nanos },
            format,
        })
    }
}

fn parse_suffix(suffix: &str) -> Result<(Format, i128, i32), ParseQuantityError> {
    if let Some((_, power)) = DECIMAL.iter().find(|(name, _)| *name == suffix) {
        return Ok((Format::Decimal, 10, *power));
    }
    if let Some(power) = BINARY.iter().position(|name| *name == suffix) {
        return Ok((Format::Binary, 1024, power as i32));
    }
    let allowed = |c: char| "eEinumkKMGTP+-".contains(c) || c.is_ascii_digit();
    if !suffix.chars().all(allowed) {
        return Err(ParseQuantityError::Format);
    }
    let power = suffix
        .strip_prefix(['e', 'E'])
        .and_then(|digits| digits.parse::<i32>().ok());
    Ok((Format::Exponent, 10, power.ok_or(ParseQuantityError::Suffix)?))
}

/// `whole.fraction * base^power` in nanos, rounded up, capped at [`MAX`].
fn scale(whole: &str, fraction: &str, base: i128, power: i32) -> i128 {
    // Digits beyond these can only cap the value or round it up.
    let whole = whole.trim_start_matches('0');
    if whole.len() > 28 {
        return MAX;
    }
    let (kept, lost) = fraction.split_at(fraction.len().min(28 - whole.len().min(19)));
    let mut mantissa: i128 = 0;
    for digit in whole.bytes().chain(kept.bytes()) {
        mantissa = mantissa
            .saturating_mul(10)
            .saturating_add(i128::from(digit - b'0'));
    }
    let round_up = lost.bytes().any(|digit| digit != b'0');
    let mut decimal = 9 - kept.len() as i32;
    if base == 10 {
        decimal = decimal.saturating_add(power);
    } else {
        for _ in 0..power {
            mantissa = mantissa.saturating_mul(1024);
        }
    }
    let nanos = if mantissa == 0 {
        0
    } else if decimal >= 0 {
        (0..decimal.min(60)).fold(mantissa, |value, _| value.saturating_mul(10))
    } else if decimal < -38 {
        1
    } else {
        div_ceil(mantissa, 10i128.pow(decimal.unsigned_abs()))
    };
    nanos.saturating_add(i128::from(round_up && nanos == 0)).min(MAX)
}

fn div_ceil(value: i128, by: i128) -> i128 {
    value.div_euclid(by) + i128::from(value.rem_euclid(by) != 0)
}

impl fmt::Display for Quantity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let small = self.nanos.abs() < 1024 * NANO;
        match self.format {
            // What is not whole is written exactly rather than as it was given.
            Format::Binary if !small && !self.is_fractional() => {
                let mut units = self.nanos / NANO;
                let mut suffix = 0;
                while units % 1024 == 0 && suffix + 1 < BINARY.len() {
                    units /= 1024;
                    suffix += 1;
                }
                write!(f, "{units}{}", BINARY[suffix])
            }
            format => {
                if self.nanos == 0 {
                    return f.write_str("0");
                }
                let mut value = self.nanos;
                let mut at = 0;
                while value % 1000 == 0 && at + 1 < DECIMAL.len() {
                    value /= 1000;
                    at += 1;
                }
                let (suffix, power) = DECIMAL[at];
                match format {
                    Format::Exponent if power != 0 => write!(f, "{value}e{power}"),
                    Format::Exponent => write!(f, "{value}"),
                    _ => write!(f, "{value}{suffix}"),
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantities_are_written_canonically() {
        for (text, canonical) in [
            ("0", "0"),
            ("1500m", "1500m"),
            ("2", "2"),
            ("1.5Gi", "1536Mi"),
            ("2048Mi", "2Gi"),
            ("0.5", "500m"),
            ("1000", "1k"),
            ("1024", "1024"),
            ("1024Ki", "1Mi"),
            ("0.5Ki", "512"),
            ("1e3", "1e3"),
            ("1000e3", "1e6"),
            ("1E", "1E"),
            ("100M", "100M"),
            ("-5m", "-5m"),
            ("+5", "5"),
            (".5", "500m"),
            ("5.", "5"),
            ("0.0000000001", "1n"),
            ("1.0005Ki", "1024512m"),
            ("99999999999999999999", "9223372036854775807"),
            ("10Mi", "10Mi"),
            ("1n", "1n"),
        ] {
            assert_eq!(
                text.parse::<Quantity>().map(|q| q.to_string()).as_deref(),
                Ok(canonical),
                "{text}"
            );
        }
    }

    #[test]
    fn other_texts_are_refused_in_kubernetes_words() {
        for (text, error) in [
            ("lots", ParseQuantityError::Format),
            ("", ParseQuantityError::Format),
            ("1.2.3", ParseQuantityError::Format),
            ("5x", ParseQuantityError::Format),
            ("5 Gi", ParseQuantityError::Format),
            ("5Mii", ParseQuantityError::Suffix),
            ("5e", ParseQuantityError::Suffix),
            ("5K", ParseQuantityError::Suffix),
        ] {
            assert_eq!(text.parse::<Quantity>(), Err(error), "{text}");
        }
    }

    #[test]
    fn sums_keep_the_left_format() {
        let sum = |a: &str, b: &str| {
            (a.parse::<Quantity>().expect("left") + b.parse::<Quantity>().expect("right")).to_string()
        };
        assert_eq!(sum("1Gi", "1Gi"), "2Gi");
        assert_eq!(sum("0", "1Gi"), "1Gi");
        assert_eq!(sum("100m", "1"), "1100m");
    }

    #[test]
    fn parts_of_a_unit_round_up() {
        let quantity: Quantity = "1500m".parse().expect("a quantity");
        assert_eq!((quantity.value(), quantity.milli()), (2, 1500));
        let negative: Quantity = "-1500m".parse().expect("a quantity");
        assert_eq!(negative.value(), -1);
    }
}
