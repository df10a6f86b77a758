//! Rows about deliveries that the forge has and the service has not.

use std::collections::{HashMap, HashSet};

use super::{
    BATCH, Metadata, MetadataError, number,
    sql::{QueryBuilder, query},
};

/// How often a delivery was asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct AskedFor {
    /// When, the last time.
    pub at: i64,
    /// How many times.
    pub times: u64,
}

/// How far a webhook's deliveries were looked through.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct WatchedHook {
    /// Up to which second no delivery is missing, as far as is known.
    pub settled_until: i64,
    /// What a look did not come to that had begun with later ones.
    pub unread: Option<Unread>,
}

/// The deliveries that a look did not come to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Unread {
    /// The cursor of the page from which they are.
    pub from: String,
    /// Up to which second no delivery is missing once these are looked through.
    pub settled_then: i64,
}

impl Metadata {
    /// Which of these deliveries are stored.
    pub(crate) async fn stored_deliveries(&self, guids: &[&str]) -> Result<HashSet<String>, MetadataError> {
        let mut stored = HashSet::new();
        for batch in guids.chunks(BATCH) {
            let mut query = QueryBuilder::new("SELECT DISTINCT guid FROM deliveries WHERE guid IN (");
            let mut list = query.separated(", ");
            for guid in batch {
                list.push_bind(*guid);
            }
            query.push(")");
            stored.extend(query.build_query_scalar::<String>().fetch_all(self.reader()).await?);
        }
        Ok(stored)
    }

    /// How far a webhook's deliveries were looked through.
    pub(crate) async fn watched_hook(&self, hook: &str) -> Result<Option<WatchedHook>, MetadataError> {
        let row = query("SELECT settled_until, unread_from, settled_then FROM watched_hooks WHERE hook = ?")
            .bind(hook)
            .fetch_optional(self.reader())
            .await?;
        let Some(row) = row else { return Ok(None) };
        let unread_from: Option<String> = row.try_get("unread_from")?;
        let settled_then: Option<i64> = row.try_get("settled_then")?;
        let unread = unread_from.zip(settled_then).map(|(from, settled_then)| Unread { from, settled_then });
        Ok(Some(WatchedHook { settled_until: row.try_get("settled_until")?, unread }))
    }

    /// Notes that.
    pub(crate) async fn note_watched_hook(
        &self,
        hook: &str,
        watched: &WatchedHook,
    ) -> Result<(), MetadataError> {
        let unread = watched.unread.as_ref();
        let mut transaction = self.write().await?;
        query(
            "INSERT INTO watched_hooks (hook, settled_until, unread_from, settled_then) VALUES (?, ?, ?, ?)
             ON CONFLICT (hook) DO UPDATE SET settled_until = excluded.settled_until,
                 unread_from = excluded.unread_from, settled_then = excluded.settled_then",
        )
        .bind(hook)
        .bind(watched.settled_until)
        .bind(unread.map(|unread| unread.from.as_str()))
        .bind(unread.map(|unread| unread.settled_then))
        .execute(&mut transaction)
        .await?;
        transaction.commit().await?;
        Ok(())
    }

    /// Which deliveries of a webhook were asked for, and how often.
    pub(crate) async fn asked_for(&self, hook: &str) -> Result<HashMap<String, AskedFor>, MetadataError> {
        let rows = query("SELECT guid, asked_at, times FROM missed_deliveries WHERE hook = ?")
            .bind(hook)
            .fetch_all(self.reader())
            .await?;
        rows.iter()
            .map(|row| {
                let times = number(row.try_get("times")?)?;
                Ok((row.try_get("guid")?, AskedFor { at: row.try_get("asked_at")?, times }))
            })
            .collect()
    }

    /// Notes that one is asked for.
    pub(crate) async fn ask_for(&self, hook: &str, guid: &str, now: i64) -> Result<(), MetadataError> {
        let mut transaction = self.write().await?;
        query(
            "INSERT INTO missed_deliveries (hook, guid, asked_at, times) VALUES (?, ?, ?, 1)
             ON CONFLICT (hook, guid) DO UPDATE SET asked_at = excluded.asked_at, times = missed_deliveries.times + 1",
        )
        .bind(hook)
        .bind(guid)
        .bind(now)
        .execute(&mut transaction)
        .await?;
        transaction.commit().await?;
        Ok(())
    }

    /// Forgets what was asked for before then: the forge has it no more.
    pub(crate) async fn forget_missed(&self, before: i64) -> Result<(), MetadataError> {
        let mut transaction = self.write().await?;
        query("DELETE FROM missed_deliveries WHERE asked_at < ?")
            .bind(before)
            .execute(&mut transaction)
            .await?;
        transaction.commit().await?;
        Ok(())
    }
}
