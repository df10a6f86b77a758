//! Marking: all that a root refers to, over any number of steps, is kept.

use std::collections::HashSet;

use larder_protocol::{StorePathHash, api::CacheName};

use super::{
    pace::Pace,
    roots::{KeptRuns, is_main, is_newest, kept_runs, recent_since},
};
use crate::{
    config::CacheRetention,
    metadata::{Extent, Marks, Metadata, MetadataError, PushedRun, RootsOf, Worth},
};

/// Whatever it is worth.
pub(super) const ALL: i64 = i64::MIN;

/// What is kept of a cache.
pub(super) struct Marked {
    /// The paths.
    pub marks: Marks,
    /// The runs by which.
    pub runs: KeptRuns,
}

/// Something that keeps closures.
#[derive(Debug, Clone)]
pub(super) struct Root {
    pub roots: RootsOf,
    pub worth: Worth,
    pub kind: &'static str,
    /// Which it is, for people.
    pub which: String,
}

/// All that keeps closures of a cache, and the runs among it.
pub(super) async fn roots_of(
    metadata: &Metadata,
    cache: &CacheName,
    rules: &CacheRetention,
    now: i64,
) -> Result<(Vec<Root>, KeptRuns), MetadataError> {
    let runs = kept_runs(metadata.pushed_runs(cache).await?, rules, now);
    let mut roots = Vec::new();
    let mut add = |roots_of, worth, kind, which| roots.push(Root { roots: roots_of, worth, kind, which });
    // The last that did not fail: one that did takes nobody's place.
    let mut before = None;
    for run in &runs.kept {
        let newest = !run.failed && is_newest(&run.run, before);
        if !run.failed {
            before = Some(&run.run);
        }
        let worth = match (newest, is_main(&run.run, rules)) {
            (true, true) => Worth::Held,
            (true, false) => Worth::UsedLast(run.pushed_at),
            (false, _) => Worth::Used(run.pushed_at),
        };
        add(RootsOf::Run(run.id), worth, "run", in_words(run));
    }
    for pin in metadata.pins(cache, now).await? {
        add(RootsOf::Path(pin.path.hash()), Worth::Held, "pin", pin.name.to_string());
    }
    let since = recent_since(rules, now);
    add(RootsOf::Leases, Worth::Held, "push", "a push that is under way".to_owned());
    let what = "a pull request's own cache".to_owned();
    add(RootsOf::PullRequests, Worth::NotCounted, "pull-request", what);
    add(RootsOf::PushedSince(since), Worth::Pushed, "pushed", in_days(rules, "pushed"));
    add(RootsOf::ReadSince(since), Worth::Read, "read", in_days(rules, "read"));
    Ok((roots, runs))
}

/// The roots of all that is kept of a cache, each once. Readers may not see all of them.
///
/// # Errors
/// When the database fails.
pub async fn kept_roots(
    metadata: &Metadata,
    cache: &CacheName,
    rules: &CacheRetention,
    now: i64,
) -> Result<HashSet<StorePathHash>, MetadataError> {
    let mut hashes = HashSet::new();
    for root in roots_of(metadata, cache, rules, now).await?.0 {
        match root.roots {
            RootsOf::Path(hash) => hashes.extend([hash]),
            RootsOf::Run(run) => hashes.extend(metadata.roots_of_run(run).await?),
            roots => hashes.extend(metadata.root_hashes(cache, roots).await?),
        }
    }
    Ok(hashes)
}

/// Marks what is kept of a cache by roots that are worth more than `above` or take no room.
pub(super) async fn mark(
    metadata: &Metadata,
    cache: &CacheName,
    rules: &CacheRetention,
    now: i64,
    above: i64,
    pace: &mut Pace,
) -> Result<Marked, MetadataError> {
    // Before anything is looked up: what is kept from now on is seen, or claimed.
    let mut marks = metadata.marks(cache).await?;
    let (roots, runs) = roots_of(metadata, cache, rules, now).await?;
    for Root { roots, worth, kind, which } in &roots {
        marks.add_roots((*roots, *worth), above, kind, which).await?;
    }
    spread(&mut marks, pace).await?;
    Ok(Marked { marks, runs })
}

/// Leaves what an earlier sweep did not find dead before `before`, and lists the rest: it goes.
pub(super) async fn list_dying(
    marks: &mut Marks,
    before: i64,
    pace: &mut Pace,
) -> Result<Extent, MetadataError> {
    let graced = (RootsOf::NotDeadBefore(before), Worth::Held);
    marks.add_roots(graced, ALL, "grace", "its grace").await?;
    spread(marks, pace).await?;
    let dying = marks.list_dying(before).await?;
    while marks.link_dying().await? {
        pace.rest().await;
    }
    Ok(dying)
}

pub(super) async fn spread(marks: &mut Marks, pace: &mut Pace) -> Result<(), MetadataError> {
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
