//! The service with a few webhook rules, and somebody who sends deliveries.

use std::{
    fs,
    path::Path,
    process::Output,
    sync::{
        Arc,
        atomic::{AtomicI64, Ordering},
    },
};

use larder_protocol::manifest::Manifests;
use larder_service::{
    Service,
    clock::Clock,
    config::{Config, Environment},
    serve,
    trust::people,
};
use reqwest::{RequestBuilder, Response};
use serde_json::{Value, json};
use tokio::{net::TcpListener, process::Command, sync::oneshot, task::JoinHandle};

use crate::github::{SIGNATURE, guid, session, sign};
use crate::test_servers;

pub const NOW: i64 = 1_800_000_000;
pub const HOUR: i64 = 60 * 60;
pub const DAY: i64 = 24 * HOUR;
pub const FIRST: &str = "the first secret of acme";
pub const SECOND: &str = "the second secret of acme";
/// GitHub's own, of the example that its documentation tests signatures with ("Validating webhook deliveries").
pub const OTHER: &str = "It's a Secret to Everybody";

const SECRETS: [(&str, &str); 3] = [("FIRST", FIRST), ("SECOND", SECOND), ("OTHER", OTHER)];

const RULES: &str = r#"
[[webhook]]
repositories = ["acme/flake", "team/*"]
secrets = [{ env = "FIRST" }, { env = "SECOND" }]
[[webhook]]
repositories = ["other/thing"]
secrets = [{ env = "OTHER" }]

[[cache]]
name = "main"
[[cache]]
name = "other"
"#;

pub struct World {
    pub url: String,
    pub client: reqwest::Client,
    pub service: Arc<Service>,
    pub time: Arc<AtomicI64>,
    stop: oneshot::Sender<()>,
    served: JoinHandle<()>,
    data: tempfile::TempDir,
    environment: Vec<(String, String)>,
}

impl World {
    pub async fn new() -> Self {
        let data = tempfile::tempdir().unwrap();
        let [first, second, other] = SECRETS;
        let here = ("LARDER_DATA_DIR", data.path().to_str().unwrap());
        let environment = Environment::from([first, second, other, here]);
        let mut config = Config::parse(Path::new("larder.toml"), RULES, &environment).unwrap();
        test_servers::place(&mut config, data.path()).await;
        fs::write(data.path().join("larder.toml"), RULES).unwrap();
        let time = Arc::new(AtomicI64::new(NOW));
        let service = Service::open(config, Clock::Set(time.clone())).await.unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let (stop, stopped) = oneshot::channel();
        let served = tokio::spawn(serve(service.clone(), listener, async {
            let _ = stopped.await;
        }));
        let environment = test_servers::environment(data.path()).await;
        Self { url, client: reqwest::Client::new(), service, time, stop, served, data, environment }
    }

    /// Lets time go by, and waits until all that is due then is done.
    pub async fn pass(&self, seconds: i64) {
        self.time.fetch_add(seconds, Ordering::SeqCst);
        self.service.queue.wake();
        self.service.queue.idle().await.unwrap();
    }

    /// A delivery with a name of its own, signed by nobody.
    pub fn delivery(&self, event: &str, body: &[u8]) -> RequestBuilder {
        self.delivery_named(&guid(), event, body)
    }

    pub fn delivery_named(&self, guid: &str, event: &str, body: &[u8]) -> RequestBuilder {
        self.client
            .post(format!("{}/webhooks/github", self.url))
            .header("Content-Type", "application/json")
            .header("User-Agent", "GitHub-Hookshot/044aadd")
            .header("X-GitHub-Event", event)
            .header("X-GitHub-Delivery", guid)
            .header("X-GitHub-Hook-ID", "292430182")
            .body(body.to_vec())
    }

    /// Delivers what acme's repository would, and expects it to be taken.
    pub async fn deliver(&self, event: &str, payload: &Value) -> Value {
        let body = payload.to_string().into_bytes();
        let answer = self.delivery(event, &body).header(SIGNATURE, sign(FIRST, &body)).send().await.unwrap();
        taken(answer).await
    }

    /// How many deliveries are stored.
    pub async fn stored(&self) -> usize {
        self.service.metadata.deliveries(10_000).await.unwrap().len()
    }

    /// The keys of all jobs that wait, but for what is always there.
    pub async fn jobs(&self) -> Vec<String> {
        let jobs = self.service.metadata.jobs().await.unwrap();
        jobs.into_iter()
            .map(|job| job.key)
            .filter(|key| !["tidy", "ask-for-missed"].contains(&key.as_str()))
            .collect()
    }

    /// What `larderd` says of the same data. The service goes on meanwhile: what it is about to write would keep it waiting.
    pub async fn larderd(&self, arguments: &[&str]) -> Output {
        let mut command = Command::new(env!("CARGO_BIN_EXE_larderd"));
        command.env_clear().envs(SECRETS).env("LARDER_DATA_DIR", self.data.path());
        command.envs(self.environment.clone());
        command
            .env("LARDER_CONFIG", self.data.path().join("larder.toml"))
            .args(arguments)
            .output()
            .await
            .unwrap()
    }

    /// How many manifests are in the database, whether or not anybody is told of them.
    pub async fn kept_manifests(&self) -> i64 {
        let count = sqlx::query_scalar("SELECT count(*) FROM manifests");
        count.fetch_one(&mut self.database().await).await.unwrap()
    }

    /// The keys of all jobs of a kind, however many there are.
    pub async fn keys_of_jobs(&self, kind: &str) -> Vec<String> {
        let keys = sqlx::query_scalar("SELECT key FROM jobs WHERE kind = $1").bind(kind);
        keys.fetch_all(&mut self.database().await).await.unwrap()
    }

    async fn database(&self) -> sqlx::AnyConnection {
        test_servers::connect(self.data.path()).await
    }

    /// A session in `main` for a job with other claims than most.
    pub async fn job(&self, change: impl FnOnce(&mut Value)) -> String {
        self.job_in("main", change).await
    }

    pub async fn job_in(&self, cache: &str, change: impl FnOnce(&mut Value)) -> String {
        session(&self.service, cache, change).await
    }

    /// A person's token for `main`.
    pub async fn person(&self) -> String {
        let Service { metadata, clock, .. } = &*self.service;
        let main = "main".parse().unwrap();
        let name = guid();
        people::create_token(metadata, clock, people::NewToken::pushing(&name, &main, 100 * DAY))
            .await
            .unwrap()
            .expose()
            .to_owned()
    }

    /// Reports a manifest to `main`, and expects this answer.
    pub async fn report(&self, token: &str, manifest: &Value, status: u16) {
        let url = format!("{}/api/v1/caches/main/manifests", self.url);
        let answer = self.client.post(url).bearer_auth(token).json(manifest).send().await.unwrap();
        assert_eq!(answer.status(), status, "{}", answer.text().await.unwrap());
    }

    pub async fn manifests(&self, token: &str, repository: &str, git_ref: &str) -> Manifests {
        let url = format!("{}/api/v1/repositories/{repository}/manifests?ref={git_ref}", self.url);
        self.client.get(url).bearer_auth(token).send().await.unwrap().json().await.unwrap()
    }

    pub async fn end(self) {
        drop(self.stop);
        self.served.await.unwrap();
    }
}

pub async fn taken(answer: Response) -> Value {
    assert_eq!(answer.status(), 202);
    answer.json().await.unwrap()
}

/// What a payload about acme's repository has, and more.
pub fn about_acme(more: Value) -> Value {
    let mut payload =
        json!({ "repository": { "id": 42, "full_name": "acme/flake" }, "sender": { "login": "anna" } });
    payload.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    payload
}
