//! Rows of verifications: asked for, under way, done; and how far the scrub has come.

use super::{
    Metadata, MetadataError, number,
    sql::{query, query_scalar},
};

/// What became of a verification that was asked for.
#[derive(Debug)]
pub struct AskedVerification {
    /// How many bytes are read.
    pub done: u64,
    /// How many are to be.
    pub total: u64,
    /// What was found, as JSON, once it is done.
    pub report: Option<String>,
}

/// How far the scrub has come.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ScrubPosition {
    /// When this round began.
    pub began_at: i64,
    /// What is being looked at.
    pub stage: String,
    /// The last row of that which was.
    pub position: i64,
    /// When the round was over; none while it is not.
    pub finished_at: Option<i64>,
}

fn integer(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

impl Metadata {
    /// Asks for a verification.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn ask_for_verification(&self, scope: &str, now: i64) -> Result<i64, MetadataError> {
        let mut transaction = self.write().await?;
        let id = query_scalar("INSERT INTO verifications (asked_at, scope) VALUES (?, ?) RETURNING id")
            .bind(now)
            .bind(scope)
            .fetch_one(&mut transaction)
            .await?;
        transaction.commit().await?;
        Ok(id)
    }

    /// Whether a verification of this scope is asked for and not done.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn verification_is_due(&self, scope: &str) -> Result<bool, MetadataError> {
        let row = query("SELECT id FROM verifications WHERE finished_at IS NULL AND scope = ? LIMIT 1")
            .bind(scope)
            .fetch_optional(self.reader())
            .await?;
        Ok(row.is_some())
    }

    /// The verification that was asked for first and is not done, with its scope.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn next_verification(&self) -> Result<Option<(i64, String)>, MetadataError> {
        let row = query("SELECT id, scope FROM verifications WHERE finished_at IS NULL ORDER BY id LIMIT 1")
            .fetch_optional(self.reader())
            .await?;
        row.map(|row| Ok((row.try_get(0)?, row.try_get(1)?))).transpose()
    }

    /// What became of a verification.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn asked_verification(&self, id: i64) -> Result<AskedVerification, MetadataError> {
        let row = query("SELECT done, total, report FROM verifications WHERE id = ?")
            .bind(id)
            .fetch_one(self.reader())
            .await?;
        Ok(AskedVerification {
            done: number(row.try_get(0)?)?,
            total: number(row.try_get(1)?)?,
            report: row.try_get(2)?,
        })
    }

    /// Notes how far a verification has come.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn note_verification(
        &self,
        id: i64,
        done: u64,
        total: u64,
        now: i64,
    ) -> Result<(), MetadataError> {
        let mut transaction = self.write().await?;
        query(
            "UPDATE verifications SET started_at = coalesce(started_at, ?), done = ?, total = ? WHERE id = ?",
        )
        .bind(now)
        .bind(integer(done))
        .bind(integer(total))
        .bind(id)
        .execute(&mut transaction)
        .await?;
        transaction.commit().await?;
        Ok(())
    }

    /// Notes that a verification is done. Those from long ago are forgotten.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn end_verification(&self, id: i64, report: &str, now: i64) -> Result<(), MetadataError> {
        const REMEMBERED: i64 = 100;
        let mut transaction = self.write().await?;
        query("UPDATE verifications SET finished_at = ?, report = ? WHERE id = ?")
            .bind(now)
            .bind(report)
            .bind(id)
            .execute(&mut transaction)
            .await?;
        query("DELETE FROM verifications WHERE id < ? AND finished_at IS NOT NULL")
            .bind(id - REMEMBERED)
            .execute(&mut transaction)
            .await?;
        transaction.commit().await?;
        Ok(())
    }

    /// How far the scrub has come; none before its first round.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn scrub_position(&self) -> Result<Option<ScrubPosition>, MetadataError> {
        let row = query("SELECT began_at, stage, position, finished_at FROM scrub WHERE id = 1")
            .fetch_optional(self.reader())
            .await?;
        row.map(|row| {
            Ok(ScrubPosition {
                began_at: row.try_get(0)?,
                stage: row.try_get(1)?,
                position: row.try_get(2)?,
                finished_at: row.try_get(3)?,
            })
        })
        .transpose()
    }

    /// When a round of the scrub was over last; none before the first.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn last_scrub(&self) -> Result<Option<i64>, MetadataError> {
        let last = query_scalar("SELECT last_finished_at FROM scrub WHERE id = 1");
        Ok(last.fetch_optional(self.reader()).await?.flatten())
    }

    /// Notes how far the scrub has come.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn note_scrub(&self, scrub: &ScrubPosition) -> Result<(), MetadataError> {
        let mut transaction = self.write().await?;
        query(
            "INSERT INTO scrub (id, began_at, stage, position, finished_at, last_finished_at) VALUES (1, ?1, ?2, ?3, ?4, ?4)
             ON CONFLICT (id) DO UPDATE SET began_at = ?1, stage = ?2, position = ?3, finished_at = ?4,
                 last_finished_at = coalesce(?4, scrub.last_finished_at)",
        )
        .bind(scrub.began_at)
        .bind(&scrub.stage)
        .bind(scrub.position)
        .bind(scrub.finished_at)
        .execute(&mut transaction)
        .await?;
        transaction.commit().await?;
        Ok(())
    }
}
