//! The service with upstreams, a webhook, and people and jobs that come to it.

use std::{
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicI64, Ordering},
    },
};

use larder_protocol::{
    StorePath,
    api::Permission,
    narinfo::NarInfo,
    prefetch::{Prefetch, PrefetchState},
};
use larder_service::{
    Service,
    clock::Clock,
    config::{Config, Environment, cache::CheckedUpstream},
    retention::sweep,
    serve,
    trust::people,
};
use reqwest::StatusCode;
use serde_json::{Value, json};
use tokio::{net::TcpListener, sync::oneshot, task::JoinHandle};

use crate::test_servers::{self, objects::Objects};
use crate::{
    github::{SIGNATURE, guid, session, sign},
    nar::{TestNar, decompress},
};

const NOW: i64 = 1_800_000_000;
const HOUR: i64 = 3600;
const SECRET: &str = "the secret of acme's webhook";
const RULES: &str = r#"
[retention]
sweep_every = "1000d"

[[webhook]]
repositories = ["acme/flake"]
secrets = [{ env = "SECRET" }]
[[webhook]]
repositories = ["acme/quiet"]
secrets = [{ env = "SECRET" }]
prefetch = false

[[prefetch.schedule]]
repository = "acme/flake"
ref = "refs/heads/nightly"
at = "0 4 * * *"

[[cache]]
name = "main"
upstream = []
[[cache]]
name = "other"
upstream = []
[[cache]]
name = "private"
public = false
upstream = []
"#;

pub struct World {
    pub url: String,
    pub client: reqwest::Client,
    pub service: Arc<Service>,
    /// A person's who may push to `main`.
    pub token: String,
    time: Arc<AtomicI64>,
    stop: oneshot::Sender<()>,
    served: JoinHandle<()>,
    data: tempfile::TempDir,
}

impl World {
    pub async fn new(upstreams: &[CheckedUpstream]) -> Self {
        let data = tempfile::tempdir().unwrap();
        let environment =
            Environment::from([("SECRET", SECRET), ("LARDER_DATA_DIR", data.path().to_str().unwrap())]);
        let mut config = Config::parse("larder.toml".as_ref(), RULES, &environment).unwrap();
        test_servers::place(&mut config, data.path()).await;
        for cache in &mut config.caches {
            cache.upstreams = upstreams.to_vec();
        }
        let time = Arc::new(AtomicI64::new(NOW));
        let service = Service::open(config, Clock::Set(time.clone())).await.unwrap();
        // The one that every service begins with. Behind a jump of the clock it would give up what is under way.
        sweep(&service).await.unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let (stop, stopped) = oneshot::channel();
        let served = tokio::spawn(serve(service.clone(), listener, async {
            let _ = stopped.await;
        }));
        let client = reqwest::Client::new();
        let mut world = Self { url, client, service, token: String::new(), time, stop, served, data };
        world.token = world.token_for("main", &[Permission::Push, Permission::Read]).await;
        world
    }

    /// A person's token for a cache.
    pub async fn token_for(&self, cache: &str, permissions: &[Permission]) -> String {
        let cache = cache.parse().unwrap();
        let name = guid();
        let new = people::NewToken {
            permissions: permissions.to_vec(),
            ..people::NewToken::pushing(&name, &cache, 100 * HOUR)
        };
        let token = people::create_token(&self.service.metadata, &self.service.clock, new).await.unwrap();
        token.expose().to_owned()
    }

    /// Lets time go by.
    pub fn advance(&self, seconds: i64) {
        self.time.fetch_add(seconds, Ordering::SeqCst);
        self.service.queue.wake();
    }

    /// Lets time go by, and waits until all that is due then is done.
    pub async fn pass(&self, seconds: i64) {
        self.advance(seconds);
        self.service.queue.idle().await.unwrap();
    }

    pub async fn ask(&self, token: &str, cache: &str, paths: &[&StorePath]) -> reqwest::Response {
        let request = json!({ "cache": cache, "paths": paths });
        let url = format!("{}/api/v1/prefetches", self.url);
        self.client.post(url).bearer_auth(token).json(&request).send().await.unwrap()
    }

    /// Asks for a prefetch into `main`.
    pub async fn begin(&self, paths: &[&StorePath]) -> Prefetch {
        let answer = self.ask(&self.token, "main", paths).await;
        assert_eq!(answer.status(), 202);
        answer.json().await.unwrap()
    }

    pub async fn tell(&self, id: &str) -> Prefetch {
        let url = format!("{}/api/v1/prefetches/{id}", self.url);
        self.client.get(url).bearer_auth(&self.token).send().await.unwrap().json().await.unwrap()
    }

    /// Prefetches into `main`, and tells how that ended.
    pub async fn prefetch(&self, nars: &[&TestNar]) -> Prefetch {
        let paths: Vec<&StorePath> = nars.iter().map(|nar| &nar.info.path).collect();
        let asked = self.begin(&paths).await;
        self.pass(0).await;
        self.tell(&asked.id).await
    }

    pub async fn complete(&self, nars: &[&TestNar]) -> Prefetch {
        let told = self.prefetch(nars).await;
        assert_eq!((told.state, &told.error), (PrefetchState::Complete, &None), "{told:?}");
        told
    }

    pub async fn narinfo(&self, cache: &str, nar: &TestNar) -> Option<NarInfo> {
        let url = format!("{}/{cache}/{}.narinfo", self.url, nar.info.path.hash());
        let answer = self.client.get(url).send().await.unwrap();
        match answer.status() {
            StatusCode::OK => Some(NarInfo::parse(&answer.text().await.unwrap()).unwrap()),
            StatusCode::NOT_FOUND => None,
            status => panic!("{status}"),
        }
    }

    /// Whether `main` has paths, with the contents that they should have.
    pub async fn has(&self, nars: &[&TestNar]) -> bool {
        for nar in nars {
            let Some(narinfo) = self.narinfo("main", nar).await else { return false };
            assert_eq!((narinfo.nar_hash, &narinfo.references), (nar.info.nar_hash, &nar.info.references));
            let url = format!("{}/main/{}", self.url, narinfo.url);
            let bytes = self.client.get(url).send().await.unwrap().bytes().await.unwrap();
            assert!(decompress(&bytes) == nar.bytes);
        }
        true
    }

    /// The keys of all jobs, but for what is always there.
    pub async fn jobs(&self) -> Vec<String> {
        let jobs = self.service.metadata.jobs().await.unwrap();
        let always = |key: &String| key == "tidy" || key.starts_with("schedule ");
        jobs.into_iter().map(|job| job.key).filter(|key| !always(key)).collect()
    }

    /// How the prefetches stand, in order.
    pub async fn prefetches(&self) -> Vec<String> {
        let states = sqlx::query_scalar("SELECT state FROM prefetches ORDER BY id");
        states.fetch_all(&mut self.database().await).await.unwrap()
    }

    /// Does something to the database.
    pub async fn sql(&self, statement: &str) {
        sqlx::raw_sql(sqlx::AssertSqlSafe(statement)).execute(&mut self.database().await).await.unwrap();
    }

    /// What a query gives: one value.
    pub async fn value<T>(&self, query: &'static str) -> T
    where
        T: for<'r> sqlx::Decode<'r, sqlx::Any> + sqlx::Type<sqlx::Any> + Send + Unpin,
    {
        sqlx::query_scalar(query).fetch_one(&mut self.database().await).await.unwrap()
    }

    /// The names of all tables that are Larder's own.
    pub async fn tables(&self) -> Vec<String> {
        let mut database = self.database().await;
        let tables = match database.backend_name() {
            "SQLite" => {
                "SELECT name FROM sqlite_schema WHERE type = 'table' AND name NOT LIKE 'sqlite~_%' ESCAPE '~'
                   AND name <> '_sqlx_migrations'"
            }
            _ => {
                "SELECT CAST(tablename AS TEXT) FROM pg_tables
                 WHERE schemaname = current_schema() AND tablename <> '_sqlx_migrations'"
            }
        };
        sqlx::query_scalar(tables).fetch_all(&mut database).await.unwrap()
    }

    /// The folder in which the service keeps all that is on this machine.
    pub fn directory(&self) -> &Path {
        self.data.path()
    }

    /// The file of an object, where objects are files.
    pub fn object_file(&self, key: &str) -> PathBuf {
        self.data.path().join("objects").join(key)
    }

    /// What lies in its storage.
    pub fn objects(&self) -> Objects {
        Objects::of(self.data.path())
    }

    async fn database(&self) -> sqlx::AnyConnection {
        test_servers::connect(self.data.path()).await
    }

    pub async fn deliver(&self, event: &str, payload: &Value) {
        let body = payload.to_string();
        let answer = self.client.post(format!("{}/webhooks/github", self.url));
        let answer = answer
            .header("Content-Type", "application/json")
            .header("X-GitHub-Event", event)
            .header("X-GitHub-Delivery", guid())
            .header(SIGNATURE, sign(SECRET, body.as_bytes()))
            .body(body);
        assert_eq!(answer.send().await.unwrap().status(), 202);
    }

    /// Reports what a job wanted, by a session with these claims in a cache.
    pub async fn report(&self, cache: &str, claims: Value, built: &[&TestNar], substituted: &[&TestNar]) {
        let token = self.job(cache, claims).await;
        let paths = |nars: &[&TestNar]| nars.iter().map(|nar| nar.info.path.clone()).collect::<Vec<_>>();
        let manifest =
            json!({ "system": "x86_64-linux", "built": paths(built), "substituted": paths(substituted) });
        let url = format!("{}/api/v1/caches/{cache}/manifests", self.url);
        let answer = self.client.post(url).bearer_auth(token).json(&manifest).send().await.unwrap();
        assert_eq!(answer.status(), 204);
    }

    /// A job's session in a cache.
    pub async fn job(&self, cache: &str, more: Value) -> String {
        let more = more.as_object().unwrap().clone();
        session(&self.service, cache, |claims| claims.as_object_mut().unwrap().extend(more)).await
    }

    pub async fn end(self) {
        assert_eq!(self.jobs().await, Vec::<String>::new(), "jobs are left");
        drop(self.stop);
        self.served.await.unwrap();
    }
}
