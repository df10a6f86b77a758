//! NARs that no path has, and their recipes.

use super::super::sql::{QueryBuilder, query, query_scalar};

use super::{
    super::{Metadata, MetadataError, claims::list},
    ROWS,
    chunks::condemn,
};

impl Metadata {
    /// NARs that no path has, behind the row `after`. Those that a push is still noting are none.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn unnamed_nars(&self, after: i64) -> Result<Vec<i64>, MetadataError> {
        Ok(query_scalar(
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
        let mut update = QueryBuilder::new(
            "UPDATE nars SET complete = 0 WHERE complete = 1 AND NOT EXISTS (SELECT 1 FROM paths p WHERE p.nar = nars.id)
             AND id IN (",
        );
        list(&mut update, nars);
        update.push(")");
        update.build().persistent(false).execute(&mut transaction).await?;
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
        let mut select = QueryBuilder::new(
            "SELECT r.nar, r.position, r.chunk FROM nar_chunks r JOIN nars n ON n.id = r.nar AND n.complete = 0
             WHERE r.nar IN (",
        );
        list(&mut select, nars);
        select.push(") ORDER BY r.nar, r.position LIMIT ").push_bind(ROWS);
        let rows = select.build().persistent(false).fetch_all(&mut transaction).await?;
        let Some(last) = rows.last() else {
            let mut delete = QueryBuilder::new(
                "DELETE FROM nars WHERE complete = 0 AND NOT EXISTS (SELECT 1 FROM paths p WHERE p.nar = nars.id) AND id IN (",
            );
            list(&mut delete, nars);
            delete.push(")");
            let gone = delete.build().persistent(false).execute(&mut transaction).await?.rows_affected();
            transaction.commit().await?;
            return Ok(Some(gone));
        };
        let (last_nar, last_position): (i64, i64) = (last.try_get(0)?, last.try_get(1)?);
        let mut chunks = rows.iter().map(|row| row.try_get(2)).collect::<Result<Vec<i64>, _>>()?;
        chunks.sort_unstable();
        chunks.dedup();
        // Those before the last are all among these rows. By ranges: to look at what stays would take longer with each NAR.
        let mut whole = rows.iter().map(|row| row.try_get(0)).collect::<Result<Vec<i64>, _>>()?;
        whole.dedup();
        whole.retain(|nar| *nar != last_nar);
        if !whole.is_empty() {
            let mut delete = QueryBuilder::new("DELETE FROM nar_chunks WHERE nar IN (");
            list(&mut delete, &whole);
            delete.push(")");
            delete.build().persistent(false).execute(&mut transaction).await?;
        }
        query("DELETE FROM nar_chunks WHERE nar = ? AND position <= ?")
            .bind(last_nar)
            .bind(last_position)
            .execute(&mut transaction)
            .await?;
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
}
