//! Rows of subjects of jobs, and how late the latest job of each was.

use super::{
    Metadata, MetadataError,
    sql::{Transaction, query},
};

impl Metadata {
    /// Forgets of which sequence the latest job of a subject was, where that was noted before then.
    pub(crate) async fn forget_sequences(&self, before: i64) -> Result<(), MetadataError> {
        let mut transaction = self.write().await?;
        query("DELETE FROM job_sequences WHERE noted_at < ?").bind(before).execute(&mut transaction).await?;
        transaction.commit().await?;
        Ok(())
    }
}

/// Whether no job of the subject was of a later sequence. This one is known from then on.
pub(super) async fn is_latest(
    transaction: &mut Transaction,
    subject: &str,
    sequence: i64,
    now: i64,
) -> Result<bool, MetadataError> {
    let noted = query(
        "INSERT INTO job_sequences (subject, sequence, noted_at) VALUES (?, ?, ?)
         ON CONFLICT (subject) DO UPDATE SET sequence = excluded.sequence, noted_at = excluded.noted_at
             WHERE excluded.sequence >= job_sequences.sequence",
    )
    .bind(subject)
    .bind(sequence)
    .bind(now)
    .execute(&mut *transaction)
    .await?;
    Ok(noted.rows_affected() == 1)
}
