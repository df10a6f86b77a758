//! Rows of pins.

use larder_protocol::{
    StorePath, StorePathHash,
    api::{CacheName, PinName},
};

use super::{
    Metadata, MetadataError, audit, blob,
    claims::claim,
    sql::{Row, query, query_scalar},
};
use crate::audit::{Entry, Event, Who};

/// A pin that is to be made.
#[derive(Debug)]
pub struct NewPin<'a> {
    /// The cache.
    pub cache: &'a CacheName,
    /// Its name.
    pub name: &'a PinName,
    /// What it is to keep.
    pub path: &'a StorePath,
    /// When it ends by itself.
    pub expires_at: Option<i64>,
    /// How many pins of that name stay, this one included.
    pub keep: u32,
    /// JSON: who makes it.
    pub pinned_by: &'a str,
    /// The same for the audit log.
    pub who: &'a Who,
}

/// A pin.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PinRow {
    /// Its name.
    pub name: PinName,
    /// What it keeps.
    pub path: StorePath,
    /// When it was made.
    pub pinned_at: i64,
    /// When it ends by itself.
    pub expires_at: Option<i64>,
}

fn pin_of(row: &Row) -> Result<PinRow, MetadataError> {
    let damaged = MetadataError::Damaged("a pin's row cannot be read");
    let Ok(name) = row.try_get::<&str>("name")?.parse() else { return Err(damaged) };
    let hash = StorePathHash(blob(row.try_get("hash")?)?);
    let Ok(path) = StorePath::new(hash, row.try_get("path_name")?) else { return Err(damaged) };
    Ok(PinRow { name, path, pinned_at: row.try_get("pinned_at")?, expires_at: row.try_get("expires_at")? })
}

impl Metadata {
    /// Pins a path, if readers of the cache see it; `false` if they do not.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn pin(&self, pin: &NewPin<'_>, now: i64) -> Result<bool, MetadataError> {
        let mut transaction = self.write().await?;
        let path: Option<i64> = query_scalar(
            "SELECT p.id FROM paths p JOIN pushes u ON u.id = p.push AND u.state = 'committed'
             WHERE p.hidden = 0 AND p.cache = ? AND p.hash = ? AND p.name = ?",
        )
        .bind(pin.cache.as_str())
        .bind(pin.path.hash().0.to_vec())
        .bind(pin.path.name())
        .fetch_optional(&mut transaction)
        .await?;
        let Some(path) = path else { return Ok(false) };
        claim(&mut transaction, &[path]).await?;
        // The same path again is the same pin, the newest of its name.
        query("DELETE FROM pins WHERE cache = ? AND name = ? AND hash = ?")
            .bind(pin.cache.as_str())
            .bind(pin.name.as_str())
            .bind(pin.path.hash().0.to_vec())
            .execute(&mut transaction)
            .await?;
        query(
            "INSERT INTO pins (cache, name, hash, path_name, pinned_at, expires_at, pinned_by)
             VALUES (?, ?, ?, ?, ?, ?, ?)",
        )
        .bind(pin.cache.as_str())
        .bind(pin.name.as_str())
        .bind(pin.path.hash().0.to_vec())
        .bind(pin.path.name())
        .bind(now)
        .bind(pin.expires_at)
        .bind(pin.pinned_by)
        .execute(&mut transaction)
        .await?;
        query(
            "DELETE FROM pins WHERE cache = ?1 AND name = ?2 AND id NOT IN (
                 SELECT id FROM pins WHERE cache = ?1 AND name = ?2 ORDER BY id DESC LIMIT ?3)",
        )
        .bind(pin.cache.as_str())
        .bind(pin.name.as_str())
        .bind(pin.keep)
        .execute(&mut transaction)
        .await?;
        let event = Event::Pinned { name: pin.name.to_string(), path: pin.path.to_string() };
        audit::record(&mut transaction, &Entry::in_cache(pin.cache, pin.who.clone(), event), now).await?;
        transaction.commit().await?;
        Ok(true)
    }

    /// The pins of a cache that have not ended, by name, of each name the newest first.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn pins(&self, cache: &CacheName, now: i64) -> Result<Vec<PinRow>, MetadataError> {
        let rows = query(
            "SELECT name, hash, path_name, pinned_at, expires_at FROM pins
             WHERE cache = ? AND (expires_at IS NULL OR expires_at > ?) ORDER BY name, id DESC",
        )
        .bind(cache.as_str())
        .bind(now)
        .fetch_all(self.reader())
        .await?;
        rows.iter().map(pin_of).collect()
    }

    /// The path that was pinned last under a name, if that has not ended.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn pinned(
        &self,
        cache: &CacheName,
        name: &PinName,
        now: i64,
    ) -> Result<Option<StorePath>, MetadataError> {
        let row = query(
            "SELECT name, hash, path_name, pinned_at, expires_at FROM pins
             WHERE cache = ? AND name = ? AND (expires_at IS NULL OR expires_at > ?) ORDER BY id DESC LIMIT 1",
        )
        .bind(cache.as_str())
        .bind(name.as_str())
        .bind(now)
        .fetch_optional(self.reader())
        .await?;
        row.as_ref().map(pin_of).transpose().map(|pin| pin.map(|pin| pin.path))
    }

    /// Removes the pins of a name; `false` if there was none.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn unpin(
        &self,
        cache: &CacheName,
        name: &PinName,
        who: &Who,
        now: i64,
    ) -> Result<bool, MetadataError> {
        let mut transaction = self.write().await?;
        let removed = query("DELETE FROM pins WHERE cache = ? AND name = ?")
            .bind(cache.as_str())
            .bind(name.as_str())
            .execute(&mut transaction)
            .await?
            .rows_affected();
        if removed > 0 {
            let event = Event::Unpinned { name: name.to_string() };
            audit::record(&mut transaction, &Entry::in_cache(cache, who.clone(), event), now).await?;
        }
        transaction.commit().await?;
        Ok(removed > 0)
    }
}
