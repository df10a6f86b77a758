//! What a sweep did, or would do.

use larder_protocol::api::CacheName;
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
    /// How budgets were kept.
    #[serde(default)]
    pub budgets: Vec<BudgetReport>,
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

/// How a budget was kept: of a cache, or of all.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct BudgetReport {
    /// The cache; none: all.
    pub cache: Option<String>,
    /// Whether it was the disk that had too little room.
    pub disk: bool,
    /// How many bytes there may be.
    pub limit: u64,
    /// How many there were.
    pub before: u64,
    /// How many there are.
    pub used: u64,
    /// Of these, how many never go for want of room. 0 where there is room enough: then it is not looked for.
    pub held: u64,
    /// What holds most, where that is why there are too many.
    pub holders: Vec<Holder>,
    /// The pull requests' caches that go, where it is the disk.
    #[serde(default)]
    pub isolated: Vec<String>,
}

impl BudgetReport {
    pub(super) fn within(cache: Option<&CacheName>, limit: u64, used: u64) -> Self {
        let cache = cache.map(ToString::to_string);
        Self { cache, limit, before: used, used, ..Self::default() }
    }

    /// Whether there are no more bytes than there may be.
    pub fn is_met(&self) -> bool {
        self.used <= self.limit
    }
}

/// What holds bytes that never go for want of room.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Holder {
    /// The cache.
    pub cache: String,
    /// What kind of root: `run`, `pin`, `push`.
    pub kind: String,
    /// Which one, in words.
    pub which: String,
    /// The bytes of its whole closure, as it is sent; others may hold some of them, too.
    pub bytes: u64,
}
