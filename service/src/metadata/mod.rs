//! The only SQL: what the service knows of caches, pushes, paths, NARs, chunks and objects.
//!
//! SQLite in WAL mode: one writer, several readers. A transaction that writes begins with the lock
//! (`BEGIN IMMEDIATE`), so that it never fails in its middle for want of one.

pub(crate) mod audit;
mod budget;
mod chunks;
mod claims;
mod compaction;
mod concluded;
mod deliveries;
mod divergences;
mod export;
mod failed_jobs;
mod gone;
mod holders;
mod holdings;
mod isolated;
mod jobs;
mod manifests;
mod marks;
mod mirror;
mod missed;
mod names;
mod namespaces;
mod nars;
mod objects;
mod path_filter;
mod paths;
mod pins;
mod prefetches;
mod provenance;
mod pushes;
mod reads;
mod rebuilding;
mod records;
mod releases;
mod reports;
mod roots;
mod runs;
mod samples;
mod sequences;
mod sweeping;
mod sweeps;
pub mod tokens;
mod upstream_paths;
mod verification;
mod verifications;
mod withdrawing;

use std::{
    path::Path,
    sync::{Arc, OnceLock},
    time::Duration,
};

use sqlx::{
    Connection as _, Sqlite, SqlitePool, Transaction,
    migrate::Migrator,
    sqlite::{SqliteConnectOptions, SqliteJournalMode, SqlitePoolOptions, SqliteSynchronous},
};

pub use audit::{AuditFilter, AuditRow};
pub use budget::{RankedPath, Ranking};
pub use chunks::{Namespace, StoredChunk};
pub use compaction::{Holding, MovedFrame, MovedRecipe, PlacedFrame, UsedObject};
pub use concluded::{ConcludedRun, RunsOf};
pub use divergences::{DivergenceFilter, NewDivergence, NotedDivergence, Outcome};
pub use export::ExportError;
pub use gone::GonePath;
pub use holders::HeldPath;
pub use holdings::{Brought, RepositoryKey, Stored};
pub use isolated::{IsolatedCache, IsolatedOutcome, OpenIsolated, WantedIsolated};
pub(crate) use manifests::{ManifestsOf, NewManifest, Told, WantedBy};
pub use marks::{DyingPath, Extent, MarkedRoot, Marks};
pub use mirror::StoredPath;
pub(crate) use missed::{AskedFor, Unread, WatchedHook};
pub use names::{Binding, NameRow, NamesOf};
pub use namespaces::Settled;
pub use nars::{Encoding, StoredNar, VerifiedNar};
pub use objects::ObjectId;
pub use paths::{PublishedPath, VisiblePath};
pub use pins::{NewPin, PinRow};
pub(crate) use prefetches::{AskedPrefetch, CausedPrefetch, Reached};
pub use provenance::PushedPath;
pub use pushes::{CommitOutcome, FoundPush, FullOf, NewPush, OpenOutcome, Staged};
pub use reads::ReadOf;
pub use releases::PINNED_BY;
pub(crate) use reports::{EndedPrefetch, Report};
pub use roots::{RootsOf, Worth};
pub use runs::{PushedRun, PushingRun};
pub use samples::{Holdings, Sample, Traffic};
pub use sweeping::{Deleted, Removed};
pub use sweeps::AskedSweep;
pub use upstream_paths::{Among, UpstreamPath};
pub use verification::{FrameRow, NarRow, ObjectRow, PathRow, RecordRow};
pub use verifications::{AskedVerification, ScrubPosition};
pub use withdrawing::{WaitingPath, Withdrawn};

use path_filter::PathFilter;

static MIGRATIONS: Migrator = sqlx::migrate!("migrations/sqlite");

/// How many rows one statement may write or ask for.
pub(crate) const BATCH: usize = 1000;

/// How many KiB of the database's pages a connection keeps in memory: the one that writes,
const WRITER_CACHE: u32 = 16 << 10;
/// and each that reads. It forgets them whenever something was written; the system's own cache has them then.
const READER_CACHE: u32 = 4 << 10;

/// The database failed, or could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum MetadataError {
    /// A query failed.
    #[error("the database failed: {0}")]
    Database(#[from] sqlx::Error),
    /// The schema could not be brought up to date.
    #[error("the database's schema could not be brought up to date: {0}")]
    Migration(#[from] sqlx::migrate::MigrateError),
    /// A row holds what it cannot hold.
    #[error("the database is damaged: {0}")]
    Damaged(&'static str),
    /// What rows were to be added to, or what they rely on, has been removed meanwhile.
    #[error("what this belongs to has been removed meanwhile")]
    Gone,
}

impl MetadataError {
    /// Whether what rows were to be added to, or named, has been removed meanwhile.
    pub fn is_gone(&self) -> bool {
        match self {
            Self::Gone => true,
            Self::Database(error) => {
                error.as_database_error().is_some_and(|error| error.is_foreign_key_violation())
            }
            _ => false,
        }
    }

    /// Whether the disk is full.
    pub fn is_full(&self) -> bool {
        /// `SQLITE_FULL`; the system's own code is not kept.
        const FULL: &str = "13";
        matches!(self, Self::Database(sqlx::Error::Database(error)) if error.code().as_deref() == Some(FULL))
    }
}

/// The database.
#[derive(Clone)]
pub struct Metadata {
    reader: SqlitePool,
    writer: SqlitePool,
    /// For connections of their own that only read.
    reading: SqliteConnectOptions,
    paths: Arc<OnceLock<PathFilter>>,
}

impl Metadata {
    /// Opens the database at `path`, makes it if there is none, and brings its schema up to date.
    ///
    /// # Errors
    /// When the file cannot be opened, is no database, or is of a newer Larder.
    pub async fn open(path: &Path) -> Result<Self, MetadataError> {
        let options = SqliteConnectOptions::new()
            .filename(path)
            .create_if_missing(true)
            .journal_mode(SqliteJournalMode::Wal)
            .synchronous(SqliteSynchronous::Full)
            .foreign_keys(true)
            .busy_timeout(Duration::from_secs(30))
            // And no more: a file that is mapped counts as memory once for each connection, and kills the process where
            // it cannot be read.
            .pragma("cache_size", format!("-{WRITER_CACHE}"));
        let writer = SqlitePoolOptions::new()
            .max_connections(1)
            .acquire_timeout(Duration::from_secs(30))
            // When the disk is full SQLite rolls back by itself, and sqlx, which does not see that, takes the
            // connection for one in a transaction for ever after.
            .before_acquire(|connection, _| Box::pin(async { Ok(!connection.is_in_transaction()) }))
            .connect_with(options.clone())
            .await?;
        MIGRATIONS.run(&writer).await?;
        let reading = options.read_only(true).pragma("cache_size", format!("-{READER_CACHE}"));
        let reader = SqlitePoolOptions::new()
            .max_connections(4)
            .acquire_timeout(Duration::from_secs(10))
            .connect_with(reading.clone())
            .await?;
        Ok(Self { reader, writer, reading, paths: Arc::default() })
    }

    /// Whether the database answers.
    ///
    /// # Errors
    /// When it does not.
    pub async fn ping(&self) -> Result<(), MetadataError> {
        sqlx::query("SELECT 1").execute(&self.reader).await?;
        Ok(())
    }

    /// Ends all connections, so that nothing is left in the write-ahead log.
    pub async fn close(&self) {
        self.reader.close().await;
        self.writer.close().await;
    }

    pub(crate) fn reader(&self) -> &SqlitePool {
        &self.reader
    }

    /// Begins a transaction that may write. Dropped without `commit`, it leaves nothing.
    pub(crate) async fn write(&self) -> Result<Transaction<'static, Sqlite>, MetadataError> {
        Ok(self.writer.begin_with("BEGIN IMMEDIATE").await?)
    }
}

/// What to look for where: batch after batch in the last place, and so on up to the first, so that what is found later
/// may stand for what was found before.
fn batches<'a, P, T>(places: &'a [P], wanted: &'a [T]) -> Vec<(&'a P, &'a [T])> {
    let places = places.iter().rev();
    places.flat_map(|place| wanted.chunks(BATCH).map(move |batch| (place, batch))).collect()
}

/// A column of so many bytes.
fn blob<const N: usize>(bytes: &[u8]) -> Result<[u8; N], MetadataError> {
    bytes.try_into().map_err(|_| MetadataError::Damaged("a hash has another length than it should"))
}

/// A column that is never negative.
fn number(value: i64) -> Result<u64, MetadataError> {
    value.try_into().map_err(|_| MetadataError::Damaged("a number is negative"))
}
