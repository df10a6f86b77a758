//! How much what a grant pushes counts against what others push.

use std::fmt;

use serde::{Deserialize, Serialize};

/// A rank. Of two NARs for one path, that of the higher rank stays; among equals, the first.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "i64", into = "i64")]
pub struct Rank(i16);

/// What is no rank.
#[derive(Debug, thiserror::Error)]
#[error("{0} is not a rank. Write a whole number from -999 to 1000")]
pub struct InvalidRank(i64);

impl Rank {
    /// Of a rule for protected refs, unless it says another. Every other grant has 0.
    pub const PROTECTED: Self = Self(10);
    /// The least of what anybody pushes.
    pub const LEAST: Self = Self(-999);
    /// Of what the service fetches itself: whatever anybody pushes stands above it, and nobody is given it.
    pub const PREFETCHED: Self = Self(-1000);
}

impl Rank {
    /// As it is stored with a path, the service's own among them.
    pub(crate) fn stored(number: i64) -> Result<Self, InvalidRank> {
        if number == i64::from(Self::PREFETCHED) { Ok(Self::PREFETCHED) } else { number.try_into() }
    }
}

impl TryFrom<i64> for Rank {
    type Error = InvalidRank;

    fn try_from(number: i64) -> Result<Self, InvalidRank> {
        match i16::try_from(number) {
            Ok(rank @ -999..=1000) => Ok(Self(rank)),
            _ => Err(InvalidRank(number)),
        }
    }
}

impl From<Rank> for i64 {
    fn from(rank: Rank) -> Self {
        rank.0.into()
    }
}

impl fmt::Display for Rank {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}
