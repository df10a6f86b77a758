//! Objects in which nothing lies: doomed first, gone with their files an hour later.

use super::super::sql::{QueryBuilder, query};

use super::{
    super::{Metadata, MetadataError, ObjectId, claims::list, number},
    ROWS, Removed,
};

impl Metadata {
    /// Objects in which nothing lies and nothing will, behind the row `after`.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn empty_objects(&self, after: i64) -> Result<Vec<i64>, MetadataError> {
        let mut query = QueryBuilder::new("SELECT o.id FROM objects o WHERE o.id > ");
        query.push_bind(after).push(" AND ").push(EMPTY).push(" ORDER BY o.id LIMIT ").push_bind(ROWS / 2);
        Ok(query.build_query_scalar().fetch_all(self.reader()).await?)
    }

    /// Dooms those objects in which nothing lies: nobody can put anything there any more. Tells how many, and their bytes.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn doom_objects(&self, objects: &[i64], now: i64) -> Result<Removed, MetadataError> {
        let mut transaction = self.write().await?;
        let mut update = QueryBuilder::new("UPDATE objects SET doomed_at = ");
        update
            .push_bind(now)
            .push(" WHERE id IN (SELECT o.id FROM objects o WHERE ")
            .push(EMPTY)
            .push(" AND o.id IN (");
        list(&mut update, objects);
        update.push(")) RETURNING size");
        let rows = update.build().persistent(false).fetch_all(&mut transaction).await?;
        let mut doomed = Removed { rows: rows.len() as u64, bytes: 0 };
        for row in &rows {
            doomed.bytes += number(row.try_get(0)?)?;
        }
        transaction.commit().await?;
        Ok(doomed)
    }

    /// Objects that are doomed since before `before`, with their keys and sizes.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn doomed_since(&self, before: i64) -> Result<Vec<(ObjectId, String, u64)>, MetadataError> {
        let rows =
            query("SELECT id, key, size FROM objects WHERE doomed_at <= ? ORDER BY doomed_at, id LIMIT ?")
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
        let mut delete = QueryBuilder::new("DELETE FROM objects WHERE doomed_at IS NOT NULL AND id IN (");
        list(&mut delete, &objects);
        delete.push(")");
        delete.build().persistent(false).execute(&mut transaction).await?;
        transaction.commit().await?;
        Ok(())
    }
}

/// Of objects `o`: nothing lies there, and its push has ended.
const EMPTY: &str = "o.doomed_at IS NULL AND NOT EXISTS (SELECT 1 FROM chunks c WHERE c.object = o.id)
     AND NOT EXISTS (SELECT 1 FROM nars n WHERE n.recipe_object = o.id)
     AND NOT EXISTS (SELECT 1 FROM pushes r WHERE r.record = o.id)
     AND NOT EXISTS (SELECT 1 FROM pushes u WHERE u.id = o.push AND u.state = 'open' AND u.abandoned_at IS NULL)";
