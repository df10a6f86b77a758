//! Chunks that no recipe names: condemned first, deleted once nobody can have been told of them.

use super::super::sql::{QueryBuilder, Transaction, query, query_scalar};

use super::{
    super::{Metadata, MetadataError, number},
    ROWS, Removed,
};

impl Metadata {
    /// Objects whose push has ended and that were begun before `before`, behind the row `after`: what was uploaded and
    /// never used may lie in them. (Pull requests' own caches go as a whole.)
    ///
    /// # Errors
    /// When the database fails.
    pub async fn unsettled_objects(&self, before: i64, after: i64) -> Result<Vec<i64>, MetadataError> {
        Ok(query_scalar(
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
            query(
                "UPDATE objects SET push = NULL WHERE id = ? AND NOT EXISTS (
                     SELECT 1 FROM pushes u WHERE u.id = objects.push AND u.state = 'open' AND u.abandoned_at IS NULL)",
            )
            .bind(object)
            .execute(&mut transaction)
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
        query(
            "UPDATE sweeps SET horizon = (SELECT coalesce(max(id), 0) FROM pushes)
             WHERE horizon IS NULL AND started_at IS NOT NULL",
        )
        .execute(&mut transaction)
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
        let rows = query(
            "DELETE FROM chunks WHERE id IN (
                 SELECT c.id FROM chunks c WHERE c.condemned_at IS NOT NULL AND c.condemned_by IN (
                     SELECT s.id FROM sweeps s WHERE s.horizon IS NOT NULL AND NOT EXISTS (
                         SELECT 1 FROM pushes u
                         WHERE u.state = 'open' AND u.abandoned_at IS NULL AND u.id <= s.horizon))
                 AND NOT EXISTS (SELECT 1 FROM nar_chunks r WHERE r.chunk = c.id) LIMIT ?)
             RETURNING frame_len",
        )
        .bind(ROWS)
        .fetch_all(&mut transaction)
        .await?;
        let mut removed = Removed { rows: rows.len() as u64, bytes: 0 };
        for row in &rows {
            removed.bytes += number(row.try_get(0)?)?;
        }
        transaction.commit().await?;
        Ok(removed)
    }
}

/// Condemns those chunks of a choice that no recipe names.
pub(super) async fn condemn(
    transaction: &mut Transaction,
    sweep: i64,
    now: i64,
    choose: impl FnOnce(&mut QueryBuilder),
) -> Result<u64, MetadataError> {
    let mut update = QueryBuilder::new("UPDATE chunks SET condemned_at = ");
    update.push_bind(now).push(", condemned_by = ").push_bind(sweep);
    update.push(
        " WHERE condemned_at IS NULL AND NOT EXISTS (SELECT 1 FROM nar_chunks r WHERE r.chunk = chunks.id) AND ",
    );
    choose(&mut update);
    Ok(update.build().persistent(false).execute(&mut *transaction).await?.rows_affected())
}
