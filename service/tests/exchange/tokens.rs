//! ID tokens that are forged, old, stolen or for somebody else.

use http::{Method, StatusCode};
use serde_json::{Value, json};

use crate::{
    issuer::{Key, encode, token},
    world::{AUDIENCE, World, read},
};

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
        ("exp", json!(now - 61), "ended 61 seconds ago"),
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
        "repository_owner_id",
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
    for secret in [world.key.public_bytes(), modulus, jwk.to_string().into_bytes()] {
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
    let mut world = World::new().await;
    let id_token = world.id_token();
    assert_eq!(world.exchange(&id_token).await.0, StatusCode::OK);
    world.refuses(&id_token, StatusCode::UNAUTHORIZED, "used once").await;
    world.restart().await;
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
