//! Rows of pull requests' own caches.

use larder_protocol::api::CacheName;

use super::{
    BATCH, Metadata, MetadataError, Namespace, audit, blob, number,
    sql::{Row, Transaction, query, query_scalar},
};
use crate::audit::{Entry, Event, Who};

/// A pull request's cache, as it is served.
#[derive(Debug, Clone, Copy)]
pub struct OpenIsolated {
    /// Its row.
    pub id: i64,
    /// What tells its keys from those of others.
    pub salt: [u8; 32],
}

/// A pull request's cache that a job asks for.
#[derive(Debug)]
pub struct WantedIsolated<'a> {
    /// Its name.
    pub name: &'a CacheName,
    /// Its parent's.
    pub parent: &'a CacheName,
    /// Who vouches for the repository's number.
    pub issuer: &'a str,
    /// The repository's number.
    pub repository_id: u64,
    /// For its keys, if it is a new one.
    pub salt: [u8; 32],
    /// How many a repository may have.
    pub max_per_repository: u32,
    /// How many there may be.
    pub max: u32,
    /// Who wants it, for the record.
    pub who: &'a Who,
}

/// What a job gets that asks for its pull request's cache.
#[derive(Debug)]
pub enum IsolatedOutcome {
    /// The cache, there before or made now.
    Open(OpenIsolated),
    /// One of that name is being removed.
    Dropped,
    /// There are as many as there may be, none of them the repository's.
    Full,
    /// There is one of that name, of another issuer's repository.
    Foreign,
}

/// A pull request's cache, as it is listed.
#[derive(Debug)]
pub struct IsolatedCache {
    /// Its row.
    pub id: i64,
    /// Its name.
    pub name: CacheName,
    /// Who vouches for the repository's number.
    pub issuer: String,
    /// When it was made, in seconds since 1970.
    pub created_at: i64,
    /// When a job was last given a session for it.
    pub used_at: i64,
    /// Bytes in storage that it alone has.
    pub bytes: u64,
    /// Rows of paths that pushes have staged in it.
    pub paths: u64,
    /// Whether it is being removed.
    pub dropped: bool,
}

/// What removes the rows of one such cache, in this order: what names others goes before them. Each takes the
/// cache's name and its namespace, and at most a thousand rows.
const REMOVALS: [&str; 13] = [
    // From then on no row can be added to its pushes.
    "UPDATE pushes SET abandoned_at = ?3 WHERE id IN (
         SELECT id FROM pushes WHERE cache = ?1 AND state = 'open' AND abandoned_at IS NULL LIMIT 1000)",
    "UPDATE objects SET doomed_at = ?3 WHERE id IN (
         SELECT o.id FROM pushes u JOIN objects o ON o.push = u.id
         WHERE u.cache = ?1 AND o.doomed_at IS NULL LIMIT 1000)",
    "DELETE FROM leases WHERE (push, path) IN (
         SELECT l.push, l.path FROM pushes u JOIN leases l ON l.push = u.id WHERE u.cache = ?1 LIMIT 1000)",
    "DELETE FROM push_roots WHERE (push, hash) IN (
         SELECT r.push, r.hash FROM pushes u JOIN push_roots r ON r.push = u.id WHERE u.cache = ?1 LIMIT 1000)",
    "DELETE FROM divergences WHERE (push, hash) IN (
         SELECT d.push, d.hash FROM pushes u JOIN divergences d ON d.push = u.id WHERE u.cache = ?1 LIMIT 1000)",
    "DELETE FROM claimed_paths WHERE path IN (
         SELECT c.path FROM claimed_paths c JOIN paths p ON p.id = c.path WHERE p.cache = ?1 LIMIT 1000)",
    "DELETE FROM paths WHERE id IN (SELECT id FROM paths WHERE cache = ?1 LIMIT 1000)",
    "DELETE FROM nar_chunks WHERE (nar, position) IN (
         SELECT r.nar, r.position FROM nars n JOIN nar_chunks r ON r.nar = n.id
         WHERE n.namespace = ?2 AND n.namespace < 0 LIMIT 1000)",
    "DELETE FROM nars WHERE id IN (SELECT id FROM nars WHERE namespace = ?2 AND namespace < 0 LIMIT 1000)",
    "DELETE FROM sent_chunks WHERE (push, chunk) IN (
         SELECT s.push, s.chunk FROM pushes u JOIN sent_chunks s ON s.push = u.id WHERE u.cache = ?1 LIMIT 1000)",
    "DELETE FROM chunks WHERE id IN (SELECT id FROM chunks WHERE namespace = ?2 LIMIT 1000)",
    "DELETE FROM pushes WHERE id IN (SELECT id FROM pushes WHERE cache = ?1 LIMIT 1000)",
    "DELETE FROM runs WHERE id IN (SELECT id FROM runs WHERE cache = ?1 LIMIT 1000)",
];

impl Metadata {
    /// The cache of a pull request, made if there is none. Where its repository has as many as it may, that of them
    /// goes which was not used for the longest time.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn open_isolated(
        &self,
        wanted: &WantedIsolated<'_>,
        now: i64,
    ) -> Result<IsolatedOutcome, MetadataError> {
        let mut transaction = self.write().await?;
        let row = query("SELECT id, salt, issuer, dropped_at FROM isolated_caches WHERE name = ?")
            .bind(wanted.name.as_str())
            .fetch_optional(&mut transaction)
            .await?;
        if let Some(row) = row {
            if row.try_get::<Option<i64>>("dropped_at")?.is_some() {
                return Ok(IsolatedOutcome::Dropped);
            }
            if row.try_get::<&str>("issuer")? != wanted.issuer {
                return Ok(IsolatedOutcome::Foreign);
            }
            let found = open(&row)?;
            query("UPDATE isolated_caches SET used_at = ? WHERE id = ?")
                .bind(now)
                .bind(found.id)
                .execute(&mut transaction)
                .await?;
            transaction.commit().await?;
            return Ok(IsolatedOutcome::Open(found));
        }
        if !make_room(&mut transaction, wanted, now).await? {
            return Ok(IsolatedOutcome::Full);
        }
        let id = query_scalar(
            "INSERT INTO isolated_caches (name, parent, issuer, repository_id, salt, created_at, used_at)
             VALUES (?, ?, ?, ?, ?, ?, ?) RETURNING id",
        )
        .bind(wanted.name.as_str())
        .bind(wanted.parent.as_str())
        .bind(wanted.issuer)
        .bind(wanted.repository_id.cast_signed())
        .bind(&wanted.salt[..])
        .bind(now)
        .bind(now)
        .fetch_one(&mut transaction)
        .await?;
        transaction.commit().await?;
        Ok(IsolatedOutcome::Open(OpenIsolated { id, salt: wanted.salt }))
    }

    /// The cache of that name, unless it is being removed.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn find_isolated(&self, name: &CacheName) -> Result<Option<OpenIsolated>, MetadataError> {
        let row = query("SELECT id, salt FROM isolated_caches WHERE name = ? AND dropped_at IS NULL")
            .bind(name.as_str())
            .fetch_optional(self.reader())
            .await?;
        row.as_ref().map(open).transpose()
    }

    /// All of them, those first that were used last.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn isolated_caches(&self) -> Result<Vec<IsolatedCache>, MetadataError> {
        let rows = query(
            "SELECT id, name, issuer, created_at, used_at, bytes, paths, dropped_at FROM isolated_caches
             ORDER BY used_at DESC, id DESC",
        )
        .fetch_all(self.reader())
        .await?;
        rows.iter()
            .map(|row| {
                Ok(IsolatedCache {
                    id: row.try_get("id")?,
                    name: name_of(row)?,
                    issuer: row.try_get("issuer")?,
                    created_at: row.try_get("created_at")?,
                    used_at: row.try_get("used_at")?,
                    bytes: number(row.try_get("bytes")?)?,
                    paths: number(row.try_get("paths")?)?,
                    dropped: row.try_get::<Option<i64>>("dropped_at")?.is_some(),
                })
            })
            .collect()
    }

    /// Counts what is about to be stored for such a cache. `false`, and nothing is counted, where that would be more
    /// than `max`.
    ///
    /// # Errors
    /// [`MetadataError::Gone`] if the cache is being removed.
    pub async fn count_isolated_bytes(&self, id: i64, bytes: u64, max: u64) -> Result<bool, MetadataError> {
        const COUNT: &str = "UPDATE isolated_caches SET bytes = bytes + ?1
             WHERE id = ?2 AND dropped_at IS NULL AND bytes + ?1 <= ?3";
        let mut transaction = self.write().await?;
        let counted = count(&mut transaction, COUNT, id, bytes, max).await?;
        transaction.commit().await?;
        Ok(counted)
    }

    /// Has a cache be removed: from now on it is not served. Whether there was one.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn drop_isolated(
        &self,
        name: &CacheName,
        who: &Who,
        reason: &str,
        now: i64,
    ) -> Result<bool, MetadataError> {
        let mut transaction = self.write().await?;
        let dropped = query(
            "UPDATE isolated_caches SET dropped_at = ? WHERE name = ? AND dropped_at IS NULL RETURNING name",
        )
        .bind(now)
        .bind(name.as_str())
        .fetch_all(&mut transaction)
        .await?;
        record_dropped(&mut transaction, &dropped, who, reason, now).await?;
        transaction.commit().await?;
        Ok(!dropped.is_empty())
    }

    /// Has all be removed that no job has used since.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn drop_unused_isolated(&self, since: i64, now: i64) -> Result<(), MetadataError> {
        let mut transaction = self.write().await?;
        let dropped = query(
            "UPDATE isolated_caches SET dropped_at = ? WHERE used_at < ? AND dropped_at IS NULL RETURNING name",
        )
        .bind(now)
        .bind(since)
        .fetch_all(&mut transaction)
        .await?;
        let reason = "no job has used it for as long as isolated.keep says";
        record_dropped(&mut transaction, &dropped, &Who::default(), reason, now).await?;
        transaction.commit().await?;
        Ok(())
    }

    /// Removes the rows of a dropped cache, some at a time, its own row last. Whatever ends this in its middle, the
    /// next call goes on. A request that is still under way may add some rows that others name: then this fails with
    /// [`MetadataError::is_gone`], and a later call removes them too.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn remove_isolated(&self, cache: &IsolatedCache, now: i64) -> Result<(), MetadataError> {
        let namespace = Namespace::of_isolated(cache.id);
        for removal in REMOVALS {
            loop {
                let mut transaction = self.write().await?;
                let removed = query(removal)
                    .bind(cache.name.as_str())
                    .bind(namespace.0)
                    .bind(now)
                    .execute(&mut transaction)
                    .await?
                    .rows_affected();
                transaction.commit().await?;
                if removed < BATCH as u64 {
                    break;
                }
            }
        }
        let mut transaction = self.write().await?;
        query("DELETE FROM chunk_totals WHERE namespace = ? AND chunks = 0")
            .bind(namespace.0)
            .execute(&mut transaction)
            .await?;
        query("DELETE FROM isolated_caches WHERE id = ? AND dropped_at IS NOT NULL")
            .bind(cache.id)
            .execute(&mut transaction)
            .await?;
        transaction.commit().await?;
        Ok(())
    }
}

/// Counts paths that are about to be staged in such a cache. `false`, and nothing is counted, where that would be more
/// than `max`; [`MetadataError::Gone`] if it is being removed.
pub(super) async fn count_paths(
    transaction: &mut Transaction,
    id: i64,
    paths: u64,
    max: u64,
) -> Result<bool, MetadataError> {
    const COUNT: &str = "UPDATE isolated_caches SET paths = paths + ?1
         WHERE id = ?2 AND dropped_at IS NULL AND paths + ?1 <= ?3";
    count(transaction, COUNT, id, paths, max).await
}

async fn count(
    transaction: &mut Transaction,
    statement: &'static str,
    id: i64,
    more: u64,
    max: u64,
) -> Result<bool, MetadataError> {
    let clamp = |number| i64::try_from(number).unwrap_or(i64::MAX / 2);
    let counted =
        query(statement).bind(clamp(more)).bind(id).bind(clamp(max)).execute(&mut *transaction).await?;
    if counted.rows_affected() == 1 {
        return Ok(true);
    }
    let lives: Option<i64> =
        query_scalar("SELECT 1 FROM isolated_caches WHERE id = ? AND dropped_at IS NULL")
            .bind(id)
            .fetch_optional(&mut *transaction)
            .await?;
    lives.map(|_| false).ok_or(MetadataError::Gone)
}

fn open(row: &Row) -> Result<OpenIsolated, MetadataError> {
    Ok(OpenIsolated { id: row.try_get("id")?, salt: blob(row.try_get("salt")?)? })
}

/// Whether there may be one more; perhaps because another of the same repository goes.
async fn make_room(
    transaction: &mut Transaction,
    wanted: &WantedIsolated<'_>,
    now: i64,
) -> Result<bool, MetadataError> {
    let repository_id = wanted.repository_id.cast_signed();
    let own: i64 = query_scalar(
        "SELECT count(*) FROM isolated_caches WHERE issuer = ? AND repository_id = ? AND dropped_at IS NULL",
    )
    .bind(wanted.issuer)
    .bind(repository_id)
    .fetch_one(&mut *transaction)
    .await?;
    let all: i64 = query_scalar("SELECT count(*) FROM isolated_caches WHERE dropped_at IS NULL")
        .fetch_one(&mut *transaction)
        .await?;
    if own < wanted.max_per_repository.into() && all < wanted.max.into() {
        return Ok(true);
    }
    let dropped = query(
        "UPDATE isolated_caches SET dropped_at = ? WHERE id IN (
             SELECT id FROM isolated_caches WHERE issuer = ? AND repository_id = ? AND dropped_at IS NULL
             ORDER BY used_at, id LIMIT 1) RETURNING name",
    )
    .bind(now)
    .bind(wanted.issuer)
    .bind(repository_id)
    .fetch_all(&mut *transaction)
    .await?;
    let reason =
        format!("it made room for {}, as the one that its repository's jobs used least lately", wanted.name);
    record_dropped(transaction, &dropped, wanted.who, &reason, now).await?;
    Ok(!dropped.is_empty())
}

/// Puts on record that the caches of these rows were dropped.
async fn record_dropped(
    transaction: &mut Transaction,
    rows: &[Row],
    who: &Who,
    reason: &str,
    now: i64,
) -> Result<(), MetadataError> {
    for row in rows {
        let event = Event::CacheDropped { reason: reason.to_owned() };
        audit::record(transaction, &Entry::in_cache(&name_of(row)?, who.clone(), event), now).await?;
    }
    Ok(())
}

fn name_of(row: &Row) -> Result<CacheName, MetadataError> {
    row.try_get::<&str>("name")?
        .parse()
        .map_err(|_| MetadataError::Damaged("a pull request's cache has no such name"))
}
