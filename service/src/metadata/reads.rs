//! When paths were last read.

use larder_protocol::{StorePathHash, api::CacheName};

use super::{
    Metadata, MetadataError,
    claims::{claim, list},
    sql::QueryBuilder,
};

/// How many paths one transaction looks at.
const STEP: usize = 500;
/// Within an hour is read once: most readers come again and again.
const HOUR: i64 = 60 * 60;

/// What was read.
#[derive(Debug, Clone, Copy)]
pub enum ReadOf<'a> {
    /// Paths, by their hashes.
    Paths(&'a [StorePathHash]),
    /// NARs, by their rows.
    Nars(&'a [i64]),
}

impl Metadata {
    /// Notes that paths of a cache were read. What a sweep found dead is alive by that.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn note_reads(
        &self,
        cache: &CacheName,
        read: ReadOf<'_>,
        now: i64,
    ) -> Result<(), MetadataError> {
        let count = match read {
            ReadOf::Paths(paths) => paths.len(),
            ReadOf::Nars(nars) => nars.len(),
        };
        for start in (0..count).step_by(STEP) {
            let end = count.min(start + STEP);
            let mut transaction = self.write().await?;
            let mut update = QueryBuilder::new("UPDATE paths SET read_at = ");
            update.push_bind(now).push(" WHERE hidden = 0 AND cache = ").push_bind(cache.as_str());
            update.push(" AND (read_at IS NULL OR read_at < ").push_bind(now - HOUR).push(") AND ");
            match read {
                ReadOf::Paths(paths) => {
                    update.push("hash IN (");
                    let mut hashes = update.separated(", ");
                    for hash in &paths[start..end] {
                        hashes.push_bind(hash.0.to_vec());
                    }
                }
                ReadOf::Nars(nars) => {
                    update.push("nar IN (");
                    list(&mut update, &nars[start..end]);
                }
            }
            update.push(") RETURNING id");
            let read: Vec<i64> =
                update.build_query_scalar().persistent(false).fetch_all(&mut transaction).await?;
            claim(&mut transaction, &read).await?;
            transaction.commit().await?;
        }
        Ok(())
    }
}
