//! How much is asked of an upstream at once, and how long one is waited for.

use std::{sync::Arc, time::Duration};

use larder_protocol::{StorePath, api::Permission, prefetch::PrefetchState};
use larder_service::config::cache::CheckedUpstream;
use tokio::sync::Semaphore;

use crate::{
    nar::{TestNar, contents, path},
    upstream::{Reply, UpstreamCache},
    world::World,
};

fn nar(seed: u8) -> TestNar {
    TestNar::new(path(seed, "x"), &contents(seed.into(), 100_000, &[]), &[])
}

#[tokio::test]
async fn no_more_nars_are_fetched_from_an_upstream_at_once_than_it_may_be_asked_for() {
    let (narrow, other) = (UpstreamCache::start().await, UpstreamCache::start().await);
    let configured = CheckedUpstream { connections: 3, ..narrow.configured() };
    let world = World::new(&[configured, other.configured()]).await;
    let nars: Vec<TestNar> = (1..=12).map(nar).collect();
    let gate = Arc::new(Semaphore::new(0));
    for nar in &nars {
        narrow.has(nar, "none");
        narrow.nar(nar, |bytes| Reply::Gated(gate.clone(), bytes));
    }
    // Prefetches share what there is, and caches do.
    let paths: Vec<&StorePath> = nars.iter().map(|nar| &nar.info.path).collect();
    let asked = [world.begin(&paths[..4]).await, world.begin(&paths[4..8]).await];
    let token = world.token_for("other", &[Permission::Push]).await;
    assert_eq!(world.ask(&token, "other", &paths[8..]).await.status(), 202);
    while narrow.most_under_way() < 3 {
        tokio::task::yield_now().await;
    }
    // What would be asked beyond that would have come before all of this is done.
    let another = nar(30);
    other.has(&another, "xz");
    assert_eq!(world.ask(&token, "other", &[&another.info.path]).await.status(), 202);
    while world.narinfo("other", &another).await.is_none() {
        tokio::task::yield_now().await;
    }
    gate.add_permits(100);
    world.pass(0).await;
    for prefetch in asked {
        assert_eq!(world.tell(&prefetch.id).await.state, PrefetchState::Complete);
    }
    assert!(world.has(&nars[..8].iter().collect::<Vec<_>>()).await);
    for nar in &nars[8..] {
        assert!(world.narinfo("other", nar).await.is_some());
    }
    assert_eq!(narrow.most_under_way(), 3);
    world.end().await;
}

fn narinfo(nar: &TestNar) -> String {
    format!("{}.narinfo", nar.info.path.hash())
}

#[tokio::test]
async fn a_narinfo_that_drips_is_waited_for_so_long_and_hides_nobodys_hit() {
    let (drips, good) = (UpstreamCache::start().await, UpstreamCache::start().await);
    let hasty = CheckedUpstream { timeout: Duration::from_secs(1), ..drips.configured() };
    let world = World::new(&[hasty, good.configured()]).await;
    let (hit, nowhere_else) = (nar(1), nar(2));
    let drops = Arc::new(Semaphore::new(0));
    for nar in [&hit, &nowhere_else] {
        let text = drips.narinfo(nar, "none", &nar.bytes, &drips.key).to_string();
        // So long that it never comes to its end.
        let text = format!("More: {}\n{text}", "x".repeat(900_000));
        drips.says(&narinfo(nar), Reply::Dripped(drops.clone(), text.into()));
    }
    good.has(&hit, "xz");
    let asked = world.begin(&[&hit.info.path, &nowhere_else.info.path]).await;
    let told = loop {
        drops.add_permits(2);
        let told = world.tell(&asked.id).await;
        if told.error.is_some() || told.state.has_ended() {
            break told;
        }
    };
    assert_eq!((told.state, told.published), (PrefetchState::Waiting, 1), "{told:?}");
    // It was looked again for what is missing once the other was here; who drips is not waited for twice.
    assert_eq!(drips.asked().iter().filter(|file| **file == narinfo(&nowhere_else)).count(), 1);
    assert!(world.has(&[&hit]).await);
    assert_eq!(world.narinfo("main", &nowhere_else).await, None);
    good.has(&nowhere_else, "zstd");
    world.pass(3600).await;
    assert_eq!(world.tell(&asked.id).await.state, PrefetchState::Complete);
    assert!(world.has(&[&nowhere_else]).await);
    world.end().await;
}
