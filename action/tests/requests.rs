//! What the client does about answers that are not what it hoped for, against a server that plays them.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::{
    collections::VecDeque,
    convert::Infallible,
    net::SocketAddr,
    sync::{Arc, Mutex},
    time::Duration,
};

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt as _, Full};
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::TokioIo;
use larder_action::{
    credentials::Credentials,
    progress::{Event, Progress, Silent},
    relay::{Patience, Relay},
    secret::Secret,
    service::{Parts, Service, ServiceError},
};
use larder_protocol::api::{CacheName, OpenPush, Permission, PushId};
use tokio::net::TcpListener;

/// A request as it came: method, path with query, authorization, body.
#[derive(Debug, Clone)]
struct Seen {
    line: String,
    authorization: Option<String>,
    body: Bytes,
}

/// Answers requests with what was written for it, in that order.
#[derive(Clone)]
struct Script {
    address: SocketAddr,
    answers: Arc<Mutex<VecDeque<Response<Full<Bytes>>>>>,
    seen: Arc<Mutex<Vec<Seen>>>,
}

impl Script {
    async fn new(answers: Vec<Response<Full<Bytes>>>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let script = Self {
            address: listener.local_addr().unwrap(),
            answers: Arc::new(Mutex::new(answers.into())),
            seen: Arc::default(),
        };
        let serving = script.clone();
        tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let script = serving.clone();
                tokio::spawn(http1::Builder::new().serve_connection(
                    TokioIo::new(stream),
                    service_fn(move |request| {
                        let script = script.clone();
                        async move { Ok::<_, Infallible>(script.play(request).await) }
                    }),
                ));
            }
        });
        script
    }

    async fn play(&self, request: Request<Incoming>) -> Response<Full<Bytes>> {
        let authorization =
            request.headers().get("authorization").map(|value| value.to_str().unwrap().to_owned());
        let line = format!("{} {}", request.method(), request.uri());
        let body = request.into_body().collect().await.unwrap().to_bytes();
        self.seen.lock().unwrap().push(Seen { line, authorization, body });
        let answer = self.answers.lock().unwrap().pop_front();
        answer.unwrap_or_else(|| answer_text(599, "the script is at its end"))
    }

    fn url(&self, path: &str) -> url::Url {
        format!("http://{}{path}", self.address).parse().unwrap()
    }

    fn lines(&self) -> Vec<String> {
        self.seen.lock().unwrap().iter().map(|seen| seen.line.clone()).collect()
    }

    /// What is left of the script.
    fn unplayed(&self) -> usize {
        self.answers.lock().unwrap().len()
    }
}

fn answer_text(status: u16, text: &str) -> Response<Full<Bytes>> {
    Response::builder().status(status).body(Full::new(Bytes::copy_from_slice(text.as_bytes()))).unwrap()
}

fn refusal(status: u16, code: &str, message: &str) -> Response<Full<Bytes>> {
    answer_text(status, &serde_json::json!({ "error": code, "message": message }).to_string())
}

fn token(token: &str, expires_in: u64, permissions: &[&str], api: u32) -> Response<Full<Bytes>> {
    token_for("main", token, expires_in, permissions, api)
}

fn token_for(
    cache: &str,
    token: &str,
    expires_in: u64,
    permissions: &[&str],
    api: u32,
) -> Response<Full<Bytes>> {
    let cache = serde_json::json!({
        "api": api, "name": cache, "url": "http://127.0.0.1/main", "store_dir": "/nix/store",
        "priority": 30, "public_keys": [], "upstreams": [],
    });
    let answer = serde_json::json!({
        "token": token, "expires_in": expires_in, "permissions": permissions, "cache": cache,
    });
    answer_text(200, &answer.to_string())
}

fn id_token(token: &str) -> Response<Full<Bytes>> {
    answer_text(200, &serde_json::json!({ "value": token }).to_string())
}

fn uploaded() -> Response<Full<Bytes>> {
    answer_text(200, r#"{"stored":1,"present":0}"#)
}

fn main_cache() -> CacheName {
    "main".parse().unwrap()
}

fn person() -> Credentials {
    Credentials::Static(Secret::new("secret-of-a-person"))
}

fn job(script: &Script) -> Credentials {
    Credentials::Job {
        request_url: script.url("/idtoken?api-version=2.0"),
        request_token: Secret::new("request-secret"),
    }
}

/// Keeps the retries.
#[derive(Default)]
struct Retries(Mutex<Vec<(String, Duration)>>);

impl Progress for Retries {
    fn event(&self, event: &Event<'_>) {
        if let Event::Retrying { error, wait, .. } = event {
            self.0.lock().unwrap().push(((*error).to_owned(), *wait));
        }
    }
}

const PUSH: PushId = PushId([7; 16]);

async fn upload(service: &Service<'_>) -> Result<(), ServiceError> {
    service.upload(PUSH, Parts::of(vec!["one".into(), "two".into()])).await.map(|_| ())
}

async fn upload_once(script: &Script) -> Result<(), ServiceError> {
    let credentials = person();
    let service = Service::new(&script.url(""), &main_cache(), &credentials, &Silent).unwrap();
    upload(&service).await
}

#[tokio::test]
async fn what_fails_for_a_moment_is_tried_again_as_it_was() {
    let busy = || {
        let mut answer = refusal(503, "unavailable", "the database is busy");
        answer.headers_mut().insert("retry-after", "0".parse().unwrap());
        answer
    };
    let script = Script::new(vec![busy(), answer_text(502, "Bad Gateway"), uploaded()]).await;
    let (credentials, retries) = (person(), Retries::default());
    let service = Service::new(&script.url(""), &main_cache(), &credentials, &retries).unwrap();
    upload(&service).await.unwrap();

    let seen = script.seen.lock().unwrap().clone();
    assert_eq!(seen.len(), 3);
    for request in &seen {
        assert_eq!(request.line, "POST /api/v1/caches/main/pushes/07070707070707070707070707070707/frames");
        assert_eq!(request.authorization.as_deref(), Some("Bearer secret-of-a-person"));
        assert_eq!(request.body, "onetwo");
    }
    let retries = retries.0.into_inner().unwrap();
    assert_eq!(retries[0], ("the database is busy".to_owned(), Duration::ZERO));
    assert!(retries[1].0.contains("502"), "{retries:?}");
}

/// A pull request's push goes to its own cache where the exchange says so, and to no other that a service may name.
#[tokio::test]
async fn the_exchange_may_grant_the_pull_requests_own_cache_and_no_other() {
    let opened = r#"{"push":"07070707070707070707070707070707","missing":[],"reused":[],"present":[],"upstream":[],
                     "max_body":1000}"#;
    let empty =
        || OpenPush { paths: Vec::new(), roots: Vec::new(), built: Vec::new(), ..OpenPush::default() };
    let granted = |cache| token_for(cache, "session", 900, &["push"], 1);
    let script = Script::new(vec![
        id_token("a"),
        granted("main~42-pr-7"),
        answer_text(200, opened),
        uploaded(),
        answer_text(204, ""),
    ])
    .await;
    let credentials = job(&script);
    let service = Service::new(&script.url(""), &main_cache(), &credentials, &Silent).unwrap();
    service.open_push(empty()).await.unwrap();
    upload(&service).await.unwrap();
    service.end_session().await;
    let pushes = "POST /api/v1/caches/main~42-pr-7/pushes";
    assert_eq!(script.lines()[2..4], [pushes.to_owned(), format!("{pushes}/{PUSH}/frames")]);
    assert_eq!(service.cache().as_str(), "main~42-pr-7");

    for cache in ["other", "other~42-pr-7"] {
        let script = Script::new(vec![id_token("a"), granted(cache)]).await;
        let credentials = job(&script);
        let service = Service::new(&script.url(""), &main_cache(), &credentials, &Silent).unwrap();
        let error = service.open_push(empty()).await.unwrap_err();
        assert!(error.to_string().contains(cache), "{error}");
        assert_eq!(script.lines().len(), 2, "nothing is sent there");
    }
}

/// A service that is asked too often says when to come again. Who must wait longer than patience lasts does not wait.
#[tokio::test]
async fn whoever_comes_too_often_comes_again_when_he_was_told() {
    let too_many = |retry_after: &'static str| {
        let mut answer = refusal(429, "too-many", "more than 600 such requests in a minute");
        answer.headers_mut().insert("retry-after", retry_after.parse().unwrap());
        answer
    };
    let script = Script::new(vec![
        id_token("a"),
        too_many("0"),
        id_token("b"),
        token("session", 900, &["push"], 1),
        too_many("0"),
        uploaded(),
        too_many("3600"),
    ])
    .await;
    let (credentials, retries) = (job(&script), Retries::default());
    let service = Service::new(&script.url(""), &main_cache(), &credentials, &retries).unwrap();
    upload(&service).await.unwrap();
    let error = upload(&service).await.unwrap_err().to_string();
    assert!(error.contains("more than 600 such requests"), "{error}");
    assert_eq!(script.unplayed(), 0);
    let waits: Vec<Duration> = retries.0.lock().unwrap().iter().map(|(_, wait)| *wait).collect();
    assert_eq!(waits, [Duration::ZERO; 2]);
}

#[tokio::test]
async fn a_job_exchanges_its_id_token_for_the_origin_that_the_user_named() {
    let script = Script::new(vec![
        id_token("id-secret"),
        token("session-1", 900, &["push"], 1),
        uploaded(),
        uploaded(),
    ])
    .await;
    let credentials = job(&script);
    let service = Service::new(&script.url("/larder"), &main_cache(), &credentials, &Silent).unwrap();
    upload(&service).await.unwrap();
    upload(&service).await.unwrap();

    let seen = script.seen.lock().unwrap().clone();
    let audience = format!("http%3A%2F%2F127.0.0.1%3A{}", script.address.port());
    assert_eq!(seen[0].line, format!("GET /idtoken?api-version=2.0&audience={audience}"));
    assert_eq!(seen[0].authorization.as_deref(), Some("Bearer request-secret"));
    assert_eq!(seen[1].line, "POST /larder/api/v1/token");
    assert_eq!(seen[1].authorization, None);
    assert_eq!(seen[1].body, r#"{"id_token":"id-secret","cache":"main"}"#);
    assert_eq!(seen[2].authorization.as_deref(), Some("Bearer session-1"));
    assert_eq!(seen[3].authorization.as_deref(), Some("Bearer session-1"));
}

#[tokio::test]
async fn a_session_that_has_ended_is_renewed_once() {
    let ended = || refusal(401, "unauthorized", "the session has ended");
    let script = Script::new(vec![
        id_token("a"),
        // A session of no length: the next request exchanges anew before it is refused.
        token("session-1", 0, &["push"], 1),
        uploaded(),
        id_token("b"),
        token("session-2", 900, &["push"], 1),
        ended(),
        id_token("c"),
        token("session-3", 900, &["push"], 1),
        ended(),
    ])
    .await;
    let credentials = job(&script);
    let service = Service::new(&script.url(""), &main_cache(), &credentials, &Silent).unwrap();
    upload(&service).await.unwrap();
    let error = upload(&service).await.unwrap_err();
    assert!(error.is_denial(), "{error}");
    assert_eq!(script.unplayed(), 0);
    assert_eq!(script.lines().len(), 9);
}

#[tokio::test]
async fn an_exchange_that_broke_is_made_again_with_another_id_token() {
    let script = Script::new(vec![
        id_token("a"),
        answer_text(502, "Bad Gateway"),
        id_token("b"),
        token("session", 900, &["push"], 1),
        uploaded(),
        answer_text(204, ""),
    ])
    .await;
    let credentials = job(&script);
    let service = Service::new(&script.url(""), &main_cache(), &credentials, &Silent).unwrap();
    upload(&service).await.unwrap();
    service.end_session().await;
    service.end_session().await;
    let seen = script.seen.lock().unwrap().clone();
    assert_eq!(seen[3].body, r#"{"id_token":"b","cache":"main"}"#);
    assert_eq!(seen[5].line, "DELETE /api/v1/token");
    assert_eq!(seen.len(), 6);
}

#[tokio::test]
async fn refusals_say_what_to_do() {
    for (answer, says, denied) in [
        (refusal(403, "denied", "no rule matches"), "uploading chunks was refused: no rule matches", true),
        (answer_text(403, "<html>"), "let it pass /api/v1/ on", true),
        (answer_text(413, "<html>"), "--max-body", false),
        (answer_text(301, ""), "name the service's final URL", false),
        (answer_text(404, "<html>"), "a Larder service", false),
        (answer_text(200, "<html>"), "of the same version?", false),
    ] {
        let script = Script::new(vec![answer]).await;
        let error = upload_once(&script).await.unwrap_err();
        assert!(error.to_string().contains(says), "{error}");
        assert_eq!(error.is_denial(), denied, "{error}");
    }
}

#[tokio::test]
async fn missing_references_are_listed() {
    let body = serde_json::json!({
        "error": "invalid", "message": "the closure is not complete",
        "missing_references": ["00000000000000000000000000000000-glibc"],
    });
    let script = Script::new(vec![answer_text(422, &body.to_string())]).await;
    let error = upload_once(&script).await.unwrap_err().to_string();
    assert!(error.contains("/nix/store/00000000000000000000000000000000-glibc"), "{error}");
}

#[tokio::test]
async fn another_version_of_the_service_is_told_as_such() {
    let script = Script::new(vec![answer_text(404, ""), answer_text(200, r#"{"api":2,"new":[]}"#)]).await;
    let credentials = person();
    let service = Service::new(&script.url(""), &main_cache(), &credentials, &Silent).unwrap();
    let error = service.open_push(OpenPush::default()).await.unwrap_err();
    assert!(matches!(error, ServiceError::Version(2)), "{error}");
    assert!(error.to_string().contains("update the client"), "{error}");

    let script = Script::new(vec![id_token("a"), token("session", 900, &["push"], 0)]).await;
    let credentials = job(&script);
    let service = Service::new(&script.url(""), &main_cache(), &credentials, &Silent).unwrap();
    let error = upload(&service).await.unwrap_err();
    assert!(error.to_string().contains("update the service"), "{error}");
}

#[tokio::test]
async fn what_a_newer_service_says_besides_is_no_matter() {
    let session = token("session", 900, &["mirror", "push"], 1);
    let script =
        Script::new(vec![id_token("a"), session, answer_text(200, r#"{"stored":1,"present":0,"new":[]}"#)])
            .await;
    let credentials = job(&script);
    let service = Service::new(&script.url(""), &main_cache(), &credentials, &Silent).unwrap();
    upload(&service).await.unwrap();
    assert_eq!(service.granted().await.unwrap().unwrap().permissions, [Permission::Push]);
}

#[tokio::test]
async fn errors_show_no_secrets() {
    let leaky = r#"{"token":"session-secret","expires_in":"never"}"#;
    let script = Script::new(vec![id_token("id-secret"), answer_text(200, leaky)]).await;
    let credentials = job(&script);
    let service = Service::new(&script.url(""), &main_cache(), &credentials, &Silent).unwrap();
    let error = upload(&service).await.unwrap_err();
    for text in [format!("{error} {error:?}"), format!("{credentials:?} {:?}", person())] {
        assert!(!text.contains("secret"), "{text}");
    }

    let script = Script::new(vec![id_token("a"), token("session", 900, &["read"], 1)]).await;
    let credentials = job(&script);
    let service = Service::new(&script.url(""), &main_cache(), &credentials, &Silent).unwrap();
    assert!(upload(&service).await.unwrap_err().to_string().contains("does not permit to push in main"));

    let script = Script::new(vec![answer_text(401, "")]).await;
    let credentials = job(&script);
    let service = Service::new(&script.url(""), &main_cache(), &credentials, &Silent).unwrap();
    let error = upload(&service).await.unwrap_err().to_string();
    assert!(error.contains("id-token: write"), "{error}");
}

/// A job goes on for longer than a session lives. To whoever shows one that has ended a private cache is not there, so
/// that the relay must not wait to be refused.
#[tokio::test]
async fn a_relays_pass_is_renewed_before_it_ends_and_goes_nowhere_else() {
    let elsewhere = Script::new(Vec::new()).await;
    let moved = |to: &Script| {
        let location = to.url("/main/0.narinfo").to_string();
        Response::builder().status(302).header("location", location).body(Full::default()).unwrap()
    };
    let script = Script::new(vec![
        id_token("a"),
        token("session-1", 0, &["read"], 1),
        answer_text(404, ""),
        id_token("b"),
        token("session-2", 900, &["read"], 1),
        answer_text(404, ""),
        moved(&elsewhere),
        answer_text(204, ""),
    ])
    .await;
    let service = Service::new(&script.url(""), &main_cache(), &job(&script), &Silent).unwrap();
    let pass = Arc::new(service.with_any_grant());
    let upstream = script.url("/main");
    let relay = Relay::start(upstream, Some(pass.clone()), Patience::default()).await.unwrap();
    let page = format!("{}/s66mzxpvicwk07gjbjfw9izjfa797vsw.narinfo", relay.url());
    for _ in 0..3 {
        let answer = reqwest::get(&page).await.unwrap();
        assert_eq!(answer.status(), 404);
        assert!(answer.headers().get("location").is_none());
    }
    pass.end_session().await;
    assert!(elsewhere.lines().is_empty() && script.unplayed() == 0);
    let seen = script.seen.lock().unwrap();
    let shown: Vec<_> = seen
        .iter()
        .filter(|seen| seen.line.ends_with(".narinfo") || seen.line.starts_with("DELETE"))
        .map(|seen| seen.authorization.as_deref().unwrap())
        .collect();
    assert_eq!(shown, ["Bearer session-1", "Bearer session-2", "Bearer session-2", "Bearer session-2"]);
}

#[tokio::test]
async fn a_session_that_is_of_no_use_is_given_back() {
    let script =
        Script::new(vec![id_token("a"), token("session-1", 900, &["read"], 1), answer_text(204, "")]).await;
    let service = Service::new(&script.url(""), &main_cache(), &job(&script), &Silent).unwrap();
    let error = upload(&service).await.unwrap_err();
    assert!(matches!(error, ServiceError::NotPermitted { .. }), "{error}");
    let seen = script.seen.lock().unwrap();
    assert_eq!(seen[2].line, "DELETE /api/v1/token");
    assert_eq!(seen[2].authorization.as_deref(), Some("Bearer session-1"));
}
