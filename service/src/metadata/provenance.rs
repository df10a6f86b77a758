//! Who brought a path.

use std::collections::HashSet;

use larder_protocol::{NarHash, StorePath, StorePathHash, api::CacheName};

use super::{
    BATCH, Metadata, MetadataError, blob, number,
    paths::path_of,
    sql::{QueryBuilder, query},
};
use crate::trust::GrantedTo;

/// A visible path, and the push that brought it.
#[derive(Debug)]
pub struct PushedPath {
    /// The cache that it was pushed to: an isolated cache shows its parent's paths too.
    pub cache: CacheName,
    /// The path.
    pub path: StorePath,
    /// Its NAR.
    pub nar_hash: NarHash,
    /// Its NAR's length in bytes.
    pub nar_size: u64,
    /// The derivation that it was built from, as the push said.
    pub deriver: Option<StorePath>,
    /// Whether the push said that its job built the path.
    pub reported_built: bool,
    /// When it became visible.
    pub pushed_at: i64,
    /// Whose push it was.
    pub identity: GrantedTo,
}

impl Metadata {
    /// The push that brought a path, to the first of the caches where readers see it.
    pub async fn pushed_path(
        &self,
        caches: &[&CacheName],
        hash: &StorePathHash,
    ) -> Result<Option<PushedPath>, MetadataError> {
        for cache in caches {
            if let Some(pushed) = self.pushed_to(cache, hash).await? {
                return Ok(Some(pushed));
            }
        }
        Ok(None)
    }

    /// Those of these pushes that were the service's own, of what it prefetched.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn prefetches_among(&self, pushes: &[i64]) -> Result<HashSet<i64>, MetadataError> {
        let mut prefetches = HashSet::new();
        for batch in pushes.chunks(BATCH) {
            let mut query = QueryBuilder::new("SELECT id, provenance FROM pushes WHERE id IN (");
            let mut list = query.separated(", ");
            for push in batch {
                list.push_bind(push);
            }
            query.push(")");
            for row in query.build().persistent(batch.len() == BATCH).fetch_all(self.reader()).await? {
                if matches!(identity(row.try_get("provenance")?)?, GrantedTo::Prefetch { .. }) {
                    prefetches.insert(row.try_get("id")?);
                }
            }
        }
        Ok(prefetches)
    }

    async fn pushed_to(
        &self,
        cache: &CacheName,
        hash: &StorePathHash,
    ) -> Result<Option<PushedPath>, MetadataError> {
        let row = query(
            "SELECT p.hash, p.name, p.nar_hash, p.nar_size, p.deriver, p.built, u.committed_at, u.provenance
             FROM paths p JOIN pushes u ON u.id = p.push AND u.state = 'committed'
             WHERE p.hidden = 0 AND p.cache = ? AND p.hash = ?",
        )
        .bind(cache.as_str())
        .bind(&hash.0[..])
        .fetch_optional(self.reader())
        .await?;
        let Some(row) = row else { return Ok(None) };
        let deriver = row.try_get::<Option<&str>>("deriver")?.map(str::parse).transpose();
        Ok(Some(PushedPath {
            cache: cache.clone(),
            path: path_of(&row)?,
            nar_hash: NarHash(blob(row.try_get("nar_hash")?)?),
            nar_size: number(row.try_get("nar_size")?)?,
            deriver: deriver.map_err(|_| MetadataError::Damaged("a path's deriver cannot be read"))?,
            reported_built: row.try_get("built")?,
            pushed_at: row.try_get("committed_at")?,
            identity: identity(row.try_get("provenance")?)?,
        }))
    }
}

/// Whose a push was, from its row.
fn identity(provenance: &str) -> Result<GrantedTo, MetadataError> {
    serde_json::from_str(provenance).map_err(|_| MetadataError::Damaged("a push's provenance cannot be read"))
}
