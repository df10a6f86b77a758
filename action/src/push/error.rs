//! Why a push failed.

use std::time::Duration;

use crate::service::ServiceError;

/// Why a push failed.
#[derive(Debug, thiserror::Error)]
pub enum PushError {
    /// The service could not be had, or refused.
    #[error(transparent)]
    Service(#[from] ServiceError),
    /// It took too long.
    #[error("the push took longer than {} seconds (--time-limit); what was sent is kept for the next one", .0.as_secs())]
    TimeLimit(Duration),
    /// Bodies so small that a chunk does not go into one.
    #[error(
        "bodies of at most {0} bytes cannot hold a chunk: --max-body, and the service's limit, must be at least 2 MiB"
    )]
    SmallBodies(u64),
    /// The service goes on missing chunks that it took.
    #[error("the service says that {path} lacks chunks that it stored a moment ago: see its log")]
    ChunksVanish {
        /// The path.
        path: String,
    },
    /// The client's own fault.
    #[error("internal error: {0}")]
    Internal(String),
}

impl PushError {
    /// Whether the service denies who we are or what we may do.
    pub fn is_denial(&self) -> bool {
        matches!(self, Self::Service(error) if error.is_denial())
    }
}
