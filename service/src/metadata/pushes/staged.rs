//! What an open push stages: its paths, until it is committed.

use std::collections::{HashMap, HashSet};

use larder_protocol::{ContentAddress, NarHash, StorePath, StorePathHash};

use super::super::{
    BATCH, Metadata, MetadataError, Namespace, blob,
    claims::list,
    number,
    paths::path_of,
    sql::{QueryBuilder, Row, query},
    sweeping::hold_open,
};

impl Metadata {
    /// The NARs of the push's staged paths with their sizes, and whether each is verified.
    pub async fn staged_nars(
        &self,
        push: i64,
        hashes: &[NarHash],
    ) -> Result<HashMap<NarHash, (u64, bool)>, MetadataError> {
        let mut staged = HashMap::new();
        for batch in hashes.chunks(BATCH) {
            let mut query = QueryBuilder::new(
                "SELECT nar_hash, nar_size, min(CASE WHEN nar IS NOT NULL AND unproven = 0 THEN 1 ELSE 0 END) FROM paths WHERE push = ",
            );
            query.push_bind(push).push(" AND nar_hash IN (");
            let mut list = query.separated(", ");
            for hash in batch {
                list.push_bind(&hash.0[..]);
            }
            query.push(") GROUP BY nar_hash, nar_size");
            for row in query.build().persistent(false).fetch_all(self.reader()).await? {
                let nar = (number(row.try_get(1)?)?, row.try_get(2)?);
                staged.insert(NarHash(blob(row.try_get(0)?)?), nar);
            }
        }
        Ok(staged)
    }

    /// The push's staged paths whose contents must be checked against their content address, by their NAR.
    pub async fn unproven_addresses(
        &self,
        push: i64,
        hashes: &[NarHash],
    ) -> Result<HashMap<NarHash, Vec<(StorePath, ContentAddress)>>, MetadataError> {
        let mut unproven: HashMap<_, Vec<_>> = HashMap::new();
        for batch in hashes.chunks(BATCH) {
            let mut query = QueryBuilder::new(
                "SELECT nar_hash, hash, name, ca FROM paths WHERE unproven = 1 AND ca IS NOT NULL AND push = ",
            );
            query.push_bind(push).push(" AND nar_hash IN (");
            let mut list = query.separated(", ");
            for hash in batch {
                list.push_bind(&hash.0[..]);
            }
            query.push(")");
            for row in query.build().persistent(false).fetch_all(self.reader()).await? {
                let address = row.try_get::<&str>("ca")?.parse();
                let address =
                    address.map_err(|_| MetadataError::Damaged("a path's content address cannot be read"))?;
                let nar = NarHash(blob(row.try_get("nar_hash")?)?);
                unproven.entry(nar).or_default().push((path_of(&row)?, address));
            }
        }
        Ok(unproven)
    }

    /// The references of the push's staged paths that are neither staged with them nor leased.
    pub async fn outside_references(&self, push: i64) -> Result<HashSet<StorePath>, MetadataError> {
        let known: HashSet<StorePath> = query(
            "SELECT hash, name FROM paths WHERE push = ?1
             UNION SELECT p.hash, p.name FROM leases l JOIN paths p ON p.id = l.path WHERE l.push = ?1",
        )
        .bind(push)
        .fetch_each(self.reader(), path_of)
        .await?
        .into_iter()
        .collect();
        let mut outside = HashSet::new();
        let mut after = 0i64;
        loop {
            let rows = query("SELECT id, refs FROM paths WHERE push = ? AND id > ? ORDER BY id LIMIT 1000")
                .bind(push)
                .bind(after)
                .fetch_all(self.reader())
                .await?;
            for row in &rows {
                after = row.try_get(0)?;
                for reference in row.try_get::<&str>(1)?.split_ascii_whitespace() {
                    let reference: StorePath = reference
                        .parse()
                        .map_err(|_| MetadataError::Damaged("a path's reference cannot be read"))?;
                    if !known.contains(&reference) {
                        outside.insert(reference);
                    }
                }
            }
            if rows.len() < BATCH {
                return Ok(outside);
            }
        }
    }

    /// The hashes of the paths that a push stages.
    pub async fn staged_paths(&self, push: i64) -> Result<Vec<StorePathHash>, MetadataError> {
        let hash = |row: &Row| Ok(StorePathHash(blob(row.try_get(0)?)?));
        query("SELECT hash FROM paths WHERE push = ?").bind(push).fetch_each(self.reader(), hash).await
    }

    /// Takes staged paths out of an open push again.
    ///
    /// # Errors
    /// [`MetadataError::Gone`] if the push is not open any more.
    pub(crate) async fn unstage(
        &self,
        push: i64,
        hashes: &HashSet<StorePathHash>,
    ) -> Result<(), MetadataError> {
        let hashes: Vec<&StorePathHash> = hashes.iter().collect();
        for batch in hashes.chunks(BATCH) {
            let mut transaction = self.write().await?;
            hold_open(&mut transaction, push).await?;
            let mut delete = QueryBuilder::new("DELETE FROM paths WHERE push = ");
            delete.push_bind(push).push(" AND hash IN (");
            let mut list = delete.separated(", ");
            for hash in batch {
                list.push_bind(&hash.0[..]);
            }
            delete.push(")");
            delete.build().persistent(false).execute(&mut transaction).await?;
            transaction.commit().await?;
        }
        Ok(())
    }

    /// How many of an open push's paths have no verified NAR yet. Where it is told nothing of what the cache has, only
    /// what it has sent itself counts.
    pub async fn unverified(&self, push: i64, namespaces: &[Namespace]) -> Result<u64, MetadataError> {
        let mut query = QueryBuilder::new(
            "SELECT count(*) FROM paths p JOIN pushes u ON u.id = p.push AND u.state = 'open'
             WHERE (p.unproven = 1 OR p.nar IS NULL AND (u.blind IS NOT NULL OR NOT EXISTS (
                 SELECT 1 FROM nars n WHERE n.complete = 1 AND n.hash = p.nar_hash AND n.namespace IN (",
        );
        list(&mut query, &namespaces.iter().map(|namespace| namespace.0).collect::<Vec<_>>());
        query.push(")))) AND p.push = ").push_bind(push);
        let unverified: i64 = query.build_query_scalar().persistent(false).fetch_one(self.reader()).await?;
        number(unverified)
    }
}
