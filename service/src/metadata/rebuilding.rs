//! Rows that are made anew from what is written beside the objects. Nobody else uses the database meanwhile.

use std::collections::{BTreeMap, HashMap};

use larder_protocol::{ChunkId, NarHash, StorePath, api::CacheName};

use super::{
    BATCH, Metadata, MetadataError, Namespace, ObjectId, StoredChunk, VerifiedNar, blob,
    chunks::{Keys, encode_holes},
    divergences,
    nars::{insert_chunks, insert_nars},
    number,
    paths::join,
    runs::{note_committed, note_run},
    sql::{QueryBuilder, query, query_scalar},
};
use crate::{push::PushRecord, storage::IndexedFrame};

/// A name that no cache can have, for the number of one whose name is lost.
const LOST: &str = "(lost)";

fn integer(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

impl Metadata {
    /// Notes an object that is on disk.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn add_object(&self, key: &str, size: u64, now: i64) -> Result<ObjectId, MetadataError> {
        let mut transaction = self.write().await?;
        let id = query_scalar(
            "INSERT INTO objects (key, state, size, created_at) VALUES (?, 'stored', ?, ?) RETURNING id",
        )
        .bind(key)
        .bind(integer(size))
        .bind(now)
        .fetch_one(&mut transaction)
        .await?;
        transaction.commit().await?;
        Ok(ObjectId(id))
    }

    /// Notes the frames of an object, those whose chunk no other object has.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn add_frames(
        &self,
        object: ObjectId,
        namespace: Namespace,
        frames: &[IndexedFrame],
    ) -> Result<(), MetadataError> {
        for batch in frames.chunks(BATCH) {
            let mut transaction = self.write().await?;
            let mut insert = QueryBuilder::new(
                "INSERT INTO chunks (namespace, name, object, frame_offset, frame_len, content_len, holes) ",
            );
            insert.push_values(batch, |mut row, (entry, offset)| {
                row.push_bind(namespace.0)
                    .push_bind(&entry.id.0[..])
                    .push_bind(object.0)
                    .push_bind(integer(*offset))
                    .push_bind(i64::from(entry.frame_len))
                    .push_bind(i64::from(entry.content_len))
                    .push_bind(encode_holes(&entry.holes));
            });
            insert.push(" ON CONFLICT DO NOTHING");
            insert.build().persistent(batch.len() == BATCH).execute(&mut transaction).await?;
            transaction.commit().await?;
        }
        Ok(())
    }

    /// Where chunks lie.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn chunks_named(
        &self,
        namespace: Namespace,
        names: &[ChunkId],
    ) -> Result<HashMap<ChunkId, StoredChunk>, MetadataError> {
        let (mut stored, mut keys) = (HashMap::with_capacity(names.len()), Keys::default());
        for batch in names.chunks(BATCH) {
            let mut query = QueryBuilder::new("SELECT ");
            query.push(StoredChunk::COLUMNS).push(", c.name FROM chunks c JOIN objects o ON o.id = c.object");
            query.push(" WHERE c.namespace = ").push_bind(namespace.0).push(" AND c.name IN (");
            let mut list = query.separated(", ");
            for name in batch {
                list.push_bind(&name.0[..]);
            }
            query.push(")");
            for row in query.build().persistent(batch.len() == BATCH).fetch_all(self.reader()).await? {
                stored.insert(ChunkId(blob(row.try_get(6)?)?), StoredChunk::of_row(&row, &mut keys)?);
            }
        }
        Ok(stored)
    }

    /// Forgets a chunk that no NAR needs.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn forget_chunk(&self, chunk: i64) -> Result<(), MetadataError> {
        let mut transaction = self.write().await?;
        query("DELETE FROM chunks WHERE id = ? AND NOT EXISTS (SELECT 1 FROM nar_chunks r WHERE r.chunk = chunks.id)")
            .bind(chunk)
            .execute(&mut transaction)
            .await?;
        transaction.commit().await?;
        Ok(())
    }

    /// Notes a NAR that was read back.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn add_nar(
        &self,
        namespace: Namespace,
        recipe_object: ObjectId,
        nar: &VerifiedNar,
    ) -> Result<(), MetadataError> {
        let mut transaction = self.write().await?;
        let ids = insert_nars(&mut transaction, namespace, recipe_object, std::slice::from_ref(nar)).await?;
        for id in &ids {
            let places: Vec<_> = (0..).zip(&nar.chunks).map(|place| (*id, place)).collect();
            for batch in places.chunks(BATCH) {
                insert_chunks(&mut transaction, batch).await?;
                transaction.commit().await?;
                transaction = self.write().await?;
            }
            query("UPDATE nars SET complete = 1 WHERE id = ?").bind(*id).execute(&mut transaction).await?;
        }
        transaction.commit().await?;
        Ok(())
    }

    /// Forgets chunks that no NAR needs. Tells how many stay.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn forget_unused_chunks(&self) -> Result<u64, MetadataError> {
        loop {
            let mut transaction = self.write().await?;
            let gone = query(
                "DELETE FROM chunks WHERE id IN (SELECT c.id FROM chunks c
                     WHERE NOT EXISTS (SELECT 1 FROM nar_chunks r WHERE r.chunk = c.id) LIMIT 1000)",
            )
            .execute(&mut transaction)
            .await?
            .rows_affected();
            transaction.commit().await?;
            if gone == 0 {
                break;
            }
        }
        number(query_scalar("SELECT count(*) FROM chunks").fetch_one(self.reader()).await?)
    }

    /// Gives caches the namespaces that they had. A private cache's number, of those up to `highest` that have objects,
    /// is never another cache's, whether or not its name is known.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn restore_namespaces(
        &self,
        caches: &BTreeMap<CacheName, i64>,
        highest: i64,
    ) -> Result<(), MetadataError> {
        let mut transaction = self.write().await?;
        let mut next = caches.values().copied().chain([highest]).max().unwrap_or(0);
        let mut insert = async |cache: &str, number: i64, public: bool| {
            query("INSERT INTO cache_namespaces (cache, number, public) VALUES (?, ?, ?) ON CONFLICT DO NOTHING")
                .bind(cache)
                .bind(number)
                .bind(public)
                .execute(&mut transaction)
                .await
        };
        for (cache, namespace) in caches.iter().filter(|(_, namespace)| **namespace > 0) {
            insert(cache.as_str(), *namespace, false).await?;
        }
        if next > 0 {
            insert(LOST, next, false).await?;
        }
        for (cache, _) in caches.iter().filter(|(_, namespace)| **namespace == 0) {
            next += 1;
            insert(cache.as_str(), next, true).await?;
        }
        transaction.commit().await?;
        Ok(())
    }

    /// Publishes again what a push published, as far as its NARs are there. Tells how many of its paths have one; `None`
    /// if the push is there already.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn restore_push(
        &self,
        record: &PushRecord,
        object: ObjectId,
        now: i64,
    ) -> Result<Option<u64>, MetadataError> {
        let hashes: Vec<NarHash> = record.paths.iter().map(|path| path.info.nar_hash).collect();
        let nars = self.stored_nars(&[Namespace(record.namespace)], &hashes).await?;
        let nar = |hash: &NarHash, size: u64| nars.get(hash).filter(|nar| nar.1 == size).map(|nar| nar.0);
        let paths: Vec<_> = record
            .paths
            .iter()
            .filter_map(|path| Some((path, nar(&path.info.nar_hash, path.info.nar_size)?)))
            .collect();
        let mut transaction = self.write().await?;
        let run = match &record.run {
            Some(run) => Some(note_run(&mut transaction, &record.cache, run).await?),
            None => None,
        };
        let push: Option<i64> = query_scalar(
            "INSERT INTO pushes (name, cache, owner, provenance, state, opened_at, active_at, run, record)
             VALUES (?, ?, ?, ?, 'open', ?, ?, ?, ?) ON CONFLICT DO NOTHING RETURNING id",
        )
        .bind(&record.push.0[..])
        .bind(record.cache.as_str())
        .bind(&record.owner)
        .bind(&record.provenance)
        .bind(record.opened_at)
        .bind(record.committed_at)
        .bind(run)
        .bind(object.0)
        .fetch_optional(&mut transaction)
        .await?;
        let Some(push) = push else { return Ok(None) };
        for batch in paths.chunks(BATCH) {
            let mut insert = QueryBuilder::new(
                "INSERT INTO paths (cache, hash, name, push, nar_hash, nar_size, nar, refs, deriver, ca, signatures, built,
                     rank, ordered, read_at) ",
            );
            insert.push_values(batch, |mut row, (path, nar)| {
                let info = &path.info;
                row.push_bind(record.cache.as_str())
                    .push_bind(info.path.hash().0.to_vec())
                    .push_bind(info.path.name())
                    .push_bind(push)
                    .push_bind(&info.nar_hash.0[..])
                    .push_bind(integer(info.nar_size))
                    .push_bind(*nar)
                    .push_bind(join(&info.references))
                    .push_bind(info.deriver.as_ref().map(StorePath::to_string))
                    .push_bind(info.ca.as_deref())
                    .push_bind(join(&info.signatures))
                    .push_bind(path.built)
                    .push_bind(path.rank)
                    .push_bind(path.ordered)
                    // Pins are lost: until somebody has pinned again what shall stay, all of it is kept as if it were read.
                    .push_bind(now);
            });
            insert.push(" ON CONFLICT DO NOTHING");
            insert.build().persistent(false).execute(&mut transaction).await?;
        }
        for batch in record.roots.chunks(BATCH) {
            let mut insert = QueryBuilder::new("INSERT INTO push_roots (push, hash) ");
            insert.push_values(batch, |mut row, hash| {
                row.push_bind(push).push_bind(hash.0.to_vec());
            });
            insert.push(" ON CONFLICT DO NOTHING");
            insert.build().persistent(false).execute(&mut transaction).await?;
        }
        divergences::settle(&mut transaction, push, record.committed_at).await?;
        note_committed(&mut transaction, push, record.committed_at).await?;
        query("UPDATE pushes SET state = 'committed', committed_at = ? WHERE id = ?")
            .bind(record.committed_at)
            .bind(push)
            .execute(&mut transaction)
            .await?;
        transaction.commit().await?;
        Ok(Some(paths.len() as u64))
    }

    /// How many paths readers see.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn count_visible_paths(&self) -> Result<u64, MetadataError> {
        let count = query_scalar(
            "SELECT count(*) FROM paths p JOIN pushes u ON u.id = p.push AND u.state = 'committed' WHERE p.hidden = 0",
        );
        number(count.fetch_one(self.reader()).await?)
    }
}
