//! What a push did.

use std::time::Duration;

use larder_protocol::{StorePath, api::Divergence};
use serde::Serialize;

/// What a push did.
#[derive(Debug, Clone, Default, Serialize)]
pub struct PushReport {
    /// The closure's paths, in its order.
    pub paths: Vec<PushedPath>,
    /// How many paths became visible.
    pub published: u64,
    /// Bytes of frames that were sent.
    pub sent_bytes: u64,
    /// The sum of the NARs' lengths of all paths.
    pub nar_bytes: u64,
    /// Paths that the cache has with another content and keeps as they were.
    pub divergences: Vec<Divergence>,
    /// Paths that were not pushed.
    pub skipped: Vec<Skipped>,
    /// How long it took, in seconds.
    #[serde(serialize_with = "seconds")]
    pub elapsed: Duration,
}

fn seconds<S: serde::Serializer>(duration: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_f64(duration.as_secs_f64())
}

/// What became of one path.
#[derive(Debug, Clone, Serialize)]
pub struct PushedPath {
    /// The path.
    pub path: StorePath,
    /// Its NAR's length in bytes.
    pub nar_size: u64,
    /// What became of it.
    pub status: PathStatus,
    /// Bytes of frames that were sent for it first.
    pub sent_bytes: u64,
    /// Bytes of its NAR that needed no sending, since the service or this push had them.
    pub shared_bytes: u64,
}

/// What became of a path.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum PathStatus {
    /// Its contents were sent, or what of them was missing.
    Pushed,
    /// The cache lacked it, but the service had its contents.
    Reused,
    /// The cache had it.
    Present,
    /// An upstream has it.
    Upstream,
    /// It was left out: see [`PushReport::skipped`].
    Skipped,
}

/// A path that was not pushed.
#[derive(Debug, Clone, Serialize)]
pub struct Skipped {
    /// The path.
    pub path: StorePath,
    /// Why, as a sentence.
    pub reason: String,
}
