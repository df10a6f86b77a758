//! Why a path is kept, and what would go: for people who ask before, or after.

use larder_protocol::{StorePath, StorePathHash, api::CacheName};

use super::{
    budget::{self, Files, Limit},
    mark::{self, Marked},
    pace::Pace,
    report::BudgetReport,
};
use crate::{
    config::{ByteSize, CacheRetention, Config},
    metadata::{DyingPath, Extent, MarkedRoot, Metadata, MetadataError, RankedPath},
    storage::Room,
};

/// What is known of a path.
#[derive(Debug)]
pub enum Fate {
    /// It is kept: the way from it to a root, itself first.
    Kept(Vec<StorePath>, MarkedRoot),
    /// Nothing keeps it. Since when a sweep knows that, if one does.
    Dying(Option<i64>),
    /// A sweep took it.
    Gone(crate::metadata::GonePath),
    /// It was never there, or went long ago.
    Unknown,
}

/// Why a path of a cache is kept, or is not. Changes nothing.
///
/// # Errors
/// When the database fails.
pub async fn fate(
    metadata: &Metadata,
    cache: &CacheName,
    rules: &CacheRetention,
    hash: &StorePathHash,
    now: i64,
) -> Result<Fate, MetadataError> {
    if metadata.visible_paths(&[cache], &[*hash]).await?.is_empty() {
        return Ok(metadata.gone_path(cache, hash).await?.map_or(Fate::Unknown, Fate::Gone));
    }
    let Marked { mut marks, .. } =
        mark::mark(metadata, cache, rules, now, mark::ALL, &mut Pace::begin()).await?;
    let kept = marks.why_kept(hash).await?;
    marks.close().await?;
    Ok(match kept {
        Some((way, root)) => Fate::Kept(way, root),
        None => Fate::Dying(metadata.dead_since(cache, hash).await?),
    })
}

/// What a sweep would take of a cache now.
#[derive(Debug)]
pub struct Plan {
    /// What is kept.
    pub kept: Extent,
    /// What would go.
    pub dying: Extent,
    /// The bytes of frames that only those need.
    pub frame_bytes: u64,
    /// What would go, path by path.
    pub paths: Vec<DyingPath>,
}

/// Says what a sweep would take of a cache now. Changes nothing.
///
/// # Errors
/// When the database fails.
pub async fn plan(
    metadata: &Metadata,
    cache: &CacheName,
    rules: &CacheRetention,
    now: i64,
) -> Result<Plan, MetadataError> {
    let mut pace = Pace::begin();
    let Marked { mut marks, .. } = mark::mark(metadata, cache, rules, now, mark::ALL, &mut pace).await?;
    let kept = marks.extent().await?;
    let dying = mark::list_dying(&mut marks, now - rules.grace.seconds(), &mut pace).await?;
    let frame_bytes = marks.dying_frames().await?;
    let mut paths: Vec<DyingPath> = Vec::new();
    loop {
        let more = marks.dying(paths.last().map_or(0, |path| path.id)).await?;
        if more.is_empty() {
            break;
        }
        paths.extend(more);
    }
    marks.close().await?;
    Ok(Plan { kept, dying, frame_bytes, paths })
}

/// What a sweep would do to make room in a cache, or in all.
#[derive(Debug)]
pub struct RoomPlan {
    /// How it stands now.
    pub budget: BudgetReport,
    /// What would go for want of room, beside what nothing keeps.
    pub paths: Vec<RankedPath>,
    /// Whether that is enough.
    pub is_enough: bool,
}

/// Says what a sweep would take now to make room. Changes nothing.
///
/// # Errors
/// When the database fails.
pub async fn plan_room(
    metadata: &Metadata,
    config: &Config,
    room: Option<Room>,
    now: i64,
) -> Result<Vec<RoomPlan>, MetadataError> {
    let all: Vec<_> = config.caches.iter().map(|cache| (&cache.name, &cache.retention)).collect();
    let of_caches = config
        .caches
        .iter()
        .filter(|cache| cache.max_size.is_some())
        .map(|cache| (Some(&cache.name), cache.max_size, vec![(&cache.name, &cache.retention)]));
    let mut plans = Vec::new();
    for (scope, max_size, caches) in of_caches.chain([(None, config.retention.max_size, all)]) {
        let mut files = Files::of(metadata, room).await?;
        if max_size.is_none() && !files.may_be_full(&config.retention, scope, max_size) {
            continue;
        }
        let pace = &mut Pace::begin();
        let mut ranking = budget::rank(metadata, &caches, now, pace).await?;
        let weight = budget::weigh(metadata, &mut ranking, scope, pace).await?;
        let mut isolated = Vec::new();
        if scope.is_none()
            && let Some(lacking) = files.lacking(&config.retention, &weight)
        {
            for cache in budget::least_used(metadata, lacking).await? {
                files.doomed += cache.bytes;
                isolated.push(cache.name.to_string());
            }
        }
        let goal = files.goal(&config.retention, scope, max_size, &weight);
        let mut plan = RoomPlan {
            budget: BudgetReport {
                held: weight.held,
                isolated,
                disk: goal.is_some_and(|goal| matches!(goal.limit, Limit::Disk(_))),
                ..BudgetReport::within(scope, max_size.map_or(weight.used, ByteSize::get), weight.used)
            },
            paths: Vec::new(),
            is_enough: true,
        };
        if let Some(goal) = goal {
            if plan.budget.disk {
                plan.budget.limit = goal.goal;
            }
            plan.is_enough = weight.held <= plan.budget.limit;
            if let Some(cut) = weight.cut(goal.goal) {
                loop {
                    let more =
                        ranking.worth_at_most(cut, plan.paths.last().map_or(0, |path| path.id)).await?;
                    if more.is_empty() {
                        break;
                    }
                    plan.paths.extend(more);
                }
            }
            if !plan.is_enough {
                plan.budget.holders = budget::holders(metadata, &caches, now, pace).await?;
            }
        }
        ranking.close().await?;
        plans.push(plan);
    }
    Ok(plans)
}
