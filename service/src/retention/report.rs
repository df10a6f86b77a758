//! What a sweep did, or would do.

use serde::{Deserialize, Serialize};

/// What a sweep did.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SweepReport {
    /// In each cache.
    pub caches: Vec<CacheReport>,
    /// NARs that went.
    pub nars: u64,
    /// Chunks that went.
    pub chunks: u64,
    /// The bytes of their frames.
    pub chunk_bytes: u64,
    /// Objects that were left empty; their files go an hour later.
    pub objects_emptied: u64,
    /// Objects whose files went.
    pub objects: u64,
    /// The bytes of those files.
    pub object_bytes: u64,
    /// What was rewritten.
    #[serde(default)]
    pub compaction: CompactionReport,
}

/// Which objects were rewritten.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct CompactionReport {
    /// Objects from which all that is in use was copied; their files go an hour later.
    pub replaced: u64,
    /// The bytes of those.
    pub replaced_bytes: u64,
    /// Objects that were written.
    pub written: u64,
    /// The bytes of those.
    pub written_bytes: u64,
}

impl CompactionReport {
    /// Counts what was written by one of its steps.
    pub(super) fn add(&mut self, step: Self) {
        self.written += step.written;
        self.written_bytes += step.written_bytes;
    }
}

/// What a sweep did in one cache.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct CacheReport {
    /// The cache.
    pub cache: String,
    /// Paths that something keeps.
    pub kept: u64,
    /// The bytes of their NARs.
    pub kept_bytes: u64,
    /// Paths that nothing keeps any more since this sweep.
    pub condemned: u64,
    /// Paths that went.
    pub deleted: u64,
    /// The bytes of the NARs of those that were to go.
    pub deleted_bytes: u64,
}
