//! Rows of pushes and of what they stage.

mod commit;
mod lease;
mod open;
mod staged;

use larder_protocol::api::{CacheName, PushId};

pub use self::{
    commit::CommitOutcome,
    open::{FullOf, NewPush, OpenOutcome, Staged},
};
use super::{Metadata, MetadataError, number, sql::query};

/// A push that exists for its owner.
#[derive(Debug, Clone, Copy)]
pub struct FoundPush {
    /// Its row.
    pub id: i64,
    /// Its name.
    pub name: PushId,
    /// Whether it is committed.
    pub committed: bool,
    /// How many paths it brings, if that is all that it is told: it is told nothing of what the cache has.
    pub blind: Option<u64>,
}

impl FoundPush {
    /// Whether it is told nothing of what the cache has.
    pub fn is_blind(&self) -> bool {
        self.blind.is_some()
    }
}

impl Metadata {
    /// The push of that name, if it is the owner's and goes to that cache. Notes that it is active.
    pub async fn find_push(
        &self,
        cache: &CacheName,
        name: &PushId,
        owner: &str,
        now: i64,
    ) -> Result<Option<FoundPush>, MetadataError> {
        let row = query(
            "SELECT id, state, active_at, blind FROM pushes
                 WHERE name = ? AND cache = ? AND owner = ? AND abandoned_at IS NULL",
        )
        .bind(&name.0[..])
        .bind(cache.as_str())
        .bind(owner)
        .fetch_optional(self.reader())
        .await?;
        let Some(row) = row else { return Ok(None) };
        let id: i64 = row.try_get(0)?;
        if row.try_get::<i64>(2)? + 60 < now {
            let mut transaction = self.write().await?;
            query("UPDATE pushes SET active_at = ? WHERE id = ?")
                .bind(now)
                .bind(id)
                .execute(&mut transaction)
                .await?;
            transaction.commit().await?;
        }
        let committed = row.try_get::<&str>(1)? == "committed";
        let blind = row.try_get::<Option<i64>>(3)?.map(number).transpose()?;
        Ok(Some(FoundPush { id, name: *name, committed, blind }))
    }

    /// Gives an open push up: nobody can add to it any more, and the next sweep takes what it staged.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn give_up_push(&self, name: &PushId, now: i64) -> Result<(), MetadataError> {
        let mut transaction = self.write().await?;
        query("UPDATE pushes SET abandoned_at = ? WHERE name = ? AND state = 'open'")
            .bind(now)
            .bind(&name.0[..])
            .execute(&mut transaction)
            .await?;
        transaction.commit().await?;
        Ok(())
    }
}
