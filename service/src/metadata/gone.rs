//! Paths that sweeps took, and since when others are dead.

use larder_protocol::{StorePathHash, api::CacheName};

use super::{
    Metadata, MetadataError,
    sql::{query, query_scalar},
};

/// A path that a sweep took.
#[derive(Debug, Clone)]
pub struct GonePath {
    /// Its name.
    pub name: String,
    /// JSON: who pushed it.
    pub provenance: String,
    /// When it was last read.
    pub read_at: Option<i64>,
    /// Since when nothing kept it.
    pub dead_since: Option<i64>,
    /// When it went.
    pub gone_at: i64,
}

impl Metadata {
    /// What is remembered of a path that a sweep took.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn gone_path(
        &self,
        cache: &CacheName,
        hash: &StorePathHash,
    ) -> Result<Option<GonePath>, MetadataError> {
        let row = query(
            "SELECT name, provenance, read_at, dead_since, gone_at FROM gone_paths WHERE cache = ? AND hash = ?",
        )
        .bind(cache.as_str())
        .bind(hash.0.to_vec())
        .fetch_optional(self.reader())
        .await?;
        row.map(|row| {
            Ok(GonePath {
                name: row.try_get(0)?,
                provenance: row.try_get(1)?,
                read_at: row.try_get(2)?,
                dead_since: row.try_get(3)?,
                gone_at: row.try_get(4)?,
            })
        })
        .transpose()
    }

    /// Since when a sweep knows that nothing keeps a path.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn dead_since(
        &self,
        cache: &CacheName,
        hash: &StorePathHash,
    ) -> Result<Option<i64>, MetadataError> {
        let since = query_scalar(
            "SELECT p.dead_since FROM paths p JOIN pushes u ON u.id = p.push AND u.state = 'committed'
             WHERE p.hidden = 0 AND p.cache = ? AND p.hash = ?",
        )
        .bind(cache.as_str())
        .bind(hash.0.to_vec())
        .fetch_optional(self.reader())
        .await?;
        Ok(since.flatten())
    }
}
