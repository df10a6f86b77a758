//! What is found damaged, and an upstream has.

use larder_service::verification::{Scope, verify};

use crate::{
    nar::{TestNar, contents, path},
    upstream::UpstreamCache,
    world::World,
};

async fn flip_a_bit(world: &World) {
    let objects = world.objects();
    objects.change(&objects.by_age("frames").await[0], |bytes| bytes[2000] ^= 1).await;
}

#[tokio::test]
async fn what_is_damaged_is_fetched_again_where_an_upstream_has_the_same() {
    let upstream = UpstreamCache::start().await;
    let world = World::new(&[upstream.configured()]).await;
    let nar = TestNar::new(path(1, "libc"), &contents(1, 300_000, &[]), &[]);
    upstream.has(&nar, "xz");
    world.complete(&[&nar]).await;
    flip_a_bit(&world).await;
    let report = verify(&world.service, Scope::All).await.unwrap();
    assert_eq!((report.withdrawn, report.fetching), (1, 1), "{report:?}");
    world.service.queue.idle().await.unwrap();
    assert!(world.has(&[&nar]).await);
    let report = verify(&world.service, Scope::All).await.unwrap();
    assert!(report.is_right() && report.fetching == 0, "{report:?}");
    world.end().await;
}

#[tokio::test]
async fn what_an_upstream_has_otherwise_is_not_fetched() {
    let upstream = UpstreamCache::start().await;
    let world = World::new(&[upstream.configured()]).await;
    let nar = TestNar::new(path(1, "libc"), &contents(1, 300_000, &[]), &[]);
    upstream.has(&nar, "none");
    world.complete(&[&nar]).await;
    let other = TestNar::new(path(1, "libc"), &contents(9, 300_000, &[]), &[]);
    upstream.has(&other, "none");
    // What was seen there is remembered for a month.
    world.pass(32 * 24 * 3600).await;
    flip_a_bit(&world).await;
    let report = verify(&world.service, Scope::All).await.unwrap();
    assert_eq!((report.withdrawn, report.fetching), (1, 0), "{report:?}");
    assert!(world.narinfo("main", &nar).await.is_none());
    world.end().await;
}
