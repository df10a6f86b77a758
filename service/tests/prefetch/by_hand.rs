//! Prefetches that somebody asks for: who may, and how much.

use larder_protocol::{StorePath, api::Permission, prefetch::PrefetchState};
use larder_service::{
    audit::{Event, Kind},
    metadata::AuditFilter,
};
use serde_json::json;

use crate::{
    nar::{TestNar, path},
    upstream::UpstreamCache,
    world::World,
};

#[tokio::test]
async fn whoever_may_push_to_a_cache_may_prefetch_into_it_and_nobody_else() {
    let upstream = UpstreamCache::start().await;
    let world = World::new(&[upstream.configured()]).await;
    let nar = TestNar::new(path(1, "x"), b"x", &[]);
    upstream.has(&nar, "xz");
    let wanted = [&nar.info.path];
    assert_eq!(world.ask("larder_nonsense", "main", &wanted).await.status(), 401);
    let reader = world.token_for("main", &[Permission::Read]).await;
    assert_eq!(world.ask(&reader, "main", &wanted).await.status(), 403);
    for cache in ["other", "private", "none", "main~1-pr-2"] {
        assert_eq!(world.ask(&world.token, cache, &wanted).await.status(), 403, "{cache}");
    }
    assert!(upstream.asked().is_empty());
    let job = world.job("main", json!({})).await;
    assert_eq!(world.ask(&job, "main", &wanted).await.status(), 202);
    world.pass(0).await;
    assert!(world.has(&[&nar]).await);

    // What is missing from a private cache, those alone are told who may read it.
    let pushes = world.token_for("private", &[Permission::Push]).await;
    assert_eq!(world.ask(&pushes, "private", &wanted).await.status(), 403);
    let both = world.token_for("private", &[Permission::Push, Permission::Read]).await;
    let asked = world.ask(&both, "private", &wanted).await;
    assert_eq!(asked.status(), 202);
    let id = asked.json::<serde_json::Value>().await.unwrap()["id"].as_str().unwrap().to_owned();
    world.pass(0).await;
    let tell = async |token: &str, id: &str| {
        let url = format!("{}/api/v1/prefetches/{id}", world.url);
        world.client.get(url).bearer_auth(token).send().await.unwrap().status().as_u16()
    };
    assert_eq!(tell(&both, &id).await, 200);
    for token in [&world.token, &reader, &pushes] {
        assert_eq!(tell(token, &id).await, 404);
    }
    assert_eq!(tell("larder_nonsense", &id).await, 401);
    assert_eq!(tell(&both, "../../x").await, 404);
    world.end().await;
}

#[tokio::test]
async fn what_is_asked_for_has_bounds() {
    let world = World::new(&[]).await;
    let url = format!("{}/api/v1/prefetches", world.url);
    let ask = async |body: serde_json::Value| {
        let asked = world.client.post(&url).bearer_auth(&world.token).json(&body).send();
        asked.await.unwrap().status().as_u16()
    };
    let many: Vec<String> = (0..10_001).map(|number| format!("{number:0>32}-x")).collect();
    for (body, status) in [
        (json!({ "cache": "main", "paths": [] }), 422),
        (json!({ "cache": "main", "paths": many }), 422),
        (json!({ "cache": "main", "paths": ["../../etc/passwd"] }), 400),
        (json!({ "cache": "main" }), 400),
        (json!({ "cache": "main", "paths": [many[0]], "from": "http://169.254.169.254/" }), 400),
        (json!({ "cache": "main", "paths": ["x".repeat(3 << 20)] }), 413),
    ] {
        assert_eq!(ask(body).await, status);
    }
    // Nobody has it: that is said at once, and not tried again.
    let absent = path(1, "absent");
    let told = world.begin(&[&absent]).await;
    assert!(matches!(
        told.state,
        PrefetchState::Waiting | PrefetchState::Running | PrefetchState::Incomplete
    ));
    world.pass(0).await;
    let told = world.tell(&told.id).await;
    assert_eq!((told.state, told.lacking_paths), (PrefetchState::Incomplete, vec![absent]));
    assert_eq!(told.ended_at, Some(world.service.clock.now()));
    world.end().await;
}

#[tokio::test]
async fn who_asks_and_who_is_refused_is_on_record() {
    let world = World::new(&[]).await;
    let wanted = path(1, "x");
    let told = world.begin(&[&wanted]).await;
    assert_eq!(world.ask(&world.token, "other", &[&wanted]).await.status(), 403);
    assert_eq!(world.ask("larder_nonsense", "main", &[&wanted]).await.status(), 401);
    let stranger = world.client.get(format!("{}/api/v1/prefetches/{}", world.url, told.id)).send();
    assert_eq!(stranger.await.unwrap().status(), 401);
    world.service.audit.flush().await;
    let rows = async |kind| {
        let filter = AuditFilter { kind: Some(kind), limit: 10, ..AuditFilter::default() };
        world.service.metadata.audit(&filter).await.unwrap()
    };
    let [asked] = &rows(Kind::PrefetchAsked).await[..] else { panic!() };
    assert_eq!(asked.cache.as_deref(), Some("main"));
    assert!(asked.actor.is_some() && asked.token.is_some() && asked.address.is_some(), "{asked:?}");
    let said: Event = serde_json::from_str(&asked.details).unwrap();
    assert_eq!(said, Event::PrefetchAsked { prefetch: told.id, paths: 1 });
    let [known, strangers] = &rows(Kind::Denied).await[..] else { panic!() };
    assert_eq!((&known.actor, known.times), (&asked.actor, 1));
    assert_eq!((&strangers.actor, strangers.times), (&None, 2));
    world.pass(0).await;
    world.end().await;
}

#[tokio::test]
async fn so_many_may_be_under_way_and_no_more() {
    let world = World::new(&[]).await;
    let wanted: StorePath = path(1, "x");
    // Nothing is done for as long as the test's clock says that none is due.
    let mut asked = 0;
    loop {
        match world.ask(&world.token, "main", &[&wanted]).await.status().as_u16() {
            202 => asked += 1,
            status => {
                assert_eq!(status, 429);
                break;
            }
        }
        if asked > 5000 {
            // They were done as fast as they came: nothing is in the way of that.
            break;
        }
    }
    assert!(asked >= 100);
    world.pass(0).await;
    assert_eq!(world.ask(&world.token, "main", &[&wanted]).await.status(), 202);
    world.pass(0).await;
    world.end().await;
}
