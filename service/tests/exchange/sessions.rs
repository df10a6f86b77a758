//! Sessions and people's tokens, from their beginning to their end.

use http::{Method, StatusCode, header};
use larder_protocol::api::Permission;
use larder_service::trust;
use serde_json::json;

use crate::world::World;

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
async fn a_session_has_the_rank_of_its_rule() {
    let world = World::new().await;
    let grant = world.may(&world.session().await, "main", Permission::Push).await.unwrap();
    assert_eq!((i64::from(grant.rank), grant.isolated), (0, None));
    let mut claims = world.claims();
    claims["ref"] = json!("refs/heads/release-1");
    let (_, answer) = world.exchange(&world.sign(&claims)).await;
    let grant = world.may(answer["token"].as_str().unwrap(), "main", Permission::Push).await.unwrap();
    assert_eq!(i64::from(grant.rank), 10);
}

#[tokio::test]
async fn a_pull_request_that_a_rule_isolates_may_only_read_the_parent() {
    let world = World::new().await;
    let mut claims = world.claims();
    claims["ref"] = json!("refs/pull/7/merge");
    claims["event_name"] = json!("pull_request");
    claims["ref_protected"] = json!("false");
    let (status, answer) = world.exchange(&world.sign(&claims)).await;
    assert_eq!(status, StatusCode::OK, "{answer}");
    assert_eq!(answer["cache"]["name"], "main~42-pr-7");
    let session = answer["token"].as_str().unwrap();
    for (cache, permission, may) in [
        ("main~42-pr-7", Permission::Push, true),
        ("main~42-pr-7", Permission::Read, true),
        ("main~42-pr-7", Permission::Pin, false),
        ("main~42-pr-7", Permission::Admin, false),
        ("main~42-pr-8", Permission::Read, false),
        ("main", Permission::Read, true),
        ("main", Permission::Push, false),
        ("main", Permission::Pin, false),
        ("main", Permission::Admin, false),
        ("other", Permission::Read, false),
    ] {
        assert_eq!(world.may(session, cache, permission).await.is_ok(), may, "{permission:?} in {cache}");
    }
    let grant = world.may(session, "main", Permission::Read).await.unwrap();
    assert_eq!(grant.isolated, Some(trust::PullRequest { repository_id: 42, number: 7 }));
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
    let create = |name: &'static str| {
        trust::people::create_token(metadata, clock, trust::people::NewToken::pushing(name, &main, 1000))
    };
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
    assert!(trust::people::revoke_token(metadata, clock, "anna").await.unwrap());
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
