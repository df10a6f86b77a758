//! Which of two NARs for one path stands.

use super::Rank;

/// By what a path stands in a cache.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Standing {
    /// The rank of the push that brought it.
    pub rank: Rank,
    /// Whether an admin said that it is to stand, whatever the ranks.
    pub ordered: bool,
}

/// What becomes of a path that the cache has, and a push brings again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// It is the same, and stands as it stood.
    Present,
    /// It is the same, and from now on stands by the push, so that nobody of a rank between can replace it.
    Confirmed,
    /// It is another: what was there stays.
    Kept,
    /// It is another, and takes the place of what was there.
    Replaced,
}

impl Standing {
    /// Decides between what is `there` and what is brought by this standing; `same` says whether they are the same
    /// path with the same contents and references.
    pub fn against(self, there: Self, same: bool) -> Verdict {
        // An admin's word holds until an admin says otherwise.
        let outweighs =
            if self.ordered { !(there.ordered && same) } else { !there.ordered && self.rank > there.rank };
        match (same, outweighs) {
            (true, false) => Verdict::Present,
            (true, true) => Verdict::Confirmed,
            (false, false) => Verdict::Kept,
            (false, true) => Verdict::Replaced,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rank(rank: i64) -> Standing {
        Standing { rank: rank.try_into().unwrap(), ordered: false }
    }

    fn ordered(by: i64) -> Standing {
        Standing { ordered: true, ..rank(by) }
    }

    #[test]
    fn the_first_of_equals_stays_and_the_higher_rank_replaces() {
        use Verdict::{Confirmed, Kept, Present, Replaced};
        for (brought, there, same, other) in [
            (rank(0), rank(0), Present, Kept),
            (rank(-1), rank(0), Present, Kept),
            (rank(1), rank(0), Confirmed, Replaced),
            (rank(1000), ordered(-5), Present, Kept),
            (ordered(0), rank(1000), Confirmed, Replaced),
            (ordered(0), ordered(1000), Present, Replaced),
        ] {
            assert_eq!(brought.against(there, true), same, "{brought:?} {there:?}");
            assert_eq!(brought.against(there, false), other, "{brought:?} {there:?}");
        }
    }
}
