//! Rows of the workflow runs that pushed.

use std::collections::HashSet;

use larder_protocol::{StorePathHash, api::CacheName};
use serde::{Deserialize, Serialize};

use super::{
    Metadata, MetadataError, audit, blob,
    sql::{Transaction, query, query_scalar},
};
use crate::audit::{Entry, Event, Who};

/// The run that a push is of, from its verified claims.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PushingRun {
    /// Who says so.
    pub issuer: String,
    /// The repository's number, which stays when it is renamed.
    pub repository_id: String,
    /// Its name at the moment.
    pub repository: String,
    /// The ref.
    pub git_ref: String,
    /// Whether it is protected.
    pub ref_protected: bool,
    /// The workflow's file.
    pub workflow: String,
    /// The run's number.
    pub run_id: String,
}

/// A run that has pushed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PushedRun {
    /// Its row.
    pub id: i64,
    /// Which it is.
    pub run: PushingRun,
    /// When it last committed a push.
    pub pushed_at: i64,
    /// Whether it is known to have failed, or to have been cancelled.
    pub failed: bool,
}

/// Notes the run that a push is of, and tells its row.
pub(super) async fn note_run(
    transaction: &mut Transaction,
    cache: &CacheName,
    run: &PushingRun,
) -> Result<i64, MetadataError> {
    Ok(query_scalar(
        "INSERT INTO runs (cache, issuer, repository_id, repository, git_ref, ref_protected, workflow, run_id)
         VALUES (?, ?, ?, ?, ?, ?, ?, ?)
         ON CONFLICT (cache, issuer, repository_id, git_ref, workflow, run_id)
         DO UPDATE SET repository = excluded.repository, ref_protected = excluded.ref_protected
         RETURNING id",
    )
    .bind(cache.as_str())
    .bind(&run.issuer)
    .bind(&run.repository_id)
    .bind(&run.repository)
    .bind(&run.git_ref)
    .bind(run.ref_protected)
    .bind(&run.workflow)
    .bind(&run.run_id)
    .fetch_one(&mut *transaction)
    .await?)
}

/// Notes that a push was committed, for the run that it is of. What older runs of the same line keep may be kept anew
/// by that.
pub(super) async fn note_committed(
    transaction: &mut Transaction,
    push: i64,
    now: i64,
) -> Result<(), MetadataError> {
    let run: Option<i64> =
        query_scalar("SELECT run FROM pushes WHERE id = ?").bind(push).fetch_one(&mut *transaction).await?;
    let Some(run) = run else { return Ok(()) };
    query("UPDATE runs SET pushed_at = ?, dropped_at = NULL WHERE id = ?")
        .bind(now)
        .bind(run)
        .execute(&mut *transaction)
        .await?;
    super::concluded::reopen_run(transaction, run).await?;
    keep_line_anew(transaction, run).await
}

/// Has sweeps that are under way know that runs of this run's line may keep what they pushed, though it was found dead.
pub(super) async fn keep_line_anew(transaction: &mut Transaction, run: i64) -> Result<(), MetadataError> {
    query(
        "INSERT INTO claimed_paths (path)
         SELECT DISTINCT p.id FROM runs r
         JOIN runs o ON o.cache = r.cache AND o.issuer = r.issuer AND o.repository_id = r.repository_id
             AND o.git_ref = r.git_ref AND o.workflow = r.workflow
         JOIN pushes u ON u.run = o.id AND u.state = 'committed' AND u.dropped_at IS NULL
         JOIN push_roots t ON t.push = u.id
         JOIN paths p ON p.cache = u.cache AND p.hash = t.hash AND p.dead_since IS NOT NULL
         WHERE r.id = ? ON CONFLICT DO NOTHING",
    )
    .bind(run)
    .execute(&mut *transaction)
    .await?;
    // Since when they are dead stays: the next sweep's marking knows better which of them are kept. Otherwise a line that is
    // pushed to more often than its grace would never let go of anything.
    Ok(())
}

impl Metadata {
    /// The runs that pushed to a cache and that nobody dropped: line by line (issuer, repository, ref, workflow), of each
    /// line the latest first.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn pushed_runs(&self, cache: &CacheName) -> Result<Vec<PushedRun>, MetadataError> {
        let rows = query(
            "SELECT id, issuer, repository_id, repository, git_ref, ref_protected, workflow, run_id, pushed_at,
                 coalesce(conclusion, 'success') <> 'success' AS failed
             FROM runs WHERE cache = ? AND pushed_at IS NOT NULL AND dropped_at IS NULL
             ORDER BY issuer, repository_id, git_ref, workflow, pushed_at DESC, id DESC",
        )
        .bind(cache.as_str())
        .fetch_all(self.reader())
        .await?;
        rows.iter()
            .map(|row| {
                Ok(PushedRun {
                    id: row.try_get("id")?,
                    run: PushingRun {
                        issuer: row.try_get("issuer")?,
                        repository_id: row.try_get("repository_id")?,
                        repository: row.try_get("repository")?,
                        git_ref: row.try_get("git_ref")?,
                        ref_protected: row.try_get("ref_protected")?,
                        workflow: row.try_get("workflow")?,
                        run_id: row.try_get("run_id")?,
                    },
                    pushed_at: row.try_get("pushed_at")?,
                    failed: row.try_get("failed")?,
                })
            })
            .collect()
    }

    /// The pushes of all runs on the protected ref that this run was on.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn pushes_from_ref_of(
        &self,
        cache: &CacheName,
        run: &PushingRun,
    ) -> Result<HashSet<i64>, MetadataError> {
        let pushes = query_scalar(
            "SELECT u.id FROM runs r JOIN pushes u ON u.run = r.id AND u.state = 'committed'
             WHERE r.cache = ? AND r.issuer = ? AND r.repository_id = ? AND r.git_ref = ? AND r.ref_protected = 1",
        );
        let pushes =
            pushes.bind(cache.as_str()).bind(&run.issuer).bind(&run.repository_id).bind(&run.git_ref);
        Ok(pushes.fetch_all(self.reader()).await?.into_iter().collect())
    }

    /// The roots of all that a run has pushed.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn roots_of_run(&self, run: i64) -> Result<Vec<StorePathHash>, MetadataError> {
        let rows = query(
            "SELECT DISTINCT t.hash AS hash FROM pushes u JOIN push_roots t ON t.push = u.id
             WHERE u.run = ? AND u.state = 'committed' AND u.dropped_at IS NULL ORDER BY t.hash",
        )
        .bind(run)
        .fetch_all(self.reader())
        .await?;
        rows.iter().map(|row| Ok(StorePathHash(blob(row.try_get("hash")?)?))).collect()
    }

    /// Lets go of what the runs of a repository's ref keep, as if the ref were deleted: of all workflows, and of all refs
    /// if none is named. What is pushed from there later is kept again. Tells how many runs that were.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn drop_roots(
        &self,
        cache: &CacheName,
        repository: &str,
        git_ref: Option<&str>,
        who: &Who,
        now: i64,
    ) -> Result<u64, MetadataError> {
        let mut transaction = self.write().await?;
        query(
            "UPDATE pushes SET dropped_at = ?1 WHERE state = 'committed' AND dropped_at IS NULL AND run IN (
                 SELECT id FROM runs WHERE cache = ?2 AND lower(repository) = lower(?3) AND git_ref = coalesce(?4, git_ref))",
        )
        .bind(now)
        .bind(cache.as_str())
        .bind(repository)
        .bind(git_ref)
        .execute(&mut transaction)
        .await?;
        let dropped = query(
            "UPDATE runs SET dropped_at = ?1 WHERE dropped_at IS NULL AND pushed_at IS NOT NULL
             AND cache = ?2 AND lower(repository) = lower(?3) AND git_ref = coalesce(?4, git_ref)",
        )
        .bind(now)
        .bind(cache.as_str())
        .bind(repository)
        .bind(git_ref)
        .execute(&mut transaction)
        .await?
        .rows_affected();
        let event = Event::RootsDropped {
            repository: repository.to_owned(),
            git_ref: git_ref.map(str::to_owned),
            runs: dropped,
        };
        audit::record(&mut transaction, &Entry::in_cache(cache, who.clone(), event), now).await?;
        transaction.commit().await?;
        Ok(dropped)
    }
}
