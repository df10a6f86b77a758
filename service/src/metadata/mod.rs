//! The only SQL: what the service knows of caches, pushes, paths, NARs, chunks and objects.
//!
//! In SQLite or in PostgreSQL. Whoever writes is alone: a transaction that writes begins with the lock, so that it sees
//! all that others have committed, and never fails in its middle for want of it. Readers wait for nobody.

pub(crate) mod audit;
mod budget;
mod chunks;
mod claims;
mod compaction;
mod concluded;
mod copying;
mod database;
mod deliveries;
mod divergences;
mod export;
mod failed_jobs;
mod gone;
mod holders;
mod holdings;
mod isolated;
mod jobs;
mod lead;
mod manifests;
mod marks;
mod mirror;
mod missed;
mod moves;
mod names;
mod namespaces;
mod nars;
mod objects;
mod paces;
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
mod schema;
mod sequences;
mod signers;
mod sql;
mod sweeping;
mod sweeps;
pub mod tokens;
mod upstream_paths;
mod verification;
mod verifications;
mod withdrawing;

use std::{
    sync::{Arc, Mutex, OnceLock, PoisonError},
    time::{Duration, Instant},
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
pub(crate) use lead::Lead;
pub(crate) use manifests::{ManifestsOf, NewManifest, Told, WantedBy};
pub use marks::{DyingPath, Extent, MarkedRoot, Marks};
pub use mirror::StoredPath;
pub(crate) use missed::{AskedFor, Unread, WatchedHook};
pub(crate) use moves::{MoveState, Moving};
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

use database::Apart;
use path_filter::PathFilter;
use sql::{Pool, query};

/// How many rows one statement may write or ask for.
pub(crate) const BATCH: usize = 1000;

/// The database failed, or could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum MetadataError {
    /// A query failed.
    #[error("the database failed: {0}")]
    Database(#[from] sqlx::Error),
    /// The schema could not be brought up to date.
    #[error("the database's schema could not be brought up to date: {0}")]
    Migration(sqlx::migrate::MigrateError),
    /// A newer release has brought the schema further than this one knows.
    #[error(
        "a newer larderd has brought its schema to number {to}, and this one knows no further than {known}. Run that \
         release, or a newer one"
    )]
    Newer {
        /// Its last change.
        to: i64,
        /// The last that this release makes.
        known: i64,
    },
    /// The server did not answer when it was to be opened.
    #[error(
        "the server did not answer within a minute. Is it running, and can this machine reach it? See {key}"
    )]
    Silent {
        /// What names it.
        key: String,
    },
    /// A row holds what it cannot hold.
    #[error("the database is damaged: {0}")]
    Damaged(&'static str),
    /// What rows were to be added to, or what they rely on, has been removed meanwhile.
    #[error("what this belongs to has been removed meanwhile")]
    Gone,
    /// The rows have been moved to another database.
    #[error(
        "all rows have moved to {0} (`larderd migrate-store`), and nothing is written here any more. Write that into \
         [database] of larder.toml, and restart larderd"
    )]
    Moved(String),
    /// Rows were to be copied here, in whose place others would go.
    #[error("it holds pushes, tokens or pins already")]
    InUse,
}

impl From<sqlx::migrate::MigrateError> for MetadataError {
    fn from(error: sqlx::migrate::MigrateError) -> Self {
        let known = Metadata::schema();
        match error {
            sqlx::migrate::MigrateError::VersionMissing(to) if to > known => Self::Newer { to, known },
            error => Self::Migration(error),
        }
    }
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

    /// Whether the database cannot be reached, or not now.
    pub fn is_unreachable(&self) -> bool {
        /// PostgreSQL's codes: it starts or stops, or has no connection left; a lock, a statement or a transaction took
        /// too long; a transaction lost to another one; it may only be read, as after another server took over.
        const NOT_NOW: [&str; 11] = [
            "57P01", "57P02", "57P03", "57P05", "53300", "55P03", "57014", "25P03", "40001", "40P01", "25006",
        ];
        /// `SQLITE_BUSY`: somebody else has been writing for longer than one waits.
        const BUSY: &str = "5";
        match self {
            Self::Database(sqlx::Error::Database(error)) => error
                .code()
                .is_some_and(|code| NOT_NOW.contains(&&*code) || code.starts_with("08") || code == BUSY),
            Self::Database(sqlx::Error::Io(_) | sqlx::Error::PoolTimedOut | sqlx::Error::WorkerCrashed)
            | Self::Silent { .. } => true,
            _ => false,
        }
    }

    /// Whether the disk is full.
    pub fn is_full(&self) -> bool {
        /// `SQLITE_FULL`; the system's own code is not kept.
        const FULL: &str = "13";
        /// PostgreSQL's `disk_full`.
        const SERVER_FULL: &str = "53100";
        let Self::Database(sqlx::Error::Database(error)) = self else { return false };
        error.code().is_some_and(|code| code == FULL || code == SERVER_FULL)
    }
}

/// The database.
#[derive(Clone)]
pub struct Metadata {
    reader: Pool,
    writer: Pool,
    apart: Apart,
    paths: Arc<OnceLock<PathFilter>>,
    failed: Arc<Mutex<Option<Instant>>>,
}

/// For so long after somebody has waited in vain for an answer, nobody else who can do without waits for one.
const FAILS_FOR: Duration = Duration::from_secs(5);

impl Metadata {
    /// Whether the database answers.
    ///
    /// # Errors
    /// When it does not.
    pub async fn ping(&self) -> Result<(), MetadataError> {
        query("SELECT 1").execute(&self.reader).await?;
        Ok(())
    }

    /// Ends all connections, so that nothing is left in the write-ahead log.
    pub async fn close(&self) {
        self.reader.close().await;
        self.writer.close().await;
    }

    /// Whether somebody has waited in vain for an answer just now.
    pub(crate) fn fails(&self) -> bool {
        let failed = *self.failed.lock().unwrap_or_else(PoisonError::into_inner);
        failed.is_some_and(|failed| failed.elapsed() < FAILS_FOR)
    }

    /// Notes whether an answer came within the time that somebody waits for one.
    pub(crate) fn note_answer(&self, came: bool) {
        let failed = (!came).then(Instant::now);
        *self.failed.lock().unwrap_or_else(PoisonError::into_inner) = failed;
    }

    fn reader(&self) -> &Pool {
        &self.reader
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
