//! Each path is fetched once, whoever wants it.

use std::sync::Arc;

use larder_protocol::{api::OpenPush, prefetch::PrefetchState};
use tokio::sync::Semaphore;

use crate::{
    nar::{TestNar, contents, path},
    upstream::{Reply, UpstreamCache, nar_file},
    world::World,
};

#[tokio::test]
async fn two_that_want_one_path_fetch_it_once() {
    let upstream = UpstreamCache::start().await;
    let world = World::new(&[upstream.configured()]).await;
    let shared = TestNar::new(path(1, "shared"), &contents(1, 200_000, &[]), &[]);
    let tops: Vec<TestNar> =
        (2..5).map(|seed| TestNar::new(path(seed, "top"), &[seed], &[&shared.info.path])).collect();
    for nar in tops.iter().chain([&shared]) {
        upstream.has(nar, "xz");
    }
    let gate = Arc::new(Semaphore::new(0));
    let opened = gate.clone();
    upstream.nar(&shared, |bytes| Reply::Gated(gate, bytes));
    let mut asked = Vec::new();
    for top in &tops {
        asked.push(world.begin(&[&top.info.path]).await.id);
    }
    opened.add_permits(10);
    world.pass(0).await;
    for id in &asked {
        assert_eq!(world.tell(id).await.state, PrefetchState::Complete);
    }
    assert!(world.has(&tops.iter().chain([&shared]).collect::<Vec<_>>()).await);
    let fetched = upstream.asked().into_iter().filter(|file| *file == nar_file(&shared)).count();
    assert_eq!(fetched, 1);
    world.end().await;
}

/// A job's own push brings a path while it is being fetched.
#[tokio::test]
async fn what_a_job_pushes_meanwhile_stands() {
    let upstream = UpstreamCache::start().await;
    // An upstream that pushes are not compared with.
    let mut configured = upstream.configured();
    configured.check = false;
    let world = World::new(&[configured]).await;
    let fetched = TestNar::new(path(1, "x"), &contents(1, 200_000, &[]), &[]);
    let pushed = TestNar::new(path(1, "x"), b"built by a job", &[]);
    upstream.has(&fetched, "xz");
    let gate = Arc::new(Semaphore::new(0));
    let opened = gate.clone();
    upstream.nar(&fetched, |bytes| Reply::Gated(gate, bytes));
    let asked = world.begin(&[&fetched.info.path]).await;
    while !upstream.asked().contains(&nar_file(&fetched)) {
        tokio::task::yield_now().await;
    }
    push(&world, &pushed).await;
    opened.add_permits(10);
    world.pass(0).await;
    assert_eq!(world.tell(&asked.id).await.state, PrefetchState::Complete);
    assert!(world.has(&[&pushed]).await);
    let filter = larder_service::metadata::DivergenceFilter { limit: 10, ..Default::default() };
    assert_eq!(world.service.metadata.divergences(&filter).await.unwrap().len(), 1);
    world.end().await;
}

async fn push(world: &World, nar: &TestNar) {
    use larder_protocol::{api::OpenedPush, chunk::FrameEncoder, recipe, upload};
    let post = async |path: &str, body: Vec<u8>| {
        let url = format!("{}/api/v1/caches/main/pushes{path}", world.url);
        let answer = world.client.post(url).bearer_auth(&world.token).body(body).send().await.unwrap();
        assert_eq!(answer.status(), 200);
        answer
    };
    let open =
        OpenPush { paths: vec![nar.info.clone()], roots: vec![nar.info.path.clone()], ..OpenPush::default() };
    let opened: OpenedPush = post("", serde_json::to_vec(&open).unwrap()).await.json().await.unwrap();
    let (mut entries, mut frames) = (Vec::new(), Vec::new());
    for chunk in &nar.chunks {
        let frame = FrameEncoder::default().encode(&chunk.content, &chunk.holes);
        entries.push(upload::FrameEntry::of(chunk.id, chunk.content.len(), &frame).unwrap());
        frames.extend(frame.bytes);
    }
    post(&format!("/{}/frames", opened.push), [upload::encode_index(&entries), frames].concat()).await;
    post(&format!("/{}/recipes", opened.push), recipe::encode(&[nar.recipe()])).await;
    post(&format!("/{}/commit", opened.push), Vec::new()).await;
}
