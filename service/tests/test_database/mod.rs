//! The database of a test: a file in its directory; or, where `LARDER_TEST_DATABASE` names one on a PostgreSQL server, a
//! schema there of that directory's own.

use std::{env, path::Path, str::FromStr as _};

use larder_service::config::{DatabaseConfig, DatabaseServer};
use sqlx::{AnyConnection, AssertSqlSafe, ConnectOptions as _, Connection as _, postgres::PgConnectOptions};

/// The variable that names the server's database.
pub const VARIABLE: &str = "LARDER_TEST_DATABASE";

/// What `LARDER_DATABASE_URL` is to be for a service with its data in this directory. None: nothing.
pub async fn url(directory: &Path) -> Option<String> {
    let server = env::var(VARIABLE).ok().filter(|url| !url.is_empty())?;
    let name = blake3::hash(directory.as_os_str().as_encoded_bytes()).to_hex();
    let schema = format!("larder_{}", &name[..24]);
    let mut connection = PgConnectOptions::from_str(&server).unwrap().connect().await.unwrap();
    let make = format!("CREATE SCHEMA IF NOT EXISTS {schema}");
    sqlx::query(AssertSqlSafe(make)).execute(&mut connection).await.unwrap();
    connection.close().await.unwrap();
    Some(format!("{server}?options[search_path]={schema}"))
}

/// Where the rows of a service with its data in this directory are to lie.
pub async fn place(directory: &Path) -> DatabaseConfig {
    match url(directory).await {
        None => DatabaseConfig::File,
        Some(url) => {
            let connect = PgConnectOptions::from_str(&url).unwrap();
            DatabaseConfig::Server(Box::new(DatabaseServer { connect, connections: 4 }))
        }
    }
}

/// A look at the rows of a service with its data in this directory.
pub async fn connect(directory: &Path) -> AnyConnection {
    sqlx::any::install_default_drivers();
    let file = || format!("sqlite://{}", directory.join("larder.db").display());
    let url = url(directory).await.unwrap_or_else(file);
    AnyConnection::connect(&url).await.unwrap()
}
