//! Patterns of claims, as trust rules write them: `*` stands for any text without `/`, and `**` for any text at all.

use std::{fmt, str::FromStr};

use serde::Deserialize;

use crate::identity::{GitRef, OwnerName, RepositoryName};

/// Longer than any ref or path.
const MAX_PATTERN: usize = 1024;

/// What cannot be matched.
#[derive(Debug, thiserror::Error)]
#[error("{text:?} {problem}")]
pub struct InvalidPattern {
    text: String,
    problem: &'static str,
}

impl InvalidPattern {
    fn new(text: &str, problem: &'static str) -> Self {
        Self { text: text.chars().take(100).collect(), problem }
    }
}

/// Text with stars in it. Compared with case.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub struct Pattern(String);

/// A ref, with stars. Compared with case.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub struct RefPattern(Pattern);

/// `owner/name`, with stars behind the owner. Compared without case.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub struct RepositoryPattern {
    text: String,
    lower_case: Pattern,
}

/// A reusable workflow: `owner/name/.github/workflows/file.yml@ref`. Stars stand before the `@` alone, and never for an
/// `@`: a branch may be called `x@refs/heads/main`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub struct WorkflowPattern {
    path: Pattern,
    git_ref: String,
}

impl Pattern {
    /// Whether the text is one that the pattern means.
    pub fn matches(&self, text: &str) -> bool {
        matches(self.0.as_bytes(), text.as_bytes())
    }

    /// What stands before the first star; all of it where there is none.
    pub fn before_stars(&self) -> &str {
        self.0.split('*').next().unwrap_or_default()
    }

    /// Whether it means one text alone.
    pub fn is_literal(&self) -> bool {
        !self.0.contains('*')
    }

    /// The pattern as it was written.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl RefPattern {
    /// Whether the ref is one that the pattern means.
    pub fn matches(&self, git_ref: &GitRef) -> bool {
        self.0.matches(git_ref.as_str())
    }

    /// Whether it means refs of pull requests alone.
    pub fn is_of_pull_requests(&self) -> bool {
        self.0.as_str().starts_with("refs/pull/")
    }
}

impl RepositoryPattern {
    /// Whether the repository is one that the pattern means.
    pub fn matches(&self, repository: &RepositoryName) -> bool {
        self.lower_case.matches(&repository.as_str().to_ascii_lowercase())
    }

    /// The one repository that it means, if it has no stars.
    pub fn literal(&self) -> Option<RepositoryName> {
        if self.lower_case.is_literal() { self.text.parse().ok() } else { None }
    }

    /// Its owner: the first part, at GitLab a group.
    pub fn owner(&self) -> &str {
        let written = self.text.split('*').next().unwrap_or_default();
        written.rsplit_once('/').map_or("", |(owner, _)| owner)
    }

    /// Whether it can mean a repository of that owner.
    pub fn can_be_of(&self, owner: &OwnerName) -> bool {
        let start = format!("{}/", owner.as_str().to_ascii_lowercase());
        let written = self.lower_case.before_stars();
        written.starts_with(&start) || start.starts_with(written)
    }
}

impl WorkflowPattern {
    /// Whether the claim `job_workflow_ref` is one that the pattern means.
    pub fn matches(&self, claim: &str) -> bool {
        let Some((path, git_ref)) = claim.split_once('@') else { return false };
        self.path.matches(path) && self.git_ref == git_ref
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

impl FromStr for Pattern {
    type Err = InvalidPattern;

    fn from_str(text: &str) -> Result<Self, InvalidPattern> {
        if text.is_empty() || text.len() > MAX_PATTERN || text.chars().any(char::is_control) {
            return Err(InvalidPattern::new(
                text,
                "can match nothing. Write a claim's text as tokens say it; * stands for text without /, ** for any text",
            ));
        }
        Ok(Self(text.to_owned()))
    }
}

impl FromStr for RefPattern {
    type Err = InvalidPattern;

    fn from_str(text: &str) -> Result<Self, InvalidPattern> {
        let rest =
            ["refs/heads/", "refs/tags/", "refs/pull/"].iter().find_map(|kind| text.strip_prefix(kind));
        match (rest, text.parse()) {
            (Some(rest), Ok(pattern)) if !rest.is_empty() => Ok(Self(pattern)),
            _ => Err(InvalidPattern::new(
                text,
                "is not a full ref. Write \"refs/heads/main\" for the branch main, \"refs/tags/v*\" for tags; * stands \
                 for text without /, ** for any text",
            )),
        }
    }
}

impl FromStr for RepositoryPattern {
    type Err = InvalidPattern;

    fn from_str(text: &str) -> Result<Self, InvalidPattern> {
        let problem =
            "is no repository. Write owner/name, or owner/* for all of an owner's; the owner has no stars";
        // A star stands where a letter could, so that what is around it is checked like any name.
        let plain: Result<RepositoryName, _> = text.replace('*', "x").parse();
        let owner = text.split('/').next().unwrap_or_default();
        match text.to_ascii_lowercase().parse() {
            Ok(lower_case) if plain.is_ok() && !owner.contains('*') => {
                Ok(Self { text: text.to_owned(), lower_case })
            }
            _ => Err(InvalidPattern::new(text, problem)),
        }
    }
}

impl FromStr for WorkflowPattern {
    type Err = InvalidPattern;

    fn from_str(text: &str) -> Result<Self, InvalidPattern> {
        let Some((path, git_ref)) = text.split_once('@') else {
            return Err(InvalidPattern::new(
                text,
                "can never match: job_workflow_ref is a file and a ref. Write \
                 \"owner/name/.github/workflows/build.yml@refs/heads/main\"",
            ));
        };
        if git_ref.contains('*') {
            return Err(InvalidPattern::new(
                text,
                "has a * after the @: whoever can push any branch there could say what the workflow does. Write one \
                 whole ref or commit",
            ));
        }
        let path =
            path.parse().ok().filter(|_| !git_ref.is_empty() && !git_ref.chars().any(char::is_control));
        let git_ref = git_ref.to_owned();
        path.map(|path| Self { path, git_ref }).ok_or_else(|| {
            InvalidPattern::new(
                text,
                "is no workflow. Write \"owner/name/.github/workflows/build.yml@refs/heads/main\"",
            )
        })
    }
}

macro_rules! from_text {
    ($($name:ident),*) => {$(
        impl TryFrom<String> for $name {
            type Error = InvalidPattern;

            fn try_from(text: String) -> Result<Self, InvalidPattern> {
                text.parse()
            }
        }
    )*};
}

from_text!(Pattern, RefPattern, RepositoryPattern, WorkflowPattern);

impl fmt::Display for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Display for RefPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Display for RepositoryPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl fmt::Display for WorkflowPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}@{}", self.path, self.git_ref)
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

    #[test]
    fn repositories_are_compared_without_case_and_owners_have_no_stars() {
        for (pattern, repository, fits) in [
            ("Acme/Flake", "acme/FLAKE", true),
            ("acme/flake", "acme/flake2", false),
            ("acme/*", "acme/flake", true),
            ("acme/*", "acme2/flake", false),
            ("acme/nix-*", "Acme/Nix-x", true),
            ("acme/nix-*", "acme/x", false),
            ("acme/*", "acme/group/flake", false),
            ("acme/**", "acme/group/flake", true),
        ] {
            let pattern: RepositoryPattern = pattern.parse().unwrap();
            assert_eq!(pattern.matches(&repository.parse().unwrap()), fits, "{pattern} and {repository}");
        }
        for text in [
            "acme",
            "*/flake",
            "**",
            "a*/flake",
            "*",
            "acme/",
            "/flake",
            "acme/fl ake",
            "acme/..",
            "acme/a\nb",
        ] {
            assert!(text.parse::<RepositoryPattern>().is_err(), "{text:?}");
        }
    }

    #[test]
    fn a_workflow_is_a_file_and_one_whole_ref() {
        let main = "acme/ci/.github/workflows/build.yml@refs/heads/main";
        for (pattern, claim, fits) in [
            (main, main, true),
            (main, "acme/ci/.github/workflows/build.yml@refs/heads/main2", false),
            (main, "acme/ci/.github/workflows/other.yml@refs/heads/main", false),
            (main, "acme/ci/.github/workflows/build.yml", false),
            ("acme/ci/.github/workflows/*@refs/heads/main", main, true),
            ("acme/ci/**@refs/heads/main", main, true),
            ("acme/*@refs/heads/main", main, false),
            // A branch of this name can be made by whoever can push any.
            (
                "acme/ci/**@refs/heads/main",
                "acme/ci/.github/workflows/build.yml@refs/heads/x@refs/heads/main",
                false,
            ),
        ] {
            let pattern: WorkflowPattern = pattern.parse().unwrap();
            assert_eq!(pattern.matches(claim), fits, "{pattern} and {claim}");
        }
        for text in [
            "",
            "@",
            "x@",
            "@refs/heads/main",
            "acme/ci/.github/workflows/build.yml",
            "a@*",
            "a@refs/**",
            "a@b\n",
        ] {
            assert!(text.parse::<WorkflowPattern>().is_err(), "{text:?}");
        }
    }
}
