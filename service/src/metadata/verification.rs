//! What a verification looks at: rows, some at a time, in the order of their numbers.

use std::collections::HashSet;

use futures_util::TryStreamExt as _;
use larder_protocol::{
    ChunkId, NarHash, StorePathHash,
    api::{CacheName, PathInfo},
    recipe::RecipeChunk,
    upload::FrameEntry,
};

use super::{
    BATCH, Metadata, MetadataError, Namespace, ObjectId, StoredChunk, StoredNar, blob,
    chunks::Keys,
    claims::list,
    number,
    paths::path_info,
    sql::{Pool, QueryBuilder, Row, query, query_scalar},
};

/// How many rows are looked up at once.
const STEP: i64 = 200;

/// An object that is on disk, as its row says.
#[derive(Debug, Clone)]
pub struct ObjectRow {
    /// Its row.
    pub id: ObjectId,
    /// Its key.
    pub key: String,
    /// Its length.
    pub size: u64,
}

/// A chunk's row: what its frame must be, and where it lies.
#[derive(Debug, Clone)]
pub struct FrameRow {
    /// Its place.
    pub chunk: StoredChunk,
    /// The row of the object that it lies in.
    pub object: ObjectId,
    /// Its name.
    pub name: ChunkId,
}

impl FrameRow {
    /// As the index of its object should announce it.
    pub fn entry(&self) -> FrameEntry {
        FrameEntry {
            id: self.name,
            frame_len: self.chunk.frame_len,
            content_len: self.chunk.content_len,
            holes: self.chunk.holes.to_vec(),
        }
    }

    /// Whether both lie in the same place.
    pub fn is_at(&self, other: &Self) -> bool {
        self.object == other.object
            && self.chunk.frame_offset == other.chunk.frame_offset
            && self.entry() == other.entry()
    }
}

/// A NAR that readers may be sent.
#[derive(Debug, Clone)]
pub struct NarRow {
    /// Its row.
    pub id: i64,
    /// Where its chunks lie.
    pub namespace: Namespace,
    /// Its hash.
    pub hash: NarHash,
    /// Its length.
    pub size: u64,
    /// The digest of its `.nar.zst`.
    pub encoding: StorePathHash,
    /// The length of that.
    pub file_size: u64,
}

impl NarRow {
    /// As what is served.
    pub fn stored(&self) -> StoredNar {
        StoredNar { id: self.id, encoding: self.encoding, file_size: self.file_size }
    }
}

/// A visible path with the NAR that its row names.
#[derive(Debug, Clone)]
pub struct PathRow {
    /// Its row.
    pub id: i64,
    /// Its cache.
    pub cache: CacheName,
    /// The push that brought it.
    pub push: i64,
    /// What its narinfo says.
    pub info: PathInfo,
    /// The hash and length of the NAR that is served for it.
    pub nar: (NarHash, u64),
}

/// A committed push with the key of its record, if it has one.
#[derive(Debug, Clone)]
pub struct RecordRow {
    /// The push.
    pub push: i64,
    /// Its cache.
    pub cache: CacheName,
    /// The record's object and key.
    pub record: Option<(ObjectId, String)>,
}

const FRAME: &str = ", c.name, c.object FROM chunks c JOIN objects o ON o.id = c.object
     WHERE c.damaged_at IS NULL AND ";
const NAR: &str = "SELECT id, namespace, hash, size, encoding, file_size FROM nars WHERE complete = 1 AND ";
const PATH: &str = "SELECT p.id, p.cache, p.push, p.hash, p.name, p.nar_hash, p.nar_size, p.refs, p.deriver, p.ca, p.signatures,
            n.hash AS real_hash, n.size AS real_size
     FROM paths p JOIN pushes u ON u.id = p.push AND u.state = 'committed' JOIN nars n ON n.id = p.nar
     WHERE p.hidden = 0 AND ";

fn frame_row(row: &Row, keys: &mut Keys) -> Result<FrameRow, MetadataError> {
    Ok(FrameRow {
        chunk: StoredChunk::of_row(row, keys)?,
        name: ChunkId(blob(row.try_get(6)?)?),
        object: ObjectId(row.try_get(7)?),
    })
}

fn nar_row(row: &Row) -> Result<NarRow, MetadataError> {
    Ok(NarRow {
        id: row.try_get(0)?,
        namespace: Namespace(row.try_get(1)?),
        hash: NarHash(blob(row.try_get(2)?)?),
        size: number(row.try_get(3)?)?,
        encoding: StorePathHash(blob(row.try_get(4)?)?),
        file_size: number(row.try_get(5)?)?,
    })
}

fn cache_of(row: &Row) -> Result<CacheName, MetadataError> {
    let damaged = |_| MetadataError::Damaged("a path's cache has no such name");
    row.try_get::<&str>("cache")?.parse().map_err(damaged)
}

fn path_row(row: &Row) -> Result<PathRow, MetadataError> {
    Ok(PathRow {
        id: row.try_get("id")?,
        cache: cache_of(row)?,
        push: row.try_get("push")?,
        info: path_info(row)?,
        nar: (NarHash(blob(row.try_get("real_hash")?)?), number(row.try_get("real_size")?)?),
    })
}

impl Metadata {
    /// How many bytes of frames and of NARs are to be read to verify all.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn extent_to_verify(&self) -> Result<(u64, u64), MetadataError> {
        let row = query(
            "SELECT (SELECT CAST(coalesce(sum(size), 0) AS BIGINT) FROM objects WHERE state = 'stored' AND doomed_at IS NULL),
                    (SELECT CAST(coalesce(sum(file_size), 0) AS BIGINT) FROM nars WHERE complete = 1)",
        )
        .fetch_one(self.reader())
        .await?;
        Ok((number(row.try_get(0)?)?, number(row.try_get(1)?)?))
    }

    /// Objects on disk, behind the row `after`.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn objects_after(&self, after: i64) -> Result<Vec<ObjectRow>, MetadataError> {
        let rows = query(
            "SELECT id, key, size FROM objects WHERE id > ? AND state = 'stored' AND doomed_at IS NULL ORDER BY id LIMIT ?",
        )
        .bind(after)
        .bind(STEP)
        .fetch_all(self.reader())
        .await?;
        rows.iter()
            .map(|row| {
                let size = number(row.try_get(2)?)?;
                Ok(ObjectRow { id: ObjectId(row.try_get(0)?), key: row.try_get(1)?, size })
            })
            .collect()
    }

    /// An object by its key.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn object_of_key(&self, key: &str) -> Result<Option<ObjectRow>, MetadataError> {
        let row =
            query("SELECT id, size FROM objects WHERE key = ? AND state = 'stored' AND doomed_at IS NULL")
                .bind(key)
                .fetch_optional(self.reader())
                .await?;
        row.map(|row| {
            let size = number(row.try_get(1)?)?;
            Ok(ObjectRow { id: ObjectId(row.try_get(0)?), key: key.to_owned(), size })
        })
        .transpose()
    }

    /// What should lie in an object, in the order of the places.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn frames_of(&self, object: ObjectId) -> Result<Vec<FrameRow>, MetadataError> {
        let mut query = QueryBuilder::new("SELECT ");
        query.push(StoredChunk::COLUMNS).push(FRAME).push("c.object = ").push_bind(object.0);
        query.push(" ORDER BY c.frame_offset");
        // One after the other: there may be 60,000, and a row takes several times the memory of what is made of it.
        let mut rows = query.build().fetch(self.reader());
        let (mut keys, mut frames) = (Keys::default(), Vec::new());
        while let Some(row) = rows.try_next().await? {
            frames.push(frame_row(&row, &mut keys)?);
        }
        Ok(frames)
    }

    /// Chunks by their rows: those that are there and not known to be damaged.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn frames_by_row(&self, chunks: &[i64]) -> Result<Vec<FrameRow>, MetadataError> {
        let (mut keys, mut frames) = (Keys::default(), Vec::with_capacity(chunks.len()));
        for batch in chunks.chunks(BATCH) {
            let mut query = QueryBuilder::new("SELECT ");
            query.push(StoredChunk::COLUMNS).push(FRAME).push("c.id IN (");
            list(&mut query, batch);
            query.push(") ORDER BY c.object, c.frame_offset");
            for row in query.build().persistent(false).fetch_all(self.reader()).await? {
                frames.push(frame_row(&row, &mut keys)?);
            }
        }
        Ok(frames)
    }

    /// NARs that readers may be sent, behind the row `after`.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn nars_after(&self, after: i64) -> Result<Vec<NarRow>, MetadataError> {
        let mut query = QueryBuilder::new(NAR);
        query.push("id > ").push_bind(after).push(" ORDER BY id LIMIT ").push_bind(STEP);
        query.build().fetch_all(self.reader()).await?.iter().map(nar_row).collect()
    }

    /// One NAR, if readers may be sent it.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn nar_row(&self, nar: i64) -> Result<Option<NarRow>, MetadataError> {
        let mut query = QueryBuilder::new(NAR);
        query.push("id = ").push_bind(nar);
        query.build().fetch_optional(self.reader()).await?.as_ref().map(nar_row).transpose()
    }

    /// The NARs whose recipes an object should hold.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn nars_of_recipes(&self, object: ObjectId) -> Result<Vec<NarRow>, MetadataError> {
        let mut query = QueryBuilder::new(NAR);
        query.push("recipe_object = ").push_bind(object.0).push(" ORDER BY id");
        query.build().fetch_all(self.reader()).await?.iter().map(nar_row).collect()
    }

    /// A NAR's recipe by the names of its chunks, as it is written for a lost database.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn recipe_by_names(&self, nar: i64) -> Result<Vec<RecipeChunk>, MetadataError> {
        let rows = query(
            "SELECT c.name, r.hashes FROM nar_chunks r JOIN chunks c ON c.id = r.chunk WHERE r.nar = ? ORDER BY r.position",
        )
        .bind(nar)
        .fetch_all(self.reader())
        .await?;
        rows.iter()
            .map(|row| {
                let hashes = row.try_get::<Option<&[u8]>>(1)?.unwrap_or_default();
                let (hashes, []) = hashes.as_chunks::<20>() else {
                    return Err(MetadataError::Damaged("a recipe's hashes are cut short"));
                };
                let hashes = hashes.iter().map(|hash| StorePathHash(*hash)).collect();
                Ok(RecipeChunk { id: ChunkId(blob(row.try_get(0)?)?), hashes })
            })
            .collect()
    }

    /// Visible paths of all caches, behind the row `after`. One whose row cannot be read is told by its number alone.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn paths_after(&self, after: i64) -> Result<Vec<(i64, Option<PathRow>)>, MetadataError> {
        let mut query = QueryBuilder::new(PATH);
        query.push("p.id > ").push_bind(after).push(" ORDER BY p.id LIMIT ").push_bind(STEP);
        let rows = query.build().fetch_all(self.reader()).await?;
        rows.iter().map(|row| Ok((row.try_get("id")?, path_row(row).ok()))).collect()
    }

    /// The visible paths of this hash, in whichever cache, with their NARs' rows.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn paths_of_hash(&self, hash: &StorePathHash) -> Result<Vec<(PathRow, i64)>, MetadataError> {
        let mut query = QueryBuilder::new(PATH.replacen("SELECT ", "SELECT n.id AS nar, ", 1));
        query.push("p.hash = ").push_bind(hash.0.to_vec()).push(" ORDER BY p.id");
        let rows = query.build().persistent(false).fetch_all(self.reader()).await?;
        rows.iter().map(|row| Ok((path_row(row)?, row.try_get("nar")?))).collect()
    }

    /// The committed pushes that brought paths to caches which are rebuilt, behind the row `after`.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn records_after(&self, after: i64) -> Result<Vec<RecordRow>, MetadataError> {
        let rows = query(
            "SELECT u.id, u.cache, o.id AS object, o.key FROM pushes u LEFT JOIN objects o ON o.id = u.record
             WHERE u.id > ? AND u.state = 'committed' AND u.cache NOT LIKE '%~%'
               AND EXISTS (SELECT 1 FROM paths p WHERE p.push = u.id AND p.withdrawn_at IS NULL)
             ORDER BY u.id LIMIT ?",
        )
        .bind(after)
        .bind(STEP)
        .fetch_all(self.reader())
        .await?;
        rows.iter()
            .map(|row| {
                let object: Option<i64> = row.try_get("object")?;
                let record = match object {
                    Some(object) => Some((ObjectId(object), row.try_get("key")?)),
                    None => None,
                };
                Ok(RecordRow { push: row.try_get("id")?, cache: cache_of(row)?, record })
            })
            .collect()
    }

    /// The rows of a push's paths: with the hash, and all that it says, as far as that can be read.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn paths_of_push(
        &self,
        push: i64,
    ) -> Result<Vec<(i64, Option<StorePathHash>, Option<PathInfo>)>, MetadataError> {
        let rows = query(
            "SELECT id, hash, name, nar_hash, nar_size, refs, deriver, ca, signatures FROM paths
             WHERE push = ? AND withdrawn_at IS NULL ORDER BY id",
        )
        .bind(push)
        .fetch_all(self.reader())
        .await?;
        rows.iter()
            .map(|row| {
                let hash = blob(row.try_get("hash")?).ok().map(StorePathHash);
                Ok((row.try_get("id")?, hash, path_info(row).ok()))
            })
            .collect()
    }

    /// Which of these objects have a row.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn known_objects(&self, keys: &[String]) -> Result<HashSet<String>, MetadataError> {
        let mut known = HashSet::with_capacity(keys.len());
        for batch in keys.chunks(BATCH) {
            let mut query = QueryBuilder::new("SELECT key FROM objects WHERE key IN (");
            let mut list = query.separated(", ");
            for key in batch {
                list.push_bind(key.as_str());
            }
            query.push(")");
            known.extend(
                query.build_query_scalar::<String>().persistent(false).fetch_all(self.reader()).await?,
            );
        }
        Ok(known)
    }

    /// What the database itself finds wrong with its file, and rows that name others which are not there.
    ///
    /// # Errors
    /// When the database fails.
    ///
    /// Of a server's files its own means are to be asked: checksums, `pg_amcheck`.
    pub async fn faults(&self) -> Result<Vec<String>, MetadataError> {
        if matches!(self.reader(), Pool::Postgres(_)) {
            return Ok(Vec::new());
        }
        // Not `quick_check`, which does not look whether each row is found by its indices.
        let mut faults: Vec<String> =
            query_scalar("PRAGMA integrity_check(20)").fetch_all(self.reader()).await?;
        faults.retain(|fault| fault != "ok");
        let dangling = query("PRAGMA foreign_key_check").fetch_all(self.reader()).await?;
        for row in dangling.iter().take(20) {
            let (table, parent): (String, String) = (row.try_get(0)?, row.try_get(2)?);
            faults.push(format!("a row of {table} names one of {parent} that is not there"));
        }
        Ok(faults)
    }
}
