//! Revisions: the store's logical clock.
//!
//! A newtype, so that a revision is never mixed up with a count, an offset or the resource
//! version an API server derives from it.

use std::fmt;

/// The number of a committed transaction: strictly growing, the first one is 1.
///
/// Revision 0 ([`Revision::ZERO`]) is the empty store before any transaction.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Revision(u64);

impl Revision {
    /// The empty store, before the first transaction.
    pub const ZERO: Revision = Revision(0);

    /// The revision with this number.
    #[must_use]
    pub const fn new(number: u64) -> Self {
        Self(number)
    }

    /// The number itself.
    #[must_use]
    pub const fn get(self) -> u64 {
        self.0
    }

    /// The revision the next transaction gets. At a million commits a second the numbers last
    /// for half a million years; only a damaged file can ask for more.
    pub(crate) const fn next(self) -> Self {
        Self(self.0.saturating_add(1))
    }
}

impl From<u64> for Revision {
    fn from(number: u64) -> Self {
        Self(number)
    }
}

impl From<Revision> for u64 {
    fn from(revision: Revision) -> Self {
        revision.0
    }
}

impl fmt::Display for Revision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}
