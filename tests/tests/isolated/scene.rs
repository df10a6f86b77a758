//! A service with a rule that isolates pull requests.

use std::{collections::BTreeMap, path::Path};

use larder_protocol::{StorePath, narinfo::NarInfo};
use larder_tests::{
    client::{Answer, Client},
    github::Job,
    test_servers,
    world::{Scene, World},
};
use sqlx::Connection as _;

/// The rule beside the one by which the branch main may push.
pub const RULE: &str = r#"
[[cache.trust]]
repository = "acme/flake"
isolate = true
"#;

/// A world in which pull requests of acme/flake have caches of their own, bounded as `limits` says.
pub async fn world(limits: &str) -> World {
    World::with(Scene::saying(&format!("{RULE}\n[isolated]\n{limits}"))).await
}

/// What a job of a pull request of acme/flake gets.
pub async fn try_pull_request(world: &World, number: u64) -> Answer<Client> {
    world.exchange(&Job::pull_request("acme/flake", number)).await
}

/// A session of a job of a pull request of acme/flake.
pub async fn pull_request(world: &World, number: u64) -> Client {
    try_pull_request(world, number).await.unwrap()
}

/// The narinfo of a path in a cache.
pub async fn narinfo(world: &World, cache: &str, path: &StorePath) -> Option<NarInfo> {
    let url = format!("{}/{cache}/{}.narinfo", world.url(), path.hash());
    let response = reqwest::get(url).await.unwrap();
    match response.status().as_u16() {
        200 => Some(NarInfo::parse(&response.text().await.unwrap()).unwrap()),
        404 => None,
        status => panic!("a narinfo was answered with {status}"),
    }
}

/// How many rows each table has, but those that are not about what is stored.
pub async fn rows(world: &World) -> BTreeMap<String, i64> {
    rows_in(&world.data_dir()).await
}

/// The same of a service that keeps all in this folder.
pub async fn rows_in(data: &Path) -> BTreeMap<String, i64> {
    let mut connection = test_servers::connect(data).await;
    let tables = match connection.backend_name() {
        "SQLite" => "SELECT name FROM sqlite_schema WHERE type = 'table'",
        _ => {
            "SELECT CAST(table_name AS TEXT) AS name FROM information_schema.tables WHERE table_schema = current_schema()"
        }
    };
    let tables: Vec<String> = sqlx::query_scalar(sqlx::AssertSqlSafe(format!(
        "SELECT name FROM ({tables}) AS tables
         WHERE name NOT IN ('tokens', 'used_id_tokens', 'audit', 'bound_names', 'jobs', 'paces', 'samples', 'scrub',
                            'sweeps', 'sqlite_sequence', '_sqlx_migrations')"
    )))
    .fetch_all(&mut connection)
    .await
    .unwrap();
    let mut rows = BTreeMap::new();
    for table in tables {
        let count = sqlx::AssertSqlSafe(format!("SELECT count(*) FROM {table}"));
        rows.insert(table, sqlx::query_scalar(count).fetch_one(&mut connection).await.unwrap());
    }
    connection.close().await.unwrap();
    rows
}

/// What lies in storage.
pub async fn objects(world: &World) -> Vec<String> {
    world.objects().sizes().await.into_keys().collect()
}
