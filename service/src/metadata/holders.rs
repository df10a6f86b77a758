//! Which roots hold which bytes: looked up for people who ask, in steps, on a connection of its own.

use std::collections::HashMap;

use larder_protocol::{StorePathHash, api::CacheName};

use super::{
    BATCH, Metadata, MetadataError, blob,
    marks::reference_hashes,
    number,
    sql::{QueryBuilder, query, query_either, query_scalar},
};

/// How many paths are read in one step.
const PATHS: i64 = 5000;
/// Of how many rows of chunks the bytes are summed up in one step.
const CHUNKS: i64 = 100_000;

/// A path that readers see, by hashes.
#[derive(Debug)]
pub struct HeldPath {
    /// Its row.
    pub id: i64,
    /// The path.
    pub hash: StorePathHash,
    /// What it refers to.
    pub references: Vec<StorePathHash>,
    /// The row of its NAR.
    pub nar: i64,
}

impl Metadata {
    /// Some of a cache's paths, behind the row `after`.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn held_paths(&self, cache: &CacheName, after: i64) -> Result<Vec<HeldPath>, MetadataError> {
        let rows = query(
            "SELECT p.id, p.hash, p.refs, p.nar FROM paths p JOIN pushes u ON u.id = p.push AND u.state = 'committed'
             WHERE p.id > ? AND p.cache = ? AND p.hidden = 0 AND p.nar IS NOT NULL ORDER BY p.id LIMIT ?",
        );
        let rows = rows.bind(after).bind(cache.as_str()).bind(PATHS).fetch_all(self.reader()).await?;
        rows.iter()
            .map(|row| {
                Ok(HeldPath {
                    id: row.try_get(0)?,
                    hash: StorePathHash(blob(row.try_get(1)?)?),
                    references: reference_hashes(row.try_get(2)?).collect::<Result<_, _>>()?,
                    nar: row.try_get(3)?,
                })
            })
            .collect()
    }

    /// The bytes of frames by who needs them: `needed` says by a number for each NAR. What several of those numbers need
    /// is counted for all of them together, and for nobody else.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn held_bytes(
        &self,
        needed: &HashMap<i64, u32>,
    ) -> Result<HashMap<Vec<u32>, u64>, MetadataError> {
        let mut connection = self.apart().await?;
        connection
            .define_temporary(&["CREATE TEMP TABLE needed (nar INTEGER PRIMARY KEY, by INTEGER NOT NULL)"])
            .await?;
        let needed: Vec<_> = needed.iter().collect();
        for batch in needed.chunks(BATCH) {
            let mut insert = QueryBuilder::new("INSERT INTO needed (nar, by) ");
            insert.push_values(batch, |mut row, (nar, by)| {
                row.push_bind(**nar).push_bind(i64::from(**by));
            });
            insert.build().persistent(batch.len() == BATCH).execute(&mut connection).await?;
        }
        let last: Option<i64> = query_scalar("SELECT max(id) FROM chunks").fetch_one(&mut connection).await?;
        let mut bytes: HashMap<Vec<u32>, u64> = HashMap::new();
        let mut after = 0;
        while after < last.unwrap_or_default() {
            let rows = query_either(
                "SELECT needed_by, CAST(sum(frame_len) AS BIGINT) FROM (
                     SELECT c.frame_len, group_concat(DISTINCT n.by) AS needed_by
                     FROM nar_chunks r JOIN needed n ON n.nar = r.nar JOIN chunks c ON c.id = r.chunk
                     WHERE r.chunk > ?1 AND r.chunk <= ?2 GROUP BY c.id)
                 GROUP BY needed_by",
                "SELECT needed_by, CAST(sum(frame_len) AS BIGINT) FROM (
                     SELECT c.frame_len, string_agg(DISTINCT CAST(n.by AS TEXT), ',') AS needed_by
                     FROM nar_chunks r JOIN needed n ON n.nar = r.nar JOIN chunks c ON c.id = r.chunk
                     WHERE r.chunk > ?1 AND r.chunk <= ?2 GROUP BY c.id) chunk
                 GROUP BY needed_by",
            );
            for row in rows.bind(after).bind(after + CHUNKS).fetch_all(&mut connection).await? {
                let needed_by: &str = row.try_get(0)?;
                let damaged = |_| MetadataError::Damaged("a list of numbers cannot be read");
                let mut needed_by =
                    needed_by.split(',').map(str::parse).collect::<Result<Vec<u32>, _>>().map_err(damaged)?;
                needed_by.sort_unstable();
                *bytes.entry(needed_by).or_default() += number(row.try_get(1)?)?;
            }
            after += CHUNKS;
        }
        connection.close().await?;
        Ok(bytes)
    }
}
