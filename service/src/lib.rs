//! Larder's service: takes pushes, stores them deduplicated, signs them, serves them.
//!
//! [`Service::open`] makes it from a configuration, [`router::router`] is its table of contents, [`serve::serve`]
//! runs it on a listener. `main.rs` adds a command line.

pub mod audit;
pub mod backup;
pub mod cache;
pub mod caches;
pub mod cli;
pub mod client;
pub mod clock;
pub mod config;
mod connections;
pub mod error;
pub mod flake;
pub mod forge;
mod host;
pub mod identity;
pub mod isolated;
pub mod keys;
pub mod log;
pub mod manifests;
pub mod metadata;
pub mod migration;
pub mod mirror;
pub mod pace;
pub mod prefetch;
pub mod provenance;
pub mod push;
pub mod queue;
pub mod random;
mod replicas;
pub mod retention;
pub mod router;
pub mod serve;
pub mod stats;
pub mod storage;
pub mod trust;
mod upstream;
pub mod verification;

use std::{
    fs::OpenOptions,
    io,
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
    sync::Arc,
};

pub use self::{router::router, serve::serve};
use crate::{
    audit::Audit,
    cache::ReadMemory,
    caches::Caches,
    clock::Clock,
    config::{Config, DatabaseConfig, DatabaseServer},
    flake::{Fetcher, Internet},
    forge::{ForgeError, GitHub, Inbox},
    identity::Issuers,
    keys::KeyError,
    metadata::{Metadata, MetadataError, MoveState, Moving, Settled},
    pace::Paces,
    prefetch::Prefetching,
    push::{UpstreamClient, Workshop},
    queue::Queue,
    retention::Retention,
    stats::Stats,
    storage::{Storage, StorageError},
    verification::Verification,
};

/// The database's file in the data directory.
const DATABASE: &str = "larder.db";

/// The service: what every request may need.
pub struct Service {
    /// How it was configured.
    pub config: Config,
    /// The database.
    pub metadata: Metadata,
    /// What goes on record.
    pub audit: Audit,
    /// The time.
    pub clock: Clock,
    /// The caches with their keys.
    pub caches: Caches,
    /// Who may say who a job is.
    pub issuers: Issuers,
    /// Where the objects are.
    pub storage: Storage,
    /// What readers asked for lately.
    pub reads: ReadMemory,
    /// How often everybody came lately.
    pub paces: Paces,
    /// What pushes share.
    pub workshop: Workshop,
    /// Whom to ask what upstreams have.
    pub upstreams: UpstreamClient,
    /// What prefetches share.
    pub prefetching: Prefetching,
    /// What retention holds in memory.
    pub retention: Retention,
    /// Who fetches what flakes need.
    pub fetcher: Fetcher,
    /// What is counted, and what it comes to over time.
    pub stats: Stats,
    /// What verification holds in memory.
    pub verification: Verification,
    /// What is to be done later.
    pub queue: Queue,
    /// Where webhooks come in.
    pub inbox: Inbox,
    /// GitHub's API.
    pub github: GitHub,
}

/// The service cannot start. The text names the remedy.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The data directory cannot be used.
    #[error(
        "{directory}: {source}. The service needs a directory that it can write: data_dir, or LARDER_DATA_DIR"
    )]
    DataDir {
        /// The directory.
        directory: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A signing key cannot be used.
    #[error(transparent)]
    Key(#[from] KeyError),
    /// The database cannot be used.
    #[error("{place}: {source}")]
    Metadata {
        /// Its file, or its server.
        place: String,
        /// Why.
        source: MetadataError,
    },
    /// The rows have been moved to another database.
    #[error(
        "what {from} held has moved to {to}, on {at} (`larderd migrate-store`). Write that into [database] of larder.toml: \
         url = \"postgres://…\"",
        at = clock::to_date(*.at)
    )]
    Moved {
        /// The database that is asked.
        from: String,
        /// Where they are.
        to: String,
        /// Since when, in seconds since 1970.
        at: i64,
    },
    /// The rows are on their way.
    #[error(
        "the rows of {from} are on their way to {to}, by a `larderd migrate-store` that has not come to its end. Run that \
         again, on the machine where {from} is"
    )]
    Arriving {
        /// From where.
        from: String,
        /// The database that is asked.
        to: String,
    },
    /// A cache changed from public to private, or back.
    #[error(
        "cache {cache:?}, public: {public}, but what was pushed to it until now was {}. {}. Give the {} cache another \
         name, and push again",
        if *.public { "private" } else { "public" },
        if *.public { "It was meant for few" } else { "Others may have it already" },
        if *.public { "public" } else { "private" },
    )]
    Visibility {
        /// The cache.
        cache: String,
        /// What the configuration says now.
        public: bool,
    },
    /// Another replica signs by other keys.
    #[error(
        "another replica signs the paths of cache {cache:?} by other keys than those in {data_dir}/keys, and readers trust \
         only one of the two. Copy the folder `keys` from its data directory, then start this one again. (If those keys \
         are given up: stop all who have them, and wait a quarter of an hour.)",
        data_dir = .data_dir.display()
    )]
    OtherKeys {
        /// The cache.
        cache: String,
        /// Where this replica's keys are.
        data_dir: PathBuf,
    },
    /// The objects' folder cannot be used.
    #[error(transparent)]
    Storage(#[from] StorageError),
    /// The system gives no threads.
    #[error("the service's threads cannot be started: {0}. Raise the limit on threads (ulimit -u, TasksMax)")]
    Threads(#[from] rayon::ThreadPoolBuildError),
    /// No TLS client.
    #[error(
        "no TLS connection could be made: {0}. Install the system's root certificates (ca-certificates), or name \
         their file in SSL_CERT_FILE"
    )]
    Tls(reqwest::Error),
    /// GitHub's API cannot be asked.
    #[error("GitHub's API: {0}. See github.api_url in larder.toml")]
    GitHub(#[from] ForgeError),
}

impl Service {
    /// Opens the service: makes its data directory, database and keys if they are not there yet.
    ///
    /// # Errors
    /// When one of them cannot be used.
    pub async fn open(config: Config, clock: Clock) -> Result<Arc<Self>, StartError> {
        Self::open_on(config, clock, Internet::default()).await
    }

    /// The same on an internet of a test's making.
    ///
    /// # Errors
    /// When something cannot be used.
    pub async fn open_on(config: Config, clock: Clock, internet: Internet) -> Result<Arc<Self>, StartError> {
        let metadata = open_metadata(&config).await?;
        let unusable = |source| StartError::Metadata { place: config.database_place(), source };
        let mut namespaces = Vec::new();
        for cache in &config.caches {
            match metadata.settle_namespace(&cache.name, cache.public).await.map_err(unusable)? {
                Settled::In(namespace) => namespaces.push(namespace),
                Settled::WasOtherwise => {
                    return Err(StartError::Visibility {
                        cache: cache.name.to_string(),
                        public: cache.public,
                    });
                }
            }
        }
        // Where others may add paths, the database must be asked for them.
        let is_shared = matches!(config.database, DatabaseConfig::Server(_));
        if !is_shared {
            metadata.remember_paths().await.map_err(unusable)?;
        }
        let caches = Caches::open(&config, &namespaces, &clock)?;
        if is_shared
            && let Some(cache) =
                replicas::signs_otherwise(&metadata, &caches, &clock).await.map_err(unusable)?
        {
            return Err(StartError::OtherKeys {
                cache: cache.to_string(),
                data_dir: config.data_dir.clone(),
            });
        }
        let issuers = Issuers::new(&config.issuers).map_err(StartError::Tls)?;
        let storage = Storage::open(&config)?.with_hot_tier(&config)?;
        let upstreams = UpstreamClient::new(&config).map_err(StartError::Tls)?;
        let fetcher = Fetcher::new(&config, &internet).map_err(StartError::Tls)?;
        let prefetching = Prefetching::new(&config).map_err(StartError::Tls)?;
        let paces = Paces::new(&config.limits, is_shared);
        let audit = Audit::start(metadata.clone(), clock.clone(), config.audit.clone());
        let (reads, workshop) = (ReadMemory::new(is_shared), Workshop::new(&config.limits)?);
        let queue = Queue::new(metadata.clone(), clock.clone());
        let github = GitHub::new(&config.github, clock.clone())?;
        let inbox = Inbox::open(metadata.clone(), clock.clone(), queue.clone());
        let stats = Stats::new(&caches);
        Ok(Arc::new(Self {
            config,
            metadata,
            audit,
            paces,
            clock,
            caches,
            issuers,
            storage,
            reads,
            workshop,
            upstreams,
            fetcher,
            prefetching,
            retention: Retention::default(),
            stats,
            verification: Verification::default(),
            queue,
            inbox,
            github,
        }))
    }
}

/// The database alone, for commands that need no more.
///
/// # Errors
/// When the data directory or the database cannot be used.
pub async fn open_metadata(config: &Config) -> Result<Metadata, StartError> {
    let metadata = match &config.database {
        DatabaseConfig::File => open_database(&config.data_dir, &config.data_dir.join(DATABASE)).await?,
        DatabaseConfig::Server(server) => {
            let unusable = |source| StartError::DataDir { directory: config.data_dir.clone(), source };
            keys::make_private_dir(&config.data_dir).map_err(unusable)?;
            open_server(server).await?
        }
    };
    let place = config.database_place();
    let moving = metadata.moving().await;
    match moving.map_err(|source| StartError::Metadata { place: place.clone(), source })? {
        None | Some(Moving { state: MoveState::Leaving, .. }) => Ok(metadata),
        Some(Moving { state: MoveState::Left, place: to, at, .. }) => {
            Err(StartError::Moved { from: place, to, at })
        }
        Some(Moving { state: MoveState::Arriving, place: from, .. }) => {
            Err(StartError::Arriving { from, to: place })
        }
    }
}

/// A database on a server.
async fn open_server(server: &DatabaseServer) -> Result<Metadata, StartError> {
    let unusable = |source| StartError::Metadata { place: server.to_string(), source };
    Metadata::open_on(server).await.map_err(unusable)
}

/// A database's file in the data directory.
async fn open_database(directory: &Path, file: &Path) -> Result<Metadata, StartError> {
    let unusable = |source| StartError::DataDir { directory: directory.to_owned(), source };
    keys::make_private_dir(directory).map_err(unusable)?;
    // Made here, so that others can never read it; SQLite gives its other files the same mode.
    OpenOptions::new().append(true).create(true).mode(0o600).open(file).map_err(unusable)?;
    let unusable = |source| StartError::Metadata { place: file.display().to_string(), source };
    Metadata::open(file).await.map_err(unusable)
}
