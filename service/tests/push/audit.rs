//! What goes on record of pushes.

use larder_service::{
    audit::Event,
    metadata::{AuditFilter, AuditRow},
};

use crate::{
    nar::{TestNar, path},
    world::{World, upload_body},
};

async fn rows(world: &World) -> Vec<AuditRow> {
    world.service.audit.flush().await;
    let all = AuditFilter { limit: 100, ..AuditFilter::default() };
    world.service.metadata.audit(&all).await.unwrap()
}

fn event(row: &AuditRow) -> Event {
    serde_json::from_str(&row.details).unwrap()
}

#[tokio::test]
async fn a_push_is_on_record_with_what_it_published() {
    let world = World::new().await;
    let first = TestNar::new(path(1, "x"), b"first", &[]);
    let other = TestNar::new(path(2, "y"), b"other", &[]);
    let second = TestNar::new(path(1, "x"), b"second", &[]);
    world.push(&[&first, &other]).await;
    let again = world.open(&[&second]).await;

    let [_token, pushed, differs] = &rows(&world).await[..] else { panic!() };
    let Event::PushCommitted { push, paths: 2, bytes, divergences: 0 } = event(pushed) else { panic!() };
    assert_eq!(bytes, first.info.nar_size + other.info.nar_size);
    assert_eq!(push.len(), 32);
    assert_eq!(pushed.cache.as_deref(), Some("main"));
    assert_eq!((pushed.actor.as_deref(), pushed.address.as_deref()), (Some("test"), Some("127.0.0.1")));
    assert!(pushed.token.is_some());
    let push = again.push.to_string();
    assert_eq!(event(differs), Event::PushCommitted { push, paths: 0, bytes: 0, divergences: 1 });
    world.end().await;
}

#[tokio::test]
async fn what_is_refused_of_a_push_is_on_record() {
    let world = World::new().await;
    let nar = TestNar::new(path(1, "x"), b"x", &[&path(5, "absent")]);
    assert_eq!(world.post("", b"{}".to_vec()).await.status(), 400);
    let opened = world.open(&[&nar]).await;
    let mut body = upload_body(&nar.chunks);
    *body.last_mut().unwrap() ^= 1;
    assert_eq!(world.post(&format!("/{}/frames", opened.push), body).await.status(), 422);
    world.upload(&opened, &nar.chunks).await;
    let mut lie = nar.recipe();
    lie.nar_size += 8;
    let recipes = larder_protocol::recipe::encode(&[lie]);
    assert_eq!(world.post(&format!("/{}/recipes", opened.push), recipes).await.status(), 200);
    world.send_recipes(&opened, &[&nar]).await;
    assert_eq!(world.commit(&opened).await.status(), 422);

    // All are of one identity within one hour, unless an hour has just gone by.
    let refused: Vec<_> = rows(&world).await.into_iter().filter(|row| row.kind == "push-refused").collect();
    assert_eq!(refused.iter().map(|row| row.times).sum::<u64>(), 4);
    assert!(
        matches!(event(&refused[0]), Event::PushRefused { push: None, reason } if reason.contains("closure"))
    );
    world.end().await;
}
