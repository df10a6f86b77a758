//! Rows of samples: what the store held and what was read, over time.

use serde::Serialize;

use super::{
    Metadata, MetadataError, number,
    sql::{QueryBuilder, Row, query, query_scalar},
};

/// What was counted of readers.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Traffic {
    /// Narinfos that were asked for and are there.
    pub hits: u64,
    /// Narinfos that were asked for and are not there.
    pub misses: u64,
    /// NARs that were asked for and sent, whole or a range.
    pub reads: u64,
    /// The bytes of narinfos and NARs that were sent.
    pub bytes_served: u64,
}

impl std::ops::AddAssign for Traffic {
    fn add_assign(&mut self, other: Self) {
        self.hits += other.hits;
        self.misses += other.misses;
        self.reads += other.reads;
        self.bytes_served += other.bytes_served;
    }
}

/// What was there, at one moment.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Holdings {
    /// Paths.
    pub paths: u64,
    /// Closures that runs and pins keep.
    pub closures: u64,
    /// NARs, each counted once.
    pub nars: u64,
    /// The bytes of the paths' NARs.
    pub raw_bytes: u64,
    /// The same, compressed, if no chunk were shared.
    pub packed_bytes: u64,
    /// Chunks.
    pub chunks: Option<u64>,
    /// Objects.
    pub objects: Option<u64>,
    /// What is really stored: the bytes of the objects; of a cache with chunks of its own, the bytes of its frames.
    pub stored_bytes: Option<u64>,
    /// What need not be stored because NARs and chunks are shared.
    pub shared_bytes: Option<u64>,
    /// Roots: runs that keep what they pushed.
    pub runs: u64,
    /// Roots: pins.
    pub pins: u64,
    /// Roots: pushes under way.
    pub leases: u64,
    /// Roots: pushes within `keep_days`.
    pub recent_pushes: u64,
    /// Roots: paths read within `keep_days`.
    pub recent_reads: u64,
}

/// A sample.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Sample {
    /// The first second of the span that it stands for.
    pub taken_at: i64,
    /// How long that is, in seconds.
    pub span: i64,
    /// The cache, or nothing: all of them.
    pub cache: String,
    /// Whose jobs brought what is counted: a repository, `-` for people, nothing for all of them.
    pub repository: String,
    /// What was there when it was looked at last within the span.
    #[serde(flatten)]
    pub held: Holdings,
    /// What was counted within the span.
    #[serde(flatten)]
    pub traffic: Traffic,
}

const COLUMNS: &str = "taken_at, span, cache, repository, paths, closures, nars, raw_bytes, packed_bytes, chunks, objects,
    stored_bytes, shared_bytes, runs, pins, leases, recent_pushes, recent_reads, hits, misses, reads, bytes_served";

/// How many rows one statement writes.
const STEP: usize = 500;

impl Sample {
    /// What a spreadsheet calls its columns.
    pub const NAMES: &str = COLUMNS;

    /// Its numbers, in the order of the columns behind `repository`.
    pub fn numbers(&self) -> [Option<u64>; 18] {
        let (held, traffic) = (&self.held, &self.traffic);
        [
            Some(held.paths),
            Some(held.closures),
            Some(held.nars),
            Some(held.raw_bytes),
            Some(held.packed_bytes),
            held.chunks,
            held.objects,
            held.stored_bytes,
            held.shared_bytes,
            Some(held.runs),
            Some(held.pins),
            Some(held.leases),
            Some(held.recent_pushes),
            Some(held.recent_reads),
            Some(traffic.hits),
            Some(traffic.misses),
            Some(traffic.reads),
            Some(traffic.bytes_served),
        ]
    }

    fn of_row(row: &Row) -> Result<Self, MetadataError> {
        let of = |column| number(row.try_get(column)?);
        let maybe = |column| row.try_get::<Option<i64>>(column)?.map(number).transpose();
        Ok(Self {
            taken_at: row.try_get("taken_at")?,
            span: row.try_get("span")?,
            cache: row.try_get("cache")?,
            repository: row.try_get("repository")?,
            held: Holdings {
                paths: of("paths")?,
                closures: of("closures")?,
                nars: of("nars")?,
                raw_bytes: of("raw_bytes")?,
                packed_bytes: of("packed_bytes")?,
                chunks: maybe("chunks")?,
                objects: maybe("objects")?,
                stored_bytes: maybe("stored_bytes")?,
                shared_bytes: maybe("shared_bytes")?,
                runs: of("runs")?,
                pins: of("pins")?,
                leases: of("leases")?,
                recent_pushes: of("recent_pushes")?,
                recent_reads: of("recent_reads")?,
            },
            traffic: Traffic {
                hits: of("hits")?,
                misses: of("misses")?,
                reads: of("reads")?,
                bytes_served: of("bytes_served")?,
            },
        })
    }
}

impl Metadata {
    /// Writes samples. What was counted is added where there is one of the same span already.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn write_samples(&self, samples: &[Sample]) -> Result<(), MetadataError> {
        for batch in samples.chunks(STEP) {
            let mut transaction = self.write().await?;
            insert(batch).build().persistent(false).execute(&mut transaction).await?;
            transaction.commit().await?;
        }
        Ok(())
    }

    /// The samples of the whole store, of a cache or of a repository since a moment, the oldest first.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn samples(
        &self,
        cache: &str,
        repository: &str,
        since: i64,
    ) -> Result<Vec<Sample>, MetadataError> {
        let mut query = QueryBuilder::new("SELECT ");
        query.push(COLUMNS).push(" FROM samples WHERE cache = ").push_bind(cache);
        query.push(" AND repository = ").push_bind(repository);
        query.push(" AND taken_at + span > ").push_bind(since).push(" ORDER BY taken_at");
        query.build().fetch_all(self.reader()).await?.iter().map(Sample::of_row).collect()
    }

    /// Some of the samples of a cache (or, without one, of all) since a moment: of repositories too. They come in the
    /// order of cache, repository and time, behind the last one that is known.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn all_samples(
        &self,
        cache: Option<&str>,
        since: i64,
        after: Option<&Sample>,
    ) -> Result<Vec<Sample>, MetadataError> {
        let mut query = QueryBuilder::new("SELECT ");
        query.push(COLUMNS).push(" FROM samples WHERE taken_at + span > ").push_bind(since);
        if let Some(cache) = cache {
            query.push(" AND cache = ").push_bind(cache);
        }
        if let Some(Sample { cache, repository, taken_at, .. }) = after {
            query.push(" AND (cache, repository, taken_at) > (").push_bind(cache).push(", ");
            query.push_bind(repository).push(", ").push_bind(taken_at).push(")");
        }
        query.push(" ORDER BY cache, repository, taken_at LIMIT 1000");
        query.build().fetch_all(self.reader()).await?.iter().map(Sample::of_row).collect()
    }

    /// When the newest sample was taken, and the newest of each repository then.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn newest_samples(&self) -> Result<Vec<Sample>, MetadataError> {
        let mut query = QueryBuilder::new("SELECT ");
        query.push(COLUMNS).push(
            " FROM samples WHERE (span, taken_at) IN (
                 SELECT span, taken_at FROM samples WHERE cache = '' AND repository = '' ORDER BY taken_at DESC LIMIT 1)
             ORDER BY cache, repository",
        );
        query.build().fetch_all(self.reader()).await?.iter().map(Sample::of_row).collect()
    }

    /// The oldest samples of a span that ended before `before`: those of one stretch of `into` seconds, in the order of
    /// cache, repository and time, at most 500. None if there is nothing to do.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn samples_to_thin(
        &self,
        span: i64,
        into: i64,
        before: i64,
    ) -> Result<Vec<Sample>, MetadataError> {
        let oldest: Option<i64> = query_scalar("SELECT min(taken_at) FROM samples WHERE span = ?")
            .bind(span)
            .fetch_one(self.reader())
            .await?;
        let Some(start) = oldest.map(|oldest| oldest - oldest.rem_euclid(into)) else {
            return Ok(Vec::new());
        };
        if start + into > before {
            return Ok(Vec::new());
        }
        let mut query = QueryBuilder::new("SELECT ");
        query.push(COLUMNS).push(" FROM samples WHERE span = ").push_bind(span);
        query.push(" AND taken_at >= ").push_bind(start).push(" AND taken_at < ").push_bind(start + into);
        query.push(" ORDER BY cache, repository, taken_at LIMIT ").push_bind(STEP as i64);
        query.build().fetch_all(self.reader()).await?.iter().map(Sample::of_row).collect()
    }

    /// Puts samples in the place of those, of one stretch of time, that they were made of. Those are at most 500.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn replace_samples(&self, old: &[Sample], new: &[Sample]) -> Result<(), MetadataError> {
        let mut transaction = self.write().await?;
        if !old.is_empty() {
            let mut delete =
                QueryBuilder::new("DELETE FROM samples WHERE (cache, repository, taken_at) IN (");
            delete.push_values(old, |mut row, sample| {
                row.push_bind(&sample.cache).push_bind(&sample.repository).push_bind(sample.taken_at);
            });
            delete.push(")").build().persistent(false).execute(&mut transaction).await?;
        }
        if !new.is_empty() {
            insert(new).build().persistent(false).execute(&mut transaction).await?;
        }
        transaction.commit().await?;
        Ok(())
    }

    /// Forgets some samples that began before `before`. Tells how many; 0 when all is done.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn forget_samples(&self, before: i64) -> Result<u64, MetadataError> {
        let mut transaction = self.write().await?;
        let gone = query(
            "DELETE FROM samples WHERE (cache, repository, taken_at) IN (
                 SELECT cache, repository, taken_at FROM samples WHERE taken_at < ? LIMIT 1000)",
        )
        .bind(before)
        .execute(&mut transaction)
        .await?
        .rows_affected();
        transaction.commit().await?;
        Ok(gone)
    }
}

/// The row of a longer span takes what was counted within the shorter ones.
fn insert(samples: &[Sample]) -> QueryBuilder {
    let mut insert = QueryBuilder::new("INSERT INTO samples (");
    insert.push(COLUMNS).push(") ");
    insert.push_values(samples, |mut row, sample| {
        row.push_bind(sample.taken_at).push_bind(sample.span);
        row.push_bind(sample.cache.clone()).push_bind(sample.repository.clone());
        for number in sample.numbers() {
            row.push_bind(number.map(|number| i64::try_from(number).unwrap_or(i64::MAX)));
        }
    });
    insert.push(" ON CONFLICT (cache, repository, taken_at) DO UPDATE SET ");
    let mut set = insert.separated(", ");
    for column in COLUMNS.split(',').map(str::trim).skip(4) {
        let counted = matches!(column, "hits" | "misses" | "reads" | "bytes_served");
        let before = if counted { format!("samples.{column} + ") } else { String::new() };
        set.push(format!("{column} = {before}excluded.{column}"));
    }
    insert
}
