//! Whoever writes on PostgreSQL is alone, and whoever goes while it waits for that is in nobody's way.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, reason = "tests")]

use std::str::FromStr as _;

use larder_service::{
    config::DatabaseServer,
    metadata::{Metadata, MetadataError},
};
use larder_tests::postgres::Postgres;
use sqlx::{ConnectOptions as _, PgConnection, postgres::PgConnectOptions};
use tokio::task::JoinHandle;

/// Takes the lock of whoever writes,
const LOCK: &str = "SELECT pg_advisory_lock(781075, hashtext(current_schema()))";
/// and gives it back.
const UNLOCK: &str = "SELECT pg_advisory_unlock_all()";

/// A server, another one who writes on it, and a Larder.
struct Scene {
    _server: Postgres,
    other: PgConnection,
    larder: Metadata,
}

impl Scene {
    async fn new() -> Self {
        let server = Postgres::start().await;
        let connect = PgConnectOptions::from_str(&server.url()).unwrap();
        let server_of_larder =
            DatabaseServer { key: "url".to_owned(), connect: connect.clone(), connections: 2 };
        let larder = Metadata::open_on(&server_of_larder).await.unwrap();
        Self { _server: server, other: connect.connect().await.unwrap(), larder }
    }

    async fn say(&mut self, statement: &'static str) -> Result<(), sqlx::Error> {
        sqlx::query(statement).execute(&mut self.other).await.map(drop)
    }

    /// Larder begins to write, and waits for the lock, which the other one holds.
    async fn waiting(&mut self) -> JoinHandle<Result<u64, MetadataError>> {
        let larder = self.larder.clone();
        let writing = tokio::spawn(async move { larder.forget_samples(0).await });
        let waits = "SELECT EXISTS (SELECT 1 FROM pg_locks WHERE locktype = 'advisory' AND NOT granted)";
        while !sqlx::query_scalar::<_, bool>(waits).fetch_one(&mut self.other).await.unwrap() {
            tokio::task::yield_now().await;
        }
        writing
    }

    /// Both may write again, and nothing that was begun is left.
    async fn both_write(&mut self) {
        // As long as a lock is waited for; what is left holds it for longer.
        self.say("SET lock_timeout = '10s'").await.unwrap();
        for _ in 0..4 {
            self.larder.forget_samples(0).await.unwrap();
            self.say(LOCK).await.unwrap();
            self.say(UNLOCK).await.unwrap();
        }
    }
}

#[tokio::test]
async fn whoever_goes_while_it_waits_holds_nothing() {
    let mut scene = Scene::new().await;
    scene.say(LOCK).await.unwrap();
    for _ in 0..2 {
        let writing = scene.waiting().await;
        writing.abort();
        assert!(writing.await.unwrap_err().is_cancelled());
    }
    scene.say(UNLOCK).await.unwrap();
    scene.both_write().await;
}

#[tokio::test]
async fn whoever_waited_too_long_may_write_later() {
    let mut scene = Scene::new().await;
    scene.say(LOCK).await.unwrap();
    for _ in 0..2 {
        let writing = scene.waiting().await;
        // As the server does it when its patience is over.
        let end = "SELECT pg_cancel_backend(pid) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted";
        scene.say(end).await.unwrap();
        assert!(writing.await.unwrap().unwrap_err().is_unreachable());
    }
    scene.say(UNLOCK).await.unwrap();
    scene.both_write().await;
}
