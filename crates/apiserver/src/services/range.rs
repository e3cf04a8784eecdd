//! The ranges that cluster IPs and node ports come from.
//!
//! The lower end of each is for those who ask for an address or a port by its value; what is chosen
//! comes from the rest as long as there is any (KEP-3070 and KEP-3668).

use std::fmt;
use std::net::Ipv4Addr;
use std::ops::RangeInclusive;

/// Numbers to choose from: those that are preferred, and the rest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Bands {
    first: u32,
    size: u32,
    /// How many of the lowest are chosen last.
    lower: u32,
}

impl Bands {
    /// All numbers, in the order in which they are to be tried. `random` gives a number below
    /// another, so that a number that was just freed does not come back at once.
    pub(super) fn candidates(&self, random: &dyn Fn(u32) -> u32) -> impl Iterator<Item = u32> + use<> {
        let (first, lower) = (self.first, self.lower);
        let around = move |from: u32, count: u32, start: u32| {
            (0..count).map(move |at| from + ((u64::from(start) + u64::from(at)) % u64::from(count)) as u32)
        };
        let upper = self.size - lower;
        around(first + lower, upper, random(upper)).chain(around(first, lower, random(lower)))
    }
}

/// The addresses of Services.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct AddressRange {
    base: Ipv4Addr,
    prefix: u8,
}

impl AddressRange {
    /// From any address of the range and the length of its prefix.
    pub(super) fn new((address, prefix): (Ipv4Addr, u8)) -> AddressRange {
        let mask = u32::MAX.checked_shl(32 - u32::from(prefix.min(32))).unwrap_or(0);
        AddressRange {
            base: Ipv4Addr::from_bits(address.to_bits() & mask),
            prefix: prefix.min(32),
        }
    }

    fn size(&self) -> u64 {
        1 << (32 - self.prefix)
    }

    /// The addresses but for the first, which names the network, and the last, which is its
    /// broadcast address.
    pub(super) fn bands(&self) -> Bands {
        let usable = self.size().saturating_sub(2) as u32;
        let lower = if self.size() <= 16 {
            0
        } else {
            (self.size() / 16).clamp(16, 256) as u32
        };
        Bands {
            first: self.base.to_bits().saturating_add(1),
            size: usable,
            lower: lower.min(usable),
        }
    }

    pub(super) fn contains(&self, address: Ipv4Addr) -> bool {
        let Bands { first, size, .. } = self.bands();
        address
            .to_bits()
            .checked_sub(first)
            .is_some_and(|offset| offset < size)
    }
}

impl fmt::Display for AddressRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.base, self.prefix)
    }
}

/// The ports of nodes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct PortRange(RangeInclusive<u16>);

impl PortRange {
    pub(super) fn new(ports: RangeInclusive<u16>) -> PortRange {
        PortRange(ports)
    }

    pub(super) fn bands(&self) -> Bands {
        let size = self.0.len() as u32;
        let lower = if size <= 16 { 0 } else { (size / 32).clamp(16, 128) };
        Bands {
            first: (*self.0.start()).into(),
            size,
            lower: lower.min(size),
        }
    }

    pub(super) fn contains(&self, port: u16) -> bool {
        self.0.contains(&port)
    }
}

impl fmt::Display for PortRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.0.start(), self.0.end())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn addresses(prefix: u8) -> AddressRange {
        AddressRange::new((Ipv4Addr::new(10, 96, 0, 0), prefix))
    }

    #[test]
    fn the_lower_band_comes_last() {
        for (prefix, size, lower) in [
            (16, 65534, 256),
            (24, 254, 16),
            (20, 4094, 256),
            (28, 14, 0),
            (30, 2, 0),
            (32, 0, 0),
        ] {
            let bands = addresses(prefix).bands();
            assert_eq!((bands.size, bands.lower), (size, lower), "/{prefix}");
            let tried: Vec<u32> = bands.candidates(&|below| below / 2).collect();
            let (upper, rest) = tried.split_at((size - lower) as usize);
            assert!(
                upper.iter().all(|address| *address >= bands.first + lower),
                "/{prefix}"
            );
            assert!(
                rest.iter().all(|address| *address < bands.first + lower),
                "/{prefix}"
            );
            let mut distinct = tried.clone();
            distinct.sort_unstable();
            distinct.dedup();
            assert_eq!(distinct.len(), size as usize, "/{prefix}");
        }
        let ports = PortRange::new(30000..=32767).bands();
        assert_eq!((ports.first, ports.size, ports.lower), (30000, 2768, 86));
    }

    #[test]
    fn network_and_broadcast_address_are_not_given_out() {
        let range = addresses(24);
        for (last, inside) in [(0, false), (1, true), (254, true), (255, false)] {
            assert_eq!(range.contains(Ipv4Addr::new(10, 96, 0, last)), inside, "{last}");
        }
        assert!(!range.contains(Ipv4Addr::new(1, 2, 3, 4)));
        assert_eq!(
            AddressRange::new((Ipv4Addr::new(10, 96, 0, 1), 16)).to_string(),
            "10.96.0.0/16"
        );
    }
}
