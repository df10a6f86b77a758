//! What goes on record of an exchange, and what strangers can make of it.

use http::{Method, StatusCode};
use larder_service::{
    audit::{Event, Kind},
    metadata::{AuditFilter, AuditRow},
    trust,
};
use serde_json::json;

use crate::world::World;

const ALL: AuditFilter =
    AuditFilter { since: None, until: None, repository: None, cache: None, kind: None, limit: 1000 };

async fn rows(world: &World, filter: AuditFilter) -> Vec<AuditRow> {
    world.service.audit.flush().await;
    let rows = world.service.metadata.audit(&filter).await.unwrap();
    // That a name is bound, with the first token that is good, is another matter: see `names`.
    rows.into_iter().filter(|row| row.kind != Kind::NameBound.as_str()).collect()
}

fn event(row: &AuditRow) -> Event {
    serde_json::from_str(&row.details).unwrap()
}

#[tokio::test]
async fn a_grant_and_a_denial_are_on_record_with_who_it_was() {
    let world = World::new().await;
    let session = world.session().await;
    let mut claims = world.claims();
    claims["ref"] = json!("refs/heads/feature");
    claims["run_id"] = json!("1001");
    let (status, answer) = world.exchange_for("other", &world.sign(&claims)).await;
    assert_eq!(status, StatusCode::FORBIDDEN, "{answer}");

    let [granted, denied] = &rows(&world, ALL).await[..] else { panic!() };
    assert_eq!((granted.kind.as_str(), granted.cache.as_deref()), ("granted", Some("main")));
    assert_eq!(granted.issuer.as_ref(), Some(&world.issuer.url));
    assert_eq!(granted.repository.as_deref(), Some("acme/flake"));
    assert_eq!(granted.repository_id.as_deref(), Some("42"));
    assert_eq!(granted.git_ref.as_deref(), Some("refs/heads/main"));
    assert_eq!((granted.event.as_deref(), granted.actor.as_deref()), (Some("push"), Some("anna")));
    assert_eq!((granted.run.as_deref(), granted.attempt.as_deref()), (Some("1000"), Some("1")));
    assert_eq!((granted.time, granted.times), (world.now(), 1));
    let grant = world.may(&session, "main", larder_protocol::api::Permission::Push).await.unwrap();
    let permissions = grant.permissions;
    assert_eq!(event(granted), Event::Granted { permissions, until: world.now() + 900 });
    assert!(!format!("{granted:?}").contains(&session["larder_s_".len()..]), "{granted:?}");

    assert_eq!((denied.kind.as_str(), denied.cache.as_deref()), ("denied", Some("other")));
    assert_eq!(denied.run.as_deref(), Some("1001"));
    assert_eq!(event(denied), Event::Denied { reason: answer["message"].as_str().unwrap().to_owned() });
}

#[tokio::test]
async fn what_is_no_good_token_is_on_record_without_what_it_claims() {
    let world = World::new().await;
    let id_token = world.id_token();
    assert_eq!(world.exchange(&id_token).await.0, StatusCode::OK);
    world.refuses(&id_token, StatusCode::UNAUTHORIZED, "exchanged before").await;
    world.refuses(&format!("{id_token}x"), StatusCode::UNAUTHORIZED, "signature").await;
    let made_up = world.exchange_for("made-up", &world.id_token()).await;
    assert_eq!(made_up.0, StatusCode::FORBIDDEN);
    for (method, page) in [(Method::POST, "/api/v1/caches/main/pushes"), (Method::DELETE, "/api/v1/token")] {
        let answer = world.call(method, page, Some("larder_s_x"), vec![]).await;
        assert_eq!(answer.status(), StatusCode::UNAUTHORIZED);
    }

    let rows = rows(&world, ALL).await;
    let said: Vec<_> = rows.iter().map(|row| (row.kind.as_str(), row.cache.as_deref())).collect();
    // Three are one: nobody knows more of either than that it came from here.
    let denied = |cache| ("denied", cache);
    assert_eq!(said, [("granted", Some("main")), denied(Some("main")), denied(None), denied(None)]);
    assert_eq!(rows[1].repository.as_deref(), Some("acme/flake"), "the replayed token is a real one");
    assert_eq!((&rows[2].repository, rows[2].times), (&None, 3), "nobody verified what the forged one says");
    assert_eq!(rows[3].repository.as_deref(), Some("acme/flake"));
    assert!(!format!("{rows:?}").contains(&id_token[..40]));
}

#[tokio::test]
async fn a_storm_of_denials_is_one_row_an_hour_for_each_who_makes_it() {
    let world = World::new().await;
    let refused = async |count: usize| {
        for run in 0..count {
            let mut claims = world.claims();
            claims["repository"] = json!("mallory/flake");
            claims["repository_id"] = json!("666");
            claims["run_id"] = json!(run);
            assert_eq!(world.exchange(&world.sign(&claims)).await.0, StatusCode::FORBIDDEN);
        }
    };
    refused(20).await;
    assert_eq!(world.now() % 3600, 0, "an hour begins");
    world.pass(3599);
    refused(1).await;
    world.pass(1);
    refused(1).await;
    let of_mallory = AuditFilter { repository: Some("Mallory/FLAKE".to_owned()), ..ALL };
    let counted: Vec<_> = rows(&world, of_mallory)
        .await
        .iter()
        .map(|row| (row.time - world.now(), row.last_time - world.now(), row.times))
        .collect();
    assert_eq!(counted, [(-3600, -1, 21), (0, 0, 1)]);
}

#[tokio::test]
async fn tokens_for_people_are_on_record() {
    let world = World::new().await;
    let (metadata, clock) = (&world.service.metadata, &world.service.clock);
    let main = "main".parse().unwrap();
    let new = trust::people::NewToken::pushing("anna", &main, 60);
    let token = trust::people::create_token(metadata, clock, new.clone()).await.unwrap();
    trust::people::create_token(metadata, clock, new.clone()).await.unwrap_err();
    world.pass(1);
    assert!(trust::people::revoke_token(metadata, clock, "anna").await.unwrap());
    assert!(!trust::people::revoke_token(metadata, clock, "anna").await.unwrap());

    let [created, revoked] = &rows(&world, ALL).await[..] else { panic!() };
    assert!(matches!(event(created), Event::TokenCreated { name, .. } if name == "anna"));
    assert_eq!(created.token.as_ref(), Some(&token.hash().short()));
    assert!(created.actor.as_ref().unwrap().starts_with("larderd, run by user "));
    assert_eq!(event(revoked), Event::TokenRevoked { name: "anna".to_owned() });
    assert_eq!(revoked.time, created.time + 1);
    assert!(!format!("{created:?}").contains(token.expose()));
}

#[tokio::test]
async fn entries_are_found_by_time_cache_and_kind() {
    let world = World::new().await;
    for _ in 0..3 {
        world.session().await;
        world.pass(100);
    }
    world.refuses("x", StatusCode::UNAUTHORIZED, "three parts").await;
    let begin = world.now() - 300;
    let times =
        async |filter| rows(&world, filter).await.iter().map(|row| row.time - begin).collect::<Vec<_>>();
    assert_eq!(times(ALL).await, [0, 100, 200, 300]);
    assert_eq!(
        times(AuditFilter { since: Some(begin + 100), until: Some(begin + 300), ..ALL }).await,
        [100, 200]
    );
    assert_eq!(times(AuditFilter { limit: 2, ..ALL }).await, [200, 300], "the newest, in their order");
    assert_eq!(times(AuditFilter { cache: Some("other".to_owned()), ..ALL }).await, [0; 0]);
    assert_eq!(times(AuditFilter { kind: Some(Kind::Denied), ..ALL }).await, [300]);
}

#[tokio::test]
async fn what_is_old_goes_and_refusals_go_before_grants() {
    let world = World::configured("[audit]\nkeep = \"30d\"\nmax_rows = 1000\n").await;
    let audit = &world.service.audit;
    let denied = |count: i64| async move {
        for n in 0..count {
            let who = larder_service::audit::Who { actor: Some(n.to_string()), ..Default::default() };
            let reason = "no".to_owned();
            audit.record(larder_service::audit::Entry::of_service(who, Event::Denied { reason }));
        }
        audit.flush().await;
    };
    world.session().await;
    denied(1200).await;
    // What is too much is cleared away with the next that comes, an hour later.
    world.pass(3600);
    denied(1).await;
    let left = world.service.metadata.audit(&AuditFilter { limit: 5000, ..ALL }).await.unwrap();
    assert_eq!(left.len(), 1000);
    assert_eq!((left[0].kind.as_str(), left[1].kind.as_str()), ("name-bound", "granted"));

    world.pass(30 * 24 * 3600 + 1);
    denied(1).await;
    assert_eq!(rows(&world, ALL).await.len(), 1);
}
