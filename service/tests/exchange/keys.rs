//! An issuer's keys: rotated, late, or not to be had.

use std::sync::Arc;

use http::{Method, StatusCode, header};
use serde_json::{Value, json};

use crate::{
    issuer::{Key, Mood, token},
    world::World,
};

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

/// By a clock that stands still but where everybody waits.
#[tokio::test]
async fn an_issuer_that_never_answers_is_given_up() {
    let world = World::new().await;
    let closed = world.issuer.gate.acquire().await.unwrap();
    let id_token = world.id_token();
    tokio::time::pause();
    world.refuses(&id_token, StatusCode::SERVICE_UNAVAILABLE, "does not answer").await;
    tokio::time::resume();
    drop(closed);
    world.pass(60);
    world.session().await;
}

#[tokio::test]
async fn whose_key_is_known_does_not_wait_until_another_is_found() {
    let world = Arc::new(World::new().await);
    world.session().await;
    world.pass(60);
    let closed = world.issuer.gate.acquire().await.unwrap();
    world.issuer.arrived.acquire().await.unwrap().forget();
    let unknown = token(&json!({"alg": "RS256", "kid": "second"}), &world.claims(), |message| {
        Key::new("second").sign(message)
    });
    let waiting = tokio::spawn({
        let world = world.clone();
        async move { world.exchange(&unknown).await.0 }
    });
    world.issuer.arrived.acquire().await.unwrap().forget();
    world.session().await;
    assert!(!waiting.is_finished());
    drop(closed);
    assert_eq!(waiting.await.unwrap(), StatusCode::UNAUTHORIZED);
}

#[tokio::test]
async fn answers_that_no_issuer_gives_are_not_believed() {
    let world = World::new().await;
    for mood in [
        Mood::Redirecting,
        Mood::RedirectingKeys,
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
