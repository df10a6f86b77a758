//! How much a push may bring. Each refusal says the limit and its key.

use larder_protocol::{
    api::{ErrorAnswer, OpenPush, RecipesAnswer},
    recipe,
};
use larder_service::config::ByteSize;
use reqwest::StatusCode;

use crate::{
    nar::{TestNar, contents, path},
    world::World,
};

async fn refusal(answer: reqwest::Response, status: StatusCode) -> String {
    assert_eq!(answer.status(), status);
    answer.json::<ErrorAnswer>().await.unwrap().message
}

#[tokio::test]
async fn a_push_has_so_many_paths_and_bytes() {
    let world = World::with(|config| {
        config.limits.max_push_paths = 2;
        config.limits.max_nar_size = ByteSize::bytes(5000);
        config.limits.max_push_bytes = ByteSize::bytes(8000);
    })
    .await;
    let nar = |seed, length| TestNar::new(path(seed, "x"), &contents(seed.into(), length, &[]), &[]);
    let open = async |nars: &[TestNar]| {
        let paths = nars.iter().map(|nar| nar.info.clone()).collect();
        world.post("", serde_json::to_vec(&OpenPush { paths, ..OpenPush::default() }).unwrap()).await
    };
    for (nars, told) in [
        (vec![nar(1, 10), nar(2, 10), nar(3, 10)], "one push takes 2 (limits.max_push_paths)"),
        (vec![nar(1, 6000)], "takes 5000 (limits.max_nar_size)"),
        (vec![nar(1, 4500), nar(2, 4500)], "takes 8000 (limits.max_push_bytes)"),
    ] {
        let message = refusal(open(&nars).await, StatusCode::UNPROCESSABLE_ENTITY).await;
        assert!(message.contains(told), "no {told:?} in: {message}");
    }
    assert_eq!(open(&[nar(1, 10), nar(2, 10)]).await.status(), 200);
    world.end().await;
}

#[tokio::test]
async fn bodies_are_so_long() {
    let world = World::with(|config| {
        config.limits.max_open_body = ByteSize::bytes(10_000);
        config.limits.max_recipes_body = ByteSize::bytes(20_000);
        config.limits.max_body = ByteSize::bytes(30_000);
    })
    .await;
    let nar = TestNar::new(path(1, "x"), b"x", &[]);
    let push = world.open(&[&nar]).await.push;
    for (page, length, told) in [
        (String::new(), 10_001, "10 kB (limits.max_open_body)"),
        (format!("/{push}/recipes"), 20_001, "20 kB (limits.max_recipes_body)"),
        (format!("/{push}/missing-chunks"), 32 * 65_536 + 1, "2 MiB (65,536 chunks)"),
        (format!("/{push}/frames"), 30_001, "30000 bytes (limits.max_body)"),
    ] {
        // The index of frames that says: so many follow.
        let body = [b"LARDERF1".to_vec(), 60_000u32.to_le_bytes().to_vec(), vec![0; length - 12]].concat();
        let message = refusal(world.post(&page, body).await, StatusCode::PAYLOAD_TOO_LARGE).await;
        assert!(message.contains(told), "no {told:?} in: {message}");
    }
    world.end().await;
}

#[tokio::test]
async fn a_nar_has_so_many_chunks() {
    let world = World::with(|config| config.limits.max_nar_chunks = 2).await;
    let nar = TestNar::new(path(1, "x"), &contents(4, 600_000, &[]), &[]);
    assert!(nar.chunks.len() > 2);
    let opened = world.open(&[&nar]).await;
    world.upload(&opened, &nar.chunks).await;
    let answer: RecipesAnswer = world.send_recipes(&opened, &[&nar]).await;
    let reason = &answer.rejected[0].reason;
    assert!(reason.contains("takes 2 (limits.max_nar_chunks)"), "{reason}");

    // The protocol's own bound, whatever is configured.
    let mut endless = nar.recipe();
    endless.chunks = vec![endless.chunks[0].clone(); 1100];
    let recipes = world.post(&format!("/{}/recipes", opened.push), recipe::encode(&[endless])).await;
    let message = refusal(recipes, StatusCode::BAD_REQUEST).await;
    assert!(message.contains("NarSize / 16 KiB + 1,024 chunks"), "{message}");
    world.end().await;
}
