//! How many NARs come at once: as many as there is memory for, by what their decoders may take.

use std::{io::Write as _, sync::Arc, time::Duration};

use larder_protocol::{StorePath, prefetch::PrefetchState};
use larder_service::config::cache::CheckedUpstream;
use tokio::sync::Semaphore;

use crate::{
    nar::{TestNar, contents, path},
    upstream::{Reply, UpstreamCache, nar_file},
    world::World,
};

fn nar(seed: u8) -> TestNar {
    TestNar::new(path(seed, "x"), &contents(seed.into(), 20_000, &[]), &[])
}

async fn start(upstream: &UpstreamCache) -> World {
    let long = Duration::from_secs(600);
    World::new(&[CheckedUpstream { timeout: long, ..upstream.configured() }]).await
}

/// Asks for a path that nobody has, and waits until that is known: what would be asked of an upstream besides has been
/// asked of it by then.
async fn a_while(world: &World) {
    let begun = world.begin(&[&path(99, "nowhere")]).await;
    while !world.tell(&begun.id).await.state.has_ended() {
        tokio::task::yield_now().await;
    }
}

/// Waits until so many NARs were asked for since the last time.
async fn asked_for(upstream: &UpstreamCache, nars: usize) {
    let mut asked = 0;
    while asked < nars {
        asked += upstream.asked().iter().filter(|file| file.starts_with("nar/")).count();
        tokio::task::yield_now().await;
    }
    assert_eq!(asked, nars);
}

#[tokio::test]
async fn no_more_nars_come_at_once_than_their_decoders_have_room_for() {
    let upstream = UpstreamCache::start().await;
    let world = start(&upstream).await;
    let nars: Vec<TestNar> = (1..=9).map(nar).collect();
    let gate = Arc::new(Semaphore::new(0));
    for nar in &nars {
        upstream.has(nar, "xz");
        upstream.nar(nar, |bytes| Reply::Gated(gate.clone(), bytes));
    }
    let paths: Vec<&StorePath> = nars.iter().map(|nar| &nar.info.path).collect();
    let begun = world.begin(&paths).await;
    // Of 64 MiB each takes 10 for xz, however short it is, and a little to be cut; 16 connections would do for all.
    asked_for(&upstream, 6).await;
    a_while(&world).await;
    assert_eq!(upstream.most_under_way(), 6);
    gate.add_permits(nars.len());
    world.pass(0).await;
    assert_eq!(world.tell(&begun.id).await.state, PrefetchState::Complete);
    assert_eq!(upstream.most_under_way(), 6);
    assert!(world.has(&nars.iter().collect::<Vec<_>>()).await);
    world.end().await;
}

#[tokio::test]
async fn nars_with_large_windows_wait_until_they_have_the_room_for_themselves() {
    let upstream = UpstreamCache::start().await;
    let world = start(&upstream).await;
    let nars = [1, 2].map(nar);
    let gate = Arc::new(Semaphore::new(0));
    for nar in &nars {
        // As `xz -9` does: it refers back by 64 MiB.
        let mut encoder = liblzma::write::XzEncoder::new(Vec::new(), 9);
        encoder.write_all(&nar.bytes).unwrap();
        let bytes = encoder.finish().unwrap();
        upstream.has(nar, "none");
        let narinfo = upstream.narinfo(nar, "xz", &bytes, &upstream.key);
        let file = format!("{}.narinfo", nar.info.path.hash());
        upstream.says(&file, Reply::Whole(narinfo.to_string().into()));
        upstream.says(&nar_file(nar), Reply::Gated(gate.clone(), bytes));
    }
    let begun = world.begin(&[&nars[0].info.path, &nars[1].info.path]).await;
    // Both at once, with the room of usual windows: these are too small.
    asked_for(&upstream, 2).await;
    gate.add_permits(2);
    for _ in &nars {
        asked_for(&upstream, 1).await;
        a_while(&world).await;
        assert_eq!(upstream.asked().iter().filter(|file| file.starts_with("nar/")).count(), 0);
        gate.add_permits(1);
    }
    world.pass(0).await;
    assert_eq!(world.tell(&begun.id).await.state, PrefetchState::Complete);
    assert!(world.has(&nars.iter().collect::<Vec<_>>()).await);
    world.end().await;
}
