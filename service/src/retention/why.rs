//! Why a path is kept, and what would go: for people who ask before, or after.

use larder_protocol::{StorePath, StorePathHash, api::CacheName};

use super::{
    mark::{self, Marked},
    pace::Pace,
};
use crate::{
    config::CacheRetention,
    metadata::{DyingPath, Extent, MarkedRoot, Metadata, MetadataError},
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
    let Marked { mut marks, .. } = mark::mark(metadata, cache, rules, now, &mut Pace::begin()).await?;
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
    let Marked { mut marks, .. } = mark::mark(metadata, cache, rules, now, &mut pace).await?;
    let kept = marks.extent().await?;
    let dying = mark::list_dying(&mut marks, rules, now, &mut pace).await?;
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
