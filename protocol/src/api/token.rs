//! Exchanging an ID token for a session, and what that permits.

use std::fmt;

use serde::{Deserialize, Serialize};

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
    /// What the token permits in the cache.
    pub permissions: Vec<Permission>,
    /// The cache that the token is for.
    pub cache: CacheInfo,
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
