//! Marking: all that a root refers to, over any number of steps, is kept.

use larder_protocol::api::CacheName;

use super::{
    pace::Pace,
    roots::{KeptRuns, kept_runs, recent_since},
};
use crate::{
    config::CacheRetention,
    metadata::{Extent, Marks, Metadata, MetadataError, PushedRun, RootsOf},
};

/// What is kept of a cache.
pub(super) struct Marked {
    /// The paths.
    pub marks: Marks,
    /// The runs by which.
    pub runs: KeptRuns,
}

/// Marks what is kept of a cache.
pub(super) async fn mark(
    metadata: &Metadata,
    cache: &CacheName,
    rules: &CacheRetention,
    now: i64,
    pace: &mut Pace,
) -> Result<Marked, MetadataError> {
    let mut marks = metadata.marks(cache).await?;
    let runs = kept_runs(metadata.pushed_runs(cache).await?, rules, now);
    for run in &runs.kept {
        marks.add_roots(RootsOf::Run(run.id), "run", &in_words(run)).await?;
    }
    for pin in metadata.pins(cache, now).await? {
        marks.add_roots(RootsOf::Path(&pin.path.hash()), "pin", pin.name.as_str()).await?;
    }
    let since = recent_since(rules, now);
    marks.add_roots(RootsOf::Leases, "push", "a push that is under way").await?;
    marks.add_roots(RootsOf::PushedSince(since), "pushed", &in_days(rules, "pushed")).await?;
    marks.add_roots(RootsOf::ReadSince(since), "read", &in_days(rules, "read")).await?;
    spread(&mut marks, pace).await?;
    Ok(Marked { marks, runs })
}

/// Leaves what an earlier sweep did not find dead long enough ago, and lists the rest: it goes.
pub(super) async fn list_dying(
    marks: &mut Marks,
    rules: &CacheRetention,
    now: i64,
    pace: &mut Pace,
) -> Result<Extent, MetadataError> {
    let before = now - rules.grace.seconds();
    marks.add_roots(RootsOf::NotDeadBefore(before), "grace", "its grace").await?;
    spread(marks, pace).await?;
    let dying = marks.list_dying(before).await?;
    while marks.link_dying().await? {
        pace.rest().await;
    }
    Ok(dying)
}

async fn spread(marks: &mut Marks, pace: &mut Pace) -> Result<(), MetadataError> {
    while marks.spread().await? {
        pace.rest().await;
    }
    Ok(())
}

/// A run, for people.
pub(super) fn in_words(run: &PushedRun) -> String {
    let PushedRun { run, .. } = run;
    format!("run {} of {}, {}, {}", run.run_id, run.repository, run.git_ref, run.workflow)
}

fn in_days(rules: &CacheRetention, what: &str) -> String {
    format!("{what} within {} days (keep_days)", rules.keep_days)
}
