//! Rows of NARs and their recipes.

use std::{collections::HashMap, ops::Range};

use futures_util::TryStreamExt as _;
use larder_protocol::{NarHash, StorePathHash, api::CacheName};

use super::{
    BATCH, Metadata, MetadataError, Namespace, ObjectId, StoredChunk, batches, blob,
    chunks::Keys,
    claims::list,
    number,
    sql::{QueryBuilder, Transaction},
    sweeping::hold_open,
    withdrawing::hold_undamaged,
};
use crate::storage::Ingredient;

/// The digest of a `.nar.zst` as it is served: BLAKE3, its first 20 bytes, so that it is written like a store
/// path's hash.
pub type Encoding = StorePathHash;

/// A NAR that was verified and is about to be noted.
#[derive(Debug)]
pub struct VerifiedNar {
    /// Its hash.
    pub hash: NarHash,
    /// Its length.
    pub size: u64,
    /// The digest of its `.nar.zst`.
    pub encoding: Encoding,
    /// The length of its `.nar.zst`.
    pub file_size: u64,
    /// The rows of its chunks in order, with what fills their holes.
    pub chunks: Vec<(i64, Vec<StorePathHash>)>,
}

/// A NAR that can be served.
#[derive(Debug)]
pub struct StoredNar {
    /// Its row.
    pub id: i64,
    /// The digest of its `.nar.zst`.
    pub encoding: Encoding,
    /// The length of its `.nar.zst`.
    pub file_size: u64,
}

impl Metadata {
    /// Which of `hashes` are verified and stored, in the first of these namespaces that has them: their rows and sizes.
    pub async fn stored_nars(
        &self,
        namespaces: &[Namespace],
        hashes: &[NarHash],
    ) -> Result<HashMap<NarHash, (i64, u64)>, MetadataError> {
        let mut stored = HashMap::new();
        for (namespace, batch) in batches(namespaces, hashes) {
            let mut query =
                QueryBuilder::new("SELECT hash, id, size FROM nars WHERE complete = 1 AND namespace = ");
            query.push_bind(namespace.0).push(" AND hash IN (");
            let mut list = query.separated(", ");
            for hash in batch {
                list.push_bind(&hash.0[..]);
            }
            query.push(")");
            for row in query.build().fetch_all(self.reader()).await? {
                let nar = (row.try_get(1)?, number(row.try_get(2)?)?);
                stored.insert(NarHash(blob(row.try_get(0)?)?), nar);
            }
        }
        Ok(stored)
    }

    /// Notes verified NARs, and that the push's paths have them.
    ///
    /// At most some thousand rows go into one transaction. A NAR with more chunks than that is complete,
    /// and so there for all others, with the last of them.
    ///
    /// # Errors
    /// [`MetadataError::Gone`] if the push is not open any more.
    pub async fn note_nars(
        &self,
        namespace: Namespace,
        push: i64,
        recipe_object: ObjectId,
        nars: &[VerifiedNar],
    ) -> Result<(), MetadataError> {
        let mut rest = nars;
        while !rest.is_empty() {
            let mut rows = 0;
            let fit = rest.iter().take_while(|nar| {
                rows += nar.chunks.len() + 1;
                rows <= BATCH
            });
            let (now, later) = rest.split_at(fit.count().max(1));
            let mut transaction = self.write().await?;
            hold_open(&mut transaction, push).await?;
            let ids = insert_nars(&mut transaction, namespace, recipe_object, now).await?;
            let places: Vec<Place<'_>> = now
                .iter()
                .zip(&ids)
                .flat_map(|(nar, id)| (0..).zip(&nar.chunks).map(|place| (*id, place)))
                .collect();
            for batch in places.chunks(BATCH) {
                insert_chunks(&mut transaction, batch).await?;
                if places.len() > BATCH {
                    transaction.commit().await?;
                    transaction = self.write().await?;
                    hold_open(&mut transaction, push).await?;
                }
            }
            complete(&mut transaction, namespace, push, &ids, now).await?;
            transaction.commit().await?;
            rest = later;
        }
        Ok(())
    }

    /// The NAR named `hash`, if a path of one of `caches` has it in one of these namespaces: that with this encoding, if
    /// several do. The path must be visible, or have been until `replaced_since` when one of higher rank took its place:
    /// who was told of it before may still come for it.
    pub async fn published_nar(
        &self,
        caches: &[&CacheName],
        namespaces: &[Namespace],
        hash: &NarHash,
        encoding: &Encoding,
        replaced_since: i64,
    ) -> Result<Option<StoredNar>, MetadataError> {
        let mut query = QueryBuilder::new(
            "SELECT n.id, n.encoding, n.file_size FROM nars n WHERE n.complete = 1 AND n.hash = ",
        );
        query.push_bind(&hash.0[..]).push(" AND n.namespace IN (");
        let mut list = query.separated(", ");
        for namespace in namespaces {
            list.push_bind(namespace.0);
        }
        query.push(
            ") AND EXISTS (SELECT 1 FROM paths p JOIN pushes u ON u.id = p.push
                 WHERE p.nar = n.id AND u.state = 'committed' AND (p.hidden = 0 OR p.replaced_at >= ",
        );
        query.push_bind(replaced_since).push(") AND p.cache IN (");
        let mut list = query.separated(", ");
        for cache in caches {
            list.push_bind(cache.as_str());
        }
        query.push(")) ORDER BY n.encoding = ").push_bind(&encoding.0[..]).push(" DESC LIMIT 1");
        let row = query.build().fetch_optional(self.reader()).await?;
        row.map(|row| {
            Ok(StoredNar {
                id: row.try_get(0)?,
                encoding: StorePathHash(blob(row.try_get(1)?)?),
                file_size: number(row.try_get(2)?)?,
            })
        })
        .transpose()
    }

    /// A NAR's chunks in order, each with what fills its holes. None if the NAR has gone.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn recipe(&self, nar: &StoredNar) -> Result<Vec<Ingredient>, MetadataError> {
        self.recipe_part(nar, 0..usize::MAX).await
    }

    /// The same of a part of its recipe.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn recipe_part(
        &self,
        nar: &StoredNar,
        part: Range<usize>,
    ) -> Result<Vec<Ingredient>, MetadataError> {
        let mut query = QueryBuilder::new("SELECT ");
        query.push(StoredChunk::COLUMNS);
        query.push(
            ", r.hashes FROM nar_chunks r JOIN chunks c ON c.id = r.chunk JOIN objects o ON o.id = c.object
             JOIN nars n ON n.id = r.nar WHERE r.nar = ",
        );
        let position = |at: usize| i64::try_from(at).unwrap_or(i64::MAX);
        // Another may have got its number.
        query.push_bind(nar.id).push(" AND n.encoding = ").push_bind(&nar.encoding.0[..]);
        query.push(" AND r.position >= ").push_bind(position(part.start));
        query.push(" AND r.position < ").push_bind(position(part.end)).push(" ORDER BY r.position");
        // One after the other: a row takes several times the memory of what is made of it.
        let mut rows = query.build().fetch(self.reader());
        let mut keys = Keys::default();
        let mut recipe = Vec::new();
        while let Some(row) = rows.try_next().await? {
            let hashes = row.try_get::<Option<&[u8]>>(6)?.unwrap_or_default();
            let (hashes, []) = hashes.as_chunks::<20>() else {
                return Err(MetadataError::Damaged("a recipe's hashes are cut short"));
            };
            let hashes = hashes.iter().map(|hash| StorePathHash(*hash)).collect();
            recipe.push((StoredChunk::of_row(&row, &mut keys)?, hashes));
        }
        Ok(recipe)
    }
}

/// A NAR's row, the position in its recipe, and the chunk there with what fills its holes.
pub(super) type Place<'a> = (i64, (i64, &'a (i64, Vec<StorePathHash>)));

/// Inserts NARs and tells their rows in the same order.
pub(super) async fn insert_nars(
    transaction: &mut Transaction,
    namespace: Namespace,
    recipe_object: ObjectId,
    nars: &[VerifiedNar],
) -> Result<Vec<i64>, MetadataError> {
    let mut insert =
        QueryBuilder::new("INSERT INTO nars (namespace, hash, size, encoding, file_size, recipe_object) ");
    insert.push_values(nars, |mut row, nar| {
        row.push_bind(namespace.0)
            .push_bind(&nar.hash.0[..])
            .push_bind(i64::try_from(nar.size).unwrap_or(i64::MAX))
            .push_bind(&nar.encoding.0[..])
            .push_bind(i64::try_from(nar.file_size).unwrap_or(i64::MAX))
            .push_bind(recipe_object.0);
    });
    insert.push(" RETURNING hash, id");
    let mut ids = HashMap::with_capacity(nars.len());
    for row in insert.build().persistent(false).fetch_all(&mut *transaction).await? {
        ids.insert(NarHash(blob(row.try_get(0)?)?), row.try_get(1)?);
    }
    let id = |nar: &VerifiedNar| ids.get(&nar.hash).copied();
    nars.iter()
        .map(|nar| id(nar).ok_or(MetadataError::Damaged("a NAR that was inserted is not there")))
        .collect()
}

pub(super) async fn insert_chunks(
    transaction: &mut Transaction,
    places: &[Place<'_>],
) -> Result<(), MetadataError> {
    let mut insert = QueryBuilder::new("INSERT INTO nar_chunks (nar, position, chunk, hashes) ");
    insert.push_values(places, |mut row, (nar, (position, (chunk, hashes)))| {
        let hashes: Vec<u8> = hashes.iter().flat_map(|hash| hash.0).collect();
        row.push_bind(*nar)
            .push_bind(*position)
            .push_bind(*chunk)
            .push_bind((!hashes.is_empty()).then_some(hashes));
    });
    insert.build().persistent(places.len() == BATCH).execute(&mut *transaction).await?;
    let chunks: Vec<i64> = places.iter().map(|(_, (_, (chunk, _)))| *chunk).collect();
    hold_undamaged(transaction, &chunks).await?;
    // What a sweep condemned since the push was opened stays by this.
    let mut revive = QueryBuilder::new(
        "UPDATE chunks SET condemned_at = NULL, condemned_by = NULL WHERE condemned_at IS NOT NULL AND id IN (",
    );
    list(&mut revive, &chunks);
    revive.push(")");
    revive.build().persistent(places.len() == BATCH).execute(&mut *transaction).await?;
    Ok(())
}

/// Makes NARs complete, but those that another push has completed meanwhile, and gives them to the push's paths.
async fn complete(
    transaction: &mut Transaction,
    namespace: Namespace,
    push: i64,
    ids: &[i64],
    nars: &[VerifiedNar],
) -> Result<(), MetadataError> {
    let mut update = QueryBuilder::new(
        "UPDATE nars SET complete = 1 WHERE NOT EXISTS (
             SELECT 1 FROM nars n WHERE n.namespace = nars.namespace AND n.hash = nars.hash AND n.complete = 1)
         AND id IN ",
    );
    push_list(&mut update, ids);
    let completed = update.build().persistent(false).execute(&mut *transaction).await?.rows_affected();
    if completed < ids.len() as u64 {
        // Nothing may use their chunks then: they are looked for when the push has ended.
        let mut unsettle = QueryBuilder::new("UPDATE objects SET push = ");
        unsettle.push_bind(push).push(
            " WHERE state = 'stored' AND id IN (SELECT c.object FROM nar_chunks r JOIN chunks c ON c.id = r.chunk
             WHERE r.nar IN (SELECT id FROM nars WHERE complete = 0 AND id IN ",
        );
        push_list(&mut unsettle, ids);
        unsettle.push("))");
        unsettle.build().persistent(false).execute(&mut *transaction).await?;
        let mut delete = QueryBuilder::new(
            "DELETE FROM nar_chunks WHERE nar IN (SELECT id FROM nars WHERE complete = 0 AND id IN ",
        );
        push_list(&mut delete, ids);
        delete.push(")");
        delete.build().persistent(false).execute(&mut *transaction).await?;
        let mut delete = QueryBuilder::new("DELETE FROM nars WHERE complete = 0 AND id IN ");
        push_list(&mut delete, ids);
        delete.build().persistent(false).execute(&mut *transaction).await?;
    }
    let mut update = QueryBuilder::new(
        "UPDATE paths SET unproven = 0, nar = (
             SELECT n.id FROM nars n WHERE n.hash = paths.nar_hash AND n.complete = 1 AND n.namespace = ",
    );
    update.push_bind(namespace.0).push(") WHERE push = ").push_bind(push).push(" AND nar_hash IN (");
    let mut list = update.separated(", ");
    for nar in nars {
        list.push_bind(&nar.hash.0[..]);
    }
    update.push(")");
    update.build().persistent(false).execute(&mut *transaction).await?;
    Ok(())
}

fn push_list(query: &mut QueryBuilder, ids: &[i64]) {
    query.push("(");
    let mut list = query.separated(", ");
    for id in ids {
        list.push_bind(*id);
    }
    query.push(")");
}
