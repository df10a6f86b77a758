//! Nix's database, `<root>/nix/var/nix/db/db.sqlite`, schema 10: read only, while Nix writes to it.
//!
//! With a `-wal` file beside it the database is opened `mode=ro`, which sees what a writer has committed;
//! without one `immutable=1`, since `mode=ro` would have to make that file, and cannot on a read-only mount.
//! `immutable=1` beside an active writer misses rows or reads half of what is being written, so the files are
//! looked at again after each question, and it is asked again if they changed.

use std::{
    fs, io,
    path::{Path, PathBuf},
    time::{Duration, SystemTime},
};

use larder_protocol::{NarHash, Signature, StorePath, api::PathInfo};
use sqlx::{ConnectOptions as _, Connection as _, FromRow, sqlite::SqliteConnectOptions};

use super::StoreError;

/// A place in the order in which paths became valid: the newest row's id.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default, serde::Serialize, serde::Deserialize,
)]
pub struct Mark(pub i64);

#[derive(Debug)]
pub(super) struct Database {
    file: PathBuf,
}

/// How often a question is asked again when Nix changed the files under it.
const TRIES: u32 = 8;
/// How long a question waits for Nix before it is asked again.
const PAUSE: Duration = Duration::from_millis(25);

const COLUMNS: &str = "v.path, v.hash, v.narSize, v.deriver, v.sigs, v.ca, \
    (SELECT group_concat(r.path, ' ') FROM Refs JOIN ValidPaths r ON r.id = Refs.reference \
     WHERE Refs.referrer = v.id) AS refs";

impl Database {
    pub(super) async fn open(directory: &Path) -> Result<Self, StoreError> {
        let database = Self { file: directory.join("db.sqlite") };
        // Fails now rather than at the first question.
        database.high_water_mark().await?;
        Ok(database)
    }

    pub(super) async fn high_water_mark(&self) -> Result<Mark, StoreError> {
        // `sqlite_sequence` also counts rows that were deleted since.
        let rows = self
            .ask::<(i64,)>(
                "SELECT max(coalesce((SELECT seq FROM sqlite_sequence WHERE name = 'ValidPaths'), 0), \
                 coalesce((SELECT max(id) FROM ValidPaths), 0))",
                "",
            )
            .await?;
        Ok(Mark(rows.first().map_or(0, |row| row.0)))
    }

    pub(super) async fn built_since(&self, mark: Mark) -> Result<Vec<PathInfo>, StoreError> {
        let sql = format!(
            "SELECT {COLUMNS} FROM ValidPaths v \
             WHERE v.id > CAST(?1 AS INTEGER) AND v.ultimate = 1 AND v.ca IS NULL ORDER BY v.id"
        );
        self.ask::<Row>(&sql, &mark.0.to_string()).await?.into_iter().map(PathInfo::try_from).collect()
    }

    pub(super) async fn substituted_since(&self, mark: Mark) -> Result<Vec<PathInfo>, StoreError> {
        // What was added here from files has an address by its content, and nobody's signature.
        let sql = format!(
            "SELECT {COLUMNS} FROM ValidPaths v \
             WHERE v.id > CAST(?1 AS INTEGER) AND coalesce(v.ultimate, 0) = 0 \
               AND (v.ca IS NULL OR coalesce(v.sigs, '') <> '') ORDER BY v.id"
        );
        self.ask::<Row>(&sql, &mark.0.to_string()).await?.into_iter().map(PathInfo::try_from).collect()
    }

    pub(super) async fn added_since(&self, mark: Mark) -> Result<Vec<PathInfo>, StoreError> {
        let sql =
            format!("SELECT {COLUMNS} FROM ValidPaths v WHERE v.id > CAST(?1 AS INTEGER) ORDER BY v.id");
        self.ask::<Row>(&sql, &mark.0.to_string()).await?.into_iter().map(PathInfo::try_from).collect()
    }

    pub(super) async fn closure(&self, roots: &[StorePath]) -> Result<Vec<PathInfo>, StoreError> {
        let asked: Vec<String> = roots.iter().map(StorePath::absolute).collect();
        let asked = serde_json::to_string(&asked).map_err(|error| self.unreadable(&error))?;
        // One statement sees the database at one moment.
        let sql = format!(
            "WITH RECURSIVE wanted(id) AS ( \
               SELECT id FROM ValidPaths WHERE path IN (SELECT value FROM json_each(?1)) \
               UNION SELECT reference FROM Refs JOIN wanted ON referrer = wanted.id) \
             SELECT {COLUMNS} FROM wanted JOIN ValidPaths v ON v.id = wanted.id ORDER BY v.id"
        );
        let paths: Vec<PathInfo> = self
            .ask::<Row>(&sql, &asked)
            .await?
            .into_iter()
            .map(PathInfo::try_from)
            .collect::<Result<_, _>>()?;
        let found: std::collections::HashSet<&StorePath> = paths.iter().map(|info| &info.path).collect();
        let mut absent = roots.iter().filter(|root| !found.contains(root));
        match absent.next() {
            None => Ok(paths),
            Some(path) => Err(StoreError::NotValid { path: path.clone(), others: absent.count() }),
        }
    }

    /// Asks a question with one parameter.
    async fn ask<T>(&self, sql: &str, parameter: &str) -> Result<Vec<T>, StoreError>
    where
        T: for<'r> FromRow<'r, sqlx::sqlite::SqliteRow> + Send + Unpin,
    {
        let mut failure = None;
        for attempt in 0..TRIES {
            if attempt > 0 {
                tokio::time::sleep(PAUSE * attempt).await;
            }
            let before = self.look()?;
            match self.ask_once(sql, parameter, before.wal).await {
                // What SQLite read through the `-wal` file is consistent whatever happened meanwhile.
                Ok(rows) if before.wal || self.look()? == before => return Ok(rows),
                Ok(_) => {}
                Err(error) if self.look()? == before && !before.wal => return Err(self.unreadable(&error)),
                Err(error) => failure = Some(error),
            }
        }
        Err(match failure {
            Some(error) => self.unreadable(&error),
            None => self.unreadable(&"it changes faster than it can be read"),
        })
    }

    async fn ask_once<T>(&self, sql: &str, parameter: &str, wal: bool) -> Result<Vec<T>, sqlx::Error>
    where
        T: for<'r> FromRow<'r, sqlx::sqlite::SqliteRow> + Send + Unpin,
    {
        let options = SqliteConnectOptions::new().filename(&self.file).read_only(true).immutable(!wal);
        let mut connection =
            options.busy_timeout(Duration::from_secs(10)).row_buffer_size(1024).connect().await?;
        let rows = sqlx::query_as(sqlx::AssertSqlSafe(sql)).bind(parameter).fetch_all(&mut connection).await;
        // Closed before anyone looks at the files again.
        connection.close().await?;
        rows
    }

    fn look(&self) -> Result<Seen, StoreError> {
        let mut wal = self.file.clone().into_os_string();
        wal.push("-wal");
        let look = || -> io::Result<Seen> {
            let file = fs::metadata(&self.file)?;
            let wal = fs::exists(Path::new(&wal))?;
            Ok(Seen { wal, length: file.len(), changed: file.modified().ok() })
        };
        look().map_err(|error| match error.kind() {
            io::ErrorKind::NotFound => StoreError::NoDatabase(self.file.clone()),
            _ => self.unreadable(&error),
        })
    }

    fn unreadable(&self, reason: &dyn ToString) -> StoreError {
        StoreError::Unreadable { path: self.file.clone(), reason: reason.to_string() }
    }
}

/// What the files look like.
#[derive(PartialEq, Eq)]
struct Seen {
    wal: bool,
    length: u64,
    changed: Option<SystemTime>,
}

/// A row of `ValidPaths`, with its references joined by spaces.
#[derive(FromRow)]
struct Row {
    path: String,
    hash: Option<String>,
    #[sqlx(rename = "narSize")]
    nar_size: Option<i64>,
    deriver: Option<String>,
    sigs: Option<String>,
    ca: Option<String>,
    refs: Option<String>,
}

impl TryFrom<Row> for PathInfo {
    type Error = StoreError;

    fn try_from(row: Row) -> Result<Self, StoreError> {
        let malformed = |what: &str| StoreError::Malformed { path: row.path.clone(), what: what.to_owned() };
        let store_path =
            |text: &str| StorePath::from_absolute(text).map_err(|error| malformed(&error.to_string()));
        let hash = row.hash.as_deref().filter(|hash| !hash.is_empty()).ok_or_else(|| malformed("no hash"))?;
        let nar_hash: NarHash = hash.parse().map_err(|_| malformed("a hash that is no SHA-256"))?;
        let nar_size = row.nar_size.and_then(|size| u64::try_from(size).ok()).filter(|size| *size > 0);
        let mut references = words(row.refs.as_deref()).map(store_path).collect::<Result<Vec<_>, _>>()?;
        references.sort_unstable();
        Ok(Self {
            path: store_path(&row.path)?,
            nar_hash,
            nar_size: nar_size.ok_or_else(|| malformed("no size"))?,
            references,
            deriver: row.deriver.as_deref().filter(|text| !text.is_empty()).map(store_path).transpose()?,
            ca: row.ca.clone().filter(|text| !text.is_empty()),
            // Nix keeps whatever somebody called a signature; what is none proves nothing.
            signatures: words(row.sigs.as_deref())
                .filter_map(|text| text.parse::<Signature>().ok())
                .collect(),
        })
    }
}

fn words(text: Option<&str>) -> impl Iterator<Item = &str> {
    text.unwrap_or_default().split_ascii_whitespace()
}
