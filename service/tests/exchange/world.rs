//! The service with a real issuer, and a client of both.

use std::{
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicI64, Ordering},
    },
};

use axum::body::Body;
use http::{HeaderMap, Method, Request, Response, StatusCode, header};
use http_body_util::BodyExt;
use larder_protocol::api::Permission;
use larder_service::{
    Service,
    client::Peer,
    clock::Clock,
    config::{Config, Environment},
    router, trust,
};
use serde_json::{Value, json};
use tower::ServiceExt;

use crate::issuer::{Issuer, Key, token};
use crate::test_servers;

pub const AUDIENCE: &str = "https://cache.example.org";
pub const NOW: i64 = 1_800_000_000;

async fn open(config: &str, directory: &Path, time: &Arc<AtomicI64>) -> Arc<Service> {
    let environment = Environment::from([("LARDER_DATA_DIR", directory.to_str().unwrap())]);
    let mut config = Config::parse(Path::new("larder.toml"), config, &environment).unwrap();
    test_servers::place(&mut config, directory).await;
    Service::open(config, Clock::Set(time.clone())).await.unwrap()
}

pub struct World {
    pub issuer: Arc<Issuer>,
    pub key: Arc<Key>,
    pub service: Arc<Service>,
    pub time: Arc<AtomicI64>,
    config: String,
    directory: tempfile::TempDir,
}

impl World {
    pub async fn new() -> Self {
        Self::configured("").await
    }

    /// With more tables in its configuration, before those of the caches.
    pub async fn configured(tables: &str) -> Self {
        Self::with(
            Key::new("first"),
            &format!(
                "{tables}\
             [[issuer]]\nurl = \"ISSUER\"\n\
             [[cache]]\nname = \"main\"\nupstream = []\n\
             [[cache.trust]]\nrepository = \"acme/flake\"\nref = \"refs/heads/main\"\n\
             [[cache.trust]]\nrepository = \"acme/flake\"\nref = \"refs/heads/release-*\"\nref_protected = true\n\
             [[cache.trust]]\nrepository = \"acme/flake\"\nisolate = true\n\
             [[cache.trust]]\nrepository = \"acme/second\"\nref = \"refs/heads/main\"\n\
             [[cache]]\nname = \"other\"\n\
             [[cache.trust]]\nrepository = \"secret/project\"\nref = \"refs/heads/main\"\n"
            ),
        )
        .await
    }

    /// With an issuer that signs by `key` and no rules but these, of the cache `main`.
    pub async fn trusting(rules: &str) -> Self {
        let config = format!("[[issuer]]\nurl = \"ISSUER\"\n[[cache]]\nname = \"main\"\n{rules}");
        Self::with(Key::new("first"), &config).await
    }

    /// With an issuer that signs by `key`, and this configuration, in which its URL is `ISSUER`.
    pub async fn with(key: Arc<Key>, config: &str) -> Self {
        let issuer = Issuer::start(vec![key.jwk()]).await;
        let directory = tempfile::tempdir().unwrap();
        let config = format!("public_url = \"{AUDIENCE}\"\n{}", config.replace("ISSUER", &issuer.url));
        let time = Arc::new(AtomicI64::new(NOW));
        let service = open(&config, directory.path(), &time).await;
        Self { issuer, key, service, time, config, directory }
    }

    /// Stops the service and starts it anew on the same data.
    pub async fn restart(&mut self) {
        self.service.audit.flush().await;
        self.service.metadata.close().await;
        self.service = open(&self.config, self.directory.path(), &self.time).await;
    }

    /// Starts it anew with other rules.
    pub async fn restart_with(&mut self, from: &str, to: &str) {
        assert!(self.config.contains(from), "{}", self.config);
        self.config = self.config.replace(from, to);
        self.restart().await;
    }

    /// `larderd`, run on the same data and configuration: its exit code, what it printed, and what it complained of.
    pub async fn larderd(&self, arguments: &[&str]) -> (Option<i32>, String, String) {
        let file = self.directory.path().join("larder.toml");
        std::fs::write(&file, &self.config).unwrap();
        let mut command = tokio::process::Command::new(env!("CARGO_BIN_EXE_larderd"));
        command.env_clear().env("LARDER_DATA_DIR", self.directory.path()).env("LARDER_CONFIG", &file);
        command.envs(test_servers::environment(self.directory.path()).await);
        let output = command.args(arguments).output().await.unwrap();
        let text = |bytes| String::from_utf8(bytes).unwrap();
        (output.status.code(), text(output.stdout), text(output.stderr))
    }

    pub fn pass(&self, seconds: i64) {
        self.time.fetch_add(seconds, Ordering::SeqCst);
    }

    pub fn now(&self) -> i64 {
        self.time.load(Ordering::SeqCst)
    }

    /// What GitHub would put into a token that it makes now.
    pub fn claims(&self) -> Value {
        static TOKENS: AtomicI64 = AtomicI64::new(0);
        let now = self.now();
        json!({
            "iss": self.issuer.url, "aud": AUDIENCE, "jti": TOKENS.fetch_add(1, Ordering::SeqCst).to_string(),
            "sub": "repo:acme/flake:ref:refs/heads/main", "iat": now, "nbf": now - 600, "exp": now + 300,
            "repository": "acme/flake", "repository_id": "42", "repository_owner": "acme",
            "repository_owner_id": "7", "repository_visibility": "public", "ref": "refs/heads/main",
            "ref_protected": "true", "ref_type": "branch", "sha": "0123456789abcdef0123456789abcdef01234567",
            "event_name": "push", "workflow": "CI", "run_id": "1000", "run_attempt": "1", "run_number": "9",
            "check_run_id": "5000", "actor": "anna", "actor_id": "1", "runner_environment": "github-hosted",
        })
    }

    pub fn header(&self) -> Value {
        json!({"typ": "JWT", "alg": self.key.algorithm(), "kid": self.key.id, "x5t": "abc"})
    }

    pub fn sign(&self, claims: &Value) -> String {
        token(&self.header(), claims, |message| self.key.sign(message))
    }

    /// A token with what GitHub would put into it, but for `changes`; what is null is left out.
    pub fn changed(&self, changes: &Value) -> String {
        let mut claims = self.claims();
        for (name, value) in changes.as_object().unwrap() {
            match value {
                Value::Null => drop(claims.as_object_mut().unwrap().remove(name)),
                value => claims[name] = value.clone(),
            }
        }
        self.sign(&claims)
    }

    /// A good token.
    pub fn id_token(&self) -> String {
        self.sign(&self.claims())
    }

    pub async fn call(
        &self,
        method: Method,
        path: &str,
        bearer: Option<&str>,
        body: Vec<u8>,
    ) -> Response<Body> {
        let mut headers = HeaderMap::new();
        if let Some(token) = bearer {
            headers.insert(header::AUTHORIZATION, format!("Bearer {token}").parse().unwrap());
        }
        self.call_with(None, headers, method, path, body).await
    }

    /// A request with these headers, by a connection from this address.
    pub async fn call_with(
        &self,
        peer: Option<&str>,
        headers: HeaderMap,
        method: Method,
        path: &str,
        body: Vec<u8>,
    ) -> Response<Body> {
        let mut request = Request::builder().method(method).uri(path);
        request = request.header(header::CONTENT_LENGTH, body.len());
        if let Some(peer) = peer {
            request = request.extension(Peer(peer.parse().unwrap()));
        }
        request.headers_mut().unwrap().extend(headers);
        router(self.service.clone()).oneshot(request.body(Body::from(body)).unwrap()).await.unwrap()
    }

    pub async fn exchange_for(&self, cache: &str, id_token: &str) -> (StatusCode, Value) {
        let body = json!({"id_token": id_token, "cache": cache}).to_string();
        let answer = self.call(Method::POST, "/api/v1/token", None, body.into()).await;
        let status = answer.status();
        (status, read(answer).await)
    }

    pub async fn exchange(&self, id_token: &str) -> (StatusCode, Value) {
        self.exchange_for("main", id_token).await
    }

    /// The session token for a good ID token.
    pub async fn session(&self) -> String {
        let (status, answer) = self.exchange(&self.id_token()).await;
        assert_eq!(status, StatusCode::OK, "{answer}");
        answer["token"].as_str().unwrap().to_owned()
    }

    /// Refused with this status, and for a reason that has this part.
    pub async fn refuses(&self, id_token: &str, status: StatusCode, reason: &str) {
        let (answered, answer) = self.exchange(id_token).await;
        let message = answer["message"].as_str().unwrap_or_default();
        assert_eq!(answered, status, "{answer}");
        assert!(message.contains(reason), "no {reason:?} in: {message}");
    }

    /// What the token may do, as handlers ask.
    pub async fn may(
        &self,
        token: &str,
        cache: &str,
        permission: Permission,
    ) -> Result<trust::Grant, StatusCode> {
        let mut headers = http::HeaderMap::new();
        headers.insert(header::AUTHORIZATION, format!("bearer {token}").parse().unwrap());
        trust::authorize(&self.service, &headers, &cache.parse().unwrap(), permission)
            .await
            .map_err(|error| error.status())
    }
}

pub async fn read(answer: Response<Body>) -> Value {
    let body = answer.into_body().collect().await.unwrap().to_bytes();
    if body.is_empty() { Value::Null } else { serde_json::from_slice(&body).unwrap() }
}
