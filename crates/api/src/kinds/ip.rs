//! IP addresses and ranges in fields, as Kubernetes lets them be written.
//!
//! Since 1.36 new values may not have leading zeros or be IPv4 addresses in IPv6 form, but values
//! that an object has already may stay (KEP-4858).

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::error::{Errors, Path, quote};

/// Parses an address; leading zeros in the parts of an IPv4 address are let through.
pub(crate) fn parse(text: &str) -> Option<IpAddr> {
    text.parse()
        .ok()
        .or_else(|| parse_v4_with_zeros(text).map(IpAddr::V4))
        .or_else(|| {
            // An IPv4 address at the end of an IPv6 one.
            let (head, tail) = text.rsplit_once(':')?;
            let tail = parse_v4_with_zeros(tail)?;
            format!("{head}:{tail}").parse::<Ipv6Addr>().ok().map(IpAddr::V6)
        })
}

fn parse_v4_with_zeros(text: &str) -> Option<Ipv4Addr> {
    let mut octets = [0; 4];
    let mut parts = text.split('.');
    for octet in &mut octets {
        let part = parts
            .next()
            .filter(|part| part.bytes().all(|b| b.is_ascii_digit()))?;
        let digits = part.trim_start_matches('0');
        *octet = if digits.is_empty() && !part.is_empty() {
            0
        } else {
            digits.parse().ok()?
        };
    }
    parts.next().is_none().then(|| Ipv4Addr::from(octets))
}

fn is_mapped(text: &str) -> bool {
    matches!(parse(text), Some(IpAddr::V6(address)) if address.to_ipv4_mapped().is_some())
}

/// The address as Go prints it: an IPv4 address in IPv6 form as IPv4.
fn canonical(address: IpAddr) -> String {
    address.to_canonical().to_string()
}

/// Whether a text is an IPv6 address; one that holds an IPv4 address is none.
pub(crate) fn is_v6(text: &str) -> bool {
    matches!(
        parse(text).map(|address| address.to_canonical()),
        Some(IpAddr::V6(_))
    )
}

/// Whether a text is an IPv4 address.
pub(crate) fn is_v4(text: &str) -> bool {
    matches!(
        parse(text).map(|address| address.to_canonical()),
        Some(IpAddr::V4(_))
    )
}

/// Checks an address; those in `known` are let through.
pub(crate) fn validate(text: &str, known: &[&str], path: &Path, errors: &mut Errors) {
    if known.contains(&text) {
        return;
    }
    if parse(text).is_none() {
        errors.invalid(
            path,
            text,
            "must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)",
        );
        return;
    }
    if text.parse::<IpAddr>().is_err() {
        errors.invalid(path, text, "must not have leading 0s");
    } else if is_mapped(text) {
        errors.invalid(path, text, "must not be an IPv4-mapped IPv6 address");
    }
}

/// Likewise, with the words for what is no address at all that some fields have.
pub(crate) fn validate_else(text: &str, otherwise: &str, path: &Path, errors: &mut Errors) {
    if parse(text).is_some() {
        validate(text, &[], path, errors);
    } else {
        errors.invalid(path, text, otherwise);
    }
}

/// Checks an address that must be written in its canonical form.
pub(crate) fn validate_canonical(text: &str, path: &Path, errors: &mut Errors) {
    let before = errors.len();
    validate(text, &[], path, errors);
    if let Some(address) = parse(text).filter(|_| errors.len() == before) {
        let form = canonical(address);
        if form != text {
            errors.invalid(
                path,
                text,
                &format!("must be in canonical form ({})", quote(&form)),
            );
        }
    }
}

/// Checks that an address is one that something else can be reached at.
pub(crate) fn validate_reachable(text: &str, path: &Path, errors: &mut Errors) {
    let Some(address) = parse(text).map(|address| address.to_canonical()) else {
        errors.invalid(path, text, "must be a valid IP address");
        return;
    };
    let (link_local, link_local_multicast) = match address {
        IpAddr::V4(address) => (address.is_link_local(), address.octets()[..3] == [224, 0, 0]),
        IpAddr::V6(address) => (
            address.is_unicast_link_local(),
            address.segments()[0] & 0xff0f == 0xff02,
        ),
    };
    if address.is_unspecified() {
        errors.invalid(path, text, &format!("may not be unspecified ({text})"));
    }
    if address.is_loopback() {
        errors.invalid(
            path,
            text,
            "may not be in the loopback range (127.0.0.0/8, ::1/128)",
        );
    }
    if link_local {
        errors.invalid(
            path,
            text,
            "may not be in the link-local range (169.254.0.0/16, fe80::/10)",
        );
    }
    if link_local_multicast {
        let why = "may not be in the link-local multicast range (224.0.0.0/24, ff02::/10)";
        errors.invalid(path, text, why);
    }
}

/// A range: its address as written, and the length of its prefix.
struct Range {
    address: IpAddr,
    length: u8,
}

impl Range {
    fn parse(text: &str) -> Option<Range> {
        let (address, length) = text.split_once('/')?;
        let address = parse(address)?;
        if length.is_empty() || !length.bytes().all(|b| b.is_ascii_digit()) {
            return None;
        }
        let length = length.parse().ok()?;
        let bits = if address.is_ipv4() { 32 } else { 128 };
        (length <= bits).then_some(Range { address, length })
    }

    /// The first address of the range.
    fn base(&self) -> IpAddr {
        let keep = |bits: u32| u32::from(self.length).min(bits);
        match self.address {
            IpAddr::V4(address) => {
                let mask = u32::MAX.checked_shl(32 - keep(32)).unwrap_or(0);
                IpAddr::V4(Ipv4Addr::from_bits(address.to_bits() & mask))
            }
            IpAddr::V6(address) => {
                let mask = u128::MAX.checked_shl(128 - keep(128)).unwrap_or(0);
                IpAddr::V6(Ipv6Addr::from_bits(address.to_bits() & mask))
            }
        }
    }
}

/// Checks a range; those in `known` are let through.
pub(crate) fn validate_range(text: &str, known: &[&str], path: &Path, errors: &mut Errors) {
    if known.contains(&text) {
        return;
    }
    let Some(range) = Range::parse(text) else {
        errors.invalid(
            path,
            text,
            "must be a valid CIDR value, (e.g. 10.9.8.0/24 or 2001:db8::/64)",
        );
        return;
    };
    let (address, length) = text.split_once('/').unwrap_or((text, ""));
    if address.parse::<IpAddr>().is_err() || (length.len() > 1 && length.starts_with('0')) {
        errors.invalid(path, text, "must not have leading 0s in IP or prefix length");
    } else if is_mapped(address) {
        errors.invalid(path, text, "must not have an IPv4-mapped IPv6 address");
    } else if range.base() != range.address {
        errors.invalid(path, text, "must not have bits set beyond the prefix length");
    }
}

/// Whether a range is an IPv6 one.
pub(crate) fn is_v6_range(text: &str) -> bool {
    Range::parse(text).is_some_and(|range| range.address.is_ipv6())
}

/// Whether a text is a range, even if it is not written as it should be.
pub(crate) fn is_range(text: &str) -> bool {
    Range::parse(text).is_some()
}

/// Whether a range is a part of another, and not all of it; none where either is no range.
pub(crate) fn is_within(part: &str, whole: &str) -> Option<bool> {
    let (part, whole) = (Range::parse(part)?, Range::parse(whole)?);
    let base = Range {
        address: part.address,
        length: whole.length,
    };
    let same_family = part.address.is_ipv4() == whole.address.is_ipv4();
    Some(same_family && part.length > whole.length && base.base() == whole.base())
}

/// What to warn of in an address that passed the checks, perhaps long ago.
pub(crate) fn warning(text: &str, path: &Path) -> Option<String> {
    let address = parse(text)?;
    let form = canonical(address);
    if text.parse::<IpAddr>().is_err() || is_mapped(text) {
        return Some(format!(
            "{path}: non-standard IP address {} is invalid: use {}",
            quote(text),
            quote(&form)
        ));
    }
    (address.is_ipv6() && form != text).then(|| {
        let (text, form) = (quote(text), quote(&form));
        format!("{path}: IPv6 address {text} should be in RFC 5952 canonical format ({form})")
    })
}

/// What to warn of in a range that passed the checks, perhaps long ago.
pub(crate) fn range_warnings(text: &str, path: &Path) -> Vec<String> {
    let Some(range) = Range::parse(text) else {
        return Vec::new();
    };
    let (address, length) = text.split_once('/').unwrap_or((text, ""));
    let base = format!("{}/{}", canonical(range.base()), range.length);
    let mut warnings = Vec::new();
    if range.base() != range.address {
        let bits = if range.address.is_ipv4() { 32 } else { 128 };
        let single = format!("{}/{bits}", canonical(range.address));
        warnings.push(format!(
            "{path}: CIDR value {} is ambiguous in this context (should be {} or {}?)",
            quote(text),
            quote(&base),
            quote(&single)
        ));
    }
    if address.parse::<IpAddr>().is_err()
        || (length.len() > 1 && length.starts_with('0'))
        || is_mapped(address)
    {
        warnings.push(format!(
            "{path}: non-standard CIDR value {} is invalid: use {}",
            quote(text),
            quote(&base)
        ));
    }
    let written = format!("{}/{}", range.address, range.length);
    if warnings.is_empty() && range.address.is_ipv6() && written != text {
        let (text, written) = (quote(text), quote(&written));
        warnings.push(format!(
            "{path}: IPv6 CIDR value {text} should be in RFC 5952 canonical format ({written})"
        ));
    }
    warnings
}

#[cfg(test)]
mod tests {
    use super::*;

    fn objections(text: &str, check: fn(&str, &Path, &mut Errors)) -> Vec<String> {
        let mut errors = Errors::new();
        check(text, &Path::new("ip"), &mut errors);
        errors
            .iter()
            .map(|error| {
                error
                    .body()
                    .rsplit_once("\": ")
                    .map_or(String::new(), |(_, why)| why.to_owned())
            })
            .collect()
    }

    #[test]
    fn addresses_are_strict_for_new_values() {
        for (text, expected) in [
            ("10.0.0.1", ""),
            ("2001:db8::1", ""),
            ("FE80:0::0:0abc", ""),
            (
                "nope",
                "must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)",
            ),
            (
                "1.2.3",
                "must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)",
            ),
            ("010.0.0.1", "must not have leading 0s"),
            ("::ffff:1.2.3.4", "must not be an IPv4-mapped IPv6 address"),
        ] {
            let found = objections(text, |text, path, errors| validate(text, &[], path, errors));
            assert_eq!(found.concat(), expected, "{text}");
            let mut errors = Errors::new();
            validate(text, &[text], &Path::new("ip"), &mut errors);
            assert!(errors.is_empty(), "{text} is known");
        }
    }

    #[test]
    fn special_addresses_cannot_be_reached() {
        for (text, part) in [
            ("0.0.0.0", "unspecified"),
            ("127.0.0.1", "loopback"),
            ("::1", "loopback"),
            ("169.254.1.1", "link-local range"),
            ("224.0.0.5", "multicast"),
            ("ff02::1", "multicast"),
        ] {
            assert!(
                objections(text, validate_reachable).concat().contains(part),
                "{text}"
            );
        }
        assert!(objections("10.1.2.3", validate_reachable).is_empty());
    }

    #[test]
    fn ranges_start_at_their_base() {
        for (text, expected) in [
            ("10.0.0.0/8", ""),
            ("::/0", ""),
            ("10.0.0.1/8", "must not have bits set beyond the prefix length"),
            ("10.0.0.0/08", "must not have leading 0s in IP or prefix length"),
            (
                "10.0.0.0/33",
                "must be a valid CIDR value, (e.g. 10.9.8.0/24 or 2001:db8::/64)",
            ),
            (
                "10.0.0.0",
                "must be a valid CIDR value, (e.g. 10.9.8.0/24 or 2001:db8::/64)",
            ),
        ] {
            let found = objections(text, |text, path, errors| validate_range(text, &[], path, errors));
            assert_eq!(found.concat(), expected, "{text}");
        }
    }

    #[test]
    fn other_forms_are_warned_of() {
        let path = Path::new("ip");
        assert_eq!(warning("10.0.0.1", &path), None);
        assert_eq!(
            warning("01.0.0.1", &path).as_deref(),
            Some("ip: non-standard IP address \"01.0.0.1\" is invalid: use \"1.0.0.1\"")
        );
        assert!(
            warning("FE80::1", &path).is_some_and(|text| text.ends_with("canonical format (\"fe80::1\")"))
        );
        assert_eq!(range_warnings("10.0.0.0/8", &path).len(), 0);
        assert_eq!(range_warnings("10.0.0.1/8", &path).len(), 1);
    }
}
