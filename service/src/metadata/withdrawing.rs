//! Withdrawing what is damaged, and correcting rows.
//!
//! A chunk whose frame cannot be read loses its name, in one transaction with the place that was read: who moved it
//! meanwhile wins. From then on pushes miss it, and bring it again under its name in a row of its own. The NARs that need
//! it become incomplete, so that nobody finds them, and their paths hidden; sweeps take all three as they take whatever
//! nobody sees.

use larder_protocol::{
    ChunkId, NarHash, StorePath, StorePathHash,
    api::{CacheName, PathInfo},
    upload::FrameEntry,
};

use super::{
    BATCH, FrameRow, Metadata, MetadataError, ObjectId, audit, blob,
    chunks::encode_holes,
    claims::list,
    number,
    paths::{join, path_of},
    sql::{QueryBuilder, Row, Transaction, query, query_scalar},
};
use crate::audit::{Entry, Event, Who};

/// NARs in one transaction: each may have a thousand paths, but hardly ever more than one.
const NARS: i64 = 200;

/// What was taken from readers.
#[derive(Debug, Default)]
pub struct Withdrawn {
    /// The paths, each with its cache.
    pub paths: Vec<(CacheName, StorePath)>,
}

/// A path that was withdrawn and has not come again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WaitingPath {
    /// Its cache.
    pub cache: CacheName,
    /// The path.
    pub path: StorePath,
    /// The NAR that it had.
    pub nar_hash: NarHash,
}

fn integer(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

impl Metadata {
    /// Withdraws a chunk whose frame was looked at in this place and is not what it should be, with all that needs it.
    /// `None`, and nothing is done, where it lies in another place by now.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn withdraw_chunk(
        &self,
        frame: &FrameRow,
        new_name: ChunkId,
        now: i64,
    ) -> Result<Option<Withdrawn>, MetadataError> {
        let mut transaction = self.write().await?;
        let marked = query(
            "UPDATE chunks SET name = ?, damaged_at = ? WHERE id = ? AND object = ? AND frame_offset = ? AND name = ?
             AND damaged_at IS NULL",
        )
        .bind(&new_name.0[..])
        .bind(now)
        .bind(frame.chunk.id)
        .bind(frame.object.0)
        .bind(integer(frame.chunk.frame_offset))
        .bind(&frame.name.0[..])
        .execute(&mut transaction)
        .await?;
        if marked.rows_affected() == 0 {
            return Ok(None);
        }
        let mut withdrawn = Withdrawn::default();
        loop {
            let nars: Vec<i64> = query_scalar(
                "SELECT id FROM nars WHERE complete = 1 AND id IN (SELECT nar FROM nar_chunks WHERE chunk = ?) LIMIT ?",
            )
            .bind(frame.chunk.id)
            .bind(NARS)
            .fetch_all(&mut transaction)
            .await?;
            withdraw(&mut transaction, &nars, now, &mut withdrawn).await?;
            transaction.commit().await?;
            // Who notes a NAR of it from now on is refused: see `note_nars`.
            if (nars.len() as i64) < NARS {
                return Ok(Some(withdrawn));
            }
            transaction = self.write().await?;
        }
    }

    /// Withdraws a NAR, with the paths that have it.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn withdraw_nar(&self, nar: i64, now: i64) -> Result<Withdrawn, MetadataError> {
        let mut transaction = self.write().await?;
        let mut withdrawn = Withdrawn::default();
        withdraw(&mut transaction, &[nar], now, &mut withdrawn).await?;
        transaction.commit().await?;
        Ok(withdrawn)
    }

    /// Withdraws one path, whose row is not what was published.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn withdraw_path(&self, path: i64, now: i64) -> Result<Withdrawn, MetadataError> {
        let mut transaction = self.write().await?;
        let mut withdrawn = Withdrawn::default();
        hide(&mut transaction, "id", &[path], now, &mut withdrawn).await?;
        transaction.commit().await?;
        Ok(withdrawn)
    }

    /// How many paths were withdrawn and have not come again.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn count_waiting(&self) -> Result<u64, MetadataError> {
        let count = query_scalar(
            "SELECT count(*) FROM (SELECT DISTINCT p.cache, p.hash FROM paths p WHERE p.withdrawn_at IS NOT NULL AND NOT EXISTS (
                 SELECT 1 FROM paths q JOIN pushes u ON u.id = q.push AND u.state = 'committed'
                 WHERE q.cache = p.cache AND q.hash = p.hash AND q.hidden = 0)) waiting",
        );
        number(count.fetch_one(self.reader()).await?)
    }

    /// Paths that were withdrawn since then and have not come again, at most so many.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn waiting_paths(&self, since: i64, limit: u32) -> Result<Vec<WaitingPath>, MetadataError> {
        let rows = query(
            "SELECT p.cache, p.hash, p.name, p.nar_hash FROM paths p
             WHERE p.id = (SELECT max(w.id) FROM paths w
                           WHERE w.cache = p.cache AND w.hash = p.hash AND w.withdrawn_at IS NOT NULL)
             AND p.withdrawn_at >= ? AND NOT EXISTS (
                 SELECT 1 FROM paths q JOIN pushes u ON u.id = q.push AND u.state = 'committed'
                 WHERE q.cache = p.cache AND q.hash = p.hash AND q.hidden = 0) ORDER BY p.cache, p.hash LIMIT ?",
        )
        .bind(since)
        .bind(limit)
        .fetch_all(self.reader())
        .await?;
        rows.iter()
            .map(|row| {
                let (cache, path) = cache_and_path(row)?;
                Ok(WaitingPath { cache, path, nar_hash: NarHash(blob(row.try_get("nar_hash")?)?) })
            })
            .collect()
    }

    /// The visible paths that have a NAR.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn paths_of_nar(&self, nar: i64) -> Result<Vec<(CacheName, StorePath)>, MetadataError> {
        let rows = query("SELECT cache, hash, name FROM paths WHERE nar = ? AND hidden = 0")
            .bind(nar)
            .fetch_all(self.reader())
            .await?;
        rows.iter().map(cache_and_path).collect()
    }

    /// Corrects a chunk's row, unless it lies elsewhere by now or another row has that name. Tells whether it did.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn correct_frame(
        &self,
        frame: &FrameRow,
        entry: &FrameEntry,
        offset: u64,
    ) -> Result<bool, MetadataError> {
        let mut transaction = self.write().await?;
        let corrected = query(
            "UPDATE chunks SET name = ?1, frame_offset = ?2, frame_len = ?3, content_len = ?4, holes = ?5
             WHERE id = ?6 AND object = ?7 AND frame_offset = ?8 AND NOT EXISTS (
                 SELECT 1 FROM chunks c WHERE c.namespace = chunks.namespace AND c.name = ?1 AND c.id <> ?6)",
        )
        .bind(&entry.id.0[..])
        .bind(integer(offset))
        .bind(i64::from(entry.frame_len))
        .bind(i64::from(entry.content_len))
        .bind(encode_holes(&entry.holes))
        .bind(frame.chunk.id)
        .bind(frame.object.0)
        .bind(integer(frame.chunk.frame_offset))
        .execute(&mut transaction)
        .await?;
        transaction.commit().await?;
        Ok(corrected.rows_affected() == 1)
    }

    /// Corrects what a NAR's row says of its bytes.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn correct_nar(
        &self,
        nar: i64,
        size: u64,
        encoding: &StorePathHash,
        file_size: u64,
    ) -> Result<(), MetadataError> {
        let mut transaction = self.write().await?;
        query("UPDATE nars SET size = ?, encoding = ?, file_size = ? WHERE id = ?")
            .bind(integer(size))
            .bind(&encoding.0[..])
            .bind(integer(file_size))
            .bind(nar)
            .execute(&mut transaction)
            .await?;
        transaction.commit().await?;
        Ok(())
    }

    /// Corrects what a path's row says.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn correct_path(&self, path: i64, info: &PathInfo) -> Result<(), MetadataError> {
        let mut transaction = self.write().await?;
        query(
            "UPDATE paths SET hash = ?, name = ?, nar_hash = ?, nar_size = ?, refs = ?, deriver = ?, ca = ?, signatures = ? WHERE id = ?",
        )
        .bind(info.path.hash().0.to_vec())
        .bind(info.path.name())
        .bind(&info.nar_hash.0[..])
        .bind(integer(info.nar_size))
        .bind(join(&info.references))
        .bind(info.deriver.as_ref().map(StorePath::to_string))
        .bind(info.ca.as_deref())
        .bind(join(&info.signatures))
        .bind(path)
        .execute(&mut transaction)
        .await?;
        transaction.commit().await?;
        Ok(())
    }

    /// Corrects the length that an object's row says.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn correct_object(&self, object: ObjectId, size: u64) -> Result<(), MetadataError> {
        let mut transaction = self.write().await?;
        query("UPDATE objects SET size = ? WHERE id = ?")
            .bind(integer(size))
            .bind(object.0)
            .execute(&mut transaction)
            .await?;
        transaction.commit().await?;
        Ok(())
    }
}

fn cache_and_path(row: &Row) -> Result<(CacheName, StorePath), MetadataError> {
    let damaged = |_| MetadataError::Damaged("a path's cache has no such name");
    Ok((row.try_get::<&str>("cache")?.parse().map_err(damaged)?, path_of(row)?))
}

/// Makes NARs incomplete, and their paths hidden; what an open push has of them it must send again.
async fn withdraw(
    transaction: &mut Transaction,
    nars: &[i64],
    now: i64,
    withdrawn: &mut Withdrawn,
) -> Result<(), MetadataError> {
    if nars.is_empty() {
        return Ok(());
    }
    let mut update = QueryBuilder::new("UPDATE nars SET complete = 0 WHERE id IN (");
    list(&mut update, nars);
    update.push(")");
    update.build().persistent(false).execute(&mut *transaction).await?;
    let mut update = QueryBuilder::new(
        "UPDATE paths SET nar = NULL WHERE push IN (SELECT id FROM pushes WHERE state = 'open') AND nar IN (",
    );
    list(&mut update, nars);
    update.push(")");
    update.build().persistent(false).execute(&mut *transaction).await?;
    // What was replaced and is served for a while yet is not any more.
    let mut update = QueryBuilder::new("UPDATE paths SET replaced_at = NULL WHERE hidden = 1 AND nar IN (");
    list(&mut update, nars);
    update.push(")");
    update.build().persistent(false).execute(&mut *transaction).await?;
    hide(transaction, "nar", nars, now, withdrawn).await
}

async fn hide(
    transaction: &mut Transaction,
    column: &'static str,
    rows: &[i64],
    now: i64,
    withdrawn: &mut Withdrawn,
) -> Result<(), MetadataError> {
    let mut update = QueryBuilder::new("UPDATE paths SET hidden = 1, withdrawn_at = ");
    update
        .push_bind(now)
        .push(" WHERE hidden = 0 AND push IN (SELECT id FROM pushes WHERE state = 'committed') AND ");
    update.push(column).push(" IN (");
    list(&mut update, rows);
    update.push(") RETURNING cache, hash, name");
    let hidden = update.build().persistent(false).fetch_all(&mut *transaction).await?;
    let before = withdrawn.paths.len();
    for row in &hidden {
        withdrawn.paths.push(cache_and_path(row)?);
    }
    let mut counts: std::collections::BTreeMap<&CacheName, u64> = std::collections::BTreeMap::new();
    for (cache, _) in &withdrawn.paths[before..] {
        *counts.entry(cache).or_default() += 1;
    }
    for (cache, paths) in counts {
        let entry = Entry::in_cache(cache, Who::default(), Event::PathsWithdrawn { paths });
        audit::record(transaction, &entry, now).await?;
    }
    Ok(())
}

/// Makes sure that none of these chunks was found damaged: a NAR of it would not be what was read.
pub(super) async fn hold_undamaged(
    transaction: &mut Transaction,
    chunks: &[i64],
) -> Result<(), MetadataError> {
    for batch in chunks.chunks(BATCH) {
        let mut query = QueryBuilder::new("SELECT 1 FROM chunks WHERE damaged_at IS NOT NULL AND id IN (");
        list(&mut query, batch);
        query.push(") LIMIT 1");
        let damaged: Option<i64> = query
            .build_query_scalar()
            .persistent(batch.len() == BATCH)
            .fetch_optional(&mut *transaction)
            .await?;
        if damaged.is_some() {
            return Err(MetadataError::Gone);
        }
    }
    Ok(())
}
