//! Rows of commits whose jobs pushed something, and what is reported of them.

use larder_protocol::{StorePathHash, api::CacheName};

use super::{
    Metadata, MetadataError, blob, number,
    sql::{Row, query, query_scalar},
};
use crate::identity::{Claims, RepositoryName};

/// A commit that is to be reported on.
#[derive(Debug, Clone)]
pub(crate) struct Report {
    /// Its row.
    pub id: i64,
    /// Who vouches for its jobs.
    pub issuer: String,
    /// The repository's number.
    pub repository_id: String,
    /// The branch that the commit's pull request is to go to, as a whole ref.
    pub base_ref: Option<String>,
    /// The check run, once there is one.
    pub check_run: Option<u64>,
    /// A digest of what was written into it.
    pub written: Option<String>,
    /// The caches that its runs pushed to.
    pub caches: Vec<CacheName>,
}

/// What runs pushed to a cache.
#[derive(Debug, Clone, Default)]
pub(crate) struct PushedBy {
    /// How many paths they brought.
    pub paths: u64,
    /// The size of their NARs.
    pub bytes: u64,
    /// What they want to be kept.
    pub roots: Vec<StorePathHash>,
}

/// How a prefetch went.
#[derive(Debug, Clone, Copy)]
pub(crate) struct EndedPrefetch {
    /// It was given up.
    pub failed: bool,
    /// How many paths the closure has.
    pub closure: u64,
    /// How many of them it brought.
    pub published: u64,
    /// How many no upstream has.
    pub lacking: u64,
}

/// As many roots count.
const MOST_ROOTS: u32 = 10_000;

impl Metadata {
    /// Notes that a job of a commit pushed something.
    pub(crate) async fn note_report(
        &self,
        cache: &CacheName,
        claims: &Claims,
        now: i64,
    ) -> Result<(), MetadataError> {
        let mut transaction = self.write().await?;
        let id: i64 = query_scalar(
            "INSERT INTO reports (issuer, repository_id, sha, repository, git_ref, base_ref, noted_at)
             VALUES (?, ?, ?, ?, ?, ?, ?)
             ON CONFLICT (issuer, repository_id, sha) DO UPDATE SET
                 repository = excluded.repository, git_ref = excluded.git_ref,
                 base_ref = coalesce(excluded.base_ref, reports.base_ref), noted_at = excluded.noted_at
             RETURNING id",
        )
        .bind(&claims.issuer)
        .bind(claims.repository_id.to_string())
        .bind(&claims.sha)
        .bind(claims.repository.as_str())
        .bind(claims.git_ref.as_str())
        .bind(claims.base().as_ref().map(|base| base.as_str().to_owned()))
        .bind(now)
        .fetch_one(&mut transaction)
        .await?;
        query("INSERT INTO report_runs (report, cache, run_id) VALUES (?, ?, ?) ON CONFLICT DO NOTHING")
            .bind(id)
            .bind(cache.as_str())
            .bind(claims.run_id.to_string())
            .execute(&mut transaction)
            .await?;
        transaction.commit().await?;
        Ok(())
    }

    /// The claims by which a push was made, if a job made it.
    pub(crate) async fn claims_of(&self, push: i64) -> Result<Option<Claims>, MetadataError> {
        let provenance: Option<String> = query_scalar("SELECT provenance FROM pushes WHERE id = ?")
            .bind(push)
            .fetch_optional(self.reader())
            .await?;
        Ok(provenance.and_then(|text| serde_json::from_str(&text).ok()))
    }

    /// What is to be reported of a repository's commit, if any of its jobs pushed something.
    pub(crate) async fn report(
        &self,
        repository: &RepositoryName,
        sha: &str,
    ) -> Result<Option<Report>, MetadataError> {
        const DAMAGED: MetadataError = MetadataError::Damaged("a report's row cannot be read");
        let row = query(
            "SELECT id, issuer, repository_id, base_ref, check_run_id, written FROM reports
             WHERE lower(repository) = lower(?) AND sha = ? ORDER BY noted_at DESC LIMIT 1",
        )
        .bind(repository.as_str())
        .bind(sha)
        .fetch_optional(self.reader())
        .await?;
        let Some(row) = row else { return Ok(None) };
        let id: i64 = row.try_get("id")?;
        let caches: Vec<String> =
            query_scalar("SELECT DISTINCT cache FROM report_runs WHERE report = ? ORDER BY cache LIMIT 20")
                .bind(id)
                .fetch_all(self.reader())
                .await?;
        Ok(Some(Report {
            id,
            issuer: row.try_get("issuer")?,
            repository_id: row.try_get("repository_id")?,
            base_ref: row.try_get("base_ref")?,
            check_run: row.try_get::<Option<i64>>("check_run_id")?.map(number).transpose()?,
            written: row.try_get("written")?,
            caches: caches.iter().map(|name| name.parse()).collect::<Result<_, _>>().map_err(|_| DAMAGED)?,
        }))
    }

    /// How the last prefetch went that a push of the commit caused in a cache, if it is over.
    pub(crate) async fn prefetch_of_commit(
        &self,
        cache: &CacheName,
        repository: &RepositoryName,
        sha: &str,
    ) -> Result<Option<EndedPrefetch>, MetadataError> {
        let row = query(
            "SELECT state, closure, published, lacking FROM prefetches
             WHERE repository_key = lower(?) AND commit_sha = ? AND cache = ?
               AND state IN ('complete', 'incomplete', 'failed') ORDER BY requested_at DESC, id DESC LIMIT 1",
        )
        .bind(repository.as_str())
        .bind(sha)
        .bind(cache.as_str())
        .fetch_optional(self.reader())
        .await?;
        row.map(|row| {
            Ok(EndedPrefetch {
                failed: row.try_get::<&str>("state")? == "failed",
                closure: number(row.try_get("closure")?)?,
                published: number(row.try_get("published")?)?,
                lacking: number(row.try_get("lacking")?)?,
            })
        })
        .transpose()
    }

    /// Notes what was written into which check run.
    pub(crate) async fn note_written(
        &self,
        id: i64,
        check_run: u64,
        digest: &str,
    ) -> Result<(), MetadataError> {
        let mut transaction = self.write().await?;
        query("UPDATE reports SET check_run_id = ?, written = ? WHERE id = ?")
            .bind(i64::try_from(check_run).unwrap_or(i64::MAX))
            .bind(digest)
            .bind(id)
            .execute(&mut transaction)
            .await?;
        transaction.commit().await?;
        Ok(())
    }

    /// The commits whose run that is.
    pub(crate) async fn commits_of_run(
        &self,
        repository: &RepositoryName,
        run: u64,
    ) -> Result<Vec<String>, MetadataError> {
        Ok(query_scalar(
            "SELECT DISTINCT p.sha FROM reports p JOIN report_runs r ON r.report = p.id
             WHERE lower(p.repository) = lower(?) AND r.run_id = ? LIMIT 20",
        )
        .bind(repository.as_str())
        .bind(run.to_string())
        .fetch_all(self.reader())
        .await?)
    }

    /// What the runs of a commit pushed to a cache. What they pushed blindly is left out, here and below: its roots would
    /// be found as they stand in the cache, and that is not for who pushed them.
    pub(crate) async fn pushed_for(
        &self,
        report: &Report,
        cache: &CacheName,
    ) -> Result<PushedBy, MetadataError> {
        const PUSHES: &str = "SELECT u.id FROM report_runs r
             JOIN runs n ON n.cache = r.cache AND n.run_id = r.run_id
             JOIN pushes u ON u.run = n.id AND u.state = 'committed' AND u.blind IS NULL
             WHERE r.report = ?1 AND r.cache = ?2 AND n.issuer = ?3 AND n.repository_id = ?4";
        let sums = format!(
            "SELECT count(*) AS paths, CAST(coalesce(sum(nar_size), 0) AS BIGINT) AS bytes FROM paths
             WHERE hidden = 0 AND push IN ({PUSHES})"
        );
        let roots = format!(
            "SELECT DISTINCT hash FROM push_roots WHERE push IN ({PUSHES}) ORDER BY hash LIMIT {MOST_ROOTS}"
        );
        let of_report = |text: String| {
            let query = query(text).bind(report.id).bind(cache.as_str());
            query.bind(&report.issuer).bind(&report.repository_id)
        };
        let row = of_report(sums).fetch_one(self.reader()).await?;
        let roots = hashes(&of_report(roots).fetch_all(self.reader()).await?)?;
        Ok(PushedBy { paths: number(row.try_get("paths")?)?, bytes: number(row.try_get("bytes")?)?, roots })
    }

    /// What a ref had before a commit's runs: the roots of the last run on it, of each workflow that ran for the commit,
    /// that did not fail and is not the commit's own.
    pub(crate) async fn roots_before(
        &self,
        report: &Report,
        cache: &CacheName,
        git_ref: &str,
    ) -> Result<Vec<StorePathHash>, MetadataError> {
        let rows = query(
            "SELECT DISTINCT t.hash FROM push_roots t JOIN pushes u ON u.id = t.push AND u.state = 'committed' AND u.blind IS NULL
             WHERE u.run IN (
                 SELECT max(b.id) FROM runs b
                 WHERE b.cache = ?1 AND b.issuer = ?2 AND b.repository_id = ?3 AND b.git_ref = ?4
                   AND b.pushed_at IS NOT NULL AND coalesce(b.conclusion, 'success') = 'success'
                   AND b.run_id NOT IN (SELECT run_id FROM report_runs WHERE report = ?5)
                   AND b.workflow IN (
                       SELECT n.workflow FROM report_runs r JOIN runs n ON n.cache = r.cache AND n.run_id = r.run_id
                       WHERE r.report = ?5 AND n.issuer = ?2 AND n.repository_id = ?3)
                   AND b.pushed_at <= (
                       SELECT coalesce(max(n.pushed_at), 0) FROM report_runs r
                       JOIN runs n ON n.cache = r.cache AND n.run_id = r.run_id
                       WHERE r.report = ?5 AND n.issuer = ?2 AND n.repository_id = ?3)
                 GROUP BY b.workflow)
             ORDER BY t.hash LIMIT ?6",
        )
        .bind(cache.as_str())
        .bind(&report.issuer)
        .bind(&report.repository_id)
        .bind(git_ref)
        .bind(report.id)
        .bind(MOST_ROOTS)
        .fetch_all(self.reader())
        .await?;
        hashes(&rows)
    }

    /// Forgets commits of which nothing new came since.
    pub(crate) async fn forget_reports(&self, before: i64) -> Result<(), MetadataError> {
        loop {
            let mut transaction = self.write().await?;
            let forgotten = query(
                "DELETE FROM reports WHERE id IN (SELECT id FROM reports WHERE noted_at < ? LIMIT 200)",
            )
            .bind(before)
            .execute(&mut transaction)
            .await?
            .rows_affected();
            transaction.commit().await?;
            if forgotten < 200 {
                return Ok(());
            }
        }
    }
}

fn hashes(rows: &[Row]) -> Result<Vec<StorePathHash>, MetadataError> {
    rows.iter().map(|row| Ok(StorePathHash(blob(row.try_get("hash")?)?))).collect()
}
