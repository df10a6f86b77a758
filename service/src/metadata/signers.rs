//! By which keys replicas sign.

use larder_protocol::{api::CacheName, signature::PublicKey};

use super::{
    Metadata, MetadataError,
    sql::{query, query_scalar},
};

impl Metadata {
    /// Notes that this process signs a cache's paths by these keys. `false` if others do, by none of these: they have said
    /// so since `others_since`.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn sign_by(
        &self,
        cache: &CacheName,
        keys: &[PublicKey],
        now: i64,
        others_since: i64,
    ) -> Result<bool, MetadataError> {
        let mut transaction = self.write().await?;
        let others: Vec<String> = query_scalar("SELECT key FROM cache_keys WHERE cache = ? AND seen_at >= ?")
            .bind(cache.as_str())
            .bind(others_since)
            .fetch_all(&mut transaction)
            .await?;
        let keys: Vec<String> = keys.iter().map(ToString::to_string).collect();
        if !others.is_empty() && !others.iter().any(|key| keys.contains(key)) {
            return Ok(false);
        }
        query("DELETE FROM cache_keys WHERE seen_at < ?")
            .bind(others_since)
            .execute(&mut transaction)
            .await?;
        for key in keys {
            query(
                "INSERT INTO cache_keys (cache, key, seen_at) VALUES (?, ?, ?)
                 ON CONFLICT (cache, key) DO UPDATE SET seen_at = excluded.seen_at",
            )
            .bind(cache.as_str())
            .bind(key)
            .bind(now)
            .execute(&mut transaction)
            .await?;
        }
        transaction.commit().await?;
        Ok(true)
    }
}
