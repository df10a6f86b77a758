//! `[database]`: where rows lie, if not in a file in the data directory.

use std::{
    fmt,
    path::{Path, PathBuf},
    str::FromStr as _,
};

use serde::Deserialize;
use sqlx::postgres::PgConnectOptions;

use super::{ConfigError, Environment, environment, s3::read_secret};

/// How many connections a replica has at most for what only reads.
const CONNECTIONS: u32 = 8;

/// Where rows lie, checked.
#[derive(Debug, Clone, Default)]
pub enum DatabaseConfig {
    /// In the file `larder.db` of the data directory: SQLite.
    #[default]
    File,
    /// On a PostgreSQL server.
    Server(Box<DatabaseServer>),
}

/// A database on a PostgreSQL server.
#[derive(Clone)]
pub struct DatabaseServer {
    /// What names it: a key of the file, a variable or an argument.
    pub key: String,
    /// Where it is, and as whom it is asked. The password is secret.
    pub connect: PgConnectOptions,
    /// How many connections this process has at most for what only reads. It has [two more](super::super::metadata)
    /// for what writes, and one for each sweep.
    pub connections: u32,
}

impl fmt::Debug for DatabaseServer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}, at most {} connections", self.connections)
    }
}

/// The server and the database, for messages.
impl fmt::Display for DatabaseServer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let database = self.connect.get_database().unwrap_or_else(|| self.connect.get_username());
        write!(f, "postgres://{}:{}/{database}", self.connect.get_host(), self.connect.get_port())
    }
}

/// `[database]`, as the file says it.
#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct File {
    url: Option<String>,
    password_file: Option<PathBuf>,
    max_connections: Option<u32>,
}

impl fmt::Debug for File {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[database]")
    }
}

impl DatabaseConfig {
    pub(super) fn check(file: File, environment: &Environment) -> Result<Self, ConfigError> {
        let said =
            environment.get(environment::DATABASE_URL).map(|url| (environment::DATABASE_URL, url.to_owned()));
        let Some((key, url)) = said.or(file.url.map(|url| ("database.url", url))) else {
            let other = [
                ("password_file", file.password_file.is_some()),
                ("max_connections", file.max_connections.is_some()),
            ];
            return match other.iter().find(|(_, said)| *said) {
                Some((key, _)) => Err(ConfigError::value(
                    format!("database.{key}"),
                    "is said of a server, and there is none. Write database.url = \"postgres://larder@host/larder\", or \
                     leave it out: then a file in data_dir is the database",
                )),
                None => Ok(Self::File),
            };
        };
        let connections = file.max_connections.unwrap_or(CONNECTIONS);
        if connections == 0 {
            return Err(ConfigError::value("database.max_connections", "is 0. Write at least 1"));
        }
        let password = file.password_file.as_deref().map(|file| ("database.password_file", file));
        let otherwise = "(database.password_file); leave it out for a file in data_dir";
        let connect = connect(key, &url, password, otherwise)?;
        Ok(Self::Server(Box::new(DatabaseServer { key: key.to_owned(), connect, connections })))
    }
}

impl DatabaseServer {
    /// A database that something else than the file names: `key` says what, `password_file` what names the file that has
    /// its password.
    ///
    /// # Errors
    /// When it is no such URL, or the file cannot be read.
    pub(crate) fn named(
        key: &str,
        url: &str,
        password_file: Option<(&str, &Path)>,
    ) -> Result<Self, ConfigError> {
        let connect = connect(key, url, password_file, "(--password-file)")?;
        Ok(Self { key: key.to_owned(), connect, connections: CONNECTIONS })
    }
}

/// How a database is reached. The first of `password` names the second. `otherwise` ends the remedy for what is no such URL:
/// what names the password's file, and what else may be written.
fn connect(
    key: &str,
    url: &str,
    password: Option<(&str, &Path)>,
    otherwise: &str,
) -> Result<PgConnectOptions, ConfigError> {
    // The text may hold a password, and is not repeated.
    let wrong = || {
        let problem = format!(
            "is not the URL of a PostgreSQL database. Write for example \
             \"postgres://larder@db.example.org/larder?sslmode=verify-full\", and the password into a file {otherwise}"
        );
        ConfigError::value(key, problem)
    };
    if !url.starts_with("postgres://") && !url.starts_with("postgresql://") {
        return Err(wrong());
    }
    let connect = PgConnectOptions::from_str(url).map_err(|_| wrong())?;
    let Some((key, file)) = password else { return Ok(connect) };
    Ok(connect.password(&read_secret(key, file)?))
}
