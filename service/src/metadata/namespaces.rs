//! Which namespace of chunks a cache has, and that it keeps it.

use larder_protocol::api::CacheName;

use super::{
    Metadata, MetadataError, Namespace,
    sql::{Transaction, query, query_scalar},
};

/// Whether a cache can be public or private as the configuration says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Settled {
    /// It can; its chunks are here.
    In(Namespace),
    /// It was of the other kind when something was pushed to it.
    WasOtherwise,
}

impl Metadata {
    /// The namespace of a cache, the same for ever. Of which kind a cache is can change only until something is
    /// pushed to it: what was public is known, and its chunks are shared.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn settle_namespace(&self, cache: &CacheName, public: bool) -> Result<Settled, MetadataError> {
        let mut transaction = self.write().await?;
        let (number, was_public) = match known(&mut transaction, cache).await? {
            Some(known) => known,
            None => (add(&mut transaction, cache).await?, true),
        };
        if was_public != public {
            // Pull requests' caches are of their parent's kind.
            let pushed: bool = query_scalar(
                "SELECT EXISTS (SELECT 1 FROM pushes WHERE cache = ?1 OR substr(cache, 1, length(?1) + 1) = ?1 || '~')",
            )
            .bind(cache.as_str())
            .fetch_one(&mut transaction)
            .await?;
            if pushed {
                return Ok(Settled::WasOtherwise);
            }
            query("UPDATE cache_namespaces SET public = ? WHERE cache = ?")
                .bind(public)
                .bind(cache.as_str())
                .execute(&mut transaction)
                .await?;
        }
        transaction.commit().await?;
        Ok(Settled::In(if public { Namespace::PUBLIC } else { Namespace(number) }))
    }
}

async fn known(
    transaction: &mut Transaction,
    cache: &CacheName,
) -> Result<Option<(i64, bool)>, MetadataError> {
    let row = query("SELECT number, public FROM cache_namespaces WHERE cache = ?")
        .bind(cache.as_str())
        .fetch_optional(&mut *transaction)
        .await?;
    row.map(|row| Ok((row.try_get(0)?, row.try_get(1)?))).transpose()
}

/// Gives a cache its number. Until there was a choice, every cache was public.
async fn add(transaction: &mut Transaction, cache: &CacheName) -> Result<i64, MetadataError> {
    Ok(query_scalar(
        "INSERT INTO cache_namespaces (cache, number, public)
         SELECT ?, COALESCE(MAX(number), 0) + 1, 1 FROM cache_namespaces RETURNING number",
    )
    .bind(cache.as_str())
    .fetch_one(&mut *transaction)
    .await?)
}
