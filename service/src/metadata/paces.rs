//! What all replicas together let by of whoever may come so often.

use std::collections::HashMap;

use super::{
    Metadata, MetadataError,
    sql::{QueryBuilder, query},
};
use crate::pace::{Key, Taken};

/// How many rows one transaction forgets.
const SWEPT: i64 = 1000;

impl Metadata {
    /// Adds what each of these took, at most [`super::BATCH`] of them. Until when they have used up what they may at all
    /// replicas together, in microseconds since 1970, as `now` is.
    ///
    /// # Errors
    /// When the database fails.
    pub(crate) async fn use_up(
        &self,
        taken: &[(Key, Taken)],
        now: i64,
    ) -> Result<Vec<(Key, i64)>, MetadataError> {
        let mut transaction = self.write().await?;
        let mut look = QueryBuilder::new("SELECT key, used_until FROM paces WHERE key IN (");
        let mut list = look.separated(", ");
        for (key, _) in taken {
            list.push_bind(key.as_slice());
        }
        look.push(")");
        let mut known = HashMap::new();
        for row in look.build().persistent(false).fetch_all(&mut transaction).await? {
            known.insert(row.try_get::<Vec<u8>>("key")?, row.try_get("used_until")?);
        }
        let used_until = |&(key, taken): &(Key, Taken)| {
            (key, taken.after(known.get(key.as_slice()).copied().unwrap_or_default(), now))
        };
        let used: Vec<_> = taken.iter().map(used_until).collect();
        let mut write = QueryBuilder::new("INSERT INTO paces (key, used_until) ");
        write.push_values(&used, |mut row, (key, used_until)| {
            row.push_bind(key.as_slice()).push_bind(*used_until);
        });
        write.push(" ON CONFLICT (key) DO UPDATE SET used_until = excluded.used_until");
        write.build().persistent(false).execute(&mut transaction).await?;
        transaction.commit().await?;
        Ok(used)
    }

    /// Forgets those who have used up nothing any more, in microseconds since 1970.
    ///
    /// # Errors
    /// When the database fails.
    pub(crate) async fn forget_paces(&self, now: i64) -> Result<(), MetadataError> {
        loop {
            let mut transaction = self.write().await?;
            let forgotten = query(
                "DELETE FROM paces WHERE key IN
                     (SELECT key FROM paces WHERE used_until <= ? ORDER BY used_until LIMIT ?)",
            )
            .bind(now)
            .bind(SWEPT)
            .execute(&mut transaction)
            .await?
            .rows_affected();
            transaction.commit().await?;
            if forgotten < SWEPT.unsigned_abs() {
                return Ok(());
            }
        }
    }
}
