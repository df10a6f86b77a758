//! Moving to another database: what the two note of it, so that one of them is in use at every moment, whatever ends the
//! move.
//!
//! 1. The one notes a number for the move, and the other that rows are *arriving*: nobody begins to use it. Then they are
//!    copied while nobody can write in the one.
//! 2. The one notes that its rows *have left*: this decides. From then on whoever would write there is refused.
//! 3. The other forgets that they are arriving.
//!
//! Where this ends before the second, the one goes on, nobody uses what is in the other, and the next attempt copies it
//! anew. Where it ends before the third, the next attempt does the third.

use super::{
    Metadata, MetadataError, blob, number,
    sql::{Transaction, query, query_scalar},
};

/// The number of a move.
pub(crate) type MoveId = [u8; 16];

/// What a database notes of a move.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Moving {
    /// Its number.
    pub id: MoveId,
    /// How far it is.
    pub state: MoveState,
    /// Where the other database is.
    pub place: String,
    /// When that was noted.
    pub at: i64,
}

/// How far a move is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum MoveState {
    /// The rows are to leave, and are used here until then.
    Leaving,
    /// They have left.
    Left,
    /// They are here, and may not be used yet.
    Arriving,
}

impl MoveState {
    fn as_str(self) -> &'static str {
        match self {
            Self::Leaving => "leaving",
            Self::Left => "left",
            Self::Arriving => "arriving",
        }
    }
}

/// A database in which nobody else writes, since its rows are about to leave. Dropped, it goes on.
pub(crate) struct Leaving(Transaction);

impl Metadata {
    /// What this database notes of a move.
    ///
    /// # Errors
    /// When the database fails.
    pub(crate) async fn moving(&self) -> Result<Option<Moving>, MetadataError> {
        let row = query("SELECT id, state, place, at FROM moves").fetch_optional(self.reader()).await?;
        let Some(row) = row else { return Ok(None) };
        let state = match row.try_get("state")? {
            "leaving" => MoveState::Leaving,
            "left" => MoveState::Left,
            "arriving" => MoveState::Arriving,
            _ => return Err(MetadataError::Damaged("a move is in no state that there is")),
        };
        let id = blob(row.try_get("id")?)?;
        Ok(Some(Moving { id, state, place: row.try_get("place")?, at: row.try_get("at")? }))
    }

    /// Notes a move that begins: that the rows are to leave, or to arrive.
    ///
    /// # Errors
    /// When the database fails, or the rows have left before.
    pub(crate) async fn note_move(&self, moving: &Moving) -> Result<(), MetadataError> {
        let mut transaction = self.write().await?;
        query("DELETE FROM moves").execute(&mut transaction).await?;
        note(&mut transaction, moving).await?;
        Ok(transaction.commit().await?)
    }

    /// Has everybody wait who would write.
    ///
    /// # Errors
    /// When the database fails, or the rows have left before.
    pub(crate) async fn hold(&self) -> Result<Leaving, MetadataError> {
        Ok(Leaving(self.write().await?))
    }

    /// Lets the rows be used that have arrived.
    ///
    /// # Errors
    /// When the database fails.
    pub(crate) async fn note_arrived(&self, id: MoveId) -> Result<(), MetadataError> {
        let mut transaction = self.write().await?;
        query("DELETE FROM moves WHERE id = ?").bind(id.as_slice()).execute(&mut transaction).await?;
        Ok(transaction.commit().await?)
    }
}

/// What there is.
pub(crate) struct Totals {
    /// Visible paths.
    pub paths: u64,
    /// NARs that can be read.
    pub nars: u64,
    /// Chunks.
    pub chunks: u64,
    /// Objects.
    pub objects: u64,
    /// Their bytes.
    pub object_bytes: u64,
}

impl Metadata {
    /// What there is.
    ///
    /// # Errors
    /// When the database fails.
    pub(crate) async fn totals(&self) -> Result<Totals, MetadataError> {
        let row = query(
            "SELECT (SELECT count(*) FROM nars WHERE complete = 1), (SELECT count(*) FROM chunks), count(*),
                 CAST(coalesce(sum(size), 0) AS BIGINT)
             FROM objects WHERE state = 'stored' AND doomed_at IS NULL",
        );
        let row = row.fetch_one(self.reader()).await?;
        Ok(Totals {
            paths: self.count_visible_paths().await?,
            nars: number(row.try_get(0)?)?,
            chunks: number(row.try_get(1)?)?,
            objects: number(row.try_get(2)?)?,
            object_bytes: number(row.try_get(3)?)?,
        })
    }
}

impl Leaving {
    /// Notes that the rows have left: nobody writes here any more.
    pub(crate) async fn leave(mut self, now: i64) -> Result<(), MetadataError> {
        query("UPDATE moves SET state = 'left', at = ?").bind(now).execute(&mut self.0).await?;
        Ok(self.0.commit().await?)
    }
}

/// Notes a move where there is none.
pub(super) async fn note(transaction: &mut Transaction, moving: &Moving) -> Result<(), MetadataError> {
    query("INSERT INTO moves (id, state, place, at) VALUES (?, ?, ?, ?)")
        .bind(moving.id.as_slice())
        .bind(moving.state.as_str())
        .bind(&moving.place)
        .bind(moving.at)
        .execute(transaction)
        .await?;
    Ok(())
}

/// Refuses whoever would write where the rows have left.
pub(super) async fn refuse_if_left(transaction: &mut Transaction) -> Result<(), MetadataError> {
    let place = query_scalar("SELECT place FROM moves WHERE state = 'left'");
    match place.fetch_optional(transaction).await? {
        None => Ok(()),
        Some(place) => Err(MetadataError::Moved(place)),
    }
}
