//! Which address of the node's pod range the next pod gets.
//!
//! Kept in memory only: after a restart the addresses of the adopted pods are marked as used, which says
//! more truly than a file what is in use. An address that was given back is the last to be given out
//! again, because peers may still hold connections, DNS answers and connection tracking entries for it.

use ipnet::Ipv4Net;
use std::collections::{BTreeSet, VecDeque};
use std::net::Ipv4Addr;

/// Hands out the addresses of one range.
#[derive(Debug)]
pub struct Ipam {
    range: Ipv4Net,
    used: BTreeSet<Ipv4Addr>,
    /// The first address that was never handed out, as bits.
    next: u32,
    /// Addresses that were given back, the longest ago first.
    released: VecDeque<Ipv4Addr>,
}

/// Why an address could not be handed out or marked.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum IpamError {
    /// Every address is in use.
    #[error("allocate a pod address: all {capacity} addresses of {range} are in use")]
    Exhausted {
        /// The range that is full.
        range: Ipv4Net,
        /// How many addresses it has for pods.
        capacity: usize,
    },
    /// The address is not of this range.
    #[error("mark the pod address {address} as used: it is outside {range}")]
    OutsideRange {
        /// The address in question.
        address: Ipv4Addr,
        /// The range of this node.
        range: Ipv4Net,
    },
    /// Two pods claim one address.
    #[error("mark the pod address {0} as used: it is in use already")]
    InUse(Ipv4Addr),
}

impl Ipam {
    /// An allocator over `range` without its first and last address, which some software takes for the
    /// network's own and for a broadcast.
    pub fn new(range: Ipv4Net) -> Self {
        let next = range.network().to_bits().saturating_add(1);
        Self {
            range,
            used: BTreeSet::new(),
            next,
            released: VecDeque::new(),
        }
    }

    /// Hands out an address that was never used, or else the one given back longest ago.
    ///
    /// # Errors
    /// [`IpamError::Exhausted`] when every address is in use.
    pub fn allocate(&mut self) -> Result<Ipv4Addr, IpamError> {
        while self.next < self.range.broadcast().to_bits() {
            let address = Ipv4Addr::from_bits(self.next);
            self.next += 1;
            if self.used.insert(address) {
                return Ok(address);
            }
        }
        let address = self.released.pop_front().ok_or(IpamError::Exhausted {
            range: self.range,
            capacity: self.used.len(),
        })?;
        self.used.insert(address);
        Ok(address)
    }

    /// Marks an adopted pod's address as used.
    ///
    /// # Errors
    /// When the address is outside the range or in use already.
    pub fn mark_used(&mut self, address: Ipv4Addr) -> Result<(), IpamError> {
        let range = self.range;
        let bits = address.to_bits();
        if bits <= range.network().to_bits() || bits >= range.broadcast().to_bits() {
            return Err(IpamError::OutsideRange { address, range });
        }
        if !self.used.insert(address) {
            return Err(IpamError::InUse(address));
        }
        self.released.retain(|released| *released != address);
        Ok(())
    }

    /// Takes an address back. Says whether it was in use; giving it back twice does no harm.
    pub fn release(&mut self, address: Ipv4Addr) -> bool {
        let was_used = self.used.remove(&address);
        // An address above `next` was only ever marked: it is still ahead and will be handed out in turn.
        if was_used && address.to_bits() < self.next {
            self.released.push_back(address);
        }
        was_used
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn ipam(range: &str) -> Ipam {
        Ipam::new(range.parse().unwrap())
    }

    fn ip(last: u8) -> Ipv4Addr {
        Ipv4Addr::new(10, 244, 0, last)
    }

    #[test]
    fn addresses_are_handed_out_in_turn_without_the_first_and_last_of_the_range() {
        let mut ipam = ipam("10.244.0.0/29");
        let all: Vec<_> = (0..6).map(|_| ipam.allocate().unwrap()).collect();
        assert_eq!(all, (1..=6).map(ip).collect::<Vec<_>>());
        let range = "10.244.0.0/29".parse().unwrap();
        assert_eq!(ipam.allocate(), Err(IpamError::Exhausted { range, capacity: 6 }));
    }

    #[test]
    fn a_released_address_is_the_last_to_be_handed_out_again() {
        let mut ipam = ipam("10.244.0.0/29");
        for _ in 0..4 {
            ipam.allocate().unwrap();
        }
        assert!(ipam.release(ip(2)));
        assert!(ipam.release(ip(1)));
        let next: Vec<_> = (0..4).map(|_| ipam.allocate().unwrap()).collect();
        assert_eq!(next, [ip(5), ip(6), ip(2), ip(1)]);
        assert!(ipam.allocate().is_err());
    }

    #[test]
    fn adopted_addresses_are_not_handed_out_until_they_are_released() {
        let mut ipam = ipam("10.244.0.0/29");
        for last in [1, 3] {
            ipam.mark_used(ip(last)).unwrap();
        }
        assert_eq!((ipam.allocate(), ipam.allocate()), (Ok(ip(2)), Ok(ip(4))));
        assert!(ipam.release(ip(3)));
        assert_eq!(
            (ipam.allocate(), ipam.allocate(), ipam.allocate()),
            (Ok(ip(5)), Ok(ip(6)), Ok(ip(3)))
        );
    }

    #[test]
    fn an_adopted_address_released_before_its_turn_is_handed_out_once() {
        let mut ipam = ipam("10.244.0.0/30");
        ipam.mark_used(ip(2)).unwrap();
        ipam.release(ip(2));
        assert_eq!((ipam.allocate(), ipam.allocate()), (Ok(ip(1)), Ok(ip(2))));
        assert!(ipam.allocate().is_err());
    }

    #[test]
    fn a_released_address_can_be_marked_again() {
        let mut ipam = ipam("10.244.0.0/30");
        ipam.allocate().unwrap();
        ipam.release(ip(1));
        ipam.mark_used(ip(1)).unwrap();
        assert_eq!(ipam.allocate(), Ok(ip(2)));
        assert!(ipam.allocate().is_err());
    }

    #[test]
    fn wrong_marks_and_releases_are_told() {
        let mut ipam = ipam("10.244.0.0/29");
        let range = "10.244.0.0/29".parse().unwrap();
        for last in [0, 7, 9] {
            let expected = Err(IpamError::OutsideRange {
                address: ip(last),
                range,
            });
            assert_eq!(ipam.mark_used(ip(last)), expected);
        }
        ipam.mark_used(ip(3)).unwrap();
        assert_eq!(ipam.mark_used(ip(3)), Err(IpamError::InUse(ip(3))));
        assert!(!ipam.release(ip(4)));
        assert!(ipam.release(ip(3)) && !ipam.release(ip(3)));
    }
}
