//! Ended pushes: what they staged and leased goes, and at last their own rows.

use super::super::sql::{QueryBuilder, Transaction, query};
use larder_protocol::api::CacheName;

use super::{
    super::{Metadata, MetadataError, claims::list},
    ROWS,
};

/// How many pushes go at once.
const PUSHES: i64 = 50;

impl Metadata {
    /// Gives up open pushes that were silent since before `before`, and deletes some of what ended pushes staged or
    /// leased. Tells how many rows went; 0 when all is done.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn clear_ended_pushes(&self, before: i64, now: i64) -> Result<u64, MetadataError> {
        let mut transaction = self.write().await?;
        let mut rows = query(
            "UPDATE pushes SET abandoned_at = ? WHERE state = 'open' AND abandoned_at IS NULL AND active_at < ?",
        )
        .bind(now)
        .bind(before)
        .execute(&mut transaction)
        .await?
        .rows_affected();
        rows += query(
            "DELETE FROM paths WHERE id IN (
                 SELECT p.id FROM pushes u JOIN paths p ON p.push = u.id WHERE u.abandoned_at IS NOT NULL LIMIT ?)",
        )
        .bind(ROWS / 2)
        .execute(&mut transaction)
        .await?
        .rows_affected();
        // What a pull request's own cache relies on in its parent stays as long as it does.
        rows += query(
            "DELETE FROM leases WHERE (push, path) IN (
                 SELECT l.push, l.path FROM leases l JOIN pushes u ON u.id = l.push
                 WHERE u.abandoned_at IS NOT NULL OR u.state = 'committed' AND u.cache NOT LIKE '%~%' LIMIT ?)",
        )
        .bind(ROWS / 4)
        .execute(&mut transaction)
        .await?
        .rows_affected();
        rows += query(
            "DELETE FROM sent_chunks WHERE (push, chunk) IN (
                 SELECT s.push, s.chunk FROM sent_chunks s JOIN pushes u ON u.id = s.push
                 WHERE u.abandoned_at IS NOT NULL OR u.state = 'committed' LIMIT ?)",
        )
        .bind(ROWS / 4)
        .execute(&mut transaction)
        .await?
        .rows_affected();
        transaction.commit().await?;
        Ok(rows)
    }

    /// Deletes some rows of a cache's ended pushes that keep and tell nothing any more: given up, or of displaced runs or of
    /// nobody's run and committed before `before`; and of runs and pins likewise. Tells how many rows went, or some of
    /// them; 0 when all is done.
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
            let mut select = QueryBuilder::new(
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
            select.push(" LIMIT ").push_bind(PUSHES);
            pushes = select.build_query_scalar().persistent(false).fetch_all(&mut transaction).await?;
            if !pushes.is_empty() {
                break;
            }
        }
        if pushes.is_empty() {
            let rows = tidy(&mut transaction, now).await?;
            transaction.commit().await?;
            return Ok(rows);
        }
        // What a push named may be many times as much as one transaction deletes.
        let mut left = ROWS - PUSHES;
        for table in ["push_roots", "divergences"] {
            let mut delete = QueryBuilder::new("DELETE FROM ");
            delete.push(table).push(" WHERE (push, hash) IN (SELECT push, hash FROM ").push(table);
            delete.push(" WHERE push IN (");
            list(&mut delete, &pushes);
            delete.push(") LIMIT ").push_bind(left).push(")");
            let gone = delete.build().persistent(false).execute(&mut transaction).await?.rows_affected();
            left -= i64::try_from(gone).unwrap_or(left);
            if left == 0 {
                transaction.commit().await?;
                return Ok(gone);
            }
        }
        let mut delete = QueryBuilder::new("DELETE FROM pushes WHERE id IN (");
        list(&mut delete, &pushes);
        delete.push(")");
        delete.build().persistent(false).execute(&mut transaction).await?;
        transaction.commit().await?;
        Ok(pushes.len() as u64)
    }
}

/// Deletes some of what no push keeps any more. Tells how many rows that changed; 0 when all is done.
async fn tidy(transaction: &mut Transaction, now: i64) -> Result<u64, MetadataError> {
    // Of what a push brought nothing is left to be told.
    let mut rows = query(
        "UPDATE pushes SET record = NULL WHERE id IN (SELECT u.id FROM pushes u WHERE u.record IS NOT NULL
         AND NOT EXISTS (SELECT 1 FROM paths p WHERE p.push = u.id) LIMIT ?)",
    )
    .bind(ROWS / 4)
    .execute(&mut *transaction)
    .await?
    .rows_affected();
    rows += query(
        "DELETE FROM runs WHERE id IN (SELECT r.id FROM runs r WHERE NOT EXISTS (
             SELECT 1 FROM pushes u WHERE u.run = r.id) LIMIT ?)",
    )
    .bind(ROWS / 4)
    .execute(&mut *transaction)
    .await?
    .rows_affected();
    rows += query("DELETE FROM pins WHERE id IN (SELECT id FROM pins WHERE expires_at <= ? LIMIT ?)")
        .bind(now)
        .bind(ROWS / 4)
        .execute(&mut *transaction)
        .await?
        .rows_affected();
    Ok(rows)
}
