//! Rows of paths.

use std::collections::HashMap;

use larder_protocol::{
    NarHash, StorePath, StorePathHash,
    api::{CacheName, PathInfo},
};

use super::{
    BATCH, Metadata, MetadataError, batches, blob,
    nars::Encoding,
    number,
    sql::{QueryBuilder, Row},
};
use crate::trust::{Rank, Standing};

/// A visible path.
#[derive(Debug, Clone)]
pub struct VisiblePath {
    /// Its row.
    pub id: i64,
    /// The path. (Who asked by its hash may have meant another name.)
    pub path: StorePath,
    /// The cache that has it.
    pub cache: String,
    /// The push that brought it.
    pub push: i64,
    /// By what it stands.
    pub standing: Standing,
    /// Its NAR.
    pub nar_hash: NarHash,
    /// The length of its NAR.
    pub nar_size: u64,
    /// The store paths that it refers to, as in its row.
    refs: String,
    /// Its content address.
    pub ca: Option<String>,
}

impl VisiblePath {
    /// What it refers to.
    ///
    /// # Errors
    /// When its row cannot be read.
    pub fn references(&self) -> Result<Vec<StorePath>, MetadataError> {
        let references = self.refs.split_ascii_whitespace().map(str::parse);
        references.collect::<Result<_, _>>().map_err(|_| MetadataError::Damaged(DAMAGED))
    }

    /// Whether it is what a push brings: the same path with the same contents and references.
    pub fn is(&self, info: &PathInfo) -> bool {
        self.path == info.path
            && self.nar_hash == info.nar_hash
            && self.nar_size == info.nar_size
            && self.refs == join(&info.references)
    }
}

/// A visible path with all that its narinfo says.
#[derive(Debug)]
pub struct PublishedPath {
    /// What was pushed.
    pub info: PathInfo,
    /// The digest of its `.nar.zst`.
    pub encoding: Encoding,
    /// The length of its `.nar.zst`.
    pub file_size: u64,
}

/// Begins a query for what readers see of a cache; more conditions may follow.
const VISIBLE: &str = "FROM paths p JOIN pushes u ON u.id = p.push AND u.state = 'committed'
     WHERE p.hidden = 0 AND p.cache = ";

const DAMAGED: &str = "a path's row cannot be read";

/// The path of a row with its `hash` and `name`.
pub(super) fn path_of(row: &Row) -> Result<StorePath, MetadataError> {
    StorePath::new(StorePathHash(blob(row.try_get("hash")?)?), row.try_get("name")?)
        .map_err(|_| MetadataError::Damaged(DAMAGED))
}

pub(super) fn path_info(row: &Row) -> Result<PathInfo, MetadataError> {
    let damaged = |_| MetadataError::Damaged(DAMAGED);
    let list = |column| Ok::<_, sqlx::Error>(row.try_get::<&str>(column)?.split_ascii_whitespace());
    Ok(PathInfo {
        path: path_of(row)?,
        nar_hash: NarHash(blob(row.try_get("nar_hash")?)?),
        nar_size: number(row.try_get("nar_size")?)?,
        references: list("refs")?.map(str::parse).collect::<Result<_, _>>().map_err(damaged)?,
        deriver: row.try_get::<Option<&str>>("deriver")?.map(str::parse).transpose().map_err(damaged)?,
        ca: row.try_get("ca")?,
        signatures: list("signatures")?.filter_map(|signature| signature.parse().ok()).collect(),
    })
}

/// By what a path stands, from its row.
pub(super) fn standing(rank: i64, ordered: bool) -> Result<Standing, MetadataError> {
    let rank = Rank::stored(rank).map_err(|_| MetadataError::Damaged(DAMAGED))?;
    Ok(Standing { rank, ordered })
}

/// A list as one column, blanks between.
pub(super) fn join(items: &[impl ToString]) -> String {
    items.iter().map(ToString::to_string).collect::<Vec<_>>().join(" ")
}

impl Metadata {
    /// Those of `hashes` that readers of these caches see, each as in the first that has it.
    pub async fn visible_paths(
        &self,
        caches: &[&CacheName],
        hashes: &[StorePathHash],
    ) -> Result<HashMap<StorePathHash, VisiblePath>, MetadataError> {
        let mut visible = HashMap::with_capacity(hashes.len());
        for (cache, batch) in batches(caches, hashes) {
            let mut query = QueryBuilder::new(
                "SELECT p.hash, p.name, p.id, p.cache, p.push, p.rank, p.ordered, p.nar_hash, p.nar_size, p.refs, p.ca ",
            );
            query.push(VISIBLE).push_bind(cache.as_str()).push(" AND p.hash IN (");
            let mut list = query.separated(", ");
            for hash in batch {
                list.push_bind(&hash.0[..]);
            }
            query.push(")");
            for row in query.build().persistent(batch.len() == BATCH).fetch_all(self.reader()).await? {
                let path = path_of(&row)?;
                let found = VisiblePath {
                    id: row.try_get("id")?,
                    cache: row.try_get("cache")?,
                    push: row.try_get("push")?,
                    standing: standing(row.try_get("rank")?, row.try_get("ordered")?)?,
                    nar_hash: NarHash(blob(row.try_get("nar_hash")?)?),
                    nar_size: number(row.try_get("nar_size")?)?,
                    refs: row.try_get("refs")?,
                    ca: row.try_get("ca")?,
                    path,
                };
                visible.insert(found.path.hash(), found);
            }
        }
        Ok(visible)
    }

    /// What the narinfo of a path says, if readers of the cache see it.
    pub async fn published_path(
        &self,
        cache: &CacheName,
        hash: &StorePathHash,
    ) -> Result<Option<PublishedPath>, MetadataError> {
        let mut query = QueryBuilder::new(
            "SELECT p.hash, p.name, p.nar_hash, p.nar_size, p.refs, p.deriver, p.ca, p.signatures,
             n.encoding, n.file_size
             FROM paths p JOIN pushes u ON u.id = p.push AND u.state = 'committed' JOIN nars n ON n.id = p.nar
             WHERE p.hidden = 0 AND p.cache = ",
        );
        query.push_bind(cache.as_str()).push(" AND p.hash = ").push_bind(&hash.0[..]);
        let row = query.build().fetch_optional(self.reader()).await?;
        row.map(|row| {
            Ok(PublishedPath {
                info: path_info(&row)?,
                encoding: StorePathHash(blob(row.try_get("encoding")?)?),
                file_size: number(row.try_get("file_size")?)?,
            })
        })
        .transpose()
    }
}
