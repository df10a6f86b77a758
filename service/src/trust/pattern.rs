//! Patterns of refs, as trust rules write them.

use std::{fmt, str::FromStr};

use serde::Deserialize;

use crate::identity::GitRef;

/// A ref, in which `*` stands for any text without `/`, and `**` for any text at all. Compared with case.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub struct RefPattern(String);

/// What is no pattern of refs.
#[derive(Debug, thiserror::Error)]
#[error(
    "{0:?} is not a full ref. Write \"refs/heads/main\" for the branch main, \"refs/tags/v*\" for tags; * stands for \
     text without /, ** for any text"
)]
pub struct InvalidRefPattern(String);

impl RefPattern {
    /// Whether the ref is one that the pattern means.
    pub fn matches(&self, git_ref: &GitRef) -> bool {
        matches(self.0.as_bytes(), git_ref.as_str().as_bytes())
    }
}

/// Goes through the text once with all places in the pattern where one may be, so that no pattern takes longer than
/// the product of both lengths.
fn matches(pattern: &[u8], text: &[u8]) -> bool {
    let mut possible = vec![false; pattern.len() + 1];
    possible[0] = true;
    let close = |possible: &mut Vec<bool>| {
        for at in 0..pattern.len() {
            if possible[at] && pattern[at] == b'*' {
                possible[at + 1] = true;
            }
        }
    };
    close(&mut possible);
    for &byte in text {
        let mut next = vec![false; pattern.len() + 1];
        for at in 0..pattern.len() {
            if !possible[at] {
                continue;
            }
            if pattern[at] == b'*' {
                let double = pattern.get(at + 1) == Some(&b'*') || at > 0 && pattern[at - 1] == b'*';
                next[at] |= double || byte != b'/';
            } else if pattern[at] == byte {
                next[at + 1] = true;
            }
        }
        close(&mut next);
        possible = next;
    }
    possible[pattern.len()]
}

impl FromStr for RefPattern {
    type Err = InvalidRefPattern;

    fn from_str(text: &str) -> Result<Self, InvalidRefPattern> {
        let rest =
            ["refs/heads/", "refs/tags/", "refs/pull/"].iter().find_map(|kind| text.strip_prefix(kind));
        match rest {
            Some(rest) if !rest.is_empty() && text.len() <= 255 && !text.chars().any(char::is_control) => {
                Ok(Self(text.to_owned()))
            }
            _ => Err(InvalidRefPattern(text.chars().take(100).collect())),
        }
    }
}

impl TryFrom<String> for RefPattern {
    type Error = InvalidRefPattern;

    fn try_from(text: String) -> Result<Self, InvalidRefPattern> {
        text.parse()
    }
}

impl fmt::Display for RefPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stars_stay_within_a_part_and_double_stars_do_not() {
        for (pattern, git_ref, fits) in [
            ("refs/heads/main", "refs/heads/main", true),
            ("refs/heads/main", "refs/heads/Main", false),
            ("refs/heads/main", "refs/heads/main2", false),
            ("refs/heads/main", "refs/heads/x/main", false),
            ("refs/heads/*", "refs/heads/main", true),
            ("refs/heads/*", "refs/heads/feature/x", false),
            ("refs/heads/**", "refs/heads/feature/x", true),
            ("refs/heads/**", "refs/tags/v1", false),
            ("refs/heads/release-*", "refs/heads/release-24.11", true),
            ("refs/heads/release-*", "refs/heads/release-", true),
            ("refs/heads/release-*", "refs/heads/release-1/x", false),
            ("refs/heads/*/stable", "refs/heads/a/stable", true),
            ("refs/heads/*/stable", "refs/heads/a/b/stable", false),
            ("refs/heads/**/stable", "refs/heads/a/b/stable", true),
            ("refs/tags/v*.*", "refs/tags/v1.2.3", true),
            ("refs/tags/v*.*", "refs/tags/v1", false),
            ("refs/heads/a.c", "refs/heads/abc", false),
            ("refs/heads/?", "refs/heads/a", false),
        ] {
            let pattern: RefPattern = pattern.parse().unwrap();
            assert_eq!(pattern.matches(&git_ref.parse().unwrap()), fits, "{pattern} and {git_ref}");
        }
    }

    #[test]
    fn what_is_no_full_ref_is_refused() {
        for text in ["main", "", "**", "*", "refs/**", "refs/heads/", "heads/main", "refs/heads/a\nb"] {
            assert!(text.parse::<RefPattern>().is_err(), "{text:?}");
        }
    }

    #[test]
    fn many_stars_take_no_time_to_speak_of() {
        let pattern: RefPattern = format!("refs/heads/{}b", "*a".repeat(100)).parse().unwrap();
        assert!(!pattern.matches(&format!("refs/heads/{}", "a".repeat(1000)).parse().unwrap()));
    }
}
