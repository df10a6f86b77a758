//! What has room: paths ranked by what keeps them, and how many bytes each rank has. In tables of a connection of its own,
//! and by slices, so that neither memory nor the writer has to hold it.

use std::collections::HashMap;

use larder_protocol::{StorePath, StorePathHash, api::CacheName};

use super::{
    BATCH, Metadata, MetadataError,
    claims::list,
    marks::reference_hashes,
    number,
    paths::path_of,
    roots::{self, RootsOf, Worth},
    sql::{Connection, QueryBuilder, query, query_scalar},
};

/// How many paths are looked at in one step.
const STEP: i64 = 500;
/// How many chunks are weighed in one step.
const SLICE: i64 = 20_000;

/// Paths of some caches, each with what the best of the roots that keep it is worth: a path is never worth less than one
/// that refers to it.
pub struct Ranking {
    connection: Connection,
}

/// A path and what it is worth.
#[derive(Debug, Clone)]
pub struct RankedPath {
    /// Its row.
    pub id: i64,
    /// Its cache.
    pub cache: String,
    /// The path.
    pub path: StorePath,
    /// Its NAR's size.
    pub nar_size: u64,
    /// What it is worth.
    pub worth: i64,
}

/// Some chunks, weighed.
#[derive(Debug)]
pub struct Slice {
    /// The row of the last.
    pub last: i64,
    /// What they are worth, and the bytes of their frames. None: no NAR that is looked at has them.
    pub bytes: Vec<(Option<i64>, u64)>,
}

impl Metadata {
    /// Begins to rank.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn ranking(&self) -> Result<Ranking, MetadataError> {
        let mut connection = self.apart().await?;
        connection.define_temporary(&[
            "CREATE TEMP TABLE ranked (path INTEGER PRIMARY KEY, worth INTEGER NOT NULL, scanned INTEGER NOT NULL)",
            "CREATE INDEX temp.ranked_unscanned ON ranked (worth) WHERE scanned = 0",
            "CREATE TEMP TABLE nar_worth (nar INTEGER PRIMARY KEY, worth INTEGER NOT NULL)",
        ]).await?;
        Ok(Ranking { connection })
    }

    /// The bytes of all objects that are not doomed (what is being written counts once it is whole), without those of pull
    /// requests' caches.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn object_bytes(&self) -> Result<u64, MetadataError> {
        let bytes: i64 = query_scalar(
            "SELECT CAST(coalesce(sum(size), 0) AS BIGINT) FROM objects WHERE doomed_at IS NULL AND key NOT LIKE '%/isolated/%'",
        )
        .fetch_one(self.reader())
        .await?;
        number(bytes)
    }

    /// The bytes of recipes, without those of pull requests' caches.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn recipe_bytes(&self) -> Result<u64, MetadataError> {
        let bytes: i64 = query_scalar(
            "SELECT CAST(coalesce(sum(size), 0) AS BIGINT) FROM objects WHERE doomed_at IS NULL AND key LIKE 'recipes/%'
             AND key NOT LIKE '%/isolated/%'",
        )
        .fetch_one(self.reader())
        .await?;
        number(bytes)
    }

    /// The bytes of objects whose files go by themselves: nothing lies in them any more, or what does is a dropped cache's.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn doomed_bytes(&self) -> Result<u64, MetadataError> {
        let bytes: i64 = query_scalar(
            "SELECT CAST(coalesce(sum(size), 0) AS BIGINT) FROM objects WHERE doomed_at IS NOT NULL",
        )
        .fetch_one(self.reader())
        .await?;
        let dropped: i64 = query_scalar(
            "SELECT CAST(coalesce(sum(o.size), 0) AS BIGINT) FROM isolated_caches i JOIN pushes u ON u.cache = i.name
             JOIN objects o ON o.push = u.id WHERE i.dropped_at IS NOT NULL AND o.doomed_at IS NULL",
        )
        .fetch_one(self.reader())
        .await?;
        number(bytes + dropped)
    }

    /// Notes what a sweep found of a budget: of a cache, or of all.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn note_budget(
        &self,
        cache: Option<&CacheName>,
        used: u64,
        held: u64,
        now: i64,
    ) -> Result<(), MetadataError> {
        let mut transaction = self.write().await?;
        query(
            "INSERT INTO budgets (cache, used, held, measured_at) VALUES (?, ?, ?, ?) ON CONFLICT (cache)
             DO UPDATE SET used = excluded.used, held = excluded.held, measured_at = excluded.measured_at",
        )
        .bind(cache.map_or("", CacheName::as_str))
        .bind(i64::try_from(used).unwrap_or(i64::MAX))
        .bind(i64::try_from(held).unwrap_or(i64::MAX))
        .bind(now)
        .execute(&mut transaction)
        .await?;
        transaction.commit().await?;
        Ok(())
    }

    /// Of what the last sweep found of a budget: what never goes for want of room.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn budget_held(&self, cache: Option<&CacheName>) -> Result<u64, MetadataError> {
        let held: Option<i64> = query_scalar("SELECT held FROM budgets WHERE cache = ?")
            .bind(cache.map_or("", CacheName::as_str))
            .fetch_optional(self.reader())
            .await?;
        number(held.unwrap_or_default())
    }

    /// The bytes of all verified NARs, without those that only pull requests' caches can have.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn nar_bytes(&self) -> Result<u64, MetadataError> {
        let bytes: i64 = query_scalar(
            "SELECT CAST(coalesce(sum(size), 0) AS BIGINT) FROM nars WHERE complete = 1 AND namespace >= 0",
        )
        .fetch_one(self.reader())
        .await?;
        number(bytes)
    }
}

impl Ranking {
    /// Ends the ranking.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn close(self) -> Result<(), MetadataError> {
        Ok(self.connection.close().await?)
    }

    /// Adds roots of a cache.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn add_roots(
        &mut self,
        cache: &CacheName,
        roots: RootsOf,
        worth: Worth,
    ) -> Result<(), MetadataError> {
        // A path may be the root of several pushes.
        let mut query = QueryBuilder::new("INSERT INTO ranked (path, worth, scanned) SELECT p.id, max(");
        worth.push(&mut query);
        query.push("), 0 FROM ");
        roots::select(&mut query, roots, cache);
        query.push(
            " GROUP BY p.id ON CONFLICT (path) DO UPDATE SET worth = excluded.worth, scanned = 0 WHERE excluded.worth > ranked.worth",
        );
        query.build().persistent(false).execute(&mut self.connection).await?;
        Ok(())
    }

    /// Adds what is not there yet of a cache, which nothing keeps. What a sweep has not noted as dead so far counts as
    /// dead since now.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn add_dead(&mut self, cache: &CacheName, now: i64) -> Result<(), MetadataError> {
        // Nobody sees what is hidden, and it refers to nothing that it needs.
        query(
            "INSERT INTO ranked (path, worth, scanned)
             SELECT p.id, coalesce(p.dead_since, ?) + ?, p.hidden FROM paths p
             JOIN pushes u ON u.id = p.push AND u.state = 'committed' WHERE p.cache = ? ON CONFLICT DO NOTHING",
        )
        .bind(now)
        .bind(Worth::of_dead(0))
        .bind(cache.as_str())
        .execute(&mut self.connection)
        .await?;
        Ok(())
    }

    /// Lets some of the paths pass on what they are worth to what they refer to. `false` once all did.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn spread(&mut self) -> Result<bool, MetadataError> {
        // What is worth most first, so that few are looked at twice.
        let rows = query(
            "SELECT k.path, k.worth, p.cache, p.refs FROM ranked k JOIN paths p ON p.id = k.path
             WHERE k.scanned = 0 ORDER BY k.worth DESC LIMIT ?",
        )
        .bind(STEP)
        .fetch_all(&mut self.connection)
        .await?;
        if rows.is_empty() {
            // Also where a row went meanwhile.
            query("UPDATE ranked SET scanned = 1 WHERE scanned = 0").execute(&mut self.connection).await?;
            return Ok(false);
        }
        let mut scanned: Vec<i64> = Vec::with_capacity(rows.len());
        let mut best: HashMap<(String, StorePathHash), i64> = HashMap::new();
        for row in &rows {
            scanned.push(row.try_get(0)?);
            let (worth, cache): (i64, &str) = (row.try_get(1)?, row.try_get(2)?);
            for hash in reference_hashes(row.try_get(3)?) {
                let known = best.entry((cache.to_owned(), hash?)).or_insert(worth);
                *known = worth.max(*known);
            }
        }
        let mut update = QueryBuilder::new("UPDATE ranked SET scanned = 1 WHERE path IN (");
        list(&mut update, &scanned);
        update.push(")");
        update.build().persistent(false).execute(&mut self.connection).await?;
        let best: Vec<_> = best.into_iter().collect();
        for batch in best.chunks(BATCH) {
            let mut query = QueryBuilder::new("WITH r (cache, hash, worth) AS (");
            query.push_values(batch, |mut row, ((cache, hash), worth)| {
                row.push_bind(cache).push_bind(hash.0.to_vec()).push_bind(*worth);
            });
            query.push(
                ") INSERT INTO ranked (path, worth, scanned) SELECT p.id, r.worth, 0 FROM r
                 CROSS JOIN paths p CROSS JOIN pushes u
                 WHERE u.id = p.push AND u.state = 'committed' AND p.hidden = 0 AND p.cache = r.cache AND p.hash = r.hash
                 ON CONFLICT (path) DO UPDATE SET worth = excluded.worth, scanned = 0
                 WHERE excluded.worth > ranked.worth",
            );
            query.build().persistent(batch.len() == BATCH).execute(&mut self.connection).await?;
        }
        Ok(true)
    }

    /// Looks at the NARs of one cache, or of all: each is worth as much as the best of its paths. A path that was not
    /// ranked (of a push under way, of a cache that is not configured) never goes. Paths of pull requests' caches count
    /// for nothing; they may have NARs of their parent, which stay by that and take no room.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn look_at_nars(&mut self, cache: Option<&CacheName>) -> Result<(), MetadataError> {
        query("DELETE FROM nar_worth").execute(&mut self.connection).await?;
        query(
            "INSERT INTO nar_worth (nar, worth)
             SELECT p.nar, max(CASE WHEN p.cache LIKE '%~%' THEN ? ELSE coalesce(k.worth, ?) END) FROM paths p
             LEFT JOIN ranked k ON k.path = p.id WHERE p.nar IS NOT NULL AND p.cache = coalesce(?, p.cache)
             GROUP BY p.nar",
        )
        .bind(Worth::NOT_COUNTED)
        .bind(Worth::HELD)
        .bind(cache.map(CacheName::as_str))
        .execute(&mut self.connection)
        .await?;
        Ok(())
    }

    /// Weighs some chunks behind the row `after`: each is worth as much as the best of the NARs that are looked at and
    /// have it. Those that are condemned go anyway, and are not looked at; nor are those of pull requests' caches.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn weigh(&mut self, after: i64) -> Result<Option<Slice>, MetadataError> {
        let rows = query(
            "WITH c AS (SELECT id, frame_len FROM chunks WHERE id > ? AND condemned_at IS NULL AND namespace >= 0
                 ORDER BY id LIMIT ?)
             SELECT (SELECT max(w.worth) FROM nar_chunks r JOIN nar_worth w ON w.nar = r.nar WHERE r.chunk = c.id) AS best,
                 CAST(sum(c.frame_len) AS BIGINT), max(c.id) FROM c GROUP BY best",
        )
        .bind(after)
        .bind(SLICE)
        .fetch_all(&mut self.connection)
        .await?;
        let mut slice = Slice { last: after, bytes: Vec::with_capacity(rows.len()) };
        for row in &rows {
            slice.bytes.push((row.try_get(0)?, number(row.try_get(1)?)?));
            slice.last = slice.last.max(row.try_get(2)?);
        }
        Ok((!rows.is_empty()).then_some(slice))
    }

    /// Some of the visible paths that are worth no more than `most`, behind the row `after`, and that no pull request's
    /// cache relies on.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn worth_at_most(&mut self, most: i64, after: i64) -> Result<Vec<RankedPath>, MetadataError> {
        let rows = query(
            "SELECT p.id, p.cache, p.hash, p.name, p.nar_size, k.worth FROM ranked k JOIN paths p ON p.id = k.path
             WHERE k.path > ? AND k.worth > ? AND k.worth <= ? AND p.hidden = 0
             AND NOT EXISTS (SELECT 1 FROM leases l WHERE l.path = p.id) ORDER BY k.path LIMIT ?",
        )
        .bind(after)
        .bind(Worth::NOT_COUNTED)
        .bind(most)
        .bind(STEP)
        .fetch_all(&mut self.connection)
        .await?;
        rows.iter()
            .map(|row| {
                Ok(RankedPath {
                    id: row.try_get("id")?,
                    cache: row.try_get("cache")?,
                    path: path_of(row)?,
                    nar_size: number(row.try_get("nar_size")?)?,
                    worth: row.try_get("worth")?,
                })
            })
            .collect()
    }
}
