//! Rows of tags that were released, and the pins that keep what their runs pushed.

use larder_protocol::api::{CacheName, PinName};

use super::{
    Metadata, MetadataError, audit,
    sql::{query, query_scalar},
};
use crate::{
    audit::{Entry, Event, Who},
    identity::RepositoryName,
};

/// As many tags of a repository are remembered: the latest.
const REMEMBERED: i64 = 100;
/// Who made a pin that follows from a release, as `pinned_by` says it. No identity is written so.
pub const PINNED_BY: &str = r#"{"release":true}"#;

impl Metadata {
    /// Notes that a release of the tag was published, or is there no more.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn note_release(
        &self,
        repository: &RepositoryName,
        tag: &str,
        published: bool,
        now: i64,
    ) -> Result<(), MetadataError> {
        let mut transaction = self.write().await?;
        query("DELETE FROM released_tags WHERE repository_key = lower(?) AND tag = ?")
            .bind(repository.as_str())
            .bind(tag)
            .execute(&mut transaction)
            .await?;
        if published {
            query("INSERT INTO released_tags (repository_key, tag, released_at) VALUES (lower(?), ?, ?)")
                .bind(repository.as_str())
                .bind(tag)
                .bind(now)
                .execute(&mut transaction)
                .await?;
            query(
                "DELETE FROM released_tags WHERE repository_key = lower(?1) AND tag NOT IN (
                     SELECT tag FROM released_tags WHERE repository_key = lower(?1)
                     ORDER BY released_at DESC, tag DESC LIMIT ?2)",
            )
            .bind(repository.as_str())
            .bind(REMEMBERED)
            .execute(&mut transaction)
            .await?;
        }
        transaction.commit().await?;
        Ok(())
    }

    /// Whether a release of the tag was published.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn is_released(&self, repository: &RepositoryName, tag: &str) -> Result<bool, MetadataError> {
        let found: Option<i64> =
            query_scalar("SELECT released_at FROM released_tags WHERE repository_key = lower(?) AND tag = ?")
                .bind(repository.as_str())
                .bind(tag)
                .fetch_optional(self.reader())
                .await?;
        Ok(found.is_some())
    }

    /// Removes the pins of a name that follow from a release, and none that somebody else made.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn unpin_release(
        &self,
        cache: &CacheName,
        name: &PinName,
        now: i64,
    ) -> Result<bool, MetadataError> {
        let mut transaction = self.write().await?;
        let removed = query("DELETE FROM pins WHERE cache = ? AND name = ? AND pinned_by = ?")
            .bind(cache.as_str())
            .bind(name.as_str())
            .bind(PINNED_BY)
            .execute(&mut transaction)
            .await?
            .rows_affected();
        if removed > 0 {
            let event = Event::Unpinned { name: name.to_string() };
            audit::record(&mut transaction, &Entry::in_cache(cache, Who::default(), event), now).await?;
        }
        transaction.commit().await?;
        Ok(removed > 0)
    }
}
