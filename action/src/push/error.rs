//! Why a push failed.

use std::time::Duration;

/// Why a push failed.
#[derive(Debug, thiserror::Error)]
pub enum PushError {
    /// It took too long.
    #[error("the push took longer than {} seconds (--time-limit)", .0.as_secs())]
    TimeLimit(Duration),
}
