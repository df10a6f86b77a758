//! Rows of chunks.

use std::{collections::HashMap, sync::Arc};

use larder_protocol::{ChunkId, chunk::FrameHole, upload::FrameEntry};

use super::{
    BATCH, Metadata, MetadataError, ObjectId, batches, blob,
    sql::{QueryBuilder, Row, Transaction, query_scalar},
    sweeping::hold_open,
};

/// Which caches share chunks: public ones one namespace, each private one its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Namespace(pub i64);

impl Namespace {
    /// What all public caches share.
    pub const PUBLIC: Self = Self(0);

    /// Of a pull request's cache.
    pub fn of_isolated(id: i64) -> Self {
        Self(-id)
    }

    /// The folder of its objects. Pull requests' caches share one, since nobody needs theirs for a lost database.
    pub fn folder(self) -> String {
        if self.0 < 0 { "isolated".to_owned() } else { self.0.to_string() }
    }
}

/// Where a chunk's frame lies.
#[derive(Debug, Clone)]
pub struct StoredChunk {
    /// Its row.
    pub id: i64,
    /// The object's key.
    pub object: Arc<str>,
    /// The frame's first byte in the object.
    pub frame_offset: u64,
    /// The frame's length.
    pub frame_len: u32,
    /// The content's length.
    pub content_len: u32,
    /// Where its holes are.
    pub holes: Box<[FrameHole]>,
}

/// Gives rows that name the same object one copy of its key.
#[derive(Default)]
pub(super) struct Keys(HashMap<String, Arc<str>>);

impl Keys {
    pub(super) fn share(&mut self, key: &str) -> Arc<str> {
        if let Some(shared) = self.0.get(key) {
            return shared.clone();
        }
        let shared: Arc<str> = key.into();
        self.0.insert(key.to_owned(), shared.clone());
        shared
    }
}

impl StoredChunk {
    pub(super) const COLUMNS: &str = "c.id, o.key, c.frame_offset, c.frame_len, c.content_len, c.holes";

    pub(super) fn of_row(row: &Row, keys: &mut Keys) -> Result<Self, MetadataError> {
        let damaged = MetadataError::Damaged("a chunk's row has a number out of range");
        let (Ok(frame_offset), Ok(frame_len), Ok(content_len)) = (
            row.try_get::<i64>(2)?.try_into(),
            row.try_get::<i64>(3)?.try_into(),
            row.try_get::<i64>(4)?.try_into(),
        ) else {
            return Err(damaged);
        };
        let holes = row.try_get::<Option<&[u8]>>(5)?.unwrap_or_default();
        Ok(Self {
            id: row.try_get(0)?,
            object: keys.share(row.try_get(1)?),
            frame_offset,
            frame_len,
            content_len,
            holes: decode_holes(holes)?,
        })
    }
}

pub(super) fn encode_holes(holes: &[FrameHole]) -> Option<Vec<u8>> {
    let bytes =
        |hole: &FrameHole| [hole.content_offset.to_le_bytes(), hole.frame_offset.to_le_bytes()].concat();
    (!holes.is_empty()).then(|| holes.iter().flat_map(bytes).collect())
}

pub(super) fn decode_holes(bytes: &[u8]) -> Result<Box<[FrameHole]>, MetadataError> {
    let (pairs, []) = bytes.as_chunks::<8>() else {
        return Err(MetadataError::Damaged("a chunk's holes are cut short"));
    };
    let number = |bytes: &[u8]| bytes.iter().rev().fold(0u32, |number, byte| number << 8 | u32::from(*byte));
    Ok(pairs
        .iter()
        .map(|pair| FrameHole { content_offset: number(&pair[..4]), frame_offset: number(&pair[4..]) })
        .collect())
}

impl Metadata {
    /// Where those of `names` that are there lie: in the first of these namespaces that has them. What was condemned before the push was opened counts as missing; what
    /// was condemned since stays until the push ends.
    ///
    /// With `sent_by`, what this push has not sent itself counts as missing, too.
    pub async fn stored_chunks(
        &self,
        push: i64,
        namespaces: &[Namespace],
        names: &[ChunkId],
        sent_by: Option<i64>,
    ) -> Result<HashMap<ChunkId, StoredChunk>, MetadataError> {
        let mut stored = HashMap::with_capacity(names.len());
        let mut keys = Keys::default();
        for (namespace, batch) in batches(namespaces, names) {
            let mut query = QueryBuilder::new("SELECT ");
            query.push(StoredChunk::COLUMNS);
            query.push(
                ", c.name FROM chunks c JOIN objects o ON o.id = c.object LEFT JOIN sweeps s ON s.id = c.condemned_by
                 WHERE (c.condemned_at IS NULL OR s.id IS NOT NULL AND (s.horizon IS NULL OR s.horizon >= ",
            );
            query.push_bind(push).push(")) AND c.namespace = ");
            query.push_bind(namespace.0).push(" AND c.name IN (");
            let mut list = query.separated(", ");
            for name in batch {
                list.push_bind(&name.0[..]);
            }
            query.push(")");
            if let Some(push) = sent_by {
                query
                    .push(" AND c.id IN (SELECT chunk FROM sent_chunks WHERE push = ")
                    .push_bind(push)
                    .push(")");
            }
            for row in query.build().fetch_all(self.reader()).await? {
                stored.insert(ChunkId(blob(row.try_get(6)?)?), StoredChunk::of_row(&row, &mut keys)?);
            }
        }
        Ok(stored)
    }

    /// Notes an object's frames, each with its place, and that the object is on disk; with `sent_by`, also that this
    /// push has sent them.
    ///
    /// # Errors
    /// [`MetadataError::Gone`] if the push is not open any more.
    pub async fn finish_object(
        &self,
        object: ObjectId,
        size: u64,
        namespace: Namespace,
        frames: &[(FrameEntry, u64)],
        sent_by: Option<i64>,
    ) -> Result<(), MetadataError> {
        let (mut batch, mut rest) = frames.split_at(frames.len().min(BATCH));
        loop {
            let mut transaction = self.write().await?;
            // With the first frames already: whatever ends this in its middle, a sweep looks through what is stored.
            note_stored(&mut transaction, object, size).await?;
            if !batch.is_empty() {
                insert_frames(&mut transaction, object, namespace, batch).await?;
                if let Some(push) = sent_by {
                    note_sent(&mut transaction, push, namespace, batch).await?;
                }
            }
            transaction.commit().await?;
            if rest.is_empty() {
                return Ok(());
            }
            (batch, rest) = rest.split_at(rest.len().min(BATCH));
        }
    }
}

async fn insert_frames(
    transaction: &mut Transaction,
    object: ObjectId,
    namespace: Namespace,
    batch: &[(FrameEntry, u64)],
) -> Result<(), MetadataError> {
    let mut insert = QueryBuilder::new(
        "INSERT INTO chunks (namespace, name, object, frame_offset, frame_len, content_len, holes) ",
    );
    insert.push_values(batch, |mut row, (entry, offset)| {
        row.push_bind(namespace.0)
            .push_bind(&entry.id.0[..])
            .push_bind(object.0)
            .push_bind(i64::try_from(*offset).unwrap_or(i64::MAX))
            .push_bind(i64::from(entry.frame_len))
            .push_bind(i64::from(entry.content_len))
            .push_bind(encode_holes(&entry.holes));
    });
    // The first frame of a chunk stays; one that a sweep wanted is revived.
    insert.push(" ON CONFLICT (namespace, name) DO UPDATE SET condemned_at = NULL, condemned_by = NULL");
    insert.build().execute(&mut *transaction).await?;
    unsettle(transaction, object, namespace, batch).await
}

/// Notes that an object is on disk, if frames may be noted of it: its push is open, and nobody has given it up.
async fn note_stored(
    transaction: &mut Transaction,
    object: ObjectId,
    size: u64,
) -> Result<(), MetadataError> {
    let push: Option<i64> = query_scalar(
        "UPDATE objects SET state = 'stored', size = ? WHERE id = ? AND doomed_at IS NULL RETURNING push",
    )
    .bind(i64::try_from(size).unwrap_or(i64::MAX))
    .bind(object.0)
    .fetch_optional(&mut *transaction)
    .await?
    .flatten();
    hold_open(transaction, push.ok_or(MetadataError::Gone)?).await
}

/// Has objects looked through again for what nothing uses when the push of `object` has ended: this upload may have
/// revived chunks that lie there.
async fn unsettle(
    transaction: &mut Transaction,
    object: ObjectId,
    namespace: Namespace,
    frames: &[(FrameEntry, u64)],
) -> Result<(), MetadataError> {
    let mut update =
        QueryBuilder::new("UPDATE objects SET push = (SELECT o.push FROM objects o WHERE o.id = ");
    update
        .push_bind(object.0)
        .push(") WHERE state = 'stored' AND id IN (SELECT c.object FROM chunks c WHERE c.object <> ");
    update.push_bind(object.0).push(" AND c.namespace = ").push_bind(namespace.0).push(" AND c.name IN (");
    let mut list = update.separated(", ");
    for (entry, _) in frames {
        list.push_bind(&entry.id.0[..]);
    }
    update.push("))");
    update.build().execute(&mut *transaction).await?;
    Ok(())
}

async fn note_sent(
    transaction: &mut Transaction,
    push: i64,
    namespace: Namespace,
    frames: &[(FrameEntry, u64)],
) -> Result<(), MetadataError> {
    let mut insert = QueryBuilder::new("INSERT INTO sent_chunks (push, chunk) SELECT ");
    insert.push_bind(push).push(", id FROM chunks WHERE namespace = ").push_bind(namespace.0);
    insert.push(" AND name IN (");
    let mut list = insert.separated(", ");
    for (entry, _) in frames {
        list.push_bind(&entry.id.0[..]);
    }
    insert.push(") ON CONFLICT DO NOTHING");
    insert.build().execute(&mut *transaction).await?;
    Ok(())
}
