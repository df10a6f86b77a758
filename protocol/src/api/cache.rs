//! A cache's name, and what a reader or a client must know of it.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};

use crate::PublicKey;

/// A cache's name: 1 to 64 of lower-case letters, digits, `-`, `_` and `.`, beginning with a letter or
/// digit. That of a pull request's own cache has `~<repository id>-pr-<number>` behind its parent's; the service
/// alone makes such names.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct CacheName(String);

/// What is no cache name.
#[derive(Debug, thiserror::Error)]
#[error("{0:?} is not a cache name (1 to 64 of a-z, 0-9, '-', '_', '.', beginning with a letter or digit)")]
pub struct InvalidCacheName(String);

impl FromStr for CacheName {
    type Err = InvalidCacheName;

    fn from_str(text: &str) -> Result<Self, InvalidCacheName> {
        let fits = match text.split_once('~') {
            None => is_plain_name(text),
            Some((parent, pull_request)) => is_plain_name(parent) && is_pull_request(pull_request),
        };
        if fits { Ok(Self(text.to_owned())) } else { Err(InvalidCacheName(text.chars().take(100).collect())) }
    }
}

fn is_plain_name(text: &str) -> bool {
    let plain = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    (1..=64).contains(&text.len())
        && text.bytes().next().is_some_and(plain)
        && text.bytes().all(|b| plain(b) || b"-_.".contains(&b))
        && text != "api"
}

/// `<repository id>-pr-<number>`, written in the only way that these numbers have.
fn is_pull_request(text: &str) -> bool {
    let number = |digits: &str| {
        !digits.starts_with('0')
            && digits.bytes().all(|b| b.is_ascii_digit())
            && digits.parse::<u64>().is_ok()
    };
    text.split_once("-pr-")
        .is_some_and(|(repository, pull_request)| number(repository) && number(pull_request))
}

impl CacheName {
    /// The name of a pull request's own cache. The repository is meant by its numeric id.
    ///
    /// # Errors
    /// When `parent` is such a cache itself, or a number is 0.
    pub fn isolated(parent: &Self, repository_id: u64, pull_request: u64) -> Result<Self, InvalidCacheName> {
        format!("{parent}~{repository_id}-pr-{pull_request}").parse()
    }

    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Of a pull request's own cache: the name of its parent, and what stands behind it.
    pub fn isolation(&self) -> Option<(&str, &str)> {
        self.0.split_once('~')
    }
}

impl std::borrow::Borrow<str> for CacheName {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for CacheName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for CacheName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

crate::serde_as_text!(CacheName);

/// What a reader or a client must know of a cache.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CacheInfo {
    /// The version of the API that the service speaks.
    pub api: u32,
    /// The cache's name.
    pub name: CacheName,
    /// Whether everybody may read it; if not, Nix needs a token, as password in its netrc.
    #[serde(default = "everybody_reads")]
    pub public: bool,
    /// The URL for Nix's `substituters`, without a slash at its end.
    pub url: String,
    /// As in `nix-cache-info`.
    pub store_dir: String,
    /// As in `nix-cache-info`.
    pub priority: u32,
    /// The keys that sign the cache's paths, for Nix's `trusted-public-keys`.
    pub public_keys: Vec<PublicKey>,
    /// The binary caches whose paths need not be pushed here.
    pub upstreams: Vec<Upstream>,
}

/// Unless a service says otherwise.
fn everybody_reads() -> bool {
    true
}

/// Another binary cache that paths may come from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Upstream {
    /// Its URL, as in Nix's `substituters`.
    pub url: String,
    /// The keys that sign its paths.
    pub public_keys: Vec<PublicKey>,
}
