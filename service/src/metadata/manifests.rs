//! Rows of manifests.

use std::collections::HashSet;

use futures_util::TryStreamExt as _;
use larder_protocol::{StorePath, api::CacheName, manifest::Manifest};

use super::{
    Metadata, MetadataError, number,
    sql::{Row, query},
};
use crate::{
    forge::Conclusion,
    identity::{Claims, GitRef, RepositoryName},
};

/// How many runs of a workflow on a ref are remembered.
const KEEP_RUNS: i64 = 10;
/// At most so many manifests are given at once: the jobs of a run.
const MAX_GIVEN: i64 = 256;
/// At most so many bytes of paths are given at once.
const MAX_GIVEN_BYTES: usize = 16 << 20;

/// At most so many paths are wanted at once.
const MAX_WANTED: usize = 100_000;

/// Whose manifests say what is wanted.
#[derive(Debug, Clone, Copy)]
pub(crate) enum WantedBy<'a> {
    /// Those of the newest run of each workflow on a ref.
    Ref(&'a GitRef),
    /// All of a run's, whichever attempt or job.
    Run(u64),
}

/// Whose manifests are meant.
#[derive(Debug, Clone, Copy)]
pub(crate) struct ManifestsOf<'a> {
    /// Who vouches for the jobs, unless it may be anyone.
    pub issuer: Option<&'a str>,
    /// What the repository is called.
    pub repository: &'a RepositoryName,
    /// Its number, where that is known: another one of that name is not meant.
    pub repository_id: Option<u64>,
}

/// Which manifests somebody may be told of.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Told<'a> {
    /// All.
    All,
    /// Those of public repositories.
    Public,
    /// Those too of the repository that this issuer has this number for.
    PublicAnd(&'a str, u64),
}

/// A manifest that is to be stored.
#[derive(Debug)]
pub(crate) struct NewManifest<'a> {
    /// The cache that the job's session is for.
    pub cache: &'a CacheName,
    /// Whose it is: a later one replaces an earlier one of the same.
    pub owner: &'a str,
    /// Who the job is.
    pub claims: &'a Claims,
    /// The workflow's file, or what stands for it.
    pub workflow: &'a str,
    /// The system that it built for.
    pub system: &'a str,
    /// What it built.
    pub built: &'a [StorePath],
    /// What it substituted.
    pub substituted: &'a [StorePath],
}

impl Metadata {
    /// Stores a manifest, and forgets those of runs that nobody needs any more.
    pub(crate) async fn store_manifest(
        &self,
        manifest: &NewManifest<'_>,
        now: i64,
    ) -> Result<(), MetadataError> {
        let NewManifest { cache, owner, claims, workflow, system, built, substituted } = *manifest;
        let mut transaction = self.write().await?;
        query("DELETE FROM manifests WHERE cache = ? AND owner = ?")
            .bind(cache.as_str())
            .bind(owner)
            .execute(&mut transaction)
            .await?;
        query(
            "INSERT INTO manifests (cache, owner, issuer, repository, repository_key, repository_id, public, git_ref,
                 commit_sha, workflow, run_id, run_attempt, check_run_id, system, built, substituted, reported_at)
             VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
        )
        .bind(cache.as_str())
        .bind(owner)
        .bind(&claims.issuer)
        .bind(claims.repository.as_str())
        .bind(key(&claims.repository))
        .bind(signed(claims.repository_id)?)
        .bind(i64::from(claims.is_public()))
        .bind(claims.git_ref.as_str())
        .bind(&claims.sha)
        .bind(workflow)
        .bind(signed(claims.run_id)?)
        .bind(signed(claims.run_attempt)?)
        .bind(claims.check_run_id.map(signed).transpose()?)
        .bind(system)
        .bind(joined(built))
        .bind(joined(substituted))
        .bind(now)
        .execute(&mut transaction)
        .await?;
        query(
            "DELETE FROM manifests
             WHERE cache = ?1 AND issuer = ?2 AND repository_id = ?3 AND git_ref = ?4 AND workflow = ?5
                 AND run_id NOT IN (
                     SELECT DISTINCT run_id FROM manifests
                     WHERE cache = ?1 AND issuer = ?2 AND repository_id = ?3 AND git_ref = ?4 AND workflow = ?5
                     ORDER BY run_id DESC LIMIT ?6)",
        )
        .bind(cache.as_str())
        .bind(&claims.issuer)
        .bind(signed(claims.repository_id)?)
        .bind(claims.git_ref.as_str())
        .bind(workflow)
        .bind(KEEP_RUNS)
        .execute(&mut transaction)
        .await?;
        transaction.commit().await?;
        Ok(())
    }

    /// The manifests of the newest run of each workflow on the ref, its attempts and jobs, newest first, as far as they
    /// may be told; and whether these are all.
    pub(crate) async fn manifests(
        &self,
        cache: &CacheName,
        repository: &RepositoryName,
        git_ref: &GitRef,
        told: Told<'_>,
    ) -> Result<(Vec<Manifest>, bool), MetadataError> {
        let (all, issuer, id) = match told {
            Told::All => (1, None, None),
            Told::Public => (0, None, None),
            Told::PublicAnd(issuer, id) => (0, Some(issuer), Some(signed(id)?)),
        };
        let rows = query(
            "SELECT repository, git_ref, commit_sha, workflow, run_id, run_attempt, check_run_id, system, reported_at,
                 conclusion, built, substituted
             FROM manifests AS one
             WHERE cache = ? AND repository_key = ? AND git_ref = ?
                 AND (? = 1 OR public = 1 OR issuer = ? AND repository_id = ?) AND run_id = (
                 SELECT max(run_id) FROM manifests AS other
                 WHERE other.cache = one.cache AND other.issuer = one.issuer
                     AND other.repository_id = one.repository_id AND other.git_ref = one.git_ref AND other.workflow = one.workflow)
             ORDER BY reported_at DESC, id DESC LIMIT ?",
        )
        .bind(cache.as_str())
        .bind(key(repository))
        .bind(git_ref.as_str())
        .bind(all)
        .bind(issuer)
        .bind(id)
        .bind(MAX_GIVEN + 1)
        .fetch_all(self.reader())
        .await?;
        let (mut manifests, mut bytes) = (Vec::new(), 0);
        for row in &rows {
            bytes += row.try_get::<&str>("built")?.len() + row.try_get::<&str>("substituted")?.len();
            if !manifests.is_empty() && bytes > MAX_GIVEN_BYTES || manifests.len() as i64 == MAX_GIVEN {
                return Ok((manifests, false));
            }
            manifests.push(manifest(row)?);
        }
        Ok((manifests, true))
    }

    /// What jobs wanted by their manifests, each path once.
    pub(crate) async fn wanted_paths(
        &self,
        cache: &CacheName,
        of: ManifestsOf<'_>,
        by: WantedBy<'_>,
    ) -> Result<Vec<StorePath>, MetadataError> {
        let (git_ref, run) = match by {
            WantedBy::Ref(git_ref) => (Some(git_ref.as_str()), None),
            WantedBy::Run(run) => (None, Some(signed(run)?)),
        };
        let id = of.repository_id.map(signed).transpose()?;
        let mut rows = query(
            "SELECT built, substituted FROM manifests AS one
             WHERE cache = ? AND repository_key = ? AND (? IS NULL OR issuer = ?) AND (? IS NULL OR repository_id = ?)
                 AND (? IS NULL OR run_id = ?) AND (? IS NULL OR git_ref = ?
                 AND run_id = (
                     SELECT max(run_id) FROM manifests AS other
                     WHERE other.cache = one.cache AND other.issuer = one.issuer
                         AND other.repository_id = one.repository_id AND other.git_ref = one.git_ref AND other.workflow = one.workflow))
             ORDER BY reported_at DESC, id DESC LIMIT ?",
        )
        .bind(cache.as_str())
        .bind(key(of.repository))
        .bind(of.issuer)
        .bind(of.issuer)
        .bind(id)
        .bind(id)
        .bind(run)
        .bind(run)
        .bind(git_ref)
        .bind(git_ref)
        .bind(MAX_GIVEN)
        .fetch(self.reader());
        let (mut wanted, mut seen) = (Vec::new(), HashSet::new());
        while let Some(row) = rows.try_next().await? {
            for path in paths(&row, "built")?.into_iter().chain(paths(&row, "substituted")?) {
                if wanted.len() < MAX_WANTED && seen.insert(path.hash()) {
                    wanted.push(path);
                }
            }
        }
        Ok(wanted)
    }

    /// Notes how a run ended. Of a run that is not known, nothing.
    pub(crate) async fn conclude_run(
        &self,
        of: ManifestsOf<'_>,
        run: u64,
        attempt: u64,
        conclusion: Conclusion,
    ) -> Result<(), MetadataError> {
        let id = of.repository_id.map(signed).transpose()?;
        let mut transaction = self.write().await?;
        query(
            "UPDATE manifests SET conclusion = ? WHERE repository_key = ? AND (? IS NULL OR issuer = ?)
                 AND (? IS NULL OR repository_id = ?) AND run_id = ? AND run_attempt = ?",
        )
        .bind(conclusion.as_str())
        .bind(key(of.repository))
        .bind(of.issuer)
        .bind(of.issuer)
        .bind(id)
        .bind(id)
        .bind(signed(run)?)
        .bind(signed(attempt)?)
        .execute(&mut transaction)
        .await?;
        transaction.commit().await?;
        Ok(())
    }

    /// Forgets what a repository's jobs reported before then: those on one ref, or all.
    pub(crate) async fn forget_manifests_of(
        &self,
        of: ManifestsOf<'_>,
        git_ref: Option<&GitRef>,
        before: i64,
    ) -> Result<(), MetadataError> {
        let id = of.repository_id.map(signed).transpose()?;
        let mut transaction = self.write().await?;
        let git_ref = git_ref.map(GitRef::as_str);
        query(
            "DELETE FROM manifests WHERE repository_key = ? AND (? IS NULL OR issuer = ?)
                 AND (? IS NULL OR repository_id = ?) AND (? IS NULL OR git_ref = ?) AND reported_at < ?",
        )
        .bind(key(of.repository))
        .bind(of.issuer)
        .bind(of.issuer)
        .bind(id)
        .bind(id)
        .bind(git_ref)
        .bind(git_ref)
        .bind(before)
        .execute(&mut transaction)
        .await?;
        transaction.commit().await?;
        Ok(())
    }

    /// Forgets what was reported before then, by whomever.
    pub(crate) async fn forget_manifests(&self, before: i64) -> Result<(), MetadataError> {
        let mut transaction = self.write().await?;
        query("DELETE FROM manifests WHERE reported_at < ?").bind(before).execute(&mut transaction).await?;
        transaction.commit().await?;
        Ok(())
    }
}

pub(super) fn key(repository: &RepositoryName) -> String {
    repository.as_str().to_ascii_lowercase()
}

fn signed(number: u64) -> Result<i64, MetadataError> {
    number.try_into().map_err(|_| MetadataError::Damaged("a number is larger than any forge gives"))
}

fn joined(paths: &[StorePath]) -> String {
    paths.iter().map(ToString::to_string).collect::<Vec<_>>().join(" ")
}

fn paths(row: &Row, column: &str) -> Result<Vec<StorePath>, MetadataError> {
    let damaged = |_| MetadataError::Damaged("a manifest has what is no store path");
    let paths = row.try_get::<&str>(column)?.split_ascii_whitespace().map(str::parse);
    paths.collect::<Result<_, _>>().map_err(damaged)
}

fn manifest(row: &Row) -> Result<Manifest, MetadataError> {
    Ok(Manifest {
        repository: row.try_get("repository")?,
        git_ref: row.try_get("git_ref")?,
        commit: row.try_get("commit_sha")?,
        workflow: row.try_get("workflow")?,
        run: number(row.try_get("run_id")?)?,
        attempt: number(row.try_get("run_attempt")?)?,
        job: row.try_get::<Option<i64>>("check_run_id")?.map(number).transpose()?,
        system: row.try_get("system")?,
        reported_at: row.try_get("reported_at")?,
        conclusion: row.try_get("conclusion")?,
        built: paths(row, "built")?,
        substituted: paths(row, "substituted")?,
    })
}
