//! A stand-in for GitHub: the issuer of ID tokens (discovery, keys that rotate), the endpoint at which the runner's
//! steps ask for one, and the REST API.
//!
//! A test that asks for anything else, or for a token that it may not have, fails when the stand-in is
//! dropped.

mod api;
mod job;
mod key;

use std::{
    collections::{BTreeMap, VecDeque},
    net::SocketAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

pub use api::{App, CheckRun, Delivery, HookOf, RepositoryId};
use axum::{
    Json, Router,
    extract::{Path, Query, Request, State},
    http::{HeaderMap, StatusCode, header::AUTHORIZATION},
    middleware::{Next, from_fn_with_state},
    response::{IntoResponse, Response},
    routing::get,
};
use data_encoding::HEXLOWER;
pub use job::Job;
pub use key::{Claims, Key, Signed};
use larder_service::clock::Clock;
use serde_json::{Value, json};
use tokio::{net::TcpListener, task::AbortHandle};

/// The stand-in, serving until it is dropped.
pub struct GitHub {
    hub: Arc<Hub>,
    servers: Vec<AbortHandle>,
}

/// The pages of the stand-in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Page {
    /// `/.well-known/openid-configuration`.
    Discovery,
    /// The keys.
    Keys,
    /// The endpoint at which a step asks for an ID token.
    IdToken,
}

/// What a page does instead of what it should.
#[derive(Debug, Clone)]
pub enum Trouble {
    /// It answers with this status.
    Status(u16),
    /// It answers 200 with this body.
    Body(String),
    /// It takes the request and never answers.
    Stall,
}

/// A job that has started, and what its steps may use.
#[derive(Debug, Clone)]
pub struct StartedJob {
    /// What GitHub knows of it.
    pub job: Job,
    /// `ACTIONS_ID_TOKEN_REQUEST_URL`, on the stand-in's first address.
    pub request_url: String,
    /// `ACTIONS_ID_TOKEN_REQUEST_TOKEN`.
    pub request_token: String,
}

struct Hub {
    /// Where all pages are.
    origin: String,
    issuer: String,
    clock: Clock,
    inner: Mutex<Inner>,
    api: Mutex<api::State>,
}

#[derive(Default)]
struct Inner {
    /// The newest first: it signs.
    keys: Vec<Key>,
    /// By request token.
    jobs: BTreeMap<String, Job>,
    troubles: BTreeMap<Page, VecDeque<Trouble>>,
    asked: BTreeMap<Page, usize>,
    unexpected: Vec<String>,
}

impl Hub {
    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn unexpected(&self, what: String) {
        self.lock().unexpected.push(what);
    }
}

/// What the issuer of an Enterprise Server has behind the server's name.
const ENTERPRISE_SERVER: &str = "/_services/token";

impl GitHub {
    /// Starts on a free port of the loopback.
    pub async fn start(clock: Clock) -> Self {
        Self::start_on(SocketAddr::from(([127, 0, 0, 1], 0)), clock).await
    }

    /// Starts on an address, of which the issuer's name is made.
    pub async fn start_on(address: SocketAddr, clock: Clock) -> Self {
        Self::start_as(address, "", clock).await
    }

    /// Starts as an Enterprise Server, on a free port of the loopback: its issuer has another name than its pages.
    pub async fn start_enterprise_server(clock: Clock) -> Self {
        Self::start_as(SocketAddr::from(([127, 0, 0, 1], 0)), ENTERPRISE_SERVER, clock).await
    }

    async fn start_as(address: SocketAddr, issuer_path: &str, clock: Clock) -> Self {
        let listener = TcpListener::bind(address).await.unwrap();
        let origin = format!("http://{}", listener.local_addr().unwrap());
        let issuer = format!("{origin}{issuer_path}");
        let inner = Mutex::new(Inner { keys: vec![Key::generate()], ..Inner::default() });
        let hub = Hub { origin, issuer, clock, inner, api: Mutex::default() };
        let mut this = Self { hub: Arc::new(hub), servers: Vec::new() };
        this.serve(listener);
        this
    }

    /// Listens on another address too, such as one that containers reach, and tells where.
    pub async fn listen_also(&mut self, address: SocketAddr) -> SocketAddr {
        let listener = TcpListener::bind(address).await.unwrap();
        let bound = listener.local_addr().unwrap();
        self.serve(listener);
        bound
    }

    fn serve(&mut self, listener: TcpListener) {
        let pages = Router::new()
            .route("/.well-known/openid-configuration", get(discovery))
            .route("/.well-known/jwks", get(keys))
            .route("/idtoken/{job}", get(id_token));
        let router = Router::new()
            .nest(ENTERPRISE_SERVER, pages.clone())
            .merge(pages)
            .merge(api::pages(&self.hub))
            .fallback(elsewhere)
            .layer(from_fn_with_state(self.hub.clone(), trouble))
            .with_state(self.hub.clone());
        let server = tokio::spawn(async move { axum::serve(listener, router).await });
        self.servers.push(server.abort_handle());
    }

    /// The issuer, as tokens and the service's configuration name it.
    pub fn issuer(&self) -> &str {
        &self.hub.issuer
    }

    /// Starts a job that may ask for ID tokens (`permissions: id-token: write`).
    pub fn start_job(&self, job: Job) -> StartedJob {
        let mut secret = [0u8; 24];
        getrandom::fill(&mut secret).unwrap();
        let request_token = HEXLOWER.encode(&secret);
        let request_url = format!("{}/idtoken/{}?api-version=2.0", self.hub.issuer, job.check_run_id);
        self.hub.lock().jobs.insert(request_token.clone(), job.clone());
        StartedJob { job, request_url, request_token }
    }

    /// An ID token for the job.
    pub fn id_token(&self, job: &Job, audience: &str) -> String {
        self.sign(&self.claims(job, audience), Signed::Well)
    }

    /// The claims of a new ID token for the job, to be changed and signed.
    pub fn claims(&self, job: &Job, audience: &str) -> Claims {
        job.claims(&self.hub.issuer, audience, self.hub.clock.now())
    }

    /// A token that says these things.
    pub fn sign(&self, claims: &Claims, signed: Signed) -> String {
        self.hub.lock().keys[0].sign(claims, signed)
    }

    /// Signs with a new key from now on. The old ones are still listed.
    pub fn rotate_key(&self) {
        self.hub.lock().keys.insert(0, Key::generate());
    }

    /// Lists the newest key alone.
    pub fn drop_old_keys(&self) {
        self.hub.lock().keys.truncate(1);
    }

    /// What the page does at the next request for it. Several troubles come one after another.
    pub fn trouble(&self, page: Page, trouble: Trouble) {
        self.hub.lock().troubles.entry(page).or_default().push_back(trouble);
    }

    /// How often a page was asked for.
    pub fn asked(&self, page: Page) -> usize {
        self.hub.lock().asked.get(&page).copied().unwrap_or_default()
    }

    /// Takes what was asked for and should not have been, so that it does not fail the test.
    pub fn take_unexpected(&self) -> Vec<String> {
        std::mem::take(&mut self.hub.lock().unexpected)
    }
}

impl Drop for GitHub {
    fn drop(&mut self) {
        self.servers.iter().for_each(AbortHandle::abort);
        let unexpected = self.take_unexpected();
        if !std::thread::panicking() {
            assert!(unexpected.is_empty(), "GitHub was asked for what it should not be: {unexpected:#?}");
        }
    }
}

/// Counts the request, and answers it otherwise than expected if a test said so.
async fn trouble(State(hub): State<Arc<Hub>>, request: Request, next: Next) -> Response {
    let path = request.uri().path();
    let page = match path.strip_prefix(ENTERPRISE_SERVER).unwrap_or(path) {
        "/.well-known/openid-configuration" => Page::Discovery,
        "/.well-known/jwks" => Page::Keys,
        path if path.starts_with("/idtoken/") => Page::IdToken,
        _ => return next.run(request).await,
    };
    let trouble = {
        let mut inner = hub.lock();
        *inner.asked.entry(page).or_default() += 1;
        inner.troubles.get_mut(&page).and_then(VecDeque::pop_front)
    };
    match trouble {
        None => next.run(request).await,
        Some(Trouble::Status(status)) => {
            (StatusCode::from_u16(status).unwrap(), "the stand-in was told to say so").into_response()
        }
        Some(Trouble::Body(body)) => body.into_response(),
        Some(Trouble::Stall) => std::future::pending().await,
    }
}

async fn elsewhere(State(hub): State<Arc<Hub>>, request: Request) -> StatusCode {
    hub.unexpected(format!("{} {}", request.method(), request.uri()));
    StatusCode::NOT_FOUND
}

async fn discovery(State(hub): State<Arc<Hub>>) -> Json<Value> {
    Json(json!({
        "issuer": hub.issuer,
        "jwks_uri": format!("{}/.well-known/jwks", hub.issuer),
        "subject_types_supported": ["public", "pairwise"],
        "response_types_supported": ["id_token"],
        "claims_supported": ["sub", "aud", "exp", "iat", "iss", "jti", "nbf", "ref", "sha", "repository"],
        "id_token_signing_alg_values_supported": ["RS256"],
        "scopes_supported": ["openid"],
    }))
}

async fn keys(State(hub): State<Arc<Hub>>) -> Json<Value> {
    let keys: Vec<Value> = hub.lock().keys.iter().map(Key::jwk).collect();
    Json(json!({ "keys": keys }))
}

/// `GET $ACTIONS_ID_TOKEN_REQUEST_URL&audience=…`.
async fn id_token(
    State(hub): State<Arc<Hub>>,
    Path(check_run): Path<u64>,
    Query(query): Query<BTreeMap<String, String>>,
    headers: HeaderMap,
) -> Response {
    // The runner's own client writes it with a capital, shell examples do not; the scheme has no case.
    let sent = headers.get(AUTHORIZATION).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let bearer = match sent.split_once(' ') {
        Some((scheme, token)) if scheme.eq_ignore_ascii_case("bearer") => token,
        _ => "",
    };
    let job = hub.lock().jobs.get(bearer).filter(|job| job.check_run_id == check_run).cloned();
    let Some(job) = job else {
        hub.unexpected("an ID token, without the job's request token".to_owned());
        return StatusCode::UNAUTHORIZED.into_response();
    };
    if query.get("api-version").map(String::as_str) != Some("2.0") {
        hub.unexpected(format!("an ID token with the query {query:?}"));
        return StatusCode::BAD_REQUEST.into_response();
    }
    let owner = format!("https://github.com/{}", job.repository.split('/').next().unwrap_or_default());
    let audience = query.get("audience").unwrap_or(&owner);
    let claims = job.claims(&hub.issuer, audience, hub.clock.now());
    let token = hub.lock().keys[0].sign(&claims, Signed::Well);
    Json(json!({ "count": token.len(), "value": token })).into_response()
}

#[cfg(test)]
mod tests {
    use jsonwebtoken::{Algorithm, DecodingKey, Validation, decode, decode_header, jwk::JwkSet};

    use super::*;

    async fn page(url: &str) -> Value {
        reqwest::get(url).await.unwrap().error_for_status().unwrap().json().await.unwrap()
    }

    /// Verifies a token as a service would, from the issuer's name alone.
    async fn verify(issuer: &str, token: &str, audience: &str) -> Option<Claims> {
        let discovery = page(&format!("{issuer}/.well-known/openid-configuration")).await;
        assert_eq!(discovery["issuer"], issuer);
        let keys: JwkSet = serde_json::from_value(page(discovery["jwks_uri"].as_str()?).await).unwrap();
        let key = keys.find(&decode_header(token).ok()?.kid?)?;
        let mut validation = Validation::new(Algorithm::RS256);
        validation.set_audience(&[audience]);
        validation.set_issuer(&[issuer]);
        decode::<Claims>(token, &DecodingKey::from_jwk(key).unwrap(), &validation)
            .ok()
            .map(|data| data.claims)
    }

    async fn ask(job: &StartedJob, token: &str, more: &str) -> reqwest::Response {
        reqwest::Client::new()
            .get(format!("{}{more}", job.request_url))
            .header("Authorization", format!("bearer {token}"))
            .send()
            .await
            .unwrap()
    }

    #[tokio::test]
    async fn a_job_gets_a_token_that_verifies() {
        let github = GitHub::start(Clock::System).await;
        let job = github.start_job(Job::pull_request("Acme/flake", 7));
        let answer: Value = ask(&job, &job.request_token, "&audience=https%3A%2F%2Fcache.example")
            .await
            .json()
            .await
            .unwrap();
        let token = answer["value"].as_str().unwrap();
        let claims = verify(github.issuer(), token, "https://cache.example").await.unwrap();
        assert_eq!(claims["repository"], "Acme/flake");
        assert_eq!(claims["repository_owner"], "Acme");
        assert_eq!(claims["sub"], "repo:Acme/flake:pull_request");
        assert_eq!(claims["ref"], "refs/pull/7/merge");
        assert_eq!(claims["head_ref"], "topic");
        assert_eq!(claims["run_attempt"], "1");
        assert_eq!(claims["exp"].as_i64().unwrap(), claims["iat"].as_i64().unwrap() + 300);
        assert!(verify(github.issuer(), token, "https://other.example").await.is_none());
        assert_eq!(github.asked(Page::IdToken), 1);
        assert_eq!(github.asked(Page::Discovery), 2);
    }

    #[tokio::test]
    async fn an_audience_that_is_not_named_is_the_owner() {
        let github = GitHub::start(Clock::System).await;
        let job = github.start_job(Job::default());
        let answer: Value = ask(&job, &job.request_token, "").await.json().await.unwrap();
        let token = answer["value"].as_str().unwrap();
        assert!(verify(github.issuer(), token, "https://github.com/acme").await.is_some());
    }

    #[tokio::test]
    async fn forgeries_do_not_verify() {
        let github = GitHub::start(Clock::System).await;
        let claims = github.claims(&Job::default(), "https://cache.example");
        for signed in [
            Signed::ByAnother,
            Signed::ByUnknownKid,
            Signed::WithoutKid,
            Signed::NotAtAll,
            Signed::Hs256WithPublicKey,
        ] {
            let token = github.sign(&claims, signed);
            assert!(verify(github.issuer(), &token, "https://cache.example").await.is_none(), "{signed:?}");
        }
        let good = github.sign(&claims, Signed::Well);
        assert!(verify(github.issuer(), &good, "https://cache.example").await.is_some());
    }

    #[tokio::test]
    async fn the_forged_hs256_token_would_deceive_a_careless_service() {
        let key = Key::generate();
        let claims = Job::default().claims("http://127.0.0.1", "a", Clock::System.now());
        let token = key.sign(&claims, Signed::Hs256WithPublicKey);
        let mut careless = Validation::new(Algorithm::HS256);
        careless.set_audience(&["a"]);
        let secret = DecodingKey::from_secret(key.public_pem().as_bytes());
        assert!(decode::<Claims>(&token, &secret, &careless).is_ok());
    }

    #[tokio::test]
    async fn keys_rotate() {
        let github = GitHub::start(Clock::System).await;
        let old = github.id_token(&Job::default(), "a");
        github.rotate_key();
        let new = github.id_token(&Job::default(), "a");
        assert!(verify(github.issuer(), &old, "a").await.is_some());
        assert!(verify(github.issuer(), &new, "a").await.is_some());
        github.drop_old_keys();
        assert!(verify(github.issuer(), &old, "a").await.is_none());
        assert!(verify(github.issuer(), &new, "a").await.is_some());
    }

    #[tokio::test]
    async fn troubles_come_once_each_and_in_order() {
        let github = GitHub::start(Clock::System).await;
        let keys = format!("{}/.well-known/jwks", github.issuer());
        github.trouble(Page::Keys, Trouble::Status(502));
        github.trouble(Page::Keys, Trouble::Body("<html>".to_owned()));
        assert_eq!(reqwest::get(&keys).await.unwrap().status(), 502);
        assert_eq!(reqwest::get(&keys).await.unwrap().text().await.unwrap(), "<html>");
        assert_eq!(page(&keys).await["keys"].as_array().unwrap().len(), 1);
        assert_eq!(github.asked(Page::Keys), 3);
    }

    #[tokio::test]
    async fn what_should_not_be_asked_for_is_noted() {
        let github = GitHub::start(Clock::System).await;
        let job = github.start_job(Job::default());
        assert_eq!(ask(&job, "guessed", "").await.status(), 401);
        let elsewhere = format!("{}/repos/acme/flake", github.issuer());
        assert_eq!(reqwest::get(elsewhere).await.unwrap().status(), 404);
        let unexpected = github.take_unexpected();
        assert_eq!(unexpected, ["an ID token, without the job's request token", "GET /repos/acme/flake"]);
    }
}
