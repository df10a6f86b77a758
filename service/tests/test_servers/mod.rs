//! Where a test's service keeps its rows and its objects: in its directory; or, where variables name servers, there, in a
//! schema and in a folder of a bucket that are that directory's own.
//!
//! `LARDER_TEST_DATABASE` names a database on a PostgreSQL server, `LARDER_TEST_STORAGE` a bucket, as in `s3://objects`; how
//! its server is reached, AWS's own variables say.

pub mod objects;

use std::{env, path::Path, str::FromStr as _};

use larder_service::config::{
    BucketConfig, Config, DatabaseConfig, DatabaseServer, Environment, StorageConfig,
};
use sqlx::{AnyConnection, AssertSqlSafe, ConnectOptions as _, Connection as _, postgres::PgConnectOptions};

const TEST_DATABASE: &str = "LARDER_TEST_DATABASE";

fn variable(name: &str) -> Option<String> {
    env::var(name).ok().filter(|value| !value.is_empty())
}

/// What is a directory's own on the servers has this name.
fn name_of(directory: &Path) -> String {
    format!("larder_{}", &blake3::hash(directory.as_os_str().as_encoded_bytes()).to_hex()[..24])
}

/// What `LARDER_DATABASE_URL` is to be for a service with its data in this directory. None: nothing.
pub async fn database_url(directory: &Path) -> Option<String> {
    let server = variable(TEST_DATABASE)?;
    let schema = name_of(directory);
    let mut connection = PgConnectOptions::from_str(&server).unwrap().connect().await.unwrap();
    let make = format!("CREATE SCHEMA IF NOT EXISTS {schema}");
    sqlx::query(AssertSqlSafe(make)).execute(&mut connection).await.unwrap();
    connection.close().await.unwrap();
    Some(format!("{server}?options[search_path]={schema}"))
}

/// The same of `LARDER_STORAGE_URL`.
pub fn storage_url(directory: &Path) -> Option<String> {
    Some(format!("{}/{}", variable("LARDER_TEST_STORAGE")?, name_of(directory)))
}

/// What a program needs in its environment for a service with its data in this directory.
pub async fn environment(directory: &Path) -> Vec<(String, String)> {
    let urls = [
        ("LARDER_DATABASE_URL", database_url(directory).await),
        ("LARDER_STORAGE_URL", storage_url(directory)),
    ];
    let urls = urls.into_iter().filter_map(|(name, url)| Some((name.to_owned(), url?)));
    urls.chain(credentials()).collect()
}

/// What a program needs in its environment to reach the bucket.
pub fn credentials() -> impl Iterator<Item = (String, String)> {
    env::vars().filter(|(name, _)| ["AWS_", "AZURE_", "AZURITE_"].iter().any(|cloud| name.starts_with(cloud)))
}

/// Has a service with its data in this directory keep them where it is to.
pub async fn place(config: &mut Config, directory: &Path) {
    config.database = database(directory).await;
    config.storage = storage(directory);
}

/// Where its objects are to lie.
fn storage(directory: &Path) -> StorageConfig {
    match storage_url(directory) {
        None => StorageConfig::Folder,
        Some(url) => {
            let bucket = BucketConfig::of_environment("url", &url, &Environment::of_process());
            StorageConfig::Bucket(Box::new(bucket.unwrap()))
        }
    }
}

/// Where its rows are to lie.
pub async fn database(directory: &Path) -> DatabaseConfig {
    match database_url(directory).await {
        None => DatabaseConfig::File,
        Some(url) => {
            let connect = PgConnectOptions::from_str(&url).unwrap();
            DatabaseConfig::Server(Box::new(DatabaseServer {
                key: TEST_DATABASE.to_owned(),
                connect,
                connections: 4,
            }))
        }
    }
}

/// A look at the rows of a service with its data in this directory.
pub async fn connect(directory: &Path) -> AnyConnection {
    sqlx::any::install_default_drivers();
    let file = || format!("sqlite://{}", directory.join("larder.db").display());
    let url = database_url(directory).await.unwrap_or_else(file);
    AnyConnection::connect(&url).await.unwrap()
}
