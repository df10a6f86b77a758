//! Rows of deliveries.

use super::{
    Metadata, MetadataError, jobs, number,
    sql::{Row, query},
};
use crate::{
    forge::{DeliveryCount, DeliveryOutcome, DeliveryRow, NewDelivery, StoredDelivery},
    queue::{Enqueued, NewJob},
};

/// How many rows one transaction removes.
const SWEPT: i64 = 1000;
/// The columns of a [`DeliveryRow`].
const COLUMNS: &str =
    "guid, about, event, action, outcome, received_at, replayed_at, coalesce(length(payload), 0) AS bytes";

impl Metadata {
    /// Stores deliveries with the jobs that follow from them, at one moment; says of each whether it is new. Of one that
    /// was there already nothing is stored.
    pub(crate) async fn store_deliveries(
        &self,
        deliveries: &[&NewDelivery],
        now: i64,
    ) -> Result<Vec<bool>, MetadataError> {
        let mut transaction = self.write().await?;
        let mut new = Vec::with_capacity(deliveries.len());
        for delivery in deliveries {
            let inserted = query(
                "INSERT INTO deliveries (guid, about, event, action, outcome, received_at, headers, payload)
                 VALUES (?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT (guid, about) DO NOTHING",
            )
            .bind(&delivery.guid)
            .bind(&delivery.about)
            .bind(&delivery.event)
            .bind(&delivery.action)
            .bind(delivery.outcome.as_str())
            .bind(now)
            .bind(&delivery.headers)
            .bind(delivery.payload.as_deref())
            .execute(&mut transaction)
            .await?;
            let is_new = inserted.rows_affected() == 1;
            if is_new {
                for job in &delivery.jobs {
                    jobs::enqueue(&mut transaction, job, now).await?;
                }
            }
            new.push(is_new);
        }
        transaction.commit().await?;
        Ok(new)
    }

    /// Stores once more the jobs that follow from a delivery, and says what became of each.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn replay_delivery(
        &self,
        guid: &str,
        about: &str,
        jobs: &[NewJob],
        now: i64,
    ) -> Result<Vec<Enqueued>, MetadataError> {
        let mut transaction = self.write().await?;
        query("UPDATE deliveries SET replayed_at = ? WHERE guid = ? AND about = ?")
            .bind(now)
            .bind(guid)
            .bind(about)
            .execute(&mut transaction)
            .await?;
        let mut became = Vec::with_capacity(jobs.len());
        for job in jobs {
            became.push(jobs::enqueue(&mut transaction, job, now).await?);
        }
        transaction.commit().await?;
        Ok(became)
    }

    /// The newest deliveries.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn deliveries(&self, limit: u32) -> Result<Vec<DeliveryRow>, MetadataError> {
        let sql = format!("SELECT {COLUMNS} FROM deliveries ORDER BY received_at DESC, id DESC LIMIT ?");
        let rows = query(sql).bind(limit).fetch_all(self.reader()).await?;
        rows.iter().map(delivery_row).collect()
    }

    /// How many are kept, of each event and outcome.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn delivery_counts(&self) -> Result<Vec<DeliveryCount>, MetadataError> {
        let rows = query(
            "SELECT event, outcome, count(*) AS count FROM deliveries GROUP BY event, outcome ORDER BY event, outcome",
        )
        .fetch_all(self.reader())
        .await?;
        rows.iter()
            .map(|row| {
                Ok(DeliveryCount {
                    event: row.try_get("event")?,
                    outcome: outcome(row)?,
                    count: number(row.try_get("count")?)?,
                })
            })
            .collect()
    }

    /// The deliveries of that name: more than one only if different repositories sent it.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn delivery(&self, guid: &str) -> Result<Vec<StoredDelivery>, MetadataError> {
        let sql = format!(
            "SELECT {COLUMNS}, headers, payload FROM deliveries WHERE guid = ? ORDER BY id LIMIT 100"
        );
        let rows = query(sql).bind(guid).fetch_all(self.reader()).await?;
        rows.iter()
            .map(|row| {
                Ok(StoredDelivery {
                    row: delivery_row(row)?,
                    headers: row.try_get("headers")?,
                    payload: row.try_get("payload")?,
                })
            })
            .collect()
    }

    /// Removes what was received before then.
    pub(crate) async fn forget_deliveries(&self, before: i64) -> Result<(), MetadataError> {
        loop {
            let mut transaction = self.write().await?;
            let removed = query(
                "DELETE FROM deliveries WHERE id IN
                     (SELECT id FROM deliveries WHERE received_at < ? ORDER BY received_at LIMIT ?)",
            )
            .bind(before)
            .bind(SWEPT)
            .execute(&mut transaction)
            .await?
            .rows_affected();
            transaction.commit().await?;
            if removed < SWEPT.unsigned_abs() {
                return Ok(());
            }
        }
    }
}

fn delivery_row(row: &Row) -> Result<DeliveryRow, MetadataError> {
    Ok(DeliveryRow {
        guid: row.try_get("guid")?,
        about: row.try_get("about")?,
        event: row.try_get("event")?,
        action: row.try_get("action")?,
        outcome: outcome(row)?,
        received_at: row.try_get("received_at")?,
        replayed_at: row.try_get("replayed_at")?,
        bytes: number(row.try_get("bytes")?)?,
    })
}

fn outcome(row: &Row) -> Result<DeliveryOutcome, MetadataError> {
    DeliveryOutcome::of(row.try_get("outcome")?)
        .ok_or(MetadataError::Damaged("a delivery has an outcome that there is not"))
}
