//! Rows of jobs that were given up.

use super::{
    Metadata, MetadataError,
    jobs::shortened,
    prefetches::{end_with_jobs, reopen_with_jobs},
    sql::query,
};
use crate::queue::{JobId, WorkerId};

impl Metadata {
    /// Puts a job on the list of those that a person must look at.
    pub(crate) async fn give_up_job(
        &self,
        id: JobId,
        worker: WorkerId,
        error: &str,
        now: i64,
    ) -> Result<(), MetadataError> {
        let mut transaction = self.write().await?;
        query(
            "UPDATE jobs SET state = 'failed', error = ?, worker = NULL, lease_ends_at = NULL
             WHERE id = ? AND worker = ?",
        )
        .bind(shortened(error))
        .bind(id.0)
        .bind(&worker.0[..])
        .execute(&mut transaction)
        .await?;
        end_with_jobs(&mut transaction, now).await?;
        transaction.commit().await?;
        Ok(())
    }

    /// Has failed jobs tried again: the one with that number, or all. How many there were.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn retry_failed_jobs(&self, id: Option<JobId>, now: i64) -> Result<u64, MetadataError> {
        let mut transaction = self.write().await?;
        let id = id.map(|id| id.0);
        // Where another does the same already, or two of the same failed, one is enough.
        let pointless = query(
            "DELETE FROM jobs WHERE state = 'failed' AND (? IS NULL OR id = ?)
                 AND EXISTS (SELECT 1 FROM jobs AS same WHERE same.key = jobs.key
                     AND (same.state = 'waiting' OR ? IS NULL AND same.state = 'failed' AND same.id > jobs.id))",
        )
        .bind(id)
        .bind(id)
        .bind(id)
        .execute(&mut transaction)
        .await?;
        reopen_with_jobs(&mut transaction, id).await?;
        let retried = query(
            "UPDATE jobs SET state = 'waiting', attempts = 0, due_at = ?
             WHERE state = 'failed' AND (? IS NULL OR id = ?)",
        )
        .bind(now)
        .bind(id)
        .bind(id)
        .execute(&mut transaction)
        .await?;
        transaction.commit().await?;
        Ok(pointless.rows_affected() + retried.rows_affected())
    }

    /// Forgets failed jobs that nobody cared about since `before`.
    pub(crate) async fn forget_failed_jobs(&self, before: i64) -> Result<(), MetadataError> {
        let mut transaction = self.write().await?;
        query("DELETE FROM jobs WHERE state = 'failed' AND due_at < ?")
            .bind(before)
            .execute(&mut transaction)
            .await?;
        transaction.commit().await?;
        Ok(())
    }
}
