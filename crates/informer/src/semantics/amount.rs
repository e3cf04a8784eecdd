//! Amounts of resources: `resource.Quantity`, to be compared and added.

use std::iter::Sum;
use std::ops::{Add, AddAssign, Sub};

use k8s_openapi::apimachinery::pkg::api::resource::Quantity;

const NANO: i128 = 1_000_000_000;

/// An amount, exact to a billionth of a unit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Amount(i128);

impl Amount {
    /// Nothing.
    pub const ZERO: Amount = Amount(0);

    /// A whole number of units.
    pub fn units(units: i64) -> Amount {
        Amount(i128::from(units) * NANO)
    }

    /// What a quantity says; zero where it cannot be read.
    pub fn of(quantity: &Quantity) -> Amount {
        parse(&quantity.0).map_or(Amount::ZERO, Amount)
    }

    /// As a number of units, for proportions.
    pub fn as_f64(self) -> f64 {
        self.0 as f64 / NANO as f64
    }
}

impl Add for Amount {
    type Output = Amount;

    fn add(self, other: Amount) -> Amount {
        Amount(self.0.saturating_add(other.0))
    }
}

impl AddAssign for Amount {
    fn add_assign(&mut self, other: Amount) {
        *self = *self + other;
    }
}

impl Sub for Amount {
    type Output = Amount;

    fn sub(self, other: Amount) -> Amount {
        Amount(self.0.saturating_sub(other.0))
    }
}

impl Sum for Amount {
    fn sum<I: Iterator<Item = Amount>>(amounts: I) -> Amount {
        amounts.fold(Amount::ZERO, Add::add)
    }
}

/// Billionths. A number, then a binary suffix (`Ki`), a decimal one (`m`, `k`) or an exponent.
fn parse(text: &str) -> Option<i128> {
    let end = text
        .find(|c: char| !c.is_ascii_digit() && !matches!(c, '.' | '+' | '-'))
        .unwrap_or(text.len());
    let (number, suffix) = text.split_at(end);
    let (negative, digits) = match number.strip_prefix('-') {
        Some(digits) => (true, digits),
        None => (false, number.strip_prefix('+').unwrap_or(number)),
    };
    let (whole, fraction) = digits.split_once('.').unwrap_or((digits, ""));
    let is_number = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
    if whole.is_empty() && fraction.is_empty() || !is_number(whole) || !is_number(fraction) {
        return None;
    }
    let mantissa: i128 = format!("{whole}{fraction}").parse().ok()?;
    let (factor, power) = multiplier(suffix)?;
    let power = power + 9 - i32::try_from(fraction.len()).ok()?;
    let scaled = mantissa.checked_mul(factor)?;
    let nanos = match 10_i128.checked_pow(power.unsigned_abs()) {
        Some(scale) if power >= 0 => scaled.checked_mul(scale)?,
        // Finer than a billionth is rounded up.
        Some(scale) => scaled / scale + i128::from(scaled % scale != 0),
        None => return None,
    };
    Some(if negative { -nanos } else { nanos })
}

/// A suffix as a factor and a power of ten.
fn multiplier(suffix: &str) -> Option<(i128, i32)> {
    const BINARY: [&str; 6] = ["Ki", "Mi", "Gi", "Ti", "Pi", "Ei"];
    if let Some(step) = BINARY.iter().position(|known| *known == suffix) {
        return Some((1 << (10 * (step + 1)), 0));
    }
    let power = match suffix {
        "n" => -9,
        "u" => -6,
        "m" => -3,
        "" => 0,
        "k" => 3,
        "M" => 6,
        "G" => 9,
        "T" => 12,
        "P" => 15,
        "E" => 18,
        _ => suffix.strip_prefix(['e', 'E'])?.parse().ok()?,
    };
    Some((1, power))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantities_are_numbers_with_a_suffix() {
        for (text, nanos) in [
            ("1", NANO),
            ("100m", NANO / 10),
            ("1.5", NANO * 3 / 2),
            (".5", NANO / 2),
            ("2.", 2 * NANO),
            ("1Ki", 1024 * NANO),
            ("1.5Gi", 3 * (1 << 29) * NANO),
            ("1k", 1000 * NANO),
            ("1e3", 1000 * NANO),
            ("1E3", 1000 * NANO),
            ("12E", 12 * 1_000_000_000_000_000_000 * NANO),
            ("5n", 5),
            ("0.1n", 1),
            ("-1", -NANO),
            ("+1", NANO),
            ("x", 0),
            ("", 0),
            (".", 0),
            ("1x", 0),
            ("--1", 0),
        ] {
            assert_eq!(Amount::of(&Quantity(text.to_owned())), Amount(nanos), "{text}");
        }
    }

    #[test]
    fn amounts_that_are_written_differently_are_equal() {
        let of = |text: &str| Amount::of(&Quantity(text.to_owned()));
        assert_eq!(of("1Gi"), of("1024Mi"));
        assert!(of("1G") < of("1Gi"));
        assert_eq!(of("500m") + of("1500m"), Amount::units(2));
    }
}
