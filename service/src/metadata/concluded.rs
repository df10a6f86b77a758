//! How runs ended, what they are called, and letting go of what the runs of a ref keep.

use larder_protocol::{StorePath, StorePathHash, api::CacheName};

use super::{
    Metadata, MetadataError, audit, blob,
    runs::keep_line_anew,
    sql::{Row, Transaction, query, query_scalar},
};
use crate::{
    audit::{Entry, Event, Who},
    forge::Conclusion,
    identity::{GitRef, RepositoryName},
};

/// A run whose end was noted.
#[derive(Debug, Clone)]
pub struct ConcludedRun {
    /// The cache that it pushed to.
    pub cache: CacheName,
    /// The ref that it ran on.
    pub git_ref: String,
}

/// Whose runs are meant: those that this issuer vouches for, of the repository of this name.
#[derive(Debug, Clone, Copy)]
pub struct RunsOf<'a> {
    /// Who vouches for them.
    pub issuer: &'a str,
    /// The repository.
    pub repository: &'a RepositoryName,
}

impl Metadata {
    /// Notes how an attempt at a run ended, where it pushed something; what another attempt came to later stays. A run
    /// that failed keeps less than before, and older ones of its line may keep theirs anew.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn conclude_pushed_run(
        &self,
        of: RunsOf<'_>,
        run: u64,
        attempt: u64,
        conclusion: Conclusion,
    ) -> Result<Vec<ConcludedRun>, MetadataError> {
        let attempt = i64::try_from(attempt).unwrap_or(i64::MAX);
        let mut transaction = self.write().await?;
        let rows = query(
            "UPDATE runs SET conclusion = ?, concluded_attempt = ?
             WHERE issuer = ? AND lower(repository) = lower(?) AND run_id = ?
               AND coalesce(concluded_attempt, 0) <= ? RETURNING id, cache, git_ref",
        )
        .bind(conclusion.as_str())
        .bind(attempt)
        .bind(of.issuer)
        .bind(of.repository.as_str())
        .bind(run.to_string())
        .bind(attempt)
        .fetch_all(&mut transaction)
        .await?;
        let mut concluded = Vec::with_capacity(rows.len());
        for row in rows {
            keep_line_anew(&mut transaction, row.try_get("id")?).await?;
            let damaged = |_| MetadataError::Damaged("a run's cache has no name that one could have");
            let cache = row.try_get::<&str>("cache")?.parse().map_err(damaged)?;
            concluded.push(ConcludedRun { cache, git_ref: row.try_get("git_ref")? });
        }
        transaction.commit().await?;
        Ok(concluded)
    }

    /// Lets go of what runs of a ref (of all, if none is named) pushed to a cache up to `before`; where the repository's
    /// number is known, of no other one's that was called the same. Tells how many runs keep nothing any more.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn drop_roots_before(
        &self,
        cache: &CacheName,
        of: RunsOf<'_>,
        repository_id: Option<u64>,
        git_ref: Option<&GitRef>,
        before: i64,
        now: i64,
    ) -> Result<u64, MetadataError> {
        const THEIRS: &str = "cache = ?2 AND issuer = ?3 AND lower(repository) = lower(?4)
             AND git_ref = coalesce(?5, git_ref) AND pushed_at <= ?6
             AND repository_id = coalesce(?7, repository_id)";
        let mut transaction = self.write().await?;
        let pushes = format!(
            "UPDATE pushes SET dropped_at = ?1 WHERE state = 'committed' AND dropped_at IS NULL
             AND run IN (SELECT id FROM runs WHERE {THEIRS})"
        );
        let runs = format!("UPDATE runs SET dropped_at = ?1 WHERE dropped_at IS NULL AND {THEIRS}");
        let mut dropped = 0;
        for statement in [pushes, runs] {
            dropped = query(statement)
                .bind(now)
                .bind(cache.as_str())
                .bind(of.issuer)
                .bind(of.repository.as_str())
                .bind(git_ref.map(GitRef::as_str))
                .bind(before)
                .bind(repository_id.map(|id| id.to_string()))
                .execute(&mut transaction)
                .await?
                .rows_affected();
        }
        if dropped > 0 {
            let event = Event::RootsDropped {
                repository: of.repository.to_string(),
                git_ref: git_ref.map(ToString::to_string),
                runs: dropped,
            };
            audit::record(&mut transaction, &Entry::in_cache(cache, Who::default(), event), now).await?;
        }
        transaction.commit().await?;
        Ok(dropped)
    }

    /// The numbers that jobs of the repository have been vouched for with, by their tokens.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn repository_ids(&self, of: RunsOf<'_>) -> Result<Vec<u64>, MetadataError> {
        let rows: Vec<String> = query_scalar(
            "SELECT DISTINCT repository_id FROM runs WHERE issuer = ? AND lower(repository) = lower(?) LIMIT 100",
        )
        .bind(of.issuer)
        .bind(of.repository.as_str())
        .fetch_all(self.reader())
        .await?;
        Ok(rows.iter().filter_map(|id| id.parse().ok()).collect())
    }

    /// Has runs and manifests of a repository that is called otherwise now show its new name. Only what its own number
    /// was vouched for is renamed.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn rename_repository(
        &self,
        of: RunsOf<'_>,
        id: u64,
        to: &RepositoryName,
    ) -> Result<u64, MetadataError> {
        let mut transaction = self.write().await?;
        let runs = query(
            "UPDATE runs SET repository = ? WHERE issuer = ? AND lower(repository) = lower(?) AND repository_id = ?",
        )
        .bind(to.as_str())
        .bind(of.issuer)
        .bind(of.repository.as_str())
        .bind(id.to_string())
        .execute(&mut transaction)
        .await?
        .rows_affected();
        let manifests = query(
            "UPDATE manifests SET repository = ?, repository_key = lower(?)
             WHERE issuer = ? AND repository_key = lower(?) AND repository_id = ?",
        )
        .bind(to.as_str())
        .bind(to.as_str())
        .bind(of.issuer)
        .bind(of.repository.as_str())
        .bind(i64::try_from(id).unwrap_or(i64::MAX))
        .execute(&mut transaction)
        .await?
        .rows_affected();
        transaction.commit().await?;
        Ok(runs + manifests)
    }

    /// What the runs of a ref keep in a cache that did not fail, as far as readers see it: the oldest first, at most so
    /// many.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn roots_of_ref(
        &self,
        cache: &CacheName,
        of: RunsOf<'_>,
        git_ref: &GitRef,
        most: u32,
    ) -> Result<Vec<StorePath>, MetadataError> {
        let rows = query(
            "SELECT p.hash, p.name, max(u.committed_at) AS at FROM runs r
             JOIN pushes u ON u.run = r.id AND u.state = 'committed' AND u.dropped_at IS NULL
             JOIN push_roots t ON t.push = u.id
             JOIN paths p ON p.cache = u.cache AND p.hash = t.hash AND p.hidden = 0
             JOIN pushes b ON b.id = p.push AND b.state = 'committed'
             WHERE r.cache = ? AND r.issuer = ? AND lower(r.repository) = lower(?) AND r.git_ref = ?
               AND r.dropped_at IS NULL AND coalesce(r.conclusion, 'success') = 'success'
             GROUP BY p.hash, p.name ORDER BY at DESC, p.hash LIMIT ?",
        )
        .bind(cache.as_str())
        .bind(of.issuer)
        .bind(of.repository.as_str())
        .bind(git_ref.as_str())
        .bind(most)
        .fetch_all(self.reader())
        .await?;
        let path = |row: &Row| {
            let hash = StorePathHash(blob(row.try_get("hash")?)?);
            let name: &str = row.try_get("name")?;
            StorePath::new(hash, name)
                .map_err(|_| MetadataError::Damaged("a path has no name that one could have"))
        };
        rows.iter().rev().map(path).collect()
    }
}

/// Forgets how a run ended, since it goes on.
pub(super) async fn reopen_run(transaction: &mut Transaction, run: i64) -> Result<(), MetadataError> {
    query("UPDATE runs SET conclusion = NULL WHERE id = ? AND conclusion <> 'success'")
        .bind(run)
        .execute(&mut *transaction)
        .await?;
    Ok(())
}
