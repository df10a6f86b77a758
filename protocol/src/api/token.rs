//! Exchanging an ID token for a session, and what that permits.

use std::fmt;

use serde::{Deserialize, Deserializer, Serialize, de::IgnoredAny};

use super::{CacheInfo, CacheName};

/// Asks for a session token.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TokenRequest {
    /// The ID token of the job, for the service's audience.
    pub id_token: String,
    /// The cache to push to.
    pub cache: CacheName,
}

/// A session token and what it may do.
#[derive(Clone, Serialize, Deserialize)]
pub struct TokenAnswer {
    /// Opaque; a secret. To be sent as `Authorization: Bearer`.
    pub token: String,
    /// Seconds until the token ends.
    pub expires_in: u64,
    /// What the token permits in the cache, of what this version knows.
    #[serde(deserialize_with = "known")]
    pub permissions: Vec<Permission>,
    /// The cache that the token is for.
    pub cache: CacheInfo,
}

/// Leaves out what a newer service permits besides.
fn known<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<Permission>, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Told {
        Known(Permission),
        New(IgnoredAny),
    }
    let told = Vec::deserialize(deserializer)?.into_iter();
    Ok(told.filter_map(|told| if let Told::Known(known) = told { Some(known) } else { None }).collect())
}

/// What a grant may allow.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Permission {
    /// Bring paths into the cache.
    Push,
    /// Have the cache keep paths, and let them go again.
    Pin,
    /// Read from a cache that is not public.
    Read,
    /// Change what the cache has on purpose: replace a path, for one.
    Admin,
}

impl fmt::Display for Permission {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Push => "push",
            Self::Pin => "pin",
            Self::Read => "read",
            Self::Admin => "admin",
        })
    }
}
