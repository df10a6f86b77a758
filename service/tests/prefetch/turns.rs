//! Who is asked at once, and what is fetched before what.

use std::sync::Arc;

use larder_protocol::prefetch::PrefetchState;
use larder_service::config::cache::CheckedUpstream;
use serde_json::json;
use tokio::{sync::Semaphore, time::Duration};

use crate::{
    nar::{TestNar, contents, path},
    upstream::{Reply, UpstreamCache, nar_file},
    world::World,
};

/// The smaller, the higher its number.
fn nar(seed: u8) -> TestNar {
    TestNar::new(path(seed, "x"), &contents(seed.into(), 100_000 - 1000 * usize::from(seed), &[]), &[])
}

fn narinfo(nar: &TestNar) -> String {
    format!("{}.narinfo", nar.info.path.hash())
}

/// Waits until an upstream is asked for a file, and tells of all that it was asked for.
async fn asked_for(upstream: &UpstreamCache, file: &str) -> Vec<String> {
    let mut asked = Vec::new();
    while !asked.iter().any(|one| one == file) {
        asked.extend(upstream.asked());
        tokio::task::yield_now().await;
    }
    asked
}

#[tokio::test]
async fn what_somebody_waits_for_is_fetched_before_what_a_schedule_wants() {
    let upstream = UpstreamCache::start().await;
    let long = Duration::from_secs(600);
    let world =
        World::new(&[CheckedUpstream { connections: 1, timeout: long, ..upstream.configured() }]).await;
    let nars: Vec<TestNar> = (1..=4).map(nar).collect();
    let gate = Arc::new(Semaphore::new(0));
    for nar in &nars {
        upstream.has(nar, "none");
        upstream.nar(nar, |bytes| Reply::Gated(gate.clone(), bytes));
    }
    let [nightly @ .., waited_for] = &nars[..] else { panic!() };
    let of_nightly = json!({ "run_id": 1, "check_run_id": 1, "ref": "refs/heads/nightly" });
    world.report("main", of_nightly, &nightly.iter().collect::<Vec<_>>(), &[]).await;
    let meanwhile = async {
        // The schedule's time has come.
        let mut asked = asked_for(&upstream, &nar_file(&nightly[0])).await;
        let begun = world.begin(&[&waited_for.info.path]).await;
        asked.extend(asked_for(&upstream, &narinfo(waited_for)).await);
        gate.add_permits(10);
        (asked, begun)
    };
    let ((), (mut asked, begun)) = tokio::join!(world.pass(20 * 3600), meanwhile);
    asked.extend(upstream.asked());
    asked.retain(|file| file.starts_with("nar/"));
    // Which of the others then goes first does not matter.
    asked[2..].sort();
    let [first, mut others @ ..] = [0, 1, 2].map(|place: usize| nar_file(&nightly[place]));
    others.sort();
    assert_eq!(asked[..2], [first, nar_file(waited_for)]);
    assert_eq!(asked[2..], others);
    assert_eq!(world.tell(&begun.id).await.state, PrefetchState::Complete);
    assert!(world.has(&nars.iter().collect::<Vec<_>>()).await);
    world.end().await;
}

#[tokio::test]
async fn all_upstreams_are_asked_at_once() {
    let upstreams = [UpstreamCache::start().await, UpstreamCache::start().await];
    let long = Duration::from_secs(600);
    let patient = |upstream: &UpstreamCache| CheckedUpstream { timeout: long, ..upstream.configured() };
    let world = World::new(&upstreams.each_ref().map(patient)).await;
    let nar = nar(1);
    let gate = Arc::new(Semaphore::new(0));
    for upstream in &upstreams {
        upstream.has(&nar, "xz");
        let text = upstream.narinfo(&nar, "xz", b"", &upstream.key).to_string();
        upstream.says(&narinfo(&nar), Reply::Gated(gate.clone(), text.into()));
    }
    let begun = world.begin(&[&nar.info.path]).await;
    // None answers until all are asked.
    for upstream in &upstreams {
        asked_for(upstream, &narinfo(&nar)).await;
    }
    gate.add_permits(10);
    world.pass(0).await;
    assert_eq!(world.tell(&begun.id).await.state, PrefetchState::Complete);
    assert!(world.has(&[&nar]).await);
    world.end().await;
}
