//! `[isolated]`: what pull requests' own caches may take.

use serde::Deserialize;

use super::{ByteSize, ConfigError, Period};

/// Bounds, checked.
#[derive(Debug, Clone)]
pub struct IsolatedLimits {
    /// How long such a cache is kept after a job last used it.
    pub keep: Period,
    /// How many there may be.
    pub max: u32,
    /// How many of them a repository may have. Where it has as many, that one goes which was not used for the longest
    /// time.
    pub max_per_repository: u32,
    /// What one may store beside what its parent has.
    pub max_size: ByteSize,
    /// How many paths may be pushed into one, by all its jobs.
    pub max_paths: u32,
}

impl Default for IsolatedLimits {
    fn default() -> Self {
        Self {
            keep: Period::days(14),
            max: 200,
            max_per_repository: 20,
            max_size: ByteSize::gigabytes(10),
            max_paths: 50_000,
        }
    }
}

/// As the file says it.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct File {
    keep: Option<Period>,
    max: Option<u32>,
    max_per_repository: Option<u32>,
    max_size: Option<ByteSize>,
    max_paths: Option<u32>,
}

impl IsolatedLimits {
    pub(super) fn check(file: File) -> Result<Self, ConfigError> {
        let default = Self::default();
        let limits = Self {
            keep: file.keep.unwrap_or(default.keep),
            max: file.max.unwrap_or(default.max),
            max_per_repository: file.max_per_repository.unwrap_or(default.max_per_repository),
            max_size: file.max_size.unwrap_or(default.max_size),
            max_paths: file.max_paths.unwrap_or(default.max_paths),
        };
        for (key, number) in [("max", limits.max), ("max_per_repository", limits.max_per_repository)] {
            if number == 0 {
                let problem = "is 0, so that no rule with isolate = true could do what it says. Write at least 1, or \
                               leave isolate out of the rules";
                return Err(ConfigError::value(format!("isolated.{key}"), problem));
            }
        }
        Ok(limits)
    }
}
