//! Whether a sweep should begin before its time: the disk, or what is configured, is nearly full.

use std::sync::{Mutex, MutexGuard, PoisonError};

use super::{
    budget::{is_nearly, room},
    report::{CompactionReport, SweepReport},
};
use crate::{Service, metadata::MetadataError};

/// How long after a sweep that found too little room to free the next one tries again, in seconds: what empties objects
/// has their files an hour later.
const AGAIN: i64 = 15 * 60;

/// From which size of all objects on something may be nearly full, as far as a sweep has found. It goes by what lay there
/// *before* the sweep weighed, so that what comes while it does counts as having come since.
#[derive(Debug, Clone, Copy)]
pub(super) struct Crowded {
    above: u64,
}

impl Default for Crowded {
    fn default() -> Self {
        Self { above: u64::MAX }
    }
}

impl Crowded {
    /// Notes that of objects of `stored` bytes `used` are what `limit` bounds.
    pub(super) fn found(&mut self, stored: u64, used: u64, limit: u64) {
        // What has no room now is not swept for after every upload.
        let headroom = is_nearly(limit).checked_sub(used).unwrap_or(limit / 20);
        self.above = self.above.min(stored + headroom);
    }
}

/// What the last sweep left.
#[derive(Debug, Default)]
pub(super) struct Pressure(Mutex<Option<Left>>);

#[derive(Debug, Clone, Copy)]
struct Left {
    /// When.
    at: i64,
    /// From which size of all objects on something may be nearly full.
    crowded_above: u64,
    /// Whether everything had room.
    is_enough: bool,
}

fn lock(left: &Mutex<Option<Left>>) -> MutexGuard<'_, Option<Left>> {
    left.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Pressure {
    /// Notes what a sweep left.
    pub(super) fn note(&self, service: &Service, report: &SweepReport, crowded: Crowded) {
        let is_enough = !disk_is_nearly_full(service)
            && report.budgets.iter().all(|budget| budget.used <= is_nearly(budget.limit));
        // What is in use weighs the same wherever it lies.
        let CompactionReport { replaced_bytes, written_bytes, .. } = report.compaction;
        let crowded_above = crowded.above.saturating_add(written_bytes).saturating_sub(replaced_bytes);
        *lock(&self.0) = Some(Left { at: service.clock.now(), crowded_above, is_enough });
    }

    async fn is_high(&self, service: &Service) -> Result<bool, MetadataError> {
        let left = *lock(&self.0);
        let too_soon = left.is_some_and(|left| !left.is_enough && service.clock.now() < left.at + AGAIN);
        if !too_soon && (disk_is_nearly_full(service) || left.is_some_and(|left| !left.is_enough)) {
            return Ok(true);
        }
        let of_caches = service.config.caches.iter().filter_map(|cache| cache.max_size);
        let Some(least) = of_caches.chain(service.config.retention.max_size).min() else { return Ok(false) };
        let most = left.map_or(is_nearly(least.get()), |left| left.crowded_above);
        Ok(service.metadata.object_bytes().await? > most)
    }
}

/// Whether a sweep should begin before its time.
///
/// # Errors
/// When the database fails.
pub async fn is_crowded(service: &Service) -> Result<bool, MetadataError> {
    service.retention.pressure.is_high(service).await
}

fn disk_is_nearly_full(service: &Service) -> bool {
    room(service).is_some_and(|room| room.available < service.config.retention.min_free(room))
}
