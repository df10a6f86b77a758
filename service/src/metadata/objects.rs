//! Rows of objects.

use super::{
    Metadata, MetadataError,
    sql::{query, query_scalar},
    sweeping::hold_open,
};

/// An object's row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ObjectId(pub i64);

impl Metadata {
    /// Notes an object that is about to be written.
    ///
    /// # Errors
    /// [`MetadataError::Gone`] if the push is not open any more.
    pub async fn begin_object(&self, key: &str, push: i64, now: i64) -> Result<ObjectId, MetadataError> {
        let mut transaction = self.write().await?;
        hold_open(&mut transaction, push).await?;
        let id = query_scalar(
            "INSERT INTO objects (key, state, push, created_at) VALUES (?, 'writing', ?, ?) RETURNING id",
        )
        .bind(key)
        .bind(push)
        .bind(now)
        .fetch_one(&mut transaction)
        .await?;
        transaction.commit().await?;
        Ok(ObjectId(id))
    }

    /// The keys of some objects that are stored: of the oldest, and of the newest.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn some_objects(&self) -> Result<Vec<String>, MetadataError> {
        const STORED: &str = "FROM objects WHERE state = 'stored' AND doomed_at IS NULL ORDER BY id";
        let text = format!(
            "SELECT key FROM (SELECT key {STORED} LIMIT 10) AS oldest
             UNION SELECT key FROM (SELECT key {STORED} DESC LIMIT 10) AS newest"
        );
        Ok(query_scalar(text).fetch_all(self.reader()).await?)
    }

    /// Removes the row of an object that was begun and given up, so that it has no file.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn forget_object(&self, object: ObjectId) -> Result<(), MetadataError> {
        let mut transaction = self.write().await?;
        query("DELETE FROM objects WHERE id = ? AND state = 'writing'")
            .bind(object.0)
            .execute(&mut transaction)
            .await?;
        transaction.commit().await?;
        Ok(())
    }
}
