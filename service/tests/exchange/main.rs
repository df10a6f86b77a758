//! The exchange of ID tokens as an attacker sees it: through the service's own front door, with a real issuer.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod issuer;

use std::{
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicI64, Ordering},
    },
};

use axum::body::Body;
use http::{Method, Request, Response, StatusCode, header};
use http_body_util::BodyExt;
use issuer::{Issuer, Key, Mood, encode, token};
use larder_protocol::api::Permission;
use larder_service::{
    Service,
    clock::Clock,
    config::{Config, Environment},
    router, trust,
};
use serde_json::{Value, json};
use tower::ServiceExt;

const AUDIENCE: &str = "https://cache.example.org";
const NOW: i64 = 1_800_000_000;

struct World {
    issuer: Arc<Issuer>,
    key: Arc<Key>,
    service: Arc<Service>,
    time: Arc<AtomicI64>,
    _directory: tempfile::TempDir,
}

impl World {
    async fn new() -> Self {
        let key = Key::new("first");
        let issuer = Issuer::start(vec![key.jwk()]).await;
        let directory = tempfile::tempdir().unwrap();
        let config = format!(
            "public_url = \"{AUDIENCE}\"\n\
             [[issuer]]\nurl = \"{}\"\n\
             [[cache]]\nname = \"main\"\n\
             [[cache.trust]]\nrepository = \"acme/flake\"\nref = \"refs/heads/main\"\n\
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

    fn pass(&self, seconds: i64) {
        self.time.fetch_add(seconds, Ordering::SeqCst);
    }

    fn now(&self) -> i64 {
        self.time.load(Ordering::SeqCst)
    }

    /// What GitHub would put into a token that it makes now.
    fn claims(&self) -> Value {
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

    fn header(&self) -> Value {
        json!({"typ": "JWT", "alg": "RS256", "kid": self.key.id, "x5t": "abc"})
    }

    fn sign(&self, claims: &Value) -> String {
        token(&self.header(), claims, |message| self.key.sign(message))
    }

    /// A good token.
    fn id_token(&self) -> String {
        self.sign(&self.claims())
    }

    async fn call(&self, method: Method, path: &str, bearer: Option<&str>, body: Vec<u8>) -> Response<Body> {
        let mut request = Request::builder().method(method).uri(path);
        if let Some(token) = bearer {
            request = request.header(header::AUTHORIZATION, format!("Bearer {token}"));
        }
        router(self.service.clone()).oneshot(request.body(Body::from(body)).unwrap()).await.unwrap()
    }

    async fn exchange_for(&self, cache: &str, id_token: &str) -> (StatusCode, Value) {
        let body = json!({"id_token": id_token, "cache": cache}).to_string();
        let answer = self.call(Method::POST, "/api/v1/token", None, body.into()).await;
        let status = answer.status();
        (status, read(answer).await)
    }

    async fn exchange(&self, id_token: &str) -> (StatusCode, Value) {
        self.exchange_for("main", id_token).await
    }

    /// The session token for a good ID token.
    async fn session(&self) -> String {
        let (status, answer) = self.exchange(&self.id_token()).await;
        assert_eq!(status, StatusCode::OK, "{answer}");
        answer["token"].as_str().unwrap().to_owned()
    }

    /// Refused with this status, and for a reason that has this part.
    async fn refuses(&self, id_token: &str, status: StatusCode, reason: &str) {
        let (answered, answer) = self.exchange(id_token).await;
        let message = answer["message"].as_str().unwrap_or_default();
        assert_eq!(answered, status, "{answer}");
        assert!(message.contains(reason), "no {reason:?} in: {message}");
    }

    /// What the token may do, as handlers ask.
    async fn may(
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

async fn read(answer: Response<Body>) -> Value {
    let body = answer.into_body().collect().await.unwrap().to_bytes();
    if body.is_empty() { Value::Null } else { serde_json::from_slice(&body).unwrap() }
}

#[tokio::test]
async fn a_job_gets_a_session_for_its_cache_alone() {
    let world = World::new().await;
    let (status, answer) = world.exchange(&world.id_token()).await;
    assert_eq!(status, StatusCode::OK, "{answer}");
    assert_eq!(answer["expires_in"], 900);
    assert_eq!(answer["permissions"], json!(["push", "read"]));
    assert_eq!(answer["cache"]["url"], "https://cache.example.org/main");
    assert_eq!(answer["cache"]["api"], 1);
    let key = answer["cache"]["public_keys"][0].as_str().unwrap();
    assert!(key.starts_with("cache.example.org-main-1:"), "{key}");

    let session = answer["token"].as_str().unwrap();
    assert!(session.starts_with("larder_s_") && session.len() > 50);
    let grant = world.may(session, "main", Permission::Push).await.unwrap();
    assert_eq!(grant.identity.owner(), format!("job {} 42 1000 1 5000", world.issuer.url));
    assert_eq!(world.may(session, "other", Permission::Push).await, Err(StatusCode::FORBIDDEN));
    assert_eq!(world.may(session, "nowhere", Permission::Push).await, Err(StatusCode::FORBIDDEN));
    assert_eq!(
        world.may(&session[..session.len() - 1], "main", Permission::Push).await,
        Err(StatusCode::UNAUTHORIZED)
    );
}

#[tokio::test]
async fn claims_that_do_not_hold_are_refused() {
    let world = World::new().await;
    let now = world.now();
    let spoilt: &[(&str, Value, &str)] = &[
        ("aud", json!("https://github.com/acme"), "for the audience \"https://github.com/acme\""),
        ("aud", json!("https://cache.example.org/"), "takes \"https://cache.example.org\" alone"),
        ("aud", json!("https://cache.example.org/main"), "audience"),
        ("aud", json!("https://CACHE.example.org"), "audience"),
        ("aud", json!([AUDIENCE]), "audience"),
        ("aud", json!([AUDIENCE, "https://other.example.org"]), "audience"),
        ("aud", Value::Null, "audience null"),
        ("iss", json!("https://token.actions.githubusercontent.com"), "does not trust"),
        ("iss", json!(format!("{}/", world.issuer.url)), "does not trust"),
        ("iss", json!([world.issuer.url]), "does not say what it must"),
        ("exp", json!(now - 60), "ended 60 seconds ago"),
        ("exp", json!(now - 100_000), "ended"),
        ("exp", json!(now + 3601), "lives 3601 seconds"),
        ("exp", json!(i64::MAX), "lives"),
        ("exp", json!((now + 300).to_string()), "does not say what it must"),
        ("exp", json!(1e300), "does not say what it must"),
        ("nbf", json!(now + 61), "from the future, by 61 seconds"),
        ("iat", json!(now + 61), "from the future"),
        ("iat", json!(i64::MIN), "lives"),
        ("jti", json!(""), "jti"),
        ("jti", json!("x".repeat(257)), "jti"),
        ("jti", json!(7), "does not say what it must"),
        ("repository", json!("acme"), "owner/name"),
        ("repository_id", json!("x"), "number"),
        ("ref", json!("main"), "refs/heads/main"),
    ];
    for (claim, value, reason) in spoilt {
        let mut claims = world.claims();
        claims[*claim] = value.clone();
        world.refuses(&world.sign(&claims), StatusCode::UNAUTHORIZED, reason).await;
    }
    for claim in [
        "iss",
        "aud",
        "exp",
        "iat",
        "jti",
        "repository",
        "repository_id",
        "ref",
        "sha",
        "event_name",
        "run_id",
        "run_attempt",
    ] {
        let mut claims = world.claims();
        claims.as_object_mut().unwrap().remove(claim);
        let missing = format!("missing field `{claim}`");
        world.refuses(&world.sign(&claims), StatusCode::UNAUTHORIZED, &missing).await;
    }
    // At the very edge of the leeway they hold.
    for (claim, value) in [("exp", now - 59), ("nbf", now + 60), ("iat", now + 60)] {
        let mut claims = world.claims();
        claims[claim] = json!(value);
        assert_eq!(world.exchange(&world.sign(&claims)).await.0, StatusCode::OK, "{claim}");
    }
    // One claim said twice: which of them counts is anybody's guess.
    let twice = world.claims().to_string().replacen('{', "{\"repository\":\"evil/flake\",", 1);
    let message =
        format!("{}.{}", encode(&world.header()), data_encoding::BASE64URL_NOPAD.encode(twice.as_bytes()));
    let signature = data_encoding::BASE64URL_NOPAD.encode(&world.key.sign(message.as_bytes()));
    world.refuses(&format!("{message}.{signature}"), StatusCode::UNAUTHORIZED, "duplicate field").await;
}

#[tokio::test]
async fn signatures_that_prove_nothing_are_refused() {
    let world = World::new().await;
    let claims = world.claims();
    let attacker = Key::new("first");
    let by_attacker = |header: Value| token(&header, &claims, |message| attacker.sign(message));
    let unauthorized = StatusCode::UNAUTHORIZED;

    // Another key under the issuer's key's name.
    world.refuses(&by_attacker(world.header()), unauthorized, "signature does not hold").await;
    // A key that the token brings along, in each way that RFC 7515 knows.
    for (name, value) in [
        ("jwk", attacker.jwk()),
        ("jku", json!("http://127.0.0.1:1/keys")),
        ("x5u", json!("http://127.0.0.1:1/cert")),
        ("x5c", json!(["AAAA"])),
    ] {
        let mut header = world.header();
        header[name] = value;
        world.refuses(&by_attacker(header), unauthorized, "signature does not hold").await;
    }
    // No signature, or one by a secret that everybody knows.
    for alg in ["none", "None", "nOnE", ""] {
        let none = token(&json!({"alg": alg, "kid": "first"}), &claims, |_| Vec::new());
        world.refuses(&none, unauthorized, "only RS256").await;
    }
    let jwk = world.key.jwk();
    let modulus = data_encoding::BASE64URL_NOPAD.decode(jwk["n"].as_str().unwrap().as_bytes()).unwrap();
    for secret in [world.key.public_der(), modulus, jwk.to_string().into_bytes()] {
        let hmac = |message: &[u8]| {
            let key = aws_lc_rs::hmac::Key::new(aws_lc_rs::hmac::HMAC_SHA256, &secret);
            aws_lc_rs::hmac::sign(&key, message).as_ref().to_vec()
        };
        let header = |alg| json!({"alg": alg, "kid": "first"});
        world.refuses(&token(&header("HS256"), &claims, hmac), unauthorized, "only RS256").await;
        world.refuses(&token(&header("RS256"), &claims, hmac), unauthorized, "signature does not hold").await;
    }
    for alg in ["RS384", "RS512", "PS256", "ES256", "EdDSA", "rs256"] {
        let mut header = world.header();
        header["alg"] = json!(alg);
        let token = token(&header, &claims, |message| world.key.sign(message));
        world.refuses(&token, unauthorized, "only RS256").await;
    }
    // A good signature, over something else.
    let good = world.sign(&claims);
    let [header, _, signature] = good.split('.').collect::<Vec<_>>()[..] else { panic!() };
    let mut better = claims.clone();
    better["repository"] = json!("secret/project");
    world.refuses(&format!("{header}.{}.{signature}", encode(&better)), unauthorized, "signature").await;
    world.refuses(&format!("{header}.{}.", encode(&claims)), unauthorized, "signature").await;
    // What is no token.
    let mut critical = world.header();
    critical["crit"] = json!(["b64"]);
    let critical = token(&critical, &claims, |message| world.key.sign(message));
    world.refuses(&critical, unauthorized, "critical").await;
    let nameless = token(&json!({"alg": "RS256"}), &claims, |message| world.key.sign(message));
    world.refuses(&nameless, unauthorized, "key").await;
    for text in ["", ".", "..", "a.b.c", "a.b.c.d", &format!("{good}.x"), &format!("{good}="), "larder_s_x"] {
        world.refuses(text, unauthorized, "").await;
    }
    world.refuses(&"a".repeat(20_000), unauthorized, "not an ID token").await;
    // All of this needed one look at the issuer's keys, and the good token still holds.
    assert_eq!(world.exchange(&good).await.0, StatusCode::OK);
    assert_eq!(world.issuer.asked(), 1);
}

#[tokio::test]
async fn an_id_token_can_be_used_once() {
    let world = World::new().await;
    let id_token = world.id_token();
    assert_eq!(world.exchange(&id_token).await.0, StatusCode::OK);
    world.refuses(&id_token, StatusCode::UNAUTHORIZED, "used once").await;
    // Until it has ended for everybody, others having come meanwhile.
    world.pass(359);
    world.session().await;
    world.refuses(&id_token, StatusCode::UNAUTHORIZED, "used once").await;
    world.pass(1);
    world.session().await;
    world.refuses(&id_token, StatusCode::UNAUTHORIZED, "ended").await;
}

#[tokio::test]
async fn one_of_two_at_once_wins() {
    let world = World::new().await;
    let id_token = world.id_token();
    let both = futures_util::future::join_all((0..8).map(|_| world.exchange(&id_token))).await;
    assert_eq!(both.iter().filter(|(status, _)| *status == StatusCode::OK).count(), 1);
}

#[tokio::test]
async fn a_denied_job_hears_what_did_not_fit_and_nothing_of_others() {
    let world = World::new().await;
    let mut claims = world.claims();
    claims["ref"] = json!("refs/heads/dev");
    world.refuses(&world.sign(&claims), StatusCode::FORBIDDEN, "the token says refs/heads/dev").await;
    let mut claims = world.claims();
    claims["event_name"] = json!("pull_request_target");
    world.refuses(&world.sign(&claims), StatusCode::FORBIDDEN, "pull_request_target").await;

    // A cache that it may not push to, and one that does not exist, are the same to it.
    let (status, other) = world.exchange_for("other", &world.id_token()).await;
    assert_eq!(status, StatusCode::FORBIDDEN);
    let (status, nowhere) = world.exchange_for("nowhere", &world.id_token()).await;
    assert_eq!(status, StatusCode::FORBIDDEN);
    assert_eq!(other.to_string().replace("other", "nowhere"), nowhere.to_string());
    assert!(!other.to_string().contains("secret"), "{other}");

    // Denied, the token is not used up: whoever runs the service may add the rule meanwhile.
    let id_token = world.id_token();
    assert_eq!(world.exchange_for("other", &id_token).await.0, StatusCode::FORBIDDEN);
    assert_eq!(world.exchange(&id_token).await.0, StatusCode::OK);
}

#[tokio::test]
async fn rotated_keys_are_found_and_unknown_ones_ask_once_a_minute() {
    let world = World::new().await;
    world.session().await;
    assert_eq!(world.issuer.asked(), 1);

    let second = Key::new("second");
    let by_second = |claims: &Value| {
        token(&json!({"alg": "RS256", "kid": "second"}), claims, |message| second.sign(message))
    };
    for _ in 0..5 {
        world.refuses(&by_second(&world.claims()), StatusCode::UNAUTHORIZED, "does not publish").await;
    }
    assert_eq!(world.issuer.asked(), 1, "within a minute of the first fetch");

    world.pass(60);
    for _ in 0..5 {
        world.refuses(&by_second(&world.claims()), StatusCode::UNAUTHORIZED, "does not publish").await;
    }
    assert_eq!(world.issuer.asked(), 2);

    world.issuer.keys.lock().unwrap().push(second.jwk());
    world.pass(60);
    assert_eq!(world.exchange(&by_second(&world.claims())).await.0, StatusCode::OK);
    world.session().await;
    assert_eq!(world.issuer.asked(), 3);

    // A key that the issuer takes away is gone when the keys are an hour old, at the latest.
    world.issuer.keys.lock().unwrap().remove(0);
    world.session().await;
    world.pass(3600);
    world.refuses(&world.id_token(), StatusCode::UNAUTHORIZED, "does not publish").await;
    assert_eq!(world.exchange(&by_second(&world.claims())).await.0, StatusCode::OK);
    assert_eq!(world.issuer.asked(), 4);
}

#[tokio::test]
async fn keys_of_other_kinds_are_passed_over() {
    let world = World::new().await;
    let second = Key::new("second");
    let mut encrypting = second.jwk();
    encrypting["use"] = json!("enc");
    let mut other = second.jwk();
    other["alg"] = json!("RS512");
    other["kid"] = json!("third");
    *world.issuer.keys.lock().unwrap() = vec![
        json!({"kty": "EC", "crv": "P-256", "kid": "ec", "x": "AA", "y": "AA"}),
        json!({"kty": "oct", "kid": "secret", "k": "AAAA"}),
        json!({"kid": "nothing"}),
        json!("nonsense"),
        encrypting,
        other,
        world.key.jwk(),
    ];
    world.session().await;
    for kid in ["second", "third", "ec", "secret"] {
        let header = json!({"alg": "RS256", "kid": kid});
        let id_token = token(&header, &world.claims(), |message| second.sign(message));
        world.refuses(&id_token, StatusCode::UNAUTHORIZED, "does not publish").await;
    }
}

#[tokio::test]
async fn an_issuer_that_fails_is_asked_once_a_minute_and_costs_nothing_else() {
    let world = World::new().await;
    world.issuer.is(Mood::Failing);
    let body = || json!({"id_token": world.id_token(), "cache": "main"}).to_string().into_bytes();
    let answer = world.call(Method::POST, "/api/v1/token", None, body()).await;
    assert_eq!(answer.status(), StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(answer.headers()[header::RETRY_AFTER], "60");
    world.issuer.is(Mood::Well);
    world.pass(45);
    let answer = world.call(Method::POST, "/api/v1/token", None, body()).await;
    assert_eq!(answer.status(), StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(answer.headers()[header::RETRY_AFTER], "15");
    assert_eq!(world.issuer.asked(), 1);
    world.pass(15);
    world.session().await;
}

#[tokio::test]
async fn answers_that_no_issuer_gives_are_not_believed() {
    let world = World::new().await;
    for mood in [
        Mood::Redirecting,
        Mood::Lying,
        Mood::KeysAt("http://keys.example.org/keys"),
        Mood::KeysAt("https://127.0.0.1:1/"),
        Mood::KeysAt("file:///etc/passwd"),
        Mood::KeysAt("nonsense"),
        Mood::Endless,
    ] {
        world.issuer.is(mood);
        world.refuses(&world.id_token(), StatusCode::SERVICE_UNAVAILABLE, "does not answer").await;
        world.pass(60);
    }
    world.issuer.is(Mood::Well);
    world.session().await;
}

#[tokio::test]
async fn all_who_come_first_share_one_fetch() {
    let world = Arc::new(World::new().await);
    let closed = world.issuer.gate.acquire().await.unwrap();
    let tasks: Vec<_> = (0..10)
        .map(|_| {
            let world = world.clone();
            tokio::spawn(async move { world.session().await })
        })
        .collect();
    // The first fetch has arrived, and every task has had its turns to begin another.
    world.issuer.arrived.acquire().await.unwrap().forget();
    for _ in 0..100 {
        tokio::task::yield_now().await;
    }
    drop(closed);
    for task in tasks {
        task.await.unwrap();
    }
    assert_eq!(world.issuer.asked(), 1);
}

#[tokio::test]
async fn a_client_that_goes_away_takes_the_fetch_from_nobody() {
    let world = Arc::new(World::new().await);
    let closed = world.issuer.gate.acquire().await.unwrap();
    let first = tokio::spawn({
        let world = world.clone();
        async move { world.session().await }
    });
    world.issuer.arrived.acquire().await.unwrap().forget();
    first.abort();
    assert!(first.await.unwrap_err().is_cancelled());
    let second = tokio::spawn({
        let world = world.clone();
        async move { world.session().await }
    });
    tokio::task::yield_now().await;
    drop(closed);
    second.await.unwrap();
    assert_eq!(world.issuer.asked(), 1);
}

#[tokio::test]
async fn a_session_ends_after_fifteen_minutes_or_when_it_is_given_back() {
    let world = World::new().await;
    let (first, second) = (world.session().await, world.session().await);
    let ended = world.call(Method::DELETE, "/api/v1/token", Some(&first), Vec::new()).await;
    assert_eq!(ended.status(), StatusCode::NO_CONTENT);
    assert_eq!(world.may(&first, "main", Permission::Push).await, Err(StatusCode::UNAUTHORIZED));
    let again = world.call(Method::DELETE, "/api/v1/token", Some(&first), Vec::new()).await;
    assert_eq!(again.status(), StatusCode::UNAUTHORIZED);
    assert_eq!(again.headers()[header::WWW_AUTHENTICATE], "Bearer realm=\"larder\"");

    world.pass(899);
    assert!(world.may(&second, "main", Permission::Push).await.is_ok());
    world.pass(1);
    assert_eq!(world.may(&second, "main", Permission::Push).await, Err(StatusCode::UNAUTHORIZED));
}

#[tokio::test]
async fn a_person_can_push_by_a_token_until_it_ends_or_is_revoked() {
    let world = World::new().await;
    let metadata = &world.service.metadata;
    let clock = &world.service.clock;
    let main = "main".parse().unwrap();
    let create = |name: &'static str| trust::people::create_token(metadata, clock, name, &main, 1000);
    let token = create("anna").await.unwrap();
    let grant = world.may(token.expose(), "main", Permission::Push).await.unwrap();
    assert!(grant.identity.owner().starts_with("person anna "));
    assert_eq!(world.may(token.expose(), "other", Permission::Push).await, Err(StatusCode::FORBIDDEN));
    // It is no session: a client that cleans up does not end it.
    let answer = world.call(Method::DELETE, "/api/v1/token", Some(token.expose()), Vec::new()).await;
    assert_eq!(answer.status(), StatusCode::FORBIDDEN);

    let taken = create("anna").await.unwrap_err().to_string();
    assert!(taken.contains("larderd token revoke anna"), "{taken}");
    assert!(create("an na").await.is_err());
    assert!(metadata.revoke_named_token("anna").await.unwrap());
    assert_eq!(world.may(token.expose(), "main", Permission::Push).await, Err(StatusCode::UNAUTHORIZED));
    let second = create("anna").await.unwrap();
    let owner = world.may(second.expose(), "main", Permission::Push).await.unwrap().identity.owner();
    assert_ne!(owner, grant.identity.owner(), "what the first one pushed is not the second one's");

    assert_eq!(metadata.named_tokens(world.now()).await.unwrap().len(), 1);
    world.pass(1000);
    assert_eq!(world.may(second.expose(), "main", Permission::Push).await, Err(StatusCode::UNAUTHORIZED));
    assert!(metadata.named_tokens(world.now()).await.unwrap().is_empty());
    create("anna").await.unwrap();
}

#[tokio::test]
async fn requests_that_cannot_be_read_are_refused_in_json() {
    let world = World::new().await;
    let big = vec![b' '; 65 * 1024];
    for (body, status, error) in [
        (b"".to_vec(), 400, "bad-request"),
        (b"{}".to_vec(), 400, "bad-request"),
        (br#"{"id_token":"x","cache":"../etc"}"#.to_vec(), 400, "bad-request"),
        (br#"{"id_token":"x","cache":"main","admin":true}"#.to_vec(), 400, "bad-request"),
        (big, 413, "too-large"),
    ] {
        let answer = world.call(Method::POST, "/api/v1/token", None, body).await;
        assert_eq!(answer.status(), status);
        assert_eq!(read(answer).await["error"], error);
    }
    for (method, path, status) in [
        (Method::GET, "/api/v1/token", 405),
        (Method::GET, "/api/v1/caches/nowhere", 404),
        (Method::GET, "/api/v1/caches/%00", 404),
        (Method::GET, "/api/v1/caches/%ff", 404),
        (Method::GET, "/nowhere", 404),
        (Method::DELETE, "/api/v1/token", 401),
    ] {
        let answer = world.call(method.clone(), path, None, Vec::new()).await;
        assert_eq!(answer.status(), status, "{method} {path}");
        assert!(read(answer).await["message"].is_string(), "{method} {path}");
    }
    // Nobody asked the issuer anything.
    assert_eq!(world.issuer.asked(), 0);
}
