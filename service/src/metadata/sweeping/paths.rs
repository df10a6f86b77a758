//! Paths: noted as dead by one sweep, taken by a later one.

use super::super::sql::{QueryBuilder, query, query_scalar};
use larder_protocol::{StorePathHash, api::CacheName};

use super::{
    super::{Metadata, MetadataError, audit, blob, claims::list},
    Deleted, ROWS,
};
use crate::audit::{Entry, Event, Who};

impl Metadata {
    /// Forgets some of what was claimed: whoever did is seen by the marking that begins. Tells how much; 0 when all is
    /// done.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn forget_claims(&self) -> Result<u64, MetadataError> {
        let mut transaction = self.write().await?;
        let rows = query("DELETE FROM claimed_paths WHERE path IN (SELECT path FROM claimed_paths LIMIT ?)")
            .bind(ROWS)
            .execute(&mut transaction)
            .await?
            .rows_affected();
        transaction.commit().await?;
        Ok(rows)
    }

    /// Notes that paths are dead, or (`None`) that they are not.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn note_dead(&self, paths: &[i64], since: Option<i64>) -> Result<(), MetadataError> {
        let mut transaction = self.write().await?;
        let mut update = QueryBuilder::new("UPDATE paths SET dead_since = ");
        update.push_bind(since).push(" WHERE id IN (");
        list(&mut update, paths);
        update.push(")");
        update.build().persistent(false).execute(&mut transaction).await?;
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
        let claimed: Vec<i64> = query_scalar("SELECT path FROM claimed_paths ORDER BY path LIMIT ?")
            .bind(ROWS)
            .fetch_all(&mut transaction)
            .await?;
        if !claimed.is_empty() {
            return Ok(Deleted::Claimed(claimed));
        }
        let takes = |query: &mut QueryBuilder| {
            query.push(" WHERE dead_since IS NOT NULL AND NOT EXISTS (SELECT 1 FROM leases l WHERE l.path = paths.id) AND cache = ");
            query.push_bind(cache.as_str().to_owned()).push(" AND id IN (");
            list(query, paths);
            query.push(")");
        };
        let mut insert = QueryBuilder::new(
            "INSERT INTO gone_paths (cache, hash, name, provenance, read_at, dead_since, gone_at)
             SELECT cache, hash, name, (SELECT u.provenance FROM pushes u WHERE u.id = push), read_at, dead_since, ",
        );
        insert.push_bind(now).push(" FROM paths");
        takes(&mut insert);
        insert.push(
            " AND hidden = 0 ON CONFLICT (cache, hash) DO UPDATE SET name = excluded.name,
                 provenance = excluded.provenance, read_at = excluded.read_at, dead_since = excluded.dead_since,
                 gone_at = excluded.gone_at",
        );
        insert.build().persistent(false).execute(&mut transaction).await?;
        let mut delete = QueryBuilder::new("DELETE FROM paths");
        takes(&mut delete);
        delete.push(" RETURNING id, hash");
        let mut stay = paths.to_vec();
        let mut gone = Vec::with_capacity(paths.len());
        for row in delete.build().persistent(false).fetch_all(&mut transaction).await? {
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
        let mut delete = QueryBuilder::new("DELETE FROM claimed_paths WHERE path IN (");
        list(&mut delete, paths);
        delete.push(")");
        delete.build().persistent(false).execute(&mut transaction).await?;
        transaction.commit().await?;
        Ok(())
    }

    /// Forgets some of the paths that went before `before`. Tells how many; 0 when all is done.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn forget_gone(&self, before: i64) -> Result<u64, MetadataError> {
        let mut transaction = self.write().await?;
        let rows = query(
            "DELETE FROM gone_paths WHERE (cache, hash) IN (
                 SELECT cache, hash FROM gone_paths WHERE gone_at < ? LIMIT ?)",
        )
        .bind(before)
        .bind(ROWS)
        .execute(&mut transaction)
        .await?
        .rows_affected();
        transaction.commit().await?;
        Ok(rows)
    }
}
