//! `larderd migrate-store`: an embedded installation moves to a server, and its objects to a bucket, while its service
//! goes on serving reads.
//!
//! Objects never change, so they are copied first, while everything goes on ([`objects`]). Then whoever would write waits:
//! the objects that came meanwhile follow, and all rows, in one transaction. What the two databases note of it, so that one
//! of them is in use whatever ends this, stands in `metadata/moves.rs`.

mod objects;

use std::{
    sync::atomic::{AtomicBool, AtomicU64, Ordering},
    time::{Duration, Instant},
};

use self::objects::Objects;
use crate::{
    DATABASE, StartError,
    backup::{Server, ServerError},
    clock::Clock,
    config::{BucketConfig, Config, DatabaseServer},
    error::ApiError,
    metadata::{Metadata, MetadataError, MoveState, Moving},
    open_database, open_server, random,
    storage::{Storage, StorageError},
};

/// The store could not be moved. The text names the remedy.
#[derive(Debug, thiserror::Error)]
pub enum MigrationError {
    /// It has moved before.
    #[error("what {from} held has moved to {to} before. There is nothing to do but to use it")]
    MovedBefore {
        /// The file.
        from: String,
        /// Where it is.
        to: String,
    },
    /// The server cannot take it.
    #[error(transparent)]
    Server(#[from] ServerError),
    /// Others' objects lie where this installation's are to go.
    #[error(
        "{0} holds objects already, and none of them is this installation's. Name an empty bucket, or a folder in one"
    )]
    OthersObjects(String),
    /// Nothing lies where objects should.
    #[error("{0} is empty, though the database names objects there. Is a disk not mounted?")]
    NoObjects(String),
    /// A database cannot be opened.
    #[error(transparent)]
    Start(#[from] StartError),
    /// A database failed.
    #[error(transparent)]
    Metadata(#[from] MetadataError),
    /// Storage failed.
    #[error("{0}. What is copied stays; run it again to go on from there")]
    Storage(#[from] StorageError),
    /// The system gives no random numbers.
    #[error("{}", .0.message())]
    Random(ApiError),
}

/// How far a migration is, for whoever waits for it.
#[derive(Debug, Default)]
pub struct State {
    /// Bytes of objects that are there.
    pub done: AtomicU64,
    /// Bytes of all objects.
    pub total: AtomicU64,
    /// Whether whoever would write waits.
    pub holds: AtomicBool,
}

/// What was moved.
#[derive(Debug, Clone, PartialEq, serde::Serialize)]
pub struct MigrationReport {
    /// The database's file.
    pub from: String,
    /// The server that has its rows now.
    pub to: String,
    /// How many rows this run copied: all; none if an earlier one had come almost to its end.
    pub copied_rows: u64,
    /// Visible paths.
    pub paths: u64,
    /// NARs.
    pub nars: u64,
    /// Chunks.
    pub chunks: u64,
    /// Objects, and their bytes.
    pub objects: u64,
    /// See above.
    pub object_bytes: u64,
    /// Where they lie now.
    pub storage: String,
    /// Those of them that this run copied; and their bytes.
    pub copied_objects: u64,
    /// See above.
    pub copied_bytes: u64,
    /// Objects that rows name and that were not there, the first hundred of them: what is in them was lost before.
    pub lost: Vec<String>,
    /// How long it took, in seconds.
    pub seconds: f64,
    /// How long pushes had to wait of that.
    pub held_seconds: f64,
}

/// Moves the rows of a data directory's database to a server, and its objects to a bucket if one is named.
///
/// # Errors
/// When the server or the bucket is in use, or anything fails. Then the service goes on with what it has; but for what
/// [`MigrationError::MovedBefore`] says.
pub async fn migrate(
    config: &Config,
    to: &DatabaseServer,
    bucket: Option<&BucketConfig>,
    state: &State,
) -> Result<MigrationReport, MigrationError> {
    let begun = Instant::now();
    let file = config.data_dir.join(DATABASE);
    let (source, target) = (open_database(&config.data_dir, &file).await?, open_server(to).await?);
    let from = file.display().to_string();
    let migration = Migration { source, target, from, to, state };
    let moved = migration.run(config, bucket).await;
    migration.source.close().await;
    let moved = moved.map(|report| MigrationReport { seconds: begun.elapsed().as_secs_f64(), ..report });
    migration.target.close().await;
    moved
}

struct Migration<'a> {
    source: Metadata,
    target: Metadata,
    from: String,
    to: &'a DatabaseServer,
    state: &'a State,
}

impl Migration<'_> {
    async fn run(
        &self,
        config: &Config,
        bucket: Option<&BucketConfig>,
    ) -> Result<MigrationReport, MigrationError> {
        let storage = Storage::open(config)?;
        let target_storage = match bucket {
            Some(bucket) => Storage::open_bucket(bucket)?,
            None => storage.clone(),
        };
        let mut objects = Objects::new(&self.source, &storage, &target_storage, self.state);
        let begun_before = self.source.moving().await?;
        let (copied_rows, held) = match begun_before {
            Some(Moving { state: MoveState::Left, id, place, .. }) => {
                let waits = self.target.moving().await?.is_some_and(|moving| moving.id == id);
                if !waits {
                    return Err(MigrationError::MovedBefore { from: self.from.clone(), to: place });
                }
                // Those that lie there already cost a look.
                objects.copy_meanwhile().await?;
                self.target.note_arrived(id).await?;
                (0, Duration::ZERO)
            }
            begun_before => {
                let (place, at) = (self.to.to_string(), Clock::System.now());
                let id = match begun_before {
                    // To another place it is another move: what an earlier one left elsewhere must never be used.
                    Some(moving) if moving.place == place => moving.id,
                    _ => random::random_bytes().map_err(MigrationError::Random)?,
                };
                let leaving = Moving { id, state: MoveState::Leaving, place, at };
                self.source.note_move(&leaving).await?;
                let arriving = Moving { id, state: MoveState::Arriving, place: self.from.clone(), at };
                let mut server = Server::take(self.target.clone(), self.to, Some(&arriving)).await?;
                objects.copy_meanwhile().await?;
                let held = self.source.hold().await?;
                self.state.holds.store(true, Ordering::Relaxed);
                let begun = Instant::now();
                objects.copy().await?;
                let copied_rows = server.copy_from(&self.source, Some(&arriving)).await?;
                held.leave(Clock::System.now()).await?;
                let held = begun.elapsed();
                self.target.note_arrived(id).await?;
                objects.remove_leftovers().await;
                (copied_rows, held)
            }
        };
        let totals = self.target.totals().await?;
        Ok(MigrationReport {
            from: self.from.clone(),
            to: self.to.to_string(),
            copied_rows,
            paths: totals.paths,
            nars: totals.nars,
            chunks: totals.chunks,
            objects: totals.objects,
            object_bytes: totals.object_bytes,
            storage: target_storage.place().to_owned(),
            copied_objects: objects.copied.len() as u64,
            copied_bytes: objects.copied.values().sum(),
            lost: objects.lost,
            seconds: 0.0,
            held_seconds: held.as_secs_f64(),
        })
    }
}
