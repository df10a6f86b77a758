//! Room: what goes when a cache, or all of them, or the disk, has less than it should.
//!
//! Everything is worth something: what nothing keeps the least, by since when; then what is kept, by when it was pushed
//! or read last; last of these the newest run of each ref. What is pinned, what is the newest of the main line and what
//! pushes under way need is held, and never goes for want of room. A path is worth as much as the best that keeps it, a
//! NAR as the best of its paths, a chunk as the best of its NARs: so a *cut* takes whole closures and never what one that
//! stays needs, and each chunk's bytes count once. What pull requests' own caches alone have counts not at all: they have
//! bounds of their own, and their parents nothing to give up for them. On a disk that is nearly full they go first, as
//! many as that takes, those first that no job has used for the longest time.

use std::{cmp::Reverse, collections::BTreeMap, sync::Arc};

use larder_protocol::api::CacheName;

use super::{
    mark::{self, Marked, Root},
    pace::Pace,
    report::{BudgetReport, Holder},
    roots::same_line,
    sweep::Sweep,
};
use crate::{
    Service,
    audit::Who,
    caches::Cache,
    config::{ByteSize, CacheRetention, Retention},
    metadata::{IsolatedCache, Metadata, MetadataError, PushingRun, Ranking, RootsOf, Worth},
    storage::Room,
};

/// How many holders are looked at, and how many are told.
const HOLDERS_ASKED: usize = 500;
const HOLDERS_TOLD: usize = 20;

/// When there is too much: a sweep begins to make room.
pub(super) fn is_nearly(limit: u64) -> u64 {
    limit - limit / 20
}

/// So much stays then, so that the next push does not need the next sweep.
fn is_low(limit: u64) -> u64 {
    limit - limit / 10
}

/// Of which cache, or of all.
pub(super) type Scope<'a> = Option<&'a CacheName>;

/// The caches that are ranked, with what they keep.
pub(super) type Rules<'a> = [(&'a CacheName, &'a CacheRetention)];

/// What chunks weigh.
#[derive(Debug, Default)]
pub(super) struct Weight {
    /// The bytes of all frames; of all caches together also of the recipes.
    pub used: u64,
    /// Of these, what never goes for want of room.
    pub held: u64,
    /// Beside these, what pull requests' caches alone keep: it takes no room, and stays as long as they do.
    not_counted: u64,
    by_worth: BTreeMap<i64, u64>,
}

impl Weight {
    /// What has to go so that no more than `goal` is left: all that is worth so much or less. `None`: nothing has to.
    pub(super) fn cut(&self, goal: u64) -> Option<i64> {
        let too_much = self.used.checked_sub(goal).filter(|too_much| *too_much > 0)?;
        let mut freed = 0;
        let mut cut = None;
        for (worth, bytes) in self.by_worth.iter().filter(|(worth, _)| **worth < Worth::HELD) {
            cut = Some(*worth);
            freed += bytes;
            if freed >= too_much {
                break;
            }
        }
        cut
    }

    /// Leaves out what is worth so much or less: what a cut left of that is kept by pull requests' caches.
    fn leave_out(&mut self, cut: i64) {
        let above = self.by_worth.split_off(&cut.saturating_add(1));
        self.used -= self.by_worth.values().sum::<u64>();
        self.by_worth = above;
    }
}

/// Ranks the paths of caches.
pub(super) async fn rank(
    metadata: &Metadata,
    caches: &Rules<'_>,
    now: i64,
    pace: &mut Pace,
) -> Result<Ranking, MetadataError> {
    let mut ranking = metadata.ranking().await?;
    for (cache, rules) in caches {
        let (roots, _) = mark::roots_of(metadata, cache, rules, now).await?;
        for Root { roots, worth, .. } in roots {
            ranking.add_roots(cache, roots, worth).await?;
        }
    }
    // Twice: what is dead must not be worth less than what is dead and refers to it.
    for dead in [false, true] {
        if dead {
            for (cache, _) in caches {
                ranking.add_dead(cache, now).await?;
            }
        }
        while ranking.spread().await? {
            pace.rest().await;
        }
    }
    Ok(ranking)
}

/// Weighs what a cache has, or all of them.
pub(super) async fn weigh(
    metadata: &Metadata,
    ranking: &mut Ranking,
    scope: Scope<'_>,
    pace: &mut Pace,
) -> Result<Weight, MetadataError> {
    ranking.look_at_nars(scope).await?;
    let mut weight = Weight::default();
    if scope.is_none() {
        weight.used = metadata.recipe_bytes().await?;
        weight.held = weight.used;
    }
    let mut after = 0;
    while let Some(slice) = ranking.weigh(after).await? {
        after = slice.last;
        for (worth, bytes) in slice.bytes {
            // What has no NAR yet is being pushed, who knows whereto.
            let worth = match (worth, scope) {
                (Some(worth), _) => worth,
                (None, None) => Worth::HELD,
                (None, Some(_)) => continue,
            };
            if worth == Worth::NOT_COUNTED {
                weight.not_counted += bytes;
                continue;
            }
            weight.used += bytes;
            if worth == Worth::HELD {
                weight.held += bytes;
            } else {
                *weight.by_worth.entry(worth).or_default() += bytes;
            }
        }
        pace.rest().await;
    }
    Ok(weight)
}

/// How much may stay, and why no more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Goal {
    /// What it is that is nearly full.
    pub limit: Limit,
    /// So much stays, if it can.
    pub goal: u64,
}

/// What is nearly full.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Limit {
    /// A configured size.
    Size(u64),
    /// The disk, which has this room.
    Disk(Room),
}

/// What should be left of `used` so that a configured size is not nearly full.
pub(super) fn size_goal(max_size: Option<ByteSize>, used: u64) -> Option<Goal> {
    let limit = max_size?.get();
    (used > is_nearly(limit)).then_some(Goal { limit: Limit::Size(limit), goal: is_low(limit) })
}

/// What there is to know of the whole store before it is weighed.
#[derive(Debug, Clone, Copy)]
pub(super) struct Files {
    /// The bytes of objects that are not doomed, without those of pull requests' caches.
    pub stored: u64,
    /// Of those that are, or soon will be: of pull requests' caches that were dropped.
    pub doomed: u64,
    /// The disk's room, where it can be known.
    pub room: Option<Room>,
}

impl Files {
    pub(super) async fn of(metadata: &Metadata, room: Option<Room>) -> Result<Self, MetadataError> {
        let stored = metadata.object_bytes().await?;
        Ok(Self { stored, doomed: metadata.doomed_bytes().await?, room })
    }

    /// Whether a scope has to be weighed at all: frames never have more bytes than the objects that they lie in.
    pub(super) fn may_be_full(
        &self,
        rules: &Retention,
        scope: Scope<'_>,
        max_size: Option<ByteSize>,
    ) -> bool {
        let by_size = max_size.is_some_and(|limit| self.stored > is_nearly(limit.get()));
        let by_disk = scope.is_none() && self.room.is_some_and(|room| room.available < rules.min_free(room));
        by_size || by_disk
    }

    /// How much has to go so that the disk is not nearly full, beside what goes anyway.
    pub(super) fn lacking(&self, rules: &Retention, weight: &Weight) -> Option<u64> {
        let room = self.room?;
        let least = rules.min_free(room);
        if room.available >= least {
            return None;
        }
        // Half of what is dead within objects: some of them are soon written anew, without it.
        let dead = self.stored.saturating_sub(weight.used).saturating_sub(weight.not_counted);
        let going = self.doomed + dead / 2;
        Some((2 * least).saturating_sub(room.available).saturating_sub(going))
    }

    /// What should be left of what was weighed so that the disk is not nearly full.
    fn disk_goal(&self, rules: &Retention, weight: &Weight) -> Option<Goal> {
        let wanted = self.lacking(rules, weight)?;
        Some(Goal { limit: Limit::Disk(self.room?), goal: weight.used.saturating_sub(wanted) })
    }

    /// What should be left of what was weighed; the strictest.
    pub(super) fn goal(
        &self,
        rules: &Retention,
        scope: Scope<'_>,
        max_size: Option<ByteSize>,
        weight: &Weight,
    ) -> Option<Goal> {
        let used = weight.used;
        let disk = if scope.is_none() { self.disk_goal(rules, weight) } else { None };
        [size_goal(max_size, used), disk].into_iter().flatten().min_by_key(|goal| goal.goal)
    }
}

/// The pull requests' caches that go first when so many bytes have to: those that no job has used for the longest time.
pub(super) async fn least_used(
    metadata: &Metadata,
    lacking: u64,
) -> Result<Vec<IsolatedCache>, MetadataError> {
    let mut caches = metadata.isolated_caches().await?;
    caches.retain(|cache| !cache.dropped && cache.bytes + cache.paths > 0);
    caches.reverse();
    let mut freed = 0;
    let enough = caches.iter().position(|cache| {
        let is_enough = freed >= lacking;
        freed += cache.bytes;
        is_enough
    });
    caches.truncate(enough.unwrap_or(caches.len()));
    Ok(caches)
}

/// How much room the disk has on which objects lie, if they lie on one and that can be known.
pub(crate) fn room(service: &Service) -> Option<Room> {
    let room = service.storage.room();
    room.inspect_err(|error| tracing::warn!(%error, "how much room the disk has cannot be known"))
        .ok()
        .flatten()
}

impl Sweep<'_> {
    /// Makes room where there is too little.
    pub(super) async fn keep_within_budget(&mut self, caches: &[Arc<Cache>]) -> Result<(), MetadataError> {
        let own = |cache: &Arc<Cache>| Some((vec![cache.clone()], cache.config.max_size?));
        for (caches, max_size) in caches.iter().filter_map(own) {
            let name = caches[0].name().clone();
            self.keep_scope(&caches, Some(&name), Some(max_size)).await?;
        }
        self.keep_scope(caches, None, self.service.config.retention.max_size).await
    }

    /// Drops pull requests' caches as far as so many bytes have to go. Which.
    async fn drop_least_used(&self, lacking: u64) -> Result<Vec<String>, MetadataError> {
        let metadata = &self.service.metadata;
        let mut dropped = Vec::new();
        for cache in least_used(metadata, lacking).await? {
            let reason = "the disk is nearly full, and no job has used another for longer";
            if metadata.drop_isolated(&cache.name, &Who::default(), reason, self.now).await? {
                tracing::warn!(cache = %cache.name, "a pull request's cache goes, as the disk is nearly full");
                dropped.push(cache.name.to_string());
            }
        }
        Ok(dropped)
    }

    async fn keep_scope(
        &mut self,
        caches: &[Arc<Cache>],
        scope: Scope<'_>,
        max_size: Option<ByteSize>,
    ) -> Result<(), MetadataError> {
        let (metadata, rules) = (&self.service.metadata, &self.service.config.retention);
        let mut files = Files::of(metadata, room(self.service)).await?;
        if !files.may_be_full(rules, scope, max_size) {
            if let Some(limit) = max_size {
                metadata.note_budget(scope, files.stored, 0, self.now).await?;
                self.report.budgets.push(BudgetReport::within(scope, limit.get(), files.stored));
                self.crowded.found(files.stored, files.stored, limit.get());
            }
            return Ok(());
        }
        let (mut weight, mut stored) = (self.weigh(caches, scope).await?, files.stored);
        let mut isolated = Vec::new();
        if scope.is_none()
            && let Some(lacking) = files.lacking(rules, &weight)
        {
            isolated = self.drop_least_used(lacking).await?;
            files = Files::of(metadata, files.room).await?;
        }
        let goal = files.goal(rules, scope, max_size, &weight);
        let before = weight.used;
        if let Some(Goal { goal, .. }) = goal
            && let Some(cut) = weight.cut(goal)
        {
            for cache in caches {
                self.cut(cache, cut).await?;
            }
            self.collect(&[0]).await?;
            stored = metadata.object_bytes().await?;
            weight = self.weigh(caches, scope).await?;
            weight.leave_out(cut);
        }
        self.service.metadata.note_budget(scope, weight.used, weight.held, self.now).await?;
        let limit = match (goal, max_size) {
            (Some(Goal { limit: Limit::Disk(room), goal }), _) => {
                tracing::warn!(available = room.available, "the disk is nearly full");
                goal
            }
            (_, Some(limit)) => limit.get(),
            (_, None) => return Ok(()),
        };
        let mut report = BudgetReport {
            cache: scope.map(ToString::to_string),
            disk: matches!(goal, Some(Goal { limit: Limit::Disk(_), .. })),
            limit,
            before,
            used: weight.used,
            held: weight.held,
            isolated,
            ..BudgetReport::default()
        };
        if !report.disk {
            self.crowded.found(stored, report.used, limit);
        }
        if !report.is_met() {
            let rules: Vec<_> = caches.iter().map(|cache| (cache.name(), &cache.config.retention)).collect();
            report.holders = holders(&self.service.metadata, &rules, self.now, &mut self.pace).await?;
            tracing::warn!(
                cache = report.cache.as_deref().unwrap_or("all"), limit, used = report.used, held = report.held,
                holders = ?report.holders, "what is held has no room: `larderd sweep` says what holds it"
            );
        }
        self.report.budgets.push(report);
        Ok(())
    }

    async fn weigh(&mut self, caches: &[Arc<Cache>], scope: Scope<'_>) -> Result<Weight, MetadataError> {
        let rules: Vec<_> = caches.iter().map(|cache| (cache.name(), &cache.config.retention)).collect();
        let metadata = &self.service.metadata;
        let mut ranking = rank(metadata, &rules, self.now, &mut self.pace).await?;
        let weight = weigh(metadata, &mut ranking, scope, &mut self.pace).await?;
        ranking.close().await?;
        Ok(weight)
    }

    /// Takes all of a cache that is worth so much or less.
    ///
    /// Like what an earlier sweep found dead: it is noted first, then claims are forgotten, and only then is marked what
    /// stays. So whoever begins to rely on some of it is seen by the marking, or claims it.
    async fn cut(&mut self, cache: &Cache, cut: i64) -> Result<(), MetadataError> {
        let (metadata, rules) = (&self.service.metadata, &cache.config.retention);
        let (above, before) = match Worth::dead_since(cut) {
            Some(since) => (mark::ALL, since),
            None => (cut, self.now),
        };
        if above == cut {
            let Marked { mut marks, .. } =
                mark::mark(metadata, cache.name(), rules, self.now, above, &mut self.pace).await?;
            self.note_dead(&mut marks).await?;
            marks.close().await?;
        }
        self.forget_claims().await?;
        let Marked { mut marks, .. } =
            mark::mark(metadata, cache.name(), rules, self.now, above, &mut self.pace).await?;
        self.note_alive(&mut marks).await?;
        let dying = mark::list_dying(&mut marks, before, &mut self.pace).await?;
        let deleted = self.delete(cache, &mut marks).await?;
        marks.close().await?;
        let name = cache.name().as_str();
        if let Some(report) = self.report.caches.iter_mut().find(|report| report.cache == name) {
            report.deleted += deleted;
            report.deleted_bytes += dying.nar_bytes;
        }
        Ok(())
    }
}

/// What holds most of what never goes for want of room, and how many bytes each: the whole of its closure, as it is sent.
pub(super) async fn holders(
    metadata: &Metadata,
    caches: &Rules<'_>,
    now: i64,
    pace: &mut Pace,
) -> Result<Vec<Holder>, MetadataError> {
    let mut holders = Vec::new();
    for (cache, rules) in caches {
        let (roots, _) = mark::roots_of(metadata, cache, rules, now).await?;
        for root in roots.into_iter().filter(|root| root.worth == Worth::Held).take(HOLDERS_ASKED) {
            let bytes = closure_bytes(metadata, cache, &root, pace).await?;
            if bytes > 0 {
                let Root { kind, which, .. } = root;
                holders.push(Holder { cache: cache.to_string(), kind: kind.to_owned(), which, bytes });
            }
        }
    }
    holders.sort_by_key(|holder| Reverse(holder.bytes));
    holders.truncate(HOLDERS_TOLD);
    Ok(holders)
}

/// The bytes of all NARs that a root keeps, as they are sent.
pub(super) async fn closure_bytes(
    metadata: &Metadata,
    cache: &CacheName,
    root: &Root,
    pace: &mut Pace,
) -> Result<u64, MetadataError> {
    let mut marks = metadata.marks(cache).await?;
    marks.add_roots((root.roots, root.worth), mark::ALL, root.kind, &root.which).await?;
    mark::spread(&mut marks, pace).await?;
    let bytes = marks.sent_bytes().await?;
    marks.close().await?;
    Ok(bytes)
}

/// How many bytes the newest run of a line holds, as they are sent: what the next run of that line lets go.
pub(crate) async fn held_by_line(
    metadata: &Metadata,
    cache: &CacheName,
    rules: &CacheRetention,
    line: &PushingRun,
    now: i64,
) -> Result<u64, MetadataError> {
    let (kept, _) = mark::roots_of(metadata, cache, rules, now).await?;
    let runs = metadata.pushed_runs(cache).await?;
    let of_line = |root: &&Root| {
        root.worth == Worth::Held
            && runs.iter().any(|run| {
                matches!(root.roots, RootsOf::Run(id) if id == run.id) && same_line(&run.run, line)
            })
    };
    match kept.iter().find(of_line) {
        Some(root) => closure_bytes(metadata, cache, root, &mut Pace::begin()).await,
        None => Ok(0),
    }
}

#[cfg(test)]
mod tests;
