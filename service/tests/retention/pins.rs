//! Pins by the API.

use http::Method;
use larder_protocol::api::Pins;
use larder_service::{audit::Kind, metadata::AuditFilter};

use crate::{
    roots::nar,
    world::{DAY, World},
};

#[tokio::test]
async fn a_pin_keeps_what_it_names_and_a_host_can_ask_for_it() {
    let world = World::with(|config| config.caches[0].retention.keep_days = 0).await;
    let anna = world.person().await;
    let base = nar(1, &[]);
    let systems = [nar(2, &[&base]), nar(3, &[&base]), nar(4, &[&base])];
    assert_eq!(world.get("pins/web").await.0, 404);
    assert_eq!(world.pin(&anna, "web", &systems[0].info.path, None, 2).await, 422, "it is not there yet");
    for system in &systems {
        world.push(&anna, &[system, &base]).await;
        assert_eq!(world.pin(&anna, "web", &system.info.path, None, 2).await, 204);
    }
    let (status, body) = world.get("pins/web").await;
    assert_eq!((status.as_u16(), body), (200, format!("{}\n", systems[2].info.path.absolute()).into()));
    world.sweep_all().await;
    let all = [&systems[0], &systems[1], &systems[2], &base];
    assert_eq!(world.visible(&all).await, [false, true, true, true]);

    let (_, body) = world.call(Method::GET, "/api/v1/caches/main/pins", Some(&anna), Vec::new()).await;
    let pins: Pins = serde_json::from_slice(&body).unwrap();
    let paths: Vec<_> = pins.pins.iter().map(|pin| &pin.path).collect();
    assert_eq!(paths, [&systems[2].info.path, &systems[1].info.path]);

    let remove = || world.call(Method::DELETE, "/api/v1/caches/main/pins/web", Some(&anna), Vec::new());
    assert_eq!(remove().await.0, 204);
    assert_eq!(remove().await.0, 404);
    assert_eq!(world.get("pins/web").await.0, 404);
    world.sweep_all().await;
    assert_eq!(world.visible(&all).await, [false; 4]);
}

#[tokio::test]
async fn a_pin_ends_when_it_was_to_end() {
    let world = World::with(|config| config.caches[0].retention.keep_days = 0).await;
    let anna = world.person().await;
    let system = nar(1, &[]);
    world.push(&anna, &[&system]).await;
    assert_eq!(world.pin(&anna, "web", &system.info.path, Some(10 * DAY as u64), 1).await, 204);
    world.pass(10 * DAY - 1);
    world.sweep().await;
    assert_eq!(world.get("pins/web").await.0, 200);
    world.pass(1);
    assert_eq!(world.get("pins/web").await.0, 404);
    world.sweep_all().await;
    assert_eq!(world.visible(&[&system]).await, [false]);
}

#[tokio::test]
async fn what_makes_no_sense_is_refused() {
    let world = World::new().await;
    let anna = world.person().await;
    let system = nar(1, &[]);
    world.push(&anna, &[&system]).await;
    let path = &system.info.path;
    assert_eq!(world.pin(&anna, "web", path, None, 0).await, 422);
    assert_eq!(world.pin(&anna, "web", path, Some(0), 1).await, 422);
    assert_eq!(world.pin(&anna, "-web", path, None, 1).await, 400);
    assert_eq!(world.pin(&anna, "%2e%2e", path, None, 1).await, 400);
    let (status, _) = world.call(Method::GET, "/api/v1/caches/main/pins", None, Vec::new()).await;
    assert_eq!(status, 401);
}

#[tokio::test]
async fn who_is_refused_a_pin_is_on_record() {
    // Theirs may push and pin, and not read what is there.
    let world = World::with(|config| config.caches[0].public = false).await;
    let anna = world.person().await;
    assert_eq!(world.pin(&anna, "web", &nar(1, &[]).info.path, None, 1).await, 403);
    for method in [Method::PUT, Method::DELETE] {
        let body = br#"{"path": "00000000000000000000000000000001-x"}"#.to_vec();
        assert_eq!(world.call(method, "/api/v1/caches/main/pins/web", None, body).await.0, 401);
    }
    assert_eq!(world.call(Method::GET, "/api/v1/caches/main/pins", None, Vec::new()).await.0, 401);
    world.service.audit.flush().await;
    let filter = AuditFilter { kind: Some(Kind::Denied), limit: 10, ..AuditFilter::default() };
    let rows = world.service.metadata.audit(&filter).await.unwrap();
    let said: Vec<_> = rows.iter().map(|row| (row.actor.as_deref(), row.times)).collect();
    assert_eq!(said, [(Some("anna"), 1), (None, 3)]);
}
