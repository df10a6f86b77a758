//! Rows of prefetches.

use larder_protocol::{
    StorePath,
    api::CacheName,
    prefetch::{Prefetch, PrefetchState},
};

use super::{
    Metadata, MetadataError, audit,
    jobs::enqueue,
    manifests::key,
    number,
    sql::{Row, Transaction, query},
};
use crate::{
    audit::{Entry, Event, Who},
    identity::{GitRef, RepositoryName},
    queue::{JobId, NewJob},
};

/// How many lacking paths are kept.
const MAX_LACKING: usize = 1000;
/// The longest reason that is kept.
const MAX_ERROR: usize = 2000;

/// A prefetch that somebody asks for by hand.
pub(crate) struct AskedPrefetch<'a> {
    /// What it is called.
    pub name: &'a str,
    /// The cache.
    pub cache: &'a CacheName,
    /// Whose it is.
    pub owner: &'a str,
    /// What is to be complete.
    pub paths: &'a [StorePath],
    /// Who asks, for the audit log.
    pub who: &'a Who,
}

/// A prefetch that manifests are the reason for.
pub(crate) struct CausedPrefetch<'a> {
    /// What it is called.
    pub name: &'a str,
    /// The cache.
    pub cache: &'a CacheName,
    /// Whether a schedule asks for it, and no event.
    pub scheduled: bool,
    /// Whose manifests.
    pub repository: &'a RepositoryName,
    /// The job that does it.
    pub job: JobId,
    /// Of which ref, where one is asked for.
    pub git_ref: Option<&'a GitRef>,
    /// The commit that came there.
    pub commit: Option<&'a str>,
}

/// How far a prefetch is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Reached {
    pub closure: u64,
    pub wanted: u64,
    pub published: u64,
    pub bytes: u64,
}

impl Metadata {
    /// Stores a prefetch and the job that does it, unless so many of its owner's, or in all, are under way.
    pub(crate) async fn ask_prefetch(
        &self,
        asked: &AskedPrefetch<'_>,
        job: &NewJob,
        (max_of_owner, max_in_all): (u32, u32),
        now: i64,
    ) -> Result<bool, MetadataError> {
        let mut transaction = self.write().await?;
        let row = query(
            "SELECT count(*), count(CASE WHEN owner = ? THEN 1 END) FROM prefetches
             WHERE ended_at IS NULL AND why = 'hand'",
        )
        .bind(asked.owner)
        .fetch_one(&mut transaction)
        .await?;
        if number(row.try_get(0)?)? >= u64::from(max_in_all)
            || number(row.try_get(1)?)? >= u64::from(max_of_owner)
        {
            return Ok(false);
        }
        enqueue(&mut transaction, job, now).await?;
        query(
            "INSERT INTO prefetches (name, cache, why, owner, paths, state, requested_at, job)
             VALUES (?, ?, 'hand', ?, ?, 'waiting', ?, (SELECT id FROM jobs WHERE key = ? AND state = 'waiting'))",
        )
        .bind(asked.name)
        .bind(asked.cache.as_str())
        .bind(asked.owner)
        .bind(asked.paths.iter().map(ToString::to_string).collect::<Vec<_>>().join(" "))
        .bind(now)
        .bind(&job.key)
        .execute(&mut transaction)
        .await?;
        let event = Event::PrefetchAsked { prefetch: asked.name.to_owned(), paths: asked.paths.len() as u64 };
        let entry = Entry::in_cache(asked.cache, asked.who.clone(), event);
        audit::record(&mut transaction, &entry, now).await?;
        transaction.commit().await?;
        Ok(true)
    }

    /// Notes that a prefetch that manifests are the reason for has begun; those for the same ref that it follows are
    /// over. An event ends none that a schedule asks for, and a schedule none that an event does.
    pub(crate) async fn begin_caused_prefetch(
        &self,
        caused: &CausedPrefetch<'_>,
        now: i64,
    ) -> Result<(), MetadataError> {
        let mut transaction = self.write().await?;
        let git_ref = caused.git_ref.map(GitRef::as_str);
        let why = if caused.scheduled { "schedule" } else { "event" };
        query(
            "UPDATE prefetches SET state = 'superseded', ended_at = ?
             WHERE ended_at IS NULL AND why = ? AND repository_key = ? AND git_ref = ? AND cache = ? AND name <> ?",
        )
        .bind(now)
        .bind(why)
        .bind(key(caused.repository))
        .bind(git_ref)
        .bind(caused.cache.as_str())
        .bind(caused.name)
        .execute(&mut transaction)
        .await?;
        query(
            "INSERT INTO prefetches (name, cache, why, repository_key, git_ref, commit_sha, paths, state, requested_at,
                 job)
             VALUES (?, ?, ?, ?, ?, ?, '', 'running', ?, ?)
             ON CONFLICT (name) DO UPDATE SET state = 'running', ended_at = NULL, job = excluded.job",
        )
        .bind(caused.name)
        .bind(caused.cache.as_str())
        .bind(why)
        .bind(key(caused.repository))
        .bind(git_ref)
        .bind(caused.commit)
        .bind(now)
        .bind(caused.job.0)
        .execute(&mut transaction)
        .await?;
        transaction.commit().await?;
        Ok(())
    }

    /// A prefetch, as people are told of it.
    pub(crate) async fn prefetch(&self, name: &str) -> Result<Option<Prefetch>, MetadataError> {
        let row = query(
            "SELECT name, cache, state, closure, wanted, published, bytes, lacking, lacking_paths, error, requested_at,
                 ended_at FROM prefetches WHERE name = ?",
        )
        .bind(name);
        row.fetch_optional(self.reader()).await?.map(|row| prefetch(&row)).transpose()
    }

    /// The paths that somebody asked for by hand, and in which cache.
    pub(crate) async fn prefetched_paths(
        &self,
        name: &str,
    ) -> Result<Option<(CacheName, Vec<StorePath>)>, MetadataError> {
        let row = query("SELECT cache, paths FROM prefetches WHERE name = ?").bind(name);
        let Some(row) = row.fetch_optional(self.reader()).await? else { return Ok(None) };
        Ok(Some((cache(&row)?, paths(row.try_get("paths")?)?)))
    }

    /// Notes how far a prefetch is.
    pub(crate) async fn note_prefetch(&self, name: &str, reached: Reached) -> Result<(), MetadataError> {
        let mut transaction = self.write().await?;
        let column = |number: u64| i64::try_from(number).unwrap_or(i64::MAX);
        query(
            "UPDATE prefetches SET state = 'running', closure = ?, wanted = ?, published = ?, bytes = ?
             WHERE name = ? AND ended_at IS NULL",
        )
        .bind(column(reached.closure))
        .bind(column(reached.wanted))
        .bind(column(reached.published))
        .bind(column(reached.bytes))
        .bind(name)
        .execute(&mut transaction)
        .await?;
        transaction.commit().await?;
        Ok(())
    }

    /// Notes that a prefetch is over, or waits to be tried again.
    pub(crate) async fn end_prefetch(
        &self,
        name: &str,
        state: PrefetchState,
        lacking: &[StorePath],
        error: Option<&str>,
        now: i64,
    ) -> Result<(), MetadataError> {
        let mut transaction = self.write().await?;
        let some: Vec<String> = lacking.iter().take(MAX_LACKING).map(ToString::to_string).collect();
        query(
            "UPDATE prefetches SET state = ?, ended_at = ?, lacking = ?, lacking_paths = ?, error = ?
             WHERE name = ? AND ended_at IS NULL",
        )
        .bind(state.as_str())
        .bind(state.has_ended().then_some(now))
        .bind(i64::try_from(lacking.len()).unwrap_or(i64::MAX))
        .bind(some.join(" "))
        .bind(error.map(|error| error.get(..error.floor_char_boundary(MAX_ERROR)).unwrap_or(error)))
        .bind(name)
        .execute(&mut transaction)
        .await?;
        transaction.commit().await?;
        Ok(())
    }

    /// Forgets prefetches that were asked for before then.
    pub(crate) async fn forget_prefetches(&self, before: i64) -> Result<(), MetadataError> {
        let mut transaction = self.write().await?;
        query("DELETE FROM prefetches WHERE id IN (SELECT id FROM prefetches WHERE requested_at < ? LIMIT 1000)")
            .bind(before)
            .execute(&mut transaction)
            .await?;
        transaction.commit().await?;
        Ok(())
    }
}

/// Ends the prefetches whose jobs have ended without saying how: what a job was to do that was given up has failed, and
/// what one was to do that was cancelled, or is there no more, is needed by nobody.
pub(super) async fn end_with_jobs(transaction: &mut Transaction, now: i64) -> Result<(), MetadataError> {
    for statement in [
        "UPDATE prefetches SET state = 'failed', ended_at = ?, error = (SELECT error FROM jobs WHERE id = prefetches.job)
         WHERE ended_at IS NULL AND job IN (SELECT id FROM jobs WHERE state = 'failed')",
        "UPDATE prefetches SET state = 'superseded', ended_at = ?
         WHERE ended_at IS NULL AND (job IS NULL OR job IN (SELECT id FROM jobs WHERE state = 'cancelled'))",
    ] {
        query(statement).bind(now).execute(&mut *transaction).await?;
    }
    Ok(())
}

/// Has the prefetches wait again that failed with a job (any, if none is named) that is to be tried again.
pub(super) async fn reopen_with_jobs(
    transaction: &mut Transaction,
    job: Option<i64>,
) -> Result<(), MetadataError> {
    query(
        "UPDATE prefetches SET state = 'waiting', ended_at = NULL, error = NULL
         WHERE state = 'failed' AND job IN (SELECT id FROM jobs WHERE state = 'failed' AND id = coalesce(?, id))",
    )
    .bind(job)
    .execute(&mut *transaction)
    .await?;
    Ok(())
}

fn prefetch(row: &Row) -> Result<Prefetch, MetadataError> {
    Ok(Prefetch {
        id: row.try_get("name")?,
        cache: cache(row)?,
        state: match row.try_get("state")? {
            "waiting" => PrefetchState::Waiting,
            "running" => PrefetchState::Running,
            "complete" => PrefetchState::Complete,
            "incomplete" => PrefetchState::Incomplete,
            "superseded" => PrefetchState::Superseded,
            _ => PrefetchState::Failed,
        },
        closure: number(row.try_get("closure")?)?,
        wanted: number(row.try_get("wanted")?)?,
        published: number(row.try_get("published")?)?,
        bytes: number(row.try_get("bytes")?)?,
        lacking: number(row.try_get("lacking")?)?,
        lacking_paths: paths(row.try_get("lacking_paths")?)?,
        error: row.try_get("error")?,
        requested_at: row.try_get("requested_at")?,
        ended_at: row.try_get("ended_at")?,
    })
}

fn cache(row: &Row) -> Result<CacheName, MetadataError> {
    let name = row.try_get::<&str>("cache")?.parse();
    name.map_err(|_| MetadataError::Damaged("a prefetch's cache has no such name"))
}

fn paths(text: &str) -> Result<Vec<StorePath>, MetadataError> {
    let paths = text.split_ascii_whitespace().map(str::parse).collect::<Result<_, _>>();
    paths.map_err(|_| MetadataError::Damaged("a prefetch has what is no store path"))
}
