//! Rows of the audit log.

use super::{
    BATCH, Metadata, MetadataError, number,
    sql::{QueryBuilder, Row, Transaction, query, query_scalar},
};
use crate::audit::{Entry, Kind};

/// A row as it is shown. All text is as it was stored, and may be of others' making.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AuditRow {
    /// When, in seconds since 1970; the first time, if it happened several times.
    pub time: i64,
    /// When the last time.
    pub last_time: i64,
    /// How often.
    pub times: u64,
    /// What kind of event.
    pub kind: String,
    /// The cache.
    pub cache: Option<String>,
    /// Who says who it was.
    pub issuer: Option<String>,
    /// The repository, as its claims name it.
    pub repository: Option<String>,
    /// Its number.
    pub repository_id: Option<String>,
    /// The ref.
    pub git_ref: Option<String>,
    /// What started the job.
    pub event: Option<String>,
    /// The run.
    pub run: Option<String>,
    /// Which attempt at it.
    pub attempt: Option<String>,
    /// Who started the run, the name of a person's token, or who ran a command.
    pub actor: Option<String>,
    /// What tells the token from others.
    pub token: Option<String>,
    /// Where from.
    pub address: Option<String>,
    /// The event as JSON.
    pub details: String,
}

/// Which rows.
#[derive(Debug, Clone, Default)]
pub struct AuditFilter {
    /// Not before.
    pub since: Option<i64>,
    /// Before.
    pub until: Option<i64>,
    /// Of this repository, without case.
    pub repository: Option<String>,
    /// About this cache.
    pub cache: Option<String>,
    /// Of this kind.
    pub kind: Option<Kind>,
    /// At most so many, the newest.
    pub limit: u32,
}

/// Records an entry in the transaction that does what it says, and logs it.
///
/// # Errors
/// When the database fails: then nothing of the transaction may be committed.
pub(super) async fn record(
    transaction: &mut Transaction,
    entry: &Entry,
    now: i64,
) -> Result<(), MetadataError> {
    insert(transaction, entry, now).await?;
    entry.log();
    Ok(())
}

async fn insert(transaction: &mut Transaction, entry: &Entry, now: i64) -> Result<(), MetadataError> {
    let who = &entry.who;
    let details = serde_json::to_string(&entry.event)
        .map_err(|_| MetadataError::Damaged("an entry of the audit log cannot be written"))?;
    query(
        "INSERT INTO audit (time, last_time, kind, cache, issuer, repository, repository_id, ref, event, run, attempt,
                            actor, token, address, details, same)
         VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
         ON CONFLICT (same) DO UPDATE SET times = audit.times + 1, last_time = excluded.last_time",
    )
    .bind(now)
    .bind(now)
    .bind(entry.event.kind().as_str())
    .bind(entry.cache.as_ref().map(|cache| cache.as_str()))
    .bind(&who.issuer)
    .bind(&who.repository)
    .bind(&who.repository_id)
    .bind(&who.git_ref)
    .bind(&who.event)
    .bind(&who.run)
    .bind(&who.attempt)
    .bind(&who.actor)
    .bind(&who.token)
    .bind(who.address.map(|address| address.to_string()))
    .bind(details)
    .bind(entry.same(now).map(Vec::from))
    .execute(&mut *transaction)
    .await?;
    Ok(())
}

impl Metadata {
    /// Records entries with their times, in one transaction. They were logged already.
    ///
    /// # Errors
    /// When the database fails.
    pub(crate) async fn record_entries(&self, entries: &[(Entry, i64)]) -> Result<(), MetadataError> {
        if entries.is_empty() {
            return Ok(());
        }
        let mut transaction = self.write().await?;
        for (entry, time) in entries {
            insert(&mut transaction, entry, *time).await?;
        }
        transaction.commit().await?;
        Ok(())
    }

    /// The newest rows that fit, oldest first.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn audit(&self, filter: &AuditFilter) -> Result<Vec<AuditRow>, MetadataError> {
        let mut query = QueryBuilder::new(
            "SELECT time, last_time, times, kind, cache, issuer, repository, repository_id, ref, event, run, attempt,
                 actor, token, address, details FROM audit WHERE 1 = 1",
        );
        if let Some(since) = filter.since {
            query.push(" AND last_time >= ").push_bind(since);
        }
        if let Some(until) = filter.until {
            query.push(" AND time < ").push_bind(until);
        }
        if let Some(repository) = &filter.repository {
            query.push(" AND lower(repository) = lower(").push_bind(repository).push(")");
        }
        if let Some(cache) = &filter.cache {
            query.push(" AND cache = ").push_bind(cache);
        }
        if let Some(kind) = filter.kind {
            query.push(" AND kind = ").push_bind(kind.as_str());
        }
        query.push(" ORDER BY id DESC LIMIT ").push_bind(i64::from(filter.limit));
        let rows = query.build().persistent(false).fetch_all(self.reader()).await?;
        rows.iter().rev().map(audit_row).collect()
    }

    /// Clears some rows away, if there are any to be cleared: those older than `before`, then, while there are more
    /// than `max_rows`, the oldest, refusals first. How many went.
    ///
    /// # Errors
    /// When the database fails.
    pub(crate) async fn thin_audit(&self, before: i64, max_rows: u64) -> Result<u64, MetadataError> {
        let batch = i64::try_from(BATCH).unwrap_or(i64::MAX);
        let rows: i64 = query_scalar("SELECT count(*) FROM audit").fetch_one(self.reader()).await?;
        let excess = number(rows)?.saturating_sub(max_rows);
        let excess = i64::try_from(excess).unwrap_or(i64::MAX).min(batch);
        let oldest: Option<i64> =
            query_scalar("SELECT min(time) FROM audit").fetch_one(self.reader()).await?;
        if excess == 0 && oldest.is_none_or(|oldest| oldest >= before) {
            return Ok(0);
        }
        let mut transaction = self.write().await?;
        let mut gone = query(
            "DELETE FROM audit WHERE id IN (SELECT id FROM audit WHERE time < ? ORDER BY time LIMIT ?)",
        )
        .bind(before)
        .bind(batch)
        .execute(&mut transaction)
        .await?
        .rows_affected();
        for of_kind in ["same IS NOT NULL", "same IS NULL"] {
            let left = excess - i64::try_from(gone).unwrap_or(i64::MAX);
            if left <= 0 {
                break;
            }
            let mut delete = QueryBuilder::new("DELETE FROM audit WHERE id IN (SELECT id FROM audit WHERE ");
            delete.push(of_kind).push(" ORDER BY id LIMIT ").push_bind(left).push(")");
            gone += delete.build().persistent(false).execute(&mut transaction).await?.rows_affected();
        }
        transaction.commit().await?;
        Ok(gone)
    }
}

fn audit_row(row: &Row) -> Result<AuditRow, MetadataError> {
    Ok(AuditRow {
        time: row.try_get("time")?,
        last_time: row.try_get("last_time")?,
        times: number(row.try_get("times")?)?,
        kind: row.try_get("kind")?,
        cache: row.try_get("cache")?,
        issuer: row.try_get("issuer")?,
        repository: row.try_get("repository")?,
        repository_id: row.try_get("repository_id")?,
        git_ref: row.try_get("ref")?,
        event: row.try_get("event")?,
        run: row.try_get("run")?,
        attempt: row.try_get("attempt")?,
        actor: row.try_get("actor")?,
        token: row.try_get("token")?,
        address: row.try_get("address")?,
        details: row.try_get("details")?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{clock::Clock, trust::people};

    /// What gives power is on record, or is not given.
    #[tokio::test]
    async fn what_cannot_be_recorded_does_not_happen() {
        let folder = tempfile::tempdir().unwrap();
        let metadata = Metadata::open(&folder.path().join("larder.db")).await.unwrap();
        let cache = "main".parse().unwrap();
        let new = |name| people::NewToken::pushing(name, &cache, 60);
        let create = async |name| people::create_token(&metadata, &Clock::System, new(name)).await;
        create("anna").await.unwrap();
        let mut transaction = metadata.write().await.unwrap();
        query("ALTER TABLE audit RENAME TO lost").execute(&mut transaction).await.unwrap();
        transaction.commit().await.unwrap();

        create("bert").await.unwrap_err();
        people::revoke_token(&metadata, &Clock::System, "anna").await.unwrap_err();
        let names: Vec<String> =
            metadata.named_tokens(0).await.unwrap().into_iter().map(|token| token.name).collect();
        assert_eq!(names, ["anna"]);
    }
}
