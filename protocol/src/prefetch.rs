//! Prefetches by hand: what is asked, and what is told of them.

use serde::{Deserialize, Serialize};

use crate::{StorePath, api::CacheName};

/// The most paths that one request may name; their closures may have more.
pub const MAX_PREFETCHED_PATHS: usize = 10_000;

/// `POST /api/v1/prefetches`: makes the closures of paths complete in a cache.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AskPrefetch {
    /// The cache.
    pub cache: CacheName,
    /// The paths, at least one.
    pub paths: Vec<StorePath>,
}

/// A prefetch: the answer to [`AskPrefetch`], and `GET /api/v1/prefetches/{id}`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Prefetch {
    /// What it is called.
    pub id: String,
    /// The cache.
    pub cache: CacheName,
    /// How it stands.
    pub state: PrefetchState,
    /// How many paths the closures have, as far as that is known.
    pub closure: u64,
    /// How many of them were not in the cache.
    pub wanted: u64,
    /// How many of these are there now.
    pub published: u64,
    /// How many bytes of NARs were fetched.
    pub bytes: u64,
    /// How many paths no upstream has.
    pub lacking: u64,
    /// Some of these.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub lacking_paths: Vec<StorePath>,
    /// Why it failed the last time; while it waits, it is tried again. When it is incomplete: why what an upstream has of
    /// some paths could not be taken.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// When it was asked for, in seconds since 1970.
    pub requested_at: i64,
    /// When it ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ended_at: Option<i64>,
}

/// How a prefetch stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum PrefetchState {
    /// It will begin, or be tried again.
    Waiting,
    /// It is under way.
    Running,
    /// The closures are complete.
    Complete,
    /// All is there that an upstream has, and some paths none has.
    Incomplete,
    /// It was given up.
    Failed,
    /// A newer one made it pointless.
    Superseded,
}

impl PrefetchState {
    /// As it is written.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Waiting => "waiting",
            Self::Running => "running",
            Self::Complete => "complete",
            Self::Incomplete => "incomplete",
            Self::Failed => "failed",
            Self::Superseded => "superseded",
        }
    }

    /// Whether nothing more happens.
    pub fn has_ended(self) -> bool {
        !matches!(self, Self::Waiting | Self::Running)
    }
}
