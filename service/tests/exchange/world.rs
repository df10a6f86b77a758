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

pub const AUDIENCE: &str = "https://cache.example.org";
pub const NOW: i64 = 1_800_000_000;

pub struct World {
    pub issuer: Arc<Issuer>,
    pub key: Arc<Key>,
    pub service: Arc<Service>,
    pub time: Arc<AtomicI64>,
    _directory: tempfile::TempDir,
}

impl World {
    pub async fn new() -> Self {
        Self::configured("").await
    }

    /// With more tables in its configuration, before those of the caches.
    pub async fn configured(tables: &str) -> Self {
        let key = Key::new("first");
        let issuer = Issuer::start(vec![key.jwk()]).await;
        let directory = tempfile::tempdir().unwrap();
        let config = format!(
            "public_url = \"{AUDIENCE}\"\n\
             {tables}\
             [[issuer]]\nurl = \"{}\"\n\
             [[cache]]\nname = \"main\"\nupstream = []\n\
             [[cache.trust]]\nrepository = \"acme/flake\"\nref = \"refs/heads/main\"\n\
             [[cache.trust]]\nrepository = \"acme/flake\"\nref = \"refs/heads/release-*\"\nref_protected = true\n\
             [[cache.trust]]\nrepository = \"acme/flake\"\nisolate = true\n\
             [[cache]]\nname = \"other\"\n\
             [[cache.trust]]\nrepository = \"secret/project\"\nref = \"refs/heads/main\"\n",
            issuer.url
        );
        let environment = Environment::from([("LARDER_DATA_DIR", directory.path().to_str().unwrap())]);
        let config = Config::parse(Path::new("larder.toml"), &config, &environment).unwrap();
        let time = Arc::new(AtomicI64::new(NOW));
        let service = Service::open(config, Clock::Set(time.clone())).await.unwrap();
        Self { issuer, key, service, time, _directory: directory }
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
        json!({"typ": "JWT", "alg": "RS256", "kid": self.key.id, "x5t": "abc"})
    }

    pub fn sign(&self, claims: &Value) -> String {
        token(&self.header(), claims, |message| self.key.sign(message))
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
