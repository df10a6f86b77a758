//! Whether a sweep should begin before its time: the disk, or what is configured, is nearly full.

use std::sync::{Mutex, MutexGuard, PoisonError};

use super::{
    budget::{is_nearly, room},
    report::SweepReport,
};
use crate::{Service, metadata::MetadataError};

/// How long after a sweep that found too little room to free the next one tries again, in seconds: what empties objects
/// has their files an hour later.
const AGAIN: i64 = 15 * 60;

/// What the last sweep left.
#[derive(Debug, Default)]
pub(super) struct Pressure(Mutex<Option<Left>>);

#[derive(Debug, Clone, Copy)]
struct Left {
    /// When.
    at: i64,
    /// The last object that there was.
    object: i64,
    /// How many bytes may be written until something may be nearly full.
    headroom: u64,
    /// Whether everything had room.
    is_enough: bool,
}

fn lock(left: &Mutex<Option<Left>>) -> MutexGuard<'_, Option<Left>> {
    left.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Pressure {
    /// Notes what a sweep left.
    pub(super) async fn note(&self, service: &Service, report: &SweepReport) -> Result<(), MetadataError> {
        let (_, _, object) = service.metadata.object_bytes(0).await?;
        let budgets = report.budgets.iter().filter(|budget| !budget.disk);
        // No less than a part of it: what has no room now is not swept for after every upload.
        let headroom = budgets
            .map(|budget| is_nearly(budget.limit).saturating_sub(budget.used).max(budget.limit / 20))
            .min()
            .unwrap_or(u64::MAX);
        let is_enough = !disk_is_nearly_full(service)
            && report.budgets.iter().all(|budget| budget.used <= is_nearly(budget.limit));
        *lock(&self.0) = Some(Left { at: service.clock.now(), object, headroom, is_enough });
        Ok(())
    }

    /// Whether a sweep should begin now.
    pub(super) async fn is_high(&self, service: &Service) -> Result<bool, MetadataError> {
        let left = *lock(&self.0);
        let too_soon = left.is_some_and(|left| !left.is_enough && service.clock.now() < left.at + AGAIN);
        if !too_soon && (disk_is_nearly_full(service) || left.is_some_and(|left| !left.is_enough)) {
            return Ok(true);
        }
        let of_caches = service.config.caches.iter().filter_map(|cache| cache.max_size);
        let Some(least) = of_caches.chain(service.config.retention.max_size).min() else { return Ok(false) };
        let (stored, written, _) = service.metadata.object_bytes(left.map_or(0, |left| left.object)).await?;
        Ok(match left {
            Some(left) => written > left.headroom,
            None => stored > is_nearly(least.get()),
        })
    }
}

fn disk_is_nearly_full(service: &Service) -> bool {
    room(service).is_some_and(|room| room.available < service.config.retention.min_free(room))
}
