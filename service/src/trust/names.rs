//! The numbers behind names: a name may become somebody else's, its number does not.

use std::fmt;

use crate::identity::{Claims, OwnerName, RepositoryName};

/// A name that a rule trusts, in lower case, as names are compared without it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum TrustedName {
    /// `owner/name`.
    Repository(String),
    /// An owner: a user, an organisation, a group.
    Owner(String),
}

/// What a name stood for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Numbers {
    /// The repository's number, for a repository.
    pub repository: Option<u64>,
    /// Its owner's number.
    pub owner: u64,
}

/// A name, bound to what it stood for when it was first trusted, in one cache and for one issuer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BoundName {
    /// The name.
    pub name: TrustedName,
    /// What it stands for.
    pub numbers: Numbers,
    /// Who said so.
    pub source: NumberSource,
    /// Since when, in seconds since 1970.
    pub bound_at: i64,
    /// Set when the name was seen to stand for something else. From then on it is trusted for nothing.
    pub suspended: Option<Suspension>,
    /// Set when whoever runs the service unbound it. From then on it stands for nothing, and a token that is older does not
    /// bind it anew.
    pub unbound_at: Option<i64>,
}

/// Why a name is trusted no longer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Suspension {
    /// Since when, in seconds since 1970.
    pub at: i64,
    /// What it was first seen to stand for instead.
    pub found: Numbers,
}

/// Who said what a name stands for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NumberSource {
    /// The first token for which all claims matched.
    Token,
    /// The forge's API.
    Api,
    /// Whoever runs the service, by `larderd rules confirm`.
    Confirmed,
}

impl TrustedName {
    /// The name of a repository.
    pub fn repository(name: &RepositoryName) -> Self {
        Self::Repository(name.as_str().to_ascii_lowercase())
    }

    /// The name of an owner.
    pub fn owner(name: &OwnerName) -> Self {
        Self::Owner(name.as_str().to_ascii_lowercase())
    }

    /// The names that a repository's jobs can be trusted by.
    pub fn of(repository: &RepositoryName) -> [Self; 2] {
        [Self::repository(repository), Self::Owner(repository.owner().to_ascii_lowercase())]
    }

    /// What the token says that the name stands for; `None` if it says no number.
    pub fn numbers_in(&self, claims: &Claims) -> Option<Numbers> {
        let repository = match self {
            Self::Repository(_) => Some(claims.repository_id),
            Self::Owner(_) => None,
        };
        claims.repository_owner_id.map(|owner| Numbers { repository, owner })
    }

    /// The name alone.
    pub fn as_str(&self) -> &str {
        match self {
            Self::Repository(name) | Self::Owner(name) => name,
        }
    }
}

impl fmt::Display for TrustedName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl fmt::Display for Numbers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.repository {
            Some(repository) => write!(f, "repository number {repository} of owner number {}", self.owner),
            None => write!(f, "owner number {}", self.owner),
        }
    }
}

impl fmt::Display for NumberSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Token => "token",
            Self::Api => "api",
            Self::Confirmed => "confirmed",
        })
    }
}
