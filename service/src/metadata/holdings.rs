//! What is there, counted: for samples. All of it only reads.

use std::collections::HashMap;

use larder_protocol::{StorePathHash, api::CacheName};

use super::{
    Metadata, MetadataError, Namespace, ReadOf, blob, number,
    sql::{QueryBuilder, query, query_scalar},
};

/// How many paths one statement asks for.
const STEP: usize = 500;

/// A repository as its issuer numbers it: the name may change, and who has it.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RepositoryKey {
    /// Whose number it is.
    pub issuer: String,
    /// The number.
    pub repository_id: String,
}

/// What jobs of one repository, or people, brought to a cache.
#[derive(Debug)]
pub struct Brought {
    /// The cache, which may be a pull request's.
    pub cache: String,
    /// The repository; none if people brought it.
    pub by: Option<RepositoryKey>,
    /// Paths.
    pub paths: u64,
    /// Their NARs, each counted once.
    pub nars: u64,
    /// The bytes of the paths' NARs.
    pub raw_bytes: u64,
    /// The same, compressed.
    pub packed_bytes: u64,
}

/// What lies in a namespace.
#[derive(Debug, Clone, Copy, Default)]
pub struct Stored {
    /// NARs.
    pub nars: u64,
    /// Their bytes, compressed.
    pub packed_bytes: u64,
    /// Chunks.
    pub chunks: u64,
    /// The bytes of their frames.
    pub chunk_bytes: u64,
}

impl Metadata {
    /// What was brought to each cache, by whom.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn brought(&self) -> Result<Vec<Brought>, MetadataError> {
        let rows = query(
            "SELECT u.cache, r.issuer, r.repository_id, count(*), count(DISTINCT p.nar), CAST(sum(p.nar_size) AS BIGINT), CAST(sum(n.file_size) AS BIGINT)
             FROM paths p JOIN pushes u ON u.id = p.push AND u.state = 'committed' JOIN nars n ON n.id = p.nar
             LEFT JOIN runs r ON r.id = u.run
             WHERE p.hidden = 0 GROUP BY u.cache, r.issuer, r.repository_id",
        )
        .fetch_all(self.reader())
        .await?;
        rows.iter()
            .map(|row| {
                let by = match row.try_get(1)? {
                    Some(issuer) => Some(RepositoryKey { issuer, repository_id: row.try_get(2)? }),
                    None => None,
                };
                Ok(Brought {
                    cache: row.try_get(0)?,
                    by,
                    paths: number(row.try_get(3)?)?,
                    nars: number(row.try_get(4)?)?,
                    raw_bytes: number(row.try_get(5)?)?,
                    packed_bytes: number(row.try_get(6)?)?,
                })
            })
            .collect()
    }

    /// How many NARs each cache has, each counted once.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn nars_of_caches(&self) -> Result<HashMap<String, u64>, MetadataError> {
        let rows = query(
            "SELECT u.cache, count(DISTINCT p.nar) FROM paths p JOIN pushes u ON u.id = p.push AND u.state = 'committed'
             WHERE p.hidden = 0 GROUP BY u.cache",
        )
        .fetch_all(self.reader())
        .await?;
        rows.iter().map(|row| Ok((row.try_get(0)?, number(row.try_get(1)?)?))).collect()
    }

    /// What lies in each namespace.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn stored(&self) -> Result<HashMap<Namespace, Stored>, MetadataError> {
        let mut stored: HashMap<Namespace, Stored> = HashMap::new();
        let rows = query("SELECT namespace, chunks, bytes FROM chunk_totals").fetch_all(self.reader());
        for row in rows.await? {
            let of = stored.entry(Namespace(row.try_get(0)?)).or_default();
            (of.chunks, of.chunk_bytes) = (number(row.try_get(1)?)?, number(row.try_get(2)?)?);
        }
        let rows = query(
            "SELECT namespace, count(*), CAST(sum(file_size) AS BIGINT) FROM nars WHERE complete = 1 GROUP BY namespace",
        );
        for row in rows.fetch_all(self.reader()).await? {
            let of = stored.entry(Namespace(row.try_get(0)?)).or_default();
            (of.nars, of.packed_bytes) = (number(row.try_get(1)?)?, number(row.try_get(2)?)?);
        }
        Ok(stored)
    }

    /// Chunks and the bytes of their frames, counted one by one.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn count_chunks(&self) -> Result<(u64, u64), MetadataError> {
        let row = query("SELECT count(*), CAST(coalesce(sum(frame_len), 0) AS BIGINT) FROM chunks");
        let row = row.fetch_one(self.reader()).await?;
        Ok((number(row.try_get(0)?)?, number(row.try_get(1)?)?))
    }

    /// How many objects there are, and their bytes.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn stored_objects(&self) -> Result<(u64, u64), MetadataError> {
        let row = query(
            "SELECT count(*), CAST(coalesce(sum(size), 0) AS BIGINT) FROM objects WHERE state = 'stored'",
        );
        let row = row.fetch_one(self.reader()).await?;
        Ok((number(row.try_get(0)?)?, number(row.try_get(1)?)?))
    }

    /// How many pushes are open in each cache.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn open_pushes(&self) -> Result<HashMap<String, u64>, MetadataError> {
        let rows = query(
            "SELECT cache, count(*) FROM pushes WHERE state = 'open' AND abandoned_at IS NULL GROUP BY cache",
        );
        let rows = rows.fetch_all(self.reader()).await?;
        rows.iter().map(|row| Ok((row.try_get(0)?, number(row.try_get(1)?)?))).collect()
    }

    /// How many pushes to a cache were committed, and how many of its paths were read, since then.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn recent(&self, cache: &CacheName, since: i64) -> Result<(u64, u64), MetadataError> {
        let pushes = query_scalar("SELECT count(*) FROM pushes WHERE cache = ? AND committed_at > ?");
        let reads = query_scalar("SELECT count(*) FROM paths WHERE cache = ? AND read_at > ?");
        let pushes = pushes.bind(cache.as_str()).bind(since).fetch_one(self.reader()).await?;
        let reads = reads.bind(cache.as_str()).bind(since).fetch_one(self.reader()).await?;
        Ok((number(pushes)?, number(reads)?))
    }

    /// What the runs of a cache want kept, run by run.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn roots_of_runs(&self, cache: &CacheName) -> Result<Vec<(i64, StorePathHash)>, MetadataError> {
        let rows = query(
            "SELECT u.run, t.hash FROM pushes u JOIN push_roots t ON t.push = u.id
             WHERE u.cache = ? AND u.state = 'committed' AND u.dropped_at IS NULL AND u.run IS NOT NULL",
        );
        let rows = rows.bind(cache.as_str()).fetch_all(self.reader()).await?;
        rows.iter().map(|row| Ok((row.try_get(0)?, StorePathHash(blob(row.try_get(1)?)?)))).collect()
    }

    /// What repositories are called now.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn repository_names(&self) -> Result<HashMap<RepositoryKey, String>, MetadataError> {
        let rows = query(
            "SELECT issuer, repository_id, repository FROM runs
             WHERE id IN (SELECT max(id) FROM runs GROUP BY issuer, repository_id)",
        );
        let rows = rows.fetch_all(self.reader()).await?;
        rows.iter()
            .map(|row| {
                let key = RepositoryKey { issuer: row.try_get(0)?, repository_id: row.try_get(1)? };
                Ok((key, row.try_get(2)?))
            })
            .collect()
    }

    /// Whose jobs brought what was read, in the order asked; `None` for what is gone. (A NAR that several brought counts
    /// for the first.)
    ///
    /// # Errors
    /// When the database fails.
    pub async fn brought_by(
        &self,
        cache: &CacheName,
        read: ReadOf<'_>,
    ) -> Result<Vec<Option<Option<RepositoryKey>>>, MetadataError> {
        let (column, keys): (_, Vec<Vec<u8>>) = match read {
            ReadOf::Paths(paths) => ("hash", paths.iter().map(|hash| hash.0.to_vec()).collect()),
            ReadOf::Nars(nars) => ("nar", nars.iter().map(|nar| nar.to_be_bytes().to_vec()).collect()),
        };
        let mut found: HashMap<Vec<u8>, Option<RepositoryKey>> = HashMap::new();
        for start in (0..keys.len()).step_by(STEP) {
            let end = keys.len().min(start + STEP);
            let mut query = QueryBuilder::new("SELECT p.");
            query.push(column).push(
                ", r.issuer, r.repository_id FROM paths p
                 JOIN pushes u ON u.id = p.push AND u.state = 'committed' LEFT JOIN runs r ON r.id = u.run
                 WHERE p.hidden = 0 AND p.cache = ",
            );
            query.push_bind(cache.as_str()).push(" AND p.").push(column).push(" IN (");
            let mut list = query.separated(", ");
            match read {
                ReadOf::Paths(paths) => paths[start..end].iter().for_each(|hash| {
                    list.push_bind(hash.0.to_vec());
                }),
                ReadOf::Nars(nars) => nars[start..end].iter().for_each(|nar| {
                    list.push_bind(*nar);
                }),
            }
            query.push(") ORDER BY p.id DESC");
            for row in query.build().persistent(false).fetch_all(self.reader()).await? {
                let key = match read {
                    ReadOf::Paths(_) => row.try_get(0)?,
                    ReadOf::Nars(_) => row.try_get::<i64>(0)?.to_be_bytes().to_vec(),
                };
                let by = match row.try_get(1)? {
                    Some(issuer) => Some(RepositoryKey { issuer, repository_id: row.try_get(2)? }),
                    None => None,
                };
                found.insert(key, by);
            }
        }
        Ok(keys.iter().map(|key| found.get(key).cloned()).collect())
    }
}
