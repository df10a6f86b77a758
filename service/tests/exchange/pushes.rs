//! A push is its job's own: to every other identity it does not exist.

use http::{Method, StatusCode};
use larder_protocol::{
    NarHash, StorePath, StorePathHash,
    api::{OpenPush, PathInfo},
};
use larder_service::trust::people;
use serde_json::{Value, json};

use crate::world::{World, read};

/// The body that opens a push of one path, which nobody has.
pub fn opening(name: &str) -> Vec<u8> {
    let path = StorePath::new(StorePathHash([7; 20]), name).unwrap();
    let info = PathInfo {
        path: path.clone(),
        nar_hash: NarHash([7; 32]),
        nar_size: 1000,
        references: vec![],
        deriver: None,
        ca: None,
        signatures: vec![],
    };
    serde_json::to_vec(&OpenPush { paths: vec![info], roots: vec![path], ..OpenPush::default() }).unwrap()
}

#[tokio::test]
async fn a_session_of_another_identity_finds_no_push_in_any_route() {
    let world = World::new().await;
    let session = world.session().await;
    let opened = world.call(Method::POST, "/api/v1/caches/main/pushes", Some(&session), opening("x")).await;
    assert_eq!(opened.status(), StatusCode::OK);
    let push = read(opened).await["push"].as_str().unwrap().to_owned();

    let mut strangers = Vec::new();
    for (claim, value) in
        [("run_id", "1001"), ("run_attempt", "2"), ("check_run_id", "5001"), ("repository_id", "43")]
    {
        let mut claims = world.claims();
        claims[claim] = json!(value);
        if claim == "repository_id" {
            claims["repository"] = json!("acme/second");
        }
        let (status, answer) = world.exchange(&world.sign(&claims)).await;
        assert_eq!(status, StatusCode::OK, "{claim}: {answer}");
        strangers.push((claim, answer["token"].as_str().unwrap().to_owned()));
    }
    let (metadata, clock) = (&world.service.metadata, &world.service.clock);
    let person = people::create_token(
        metadata,
        clock,
        people::NewToken::pushing("anna", &"main".parse().unwrap(), 60),
    )
    .await
    .unwrap();
    strangers.push(("a person's token", person.expose().to_owned()));

    let never = "0123456789abcdef0123456789abcdef";
    let ask = async |token: &str, push: &str, step: &str| -> (StatusCode, Value) {
        let page = format!("/api/v1/caches/main/pushes/{push}/{step}");
        let answer = world.call(Method::POST, &page, Some(token), vec![]).await;
        (answer.status(), read(answer).await)
    };
    for step in ["missing-chunks", "frames", "recipes", "commit"] {
        let unknown = ask(&session, never, step).await;
        assert_eq!(unknown.0, StatusCode::NOT_FOUND);
        for (who, token) in &strangers {
            assert_eq!(ask(token, &push, step).await, unknown, "{step}, {who}");
        }
        // Its own job, in a later session, gets further.
        let own = ask(&world.session().await, &push, step).await;
        assert_ne!(own.0, StatusCode::NOT_FOUND, "{step}: {own:?}");
    }
    // A session for another cache is told of its own cache, whatever it asks for.
    let mut claims = world.claims();
    claims["repository"] = json!("secret/project");
    let (_, answer) = world.exchange_for("other", &world.sign(&claims)).await;
    let other = answer["token"].as_str().unwrap();
    for step in ["missing-chunks", "frames", "recipes", "commit"] {
        let unknown = ask(other, never, step).await;
        assert_eq!(unknown.0, StatusCode::FORBIDDEN);
        assert_eq!(ask(other, &push, step).await, unknown, "{step}");
    }
}
