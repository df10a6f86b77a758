//! Rows of jobs. One is claimed by one worker, for as long as its lease says. The statements are for one writer at a time.

use super::{
    Metadata, MetadataError, number,
    prefetches::end_with_jobs,
    sequences::is_latest,
    sql::{Row, Transaction, query, query_scalar},
};
use crate::queue::{ClaimedJob, Enqueued, Hands, JobId, JobRow, JobState, NewJob, Priority, WorkerId};

/// The longest reason that is kept.
const MAX_ERROR: usize = 1000;

impl Metadata {
    /// Stores a job by itself; see [`enqueue`] for what becomes of others.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn enqueue_job(&self, job: &NewJob, now: i64) -> Result<(), MetadataError> {
        let mut transaction = self.write().await?;
        enqueue(&mut transaction, job, now).await?;
        transaction.commit().await?;
        Ok(())
    }

    /// Ends jobs whose workers are gone and that nobody is to begin again: cancelled ones, and those that cost so many
    /// workers their lives already. Whether there were any.
    pub(crate) async fn end_lost_jobs(&self, now: i64, max_attempts: u32) -> Result<bool, MetadataError> {
        let mut transaction = self.write().await?;
        let cancelled = query("DELETE FROM jobs WHERE state = 'cancelled' AND lease_ends_at <= ?")
            .bind(now)
            .execute(&mut transaction)
            .await?;
        let given_up = query(
            "UPDATE jobs SET state = 'failed', worker = NULL, lease_ends_at = NULL,
                 error = 'whoever worked on it never came back, each time'
             WHERE state = 'running' AND lease_ends_at <= ? AND attempts >= ?",
        )
        .bind(now)
        .bind(max_attempts)
        .execute(&mut transaction)
        .await?;
        let any = cancelled.rows_affected() + given_up.rows_affected() > 0;
        if any {
            end_with_jobs(&mut transaction, now).await?;
        }
        transaction.commit().await?;
        Ok(any)
    }

    /// Gives the worker the job whose turn it is, of those that there are hands for. One whose lease is over counts as not
    /// begun, but for its number of attempts.
    pub(crate) async fn claim_job(
        &self,
        worker: WorkerId,
        now: i64,
        lease_ends_at: i64,
        hands: &Hands,
    ) -> Result<Option<ClaimedJob>, MetadataError> {
        let mut transaction = self.write().await?;
        let [first, second, third] = hands.each_ref().map(|hands| {
            // No priority lies between nothing and nothing.
            hands.as_ref().map(|range| (range.start().0, range.end().0)).unzip()
        });
        let row = query(
            "UPDATE jobs SET state = 'running', attempts = attempts + 1, worker = ?, lease_ends_at = ?
             WHERE id = (
                 SELECT id FROM jobs AS next
                 WHERE (state = 'waiting' AND due_at <= ? OR state = 'running' AND lease_ends_at <= ?)
                   AND (priority BETWEEN ? AND ? OR priority BETWEEN ? AND ? OR priority BETWEEN ? AND ?)
                   AND NOT EXISTS (
                       SELECT 1 FROM jobs AS same
                       WHERE same.key = next.key AND same.state = 'running' AND same.lease_ends_at > ?)
                 ORDER BY priority DESC, due_at, id LIMIT 1)
             RETURNING id, kind, work, attempts, enqueued_at, priority",
        )
        .bind(&worker.0[..])
        .bind(lease_ends_at)
        .bind(now)
        .bind(now)
        .bind(first.0)
        .bind(first.1)
        .bind(second.0)
        .bind(second.1)
        .bind(third.0)
        .bind(third.1)
        .bind(now)
        .fetch_optional(&mut transaction)
        .await?;
        transaction.commit().await?;
        row.map(|row| {
            Ok(ClaimedJob {
                id: JobId(row.try_get("id")?),
                kind: row.try_get("kind")?,
                work: row.try_get("work")?,
                attempts: attempts(&row)?,
                enqueued_at: row.try_get("enqueued_at")?,
                priority: Priority(priority(&row)?),
            })
        })
        .transpose()
    }

    /// When a job is due, or a lease over: nothing is to be claimed before.
    pub(crate) async fn next_job_due_at(&self) -> Result<Option<i64>, MetadataError> {
        Ok(query_scalar(
            "SELECT min(CASE state WHEN 'waiting' THEN due_at ELSE lease_ends_at END) FROM jobs
             WHERE state IN ('waiting', 'running', 'cancelled')",
        )
        .fetch_one(self.reader())
        .await?)
    }

    /// Whether the job is still this worker's, and nobody cancelled it.
    pub(crate) async fn is_job_of(&self, id: JobId, worker: WorkerId) -> Result<bool, MetadataError> {
        let found: Option<i64> =
            query_scalar("SELECT id FROM jobs WHERE id = ? AND worker = ? AND state = 'running'")
                .bind(id.0)
                .bind(&worker.0[..])
                .fetch_optional(self.reader())
                .await?;
        Ok(found.is_some())
    }

    /// Lengthens a lease. `false` if the job is another's by now, or cancelled.
    pub(crate) async fn renew_job(
        &self,
        id: JobId,
        worker: WorkerId,
        lease_ends_at: i64,
    ) -> Result<bool, MetadataError> {
        let mut transaction = self.write().await?;
        let renewed =
            query("UPDATE jobs SET lease_ends_at = ? WHERE id = ? AND worker = ? AND state = 'running'")
                .bind(lease_ends_at)
                .bind(id.0)
                .bind(&worker.0[..])
                .execute(&mut transaction)
                .await?;
        transaction.commit().await?;
        Ok(renewed.rows_affected() == 1)
    }

    /// Notes what a job that is under way is, by now.
    pub(crate) async fn note_job(&self, id: JobId, work: &str) -> Result<(), MetadataError> {
        let mut transaction = self.write().await?;
        query("UPDATE jobs SET work = ? WHERE id = ? AND state = 'running'")
            .bind(work)
            .bind(id.0)
            .execute(&mut transaction)
            .await?;
        transaction.commit().await?;
        Ok(())
    }

    /// Takes a job away that is done or cancelled.
    pub(crate) async fn finish_job(
        &self,
        id: JobId,
        worker: WorkerId,
        now: i64,
    ) -> Result<(), MetadataError> {
        let mut transaction = self.write().await?;
        query("DELETE FROM jobs WHERE id = ? AND worker = ?")
            .bind(id.0)
            .bind(&worker.0[..])
            .execute(&mut transaction)
            .await?;
        end_with_jobs(&mut transaction, now).await?;
        transaction.commit().await?;
        Ok(())
    }

    /// Has a job wait until `due_at`. What is to be done once more after it was done begins anew: `attempts` is then 0.
    pub(crate) async fn postpone_job(
        &self,
        id: JobId,
        worker: WorkerId,
        due_at: i64,
        attempts: u32,
        error: Option<&str>,
        now: i64,
    ) -> Result<(), MetadataError> {
        let mut transaction = self.write().await?;
        // Another that does the same waits already, or a newer one made it pointless.
        query(
            "DELETE FROM jobs WHERE id = ? AND worker = ? AND (state = 'cancelled'
                 OR EXISTS (SELECT 1 FROM jobs AS same WHERE same.key = jobs.key AND same.state = 'waiting'))",
        )
        .bind(id.0)
        .bind(&worker.0[..])
        .execute(&mut transaction)
        .await?;
        query(
            "UPDATE jobs SET state = 'waiting', due_at = ?, attempts = ?, error = ?, worker = NULL, lease_ends_at = NULL
             WHERE id = ? AND worker = ?",
        )
        .bind(due_at)
        .bind(attempts)
        .bind(error.map(shortened))
        .bind(id.0)
        .bind(&worker.0[..])
        .execute(&mut transaction)
        .await?;
        end_with_jobs(&mut transaction, now).await?;
        transaction.commit().await?;
        Ok(())
    }

    /// How many jobs are due or under way.
    pub(crate) async fn jobs_under_way(&self, now: i64) -> Result<u64, MetadataError> {
        let count = query_scalar(
            "SELECT count(*) FROM jobs
             WHERE state = 'waiting' AND due_at <= ? OR state IN ('running', 'cancelled')",
        )
        .bind(now)
        .fetch_one(self.reader())
        .await?;
        number(count)
    }

    /// The first thousand jobs: failed ones, then those under way, then those that wait.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn jobs(&self) -> Result<Vec<JobRow>, MetadataError> {
        let rows = query(
            "SELECT id, kind, key, state, attempts, enqueued_at, due_at, error FROM jobs
             WHERE state <> 'cancelled'
             ORDER BY CASE state WHEN 'failed' THEN 0 WHEN 'running' THEN 1 ELSE 2 END, due_at, id LIMIT 1000",
        )
        .fetch_all(self.reader())
        .await?;
        rows.iter().map(job_row).collect()
    }
}

/// Stores a job in the transaction of what it follows from. If one with its key waits already, nothing is stored. Older
/// ones of its subject that have another key end: nobody needs them any more. If one of its subject was of a later
/// sequence, be it done or not, it is this one that nobody needs.
pub(super) async fn enqueue(
    transaction: &mut Transaction,
    job: &NewJob,
    now: i64,
) -> Result<Enqueued, MetadataError> {
    if let Some(subject) = &job.subject {
        if let Some(sequence) = job.sequence
            && !is_latest(transaction, subject, sequence, now).await?
        {
            return Ok(Enqueued::Late);
        }
        let ended =
            query("DELETE FROM jobs WHERE subject = ? AND key <> ? AND state IN ('waiting', 'failed')")
                .bind(subject)
                .bind(&job.key)
                .execute(&mut *transaction)
                .await?;
        let cancelled =
            query("UPDATE jobs SET state = 'cancelled' WHERE subject = ? AND key <> ? AND state = 'running'")
                .bind(subject)
                .bind(&job.key)
                .execute(&mut *transaction)
                .await?;
        if ended.rows_affected() + cancelled.rows_affected() > 0 {
            end_with_jobs(transaction, now).await?;
        }
    }
    let inserted = query(
        "INSERT INTO jobs (kind, work, key, subject, priority, state, attempts, enqueued_at, due_at)
         VALUES (?, ?, ?, ?, ?, 'waiting', 0, ?, ?) ON CONFLICT (key) WHERE state = 'waiting' DO NOTHING",
    )
    .bind(&job.kind)
    .bind(&job.work)
    .bind(&job.key)
    .bind(&job.subject)
    .bind(job.priority.0)
    .bind(now)
    .bind(job.due_at)
    .execute(&mut *transaction)
    .await?;
    Ok(if inserted.rows_affected() == 1 { Enqueued::Stored } else { Enqueued::Waits })
}

fn job_row(row: &Row) -> Result<JobRow, MetadataError> {
    Ok(JobRow {
        id: JobId(row.try_get("id")?),
        kind: row.try_get("kind")?,
        key: row.try_get("key")?,
        state: match row.try_get("state")? {
            "failed" => JobState::Failed,
            "running" => JobState::Running,
            _ => JobState::Waiting,
        },
        attempts: attempts(row)?,
        enqueued_at: row.try_get("enqueued_at")?,
        due_at: row.try_get("due_at")?,
        error: row.try_get("error")?,
    })
}

fn priority(row: &Row) -> Result<i32, MetadataError> {
    row.try_get::<i64>("priority")?
        .try_into()
        .map_err(|_| MetadataError::Damaged("a job has an impossible priority"))
}

fn attempts(row: &Row) -> Result<u32, MetadataError> {
    row.try_get::<i64>("attempts")?
        .try_into()
        .map_err(|_| MetadataError::Damaged("a job has an impossible number of attempts"))
}

pub(super) fn shortened(error: &str) -> &str {
    error.get(..error.floor_char_boundary(MAX_ERROR)).unwrap_or(error)
}
