//! Moving frames and recipes to other objects. Their bytes are copied before; here the rows follow, at most a thousand in
//! a transaction, and only those that still lie where they were copied from: what a sweep has taken meanwhile, or somebody
//! has moved, is left alone.

use larder_protocol::{ChunkId, NarHash, upload::FrameEntry};

use super::{
    BATCH, Metadata, MetadataError, Namespace, ObjectId, blob,
    chunks::decode_holes,
    claims::list,
    number,
    sql::{QueryBuilder, Transaction, query, query_scalar},
};

/// How many objects are looked at at once, each by the entries of its chunks in an index,
const OBJECTS: i64 = 100;
/// and how many rows are read.
const ROWS: i64 = 500;

/// What objects hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Holding {
    /// Frames.
    Frames,
    /// Recipes.
    Recipes,
}

/// An object, and how much of it is in use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct UsedObject {
    /// Its row.
    pub id: ObjectId,
    /// Whose chunks or NARs are in it. None: nothing is.
    pub namespace: Option<Namespace>,
    /// Its length.
    pub size: u64,
    /// How many bytes of that are in use; of recipes that is not known, and all are.
    pub live: u64,
}

/// A frame, and where it lies.
#[derive(Debug, Clone)]
pub struct PlacedFrame {
    /// The chunk's row.
    pub chunk: i64,
    /// Where it begins in its object.
    pub offset: u64,
    /// What the object's index says of it.
    pub entry: FrameEntry,
}

/// A frame that was copied.
#[derive(Debug, Clone, Copy)]
pub struct MovedFrame {
    /// The chunk's row.
    pub chunk: i64,
    /// The object that it lay in,
    pub source: ObjectId,
    /// and where.
    pub was: u64,
    /// Where it lies in the new object.
    pub becomes: u64,
}

/// A recipe that was copied: the NAR's row, and the object that it lay in.
pub type MovedRecipe = (i64, ObjectId);

impl Metadata {
    /// Some of the objects that nobody adds to any more, behind the row `after`.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn used_objects(
        &self,
        holding: Holding,
        after: ObjectId,
    ) -> Result<Vec<UsedObject>, MetadataError> {
        // An entry of an object's index has 42 bytes, and some more for holes.
        let statement = match holding {
            Holding::Frames => {
                "SELECT o.id, o.size,
                     (SELECT CAST(coalesce(sum(c.frame_len), 0) AS BIGINT) + 42 * count(*) FROM chunks c WHERE c.object = o.id),
                     (SELECT c.namespace FROM chunks c WHERE c.object = o.id LIMIT 1)
                 FROM objects o WHERE o.id > ? AND o.state = 'stored' AND o.doomed_at IS NULL AND o.push IS NULL
                 AND o.key LIKE 'frames/%' ORDER BY o.id LIMIT ?"
            }
            Holding::Recipes => {
                "SELECT o.id, o.size, o.size,
                     (SELECT n.namespace FROM nars n WHERE n.recipe_object = o.id LIMIT 1)
                 FROM objects o WHERE o.id > ? AND o.state = 'stored' AND o.doomed_at IS NULL AND o.push IS NULL
                 AND o.key LIKE 'recipes/%' ORDER BY o.id LIMIT ?"
            }
        };
        let rows = query(statement).bind(after.0).bind(OBJECTS).fetch_all(self.reader()).await?;
        rows.iter()
            .map(|row| {
                Ok(UsedObject {
                    id: ObjectId(row.try_get(0)?),
                    size: number(row.try_get(1)?)?,
                    live: number(row.try_get(2)?)?,
                    namespace: row.try_get::<Option<i64>>(3)?.map(Namespace),
                })
            })
            .collect()
    }

    /// The key and the length of an object, unless it is doomed or gone.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn object_key(&self, object: ObjectId) -> Result<Option<(String, u64)>, MetadataError> {
        let row = query("SELECT key, size FROM objects WHERE id = ? AND doomed_at IS NULL")
            .bind(object.0)
            .fetch_optional(self.reader())
            .await?;
        row.map(|row| Ok((row.try_get(0)?, number(row.try_get(1)?)?))).transpose()
    }

    /// Some of the frames of an object in their order, from this place on. Damaged ones stay where they are.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn frames_in(&self, object: ObjectId, from: u64) -> Result<Vec<PlacedFrame>, MetadataError> {
        let rows = query(
            "SELECT id, frame_offset, frame_len, content_len, holes, name FROM chunks
             WHERE object = ? AND frame_offset >= ? AND damaged_at IS NULL ORDER BY frame_offset LIMIT ?",
        )
        .bind(object.0)
        .bind(column(from))
        .bind(ROWS)
        .fetch_all(self.reader())
        .await?;
        rows.iter()
            .map(|row| {
                let (Ok(frame_len), Ok(content_len)) =
                    (row.try_get::<i64>(2)?.try_into(), row.try_get::<i64>(3)?.try_into())
                else {
                    return Err(MetadataError::Damaged("a chunk's row has a number out of range"));
                };
                let holes = decode_holes(row.try_get::<Option<&[u8]>>(4)?.unwrap_or_default())?.into_vec();
                let id = ChunkId(blob(row.try_get(5)?)?);
                Ok(PlacedFrame {
                    chunk: row.try_get(0)?,
                    offset: number(row.try_get(1)?)?,
                    entry: FrameEntry { id, frame_len, content_len, holes },
                })
            })
            .collect()
    }

    /// The NARs whose recipes lie in an object.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn recipes_in(&self, object: ObjectId) -> Result<Vec<(i64, NarHash)>, MetadataError> {
        let rows = query("SELECT id, hash FROM nars WHERE recipe_object = ? ORDER BY id")
            .bind(object.0)
            .fetch_all(self.reader())
            .await?;
        rows.iter().map(|row| Ok((row.try_get(0)?, NarHash(blob(row.try_get(1)?)?)))).collect()
    }

    /// Notes an object that is about to be written, and that is no push's.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn begin_compacted(&self, key: &str, now: i64) -> Result<ObjectId, MetadataError> {
        let mut transaction = self.write().await?;
        let id = query_scalar(
            "INSERT INTO objects (key, state, created_at) VALUES (?, 'writing', ?) RETURNING id",
        )
        .bind(key)
        .bind(now)
        .fetch_one(&mut transaction)
        .await?;
        transaction.commit().await?;
        Ok(ObjectId(id))
    }

    /// Has frames lie in an object that is on disk, those that still lie where they were. Tells how many.
    ///
    /// # Errors
    /// [`MetadataError::Gone`] if somebody has given up the object meanwhile; then they lie where they were.
    pub async fn move_frames(
        &self,
        object: ObjectId,
        size: u64,
        frames: &[MovedFrame],
    ) -> Result<u64, MetadataError> {
        let mut moved = 0;
        for batch in frames.chunks(BATCH) {
            let mut transaction = self.write().await?;
            stored(&mut transaction, object, size).await?;
            let mut update = QueryBuilder::new("WITH moved (chunk, source, was, becomes) AS (");
            update.push_values(batch, |mut row, frame| {
                row.push_bind(frame.chunk)
                    .push_bind(frame.source.0)
                    .push_bind(column(frame.was))
                    .push_bind(column(frame.becomes));
            });
            update.push(") UPDATE chunks SET frame_offset = m.becomes, object = ").push_bind(object.0);
            update.push(
                " FROM moved m WHERE chunks.id = m.chunk AND chunks.object = m.source AND chunks.frame_offset = m.was",
            );
            moved += update.build().persistent(false).execute(&mut transaction).await?.rows_affected();
            unsettle(&mut transaction, object, batch.iter().map(|frame| frame.source)).await?;
            transaction.commit().await?;
        }
        Ok(moved)
    }

    /// Has recipes lie in an object that is on disk, those that still lie where they were. Tells how many.
    ///
    /// # Errors
    /// [`MetadataError::Gone`] if somebody has given up the object meanwhile; then they lie where they were.
    pub async fn move_recipes(
        &self,
        object: ObjectId,
        size: u64,
        recipes: &[MovedRecipe],
    ) -> Result<u64, MetadataError> {
        let mut moved = 0;
        for batch in recipes.chunks(BATCH) {
            let mut transaction = self.write().await?;
            stored(&mut transaction, object, size).await?;
            let mut update = QueryBuilder::new("WITH moved (nar, source) AS (");
            update.push_values(batch, |mut row, (nar, source)| {
                row.push_bind(*nar).push_bind(source.0);
            });
            update.push(") UPDATE nars SET recipe_object = ").push_bind(object.0);
            update.push(" FROM moved m WHERE nars.id = m.nar AND nars.recipe_object = m.source");
            moved += update.build().persistent(false).execute(&mut transaction).await?.rows_affected();
            transaction.commit().await?;
        }
        Ok(moved)
    }
}

/// Notes that an object is on disk.
pub(super) async fn stored(
    transaction: &mut Transaction,
    object: ObjectId,
    size: u64,
) -> Result<(), MetadataError> {
    let found = query("UPDATE objects SET state = 'stored', size = ? WHERE id = ? AND doomed_at IS NULL")
        .bind(column(size))
        .bind(object.0)
        .execute(&mut *transaction)
        .await?;
    if found.rows_affected() == 1 { Ok(()) } else { Err(MetadataError::Gone) }
}

/// Has an object be looked through for what nothing uses, where that is still to be done for those that its frames come
/// from: a push may have revived one of them in the meantime.
async fn unsettle(
    transaction: &mut Transaction,
    object: ObjectId,
    sources: impl Iterator<Item = ObjectId>,
) -> Result<(), MetadataError> {
    let mut objects: Vec<i64> = sources.map(|source| source.0).collect();
    objects.push(object.0);
    objects.sort_unstable();
    objects.dedup();
    let mut update =
        QueryBuilder::new("UPDATE objects SET push = (SELECT max(o.push) FROM objects o WHERE o.id IN (");
    list(&mut update, &objects);
    update.push(")) WHERE id = ").push_bind(object.0);
    update.build().persistent(false).execute(&mut *transaction).await?;
    Ok(())
}

fn column(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}
