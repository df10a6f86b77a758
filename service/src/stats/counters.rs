//! What happened since the service started.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use crate::retention::SweepReport;

/// A number that only grows.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// Once more.
    pub fn one(&self) {
        self.add(1);
    }

    /// So many more.
    pub fn add(&self, count: u64) {
        self.0.fetch_add(count, Relaxed);
    }

    /// How many so far.
    pub fn so_far(&self) -> u64 {
        self.0.load(Relaxed)
    }
}

/// What happened since the service started.
#[derive(Debug, Default)]
pub struct Counters {
    /// Pushes that were opened.
    pub pushes_opened: Counter,
    /// Pushes that were committed.
    pub pushes_committed: Counter,
    /// Paths that they published.
    pub paths_published: Counter,
    /// Bytes of frames that came in.
    pub bytes_uploaded: Counter,
    /// Sweeps that were done.
    pub sweeps: Counter,
    /// Sweeps that failed.
    pub sweeps_failed: Counter,
    /// Paths that sweeps took.
    pub swept_paths: Counter,
    /// Chunks that sweeps took.
    pub swept_chunks: Counter,
    /// Bytes of files that sweeps deleted.
    pub swept_bytes: Counter,
    /// Jobs that were done.
    pub jobs_done: Counter,
    /// Jobs that failed, and are tried again or given up.
    pub jobs_failed: Counter,
    /// Deliveries that were stored.
    pub deliveries_stored: Counter,
    /// Deliveries that had been stored before.
    pub deliveries_repeated: Counter,
    /// Deliveries that were refused.
    pub deliveries_refused: Counter,
}

impl Counters {
    pub(crate) fn swept(&self, report: &SweepReport) {
        self.sweeps.one();
        self.swept_paths.add(report.caches.iter().map(|cache| cache.deleted).sum());
        self.swept_chunks.add(report.chunks);
        self.swept_bytes.add(report.object_bytes);
    }
}
