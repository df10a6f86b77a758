//! What a mirror is made of: roots by their hashes, and paths with where their NARs are.

use std::collections::HashSet;

use larder_protocol::{StorePathHash, api::CacheName};

use super::{
    BATCH, Metadata, MetadataError, PublishedPath, RootsOf, StoredNar, blob, number, paths::path_info, roots,
    sql::QueryBuilder,
};

/// A path that readers of a cache see, and its NAR.
#[derive(Debug)]
pub struct StoredPath {
    /// What its narinfo says.
    pub published: PublishedPath,
    /// Where its NAR is.
    pub nar: StoredNar,
}

impl Metadata {
    /// The paths that are such roots of a cache, as far as readers see them.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn root_hashes(
        &self,
        cache: &CacheName,
        roots: RootsOf,
    ) -> Result<Vec<StorePathHash>, MetadataError> {
        let mut query = QueryBuilder::new("SELECT DISTINCT p.hash FROM ");
        roots::select(&mut query, roots, cache);
        let rows = query.build().persistent(false).fetch_all(self.reader()).await?;
        rows.iter().map(|row| Ok(StorePathHash(blob(row.try_get(0)?)?))).collect()
    }

    /// Those of `hashes` that readers of a cache see, at most a thousand.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn stored_paths(
        &self,
        cache: &CacheName,
        hashes: &[StorePathHash],
    ) -> Result<Vec<StoredPath>, MetadataError> {
        if hashes.is_empty() {
            return Ok(Vec::new());
        }
        let mut query = QueryBuilder::new(
            "SELECT p.hash, p.name, p.nar_hash, p.nar_size, p.refs, p.deriver, p.ca, p.signatures,
             n.id, n.encoding, n.file_size
             FROM paths p JOIN pushes u ON u.id = p.push AND u.state = 'committed' JOIN nars n ON n.id = p.nar
             WHERE p.hidden = 0 AND p.cache = ",
        );
        query.push_bind(cache.as_str());
        push_hashes(&mut query, hashes);
        let persistent = matches!(hashes.len(), 1 | BATCH);
        let rows = query.build().persistent(persistent).fetch_all(self.reader()).await?;
        rows.iter()
            .map(|row| {
                let encoding = StorePathHash(blob(row.try_get("encoding")?)?);
                let file_size = number(row.try_get("file_size")?)?;
                Ok(StoredPath {
                    published: PublishedPath { info: path_info(row)?, encoding, file_size },
                    nar: StoredNar { id: row.try_get("id")?, encoding, file_size },
                })
            })
            .collect()
    }

    /// Those of `hashes` that were withdrawn from a cache as damaged, at most a thousand. Some may have come again.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn withdrawn_hashes(
        &self,
        cache: &CacheName,
        hashes: &[StorePathHash],
    ) -> Result<HashSet<StorePathHash>, MetadataError> {
        if hashes.is_empty() {
            return Ok(HashSet::new());
        }
        let mut query = QueryBuilder::new(
            "SELECT DISTINCT p.hash FROM paths p WHERE p.withdrawn_at IS NOT NULL AND p.cache = ",
        );
        query.push_bind(cache.as_str());
        push_hashes(&mut query, hashes);
        let rows = query.build().persistent(hashes.len() == BATCH).fetch_all(self.reader()).await?;
        rows.iter().map(|row| Ok(StorePathHash(blob(row.try_get(0)?)?))).collect()
    }
}

fn push_hashes(query: &mut QueryBuilder, hashes: &[StorePathHash]) {
    query.push(" AND p.hash IN (");
    let mut list = query.separated(", ");
    for hash in hashes {
        list.push_bind(hash.0.to_vec());
    }
    query.push(")");
}
