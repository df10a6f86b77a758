//! Marking what roots keep: in tables of a connection of its own, which go with it, so that neither memory nor the writer
//! has to hold them.

use std::collections::HashMap;

use larder_protocol::{StorePath, StorePathHash, api::CacheName};

use super::{
    BATCH, Metadata, MetadataError,
    claims::list,
    paths::path_of,
    roots::{self, RootsOf, Worth},
    sql::{Connection, QueryBuilder, query, query_scalar},
};

/// How many paths are looked at in one step.
const STEP: i64 = 500;

/// Why a path is kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MarkedRoot {
    /// What kind of root: `run`, `pin`, `push`, `recent`, `read` or `grace`.
    pub kind: String,
    /// Which one, in words.
    pub which: String,
}

/// What roots keep of one cache, as far as it is marked.
pub struct Marks {
    connection: Connection,
    cache: CacheName,
}

/// How much is marked, or about to go.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Extent {
    /// Paths.
    pub paths: u64,
    /// The bytes of their NARs.
    pub nar_bytes: u64,
}

/// A path that is about to go.
#[derive(Debug, Clone)]
pub struct DyingPath {
    /// Its row.
    pub id: i64,
    /// The path.
    pub path: StorePath,
    /// Its NAR's size.
    pub nar_size: u64,
    /// Since when nothing keeps it.
    pub dead_since: i64,
}

impl Metadata {
    /// Begins to mark what is kept of a cache.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn marks(&self, cache: &CacheName) -> Result<Marks, MetadataError> {
        let mut connection = self.apart().await?;
        connection.define_temporary(&[
            "CREATE TEMP TABLE roots (id INTEGER PRIMARY KEY, kind TEXT NOT NULL, which TEXT NOT NULL)",
            // `via`: the path that refers to it, unless it is a root.
            "CREATE TEMP TABLE live (path INTEGER PRIMARY KEY, via INTEGER, root INTEGER, scanned INTEGER NOT NULL)",
            "CREATE INDEX temp.live_unscanned ON live (path) WHERE scanned = 0",
            // `referrers`: how many of those that are about to go refer to it.
            "CREATE TEMP TABLE dying (path INTEGER PRIMARY KEY, referrers INTEGER NOT NULL, scanned INTEGER NOT NULL)",
            "CREATE INDEX temp.dying_next ON dying (referrers)",
            "CREATE INDEX temp.dying_unscanned ON dying (path) WHERE scanned = 0",
            "CREATE TEMP TABLE dying_refs (referrer INTEGER, reference INTEGER, PRIMARY KEY (referrer, reference))
                 WITHOUT ROWID",
            "CREATE INDEX temp.dying_refs_back ON dying_refs (reference)",
        ]).await?;
        Ok(Marks { connection, cache: cache.clone() })
    }
}

impl Marks {
    /// Ends the marking, and all that was noted for it.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn close(self) -> Result<(), MetadataError> {
        Ok(self.connection.close().await?)
    }

    /// Marks those roots that are worth more than `above` or take no room, of a kind and with a name for people. Tells how many paths are
    /// marked by it that were not before.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn add_roots(
        &mut self,
        (roots, worth): (RootsOf, Worth),
        above: i64,
        kind: &str,
        which: &str,
    ) -> Result<u64, MetadataError> {
        let root: i64 = query_scalar(
            "INSERT INTO roots (id, kind, which) SELECT coalesce(max(id), 0) + 1, ?, ? FROM roots RETURNING id",
        )
        .bind(kind)
        .bind(which)
        .fetch_one(&mut self.connection)
        .await?;
        let mut query = QueryBuilder::new("INSERT INTO live (path, root, scanned) SELECT p.id, ");
        query.push_bind(root).push(", 0 FROM ");
        roots::select(&mut query, roots, &self.cache);
        if worth != Worth::NotCounted {
            query.push(" AND ").push_bind(above).push(" < ");
            worth.push(&mut query);
        }
        query.push(" ON CONFLICT DO NOTHING");
        Ok(query.build().persistent(false).execute(&mut self.connection).await?.rows_affected())
    }

    /// Marks what some of the marked paths refer to. `false` once all that is reachable is marked.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn spread(&mut self) -> Result<bool, MetadataError> {
        let rows = query(
            "SELECT l.path, p.refs FROM live l JOIN paths p ON p.id = l.path WHERE l.scanned = 0 ORDER BY l.path LIMIT ?",
        )
        .bind(STEP)
        .fetch_all(&mut self.connection)
        .await?;
        let mut scanned = Vec::with_capacity(rows.len());
        let mut references = HashMap::new();
        for row in &rows {
            let path: i64 = row.try_get(0)?;
            scanned.push(path);
            for hash in reference_hashes(row.try_get(1)?) {
                references.entry(hash?).or_insert(path);
            }
        }
        let references: Vec<(StorePathHash, i64)> = references.into_iter().collect();
        for batch in references.chunks(BATCH) {
            let mut query = QueryBuilder::new("WITH r (hash, via) AS (");
            query.push_values(batch, |mut row, (hash, via)| {
                row.push_bind(hash.0.to_vec()).push_bind(*via);
            });
            // In this order, which SQLite keeps where joins are `CROSS`: else it goes through all paths for the sake of a few.
            query.push(
                ") INSERT INTO live (path, via, scanned) SELECT p.id, r.via, 0 FROM r
                 CROSS JOIN paths p CROSS JOIN pushes u
                 WHERE u.id = p.push AND u.state = 'committed' AND p.hidden = 0 AND p.hash = r.hash AND p.cache = ",
            );
            query.push_bind(self.cache.as_str()).push(" ON CONFLICT DO NOTHING");
            query.build().persistent(batch.len() == BATCH).execute(&mut self.connection).await?;
        }
        // Also where a row went meanwhile, and was not found.
        if scanned.is_empty() {
            let gone = query("UPDATE live SET scanned = 1 WHERE scanned = 0").execute(&mut self.connection);
            gone.await?;
            return Ok(false);
        }
        let mut update = QueryBuilder::new("UPDATE live SET scanned = 1 WHERE path IN (");
        list(&mut update, &scanned);
        update.push(")");
        update.build().persistent(false).execute(&mut self.connection).await?;
        Ok(true)
    }

    /// Committed rows that are not marked and were not found dead yet, behind the row `after`.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn newly_dead(&mut self, after: i64) -> Result<Vec<i64>, MetadataError> {
        let rows = query_scalar(
            "SELECT p.id FROM paths p JOIN pushes u ON u.id = p.push AND u.state = 'committed'
             WHERE p.id > ? AND p.cache = ? AND p.dead_since IS NULL AND NOT EXISTS (SELECT 1 FROM live l WHERE l.path = p.id)
             ORDER BY p.id LIMIT ?",
        );
        Ok(rows.bind(after).bind(self.cache.as_str()).bind(STEP).fetch_all(&mut self.connection).await?)
    }

    /// Rows that were found dead and are marked now, behind the row `after`.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn alive_again(&mut self, after: i64) -> Result<Vec<i64>, MetadataError> {
        let rows = query_scalar(
            "SELECT p.id FROM paths p JOIN live l ON l.path = p.id
             WHERE p.id > ? AND p.cache = ? AND p.dead_since IS NOT NULL ORDER BY p.id LIMIT ?",
        );
        Ok(rows.bind(after).bind(self.cache.as_str()).bind(STEP).fetch_all(&mut self.connection).await?)
    }

    /// Keeps rows that were found dead just now: what an earlier sweep did not find dead stays.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn spare(&mut self, paths: &[i64]) -> Result<(), MetadataError> {
        let mut insert = QueryBuilder::new("INSERT INTO live (path, scanned, root) ");
        insert.push_values(paths, |mut row, path| {
            // A row that nobody sees refers to nothing that it needs.
            row.push_bind(*path).push("(SELECT hidden FROM paths WHERE id = ").push_bind_unseparated(*path);
            row.push_unseparated(")").push("NULL");
        });
        insert.push(" ON CONFLICT DO NOTHING");
        if !paths.is_empty() {
            insert.build().persistent(false).execute(&mut self.connection).await?;
        }
        Ok(())
    }

    /// Lists what goes: all that was found dead before `before` and is not marked. And what was claimed since it was marked,
    /// though it is dead no more: what it needs is found by it, when the claim is heeded.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn list_dying(&mut self, before: i64) -> Result<Extent, MetadataError> {
        query(
            "INSERT INTO dying (path, referrers, scanned) SELECT p.id, 0, p.hidden FROM paths p
             JOIN pushes u ON u.id = p.push AND u.state = 'committed'
             WHERE p.cache = ? AND (p.dead_since <= ? OR p.id IN (SELECT path FROM claimed_paths))
             AND NOT EXISTS (SELECT 1 FROM live l WHERE l.path = p.id)",
        )
        .bind(self.cache.as_str())
        .bind(before)
        .execute(&mut self.connection)
        .await?;
        let row =
            query("SELECT count(*), CAST(coalesce(sum(p.nar_size), 0) AS BIGINT) FROM dying d JOIN paths p ON p.id = d.path")
                .fetch_one(&mut self.connection)
                .await?;
        Ok(Extent { paths: super::number(row.try_get(0)?)?, nar_bytes: super::number(row.try_get(1)?)? })
    }

    /// Notes what some of those that go refer to among them. `false` once that is known of all.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn link_dying(&mut self) -> Result<bool, MetadataError> {
        let rows = query(
            "SELECT d.path, p.refs FROM dying d JOIN paths p ON p.id = d.path WHERE d.scanned = 0 ORDER BY d.path LIMIT ?",
        )
        .bind(STEP)
        .fetch_all(&mut self.connection)
        .await?;
        let mut scanned = Vec::with_capacity(rows.len());
        let mut links = Vec::new();
        for row in &rows {
            let path: i64 = row.try_get(0)?;
            scanned.push(path);
            for hash in reference_hashes(row.try_get(1)?) {
                links.push((hash?, path));
            }
        }
        for batch in links.chunks(BATCH) {
            let mut query = QueryBuilder::new("WITH r (hash, referrer) AS (");
            query.push_values(batch, |mut row, (hash, referrer)| {
                row.push_bind(hash.0.to_vec()).push_bind(*referrer);
            });
            query.push(
                ") INSERT INTO dying_refs (referrer, reference) SELECT r.referrer, p.id FROM r
                 CROSS JOIN paths p CROSS JOIN dying d
                 WHERE d.path = p.id AND p.hash = r.hash AND p.hidden = 0 AND p.id <> r.referrer AND p.cache = ",
            );
            query.push_bind(self.cache.as_str()).push(" ON CONFLICT DO NOTHING");
            query.build().persistent(batch.len() == BATCH).execute(&mut self.connection).await?;
        }
        if scanned.is_empty() {
            query(
                "UPDATE dying SET referrers = (SELECT count(*) FROM dying_refs r WHERE r.reference = dying.path)",
            )
            .execute(&mut self.connection)
            .await?;
            return Ok(false);
        }
        let mut update = QueryBuilder::new("UPDATE dying SET scanned = 1 WHERE path IN (");
        list(&mut update, &scanned);
        update.push(")");
        update.build().persistent(false).execute(&mut self.connection).await?;
        Ok(true)
    }

    /// The next rows that go: nothing that is there refers to them any more. (In a cycle, which Nix never makes, any.)
    ///
    /// # Errors
    /// When the database fails.
    pub async fn next_dying(&mut self) -> Result<Vec<i64>, MetadataError> {
        Ok(query_scalar(
            "SELECT path FROM dying WHERE referrers = (SELECT min(referrers) FROM dying) ORDER BY path LIMIT ?",
        )
        .bind(STEP)
        .fetch_all(&mut self.connection)
        .await?)
    }

    /// Notes that rows are gone.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn note_gone(&mut self, paths: &[i64]) -> Result<(), MetadataError> {
        let mut update = QueryBuilder::new(
            "UPDATE dying SET referrers = referrers - (
                 SELECT count(*) FROM dying_refs r WHERE r.reference = dying.path AND r.referrer IN (",
        );
        list(&mut update, paths);
        update.push(")) WHERE path IN (SELECT reference FROM dying_refs WHERE referrer IN (");
        list(&mut update, paths);
        update.push("))");
        update.build().persistent(false).execute(&mut self.connection).await?;
        let mut delete = QueryBuilder::new("DELETE FROM dying WHERE path IN (");
        list(&mut delete, paths);
        delete.push(")");
        delete.build().persistent(false).execute(&mut self.connection).await?;
        Ok(())
    }

    /// Leaves rows alone, and all that they need.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn rescue(&mut self, paths: &[i64]) -> Result<(), MetadataError> {
        for batch in paths.chunks(BATCH) {
            let mut delete = QueryBuilder::new("WITH RECURSIVE kept (path) AS (");
            delete.push_values(batch, |mut row, path| {
                row.push_bind(*path);
            });
            delete.push(
                " UNION SELECT r.reference FROM dying_refs r JOIN kept k ON r.referrer = k.path)
                 DELETE FROM dying WHERE path IN (SELECT path FROM kept)",
            );
            delete.build().persistent(false).execute(&mut self.connection).await?;
        }
        Ok(())
    }

    /// How much is marked.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn extent(&mut self) -> Result<Extent, MetadataError> {
        let row =
            query("SELECT count(*), CAST(coalesce(sum(p.nar_size), 0) AS BIGINT) FROM live l JOIN paths p ON p.id = l.path")
                .fetch_one(&mut self.connection)
                .await?;
        Ok(Extent { paths: super::number(row.try_get(0)?)?, nar_bytes: super::number(row.try_get(1)?)? })
    }

    /// The bytes of the marked paths' NARs as they are sent.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn sent_bytes(&mut self) -> Result<u64, MetadataError> {
        let bytes: i64 = query_scalar(
            "SELECT CAST(coalesce(sum(n.file_size), 0) AS BIGINT) FROM nars n WHERE n.id IN (
                 SELECT p.nar FROM live l JOIN paths p ON p.id = l.path)",
        )
        .fetch_one(&mut self.connection)
        .await?;
        super::number(bytes)
    }

    /// The bytes of frames that only those that go need.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn dying_frames(&mut self) -> Result<u64, MetadataError> {
        query(
            "CREATE TEMP TABLE IF NOT EXISTS dying_nars AS SELECT DISTINCT p.nar AS nar FROM dying d
             JOIN paths p ON p.id = d.path WHERE p.nar IS NOT NULL AND NOT EXISTS (
                 SELECT 1 FROM paths q WHERE q.nar = p.nar AND q.id NOT IN (SELECT path FROM dying))",
        )
        .execute(&mut self.connection)
        .await?;
        let bytes: i64 = query_scalar(
            "SELECT CAST(coalesce(sum(c.frame_len), 0) AS BIGINT) FROM chunks c WHERE c.id IN (
                 SELECT r.chunk FROM nar_chunks r WHERE r.nar IN (SELECT nar FROM dying_nars))
             AND NOT EXISTS (SELECT 1 FROM nar_chunks s WHERE s.chunk = c.id
                 AND s.nar NOT IN (SELECT nar FROM dying_nars))",
        )
        .fetch_one(&mut self.connection)
        .await?;
        super::number(bytes)
    }

    /// Those that go, behind the row `after`.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn dying(&mut self, after: i64) -> Result<Vec<DyingPath>, MetadataError> {
        let rows = query(
            "SELECT p.id, p.hash, p.name, p.nar_size, p.dead_since FROM dying d JOIN paths p ON p.id = d.path
             WHERE p.id > ? ORDER BY p.id LIMIT ?",
        )
        .bind(after)
        .bind(STEP)
        .fetch_all(&mut self.connection)
        .await?;
        rows.iter()
            .map(|row| {
                Ok(DyingPath {
                    id: row.try_get("id")?,
                    path: path_of(row)?,
                    nar_size: super::number(row.try_get("nar_size")?)?,
                    dead_since: row.try_get("dead_since")?,
                })
            })
            .collect()
    }

    /// Why a path is kept: the way from it to a root, itself first, and what root that is. `None` where nothing keeps it.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn why_kept(
        &mut self,
        hash: &StorePathHash,
    ) -> Result<Option<(Vec<StorePath>, MarkedRoot)>, MetadataError> {
        let mut way = Vec::new();
        let mut next: Option<i64> = query_scalar(
            "SELECT l.path FROM live l JOIN paths p ON p.id = l.path WHERE p.hash = ? AND p.hidden = 0",
        )
        .bind(hash.0.to_vec())
        .fetch_optional(&mut self.connection)
        .await?;
        while let Some(path) = next {
            let row = query(
                "SELECT p.hash, p.name, l.via, t.kind, t.which FROM live l JOIN paths p ON p.id = l.path
                 LEFT JOIN roots t ON t.id = l.root WHERE l.path = ?",
            )
            .bind(path)
            .fetch_one(&mut self.connection)
            .await?;
            way.push(path_of(&row)?);
            if let Some(kind) = row.try_get::<Option<String>>("kind")? {
                return Ok(Some((way, MarkedRoot { kind, which: row.try_get("which")? })));
            }
            next = row.try_get("via")?;
        }
        Ok(None)
    }
}

/// The hashes in a column of references.
pub(super) fn reference_hashes(refs: &str) -> impl Iterator<Item = Result<StorePathHash, MetadataError>> {
    refs.split_ascii_whitespace().map(|reference| {
        reference
            .parse::<StorePath>()
            .map(|path| path.hash())
            .map_err(|_| MetadataError::Damaged("a path's reference cannot be read"))
    })
}
