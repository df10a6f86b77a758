//! Rows of sweeps: asked for, under way, done.

use super::{
    Metadata, MetadataError,
    sql::{query, query_scalar},
};

/// What became of a sweep that was asked for.
#[derive(Debug)]
pub struct AskedSweep {
    /// Whether it has begun.
    pub started: bool,
    /// What it did, as JSON, once it is done.
    pub report: Option<String>,
}

impl Metadata {
    /// Asks for a sweep.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn ask_for_sweep(&self, now: i64) -> Result<i64, MetadataError> {
        let mut transaction = self.write().await?;
        let id = query_scalar("INSERT INTO sweeps (asked_at) VALUES (?) RETURNING id")
            .bind(now)
            .fetch_one(&mut transaction)
            .await?;
        transaction.commit().await?;
        Ok(id)
    }

    /// The sweep that was asked for first and has not begun.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn next_asked_sweep(&self) -> Result<Option<i64>, MetadataError> {
        Ok(query_scalar("SELECT min(id) FROM sweeps WHERE started_at IS NULL")
            .fetch_one(self.reader())
            .await?)
    }

    /// When a sweep began last.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn last_sweep(&self) -> Result<Option<i64>, MetadataError> {
        Ok(query_scalar("SELECT max(started_at) FROM sweeps").fetch_one(self.reader()).await?)
    }

    /// Whether the last sweep has begun and is not done. Where none is under way, whoever swept has died or failed.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn last_sweep_broke_off(&self) -> Result<bool, MetadataError> {
        let last = query_scalar(
            "SELECT started_at IS NOT NULL AND finished_at IS NULL FROM sweeps ORDER BY id DESC LIMIT 1",
        );
        Ok(last.fetch_optional(self.reader()).await?.unwrap_or_default())
    }

    /// What became of a sweep that was asked for.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn asked_sweep(&self, sweep: i64) -> Result<AskedSweep, MetadataError> {
        let row = query("SELECT started_at IS NOT NULL, report FROM sweeps WHERE id = ?")
            .bind(sweep)
            .fetch_one(self.reader())
            .await?;
        Ok(AskedSweep { started: row.try_get(0)?, report: row.try_get(1)? })
    }

    /// Notes that a sweep begins.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn begin_sweep(&self, sweep: i64, now: i64) -> Result<(), MetadataError> {
        let mut transaction = self.write().await?;
        query("UPDATE sweeps SET started_at = ? WHERE id = ?")
            .bind(now)
            .bind(sweep)
            .execute(&mut transaction)
            .await?;
        transaction.commit().await?;
        Ok(())
    }

    /// Notes that a sweep is done, and each before it that broke off. Their like from long ago is forgotten.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn end_sweep(&self, sweep: i64, report: &str, now: i64) -> Result<(), MetadataError> {
        const REMEMBERED: i64 = 2000;
        let mut transaction = self.write().await?;
        query(
            "UPDATE sweeps SET finished_at = ?, report = ?
             WHERE id = ? OR id < ? AND started_at IS NOT NULL AND finished_at IS NULL",
        )
        .bind(now)
        .bind(report)
        .bind(sweep)
        .bind(sweep)
        .execute(&mut transaction)
        .await?;
        query(
            "DELETE FROM sweeps WHERE id < ? AND NOT EXISTS (
                 SELECT 1 FROM chunks c WHERE c.condemned_at IS NOT NULL AND c.condemned_by = sweeps.id)",
        )
        .bind(sweep - REMEMBERED)
        .execute(&mut transaction)
        .await?;
        transaction.commit().await?;
        Ok(())
    }
}
