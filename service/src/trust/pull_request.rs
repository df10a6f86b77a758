//! Which pull request a job runs for.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::identity::{Claims, GitRef};

/// A pull request: what an isolated cache belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct PullRequest {
    /// The number of the repository that it would change.
    pub repository_id: u64,
    /// Its own number there.
    pub number: u64,
}

impl PullRequest {
    /// The pull request that the job runs for. Its number is taken from a ref of the form `refs/pull/<n>/merge`, which
    /// no branch can have, and from nothing else.
    pub fn of(claims: &Claims) -> Option<Self> {
        let number = number(&claims.git_ref)?;
        Some(Self { repository_id: claims.repository_id, number })
    }
}

fn number(git_ref: &GitRef) -> Option<u64> {
    let digits = git_ref.as_str().strip_prefix("refs/pull/")?.strip_suffix("/merge")?;
    // One number must not be written in two ways.
    let plain = digits.bytes().all(|b| b.is_ascii_digit()) && !digits.starts_with('0');
    if plain { digits.parse().ok() } else { None }
}

impl fmt::Display for PullRequest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "pull request {} of repository number {}", self.number, self.repository_id)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_merge_ref_names_a_pull_request() {
        for (git_ref, wanted) in [
            ("refs/pull/12/merge", Some(12)),
            ("refs/pull/18446744073709551615/merge", Some(u64::MAX)),
            ("refs/pull/18446744073709551616/merge", None),
            ("refs/pull/0/merge", None),
            ("refs/pull/012/merge", None),
            ("refs/pull/+12/merge", None),
            ("refs/pull/-12/merge", None),
            ("refs/pull//merge", None),
            ("refs/pull/12/head", None),
            ("refs/pull/12/merge/merge", None),
            ("refs/pull/1/2/merge", None),
            ("refs/pull/12~x/merge", None),
            ("refs/heads/refs/pull/12/merge", None),
            ("refs/heads/main", None),
        ] {
            assert_eq!(number(&git_ref.parse().unwrap()), wanted, "{git_ref}");
        }
    }
}
