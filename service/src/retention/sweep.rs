//! Sweeping: what nothing keeps any more goes, referrers before what they refer to, paths before NARs, NARs before chunks,
//! chunks before objects. See `metadata::sweeping` for what decides against those who want to keep it.

use super::{
    compaction::compact,
    mark::{self, Marked},
    pace::Pace,
    pressure::Crowded,
    report::{CacheReport, SweepReport},
    reserve,
    roots::recent_since,
};
use crate::{
    Service,
    caches::Cache,
    metadata::{Deleted, Marks, MetadataError},
};

/// How long the file of an empty object stays, for readers under way, in seconds.
const READERS: i64 = 60 * 60;
/// How long one can ask why a path went, in seconds.
const REMEMBERED: i64 = 90 * 24 * 60 * 60;

/// Sweeps once, now. Where a sweep is under way, after it.
///
/// Dropped or killed at any point, it leaves what the next one finishes.
///
/// # Errors
/// When the database fails. What storage cannot delete is logged and left to the next sweep.
pub async fn sweep(service: &Service) -> Result<SweepReport, MetadataError> {
    let _alone = service.retention.sweeping.lock().await;
    let id = ask(service).await?;
    sweep_asked(service, id).await
}

/// Asks for a sweep.
pub(super) async fn ask(service: &Service) -> Result<i64, MetadataError> {
    let now = service.clock.now();
    match service.metadata.ask_for_sweep(now).await {
        Err(error) if error.is_full() && reserve::spend(service) => service.metadata.ask_for_sweep(now).await,
        asked => asked,
    }
}

/// Does the sweep that was asked for, for whoever sees to it that no other is under way; where the disk is full, once more
/// with what was set aside for that.
pub(super) async fn sweep_asked(service: &Service, id: i64) -> Result<SweepReport, MetadataError> {
    let swept = match sweep_alone(service, id).await {
        Err(error) if error.is_full() && reserve::spend(service) => sweep_alone(service, id).await,
        swept => swept,
    };
    reserve::keep(service);
    swept
}

async fn sweep_alone(service: &Service, id: i64) -> Result<SweepReport, MetadataError> {
    let now = service.clock.now();
    // Reads count that are in memory alone.
    service.retention.reads.flush(service).await?;
    service.metadata.begin_sweep(id, now).await?;
    let (pace, report, crowded) = (Pace::begin(), SweepReport::default(), Crowded::default());
    let mut sweep = Sweep { service, id, now, pace, report, crowded };
    sweep.run().await?;
    let Sweep { report, crowded, .. } = sweep;
    service.stats.counters.swept(&report);
    service.retention.pressure.note(service, &report, crowded);
    let text = serde_json::to_string(&report).unwrap_or_default();
    service.metadata.end_sweep(id, &text, service.clock.now()).await?;
    tracing::info!(
        deleted = report.caches.iter().map(|cache| cache.deleted).sum::<u64>(),
        chunks = report.chunks,
        chunk_bytes = report.chunk_bytes,
        object_bytes = report.object_bytes,
        rewritten_bytes = report.compaction.replaced_bytes,
        "swept"
    );
    Ok(report)
}

pub(super) struct Sweep<'a> {
    pub service: &'a Service,
    id: i64,
    pub now: i64,
    pub pace: Pace,
    pub report: SweepReport,
    /// When there is too much again.
    pub crowded: Crowded,
}

impl Sweep<'_> {
    async fn run(&mut self) -> Result<(), MetadataError> {
        let silent = self.now - self.service.config.retention.abandon_after.seconds();
        while self.service.metadata.clear_ended_pushes(silent, self.now).await? > 0 {
            self.pace.rest().await;
        }
        let caches: Vec<_> = self.service.caches.iter().cloned().collect();
        for cache in &caches {
            self.cache(cache).await?;
        }
        self.collect(&caches.iter().map(|cache| cache.config.retention.grace.seconds()).collect::<Vec<_>>())
            .await?;
        self.keep_within_budget(&caches).await?;
        self.report.compaction = compact(self.service, &mut self.pace).await?;
        while self.service.metadata.forget_gone(self.now - REMEMBERED).await? > 0 {
            self.pace.rest().await;
        }
        Ok(())
    }

    /// Takes what no path needs any more, and what was uploaded and never used in the longest of these graces.
    pub(super) async fn collect(&mut self, graces: &[i64]) -> Result<(), MetadataError> {
        self.nars().await?;
        self.uploads(graces).await?;
        self.chunks().await?;
        self.objects().await
    }

    async fn cache(&mut self, cache: &Cache) -> Result<(), MetadataError> {
        let (metadata, rules) = (&self.service.metadata, &cache.config.retention);
        // Before anything is marked: who claims from now on is heeded below.
        self.forget_claims().await?;
        let Marked { mut marks, runs } =
            mark::mark(metadata, cache.name(), rules, self.now, mark::ALL, &mut self.pace).await?;
        let kept = marks.extent().await?;
        let condemned = self.note_dead(&mut marks).await?;
        self.note_alive(&mut marks).await?;
        let dying = mark::list_dying(&mut marks, self.now - rules.grace.seconds(), &mut self.pace).await?;
        let deleted = self.delete(cache, &mut marks).await?;
        marks.close().await?;
        self.report.caches.push(CacheReport {
            cache: cache.name().to_string(),
            kept: kept.paths,
            kept_bytes: kept.nar_bytes,
            condemned,
            deleted,
            deleted_bytes: dying.nar_bytes,
        });
        let displaced: Vec<i64> = runs.displaced.iter().map(|run| run.id).collect();
        let since = recent_since(rules, self.now);
        while self.service.metadata.delete_pushes(cache.name(), &displaced, since, self.now).await? > 0 {
            self.pace.rest().await;
        }
        Ok(())
    }

    /// Forgets what was claimed before the marking that begins.
    pub(super) async fn forget_claims(&mut self) -> Result<(), MetadataError> {
        while self.service.metadata.forget_claims().await? > 0 {
            self.pace.rest().await;
        }
        Ok(())
    }

    /// Notes since when paths are dead.
    pub(super) async fn note_dead(&mut self, marks: &mut Marks) -> Result<u64, MetadataError> {
        let (mut after, mut condemned) = (0, 0);
        loop {
            let dead = marks.newly_dead(after).await?;
            let Some(last) = dead.last() else { return Ok(condemned) };
            after = *last;
            condemned += dead.len() as u64;
            self.service.metadata.note_dead(&dead, Some(self.now)).await?;
            self.pace.rest().await;
        }
    }

    /// Notes which paths are not dead any more.
    pub(super) async fn note_alive(&mut self, marks: &mut Marks) -> Result<(), MetadataError> {
        let mut after = 0;
        loop {
            let alive = marks.alive_again(after).await?;
            let Some(last) = alive.last() else { return Ok(()) };
            after = *last;
            self.service.metadata.note_dead(&alive, None).await?;
            self.pace.rest().await;
        }
    }

    /// Deletes what is listed.
    pub(super) async fn delete(&mut self, cache: &Cache, marks: &mut Marks) -> Result<u64, MetadataError> {
        let metadata = &self.service.metadata;
        let mut deleted = 0;
        loop {
            let mut paths = marks.next_dying().await?;
            if paths.is_empty() {
                return Ok(deleted);
            }
            match metadata.delete_paths(cache.name(), &paths, self.now).await? {
                Deleted::Gone(hashes, stay) => {
                    self.service.reads.withdrawn(cache, hashes.iter().copied());
                    deleted += hashes.len() as u64;
                    paths.retain(|path| !stay.contains(path));
                    marks.note_gone(&paths).await?;
                    marks.rescue(&stay).await?;
                }
                Deleted::Claimed(claimed) => {
                    marks.rescue(&claimed).await?;
                    metadata.heeded_claims(&claimed).await?;
                }
            }
            self.pace.rest().await;
        }
    }

    async fn nars(&mut self) -> Result<(), MetadataError> {
        let metadata = &self.service.metadata;
        let mut after = 0;
        loop {
            let nars = metadata.unnamed_nars(after).await?;
            let Some(last) = nars.last() else { return Ok(()) };
            after = *last;
            metadata.withdraw_nars(&nars).await?;
            loop {
                self.pace.rest().await;
                if let Some(gone) = metadata.delete_nars(&nars, self.id, self.now).await? {
                    self.report.nars += gone;
                    break;
                }
            }
        }
    }

    /// What was uploaded and never used is kept for a push that goes on, as long as any cache's grace.
    async fn uploads(&mut self, graces: &[i64]) -> Result<(), MetadataError> {
        let metadata = &self.service.metadata;
        let before = self.now - graces.iter().copied().max().unwrap_or_default();
        let mut after = 0;
        loop {
            let objects = metadata.unsettled_objects(before, after).await?;
            let Some(last) = objects.last() else { return Ok(()) };
            after = *last;
            for object in objects {
                while !metadata.settle_object(object, self.id, self.now).await? {
                    self.pace.rest().await;
                }
                self.pace.rest().await;
            }
        }
    }

    async fn chunks(&mut self) -> Result<(), MetadataError> {
        let metadata = &self.service.metadata;
        metadata.set_horizon().await?;
        loop {
            let removed = metadata.delete_chunks().await?;
            self.report.chunks += removed.rows;
            self.report.chunk_bytes += removed.bytes;
            if removed.rows == 0 {
                return Ok(());
            }
            self.pace.rest().await;
        }
    }

    async fn objects(&mut self) -> Result<(), MetadataError> {
        let metadata = &self.service.metadata;
        let mut after = 0;
        loop {
            let objects = metadata.empty_objects(after).await?;
            let Some(last) = objects.last() else { break };
            after = *last;
            // A sweep may take long, and readers have their hour from now on.
            let now = self.service.clock.now();
            self.report.objects_emptied += metadata.doom_objects(&objects, now).await?.rows;
            self.pace.rest().await;
        }
        loop {
            let mut gone = Vec::new();
            for (object, key, size) in metadata.doomed_since(self.now - READERS).await? {
                match self.service.storage.delete(&key).await {
                    Ok(()) => {
                        gone.push(object);
                        self.report.objects += 1;
                        self.report.object_bytes += size;
                    }
                    Err(error) => {
                        tracing::warn!(%error, key, "an object cannot be deleted; the next sweep tries again")
                    }
                }
            }
            if gone.is_empty() {
                return Ok(());
            }
            metadata.delete_objects(&gone).await?;
            self.pace.rest().await;
        }
    }
}
