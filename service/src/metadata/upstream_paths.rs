//! Rows of what upstreams were seen to have.

use std::collections::HashSet;

use larder_protocol::StorePathHash;
use sqlx::{QueryBuilder, Row as _, Sqlite};

use super::{BATCH, Metadata, MetadataError, blob};

impl Metadata {
    /// Those of `hashes` that one of `upstreams` was seen to have.
    pub async fn seen_upstream(
        &self,
        upstreams: &[String],
        hashes: &[StorePathHash],
    ) -> Result<HashSet<StorePathHash>, MetadataError> {
        let mut seen = HashSet::new();
        for batch in hashes.chunks(BATCH).filter(|_| !upstreams.is_empty()) {
            let mut query =
                QueryBuilder::<Sqlite>::new("SELECT hash FROM upstream_paths WHERE upstream IN (");
            let mut list = query.separated(", ");
            for upstream in upstreams {
                list.push_bind(upstream);
            }
            query.push(") AND hash IN (");
            let mut list = query.separated(", ");
            for hash in batch {
                list.push_bind(&hash.0[..]);
            }
            query.push(")");
            for row in query.build().persistent(false).fetch_all(self.reader()).await? {
                seen.insert(StorePathHash(blob(row.try_get(0)?)?));
            }
        }
        Ok(seen)
    }

    /// Notes what an upstream was seen to have.
    pub async fn note_upstream(
        &self,
        upstream: &str,
        hashes: &[StorePathHash],
        now: i64,
    ) -> Result<(), MetadataError> {
        for batch in hashes.chunks(BATCH) {
            let mut transaction = self.write().await?;
            let mut insert = QueryBuilder::<Sqlite>::new(
                "INSERT OR REPLACE INTO upstream_paths (upstream, hash, seen_at) ",
            );
            insert.push_values(batch, |mut row, hash| {
                row.push_bind(upstream).push_bind(&hash.0[..]).push_bind(now);
            });
            insert.build().persistent(false).execute(&mut *transaction).await?;
            transaction.commit().await?;
        }
        Ok(())
    }
}
