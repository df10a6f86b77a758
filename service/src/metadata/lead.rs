//! Leading: what one of all processes does, and no other meanwhile.

use std::{
    fs::{self, File, OpenOptions, TryLockError},
    path::Path,
    time::Duration,
};

use sqlx::{ConnectOptions as _, Connection as _, PgConnection, postgres::PgConnectOptions};
use tokio::task::JoinSet;

use super::{
    Metadata, MetadataError,
    database::{Apart, CONNECT_WITHIN},
    sql::within,
};
use crate::keys;

/// How often a replica that leads makes sure that it still does.
const LOOK_EVERY: Duration = Duration::from_secs(5);
/// After so long without a word from it, the server takes a replica that leads for one that stands still.
const SILENT_FOR: &str = "60s";

/// What is led: numbers of Larder's own, beside that of whoever writes.
const SERVICE: i32 = 781_076;
const MIRRORING: i32 = 781_077;

/// A process that leads, as long as it holds this.
#[derive(Default)]
pub(crate) struct Lead {
    /// What holds the connection, with which a server's lock ends; it ends when the lock is lost.
    holding: Option<JoinSet<()>>,
    /// What other processes on this machine look at.
    _file: Option<File>,
}

impl Metadata {
    /// Begins to lead, unless another process does. With a file for a database there is no other.
    ///
    /// # Errors
    /// When the database fails.
    pub(crate) async fn try_lead(&self) -> Result<Option<Lead>, MetadataError> {
        match &self.apart {
            Apart::Sqlite(_) => Ok(Some(Lead::default())),
            Apart::Postgres(options) => on_server(options, SERVICE, "").await,
        }
    }

    /// Begins to write a mirror, unless another process does. With a file for a database, a file beside that tells.
    ///
    /// # Errors
    /// When the database fails, or the file cannot be made.
    pub(crate) async fn try_lead_mirroring(&self, to: &str) -> Result<Option<Lead>, MetadataError> {
        match &self.apart {
            Apart::Sqlite(options) => {
                let name = format!("mirror-{}.lock", &blake3::hash(to.as_bytes()).to_hex()[..16]);
                on_machine(&options.get_filename().with_file_name(name))
            }
            Apart::Postgres(options) => on_server(options, MIRRORING, to).await,
        }
    }
}

async fn on_server(
    options: &PgConnectOptions,
    what: i32,
    which: &str,
) -> Result<Option<Lead>, MetadataError> {
    let options = options.clone().options([("idle_session_timeout", SILENT_FOR)]);
    let mut connection = within(Some(CONNECT_WITHIN), options.connect()).await?;
    let lock = sqlx::query_scalar("SELECT pg_try_advisory_lock($1, hashtext(current_schema() || $2))");
    let lock = lock.bind(what).bind(which);
    let leads: bool = within(Some(CONNECT_WITHIN), lock.fetch_one(&mut connection)).await?;
    Ok(leads.then(|| Lead { holding: Some(JoinSet::from_iter([hold(connection)])), ..Lead::default() }))
}

fn on_machine(path: &Path) -> Result<Option<Lead>, MetadataError> {
    let open = || {
        let file = OpenOptions::new().write(true).create(true).truncate(false).open(path)?;
        keys::hand_over(&file, &fs::metadata(path.parent().unwrap_or(path))?)?;
        Ok(file)
    };
    let file = open().map_err(sqlx::Error::Io)?;
    match file.try_lock() {
        Ok(()) => Ok(Some(Lead { _file: Some(file), ..Lead::default() })),
        Err(TryLockError::WouldBlock) => Ok(None),
        Err(TryLockError::Error(error)) => Err(sqlx::Error::Io(error).into()),
    }
}

/// Tells the server again and again that somebody is there, whatever whoever leads is busy with.
async fn hold(mut connection: PgConnection) {
    while let Ok(Ok(())) = tokio::time::timeout(LOOK_EVERY, connection.ping()).await {
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

impl Lead {
    /// Waits until another process may lead, since the database is not to be reached any more.
    pub(crate) async fn lost(&mut self) {
        let Some(holding) = &mut self.holding else { return std::future::pending().await };
        holding.join_next().await;
    }
}
