//! The database: how it is opened, in a file or on a server, and how transactions begin.

use std::{
    fs::{File, TryLockError},
    path::Path,
    sync::Arc,
    time::{Duration, Instant},
};

use sqlx::{
    Connection as _, PgConnection, SqliteConnection,
    migrate::Migrator,
    postgres::{PgConnectOptions, PgPoolOptions},
    sqlite::{SqliteConnectOptions, SqliteJournalMode, SqlitePoolOptions, SqliteSynchronous},
};

use super::{
    Metadata, MetadataError, moves,
    sql::{ANSWER_WITHIN, Connection, Pool, STATEMENT_WITHIN, Transaction, query, within},
};
use crate::config::DatabaseServer;

static SQLITE: Migrator = sqlx::migrate!("migrations/sqlite");
static POSTGRES: Migrator = sqlx::migrate!("migrations/postgres");

/// How connections of their own are made, which only read: what they note for themselves goes with them.
#[derive(Debug, Clone)]
pub(super) enum Apart {
    Sqlite(SqliteConnectOptions),
    Postgres(PgConnectOptions),
}

/// How many KiB of the database's pages a connection keeps in memory: the one that writes,
const WRITER_CACHE: u32 = 16 << 10;
/// and each that reads. It forgets them whenever something was written; the system's own cache has them then.
const READER_CACHE: u32 = 4 << 10;
/// How many transactions that write may wait on a server for each other; one of them goes on.
const WRITERS: u32 = 2;
/// How long whoever wants to write waits for whoever does.
const LOCK_WITHIN: Duration = Duration::from_secs(30);
/// How often is looked whether another process has brought the schema up to date.
const LOOK_AGAIN: Duration = Duration::from_millis(20);
/// How long a server is waited for when this process starts.
const START_WITHIN: Duration = Duration::from_secs(60);
/// How long a connection is waited for.
pub(super) const CONNECT_WITHIN: Duration = Duration::from_secs(10);
/// Each statement sees what was committed before it, whatever the server's own default is.
const BEGIN: &str = "BEGIN ISOLATION LEVEL READ COMMITTED";
/// Makes a transaction the only one that writes, among all replicas. The number is Larder's own, and each schema has a
/// Larder of its own. The lock ends with the transaction, and with the connection.
const ALONE: &str = "SELECT pg_advisory_xact_lock(781075, hashtext(current_schema()))";
/// How long a replica that starts waits for another one that brings the schema up to date.
const MIGRATION_WITHIN: Duration = Duration::from_secs(600);

/// Waits until no other process brings the schema of the database beside this one up to date.
async fn alone_in(path: &Path) -> Result<File, MetadataError> {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let folder = File::open(folder).map_err(sqlx::Error::Io)?;
    let patience = Instant::now() + LOCK_WITHIN;
    loop {
        match folder.try_lock() {
            Ok(()) => return Ok(folder),
            Err(TryLockError::WouldBlock) if Instant::now() < patience => {
                tokio::time::sleep(LOOK_AGAIN).await
            }
            Err(TryLockError::WouldBlock) => return Err(sqlx::Error::PoolTimedOut.into()),
            Err(TryLockError::Error(error)) => return Err(sqlx::Error::Io(error).into()),
        }
    }
}

/// For what may take long, or be read slowly.
fn unhurried(options: &PgConnectOptions) -> PgConnectOptions {
    options.clone().options([("statement_timeout", "0"), ("idle_in_transaction_session_timeout", "0")])
}

impl Metadata {
    /// Opens the database in the file `path`, makes it if there is none, and brings its schema up to date.
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
            .busy_timeout(LOCK_WITHIN)
            // And no more: a file that is mapped counts as memory once for each connection, and kills the process where
            // it cannot be read.
            .pragma("cache_size", format!("-{WRITER_CACHE}"));
        // A command may be the first to come as well as the service: one of them makes the tables.
        let alone = alone_in(path).await?;
        let writer = SqlitePoolOptions::new()
            .max_connections(1)
            .acquire_timeout(LOCK_WITHIN)
            // When the disk is full SQLite rolls back by itself, and sqlx, which does not see that, takes the
            // connection for one in a transaction for ever after.
            .before_acquire(|connection, _| Box::pin(async { Ok(!connection.is_in_transaction()) }))
            .connect_with(options.clone())
            .await?;
        SQLITE.run(&writer).await?;
        drop(alone);
        let reading = options.read_only(true).pragma("cache_size", format!("-{READER_CACHE}"));
        let reader = SqlitePoolOptions::new()
            .max_connections(4)
            .acquire_timeout(CONNECT_WITHIN)
            .connect_with(reading.clone())
            .await?;
        Ok(Self {
            reader: Pool::Sqlite(reader),
            writer: Pool::Sqlite(writer),
            apart: Apart::Sqlite(reading),
            paths: Arc::default(),
            failed: Arc::default(),
        })
    }

    /// Opens the database on a PostgreSQL server, and brings its schema up to date.
    ///
    /// # Errors
    /// When the server cannot be reached, refuses, or the schema is of a newer Larder.
    pub async fn open_on(server: &DatabaseServer) -> Result<Self, MetadataError> {
        let seconds = |time: Duration| format!("{}s", time.as_secs());
        let options = server.connect.clone().application_name("larderd").options([
            ("lock_timeout", seconds(LOCK_WITHIN)),
            ("statement_timeout", seconds(STATEMENT_WITHIN)),
            // A replica that stands still in a transaction, or whose machine is gone, must not hold the lock for ever.
            ("idle_in_transaction_session_timeout", seconds(LOCK_WITHIN)),
            ("tcp_keepalives_idle", "10".to_owned()),
            ("tcp_keepalives_interval", "5".to_owned()),
            ("tcp_keepalives_count", "3".to_owned()),
            ("client_min_messages", "warning".to_owned()),
        ]);
        let pool = || PgPoolOptions::new().acquire_timeout(CONNECT_WITHIN);
        let patience = Instant::now() + START_WITHIN;
        let writer = loop {
            match pool()
                .max_connections(WRITERS)
                .connect_with(options.clone())
                .await
                .map_err(MetadataError::from)
            {
                // It may be starting, too.
                Err(error) if error.is_unreachable() && Instant::now() < patience => {
                    tracing::warn!(%error, database = %server, "the database does not answer yet; trying again");
                    tokio::time::sleep(Duration::from_secs(1)).await;
                }
                Err(MetadataError::Database(sqlx::Error::PoolTimedOut)) => {
                    return Err(MetadataError::Silent { key: server.key.clone() });
                }
                connected => break connected?,
            }
        };
        // As long as it takes: an index over many rows takes minutes.
        let patient = unhurried(&options).options([("lock_timeout", seconds(MIGRATION_WITHIN))]);
        let mut migrating = within(Some(CONNECT_WITHIN), PgConnection::connect_with(&patient)).await?;
        POSTGRES.run(&mut migrating).await?;
        migrating.close().await?;
        let reader = pool().max_connections(server.connections).connect_with(options.clone()).await?;
        Ok(Self {
            reader: Pool::Postgres(reader),
            writer: Pool::Postgres(writer),
            apart: Apart::Postgres(options),
            paths: Arc::default(),
            failed: Arc::default(),
        })
    }

    /// Begins a transaction that may write: nobody else writes until it ends. Dropped without `commit`, it leaves
    /// nothing.
    pub(super) async fn write(&self) -> Result<Transaction, MetadataError> {
        match &self.writer {
            Pool::Sqlite(pool) => {
                let mut transaction = Transaction::Sqlite(pool.begin_with("BEGIN IMMEDIATE").await?);
                // A file's rows may leave while a service uses it; those on a server never do.
                moves::refuse_if_left(&mut transaction).await?;
                Ok(transaction)
            }
            Pool::Postgres(pool) => {
                let mut transaction =
                    Transaction::Postgres(within(Some(ANSWER_WITHIN), pool.begin_with(BEGIN)).await?);
                // Only now: whoever goes, or is refused, while it waits for the lock must leave a transaction that is
                // known to be one, and rolled back.
                query(ALONE).execute(&mut transaction).await?;
                Ok(transaction)
            }
        }
    }

    /// A connection of its own, which only reads.
    pub(super) async fn apart(&self) -> Result<Connection, MetadataError> {
        Ok(match &self.apart {
            Apart::Sqlite(options) => {
                let mut connection = SqliteConnection::connect_with(options).await?;
                // Some megabytes for what it notes for itself before that needs a disk, which may be full.
                sqlx::query("PRAGMA temp.cache_size = -32768").execute(&mut connection).await?;
                Connection::Sqlite(connection)
            }
            Apart::Postgres(options) => {
                let options = unhurried(options);
                let connect = PgConnection::connect_with(&options);
                Connection::Postgres(within(Some(CONNECT_WITHIN), connect).await?)
            }
        })
    }

    /// The number of the last change of the schema, by which exports are compared.
    pub(super) fn schema() -> i64 {
        SQLITE.iter().map(|migration| migration.version).max().unwrap_or_default()
    }
}
