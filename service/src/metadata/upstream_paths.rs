//! Rows of what upstreams were seen to have signed.

use std::collections::{HashMap, HashSet};

use larder_protocol::{
    NarHash, StorePath, StorePathHash,
    api::{PushId, Upstream},
};

use super::{
    BATCH, Metadata, MetadataError, Namespace, blob,
    paths::path_of,
    sql::{QueryBuilder, query},
};

/// Among whom it is remembered what an upstream said: how fast the service answers, and which references it takes, tells
/// what was asked before.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Among {
    /// Those who push to caches that share chunks.
    Namespace(Namespace),
    /// This push alone, which may know nothing of others.
    Push(PushId),
}

impl Among {
    /// What the rows have in the place of the upstream: also its keys, since what it was seen to have is what they have
    /// signed.
    fn key(&self, upstream: &Upstream) -> String {
        let mut keys: Vec<String> = upstream.public_keys.iter().map(ToString::to_string).collect();
        keys.sort_unstable();
        keys.dedup();
        let keys = blake3::hash(keys.join(" ").as_bytes()).to_hex();
        let upstream = format!("{} by {}", upstream.url, &keys[..32]);
        match self {
            Self::Namespace(Namespace::PUBLIC) => upstream,
            Self::Namespace(Namespace(number)) => format!("{upstream} cache {number}"),
            Self::Push(name) => format!("{upstream} push {name}"),
        }
    }
}

/// What an upstream has signed of a path.
#[derive(Debug, Clone)]
pub struct UpstreamPath {
    /// The path.
    pub path: StorePath,
    /// Its NAR.
    pub nar_hash: NarHash,
    /// The SHA-256 of what is signed.
    pub statement: [u8; 32],
}

impl Metadata {
    /// What an upstream was seen to have of `hashes`, since a moment.
    pub async fn seen_upstream(
        &self,
        among: Among,
        upstream: &Upstream,
        hashes: &[StorePathHash],
        since: i64,
    ) -> Result<HashMap<StorePathHash, UpstreamPath>, MetadataError> {
        let mut seen = HashMap::new();
        for batch in hashes.chunks(BATCH) {
            let mut query = QueryBuilder::new(
                "SELECT hash, name, nar_hash, statement FROM upstream_paths WHERE upstream = ",
            );
            query
                .push_bind(among.key(upstream))
                .push(" AND seen_at >= ")
                .push_bind(since)
                .push(" AND hash IN (");
            let mut list = query.separated(", ");
            for hash in batch {
                list.push_bind(&hash.0[..]);
            }
            query.push(")");
            for row in query.build().persistent(false).fetch_all(self.reader()).await? {
                let found = UpstreamPath {
                    path: path_of(&row)?,
                    nar_hash: NarHash(blob(row.try_get("nar_hash")?)?),
                    statement: blob(row.try_get("statement")?)?,
                };
                seen.insert(found.path.hash(), found);
            }
        }
        Ok(seen)
    }

    /// Those of `paths` that one of `upstreams` was seen to have, since a moment.
    pub async fn at_upstreams(
        &self,
        among: Among,
        upstreams: impl Iterator<Item = &Upstream>,
        paths: &HashSet<StorePath>,
        since: i64,
    ) -> Result<HashSet<StorePath>, MetadataError> {
        let hashes: Vec<StorePathHash> = paths.iter().map(StorePath::hash).collect();
        let mut there = HashSet::new();
        for upstream in upstreams {
            let seen = self.seen_upstream(among, upstream, &hashes, since).await?;
            there.extend(seen.into_values().map(|found| found.path).filter(|path| paths.contains(path)));
        }
        Ok(there)
    }

    /// Notes what an upstream was seen to have, and forgets what was seen before `forget`.
    pub async fn note_upstream(
        &self,
        among: Among,
        upstream: &Upstream,
        paths: &[UpstreamPath],
        now: i64,
        forget: i64,
    ) -> Result<(), MetadataError> {
        let key = &among.key(upstream);
        for batch in paths.chunks(BATCH) {
            let mut transaction = self.write().await?;
            let mut insert = QueryBuilder::new(
                "INSERT INTO upstream_paths (upstream, hash, name, nar_hash, statement, seen_at) ",
            );
            insert.push_values(batch, |mut row, UpstreamPath { path, nar_hash, statement }| {
                row.push_bind(key)
                    .push_bind(path.hash().0.to_vec())
                    .push_bind(path.name())
                    .push_bind(&nar_hash.0[..])
                    .push_bind(&statement[..])
                    .push_bind(now);
            });
            insert.push(
                " ON CONFLICT (upstream, hash) DO UPDATE SET name = excluded.name, nar_hash = excluded.nar_hash,
                     statement = excluded.statement, seen_at = excluded.seen_at",
            );
            insert.build().persistent(false).execute(&mut transaction).await?;
            query(
                "DELETE FROM upstream_paths WHERE (upstream, hash) IN (
                     SELECT upstream, hash FROM upstream_paths WHERE seen_at < ? LIMIT 1000)",
            )
            .bind(forget)
            .execute(&mut transaction)
            .await?;
            transaction.commit().await?;
        }
        Ok(())
    }

    /// Forgets what an upstream said to one push alone.
    pub async fn forget_upstream(&self, push: PushId, upstream: &Upstream) -> Result<(), MetadataError> {
        loop {
            let mut transaction = self.write().await?;
            let forgotten = query(
                "DELETE FROM upstream_paths WHERE (upstream, hash) IN (
                     SELECT upstream, hash FROM upstream_paths WHERE upstream = ? LIMIT 1000)",
            )
            .bind(Among::Push(push).key(upstream))
            .execute(&mut transaction)
            .await?;
            transaction.commit().await?;
            if forgotten.rows_affected() < BATCH as u64 {
                return Ok(());
            }
        }
    }
}
