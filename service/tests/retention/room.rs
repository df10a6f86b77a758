//! What has no room is refused when a push is opened.

use bytes::Bytes;
use http::{Method, StatusCode};
use larder_protocol::api::{ErrorAnswer, ErrorCode, OpenPush};
use larder_service::config::{ByteSize, Config};

use crate::{
    nar::{TestNar, contents, path},
    roots::nar,
    world::{HOUR, Pusher, World},
};

fn small(config: &mut Config) {
    config.caches[0].max_size = Some(ByteSize::bytes(300_000));
}

async fn open(world: &World, who: &Pusher, nar: &TestNar) -> (StatusCode, Bytes) {
    let open =
        OpenPush { paths: vec![nar.info.clone()], roots: vec![nar.info.path.clone()], ..OpenPush::default() };
    let body = serde_json::to_vec(&open).unwrap();
    world.call(Method::POST, "/api/v1/caches/main/pushes", Some(who), body).await
}

fn refused((status, body): (StatusCode, Bytes)) -> String {
    assert_eq!(status, StatusCode::INSUFFICIENT_STORAGE, "{body:?}");
    let answer: ErrorAnswer = serde_json::from_slice(&body).unwrap();
    assert_eq!(answer.error, ErrorCode::NoSpace);
    answer.message
}

fn large(seed: u8, length: usize) -> TestNar {
    TestNar::new(path(seed, "x"), &contents(seed.into(), length, &[]), &[])
}

#[tokio::test]
async fn what_is_larger_than_all_that_there_may_be_is_refused_with_the_sizes() {
    let world = World::with(small).await;
    let anna = world.person().await;
    let message = refused(open(&world, &anna, &large(1, 2_000_000)).await);
    for words in
        ["2.0 MB of NARs", "about 500.0 kB", "the cache main may hold 300.0 kB (max_size)", "hold 0 B"]
    {
        assert!(message.contains(words), "{words:?} is not in {message:?}");
    }
    assert_eq!(world.count_objects().await, 0);
    // It may well fit.
    assert_eq!(open(&world, &anna, &large(1, 1_000_000)).await.0, 200);
}

#[tokio::test]
async fn what_may_not_go_counts_and_what_this_push_lets_go_does_not() {
    let world = World::with(small).await;
    let anna = world.person().await;
    for (run, seed) in (1..).zip(1..6) {
        world.push(&world.job("main", run).await, &[&nar(seed, &[])]).await;
        world.pass(HOUR);
    }
    // Much that may go is no reason to refuse.
    let next = large(9, 1_000_000);
    assert_eq!(open(&world, &anna, &next).await.0, 200);
    let held = large(10, 230_000);
    world.push(&world.job("main", 6).await, &[&held]).await;
    assert_eq!(world.pin(&anna, "web", &held.info.path, None, 1).await, 204);
    world.sweep().await;
    assert_eq!(world.visible(&[&held]).await, [true]);

    let other = large(11, 500_000);
    let message = refused(open(&world, &anna, &other).await);
    assert!(message.contains("hold 230."), "{message}");
    refused(open(&world, &world.job("topic", 7).await, &other).await);
    // What main's next run brings is there instead of what its last one brought.
    assert_eq!(open(&world, &world.job("main", 7).await, &other).await.0, 200);
    // What is there already needs no room.
    assert_eq!(open(&world, &anna, &held).await.0, 200);
}

#[tokio::test]
async fn what_the_disk_has_no_room_for_is_refused() {
    let world = World::new().await;
    let anna = world.person().await;
    let mut nar = large(1, 1000);
    // Larger than any disk, and as large as a push may be.
    nar.info.nar_size = 64_000_000_000;
    let paths: Vec<_> = (1..5u8)
        .map(|seed| {
            let mut info = nar.info.clone();
            info.path = path(seed, "x");
            info.nar_hash.0[0] = seed;
            info
        })
        .collect();
    let room = world.service.storage.room().unwrap().unwrap();
    let open = OpenPush { roots: vec![paths[0].path.clone()], paths, ..OpenPush::default() };
    let body = serde_json::to_vec(&open).unwrap();
    let answer = world.call(Method::POST, "/api/v1/caches/main/pushes", Some(&anna), body).await;
    if room.available < 64_000_000_000 {
        let message = refused(answer);
        assert!(message.contains("the disk has room for"), "{message}");
    } else {
        assert_eq!(answer.0, 200);
    }
}
