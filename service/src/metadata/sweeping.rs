//! Deleting, in transactions of at most a thousand rows. Each does a whole step: killed between any two, the service
//! leaves what is consistent and what the next sweep finds.
//!
//! | what goes | when | what decides against whoever wants it |
//! |---|---|---|
//! | a path | dead, and no claim is open | the lock: see `claims`; `leases` and `claimed_paths` are foreign keys |
//! | a NAR | no path names it; first it is incomplete, so that nobody finds it | `paths.nar`; it is looked for where the path is written |
//! | a chunk | no recipe names it; first it is condemned | `nar_chunks.chunk`; and pushes open when it was condemned have ended |
//! | an object | nothing lies in it; first it is doomed, then its file goes, then its row | `chunks.object`, `nars.recipe_object`, which nobody adds to a doomed one |
//! | a push | silent for too long; then it is none that rows can be added to | its row, which each transaction of a push looks at |

use larder_protocol::{StorePathHash, api::CacheName};
use sqlx::{QueryBuilder, Row as _, Sqlite, Transaction};

use super::{Metadata, MetadataError, ObjectId, audit, blob, claims::list, number};
use crate::audit::{Entry, Event, Who};

/// How many rows one transaction may delete.
const ROWS: i64 = 1000;

/// A push that rows can be added to.
pub(super) const OPEN: &str = "state = 'open' AND abandoned_at IS NULL";

/// What came of deleting paths.
#[derive(Debug)]
pub enum Deleted {
    /// They are gone but those that something leases: their hashes, and the rows that stay.
    Gone(Vec<StorePathHash>, Vec<i64>),
    /// Nothing was deleted: these were claimed meanwhile.
    Claimed(Vec<i64>),
}

/// How many rows went, and what they stood for.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Removed {
    /// Rows.
    pub rows: u64,
    /// Bytes in storage.
    pub bytes: u64,
}

impl Metadata {
    /// Gives up open pushes that were silent since before `before`, and deletes some of what ended pushes staged or
    /// leased. Tells how many rows went; 0 when all is done.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn clear_ended_pushes(&self, before: i64, now: i64) -> Result<u64, MetadataError> {
        let mut transaction = self.write().await?;
        let mut rows = sqlx::query(
            "UPDATE pushes SET abandoned_at = ? WHERE state = 'open' AND abandoned_at IS NULL AND active_at < ?",
        )
        .bind(now)
        .bind(before)
        .execute(&mut *transaction)
        .await?
        .rows_affected();
        rows += sqlx::query(
            "DELETE FROM paths WHERE id IN (
                 SELECT p.id FROM pushes u JOIN paths p ON p.push = u.id WHERE u.abandoned_at IS NOT NULL LIMIT ?)",
        )
        .bind(ROWS / 2)
        .execute(&mut *transaction)
        .await?
        .rows_affected();
        // What a pull request's own cache relies on in its parent stays as long as it does.
        rows += sqlx::query(
            "DELETE FROM leases WHERE (push, path) IN (
                 SELECT l.push, l.path FROM leases l JOIN pushes u ON u.id = l.push
                 WHERE u.abandoned_at IS NOT NULL OR u.state = 'committed' AND u.cache NOT LIKE '%~%' LIMIT ?)",
        )
        .bind(ROWS / 2)
        .execute(&mut *transaction)
        .await?
        .rows_affected();
        transaction.commit().await?;
        Ok(rows)
    }

    /// Forgets what was claimed: whoever did is seen by the marking that begins.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn forget_claims(&self) -> Result<(), MetadataError> {
        let mut transaction = self.write().await?;
        sqlx::query("DELETE FROM claimed_paths").execute(&mut *transaction).await?;
        transaction.commit().await?;
        Ok(())
    }

    /// Notes that paths are dead, or (`None`) that they are not.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn note_dead(&self, paths: &[i64], since: Option<i64>) -> Result<(), MetadataError> {
        let mut transaction = self.write().await?;
        let mut update = QueryBuilder::<Sqlite>::new("UPDATE paths SET dead_since = ");
        update.push_bind(since).push(" WHERE id IN (");
        list(&mut update, paths);
        update.push(")");
        update.build().persistent(false).execute(&mut *transaction).await?;
        transaction.commit().await?;
        Ok(())
    }

    /// Deletes dead paths that nothing refers to, unless something was claimed since they were listed.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn delete_paths(
        &self,
        cache: &CacheName,
        paths: &[i64],
        now: i64,
    ) -> Result<Deleted, MetadataError> {
        let mut transaction = self.write().await?;
        let claimed: Vec<i64> = sqlx::query_scalar("SELECT path FROM claimed_paths ORDER BY path LIMIT ?")
            .bind(ROWS)
            .fetch_all(&mut *transaction)
            .await?;
        if !claimed.is_empty() {
            return Ok(Deleted::Claimed(claimed));
        }
        let takes = |query: &mut QueryBuilder<Sqlite>| {
            query.push(" WHERE dead_since IS NOT NULL AND NOT EXISTS (SELECT 1 FROM leases l WHERE l.path = paths.id) AND cache = ");
            query.push_bind(cache.as_str().to_owned()).push(" AND id IN (");
            list(query, paths);
            query.push(")");
        };
        let mut insert = QueryBuilder::<Sqlite>::new(
            "INSERT OR REPLACE INTO gone_paths (cache, hash, name, provenance, read_at, dead_since, gone_at)
             SELECT cache, hash, name, (SELECT u.provenance FROM pushes u WHERE u.id = push), read_at, dead_since, ",
        );
        insert.push_bind(now).push(" FROM paths");
        takes(&mut insert);
        insert.push(" AND hidden = 0");
        insert.build().persistent(false).execute(&mut *transaction).await?;
        let mut delete = QueryBuilder::<Sqlite>::new("DELETE FROM paths");
        takes(&mut delete);
        delete.push(" RETURNING id, hash");
        let mut stay = paths.to_vec();
        let mut gone = Vec::with_capacity(paths.len());
        for row in delete.build().persistent(false).fetch_all(&mut *transaction).await? {
            let id: i64 = row.try_get(0)?;
            stay.retain(|path| *path != id);
            gone.push(StorePathHash(blob(row.try_get(1)?)?));
        }
        if !gone.is_empty() {
            let swept = Event::PathsSwept { paths: gone.len() as u64 };
            audit::record(&mut transaction, &Entry::in_cache(cache, Who::default(), swept), now).await?;
        }
        transaction.commit().await?;
        Ok(Deleted::Gone(gone, stay))
    }

    /// Forgets claims that a sweep has heeded.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn heeded_claims(&self, paths: &[i64]) -> Result<(), MetadataError> {
        let mut transaction = self.write().await?;
        let mut delete = QueryBuilder::<Sqlite>::new("DELETE FROM claimed_paths WHERE path IN (");
        list(&mut delete, paths);
        delete.push(")");
        delete.build().persistent(false).execute(&mut *transaction).await?;
        transaction.commit().await?;
        Ok(())
    }

    /// NARs that no path has, behind the row `after`. Those that a push is still noting are none.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn unnamed_nars(&self, after: i64) -> Result<Vec<i64>, MetadataError> {
        Ok(sqlx::query_scalar(
            "SELECT n.id FROM nars n WHERE n.id > ? AND NOT EXISTS (SELECT 1 FROM paths p WHERE p.nar = n.id)
             AND (n.complete = 1 OR NOT EXISTS (SELECT 1 FROM objects o JOIN pushes u ON u.id = o.push
                 WHERE o.id = n.recipe_object AND u.state = 'open' AND u.abandoned_at IS NULL))
             ORDER BY n.id LIMIT 200",
        )
        .bind(after)
        .fetch_all(self.reader())
        .await?)
    }

    /// Makes NARs that no path has unfindable: no path can get them any more.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn withdraw_nars(&self, nars: &[i64]) -> Result<(), MetadataError> {
        let mut transaction = self.write().await?;
        let mut update = QueryBuilder::<Sqlite>::new(
            "UPDATE nars SET complete = 0 WHERE complete = 1 AND NOT EXISTS (SELECT 1 FROM paths p WHERE p.nar = nars.id)
             AND id IN (",
        );
        list(&mut update, nars);
        update.push(")");
        update.build().persistent(false).execute(&mut *transaction).await?;
        transaction.commit().await?;
        Ok(())
    }

    /// Deletes some of the recipes of withdrawn NARs, condemns the chunks that nothing else names, and at the end deletes
    /// the NARs. Tells how many NARs went once that is done, and `None` before.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn delete_nars(
        &self,
        nars: &[i64],
        sweep: i64,
        now: i64,
    ) -> Result<Option<u64>, MetadataError> {
        let mut transaction = self.write().await?;
        let mut select = QueryBuilder::<Sqlite>::new(
            "SELECT r.nar, r.position, r.chunk FROM nar_chunks r JOIN nars n ON n.id = r.nar AND n.complete = 0
             WHERE r.nar IN (",
        );
        list(&mut select, nars);
        select.push(") ORDER BY r.nar, r.position LIMIT ").push_bind(ROWS);
        let rows = select.build().persistent(false).fetch_all(&mut *transaction).await?;
        let Some(last) = rows.last() else {
            let mut delete = QueryBuilder::<Sqlite>::new(
                "DELETE FROM nars WHERE complete = 0 AND NOT EXISTS (SELECT 1 FROM paths p WHERE p.nar = nars.id) AND id IN (",
            );
            list(&mut delete, nars);
            delete.push(")");
            let gone = delete.build().persistent(false).execute(&mut *transaction).await?.rows_affected();
            transaction.commit().await?;
            return Ok(Some(gone));
        };
        let (last_nar, last_position): (i64, i64) = (last.try_get(0)?, last.try_get(1)?);
        let mut chunks = rows.iter().map(|row| row.try_get(2)).collect::<Result<Vec<i64>, _>>()?;
        chunks.sort_unstable();
        chunks.dedup();
        let mut delete = QueryBuilder::<Sqlite>::new("DELETE FROM nar_chunks WHERE (nar < ");
        delete.push_bind(last_nar).push(" OR nar = ").push_bind(last_nar);
        delete.push(" AND position <= ").push_bind(last_position);
        delete.push(") AND nar IN (SELECT n.id FROM nars n WHERE n.complete = 0 AND n.id IN (");
        list(&mut delete, nars);
        delete.push("))");
        delete.build().persistent(false).execute(&mut *transaction).await?;
        condemn(&mut transaction, sweep, now, |query| {
            query.push("id IN (");
            list(query, &chunks);
            query.push(
                ") AND NOT EXISTS (SELECT 1 FROM objects o JOIN pushes u ON u.id = o.push
                     WHERE o.id = chunks.object AND u.state = 'open' AND u.abandoned_at IS NULL)",
            );
        })
        .await?;
        transaction.commit().await?;
        Ok(None)
    }

    /// Objects whose push has ended and that were begun before `before`, behind the row `after`: what was uploaded and
    /// never used may lie in them. (Pull requests' own caches go as a whole.)
    ///
    /// # Errors
    /// When the database fails.
    pub async fn unsettled_objects(&self, before: i64, after: i64) -> Result<Vec<i64>, MetadataError> {
        Ok(sqlx::query_scalar(
            "SELECT o.id FROM objects o LEFT JOIN pushes u ON u.id = o.push
             WHERE o.push IS NOT NULL AND o.id > ? AND o.state = 'stored' AND o.doomed_at IS NULL AND o.created_at <= ?
             AND (u.id IS NULL OR u.cache NOT LIKE '%~%' AND (u.state <> 'open' OR u.abandoned_at IS NOT NULL))
             ORDER BY o.id LIMIT 200",
        )
        .bind(after)
        .bind(before)
        .fetch_all(self.reader())
        .await?)
    }

    /// Condemns some of the chunks of an object that nothing names. `true` once there is none left.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn settle_object(&self, object: i64, sweep: i64, now: i64) -> Result<bool, MetadataError> {
        let mut transaction = self.write().await?;
        let condemned = condemn(&mut transaction, sweep, now, |query| {
            query.push(
                "id IN (SELECT c.id FROM chunks c WHERE c.condemned_at IS NULL AND NOT EXISTS (
                 SELECT 1 FROM nar_chunks r WHERE r.chunk = c.id) AND c.object = ",
            );
            query.push_bind(object).push(" LIMIT ").push_bind(ROWS).push(")");
        })
        .await?;
        let done = condemned < number(ROWS)?;
        if done {
            sqlx::query(
                "UPDATE objects SET push = NULL WHERE id = ? AND NOT EXISTS (
                     SELECT 1 FROM pushes u WHERE u.id = objects.push AND u.state = 'open' AND u.abandoned_at IS NULL)",
            )
            .bind(object)
            .execute(&mut *transaction)
            .await?;
        }
        transaction.commit().await?;
        Ok(done)
    }

    /// Notes that all is condemned that earlier sweeps and this one condemn: pushes that are opened from now on know.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn set_horizon(&self) -> Result<(), MetadataError> {
        let mut transaction = self.write().await?;
        sqlx::query(
            "UPDATE sweeps SET horizon = (SELECT coalesce(max(id), 0) FROM pushes)
             WHERE horizon IS NULL AND started_at IS NOT NULL",
        )
        .execute(&mut *transaction)
        .await?;
        transaction.commit().await?;
        Ok(())
    }

    /// Deletes some of the chunks that were condemned before all open pushes were opened. Tells what went; no rows when
    /// all is done. (None of them is named by a recipe: naming revives.)
    ///
    /// # Errors
    /// When the database fails.
    pub async fn delete_chunks(&self) -> Result<Removed, MetadataError> {
        let mut transaction = self.write().await?;
        let rows = sqlx::query(
            "DELETE FROM chunks WHERE id IN (
                 SELECT c.id FROM chunks c WHERE c.condemned_at IS NOT NULL AND c.condemned_by IN (
                     SELECT s.id FROM sweeps s WHERE s.horizon IS NOT NULL AND NOT EXISTS (
                         SELECT 1 FROM pushes u
                         WHERE u.state = 'open' AND u.abandoned_at IS NULL AND u.id <= s.horizon))
                 AND NOT EXISTS (SELECT 1 FROM nar_chunks r WHERE r.chunk = c.id) LIMIT ?)
             RETURNING frame_len",
        )
        .bind(ROWS)
        .fetch_all(&mut *transaction)
        .await?;
        let mut removed = Removed { rows: rows.len() as u64, bytes: 0 };
        for row in &rows {
            removed.bytes += number(row.try_get(0)?)?;
        }
        transaction.commit().await?;
        Ok(removed)
    }

    /// Objects in which nothing lies and nothing will, behind the row `after`.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn empty_objects(&self, after: i64) -> Result<Vec<i64>, MetadataError> {
        let mut query = QueryBuilder::<Sqlite>::new("SELECT o.id FROM objects o WHERE o.id > ");
        query.push_bind(after).push(" AND ").push(EMPTY).push(" ORDER BY o.id LIMIT ").push_bind(ROWS / 2);
        Ok(query.build_query_scalar().fetch_all(self.reader()).await?)
    }

    /// Dooms objects in which nothing lies: nobody can put anything there any more. Tells how many.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn doom_objects(&self, objects: &[i64], now: i64) -> Result<u64, MetadataError> {
        let mut transaction = self.write().await?;
        let mut update = QueryBuilder::<Sqlite>::new("UPDATE objects SET doomed_at = ");
        update
            .push_bind(now)
            .push(" WHERE id IN (SELECT o.id FROM objects o WHERE ")
            .push(EMPTY)
            .push(" AND o.id IN (");
        list(&mut update, objects);
        update.push("))");
        let doomed = update.build().persistent(false).execute(&mut *transaction).await?.rows_affected();
        transaction.commit().await?;
        Ok(doomed)
    }

    /// Objects that are doomed since before `before`, with their keys and sizes.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn doomed_since(&self, before: i64) -> Result<Vec<(ObjectId, String, u64)>, MetadataError> {
        let rows = sqlx::query(
            "SELECT id, key, size FROM objects WHERE doomed_at <= ? ORDER BY doomed_at, id LIMIT ?",
        )
        .bind(before)
        .bind(ROWS / 2)
        .fetch_all(self.reader())
        .await?;
        rows.iter()
            .map(|row| Ok((ObjectId(row.try_get(0)?), row.try_get(1)?, number(row.try_get(2)?)?)))
            .collect()
    }

    /// Deletes the rows of doomed objects whose files are gone.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn delete_objects(&self, objects: &[ObjectId]) -> Result<(), MetadataError> {
        let objects: Vec<i64> = objects.iter().map(|object| object.0).collect();
        let mut transaction = self.write().await?;
        let mut delete =
            QueryBuilder::<Sqlite>::new("DELETE FROM objects WHERE doomed_at IS NOT NULL AND id IN (");
        list(&mut delete, &objects);
        delete.push(")");
        delete.build().persistent(false).execute(&mut *transaction).await?;
        transaction.commit().await?;
        Ok(())
    }

    /// Deletes some rows of a cache's ended pushes that keep and tell nothing any more: given up, or of displaced runs or of
    /// nobody's run and committed before `before`; and of runs and pins likewise. Tells how many pushes went; 0 when all
    /// is done.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn delete_pushes(
        &self,
        cache: &CacheName,
        displaced: &[i64],
        before: i64,
        now: i64,
    ) -> Result<u64, MetadataError> {
        let mut transaction = self.write().await?;
        let mut pushes: Vec<i64> = Vec::new();
        // Some hundred at a time: a line may have had many runs.
        for runs in std::iter::once(&[][..]).chain(displaced.chunks(500)) {
            let mut select = QueryBuilder::<Sqlite>::new(
                "SELECT u.id FROM pushes u WHERE (u.abandoned_at IS NOT NULL OR u.state = 'committed' AND u.committed_at <= ",
            );
            // The newest stays: SQLite would give its number to another.
            select.push_bind(before).push(") AND u.id < (SELECT max(id) FROM pushes) AND u.cache = ");
            select.push_bind(cache.as_str()).push(
                " AND NOT EXISTS (SELECT 1 FROM paths p WHERE p.push = u.id)
                 AND NOT EXISTS (SELECT 1 FROM leases l WHERE l.push = u.id)
                 AND NOT EXISTS (SELECT 1 FROM divergences d WHERE d.push = u.id AND u.abandoned_at IS NULL) 
                 AND NOT EXISTS (SELECT 1 FROM divergences d WHERE d.kept_push = u.id) AND ",
            );
            if runs.is_empty() {
                select.push("(u.run IS NULL OR u.abandoned_at IS NOT NULL OR u.dropped_at IS NOT NULL)");
            } else {
                select.push("u.run IN (");
                list(&mut select, runs);
                select.push(")");
            }
            select.push(" LIMIT 50");
            pushes = select.build_query_scalar().persistent(false).fetch_all(&mut *transaction).await?;
            if !pushes.is_empty() {
                break;
            }
        }
        for table in ["push_roots", "divergences"] {
            let mut delete = QueryBuilder::<Sqlite>::new("DELETE FROM ");
            delete.push(table).push(" WHERE push IN (");
            list(&mut delete, &pushes);
            delete.push(")");
            delete.build().persistent(false).execute(&mut *transaction).await?;
        }
        let mut delete = QueryBuilder::<Sqlite>::new("DELETE FROM pushes WHERE id IN (");
        list(&mut delete, &pushes);
        delete.push(")");
        delete.build().persistent(false).execute(&mut *transaction).await?;
        if pushes.is_empty() {
            sqlx::query(
                "DELETE FROM runs WHERE id IN (SELECT r.id FROM runs r WHERE NOT EXISTS (
                     SELECT 1 FROM pushes u WHERE u.run = r.id) LIMIT ?)",
            )
            .bind(ROWS)
            .execute(&mut *transaction)
            .await?;
            sqlx::query("DELETE FROM pins WHERE id IN (SELECT id FROM pins WHERE expires_at <= ? LIMIT ?)")
                .bind(now)
                .bind(ROWS)
                .execute(&mut *transaction)
                .await?;
        }
        transaction.commit().await?;
        Ok(pushes.len() as u64)
    }

    /// Forgets some of the paths that went before `before`. Tells how many; 0 when all is done.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn forget_gone(&self, before: i64) -> Result<u64, MetadataError> {
        let mut transaction = self.write().await?;
        let rows = sqlx::query(
            "DELETE FROM gone_paths WHERE (cache, hash) IN (
                 SELECT cache, hash FROM gone_paths WHERE gone_at < ? LIMIT ?)",
        )
        .bind(before)
        .bind(ROWS)
        .execute(&mut *transaction)
        .await?
        .rows_affected();
        transaction.commit().await?;
        Ok(rows)
    }
}

/// Of objects `o`: nothing lies there, and its push has ended.
const EMPTY: &str = "o.doomed_at IS NULL AND NOT EXISTS (SELECT 1 FROM chunks c WHERE c.object = o.id)
     AND NOT EXISTS (SELECT 1 FROM nars n WHERE n.recipe_object = o.id)
     AND NOT EXISTS (SELECT 1 FROM pushes u WHERE u.id = o.push AND u.state = 'open' AND u.abandoned_at IS NULL)";

/// Condemns those chunks of a choice that no recipe names.
async fn condemn(
    transaction: &mut Transaction<'static, Sqlite>,
    sweep: i64,
    now: i64,
    choose: impl FnOnce(&mut QueryBuilder<Sqlite>),
) -> Result<u64, MetadataError> {
    let mut update = QueryBuilder::<Sqlite>::new("UPDATE chunks SET condemned_at = ");
    update.push_bind(now).push(", condemned_by = ").push_bind(sweep);
    update.push(
        " WHERE condemned_at IS NULL AND NOT EXISTS (SELECT 1 FROM nar_chunks r WHERE r.chunk = chunks.id) AND ",
    );
    choose(&mut update);
    Ok(update.build().persistent(false).execute(&mut **transaction).await?.rows_affected())
}

/// Makes sure that rows may be added to a push.
pub(super) async fn hold_open(
    transaction: &mut Transaction<'static, Sqlite>,
    push: i64,
) -> Result<(), MetadataError> {
    let mut query = QueryBuilder::<Sqlite>::new("SELECT 1 FROM pushes WHERE id = ");
    query.push_bind(push).push(" AND ").push(OPEN);
    let open: Option<i64> = query.build_query_scalar().fetch_optional(&mut **transaction).await?;
    open.map(drop).ok_or(MetadataError::Gone)
}
