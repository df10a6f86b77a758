//! Opening a push: its row, what it stages and what it leases.

use super::super::sql::{QueryBuilder, Transaction, query, query_scalar};
use std::collections::HashSet;

use larder_protocol::{
    StorePath, StorePathHash,
    api::{CacheName, PathInfo, PushId},
};

use super::{
    super::{
        BATCH, Metadata, MetadataError, audit,
        divergences::{self, NewDivergence},
        isolated::count_paths,
        number,
        paths::join,
        runs::{PushingRun, note_committed, note_run},
    },
    FoundPush,
    commit::committed_entry,
    lease::lease,
};
use crate::{audit::Who, config::OpenPushes, trust::Rank};

/// A push that is to be opened.
#[derive(Debug)]
pub struct NewPush<'a> {
    /// Its name.
    pub name: PushId,
    /// Where it goes.
    pub cache: &'a CacheName,
    /// Whether that is a cache that everybody may read.
    pub public: bool,
    /// Where it is a pull request's: its row, and how many paths may be staged in it.
    pub isolated: Option<(i64, u64)>,
    /// Whose it is.
    pub owner: &'a str,
    /// The verified claims, as JSON.
    pub provenance: &'a str,
    /// Who opens it, for the audit log.
    pub who: &'a Who,
    /// The run that it is of, where a job pushes.
    pub run: Option<PushingRun>,
    /// By what rank its paths stand.
    pub rank: Rank,
    /// What it brings.
    pub staged: Vec<Staged<'a>>,
    /// Whether it is told nothing of what the cache has.
    pub blind: bool,
    /// Visible paths with their rows, which must stay until the push ends.
    pub leased: Vec<(i64, StorePathHash)>,
    /// Those of them that are the parent's, where the cache is a pull request's: they count in its bound.
    pub of_parent: HashSet<i64>,
    /// What is to be kept.
    pub roots: Vec<StorePathHash>,
    /// What its job says that it built.
    pub built: HashSet<StorePathHash>,
    /// What it offers with another content than what stands, and is not taken.
    pub divergences: Vec<NewDivergence>,
    /// How many of its paths an upstream should have been asked about, and did not answer.
    pub unasked: u64,
}

/// A path that a push brings: the cache lacks it, or it takes the place of what the cache has.
#[derive(Debug)]
pub struct Staged<'a> {
    /// What is said of it.
    pub info: &'a PathInfo,
    /// The row of its NAR, where that is stored already and nothing of it is left to be checked.
    pub nar: Option<i64>,
    /// Whether an admin says that it is to stand, whatever the ranks.
    pub ordered: bool,
    /// Whether its contents must be checked against its content address.
    pub unproven: bool,
}

/// How opening a push ended.
#[derive(Debug)]
pub enum OpenOutcome {
    /// It is open, or committed already.
    Opened(FoundPush),
    /// It brings a pull request's cache nothing, and nothing of it is stored.
    Nothing,
    /// So many are open, and no more may be.
    TooMany(FullOf),
    /// The pull request's cache may take no more paths.
    CacheFull,
    /// The pull request's cache is being removed.
    CacheGone,
}

/// Of what there are too many.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FullOf {
    /// Open pushes of this identity.
    Identity,
    /// Open pushes in this cache.
    Cache,
    /// Open pushes in all.
    All,
}

/// An open push that no request has touched for so long, in seconds, is abandoned: it counts no more, so that clients
/// that died keep nobody away. As long as a session lives.
const ABANDONED_AFTER: i64 = 15 * 60;

/// The row of a push that has none.
const NONE: i64 = 0;

impl Metadata {
    /// Opens a push: stages its paths, leases what is there. Commits it in the same moment if nothing is staged. If
    /// too many are open, nothing is done.
    ///
    /// # Errors
    /// [`MetadataError::is_gone`] if a path that was to be leased, or a NAR that is to be had again, is there no more.
    pub async fn open_push(
        &self,
        push: &NewPush<'_>,
        limits: OpenPushes,
        now: i64,
    ) -> Result<OpenOutcome, MetadataError> {
        let committed = push.staged.is_empty();
        let blind = push.blind.then_some(push.staged.len() as u64);
        let mut transaction = self.write().await?;
        if !committed && let Some(full) = full(&mut transaction, push, limits, now).await? {
            return Ok(OpenOutcome::TooMany(full));
        }
        if let Some((cache, max)) = push.isolated {
            let relied_on = relied_on(&mut transaction, push).await?;
            let staged = rows_of(push);
            if !committed && staged + relied_on > max {
                return Ok(OpenOutcome::CacheFull);
            }
            match count_paths(&mut transaction, cache, staged, max.saturating_sub(relied_on)).await {
                Ok(true) => {}
                Ok(false) => return Ok(OpenOutcome::CacheFull),
                Err(MetadataError::Gone) => return Ok(OpenOutcome::CacheGone),
                Err(error) => return Err(error),
            }
        }
        if committed && push.isolated.is_some() {
            // Rows of such a cache stay as long as it does.
            for batch in push.leased.chunks(BATCH) {
                lease(&mut transaction, NONE, batch, false).await?;
            }
            transaction.commit().await?;
            return Ok(OpenOutcome::Nothing);
        }
        let run = match &push.run {
            Some(run) => Some(note_run(&mut transaction, push.cache, run).await?),
            None => None,
        };
        // Rows that follow name it. Until the last batch is in, nobody knows its name.
        let id: i64 = query_scalar(
            "INSERT INTO pushes (name, cache, owner, provenance, blind, state, opened_at, active_at, committed_at, run, unasked)
             VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?) RETURNING id",
        )
        .bind(&push.name.0[..])
        .bind(push.cache.as_str())
        .bind(push.owner)
        .bind(push.provenance)
        .bind(blind.map(|paths| i64::try_from(paths).unwrap_or(i64::MAX)))
        .bind(if committed { "committed" } else { "open" })
        .bind(now)
        .bind(now)
        .bind(committed.then_some(now))
        .bind(run)
        .bind(i64::try_from(push.unasked).unwrap_or(i64::MAX))
        .fetch_one(&mut transaction)
        .await?;
        // What a pull request brings must not fill the filter by which others are answered; what a private cache gets
        // must not show there.
        if push.public && push.isolated.is_none() {
            let hashes: Vec<StorePathHash> =
                push.staged.iter().map(|staged| staged.info.path.hash()).collect();
            self.may_soon_have(&hashes);
        }
        for batch in push.staged.chunks(BATCH) {
            let mut insert = QueryBuilder::new(
                "INSERT INTO paths (cache, hash, name, push, nar_hash, nar_size, nar, refs, deriver, ca, signatures,
                     built, rank, ordered, unproven) ",
            );
            insert.push_values(batch, |mut row, Staged { info, nar, ordered, unproven }| {
                row.push_bind(push.cache.as_str())
                    .push_bind(info.path.hash().0.to_vec())
                    .push_bind(info.path.name())
                    .push_bind(id)
                    .push_bind(&info.nar_hash.0[..])
                    .push_bind(i64::try_from(info.nar_size).unwrap_or(i64::MAX))
                    // It may have gone since it was looked for, and its number to another.
                    .push("(SELECT n.id FROM nars n WHERE n.complete = 1 AND n.id = ")
                    .push_bind_unseparated(*nar)
                    .push_unseparated(" AND n.hash = ")
                    .push_bind_unseparated(&info.nar_hash.0[..])
                    .push_unseparated(")")
                    .push_bind(join(&info.references))
                    .push_bind(info.deriver.as_ref().map(StorePath::to_string))
                    .push_bind(info.ca.as_deref())
                    .push_bind(join(&info.signatures))
                    .push_bind(push.built.contains(&info.path.hash()))
                    .push_bind(i64::from(push.rank))
                    .push_bind(*ordered)
                    .push_bind(*unproven);
            });
            insert.build().persistent(false).execute(&mut transaction).await?;
            transaction.commit().await?;
            transaction = self.write().await?;
        }
        let reused: i64 = query_scalar("SELECT count(*) FROM paths WHERE push = ? AND nar IS NOT NULL")
            .bind(id)
            .fetch_one(&mut transaction)
            .await?;
        if number(reused)? < push.staged.iter().filter(|staged| staged.nar.is_some()).count() as u64 {
            return Err(MetadataError::Gone);
        }
        for batch in push.leased.chunks(BATCH) {
            // A push that ends in this moment needs no leases: what it relies on is claimed.
            lease(&mut transaction, id, batch, !committed).await?;
            if !committed {
                transaction.commit().await?;
                transaction = self.write().await?;
            }
        }
        for batch in push.roots.chunks(BATCH) {
            let mut insert = QueryBuilder::new("INSERT INTO push_roots (push, hash) ");
            insert.push_values(batch, |mut row, hash| {
                row.push_bind(id).push_bind(&hash.0[..]);
            });
            insert.build().persistent(false).execute(&mut transaction).await?;
        }
        divergences::note(&mut transaction, id, &push.divergences, now).await?;
        if committed {
            note_committed(&mut transaction, id, now).await?;
            let entry = committed_entry(&mut transaction, id, push.who).await?;
            audit::record(&mut transaction, &entry, now).await?;
        }
        transaction.commit().await?;
        Ok(OpenOutcome::Opened(FoundPush { id, name: push.name, committed, blind }))
    }
}

/// How many rows a push to a pull request's cache has beside its own: what it stages, what is not taken, and what it
/// wants kept of what is there.
fn rows_of(push: &NewPush<'_>) -> u64 {
    if push.staged.is_empty() {
        return 0;
    }
    let staged: HashSet<StorePathHash> = push.staged.iter().map(|staged| staged.info.path.hash()).collect();
    let present = push.roots.iter().filter(|root| !staged.contains(root)).count();
    (push.staged.len() + push.divergences.len() + present) as u64
}

/// How many paths of its parent a pull request's cache keeps once this push is open, each counted once.
async fn relied_on(transaction: &mut Transaction, push: &NewPush<'_>) -> Result<u64, MetadataError> {
    if push.staged.is_empty() {
        return Ok(0);
    }
    let before: Vec<i64> = query_scalar(
        "SELECT DISTINCT l.path FROM pushes u JOIN leases l ON l.push = u.id JOIN paths p ON p.id = l.path
         WHERE u.cache = ?1 AND u.abandoned_at IS NULL AND p.cache <> ?1",
    )
    .bind(push.cache.as_str())
    .fetch_all(&mut *transaction)
    .await?;
    let new = push.of_parent.len() - before.iter().filter(|path| push.of_parent.contains(path)).count();
    Ok((before.len() + new) as u64)
}

/// Whether so many pushes are open that no more may be.
async fn full(
    transaction: &mut Transaction,
    push: &NewPush<'_>,
    limits: OpenPushes,
    now: i64,
) -> Result<Option<FullOf>, MetadataError> {
    let row = query(
        "SELECT count(*), count(CASE WHEN cache = ? THEN 1 END), count(CASE WHEN owner = ? THEN 1 END) FROM pushes
         WHERE state = 'open' AND abandoned_at IS NULL AND active_at > ?",
    )
    .bind(push.cache.as_str())
    .bind(push.owner)
    .bind(now.saturating_sub(ABANDONED_AFTER))
    .fetch_one(&mut *transaction)
    .await?;
    for (column, limit, full) in [
        (2, limits.per_identity, FullOf::Identity),
        (1, limits.per_cache, FullOf::Cache),
        (0, limits.in_all, FullOf::All),
    ] {
        if number(row.try_get(column)?)? >= u64::from(limit) {
            return Ok(Some(full));
        }
    }
    Ok(None)
}
